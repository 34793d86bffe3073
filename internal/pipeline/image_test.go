package pipeline_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/waybill-run/waybill/internal/pipeline"
)

func TestImage(t *testing.T) {
	seen := map[string]string{}
	o := pipeline.Options{
		Runners: []string{"process", "oci", "docker"}, Images: []string{"docker", "oci"}, ImageRunner: "oci",
		Check: func(runner string, _ []string, with json.RawMessage) error {
			seen[runner] += string(with)
			return nil
		},
	}
	for _, c := range []struct{ step, runner, with, problem string }{
		{step: "image: a/b:1", runner: "oci", with: `{"image":"a/b:1"}`},
		{step: "image: a/b:1\n    runner: docker\n    with: {cpu: 2}", runner: "docker", with: `{"cpu":2,"image":"a/b:1"}`},
		{step: "image: a/${{ params.v }}\n    runner: docker", runner: "docker", with: `{"image":"a/${{ params.v }}"}`},
		{step: "image: a\n    with: {image: b}", problem: "p.yaml:6:19: step x has two images"},
		{step: "image: a\n    runner: process\n    run: [x]", problem: "p.yaml:5:12: step x has an image, which the runner process does not use"},
	} {
		clear(seen)
		plan, err := pipeline.Parse("p.yaml", []byte("name: p\nparams: {v: string}\nsteps:\n  - name: x\n    "+c.step+"\n"), o)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%s:\n%v, want %s", c.step, err, c.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.step, err)
			continue
		}
		if got := plan.Step("x").Runner; got != c.runner || seen[c.runner] != c.with {
			t.Errorf("%s: runner %s with %v, want %s with %s", c.step, got, seen, c.runner, c.with)
		}
	}
	o.ImageRunner = ""
	_, err := pipeline.Parse("p.yaml", []byte("name: p\nsteps: [{name: x, image: a}]\n"), o)
	if err == nil || !strings.Contains(err.Error(), "no runner of containers answers here") {
		t.Errorf("without a runner: %v", err)
	}
}

// Files that will not come back are told of when the definition is read, not when an hour's
// work is lost.
func TestFilesThatDoNotComeBack(t *testing.T) {
	o := pipeline.Options{Runners: []string{"process", "oci", "kubernetes"}, Images: []string{"oci", "kubernetes"}, NoFiles: map[string]string{"kubernetes": "use a bucket"}}
	const step = "name: p\nsteps: [{name: a, runner: %s, image: x, run: [y], outputs: {report: {file: report.csv}, rows: int}}]\n"
	for name, want := range map[string]string{"kubernetes": "no output files come back from the runner kubernetes", "oci": ""} {
		_, err := pipeline.Parse("p.yaml", fmt.Appendf(nil, step, name), o)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
