package sim_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
	"github.com/waybill-run/waybill/internal/runner/sim"
)

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Options{New: func(*testing.T) runnertest.Harness {
		return runnertest.Harness{
			Runner:         sim.New(sim.Options{}),
			Program:        func(p runnertest.Program) ([]string, json.RawMessage) { return nil, settings(p) },
			BadProgramWith: json.RawMessage(`{"start_fail":true}`),
		}
	}})
}

func settings(p runnertest.Program) json.RawMessage {
	b, err := json.Marshal(map[string]any{
		"log_text": p.Lines, "log_lines": p.Count, "log_bytes": p.Long, "log_binary": p.Binary,
		"run_for": p.RunFor.String(), "hang": p.Hang, "exit": p.Exit, "signal": p.Signal,
	})
	if err != nil {
		panic(err)
	}
	return b
}

func spec(t *testing.T, unit, with string) runner.Spec {
	t.Helper()
	dir := t.TempDir()
	return runner.Spec{
		Unit: unit, With: json.RawMessage(with), Dir: dir, Log: filepath.Join(dir, "log"),
		Env:  []string{"WAYBILL_OUTPUT=" + filepath.Join(dir, "out"), "WAYBILL_CALLBACK=http://server/cb", "WAYBILL_TOKEN=secret"},
		Meta: map[string]string{"run": "r1", "step": "s1"},
	}
}

func mustRun(t *testing.T, r *sim.Runner, s runner.Spec) runner.Exit {
	t.Helper()
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatalf("start %s: %v", s.Unit, err)
	}
	e, err := r.Wait(t.Context(), h)
	if err != nil {
		t.Fatalf("wait for %s: %v", s.Unit, err)
	}
	return e
}

func TestCheckNamesTheMistake(t *testing.T) {
	r := sim.New(sim.Options{})
	for _, good := range []string{"", "null", "{}", `{"run_for":"1m30s","exit":3,"callback":{"variables":{"a":[1]}}}`} {
		if err := r.Check(nil, json.RawMessage(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for with, want := range map[string]string{
		`[]`:                        "not an object",
		`{"run_four":"1s"}`:         `did you mean "run_for"?`,
		`{"colour":1}`:              `unknown key "colour"`,
		`{"run_for":5}`:             "run_for",
		`{"run_for":"5 parsecs"}`:   "run_for",
		`{"run_for":"-1s"}`:         "negative",
		`{"exit":256}`:              "exit",
		`{"exit":"one"}`:            "exit",
		`{"log_lines":-1}`:          "negative",
		`{"callback":{"twise":1}}`:  `callback: unknown key "twise"; did you mean "twice"?`,
		`{"callback":{"after":{}}}`: "callback: after",
	} {
		if err := r.Check(nil, json.RawMessage(with)); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want kind invalid with %q", with, err, want)
		}
		if _, err := r.Start(t.Context(), spec(t, "x", with)); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: start = %v, want kind invalid", with, err)
		}
	}
}

func TestFailFirst(t *testing.T) {
	r := sim.New(sim.Options{})
	defer r.Close()
	var codes []int
	for _, unit := range []string{"a1", "a2", "a3", "a4"} {
		codes = append(codes, mustRun(t, r, spec(t, unit, `{"fail_first":2}`)).Code)
	}
	other := spec(t, "b1", `{"fail_first":2}`)
	other.Meta["step"] = "s2"
	codes = append(codes, mustRun(t, r, other).Code)
	keyed := spec(t, "c1", `{"fail_first":1,"fail_key":"mine"}`)
	codes = append(codes, mustRun(t, r, keyed).Code)
	if d := cmp.Diff([]int{1, 1, 0, 0, 1, 1}, codes); d != "" {
		t.Errorf("exit codes (-want +got):\n%s", d)
	}
}

func TestStartFaults(t *testing.T) {
	r := sim.New(sim.Options{})
	defer r.Close()
	refused := spec(t, "refused", `{"start_error":2}`)
	h := runner.Handle{Runner: sim.Name, Unit: "refused"}
	for range 2 {
		if _, err := r.Start(t.Context(), refused); !waybill.IsKind(err, waybill.KindUnavailable) {
			t.Errorf("start = %v, want kind unavailable", err)
		}
		if err := r.Recover(t.Context(), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("recover after a refusal = %v, want kind lost", err)
		}
	}
	if e := mustRun(t, r, refused); !e.OK() {
		t.Errorf("exit = %+v", e)
	}

	unanswered := spec(t, "unanswered", `{"lose_answer":1,"log_text":["executed"]}`)
	if _, err := r.Start(t.Context(), unanswered); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("start = %v, want kind unavailable", err)
	}
	if e := mustRun(t, r, unanswered); !e.OK() {
		t.Errorf("exit = %+v", e)
	}
	if b, _ := os.ReadFile(unanswered.Log); string(b) != "executed\n" {
		t.Errorf("log = %q, want one execution", b)
	}
}

func TestVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := sim.New(sim.Options{})
		defer r.Close()
		h, err := r.Start(t.Context(), spec(t, "v", `{"run_for":"1h","vanish":true}`))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Recover(t.Context(), h, runner.Spec{}); err != nil {
			t.Errorf("recover while it runs: %v", err)
		}
		began := time.Now()
		if _, err := r.Wait(t.Context(), h); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("wait = %v, want kind lost", err)
		}
		if d := time.Since(began); d != time.Hour {
			t.Errorf("vanished after %v, want an hour", d)
		}
		if err := r.Recover(t.Context(), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("recover = %v, want kind lost", err)
		}
		if units, _ := r.List(t.Context()); len(units) != 0 {
			t.Errorf("list = %v, want nothing of it", units)
		}
	})
}

func TestHangEndsAtGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := sim.New(sim.Options{})
		defer r.Close()
		h, err := r.Start(t.Context(), spec(t, "h", `{"hang":true}`))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		r.Stop(t.Context(), h, 10*time.Second)
		e, err := r.Wait(t.Context(), h)
		if err != nil || e.Signal != "SIGKILL" || time.Since(began) != 10*time.Second {
			t.Errorf("exit = %+v, %v after %v, want SIGKILL after 10s", e, err, time.Since(began))
		}
	})
}

func TestLogRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := sim.New(sim.Options{})
		defer r.Close()
		began := time.Now()
		e := mustRun(t, r, spec(t, "l", `{"log_lines":20,"log_rate":4}`))
		if d := time.Since(began); d != 5*time.Second || !e.OK() {
			t.Errorf("20 lines at 4 a second took %v, want 5s", d)
		}
	})
}

func TestOutputs(t *testing.T) {
	r := sim.New(sim.Options{})
	defer r.Close()
	s := spec(t, "o", `{"outputs":{"rows":42,"name":"x y","list":[1,2]}}`)
	if e := mustRun(t, r, s); !e.OK() {
		t.Fatalf("exit = %+v", e)
	}
	b, err := os.ReadFile(filepath.Join(s.Dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for l := range strings.Lines(string(b)) {
		if err := json.Unmarshal([]byte(l), &got); err != nil {
			t.Errorf("line %q: %v", l, err)
		}
	}
	want := map[string]any{"rows": 42.0, "name": "x y", "list": []any{1.0, 2.0}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("outputs (-want +got):\n%s", d)
	}
	s.Unit, s.Env = "o2", nil
	if e := mustRun(t, r, s); e.OK() || !strings.Contains(e.Message, "WAYBILL_OUTPUT") {
		t.Errorf("exit without a file for outputs = %+v", e)
	}
}

// server records what units send.
type server struct {
	mu    sync.Mutex
	began time.Time
	got   []call
}

type call struct {
	After time.Duration
	Path  string
	Token string
	Body  string
}

func (s *server) RoundTrip(q *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, call{time.Since(s.began), q.URL.Path, q.Header.Get("Authorization"), string(b)})
	return &http.Response{StatusCode: 202, Body: http.NoBody, Request: q}, nil
}

func TestCallbacks(t *testing.T) {
	const done = `{"status":"succeeded","variables":{"a":1}}`
	for name, c := range map[string]struct {
		with string
		want []call
	}{
		"none":       {`{"run_for":"10s"}`, nil},
		"at the end": {`{"run_for":"10s","callback":{"variables":{"a":1}}}`, []call{{10 * time.Second, "/cb", "Bearer secret", done}}},
		"twice": {`{"run_for":"10s","callback":{"variables":{"a":1},"twice":true}}`, []call{
			{10 * time.Second, "/cb", "Bearer secret", done}, {10 * time.Second, "/cb", "Bearer secret", done}}},
		"wrong token": {`{"run_for":"10s","callback":{"variables":{"a":1},"wrong_token":true}}`, []call{{10 * time.Second, "/cb", "Bearer wrong", done}}},
		"early":       {`{"run_for":"10s","callback":{"variables":{"a":1},"after":"3s"}}`, []call{{3 * time.Second, "/cb", "Bearer secret", done}}},
		"late":        {`{"run_for":"10s","callback":{"variables":{"a":1},"after":"30s"}}`, []call{{30 * time.Second, "/cb", "Bearer secret", done}}},
		"failure": {`{"callback":{"status":"failed","error":"no rows"},"exit":2}`, []call{
			{0, "/cb", "Bearer secret", `{"status":"failed","error":"no rows"}`}}},
		"heartbeats": {`{"run_for":"10s","heartbeat":"4s"}`, []call{
			{4 * time.Second, "/cb/heartbeat", "Bearer secret", "{}"}, {8 * time.Second, "/cb/heartbeat", "Bearer secret", "{}"}}},
		"vanished": {`{"run_for":"10s","vanish":true,"callback":{}}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &server{began: time.Now()}
				r := sim.New(sim.Options{Client: &http.Client{Transport: srv}})
				defer r.Close()
				h, err := r.Start(t.Context(), spec(t, "c", c.with))
				if err != nil {
					t.Fatal(err)
				}
				r.Wait(t.Context(), h)
				// Removing the unit does not call back a message that is on its way.
				if err := r.Remove(t.Context(), h); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				srv.mu.Lock()
				defer srv.mu.Unlock()
				if d := cmp.Diff(c.want, srv.got); d != "" {
					t.Errorf("calls (-want +got):\n%s", d)
				}
			})
		})
	}
}

func TestCloseEndsUnits(t *testing.T) {
	r := sim.New(sim.Options{})
	h, err := r.Start(t.Context(), spec(t, "h", `{"hang":true}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if e, err := r.Wait(ctx, h); err != nil || e.Signal != "SIGKILL" {
		t.Errorf("wait after close = %+v, %v", e, err)
	}
	if _, err := r.Start(t.Context(), spec(t, "n", "")); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("start after close = %v, want kind unavailable", err)
	}
}
