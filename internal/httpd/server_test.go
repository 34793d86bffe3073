package httpd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/httpd/httpdtest"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
)

// bench is a server over a world, with a client that checks every answer
// against the contract.
type bench struct {
	*testing.T
	world  *httpdtest.World
	server *httpd.Server
	url    string
	client *http.Client
	log    *logBuffer
	clock  *clock
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func setup(t *testing.T, change ...func(*httpd.Options)) *bench {
	t.Helper()
	t.Parallel()
	b := unready(t, change...)
	b.server.SetReady(b.world.Services())
	return b
}

func unready(t *testing.T, change ...func(*httpd.Options)) *bench {
	t.Helper()
	b := &bench{T: t, log: &logBuffer{}, clock: &clock{t: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}}
	b.world = httpdtest.New(b.clock.now)
	o := httpd.Options{
		Logger: slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Loopback: true, Now: b.clock.now,
		Problems: httpdtest.Problems, Version: httpd.Version{Version: "v0", Go: "go1", Platform: "linux/amd64"},
	}
	for _, f := range change {
		f(&o)
	}
	b.server = httpd.New(o)
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = b.server.HTTP()
	ts.Start()
	t.Cleanup(func() { b.server.Drain(); ts.Close() })
	b.url = ts.URL
	b.client = &http.Client{Transport: openapitest.Transport{T: t}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return b
}

// ask sends a request; headers are "Name: value".
func (b *bench) ask(method, path, body string, headers ...string) (*http.Response, string) {
	b.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(b.Context(), method, b.url+path, r)
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Add(name, value)
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatal(err)
	}
	return res, string(text)
}

// run starts a run and returns its id and the callback path of its attempt, for
// which "unit" is the token.
func (b *bench) run() (id, attempt string) {
	b.Helper()
	res, text := b.ask("POST", "/api/v1/pipelines/hello/runs", "")
	if res.StatusCode != 202 {
		b.Fatalf("start: %d %s", res.StatusCode, text)
	}
	var run struct{ ID string }
	if err := json.Unmarshal([]byte(text), &run); err != nil {
		b.Fatal(err)
	}
	b.world.Do(func() { b.world.Attempts["unit"] = waybill.AttemptKey(run.ID, "greet", 1) })
	return run.ID, "/api/v1/runs/" + run.ID + "/steps/greet/attempts/1"
}

type step struct {
	name    string
	method  string
	path    string
	body    string
	headers []string
	status  int
	want    []string // fragments of the body
	without []string // and what it must not hold
	header  string   // "Name: value" of the answer
	audits  []string // "action subject result", and nothing else
}

func (b *bench) steps(all []step) {
	b.Helper()
	for _, s := range all {
		b.world.Do(func() { b.world.Audits = nil })
		res, text := b.ask(s.method, s.path, s.body, s.headers...)
		if res.StatusCode != s.status {
			b.Errorf("%s: status %d, want %d: %s", s.name, res.StatusCode, s.status, text)
			continue
		}
		for _, w := range s.want {
			if !strings.Contains(text, w) {
				b.Errorf("%s: %q is not in %s", s.name, w, text)
			}
		}
		for _, w := range s.without {
			if strings.Contains(text, w) {
				b.Errorf("%s: %q is in %s", s.name, w, text)
			}
		}
		if name, value, ok := strings.Cut(s.header, ": "); ok && res.Header.Get(name) != value {
			b.Errorf("%s: header %s is %q, want %q", s.name, name, res.Header.Get(name), value)
		}
		var got []string
		b.world.Do(func() {
			for _, a := range b.world.Audits {
				got = append(got, strings.Join(strings.Fields(a.Action+" "+a.Subject+" "+a.Result), " "))
			}
		})
		if !slices.Equal(got, s.audits) {
			b.Errorf("%s: audited %q, want %q", s.name, got, s.audits)
		}
	}
}

const jsonType = "Content-Type: application/json"

func TestRuns(t *testing.T) {
	b := setup(t)
	b.steps([]step{
		{name: "start", method: "POST", path: "/api/v1/pipelines/hello/runs", body: `{"vars":{"___A":1,"b":{"$file":{}}},"params":{"n":9007199254740993}}`, status: 202,
			want: []string{`"id":"run-1"`, `"n":9007199254740993`}, header: "Location: /api/v1/runs/run-1"},
		{name: "start with key", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Idempotency-Key: k"}, status: 202, want: []string{`"id":"run-2"`}},
		{name: "again", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Idempotency-Key: k"}, status: 202, want: []string{`"id":"run-2"`}, header: "Idempotency-Replayed: true"},
		{name: "same key, other body", method: "POST", path: "/api/v1/pipelines/hello/runs", body: `{"params":{"x":1}}`, headers: []string{"Idempotency-Key: k"}, status: 422, want: []string{`"kind":"invalid"`}},
		{name: "dry run", method: "POST", path: "/api/v1/pipelines/hello/runs?dry_run=true", body: `{"params":{"n":1}}`, status: 200, want: []string{`"unknown":["run.id"]`, `"runs":"yes"`}},
		{name: "dry run of nothing", method: "POST", path: "/api/v1/pipelines/nope/runs?dry_run=true", status: 404, want: []string{`"kind":"not_found"`}},
		{name: "dry run, oddly", method: "POST", path: "/api/v1/pipelines/hello/runs?dry_run=perhaps", status: 400, want: []string{"dry_run"}},
		{name: "reload", method: "POST", path: "/api/v1/project/reload", status: 200, want: []string{`"restart":["units.max"]`, "did you mean steps?"}, audits: []string{"project.reload ok"}},
		{name: "schema", method: "GET", path: "/api/v1/schemas/pipeline", status: 200, want: []string{`"type":"object"`}},
		{name: "no such schema", method: "GET", path: "/api/v1/schemas/pool", status: 404, want: []string{`"kind":"not_found"`}},
		{name: "empty key", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Idempotency-Key: "}, status: 422},
		{name: "unknown pipeline", method: "POST", path: "/api/v1/pipelines/nope/runs", status: 404, want: []string{`"kind":"not_found"`, "there is no pipeline nope"}},
		{name: "show", method: "GET", path: "/api/v1/runs/run-1", status: 200, want: []string{`"steps":[{`, `"attempts":[{`, `"status":"running"`, `"needs":[]`},
			without: []string{"must not leave", `"pid"`, "tenant"}},
		{name: "unknown run", method: "GET", path: "/api/v1/runs/nope", status: 404},
		{name: "list", method: "GET", path: "/api/v1/runs?limit=1", status: 200, want: []string{`"id":"run-2"`, `"next_cursor":"1"`}},
		{name: "last page", method: "GET", path: "/api/v1/runs?limit=1&cursor=1", status: 200, want: []string{`"id":"run-1"`, `"next_cursor":null`}},
		{name: "none", method: "GET", path: "/api/v1/runs?status=failed", status: 200, want: []string{`"items":[]`}},
		{name: "bad status", method: "GET", path: "/api/v1/runs?status=cancelled", status: 422, want: []string{"canceled"}},
		{name: "limit 0", method: "GET", path: "/api/v1/runs?limit=0", status: 422},
		{name: "limit 1001", method: "GET", path: "/api/v1/runs?limit=1001", status: 422},
		{name: "limit x", method: "GET", path: "/api/v1/runs?limit=x", status: 400, want: []string{"parameter limit"}},
		{name: "bad cursor", method: "GET", path: "/api/v1/runs?cursor=zz", status: 422},
		{name: "file", method: "GET", path: "/api/v1/runs/run-1/steps/greet/files/report?attempt=1", status: 200, want: []string{"north,1"}, header: "Content-Disposition: attachment"},
		{name: "no file", method: "GET", path: "/api/v1/runs/run-1/steps/greet/files/other", status: 404},
		{name: "events", method: "GET", path: "/api/v1/runs/run-1/events", status: 200, want: []string{`"kind":"run.started"`, `"next_cursor":null`}},
		{name: "events, full page", method: "GET", path: "/api/v1/runs/run-1/events?limit=1", status: 200, want: []string{`"next_cursor":"1"`}},
		{name: "retry too early", method: "POST", path: "/api/v1/runs/run-1/retry", status: 409, audits: []string{"run.retry run-1 conflict"}},
		{name: "cancel", method: "POST", path: "/api/v1/runs/run-1/cancel", body: `{"reason":"enough"}`, status: 202, want: []string{`"cancel_by":"local"`}, audits: []string{"run.cancel run-1 ok"}},
		{name: "cancel without body, twice", method: "POST", path: "/api/v1/runs/run-1/cancel", status: 202, audits: []string{"run.cancel run-1 ok"}},
		{name: "cancel by force", method: "POST", path: "/api/v1/runs/run-1/cancel", body: `{"force":true}`, status: 202, audits: []string{"run.cancel run-1 ok"}},
		{name: "pause", method: "POST", path: "/api/v1/runs/run-1/pause", status: 202, want: []string{`"paused_by":"local"`}, audits: []string{"run.pause run-1 ok"}},
		{name: "resume", method: "POST", path: "/api/v1/runs/run-1/resume", status: 202, without: []string{"paused_by"}, audits: []string{"run.resume run-1 ok"}},
		{name: "pause nothing", method: "POST", path: "/api/v1/runs/nope/pause", status: 404, audits: []string{"run.pause nope not_found"}},
		{name: "approve", method: "POST", path: "/api/v1/runs/run-1/steps/gate/approval", body: `{"decision":"approved","comment":"fine","values":{"n":1}}`, status: 200, want: []string{`"decision":"approved"`, `"by":"local"`, `"values":{"n":1}`}, audits: []string{"approval.answer run-1/gate ok"}},
		{name: "approve again", method: "POST", path: "/api/v1/runs/run-1/steps/gate/approval", body: `{"decision":"approved"}`, status: 200, audits: []string{"approval.answer run-1/gate ok"}},
		{name: "reject what was approved", method: "POST", path: "/api/v1/runs/run-1/steps/gate/approval", body: `{"decision":"rejected"}`, status: 409, audits: []string{"approval.answer run-1/gate conflict"}},
		{name: "answer nothing", method: "POST", path: "/api/v1/runs/run-1/steps/nope/approval", body: `{"decision":"approved"}`, status: 404, audits: []string{"approval.answer run-1/nope not_found"}},
		{name: "answer maybe", method: "POST", path: "/api/v1/runs/run-1/steps/gate/approval", body: `{"decision":"maybe"}`, status: 422, audits: []string{"approval.answer run-1/gate invalid"}},
		{name: "answer without a body", method: "POST", path: "/api/v1/runs/run-1/steps/gate/approval", status: 400, audits: []string{"approval.answer run-1/gate malformed"}},
		{name: "slots", method: "GET", path: "/api/v1/slots?limit=1", status: 200, want: []string{`"key":"slot-run-1"`, `"next_cursor":"1"`}},
	})
	b.world.End("run-1", waybill.StatusCanceled)
	b.steps([]step{
		{name: "pause the ended", method: "POST", path: "/api/v1/runs/run-1/pause", status: 409, audits: []string{"run.pause run-1 conflict"}},
		{name: "cancel the ended", method: "POST", path: "/api/v1/runs/run-1/cancel", status: 409, want: []string{"cancel run run-1: the run has ended"}, audits: []string{"run.cancel run-1 conflict"}},
		{name: "retry", method: "POST", path: "/api/v1/runs/run-1/retry", headers: []string{"Idempotency-Key: r"}, body: `{"from":"greet"}`, status: 202, want: []string{`"id":"run-3"`, `"retry_of":"run-1"`}, audits: []string{"run.retry run-1 ok"}},
		{name: "retry again", method: "POST", path: "/api/v1/runs/run-1/retry", headers: []string{"Idempotency-Key: r"}, body: `{"from":"greet"}`, status: 202, want: []string{`"id":"run-3"`}, header: "Idempotency-Replayed: true", audits: []string{"run.retry run-1 ok"}},
		{name: "retry with other body", method: "POST", path: "/api/v1/runs/run-1/retry", headers: []string{"Idempotency-Key: r"}, status: 422, audits: []string{"run.retry run-1 invalid"}},
	})
}

func TestStrictJSON(t *testing.T) {
	b := setup(t)
	start := func(name, body string, status int, want ...string) step {
		return step{name: name, method: "POST", path: "/api/v1/pipelines/hello/runs", body: body, headers: []string{jsonType}, status: status, want: want}
	}
	b.steps([]step{
		start("unknown field", `{"parms":{}}`, 422, `unknown field`, `did you mean \"params\"`),
		start("other case", `{"Vars":{}}`, 422, `did you mean \"vars\"`),
		start("far from any", `{"something":{}}`, 422, `known fields are`),
		start("twice", `{"vars":{},"vars":{}}`, 400, `twice`),
		start("twice inside", `{"vars":{"a":{"x":1,"x":2}}}`, 400, `twice`),
		start("names that differ in case", `{"vars":{"A":1,"a":2}}`, 422, `different case`),
		start("garbage behind", `{} {}`, 400, `after top-level`),
		start("cut off", `{"vars":`, 400),
		start("not JSON", `vars`, 400),
		start("a list", `[]`, 422),
		start("wrong type", `{"vars":3}`, 422),
		start("deep", strings.Repeat(`[`, 100_000), 400, "deep"),
		start("too large", `{"vars":{"a":"`+strings.Repeat("x", 1<<20)+`"}}`, 413, "1048576"),
		{name: "not JSON by its type", method: "POST", path: "/api/v1/pipelines/hello/runs", body: "a=1", headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, want: []string{`"kind":"malformed"`}},
		{name: "body missing", method: "POST", path: "/api/v1/tokens", status: 400},
		{name: "wrong type of a member", method: "POST", path: "/api/v1/tokens", body: `{"name":"x","role":"viewer","ttl_seconds":"1h"}`, status: 422, want: []string{"ttl_seconds", "want a number"}},
	})
}

func TestPipelines(t *testing.T) {
	b := setup(t)
	yaml := []string{"Content-Type: application/yaml"}
	b.steps([]step{
		{name: "apply", method: "POST", path: "/api/v1/pipelines", body: "name: a\n", headers: yaml, status: 201, want: []string{`"version":1`, `"origin":"api"`}, audits: []string{"pipeline.apply ok"}},
		{name: "the same", method: "POST", path: "/api/v1/pipelines", body: "name: a\n", headers: yaml, status: 200, want: []string{`"version":1`}, audits: []string{"pipeline.apply ok"}},
		{name: "a change", method: "POST", path: "/api/v1/pipelines", body: "name: a\n#\n", headers: yaml, status: 201, want: []string{`"version":2`}, audits: []string{"pipeline.apply ok"}},
		{name: "of the folder", method: "POST", path: "/api/v1/pipelines", body: "name: hello\n", status: 409, want: []string{"pipelines/hello.yaml"}, audits: []string{"pipeline.apply conflict"}},
		{name: "bad", method: "POST", path: "/api/v1/pipelines", body: "steps: []\n", status: 422, want: []string{`"problems":[{`, `"line":1`, `"hint":"add name:"`}, audits: []string{"pipeline.apply invalid"}},
		{name: "empty", method: "POST", path: "/api/v1/pipelines", status: 400, audits: []string{"pipeline.apply malformed"}},
		{name: "validate", method: "POST", path: "/api/v1/pipelines/validate", body: "name: z\n", status: 200, want: []string{`"version":0`}},
		{name: "validate bad", method: "POST", path: "/api/v1/pipelines/validate", body: "x", status: 422, want: []string{`"problems":[{`}},
		{name: "list", method: "GET", path: "/api/v1/pipelines", status: 200, want: []string{`"name":"hello"`}, without: []string{`"source":"name`}},
		{name: "show", method: "GET", path: "/api/v1/pipelines/hello?version=1", status: 200, want: []string{`"source":"name: hello\n"`}},
		{name: "version 0", method: "GET", path: "/api/v1/pipelines/hello?version=0", status: 422},
		{name: "version 9", method: "GET", path: "/api/v1/pipelines/hello?version=9", status: 404},
		{name: "graph", method: "GET", path: "/api/v1/pipelines/hello/graph?format=dot", status: 200, want: []string{"dot: greet"}, header: "Content-Type: text/plain; charset=utf-8"},
		{name: "graph format", method: "GET", path: "/api/v1/pipelines/hello/graph?format=svg", status: 422},
	})
}

func TestObjects(t *testing.T) {
	b := setup(t, func(o *httpd.Options) { o.Limits.Object = 100 })
	const o = "/api/v1/buckets/inbox/objects"
	b.steps([]step{
		{name: "no buckets", method: "GET", path: "/api/v1/buckets", status: 200, want: []string{`"items":[]`, `"watched":[{`, `"url":"file:///srv/inbox"`}},
		{name: "watched bucket", method: "GET", path: "/api/v1/buckets/inbox", status: 200, want: []string{`"reason":"empty"`, `"told":true`, `"answered":0`}},
		{name: "bucket that is not watched", method: "GET", path: "/api/v1/buckets/outbox", status: 404, want: []string{`"kind":"not_found"`}},
		{name: "scan a bucket", method: "POST", path: "/api/v1/buckets/inbox/scan", status: 202, want: []string{`"asked":1`}, audits: []string{"bucket.scan inbox ok"}},
		{name: "scan nothing", method: "POST", path: "/api/v1/buckets/outbox/scan", status: 404, audits: []string{"bucket.scan outbox not_found"}},
		{name: "sources", method: "GET", path: "/api/v1/sources", status: 200, want: []string{`"kind":"rabbitmq"`, `"duplicates":1`, `"error":"the broker has no queue orders"`}},
		{name: "put", method: "PUT", path: o + "/a/b%20c/d.csv", body: "x,y\n", headers: []string{"Content-Type: text/csv"}, status: 201, want: []string{`"key":"a/b c/d.csv"`, `"size":4`, `"created_by":"local"`}},
		{name: "put a percent sign", method: "PUT", path: o + "/100%2525", body: "p", status: 201, want: []string{`"key":"100%25"`}},
		{name: "get", method: "GET", path: o + "/a/b%20c/d.csv", status: 200, want: []string{"x,y\n"}, header: "Content-Type: text/csv"},
		{name: "get is no page", method: "GET", path: o + "/a/b%20c/d.csv", status: 200, header: "Content-Disposition: attachment"},
		{name: "range", method: "GET", path: o + "/a/b%20c/d.csv", headers: []string{"Range: bytes=2-2"}, status: 206, want: []string{"y"}},
		{name: "range outside", method: "GET", path: o + "/a/b%20c/d.csv", headers: []string{"Range: bytes=9-"}, status: 416},
		{name: "head", method: "HEAD", path: o + "/a/b%20c/d.csv", status: 200, header: "Content-Length: 4"},
		{name: "head of nothing", method: "HEAD", path: o + "/nope", status: 404},
		{name: "right digest", method: "PUT", path: o + "/e", body: "", headers: []string{"Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}, status: 201},
		{name: "wrong digest", method: "PUT", path: o + "/f", body: "x", headers: []string{"Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"}, status: 422, want: []string{"Content-Digest says"}},
		{name: "unreadable digest", method: "PUT", path: o + "/f", body: "x", headers: []string{"Content-Digest: sha-256=abc"}, status: 400},
		{name: "nothing was put", method: "GET", path: o + "/f", status: 404},
		{name: "too large", method: "PUT", path: o + "/g", body: strings.Repeat("x", 101), status: 413, want: []string{"limit is 100"}},
		{name: "dots are kept for the service to judge", method: "PUT", path: o + "/a/%2E%2E/b", body: "x", status: 422, want: []string{".."}},
		{name: "second version", method: "PUT", path: o + "/a/b%20c/d.csv", body: "new", status: 201, want: []string{`"version":"v2"`}},
		{name: "first version", method: "GET", path: o + "/a/b%20c/d.csv?version=v1", status: 200, want: []string{"x,y\n"}},
		{name: "list", method: "GET", path: o + "?prefix=a/", status: 200, want: []string{`"key":"a/b c/d.csv"`}, without: []string{"100%"}},
		{name: "delete", method: "DELETE", path: o + "/a/b%20c/d.csv", status: 204, audits: []string{"object.delete inbox/a/b c/d.csv ok"}},
		{name: "deleted", method: "GET", path: o + "/a/b%20c/d.csv", status: 404, header: "ETag: "},
		{name: "delete again", method: "DELETE", path: o + "/a/b%20c/d.csv", status: 404, audits: []string{"object.delete inbox/a/b c/d.csv not_found"}},
		{name: "no key", method: "PUT", path: o + "/", body: "x", status: 400, want: []string{"key"}},
	})
	// Of unknown length, over the limit.
	req, err := http.NewRequestWithContext(t.Context(), "PUT", b.url+o+"/h", io.MultiReader(strings.NewReader(strings.Repeat("x", 101))))
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 413 {
		t.Errorf("chunked body over the limit: %d", res.StatusCode)
	}
}

func TestOperations(t *testing.T) {
	b := setup(t)
	sha := strings.Repeat("a", 64)
	b.steps([]step{
		{name: "backup", method: "POST", path: "/api/v1/backup", status: 200, header: "Content-Type: application/x-tar", want: []string{"keys=none project=false left out=false"}, audits: []string{"backup ok"}},
		{name: "backup of the rest", method: "POST", path: "/api/v1/backup?keys=plain&project=true", headers: []string{"Content-Type: text/plain"}, body: sha + "\n", status: 200, want: []string{"keys=plain project=true left out=true"}, audits: []string{"backup ok"}},
		{name: "bad keys", method: "POST", path: "/api/v1/backup?keys=all", status: 422, audits: []string{"backup invalid"}},
		{name: "bad list", method: "POST", path: "/api/v1/backup", headers: []string{"Content-Type: text/plain"}, body: "nonsense", status: 422, want: []string{"line 1"}, audits: []string{"backup invalid"}},
		{name: "doctor", method: "GET", path: "/api/v1/doctor", status: 200, want: []string{`"check":"store.integrity"`, `"status":"ok"`}, without: []string{"fail"}},
		{name: "deep", method: "GET", path: "/api/v1/doctor?deep=true", status: 200, want: []string{`"status":"fail"`, `"hint":"restore it"`}},
		{name: "half deep", method: "GET", path: "/api/v1/doctor?deep=half", status: 400},
	})
}

func TestQueuesAndTokens(t *testing.T) {
	b := setup(t)
	b.world.Made = []waybill.Unit{{Unit: "hello-1-greet-1", Runner: "docker", Cleanup: waybill.CleanupPending, CleanupError: "500", Tries: 3, NextTry: b.clock.now(), Known: true}}
	b.steps([]step{
		{name: "queues", method: "GET", path: "/api/v1/queues", status: 200, want: []string{`"topic":"unit"`, `"paused":false`}},
		{name: "units", method: "GET", path: "/api/v1/units", status: 200, want: []string{`"known":true`, `"unit":"hello-1-greet-1"`, `"cleanup_error":"500"`, `"silent":{"docker":`}},
		{name: "messages", method: "GET", path: "/api/v1/queues/unit/messages", status: 200, want: []string{`"body":"{\"n\":1}"`}},
		{name: "dead", method: "GET", path: "/api/v1/queues/unit/dead?limit=1", status: 200, want: []string{`"id":"d1"`, `"reason":"no such program"`, `"next_cursor":"1"`}},
		{name: "redrive one", method: "POST", path: "/api/v1/queues/unit/redrive", body: `{"ids":["d1"]}`, status: 200, want: []string{`"count":1`}, audits: []string{"queue.redrive unit ok"}},
		{name: "dump", method: "GET", path: "/api/v1/queues/unit/dump", status: 200, want: []string{`"kind":"message"`, `"id":"m1"`}},
		{name: "dump nothing", method: "GET", path: "/api/v1/queues/nope/dump", status: 404},
		{name: "feed", method: "POST", path: "/api/v1/queues/unit/feed", headers: []string{"Content-Type: application/x-ndjson"}, body: "{\"id\":\"m1\"}\n", status: 200, want: []string{`"sent":1`}, audits: []string{"queue.feed unit ok"}},
		{name: "feed garbage", method: "POST", path: "/api/v1/queues/unit/feed", headers: []string{"Content-Type: application/x-ndjson"}, body: "{}\nnonsense\n", status: 422, want: []string{"line 2"}, audits: []string{"queue.feed unit invalid"}},
		{name: "feed an image", method: "POST", path: "/api/v1/queues/unit/feed", headers: []string{"Content-Type: image/png"}, body: "x", status: 415, audits: []string{"queue.feed unit malformed"}},
		{name: "purge dead", method: "POST", path: "/api/v1/queues/unit/purge", body: `{"dead":true}`, status: 200, want: []string{`"count":1`}, audits: []string{"queue.purge unit ok"}},
		{name: "pause", method: "POST", path: "/api/v1/queues/unit/pause", status: 204, audits: []string{"queue.pause unit ok"}},
		{name: "paused", method: "GET", path: "/api/v1/queues", status: 200, want: []string{`"paused":true`}},
		{name: "resume", method: "POST", path: "/api/v1/queues/unit/resume", status: 204, audits: []string{"queue.resume unit ok"}},
		{name: "pause nothing", method: "POST", path: "/api/v1/queues/nope/pause", status: 404, audits: []string{"queue.pause nope not_found"}},
		{name: "create token", method: "POST", path: "/api/v1/tokens", body: `{"name":"ci","role":"operator","ttl_seconds":60}`, headers: []string{"Idempotency-Key: t"}, status: 201, want: []string{`"secret":"wbt_t1_secret"`, `"expires_at":"2026-11-21T12:01:00Z"`}, without: []string{"must not leave"}},
		{name: "create it again", method: "POST", path: "/api/v1/tokens", body: `{"name":"ci","role":"operator","ttl_seconds":60}`, headers: []string{"Idempotency-Key: t"}, status: 201, want: []string{`"id":"t1"`}, header: "Idempotency-Replayed: true"},
		{name: "tokens", method: "GET", path: "/api/v1/tokens", status: 200, want: []string{`"name":"ci"`}, without: []string{"must not leave", "secret"}},
		{name: "revoke", method: "DELETE", path: "/api/v1/tokens/t1", status: 204},
		{name: "revoke nothing", method: "DELETE", path: "/api/v1/tokens/t9", status: 404},
		{name: "set secret", method: "PUT", path: "/api/v1/secrets/db-password", body: `{"value":"hunter2-hunter2"}`, status: 201, want: []string{`"name":"db-password"`, `"version":1`, `"masked":true`}, without: []string{"hunter2"}},
		{name: "set it again", method: "PUT", path: "/api/v1/secrets/db-password", body: `{"value":"abc"}`, status: 200, want: []string{`"version":2`, `"masked":false`}},
		{name: "set nothing", method: "PUT", path: "/api/v1/secrets/db-password", body: `{"value":""}`, status: 422},
		{name: "set too much", method: "PUT", path: "/api/v1/secrets/db-password", body: `{"value":"x","more":"hunter2-hunter2"}`, status: 422, without: []string{"hunter2"}},
		{name: "secrets", method: "GET", path: "/api/v1/secrets", status: 200, want: []string{`"name":"db-password"`}, without: []string{"value", "abc"}},
		{name: "a secret cannot be read", method: "GET", path: "/api/v1/secrets/db-password", status: 405},
		{name: "rekey", method: "POST", path: "/api/v1/secrets/rekey", status: 200, want: []string{`"count":1`}},
		{name: "delete secret", method: "DELETE", path: "/api/v1/secrets/db-password", status: 204},
		{name: "delete no secret", method: "DELETE", path: "/api/v1/secrets/db-password", status: 404},
		{name: "audit", method: "GET", path: "/api/v1/audit", status: 200, want: []string{`"items":[]`}},
	})
}

func TestPathsAndMethods(t *testing.T) {
	b := setup(t)
	b.steps([]step{
		{name: "page", method: "GET", path: "/", status: 200, want: []string{"<title>Waybill</title>", "/health", "/version"}, header: "X-Content-Type-Options: nosniff"},
		{name: "nothing", method: "GET", path: "/api/v1/nope", status: 404, want: []string{`"kind":"not_found"`}},
		{name: "not this method", method: "DELETE", path: "/api/v1/runs", status: 405, header: "Allow: GET, HEAD", want: []string{`"kind":"unsupported"`}},
		{name: "other method", method: "PATCH", path: "/api/v1/pipelines", status: 405, header: "Allow: GET, HEAD, POST"},
		{name: "trace", method: "TRACE", path: "/", status: 405},
		{name: "version", method: "GET", path: "/version", status: 200, want: []string{`"version":"v0"`}},
		{name: "health", method: "GET", path: "/health", status: 200, want: []string{`"status":"ok"`}},
		{name: "request id is taken over", method: "GET", path: "/version", headers: []string{"X-Request-Id: abc-1"}, status: 200, header: "X-Request-Id: abc-1"},
	})
	res, text := b.ask("GET", "/api/v1/runs/x", "", "X-Request-Id: bad id\"")
	if id := res.Header.Get("X-Request-Id"); len(id) != 36 || !strings.Contains(text, `"instance":"`+id+`"`) {
		t.Errorf("request id %q, problem %s", id, text)
	}
}

func TestStartingAndStopping(t *testing.T) {
	t.Parallel()
	b := unready(t, func(o *httpd.Options) {
		o.Health = func(context.Context) waybill.Health { return waybill.Health{Status: "degraded", Store: "sqlite"} }
	})
	b.steps([]step{
		{name: "health", method: "GET", path: "/health", status: 503, want: []string{`"status":"starting"`}},
		{name: "version", method: "GET", path: "/version", status: 200},
		{name: "runs", method: "GET", path: "/api/v1/runs", status: 503, want: []string{`"kind":"unavailable"`}, header: "Retry-After: 1"},
		{name: "callback", method: "POST", path: "/api/v1/runs/r/steps/s/attempts/1/callback?token=x", body: "{}", status: 503},
	})
	b.server.SetReady(b.world.Services())
	b.steps([]step{
		{name: "health", method: "GET", path: "/health", status: 503, want: []string{`"status":"degraded"`}},
		{name: "runs", method: "GET", path: "/api/v1/runs", status: 200},
	})
	b.server.Drain()
	b.server.Drain()
	b.steps([]step{{name: "health", method: "GET", path: "/health", status: 503, want: []string{`"status":"stopping"`}}})
}

func TestProblemsHideInternals(t *testing.T) {
	b := setup(t)
	b.world.Do(func() { b.world.Fail = fmt.Errorf("open /var/lib/secret-place: %w", io.ErrUnexpectedEOF) })
	b.steps([]step{{name: "internal", method: "GET", path: "/api/v1/runs", status: 500, want: []string{`"kind":"internal"`}, without: []string{"secret-place", "EOF"}}})
	if !strings.Contains(b.log.String(), "secret-place") {
		t.Error("the log does not tell the reason")
	}
	b.world.Do(func() {
		b.world.Fail = fmt.Errorf("layer: %w", &waybill.Error{Kind: waybill.KindExhausted, Msg: "the queue is full", RetryAfter: 1500 * time.Millisecond})
	})
	b.steps([]step{{name: "full", method: "GET", path: "/api/v1/runs", status: 429, want: []string{"the queue is full"}, without: []string{"layer"}, header: "Retry-After: 2"}})
	b.world.Do(func() { b.world.Fail = errors.Join(context.DeadlineExceeded) })
	b.steps([]step{{name: "slow store", method: "GET", path: "/api/v1/runs", status: 503}})
}

// stream reads lines of an answer as they come.
func (b *bench) stream(path string, headers ...string) (*http.Response, func() string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), "GET", b.url+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { res.Body.Close() })
	lines := bufio.NewReader(res.Body)
	return res, func() string {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "closed: " + line
		}
		return strings.TrimSuffix(line, "\n")
	}
}

func TestEventStream(t *testing.T) {
	b := setup(t, func(o *httpd.Options) { o.Limits.Heartbeat = 20 * time.Millisecond })
	id, _ := b.run()
	res, next := b.stream("/api/v1/runs/"+id+"/events", "Accept: text/event-stream")
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("content type %s", got)
	}
	want := func(lines ...string) {
		t.Helper()
		for _, w := range lines {
			if got := next(); !strings.HasPrefix(got, w) || (w == "" && got != "") {
				t.Fatalf("line %q, want %q", got, w)
			}
		}
	}
	want("retry: ", "", "id: 1", `data: {"at":`, "", ": still here", "")
	b.world.Record(id, "step.started")
	line := next()
	for strings.HasPrefix(line, ":") {
		next()
		line = next()
	}
	if line != "id: 2" {
		t.Fatalf("line %q", line)
	}
	want("data: ")

	res2, next := b.stream("/api/v1/runs/"+id+"/events?cursor=1", "Accept: text/event-stream", "Last-Event-ID: 2")
	defer res2.Body.Close()
	b.world.End(id, waybill.StatusSucceeded)
	line = next()
	for !strings.HasPrefix(line, "id") {
		line = next()
	}
	if line != "id: 3" {
		t.Errorf("resumed at %q, want id: 3", line)
	}
	for !strings.HasPrefix(line, "event: ") {
		line = next()
	}
	if line != "event: end" || next() != "data: {}" || next() != "" || next() != "closed: " {
		t.Errorf("the stream does not end well")
	}
	if res, _ := b.ask("GET", "/api/v1/runs/nope/events", "", "Accept: text/event-stream"); res.StatusCode != 404 {
		t.Errorf("stream of no run: %d", res.StatusCode)
	}
}

func TestDrainEndsStreams(t *testing.T) {
	b := setup(t)
	id, _ := b.run()
	_, next := b.stream("/api/v1/runs/"+id+"/events", "Accept: text/event-stream")
	for next() != "id: 1" {
	}
	b.server.Drain()
	for {
		line := next()
		if line == "event: end" {
			t.Fatal("the stream says that the run ended")
		}
		if strings.HasPrefix(line, "closed") {
			break
		}
	}
}

func TestLogs(t *testing.T) {
	b := setup(t)
	id, _ := b.run()
	b.world.Write(id, "greet", "hello \x1b[1mworld\x00\xff\n")
	b.steps([]step{
		{name: "all", method: "GET", path: "/api/v1/runs/" + id + "/logs", status: 200, want: []string{"==> greet (attempt 1) <==\nhello \x1b[1mworld\x00\xff\n"}},
		{name: "step", method: "GET", path: "/api/v1/runs/" + id + "/logs?step=greet&offset=6", status: 200, want: []string{"\x1b[1mworld"}, without: []string{"hello", "==>"}},
		{name: "unknown step", method: "GET", path: "/api/v1/runs/" + id + "/logs?step=x", status: 404},
		{name: "offset alone", method: "GET", path: "/api/v1/runs/" + id + "/logs?offset=1", status: 422},
		{name: "unknown run", method: "GET", path: "/api/v1/runs/nope/logs?follow=true", status: 404},
	})
	_, next := b.stream("/api/v1/runs/" + id + "/logs?follow=true")
	if got := next(); got != "==> greet (attempt 1) <==" {
		t.Fatal(got)
	}
	next()
	b.world.Write(id, "greet", "second\n")
	if got := next(); got != "second" {
		t.Errorf("followed %q", got)
	}
	b.world.End(id, waybill.StatusSucceeded)
	if got := next(); got != "closed: " {
		t.Errorf("after the end %q", got)
	}
}
