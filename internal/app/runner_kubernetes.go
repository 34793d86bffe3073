//go:build !slim

package app

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/kubernetes"
)

// platformKubernetes runs units as Jobs of the cluster that waybill.yaml names.
var platformKubernetes = platform{
	name:   kubernetes.Name,
	config: kubernetes.Config{},
	check:  func() runner.Runner { return &kubernetes.Runner{} },
	open: func(ctx context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		if raw == nil {
			return nil, nil
		}
		instance, err := s.instance(ctx)
		if err != nil {
			return nil, err
		}
		return openKubernetes(raw, instance, s.c.Project, s.log)
	},
}

func openKubernetes(raw json.RawMessage, instance, _ string, log *slog.Logger) (runner.Runner, error) {
	var c kubernetes.Config
	if err := runnerConfig(kubernetes.Name, raw, &c); err != nil {
		return nil, err
	}
	return kubernetes.New(kubernetes.Options{Config: c, Instance: instance, Logger: log.With("runner", kubernetes.Name)})
}
