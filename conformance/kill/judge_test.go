//go:build linux

package kill_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// effect is a line that a unit wrote.
type effect struct{ run, step, attempt, pid, what string }

func (w *world) readEffects() []effect {
	b, err := os.ReadFile(w.effects())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.violation("effects: %v", err)
	}
	var out []effect
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 {
			w.violation("a broken line of effects: %q", line)
			continue
		}
		out = append(out, effect{f[0], f[1], f[2], f[3], f[4]})
	}
	return out
}

// all reads every run with its details.
func (w *world) all(ctx context.Context) ([]client.RunDetail, error) {
	c := w.clients[0]
	var runs []client.RunDetail
	for r, err := range client.Each(func(cursor string) ([]client.Run, client.NextCursor, error) {
		p, err := c.Runs(ctx, client.ListRunsParams{Limit: 100, Cursor: cursor})
		return p.Items, p.NextCursor, err
	}) {
		if err != nil {
			return nil, err
		}
		d, err := c.Run(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		runs = append(runs, d)
	}
	return runs, nil
}

// settled returns nil when nothing is left to be done.
func (w *world) settled(ctx context.Context) error {
	qs, err := w.clients[0].Queues(ctx)
	if err != nil {
		return err
	}
	for _, q := range qs.Items {
		if q.Depth > 0 && q.Topic != "timer" { // those of expiries and timeouts that did not come
			return fmt.Errorf("topic %s holds %d messages", q.Topic, q.Depth)
		}
	}
	runs, err := w.all(ctx)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if !r.Status.Terminal() {
			return fmt.Errorf("run %s of %s is %s", r.ID, r.Pipeline, r.Status)
		}
		for _, a := range r.Attempts {
			if a.Phase != waybill.PhaseTerminal || a.Cleanup != "" && a.Cleanup != waybill.CleanupGone {
				return fmt.Errorf("attempt %s/%s/%d is %s, its clean-up %s", r.ID, a.Step, a.Number, a.Phase, a.Cleanup)
			}
		}
	}
	return nil
}

// judge waits until the servers are done and says what is wrong. It ends with
// the servers stopped.
func (w *world) judge(ctx context.Context, limit time.Duration) {
	begun := time.Now()
	if err := harness.Await(limit, func() error { return w.settled(ctx) }); err != nil {
		w.violation("not done after %v: %v", limit, err)
	}
	w.settling = time.Since(begun)
	runs, err := w.all(ctx)
	if err != nil {
		w.violation("runs: %v", err)
		return
	}
	w.accounted(runs)
	effects := w.readEffects()
	executed := map[string][]effect{}
	for _, e := range effects {
		executed[e.run] = append(executed[e.run], e)
	}
	want := plans()
	for _, r := range runs {
		w.outcome(r, want[r.Pipeline])
		w.executions(r, want[r.Pipeline], executed[r.ID])
		w.timeline(ctx, r)
		delete(executed, r.ID)
	}
	w.places(runs, effects)
	for run := range executed {
		w.violation("units ran for run %s, which is unknown", run)
	}
	w.unchanged(ctx, runs, len(effects))
	w.nothingLeft(ctx)
}

