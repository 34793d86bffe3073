//go:build linux

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

// edit changes a file of the project.
func (w *world) edit(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.ProjectDir(), name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) becomes(name string, version int) {
	w.t.Helper()
	harness.Until(w.t, soon, fmt.Sprintf("pipeline %s has version %d", name, version), func() error {
		p, err := w.Client().Pipeline(w.ctx, name, 0)
		if err == nil && p.Version != version {
			err = fmt.Errorf("it has version %d", p.Version)
		}
		return err
	})
}

// A changed file is taken up by new runs; runs that have begun go on as they were; a
// broken file changes nothing and is told of; a removed one starts nothing.
func TestFolderIsTakenUpWhileRunning(t *testing.T) {
	two := func(second string) string {
		return pipeline("edited", "steps:\n  - {name: first, run: [./hold.sh]}\n  - {name: second, run: [echo, "+second+"]}\n")
	}
	w := serve(t, harness.Options{Project: map[string]string{"pipelines/edited.yaml": two("old")}})
	begun := w.start("edited")
	held := w.held(begun, "first", 1)
	w.edit("pipelines/edited.yaml", two("new"))
	w.becomes("edited", 2)
	held.exit(0)
	w.ends(begun, waybill.StatusSucceeded)
	if got := w.ask(http.MethodGet, "/api/v1/runs/"+begun+"/logs?step=second", "", nil); got.Body != "old\n" {
		t.Errorf("a run that had begun said %v", got)
	}
	fresh := w.start("edited")
	w.held(fresh, "first", 1).exit(0)
	if r := w.ends(fresh, waybill.StatusSucceeded); r.Version != 2 {
		t.Errorf("a new run has version %d", r.Version)
	}

	w.edit("pipelines/edited.yaml", strings.Replace(two("broken"), "steps", "setps", 1))
	harness.Until(t, soon, "the mistake is shown", func() error {
		l, err := w.Client().Pipelines(w.ctx, listAll)
		if err == nil && !strings.Contains(l.Items[0].Problem, "pipelines/edited.yaml:") {
			err = fmt.Errorf("the list has %+v", l.Items[0])
		}
		return err
	})
	if h := must(w.Client().Health(w.ctx))(t); h.Status != "ok" || !strings.Contains(h.Checks["project"], "pipelines/edited.yaml") {
		t.Errorf("health: %+v", h)
	}
	if !strings.Contains(w.Log(), "did you mean steps?") {
		t.Error("the server's log does not tell of the mistake")
	}
	still := w.start("edited")
	w.held(still, "first", 1).exit(0)
	if r := w.ends(still, waybill.StatusSucceeded); r.Version != 2 {
		t.Errorf("a run while the file is broken has version %d", r.Version)
	}
	out, _, code := w.cli("pipeline", "reload")
	if code != 1 || !strings.Contains(out, "unknown key setps") {
		t.Errorf("reload exits %d: %s", code, out)
	}

	w.edit("pipelines/edited.yaml", two("mended"))
	w.Signal(syscall.SIGHUP)
	w.becomes("edited", 3)
	if err := os.Remove(filepath.Join(w.ProjectDir(), "pipelines/edited.yaml")); err != nil {
		t.Fatal(err)
	}
	harness.Until(t, soon, "the pipeline is gone", func() error {
		_, err := w.Client().StartRun(w.ctx, "edited", client.StartRun{}, "")
		var e *client.Error
		if !errors.As(err, &e) || e.Kind != waybill.KindGone {
			return fmt.Errorf("a start answers %v", err)
		}
		return nil
	})
	// What a server finds broken when it starts is all told, and it does not start.
	w.edit("pipelines/one.yaml", "name: one\nstepz: []\n")
	w.edit("waybill.yaml", "units: {max: none}\n")
	w.Stop()
	if err := w.TryStart(); err == nil {
		t.Fatal("the server starts with broken files")
	}
	for _, want := range []string{"waybill.yaml:1:14: units.max", "pipelines/one.yaml:2:1: unknown key stepz", "pipelines/one.yaml:1:1: the pipeline has no steps"} {
		if !strings.Contains(w.Log(), want) {
			t.Errorf("at the start it does not say %q", want)
		}
	}
}

