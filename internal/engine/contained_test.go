package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// box is a runner of containers whose programs are functions of the test.
type box struct {
	reach   runner.Reach
	program func(s runner.Spec) runner.Exit
	inside  map[string]string // files of the container's own, by path

	mu       sync.Mutex
	units    map[string]*boxed
	pulls    []error // what the next starts fail with
	pull     func(ctx context.Context) error
	archives int // Archive fails so often
	starts   int
	archived []string
	removed  []string
}

type boxed struct {
	done chan struct{}
	exit runner.Exit
}

func (b *box) Name() string                          { return "box" }
func (b *box) Check([]string, json.RawMessage) error { return nil }
func (b *box) Home() string                          { return "/inside" }
func (b *box) Reach() runner.Reach                   { return b.reach }
func (b *box) Close() error                          { return nil }

func (b *box) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := runner.Handle{Runner: "box", Unit: s.Unit, Image: "box/image@sha256:1"}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.units[s.Unit] != nil {
		return h, nil
	}
	b.starts++
	if len(b.pulls) > 0 {
		err := b.pulls[0]
		b.pulls = b.pulls[1:]
		return h, err
	}
	if b.pull != nil {
		b.mu.Unlock()
		err := b.pull(ctx)
		b.mu.Lock()
		if err != nil {
			return h, err
		}
	}
	u := &boxed{done: make(chan struct{})}
	b.units[s.Unit] = u
	go func() {
		u.exit = b.program(s)
		close(u.done)
	}()
	return h, nil
}

func (b *box) find(h runner.Handle) (*boxed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if u := b.units[h.Unit]; u != nil {
		return u, nil
	}
	return nil, waybill.E(waybill.KindLost, "no such box")
}

func (b *box) Recover(_ context.Context, h runner.Handle, _ runner.Spec) error {
	_, err := b.find(h)
	return err
}

func (b *box) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	u, err := b.find(h)
	if err != nil {
		return runner.Exit{}, err
	}
	select {
	case <-u.done:
		return u.exit, nil
	case <-ctx.Done():
		return runner.Exit{}, ctx.Err()
	}
}

func (b *box) Stop(context.Context, runner.Handle, time.Duration) error { return nil }

func (b *box) Remove(_ context.Context, h runner.Handle) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.units, h.Unit)
	b.removed = append(b.removed, h.Unit)
	return nil
}

func (b *box) List(context.Context) ([]runner.Handle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []runner.Handle
	for unit := range b.units {
		out = append(out, runner.Handle{Runner: "box", Unit: unit})
	}
	return out, nil
}

func (b *box) CopyOut(_ context.Context, _ runner.Handle, path string, w io.Writer) error {
	text, ok := b.inside[path]
	if !ok {
		return fs.ErrNotExist
	}
	_, err := io.WriteString(w, text)
	return err
}

func (b *box) Archive(_ context.Context, h runner.Handle, s runner.Spec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.archives > 0 {
		b.archives--
		return errors.New("the archive is down")
	}
	if s.Log == "" || len(s.Mask) == 0 {
		return errors.New("the engine does not say where the log goes, or what is secret")
	}
	b.archived = append(b.archived, h.Unit)
	return nil
}

// seen is what was asked of a box.
type seen struct {
	starts            int
	archived, removed []string
}

func (b *box) saw() seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	return seen{b.starts, slices.Clone(b.archived), slices.Clone(b.removed)}
}

// boxes is a server with one pipeline over a box.
type boxes struct {
	t     *testing.T
	b     *box
	plan  *pipeline.Plan
	st    store.Store
	blobs *file.Store
	url   string
	*engine.Engine
}

func (w *boxes) Plan(context.Context, string, int) (*pipeline.Plan, int, error) {
	return w.plan, 1, nil
}

func newBoxes(t *testing.T, b *box, definition string) *boxes {
	t.Helper()
	b.units = map[string]*boxed{}
	plan, err := pipeline.Parse("p.yaml", []byte("name: p\non: {http: {}}\nsteps:\n"+definition), pipeline.Options{
		Runners: []string{"box"}, Images: []string{"box"}, ImageRunner: "box",
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &boxes{t: t, b: b, plan: plan, url: "http://10.0.0.1:1"}
	if w.st, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), engine.Tables(), sqlite.Options{Clock: time.Now}); err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = file.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w.boot("one")
	return w
}

