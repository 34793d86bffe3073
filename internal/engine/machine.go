package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// This file is the state machine of a run. It is pure: it looks at nothing but
// its arguments and changes nothing but the state it is given, so that every
// transition can be tested, and repeated, without a store, a clock or a runner.
//
//	run       queued → waiting ⇄ running → succeeded | failed | timed_out | canceled | lost | skipped
//	step      queued → running | waiting → succeeded | failed | timed_out | canceled | lost | skipped
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

// state is a run as the machine sees it. It is used by one message at a time.
type state struct {
	plan  *pipeline.Plan
	run   *waybill.Run
	steps map[string]*waybill.Step   // those that have begun, by name
	cells map[string][]*waybill.Step // of steps with a matrix, by name of the step; index is that of the cell

	// Derived from the above by derive, and kept by the machine.
	results map[string]pipeline.StepResult // of the steps that have ended
	open    int                            // steps that have begun and not ended
	waiting int                            // of those, the ones that wait for something outside
}

// input is what happened to a run. Exactly one field is set.
type input struct {
	start   bool
	granted bool // the next slot is held
	skipped string
	ended   *waybill.Attempt // has a terminal status
	cancel  *cancelInput
	pause   *pauseInput
}

type cancelInput struct {
	by, reason string
	force      bool // end the steps of always too
}

type pauseInput struct {
	by string // empty resumes
}

// decision is what follows. The state was changed already; the decision names
// what has to be written and done.
type decision struct {
	changed  bool            // the run's row differs
	steps    []*waybill.Step // these rows differ
	attempts []newAttempt    // to be made
	stop     []string        // keys of attempts to be stopped
	killers  []*waybill.Step // ended because they kill their workers
	acquire  *waybill.Slot   // to be asked for
	release  []waybill.Slot  // to be given back, or no longer asked for
	ended    bool            // the run has ended with this
	records  []record        // for the timeline, in order
}

// newAttempt is an attempt to be queued.
type newAttempt struct {
	attempt  *waybill.Attempt
	step     *pipeline.Step
	built    pipeline.Built
	delay    time.Duration
	cell     *waybill.Cell
	priority int
}

// record is a line of the timeline.
type record struct {
	kind string
	data map[string]any
	at   time.Time
}

// derive computes what the machine keeps beside the rows.
func (s *state) derive() {
	s.results, s.open, s.waiting = map[string]pipeline.StepResult{}, 0, 0
	if s.cells == nil {
		s.cells = map[string][]*waybill.Step{}
	}
	for _, st := range s.steps {
		switch {
		case st.Status.Terminal():
			s.results[st.Name] = result(st)
		default:
			s.open++
			if st.Status == waybill.StatusWaiting {
				s.waiting++
			}
		}
	}
}

func result(st *waybill.Step) pipeline.StepResult {
	r := pipeline.StepResult{Status: st.Status, Outputs: st.Outputs, Error: st.Error}
	if st.ExitCode != nil {
		r.ExitCode = *st.ExitCode
	}
	return r
}

// apply lets the machine take one input at the instant now.
func (s *state) apply(in input, now time.Time) decision {
	var d decision
	if s.results == nil {
		s.derive()
	}
	if s.run.Status.Terminal() {
		return d
	}
	switch {
	case in.start:
		s.start(&d, now)
	case in.granted:
		s.run.Held++
		d.changed = true
		s.start(&d, now)
	case in.skipped != "":
		s.skip(&d, in.skipped, now)
	case in.ended != nil:
		s.ended(&d, in.ended, now)
	case in.cancel != nil:
		s.cancel(&d, *in.cancel, now)
	case in.pause != nil:
		s.pause(&d, *in.pause, now)
	}
	if !s.run.Status.Terminal() && s.begun() {
		status := waybill.StatusRunning
		if s.open == s.waiting && (s.open > 0 || s.run.Paused != "") {
			status = waybill.StatusWaiting
		}
		if s.run.Status != status {
			s.run.Status, d.changed = status, true
		}
	}
	// The run's row is written with every change of its steps, so that its revision
	// says whether what was kept of a run in memory is still true.
	d.changed = d.changed || len(d.steps) > 0
	return d
}

// begun reports whether the run holds its slots and its first steps were looked at.
func (s *state) begun() bool { return !s.run.StartedAt.IsZero() }

func (d *decision) note(at time.Time, kind string, data map[string]any) {
	d.records = append(d.records, record{kind, data, at})
}

