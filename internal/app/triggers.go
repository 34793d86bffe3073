package app

import (
	"context"
	"os"
	"time"

	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/schedule"
	"github.com/waybill-run/waybill/internal/store"
)

// triggers are what starts runs besides requests and objects: schedules, webhooks and
// published events.
type triggers struct {
	events    *arrival.Events
	schedules *schedule.Scheduler
	again     *queue.Worker // dead letters of events that are sent again
}

// startTriggers begins to fire schedules and to take in events.
func (s *Server) startTriggers(ctx context.Context, admit func(context.Context, string) error) error {
	now := time.Now
	starter := arrival.NewStarter(s.engine.Begin, now, s.log)
	t := &triggers{events: arrival.NewEvents(arrival.EventOptions{
		Store: s.store, Plans: s.project, Starter: starter, Secrets: s.secrets, Env: os.LookupEnv,
		Hops: s.engine.Hops, Admit: admit, Now: now, Logger: s.log,
	})}
	var err error
	if t.again, err = queue.Start(ctx, queue.Options{
		Store: s.store, Topic: queue.TopicEvent, Owner: s.data.node, Logger: s.log, Handler: t.events.Handle, Lease: s.c.Lease,
	}); err != nil {
		return err
	}
	t.schedules = schedule.New(schedule.Options{
		Store: s.store, Plans: s.project, Starter: starter, Admit: admit, Now: now, Logger: s.log,
	})
	t.schedules.Start(ctx)
	s.triggers = t
	return nil
}

func (t *triggers) stop() {
	if t == nil {
		return
	}
	t.schedules.Stop()
	t.again.Stop()
}

// triggerTables are the tables of what startTriggers starts.
func triggerTables() store.Schema { return schedule.Tables() }