func (w *boxes) boot(node string) {
	w.Engine = engine.New(engine.Options{
		Store: w.st, Blobs: w.blobs, Plans: w, Runners: map[string]runner.Runner{"box": w.b}, Logger: slog.New(slog.DiscardHandler),
		Node: node, Instance: "test", Secret: []byte("0123456789abcdef0123456789abcdef"), Dir: w.t.TempDir(),
		HostEnv: []string{"PATH=/host/bin"}, BaseEnv: []string{"PROXY=p"}, Shared: true,
		URL: func(context.Context, string) string { return w.url },
	})
	if err := w.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *boxes) close() {
	w.Stop()
	if err := w.st.Close(); err != nil {
		w.t.Error(err)
	}
}

func (w *boxes) begin() string {
	w.t.Helper()
	run, _, err := w.StartRun(w.t.Context(), waybill.StartRequest{Pipeline: "p"})
	if err != nil {
		w.t.Fatal(err)
	}
	return run.ID
}

func (w *boxes) attempt(run string) waybill.Attempt {
	w.t.Helper()
	d, err := w.Run(w.t.Context(), run)
	if err != nil || len(d.Attempts) == 0 {
		w.t.Fatalf("run %s: %v, %d attempts", run, err, len(d.Attempts))
	}
	return d.Attempts[len(d.Attempts)-1]
}

func (w *boxes) kinds(run string) []string {
	w.t.Helper()
	records, err := w.Records(w.t.Context(), run, "", 500)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, r := range records {
		out = append(out, r.Kind)
	}
	return out
}

func environ(s runner.Spec) map[string]string {
	out := map[string]string{}
	for _, x := range s.Env {
		n, v, _ := strings.Cut(x, "=")
		out[n] = v
	}
	return out
}

func within(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

// A container finds its files below the home that its runner names, whoever it runs as, and
// nothing of the machine outside is in its environment.
func TestContainedHome(t *testing.T) {
	within(t, func(t *testing.T) {
		var env map[string]string
		var spec runner.Spec
		b := &box{reach: runner.ReachBridge, inside: map[string]string{"/var/out/report": "from inside"}}
		b.program = func(s runner.Spec) runner.Exit {
			spec, env = s, environ(s)
			at := func(name string) string {
				rest, ok := strings.CutPrefix(name, "/inside/")
				if !ok {
					t.Errorf("%s is not inside", name)
				}
				return filepath.Join(s.Dir, rest)
			}
			if b, err := os.ReadFile(at(env["WAYBILL_EVENT"])); err != nil || !strings.Contains(string(b), `"http"`) {
				t.Errorf("the event is %s (%v)", b, err)
			}
			if b, err := os.ReadFile(filepath.Join(s.Dir, "work", "conf", "a.txt")); err != nil || string(b) != "hello" {
				t.Errorf("the input is %q (%v)", b, err)
			}
			for name, want := range map[string]os.FileMode{".": 0o755, "work": 0o777, "out": 0o777, "in": 0o755} {
				if st, err := os.Stat(filepath.Join(s.Dir, name)); err != nil || st.Mode().Perm() != want {
					t.Errorf("%s: %v %v, want %v", name, st.Mode(), err, want)
				}
			}
			for name, text := range map[string]string{at(env["WAYBILL_OUTPUT"]): "n=7\n", filepath.Join(s.Dir, "work", "made"): "made"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Error(err)
				}
			}
			return runner.Exit{}
		}
		w := newBoxes(t, b, `
  - name: x
    image: box/image:1
    run: [./prog, arg]
    inputs: {conf/a.txt: hello}
    outputs: {n: int, made: {file: made}, report: {file: /var/out/report}, home: {file: /inside/work/made}}
`)
		defer w.close()
		run := w.begin()
		time.Sleep(time.Minute)
		d, err := w.Run(t.Context(), run)
		if err != nil || d.Status != waybill.StatusSucceeded {
			t.Fatalf("the run is %s: %s %v", d.Status, d.Error, err)
		}
		a := w.attempt(run)
		if a.Image != "box/image@sha256:1" || a.Cleanup != waybill.CleanupGone {
			t.Errorf("image %q, cleanup %s", a.Image, a.Cleanup)
		}
		for _, name := range []string{"made", "report", "home"} {
			v, _ := a.Returned.Get(name)
			if _, ok := v.File(); !ok {
				t.Errorf("%s = %s, want a file", name, v)
			}
		}
		if spec.Args[0] != "./prog" {
			t.Errorf("the program is %s: it was looked for outside", spec.Args[0])
		}
		for _, name := range []string{"PATH", "HOME", "TMPDIR", "PWD", "LANG"} {
			if v, ok := env[name]; ok {
				t.Errorf("the environment has %s=%s of the machine outside", name, v)
			}
		}
		if env["PROXY"] != "p" || !strings.HasPrefix(env["WAYBILL_CALLBACK"], "http://10.0.0.1:1/") {
			t.Errorf("the environment is %v", env)
		}
		if !slices.Equal(w.b.saw().archived, []string{a.Unit}) || !slices.Equal(w.b.saw().removed, []string{a.Unit}) {
			t.Errorf("archived %v, removed %v", w.b.saw().archived, w.b.saw().removed)
		}
		if _, err := os.Stat(spec.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its home is still there: %v", err)
		}
	})
}

