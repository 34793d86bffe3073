package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// runMsg is a message in the lane of a run.
type runMsg struct {
	// Kind is start, ended (a unit's attempt), timer, answered, child (what happened to
	// the attempt of a control step), granted, skipped (from a slot), cancel, pause,
	// resume or retry.
	Kind    string `json:"kind"`
	Attempt string `json:"attempt,omitempty"`
	By      string `json:"by,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Step    string `json:"step,omitempty"`
	Slot    string `json:"slot,omitempty"`
	Force   bool   `json:"force,omitempty"`
}

// unitMsg is the message that makes an attempt. It carries what the unit needs,
// so that the node that takes it reads nothing else.
type unitMsg struct {
	Attempt  waybill.Attempt  `json:"attempt"`
	Pipeline string           `json:"pipeline"`
	Version  int              `json:"version"`
	Event    waybill.Event    `json:"event"`
	Args     []string         `json:"args,omitempty"`
	Env      []string         `json:"env,omitempty"`
	With     json.RawMessage  `json:"with,omitempty"`
	Vars     waybill.Vars     `json:"vars"` // those that are handed to the unit
	Inputs   []pipeline.Input `json:"inputs,omitempty"`
	Puts     []pipeline.Put   `json:"puts,omitempty"`
	Cell     *waybill.Cell    `json:"cell,omitempty"`
	Tag      int64            `json:"tag,omitempty"` // see fair
}

// advance is the handler of the topic "run".
func (e *Engine) advance(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var msg runMsg
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	if msg.Kind == "retry" {
		return e.retryBuried(ctx, m.Key, msg)
	}
	k, err := e.load(ctx, m.Tenant, m.Key)
	if errors.Is(err, store.ErrNotFound) {
		if msg.Kind != "start" {
			return nil, nil // it ended long ago, and this came late
		}
		return nil, queue.Bury("there is no run %s", m.Key)
	}
	if waybill.IsKind(err, waybill.KindNotFound) || waybill.IsKind(err, waybill.KindInvalid) {
		return nil, queue.Bury("%v", err)
	}
	if err != nil {
		return nil, err
	}
	c := &store.Commit{Tenant: m.Tenant}
	in := input{}
	s := k.state
	switch msg.Kind {
	case "start":
		in.start = true
	case "cancel":
		in.cancel = &cancelInput{msg.By, msg.Reason, msg.Force}
	case "pause", "resume":
		in.pause = &pauseInput{msg.By}
	case "granted":
		if s.run.Status.Terminal() || s.begun() || s.run.Held >= len(s.run.Slots) || s.run.Slots[s.run.Held].Key != msg.Slot {
			return nil, nil
		}
		in.granted = true
	case "skipped":
		in.skipped = msg.Reason
	case "timer", "answered", "child":
		if in.ended, err = e.settle(ctx, m.Tenant, s.plan, msg, c); err != nil {
			return nil, err
		}
		if in.ended == nil {
			e.remember(m, k, c)
			return c, nil
		}
	case "ended":
		a, _, err := e.attempt(ctx, m.Tenant, msg.Attempt)
		if err != nil {
			return nil, err
		}
		if a.Phase != waybill.PhaseTerminal {
			return nil, fmt.Errorf("attempt %s is said to have ended and has not", msg.Attempt)
		}
		in.ended = a
	default:
		return nil, queue.Bury("unknown message %q", msg.Kind)
	}
	d := s.apply(in, e.now())
	if err := e.commit(ctx, k, d, c); err != nil {
		return nil, err
	}
	e.remember(m, k, c)
	fault.At("run.commit")
	return c, nil
}

// commit turns a decision into the rest of a commit.
func (e *Engine) commit(ctx context.Context, k *known, d decision, c *store.Commit) error {
	s := k.state
	id := s.run.ID
	// A sub-pipeline that cannot be started ends its step, which may begin others.
	for i := 0; i < len(d.attempts); i++ {
		n := &d.attempts[i]
		if n.step.Runner != pipeline.RunnerPipeline {
			continue
		}
		err := e.beginChild(ctx, s, n, c)
		switch waybill.KindOf(err) {
		case "":
			continue
		case waybill.KindInvalid, waybill.KindMalformed, waybill.KindNotFound, waybill.KindGone, waybill.KindTooLarge, waybill.KindConflict:
		default:
			return err
		}
		a := n.attempt
		a.Phase, a.Status, a.Reason, a.Error, a.FinishedAt = waybill.PhaseTerminal, waybill.StatusFailed, "not_started", err.Error(), e.now()
		d.join(s.apply(input{ended: a}, e.now()))
	}
	add := func(table, key string, rev int64, val any) error {
		p, err := put(table, key, rev, val)
		c.Puts = append(c.Puts, p)
		return err
	}
	if d.changed {
		if err := add(tableRun, id, k.revs[""], s.run); err != nil {
			return err
		}
		k.revs[""]++
	}
	written := make(map[*waybill.Step]bool, len(d.steps))
	for _, st := range d.steps {
		if written[st] {
			continue // a cell that was made and ended by one message
		}
		written[st] = true
		if err := add(tableStep, id+"/"+st.Name, k.revs[st.Name], st); err != nil {
			return err
		}
		k.revs[st.Name]++
	}
	fresh := map[string]bool{} // attempts that this commit makes
	for i := range d.attempts {
		n := &d.attempts[i]
		key := n.attempt.Key()
		fresh[key] = true
		if slices.Contains(d.stop, key) {
			if err := e.withdraw(n.attempt, c); err != nil {
				return err
			}
		}
		if err := e.order(k, n, c); err != nil {
			return err
		}
	}
	for _, key := range d.stop {
		if fresh[key] {
			continue
		}
		if err := e.stopAttempt(ctx, s.run.Tenant, key, c); err != nil {
			return err
		}
	}
	for _, st := range d.killers {
		p, err := e.killerLetter(s.run, st)
		if err != nil {
			return err
		}
		c.Puts = append(c.Puts, p)
	}
	if d.acquire != nil {
		if err := send(c, queue.TopicSlot, d.acquire.Key, 0, slotMsg{
			Kind: "acquire", Run: id, Limit: d.acquire.Limit, Policy: d.acquire.Policy, Priority: s.run.Priority,
		}); err != nil {
			return err
		}
	}
	if d.ended {
		if err := e.closing(s.run, c); err != nil {
			return err
		}
	}
	c.Events = append(c.Events, events(id, d.records)...)
	return nil
}

// join adds what followed from a decision.
func (d *decision) join(more decision) {
	d.changed, d.ended = d.changed || more.changed, d.ended || more.ended
	for _, st := range more.steps {
		d.touch(st)
	}
	d.attempts = append(d.attempts, more.attempts...)
	d.stop = append(d.stop, more.stop...)
	d.killers = append(d.killers, more.killers...)
	d.records = append(d.records, more.records...)
}

// closing adds to the commit that ends a run what others wait for: its places, and the
// step that started it.
func (e *Engine) closing(r *waybill.Run, c *store.Commit) error {
	for i, slot := range r.Slots {
		if i > r.Held {
			break // never asked for
		}
		if err := send(c, queue.TopicSlot, slot.Key, 0, slotMsg{Kind: "release", Run: r.ID, Priority: r.Priority}); err != nil {
			return err
		}
	}
	if p := r.Parent; p != nil {
		return send(c, queue.TopicRun, p.Run, r.Priority, runMsg{Kind: "child", Attempt: waybill.AttemptKey(p.Run, p.Step, p.Attempt)})
	}
	return nil
}

// withdraw ends an attempt that the same message makes and stops: another cell could not
// even begin. A run that was begun for it is canceled, and ends it.
func (e *Engine) withdraw(a *waybill.Attempt, c *store.Commit) error {
	switch {
	case a.Phase == waybill.PhaseTerminal:
		return nil
	case a.Child != "":
		a.Stop = string(waybill.StatusCanceled)
		return send(c, queue.TopicRun, a.Child, 1, runMsg{Kind: "cancel", By: "run " + a.Run, Reason: "its step was canceled"})
	}
	now := e.now()
	a.Phase, a.Status, a.Stop = waybill.PhaseTerminal, waybill.StatusCanceled, string(waybill.StatusCanceled)
	a.FinishedAt, a.Error = now, "canceled before it started"
	c.Events = append(c.Events, events(a.Run, []record{{"attempt.ended", map[string]any{
		"attempt": a.Key(), "step": a.Step, "status": a.Status,
	}, now}})...)
	return send(c, queue.TopicRun, a.Run, 0, runMsg{Kind: "ended", Attempt: a.Key()})
}

// order adds an attempt and what makes it to a commit.
func (e *Engine) order(k *known, n *newAttempt, c *store.Commit) error {
	s, a := k.state, n.attempt
	p, err := put(tableAttempt, a.Key(), 0, a)
	if err != nil {
		return err
	}
	c.Puts = append(c.Puts, p)
	if a.Phase == waybill.PhaseTerminal {
		return nil
	}
	if n.step.Control() {
		data := map[string]any{"attempt": a.Key(), "step": a.Step}
		kind, until := "attempt.waiting", a.Until
		switch a.Runner {
		case pipeline.RunnerApproval:
			kind, until = "approval.asked", a.Approval.ExpiresAt
			data["message"], data["role"] = a.Approval.Message, a.Approval.Role
		case pipeline.RunnerPipeline:
			kind, until = "attempt.running", a.Deadline.Add(n.delay)
			data["run"] = a.Child
		}
		if !until.IsZero() {
			data["until"] = until
			if err := e.arm(c, a.Key(), a.Run, until, runMsg{Kind: "timer", Attempt: a.Key()}); err != nil {
				return err
			}
		}
		c.Events = append(c.Events, events(a.Run, []record{{kind, data, e.now()}})...)
		return nil
	}
	msg := unitMsg{
		Attempt: *a, Pipeline: s.run.Pipeline, Version: s.run.Version, Event: s.run.Event,
		Args: n.built.Args, Env: n.built.Env, With: n.built.With, Inputs: n.built.Inputs, Puts: n.built.Puts, Cell: n.cell,
	}
	for _, name := range s.run.Vars.Names() {
		if n.step.Inherits(name, s.plan.Prefix) {
			v, _ := s.run.Vars.Get(name)
			msg.Vars.Set(name, v)
		}
	}
	behind := e.fair.place(queue.TopicUnit, s.run.Pipeline, e.now())
	msg.Tag = behind.tag
	body, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	c.Sends = append(c.Sends, store.Send{
		Topic: queue.TopicUnit, Key: a.Key(), Body: body, Delay: n.delay, Priority: n.priority, Behind: behind.by,
	})
	return nil
}

// stopAttempt adds to a commit what makes an attempt end: its node is told, or,
// when it is not with a node yet, it ends right here.
func (e *Engine) stopAttempt(ctx context.Context, tenant, key string, c *store.Commit) error {
	a, rev, err := e.attempt(ctx, tenant, key)
	if err != nil {
		return err
	}
	if a.Phase == waybill.PhaseTerminal {
		return nil // its end is on its way to the run
	}
	if a.Stop != "" {
		return nil // it is being stopped already
	}
	now := e.now()
	a.Stop = string(waybill.StatusCanceled)
	kind, data := "attempt.stopping", map[string]any{"attempt": key, "step": a.Step}
	if a.Child != "" {
		// Its run ends first; that ends the attempt.
		if err := send(c, queue.TopicRun, a.Child, 1, runMsg{Kind: "cancel", By: "run " + a.Run, Reason: "its step was canceled"}); err != nil {
			return err
		}
	} else if a.Phase == waybill.PhaseQueued || a.Status == waybill.StatusWaiting {
		a.Phase, a.Status, a.FinishedAt, a.Error = waybill.PhaseTerminal, waybill.StatusCanceled, now, "canceled before it started"
		kind, data["status"] = "attempt.ended", a.Status
		body, err := json.Marshal(runMsg{Kind: "ended", Attempt: key})
		if err != nil {
			return err
		}
		c.Sends = append(c.Sends, store.Send{Topic: queue.TopicRun, Key: a.Run, Body: body})
	}
	p, err := put(tableAttempt, key, rev, a)
	c.Puts = append(c.Puts, p)
	c.Events = append(c.Events, events(a.Run, []record{{kind, data, now}})...)
	return err
}

// advanced tells the units of this node what a commit asks of them. Other nodes
// hear it from the event.
func (e *Engine) advanced(m *store.Msg, c *store.Commit) {
	e.known.keep(m)
	for _, ev := range c.Events {
		if ev.Kind == "attempt.stopping" {
			var d struct{ Attempt string }
			if json.Unmarshal(ev.Data, &d) == nil {
				e.poke(d.Attempt)
			}
		}
	}
}

// killerLetter is the dead letter of a step that kills its workers. Sent again,
// it starts a new run from that step.
func (e *Engine) killerLetter(r *waybill.Run, st *waybill.Step) (store.Put, error) {
	body, err := json.Marshal(runMsg{Kind: "retry", Step: st.Name, Reason: st.Error})
	if err != nil {
		return store.Put{}, err
	}
	now := e.now()
	return put(store.DeadTable, queue.TopicRun+"/"+waybill.NewID(now), 0, store.DeadLetter{
		Topic: queue.TopicRun, Key: r.ID, Body: body, Reason: "worker_killer: step " + st.Name + ": " + strings.TrimPrefix(st.Error, "worker_killer: "),
		Attempt: st.Attempts, Fails: st.Losses, SentAt: st.StartedAt, DeadAt: now,
	})
}

// retryBuried starts the run that a redriven dead letter asks for.
func (e *Engine) retryBuried(ctx context.Context, id string, msg runMsg) (*store.Commit, error) {
	run, c, err := e.retry(ctx, id, msg.Step)
	if err != nil {
		if k := waybill.KindOf(err); k == waybill.KindNotFound || k == waybill.KindInvalid || k == waybill.KindConflict {
			return nil, queue.Bury("%v", err)
		}
		return nil, err
	}
	e.log.Info("run retried from a dead letter", "run", run.ID, "of", id)
	return c, nil
}

// runBuried fails a run whose message cannot be worked on, so that nobody waits
// for it for ever.
func (e *Engine) runBuried(ctx context.Context, m *store.Msg, reason string) (*store.Commit, error) {
	row, err := e.o.Store.Get(ctx, m.Tenant, tableRun, m.Key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r waybill.Run
	if err := json.Unmarshal(row.Val, &r); err != nil || r.Status.Terminal() {
		return nil, err
	}
	r.Status, r.FinishedAt, r.Error = waybill.StatusFailed, e.now(), "dead letter: "+reason
	p, err := put(tableRun, r.ID, row.Rev, r)
	if err != nil {
		return nil, err
	}
	c := &store.Commit{Tenant: m.Tenant, Puts: []store.Put{p}}
	if err := e.abandonSteps(ctx, &r, c); err != nil {
		return nil, err
	}
	c.Events = append(c.Events, events(r.ID, []record{{"run.ended", map[string]any{"status": r.Status, "error": r.Error}, r.FinishedAt}})...)
	return c, e.closing(&r, c)
}

// abandonSteps ends the open steps of a run that a dead letter has ended, and their
// attempts.
func (e *Engine) abandonSteps(ctx context.Context, r *waybill.Run, c *store.Commit) error {
	rows, err := e.o.Store.Scan(ctx, r.Tenant, tableStep, r.ID+"/", 0)
	if err != nil {
		return err
	}
	for _, row := range rows {
		var st waybill.Step
		if json.Unmarshal(row.Val, &st) != nil || st.Status.Terminal() {
			continue
		}
		if st.Cells == nil && st.Attempts > 0 {
			if err := e.stopAttempt(ctx, r.Tenant, waybill.AttemptKey(r.ID, st.Name, st.Attempts), c); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		st.Status, st.FinishedAt, st.Error = waybill.StatusCanceled, r.FinishedAt, "its run was ended by a dead letter"
		p, err := put(tableStep, row.Key, row.Rev, st)
		if err != nil {
			return err
		}
		c.Puts = append(c.Puts, p)
		c.Events = append(c.Events, events(r.ID, []record{{"step.ended", map[string]any{"step": st.Name, "status": st.Status, "error": st.Error}, r.FinishedAt}})...)
	}
	return nil
}

// attempt reads an attempt and its revision.
func (e *Engine) attempt(ctx context.Context, tenant, key string) (*waybill.Attempt, int64, error) {
	row, err := e.o.Store.Get(ctx, tenant, tableAttempt, key)
	if err != nil {
		return nil, 0, fmt.Errorf("attempt %s: %w", key, err)
	}
	a := &waybill.Attempt{}
	if err := json.Unmarshal(row.Val, a); err != nil {
		return nil, 0, queue.Bury("attempt %s cannot be read: %v", key, err)
	}
	return a, row.Rev, nil
}

func prefixed(name, prefix string) bool {
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}
