package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// world is a store with runs that a test makes up.
type world struct {
	t     *testing.T
	store store.Store
	hook  *hook
	o     Options

	mu   sync.Mutex
	runs map[string]waybill.Run
	own  []waybill.NotifyRule // of pipeline "own"
}

// hook is a receiver of webhooks.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	bodies [][]byte
	heads  []http.Header
	status []int // answers to come; then 200
	after  string
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.bodies, h.heads = append(h.bodies, b), append(h.heads, r.Header.Clone())
		if len(h.status) > 0 {
			if h.after != "" {
				w.Header().Set("Retry-After", h.after)
			}
			w.WriteHeader(h.status[0])
			h.status = h.status[1:]
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) events(t *testing.T) []Event {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Event
	for _, b := range h.bodies {
		var e Event
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
		out = append(out, e)
	}
	return out
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, runs: map[string]waybill.Run{}, hook: newHook(t)}
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), append(feed.Tables(), Tables()...), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.store = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.o = Options{
		Store: s, Runs: w, Plans: w, Owner: "n1", Pace: 5 * time.Millisecond, URL: func() string { return "http://here:4040" },
		Secret: func(_ context.Context, name string) (string, error) {
			if name == "hook-key" || name == "mail" {
				return map[string]string{"hook-key": "k3y", "mail": "good"}[name], nil
			}
			return "", waybill.E(waybill.KindNotFound, "there is no secret %s", name)
		},
	}
	return w
}

func (w *world) Run(_ context.Context, id string) (waybill.RunDetail, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.runs[id]
	if !ok {
		return waybill.RunDetail{}, waybill.E(waybill.KindNotFound, "there is no run %s", id)
	}
	return waybill.RunDetail{Run: r}, nil
}

func (w *world) Runs(_ context.Context, f waybill.RunFilter) (waybill.Page[waybill.Run], error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var p waybill.Page[waybill.Run]
	for _, r := range w.runs {
		if r.Pipeline == f.Pipeline && slices.Contains(f.Statuses, r.Status) {
			p.Items = append(p.Items, r)
		}
	}
	return p, nil
}

func (w *world) Notifying(_ context.Context, pipeline string, _ int) ([]waybill.NotifyRule, error) {
	if pipeline == "own" {
		return w.own, nil
	}
	return nil, nil
}

func (w *world) AllNotifying(context.Context) (map[string][]waybill.NotifyRule, error) {
	if len(w.own) == 0 {
		return nil, nil
	}
	return map[string][]waybill.NotifyRule{"own": w.own}, nil
}

func (w *world) start() *Notifier {
	w.t.Helper()
	n := New(w.o)
	if err := n.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Stop)
	// A feed begins with what happens once it reads.
	w.await("the feed reads", func() bool { _, err := w.store.Get(w.t.Context(), "", "feed", "notify"); return err == nil })
	return n
}

func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never happened: %s", what)
		}
	}
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// ends lets a run of a pipeline end.
func (w *world) ends(pipeline string, status waybill.Status) string {
	w.t.Helper()
	w.mu.Lock()
	id := fmt.Sprintf("run-%03d", len(w.runs))
	at := noon.Add(time.Duration(len(w.runs)) * time.Minute)
	r := waybill.Run{
		ID: id, Pipeline: pipeline, Version: 2, Status: status, CreatedAt: at, StartedAt: at, FinishedAt: at.Add(time.Second),
		Event: waybill.Event{Type: "http"}, Labels: map[string]string{"team": "a"},
	}
	if status != waybill.StatusSucceeded {
		r.Error, r.Failed = "step one: exit code 3", "one"
	}
	w.runs[id] = r
	w.mu.Unlock()
	w.tell("run/"+id, "run.ended", map[string]any{"status": status})
	return id
}

func (w *world) tell(subject, kind string, data any) {
	w.t.Helper()
	b, err := json.Marshal(data)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Commit(w.t.Context(), &store.Commit{Events: []store.Event{{Subject: subject, Kind: kind, Data: b, At: noon}}}); err != nil {
		w.t.Fatal(err)
	}
}

// quiet waits until all that happened before has been read and sent.
func (w *world) quiet(n *Notifier) {
	w.t.Helper()
	w.ends("marker", waybill.StatusFailed)
	w.await("the marker is told", func() bool {
		return slices.ContainsFunc(w.hook.events(w.t), func(e Event) bool { return e.Data.Pipeline == "marker" })
	})
	w.await("all is sent", func() bool { d, err := w.store.Depth(w.t.Context(), Topic); return err == nil && d == 0 })
}

