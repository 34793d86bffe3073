//go:build linux

package faults

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// step returns a step or cell of a run.
func stepOf(t *testing.T, r client.RunDetail, name string) client.Step {
	t.Helper()
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("run %s has no step %s", r.ID, name)
	return client.Step{}
}

// are checks the statuses of steps, NAME=STATUS.
func are(t *testing.T, r client.RunDetail, want ...string) {
	t.Helper()
	for _, w := range want {
		name, status, _ := strings.Cut(w, "=")
		if s := stepOf(t, r, name); string(s.Status) != status {
			t.Errorf("step %s is %s (%s), want %s", name, s.Status, s.Error, status)
		}
	}
}

// A run is repeated from its third step: the first two keep what they returned, and say
// whose it is.
func TestFA33_RetryFromStep(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/five.yaml": pipeline("five", `
steps:
  - {name: one, run: [sh, -c, 'echo "___ONE=$WAYBILL_RUN" >> $WAYBILL_OUTPUT; echo n=1 >> $WAYBILL_OUTPUT'], outputs: {n: int}}
  - {name: two, run: [sh, -c, 'echo "n=${{ steps.one.outputs.n + 1 }}" >> $WAYBILL_OUTPUT'], outputs: {n: int}}
  - {name: three, run: [sh, -c, 'test -e "$MARK" && echo "n=${{ steps.two.outputs.n + 1 }}" >> $WAYBILL_OUTPUT'], env: {MARK: "${{ vars.___MARK }}"}, outputs: {n: int}}
  - {name: four, run: [sh, -c, 'echo "n=${{ steps.three.outputs.n + 1 }}" >> $WAYBILL_OUTPUT'], outputs: {n: int}}
  - {name: five, run: [sh, -c, 'echo "___FIVE=${{ steps.four.outputs.n + 1 }} of $___ONE" >> $WAYBILL_OUTPUT']}
`),
	}})
	mark := w.path("mark")
	first := w.ends(w.start("five", "___MARK="+mark), waybill.StatusFailed)
	are(t, first, "two=succeeded", "three=failed", "four=canceled")
	w.write(mark, "now it works")
	out, errs, code := w.cli("run", "retry", first.ID, "--from", "three", "--wait")
	if code != 0 {
		t.Fatalf("run retry: code %d\n%s%s", code, out, errs)
	}
	again := w.runs("five")[0]
	r := w.run(again.ID)
	if r.RetryOf != first.ID {
		t.Errorf("the new run repeats %q, want %q", r.RetryOf, first.ID)
	}
	for _, name := range []string{"one", "two"} {
		if s := stepOf(t, r, name); s.ReusedFrom != first.ID || attempts(r, name) != 0 {
			t.Errorf("step %s is reused from %q and made %d attempts", name, s.ReusedFrom, attempts(r, name))
		}
	}
	for _, name := range []string{"three", "four", "five"} {
		if attempts(r, name) != 1 {
			t.Errorf("step %s made %d attempts, want 1", name, attempts(r, name))
		}
	}
	if got, want := variable(r, "___FIVE"), "5 of "+first.ID; got != want {
		t.Errorf("the last step says %q, want %q", got, want)
	}
	// Repeated again it still says who worked.
	_, errs, code = w.cli("run", "retry", r.ID, "--from", "five", "--wait")
	if code != 0 {
		t.Fatalf("second retry: %s", errs)
	}
	if s := stepOf(t, w.run(w.runs("five")[0].ID), "two"); s.ReusedFrom != first.ID {
		t.Errorf("step two is reused from %q, want the run that made it", s.ReusedFrom)
	}
}

// as is a client with a new token of a role.
func (w *world) as(name string, role client.Role) *client.Client {
	w.t.Helper()
	made := must(w.Client().CreateToken(w.ctx, client.CreateToken{Name: name, Role: role}, ""))(w.t)
	return w.NewClient(client.Options{Token: made.Secret})
}

func kindOf(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return string(e.Kind)
	}
	return fmt.Sprint(err)
}

// Of many answers at once one counts; the wrong people cannot answer; nobody can after it
// expired, and the run takes the branch for that.
func TestFA34_Approval(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/gated.yaml": pipeline("gated", `
params: {expires: {type: string, default: 1h}, role: {type: string, default: operator}, expiry: {type: string, default: fail}}
steps:
  - name: gate
    runner: approval
    with:
      message: "let ${{ run.id }} through?"
      role: ${{ params.role }}
      expires: ${{ params.expires }}
      on_expiry: ${{ params.expiry }}
      form: {level: {type: int, required: true}, note: {type: string, default: none}}
  - {name: approved, if: "${{ steps.gate.outputs.decision == 'approved' }}", needs: [gate], run: [sh, -c, 'echo "___LEVEL=${{ steps.gate.outputs.level + 1 }} ${{ steps.gate.outputs.note }}" >> $WAYBILL_OUTPUT']}
  - {name: expired, if: "${{ steps.gate.outputs.decision == 'expired' }}", needs: [gate], run: ["true"]}
`),
		"pipelines/named.yaml": pipeline("named", "steps: [{name: gate, runner: approval, with: {approvers: [alice]}}]\n"),
	}})
	begin := func(pipeline string, params ...string) string {
		t.Helper()
		s := client.StartRun{}
		for _, p := range params {
			name, value, _ := strings.Cut(p, "=")
			s.Params.Set(name, waybill.StringValue(value))
		}
		id := must(w.Client().StartRun(w.ctx, pipeline, s, ""))(t).ID
		w.reaches(id, "gate", 1, "asks", func(a client.Attempt) bool { return a.Approval != nil && a.Status == waybill.StatusWaiting })
		return id
	}
	values := func(level string) (v waybill.Vars) {
		v.Set("level", waybill.Value(level))
		return v
	}
	approve := client.Answer{Decision: "approved", Values: values("4"), Comment: "looks good"}
	alice, bob, eve := w.as("alice", waybill.RoleOperator), w.as("bob", waybill.RoleOperator), w.as("eve", waybill.RoleViewer)

	t.Run("first wins", func(t *testing.T) {
		id := begin("gated")
		if r := w.run(id); r.Status != waybill.StatusWaiting {
			t.Errorf("the run is %s, want waiting", r.Status)
		}
		var mu sync.Mutex
		kinds := map[string]int{}
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				in, who := approve, alice
				if i%2 == 1 {
					in, who = client.Answer{Decision: "rejected"}, bob
				}
				_, err := who.AnswerApproval(w.ctx, id, "gate", in)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					kinds[string(in.Decision)]++
				} else {
					kinds[kindOf(err)]++
				}
			})
		}
		all.Wait()
		if kinds["approved"]*kinds["rejected"] != 0 || kinds["approved"]+kinds["rejected"] == 0 || kinds["conflict"] < 10 {
			t.Errorf("answers: %v, want one decision (told again by the same person or not) and conflicts", kinds)
		}
		if kinds["approved"] > 0 {
			w.ends(id, waybill.StatusSucceeded)
		} else {
			w.ends(id, waybill.StatusFailed)
		}
		w.recorded(id, "approval.answered", 1)
	})
	t.Run("form", func(t *testing.T) {
		id := begin("gated")
		for _, bad := range []waybill.Vars{{}, values(`"four"`), values(`4.5`)} {
			if _, err := alice.AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "approved", Values: bad}); kindOf(err) != "invalid" || !strings.Contains(err.Error(), "level") {
				t.Errorf("form %v: %v, want invalid", bad, err)
			}
		}
		out, errs, code := w.cli("run", "approve", id, "--value", "level=4", "--value", "note=fine")
		if code != 0 || !strings.Contains(out, "approved") {
			t.Fatalf("run approve: code %d %s%s", code, out, errs)
		}
		r := w.ends(id, waybill.StatusSucceeded)
		if got := variable(r, "___LEVEL"); got != "5 fine" {
			t.Errorf("the next step says %q, want \"5 fine\"", got)
		}
		are(t, r, "approved=succeeded", "expired=skipped")
	})
	t.Run("wrong role", func(t *testing.T) {
		id := begin("gated", "role=admin")
		for name, c := range map[string]*client.Client{"a viewer": eve, "an operator": alice} {
			if _, err := c.AnswerApproval(w.ctx, id, "gate", approve); kindOf(err) != "forbidden" {
				t.Errorf("%s: %v, want forbidden", name, err)
			}
		}
		w.ask(http.MethodPost, "/api/v1/runs/"+id+"/steps/gate/approval", "wbt_nobody", strings.NewReader(`{"decision":"approved"}`)).wants(t, "unknown token", 401)
		if a := attempt(t, w.run(id), "gate", 1); a.Approval.Decision != "" {
			t.Errorf("it was decided: %+v", a.Approval)
		}
		if _, err := w.Client().AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "rejected", Comment: "no"}); err != nil {
			t.Errorf("an admin: %v", err)
		}
		if r := w.ends(id, waybill.StatusFailed); !strings.Contains(r.Error, "rejected by local") {
			t.Errorf("the run says %q", r.Error)
		}
	})
	t.Run("wrong name", func(t *testing.T) {
		id := begin("named")
		if _, err := bob.AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "approved"}); kindOf(err) != "forbidden" || !strings.Contains(err.Error(), "alice") {
			t.Errorf("bob: %v, want forbidden", err)
		}
		if _, err := alice.AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "approved"}); err != nil {
			t.Errorf("alice: %v", err)
		}
		w.ends(id, waybill.StatusSucceeded)
		if _, err := alice.AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "approved"}); err != nil {
			t.Errorf("alice, told again: %v", err)
		}
	})
	t.Run("expired", func(t *testing.T) {
		id := begin("gated", "expires=300ms", "expiry=continue")
		r := w.ends(id, waybill.StatusSucceeded)
		are(t, r, "approved=skipped", "expired=succeeded")
		if _, err := alice.AnswerApproval(w.ctx, id, "gate", approve); kindOf(err) != "gone" {
			t.Errorf("an answer after it expired: %v, want gone", err)
		}
		if r := w.ends(begin("gated", "expires=300ms"), waybill.StatusTimedOut); !strings.Contains(r.Error, "nobody answered") {
			t.Errorf("the run says %q", r.Error)
		}
	})
	t.Run("killed server", func(t *testing.T) {
		w := serve(t, harness.Options{Project: map[string]string{
			"pipelines/gated.yaml": pipeline("gated", "steps: [{name: gate, runner: approval, with: {expires: 2s, on_expiry: continue}}, {name: next, run: [\"true\"]}]\n"),
		}})
		id := w.start("gated")
		w.reaches(id, "gate", 1, "asks", func(a client.Attempt) bool { return a.Approval != nil })
		w.Kill()
		w.Start()
		w.ends(id, waybill.StatusSucceeded)
		id = w.start("gated")
		w.reaches(id, "gate", 1, "asks", func(a client.Attempt) bool { return a.Approval != nil })
		must(w.Client().AnswerApproval(w.ctx, id, "gate", client.Answer{Decision: "approved"}))(t)
		w.Kill()
		w.Start()
		w.ends(id, waybill.StatusSucceeded)
	})
}

// A matrix of a thousand cells with a limit of eight: never more run, and the aggregate
// is right whether or not the first failure ends the rest.
func TestFA35_Matrix(t *testing.T) {
	n := 1000
	if testing.Short() || os.Getenv("WAYBILL_CAMPAIGN") == "" {
		n = 200
	}
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprint(i)
	}
	cells := strings.Join(list, ",")
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/wide.yaml": pipeline("wide", `
params: {fast: {type: bool, default: false}}
steps:
  - name: slow
    if: ${{ !params.fast }}
    matrix: {values: {n: [`+cells+`]}, max_parallel: 8, fail_fast: false}
    run: [./cell.sh, "${{ matrix.n }}"]
    outputs: {n: int}
  - name: fast
    if: ${{ params.fast }}
    matrix: {values: {n: [`+cells+`]}, max_parallel: 8}
    run: [./cell.sh, "${{ matrix.n }}"]
    outputs: {n: int}
`),
		// A cell counts who runs beside it by what it leaves in a folder.
		"cell.sh": `#!/bin/sh
here=$(dirname "$0")/running
mkdir -p "$here"; touch "$here/$WAYBILL_STEP"
ls "$here" | wc -l >> "$(dirname "$0")/counts"
case $1 in 50|51|52) rm "$here/$WAYBILL_STEP"; exit 3;; esac
echo "n=$1" >> $WAYBILL_OUTPUT
rm "$here/$WAYBILL_STEP"
`,
	}})
	check := func(id, step string) client.RunDetail {
		t.Helper()
		var r client.RunDetail
		harness.Until(t, 4*time.Minute, "run "+id+" ends", func() error {
			if r = w.run(id); !r.Status.Terminal() {
				return fmt.Errorf("it is %s", r.Status)
			}
			return nil
		})
		if r.Status != waybill.StatusFailed {
			t.Fatalf("the run ended as %s (%s)", r.Status, r.Error)
		}
		b, err := os.ReadFile(w.ProjectDir() + "/counts")
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for _, line := range strings.Fields(string(b)) {
			var k int
			fmt.Sscan(line, &k)
			most = max(most, k)
		}
		if most > 8 || most < 2 {
			t.Errorf("%d cells ran at once, want 2 to 8", most)
		}
		w.cleaned(id)
		return r
	}
	t.Run("all", func(t *testing.T) {
		r := check(w.start("wide"), "slow")
		s := stepOf(t, r, "slow")
		if c := s.Cells; c.Total != n || c.Succeeded != n-3 || c.Failed != 3 || c.Canceled != 0 {
			t.Errorf("cells: %+v", c)
		}
		v, _ := s.Outputs.Get("n")
		x, err := v.Decode()
		got, _ := x.([]any)
		if err != nil || len(got) != n {
			t.Fatalf("the outputs are %.80s, want %d values", v, n)
		}
		for i, g := range got {
			if want := any(int64(i)); i >= 50 && i <= 52 && g != nil || (i < 50 || i > 52) && fmt.Sprint(g) != fmt.Sprint(want) {
				t.Errorf("cell %d returned %v", i, g)
			}
		}
		if !strings.Contains(s.Error, "3 of ") || !strings.Contains(s.Error, "slow.5") {
			t.Errorf("the step says %q", s.Error)
		}
	})
	t.Run("fail fast", func(t *testing.T) {
		s := client.StartRun{}
		s.Params.Set("fast", waybill.Value("true"))
		r := check(must(w.Client().StartRun(w.ctx, "wide", s, ""))(t).ID, "fast")
		c := stepOf(t, r, "fast").Cells
		if c.Failed < 1 || c.Failed > 3 || c.Succeeded+c.Failed+c.Canceled != n || c.Canceled < n/2 {
			t.Errorf("cells: %+v", c)
		}
		started := 0
		for _, s := range r.Steps {
			if s.Cell != nil && s.Cell.Of == "fast" && s.Attempts > 0 {
				started++
			}
		}
		if started > 70 {
			t.Errorf("%d cells began though the 51st failed", started)
		}
	})
}

// Of runs with one place the others wait in the order of priority and age, or end, or end
// the first; the place is free again whatever became of who held it.
func TestFA36_ConcurrencySlot(t *testing.T) {
	def := func(name, policy string) string {
		return pipeline(name, `
