package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// randomPlan draws a definition with all that the machine knows.
func randomPlan(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("name: p\n")
	group := func(key, prefix string, least, most int) {
		n := rapid.IntRange(least, most).Draw(t, key)
		if n == 0 {
			return
		}
		chain := rapid.Bool().Draw(t, "chain")
		fmt.Fprintf(&b, "%s:\n", key)
		for i := range n {
			what := "run: [x]"
			if rapid.IntRange(0, 6).Draw(t, "control") == 0 {
				what = "runner: wait, with: {for: 1h}"
			}
			fmt.Fprintf(&b, "  - {name: %s%d, %s, retry: {max: %d}", prefix, i, what, rapid.IntRange(0, 2).Draw(t, "retries"))
			if !chain {
				var needs []string
				for j := range i {
					if rapid.IntRange(0, 2).Draw(t, "needs") == 0 {
						needs = append(needs, fmt.Sprintf("%s%d", prefix, j))
					}
				}
				fmt.Fprintf(&b, ", needs: [%s]", strings.Join(needs, ", "))
			}
			switch rapid.IntRange(0, 5).Draw(t, "if") {
			case 0:
				b.WriteString(", if: false")
			case 1:
				b.WriteString(", if: true")
			}
			if rapid.IntRange(0, 4).Draw(t, "allow") == 0 {
				b.WriteString(", allow_failure: true")
			}
			if rapid.IntRange(0, 3).Draw(t, "matrix") == 0 {
				cells := make([]string, rapid.IntRange(0, 5).Draw(t, "cells"))
				for c := range cells {
					cells[c] = fmt.Sprint(c)
				}
				fmt.Fprintf(&b, ", matrix: {values: {v: [%s]}, max_parallel: %d, fail_fast: %v}", strings.Join(cells, ", "),
					rapid.IntRange(1, 3).Draw(t, "parallel"), rapid.Bool().Draw(t, "fast"))
			}
			b.WriteString("}\n")
		}
	}
	group("steps", "s", 1, 6)
	group("on_failure", "f", 0, 2)
	group("always", "a", 0, 3)
	return b.String()
}

// model watches a machine from outside.
type model struct {
	t    *rapid.T
	s    *state
	open map[string]int // live attempts: step or cell to number
}

func (m *model) take(in input) {
	t, s := m.t, m.s
	was := s.run.Status
	before, _ := json.Marshal(s.run)
	terminal := map[string]waybill.Status{}
	for k, st := range s.steps {
		if st.Status.Terminal() {
			terminal[k] = st.Status
		}
	}
	paused, canceled, forced := s.run.Paused, s.run.CancelBy != "", s.run.Forced
	d := s.apply(in, epoch)
	after, _ := json.Marshal(s.run)
	if was.Terminal() && (string(before) != string(after) || len(d.attempts)+len(d.steps)+len(d.records) > 0) {
		t.Fatalf("an ended run changed from %s to %s", before, after)
	}
	if string(before) != string(after) && !d.changed {
		t.Fatalf("the run changed from %s to %s and is not to be written", before, after)
	}
	for k, st := range terminal {
		if s.steps[k].Status != st {
			t.Fatalf("ended step %s changed from %s to %s", k, st, s.steps[k].Status)
		}
	}
	for _, a := range d.attempts {
		name := a.attempt.Step
		if m.open[name] > 0 {
			t.Fatalf("%s has two live attempts", name)
		}
		m.open[name] = a.attempt.Number
		p := a.step
		if canceled && (p.Group != pipeline.GroupAlways || forced) {
			t.Fatalf("%s began in a canceled run", name)
		}
		if paused != "" && in.pause == nil && in.cancel == nil && a.attempt.Number == 1 {
			t.Fatalf("%s began in a paused run", name)
		}
		for _, need := range p.Needs {
			st := s.steps[need]
			if st == nil || !st.Status.Terminal() {
				t.Fatalf("%s began before its need %s ended", name, need)
			}
			if p.Group != pipeline.GroupAlways && st.Status != waybill.StatusSucceeded && st.Status != waybill.StatusSkipped && !st.Allowed {
				t.Fatalf("%s began though its need %s is %s", name, need, st.Status)
			}
		}
	}
	for _, key := range d.stop {
		var name string
		var number int
		parts := strings.Split(key, "/")
		name = parts[1]
		fmt.Sscan(parts[2], &number)
		if m.open[name] != number {
			t.Fatalf("attempt %s is to be stopped and is not open (%v)", key, m.open)
		}
	}
	m.invariants()
}

