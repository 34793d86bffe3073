package engine

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// An orphan is a unit that a runner still knows and that nobody will remove: its run is
// unknown, or its clean-up was lost (a purged queue, a restored backup). Runners list the
// units of this instance only, so nobody else's is ever touched.

// orphanage remembers what a sweep has seen. It belongs to one goroutine.
type orphanage struct {
	seen map[string]time.Time // by unit: when it was first without an owner
	sent map[string]time.Time // by unit: when its clean-up was ordered again

	listed  map[string]bool // units that a runner knows in this sweep
	partial bool            // a runner could not tell all of its units

	files map[string]time.Time // by unit: when its files were first without an owner
}

// sweepOrphans looks for orphans until ctx ends.
func (e *Engine) sweepOrphans(ctx context.Context) {
	defer e.wg.Done()
	o := &orphanage{seen: map[string]time.Time{}, sent: map[string]time.Time{}, files: map[string]time.Time{}}
	tick := time.NewTicker(e.o.OrphanSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			o.listed, o.partial = map[string]bool{}, false
			for name, r := range e.o.Runners {
				if err := e.orphans(ctx, name, r, o); err != nil && ctx.Err() == nil {
					e.log.Warn("orphan sweep failed", "runner", name, "err", err)
					o.partial = true
				}
			}
			o.forget()
			if err := e.leftovers(ctx, o); err != nil && ctx.Err() == nil {
				e.log.Warn("sweep of units' files failed", "err", err)
			}
		}
	}
}

func (e *Engine) orphans(ctx context.Context, name string, r runner.Runner, o *orphanage) error {
	handles, err := r.List(ctx)
	if err != nil {
		return err
	}
	now := e.now()
	for _, h := range handles {
		o.listed[h.Unit] = true
		a, ours, err := e.owner(ctx, h.Unit)
		switch {
		case err != nil:
			return err
		case !ours:
			continue // not a name of ours
		case a != nil && a.Phase != waybill.PhaseTerminal:
			delete(o.seen, h.Unit)
			continue
		case a != nil && a.Cleanup == waybill.CleanupFailed:
			continue // it is shown, and waits for a person
		}
		if o.seen[h.Unit].IsZero() {
			o.seen[h.Unit] = now
		}
		if a != nil && (a.Cleanup == waybill.CleanupPending || a.Cleanup == waybill.CleanupDeleting) {
			// Its clean-up is on its way, unless it has been for too long.
			if late := a.FinishedAt.Add(e.keepFailed(ctx, a) + e.o.OrphanGrace); now.After(late) && now.Sub(o.sent[h.Unit]) > time.Hour {
				o.sent[h.Unit] = now
				if err := e.cleanAgain(ctx, a); err != nil {
					return err
				}
			}
			continue
		}
		if now.Sub(o.seen[h.Unit]) < e.o.OrphanGrace {
			continue
		}
		if err := r.Remove(ctx, h); err != nil {
			return err
		}
		if err := e.spares.remove(e.unitFiles(h.Unit)); err != nil {
			return err
		}
		data, err := json.Marshal(map[string]any{"runner": name, "unit": h.Unit, "node": e.o.Node, "since": o.seen[h.Unit]})
		if err != nil {
			return err
		}
		delete(o.seen, h.Unit)
		e.log.Warn("orphan removed", "unit", h.Unit, "runner", name)
		if err := e.o.Store.Commit(ctx, &store.Commit{Events: []store.Event{{Subject: "unit/" + h.Unit, Kind: "orphan.found", Data: data, At: now}}}); err != nil {
			return err
		}
	}
	return nil
}

// forget drops what is remembered of units that no runner knows any more.
func (o *orphanage) forget() {
	if o.partial {
		return
	}
	for unit := range o.seen {
		if !o.listed[unit] {
			delete(o.seen, unit)
			delete(o.sent, unit)
		}
	}
}

// leftovers removes the files of units that no runner knows and that were cleaned up
// elsewhere: other servers took this one for dead, and it came back without its units.
func (e *Engine) leftovers(ctx context.Context, o *orphanage) error {
	entries, err := os.ReadDir(e.o.Dir)
	if err != nil {
		return err
	}
	now, left := e.now(), map[string]bool{}
	for _, entry := range entries {
		unit, _, _ := strings.Cut(entry.Name(), ".")
		if left[unit] || !o.seen[unit].IsZero() {
			continue
		}
		a, ours, err := e.owner(ctx, unit)
		switch {
		case err != nil:
			return err
		case !ours, a != nil && (a.Phase != waybill.PhaseTerminal || a.Cleanup != waybill.CleanupGone):
			continue
		}
		left[unit] = true
		if o.files[unit].IsZero() {
			o.files[unit] = now
		}
		if now.Sub(o.files[unit]) < e.o.OrphanGrace {
			continue
		}
		if err := e.spares.remove(e.unitFiles(unit)); err != nil {
			return err
		}
		e.log.Warn("files of a unit removed that was given up with this server", "unit", unit)
	}
	for unit := range o.files {
		if !left[unit] {
			delete(o.files, unit)
		}
	}
	return nil
}

// owner finds the attempt that a unit was made for by the name of the unit. ours is false
// for a name that unitName does not make; the attempt is nil when it is unknown.
func (e *Engine) owner(ctx context.Context, unit string) (a *waybill.Attempt, ours bool, err error) {
	run := ""
	for _, part := range strings.Split(unit, "-") {
		if b, err := hex.DecodeString(part); err == nil && len(b) == 16 {
			run = part[:8] + "-" + part[8:12] + "-" + part[12:16] + "-" + part[16:20] + "-" + part[20:]
		}
	}
	if run == "" {
		return nil, false, nil
	}
	err = scan(ctx, e.o.Store, store.DefaultTenant, tableAttempt, run+"/", func(x waybill.Attempt) {
		if x.Unit == unit {
			a = &x
		}
	})
	return a, true, err
}

func (e *Engine) keepFailed(ctx context.Context, a *waybill.Attempt) time.Duration {
	r, err := e.run(ctx, a.Run)
	if err != nil {
		return 0
	}
	plan, _, err := e.o.Plans.Plan(ctx, r.Pipeline, r.Version)
	if err != nil {
		return 0
	}
	name, _, _ := strings.Cut(a.Step, ".")
	if p := plan.Step(name); p != nil {
		return p.KeepFailed
	}
	return 0
}

// cleanAgain orders the clean-up of an attempt once more. Cleaning up twice is harmless.
func (e *Engine) cleanAgain(ctx context.Context, a *waybill.Attempt) error {
	c := &store.Commit{Tenant: a.Tenant, Events: events(a.Run, []record{{"orphan.found", map[string]any{
		"runner": a.Runner, "unit": a.Unit, "attempt": a.Key(), "cleanup": a.Cleanup,
	}, e.now()}})}
	if err := send(c, queue.TopicCleanup, a.Key(), 0, cleanupMsg{Attempt: a.Key(), Unit: a.Unit, Runner: a.Runner, Node: a.Node, Handle: a.Handle}); err != nil {
		return err
	}
	e.log.Warn("clean-up of a unit was lost and is ordered again", "unit", a.Unit)
	if err := e.o.Store.Commit(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}
