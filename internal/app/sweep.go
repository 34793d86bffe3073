package app

import (
	"context"
	"time"

	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/project"
)

// sweepEvery is how often retention is carried out.
const sweepEvery = 10 * time.Minute

// sweep forgets what is older than the project's settings keep it, so that a disk
// does not fill.
func (s *Server) sweep(ctx context.Context, objects *object.Objects, arrivals *arrival.Arrivals, settings project.Settings) {
	for {
		t := time.NewTimer(sweepEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		settings = s.project.Settings() // they may have changed
		s.ops.sweeping.Lock()           // a backup is not swept under
		runs, err := s.engine.Sweep(ctx, time.Duration(settings.Retention.Runs))
		if err == nil {
			err = objects.Sweep(ctx, s.store.Now(), object.Keep{
				Versions: time.Duration(settings.Retention.Objects), Current: time.Duration(settings.Retention.Current),
				References: s.engine.References, Run: s.engine.Kept,
			})
		}
		if err == nil {
			err = s.observer.stats.Sweep(ctx)
		}
		// What objects started is kept as long as they are.
		if keep := max(settings.Retention.Objects, settings.Retention.Current); err == nil && keep > 0 {
			err = arrivals.Sweep(ctx, s.store.Now(), time.Duration(keep))
		}
		if err == nil {
			err = s.triggers.events.Sweep(ctx, s.store.Now())
		}
		if err == nil {
			err = s.triggers.events.SweepMessages(ctx, s.store.Now())
		}
		if err == nil {
			err = s.ingest.Sweep(ctx, s.store.Now())
		}
		s.ops.sweeping.Unlock()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.log.Warn("retention failed", "err", err)
		case runs > 0:
			s.log.Info("old runs forgotten", "runs", runs)
		}
	}
}