func (d *decision) touch(st *waybill.Step) {
	if !slices.Contains(d.steps, st) {
		d.steps = append(d.steps, st)
	}
}

// start asks for the next slot, or begins the first steps when all are held.
func (s *state) start(d *decision, now time.Time) {
	if s.begun() {
		return
	}
	if s.run.Held < len(s.run.Slots) {
		slot := s.run.Slots[s.run.Held]
		d.acquire, d.changed = &slot, true
		s.run.Status = waybill.StatusWaiting
		d.note(now, "run.waiting", map[string]any{"slot": slot.Key, "limit": slot.Limit})
		return
	}
	s.run.Status, s.run.StartedAt = waybill.StatusRunning, now
	d.changed = true
	d.note(now, "run.started", nil)
	s.enter(d, pipeline.GroupMain, now)
}

// skip ends a run for which there was no place.
func (s *state) skip(d *decision, why string, now time.Time) {
	if s.begun() {
		return
	}
	s.run.Error = why
	s.end(d, waybill.StatusSkipped, now)
}

// enter begins a group of steps: those of it that need nothing, or nothing that is left.
func (s *state) enter(d *decision, group string, now time.Time) {
	s.run.Group = group
	d.changed = true
	if group != pipeline.GroupMain {
		d.note(now, "run.group", map[string]any{"group": group})
	}
	s.sweep(d, now)
}

// sweep looks at every step of the group, and goes on when nothing is left of it.
func (s *state) sweep(d *decision, now time.Time) {
	for _, p := range s.plan.Steps {
		if p.Group == s.run.Group {
			s.consider(d, p, now)
		}
	}
	s.proceed(d, now)
}

// consider begins a step if it may begin.
func (s *state) consider(d *decision, p *pipeline.Step, now time.Time) {
	if s.steps[p.Name] != nil || s.closed(p.Group) || s.run.Paused != "" {
		return
	}
	skipped := 0
	for _, n := range p.Needs {
		st := s.steps[n]
		if st == nil || !s.serves(st) {
			return
		}
		if st.Status == waybill.StatusSkipped {
			skipped++
		}
	}
	s.begin(d, p, skipped > 0 && skipped == len(p.Needs) && !p.Chain, now)
}

// closed reports whether nothing new begins in a group.
func (s *state) closed(group string) bool {
	switch group {
	case pipeline.GroupMain:
		return s.run.CancelBy != "" || s.run.Failed != ""
	case pipeline.GroupFailure:
		return s.run.CancelBy != "" || s.run.HandlerFailed
	}
	return s.run.Forced
}

// serves reports whether a step has ended so that those which need it may begin.
func (s *state) serves(st *waybill.Step) bool {
	switch {
	case !st.Status.Terminal():
		return false
	case st.Status == waybill.StatusSucceeded, st.Status == waybill.StatusSkipped, st.Allowed:
		return true
	}
	return st.Group == pipeline.GroupAlways // each of them has its turn
}

// proceed goes on to the next group, or ends the run, when nothing is open.
func (s *state) proceed(d *decision, now time.Time) {
	if s.open > 0 || s.run.Status.Terminal() || !s.begun() && s.run.CancelBy == "" {
		return
	}
	if s.run.Paused != "" && !s.closed(s.run.Group) && s.left() {
		return
	}
	next := ""
	switch s.run.Group {
	case pipeline.GroupMain:
		if s.run.Failed != "" && s.run.CancelBy == "" && s.has(pipeline.GroupFailure) {
			next = pipeline.GroupFailure
			break
		}
		fallthrough
	case pipeline.GroupFailure:
		if s.has(pipeline.GroupAlways) && s.begun() && !s.run.Forced {
			next = pipeline.GroupAlways
		}
	}
	if next == "" {
		s.finish(d, now)
		return
	}
	s.enter(d, next, now)
}

func (s *state) has(group string) bool {
	return slices.ContainsFunc(s.plan.Steps, func(p *pipeline.Step) bool { return p.Group == group })
}

// left reports whether the group has a step that has not begun.
func (s *state) left() bool {
	return slices.ContainsFunc(s.plan.Steps, func(p *pipeline.Step) bool {
		return p.Group == s.run.Group && s.steps[p.Name] == nil
	})
}

