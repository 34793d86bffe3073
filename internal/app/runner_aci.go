//go:build !slim

package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/aci"
)

// platformACI runs units as container groups in the resource group that waybill.yaml names.
var platformACI = platform{
	name:   aci.Name,
	config: aci.Config{},
	check:  func() runner.Runner { return &aci.Runner{} },
	open: func(ctx context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		if raw == nil {
			return nil, nil
		}
		instance, err := s.instance(ctx)
		if err != nil {
			return nil, err
		}
		return openACI(raw, instance, s.c.Project, s.log)
	},
}

func openACI(raw json.RawMessage, instance, project string, log *slog.Logger) (runner.Runner, error) {
	o := aci.Options{Instance: instance, Logger: log.With("runner", aci.Name)}
	if err := runnerConfig(aci.Name, raw, &o.Config); err != nil {
		return nil, err
	}
	if o.Config.Profile != "" {
		root, err := os.OpenRoot(project)
		if err == nil {
			defer root.Close()
			o.Profile, err = root.ReadFile(o.Config.Profile)
		}
		if err != nil {
			return nil, waybill.E(waybill.KindInvalid, "runners: aci: profile: %w", err).WithHint("name a file of the project folder")
		}
	}
	return aci.New(o)
}
