package app

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/waybill-run/waybill/internal/rehearsal"
)

const rehearsed = `
name: rehearsed
on: {http: {}}
params: {size: {type: int, default: 1}}
vars: {___DAY: "${{ format(event.time, '2006-01-02') }}"}
steps:
  - name: fetch
    run: ["./fetch", "${{ vars.___DAY }}"]
    env: {TOKEN: "${secret:API}"}
    timeout: 10m
    retry: {max: 2, backoff: 1h}
    outputs: {rows: int, ___NAME: string, report: {file: out/report.csv}}
  - name: ask
    runner: approval
    with: {message: "${{ steps.fetch.outputs.rows }} rows", expires: 7d}
  - name: pause
    runner: wait
    with: {for: 30d}
  - name: crunch
    runner: sim
    matrix: {values: {shard: "${{ [1, 2, params.size] }}"}, max_parallel: 2, fail_fast: false}
    with: {log_text: ["shard ${{ matrix.shard }}"]}
  - name: publish
    if: steps.fetch.outputs.rows > 10 && steps.ask.outputs.decision == 'approved'
    runner: http
    with: {url: "https://example.com/${{ vars.___NAME }}", body: {rows: "${{ steps.fetch.outputs.rows }}"}}
on_failure: [{name: tell, run: ["./tell", "${{ run.failed_step }}"]}]
outputs: {rows: "${{ steps.fetch.outputs.rows }}"}
`

// play runs tests of the pipeline rehearsed.
func play(t *testing.T, tests string) []rehearsal.Result {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"pipelines/rehearsed.yaml": rehearsed, "tests/all.yaml": "pipeline: rehearsed\nsecrets: {API: hush-hush}\ntests:\n" + tests} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	results, err := rehearse(t.Context(), dir, []string{filepath.Join(dir, "tests")}, regexp.MustCompile(""))
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func TestRehearsals(t *testing.T) {
	t.Parallel()
	for _, r := range play(t, `
  - name: everything
    event: {time: "2026-03-02T10:00:00Z"}
    params: {size: 3}
    steps:
      fetch: {outputs: {rows: 12, ___NAME: north}, files: {out/report.csv: "a,b"}}
    expect:
      status: succeeded
      vars: {___day: "2026-03-02", ___NAME: north, ___NONE: null}
      outputs: {rows: 12}
      steps: {publish: succeeded, ask: {status: succeeded, outputs: {decision: approved}}, tell: skipped, crunch.2: succeeded}
      calls:
        fetch: [{args: [./fetch, "2026-03-02"], env: {TOKEN: hush-hush, ___DAY: "2026-03-02"}}]
        crunch: 3
        publish: [{with: {url: https://example.com/north, body: {rows: 12}}}]
        tell: 0
  - name: too few rows
    steps: {fetch: {outputs: {rows: 3}}}
    expect: {steps: {publish: skipped}, calls: {publish: 0}, outputs: {rows: 3}}
  - name: rejected
    steps: {fetch: {outputs: {rows: 30}}, ask: {outputs: {decision: rejected}}}
    expect: {steps: {publish: skipped}}
  - name: fails twice, then works
    steps: {fetch: [{exit: 3}, {lost: true}, {outputs: {rows: 1}}]}
    expect: {steps: {fetch: {status: succeeded, attempts: 3}}}
  - name: fails for good
    steps: {fetch: {exit: 3, error: "no space"}}
    expect:
      status: failed
      error: no space
      steps: {fetch: {status: failed, attempts: 3}, tell: succeeded}
      calls: {tell: [{args: [./tell, fetch]}]}
  - name: too long
    steps: {fetch: {duration: 11m}}
    expect: {status: timed_out, steps: {fetch: {status: timed_out, reason: timeout}}}
  - name: just in time
    steps: {fetch: {duration: 9m}}
  - name: one cell
    steps: {crunch.1: {exit: 1}}
    expect: {status: failed, steps: {crunch.0: succeeded, crunch.1: failed, crunch.2: succeeded, crunch: failed}}
  - name: refused
    params: {size: big}
    expect: {status: failed, error: parameter size}
`) {
		if !r.OK {
			t.Errorf("%s: %s", r.Name, why(r))
		}
	}
}

func TestRehearsalsTellWhatDiffers(t *testing.T) {
	t.Parallel()
	results := play(t, `
  - name: status
    expect: {status: failed}
  - name: value
    steps: {fetch: {outputs: {rows: 3}}}
    expect: {outputs: {rows: 4}}
  - name: step
    expect: {steps: {nope: failed}}
  - name: calls
    expect: {calls: {fetch: [{args: [./fetch]}], publish: 1, nope: 0}}
  - name: secret
    secrets: {}
    expect: {}
  - name: no such step
    steps: {nope: {exit: 1}}
`)
	for i, want := range []string{
		"expect.status\n  - want \"failed\"\n  + got  \"succeeded\"",
		"expect.outputs.rows\n  - want 4\n  + got  3",
		"the run has no step nope",
		`expect.calls.fetch[0].args`,
		"the test has no secret API",
		"the pipeline has no step nope",
	} {
		if got := why(results[i]); results[i].OK || !strings.Contains(got, want) {
			t.Errorf("%s: %s\nwant %s", results[i].Name, got, want)
		}
	}
	if got := why(results[3]); !strings.Contains(got, "expect.calls.publish (number)") || !strings.Contains(got, "pipeline has no step nope") {
		t.Errorf("calls: %s", got)
	}
	var b bytes.Buffer
	if err := report(&b, "junit", results); err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
	}
	if err := xml.Unmarshal(b.Bytes(), &suite); err != nil || suite.Tests != 6 || suite.Failures+suite.Errors != 6 {
		t.Errorf("junit %+v, %v:\n%s", suite, err, b.String())
	}
	b.Reset()
	if err := report(&b, "json", results); err != nil || !json.Valid(b.Bytes()) {
		t.Errorf("json: %v: %s", err, b.String())
	}
}

func TestFilesOfTestsWithMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"pipeline: p\nexpct: {}\n":                    `x.yaml:2:1: unknown field "expct"`,
		"pipeline: p\nsteps: {a: {exti: 1}}\n":        `unknown field "exti"`,
		"pipeline: p\nsteps: {a: {exit: 300}}\n":      "not between 0 and 255",
		"pipeline: p\nexpect: {status: done}\n":       `no status "done"`,
		"pipeline: p\nexpect: {steps: {a: done}}\n":   `no status "done"`,
		"pipeline: p\nevent: {time: noon}\n":          "not a time",
		"pipeline: p\nsteps: {a: {duration: long}}\n": "not a duration",
		"name: x\n": "names no pipeline",
		"pipeline: p\nparams: {a: 1}\ntests: [{name: x}]\n": "beside tests",
		"pipeline: p\ntests: [{name: x}, {name: x}]\n":      "there twice",
		"pipeline: [\n": "x.yaml",
		"pipeline: p\nexpect: {calls: {a: [{arguments: [x]}]}}\n": "arguments",
	} {
		_, err := rehearsal.Read("x.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error = %v, want %s", text, err, want)
		}
	}
}

// The tests of the examples pass.
func TestExamplesPassTheirTests(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("../../examples/*/tests")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no tests of examples: %v", err)
	}
	for _, dir := range dirs {
		results, err := rehearse(context.WithoutCancel(t.Context()), filepath.Dir(dir), []string{dir}, regexp.MustCompile(""))
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		for _, r := range results {
			if !r.OK {
				t.Errorf("%s: %s: %s", dir, r.Name, why(r))
			}
		}
	}
}
