package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// idem remembers a start by its idempotency key.
type idem struct {
	Run  string    `json:"run"`
	Hash string    `json:"hash"` // of the request
	At   time.Time `json:"at"`
}

// StartRun implements waybill.Runs.
func (e *Engine) StartRun(ctx context.Context, r waybill.StartRequest) (waybill.Run, bool, error) {
	if err := e.o.Admit(ctx, queue.TopicRun); err != nil {
		return waybill.Run{}, false, err
	}
	plan, version, err := e.o.Plans.Plan(ctx, r.Pipeline, 0)
	if err != nil {
		return waybill.Run{}, false, err
	}
	if !plan.On.HTTP {
		return waybill.Run{}, false, waybill.E(waybill.KindConflict, "it is not started by HTTP").
			WithOp("start pipeline", r.Pipeline).WithHint("add \"http: {}\" under \"on\"")
	}
	now := e.now()
	what := map[string]any{"vars": r.Vars, "params": r.Params}
	if r.Delay != 0 || r.Priority != nil {
		what["delay"], what["priority"] = r.Delay, r.Priority
	}
	asked, err := json.Marshal(what)
	if err != nil {
		return waybill.Run{}, false, err
	}
	if n := r.Vars.Size() + r.Params.Size(); n > maxVars {
		return waybill.Run{}, false, waybill.E(waybill.KindTooLarge, "variables and parameters take %d bytes, the limit is %d", n, maxVars)
	}
	vars := r.Vars.Clone()
	if err := e.externalize(ctx, &vars); err != nil {
		return waybill.Run{}, false, err
	}
	data, err := json.Marshal(map[string]any{"vars": vars, "params": r.Params})
	if err != nil {
		return waybill.Run{}, false, err
	}
	ev := waybill.Event{
		ID: waybill.NewID(now), Type: "http", Source: "/pipelines/" + r.Pipeline, Subject: r.By.Name, Time: now, Data: data,
		Traceparent: r.Traceparent,
	}
	var key string
	var memory idem
	if r.IdempotencyKey != "" {
		sum := sha256.Sum256(asked)
		key = "run/" + r.Pipeline + "/" + r.IdempotencyKey
		memory = idem{Hash: hex.EncodeToString(sum[:]), At: now}
		if run, ok, err := e.remembered(ctx, key, memory.Hash); ok || err != nil {
			return run, false, err
		}
	}
	run, c, err := e.Begin(plan, version, ev, r.Params, vars)
	if err == nil && (r.Delay != 0 || r.Priority != nil) {
		if r.Delay < 0 || r.Delay > 366*24*time.Hour {
			return waybill.Run{}, false, waybill.E(waybill.KindInvalid, "a delay is from 0 to 366 days, found %s", r.Delay)
		}
		if r.Priority != nil {
			if *r.Priority < -1000 || *r.Priority > 1000 {
				return waybill.Run{}, false, waybill.E(waybill.KindInvalid, "a priority is from -1000 to 1000, found %d", *r.Priority)
			}
			run.Priority = *r.Priority
		}
		c, err = e.accept(&run, nil, r.Delay)
	}
	if err != nil {
		return waybill.Run{}, false, err
	}
	if key != "" {
		memory.Run = run.ID
		p, err := put(tableIdem, key, 0, memory)
		if err != nil {
			return waybill.Run{}, false, err
		}
		c.Puts = append(c.Puts, p)
	}
	err = e.o.Store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) && key != "" {
		first, ok, err := e.remembered(ctx, key, memory.Hash)
		if err == nil && !ok {
			err = waybill.E(waybill.KindConflict, "the idempotency key is in use")
		}
		return first, false, err
	}
	return run, err == nil, err
}