priority: 0
params: {key: {type: string, default: k}}
concurrency: {key: "${{ params.key }}", limit: 1, policy: `+policy+`}
steps: [{name: work, run: [./hold.sh], timeout: 1m}]
`)
	}
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/line.yaml": def("line", "queue"), "pipelines/drop.yaml": def("drop", "skip"), "pipelines/newest.yaml": def("newest", "cancel"),
	}})
	t.Run("queue", func(t *testing.T) {
		first := w.start("line")
		u := w.held(first, "work", 1)
		second := w.start("line")
		high := 5
		third := must(w.Client().StartRun(w.ctx, "line", client.StartRun{Priority: &high}, ""))(t).ID
		other := client.StartRun{}
		other.Params.Set("key", waybill.StringValue("another"))
		free := must(w.Client().StartRun(w.ctx, "line", other, ""))(t).ID
		w.held(free, "work", 1).exit(0)
		for _, id := range []string{second, third} {
			if r := w.run(id); r.Status != waybill.StatusWaiting && r.Status != waybill.StatusQueued || len(r.Attempts) > 0 {
				t.Errorf("run %s is %s with %d attempts while another holds the place", id, r.Status, len(r.Attempts))
			}
		}
		out, _, _ := w.cli("run", "slots")
		if !strings.Contains(out, "line/k") || !strings.Contains(out, first) {
			t.Errorf("run slots:\n%s", out)
		}
		u.exit(0)
		w.held(third, "work", 1).exit(1) // its failure frees the place as well
		w.held(second, "work", 1)
		w.cancel(second)
		last := w.start("line")
		w.held(last, "work", 1).exit(0)
		w.ends(last, waybill.StatusSucceeded)
	})
	t.Run("a canceled run in the line", func(t *testing.T) {
		first := w.start("line")
		u := w.held(first, "work", 1)
		second, third := w.start("line"), w.start("line")
		w.cancel(second)
		u.exit(0)
		w.held(third, "work", 1).exit(0)
		w.ends(third, waybill.StatusSucceeded)
	})
	t.Run("skip", func(t *testing.T) {
		first := w.start("drop")
		u := w.held(first, "work", 1)
		r := w.ends(w.start("drop"), waybill.StatusSkipped)
		if !strings.Contains(r.Error, first) || len(r.Attempts) > 0 {
			t.Errorf("the skipped run says %q and made %d attempts", r.Error, len(r.Attempts))
		}
		u.exit(0)
		w.ends(first, waybill.StatusSucceeded)
	})
	t.Run("cancel", func(t *testing.T) {
		first := w.start("newest")
		w.held(first, "work", 1)
		second := w.start("newest")
		w.ends(first, waybill.StatusCanceled)
		w.held(second, "work", 1).exit(0)
		w.ends(second, waybill.StatusSucceeded)
	})
	t.Run("killed", func(t *testing.T) {
		// The holder's server and its units are gone at once; the line goes on.
		first := w.start("line")
		w.held(first, "work", 1)
		second := w.start("line")
		w.Kill()
		for _, p := range w.Processes() {
			if proc, err := os.FindProcess(p.PID); err == nil {
				_ = proc.Kill()
			}
		}
		w.Start()
		w.held(first, "work", 2).exit(0) // lost, and made again
		w.ends(first, waybill.StatusSucceeded)
		w.held(second, "work", 1).exit(0)
		w.ends(second, waybill.StatusSucceeded)
		harness.Until(t, soon, "no slot is held", func() error {
			if l := must(w.Client().Slots(w.ctx, client.ListSlotsParams{}))(t); len(l.Items) > 0 {
				return fmt.Errorf("%+v", l.Items)
			}
			return nil
		})
	})
}

// What goes wrong while a failure is dealt with does not hide the failure.
func TestFA37_HandlersThatFail(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/handled.yaml": pipeline("handled", `
params: {main: {type: int, default: 0}, tell: {type: int, default: 0}, tidy: {type: int, default: 0}}
steps: [{name: work, run: [sh, -c, "exit ${{ params.main }}"]}, {name: next, run: ["true"]}]
on_failure:
  - {name: tell, run: [sh, -c, 'echo "___TOLD=$1 $2" >> $WAYBILL_OUTPUT; exit ${{ params.tell }}', sh, "${{ run.failed_step }}", "${{ run.error }}"]}
  - {name: tell-more, run: ["true"]}
