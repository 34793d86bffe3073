package arrival_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// vault is a store of secrets.
type vault map[string]string

func (v vault) Secret(_ context.Context, name string) (string, error) {
	if s, ok := v[name]; ok {
		return s, nil
	}
	return "", waybill.E(waybill.KindNotFound, "no secret %s", name)
}

const hookSecret = "correct horse battery staple"

func (w *world) clock() time.Time { return w.store.Now() }

// events is what a server makes of events; a restart makes a new one.
func (w *world) events() *arrival.Events {
	return arrival.NewEvents(arrival.EventOptions{
		Store: w.store, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, w.clock, nil), Hops: w.engine.Hops, Now: w.clock,
		Secrets: vault{"hook": hookSecret}, Env: func(n string) (string, bool) { return hookSecret, n == "HOOK" },
	})
}

func hookOn(name, more string) string {
	return "name: " + name + "\non: {webhook: {secret: \"${secret:hook}\"" + more + "}}\nsteps: [{name: one, run: [\"true\"]}]\n"
}

func (w *world) signed(body string, header ...string) waybill.HookRequest {
	h := map[string][]string{"Content-Type": {"application/json"}, "Waybill-Signature": {arrival.Sign(hookSecret, w.clock(), []byte(body))}}
	for i := 0; i < len(header); i += 2 {
		h[header[i]] = []string{header[i+1]}
	}
	return waybill.HookRequest{Pipeline: "deploy", Header: h, Body: []byte(body)}
}

func (w *world) deliver(e *arrival.Events, r waybill.HookRequest) waybill.Delivery {
	w.t.Helper()
	l, err := e.Deliver(w.t.Context(), r)
	if err != nil || len(l) != 1 {
		w.t.Fatalf("%d deliveries, %v", len(l), err)
	}
	return l[0]
}

