package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

// Authenticate implements waybill.Callbacks.
func (e *Engine) Authenticate(ctx context.Context, token string) (waybill.Principal, error) {
	bad := waybill.E(waybill.KindUnauthorized, "the token is not valid")
	name, _, ok := strings.Cut(strings.TrimPrefix(token, "wba_"), ".")
	if !ok || !strings.HasPrefix(token, "wba_") {
		return waybill.Principal{}, bad
	}
	key, err := base64.RawURLEncoding.DecodeString(name)
	if err != nil {
		return waybill.Principal{}, bad
	}
	a, _, err := e.attempt(ctx, "", string(key))
	if errors.Is(err, store.ErrNotFound) {
		return waybill.Principal{}, bad
	}
	if err != nil {
		return waybill.Principal{}, err
	}
	if subtle.ConstantTimeCompare([]byte(hashToken(token)), []byte(a.TokenHash)) != 1 {
		return waybill.Principal{}, bad
	}
	p := waybill.Principal{Name: "attempt " + a.Key(), Tenant: a.Tenant, Role: waybill.RoleUnit, Attempt: a.Key()}
	if a.Phase == waybill.PhaseTerminal {
		e.late(ctx, a)
		return p, closed(a)
	}
	return p, nil
}

// closed reports why an attempt takes no reports any more: it has ended, or it is
// being ended whatever its unit says.
func closed(a *waybill.Attempt) error {
	switch {
	case a.Phase != waybill.PhaseTerminal && a.Stop == "":
		return nil
	case a.Phase != waybill.PhaseTerminal:
		return waybill.E(waybill.KindGone, "attempt %d of step %s is being ended as %s", a.Number, a.Step, a.Stop)
	}
	return waybill.E(waybill.KindGone, "attempt %d of step %s has ended as %s", a.Number, a.Step, a.Status)
}

// late records that somebody called an attempt that is closed.
func (e *Engine) late(ctx context.Context, a *waybill.Attempt) {
	if err := e.o.Store.Commit(ctx, &store.Commit{
		ID: "late/" + a.Key(), Tenant: a.Tenant, // once is enough to know
		Events: events(a.Run, []record{{"attempt.late_callback", map[string]any{"attempt": a.Key(), "status": a.Status}, e.now()}}),
	}); err != nil {
		e.log.Warn("late callback not recorded", "attempt", a.Key(), "err", err)
	}
}

// Complete implements waybill.Callbacks.
func (e *Engine) Complete(ctx context.Context, attempt string, body []byte, contentType string) (bool, error) {
	sum := sha256.Sum256(append([]byte(contentType+"\x00"), body...))
	hash := hex.EncodeToString(sum[:])
	first := false
	err := e.update(ctx, attempt, func(a *waybill.Attempt, plan *pipeline.Plan, step *pipeline.Step) (*record, error) {
		first = false
		if a.Callback != nil {
			if a.Callback.Hash == hash {
				return nil, nil
			}
			e.contradiction(ctx, a)
			return nil, waybill.E(waybill.KindConflict, "another callback was accepted before")
		}
		if closed := closed(a); closed != nil {
			e.late(ctx, a)
			return nil, closed
		}
		m, err := e.masksOf(ctx, attempt, step)
		if err != nil {
			return nil, err
		}
		cb, err := plan.DecodeCallback(bytes.NewReader(body), contentType)
		if err != nil {
			return nil, maskError(m, err)
		}
		masked, err := maskVars(m, &cb.Variables)
		if err != nil {
			return nil, err
		}
		cb.Error, cb.Message = m.String(cb.Error), m.String(cb.Message)
		status := waybill.StatusSucceeded
		switch cb.Status {
		case "", string(waybill.StatusSucceeded):
		case string(waybill.StatusFailed):
			status = waybill.StatusFailed
		default:
			return nil, waybill.E(waybill.KindInvalid, "status %q: want succeeded or failed", cb.Status)
		}
		if status == waybill.StatusSucceeded {
			if err := checkReturned(step, plan, a.Returned, cb.Variables); err != nil {
				return nil, err
			}
		}
		if err := e.externalize(ctx, &cb.Variables); err != nil {
			return nil, err
		}
		now := e.now()
		a.Callback = &waybill.Callback{Hash: hash, Status: status, Error: cb.Error, Message: cb.Message, Variables: cb.Variables, At: now}
		a.HeartbeatAt = now
		first = true
		return &record{"attempt.callback", map[string]any{"attempt": attempt, "status": status, "variables": cb.Variables.Names(), "masked": masked}, now}, nil
	})
	if err == nil && first {
		fault.At("callback.committed")
		e.poke(attempt)
	}
	return first, err
}

// contradiction records a second callback with another body.
func (e *Engine) contradiction(ctx context.Context, a *waybill.Attempt) {
	if err := e.o.Store.Commit(ctx, &store.Commit{
		ID: "contradiction/" + a.Key(), Tenant: a.Tenant,
		Events: events(a.Run, []record{{"attempt.callback_refused", map[string]any{"attempt": a.Key()}, e.now()}}),
	}); err != nil {
		e.log.Warn("refused callback not recorded", "attempt", a.Key(), "err", err)
	}
}

