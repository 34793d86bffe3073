package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/httpd/httpdtest"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
)

type bench struct {
	world  *httpdtest.World
	next   http.RoundTripper
	server *httpd.Server
	url    string
	c      *client.Client
	fail   atomic.Int32 // so many requests fail before they are sent
	cut    atomic.Int32 // so many answers break off after a few bytes
}

// RoundTrip is a connection that fails when told to.
func (b *bench) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.fail.Add(-1) >= 0 {
		return nil, errors.New("connection refused")
	}
	res, err := b.next.RoundTrip(r)
	if err == nil && b.cut.Add(-1) >= 0 {
		res.Body = &cutBody{ReadCloser: res.Body, left: 40}
	}
	return res, err
}

type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, errors.New("connection reset")
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

func setup(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	b := &bench{world: httpdtest.New(time.Now), next: openapitest.Transport{T: t, Requests: true}}
	b.server = httpd.New(httpd.Options{Logger: slog.New(slog.DiscardHandler), Loopback: true, Problems: httpdtest.Problems})
	b.server.SetReady(b.world.Services())
	ts := httptest.NewServer(b.server.Handler())
	t.Cleanup(func() { b.server.Drain(); ts.Close() })
	b.url = ts.URL
	b.c = b.client(t, client.Options{})
	return b
}

func (b *bench) client(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	o.Server = b.url
	o.HTTP = &http.Client{Transport: b}
	o.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func vars(t *testing.T, pairs ...string) waybill.Vars {
	t.Helper()
	var v waybill.Vars
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], waybill.Value(pairs[i+1]))
	}
	return v
}

func TestEveryCallFitsTheContract(t *testing.T) {
	b := setup(t)
	c, ctx := b.c, t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	h, err := c.Health(ctx)
	check("health", err)
	if h.Status != client.HealthStatusOk {
		t.Errorf("health is %+v", h)
	}
	_, err = c.Pipelines(ctx, client.ListPipelinesParams{Limit: 3})
	check("pipelines", err)
	p, err := c.ApplyPipeline(ctx, []byte("name: mine\n"))
	check("apply", err)
	if p.Version != 1 {
		t.Errorf("applied version %d", p.Version)
	}
	_, err = c.Pipeline(ctx, "mine", 1)
	check("pipeline", err)
	_, err = c.PipelineGraph(ctx, "mine", "dot")
	check("graph", err)
	_, err = c.ValidatePipeline(ctx, []byte("x"))
	var e *client.Error
	if !errors.As(err, &e) || e.Kind != waybill.KindInvalid || len(e.Problems) != 1 || e.Problems[0].Line != 1 || e.RequestID == "" {
		t.Errorf("validate: %+v", e)
	}
	run, err := c.StartRun(ctx, "hello", client.StartRun{Vars: vars(t, "___A", `"x"`), Params: vars(t, "n", "9007199254740993")}, "")
	check("start", err)
	if n, _ := run.Params.Get("n"); string(n) != "9007199254740993" {
		t.Errorf("a large number came back as %s", n)
	}
	_, err = c.CancelRun(ctx, run.ID, "enough")
	check("cancel", err)
	b.world.End(run.ID, waybill.StatusCanceled)
	again, err := c.RetryRun(ctx, run.ID, "greet", "")
	check("retry", err)
	if again.RetryOf != run.ID {
		t.Errorf("retry is of %q", again.RetryOf)
	}
	d, err := c.Run(ctx, run.ID)
	check("run", err)
	if len(d.Steps) != 1 || d.Steps[0].Name != "greet" || d.Status != waybill.StatusCanceled {
		t.Errorf("run is %+v", d)
	}
	n := 0
	for _, err := range client.Each(func(cursor string) ([]client.Run, client.NextCursor, error) {
		l, err := c.Runs(ctx, client.ListRunsParams{Limit: 1, Cursor: cursor, Pipeline: "hello"})
		return l.Items, l.NextCursor, err
	}) {
		check("runs", err)
		n++
	}
	if n != 2 {
		t.Errorf("listed %d runs page by page, want 2", n)
	}
	_, err = c.Events(ctx, run.ID, client.GetRunEventsParams{Limit: 2})
	check("events", err)
	_, err = c.Queues(ctx)
	check("queues", err)
	_, err = c.Messages(ctx, "unit", client.ListMessagesParams{})
	check("messages", err)
	_, err = c.DeadLetters(ctx, "unit", client.ListDeadLettersParams{})
	check("dead", err)
	if n, err := c.Redrive(ctx, "unit", "d1"); n != 1 || err != nil {
		t.Errorf("redrive: %d, %v", n, err)
	}
	if n, err := c.Purge(ctx, "unit", true); n != 1 || err != nil {
		t.Errorf("purge: %d, %v", n, err)
	}
	check("pause", c.Pause(ctx, "unit", true))
	check("resume", c.Pause(ctx, "unit", false))
	tok, err := c.CreateToken(ctx, client.CreateToken{Name: "ci", Role: waybill.RoleViewer, TTLSeconds: 60}, "")
	check("create token", err)
	_, err = c.Tokens(ctx)
	check("tokens", err)
	check("revoke", c.RevokeToken(ctx, tok.Token.ID))
	_, err = c.Audit(ctx, client.ListAuditRecordsParams{})
	check("audit", err)
	_, err = c.Run(ctx, "no/such run")
	if client.KindOf(err) != waybill.KindNotFound || !strings.Contains(err.Error(), "no/such run") {
		t.Errorf("a strange id: %v", err)
	}
}