func TestSignedWebhook(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
name: deploy
params: {ref: string}
on: {webhook: {secret: "${secret:hook}", filter: "event.data.ref.startsWith('refs/')", params: {ref: "${{ event.data.ref }}"}}}
steps: [{name: one, run: ["true"]}]
`)
	e := w.events()
	d := w.deliver(e, w.signed(`{"ref": "refs/heads/main"}`, "Waybill-Event", "push"))
	if !d.Fresh || len(d.Runs) != 1 || d.Runs[0].Pipeline != "deploy" || d.Type != "push" || d.Source != "/hooks/deploy" {
		t.Fatalf("%+v", d)
	}
	run := w.runs("deploy")[0]
	if v, _ := run.Params.Get("ref"); string(v) != `"refs/heads/main"` || run.ID != d.Runs[0].Run || string(run.Event.Data) != `{"ref":"refs/heads/main"}` {
		t.Errorf("run %+v", run)
	}
	if d := w.deliver(e, w.signed(`{"ref": "tags"}`)); !d.Fresh || len(d.Runs)+len(d.Refused) > 0 {
		t.Errorf("what the filter does not take: %+v", d)
	}
	w.wantStarted(map[string]int{"deploy": 1})
}

// TestFA31 makes the same delivery twice, a hundred times at once and after a restart.
func TestFA31Webhooks(t *testing.T) {
	t.Parallel()
	for name, header := range map[string][]string{"signature": nil, "id": {"Waybill-Delivery", "d-1"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, hookOn("deploy", ""))
			e := w.events()
			r := w.signed(`{"n":1}`, header...)
			var mu sync.Mutex
			ids := map[string]int{}
			fresh := 0
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					l, err := e.Deliver(t.Context(), r)
					mu.Lock()
					defer mu.Unlock()
					if err != nil || len(l) != 1 || len(l[0].Runs) != 1 {
						t.Errorf("%+v, %v", l, err)
						return
					}
					if ids[l[0].Runs[0].Run]++; l[0].Fresh {
						fresh++
					}
				})
			}
			wg.Wait()
			if len(ids) != 1 || fresh != 1 {
				t.Fatalf("%d runs, %d fresh", len(ids), fresh)
			}
			again := w.deliver(w.events(), r) // after a restart
			if again.Fresh || ids[again.Runs[0].Run] != 100 {
				t.Errorf("after a restart: %+v", again)
			}
			w.wantStarted(map[string]int{"deploy": 1})
		})
	}
	t.Run("other body", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, hookOn("deploy", ""))
		e := w.events()
		w.deliver(e, w.signed(`{"n":1}`, "Waybill-Delivery", "d-1"))
		if _, err := e.Deliver(t.Context(), w.signed(`{"n":2}`, "Waybill-Delivery", "d-1")); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%v, want invalid", err)
		}
		// An honest sender signs again when it repeats.
		w.now.Add(int64(time.Minute))
		if d := w.deliver(e, w.signed(`{"n":1}`, "Waybill-Delivery", "d-1")); d.Fresh || len(d.Runs) != 1 {
			t.Errorf("%+v", d)
		}
		// The id is not signed: another one does not make a captured request new.
		captured := w.signed(`{"n":3}`, "Waybill-Delivery", "d-3")
		first := w.deliver(e, captured)
		captured.Header["Waybill-Delivery"] = []string{"d-4"}
		if d := w.deliver(e, captured); d.Fresh || d.Runs[0] != first.Runs[0] {
			t.Errorf("replayed with another id: %+v", d)
		}
		delete(captured.Header, "Waybill-Delivery")
		if d := w.deliver(e, captured); d.Fresh || d.Runs[0] != first.Runs[0] {
			t.Errorf("replayed without id: %+v", d)
		}
		w.wantStarted(map[string]int{"deploy": 2})
	})
}

func TestSignaturesThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hookOn("deploy", ", tolerance: 5m"), hookOn("unset", ""), "name: plain\nsteps: [{name: one, run: [\"true\"]}]\n")
	w.apply(strings.Replace(hookOn("unset", ""), "secret:hook", "secret:other", 1))
	e := w.events()
	body := `{"n":1}`
	head := func(value string) func(*waybill.HookRequest) {
		return func(r *waybill.HookRequest) { r.Header["Waybill-Signature"] = []string{value} }
	}
	for name, c := range map[string]struct {
		change func(*waybill.HookRequest)
		want   waybill.Kind
	}{
		"none": {func(r *waybill.HookRequest) { delete(r.Header, "Waybill-Signature") }, waybill.KindUnauthorized},
		"twice": {func(r *waybill.HookRequest) {
			r.Header["Waybill-Signature"] = append(r.Header["Waybill-Signature"], "x")
		}, waybill.KindUnauthorized},
		"other body":    {func(r *waybill.HookRequest) { r.Body = []byte(`{"n":2}`) }, waybill.KindUnauthorized},
		"other secret":  {head(arrival.Sign("guess", w.clock(), []byte(body))), waybill.KindUnauthorized},
		"old":           {head(arrival.Sign(hookSecret, w.clock().Add(-5*time.Minute-time.Second), []byte(body))), waybill.KindUnauthorized},
		"from tomorrow": {head(arrival.Sign(hookSecret, w.clock().Add(6*time.Minute), []byte(body))), waybill.KindUnauthorized},
		"other time":    {head(strings.Replace(arrival.Sign(hookSecret, w.clock(), []byte(body)), "t=", "t=1", 1)), waybill.KindUnauthorized},
		"no time":       {head("v1=" + strings.Repeat("ab", 32)), waybill.KindUnauthorized},
		"no hex":        {head("t=1,v1=zz"), waybill.KindUnauthorized},
		"github's":      {func(r *waybill.HookRequest) { r.Header = github(hookSecret, body) }, waybill.KindUnauthorized},
		"no hook":       {func(r *waybill.HookRequest) { r.Pipeline = "plain" }, waybill.KindNotFound},
		"other name":    {func(r *waybill.HookRequest) { r.Name = "x" }, waybill.KindNotFound},
		"nobody":        {func(r *waybill.HookRequest) { r.Pipeline = "nobody" }, waybill.KindNotFound},
		"no secret":     {func(r *waybill.HookRequest) { r.Pipeline = "unset" }, waybill.KindUnavailable},
		"no JSON":       {func(r *waybill.HookRequest) { *r = w.signed(`{"n"`) }, waybill.KindMalformed},
		"too large":     {func(r *waybill.HookRequest) { *r = w.signed(`"` + strings.Repeat("x", arrival.MaxEvent) + `"`) }, waybill.KindTooLarge},
	} {
		r := w.signed(body)
		c.change(&r)
		l, err := e.Deliver(t.Context(), r)
		if waybill.KindOf(err) != c.want || len(l) > 0 {
			t.Errorf("%s: %+v, %v, want %s", name, l, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), hookSecret) {
			t.Errorf("%s tells the secret", name)
		}
	}
	w.wantStarted(map[string]int{})
	if rows, err := w.store.Scan(t.Context(), "", "event_seen", "", 0); err != nil || len(rows) > 0 {
		t.Errorf("%d rows remain of requests that were refused, %v", len(rows), err)
	}
	// Within the tolerance, and with an older secret's signature beside it.
	r := w.signed(body)
	head(arrival.Sign(hookSecret, w.clock().Add(-4*time.Minute), []byte(body)) + ",v1=" + strings.Repeat("00", 32))(&r)
	if d := w.deliver(e, r); len(d.Runs) != 1 {
		t.Errorf("%+v", d)
	}
}

func github(secret, body string, header ...string) map[string][]string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(body))
	out := map[string][]string{"Content-Type": {"application/json"}, "X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(h.Sum(nil))}}
	for i := 0; i < len(header); i += 2 {
		out[header[i]] = []string{header[i+1]}
	}
	return out
}

func TestHooksOfForges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
name: deploy
on:
  webhook:
    - {name: github, secret: "${secret:hook}", signature: github, filter: event.type == 'push', vars: {___REPO: "${{ event.subject }}"}}
    - {name: gitlab, secret: "${secret:hook}", signature: gitlab}
    - {name: open, signature: none}
steps: [{name: one, run: ["true"]}]
`[1:])
	e := w.events()
	body := `{"ref":"refs/heads/main","repository":{"full_name":"acme/site"}}`
	hook := func(name string, body string, header map[string][]string) waybill.HookRequest {
		return waybill.HookRequest{Pipeline: "deploy", Name: name, Header: header, Body: []byte(body)}
	}
	first := w.deliver(e, hook("github", body, github(hookSecret, body, "X-Github-Event", "push", "X-Github-Delivery", "g-1")))
	if len(first.Runs) != 1 || first.ID != "g-1" || first.Type != "push" {
		t.Fatalf("%+v", first)
	}
	if v, _ := w.runs("deploy")[0].Vars.Get("___REPO"); string(v) != `"acme/site"` {
		t.Errorf("___REPO is %s", v)
	}
	if d := w.deliver(e, hook("github", body, github(hookSecret, body, "X-Github-Event", "push", "X-Github-Delivery", "g-1"))); d.Fresh || d.Runs[0] != first.Runs[0] {
		t.Errorf("redelivered: %+v", d)
	}
	if d := w.deliver(e, hook("github", `{"zen":1}`, github(hookSecret, `{"zen":1}`, "X-Github-Event", "ping", "X-Github-Delivery", "g-2"))); len(d.Runs) > 0 {
		t.Errorf("ping: %+v", d)
	}
	form := "payload=" + strings.ReplaceAll(strings.ReplaceAll(body, "{", "%7B"), "}", "%7D")
	if d := w.deliver(e, hook("github", form, github(hookSecret, form, "X-Github-Event", "push", "X-Github-Delivery", "g-3", "Content-Type", "application/x-www-form-urlencoded"))); len(d.Runs) != 1 {
		t.Errorf("form: %+v", d)
	}
	if _, err := e.Deliver(t.Context(), hook("github", body, github("guess", body, "X-Github-Event", "push"))); !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("wrong signature: %v", err)
	}
	lab := map[string][]string{"Content-Type": {"application/json"}, "X-Gitlab-Token": {hookSecret}, "X-Gitlab-Event": {"Push Hook"}, "X-Gitlab-Event-Uuid": {"u-1"}}
	if d := w.deliver(e, hook("gitlab", `{"project":{"path_with_namespace":"acme/site"}}`, lab)); len(d.Runs) != 1 || d.Type != "Push Hook" {
		t.Errorf("GitLab: %+v", d)
	}
	lab["X-Gitlab-Token"] = []string{"guess"}
	if _, err := e.Deliver(t.Context(), hook("gitlab", `{}`, lab)); !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("wrong token: %v", err)
	}
	if d := w.deliver(e, hook("open", `hello`, nil)); len(d.Runs) != 1 {
		t.Errorf("open: %+v", d)
	}
	cloud := map[string][]string{"Content-Type": {"application/cloudevents+json"}}
	if d := w.deliver(e, hook("open", `{"specversion":"1.0","id":"c","source":"/s","type":"t"}`, cloud)); len(d.Runs) != 1 || d.ID != "c" || d.Source != "/s" {
		t.Errorf("CloudEvent: %+v", d)
	}
}