// What a container leaves where its results are looked for may be a link to a file of the
// machine, which is not followed, or a pipe, which nobody waits for.
func TestContainedLinks(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("n=42\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, func(t *testing.T) {
		b := &box{}
		b.program = func(s runner.Spec) runner.Exit {
			if err := errors.Join(os.Symlink(secret, filepath.Join(s.Dir, "out", "variables")), os.Symlink(secret, filepath.Join(s.Dir, "work", "made"))); err != nil {
				t.Error(err)
			}
			return runner.Exit{}
		}
		w := newBoxes(t, b, "\n  - {name: x, image: i, outputs: {n: {type: int, optional: true}}}\n")
		defer w.close()
		run := w.begin()
		time.Sleep(time.Minute)
		if a := w.attempt(run); a.Status != waybill.StatusFailed || a.Reason != "bad_output" || a.Returned.Len() > 0 {
			t.Errorf("the attempt is %s (%s) and returned %v", a.Status, a.Reason, a.Returned)
		}
	})
}

// Output files of a unit that failed are kept with the attempt, and are no results.
func TestContainedSalvage(t *testing.T) {
	within(t, func(t *testing.T) {
		b := &box{inside: map[string]string{"/var/log/why": "because"}}
		b.program = func(runner.Spec) runner.Exit { return runner.Exit{Code: 3} }
		w := newBoxes(t, b, "\n  - {name: x, image: i, outputs: {why: {file: /var/log/why}, other: {file: none}}}\n")
		defer w.close()
		run := w.begin()
		time.Sleep(time.Minute)
		a := w.attempt(run)
		v, _ := a.Returned.Get("why")
		if f, ok := v.File(); !ok || f.Size != 7 || a.Status != waybill.StatusFailed || a.Reason != "exit" {
			t.Errorf("the attempt is %s (%s) and has %v", a.Status, a.Reason, a.Returned)
		}
		if d, _ := w.Run(t.Context(), run); len(d.Steps[0].Outputs.Names()) > 0 {
			t.Errorf("the failed step has outputs %v", d.Steps[0].Outputs)
		}
	})
}

