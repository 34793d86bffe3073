package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// runMsg is a message in the lane of a run.
type runMsg struct {
	Kind    string `json:"kind"` // start, ended, cancel, retry
	Attempt string `json:"attempt,omitempty"`
	By      string `json:"by,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Step    string `json:"step,omitempty"`
}

// unitMsg is the message that makes an attempt. It carries what the unit needs,
// so that the node that takes it reads nothing else.
type unitMsg struct {
	Attempt  waybill.Attempt `json:"attempt"`
	Pipeline string          `json:"pipeline"`
	Version  int             `json:"version"`
	Event    waybill.Event   `json:"event"`
	Args     []string        `json:"args,omitempty"`
	Env      []string        `json:"env,omitempty"`
	With     json.RawMessage `json:"with,omitempty"`
	Vars     waybill.Vars    `json:"vars"` // those that begin with the prefix
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
	s, revs, err := e.load(ctx, m.Tenant, m.Key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, queue.Bury("there is no run %s", m.Key)
	}
	if waybill.IsKind(err, waybill.KindNotFound) || waybill.IsKind(err, waybill.KindInvalid) {
		return nil, queue.Bury("%v", err)
	}
	if err != nil {
		return nil, err
	}
	in := input{}
	switch msg.Kind {
	case "start":
		in.start = true
	case "cancel":
		in.cancel = &cancelInput{msg.By, msg.Reason}
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
	return e.commit(ctx, s, revs, d)
}

// load reads a run, its steps and their revisions.
func (e *Engine) load(ctx context.Context, tenant, id string) (*state, map[string]int64, error) {
	row, err := e.o.Store.Get(ctx, tenant, tableRun, id)
	if err != nil {
		return nil, nil, err
	}
	s := &state{run: &waybill.Run{}, steps: map[string]*waybill.Step{}}
	if err := json.Unmarshal(row.Val, s.run); err != nil {
		return nil, nil, queue.Bury("run %s cannot be read: %v", id, err)
	}
	revs := map[string]int64{"": row.Rev}
	if s.plan, _, err = e.o.Plans.Plan(ctx, s.run.Pipeline, s.run.Version); err != nil {
		return nil, nil, err
	}
	if s.run.Status == waybill.StatusQueued && s.run.Of == "" {
		return s, revs, nil // nothing has begun
	}
	rows, err := e.o.Store.Scan(ctx, tenant, tableStep, id+"/", 0)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range rows {
		st := &waybill.Step{}
		if err := json.Unmarshal(r.Val, st); err != nil {
			return nil, nil, queue.Bury("step %s cannot be read: %v", r.Key, err)
		}
		s.steps[st.Name], revs[st.Name] = st, r.Rev
	}
	return s, revs, nil
}

// commit turns a decision into one commit.
func (e *Engine) commit(ctx context.Context, s *state, revs map[string]int64, d decision) (*store.Commit, error) {
	id := s.run.ID
	c := &store.Commit{Tenant: s.run.Tenant}
	add := func(table, key string, rev int64, val any) error {
		p, err := put(table, key, rev, val)
		c.Puts = append(c.Puts, p)
		return err
	}
	if d.changed {
		if err := add(tableRun, id, revs[""], s.run); err != nil {
			return nil, err
		}
	}
	for _, st := range d.steps {
		if err := add(tableStep, id+"/"+st.Name, revs[st.Name], st); err != nil {
			return nil, err
		}
	}
	for _, n := range d.attempts {
		if err := add(tableAttempt, n.attempt.Key(), 0, n.attempt); err != nil {
			return nil, err
		}
		msg := unitMsg{
			Attempt: *n.attempt, Pipeline: s.run.Pipeline, Version: s.run.Version, Event: s.run.Event,
			Args: n.built.Args, Env: n.built.Env, With: n.built.With,
		}
		for _, name := range s.run.Vars.Names() {
			if prefixed(name, s.plan.Prefix) {
				v, _ := s.run.Vars.Get(name)
				msg.Vars.Set(name, v)
			}
		}
		body, err := json.Marshal(msg)
		if err != nil {
			return nil, err
		}
		c.Sends = append(c.Sends, store.Send{
			Topic: queue.TopicUnit, Key: n.attempt.Key(), Body: body, Delay: n.delay, Priority: s.run.Priority,
		})
	}
	for _, key := range d.stop {
		if err := e.stopAttempt(ctx, s.run.Tenant, key, c); err != nil {
			return nil, err
		}
	}
	for _, st := range d.killers {
		p, err := e.killerLetter(s.run, st)
		if err != nil {
			return nil, err
		}
		c.Puts = append(c.Puts, p)
	}
	c.Events = append(c.Events, events(id, d.records)...)
	fault.At("run.commit")
	return c, nil
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
	if a.Phase == waybill.PhaseQueued {
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
func (e *Engine) advanced(_ *store.Msg, c *store.Commit) {
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
	return &store.Commit{
		Tenant: m.Tenant, Puts: []store.Put{p},
		Events: events(r.ID, []record{{"run.ended", map[string]any{"status": r.Status, "error": r.Error}, r.FinishedAt}}),
	}, err
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