always:
  - {name: tidy, run: [sh, -c, 'echo "___TIDY=${{ run.status }}" >> $WAYBILL_OUTPUT; exit ${{ params.tidy }}']}
  - {name: bye, run: ["true"]}
`),
	}})
	run := func(want client.Status, params ...string) client.RunDetail {
		t.Helper()
		s := client.StartRun{}
		for _, p := range params {
			name, value, _ := strings.Cut(p, "=")
			s.Params.Set(name, waybill.Value(value))
		}
		return w.ends(must(w.Client().StartRun(w.ctx, "handled", s, ""))(t).ID, want)
	}
	r := run(waybill.StatusSucceeded)
	are(t, r, "next=succeeded", "tell=skipped", "tidy=succeeded", "bye=succeeded")

	r = run(waybill.StatusFailed, "main=3")
	are(t, r, "work=failed", "next=canceled", "tell=succeeded", "tell-more=succeeded", "tidy=succeeded", "bye=succeeded")
	if got := variable(r, "___TOLD"); !strings.HasPrefix(got, "work step work: exit code 3") {
		t.Errorf("on_failure was told %q", got)
	}
	if got := variable(r, "___TIDY"); got != "failed" {
		t.Errorf("always was told %q", got)
	}

	r = run(waybill.StatusFailed, "main=3", "tell=4", "tidy=5")
	are(t, r, "work=failed", "tell=failed", "tell-more=canceled", "tidy=failed", "bye=succeeded")
	if r.FailedStep != "work" || !strings.HasPrefix(r.Error, "step work: exit code 3") {
		t.Errorf("the run failed at %q: %q; want the first failure", r.FailedStep, r.Error)
	}
	for _, also := range []string{"on_failure step tell: exit code 4", "always step tidy: exit code 5"} {
		if !strings.Contains(r.Error, also) {
			t.Errorf("the run says %q and nothing of %q", r.Error, also)
		}
	}

	r = run(waybill.StatusFailed, "tidy=5")
	are(t, r, "next=succeeded", "tell=skipped", "tidy=failed", "bye=succeeded")
	if !strings.Contains(r.Error, "always step tidy") {
		t.Errorf("the run says %q", r.Error)
	}
}

// A run keeps the definition it started with, whatever becomes of the pipeline.
func TestFA38_EditedWhileOpen(t *testing.T) {
	w := serve(t, harness.Options{})
	def := func(text string) string {
		return pipeline("edited", "steps: [{name: work, run: ["+w.ProjectDir()+"/hold.sh]}, {name: say, run: [sh, -c, 'echo ___SAID="+text+" >> $WAYBILL_OUTPUT']}]\n")
	}
	w.apply(def("old"))
	old := w.start("edited")
	u := w.held(old, "work", 1)
	w.apply(def("new"))
	young := w.start("edited")
	v := w.held(young, "work", 1)
	w.Kill()
	w.Start()
	u.exit(0)
	v.exit(0)
	for id, want := range map[string]string{old: "old", young: "new"} {
		if got := variable(w.ends(id, waybill.StatusSucceeded), "___SAID"); got != want {
			t.Errorf("run %s says %q, want %q", id, got, want)
		}
	}
	// Repeated, it is the version of the run that it repeats.
	again := must(w.Client().RetryRun(w.ctx, old, "say", ""))(t)
	if r := w.ends(again.ID, waybill.StatusSucceeded); variable(r, "___SAID") != "old" || r.Version != 1 {
		t.Errorf("the repeated run has version %d and says %q", r.Version, variable(r, "___SAID"))
	}
}

// A pipeline that starts itself is refused where that can be seen, and stopped where not.
func TestFA39_PipelineStartsItself(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/ping.yaml": pipeline("ping", "steps: [{name: call, runner: pipeline, with: {pipeline: pong}}]\n"),
		"pipelines/pong.yaml": pipeline("pong", "steps: [{name: call, runner: pipeline, with: {pipeline: ping}}]\n"),
		"pipelines/outer.yaml": pipeline("outer", `
