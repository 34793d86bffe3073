package enginetest_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-run/waybill"
)

// calm is a world in which nothing goes wrong, with one pipeline p.
func calm(t *testing.T, src string) *world {
	w := newWorld(t, 1)
	w.f.stop()
	w.plans["p"] = parse(t, src)
	return w
}

// run starts p and returns what has become of it.
func (w *world) run(t *testing.T) *waybill.Run {
	t.Helper()
	run, _, err := w.nodes[0].engine().StartRun(context.Background(), waybill.StartRequest{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if left := w.quiet(10 * time.Minute); left != nil {
		t.Errorf("messages are left: %+v", left)
	}
	w.judge()
	w.close()
	return get[waybill.Run](w.watch, "run", run.ID)
}

// A cell that cannot begin stops the others, some of which the same message has just made.
func TestCellsThatCannotBegin(t *testing.T) {
	for name, step := range map[string]string{
		"none can":             `runner: sim, env: {X: "${{ vars.___list[5] }}"}`,
		"some can":             `runner: sim, env: {X: "${{ string([1, 2][matrix.v - 1]) }}"}, with: {run_for: 1h}`,
		"no such pipeline":     `runner: pipeline, with: {pipeline: nowhere}`,
		"some have a pipeline": `runner: pipeline, timeout: 4m, with: {pipeline: "${{ ['leaf', 'leaf', 'nowhere'][matrix.v - 1] }}"}`,
		"some can wait":        `runner: wait, with: {for: "${{ ['4m', '4m', 'soon'][matrix.v - 1] }}"}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := calm(t, "name: p\nsteps: [{name: s, matrix: {values: {v: [1, 2, 3]}}, "+step+"}]\n")
				run := w.run(t)
				if run.Status != waybill.StatusFailed || !strings.Contains(run.Error, "cells failed; the first was s.") {
					t.Errorf("the run is %s: %s", run.Status, run.Error)
				}
				if took := run.FinishedAt.Sub(run.CreatedAt); took > time.Minute {
					t.Errorf("it took %s for the cells that had begun to be stopped", took)
				}
			})
		})
	}
}

// A cell reports by callback like every step.
func TestCellsCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := calm(t, `
name: p
steps:
  - name: s
    matrix: {values: {v: [1, 2]}}
    runner: sim
    callback: required
    heartbeat: 5s
    with: {run_for: 20s, heartbeat: 2s, callback: {variables: {n: 3}}}
    outputs: {n: int}
`)
		if run := w.run(t); run.Status != waybill.StatusSucceeded {
			t.Errorf("the run is %s: %s", run.Status, run.Error)
		}
	})
}

// A unit that this life of a server did not start is not judged before its secrets are
// known, and those it was started with count even when they were replaced since.
func TestAdoptedUnitsAreMasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := calm(t, `
name: p
steps:
  - name: s
    runner: sim
    env: {KEY: "${secret:alpha}"}
    with: {run_for: 20s, outputs: {echo: "alpha is ${secret:alpha}"}}
`)
		n := w.nodes[0]
		if _, _, err := n.engine().StartRun(t.Context(), waybill.StartRequest{Pipeline: "p"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		n.end(true)
		w.turn("alpha", w.f.rng)
		w.vault.fail(3) // its first reads after the restart
		n.boot(false)
		if left := w.quiet(10 * time.Minute); left != nil {
			t.Errorf("messages are left: %+v", left)
		}
		w.judge()
		w.close()
		for _, id := range w.ids("run:", func([]byte) bool { return true }) {
			if run := get[waybill.Run](w.watch, "run", id); run.Status != waybill.StatusSucceeded {
				t.Errorf("the run is %s: %s", run.Status, run.Error)
			}
		}
	})
}