func TestObjects(t *testing.T) {
	b := setup(t)
	ctx := t.Context()
	for _, key := range []string{"a.csv", "a/b c/ü%2F.csv", "./..x/.", "a//b", "/a", "a/", "100%", "q?x=1#f"} {
		text := strings.Repeat("line of "+key+"\n", 1000)
		o, err := b.c.PutObject(ctx, "inbox", key, "text/csv", strings.NewReader(text))
		if err != nil || o.Key != key || o.Size != int64(len(text)) {
			t.Errorf("put %q: %+v, %v", key, o, err)
			continue
		}
		in, err := b.c.Object(ctx, "inbox", key, o.Version)
		if err != nil {
			t.Errorf("get %q: %v", key, err)
			continue
		}
		got, err := io.ReadAll(in)
		if err != nil || string(got) != text || in.ContentType != "text/csv" {
			t.Errorf("read %q: %d bytes, %v", key, len(got), err)
		}
		in.Close()
		if err := b.c.DeleteObject(ctx, "inbox", key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	if _, err := b.c.PutObject(ctx, "inbox", "pipe", "", io.MultiReader(strings.NewReader("of unknown "), strings.NewReader("length"))); err != nil {
		t.Errorf("put without length: %v", err)
	}
	if _, err := b.c.PutObject(ctx, "inbox", "empty", "", strings.NewReader("")); err != nil {
		t.Errorf("put nothing: %v", err)
	}
	if l, err := b.c.Objects(ctx, "inbox", client.ListObjectsParams{Prefix: "e"}); err != nil || len(l.Items) != 1 {
		t.Errorf("list: %+v, %v", l, err)
	}
	if l, err := b.c.Buckets(ctx); err != nil || len(l.Items) != 1 {
		t.Errorf("buckets: %+v, %v", l, err)
	}
	b.fail.Store(2)
	if _, err := b.c.PutObject(ctx, "inbox", "again", "", strings.NewReader("content")); err != nil {
		t.Errorf("put over a bad connection: %v", err)
	}
	b.cut.Store(1)
	if in, err := b.c.Object(ctx, "inbox", "pipe", ""); err == nil {
		if _, err := io.ReadAll(in); err != nil {
			t.Errorf("17 bytes fit: %v", err)
		}
	}
	if _, err := b.c.PutObject(ctx, "inbox", "long", "", strings.NewReader(strings.Repeat("x", 100))); err != nil {
		t.Fatal(err)
	}
	b.cut.Store(1)
	in, err := b.c.Object(ctx, "inbox", "long", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(in); client.KindOf(err) != waybill.KindUnavailable || !strings.Contains(err.Error(), "40 bytes") {
		t.Errorf("cut content: %v", err)
	}
}

func TestRepeating(t *testing.T) {
	b := setup(t)
	ctx := t.Context()
	b.fail.Store(3)
	if _, err := b.c.StartRun(ctx, "hello", client.StartRun{}, ""); err != nil {
		t.Errorf("start: %v", err)
	}
	b.cut.Store(1) // the answer is lost, the run is there
	if _, err := b.c.StartRun(ctx, "hello", client.StartRun{}, ""); err != nil {
		t.Errorf("start with a lost answer: %v", err)
	}
	if l, err := b.c.Runs(ctx, client.ListRunsParams{}); err != nil || len(l.Items) != 2 {
		t.Errorf("%d runs, want 2: %v", len(l.Items), err)
	}
	b.fail.Store(1)
	if _, err := b.c.Purge(ctx, "unit", false); client.KindOf(err) != waybill.KindUnavailable {
		t.Errorf("a purge was repeated: %v", err)
	}
	never := b.client(t, client.Options{RetryFor: -1})
	b.fail.Store(1)
	if _, err := never.Queues(ctx); client.KindOf(err) != waybill.KindUnavailable {
		t.Errorf("repeated against the options: %v", err)
	}
	b.world.Do(func() { b.world.Fail = &waybill.Error{Kind: waybill.KindExhausted, Msg: "full", RetryAfter: time.Hour} })
	var e *client.Error
	if _, err := b.c.Queues(ctx); !errors.As(err, &e) || e.RetryAfter != time.Hour || e.Status != 429 {
		t.Errorf("far away: %+v", e)
	}
}

func TestFollowAcrossBreaks(t *testing.T) {
	b := setup(t)
	run, err := b.c.StartRun(t.Context(), "hello", client.StartRun{}, "")
	if err != nil {
		t.Fatal(err)
	}
	b.cut.Store(3)
	var seen []string
	err = b.c.FollowEvents(t.Context(), run.ID, "", func(r client.Record) error {
		seen = append(seen, r.Cursor)
		if len(seen) < 5 {
			b.world.Record(run.ID, "tick")
			b.cut.Store(1) // of the next connection, if there is one
		} else if len(seen) == 5 {
			b.world.End(run.ID, waybill.StatusSucceeded)
		}
		return nil
	})
	if err != nil || strings.Join(seen, " ") != "1 2 3 4 5 6" {
		t.Errorf("seen %v, %v", seen, err)
	}
	stop := errors.New("enough")
	if err := b.c.FollowEvents(t.Context(), run.ID, "", func(client.Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error became %v", err)
	}
	if err := b.c.FollowEvents(t.Context(), "nope", "", nil); client.KindOf(err) != waybill.KindNotFound {
		t.Errorf("no such run: %v", err)
	}
}

func TestLog(t *testing.T) {
	b := setup(t)
	run, err := b.c.StartRun(t.Context(), "hello", client.StartRun{}, "")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 20 {
		fmt.Fprintf(&want, "line %d\x00\xff\n", i)
	}
	b.world.Write(run.ID, "greet", want.String())
	b.world.End(run.ID, waybill.StatusSucceeded)
	var got bytes.Buffer
	b.cut.Store(2)
	err = b.c.Log(t.Context(), run.ID, client.GetRunLogsParams{Step: "greet", Attempt: 1, Follow: true}, &got)
	if err != nil || got.String() != want.String() {
		t.Errorf("an attempt's log over a bad connection: %d of %d bytes, %v", got.Len(), want.Len(), err)
	}
	b.cut.Store(1)
	if err := b.c.Log(t.Context(), run.ID, client.GetRunLogsParams{}, io.Discard); client.KindOf(err) != waybill.KindUnavailable {
		t.Errorf("a cut log is taken for whole: %v", err)
	}
}

func TestCallback(t *testing.T) {
	b := setup(t)
	run, err := b.c.StartRun(t.Context(), "hello", client.StartRun{}, "")
	if err != nil {
		t.Fatal(err)
	}
	key := waybill.AttemptKey(run.ID, "greet", 1)
	b.world.Do(func() { b.world.Attempts["secret"] = key })
	url := b.url + "/api/v1/runs/" + run.ID + "/steps/greet/attempts/1/callback"
	u, err := client.NewCallback(url+"?token=secret", "", client.Options{
		HTTP:  &http.Client{Transport: b},
		Sleep: func(context.Context, time.Duration) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	b.fail.Store(4) // the server restarts
	if err := u.SetVariables(t.Context(), vars(t, "___A", "1")); err != nil {
		t.Error(err)
	}
	b.world.Do(func() { b.world.Stop[key] = true })
	if stop, err := u.Heartbeat(t.Context(), "half"); !stop || err != nil {
		t.Errorf("heartbeat: %t, %v", stop, err)
	}
	for range 2 {
		if err := u.Complete(t.Context(), client.Outcome{Variables: vars(t, "___B", "2")}); err != nil {
			t.Error(err)
		}
	}
	if err := u.Complete(t.Context(), client.Outcome{Status: waybill.StatusFailed}); client.KindOf(err) != waybill.KindConflict {
		t.Errorf("contradiction: %v", err)
	}
	if _, err := client.NewCallback("http://x/y", "", client.Options{}); client.KindOf(err) != waybill.KindInvalid {
		t.Errorf("a URL that is no callback: %v", err)
	}
}

func TestServerURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"127.0.0.1:4040", "ftp://x", "http://", "http://u:p@x", "http://x?y"} {
		if _, err := client.New(client.Options{Server: bad}); client.KindOf(err) != waybill.KindInvalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