func cloudEvent(id, source, typ, data string) waybill.EventRequest {
	return waybill.EventRequest{
		Header: map[string][]string{"Content-Type": {"application/cloudevents+json"}},
		Body:   fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":%q,"type":%q,"data":%s}`, id, source, typ, data),
	}
}

func eventOn(name, more string) string {
	return "name: " + name + "\non: {event: {" + more + "}}\nsteps: [{name: one, run: [\"true\"]}]\n"
}

func TestPublishedEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, eventOn("all", `type: "com.example.*"`), eventOn("orders", `type: com.example.order.made, source: "/shop/*"`),
		eventOn("large", `type: "com.example.*", filter: event.data.total > 100`), eventOn("other", `type: "org.*"`),
		"name: two\non: {event: [{type: \"com.*\", filter: event.data.total > 1000}, {type: \"com.*\"}]}\nsteps: [{name: one, run: [\"true\"]}]\n")
	e := w.events()
	publish := func(r waybill.EventRequest) waybill.Delivery {
		t.Helper()
		l, err := e.Publish(t.Context(), r)
		if err != nil || len(l) != 1 {
			t.Fatalf("%+v, %v", l, err)
		}
		return l[0]
	}
	first := publish(cloudEvent("1", "/shop/eu", "com.example.order.made", `{"total":50}`))
	w.wantStarted(map[string]int{"all": 1, "orders": 1, "two": 1})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			l, err := e.Publish(t.Context(), cloudEvent("1", "/shop/eu", "com.example.order.made", `{"total":50}`))
			if err != nil || l[0].Fresh || cmp.Diff(first.Runs, l[0].Runs) != "" {
				t.Errorf("again: %+v, %v", l, err)
			}
		})
	}
	wg.Wait()
	w.wantStarted(map[string]int{"all": 1, "orders": 1, "two": 1})
	// The same id of another source is another event.
	publish(cloudEvent("1", "/stock", "com.example.order.made", `{"total":5000}`))
	w.wantStarted(map[string]int{"all": 2, "orders": 1, "large": 1, "two": 2})
	if d := publish(cloudEvent("2", "/x", "net.example", `1`)); len(d.Runs) > 0 || !d.Fresh {
		t.Errorf("what nobody wants: %+v", d)
	}
	if _, err := e.Publish(t.Context(), cloudEvent("1", "/shop/eu", "com.example.order.made", `{"total":51}`)); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("other content: %v", err)
	}
	batch := waybill.EventRequest{
		Header: map[string][]string{"Content-Type": {"application/cloudevents-batch+json"}},
		Body:   []byte(`[{"specversion":"1.0","id":"b1","source":"/b","type":"org.a"},{"specversion":"1.0","id":"b2","source":"/b","type":"org.b"}]`),
	}
	if l, err := e.Publish(t.Context(), batch); err != nil || len(l) != 2 || len(l[0].Runs)+len(l[1].Runs) != 2 {
		t.Errorf("batch: %+v, %v", l, err)
	}
	binary := waybill.EventRequest{
		Header: map[string][]string{"Content-Type": {"text/plain"}, "Ce-Specversion": {"1.0"}, "Ce-Id": {"x"}, "Ce-Source": {"/b"}, "Ce-Type": {"org.c"}, "Ce-Subject": {"caf%C3%A9"}},
		Body:   []byte("hello"),
	}
	if d := publish(binary); len(d.Runs) != 1 {
		t.Errorf("binary: %+v", d)
	}
	for _, r := range w.runs("other") {
		if r.Event.ID == "x" && (string(r.Event.Data) != `"hello"` || r.Event.Subject != "café" || r.Event.Hops != 1) {
			t.Errorf("event %+v", r.Event)
		}
	}
}

func TestFiltersThatFailStartNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, eventOn("bad", `type: a, filter: event.data.missing == 1`), eventOn("good", `type: a`))
	starter := arrival.NewStarter(w.engine.Begin, w.clock, nil)
	e := arrival.NewEvents(arrival.EventOptions{Store: w.store, Plans: w.project, Starter: starter, Now: w.clock})
	l, err := e.Publish(t.Context(), cloudEvent("1", "/s", "a", `{}`))
	if err != nil || len(l[0].Runs) != 1 || len(l[0].Refused) != 1 || l[0].Refused[0].Dead || !strings.Contains(l[0].Refused[0].Reason, "there is no value missing") {
		t.Fatalf("%+v, %v", l, err)
	}
	w.wantStarted(map[string]int{"good": 1})
	if c := starter.Counts(); c != (arrival.Counts{Started: 1, FilterFailed: 1}) {
		t.Errorf("counts %+v", c)
	}
	evs, err := w.store.Events(t.Context(), "", "pipeline/bad", "", 100)
	if err != nil || len(evs) == 0 || evs[len(evs)-1].Kind != arrival.RecordFilterFailed {
		t.Errorf("records %+v, %v", evs, err)
	}
}

// TestFA26Events publishes an event that one of its pipelines cannot start with.
func TestFA26Events(t *testing.T) {
	t.Parallel()
	bad := "name: bad\nparams: {n: {type: int, required: true}}\non: {event: {type: a, params: {n: \"${{ event.data.n }}\"}}}\nsteps: [{name: one, run: [\"true\"]}]\n"
	w := newWorld(t, bad, eventOn("good", "type: a"))
	e := w.events()
	l, err := e.Publish(t.Context(), cloudEvent("1", "/s", "a", `{"n":"many"}`))
	if err != nil || len(l[0].Runs) != 1 || len(l[0].Refused) != 1 || !l[0].Refused[0].Dead {
		t.Fatalf("%+v, %v", l, err)
	}
	w.wantStarted(map[string]int{"good": 1})
	again := func() string {
		t.Helper()
		if n, err := w.admin.Redrive(t.Context(), queue.TopicEvent, nil, waybill.Principal{}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		got, err := w.store.Claim(t.Context(), store.ClaimRequest{Topic: queue.TopicEvent, Owner: "test", Lanes: 1, Lease: time.Minute})
		if err != nil || len(got.Msgs) != 1 {
			t.Fatalf("%d messages, %v", len(got.Msgs), err)
		}
		c, err := e.Handle(t.Context(), got.Msgs[0])
		if err != nil {
			if cerr := w.store.Commit(t.Context(), &store.Commit{Dead: got.Msgs[0], Reason: err.Error()}); cerr != nil {
				t.Fatal(cerr)
			}
			return err.Error()
		}
		c.Done = got.Msgs[0]
		if err := w.store.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if reason := again(); !strings.Contains(reason, "parameter n") {
		t.Errorf("sent again as it is: %q", reason)
	}
	w.apply(strings.Replace(bad, "type: int", "type: string", 1))
	if reason := again(); reason != "" {
		t.Errorf("sent again after the correction: %q", reason)
	}
	w.wantStarted(map[string]int{"good": 1, "bad": 1})
	// Who publishes again sees all of it.
	l, err = w.events().Publish(t.Context(), cloudEvent("1", "/s", "a", `{"n":"many"}`))
	if err != nil || l[0].Fresh || len(l[0].Runs) != 2 || len(l[0].Refused) > 0 {
		t.Errorf("again: %+v, %v", l, err)
	}
	w.wantStarted(map[string]int{"good": 1, "bad": 1})
}

func TestEventsThatCauseThemselvesEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, eventOn("echo", "type: a"))
	e := w.events()
	by := waybill.Principal{Name: "local"}
	for n := 0; ; n++ {
		r := cloudEvent(fmt.Sprint(n), "/loop", "a", "1")
		r.By = by
		l, err := e.Publish(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if n > arrival.MaxHops {
			if len(l[0].Runs) > 0 || len(l[0].Refused) != 1 || !strings.HasPrefix(l[0].Refused[0].Reason, "loop") || !l[0].Refused[0].Dead {
				t.Errorf("after %d arrivals: %+v", n, l)
			}
			break
		}
		if len(l[0].Runs) != 1 {
			t.Fatalf("after %d arrivals: %+v", n, l)
		}
		by = waybill.Principal{Name: "attempt", Attempt: waybill.AttemptKey(l[0].Runs[0].Run, "one", 1)}
	}
	letters, err := w.admin.DeadLetters(t.Context(), queue.TopicEvent, 0, "")
	if err != nil || len(letters.Items) != 1 {
		t.Fatalf("%+v, %v", letters.Items, err)
	}
	w.wantStarted(map[string]int{"echo": arrival.MaxHops + 1})
	// Hops are those of all kinds of arrivals.
	if hops, err := w.engine.Hops(t.Context(), by.Attempt); err != nil || hops != arrival.MaxHops+1 {
		t.Errorf("hops %d, %v", hops, err)
	}
}

func TestParseCloudEvents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	structured := map[string][]string{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}
	good := func(body string) waybill.Event {
		t.Helper()
		l, err := arrival.ParseCloudEvents(structured, []byte(body), now)
		if err != nil || len(l) != 1 {
			t.Fatalf("%s: %v", body, err)
		}
		return l[0]
	}
	ev := good(`{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2025-05-05T10:00:00+02:00","subject":"x","myext":5,"data":{"a": 1}}`)
	want := waybill.Event{ID: "1", Source: "/s", Type: "t", Subject: "x", Time: time.Date(2025, 5, 5, 8, 0, 0, 0, time.UTC), Data: []byte(`{"a":1}`)}
	if d := cmp.Diff(want, ev); d != "" {
		t.Errorf("event (-want +got):\n%s", d)
	}
	if ev := good(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"aGVsbG8="}`); string(ev.Data) != `"hello"` || !ev.Time.Equal(now) {
		t.Errorf("base64: %s at %s", ev.Data, ev.Time)
	}
	if ev := good(`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/octet-stream","data_base64":"/wA="}`); string(ev.Data) != `{"base64":"/wA="}` {
		t.Errorf("bytes: %s", ev.Data)
	}
	for body, want := range map[string]string{
		`{`: "no JSON object", `[]`: "no JSON object", `{}`: "specversion", `{"specversion":"0.3"}`: "want 1.0",
		`{"specversion":"1.0","source":"/s","type":"t"}`:                                       "attribute id is missing",
		`{"specversion":"1.0","id":1,"source":"/s","type":"t"}`:                                "id is no text",
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"today"}`:               "2006-01-02T15:04:05Z",
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","Bad-Name":"x"}`:               "small letters",
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"%"}`:            "no base64",
		`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":"aA="}`: "no base64",
	} {
		if _, err := arrival.ParseCloudEvents(structured, []byte(body), now); err == nil || !strings.Contains(err.Error(), want) || !waybill.IsKind(err, waybill.KindMalformed) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	if _, err := arrival.ParseCloudEvents(map[string][]string{"Content-Type": {"image/png"}}, []byte("x"), now); !waybill.IsKind(err, waybill.KindMalformed) {
		t.Errorf("a picture: %v", err)
	}
	many := append(bytes.Repeat([]byte("{},"), 1000), "{}]"...)
	if _, err := arrival.ParseCloudEvents(map[string][]string{"Content-Type": {"application/cloudevents-batch+json"}}, append([]byte("["), many...), now); !waybill.IsKind(err, waybill.KindTooLarge) {
		t.Errorf("1001 events: %v", err)
	}
}