// remembered returns the run that was started with an idempotency key.
func (e *Engine) remembered(ctx context.Context, key, hash string) (waybill.Run, bool, error) {
	row, err := e.o.Store.Get(ctx, "", tableIdem, key)
	if errors.Is(err, store.ErrNotFound) {
		return waybill.Run{}, false, nil
	}
	if err != nil {
		return waybill.Run{}, false, err
	}
	var i idem
	if err := json.Unmarshal(row.Val, &i); err != nil {
		return waybill.Run{}, false, err
	}
	if i.Hash != hash {
		return waybill.Run{}, false, waybill.E(waybill.KindInvalid, "the idempotency key was used for another request").
			WithHint("use a new key for a new request")
	}
	run, err := e.run(ctx, i.Run)
	return run, err == nil, err
}

// Begin makes a new run of a plan and the commit that accepts it, which is left
// to the caller to make, alone or with more. KindInvalid: the parameters or
// variables do not fit the plan. The run takes the given slots besides those of the plan.
func (e *Engine) Begin(plan *pipeline.Plan, version int, ev waybill.Event, params, vars waybill.Vars, slots ...waybill.Slot) (waybill.Run, *store.Commit, error) {
	given := map[string]waybill.Value{}
	for _, n := range params.Names() {
		given[n], _ = params.Get(n)
	}
	bound, err := plan.BindParams(given)
	if err != nil {
		return waybill.Run{}, nil, err
	}
	now := e.now()
	run := waybill.Run{
		ID: waybill.NewID(now), Tenant: store.DefaultTenant, Pipeline: plan.Name, Version: version, Status: waybill.StatusQueued,
		Event: ev, Params: bound, Given: vars, Priority: plan.Priority, CreatedAt: now, Keep: int(plan.Retention / time.Second), StepCount: len(plan.Steps),
		Labels: plan.Labels,
	}
	sc := pipeline.Scope{
		Event: eventData(ev), Run: map[string]any{"id": run.ID, "pipeline": run.Pipeline, "version": int64(version)}, Params: bound, Vars: vars,
	}
	if run.Vars, err = plan.InitialVars(sc); err != nil {
		return waybill.Run{}, nil, err
	}
	sc.Vars = run.Vars
	own, err := plan.Slots(sc)
	if err != nil {
		return waybill.Run{}, nil, err
	}
	// Every run takes its slots in the same order, so that no two wait for each other.
	run.Slots = append(own, slots...)
	slices.SortFunc(run.Slots, func(a, b waybill.Slot) int { return strings.Compare(a.Key, b.Key) })
	if n := run.Vars.Size() + run.Params.Size(); n > maxVars {
		return waybill.Run{}, nil, waybill.E(waybill.KindTooLarge, "variables and parameters take %d bytes, the limit is %d", n, maxVars)
	}
	c, err := e.accept(&run, nil, 0)
	return run, c, err
}

// accept is the commit that makes a run known and sends it on its way, after a delay if
// there is one.
func (e *Engine) accept(run *waybill.Run, steps []*waybill.Step, delay time.Duration) (*store.Commit, error) {
	p, err := put(tableRun, run.ID, 0, run)
	if err != nil {
		return nil, err
	}
	c := &store.Commit{Tenant: run.Tenant, Puts: []store.Put{p}}
	putLinks(c, run)
	for _, st := range steps {
		p, err := put(tableStep, run.ID+"/"+st.Name, 0, st)
		if err != nil {
			return nil, err
		}
		c.Puts = append(c.Puts, p)
	}
	if delay > 0 {
		err = e.arm(c, "start/"+run.ID, run.ID, e.now().Add(delay), runMsg{Kind: "start"})
	} else {
		err = send(c, queue.TopicRun, run.ID, run.Priority, runMsg{Kind: "start"})
	}
	if err != nil {
		return nil, err
	}
	data := map[string]any{"pipeline": run.Pipeline, "version": run.Version, "event": run.Event.Type}
	if run.Of != "" {
		data["retry_of"] = run.Of
	}
	if run.Parent != nil {
		data["parent"] = run.Parent.Run
	}
	if delay > 0 {
		data["delay"] = delay.String()
	}
	c.Events = events(run.ID, []record{{"run.accepted", data, run.CreatedAt}})
	return c, nil
}

