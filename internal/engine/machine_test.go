package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

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

// TestMachineModel drives random plans with random outcomes, told once, twice,
// late and out of order, and checks the invariants of the machine.
func TestMachineModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "steps")
		text := "name: p\nsteps:\n"
		retries := make([]int, n)
		for i := range n {
			retries[i] = rapid.IntRange(0, 2).Draw(t, "retries")
			needs := []string{}
			for j := range i {
				if rapid.IntRange(0, 2).Draw(t, "needs") == 0 {
					needs = append(needs, fmt.Sprintf("s%d", j))
				}
			}
			text += fmt.Sprintf("  - {name: s%d, run: [x], retry: {max: %d}, needs: [%s]}\n", i, retries[i], strings.Join(needs, ", "))
		}
		s := newState(parse(t, text))
		type live struct {
			step   string
			number int
		}
		open := map[live]bool{}
		var past []input
		ended := ""
		take := func(in input) {
			was := s.run.Status
			before, _ := json.Marshal(s.run)
			stepsBefore := map[string]waybill.Status{}
			for k, st := range s.steps {
				stepsBefore[k] = st.Status
			}
			d := s.apply(in, epoch)
			if after, _ := json.Marshal(s.run); was.Terminal() && string(before) != string(after) {
				t.Fatalf("an ended run changed from %s to %s", before, after)
			}
			for k, st := range stepsBefore {
				if st.Terminal() && s.steps[k].Status != st {
					t.Fatalf("ended step %s changed from %s to %s", k, st, s.steps[k].Status)
				}
			}
			for _, a := range d.attempts {
				k := live{a.attempt.Step, a.attempt.Number}
				for o := range open {
					if o.step == k.step {
						t.Fatalf("step %s has two live attempts", k.step)
					}
				}
				open[k] = true
				for _, need := range s.plan.Step(k.step).Needs {
					if s.steps[need] == nil || s.steps[need].Status != waybill.StatusSucceeded {
						t.Fatalf("step %s began before its need %s succeeded", k.step, need)
					}
				}
			}
			for i, p := range s.plan.Steps {
				st := s.steps[p.Name]
				if st == nil {
					continue
				}
				if st.Attempts > 1+retries[i]+maxLosses-1 {
					t.Fatalf("step %s made %d attempts with %d retries", p.Name, st.Attempts, retries[i])
				}
			}
			if s.run.Status.Terminal() {
				for k, st := range s.steps {
					if !st.Status.Terminal() {
						t.Fatalf("the run ended as %s while step %s is %s", s.run.Status, k, st.Status)
					}
				}
				if len(open) > 0 {
					t.Fatalf("the run ended with open attempts %v", open)
				}
				if s.run.StepsDone != len(s.steps) {
					t.Fatalf("%d steps are counted as done of %d", s.run.StepsDone, len(s.steps))
				}
				if ended == "" {
					ended = string(s.run.Status)
				}
			} else if len(open) == 0 && s.run.Status != waybill.StatusQueued {
				t.Fatalf("the run is %s and nothing will ever happen to it", s.run.Status)
			}
		}
		take(input{start: true})
		for range 60 {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					take(input{cancel: &cancelInput{by: "somebody", reason: ""}})
				}
			case 1:
				take(input{start: true})
			case 2:
				if len(past) > 0 {
					take(past[rapid.IntRange(0, len(past)-1).Draw(t, "which")])
				}
			default:
				if len(open) == 0 {
					continue
				}
				var keys []live
				for _, p := range s.plan.Steps {
					for k := range open {
						if k.step == p.Name {
							keys = append(keys, k)
						}
					}
				}
				k := keys[rapid.IntRange(0, len(keys)-1).Draw(t, "attempt")]
				status := rapid.SampledFrom([]waybill.Status{
					waybill.StatusSucceeded, waybill.StatusSucceeded, waybill.StatusSucceeded, waybill.StatusFailed,
					waybill.StatusTimedOut, waybill.StatusLost, waybill.StatusCanceled,
				}).Draw(t, "status")
				if status == waybill.StatusCanceled && s.run.CancelBy == "" {
					status = waybill.StatusFailed
				}
				in := input{ended: &waybill.Attempt{Run: "r", Step: k.step, Number: k.number, Phase: waybill.PhaseTerminal, Status: status}}
				delete(open, k)
				past = append(past, in)
				take(in)
			}
		}
		if s.run.Status == waybill.StatusSucceeded && len(s.steps) != n {
			t.Fatalf("the run succeeded with %d of %d steps", len(s.steps), n)
		}
	})
}