// accounted: what was accepted is there, once.
func (w *world) accounted(runs []client.RunDetail) {
	byKey, byObject := map[string]string{}, map[string]string{}
	for _, r := range runs {
		if o := r.Event.Object; o.Version != "" {
			key := o.Key + " " + o.Version
			if _, ok := w.objects[key]; !ok {
				w.violation("run %s of %s is of a version that no client was told of: %s", r.ID, r.Pipeline, key)
			}
			key = r.Pipeline + " " + key
			if first := byObject[key]; first != "" {
				w.violation("duplicate: %s has the runs %s and %s", key, first, r.ID)
			}
			byObject[key] = r.ID
			continue
		}
		if p := r.Parent; p != nil {
			key := "sub-run of " + waybill.AttemptKey(p.Run, p.Step, p.Attempt)
			if first := byKey[key]; first != "" {
				w.violation("duplicate: %s: %s and %s", key, first, r.ID)
			}
			byKey[key] = r.ID
			continue
		}
		v, _ := r.Vars.Get("___KEY")
		key := v.Text()
		if first := byKey[key]; first != "" {
			w.violation("duplicate: key %s has the runs %s and %s", key, first, r.ID)
		}
		byKey[key] = r.ID
		if w.pipeline[key] != r.Pipeline {
			w.violation("run %s of %s has the key %q", r.ID, r.Pipeline, key)
		}
	}
	for key, id := range w.runs {
		if byKey[key] != id {
			w.violation("lost: %s was accepted as run %s, and there is %q", key, id, byKey[key])
		}
	}
	for key, content := range w.objects {
		for _, p := range []string{"audit", "intake"} {
			id := byObject[p+" "+key]
			if wanted := p == "audit" || strings.Contains(key, ".csv "); wanted != (id != "") {
				w.violation("lost: object %s and pipeline %s: run %q", key, p, id)
			}
			if p != "intake" || id == "" {
				continue
			}
			for _, r := range runs {
				if v, _ := r.Vars.Get("___CONTENT"); r.ID == id && v.Text() != content {
					w.violation("run %s read %q of object %s, want %q", id, v.Text(), key, content)
				}
			}
		}
	}
}

// begun are the steps of a run that began; those that the run did not come to are
// listed with it as well.
func begun(r client.RunDetail) []client.Step {
	return slices.DeleteFunc(slices.Clone(r.Steps), func(st client.Step) bool { return st.Attempts == 0 })
}

// outcome: the run came to the end it comes to when nothing is killed.
func (w *world) outcome(r client.RunDetail, p plan) {
	name := fmt.Sprintf("run %s of %s", r.ID, r.Pipeline)
	if r.Status != p.status {
		w.violation("%s ended as %s, want %s: %s", name, r.Status, p.status, r.Error)
	}
	early := r.Status == waybill.StatusCanceled && len(begun(r)) == 0 // canceled before it began
	got := map[string]waybill.Status{}
	for _, st := range begun(r) {
		got[st.Name] = st.Status
		wantTries := max(1, p.tries[st.Name])
		if st.Attempts != wantTries || st.Losses > 0 {
			w.violation("%s: step %s took %d attempts with %d losses, want %d and none: %s", name, st.Name, st.Attempts, st.Losses, wantTries, st.Error)
		}
	}
	for st, status := range p.steps {
		if got[st] != status && !early {
			w.violation("%s: step %s is %q, want %s", name, st, got[st], status)
		}
		if slices.Contains(p.silent, st) {
			continue
		}
		v, ok := r.Vars.Get("___DONE_" + strings.ReplaceAll(st, ".", "_"))
		if succeeded := status == waybill.StatusSucceeded; ok != succeeded || ok && v.Text() != fmt.Sprint(max(1, p.tries[st])) {
			w.violation("%s: step %s returned %q", name, st, v.Text())
		}
	}
	if len(got) > len(p.steps) {
		w.violation("%s: steps %v, want %v", name, got, p.steps)
	}
	for _, v := range p.vars {
		if _, ok := r.Vars.Get(v); !ok {
			w.violation("%s: variable %s is missing", name, v)
		}
	}
	for _, a := range r.Attempts {
		for _, b := range r.Attempts {
			if a.Step == b.Step && a.Number < b.Number && a.FinishedAt.After(b.QueuedAt) {
				w.violation("%s: attempts %d and %d of step %s overlap", name, a.Number, b.Number, a.Step)
			}
		}
	}
}