// A dry run says what would be done, and leaves nothing behind.
func TestDryRunLeavesNothing(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{"pipelines/planned.yaml": pipeline("planned", `
params: {n: int}
vars: {___WORD: hello}
steps:
  - {name: one, run: [echo, "${{ vars.___WORD }} ${{ params.n }}"], env: {TOKEN: "${secret:API}"}, outputs: {x: int}}
  - {name: two, run: [echo, "${{ steps.one.outputs.x }}"], matrix: {values: {m: [1, 2]}}}
`)}})
	out, _, code := w.cli("start", "planned", "--dry-run", "--param", "n=7", "-o", "json")
	var plan client.RunPlan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	one, two := plan.Steps[0], plan.Steps[1]
	if one.Args[1] != "hello 7" || one.Env["TOKEN"] != "${secret:API}" || len(two.Cells) != 2 || two.Unknown[0] != "steps.one.outputs.x" {
		t.Errorf("plan: %s", out)
	}
	if text, _, _ := w.cli("start", "planned", "--dry-run", "--param", "n=7"); !strings.Contains(text, `run   echo "hello 7"`) || !strings.Contains(text, "not known yet: steps.one.outputs.x") {
		t.Errorf("as text:\n%s", text)
	}
	// A parameter that is not given has no value: the plan says that the step would fail.
	if text, errs, code := w.cli("start", "planned", "--dry-run"); code != 0 || !strings.Contains(text, "it would fail: step one") {
		t.Errorf("without the parameter: exit %d, %s%s", code, text, errs)
	}
	a := w.ask(http.MethodPost, "/api/v1/pipelines/planned/runs?dry_run=true", "", strings.NewReader(`{"params":{"n":"many"}}`), "Content-Type", "application/json")
	a.wants(t, "a dry run with a wrong parameter", 422, "parameter n")
	if runs := w.runs(""); len(runs) != 0 {
		t.Errorf("%d runs are there", len(runs))
	}
}

// Schemas, checks and tests of a project need no server.
func TestProjectIsCheckedWithoutServer(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{
		"pipelines/good.yaml": pipeline("good", "steps:\n  - {name: a, run: [./a], outputs: {n: int}}\n  - {name: b, if: steps.a.outputs.n > 1, run: [./b, \"${{ steps.a.outputs.n }}\"]}\n"),
		"tests/good.yaml":     "pipeline: good\ntests:\n  - {name: more, steps: {a: {outputs: {n: 2}}}, expect: {calls: {b: [{args: [./b, \"2\"]}]}}}\n  - {name: less, expect: {steps: {b: skipped}}}\n",
	}})
	dir := w.ProjectDir()
	if out, errs, code := w.cli("pipeline", "test", "--project", dir, filepath.Join(dir, "tests")); code != 0 || !strings.Contains(out, "2 passed, 0 failed") {
		t.Errorf("pipeline test exits %d: %s%s", code, out, errs)
	}
	if out, errs, code := w.cli("pipeline", "validate", "--strict", dir); code != 0 || !strings.Contains(out, "ok") {
		t.Errorf("pipeline validate exits %d: %s%s", code, out, errs)
	}
	w.edit("tests/bad.yaml", "pipeline: good\nexpect: {status: nearly}\n")
	w.edit("pipelines/bad.yaml", "name: bad\non: {schedule: {cron: \"0 * */10 * * *\"}}\nsteps:\n  - {name: a, run: x}\n")
	w.edit("waybill.yaml", "unitz: {}\n")
	out, _, code := w.cli("pipeline", "validate", "-o", "json", dir)
	var v struct {
		OK       bool
		Problems []client.SourceProblem
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != 1 || v.OK || len(v.Problems) != 3 {
		t.Errorf("pipeline validate exits %d, %v: %s", code, err, out)
	}
	if out, _, code := w.cli("pipeline", "test", "--project", dir, "-o", "junit", filepath.Join(dir, "tests/good.yaml")); code != 0 || !strings.Contains(out, `<testsuite name="waybill" tests="2" failures="0"`) {
		t.Errorf("junit: exit %d: %s", code, out)
	}
	for _, kind := range []string{"pipeline", "settings", "test"} {
		out, _, code := w.cli("schema", kind)
		got := w.ask(http.MethodGet, "/api/v1/schemas/"+kind, "", nil)
		if code != 0 || !json.Valid([]byte(out)) || got.Status != 200 || got.Body != out {
			t.Errorf("schema %s: exit %d, %d bytes; the server answers %d with %d", kind, code, len(out), got.Status, len(got.Body))
		}
	}
}