func (s *state) begin(d *decision, p *pipeline.Step, passed bool, now time.Time) {
	st := &waybill.Step{
		Run: s.run.ID, Name: p.Name, Index: p.Index, Runner: p.Runner, Needs: p.Needs, Group: p.Group,
		Status: waybill.StatusRunning, StartedAt: now,
	}
	s.steps[p.Name] = st
	s.open++
	d.touch(st)
	wanted, err := !passed, error(nil)
	why := "the steps it needs were skipped"
	if wanted {
		why = "its condition does not hold"
		wanted, err = p.Wanted(s.scope(waybill.Vars{}))
	}
	switch {
	case err != nil:
		st.Error = err.Error()
		s.endStep(d, p, st, waybill.StatusFailed, now)
		return
	case !wanted:
		st.Error = why
		s.endStep(d, p, st, waybill.StatusSkipped, now)
		return
	}
	d.note(now, "step.started", map[string]any{"step": p.Name})
	if p.Matrix == nil {
		s.attempt(d, p, st, 0, now)
		return
	}
	values, err := p.Matrix.Cells(s.scope(waybill.Vars{}))
	if err != nil {
		st.Error = err.Error()
		s.endStep(d, p, st, waybill.StatusFailed, now)
		return
	}
	st.Cells = &waybill.Cells{Total: len(values)}
	cells := make([]*waybill.Step, len(values))
	for i, v := range values {
		cells[i] = &waybill.Step{
			Run: s.run.ID, Name: fmt.Sprintf("%s.%d", p.Name, i), Index: p.Index, Runner: p.Runner, Group: p.Group,
			Status: waybill.StatusQueued, Cell: &waybill.Cell{Of: p.Name, Index: i, Values: v},
		}
	}
	s.cells[p.Name] = cells
	d.steps = append(d.steps, cells...)
	s.nextCells(d, p, st, now)
}

// merge takes variables into the run.
func (s *state) merge(st *waybill.Step, vars waybill.Vars, more int) error {
	if s.run.Vars.Size()+vars.Size() > maxVars || more > maxVars {
		return waybill.E(waybill.KindTooLarge, "the variables of the run would be larger than %d bytes", maxVars)
	}
	if vars.Len() > 0 {
		st.Added = vars.Names()
		s.run.Vars.Merge(vars)
	}
	return nil
}

// attempt makes the next attempt of a step or cell, or ends it when its
// expressions cannot be evaluated: trying again would end the same way.
func (s *state) attempt(d *decision, p *pipeline.Step, st *waybill.Step, delay time.Duration, now time.Time) {
	n := newAttempt{step: p, delay: delay, cell: st.Cell, priority: s.run.Priority + p.Priority}
	values, cell := waybill.Vars{}, -1
	if st.Cell != nil {
		values, cell = st.Cell.Values, st.Cell.Index
	}
	built, err := p.Build(s.scope(values))
	st.Attempts++
	a := &waybill.Attempt{
		Tenant: s.run.Tenant, Run: s.run.ID, Step: st.Name, Number: st.Attempts, Unit: unitName(s.run, p.Index, cell, st.Attempts),
		Runner: p.Runner, Phase: waybill.PhaseQueued, Status: waybill.StatusQueued, QueuedAt: now,
	}
	if err == nil && p.Control() {
		err = control(a, p, built, now.Add(delay))
	}
	if err != nil {
		st.Attempts--
		st.Error = err.Error()
		s.endStep(d, p, st, waybill.StatusFailed, now)
		return
	}
	n.attempt, n.built = a, built
	if a.Status == waybill.StatusWaiting && st.Status != waybill.StatusWaiting {
		st.Status = waybill.StatusWaiting
		if st.Cell == nil {
			s.waiting++
		}
	}
	d.attempts = append(d.attempts, n)
}

// control prepares the attempt of a step that the engine makes itself.
func control(a *waybill.Attempt, p *pipeline.Step, built pipeline.Built, now time.Time) (err error) {
	a.Phase, a.StartedAt = waybill.PhaseRunning, now
	switch p.Runner {
	case pipeline.RunnerWait:
		a.Status = waybill.StatusWaiting
		a.Until, err = pipeline.ReadWait(built.With, now)
	case pipeline.RunnerApproval:
		a.Status = waybill.StatusWaiting
		a.Handle = built.With // what becomes of an answer
		_, a.Approval, err = pipeline.ReadAsk(built.With, now)
	case pipeline.RunnerPipeline:
		a.Status, a.Deadline = waybill.StatusRunning, now.Add(p.Timeout)
		_, err = pipeline.ReadCall(built.With)
	}
	return err
}