// A pull that may succeed later has a budget of its own, waits as the registry asks, and
// hears that nobody wants it any more.
func TestContainedPulls(t *testing.T) {
	again := &runner.PullError{Image: "i", Reason: runner.ReasonPullQuota, RetryAfter: 90 * time.Second, Err: errors.New("the limit of pulls is reached")}
	t.Run("quota", func(t *testing.T) {
		within(t, func(t *testing.T) {
			b := &box{pulls: []error{again, again}, program: func(runner.Spec) runner.Exit { return runner.Exit{} }}
			w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
			defer w.close()
			began := time.Now()
			run := w.begin()
			time.Sleep(10 * time.Minute)
			a := w.attempt(run)
			if a.Status != waybill.StatusSucceeded || a.Number != 1 || a.StartedAt.Sub(began) < 3*time.Minute || a.StartedAt.Sub(began) > 4*time.Minute {
				t.Errorf("attempt %d is %s, started after %s; want the first after two times 90 s", a.Number, a.Status, a.StartedAt.Sub(began))
			}
		})
	})
	t.Run("too long", func(t *testing.T) {
		within(t, func(t *testing.T) {
			b := &box{pulls: slices.Repeat([]error{error(again)}, 50), program: func(runner.Spec) runner.Exit { return runner.Exit{} }}
			w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
			defer w.close()
			run := w.begin()
			time.Sleep(time.Hour)
			a := w.attempt(run)
			if a.Status != waybill.StatusFailed || a.Reason != runner.ReasonPullQuota || !strings.Contains(a.Error, "the limit of pulls is reached") || a.Image != "" || b.saw().starts > 10 {
				t.Errorf("after %d tries the attempt is %s (%s): %s", b.saw().starts, a.Status, a.Reason, a.Error)
			}
		})
	})
	t.Run("hangs and is canceled", func(t *testing.T) {
		within(t, func(t *testing.T) {
			b := &box{pull: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
			w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
			defer w.close()
			run := w.begin()
			time.Sleep(time.Minute)
			if _, err := w.CancelRun(t.Context(), run, "", false, waybill.Principal{Name: "me"}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if a := w.attempt(run); a.Status != waybill.StatusCanceled {
				t.Errorf("a second later the attempt is %s", a.Status)
			}
		})
	})
	t.Run("hangs for ever", func(t *testing.T) {
		within(t, func(t *testing.T) {
			b := &box{pull: func(ctx context.Context) error {
				<-ctx.Done()
				return &runner.PullError{Image: "i", Reason: runner.ReasonPullNetwork, Err: ctx.Err()}
			}}
			w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
			defer w.close()
			run := w.begin()
			time.Sleep(2 * time.Hour)
			if a := w.attempt(run); a.Status != waybill.StatusFailed {
				t.Errorf("two hours later the attempt is %s (%s)", a.Status, a.Reason)
			}
		})
	})
}

// The removal of a unit waits for its log, but not for ever.
func TestContainedArchive(t *testing.T) {
	for name, c := range map[string]struct {
		fails int
		lost  bool
	}{"comes back": {3, false}, "stays away": {1000, true}} {
		t.Run(name, func(t *testing.T) {
			within(t, func(t *testing.T) {
				b := &box{archives: c.fails, program: func(runner.Spec) runner.Exit { return runner.Exit{} }}
				w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
				defer w.close()
				run := w.begin()
				time.Sleep(5 * time.Second)
				if a := w.attempt(run); a.Status != waybill.StatusSucceeded || a.Cleanup != waybill.CleanupDeleting || !strings.Contains(a.CleanupErr, "the archive is down") || len(b.saw().removed) > 0 {
					t.Errorf("the attempt is %s, its clean-up %s (%s), removed %v", a.Status, a.Cleanup, a.CleanupErr, b.saw().removed)
				}
				time.Sleep(30 * time.Minute)
				a := w.attempt(run)
				if a.Cleanup != waybill.CleanupGone || len(b.saw().removed) != 1 || (a.LogsLost != "") != c.lost || slices.Contains(w.kinds(run), "attempt.logs_lost") != c.lost {
					t.Errorf("clean-up %s, removed %v, logs lost: %q", a.Cleanup, b.saw().removed, a.LogsLost)
				}
			})
		})
	}
}

// A unit that lives elsewhere is taken over when its server is gone, not declared lost; one
// of the server's own machine is lost with it.
func TestContainedElsewhere(t *testing.T) {
	for reach, want := range map[runner.Reach]waybill.Status{runner.ReachPublic: waybill.StatusSucceeded, runner.ReachBridge: waybill.StatusLost} {
		t.Run(fmt.Sprint(reach), func(t *testing.T) {
			within(t, func(t *testing.T) {
				b := &box{reach: reach, program: func(runner.Spec) runner.Exit { time.Sleep(5 * time.Minute); return runner.Exit{} }}
				w := newBoxes(t, b, "\n  - {name: x, image: i}\n")
				run := w.begin()
				time.Sleep(time.Minute)
				w.Stop()
				w.boot("two")
				defer w.close()
				time.Sleep(20 * time.Minute)
				d, err := w.Run(t.Context(), run)
				if err != nil {
					t.Fatal(err)
				}
				first := d.Attempts[0]
				if first.Status != want || slices.Contains(w.kinds(run), "attempt.taken_over") != (want == waybill.StatusSucceeded) {
					t.Errorf("the first attempt is %s (%s)", first.Status, first.Reason)
				}
				if want == waybill.StatusSucceeded && (b.saw().starts != 1 || len(b.saw().removed) != 1 || first.Node != "two") {
					t.Errorf("%d starts, removed %v, node %s", b.saw().starts, b.saw().removed, first.Node)
				}
			})
		})
	}
}

// Units without a way to call have no address, and one that owes a callback is not started.
func TestContainedUnreachable(t *testing.T) {
	for _, c := range []struct{ callback, reason string }{{"required", "prepare"}, {"optional", ""}} {
		t.Run(c.callback, func(t *testing.T) {
			within(t, func(t *testing.T) {
				var env map[string]string
				b := &box{reach: runner.ReachPublic, program: func(s runner.Spec) runner.Exit { env = environ(s); return runner.Exit{} }}
				w := newBoxes(t, b, "\n  - {name: x, image: i, callback: "+c.callback+"}\n")
				defer w.close()
				w.url = ""
				run := w.begin()
				time.Sleep(time.Minute)
				a := w.attempt(run)
				if a.Reason != c.reason || c.reason != "" && (!strings.Contains(a.Error, "no address") || b.saw().starts > 0) {
					t.Errorf("the attempt is %s (%s): %s", a.Status, a.Reason, a.Error)
				}
				for _, name := range []string{"WAYBILL_CALLBACK", "WAYBILL_SERVER", "___NextStageFunctionUrl"} {
					if v, ok := env[name]; ok {
						t.Errorf("it is told to call %s", v)
					}
				}
			})
		})
	}
}
