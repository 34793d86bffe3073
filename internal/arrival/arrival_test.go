package arrival_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// world is a server without runners: what arrives becomes runs, and those wait.
type world struct {
	t        *testing.T
	store    *sqlite.Store
	project  *project.Project
	engine   *engine.Engine
	objects  *object.Objects
	arrivals *arrival.Arrivals
	admin    *queue.Admin
	now      atomic.Int64 // nanoseconds
}

func newWorld(t *testing.T, definitions ...string) *world {
	t.Helper()
	w := &world{t: t}
	w.now.Store(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC).UnixNano())
	var schema store.Schema
	for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables()} {
		schema = append(schema, part...)
	}
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{
		Clock: func() time.Time { return time.Unix(0, w.now.Load()) },
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	blobs, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if w.project, err = project.Open(t.Context(), w.store, "", project.Options{Parse: pipeline.Options{}}); err != nil {
		t.Fatal(err)
	}
	w.engine = engine.New(engine.Options{Store: w.store, Blobs: blobs, Plans: w.project})
	w.objects = object.New(w.store, blobs, object.Options{Hops: w.engine.Hops})
	w.arrivals = arrival.New(w.store, w.project, w.objects, w.engine.Begin, arrival.Options{})
	w.admin = queue.NewAdmin(w.store, 0)
	for _, d := range definitions {
		w.apply(d)
	}
	return w
}

func (w *world) apply(definition string) {
	w.t.Helper()
	if _, _, err := w.project.ApplyPipeline(w.t.Context(), []byte(definition), waybill.Principal{Name: "test"}); err != nil {
		w.t.Fatal(err)
	}
}

// pipelineOn is a definition that objects start.
func pipelineOn(name, match string) string {
	return "name: " + name + "\non: {object: {bucket: inbox, match: \"" + match + "\"}}\nsteps: [{name: one, run: [\"true\"]}]\n"
}

// picky cannot start for keys without a dash.
const picky = `
name: picky
on: {object: {bucket: inbox, match: "*.csv"}}
vars: {___DAY: "${{ event.object.key.split('-')[1] }}"}
steps: [{name: one, run: ["true"]}]
`

func (w *world) put(key, content string, by waybill.Principal) waybill.Object {
	w.t.Helper()
	o, err := w.objects.PutObject(w.t.Context(), waybill.Object{Bucket: "inbox", Key: key}, strings.NewReader(content), "", by)
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// claim takes the next arrival.
func (w *world) claim() *store.Msg {
	w.t.Helper()
	got, err := w.store.Claim(w.t.Context(), store.ClaimRequest{Topic: queue.TopicArrival, Owner: "test", Lanes: 1, Lease: time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(got.Msgs) == 0 {
		w.t.Fatal("no arrival is ready")
	}
	return got.Msgs[0]
}

func (w *world) send(body any) {
	w.t.Helper()
	b, ok := body.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(body); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.store.Commit(w.t.Context(), &store.Commit{Sends: []store.Send{{Topic: queue.TopicArrival, Key: "inbox/sent", Body: b}}}); err != nil {
		w.t.Fatal(err)
	}
}

// uncut lets a claim that has begun come to its end when the worker stops.
type uncut struct{ store.Store }

func (u uncut) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	return u.Store.Claim(context.WithoutCancel(ctx), r)
}

// work handles arrivals as a server does until none is left.
func (w *world) work() {
	w.t.Helper()
	worker, err := queue.Start(w.t.Context(), queue.Options{
		Store: uncut{w.store}, Topic: queue.TopicArrival, Owner: "test", Handler: w.arrivals.Handle,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer worker.Stop()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		msgs, _, err := w.store.Peek(w.t.Context(), "", queue.TopicArrival, "", 1)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(msgs) == 0 {
			return
		}
		if time.Now().After(limit) {
			w.t.Fatalf("an arrival is not handled: %s", msgs[0].Body)
		}
	}
}

func (w *world) runs(pipeline string) []waybill.Run {
	w.t.Helper()
	page, err := w.engine.Runs(w.t.Context(), waybill.RunFilter{Pipeline: pipeline, Limit: 100})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Reverse(page.Items)
	return page.Items
}

// started counts the runs of each pipeline.
func (w *world) started() map[string]int {
	w.t.Helper()
	out := map[string]int{}
	for _, r := range w.runs("") {
		out[r.Pipeline]++
	}
	return out
}

func (w *world) dead() []waybill.QueueMessage {
	w.t.Helper()
	page, err := w.admin.DeadLetters(w.t.Context(), queue.TopicArrival, 0, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return page.Items
}

func (w *world) redrive() {
	w.t.Helper()
	if _, err := w.admin.Redrive(w.t.Context(), queue.TopicArrival, nil, waybill.Principal{}); err != nil {
		w.t.Fatal(err)
	}
	w.work()
}

func (w *world) wantStarted(want map[string]int) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.started()); diff != "" {
		w.t.Errorf("runs of each pipeline (-want +got):\n%s", diff)
	}
}

func (w *world) wantDead(parts ...string) {
	w.t.Helper()
	letters := w.dead()
	if len(letters) != 1 {
		w.t.Fatalf("%d dead letters, want 1: %v", len(letters), letters)
	}
	for _, p := range parts {
		if !strings.Contains(letters[0].Reason, p) {
			w.t.Errorf("dead letter because of %q, want %q in it", letters[0].Reason, p)
		}
	}
}

func TestEveryVersionStartsEachMatchingPipelineOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("ledger", "*.csv"), pipelineOn("mirror", "orders-*"), pipelineOn("texts", "*.txt"),
		"name: by-hand\non: {http: {}}\nsteps: [{name: one, run: [\"true\"]}]\n")
	var versions []string
	for range 3 {
		versions = append(versions, w.put("orders-1.csv", "the same each time", waybill.Principal{}).Version)
		w.now.Add(int64(time.Second))
	}
	w.put("readme.md", "nobody cares", waybill.Principal{})
	w.work()
	w.wantStarted(map[string]int{"ledger": 3, "mirror": 3})
	for _, name := range []string{"ledger", "mirror"} {
		var got []string
		for _, r := range w.runs(name) {
			if r.Status != waybill.StatusQueued || r.Event.Type != "object" || r.Event.Object == nil || r.Event.Subject != "orders-1.csv" {
				t.Fatalf("run %+v was not started by the object", r)
			}
			got = append(got, r.Event.Object.Version)
		}
		slices.Sort(got) // runs of one millisecond have no order
		if diff := cmp.Diff(versions, got); diff != "" {
			t.Errorf("versions that started %s (-want +got):\n%s", name, diff)
		}
	}
	if letters := w.dead(); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters)
	}
}

