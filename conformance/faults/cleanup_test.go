//go:build linux

package faults

import (
	"fmt"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// A unit may report before the call that started it was answered.
func TestFA09_CallbackBeforeStartIsAnswered(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/early.yaml": pipeline("early", `
steps:
  - name: work
    runner: sim
    callback: required
    with: {run_for: 100ms, slow_start: 1500ms, callback: {after: 20ms, variables: {___EARLY: "yes"}}}
`),
	}})
	id := w.start("early")
	a := w.reaches(id, "work", 1, "has reported", func(a client.Attempt) bool { return a.Callback.Status != "" })
	if a.Phase != waybill.PhaseProvisioning {
		t.Errorf("it reported when it was %s, want provisioning", a.Phase)
	}
	r := w.ends(id, waybill.StatusSucceeded)
	if got := variable(r, "___EARLY"); got != "yes" || attempts(r, "work") != 1 {
		t.Errorf("the variable is %q after %d attempts", got, attempts(r, "work"))
	}
	w.cleaned(id)
}

// A unit that cannot be removed does not change the outcome of its run; it is shown, and
// tried until it is gone.
func TestFA14_RemovalFails(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/sticky.yaml": pipeline("sticky", "steps: [{name: work, runner: sim, with: {remove_error: 3}}]\n"),
	}})
	id := w.start("sticky")
	w.ends(id, waybill.StatusSucceeded)
	a := w.reaches(id, "work", 1, "shows that its clean-up fails", func(a client.Attempt) bool { return a.Cleanup == waybill.CleanupDeleting })
	if !strings.Contains(a.CleanupError, "refused on demand") {
		t.Errorf("its clean-up says %q", a.CleanupError)
	}
	if r := w.run(id); r.Status != waybill.StatusSucceeded {
		t.Errorf("the run is %s while clean-up fails", r.Status)
	}
	w.cleaned(id)
	w.recorded(id, "cleanup.gone", 1)
}

// A unit that nobody removes because its order was lost is found and removed; units that
// run are left alone.
func TestFA16_Orphan(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"waybill.yaml":        "units: {orphan_sweep: 200ms, orphan_grace: 1s}\n",
		"pipelines/left.yaml": pipeline("left", "steps: [{name: work, run: [sh, -c, 'echo left > behind']}]\n"),
		"pipelines/hold.yaml": pipeline("hold", "steps: [{name: work, run: [./hold.sh]}]\n"),
	}})
	running := w.start("hold")
	u := w.held(running, "work", 1)
	if _, errs, code := w.cli("pause", "cleanup"); code != 0 {
		t.Fatal(errs)
	}
	id := w.start("left")
	w.ends(id, waybill.StatusSucceeded)
	if out, errs, code := w.cli("queue", "purge", "cleanup"); code != 0 {
		t.Fatalf("queue purge: %s%s", out, errs)
	}
	if len(w.UnitDirs()) == 0 {
		t.Fatal("nothing of the unit was left to be found")
	}
	if _, errs, code := w.cli("resume", "cleanup"); code != 0 {
		t.Fatal(errs)
	}
	w.cleaned(id)
	if got := w.records(id, "orphan.found"); len(got) != 1 {
		t.Errorf("records of the orphan: %v", got)
	}
	u.exit(0)
	r := w.ends(running, waybill.StatusSucceeded)
	if len(w.records(running, "orphan.found")) > 0 || attempts(r, "work") != 1 {
		t.Error("a unit that ran was taken for an orphan")
	}
}

// A start whose answer is lost is repeated under the same name: there is one unit.
func TestFA17_StartAnswerLost(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/unheard.yaml": pipeline("unheard", `
steps:
  - {name: work, runner: sim, with: {lose_answer: 2, run_for: 300ms, log_text: [here], outputs: {___N: "1"}}}
`),
	}})
	id := w.start("unheard")
	r := w.ends(id, waybill.StatusSucceeded)
	if attempts(r, "work") != 1 {
		t.Errorf("%d attempts, want the one that was started", attempts(r, "work"))
	}
	out, _, _ := w.cli("run", "logs", id)
	if n := strings.Count(out, "here\n"); n != 1 {
		t.Errorf("the unit ran %d times", n)
	}
	w.recorded(id, "attempt.running", 1)
	w.cleaned(id)
}

// An image that cannot be had for a while costs the step none of its tries; one that never
// can ends the attempt at once, and says why.
func TestFA18_Pulls(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/quota.yaml": pipeline("quota", "steps: [{name: work, runner: sim, with: {pull_errors: 2, pull_reason: pull_quota, log_text: [here]}}]\n"),
		"pipelines/gone.yaml":  pipeline("gone", "steps: [{name: work, runner: sim, retry: {max: 2, backoff: 10ms}, with: {pull_errors: 9, pull_reason: pull_not_found}}]\n"),
		"pipelines/stop.yaml":  pipeline("stop", "steps: [{name: work, runner: sim, with: {pull_errors: 9}}]\n"),
	}})
	id := w.start("quota")
	if r := w.ends(id, waybill.StatusSucceeded); attempts(r, "work") != 1 {
		t.Errorf("%d attempts, want the one whose image came at last", attempts(r, "work"))
	}
	w.recorded(id, "attempt.pull_failed", 1)
	w.cleaned(id)

	id = w.start("gone")
	r := w.ends(id, waybill.StatusFailed)
	for _, a := range r.Attempts {
		if a.Reason != "pull_not_found" || !strings.Contains(a.Error, "not to be had on demand") {
			t.Errorf("attempt %d ended with %s: %s", a.Number, a.Reason, a.Error)
		}
	}
	w.cleaned(id)

	id = w.start("stop")
	harness.Until(t, soon, "its first pull has failed", func() error {
		if n := len(w.records(id, "attempt.pull_failed")); n != 1 {
			return fmt.Errorf("there are %d records of it", n)
		}
		return nil
	})
	if _, errs, code := w.cli("run", "cancel", id); code != 0 {
		t.Fatal(errs)
	}
	w.ends(id, waybill.StatusCanceled)
	w.cleaned(id)
}

// Everything that was made for an attempt is listed until nothing of it is left, with when
// its removal is tried next.
func TestUnitList(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/sticky.yaml": pipeline("sticky", "steps: [{name: work, runner: sim, with: {remove_error: 2}}]\n"),
		"pipelines/hold.yaml":   pipeline("hold", "steps: [{name: work, run: [./hold.sh]}]\n"),
	}})
	running := w.start("hold")
	u := w.held(running, "work", 1)
	sticky := w.start("sticky")
	w.ends(sticky, waybill.StatusSucceeded)
	harness.Until(t, soon, "both are listed", func() error {
		l, err := w.Client().Units(w.ctx)
		if err != nil {
			return err
		}
		var runs, waits bool
		for _, x := range l.Items {
			runs = runs || x.Run == running && x.Runner == "process" && x.Phase == waybill.PhaseRunning && x.Known && x.Cleanup == "" && !x.Orphan
			waits = waits || x.Run == sticky && x.Runner == "sim" && x.Cleanup == waybill.CleanupPending && x.Tries > 0 && x.NextTry.After(l.At) && strings.Contains(x.CleanupError, "refused on demand")
		}
		if !runs || !waits {
			return fmt.Errorf("the list is %+v", l.Items)
		}
		return nil
	})
	if out, errs, code := w.cli("unit", "list"); code != 0 || !strings.Contains(out, running) || !strings.Contains(out, "refused on demand") {
		t.Errorf("unit list (%d): %s%s", code, out, errs)
	}
	u.exit(0)
	w.ends(running, waybill.StatusSucceeded)
	w.cleaned(running)
	w.cleaned(sticky)
	if out, _, code := w.cli("unit", "list"); code != 0 || strings.Contains(out, running) || strings.Contains(out, sticky) {
		t.Errorf("what is gone is listed: %s", out)
	}
}