func rule(name, url string, on ...waybill.NotifyEvent) waybill.NotifyRule {
	return waybill.NotifyRule{Name: name, On: on, Webhook: &waybill.NotifyWebhook{URL: url}}
}

func TestFailedRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := rule("ops", w.hook.URL, waybill.NotifyFailed)
	r.Pipeline = "nightly-*"
	r.Webhook.Secret = "${secret:hook-key}"
	r.Webhook.Headers = map[string]string{"Authorization": "Bearer ${secret:hook-key}"}
	w.o.Folder = []waybill.NotifyRule{r, rule("marker", w.hook.URL, waybill.NotifyFailed)}
	w.o.Folder[1].Pipeline = "marker"
	n := w.start()
	w.ends("nightly-report", waybill.StatusSucceeded)
	w.ends("daily", waybill.StatusFailed)
	w.ends("nightly-report", waybill.StatusTimedOut)
	id := w.ends("nightly-report", waybill.StatusFailed)
	w.quiet(n)
	var got []int
	for i, e := range w.hook.events(t) {
		if e.Data.Pipeline != "marker" {
			got = append(got, i)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d notifications, want one: the other runs do not match", len(got))
	}
	e, head, body := w.hook.events(t)[got[0]], w.hook.heads[got[0]], w.hook.bodies[got[0]]
	want := Event{
		SpecVersion: "1.0", ID: e.ID, Source: "/pipelines/nightly-report", Type: "run.waybill.run.failed", Subject: "runs/" + id,
		Time: e.Data.FinishedAt, ContentType: "application/json", Data: Data{
			Event: waybill.NotifyFailed, Rule: "ops", Text: "Pipeline nightly-report failed: step one: exit code 3", URL: "http://here:4040/api/v1/runs/" + id,
			Pipeline: "nightly-report", Run: id, Version: 2, Status: waybill.StatusFailed, Error: "step one: exit code 3", FailedStep: "one", Trigger: "http",
			Labels: map[string]string{"team": "a"}, CreatedAt: e.Data.CreatedAt, StartedAt: e.Data.StartedAt, FinishedAt: e.Data.FinishedAt,
		},
	}
	if a, b := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", want); a != b {
		t.Errorf("told\n%s\nwant\n%s", a, b)
	}
	if ct := head.Get("Content-Type"); !strings.HasPrefix(ct, "application/cloudevents+json") {
		t.Errorf("content type %s", ct)
	}
	if head.Get("Waybill-Delivery") != e.ID || len(e.ID) != 32 {
		t.Errorf("id %q in the header, %q in the body", head.Get("Waybill-Delivery"), e.ID)
	}
	if head.Get("Authorization") != "Bearer k3y" {
		t.Errorf("header with a secret is %q", head.Get("Authorization"))
	}
	stamp, sum, ok := strings.Cut(strings.TrimPrefix(head.Get("Waybill-Signature"), "t="), ",v1=")
	mac := hmac.New(sha256.New, []byte("k3y"))
	mac.Write([]byte(stamp + "." + string(body)))
	if !ok || sum != hex.EncodeToString(mac.Sum(nil)) {
		t.Errorf("signature %q is not that of the body", head.Get("Waybill-Signature"))
	}
	mac = hmac.New(sha256.New, []byte("k3y"))
	mac.Write(body)
	if head.Get("X-Hub-Signature-256") != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
		t.Errorf("X-Hub-Signature-256 is %q", head.Get("X-Hub-Signature-256"))
	}
}

// A message that was not taken comes again, as the same event, for each rule by
// itself.
func TestRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := newHook(t)
	bad.status = []int{500, 503}
	w.o.Folder = []waybill.NotifyRule{rule("bad", bad.URL, waybill.NotifyFailed), rule("good", w.hook.URL, waybill.NotifyFailed)}
	w.start()
	w.ends("a", waybill.StatusFailed)
	w.await("the third try", func() bool { return len(bad.events(t)) == 3 })
	ids := map[string]bool{}
	for _, e := range bad.events(t) {
		ids[e.ID] = true
	}
	if len(ids) != 1 {
		t.Errorf("the same event came with %d ids", len(ids))
	}
	if n := len(w.hook.events(t)); n != 1 {
		t.Errorf("the other rule was told %d times", n)
	}
	if ids[w.hook.events(t)[0].ID] {
		t.Error("two rules were told with one id")
	}
	w.await("nothing is left", func() bool { d, err := w.store.Depth(t.Context(), Topic); return err == nil && d == 0 })
}