// checkReturned reports variables of a wrong type. What is missing may still come.
func checkReturned(step *pipeline.Step, plan *pipeline.Plan, sets ...waybill.Vars) error {
	var all waybill.Vars
	for _, s := range sets {
		all.Merge(s)
	}
	if all.Size() > maxVars {
		return waybill.E(waybill.KindTooLarge, "the variables take %d bytes, the limit is %d", all.Size(), maxVars)
	}
	for _, o := range step.Outputs {
		v, ok := all.Get(o.Name)
		if !ok || o.File != "" {
			continue
		}
		if _, err := v.Coerce(o.Type); err != nil {
			return waybill.E(waybill.KindInvalid, "output %s: %v", o.Name, err)
		}
	}
	for _, n := range all.Names() {
		if err := waybill.CheckName(n); err != nil {
			return err
		}
	}
	return nil
}

// SetVariables implements waybill.Callbacks.
func (e *Engine) SetVariables(ctx context.Context, attempt string, vars waybill.Vars) error {
	return e.update(ctx, attempt, func(a *waybill.Attempt, plan *pipeline.Plan, step *pipeline.Step) (*record, error) {
		if closed := closed(a); closed != nil {
			e.late(ctx, a)
			return nil, closed
		}
		if a.Callback != nil {
			return nil, waybill.E(waybill.KindConflict, "the attempt has completed")
		}
		m, err := e.masksOf(ctx, attempt, step)
		if err != nil {
			return nil, err
		}
		set := vars.Clone()
		masked, err := maskVars(m, &set)
		if err != nil {
			return nil, err
		}
		if err := checkReturned(step, plan, a.Returned, set); err != nil {
			return nil, err
		}
		if err := e.externalize(ctx, &set); err != nil {
			return nil, err
		}
		a.Returned = a.Returned.Clone()
		a.Returned.Merge(set)
		a.HeartbeatAt = e.now()
		return &record{"attempt.variables", map[string]any{"attempt": attempt, "variables": vars.Names(), "masked": masked}, a.HeartbeatAt}, nil
	})
}

// heartbeatPace is how often a heartbeat is written: the owner of the attempt
// keeps them in memory, the row serves other servers and people.
const heartbeatPace = 5 * time.Second

// Heartbeat implements waybill.Callbacks.
func (e *Engine) Heartbeat(ctx context.Context, attempt, progress string) (bool, error) {
	now := e.now()
	e.mu.Lock()
	u := e.live[attempt]
	e.mu.Unlock()
	if u != nil {
		u.setBeat(now)
	}
	said, cut := progress, len(progress) > 1000
	stop := false
	err := e.update(ctx, attempt, func(a *waybill.Attempt, _ *pipeline.Plan, step *pipeline.Step) (*record, error) {
		if a.Phase == waybill.PhaseTerminal {
			e.late(ctx, a)
			return nil, closed(a)
		}
		progress = said
		if said != "" {
			m, err := e.masksOf(ctx, attempt, step)
			if err != nil {
				return nil, err
			}
			if progress = m.String(said); cut || len(progress) > 1000 {
				progress = strings.ToValidUTF8(progress[:min(len(progress), 1000)], "")
			}
		}
		stop = a.Stop != ""
		if now.Sub(a.HeartbeatAt) < heartbeatPace && (progress == "" || progress == a.Progress) && u != nil {
			return nil, nil
		}
		a.HeartbeatAt, a.Progress = now, orElse(progress, a.Progress)
		return &record{}, nil
	})
	return stop, err
}

// definition is what the plan says of a step or of a cell, which has its step's.
func definition(plan *pipeline.Plan, step string) *pipeline.Step {
	name, _, _ := strings.Cut(step, ".")
	return plan.Step(name)
}

// stepOf is the definition of the step that an attempt is of. KindNotFound: its run, or
// the version of its pipeline, is not there any more.
func (e *Engine) stepOf(ctx context.Context, a *waybill.Attempt) (*pipeline.Step, error) {
	run, err := e.run(ctx, a.Run)
	if err != nil {
		return nil, err
	}
	plan, _, err := e.o.Plans.Plan(ctx, run.Pipeline, run.Version)
	if err != nil {
		return nil, err
	}
	step := definition(plan, a.Step)
	if step == nil {
		return nil, waybill.E(waybill.KindNotFound, "pipeline %s version %d has no step %s", run.Pipeline, run.Version, a.Step)
	}
	return step, nil
}

// update changes an attempt from outside, by compare and swap. f returns the
// record to write with the change; nil means that nothing is to be written, one without a kind
// that there is nothing to tell.
func (e *Engine) update(ctx context.Context, key string, f func(*waybill.Attempt, *pipeline.Plan, *pipeline.Step) (*record, error)) error {
	for {
		a, rev, err := e.attempt(ctx, "", key)
		if errors.Is(err, store.ErrNotFound) {
			return waybill.E(waybill.KindNotFound, "there is no attempt %s", key)
		}
		if err != nil {
			return err
		}
		run, err := e.run(ctx, a.Run)
		if err != nil {
			return err
		}
		plan, _, err := e.o.Plans.Plan(ctx, run.Pipeline, run.Version)
		if err != nil {
			return err
		}
		step := definition(plan, a.Step)
		if step == nil {
			return waybill.E(waybill.KindInternal, "pipeline %s has no step %s", run.Pipeline, a.Step)
		}
		rec, err := f(a, plan, step)
		if err != nil || rec == nil {
			return err
		}
		p, err := put(tableAttempt, key, rev, a)
		if err != nil {
			return err
		}
		c := &store.Commit{Tenant: a.Tenant, Puts: []store.Put{p}}
		if rec.kind != "" {
			c.Events = events(a.Run, split(a, *rec))
		}
		if err := e.o.Store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}