func (m *model) invariants() {
	t, s := m.t, m.s
	for _, p := range s.plan.Steps {
		st := s.steps[p.Name]
		if st == nil {
			continue
		}
		if limit := 1 + p.Retry.Max + maxLosses - 1; st.Attempts > limit {
			t.Fatalf("step %s made %d attempts", p.Name, st.Attempts)
		}
		if st.Cells == nil {
			continue
		}
		running := 0
		for name := range m.open {
			if of, _, cell := strings.Cut(name, "."); cell && of == p.Name {
				running++
			}
		}
		if running > p.Matrix.MaxParallel || running != st.Cells.Running {
			t.Fatalf("%d cells of %s run, %d are counted, the limit is %d", running, p.Name, st.Cells.Running, p.Matrix.MaxParallel)
		}
		if c := st.Cells; st.Status.Terminal() && c.Succeeded+c.Failed+c.Canceled != c.Total {
			t.Fatalf("cells of the ended step %s: %+v", p.Name, c)
		}
		if st.Status == waybill.StatusSucceeded && st.Cells.Succeeded != st.Cells.Total {
			t.Fatalf("step %s succeeded with cells %+v", p.Name, st.Cells)
		}
	}
	switch {
	case !s.run.Status.Terminal():
		if len(m.open) == 0 && s.begun() && s.run.Paused == "" {
			t.Fatalf("the run is %s and nothing will ever happen to it", s.run.Status)
		}
		return
	case len(m.open) > 0:
		t.Fatalf("the run ended as %s with open attempts %v", s.run.Status, m.open)
	}
	done := 0
	for k, st := range s.steps {
		if !st.Status.Terminal() {
			t.Fatalf("the run ended as %s while step %s is %s", s.run.Status, k, st.Status)
		}
		done++
	}
	if s.run.StepsDone != done {
		t.Fatalf("%d steps are counted as done of %d", s.run.StepsDone, done)
	}
	for _, p := range s.plan.Steps {
		st := s.steps[p.Name]
		switch p.Group {
		case pipeline.GroupMain:
			if s.run.Status == waybill.StatusSucceeded && (st == nil || !s.serves(st)) {
				t.Fatalf("the run succeeded and step %s did not", p.Name)
			}
		case pipeline.GroupFailure:
			mainFailed := s.run.Failed != "" && s.plan.Step(s.run.Failed).Group == pipeline.GroupMain
			if st != nil && !mainFailed {
				t.Fatalf("step %s of on_failure began though nothing had failed", p.Name)
			}
			if st == nil && mainFailed && s.run.CancelBy == "" && !s.run.HandlerFailed {
				t.Fatalf("step %s of on_failure did not begin", p.Name)
			}
		case pipeline.GroupAlways:
			if st == nil && s.begun() && !s.run.Forced {
				t.Fatalf("step %s of always did not begin", p.Name)
			}
		}
	}
	switch {
	case s.run.CancelBy != "":
		if s.run.Status != waybill.StatusCanceled {
			t.Fatalf("a canceled run ended as %s", s.run.Status)
		}
	case s.run.Failed != "":
		if st := s.steps[s.run.Failed]; st.Status != s.run.Status || !strings.Contains(s.run.Error, s.run.Failed) {
			t.Fatalf("the run is %s (%s) and its failed step %s is %s", s.run.Status, s.run.Error, s.run.Failed, st.Status)
		}
	case s.run.Status != waybill.StatusSucceeded:
		t.Fatalf("the run ended as %s (%s) and nothing had failed", s.run.Status, s.run.Error)
	}
}

// reload replaces the state by what the store would give back.
func (m *model) reload() {
	again := &state{plan: m.s.plan, run: &waybill.Run{}, steps: map[string]*waybill.Step{}, cells: map[string][]*waybill.Step{}}
	clone := func(from, to any) {
		b, err := json.Marshal(from)
		if err == nil {
			err = json.Unmarshal(b, to)
		}
		if err != nil {
			m.t.Fatalf("rows do not come back: %v", err)
		}
	}
	clone(m.s.run, again.run)
	for k, st := range m.s.steps {
		again.steps[k] = &waybill.Step{}
		clone(st, again.steps[k])
	}
	for k, cells := range m.s.cells {
		for _, c := range cells {
			x := &waybill.Step{}
			clone(c, x)
			again.cells[k] = append(again.cells[k], x)
		}
	}
	m.s = again
}

// TestMachineModel drives random plans with random outcomes, told once, twice, late and
// out of order, with cancels, pauses and restarts, and checks the invariants of the
// machine after every input.
func TestMachineModel(t *testing.T) {
	for range 10 { // a thousand plans; rare interleavings want many
		rapid.Check(t, modelled)
	}
}

func modelled(t *rapid.T) {
	text := randomPlan(t)
	m := &model{t: t, s: newState(parse(t, text)), open: map[string]int{}}
	var past []input
	m.take(input{start: true})
	for i := 0; i < 120 && !m.s.run.Status.Terminal(); i++ {
		switch rapid.IntRange(0, 24).Draw(t, "what") {
		case 0:
			m.take(input{cancel: &cancelInput{by: "somebody", force: rapid.Bool().Draw(t, "force")}})
		case 1:
			m.take(input{start: true})
		case 2:
			if len(past) > 0 {
				m.take(past[rapid.IntRange(0, len(past)-1).Draw(t, "which")])
			}
		case 3:
			m.take(input{pause: &pauseInput{by: "somebody"}})
		case 4, 5:
			m.take(input{pause: &pauseInput{}})
		case 6, 7:
			m.reload()
		default:
			keys := make([]string, 0, len(m.open))
			for k := range m.open {
				keys = append(keys, k)
			}
			if len(keys) == 0 {
				if m.s.run.Paused != "" {
					m.take(input{pause: &pauseInput{}})
				}
				continue
			}
			slices.Sort(keys)
			k := keys[rapid.IntRange(0, len(keys)-1).Draw(t, "attempt")]
			status := rapid.SampledFrom([]waybill.Status{
				waybill.StatusSucceeded, waybill.StatusSucceeded, waybill.StatusSucceeded, waybill.StatusSucceeded, waybill.StatusFailed,
				waybill.StatusTimedOut, waybill.StatusLost, waybill.StatusCanceled,
			}).Draw(t, "status")
			of, _, _ := strings.Cut(k, ".")
			st := m.s.steps[of]
			if status == waybill.StatusCanceled && m.s.run.CancelBy == "" && (st.Cells == nil || st.Cells.First == "") {
				status = waybill.StatusFailed
			}
			in := input{ended: &waybill.Attempt{Run: "r", Step: k, Number: m.open[k], Phase: waybill.PhaseTerminal, Status: status, Error: "because"}}
			delete(m.open, k)
			past = append(past, in)
			m.take(in)
		}
	}
}
