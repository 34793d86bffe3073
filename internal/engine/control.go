package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Steps that the engine makes itself: waits, approvals and sub-pipelines. Their attempts
// have no unit and no node. What ends them is a message in the lane of the run: a timer
// that fires, an answer, the end of the other run. The attempt's row is the arbiter: each
// of these writes it at the revision it saw, so that of an answer and an expiry at the
// same instant one counts.

// maxDepth is how deep sub-pipelines may start each other.
const maxDepth = 10

// timerMsg is a message of the topic "timer", which waits for its time in a lane of its
// own and then goes to the lane of the run.
type timerMsg struct {
	Run string `json:"run"`
	Msg runMsg `json:"msg"`
}

// timer is the handler of the topic "timer".
func (e *Engine) timer(_ context.Context, m *store.Msg) (*store.Commit, error) {
	var msg timerMsg
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	c := &store.Commit{Tenant: m.Tenant}
	return c, send(c, queue.TopicRun, msg.Run, m.Priority, msg.Msg)
}

// arm adds a timer to a commit. At its time the run gets the message.
func (e *Engine) arm(c *store.Commit, key, run string, at time.Time, msg runMsg) error {
	if err := send(c, queue.TopicTimer, key, 0, timerMsg{run, msg}); err != nil {
		return err
	}
	// The store counts in microseconds: one more, or the timer would fire just before its time.
	c.Sends[len(c.Sends)-1].Delay = max(at.Sub(e.now())+time.Microsecond, 0)
	return nil
}

// settle looks at an attempt of a control step after something happened to it. When that
// ends it, it is returned closed; what has to be written is added to the commit either way.
func (e *Engine) settle(ctx context.Context, tenant string, plan *pipeline.Plan, msg runMsg, c *store.Commit) (*waybill.Attempt, error) {
	a, rev, err := e.attempt(ctx, tenant, msg.Attempt)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil || a.Phase == waybill.PhaseTerminal {
		return nil, err
	}
	now := e.now()
	var o outcome
	switch a.Runner {
	case pipeline.RunnerWait:
		if now.Before(a.Until) {
			return nil, e.arm(c, a.Key(), a.Run, a.Until, msg)
		}
		o.status = waybill.StatusSucceeded
	case pipeline.RunnerApproval:
		q := a.Approval
		if msg.Kind == "timer" && q.Decision == "" {
			if now.Before(q.ExpiresAt) {
				return nil, e.arm(c, a.Key(), a.Run, q.ExpiresAt, msg)
			}
			q.Decision, q.At = waybill.Expired, now
		}
		if q.Decision == "" {
			return nil, nil
		}
		o = e.answered(plan, a)
	case pipeline.RunnerPipeline:
		if msg.Kind == "timer" {
			if a.Stop != "" {
				return nil, nil
			}
			a.Stop, a.Reason = string(waybill.StatusTimedOut), "timeout"
			a.Error = fmt.Sprintf("run %s did not end within the timeout", a.Child)
			p, err := put(tableAttempt, a.Key(), rev, a)
			c.Puts = append(c.Puts, p)
			if err != nil {
				return nil, err
			}
			c.Events = append(c.Events, events(a.Run, []record{{"attempt.overdue", map[string]any{
				"attempt": a.Key(), "step": a.Step, "status": a.Stop, "reason": a.Reason,
			}, now}})...)
			return nil, send(c, queue.TopicRun, a.Child, 1, runMsg{Kind: "cancel", By: "run " + a.Run, Reason: "its step timed out", Force: true})
		}
		if o, err = e.childEnded(ctx, a); err != nil {
			return nil, err
		}
		if o.status == "" {
			return nil, nil
		}
	default:
		return nil, queue.Bury("attempt %s has the runner %s, which needs no %s", msg.Attempt, a.Runner, msg.Kind)
	}
	end, err := e.endCommit(a, rev, o, nil, 0)
	if err != nil {
		return nil, err
	}
	c.Puts = append(c.Puts, end.Puts...)
	c.Events = append(c.Events, end.Events...)
	a.Phase, a.Status, a.Reason, a.Error = waybill.PhaseTerminal, o.status, o.reason, o.err
	return a, nil
}

// answered is how an approval ends, and what it returns.
func (e *Engine) answered(plan *pipeline.Plan, a *waybill.Attempt) outcome {
	q := a.Approval
	a.Returned = q.Values.Clone()
	text := func(name, v string) {
		x, _ := waybill.ValueOf(v) // text is always a value
		a.Returned.Set(name, x)
	}
	text("decision", string(q.Decision))
	text("by", q.By)
	text("comment", q.Comment)
	goOn := func(wish string) bool { return wish == "continue" }
	ask := askOf(plan, a)
	switch {
	case q.Decision == waybill.Approved:
	case q.Decision == waybill.Rejected && !goOn(ask.OnReject):
		return outcome{waybill.StatusFailed, "rejected", orElse(joined("rejected by "+q.By, q.Comment), "rejected")}
	case q.Decision == waybill.Expired && !goOn(ask.OnExpiry):
		return outcome{waybill.StatusTimedOut, "expired", "nobody answered in time"}
	}
	return outcome{status: waybill.StatusSucceeded}
}

