//go:build linux

// Package faults does to the built program what can go wrong around a run, one
// test a fault, and looks at what an operator would see.
//
// Ends of the server at any point of a commit are in conformance/kill, faults of
// the disk and of the store's file beside the code that meets them.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// soon is how long anything may take that should be done at once. It is for busy
// machines: nothing waits for it to be over.
const soon = 40 * time.Second

// hold is a unit in the hands of the test: it tells how it can be called back,
// waits for its end to be written, and ends with that exit code.
const hold = `#!/bin/sh
at=$WAYBILL_RUN.$WAYBILL_STEP.$WAYBILL_ATTEMPT
printf '%s %s' "$WAYBILL_CALLBACK" "$WAYBILL_TOKEN" > {{dir}}/new.$at
mv {{dir}}/new.$at {{dir}}/unit.$at
echo "holding $at"
while [ ! -s {{dir}}/end.$at ]; do sleep 0.05; done
exit $(cat {{dir}}/end.$at)
`

// world is a server with what tests do to it.
type world struct {
	*harness.Server
	t    *testing.T
	ctx  context.Context
	http *http.Client
}

// serve starts a server for a project with the given pipelines and scripts, and
// hold.sh.
func serve(t *testing.T, o harness.Options) *world {
	t.Helper()
	t.Parallel()
	files := map[string]string{"hold.sh": hold}
	for name, text := range o.Project {
		files[name] = text
	}
	o.Project = files
	return wrap(t, harness.New(t, o))
}

func wrap(t *testing.T, s *harness.Server) *world {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return &world{Server: s, t: t, ctx: ctx, http: &http.Client{Transport: s.Transport()}}
}

// pipeline is a definition started by HTTP: its steps and other keys in YAML.
func pipeline(name, rest string) string {
	return "name: " + name + "\non: {http: {}}\n" + strings.TrimLeft(rest, "\n")
}

// must stops the test on an error.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// start starts a run with variables NAME=VALUE and returns its id.
func (w *world) start(pipeline string, vars ...string) string {
	w.t.Helper()
	var s client.StartRun
	for _, v := range vars {
		name, value, _ := strings.Cut(v, "=")
		s.Vars.Set(name, waybill.StringValue(value))
	}
	return must(w.Client().StartRun(w.ctx, pipeline, s, ""))(w.t).ID
}

func (w *world) run(id string) client.RunDetail {
	w.t.Helper()
	return must(w.Client().Run(w.ctx, id))(w.t)
}

// ends waits until a run has ended and checks how.
func (w *world) ends(id string, want client.Status) client.RunDetail {
	w.t.Helper()
	var r client.RunDetail
	harness.Until(w.t, soon, "run "+id+" ends", func() error {
		r = w.run(id)
		if !r.Status.Terminal() {
			return fmt.Errorf("it is %s", r.Status)
		}
		return nil
	})
	if r.Status != want {
		w.t.Fatalf("run %s of %s ended as %s (%s), want %s", id, r.Pipeline, r.Status, r.Error, want)
	}
	return r
}

// attempt returns an attempt of a run.
func attempt(t *testing.T, r client.RunDetail, step string, number int) client.Attempt {
	t.Helper()
	for _, a := range r.Attempts {
		if a.Step == step && a.Number == number {
			return a
		}
	}
	t.Fatalf("run %s has no attempt %d of step %s: %+v", r.ID, number, step, r.Attempts)
	return client.Attempt{}
}

// attempts counts those of a step.
func attempts(r client.RunDetail, step string) (n int) {
	for _, a := range r.Attempts {
		if a.Step == step {
			n++
		}
	}
	return n
}

// reaches waits until an attempt satisfies f.
func (w *world) reaches(id, step string, number int, what string, f func(client.Attempt) bool) client.Attempt {
	w.t.Helper()
	var got client.Attempt
	harness.Until(w.t, soon, fmt.Sprintf("attempt %d of step %s %s", number, step, what), func() error {
		for _, a := range w.run(id).Attempts {
			if a.Step == step && a.Number == number {
				if got = a; f(a) {
					return nil
				}
				return fmt.Errorf("it is %s %s (%s)", a.Phase, a.Status, a.Error)
			}
		}
		return errors.New("there is none")
	})
	return got
}

// records are those of a kind on the timeline of a run.
func (w *world) records(id, kind string) []client.Record {
	w.t.Helper()
	l := must(w.Client().Events(w.ctx, id, client.GetRunEventsParams{Limit: 1000}))(w.t)
	return slices.DeleteFunc(l.Items, func(r client.Record) bool { return r.Kind != kind })
}

// recorded checks how many records of a kind a run has.
func (w *world) recorded(id, kind string, want int) {
	w.t.Helper()
	if got := w.records(id, kind); len(got) != want {
		w.t.Errorf("run %s has %d records %s, want %d: %v", id, len(got), kind, want, got)
	}
}

