package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// This file is the state machine of a run. It is pure: it looks at nothing but
// its arguments and changes nothing but the state it is given, so that every
// transition can be tested, and repeated, without a store, a clock or a runner.
//
//	run       queued → running → succeeded | failed | timed_out | canceled | lost
//	step      queued → running → succeeded | failed | timed_out | canceled | lost
//	attempt   queued → leased → provisioning → running → collecting → terminal
//	clean-up  pending → deleting → gone | failed
//
// The machine moves runs and steps and makes attempts; the attempt moves itself
// (see unit.go) and tells the machine how it ended.

// maxLosses is how many units of a step may be lost before the step is taken for
// one that kills its worker.
const maxLosses = 3

// maxVars is how large the variables of a run may be together, in bytes of JSON.
const maxVars = 1 << 20

// state is a run as the machine sees it.
type state struct {
	plan  *pipeline.Plan
	run   *waybill.Run
	steps map[string]*waybill.Step // those that have begun, by name
}

// input is what happened to a run. Exactly one field is set.
type input struct {
	start  bool
	ended  *waybill.Attempt // has a terminal status
	cancel *cancelInput
}

type cancelInput struct{ by, reason string }

// decision is what follows. The state was changed already; the decision names
// what has to be written and done.
type decision struct {
	changed  bool            // the run's row differs
	steps    []*waybill.Step // these rows differ
	attempts []newAttempt    // to be made
	stop     []string        // keys of attempts to be stopped
	killers  []*waybill.Step // ended because they kill their workers
	records  []record        // for the timeline, in order
}

// newAttempt is an attempt to be queued.
type newAttempt struct {
	attempt *waybill.Attempt
	built   pipeline.Built
	delay   time.Duration
}

// record is a line of the timeline.
type record struct {
	kind string
	data map[string]any
	at   time.Time
}

// apply lets the machine take one input at the instant now.
func (s *state) apply(in input, now time.Time) decision {
	var d decision
	switch {
	case s.run.Status.Terminal():
	case in.start:
		s.start(&d, now)
	case in.ended != nil:
		s.ended(&d, in.ended, now)
	case in.cancel != nil:
		s.cancel(&d, *in.cancel, now)
	}
	return d
}

func (d *decision) note(at time.Time, kind string, data map[string]any) {
	d.records = append(d.records, record{kind, data, at})
}

func (d *decision) touch(st *waybill.Step) {
	if !slices.Contains(d.steps, st) {
		d.steps = append(d.steps, st)
	}
}

func (s *state) start(d *decision, now time.Time) {
	if s.run.Status != waybill.StatusQueued {
		return
	}
	s.run.Status, s.run.StartedAt = waybill.StatusRunning, now
	d.changed = true
	d.note(now, "run.started", nil)
	s.proceed(d, now)
}

// proceed begins every step that may begin and ends the run when nothing is left
// to wait for.
func (s *state) proceed(d *decision, now time.Time) {
	if s.run.CancelBy == "" {
		for _, p := range s.plan.Steps {
			if s.broken() {
				break
			}
			if s.steps[p.Name] == nil && s.allSucceeded(p.Needs) {
				s.begin(d, p, now)
			}
		}
	}
	for _, st := range s.steps {
		if !st.Status.Terminal() {
			return
		}
	}
	s.finish(d, now)
}

// broken reports whether a step has ended other than well: then nothing new begins.
func (s *state) broken() bool {
	for _, st := range s.steps {
		if st.Status.Terminal() && st.Status != waybill.StatusSucceeded {
			return true
		}
	}
	return false
}

func (s *state) allSucceeded(names []string) bool {
	for _, n := range names {
		if st := s.steps[n]; st == nil || st.Status != waybill.StatusSucceeded {
			return false
		}
	}
	return true
}

func (s *state) begin(d *decision, p *pipeline.Step, now time.Time) {
	st := &waybill.Step{
		Run: s.run.ID, Name: p.Name, Index: p.Index, Runner: p.Runner, Needs: p.Needs,
		Status: waybill.StatusRunning, StartedAt: now,
	}
	s.steps[p.Name] = st
	d.touch(st)
	d.note(now, "step.started", map[string]any{"step": p.Name})
	s.attempt(d, p, st, 0, now)
}

// attempt makes the next attempt of a step, or ends the step when its
// expressions cannot be evaluated: trying again would end the same way.
func (s *state) attempt(d *decision, p *pipeline.Step, st *waybill.Step, delay time.Duration, now time.Time) {
	built, err := p.Build(s.scope())
	if err != nil {
		st.Error = err.Error()
		s.endStep(d, st, waybill.StatusFailed, now)
		return
	}
	st.Attempts++
	a := &waybill.Attempt{
		Tenant: s.run.Tenant, Run: s.run.ID, Step: p.Name, Number: st.Attempts, Unit: unitName(s.run, p.Index, st.Attempts),
		Runner: p.Runner, Phase: waybill.PhaseQueued, Status: waybill.StatusQueued, QueuedAt: now,
	}
	d.attempts = append(d.attempts, newAttempt{a, built, delay})
}

func (s *state) scope() pipeline.Scope {
	sc := pipeline.Scope{
		Event: eventData(s.run.Event), Run: map[string]any{"id": s.run.ID, "pipeline": s.run.Pipeline, "version": int64(s.run.Version)},
		Params: s.run.Params, Vars: s.run.Vars, Steps: map[string]pipeline.StepResult{},
	}
	for n, st := range s.steps {
		if st.Status.Terminal() {
			r := pipeline.StepResult{Status: st.Status, Outputs: st.Outputs}
			if st.ExitCode != nil {
				r.ExitCode = *st.ExitCode
			}
			sc.Steps[n] = r
		}
	}
	return sc
}