// Several servers, stopped at any time, make one message for each event and rule.
func TestOneMessageForEachRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.Folder = []waybill.NotifyRule{rule("ops", w.hook.URL, waybill.NotifyFailed)}
	const runs = 60
	var ids []string
	for round := range 4 {
		var all []*Notifier
		for node := range 2 {
			o := w.o
			o.Owner = fmt.Sprintf("n%d-%d", round, node)
			n := New(o)
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
		w.await("the feed reads", func() bool { _, err := w.store.Get(t.Context(), "", "feed", "notify"); return err == nil })
		for range runs / 4 {
			ids = append(ids, w.ends("a", waybill.StatusFailed))
		}
		for _, n := range all {
			n.Stop()
		}
	}
	o := w.o
	o.Owner = "n3-0" // one that was here before
	n := New(o)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	told := func() map[string]map[string]bool {
		out := map[string]map[string]bool{}
		for _, e := range w.hook.events(t) {
			if out[e.Data.Run] == nil {
				out[e.Data.Run] = map[string]bool{}
			}
			out[e.Data.Run][e.ID] = true
		}
		return out
	}
	w.await("every run is told", func() bool { return len(told()) == runs })
	for _, id := range ids {
		if n := len(told()[id]); n != 1 {
			t.Errorf("run %s was told with %d ids", id, n)
		}
	}
}

func TestRecovered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.Folder = []waybill.NotifyRule{rule("back", w.hook.URL, waybill.NotifyRecovered), rule("marker", w.hook.URL, waybill.NotifyFailed)}
	w.o.Folder[1].Pipeline = "marker"
	n := w.start()
	w.ends("a", waybill.StatusSucceeded)
	failed := w.ends("a", waybill.StatusFailed)
	w.ends("b", waybill.StatusSucceeded)
	w.ends("a", waybill.StatusCanceled) // says nothing about whether it works
	back := w.ends("a", waybill.StatusSucceeded)
	w.ends("a", waybill.StatusSucceeded)
	w.quiet(n)
	var got []Data
	for _, e := range w.hook.events(t) {
		if e.Data.Event == waybill.NotifyRecovered {
			got = append(got, e.Data)
		}
	}
	if len(got) != 1 || got[0].Run != back || got[0].After != failed || got[0].Text != "Pipeline a works again" {
		t.Errorf("told %+v, want once of %s after %s", got, back, failed)
	}
}

