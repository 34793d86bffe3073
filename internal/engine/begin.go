package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// Starting a unit is tried again while the platform does not answer. An image that cannot
// be had has a budget of its own, so that a registry's bad hour costs none of the tries of
// the step: pulls that may succeed later are tried so often, and for so long.
const (
	pullTries    = 10
	pullPatience = 15 * time.Minute
	pullPauses   = time.Minute      // the longest pause that is our own choice
	startLimit   = 10 * time.Minute // of one try
)

// start starts the unit. It returns a commit when the attempt ends with that.
func (u *unit) start(ctx context.Context, spec runner.Spec) (*store.Commit, error) {
	begun, pulls := u.e.now(), 0
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		fault.At("unit.start")
		h, err := u.tryStart(ctx, spec)
		pull, isPull := runner.AsPullError(err)
		switch {
		case err == nil:
			fault.At("unit.started")
			u.h = h
			u.a.Handle, err = json.Marshal(h)
			u.a.Phase, u.a.StartedAt, u.a.Image = waybill.PhaseRunning, u.e.now(), h.Image
			u.a.Deadline = u.a.StartedAt.Add(u.step.Timeout)
			data := map[string]any{"attempt": u.key(), "step": u.a.Step}
			if h.Image != "" {
				data["image"] = h.Image
			}
			u.records = append(u.records, record{"attempt.running", data, u.a.StartedAt})
			return nil, err
		case u.a.Stop != "":
			return u.end(ctx, u.notStarted())
		case ctx.Err() != nil:
			return nil, err
		case isPull:
			pulls++
			if late := u.e.now().Sub(begun) > pullPatience; !pull.Again() || pulls >= pullTries || late {
				return u.end(ctx, outcome{status: waybill.StatusFailed, reason: pull.Reason, err: unpulled(pull, pulls)})
			}
			if pulls == 1 {
				if err := u.change(ctx, func(*waybill.Attempt) {}, record{"attempt.pull_failed", map[string]any{
					"attempt": u.key(), "step": u.a.Step, "image": pull.Image, "reason": pull.Reason, "error": u.masks(ctx).String(pull.Error()),
				}, u.e.now()}); err != nil {
					return nil, err
				}
			}
			wait = max(min(time.Second<<(pulls-1), pullPauses), min(pull.RetryAfter, 5*time.Minute))
		case waybill.IsKind(err, waybill.KindLost):
			return u.end(ctx, outcome{status: waybill.StatusLost, reason: "unit_lost", err: err.Error()})
		case !waybill.IsKind(err, waybill.KindUnavailable) || u.e.now().After(spec.HardStop):
			return u.end(ctx, outcome{status: waybill.StatusFailed, reason: runner.ReasonStartFailed, err: err.Error()})
		}
		u.e.log.Warn("unit not started, trying again", "unit", spec.Unit, "err", err)
		if err := u.pause(ctx, wait); err != nil {
			return nil, err
		}
		if u.a.Stop != "" {
			return u.end(ctx, u.notStarted())
		}
	}
}

func (u *unit) notStarted() outcome {
	return outcome{status: waybill.Status(u.a.Stop), reason: u.a.Reason, err: "stopped before it started"}
}

func unpulled(p *runner.PullError, tries int) string {
	if tries > 1 {
		return fmt.Sprintf("%v (tried %d times)", p, tries)
	}
	return p.Error()
}

// pause waits, not longer than until somebody asks for the attempt's end.
func (u *unit) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case <-u.changed:
			if err := u.reload(ctx); err != nil {
				return err
			}
			if u.a.Stop != "" {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tryStart calls the runner once. Pulling an image takes long, so a request to stop is
// heard meanwhile: u.a.Stop is set then, and the start was given up. What was started of
// the unit is removed by its clean-up.
func (u *unit) tryStart(ctx context.Context, spec runner.Spec) (runner.Handle, error) {
	if _, ok := u.run.(runner.Contained); !ok {
		return u.run.Start(ctx, spec)
	}
	type started struct {
		h   runner.Handle
		err error
	}
	try, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	done := make(chan started, 1)
	go func() {
		h, err := u.run.Start(try, spec)
		done <- started{h, err}
	}()
	var failed error
	for {
		select {
		case x := <-done:
			switch {
			case failed != nil:
				return x.h, failed
			case x.err != nil && ctx.Err() == nil && errors.Is(try.Err(), context.DeadlineExceeded):
				return x.h, waybill.E(waybill.KindUnavailable, "the start took longer than %s: %w", startLimit, x.err)
			}
			return x.h, x.err
		case <-u.changed:
			if failed = u.reload(ctx); failed != nil || u.a.Stop != "" {
				if u.a.Stop != "" {
					failed = errors.New("stopped before it started")
				}
				cancel()
			}
		}
	}
}