func TestArrivalsOfOneKeyKeepTheirOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("ledger", "*"))
	var versions, got []string
	for range 5 {
		versions = append(versions, w.put("a", "x", waybill.Principal{}).Version)
	}
	for range versions {
		m := w.claim()
		// The next one waits until this one is dealt with.
		if more, err := w.store.Claim(t.Context(), store.ClaimRequest{Topic: queue.TopicArrival, Owner: "other", Lanes: 9, Lease: time.Minute}); err != nil || len(more.Msgs) > 0 {
			t.Fatalf("claimed %d more arrivals of the key, %v", len(more.Msgs), err)
		}
		c, err := w.arrivals.Handle(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		c.Done = m
		if err := w.store.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		var in object.Arrival
		if err := json.Unmarshal(m.Body, &in); err != nil {
			t.Fatal(err)
		}
		got = append(got, in.Event.Object.Version)
	}
	if diff := cmp.Diff(versions, got); diff != "" {
		t.Errorf("order of arrivals (-want +got):\n%s", diff)
	}
	w.wantStarted(map[string]int{"ledger": 5})
}

func TestDeliveredTwiceStartsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("ledger", "*"))
	w.put("a", "x", waybill.Principal{})
	m := w.claim()
	w.send(m.Body) // the same arrival in another lane

	// Two servers work on one message: the first lost its lease, or its answer.
	first, err := w.arrivals.Handle(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.arrivals.Handle(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	first.Done, second.Done = m, m
	if err := w.store.Commit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Commit(t.Context(), second); !errors.Is(err, store.ErrLeaseLost) && !errors.Is(err, store.ErrConflict) {
		t.Errorf("the second commit ended with %v", err)
	}
	w.work()
	w.wantStarted(map[string]int{"ledger": 1})
}

func TestBrokenPipelineDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("after", "*.csv"), picky, pipelineOn("zebra", "*.csv"))
	w.put("plain.csv", "x", waybill.Principal{})
	w.work()
	w.wantStarted(map[string]int{"after": 1, "zebra": 1})
	w.wantDead("pipeline picky cannot start")

	// Sent again as it is, it fails again and starts nothing twice.
	w.redrive()
	w.wantStarted(map[string]int{"after": 1, "zebra": 1})
	w.wantDead("pipeline picky cannot start")

	// Sent again after the definition was corrected, it starts what was missing.
	w.apply(strings.Replace(picky, "event.object.key.split('-')[1]", "event.object.key", 1))
	w.redrive()
	w.wantStarted(map[string]int{"after": 1, "zebra": 1, "picky": 1})
	if letters := w.dead(); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters)
	}
}

func TestHopsAreHandedOnAndEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("echo", "*"))
	by := waybill.Principal{Name: "local"}
	for n := 0; n <= arrival.MaxHops; n++ {
		w.now.Add(int64(time.Second))
		w.put("a", "x", by)
		w.work()
		runs := w.runs("echo")
		if len(runs) != n+1 {
			t.Fatalf("%d runs after %d arrivals; dead letters: %v", len(runs), n+1, w.dead())
		}
		// What an attempt of the newest run puts arrives one hop further.
		by = waybill.Principal{Name: "attempt", Attempt: waybill.AttemptKey(runs[n].ID, "one", 1)}
		hops, err := w.engine.Hops(t.Context(), by.Attempt)
		if err != nil || hops != n+1 {
			t.Fatalf("hops %d, %v; want %d", hops, err, n+1)
		}
	}
	w.put("a", "x", by)
	w.work()
	w.wantDead("loop")
	w.wantStarted(map[string]int{"echo": arrival.MaxHops + 1})
	w.redrive()
	w.wantDead("loop")
}

func TestHopsOfOtherRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "name: by-hand\non: {http: {}}\nsteps: [{name: one, run: [\"true\"]}]\n")
	run, _, err := w.engine.StartRun(t.Context(), waybill.StartRequest{Pipeline: "by-hand"})
	if err != nil {
		t.Fatal(err)
	}
	if hops, err := w.engine.Hops(t.Context(), waybill.AttemptKey(run.ID, "one", 1)); err != nil || hops != 0 {
		t.Errorf("hops of a run that no object started: %d, %v", hops, err)
	}
	if _, err := w.engine.Hops(t.Context(), "no-such-run/one/1"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("hops of no run: %v", err)
	}
}

func TestUnreadableArrivals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body any
		want string
	}{
		"no JSON":    {[]byte("{"), "unreadable"},
		"no object":  {object.Arrival{}, "without an object"},
		"no version": {object.Arrival{Event: waybill.Event{Object: &waybill.Object{Bucket: "inbox", Key: "a"}}}, "without an object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pipelineOn("ledger", "*"))
			w.send(c.body)
			w.work()
			w.wantDead(c.want)
			w.wantStarted(map[string]int{})
		})
	}
}

// down is a project that cannot be read for a while.
type down struct{ err error }

func (d down) Matching(context.Context, string, string) ([]project.Match, error) { return nil, d.err }

func TestAFaultThatPassesBuriesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pipelineOn("ledger", "*"))
	w.put("a", "x", waybill.Principal{})
	m := w.claim()
	fault := waybill.E(waybill.KindUnavailable, "the store is away")
	a := arrival.New(w.store, down{fault}, w.objects, w.engine.Begin, arrival.Options{})
	if c, err := a.Handle(t.Context(), m); c != nil || !errors.Is(err, fault) {
		t.Errorf("handled to %v, %v; want the fault, so that it is tried again", c, err)
	}
}

func TestLedgerIsKeptAsLongAsTheVersion(t *testing.T) {
	t.Parallel()
	const keep = 24 * time.Hour
	w := newWorld(t, pipelineOn("ledger", "*"), picky)
	sweep := func() {
		t.Helper()
		now := w.store.Now()
		if err := w.objects.Sweep(t.Context(), now, object.Keep{Versions: keep}); err != nil {
			t.Fatal(err)
		}
		if err := w.arrivals.Sweep(t.Context(), now, keep); err != nil {
			t.Fatal(err)
		}
	}
	ledger := func() int {
		t.Helper()
		rows, err := w.store.Scan(t.Context(), "", "ledger", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	w.put("plain.csv", "x", waybill.Principal{})
	w.work()
	w.wantDead("picky")
	w.now.Add(int64(100 * keep))
	sweep()
	if n := ledger(); n != 1 {
		t.Fatalf("%d rows in the ledger while the version is current, want 1", n)
	}
	w.redrive()
	w.wantStarted(map[string]int{"ledger": 1})

	// Another version takes its place, and the first is forgotten.
	w.put("plain.csv", "y", waybill.Principal{Name: "later"})
	w.now.Add(int64(keep / 2))
	sweep()
	if n := ledger(); n != 1 {
		t.Fatalf("%d rows in the ledger while the version is kept, want 1", n)
	}
	w.now.Add(int64(keep))
	sweep()
	if n := ledger(); n != 0 {
		t.Fatalf("%d rows in the ledger of a version that is gone, want none", n)
	}

	// A letter about it that is sent again starts nothing a second time.
	if _, err := w.admin.Purge(t.Context(), queue.TopicArrival, false, waybill.Principal{}); err != nil {
		t.Fatal(err)
	}
	w.redrive()
	w.wantDead("no longer kept")
	w.wantStarted(map[string]int{"ledger": 1})
}
