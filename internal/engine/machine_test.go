package engine

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func parse(t interface{ Fatalf(string, ...any) }, text string) *pipeline.Plan {
	p, err := pipeline.Parse("test.yaml", []byte(text), pipeline.Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func newState(p *pipeline.Plan) *state {
	return &state{
		plan: p, steps: map[string]*waybill.Step{},
		run: &waybill.Run{ID: "r", Pipeline: p.Name, Version: 1, Status: waybill.StatusQueued, StepCount: len(p.Steps)},
	}
}

// finishAs is the input that tells of the end of a step's latest attempt.
func (s *state) finishAs(step string, status waybill.Status, vars ...string) input {
	a := &waybill.Attempt{Run: "r", Step: step, Number: s.steps[step].Attempts, Phase: waybill.PhaseTerminal, Status: status}
	for i := 0; i+1 < len(vars); i += 2 {
		a.Returned.Set(vars[i], waybill.Value(vars[i+1]))
	}
	if status != waybill.StatusSucceeded {
		a.Error = "because"
	}
	return input{ended: a}
}

func kinds(d decision) string {
	var out []string
	for _, r := range d.records {
		out = append(out, r.kind)
	}
	return strings.Join(out, " ")
}

func TestChain(t *testing.T) {
	s := newState(parse(t, `
name: chain
steps:
  - {name: one, run: [echo], outputs: {rows: int}}
  - {name: two, run: [echo, "${{ steps.one.outputs.rows }}", "${{ vars.___x }}"]}
`))
	d := s.apply(input{start: true}, epoch)
	if len(d.attempts) != 1 || d.attempts[0].attempt.Step != "one" || kinds(d) != "run.started step.started" {
		t.Fatalf("start: %+v", d)
	}
	d = s.apply(s.finishAs("one", waybill.StatusSucceeded, "rows", `"7"`, "___X", `"hi"`), epoch)
	if len(d.attempts) != 1 {
		t.Fatalf("after one: %+v", d)
	}
	if diff := cmp.Diff([]string{"echo", "7", "hi"}, d.attempts[0].built.Args); diff != "" {
		t.Errorf("arguments of two (-want +got):\n%s", diff)
	}
	if v, _ := s.steps["one"].Outputs.Get("rows"); string(v) != "7" {
		t.Errorf("rows is %s, want the number 7", v)
	}
	d = s.apply(s.finishAs("two", waybill.StatusSucceeded), epoch)
	if s.run.Status != waybill.StatusSucceeded || kinds(d) != "step.ended run.ended" {
		t.Errorf("run is %s after %s", s.run.Status, kinds(d))
	}
	if d = s.apply(s.finishAs("two", waybill.StatusFailed), epoch); d.changed || len(d.records) > 0 {
		t.Errorf("an ended run changed: %+v", d)
	}
}

func TestRetryThenFail(t *testing.T) {
	s := newState(parse(t, "name: p\nsteps: [{name: a, run: [x], retry: {max: 2, backoff: 2s}}]\n"))
	s.apply(input{start: true}, epoch)
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second} {
		d := s.apply(s.finishAs("a", waybill.StatusFailed), epoch)
		if len(d.attempts) != 1 || d.attempts[0].delay != want || d.attempts[0].attempt.Number != i+2 {
			t.Fatalf("failure %d: %+v", i+1, d.attempts)
		}
	}
	s.apply(s.finishAs("a", waybill.StatusTimedOut), epoch)
	if s.run.Status != waybill.StatusTimedOut || s.steps["a"].Failures != 3 || !strings.Contains(s.run.Error, "step a") {
		t.Errorf("run is %s (%s) after %d failures", s.run.Status, s.run.Error, s.steps["a"].Failures)
	}
}

func TestLossesHaveTheirOwnBudget(t *testing.T) {
	s := newState(parse(t, "name: p\nsteps: [{name: a, run: [x]}]\n"))
	s.apply(input{start: true}, epoch)
	for range 2 {
		if d := s.apply(s.finishAs("a", waybill.StatusLost), epoch); len(d.attempts) != 1 {
			t.Fatalf("a lost unit was not made again: %+v", d)
		}
	}
	d := s.apply(s.finishAs("a", waybill.StatusLost), epoch)
	if len(d.killers) != 1 || s.run.Status != waybill.StatusLost {
		t.Errorf("after three losses the run is %s, killers %v", s.run.Status, d.killers)
	}
}

func TestStepThatCannotBeBuilt(t *testing.T) {
	s := newState(parse(t, `
name: p
steps:
  - {name: a, run: [x]}
  - {name: b, run: ["${{ vars.___list[5] }}"], retry: {max: 3}}
`))
	s.apply(input{start: true}, epoch)
	d := s.apply(s.finishAs("a", waybill.StatusSucceeded), epoch)
	if s.run.Status != waybill.StatusFailed || len(d.attempts) != 0 || !strings.Contains(s.run.Error, "step b") {
		t.Errorf("run is %s (%s) with %d attempts", s.run.Status, s.run.Error, len(d.attempts))
	}
}

func TestCancel(t *testing.T) {
	s := newState(parse(t, "name: p\nsteps: [{name: a, run: [x]}, {name: b, run: [x], needs: [a]}]\n"))
	s.apply(input{start: true}, epoch)
	d := s.apply(input{cancel: &cancelInput{by: "me", reason: ""}}, epoch)
	if len(d.stop) != 1 || d.stop[0] != "r/a/1" || s.run.Status != waybill.StatusRunning {
		t.Fatalf("cancel: %+v, run %s", d, s.run.Status)
	}
	if d = s.apply(input{cancel: &cancelInput{by: "you", reason: ""}}, epoch); len(d.stop) != 0 {
		t.Errorf("a second cancel stops again: %v", d.stop)
	}
	// Even one that was faster than the stop ends a canceled run.
	s.apply(s.finishAs("a", waybill.StatusSucceeded), epoch)
	if s.run.Status != waybill.StatusCanceled || s.steps["b"] != nil {
		t.Errorf("run is %s, b %v", s.run.Status, s.steps["b"])
	}
}

func TestCancelBeforeStart(t *testing.T) {
	s := newState(parse(t, "name: p\nsteps: [{name: a, run: [x]}]\n"))
	s.apply(input{cancel: &cancelInput{by: "me", reason: "no longer needed"}}, epoch)
	if s.run.Status != waybill.StatusCanceled || len(s.steps) != 0 {
		t.Errorf("run is %s with steps %v", s.run.Status, s.steps)
	}
}

func TestFailureLetsParallelStepsEndAndStartsNothing(t *testing.T) {
	s := newState(parse(t, `
name: p
steps:
  - {name: a, run: [x]}
  - {name: b, run: [x]}
  - {name: c, run: [x], needs: [b]}
`))
	s.apply(input{start: true}, epoch)
	s.apply(s.finishAs("a", waybill.StatusFailed), epoch)
	if s.run.Status != waybill.StatusRunning {
		t.Fatalf("run is %s while b runs", s.run.Status)
	}
	s.apply(s.finishAs("b", waybill.StatusSucceeded), epoch.Add(time.Second))
	if s.run.Status != waybill.StatusFailed || s.steps["c"] != nil {
		t.Errorf("run is %s, c is %v", s.run.Status, s.steps["c"])
	}
}