// CancelRun implements waybill.Runs.
func (e *Engine) CancelRun(ctx context.Context, id, reason string, force bool, by waybill.Principal) (waybill.Run, error) {
	run, err := e.run(ctx, id)
	if err != nil {
		return run, err
	}
	switch {
	case run.Status == waybill.StatusCanceled || run.CancelBy != "" && (!force || run.Forced):
		return run, nil
	case run.Status.Terminal():
		return run, waybill.E(waybill.KindConflict, "it has ended as %s", run.Status).WithOp("cancel run", id)
	}
	body, err := json.Marshal(runMsg{Kind: "cancel", By: by.Name, Reason: reason, Force: force})
	if err != nil {
		return run, err
	}
	once := "cancel/" + id
	if force {
		once += "/force"
	}
	err = e.o.Store.Commit(ctx, &store.Commit{
		ID: once, Tenant: run.Tenant, // a second request adds nothing
		Sends:  []store.Send{{Topic: queue.TopicRun, Key: id, Body: body, Priority: run.Priority + 1}},
		Events: events(id, []record{{"run.cancel_asked", map[string]any{"by": by.Name, "reason": reason}, e.now()}}),
	})
	if err == nil {
		run.CancelBy = by.Name
	}
	return run, err
}

// RetryRun implements waybill.Runs.
func (e *Engine) RetryRun(ctx context.Context, id, from string, _ waybill.Principal) (waybill.Run, error) {
	if err := e.o.Admit(ctx, queue.TopicRun); err != nil {
		return waybill.Run{}, err
	}
	run, c, err := e.retry(ctx, id, from)
	if err != nil {
		return waybill.Run{}, err
	}
	return run, e.o.Store.Commit(ctx, c)
}

func (e *Engine) retry(ctx context.Context, id, from string) (waybill.Run, *store.Commit, error) {
	old, err := e.Run(ctx, id)
	if err != nil {
		return waybill.Run{}, nil, err
	}
	if !old.Status.Terminal() {
		return waybill.Run{}, nil, waybill.E(waybill.KindConflict, "it has not ended").WithOp("retry run", id).WithHint("cancel it first")
	}
	plan, _, err := e.o.Plans.Plan(ctx, old.Pipeline, old.Version)
	if err != nil {
		return waybill.Run{}, nil, err
	}
	run, _, err := e.Begin(plan, old.Version, old.Event, old.Params, old.Given)
	if err != nil {
		return waybill.Run{}, nil, err
	}
	run.Of, run.Priority = id, old.Priority
	var keep []*waybill.Step
	if from != "" {
		if plan.Step(from) == nil {
			return waybill.Run{}, nil, waybill.E(waybill.KindInvalid, "the pipeline has no step %q", from).WithOp("retry run", id)
		}
		again := downstream(plan, from)
		for i := range old.Steps {
			st := old.Steps[i]
			if slices.Contains(again, st.Name) {
				continue
			}
			if st.Cell != nil || st.Group != pipeline.GroupMain || st.Status != waybill.StatusSucceeded && !st.Allowed {
				continue // it runs again as well: there is nothing to keep of it
			}
			if st.Reused == "" {
				st.Reused = id
			}
			for _, n := range st.Added {
				if v, ok := old.Vars.Get(n); ok {
					run.Vars.Set(n, v)
				}
			}
			st.Run = run.ID
			keep = append(keep, &st)
		}
		run.StepsDone = len(keep)
	}
	c, err := e.accept(&run, keep, 0)
	return run, c, err
}

// downstream is a step and all that need it, directly or not.
func downstream(plan *pipeline.Plan, from string) []string {
	out := []string{from}
	for changed := true; changed; {
		changed = false
		for _, p := range plan.Steps {
			if slices.Contains(out, p.Name) {
				continue
			}
			for _, n := range p.Needs {
				if slices.Contains(out, n) {
					out, changed = append(out, p.Name), true
					break
				}
			}
		}
	}
	return out
}