// cleaned waits until nothing is left of the units of a run: no process, no
// folder, and the clean-up says so.
func (w *world) cleaned(id string) {
	w.t.Helper()
	harness.Until(w.t, soon, "clean-up of run "+id, func() error {
		units := map[string]bool{}
		for _, a := range w.run(id).Attempts {
			units[a.Unit] = true
			if a.Cleanup != waybill.CleanupGone && a.Node != "" {
				return fmt.Errorf("attempt %d of step %s: clean-up %q %s", a.Number, a.Step, a.Cleanup, a.CleanupError)
			}
		}
		for _, p := range w.Units() {
			if units[p.Unit] {
				return fmt.Errorf("process left: %v", p)
			}
		}
		for _, name := range w.UnitDirs() {
			if base, _, _ := strings.Cut(name, "."); units[base] {
				return fmt.Errorf("left in the folder of units: %s", name)
			}
		}
		return nil
	})
}

// path is a file of the test.
func (w *world) path(parts ...any) string {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteByte('.')
		}
		fmt.Fprint(&b, p)
	}
	return filepath.Join(w.Dir(), b.String())
}

func (w *world) exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// write makes a file appear with its content.
func (w *world) write(path, text string) {
	w.t.Helper()
	if err := errors.Join(os.WriteFile(path+".part", []byte(text), 0o644), os.Rename(path+".part", path)); err != nil {
		w.t.Fatal(err)
	}
}

// unit is how a held unit can call back.
type unit struct {
	w               *world
	callback, token string
	end             string
}

// held waits until hold.sh runs for an attempt.
func (w *world) held(id, step string, number int) unit {
	w.t.Helper()
	u := unit{w: w, end: w.path("end", id, step, number)}
	harness.Until(w.t, soon, fmt.Sprintf("unit of attempt %d of step %s runs", number, step), func() error {
		b, err := os.ReadFile(w.path("unit", id, step, number))
		u.callback, u.token, _ = strings.Cut(string(b), " ")
		return err
	})
	return u
}

// exit lets the unit end.
func (u unit) exit(code int) {
	u.w.t.Helper()
	u.w.write(u.end, fmt.Sprintln(code))
}

// verb is the URL of another operation of the unit: "heartbeat" or "variables".
func (u unit) verb(name string) string { return strings.TrimSuffix(u.callback, "callback") + name }

// complete calls back with a JSON body.
func (u unit) complete(body string) answer {
	u.w.t.Helper()
	return u.w.post(u.callback, u.token, "application/json", body)
}

// answer is what a server said.
type answer struct {
	Status  int
	Header  http.Header
	Body    string
	Problem client.Problem // zero when there was none
}

// String shows an answer in a line.
func (a answer) String() string {
	body := a.Body
	if len(body) > 600 {
		body = body[:600] + "…"
	}
	return fmt.Sprintf("%d %s", a.Status, strings.TrimSpace(body))
}

func (w *world) post(url, token, contentType, body string) answer {
	w.t.Helper()
	return w.ask(http.MethodPost, url, token, strings.NewReader(body), "Content-Type", contentType)
}

// ask sends one request, once. Paths are those of the server.
func (w *world) ask(method, url, token string, body io.Reader, header ...string) answer {
	w.t.Helper()
	a, err := w.try(method, url, token, body, header...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) try(method, url, token string, body io.Reader, header ...string) (answer, error) {
	if strings.HasPrefix(url, "/") {
		url = w.URL() + url
	}
	r, err := http.NewRequestWithContext(w.ctx, method, url, body)
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	res, err := w.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: res.StatusCode, Header: res.Header, Body: string(b)}
	if res.StatusCode >= 400 && len(b) > 0 {
		if err := json.Unmarshal(b, &a.Problem); err != nil {
			return a, fmt.Errorf("%s %s answers %d without a problem: %w", method, url, res.StatusCode, err)
		}
	}
	return a, nil
}

// wants checks a status, and words that its problem must hold.
func (a answer) wants(t *testing.T, what string, status int, words ...string) {
	t.Helper()
	if a.Status != status {
		t.Errorf("%s: answer %v, want %d", what, a, status)
		return
	}
	for _, word := range words {
		if !strings.Contains(a.Problem.Detail+" "+a.Problem.Hint, word) {
			t.Errorf("%s: the problem %q %q does not say %q", what, a.Problem.Detail, a.Problem.Hint, word)
		}
	}
}

// cli runs a command of the program and returns what it wrote and its exit code.
func (w *world) cli(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	cmd := w.Command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// variable is the text of a run's variable; empty when there is none.
func variable(r client.RunDetail, name string) string {
	v, _ := r.Vars.Get(name)
	return v.Text()
}

// dead waits for dead letters of a topic.
func (w *world) dead(topic string, want int) []client.Message {
	w.t.Helper()
	var l client.MessageList
	harness.Until(w.t, soon, fmt.Sprintf("%d dead letters of %s", want, topic), func() error {
		l = must(w.Client().DeadLetters(w.ctx, topic, client.ListDeadLettersParams{Limit: 100}))(w.t)
		if len(l.Items) != want {
			return fmt.Errorf("there are %d", len(l.Items))
		}
		return nil
	})
	return l.Items
}

// runs lists the runs of a pipeline, all without a name.
func (w *world) runs(pipeline string) []client.Run {
	w.t.Helper()
	return must(w.Client().Runs(w.ctx, client.ListRunsParams{Pipeline: pipeline, Limit: 1000}))(w.t).Items
}

// pathOf is the path of a URL of any server.
func pathOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	return rest[strings.IndexByte(rest, '/'):]
}
