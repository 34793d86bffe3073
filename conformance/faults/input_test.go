//go:build linux

package faults

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

var listAll = client.ListPipelinesParams{Limit: 100}

const sound = "name: sound\non: {http: {}}\nsteps: [{name: work, run: [\"true\"]}]\n"

// definitions are such as cannot be used, each with words that the answer must have.
func definitions() map[string]struct{ yaml, words string } {
	step := func(rest string) string {
		return "name: bad\non: {http: {}}\nsteps:\n  - {name: work, run: [\"true\"]}\n  - {name: next, " + rest + "}\n"
	}
	alias := "name: bad\nx0: &x0 [a,a,a,a,a,a,a,a,a,a]\n"
	for i := 1; i < 12; i++ {
		alias += fmt.Sprintf("x%d: &x%d [*x%d,*x%d,*x%d,*x%d,*x%d,*x%d,*x%d,*x%d,*x%d]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	return map[string]struct{ yaml, words string }{
		"an open bracket":        {"name: bad\nsteps: [{name: a\n", ""},
		"a tab":                  {"name: bad\n\tsteps: []\n", ""},
		"a key twice":            {"name: bad\nname: worse\n" + sound[len("name: sound\n"):], "name"},
		"no object":              {"- 1\n- 2\n", ""},
		"text":                   {"just words", ""},
		"two documents":          {sound + "---\n" + sound, ""},
		"an alias bomb":          {alias, ""},
		"a deep list":            {"name: bad\nsteps: " + strings.Repeat("[", 20000) + "\n", ""},
		"no UTF-8":               {"name: bad\xff\n", ""},
		"a NUL":                  {"name: \"bad\\0\"\n" + sound[len("name: sound\n"):], ""},
		"no steps":               {"name: bad\non: {http: {}}\n", "steps"},
		"an unknown key":         {"name: bad\nstepz: []\n", "stepz"},
		"a key of another tool":  {step("command: [a]"), "did you mean run?"},
		"a name in capitals":     {strings.Replace(sound, "sound", "Bad_Name", 1), "for example bad-name"},
		"a long name":            {strings.Replace(sound, "sound", strings.Repeat("a", 64), 1), "63 characters"},
		"a path as a name":       {strings.Replace(sound, "sound", "../../etc", 1), "a name has small letters"},
		"a step twice":           {step("run: [a]}\n  - {name: next, run: [b]"), "twice"},
		"a need that is unknown": {step("run: [a], needs: [wrok]"), "did you mean work?"},
		"needs in a circle":      {"name: bad\non: {http: {}}\nsteps: [{name: a, run: [x], needs: [b]}, {name: b, run: [x], needs: [a]}]\n", ""},
		"a shell line":           {step("run: echo hello"), "list"},
		"a time without unit":    {step("run: [a], timeout: 10"), "10s"},
		"a negative time":        {step("run: [a], timeout: -1s"), "longer than zero"},
		"too many retries":       {step("run: [a], retry: {max: 999999999}"), "retry.max"},
		"an unknown runner":      {step("runner: procses, run: [a]"), "process"},
		"an expression broken":   {step(`run: [echo, "${{ 1 + }}"]`), "run[1]"},
		"an expression open":     {step(`run: [echo, "${{ vars.x "]`), ""},
		"an unknown output":      {step(`run: [echo, "${{ steps.work.outputs.rows }}"]`), "rows"},
		"an unknown step":        {step(`run: [echo, "${{ steps.wrok.outputs.rows }}"]`), "wrok"},
		"an unknown parameter":   {step(`run: [echo, "${{ params.region }}"]`), "region"},
		"types that do not fit":  {step(`run: [echo, "${{ 1 + 'a' }}"]`), ""},
		"an unknown function":    {step(`run: [echo, "${{ system('rm') }}"]`), "system"},
		"the server's env":       {step(`run: [echo, "${env:HOME}"]`), "HOME"},
		"a variable of ours":     {"name: bad\nvars: {WAYBILL_TOKEN: x}\n" + sound[len("name: sound\n"):], "WAYBILL_"},
		"a variable without":     {"name: bad\nvars: {\"a=b\": x}\n" + sound[len("name: sound\n"):], "a=b"},
		"a file outside":         {step("run: [a], outputs: {f: {file: ../../secret}}"), ""},
		"sim set wrong":          {step("runner: sim, with: {run_fro: 1s}"), "run_for"},
	}
}

// Input that makes no sense is answered with what is wrong, and leaves nothing.
func TestBadInput(t *testing.T) {
	w := serve(t, harness.Options{Project: map[string]string{"pipelines/sound.yaml": sound}})
	file := w.path("bad.yaml")
	n := 0
	for name, x := range definitions() {
		for _, path := range []string{"/api/v1/pipelines", "/api/v1/pipelines/validate"} {
			a := w.post(path, "", "application/yaml", x.yaml)
			if a.Status != 422 && a.Status != 400 {
				t.Errorf("%s: %s answers %v", name, path, a)
				continue
			}
			text := a.Problem.Detail
			for _, p := range a.Problem.Problems {
				text += fmt.Sprintf("\n%d:%d %s %s", p.Line, p.Column, p.Msg, p.Hint)
				if p.Msg == "" {
					t.Errorf("%s: a problem says nothing: %+v", name, p)
				}
			}
			if len(a.Problem.Problems) == 0 || a.Problem.Problems[0].Line < 1 {
				t.Errorf("%s: the answer names no line: %s", name, a.Body)
			}
			if !strings.Contains(text, x.words) {
				t.Errorf("%s: the answer does not say %q: %s", name, x.words, text)
			}
			if len(a.Body) > 20_000 {
				t.Errorf("%s: the answer has %d bytes", name, len(a.Body))
			}
		}
		// Each command takes a process, so they share the table.
		command := []string{"apply", "validate"}[n%2]
		n++
		if strings.Contains(x.yaml, "${env:") {
			command = "apply" // a file may be one of the folder, where this is allowed
		}
		w.write(file, x.yaml)
		out, errs, code := w.cli("pipeline", command, file)
		if code != 1 || !strings.Contains(out+errs, "bad.yaml:") || !strings.Contains(errs, "waybill: error: ") || !strings.Contains(errs, "found\n") {
			t.Errorf("%s: pipeline %s ends with %d\n%s\n%s", name, command, code, out, errs)
		}
	}

	const runs, object = "/api/v1/pipelines/sound/runs", "/api/v1/buckets/inbox/objects/"
	for _, x := range []struct {
		name, method, path, kind, body string
		status                         int
		words                          string
	}{
		{"no definition", "POST", "/api/v1/pipelines", "application/yaml", "", 400, "no body"},
		{"a large definition", "POST", "/api/v1/pipelines", "application/yaml", sound + strings.Repeat("# x\n", 300<<10), 413, "1048576"},
		{"a definition as an image", "POST", "/api/v1/pipelines", "image/png", sound, 415, "image/png"},
		{"a definition of the folder", "POST", "/api/v1/pipelines", "application/yaml", sound + "# changed\n", 409, "read-only"},

		{"half an object", "POST", runs, "application/json", `{"vars":`, 400, "byte"},
		{"no JSON", "POST", runs, "application/json", `vars=1`, 400, "JSON"},
		{"a list", "POST", runs, "application/json", `[]`, 422, "object"},
		{"text", "POST", runs, "application/json", `"x"`, 422, "object"},
		{"more than one", "POST", runs, "application/json", `{}{}`, 400, "byte"},
		{"an unknown field", "POST", runs, "application/json", `{"var":{}}`, 422, `did you mean "vars"?`},
		{"a field twice", "POST", runs, "application/json", `{"vars":{},"vars":{}}`, 400, "twice"},
		{"a wrong type", "POST", runs, "application/json", `{"vars":[1]}`, 422, ""},
		{"a deep body", "POST", runs, "application/json", `{"vars":{"___X":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}`, 400, "64 deep"},
		{"a large body", "POST", runs, "application/json", `{"vars":{"___X":"` + strings.Repeat("x", 2<<20) + `"}}`, 413, "1048576"},
		{"XML", "POST", runs, "application/xml", `<vars/>`, 415, "application/xml"},
		{"a variable that is not declared", "POST", runs, "application/json", `{"vars":{"x":1}}`, 422, "not declared"},
		{"a pipeline with a strange name", "POST", "/api/v1/pipelines/..%2f..%2fetc/runs", "application/json", `{}`, 404, ""},
		{"a pipeline with a NUL", "POST", "/api/v1/pipelines/a%00b/runs", "application/json", `{}`, 404, ""},
		{"a run with a strange name", "GET", "/api/v1/runs/..%2fx", "", "", 404, ""},
		{"a step that is not there", "GET", "/api/v1/runs/01a1fe32-0000-7000-8000-000000000000/logs?step=x", "", "", 404, ""},
		{"cancel of no run", "POST", "/api/v1/runs/x/cancel", "application/json", `{}`, 404, ""},
		{"retry of no run", "POST", "/api/v1/runs/x/retry", "application/json", `{}`, 404, ""},

		{"limit 0", "GET", "/api/v1/runs?limit=0", "", "", 422, "1 to 1000"},
		{"limit -1", "GET", "/api/v1/runs?limit=-1", "", "", 422, "1 to 1000"},
		{"limit 1001", "GET", "/api/v1/runs?limit=1001", "", "", 422, "1 to 1000"},
		{"limit x", "GET", "/api/v1/runs?limit=x", "", "", 400, "limit"},
		{"limit beyond numbers", "GET", "/api/v1/runs?limit=99999999999999999999", "", "", 400, "limit"},
		{"a cursor of nobody", "GET", "/api/v1/runs?cursor=nonsense", "", "", 422, "cursor"},
		{"a cursor of nobody's objects", "GET", "/api/v1/buckets/inbox/objects?cursor=%ff%00", "", "", 404, "no bucket"},
		{"a status", "GET", "/api/v1/runs?status=done", "", "", 422, "statuses are"},
		{"a drawing", "GET", "/api/v1/pipelines/sound/graph?format=oil", "", "", 422, "mermaid"},
		{"a version", "GET", "/api/v1/pipelines/sound?version=0", "", "", 422, "from 1"},
		{"a version that is not there", "GET", "/api/v1/pipelines/sound?version=99", "", "", 404, "version 99"},

		{"a bucket in capitals", "PUT", "/api/v1/buckets/InBox/objects/a", "text/plain", "x", 422, "bucket"},
		{"a bucket with a path", "PUT", "/api/v1/buckets/..%2fx/objects/a", "text/plain", "x", 422, "bucket"},
		{"a long bucket", "PUT", "/api/v1/buckets/" + strings.Repeat("b", 64) + "/objects/a", "text/plain", "x", 422, "63"},
		{"a key that climbs", "PUT", object + "a/%2e%2e/b", "text/plain", "x", 422, "key"},
		{"a key with a control", "PUT", object + "a%01b", "text/plain", "x", 422, "key"},
		{"a key that is no UTF-8", "PUT", object + "a%ff", "text/plain", "x", 422, "key"},
		{"a long key", "PUT", object + strings.Repeat("k", 1025), "text/plain", "x", 422, "1024"},
		{"no key", "PUT", object, "text/plain", "x", 400, "key"},

		{"no topic", "GET", "/api/v1/queues/nonsense/messages", "", "", 404, "nonsense"},
		{"no topic to purge", "POST", "/api/v1/queues/nonsense/purge", "application/json", `{}`, 404, "nonsense"},
		{"a letter of nobody", "POST", "/api/v1/queues/run/redrive", "application/json", `{"ids":[1]}`, 422, ""},
		{"a token without a name", "POST", "/api/v1/tokens", "application/json", `{"role":"admin"}`, 422, "name"},
		{"a token with a role", "POST", "/api/v1/tokens", "application/json", `{"name":"x","role":"king"}`, 422, "king"},
		{"a token that has ended", "POST", "/api/v1/tokens", "application/json", `{"name":"x","role":"admin","ttl_seconds":-1}`, 422, ""},
		{"no path", "GET", "/api/v2/runs", "", "", 404, ""},
		{"no method", "DELETE", "/api/v1/runs", "", "", 405, "GET"},
	} {
		a := w.ask(x.method, x.path, "", strings.NewReader(x.body), "Content-Type", x.kind)
		a.wants(t, x.name, x.status, x.words)
		if a.Problem.Detail == "" && x.status != 307 {
			t.Errorf("%s: the problem says nothing: %s", x.name, a.Body)
		}
	}
	w.ask(http.MethodPut, object+"a", "", strings.NewReader("x"), "Content-Digest", "sha-256=:"+strings.Repeat("A", 43)+"=:").wants(t, "another checksum", 422, "SHA-256")
	w.ask(http.MethodPost, runs, "", strings.NewReader("{}"), "Idempotency-Key", strings.Repeat("k", 10_000)).wants(t, "a long idempotency key", 422, "")

	w.write(file, "x")
	for _, x := range []struct {
		args  string
		code  int
		words string
	}{
		{"nonsense", 2, "nonsense"},
		{"start", 2, "arg"},
		{"start sound --vra A=1", 2, "vra"},
		{"start sound --var A", 2, "NAME=VALUE"},
		{"start sound --var =1", 2, ""},
		{"start sound --var ___A=1 --var ___a=2", 2, ""},
		{"start sound --var x=1", 1, "not declared"},
		{"start no-such", 1, "no-such"},
		{"run show x", 1, "no run x"},
		{"run list --limit many", 2, "many"},
		{"run list --limit -1", 1, "1 to 1000"},
		{"run logs", 2, "arg"},
		{"object put InBox a " + file, 1, "bucket"},
		{"object put inbox ../a " + file, 1, "key"},
		{"object put inbox a " + file + ".none", 1, "no such file"},
		{"object get inbox a", 1, "inbox"},
		{"queue peek nonsense", 1, "nonsense"},
		{"queue redrive run", 2, "--all"},
		{"token create x --role king", 1, "king"},
		{"pipeline apply " + file + ".none", 1, "no such file"},
		{"run list -o xml", 2, "xml"},
		{"run list --server nonsense", 1, "nonsense"},
		{"callback complete", 1, "WAYBILL_CALLBACK"},
	} {
		out, errs, code := w.cli(strings.Fields(x.args)...)
		if code != x.code || out != "" || !strings.HasPrefix(errs, "waybill: error: ") || !strings.Contains(errs, x.words) {
			t.Errorf("waybill %s ends with %d, want %d and %q\n%s\n%s", x.args, code, x.code, x.words, out, errs)
		}
	}

	// Nothing of all that is there.
	for path, want := range map[string]string{
		"/api/v1/runs": `"items":[]`, "/api/v1/buckets": `"items":[]`, "/api/v1/tokens": `"items":[]`,
	} {
		if a := w.ask(http.MethodGet, path, "", nil); !strings.Contains(a.Body, want) {
			t.Errorf("%s: %v", path, a)
		}
	}
	if l, err := w.Client().Pipelines(w.ctx, listAll); err != nil || len(l.Items) != 1 || l.Items[0].Version != 1 {
		t.Errorf("pipelines: %+v %v", l.Items, err)
	}
	for _, q := range must(w.Client().Queues(w.ctx))(t).Items {
		if q.Depth+q.Dead > 0 {
			t.Errorf("queue %s holds %d messages and %d dead letters", q.Topic, q.Depth, q.Dead)
		}
	}
	if names, err := os.ReadDir(w.DataDir() + "/units"); err == nil {
		for _, n := range names {
			if n.Name() != "spare" {
				t.Errorf("in the folder of units: %s", n.Name())
			}
		}
	}
	if log := w.Log(); strings.Contains(log, "level=ERROR") {
		t.Errorf("bad input is an error of the server:\n%s", log)
	}
	w.ends(w.start("sound"), "succeeded")
}
