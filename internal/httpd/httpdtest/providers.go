package httpdtest

import (
	"context"
	"time"

	"github.com/waybill-run/waybill"
)

// providers has one that answers and, when Away is set, one that does not.
type providers struct{ *World }

func (w providers) DeliveryProviders(context.Context) ([]waybill.DeliveryProvider, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	at := w.Now().UTC()
	out := []waybill.DeliveryProvider{{Name: "hub", Kind: "github", URL: "https://github.com", Status: waybill.ProviderOK, Age: 3, PolledAt: at, FreshAt: at, Left: 4990, Interval: 30, Calls: 2, Notes: []string{}}}
	if w.Away {
		out = append(out, waybill.DeliveryProvider{
			Name: "lab", Kind: "gitlab", URL: "https://gitlab.com", Status: waybill.ProviderFailing, Stale: true, Age: 95, PolledAt: at, FreshAt: at.Add(-90 * time.Second),
			Left: -1, Interval: 30, Error: "GitLab at gitlab.com answers 502", ErrorAt: at, Notes: []string{"authors: not found"},
		})
	}
	return out, nil
}