// A real worker buries a message, and that is told; one of ours is not, or it
// would go on for ever.
func TestDeadLettersAndCleanUps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.o.Folder = []waybill.NotifyRule{rule("ops", w.hook.URL, waybill.NotifyDeadLetter, waybill.NotifyCleanupFailed), rule("marker", w.hook.URL, waybill.NotifyFailed)}
	w.o.Folder[1].Pipeline = "marker"
	n := w.start()
	for _, topic := range []string{"unit", Topic} {
		body := []byte("no JSON")
		if err := w.store.Commit(t.Context(), &store.Commit{Sends: []store.Send{{Topic: topic, Key: "k1", Body: body}}}); err != nil {
			t.Fatal(err)
		}
	}
	worker, err := queue.Start(t.Context(), queue.Options{Store: w.store, Topic: "unit", Owner: "n1", Handler: func(context.Context, *store.Msg) (*store.Commit, error) {
		return nil, queue.Bury("no such program")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Stop()
	w.await("both are buried", func() bool {
		c, err := w.store.Counts(t.Context(), "", store.DeadTable)
		return err == nil && c["topic:unit"] == 1 && c["topic:"+Topic] == 1
	})
	id := w.ends("a", waybill.StatusSucceeded)
	w.tell("run/"+id, "cleanup.failed", map[string]any{"attempt": id + "/one/1", "reason": "the platform does not answer"})
	w.quiet(n)
	var letters, cleanups []Data
	for _, e := range w.hook.events(t) {
		switch e.Data.Event {
		case waybill.NotifyDeadLetter:
			letters = append(letters, e.Data)
		case waybill.NotifyCleanupFailed:
			cleanups = append(cleanups, e.Data)
		}
	}
	if len(letters) != 1 || letters[0].Topic != "unit" || letters[0].Key != "k1" || letters[0].Error != "no such program" {
		t.Errorf("dead letters told: %+v", letters)
	}
	if len(cleanups) != 1 || cleanups[0].Attempt != id+"/one/1" || cleanups[0].Pipeline != "a" || cleanups[0].Error != "the platform does not answer" {
		t.Errorf("clean-ups told: %+v", cleanups)
	}
}

func mailRule(m *mailServer) waybill.NotifyRule {
	return waybill.NotifyRule{Name: "people", On: []waybill.NotifyEvent{waybill.NotifyFailed}, Email: &waybill.NotifyEmail{
		To: []string{"Ops <ops@example.org>", "second@example.org"}, From: "waybill@example.org", SMTP: m.addr, User: "waybill", Password: "${secret:mail}",
	}}
}

func TestMail(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newMailServer(t)
	m.refuse = 1
	w.o.Roots = m.roots
	w.o.Folder = []waybill.NotifyRule{mailRule(m)}
	w.start()
	id := w.ends("a", waybill.StatusFailed)
	w.await("the letter comes, at the second try", func() bool { return len(m.got()) == 1 })
	l := m.got()[0]
	if !l.encrypted || l.auth != "|waybill|good" {
		t.Errorf("encrypted %v, authenticated as %q", l.encrypted, l.auth)
	}
	if !strings.Contains(l.from, "<waybill@example.org>") || len(l.to) != 2 || !strings.Contains(l.to[0], "<ops@example.org>") {
		t.Errorf("from %s to %s", l.from, l.to)
	}
	for _, want := range []string{
		"Subject: [waybill] Pipeline a failed: step one: exit code 3", "Message-ID: <" + eventID("people", waybill.NotifyFailed, id) + "@waybill>",
		"waybill run show " + id, "exit code 3", "Sent by rule people.",
	} {
		if !strings.Contains(l.text, want) {
			t.Errorf("the letter has no %q:\n%s", want, l.text)
		}
	}
	if strings.Contains(l.text, "good") {
		t.Error("the letter holds the password")
	}
}

// Without encryption nothing is sent unless the rule allows that; a wrong
// certificate, password or server is an error that does not tell the password.
func TestMailRefused(t *testing.T) {
	t.Parallel()
	w, m := newWorld(t), newMailServer(t)
	w.o.Roots = m.roots
	n := New(w.o)
	e := Event{ID: "1", Data: Data{Text: "x", Rule: "people"}}
	if err := n.mail(t.Context(), *mailRule(m).Email, e); err != nil {
		t.Fatal(err)
	}
	other := w.o
	other.Roots = nil
	if err := New(other).mail(t.Context(), *mailRule(m).Email, e); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	wrong := mailRule(m).Email
	wrong.Password = "not-that"
	if err := n.mail(t.Context(), *wrong, e); err == nil || strings.Contains(err.Error(), "not-that") {
		t.Errorf("wrong password: %v", err)
	}
	m.mu.Lock()
	m.plain = true
	m.mu.Unlock()
	bare := mailRule(m).Email
	bare.User, bare.Password = "", ""
	if err := n.mail(t.Context(), *bare, e); err == nil || !strings.Contains(strings.ToUpper(err.Error()), "TLS") {
		t.Errorf("a server without STARTTLS: %v", err)
	}
	no := false
	bare.StartTLS = &no
	if err := n.mail(t.Context(), *bare, e); err != nil {
		t.Errorf("allowed without: %v", err)
	}
	if got := m.got(); len(got) != 2 || got[1].encrypted {
		t.Errorf("%d letters", len(got))
	}
}

// Errors of webhooks name the host, not the URL, which may be a secret.
func TestWebhookRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := New(w.o)
	w.hook.status, w.hook.after = []int{429}, "7"
	err := n.post(t.Context(), waybill.NotifyWebhook{URL: w.hook.URL + "/s3cret"}, Event{})
	var later *laterError
	if !errors.As(err, &later) || later.after != 7*time.Second || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v (%+v)", err, later)
	}
	w.hook.after, w.hook.status = "", []int{302}
	if err := n.post(t.Context(), waybill.NotifyWebhook{URL: w.hook.URL}, Event{}); err == nil {
		t.Error("a redirect counts as taken")
	}
	for _, url := range []string{"http://127.0.0.1:1/s3cret", "http://[bad/s3cret", "${secret:nobody}"} {
		if err := n.post(t.Context(), waybill.NotifyWebhook{URL: url}, Event{}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestRulesOfTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	folder := rule("ops", "https://example.org/x", waybill.NotifyFailed)
	folder.Webhook.Secret, folder.Webhook.Headers = "literal", map[string]string{"Authorization": "Bearer literal"}
	unnamed := rule("", "https://example.org/x", waybill.NotifyFailed)
	w.o.Folder = []waybill.NotifyRule{folder, unnamed}
	w.own = []waybill.NotifyRule{rule("", w.hook.URL, waybill.NotifyLost)}
	n := w.start()
	by := waybill.Principal{Name: "ann"}
	r := rule("mine", w.hook.URL, waybill.NotifyFailed)

	x, fresh, err := n.ApplyNotification(t.Context(), r, by)
	if err != nil || !fresh || x.Origin != "api" || x.CreatedBy != "ann" {
		t.Fatalf("%+v %v %v", x, fresh, err)
	}
	if _, fresh, err := n.ApplyNotification(t.Context(), r, by); err != nil || fresh {
		t.Errorf("the same again: fresh %v, %v", fresh, err)
	}
	all, err := n.Notifications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range all {
		names = append(names, x.Name+" "+x.Origin)
	}
	if got, want := strings.Join(names, ", "), "mine api, notify-2 folder, ops folder, pipeline:own:1 pipeline"; got != want {
		t.Errorf("rules are %s, want %s", got, want)
	}
	if x, err := n.Notification(t.Context(), "ops"); err != nil || x.Webhook.Secret != "***" || x.Webhook.Headers["Authorization"] != "***" {
		t.Errorf("a rule with literal secrets shows %+v (%v)", x.Webhook, err)
	}
	for _, name := range []string{"ops", "pipeline:own:1"} {
		r := r
		r.Name = name
		if _, _, err := n.ApplyNotification(t.Context(), r, by); !waybill.IsKind(err, waybill.KindConflict) {
			t.Errorf("apply %s: %v, want conflict", name, err)
		}
		if err := n.DeleteNotification(t.Context(), name, by); !waybill.IsKind(err, waybill.KindConflict) {
			t.Errorf("delete %s: %v, want conflict", name, err)
		}
	}
	bad := r
	bad.Webhook = &waybill.NotifyWebhook{URL: w.hook.URL, Secret: "literal"}
	if _, _, err := n.ApplyNotification(t.Context(), bad, by); !waybill.IsKind(err, waybill.KindInvalid) || strings.Contains(err.Error(), "literal") {
		t.Errorf("a literal key: %v", err)
	}

	// It works at once, and no longer once it is deleted: not even for what waits.
	if err := n.TestNotification(t.Context(), "mine"); err != nil {
		t.Fatal(err)
	}
	if e := w.hook.events(t); len(e) != 1 || !e[0].Data.Test || e[0].Data.Rule != "mine" {
		t.Errorf("the test sent %+v", e)
	}
	w.ends("a", waybill.StatusFailed)
	w.await("a failure is told", func() bool { return len(w.hook.events(t)) == 2 })
	w.ends("own", waybill.StatusLost)
	w.await("the pipeline's own rule tells", func() bool { return len(w.hook.events(t)) == 3 })
	if err := n.DeleteNotification(t.Context(), "mine", by); err != nil {
		t.Fatal(err)
	}
	if err := n.DeleteNotification(t.Context(), "mine", by); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if err := n.TestNotification(t.Context(), "mine"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("tested after that: %v", err)
	}
	w.ends("a", waybill.StatusFailed)
	w.ends("own", waybill.StatusLost)
	w.await("the other rule tells", func() bool { return len(w.hook.events(t)) >= 4 })
	if e := w.hook.events(t); len(e) != 4 || e[3].Data.Pipeline != "own" {
		t.Errorf("%d events; a deleted rule tells on", len(e))
	}
	w.hook.Close()
	if err := n.TestNotification(t.Context(), "pipeline:own:1"); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("a receiver that is away: %v", err)
	}
}
