package app

import (
	"context"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/runs"
)

// reportRuns begins to report the runs that are stages of deliveries.
func (s *Server) reportRuns(ctx context.Context) (err error) {
	s.stages, err = runs.Start(ctx, runs.Options{
		Store: s.store, Plans: s.project, Runs: s.engine, Report: s.deliveries.Report, URL: s.callbackURL, Owner: s.data.node, Lease: s.c.Lease, Logger: s.log,
		Summary: func(ctx context.Context, id string) (waybill.Run, error) { return s.engine.Summary(ctx, id) },
	})
	return err
}