// places: of the pipeline with one place, one run at a time has executed units; of a
// matrix with two, two cells at a time.
func (w *world) places(runs []client.RunDetail, effects []effect) {
	pipeline := map[string]string{}
	for _, r := range runs {
		pipeline[r.ID] = r.Pipeline
	}
	holder := ""
	cells := map[string]int{}
	for _, e := range effects {
		switch pipeline[e.run] {
		case "line":
			switch {
			case e.what == "start" && holder != "" && holder != e.run:
				w.violation("place: run %s began a unit while run %s held the place", e.run, holder)
			case e.what == "start":
				holder = e.run
			case e.what == "end" && e.step == "b":
				holder = ""
			}
		case "wide":
			if !strings.Contains(e.step, ".") {
				continue
			}
			if e.what == "start" {
				cells[e.run]++
			} else {
				cells[e.run]--
			}
			if cells[e.run] > 2 {
				w.violation("place: run %s has %d cells at once", e.run, cells[e.run])
			}
		}
	}
}

// executions: what units really did. The lines stand in the order in which they
// were written.
func (w *world) executions(r client.RunDetail, p plan, lines []effect) {
	name := fmt.Sprintf("run %s of %s", r.ID, r.Pipeline)
	status := map[string]waybill.Status{}
	for _, a := range r.Attempts {
		status[fmt.Sprint(a.Step, " ", a.Number)] = a.Status
	}
	starts, ends := map[string]int{}, map[string]int{}
	live, done := map[string]string{}, map[string]bool{} // of steps: the attempt that runs, whether one has succeeded
	for _, e := range lines {
		key := e.step + " " + e.attempt
		switch e.what {
		case "start":
			starts[key]++
			if running := live[e.step]; running != "" {
				w.violation("duplicate: %s: attempt %s of step %s began while %s ran", name, e.attempt, e.step, running)
			}
			if done[e.step] {
				w.violation("duplicate: %s: attempt %s of step %s began after the step had succeeded", name, e.attempt, e.step)
			}
			live[e.step] = e.attempt
			for _, need := range p.needs[e.step] {
				if !done[need] {
					w.violation("%s: step %s began before %s had succeeded", name, e.step, need)
				}
			}
		case "end":
			ends[key]++
			live[e.step] = ""
			done[e.step] = done[e.step] || status[key] == waybill.StatusSucceeded
		default:
			w.violation("%s: step %s attempt %s reports: %s", name, e.step, e.attempt, e.what)
		}
	}
	for key, n := range starts {
		if n > 1 || ends[key] > 1 {
			w.violation("duplicate: %s: the attempt %s was executed %d times", name, key, n)
		}
		if _, ok := status[key]; !ok {
			w.violation("%s: the attempt %s was executed and is unknown", name, key)
		}
	}
	for key, s := range status {
		if step, _, _ := strings.Cut(key, " "); slices.Contains(p.silent, step) {
			continue
		}
		if s == waybill.StatusSucceeded && (starts[key] == 0 || ends[key] == 0) {
			w.violation("%s: the attempt %s is said to have succeeded, it started %d times and ended %d times", name, key, starts[key], ends[key])
		}
	}
}

