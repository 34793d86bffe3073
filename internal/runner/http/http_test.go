package http_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/http"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

func TestContract(t *testing.T) {
	// The far side does what the path and query of a request say.
	srv := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		d, _ := time.ParseDuration(r.FormValue("run_for"))
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		if r.FormValue("exit") != "0" {
			w.WriteHeader(500)
		}
	}))
	t.Cleanup(srv.Close)
	runnertest.Run(t, runnertest.Options{Request: true, New: func(*testing.T) runnertest.Harness {
		return runnertest.Harness{
			Runner: http.New(http.Options{}),
			Program: func(p runnertest.Program) ([]string, json.RawMessage) {
				if p.Hang {
					p.RunFor = time.Hour
				}
				return nil, with(map[string]any{
					"url":     srv.URL + "/" + strings.Join(p.Lines, "/"),
					"query":   map[string]any{"run_for": p.RunFor.String(), "exit": p.Exit},
					"timeout": "2h",
				})
			},
			BadProgramWith: with(map[string]any{"url": srv.URL, "file": "missing.json"}),
		}
	}})
}

func with(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func spec(t *testing.T, unit string, set map[string]any) runner.Spec {
	t.Helper()
	dir := t.TempDir()
	return runner.Spec{
		Unit: unit, With: with(set), Dir: dir, Log: filepath.Join(t.TempDir(), "log"),
		Env:  []string{"WAYBILL_OUTPUT=" + filepath.Join(t.TempDir(), "out"), "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		Meta: map[string]string{"run": "r1", "step": "call", "attempt": "2"},
	}
}

func newRunner(t *testing.T, o http.Options) *http.Runner {
	t.Helper()
	r := http.New(o)
	t.Cleanup(func() { r.Close() })
	return r
}

// do makes the request of a spec and returns how it ended and what it logged.
func do(t *testing.T, r *http.Runner, s runner.Spec) (runner.Exit, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	h, err := r.Start(ctx, s)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	e, err := r.Wait(ctx, h)
	if err != nil {
		t.Fatalf("wait: %v", err)
	}
	b, err := os.ReadFile(s.Log)
	if err != nil {
		t.Fatal(err)
	}
	return e, string(b)
}

func outputs(t *testing.T, s runner.Spec) map[string]any {
	t.Helper()
	for _, v := range s.Env {
		if path, ok := strings.CutPrefix(v, "WAYBILL_OUTPUT="); ok {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			m := map[string]any{}
			if err := json.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	return nil
}

// seen is what a server was asked.
type seen struct {
	mu   sync.Mutex
	list []asked
}

type asked struct {
	Method, Path, Body string
	Header             nethttp.Header
}

func (s *seen) all() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked{}, s.list...)
}

// serve answers with f and remembers what it was asked.
func serve(t *testing.T, f nethttp.HandlerFunc) (string, *seen) {
	t.Helper()
	s := &seen{}
	srv := httptest.NewServer(nethttp.HandlerFunc(func(w nethttp.ResponseWriter, r *nethttp.Request) {
		b, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		s.mu.Lock()
		h := r.Header.Clone()
		h.Set("Host", r.Host)
		s.list = append(s.list, asked{r.Method, r.URL.RequestURI(), string(b), h})
		s.mu.Unlock()
		f(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, s
}

func answerJSON(status int, body string) nethttp.HandlerFunc {
	return func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("ETag", `"v7"`)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestRequestCarriesWhatTheStepSays(t *testing.T) {
	url, seen := serve(t, answerJSON(202, `{"id":12345678901234567,"state":"ok","list":[1,2.5],"none":null}`))
	s := spec(t, "a", map[string]any{
		"method": "PUT", "url": url + "/v1/jobs/7?have=1", "query": map[string]any{"dry": true, "q": "a b&c"},
		"headers": map[string]any{"X-Team": "blue", "authorization": "Bearer t0k3n", "host": "api.internal"},
		"body":    map[string]any{"ref": "main", "n": 1},
		"expect":  map[string]any{"status": []any{200, 202}, "content_type": "application/json", "filter": "body.state == 'ok' && status == 202"},
		"outputs": map[string]any{"job": "body.id", "etag": "headers['etag']", "none": "body.none", "missing": "default(body.nothing, 'x')", "list": "body.list"},
	})
	e, log := do(t, newRunner(t, http.Options{}), s)
	if !e.OK() {
		t.Fatalf("exit = %+v, log:\n%s", e, log)
	}
	got := seen.all()[0]
	if got.Method != "PUT" || got.Path != "/v1/jobs/7?dry=true&have=1&q=a+b%26c" || got.Body != `{"n":1,"ref":"main"}` {
		t.Errorf("the server was asked %+v", got)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Team": "blue", "Authorization": "Bearer t0k3n", "Host": "api.internal",
		"Idempotency-Key": "r1/call", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "User-Agent": "waybill",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("header %s = %q, want %q", name, v, want)
		}
	}
	want := map[string]any{"job": float64(12345678901234567), "etag": `"v7"`, "none": nil, "missing": "x", "list": []any{1.0, 2.5}}
	if d := cmp.Diff(want, outputs(t, s)); d != "" {
		t.Errorf("outputs (-want +got):\n%s", d)
	}
	if b, _ := os.ReadFile(strings.TrimPrefix(s.Env[0], "WAYBILL_OUTPUT=")); !strings.Contains(string(b), "12345678901234567") {
		t.Errorf("a large number lost digits: %s", b)
	}
	if !strings.Contains(log, "> PUT "+url+"/v1/jobs/7?dry=true&have=1&q=a+b%26c, 20 B\n") || !strings.Contains(log, "< 202 Accepted, application/json, 64 B, ") {
		t.Errorf("log:\n%s", log)
	}
}

func TestBodies(t *testing.T) {
	url, seen := serve(t, answerJSON(200, `{}`))
	for name, c := range map[string]struct {
		set         map[string]any
		method      string
		body, media string
	}{
		"none":     {map[string]any{}, "GET", "", ""},
		"text":     {map[string]any{"body": "a\nb"}, "POST", "a\nb", "text/plain; charset=utf-8"},
		"list":     {map[string]any{"body": []any{1, "x"}}, "POST", `[1,"x"]`, "application/json"},
		"number":   {map[string]any{"body": 7}, "POST", `7`, "application/json"},
		"form":     {map[string]any{"form": map[string]any{"a": 1, "b": "ü&"}}, "POST", "a=1&b=%C3%BC%26", "application/x-www-form-urlencoded"},
		"file":     {map[string]any{"file": "in/data.json"}, "POST", `{"from":"file"}`, "application/json"},
		"own type": {map[string]any{"body": "<a/>", "headers": map[string]any{"content-type": "text/xml"}}, "POST", "<a/>", "text/xml"},
	} {
		before := len(seen.all())
		c.set["url"] = url
		s := spec(t, "b", c.set)
		if err := os.MkdirAll(filepath.Join(s.Dir, "in"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.Dir, "in/data.json"), []byte(`{"from":"file"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if e, log := do(t, newRunner(t, http.Options{}), s); !e.OK() {
			t.Errorf("%s: exit = %+v, log:\n%s", name, e, log)
			continue
		}
		got := seen.all()[before]
		if got.Method != c.method || got.Body != c.body || got.Header.Get("Content-Type") != c.media {
			t.Errorf("%s: the server was asked %+v", name, got)
		}
	}
}

func TestKeyIsTheSameInEveryAttempt(t *testing.T) {
	url, seen := serve(t, answerJSON(200, `{}`))
	r := newRunner(t, http.Options{})
	one := spec(t, "k1", map[string]any{"url": url})
	two := spec(t, "k2", map[string]any{"url": url})
	two.Meta["attempt"] = "3"
	own := spec(t, "k3", map[string]any{"url": url, "idempotency_key": "mine"})
	none := spec(t, "k4", map[string]any{"url": url, "idempotency_key": ""})
	for _, s := range []runner.Spec{one, two, own, none} {
		do(t, r, s)
	}
	var keys []string
	for _, a := range seen.all() {
		keys = append(keys, a.Header.Get("Idempotency-Key"))
	}
	if d := cmp.Diff([]string{"r1/call", "r1/call", "mine", ""}, keys); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
}

func TestExpectations(t *testing.T) {
	url, _ := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Type", r.FormValue("type"))
		var status int
		fmt.Sscan(r.FormValue("status"), &status)
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(r.FormValue("body"), "BYTES", "\xff\xfe"))
	})
	for _, c := range []struct {
		name, status, media, body string
		expect                    map[string]any
		outputs                   map[string]any
		reason, says              string
	}{
		{name: "success", status: "204"},
		{name: "not found", status: "404", body: "no such job", reason: "http_status", says: "404 Not Found, expected 2xx"},
		{name: "expected failure", status: "404", expect: map[string]any{"status": "4xx"}},
		{name: "one of", status: "201", expect: map[string]any{"status": []any{200, "202"}}, reason: "http_status", says: "expected 200 or 202"},
		{name: "redirect without place", status: "304", reason: "http_status", says: "304"},
		{name: "type", status: "200", media: "text/html", expect: map[string]any{"content_type": "application/json"}, reason: "expectation", says: "text/html, expected application/json"},
		{name: "kind of type", status: "200", media: "text/html; charset=utf-8", expect: map[string]any{"content_type": "text/*"}},
		{name: "no type", status: "204", expect: map[string]any{"content_type": "text/*"}, reason: "expectation", says: "content type none"},
		{name: "filter false", status: "200", media: "application/json", body: `{"n":1}`, expect: map[string]any{"filter": "body.n > 1"}, reason: "expectation", says: "body.n > 1 is false"},
		{name: "filter without value", status: "200", media: "application/json", body: `{"n":1}`, expect: map[string]any{"filter": "body.m > 1"}, reason: "expectation", says: "no m"},
		{name: "filter no truth", status: "200", media: "application/json", body: `{"n":1}`, expect: map[string]any{"filter": "body.n"}, reason: "expectation", says: "expected true or false"},
		{name: "not JSON", status: "200", media: "application/json", body: `<html>`, expect: map[string]any{"filter": "body.n > 1"}, reason: "bad_answer", says: "not JSON"},
		{name: "two documents", status: "200", media: "application/json", body: `{} {}`, expect: map[string]any{"filter": "body.n > 1"}, reason: "bad_answer", says: "not JSON"},
		{name: "JSON is not looked at", status: "200", media: "application/json", body: `<html>`, expect: map[string]any{"filter": "status == 200"}},
		{name: "text", status: "200", media: "text/plain", body: `{"n":1}`, expect: map[string]any{"filter": "body.contains('n')"}},
		{name: "problem type", status: "200", media: "application/problem+json", body: `{"n":1}`, expect: map[string]any{"filter": "body.n == 1"}},
		{name: "no body", status: "200", media: "application/json", expect: map[string]any{"filter": "body == null"}},
		{name: "output missing", status: "200", media: "application/json", body: `{}`, outputs: map[string]any{"x": "body.id"}, reason: "outputs", says: "outputs: x: body.id: the answer has no id"},
		{name: "output bytes", status: "200", media: "application/octet-stream", body: "BYTES", outputs: map[string]any{"x": "body"}, reason: "outputs", says: "not UTF-8"},
		{name: "too much work", status: "200", media: "application/json", body: "[" + strings.Repeat("1,", 9000) + "1]", expect: map[string]any{"filter": "body.all(x, body.all(y, x == y))"}, reason: "expectation", says: "too much work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := map[string]any{"url": url, "form": map[string]any{"status": c.status, "type": c.media, "body": c.body}}
			if c.expect != nil {
				set["expect"] = c.expect
			}
			if c.outputs != nil {
				set["outputs"] = c.outputs
			}
			e, log := do(t, newRunner(t, http.Options{}), spec(t, "x", set))
			if e.Reason != c.reason || e.OK() != (c.reason == "") || !strings.Contains(e.Message, c.says) {
				t.Errorf("exit = %+v, want reason %q with %q", e, c.reason, c.says)
			}
			if c.reason != "" && len(c.body) < 1000 && c.body != "BYTES" && !strings.Contains(log, c.body) {
				t.Errorf("the log does not show the body:\n%s", log)
			}
		})
	}
}

func TestFailureShowsTheBeginningOfTheBody(t *testing.T) {
	url, _ := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.WriteHeader(500)
		io.WriteString(w, "first\nsecond\x1b[31m\n"+strings.Repeat("x", 5000))
	})
	_, log := do(t, newRunner(t, http.Options{}), spec(t, "x", map[string]any{"url": url}))
	if !strings.Contains(log, "  first\n  second\uFFFD[31m\n  xxx") || !strings.Contains(log, "the beginning of 50") || len(log) > 3000 {
		t.Errorf("log of %d bytes:\n%s", len(log), log)
	}
}

func TestSave(t *testing.T) {
	url, _ := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
		}
		io.WriteString(w, `{"id":4}`)
	})
	r := newRunner(t, http.Options{})
	s := spec(t, "s1", map[string]any{"url": url, "save": map[string]any{"file": "out/deep/answer.json"}, "outputs": map[string]any{"id": "body.id"}})
	if e, log := do(t, r, s); !e.OK() {
		t.Fatalf("exit = %+v, log:\n%s", e, log)
	}
	if b, err := os.ReadFile(filepath.Join(s.Dir, "out/deep/answer.json")); string(b) != `{"id":4}` {
		t.Errorf("saved %q, %v", b, err)
	}
	if d := cmp.Diff(map[string]any{"id": 4.0}, outputs(t, s)); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]struct {
		path string
		max  any
		why  string
	}{"status": {"/bad", nil, "http_status"}, "length": {"/", 7, "too_large"}} {
		s := spec(t, "s-"+name, map[string]any{"url": url + c.path, "save": map[string]any{"file": "answer", "max": c.max}})
		if e, _ := do(t, r, s); e.Reason != c.why {
			t.Errorf("%s: exit = %+v", name, e)
		}
		if left, _ := os.ReadDir(s.Dir); len(left) > 0 {
			t.Errorf("%s: %s is left in the step's folder", name, left[0].Name())
		}
	}
	// A link that leads out of the folder is not followed.
	out := t.TempDir()
	s = spec(t, "s-link", map[string]any{"url": url, "save": map[string]any{"file": "link/answer"}})
	if err := os.Symlink(out, filepath.Join(s.Dir, "link")); err != nil {
		t.Fatal(err)
	}
	if e, _ := do(t, r, s); e.Reason != "outputs" {
		t.Errorf("through a link: exit = %+v", e)
	}
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Error("something was written outside of the step's folder")
	}
	big := spec(t, "s-big", map[string]any{"url": url, "max_answer": 3, "save": map[string]any{"file": "answer"}, "outputs": map[string]any{"id": "body.id"}})
	if e, _ := do(t, r, big); e.Reason != "bad_answer" || !strings.Contains(e.Message, "max_answer") {
		t.Errorf("expression over a body that was not kept: exit = %+v", e)
	}
}

func TestRetryAfter(t *testing.T) {
	var mu sync.Mutex
	n := 0
	url, seen := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch n++; n {
		case 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
		case 2:
			w.Header().Set("Retry-After", time.Now().Add(-time.Hour).UTC().Format(nethttp.TimeFormat))
			w.WriteHeader(503)
		}
	})
	e, log := do(t, newRunner(t, http.Options{}), spec(t, "r", map[string]any{"url": url, "body": "x"}))
	if !e.OK() || len(seen.all()) != 3 || strings.Count(log, "Retry-After") != 2 {
		t.Errorf("exit = %+v after %d requests, log:\n%s", e, len(seen.all()), log)
	}
	for _, a := range seen.all() {
		if a.Body != "x" || a.Header.Get("Idempotency-Key") != "r1/call" {
			t.Errorf("repeated as %+v", a)
		}
	}
	n = 0
	if e, _ := do(t, newRunner(t, http.Options{}), spec(t, "r", map[string]any{"url": url, "retry_after": false})); e.Reason != "http_status" {
		t.Errorf("without retry_after: exit = %+v", e)
	}
	n = 0
	if e, _ := do(t, newRunner(t, http.Options{}), spec(t, "r", map[string]any{"url": url, "expect": map[string]any{"status": 429}})); !e.OK() {
		t.Errorf("an expected 429: exit = %+v", e)
	}
	// Longer than the unit may live.
	url, _ = serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(503)
	})
	s := spec(t, "r", map[string]any{"url": url})
	s.HardStop = time.Now().Add(time.Hour)
	if e, _ := do(t, newRunner(t, http.Options{}), s); e.Reason != "http_status" || !strings.Contains(e.Message, "2h") {
		t.Errorf("a wait that is too long: exit = %+v", e)
	}
}

func TestPoll(t *testing.T) {
	var mu sync.Mutex
	asks := 0
	url, seen := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if r.Method == "POST" {
			w.Header().Set("Operation-Location", "/operations/9")
			w.WriteHeader(202)
			return
		}
		switch asks++; asks {
		case 1:
			io.WriteString(w, `{"state":"running"}`)
		case 2: // passes
			w.WriteHeader(503)
		default:
			io.WriteString(w, `{"state":"done","result":{"url":"x"}}`)
		}
	})
	poll := map[string]any{"until": "body.state in ['done','failed']", "every": "10ms"}
	s := spec(t, "p", map[string]any{
		"url": url + "/jobs", "body": map[string]any{}, "headers": map[string]any{"Authorization": "Bearer t"}, "poll": poll,
		"expect": map[string]any{"filter": "body.state == 'done'"}, "outputs": map[string]any{"at": "body.result.url"},
	})
	e, log := do(t, newRunner(t, http.Options{}), s)
	if !e.OK() {
		t.Fatalf("exit = %+v, log:\n%s", e, log)
	}
	var paths []string
	for _, a := range seen.all() {
		paths = append(paths, a.Method+" "+a.Path)
		if a.Header.Get("Authorization") != "Bearer t" {
			t.Errorf("%s %s came without credentials", a.Method, a.Path)
		}
		if key := a.Header.Get("Idempotency-Key"); (key == "") != (a.Method == "GET") {
			t.Errorf("%s %s with key %q", a.Method, a.Path, key)
		}
	}
	if d := cmp.Diff([]string{"POST /jobs", "GET /operations/9", "GET /operations/9", "GET /operations/9"}, paths); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]any{"at": "x"}, outputs(t, s)); d != "" {
		t.Error(d)
	}
}

func TestPollUntilHealthy(t *testing.T) {
	var mu sync.Mutex
	n := 0
	url, _ := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n < 8 {
			w.WriteHeader(404)
		}
	})
	e, log := do(t, newRunner(t, http.Options{}), spec(t, "p", map[string]any{"url": url, "poll": map[string]any{"until": "status == 200", "every": "10ms"}}))
	if !e.OK() || n != 8 {
		t.Errorf("exit = %+v after %d requests, log:\n%s", e, n, log)
	}
	n = 0
	gone := spec(t, "p", map[string]any{"url": url, "poll": map[string]any{"until": "status == 404", "every": "10ms"}})
	if e, _ := do(t, newRunner(t, http.Options{}), gone); !e.OK() {
		t.Errorf("a status that was waited for: exit = %+v", e)
	}
}

func TestPollFailures(t *testing.T) {
	for name, c := range map[string]struct {
		answer       nethttp.HandlerFunc
		reason, says string
	}{
		"nothing to ask": {answerJSON(202, `{}`), "poll", "set poll.url"},
		"refused":        {answerJSON(400, `{}`), "http_status", "400"},
		"no URL": {func(w nethttp.ResponseWriter, _ *nethttp.Request) {
			w.Header().Set("Location", "mailto:you")
			w.WriteHeader(202)
		}, "poll", "no URL"},
		"gone": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			w.Header().Set("Location", "/op")
			w.WriteHeader(map[string]int{"POST": 202, "GET": 410}[r.Method])
		}, "http_status", "410"},
		"broken for good": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			w.Header().Set("Location", "/op")
			w.WriteHeader(map[string]int{"POST": 202, "GET": 502}[r.Method])
		}, "http_status", "5 requests in a row"},
		"no state": {func(w nethttp.ResponseWriter, r *nethttp.Request) {
			w.Header().Set("Location", "/op")
			answerJSON(202, `{"phase":1}`)(w, r)
		}, "expectation", "no state"},
	} {
		url, _ := serve(t, c.answer)
		s := spec(t, "p", map[string]any{"url": url, "body": "x", "poll": map[string]any{"until": "body.state == 'done'", "every": "10ms"}})
		if e, log := do(t, newRunner(t, http.Options{}), s); e.Reason != c.reason || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: exit = %+v, want reason %s with %q; log:\n%s", name, e, c.reason, c.says, log)
		}
	}
}

func TestHeadersStayWithTheirHost(t *testing.T) {
	other, there := serve(t, answerJSON(200, `{"state":"done"}`))
	var location string
	url, _ := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(map[string]int{"/redirect": 307, "/op": 202}[r.URL.Path])
	})
	location = other + "/elsewhere"
	for _, set := range []map[string]any{
		{"url": url + "/redirect"},
		{"url": url + "/op", "poll": map[string]any{"until": "body.state == 'done'", "every": "10ms"}},
	} {
		set["body"], set["headers"] = "x", map[string]any{"X-Api-Key": "secret", "Authorization": "Bearer secret", "Cookie": "a=secret"}
		e, log := do(t, newRunner(t, http.Options{}), spec(t, "h", set))
		if !e.OK() {
			t.Fatalf("exit = %+v, log:\n%s", e, log)
		}
	}
	for _, a := range there.all() {
		for name, v := range a.Header {
			if strings.Contains(strings.Join(v, ""), "secret") {
				t.Errorf("another host was sent %s: %s", name, v)
			}
		}
	}
	if n := len(there.all()); n != 2 {
		t.Errorf("the other host was asked %d times", n)
	}
}

func TestCheck(t *testing.T) {
	r := newRunner(t, http.Options{})
	for _, good := range []string{
		`{"url":"https://example.com"}`,
		`{"url":"${{ vars.URL }}/x","timeout":"${{ vars.T }}","method":"${{ params.m }}","expect":{"status":"${{ vars.s }}","filter":"body.n > ${{ vars.n }}"},"headers":{"A":"${secret:B}"},"save":{"file":"${{ run.id }}"}}`,
		`{"url":"http://[::1]:80/","method":"DELETE","expect":{"status":"2xx"},"save":{"file":"out/a.json","max":"1GiB"},"tls":{"insecure":true}}`,
	} {
		if err := r.Check(nil, json.RawMessage(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for with, want := range map[string]string{
		``:                          "url: it is missing",
		`[]`:                        "not an object",
		`{"uri":"https://e.com"}`:   `did you mean "url"?`,
		`{"url":"e.com/x"}`:         "url: expected a URL that begins with http",
		`{"url":"ftp://e.com"}`:     "url: expected a URL",
		`{"url":"http://"}`:         "url: it names no host",
		`{"url":"http://e.com/#x"}`: "part after #",
		`{"url":"http://e.com","body":"x","form":{"a":1}}`:                  "exclude each other",
		`{"url":"http://e.com","method":"post"}`:                            `"post" is written POST`,
		`{"url":"http://e.com","method":"FETCH"}`:                           "method: expected one of GET",
		`{"url":"http://e.com","method":"HEAD","body":"x"}`:                 "HEAD",
		`{"url":"http://e.com","headers":{"A b":"x"}}`:                      "no name of a header",
		`{"url":"http://e.com","headers":{"A":"x\ny"}}`:                     "value of A",
		`{"url":"http://e.com","headers":{"content-length":3}}`:             "Content-Length is set by Waybill",
		`{"url":"http://e.com","headers":{"A":["x"]}}`:                      "headers: expected text",
		`{"url":"http://e.com","timeout":5}`:                                "timeout",
		`{"url":"http://e.com","timeout":"soon"}`:                           "timeout",
		`{"url":"http://e.com","expect":{"status":"20x"}}`:                  "expect: status: expected a status",
		`{"url":"http://e.com","expect":{"status":[42]}}`:                   "expect: status: expected a status",
		`{"url":"http://e.com","expect":{"stauts":200}}`:                    `did you mean "status"?`,
		`{"url":"http://e.com","expect":{"content_type":"json"}}`:           "expect: content_type",
		`{"url":"http://e.com","expect":{"filter":"body.x =="}}`:            "expect: filter: character",
		`{"url":"http://e.com","expect":{"filter":"bdy.x == 1"}}`:           "knows status, headers and body",
		`{"url":"http://e.com","outputs":{"a-b":"body"}}`:                   "a-b",
		`{"url":"http://e.com","outputs":{"a":"body["}}`:                    "outputs: a: character",
		`{"url":"http://e.com","outputs":{"a":""}}`:                         "expression is missing",
		`{"url":"http://e.com","save":{}}`:                                  "save: file: it is missing",
		`{"url":"http://e.com","save":{"file":"../x"}}`:                     "save: file: expected a path",
		`{"url":"http://e.com","save":{"file":"x","max":"huge"}}`:           "save: max: expected a number of bytes",
		`{"url":"http://e.com","file":"/etc/passwd"}`:                       "file: expected a path in the step's folder",
		`{"url":"http://e.com","poll":{}}`:                                  "poll: until: it is missing",
		`{"url":"http://e.com","poll":{"until":"true","every":"1ns"}}`:      "poll: every",
		`{"url":"http://e.com","poll":{"until":"true","url":"/x"}}`:         "poll: url",
		`{"url":"http://e.com","tls":{"cert_file":"x"}}`:                    "go together",
		`{"url":"http://e.com","tls":{"insecure":"yes"}}`:                   "tls: insecure: expected true or false, found text",
		`{"url":"http://e.com","basic":{"user":"a:b"}}`:                     "colon",
		`{"url":"http://e.com","basic":{},"headers":{"Authorization":"x"}}`: "exclude each other",
		`{"url":"http://e.com","idempotency_key":"a\nb"}`:                   "idempotency_key",
		`{"url":"http://us er:p@e.com/%zz"}`:                                "url: it is not a URL",
	} {
		err := r.Check(nil, json.RawMessage(with))
		if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error = %v, want kind invalid with %q", with, err, want)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	const secret = "s3cr3t+t0k/en"
	url, _ := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(500)
		// The far side repeats what it was sent, across the place where the log cuts.
		fmt.Fprintf(w, `{"pad":%q,"you_sent":%q}`, strings.Repeat("x", 1970), r.Header.Get("Authorization"))
	})
	s := spec(t, "m", map[string]any{
		"url": url + "/" + "s3cr3t%2Bt0k%2Fen", "query": map[string]any{"key": secret},
		"headers": map[string]any{"Authorization": "Bearer " + secret}, "expect": map[string]any{"status": 200, "filter": "body.x == '" + secret + "'"},
	})
	s.Mask = [][]byte{[]byte(secret)}
	e, log := do(t, newRunner(t, http.Options{}), s)
	for _, text := range []string{log, e.Message} {
		for _, part := range []string{"s3cr3t", "t0k"} {
			if strings.Contains(text, part) {
				t.Errorf("a secret shows in %q", text)
			}
		}
	}
	s = spec(t, "m2", map[string]any{"url": url, "expect": map[string]any{"status": 500, "filter": "headers['x-none'] == '" + secret + "'"}})
	s.Mask = [][]byte{[]byte(secret)}
	if e, _ := do(t, newRunner(t, http.Options{}), s); e.Reason != "expectation" || strings.Contains(e.Message, secret) {
		t.Errorf("exit = %+v", e)
	}
}
