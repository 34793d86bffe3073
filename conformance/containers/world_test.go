//go:build linux

// Package containers does to the built program, with real containers, what can go wrong
// around them, one test a fault, and looks at what an operator would see and at what is
// left on the machine. Every test runs on every platform of this machine.
//
//	WAYBILL_TEST_DOCKER_HOST   address of an engine to use; else the tests start one of their own
//	WAYBILL_SEEDS=n            seeds of the kill campaign for each platform, 10 by default
//	WAYBILL_CAMPAIGN=full      50 seeds
//	WAYBILL_SEED=n             this seed only
package containers

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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/dockertest"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// soon is how long anything may take that should be done at once. It is for busy
// machines: nothing waits for it to be over.
const soon = 90 * time.Second

// hostVar names the engine that tests use.
const hostVar = "WAYBILL_TEST_DOCKER_HOST"

func TestMain(m *testing.M) {
	harness.Main(m, func() (func() error, error) {
		if os.Getenv(hostVar) != "" || dockertest.Missing() != "" {
			return nil, nil // there is one, or the tests that need it say why there is none
		}
		d, err := dockertest.Start()
		if err != nil {
			return nil, err
		}
		return d.Stop, os.Setenv(hostVar, d.Host())
	})
}

// world is a server with what tests do to it.
type world struct {
	*harness.Server
	t     *testing.T
	ctx   context.Context
	http  *http.Client
	p     platform
	reg   *registrytest.Registry
	image string // base image of the registry
	sum   string // its digest

	// What the server's folder said when the test ended, for who tidies up after it is gone.
	instance string
	gateways map[string]int
}

// each runs a test on every platform.
func each(t *testing.T, f func(t *testing.T, p platform)) {
	t.Helper()
	t.Parallel()
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.need(t)
			f(t, p)
		})
	}
}

// serve starts a server for a project. In its files {{image}} is the base image, {{base}}
// a registry with it, and {{runner}} the platform; {{settings}} in waybill.yaml, which is
// made when there is none, are those of the platform.
func serve(t *testing.T, p platform, o harness.Options) *world {
	t.Helper()
	reg := registrytest.New(t)
	image, sum := reg.Push(t, "base:v1", registrytest.Base(t).Build(t))
	w := &world{t: t, p: p, reg: reg, image: image, sum: sum}
	files := map[string]string{"waybill.yaml": ""}
	for name, text := range o.Project {
		files[name] = text
	}
	files["waybill.yaml"] += p.settings()
	for name, text := range files {
		files[name] = strings.NewReplacer("{{image}}", image, "{{base}}", reg.Host, "{{runner}}", p.name).Replace(text)
	}
	o.Project, o.Tags = files, append(o.Tags, harness.Plain)
	// Registered first, it is called last, when the server is gone.
	t.Cleanup(func() { p.sweep(t, w) })
	w.Server = harness.New(t, o)
	t.Cleanup(func() {
		w.instance = instanceOCI(w)
		b, _ := os.ReadFile(filepath.Join(w.DataDir(), "callbacks.json")) // not there when nobody was to call
		_ = json.Unmarshal(b, &w.gateways)
	})
	w.http = &http.Client{Timeout: 30 * time.Second}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	w.ctx = ctx
	return w
}

// pipeline is a definition started by HTTP.
func pipeline(name, rest string) string {
	return "name: " + name + "\non: {http: {}}\n" + strings.TrimLeft(rest, "\n")
}

// sh is a step that runs a script with the shell of the base image. more are further keys
// of it, in the flow style: "retry: {max: 1}". Those of with are merged into one by hand.
func sh(name, script string, more ...string) string {
	keys := append([]string{"name: " + name, "runner: '{{runner}}'", "image: '{{image}}'", fmt.Sprintf("run: [sh, -c, %q]", script)}, more...)
	return "{" + strings.Join(keys, ", ") + "}"
}

func steps(s ...string) string { return "steps:\n  - " + strings.Join(s, "\n  - ") + "\n" }

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
		if r = w.run(id); !r.Status.Terminal() {
			return fmt.Errorf("it is %s: %s", r.Status, shown(r))
		}
		return nil
	})
	if r.Status != want {
		w.t.Fatalf("run %s of %s ended as %s, want %s: %s", id, r.Pipeline, r.Status, want, shown(r))
	}
	return r
}

// shown is a run for the messages of tests.
func shown(r client.RunDetail) string {
	var b strings.Builder
	b.WriteString(r.Error)
	for _, a := range r.Attempts {
		fmt.Fprintf(&b, "\n  %s/%d %s %s %s: %s; %q", a.Step, a.Number, a.Phase, a.Status, a.Reason, a.Error, a.LogTail)
	}
	return b.String()
}

func attempt(t *testing.T, r client.RunDetail, step string, number int) client.Attempt {
	t.Helper()
	for _, a := range r.Attempts {
		if a.Step == step && a.Number == number {
			return a
		}
	}
	t.Fatalf("run %s has no attempt %d of step %s: %s", r.ID, number, step, shown(r))
	return client.Attempt{}
}

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
				return fmt.Errorf("it is %s %s (%s), its clean-up %s (%s)", a.Phase, a.Status, a.Error, a.Cleanup, a.CleanupError)
			}
		}
		return errors.New("there is none")
	})
	return got
}