// askOf reads again what the attempt asks for; its handle keeps the settings.
func askOf(_ *pipeline.Plan, a *waybill.Attempt) pipeline.Ask {
	ask, _, err := pipeline.ReadAsk(a.Handle, time.Time{})
	if err != nil { // it was read before: it cannot be wrong now
		return pipeline.Ask{OnReject: "fail", OnExpiry: "fail"}
	}
	return ask
}

// beginChild makes the run of a sub-pipeline and adds it to a commit. The error is of
// KindInvalid or KindNotFound when it can never be made.
func (e *Engine) beginChild(ctx context.Context, s *state, n *newAttempt, c *store.Commit) error {
	call, err := pipeline.ReadCall(n.built.With)
	if err != nil {
		return err
	}
	depth := 1
	if s.run.Parent != nil {
		depth = s.run.Parent.Depth + 1
	}
	if depth > maxDepth {
		return waybill.E(waybill.KindInvalid, "sub-pipelines are %d deep, which is taken for a pipeline that starts itself", depth)
	}
	plan, version, err := e.o.Plans.Plan(ctx, call.Pipeline, 0)
	if err != nil {
		return err
	}
	var params, vars waybill.Vars
	for _, name := range s.run.Vars.Names() {
		if n.step.Inherits(name, s.plan.Prefix) && prefixed(name, plan.Prefix) {
			v, _ := s.run.Vars.Get(name)
			vars.Set(name, v)
		}
	}
	for k, v := range call.Params {
		params.Set(k, v)
	}
	for k, v := range call.Vars {
		vars.Set(k, v)
	}
	if err := e.externalize(ctx, &vars); err != nil {
		return err
	}
	what := map[string]any{"run": s.run.ID, "step": n.attempt.Step, "params": params}
	var before struct {
		Hops int `json:"hops"`
	}
	if json.Unmarshal(s.run.Event.Data, &before) == nil && before.Hops > 0 {
		what["hops"] = before.Hops
	}
	data, err := json.Marshal(what)
	if err != nil {
		return err
	}
	now := e.now()
	ev := waybill.Event{
		ID: waybill.NewID(now), Type: "pipeline", Source: "/runs/" + s.run.ID, Subject: n.attempt.Key(), Time: now, Data: data,
		Object: s.run.Event.Object,
	}
	run, begin, err := e.Begin(plan, version, ev, params, vars)
	if err != nil {
		return err
	}
	run.Parent = &waybill.Parent{Run: s.run.ID, Step: n.attempt.Step, Attempt: n.attempt.Number, Depth: depth}
	run.Priority = max(run.Priority, n.priority)
	if begin, err = e.accept(&run, nil, n.delay); err != nil {
		return err
	}
	n.attempt.Child = run.ID
	c.Puts, c.Sends, c.Events = append(c.Puts, begin.Puts...), append(c.Sends, begin.Sends...), append(c.Events, begin.Events...)
	return nil
}

// childEnded is how the attempt of a sub-pipeline ends; no status while the run is open.
func (e *Engine) childEnded(ctx context.Context, a *waybill.Attempt) (outcome, error) {
	child, err := e.run(ctx, a.Child)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return outcome{waybill.StatusFailed, "child_gone", "the run " + a.Child + " is no longer kept"}, nil
	}
	if err != nil || !child.Status.Terminal() {
		return outcome{}, err
	}
	if a.Stop != "" {
		return outcome{waybill.Status(a.Stop), a.Reason, orElse(a.Error, "stopped on request")}, nil
	}
	plan, _, err := e.o.Plans.Plan(ctx, child.Pipeline, child.Version)
	if err != nil {
		return outcome{}, err
	}
	why := fmt.Sprintf("run %s of %s: %s", child.ID, child.Pipeline, orElse(child.Error, string(child.Status)))
	switch child.Status {
	case waybill.StatusSucceeded:
		for _, n := range child.Vars.Names() {
			v, _ := child.Vars.Get(n)
			if was, ok := child.Given.Get(n); prefixed(n, plan.Prefix) && (!ok || string(was) != string(v)) {
				a.Returned.Set(n, v)
			}
		}
		a.Returned.Merge(child.Outputs)
		return outcome{status: waybill.StatusSucceeded}, nil
	case waybill.StatusSkipped, waybill.StatusCanceled:
		return outcome{waybill.StatusFailed, string(child.Status), why}, nil
	case waybill.StatusLost:
		return outcome{waybill.StatusFailed, "lost", why}, nil
	}
	return outcome{child.Status, "child", why}, nil
}