func (s *state) scope(matrix waybill.Vars) pipeline.Scope {
	return pipeline.Scope{
		Event: eventData(s.run.Event), Params: s.run.Params, Vars: s.run.Vars, Steps: s.results, Matrix: matrix,
		Run: map[string]any{
			"id": s.run.ID, "pipeline": s.run.Pipeline, "version": int64(s.run.Version),
			"status": string(s.outcome()), "error": s.run.Error, "failed_step": s.run.Failed,
		},
	}
}

// outcome is the status with which the run ends, as far as that is known.
func (s *state) outcome() waybill.Status {
	switch {
	case s.run.CancelBy != "":
		return waybill.StatusCanceled
	case s.run.Failed != "":
		if st := s.steps[s.run.Failed]; st != nil {
			return st.Status
		}
		return waybill.StatusFailed
	}
	return waybill.StatusSucceeded
}

// find returns a step or cell by name, with its definition.
func (s *state) find(name string) (*waybill.Step, *pipeline.Step) {
	if p := s.plan.Step(name); p != nil {
		return s.steps[name], p
	}
	of, index, ok := strings.Cut(name, ".")
	if i, err := strconv.Atoi(index); ok && err == nil && i >= 0 && i < len(s.cells[of]) {
		return s.cells[of][i], s.plan.Step(of)
	}
	return nil, nil
}