vars: {___GIVEN: from outside}
outputs: {sum: "${{ steps.inner.outputs.sum }}"}
steps:
  - {name: inner, runner: pipeline, with: {pipeline: inner, params: {n: 20}}, retry: {max: 1, backoff: 10ms}}
  - {name: say, run: [sh, -c, 'echo "___SAID=${{ steps.inner.outputs.sum }} $___SET" >> $WAYBILL_OUTPUT']}
`),
		"pipelines/inner.yaml": pipeline("inner", `
params: {n: {type: int, required: true}}
outputs: {sum: "${{ params.n + 1 }}"}
steps: [{name: work, run: [sh, -c, 'echo "___SET=set, $___GIVEN" >> $WAYBILL_OUTPUT']}]
`),
		"pipelines/canceled.yaml": pipeline("canceled", "steps: [{name: inner, runner: pipeline, with: {pipeline: held}}]\n"),
		"pipelines/late.yaml":     pipeline("late", "steps: [{name: inner, runner: pipeline, timeout: 500ms, with: {pipeline: held}}]\n"),
		"pipelines/held.yaml":     pipeline("held", "steps: [{name: work, run: [./hold.sh]}]\nalways: [{name: tidy, run: [\"true\"]}]\n"),
		"pipelines/gone.yaml":     pipeline("gone", "steps: [{name: inner, runner: pipeline, with: {pipeline: nowhere}}]\non_failure: [{name: tell, run: [\"true\"]}]\n"),
	}})
	_, err := w.Client().ApplyPipeline(w.ctx, []byte(pipeline("self", "steps: [{name: call, runner: pipeline, with: {pipeline: self}}]\n")))
	if kindOf(err) != "invalid" || !strings.Contains(err.Error(), "starts itself") {
		t.Errorf("a pipeline that starts itself: %v, want invalid", err)
	}
	r := w.ends(w.start("ping"), waybill.StatusFailed)
	if !strings.Contains(r.Error, "deep") {
		t.Errorf("the run says %q", r.Error)
	}
	if n := len(w.runs("ping")) + len(w.runs("pong")); n > 11 {
		t.Errorf("%d runs began before it was stopped", n)
	}

	r = w.ends(w.start("outer"), waybill.StatusSucceeded)
	if got := variable(r, "___SAID"); got != "21 set, from outside" {
		t.Errorf("the outer run says %q", got)
	}
	if v, _ := r.Outputs.Get("sum"); string(v) != "21" {
		t.Errorf("its output is %s", v)
	}
	inner := w.run(attempt(t, r, "inner", 1).Child)
	if inner.Parent == nil || inner.Parent.Run != r.ID || inner.Parent.Step != "inner" {
		t.Errorf("the inner run is part of %+v", inner.Parent)
	}

	id := w.start("canceled")
	a := w.reaches(id, "inner", 1, "has a run", func(a client.Attempt) bool { return a.Child != "" })
	w.held(a.Child, "work", 1)
	w.cancel(id)
	are(t, w.ends(a.Child, waybill.StatusCanceled), "tidy=succeeded")
	w.cleaned(a.Child)

	r = w.ends(w.start("late"), waybill.StatusTimedOut)
	w.ends(attempt(t, r, "inner", 1).Child, waybill.StatusCanceled)

	r = w.ends(w.start("gone"), waybill.StatusFailed)
	are(t, r, "inner=failed", "tell=succeeded")
	if !strings.Contains(r.Error, "nowhere") {
		t.Errorf("the run says %q", r.Error)
	}
}

// A flood of runs of one pipeline does not hold up another's.
func TestFairness(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"waybill.yaml":         "units: {max: 2}\n",
		"pipelines/flood.yaml": pipeline("flood", "steps: [{name: work, matrix: {values: {a: [0,1,2,3,4,5,6,7,8,9], b: [0,1,2,3,4,5,6,7,8,9]}, max_parallel: 100}, run: [sleep, \"0.1\"]}]\n"),
		"pipelines/drop.yaml":  pipeline("drop", "steps: [{name: work, run: [\"true\"]}]\n"),
	}})
	flood := w.start("flood")
	harness.Until(t, soon, "the flood runs", func() error {
		if c := stepOf(t, w.run(flood), "work").Cells; c == nil || c.Succeeded < 4 {
			return errors.New("not yet")
		}
		return nil
	})
	w.ends(w.start("drop"), waybill.StatusSucceeded)
	if c := stepOf(t, w.run(flood), "work").Cells; c.Succeeded > 50 {
		t.Errorf("a run of another pipeline waited until %d of 100 units of the flood had ended", c.Succeeded)
	}
	w.cancel(flood)
}

// A paused run begins nothing until it is resumed; one with a delay begins later.
func TestPauseAndDelay(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/two.yaml": pipeline("two", "steps: [{name: one, run: [./hold.sh]}, {name: wait, runner: wait, with: {for: 100ms}}, {name: two, run: [\"true\"]}]\n"),
	}})
	id := w.start("two")
	u := w.held(id, "one", 1)
	if _, errs, code := w.cli("run", "pause", id); code != 0 {
		t.Fatal(errs)
	}
	harness.Until(t, soon, "the run is paused", func() error {
		if len(w.records(id, "run.paused")) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	u.exit(0)
	harness.Until(t, soon, "the first step ends", func() error {
		if r := w.run(id); r.Status != waybill.StatusWaiting || stepOf(t, r, "one").Status != waybill.StatusSucceeded {
			return fmt.Errorf("it is %s", r.Status)
		}
		return nil
	})
	w.Kill()
	w.Start()
	if r := w.run(id); attempts(r, "wait") != 0 || r.PausedBy == "" {
		t.Errorf("a paused run went on: %d attempts, paused by %q", attempts(r, "wait"), r.PausedBy)
	}
	if _, errs, code := w.cli("run", "resume", id); code != 0 {
		t.Fatal(errs)
	}
	w.ends(id, waybill.StatusSucceeded)
	if _, _, code := w.cli("run", "pause", id); code != 1 {
		t.Errorf("pausing an ended run: code %d, want 1", code)
	}
	out, errs, code := w.cli("start", "two", "--delay", "700ms")
	if code != 0 {
		t.Fatal(errs)
	}
	id = strings.TrimSpace(out)
	w.held(id, "one", 1).exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if d := r.StartedAt.Sub(r.CreatedAt); d < 700*time.Millisecond {
		t.Errorf("a run with a delay of 700ms began after %v", d)
	}
	out, _, _ = w.cli("start", "two", "--delay", "1h")
	w.cancel(strings.TrimSpace(out))
}

// Files travel from step to step and into buckets with their checksums.
func TestStepFiles(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/files.yaml": pipeline("files", `
env_case: upper
steps:
  - name: make
    run: [sh, -c, 'mkdir out; seq 1 1000 > out/list.txt; echo ___text=hello >> $WAYBILL_OUTPUT']
    outputs: {list: {file: out/list.txt, bucket: results, key: "${{ run.id }}/list.txt"}}
  - name: read
    inputs:
      in/list.txt: ${{ steps.make.outputs.list }}
      in/object.txt: {bucket: results, key: "${{ run.id }}/list.txt"}
      conf.json: {lines: 1000, name: "${{ vars.___text }}"}
      note.txt: "say ${{ vars.___TEXT }}"
    run: [sh, -c, 'cmp in/list.txt in/object.txt && test $(wc -l < in/list.txt) = 1000 && cat conf.json note.txt && echo "; $___TEXT" && echo "; $___text"']
  - name: alone
    inherit: none
    run: [sh, -c, 'test -z "$___text"']
