package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// cleanupMsg asks for the removal of what an attempt left.
type cleanupMsg struct {
	Attempt string          `json:"attempt"`
	Unit    string          `json:"unit"`
	Runner  string          `json:"runner"`
	Node    string          `json:"node"`
	Handle  json.RawMessage `json:"handle,omitempty"`
}

// Clean-up is tried for about a day: 1 s after the first failure, doubled each
// time, at most every quarter of an hour.
const cleanupTries = 105

func cleanupBackoff(fails int) time.Duration {
	return min(time.Second<<min(max(fails-1, 0), 10), 15*time.Minute)
}

// cleanup is the handler of the topic "cleanup". Removing is idempotent, so it
// may be done again.
func (e *Engine) cleanup(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var msg cleanupMsg
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	r := e.o.Runners[msg.Runner]
	if msg.Node != e.o.Node && (r == nil || !runner.Elsewhere(r)) {
		row, err := e.o.Store.Get(ctx, "", tableNode, msg.Node)
		var n node
		if err == nil {
			err = json.Unmarshal(row.Val, &n)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if e.now().Before(n.At.Add(4 * e.o.Lease)) {
			return nil, queue.Yield(time.Second, "its node removes it")
		}
		// A unit of a dead server is gone with it or ended by its supervisor's hard stop.
		return e.cleaned(ctx, m.Tenant, msg.Attempt, waybill.CleanupGone, "with its server "+msg.Node)
	}
	lost := ""
	if r != nil {
		h := runner.Handle{Runner: msg.Runner, Unit: msg.Unit}
		if len(msg.Handle) > 0 {
			if err := json.Unmarshal(msg.Handle, &h); err != nil {
				return nil, queue.Bury("unreadable handle: %v", err)
			}
		}
		if c, ok := r.(runner.Contained); ok {
			var err error
			if lost, err = e.archive(ctx, c, h, m, msg.Attempt); err != nil {
				e.cleanupFailing(ctx, m, msg, err)
				return nil, err
			}
		}
		fault.At("cleanup.remove")
		if err := r.Remove(ctx, h); err != nil {
			e.cleanupFailing(ctx, m, msg, err)
			return nil, err
		}
		fault.At("cleanup.removed")
	}
	if err := e.spares.remove(e.unitFiles(msg.Unit)); err != nil {
		e.cleanupFailing(ctx, m, msg, err)
		return nil, err
	}
	c, err := e.cleaned(ctx, m.Tenant, msg.Attempt, waybill.CleanupGone, "")
	if err != nil || c == nil || lost == "" {
		return c, err
	}
	return e.logsLost(c, lost)
}

// archiveFor is how long the removal of a unit waits for its log to be kept.
const archiveFor = 10 * time.Minute

// archive sees to it that the log of a unit is kept before the unit is removed. When that
// has been tried for long enough, it says why the log is lost.
func (e *Engine) archive(ctx context.Context, c runner.Contained, h runner.Handle, m *store.Msg, attempt string) (lost string, err error) {
	a, _, err := e.attempt(ctx, m.Tenant, attempt)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil // its run was removed by retention, and its log with it
	}
	if err != nil {
		return "", err
	}
	s, err := e.logOf(ctx, c, a)
	if err == nil {
		if s.Log == "" {
			return "the secrets that would have to be masked in it are no longer known", nil
		}
		err = c.Archive(ctx, h, s)
	}
	if err == nil || ctx.Err() != nil {
		return "", err
	}
	if !waybill.IsKind(err, waybill.KindLost) && e.now().Sub(a.FinishedAt) < archiveFor {
		return "", fmt.Errorf("its log cannot be kept yet: %w", err)
	}
	return err.Error(), nil
}

// logOf is what a runner must know to keep the log of a unit whose attempt has ended.
func (e *Engine) logOf(ctx context.Context, c runner.Contained, a *waybill.Attempt) (runner.Spec, error) {
	s := runner.Spec{Unit: a.Unit, Dir: e.homeOf(c, a.Unit).dir, LogCap: e.o.LogCap}
	step, err := e.stepOf(ctx, a)
	var values []string
	if err == nil {
		values, err = e.secretValues(ctx, a.Key(), step)
	}
	if waybill.IsKind(err, waybill.KindNotFound) {
		return s, nil // what it was given is known to nobody any more
	}
	if err != nil {
		return s, err
	}
	for _, v := range values {
		s.Mask = append(s.Mask, []byte(v))
	}
	s.Log, err = e.o.Blobs.LogFile(a.Run, a.Unit)
	return s, err
}

// logsLost adds to the commit that ends a clean-up that the log went with the unit.
func (e *Engine) logsLost(c *store.Commit, why string) (*store.Commit, error) {
	var a waybill.Attempt
	if err := json.Unmarshal(c.Puts[0].Val, &a); err != nil {
		return nil, err
	}
	a.LogsLost = why
	val, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	c.Puts[0].Val = val
	c.Events = append(c.Events, events(a.Run, []record{{"attempt.logs_lost", map[string]any{"attempt": a.Key(), "reason": why}, e.now()}})...)
	e.log.Warn("the log of a unit is lost", "unit", a.Unit, "why", why)
	return c, nil
}

// cleanupFailing shows on the attempt that its clean-up does not succeed.
func (e *Engine) cleanupFailing(ctx context.Context, m *store.Msg, msg cleanupMsg, cause error) {
	if m.Fails > 0 {
		return // it is shown already
	}
	c, err := e.cleaned(ctx, m.Tenant, msg.Attempt, waybill.CleanupDeleting, cause.Error())
	if err == nil && c != nil {
		err = e.o.Store.Commit(ctx, c)
	}
	if err != nil {
		e.log.Warn("failing clean-up not recorded", "unit", msg.Unit, "err", err)
	}
}

func (e *Engine) cleaned(ctx context.Context, tenant, attempt string, state waybill.Cleanup, why string) (*store.Commit, error) {
	a, rev, err := e.attempt(ctx, tenant, attempt)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // its run was removed by retention
	}
	if err != nil {
		return nil, err
	}
	a.Cleanup, a.CleanupErr = state, ""
	data := map[string]any{"attempt": attempt, "cleanup": state}
	if why != "" {
		data["reason"] = why
		if state != waybill.CleanupGone {
			a.CleanupErr = why
		}
	}
	p, err := put(tableAttempt, attempt, rev, a)
	return &store.Commit{
		Tenant: tenant, Puts: []store.Put{p},
		Events: events(a.Run, []record{{"cleanup." + string(state), data, e.now()}}),
	}, err
}

// cleanupBuried marks a clean-up that was given up. It stays visible on the
// attempt and in the dead letters until somebody sends it again.
func (e *Engine) cleanupBuried(ctx context.Context, m *store.Msg, reason string) (*store.Commit, error) {
	var msg cleanupMsg
	if json.Unmarshal(m.Body, &msg) != nil {
		return nil, nil
	}
	return e.cleaned(ctx, m.Tenant, msg.Attempt, waybill.CleanupFailed, reason)
}
