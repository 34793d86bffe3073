//go:build linux

package faults

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// A server that was stopped in its tracks for longer than its lease has lost its
// work to another one. When it goes on, it can write nothing about it any more and
// ends the units it still has.
func TestFA28_PausedServer(t *testing.T) {
	files := relay("relay", "")
	files["pipelines/other.yaml"] = pipeline("other", "steps: [{name: work, run: [\"true\"]}]\n")
	one := serve(t, harness.Options{Store: "postgres", Project: files, Args: []string{"--lease", "2s"}})
	// Of these the first server still has the unit when it goes on, the unit has
	// ended meanwhile, and the unit had reported before.
	running, ended, reported := one.start("relay"), one.start("relay"), one.start("relay")
	ids := []string{running, ended}
	first := map[string]unit{}
	for _, id := range append(ids, reported) {
		first[id] = one.held(id, "work", 1)
		one.reaches(id, "work", 1, "runs", func(a client.Attempt) bool { return a.Phase == waybill.PhaseRunning })
	}
	first[reported].complete(`{"variables":{"___X":"before the pause"}}`).wants(t, "callback before the pause", 202)

	two := wrap(t, one.Sibling())
	one.Signal(syscall.SIGSTOP)
	second := map[string]unit{}
	for _, id := range ids {
		a := two.reaches(id, "work", 1, "is lost", func(a client.Attempt) bool { return a.Status.Terminal() })
		if a.Status != waybill.StatusLost || a.Reason != "node_lost" {
			t.Errorf("attempt 1 is %s, reason %q (%s); want lost, node_lost", a.Status, a.Reason, a.Error)
		}
		u := one.held(id, "work", 2) // the project's scripts write into the first server's folder
		second[id] = u
		b := two.reaches(id, "work", 2, "runs", func(a client.Attempt) bool { return a.Phase == waybill.PhaseRunning })
		if b.Node == a.Node || b.Unit == a.Unit {
			t.Errorf("attempt 2 is unit %s of node %s, as attempt 1", b.Unit, b.Node)
		}
	}
	two.ends(two.start("other"), waybill.StatusSucceeded)
	// What was reported is not made again.
	r := two.ends(reported, waybill.StatusSucceeded)
	if got := variable(r, "___X") + " " + one.noted(reported); got != "before the pause before the pause\n" || attempts(r, "work") != 1 {
		t.Errorf("the run that had reported has %d attempts and %q", attempts(r, "work"), got)
	}
	two.recorded(reported, "attempt.warning", 1)
	first[ended].exit(0)
	harness.Until(t, soon, "the unit ends while its server does nothing", func() error {
		a := attempt(t, two.run(ended), "work", 1)
		for _, p := range one.Units() {
			if p.Unit == a.Unit {
				return fmt.Errorf("process %v", p)
			}
		}
		return nil
	})

	one.Signal(syscall.SIGCONT)
	harness.Until(t, soon, "the first server ends what is no longer its own", func() error {
		if left := one.Units(); len(left) > 0 {
			return fmt.Errorf("processes %v", left)
		}
		return nil
	})
	if err := one.Healthy(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		// Over either server the old attempt is closed and the new one open.
		for _, w := range []*world{one, two} {
			w.post(w.URL()+pathOf(first[id].callback), first[id].token, "application/json", `{"variables":{"___X":"stale"}}`).wants(t, "callback of the lost attempt", 410)
		}
		u := second[id]
		one.post(one.URL()+pathOf(u.callback), u.token, "application/json", `{"variables":{"___X":"made again"}}`).wants(t, "callback of the new attempt", 202)
		u.exit(0)
	}
	for _, id := range ids {
		r := one.ends(id, waybill.StatusSucceeded)
		if a := attempt(t, r, "work", 1); a.Status != waybill.StatusLost {
			t.Errorf("attempt 1 became %s", a.Status)
		}
		if got := variable(r, "___X") + " " + one.noted(id); got != "made again made again\n" || attempts(r, "work") != 2 || attempts(r, "next") != 1 {
			t.Errorf("the run with %d attempts has %q, want one outcome of the second", attempts(r, "work"), got)
		}
		one.recorded(id, "step.ended", 2)
		one.recorded(id, "run.ended", 1)
		ends := map[string]int{}
		for _, rec := range one.records(id, "attempt.ended") {
			v, err := rec.Data.Decode()
			if err != nil {
				t.Fatal(err)
			}
			ends[fmt.Sprint(v.(map[string]any)["attempt"])]++
		}
		for key, n := range ends {
			if n != 1 {
				t.Errorf("attempt %s ended %d times", key, n)
			}
		}
		one.cleaned(id)
		two.cleaned(id)
	}
	one.cleaned(reported)
	one.recorded(reported, "run.ended", 1)
	one.ends(one.start("other"), waybill.StatusSucceeded)
	if l, err := one.Client().DeadLetters(one.ctx, "unit", client.ListDeadLettersParams{Limit: 10}); err != nil || len(l.Items) > 0 {
		t.Error(errors.Join(err, fmt.Errorf("dead letters: %v", l.Items)))
	}
}

// A server that is alone loses its leases when it is paused, and nothing else: it
// goes on with the units it had.
func TestFA28_PausedAlone(t *testing.T) {
	files := relay("relay", "")
	files["pipelines/other.yaml"] = pipeline("other", "steps: [{name: work, run: [\"true\"]}]\n")
	w := serve(t, harness.Options{Project: files, Args: []string{"--lease", "1s"}})
	id := w.start("relay")
	u := w.held(id, "work", 1)
	w.reaches(id, "work", 1, "runs", func(a client.Attempt) bool { return a.Phase == waybill.PhaseRunning })
	w.Signal(syscall.SIGSTOP)
	paused := time.Now()
	harness.Until(t, soon, "the leases have run out", func() error {
		if left := 5*time.Second - time.Since(paused); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
	w.Signal(syscall.SIGCONT)
	// The queue has noticed the pause when what came after it is done.
	w.ends(w.start("other"), waybill.StatusSucceeded)
	u.complete(`{"variables":{"___X":"kept"}}`).wants(t, "callback after the pause", 202)
	u.exit(0)
	r := w.ends(id, waybill.StatusSucceeded)
	if got := w.noted(id); got != "kept\n" || len(r.Attempts) != 2 {
		t.Errorf("the step after it saw %q after %d attempts", got, len(r.Attempts))
	}
	w.cleaned(id)
}