`),
		"pipelines/found.yaml": "name: found\non: {object: {bucket: results, match: \"**\"}}\nsteps: [{name: count, run: [sh, -c, 'echo \"___N=$(wc -l < $WAYBILL_OBJECT)\" >> $WAYBILL_OUTPUT']}]\n",
	}})
	r := w.ends(w.start("files"), waybill.StatusSucceeded)
	out, errs, code := w.cli("run", "logs", r.ID, "--step", "read")
	if want := `{"lines":1000,"name":"hello"}say hello; hello` + "\n; hello\n"; code != 0 || out != want {
		t.Errorf("the second step read %q, want %q %s", out, want, errs)
	}
	if made := w.records(r.ID, "output.object"); len(made) != 1 || !strings.Contains(string(made[0].Data), "sha256") {
		t.Errorf("records of the object: %v", made)
	}
	// The object is an arrival like any other.
	harness.Until(t, soon, "the object starts a run", func() error {
		runs := w.runs("found")
		if i := slices.IndexFunc(runs, func(r client.Run) bool { return r.Status == waybill.StatusSucceeded }); i < 0 {
			return fmt.Errorf("runs: %d", len(runs))
		}
		return nil
	})
	if got := variable(w.run(w.runs("found")[0].ID), "___N"); got != "1000" {
		t.Errorf("the run that it started counted %q lines", got)
	}
}