// ended takes the outcome of an attempt. One that is not the step's latest, or
// whose step has ended, changes nothing: it was told twice or too late.
func (s *state) ended(d *decision, a *waybill.Attempt, now time.Time) {
	st, p := s.find(a.Step)
	if st == nil || p == nil || st.Status.Terminal() || a.Number != st.Attempts {
		return
	}
	d.touch(st)
	st.ExitCode = a.ExitCode
	over := s.closed(p.Group) && s.run.CancelBy != "" || st.Cell != nil && s.stopping(p, s.steps[p.Name])
	switch a.Status {
	case waybill.StatusSucceeded:
		outputs, vars, err := p.BindOutputs(a.Returned, s.plan.Prefix)
		if err == nil {
			if st.Cell != nil {
				st.Set = vars
			} else {
				err = s.merge(st, vars, 0)
			}
		}
		if err != nil {
			st.Error = err.Error()
			s.endStep(d, p, st, waybill.StatusFailed, now)
			break
		}
		st.Error, st.Outputs = "", outputs
		s.endStep(d, p, st, waybill.StatusSucceeded, now)
	case waybill.StatusCanceled:
		st.Error = a.Error
		s.endStep(d, p, st, waybill.StatusCanceled, now)
	case waybill.StatusLost:
		st.Losses++
		st.Error = a.Error
		switch {
		case over:
			s.endStep(d, p, st, waybill.StatusCanceled, now)
		case st.Losses < maxLosses:
			s.again(d, p, st, a, lossDelay(st.Losses), now)
		default:
			st.Error = fmt.Sprintf("worker_killer: %d units of this step were lost: %s", st.Losses, a.Error)
			d.killers = append(d.killers, st)
			s.endStep(d, p, st, waybill.StatusLost, now)
		}
	default:
		st.Failures++
		st.Error = a.Error
		switch {
		case over && s.run.CancelBy != "":
			s.endStep(d, p, st, waybill.StatusCanceled, now)
		case p.Retry.Tries(st.Failures, a.Status, a.Reason, a.ExitCode) && !over && !s.closed(p.Group):
			s.again(d, p, st, a, p.Retry.Delay(st.Failures), now)
		default:
			s.endStep(d, p, st, a.Status, now)
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

// endStep ends a step or cell, and begins what waited for it.
func (s *state) endStep(d *decision, p *pipeline.Step, st *waybill.Step, status waybill.Status, now time.Time) {
	if st.Cell == nil {
		s.open--
		if st.Status == waybill.StatusWaiting {
			s.waiting--
		}
	}
	st.Status, st.FinishedAt = status, now
	d.touch(st)
	data := map[string]any{"step": st.Name, "status": status}
	if st.Error != "" {
		data["error"] = st.Error
	}
	if len(st.Added) > 0 {
		data["added"] = st.Added
	}
	d.note(now, "step.ended", data)
	if st.Cell != nil {
		s.endCell(d, p, st, now)
		return
	}
	s.run.StepsDone++
	d.changed = true
	bad := status != waybill.StatusSucceeded && status != waybill.StatusSkipped
	st.Allowed = bad && p.AllowFailure && status != waybill.StatusCanceled
	s.results[st.Name] = result(st)
	if bad && !st.Allowed {
		s.broke(d, st, now)
	}
	for _, q := range s.plan.After(p) {
		s.consider(d, q, now)
	}
}

// broke remembers what went wrong first. What a later group does wrong is added to it
// and does not replace it.
func (s *state) broke(_ *decision, st *waybill.Step, _ time.Time) {
	if st.Status == waybill.StatusCanceled && s.run.CancelBy != "" {
		return
	}
	msg := fmt.Sprintf("step %s: %s", st.Name, st.Error)
	if st.Group != pipeline.GroupMain {
		msg = st.Group + " " + msg
	}
	if st.Group == pipeline.GroupFailure {
		s.run.HandlerFailed = true
	}
	switch {
	case s.run.Failed == "":
		s.run.Failed = st.Name
		s.run.Error = joined(s.run.Error, msg)
	case st.Group != pipeline.GroupMain:
		s.run.Error = joined(s.run.Error, msg)
	}
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// cancel stops what runs; the run ends when all of it, and the steps of always, have
// ended. A second, forced one ends those too.
func (s *state) cancel(d *decision, c cancelInput, now time.Time) {
	if s.run.CancelBy != "" && (!c.force || s.run.Forced) {
		return
	}
	if s.run.CancelBy == "" {
		s.run.CancelBy = c.by
		s.run.Error = joined(c.reason, s.run.Error)
	}
	s.run.Forced = s.run.Forced || c.force
	s.run.Paused = ""
	d.changed = true
	d.note(now, "run.canceling", map[string]any{"by": c.by, "reason": c.reason, "force": c.force})
	for _, p := range s.plan.Steps {
		st := s.steps[p.Name]
		if st == nil || st.Status.Terminal() {
			continue
		}
		if !s.closed(p.Group) { // a step of always, which a pause may have held up
			if st.Cells != nil {
				s.nextCells(d, p, st, now)
			}
			continue
		}
		if st.Cells == nil {
			d.stop = append(d.stop, waybill.AttemptKey(st.Run, st.Name, st.Attempts))
			continue
		}
		for _, cell := range s.cells[p.Name][:st.Cells.Next] {
			if !cell.Status.Terminal() {
				d.stop = append(d.stop, waybill.AttemptKey(cell.Run, cell.Name, cell.Attempts))
			}
		}
		s.nextCells(d, p, st, now)
	}
	if !s.begun() {
		s.proceed(d, now)
		return
	}
	s.sweep(d, now) // a pause may have kept the steps of always
}

// pause keeps new steps from beginning; what runs goes on. Resuming begins what was
// held up.
func (s *state) pause(d *decision, in pauseInput, now time.Time) {
	if s.run.CancelBy != "" || (in.by == "") == (s.run.Paused == "") {
		return
	}
	s.run.Paused, d.changed = in.by, true
	if in.by != "" {
		d.note(now, "run.paused", map[string]any{"by": in.by})
		return
	}
	d.note(now, "run.resumed", nil)
	if !s.begun() {
		return
	}
	for _, p := range s.plan.Steps {
		if st := s.steps[p.Name]; st != nil && st.Cells != nil && !st.Status.Terminal() {
			s.nextCells(d, p, st, now)
		}
	}
	s.sweep(d, now)
}

// finish ends the run when its steps have.
func (s *state) finish(d *decision, now time.Time) {
	status := s.outcome()
	switch {
	case status == waybill.StatusCanceled:
		if s.run.Error == "" {
			s.run.Error = "canceled by " + s.run.CancelBy
		}
	case status == waybill.StatusSucceeded:
		for _, p := range s.plan.Steps {
			if p.Group == pipeline.GroupMain && s.steps[p.Name] == nil {
				// Nothing runs, nothing failed and yet steps are left: a plan whose needs
				// cannot be met, which validation excludes.
				status, s.run.Error = waybill.StatusFailed, "steps are left that can never start"
			}
		}
		if status == waybill.StatusSucceeded {
			out, err := s.plan.Results(s.scope(waybill.Vars{}))
			if err == nil && out.Size() > maxVars {
				err = waybill.E(waybill.KindTooLarge, "the outputs are larger than %d bytes", maxVars)
			}
			if err != nil {
				status, s.run.Error = waybill.StatusFailed, err.Error()
			}
			s.run.Outputs = out
		}
	}
	s.end(d, status, now)
}

// end ends the run and gives back what it holds or asked for.
func (s *state) end(d *decision, status waybill.Status, now time.Time) {
	s.run.Status, s.run.FinishedAt = status, now
	d.changed, d.ended = true, true
	d.release = s.run.Slots
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