func FuzzParseCloudEvents(f *testing.F) {
	f.Add("application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"aGVsbG8="}`))
	f.Add("application/cloudevents-batch+json", []byte(`[{"specversion":"1.0"}]`))
	f.Add("", []byte(`{}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		l, err := arrival.ParseCloudEvents(map[string][]string{"Content-Type": {contentType}}, body, time.Unix(0, 0))
		if err != nil {
			if k := waybill.KindOf(err); k != waybill.KindMalformed && k != waybill.KindTooLarge {
				t.Errorf("kind %s: %v", k, err)
			}
			return
		}
		for _, ev := range l {
			if ev.ID == "" || ev.Source == "" || ev.Type == "" || ev.Time.IsZero() {
				t.Errorf("event %+v", ev)
			}
		}
	})
}

func TestDeliveredEventsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hookOn("deploy", ""))
	e := w.events()
	w.deliver(e, w.signed(`1`, "Waybill-Delivery", "d"))
	rows := func() int {
		t.Helper()
		list, err := w.store.Scan(t.Context(), "", "event_seen", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if rows() != 2 { // its id and its signature
		t.Fatalf("%d rows", rows())
	}
	w.now.Add(int64(arrival.Remember))
	if err := e.Sweep(t.Context(), w.clock()); err != nil || rows() != 2 {
		t.Fatalf("%v, %d rows at the end of the time", err, rows())
	}
	w.now.Add(int64(time.Second))
	if err := e.Sweep(t.Context(), w.clock()); err != nil || rows() != 0 {
		t.Fatalf("%v, %d rows after it", err, rows())
	}
}

func TestFullQueueTakesNoEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hookOn("deploy", ""))
	full := waybill.E(waybill.KindExhausted, "full")
	e := arrival.NewEvents(arrival.EventOptions{
		Store: w.store, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, w.clock, nil), Now: w.clock,
		Secrets: vault{"hook": hookSecret}, Admit: func(context.Context, string) error { return full },
	})
	if _, err := e.Deliver(t.Context(), w.signed("1")); !errors.Is(err, full) {
		t.Errorf("webhook: %v", err)
	}
	if _, err := e.Publish(t.Context(), cloudEvent("1", "/s", "a", "1")); !errors.Is(err, full) {
		t.Errorf("event: %v", err)
	}
	w.wantStarted(map[string]int{})
}

func TestFiltersAndValuesOfObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t, `
name: sized
params: {key: string}
on:
  object:
    - {bucket: inbox, match: "*.csv", filter: event.object.size > 3, params: {key: "${{ event.object.key }}"}}
    - {bucket: inbox, match: "a*", filter: event.object.size > 1, params: {key: second}}
steps: [{name: one, run: ["true"]}]
`, "name: fresh\non: {object: {bucket: inbox, events: created}}\nsteps: [{name: one, run: [\"true\"]}]\n",
		"name: changed\non: {object: {bucket: inbox, events: [updated]}}\nsteps: [{name: one, run: [\"true\"]}]\n",
		"name: fails\non: {object: {bucket: inbox, filter: event.data.nothing == 1}}\nsteps: [{name: one, run: [\"true\"]}]\n")
	w.put("a.csv", "12345", waybill.Principal{})
	w.work()
	w.wantStarted(map[string]int{"sized": 1, "fresh": 1})
	if v, _ := w.runs("sized")[0].Params.Get("key"); string(v) != `"a.csv"` {
		t.Errorf("key is %s", v)
	}
	w.put("b.csv", "1", waybill.Principal{})
	w.work()
	w.wantStarted(map[string]int{"sized": 1, "fresh": 2})
	w.now.Add(int64(time.Second))
	w.put("a.csv", "12", waybill.Principal{}) // the first filter does not take it, the second does
	w.work()
	w.wantStarted(map[string]int{"sized": 2, "fresh": 2, "changed": 1})
	if l := w.dead(); len(l) > 0 {
		t.Errorf("dead letters %v", l)
	}
	evs, err := w.store.Events(t.Context(), "", "pipeline/fails", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range evs {
		if e.Kind == arrival.RecordFilterFailed {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d records of a filter that failed, want 3", n)
	}
}
