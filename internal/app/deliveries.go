package app

import (
	"context"
	"net/url"
	"os"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/spektate"
)

// deliveryChecks looks at what deliveries need and tells the settings that their health
// check shows: where they are kept, and the variables of introspection in the
// environment of the server.
func (s *Server) deliveryChecks(ctx context.Context) (failed []error, variables map[string]string) {
	if _, err := s.deliveries.DeliveryPartitions(ctx); err != nil {
		failed = append(failed, err)
	}
	if list, err := s.polling.poller.DeliveryProviders(ctx); err == nil {
		for _, x := range list {
			notes := x.Notes
			if x.Error != "" {
				notes = append([]string{x.Error}, notes...)
			}
			for _, n := range notes {
				failed = append(failed, waybill.E(waybill.KindUnavailable, "%s: %s", x.Name, n))
			}
		}
	}
	return failed, deliveryVariables(s.c.Store, os.Environ())
}

// deliveryVariables are settings that may be told. Those whose names say that they are
// secret are masked.
func deliveryVariables(where string, env []string) map[string]string {
	out := map[string]string{"WAYBILL_STORE": "sqlite"}
	if u, err := url.Parse(where); err == nil && u.Host != "" {
		out["WAYBILL_STORE"] = u.Scheme + "://" + u.Host + u.Path
	}
	for _, line := range env {
		name, value, _ := strings.Cut(line, "=")
		upper := strings.ToUpper(name)
		if !strings.HasPrefix(upper, "INTROSPECTION_") && !strings.HasPrefix(upper, "REACT_APP_") {
			continue
		}
		for _, word := range []string{"KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"} {
			// A partition key names a project and opens nothing.
			if strings.Contains(strings.ReplaceAll(upper, "PARTITION_KEY", ""), word) {
				value = spektate.Mask(value)
				break
			}
		}
		if u, err := url.Parse(value); err == nil && u.User != nil {
			u.User = nil
			value = u.String()
		}
		out[name] = value
	}
	return out
}