// timeline: what happened once is told once, and nothing after the end.
func (w *world) timeline(ctx context.Context, r client.RunDetail) {
	var kinds []string
	count := map[string]int{}
	ended := false
	for rec, err := range client.Each(func(cursor string) ([]client.Record, client.NextCursor, error) {
		p, err := w.clients[0].Events(ctx, r.ID, client.GetRunEventsParams{Limit: 500, Cursor: cursor})
		return p.Items, p.NextCursor, err
	}) {
		if err != nil {
			w.violation("timeline of %s: %v", r.ID, err)
			return
		}
		var d struct{ Step, Attempt string }
		_ = json.Unmarshal(rec.Data, &d) // records without data have neither
		kinds = append(kinds, strings.TrimSpace(rec.Kind+" "+d.Attempt))
		switch rec.Kind {
		case "run.accepted", "run.started", "run.ended":
			count[rec.Kind]++
		case "step.started", "step.ended":
			count[rec.Kind+" "+d.Step]++
		case "attempt.provisioning", "attempt.running", "attempt.ended", "attempt.callback":
			count[rec.Kind+" "+strings.TrimPrefix(d.Attempt, r.ID+"/")]++
		}
		if ended && (strings.HasPrefix(rec.Kind, "step.") || strings.HasPrefix(rec.Kind, "run.") ||
			rec.Kind == "attempt.ended" || rec.Kind == "attempt.running") {
			w.violation("timeline of %s: %s after its end", r.ID, rec.Kind)
		}
		ended = ended || rec.Kind == "run.ended"
	}
	want := map[string]int{"run.accepted": 1, "run.ended": 1}
	if len(begun(r)) > 0 {
		want["run.started"] = 1
	}
	for _, st := range begun(r) {
		want["step.started "+st.Name], want["step.ended "+st.Name] = 1, 1
	}
	for _, a := range r.Attempts {
		want[fmt.Sprintf("attempt.ended %s/%d", a.Step, a.Number)] = 1
	}
	for what, n := range want {
		if count[what] != n {
			w.violation("timeline of %s of %s: %d times %s, want %d: %v", r.ID, r.Pipeline, count[what], what, n, kinds)
		}
	}
	for what, n := range count {
		switch {
		case n > 1 && strings.HasPrefix(what, "attempt.") && !strings.HasPrefix(what, "attempt.ended"):
			w.violation("timeline of %s of %s: %d times %s", r.ID, r.Pipeline, n, what)
		case n > 1:
			w.violation("duplicate: timeline of %s of %s: %d times %s", r.ID, r.Pipeline, n, what)
		}
	}
}

// frozen is a run without what clean-up may still change after its end.
func frozen(r client.RunDetail) string {
	r.Attempts = slices.Clone(r.Attempts)
	for i := range r.Attempts {
		r.Attempts[i].Cleanup, r.Attempts[i].CleanupError = "", ""
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// unchanged: what has ended stays as it is (invariant I4), also when everything is
// killed and started once more.
func (w *world) unchanged(ctx context.Context, runs []client.RunDetail, effects int) {
	for _, r := range runs {
		if first, ok := w.ended[r.ID]; ok && frozen(first) != frozen(r) {
			w.violation("run %s changed after its end:\nwas %s\nis  %s", r.ID, frozen(first), frozen(r))
		}
	}
	for _, s := range w.servers {
		s.Kill()
	}
	for _, s := range w.servers {
		w.up(s, "", 0)
	}
	if err := harness.Await(5*time.Second, func() error { return w.settled(ctx) }); err != nil {
		w.violation("a restart began something: %v", err)
	}
	again, err := w.all(ctx)
	if err != nil {
		w.violation("runs: %v", err)
		return
	}
	was, is := mustJSON(runs), mustJSON(again)
	if was != is {
		w.violation("runs changed by a restart:\nwas %s\nis  %s", was, is)
	}
	if n := len(w.readEffects()); n != effects {
		w.violation("duplicate: a restart executed units: %d effects, were %d", n, effects)
	}
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// nothingLeft: no dead letters, units, folders.
func (w *world) nothingLeft(ctx context.Context) {
	for _, topic := range []string{"run", "unit", "cleanup", "arrival", "timer", "slot"} {
		dead, err := w.clients[0].DeadLetters(ctx, topic, client.ListDeadLettersParams{})
		if err != nil {
			w.violation("dead letters of %s: %v", topic, err)
		}
		for _, m := range dead.Items {
			w.violation("dead letter of %s: %s", topic, mustJSON(m))
		}
	}
	for _, s := range w.servers {
		s.Stop()
	}
	for _, s := range w.servers {
		for _, p := range s.Units() {
			w.violation("a process of a unit is left: %s", p)
		}
		for _, p := range s.Processes() {
			if !slices.Contains(p.Args, "supervise") { // it leaves when it has been idle for a while
				w.violation("a process is left: %s", p)
			}
		}
		for _, d := range s.UnitDirs() {
			if d != "spare" { // empty folders that wait for other units
				w.violation("a folder of a unit is left: %s", d)
			}
		}
	}
}