func (w *world) records(id, kind string) []client.Record {
	w.t.Helper()
	l := must(w.Client().Events(w.ctx, id, client.GetRunEventsParams{Limit: 1000}))(w.t)
	return slices.DeleteFunc(l.Items, func(r client.Record) bool { return r.Kind != kind })
}

func (w *world) recorded(id, kind string, want int) {
	w.t.Helper()
	if got := w.records(id, kind); len(got) != want {
		w.t.Errorf("run %s has %d records %s, want %d: %v", id, len(got), kind, want, got)
	}
}

// log is that of an attempt.
func (w *world) log(id, step string, number int) string {
	w.t.Helper()
	var b bytes.Buffer
	if err := w.Client().Log(w.ctx, id, client.GetRunLogsParams{Step: step, Attempt: number}, &b); err != nil {
		w.t.Fatal(err)
	}
	return b.String()
}

// variable is the text of a run's variable; empty when there is none.
func variable(r client.RunDetail, name string) string {
	v, _ := r.Vars.Get(name)
	return v.Text()
}

// cleaned waits until nothing is left of the units of a run, on the platform, in memory
// and on the disk, and the clean-up says so.
func (w *world) cleaned(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		harness.Until(w.t, soon, "clean-up of run "+id, func() error {
			return w.leftovers(id, w.run(id).Attempts)
		})
	}
}

func (w *world) leftovers(id string, all []client.Attempt) error {
	units := map[string]bool{}
	for _, a := range all {
		units[a.Unit] = true
		if a.Cleanup != waybill.CleanupGone && a.Node != "" {
			return fmt.Errorf("attempt %d of step %s: clean-up %q %s", a.Number, a.Step, a.Cleanup, a.CleanupError)
		}
	}
	if left := processesOf(id); len(left) > 0 {
		return fmt.Errorf("processes are left: %v", left)
	}
	for _, name := range w.UnitDirs() {
		if base, _, _ := strings.Cut(name, "."); units[base] {
			return fmt.Errorf("left in the folder of units: %s", name)
		}
	}
	left, err := w.p.left(w)
	if err != nil {
		return err
	}
	for _, l := range left {
		if units[l.unit] {
			return fmt.Errorf("left of unit %s: %s", l.unit, l.what)
		}
	}
	return nil
}

// processesOf are those in whose environment a run is, whatever they are in. Zombies have
// none.
func processesOf(run string) (left []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		env, _ := os.ReadFile("/proc/" + e.Name() + "/environ") // gone meanwhile
		if bytes.Contains(env, []byte("WAYBILL_RUN="+run)) {
			cmd, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			left = append(left, e.Name()+" "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	return left
}

// work is the working directory of a unit, from outside.
func (w *world) work(unit string, parts ...string) string {
	return filepath.Join(append([]string{w.DataDir(), "units", unit, "work"}, parts...)...)
}

// hold is a unit in the hands of the test: it tells how it can be called back, waits for
// its end to be written, and ends with that exit code.
const hold = `printf '%s %s' "$WAYBILL_CALLBACK" "$WAYBILL_TOKEN" >held.part; mv held.part held; echo holding; while [ ! -s end ]; do sleep 0.05; done; exit $(cat end)`

// unit is how a held unit can call back.
type unit struct {
	w               *world
	name            string
	callback, token string
}

// held waits until hold runs for an attempt.
func (w *world) held(id, step string, number int) unit {
	w.t.Helper()
	u := unit{w: w}
	harness.Until(w.t, soon, fmt.Sprintf("unit of attempt %d of step %s runs", number, step), func() error {
		r := w.run(id)
		for _, a := range r.Attempts {
			if a.Step == step && a.Number == number {
				u.name = a.Unit
			}
		}
		b, err := os.ReadFile(w.work(u.name, "held"))
		u.callback, u.token, _ = strings.Cut(string(b), " ")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, shown(r))
		}
		return err
	})
	return u
}

// exit lets the unit end.
func (u unit) exit(code int) {
	u.w.t.Helper()
	at := u.w.work(u.name, "end")
	if err := errors.Join(os.WriteFile(at+".part", []byte(fmt.Sprintln(code)), 0o644), os.Rename(at+".part", at)); err != nil {
		u.w.t.Fatal(err)
	}
}

// answer is what a server said.
type answer struct {
	Status int
	Body   string
}

// complete calls back from this machine, at the address that the unit was given.
func (u unit) complete(body string) answer {
	u.w.t.Helper()
	return u.w.post(u.callback, u.token, body)
}

func (w *world) post(url, token, body string) answer {
	w.t.Helper()
	return must(w.tryPost(url, token, body))(w.t)
}

func (w *world) tryPost(url, token, body string) (answer, error) {
	r, err := http.NewRequestWithContext(w.ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	res, err := w.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(b)}, err
}

func (a answer) wants(t *testing.T, what string, status int) {
	t.Helper()
	if a.Status != status {
		t.Errorf("%s: answer %d %s, want %d", what, a.Status, a.Body, status)
	}
}

// cli runs a command of the program.
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

func (w *world) mustCLI(args ...string) string {
	w.t.Helper()
	out, errs, code := w.cli(args...)
	if code != 0 {
		w.t.Fatalf("waybill %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// unitList is what the server lists of a run's units.
func (w *world) unitList(id string) []waybill.Unit {
	w.t.Helper()
	l := must(w.Client().Units(w.ctx))(w.t)
	return slices.DeleteFunc(l.Items, func(u waybill.Unit) bool { return u.Run != id })
}

// peak is the largest memory a process has had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kb int64
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func killPID(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }
