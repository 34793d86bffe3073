package docker

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
)

// Examine says what of this runner works here. It starts nothing. A machine without an
// engine, on which nobody asked for one, has nothing to tell.
func (r *Runner) Examine(ctx context.Context) []waybill.Finding {
	add := func(out []waybill.Finding, check string, status waybill.FindingStatus, hint, format string, args ...any) []waybill.Finding {
		return append(out, waybill.Finding{Check: "docker." + check, Status: status, Detail: fmt.Sprintf(format, args...), Hint: hint})
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := r.api.Ping(ctx, client.PingOptions{}); err != nil {
		if r.o.Host == "" && os.Getenv(client.EnvOverrideHost) == "" {
			return nil
		}
		return add(nil, "engine", waybill.FindingFail, "is it running, and may this server use its address?", "%s does not answer: %v", r.Host(), err)
	}
	var out []waybill.Finding
	v, err := r.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return add(out, "engine", waybill.FindingFail, "", "%s: %v", r.Host(), err)
	}
	out = add(out, "engine", waybill.FindingOK, "", "%s answers: version %s, API %s", r.Host(), v.Version, v.APIVersion)
	e, err := r.know(ctx)
	if err != nil {
		hint := ""
		if w, ok := err.(*waybill.Error); ok {
			hint = w.Hint
		}
		return add(out, "program", waybill.FindingFail, hint, "%v", err)
	}
	if _, err := r.programFile(); err != nil {
		return add(out, "program", waybill.FindingFail, "chmod 755 the program", "%v", err)
	}
	r.mu.Lock()
	files := r.files
	r.mu.Unlock()
	switch {
	case files == filesMount || files == filesCopy:
		out = add(out, "files", waybill.FindingOK, "", "units get their files by %s; logs are kept by the driver %s", files, e.driver)
	default:
		out = add(out, "files", waybill.FindingOK, "", "whether the engine sees this server's files is tried with the first unit; logs are kept by the driver %s", e.driver)
	}
	units, err := r.List(ctx)
	if err != nil {
		return add(out, "units", waybill.FindingFail, "", "%v", err)
	}
	return add(out, "units", waybill.FindingOK, "", "%d containers of this server", len(units))
}