// ended takes the outcome of an attempt. One that is not the step's latest, or
// whose step has ended, changes nothing: it was told twice or too late.
func (s *state) ended(d *decision, a *waybill.Attempt, now time.Time) {
	st, p := s.steps[a.Step], s.plan.Step(a.Step)
	if st == nil || p == nil || st.Status.Terminal() || a.Number != st.Attempts {
		return
	}
	d.touch(st)
	st.ExitCode = a.ExitCode
	switch a.Status {
	case waybill.StatusSucceeded:
		outputs, vars, err := p.BindOutputs(a.Returned, s.plan.Prefix)
		if err == nil && s.run.Vars.Size()+vars.Size() > maxVars {
			err = waybill.E(waybill.KindTooLarge, "the variables of the run would be larger than %d bytes", maxVars)
		}
		if err != nil {
			st.Error = err.Error()
			s.endStep(d, st, waybill.StatusFailed, now)
			break
		}
		st.Error, st.Outputs, st.Added = "", outputs, vars.Names()
		if vars.Len() > 0 {
			s.run.Vars.Merge(vars)
		}
		s.endStep(d, st, waybill.StatusSucceeded, now)
	case waybill.StatusCanceled:
		st.Error = a.Error
		s.endStep(d, st, waybill.StatusCanceled, now)
	case waybill.StatusLost:
		st.Losses++
		st.Error = a.Error
		switch {
		case s.run.CancelBy != "":
			s.endStep(d, st, waybill.StatusCanceled, now)
		case st.Losses < maxLosses:
			s.again(d, p, st, a, lossDelay(st.Losses), now)
		default:
			st.Error = fmt.Sprintf("worker_killer: %d units of this step were lost: %s", st.Losses, a.Error)
			d.killers = append(d.killers, st)
			s.endStep(d, st, waybill.StatusLost, now)
		}
	default:
		st.Failures++
		st.Error = a.Error
		switch {
		case s.run.CancelBy != "":
			s.endStep(d, st, waybill.StatusCanceled, now)
		case st.Failures <= p.Retry.Max && !s.broken():
			s.again(d, p, st, a, p.Retry.Delay(st.Failures), now)
		default:
			s.endStep(d, st, a.Status, now)
		}
	}
	s.proceed(d, now)
}

// lossDelay keeps a step that kills its worker from doing so at once again.
func lossDelay(losses int) time.Duration { return time.Duration(losses) * time.Second }

func (s *state) again(d *decision, p *pipeline.Step, st *waybill.Step, a *waybill.Attempt, delay time.Duration, now time.Time) {
	d.note(now, "step.retrying", map[string]any{"step": st.Name, "after": a.Number, "status": a.Status, "error": a.Error, "delay": delay.String()})
	s.attempt(d, p, st, delay, now)
}

func (s *state) endStep(d *decision, st *waybill.Step, status waybill.Status, now time.Time) {
	st.Status, st.FinishedAt = status, now
	d.touch(st)
	s.run.StepsDone++
	d.changed = true
	data := map[string]any{"step": st.Name, "status": status}
	if st.Error != "" {
		data["error"] = st.Error
	}
	if len(st.Added) > 0 {
		data["added"] = st.Added
	}
	d.note(now, "step.ended", data)
}

// cancel stops what runs; the run ends when all of it has ended.
func (s *state) cancel(d *decision, c cancelInput, now time.Time) {
	if s.run.CancelBy != "" {
		return
	}
	s.run.CancelBy, s.run.Error = c.by, c.reason
	d.changed = true
	d.note(now, "run.canceling", map[string]any{"by": c.by, "reason": c.reason})
	for _, p := range s.plan.Steps {
		if st := s.steps[p.Name]; st != nil && !st.Status.Terminal() {
			d.stop = append(d.stop, waybill.AttemptKey(st.Run, st.Name, st.Attempts))
		}
	}
	s.proceed(d, now)
}

// finish ends the run. Its status is that of what went wrong first.
func (s *state) finish(d *decision, now time.Time) {
	status := waybill.StatusSucceeded
	var first *waybill.Step
	for _, st := range s.steps {
		if st.Status == waybill.StatusSucceeded || st.Status == waybill.StatusCanceled {
			continue
		}
		if first == nil || st.FinishedAt.Before(first.FinishedAt) || st.FinishedAt.Equal(first.FinishedAt) && st.Index < first.Index {
			first = st
		}
	}
	switch {
	case s.run.CancelBy != "":
		status = waybill.StatusCanceled
		if s.run.Error == "" {
			s.run.Error = "canceled by " + s.run.CancelBy
		}
	case first != nil:
		status = first.Status
		s.run.Error = fmt.Sprintf("step %s: %s", first.Name, first.Error)
	case len(s.steps) < len(s.plan.Steps):
		// Nothing runs, nothing failed and yet steps are left: a plan whose needs
		// cannot be met, which validation excludes.
		status = waybill.StatusFailed
		s.run.Error = "steps are left that can never start"
	}
	s.run.Status, s.run.FinishedAt = status, now
	d.changed = true
	data := map[string]any{"status": status}
	if s.run.Error != "" {
		data["error"] = s.run.Error
	}
	d.note(now, "run.ended", data)
}

// eventData is an event as expressions see it.
func eventData(e waybill.Event) map[string]any {
	m := map[string]any{"id": e.ID, "type": e.Type, "source": e.Source, "subject": e.Subject, "time": e.Time}
	if len(e.Data) > 0 {
		if data, err := waybill.Value(e.Data).Decode(); err == nil {
			m["data"] = data
		}
	}
	if o := e.Object; o != nil {
		m["object"] = map[string]any{"bucket": o.Bucket, "key": o.Key, "version": o.Version, "size": o.Size, "sha256": o.SHA256}
	}
	return m
}
