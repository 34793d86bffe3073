//go:build linux

package faults

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// put stores an object.
func (w *world) put(bucket, key, content string) {
	w.t.Helper()
	a := w.ask(http.MethodPut, "/api/v1/buckets/"+bucket+"/objects/"+key, "", strings.NewReader(content), "Content-Type", "text/plain")
	if a.Status/100 != 2 {
		w.t.Fatalf("put %s/%s: %v", bucket, key, a)
	}
}

// apply stores a definition.
func (w *world) apply(yaml string) {
	w.t.Helper()
	must(w.Client().ApplyPipeline(w.ctx, []byte(yaml)))(w.t)
}

// What can never start is a dead letter after one try, with the reason, while
// everything behind it goes on; sent again after the repair, it starts.
func TestFA26_PoisonStart(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/unbuildable.yaml": pipeline("unbuildable", `
steps: [{name: work, run: [echo, "${{ string(int(vars.___N)) }}"], retry: {max: 3, backoff: 10ms}}]
`),
		"pipelines/missing.yaml": pipeline("missing", "steps: [{name: work, run: [./no-such-program]}]\n"),
		"pipelines/params.yaml": pipeline("params", `
params: {n: {type: int, required: true}}
steps: [{name: work, run: ["true"]}]
`),
		"pipelines/leaves.yaml": pipeline("leaves", "steps: [{name: work, run: [\"true\"]}]\n"),
	}})
	poison := func(value string) string {
		return "name: poison\non: {object: {bucket: inbox, match: \"*.csv\"}}\nvars: {___N: \"${{ " + value + " }}\"}\n" +
			"steps: [{name: work, run: [sh, -c, 'cat $WAYBILL_OBJECT']}]\n"
	}
	w.apply(poison("int(event.object.key)"))
	w.apply("name: sound\non: {object: {bucket: inbox, match: \"*.csv\"}}\nsteps: [{name: work, run: [\"true\"]}]\n")
	w.put("inbox", "a.csv", "poison")
	letter := w.dead("arrival", 1)[0]
	if letter.Attempt != 1 || letter.Fails != 0 || !strings.Contains(letter.Reason, "pipeline poison cannot start") || !strings.Contains(letter.Reason, "___N") {
		t.Errorf("the dead letter after %d tries says %q", letter.Attempt, letter.Reason)
	}
	out, errs, code := w.cli("queue", "peek", "arrival", "--dead")
	if code != 0 || !strings.Contains(out, letter.ID) || !strings.Contains(out, "pipeline poison cannot start") {
		t.Errorf("queue peek --dead: code %d %s\n%s", code, errs, out)
	}
	w.put("inbox", "b.txt", "none of ours")
	w.put("inbox", "b.csv", "poison, too")
	w.dead("arrival", 2)
	started := func(pipeline string, want int) []client.Run {
		t.Helper()
		var runs []client.Run
		harness.Until(t, soon, fmt.Sprintf("%d runs of %s", want, pipeline), func() error {
			if runs = w.runs(pipeline); len(runs) != want {
				return fmt.Errorf("there are %d", len(runs))
			}
			return nil
		})
		return runs
	}
	for _, r := range started("sound", 2) {
		w.ends(r.ID, waybill.StatusSucceeded)
	}
	// Sent again without a repair it comes back; with one it starts what did not, and
	// nothing twice.
	if n, err := w.Client().Redrive(w.ctx, "arrival", letter.ID); err != nil || n != 1 {
		t.Fatalf("redrive: %d, %v", n, err)
	}
	harness.Until(t, soon, "the letter is dead again", func() error {
		for _, l := range w.dead("arrival", 2) {
			if l.DeadAt.After(letter.DeadAt) && l.Key == letter.Key {
				return nil
			}
		}
		return errors.New("it is not")
	})
	w.apply(poison("size(event.object.key)"))
	if out, errs, code := w.cli("queue", "redrive", "arrival", "--all"); code != 0 || !strings.HasPrefix(out, "2 ") {
		t.Errorf("queue redrive: code %d %s%s", code, out, errs)
	}
	for _, r := range started("poison", 2) {
		if r := w.ends(r.ID, waybill.StatusSucceeded); variable(r, "___N") != "5" || r.Version != 2 {
			t.Errorf("run of version %d with ___N %q, want the repaired one", r.Version, variable(r, "___N"))
		}
	}
	w.dead("arrival", 0)
	started("sound", 2)

	// Starts by HTTP are judged at once.
	for _, x := range []struct {
		name, body string
		status     int
		words      string
	}{
		{"no-such", `{}`, 404, `no pipeline "no-such"`},
		{"params", `{}`, 422, "n"},
		{"params", `{"params":{"n":"many"}}`, 422, "int"},
		{"params", `{"params":{"n":1,"m":2}}`, 422, "m"},
		{"poison", `{}`, 409, "not started by HTTP"},
	} {
		w.post("/api/v1/pipelines/"+x.name+"/runs", "", "application/json", x.body).wants(t, "start "+x.name+" with "+x.body, x.status, x.words)
	}
	if len(w.runs("params")) != 0 {
		t.Error("a refused start left a run")
	}
	// A step that cannot be built fails without a unit, and is not tried again.
	r := w.ends(w.start("unbuildable", "___N=many"), waybill.StatusFailed)
	if len(r.Attempts) != 0 || !strings.Contains(r.Error, "step work") || !strings.Contains(r.Error, "vars.___N") {
		t.Errorf("the run that cannot be built has %d attempts and says %q", len(r.Attempts), r.Error)
	}
	w.ends(w.start("unbuildable", "___N=7"), waybill.StatusSucceeded)
	r = w.ends(w.start("missing"), waybill.StatusFailed)
	if a := attempt(t, r, "work", 1); a.Reason != "start_failed" || !strings.Contains(a.Error, "no-such-program") {
		t.Errorf("a program that is not there: reason %q (%s)", a.Reason, a.Error)
	}
	// A pipeline that is taken away starts nothing more.
	w.Stop()
	if err := os.Remove(w.ProjectDir() + "/pipelines/leaves.yaml"); err != nil {
		t.Fatal(err)
	}
	w.Start()
	w.post("/api/v1/pipelines/leaves/runs", "", "application/json", `{}`).wants(t, "start of a pipeline that was removed", 410, "removed from the project folder")
	w.ends(w.start("unbuildable", "___N=8"), waybill.StatusSucceeded)
	w.dead("run", 0)
}

// One idempotency key is one run: at once, later, after the server was killed.
func TestFA31_IdempotencyKey(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/once.yaml":  pipeline("once", "steps: [{name: work, run: [./note.sh]}]\n"),
		"pipelines/twice.yaml": pipeline("twice", "steps: [{name: work, run: [./note.sh]}]\n"),
		"note.sh":              "#!/bin/sh\necho x >> {{dir}}/noted\n",
	}})
	const path, key = "/api/v1/pipelines/once/runs", "night of the 3rd"
	const body = `{"vars":{"___A":1,"___B":"x"}}`
	ids, replays := map[string]int{}, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			a, err := w.try(http.MethodPost, path, "", strings.NewReader(body), "Content-Type", "application/json", "Idempotency-Key", key)
			if err != nil || a.Status != 202 {
				t.Errorf("start: %v %v", a, err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[a.Header.Get("Location")]++
			if a.Header.Get("Idempotent-Replayed") != "" || a.Header.Get("Idempotency-Replayed") != "" {
				replays++
			}
		})
	}
	wg.Wait()
	if len(ids) != 1 {
		t.Fatalf("the starts answered %d runs: %v", len(ids), ids)
	}
	if replays != 99 {
		t.Errorf("%d answers are marked as repeated, want 99", replays)
	}
	id := w.runs("once")[0].ID
	w.ends(id, waybill.StatusSucceeded)
	same := func(when string) {
		t.Helper()
		a := w.ask(http.MethodPost, path, "", strings.NewReader(body), "Content-Type", "application/json", "Idempotency-Key", key)
		a.wants(t, when, 202)
		if ids[a.Header.Get("Location")] == 0 {
			t.Errorf("%s: another run %s", when, a.Header.Get("Location"))
		}
	}
	same("after its end")
	w.Kill()
	w.Start()
	same("after a restart")
	// The order of names does not make another request; another value does.
	a := w.ask(http.MethodPost, path, "", strings.NewReader(`{"params":{},"vars":{"___B":"x","___A":1}}`), "Content-Type", "application/json", "Idempotency-Key", key)
	a.wants(t, "the same in another order", 202)
	for _, other := range []string{`{}`, `{"vars":{"___A":2,"___B":"x"}}`, `{"vars":{"___A":"1","___B":"x"}}`} {
		w.ask(http.MethodPost, path, "", strings.NewReader(other), "Content-Type", "application/json", "Idempotency-Key", key).
			wants(t, "another body", 422, "idempotency key was used for another request")
	}
	// A key belongs to its pipeline.
	w.ask(http.MethodPost, "/api/v1/pipelines/twice/runs", "", strings.NewReader(body), "Content-Type", "application/json", "Idempotency-Key", key).
		wants(t, "another pipeline", 202)
	out, errs, code := w.cli("start", "once", "--var", "___A=cli", "--idempotency-key", "cli")
	again, _, _ := w.cli("start", "once", "--var", "___A=cli", "--idempotency-key", "cli")
	if code != 0 || out == "" || out != again {
		t.Errorf("the command answers %q and %q (%s)", out, again, errs)
	}
	if n := len(w.runs("once")); n != 2 {
		t.Errorf("there are %d runs, want 2", n)
	}
	for _, r := range append(w.runs("twice"), w.runs("once")...) {
		w.ends(r.ID, waybill.StatusSucceeded)
	}
	if b, _ := os.ReadFile(w.path("noted")); !bytes.Equal(b, []byte("x\nx\nx\n")) {
		t.Errorf("the step was started %d times, want 3", bytes.Count(b, []byte("x")))
	}
}

// cancel asks twice, and checks that the run is over soon and nothing is left.
func (w *world) cancel(id string) client.RunDetail {
	w.t.Helper()
	asked := time.Now()
	for range 2 {
		if _, err := w.Client().CancelRun(w.ctx, id, "no longer wanted"); err != nil {
			w.t.Fatal(err)
		}
	}
	r := w.ends(id, waybill.StatusCanceled)
	if took := r.FinishedAt.Sub(asked); took > 15*time.Second {
		w.t.Errorf("the run was over %v after it was canceled, want at most 15 s", took)
	}
	if r.CancelBy == "" || r.Error != "no longer wanted" {
		w.t.Errorf("canceled by %q for %q", r.CancelBy, r.Error)
	}
	w.cleaned(id)
	w.recorded(id, "run.cancel_asked", 1)
	w.recorded(id, "run.canceling", 1)
	w.recorded(id, "run.ended", 1)
	if _, err := w.Client().CancelRun(w.ctx, id, "again"); err != nil {
		w.t.Errorf("canceled once more: %v", err)
	}
	return r
}

// A run can be canceled wherever it stands.
func TestFA32_Cancel(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"waybill.yaml":              "callback: {grace: 60s}\n",
		"pipelines/hold.yaml":       pipeline("hold", "steps: [{name: work, run: [./hold.sh], retry: {max: 3}}, {name: next, run: [\"true\"]}]\n"),
		"pipelines/stubborn.yaml":   pipeline("stubborn", "steps: [{name: work, run: [./stubborn.sh]}]\n"),
		"pipelines/refused.yaml":    pipeline("refused", "steps: [{name: work, runner: sim, with: {start_error: 1000}}]\n"),
		"pipelines/collecting.yaml": pipeline("collecting", "steps: [{name: work, run: [./hold.sh], callback: required}]\n"),
		"pipelines/waiting.yaml":    pipeline("waiting", "steps: [{name: work, run: [\"false\"], retry: {max: 3, backoff: 1h}}]\n"),
		"pipelines/short.yaml":      pipeline("short", "steps: [{name: work, run: [./hold.sh]}]\n"),
		"stubborn.sh":               stubborn,
	}})
	phase := func(p client.Phase) func(client.Attempt) bool {
		return func(a client.Attempt) bool { return a.Phase == p }
	}
	t.Run("running", func(t *testing.T) {
		w := wrap(t, w.Server)
		t.Parallel()
		id := w.start("hold")
		u := w.held(id, "work", 1)
		w.reaches(id, "work", 1, "runs", phase(waybill.PhaseRunning))
		r := w.cancel(id)
		if a := attempt(t, r, "work", 1); a.Status != waybill.StatusCanceled || attempts(r, "work") != 1 || attempts(r, "next") != 0 {
			t.Errorf("the attempt is %s, there are %d", a.Status, len(r.Attempts))
		}
		u.complete(`{"variables":{"___LATE":1}}`).wants(t, "late callback", 410)
		if got := variable(w.run(id), "___LATE"); got != "" {
			t.Errorf("a late callback set %q", got)
		}
	})
	t.Run("running and deaf", func(t *testing.T) {
		w := wrap(t, w.Server)
		t.Parallel()
		id := w.start("stubborn")
		harness.Until(t, soon, "the unit runs", func() error {
			_, err := os.Stat(w.path("main", id))
			return err
		})
		w.cancel(id)
	})
	t.Run("provisioning", func(t *testing.T) {
		w := wrap(t, w.Server)
		t.Parallel()
		id := w.start("refused")
		w.reaches(id, "work", 1, "is being made", phase(waybill.PhaseProvisioning))
		w.cancel(id)
	})
	t.Run("collecting", func(t *testing.T) {
		w := wrap(t, w.Server)
		t.Parallel()
		id := w.start("collecting")
		u := w.held(id, "work", 1)
		u.exit(0)
		w.reaches(id, "work", 1, "waits for its callback", phase(waybill.PhaseCollecting))
		w.cancel(id)
		u.complete(`{}`).wants(t, "late callback", 410)
	})
	t.Run("before the next try", func(t *testing.T) {
		w := wrap(t, w.Server)
		t.Parallel()
		id := w.start("waiting")
		w.reaches(id, "work", 2, "is queued", phase(waybill.PhaseQueued))
		r := w.cancel(id)
		if a := attempt(t, r, "work", 2); a.Status != waybill.StatusCanceled || !a.StartedAt.IsZero() {
			t.Errorf("attempt 2 is %s, started at %v", a.Status, a.StartedAt)
		}
	})
	t.Run("stopped server", func(t *testing.T) {
		// Asked of a server that is killed right after: the next one does it.
		w := serve(t, harness.Options{Project: map[string]string{
			"pipelines/hold.yaml": pipeline("hold", "steps: [{name: work, run: [./hold.sh]}]\n"),
		}})
		id := w.start("hold")
		w.held(id, "work", 1)
		if _, err := w.Client().CancelRun(w.ctx, id, "no longer wanted"); err != nil {
			t.Fatal(err)
		}
		w.Kill()
		w.Start()
		w.ends(id, waybill.StatusCanceled)
		w.cleaned(id)
	})
	t.Run("cleanup", func(t *testing.T) {
		// Its clean-up is held up, so a server of its own.
		w := serve(t, harness.Options{Project: map[string]string{
			"pipelines/short.yaml": pipeline("short", "steps: [{name: work, run: [./hold.sh]}]\n"),
		}})
		if err := w.Client().Pause(w.ctx, "cleanup", true); err != nil {
			t.Fatal(err)
		}
		id := w.start("short")
		w.held(id, "work", 1).exit(0)
		w.ends(id, waybill.StatusSucceeded)
		w.reaches(id, "work", 1, "is to be cleaned up", func(a client.Attempt) bool { return a.Cleanup == waybill.CleanupPending })
		for range 2 {
			w.post("/api/v1/runs/"+id+"/cancel", "", "application/json", "").wants(t, "cancel after the end", 409, "ended as succeeded")
		}
		if err := w.Client().Pause(w.ctx, "cleanup", false); err != nil {
			t.Fatal(err)
		}
		w.cleaned(id)
		w.ends(id, waybill.StatusSucceeded)
	})
}