// Answer implements waybill.Runs.
func (e *Engine) Answer(ctx context.Context, run, step string, in waybill.Answer, by waybill.Principal) (waybill.Attempt, error) {
	op := func(err *waybill.Error) error { return err.WithOp("answer approval", run+"/"+step) }
	r, err := e.run(ctx, run)
	if err != nil {
		return waybill.Attempt{}, err
	}
	row, err := e.o.Store.Get(ctx, r.Tenant, tableStep, run+"/"+step)
	if errors.Is(err, store.ErrNotFound) {
		return waybill.Attempt{}, op(waybill.E(waybill.KindNotFound, "the run has no step %q that has begun", step))
	}
	if err != nil {
		return waybill.Attempt{}, err
	}
	var st waybill.Step
	if err := json.Unmarshal(row.Val, &st); err != nil {
		return waybill.Attempt{}, err
	}
	if st.Runner != pipeline.RunnerApproval || st.Attempts == 0 {
		return waybill.Attempt{}, op(waybill.E(waybill.KindConflict, "it is no approval that was asked for"))
	}
	a, rev, err := e.attempt(ctx, r.Tenant, waybill.AttemptKey(run, step, st.Attempts))
	if err != nil {
		return waybill.Attempt{}, err
	}
	q := a.Approval
	switch {
	case !by.Role.Allows(q.Role) || len(q.Approvers) > 0 && !slices.Contains(q.Approvers, by.Name):
		who := "the role " + string(q.Role)
		if len(q.Approvers) > 0 {
			who += " and one of the names " + fmt.Sprint(q.Approvers)
		}
		return *a, op(waybill.E(waybill.KindForbidden, "answering needs %s", who))
	case q.Decision == in.Decision && q.By == by.Name && q.Decision != "":
		return *a, nil // told again
	case q.Decision == waybill.Expired, q.Decision == "" && !q.ExpiresAt.IsZero() && !e.now().Before(q.ExpiresAt):
		return *a, op(waybill.E(waybill.KindGone, "it expired at %s", q.ExpiresAt.Format(time.RFC3339)))
	case q.Decision != "":
		return *a, op(waybill.E(waybill.KindConflict, "it was %s by %s", q.Decision, q.By))
	case a.Phase == waybill.PhaseTerminal || a.Stop != "":
		return *a, op(waybill.E(waybill.KindGone, "the step has ended as %s", a.Status))
	case in.Decision != waybill.Approved && in.Decision != waybill.Rejected:
		return *a, op(waybill.E(waybill.KindInvalid, "decision: expected approved or rejected, found %q", in.Decision))
	case len(in.Comment) > 4096:
		return *a, op(waybill.E(waybill.KindTooLarge, "the comment is longer than 4096 bytes"))
	}
	q.Values = waybill.Vars{}
	if in.Decision == waybill.Approved {
		if q.Values, err = pipeline.BindForm(q.Form, in.Values); err != nil {
			return *a, err
		}
	}
	q.Decision, q.By, q.Comment, q.At = in.Decision, by.Name, in.Comment, e.now()
	p, err := put(tableAttempt, a.Key(), rev, a)
	if err != nil {
		return *a, err
	}
	c := &store.Commit{Tenant: r.Tenant, Puts: []store.Put{p}, Events: events(run, []record{{"approval.answered", map[string]any{
		"attempt": a.Key(), "step": step, "decision": q.Decision, "by": q.By, "comment": q.Comment,
	}, q.At}})}
	if err := send(c, queue.TopicRun, run, r.Priority, runMsg{Kind: "answered", Attempt: a.Key()}); err != nil {
		return *a, err
	}
	err = e.o.Store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) {
		if now, _, gerr := e.attempt(ctx, r.Tenant, a.Key()); gerr == nil && now.Approval.Decision != "" {
			if now.Approval.Decision == in.Decision && now.Approval.By == by.Name {
				return *now, nil // it was this very answer, whose commit was made and not answered
			}
			return *now, op(waybill.E(waybill.KindConflict, "it was %s by %s", now.Approval.Decision, now.Approval.By))
		}
		err = op(waybill.E(waybill.KindConflict, "it has just changed; look at it again"))
	}
	return *a, err
}

// PauseRun implements waybill.Runs.
func (e *Engine) PauseRun(ctx context.Context, id string, pause bool, by waybill.Principal) (waybill.Run, error) {
	run, err := e.run(ctx, id)
	if err != nil {
		return run, err
	}
	if run.Status.Terminal() {
		verb := "pause run"
		if !pause {
			verb = "resume run"
		}
		return run, waybill.E(waybill.KindConflict, "it has ended as %s", run.Status).WithOp(verb, id)
	}
	msg := runMsg{Kind: "resume"}
	if pause {
		msg = runMsg{Kind: "pause", By: by.Name}
	}
	c := &store.Commit{Tenant: run.Tenant}
	if err := send(c, queue.TopicRun, id, run.Priority+1, msg); err != nil {
		return run, err
	}
	return run, e.o.Store.Commit(ctx, c)
}
