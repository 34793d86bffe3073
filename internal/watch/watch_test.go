package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// place is a bucket in memory that does what the test says.
type place struct {
	mu      sync.Mutex
	objects map[string]cloud.Entry
	content map[string]string
	next    int
	perPage int
	down    error             // of everything
	denied  map[string]error  // of single objects, when they are opened
	reading func(key string)  // called when an object was opened, before it is read
	failAt  int               // page of a listing that fails, counted from 1; once
	stuck   map[string]error  // deletions and moves that fail
	from    []string          // where listings began
	marks   map[string]string // who wrote an object
}

func newPlace() *place {
	return &place{
		objects: map[string]cloud.Entry{}, content: map[string]string{}, perPage: 1000,
		denied: map[string]error{}, stuck: map[string]error{}, marks: map[string]string{},
	}
}

func (p *place) put(key, content string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	v := fmt.Sprintf("v%d", p.next)
	p.objects[key] = cloud.Entry{Key: key, Version: v, Size: int64(len(content))}
	p.content[key+"@"+v] = content
}

func (p *place) remove(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.objects, key)
}

func (p *place) Pages(_ context.Context, prefix, from string) iter.Seq2[cloud.Page, error] {
	return func(yield func(cloud.Page, error) bool) {
		p.mu.Lock()
		p.from = append(p.from, from)
		keys := slices.DeleteFunc(slices.Sorted(maps.Keys(p.objects)), func(k string) bool { return !strings.HasPrefix(k, prefix) || k <= from })
		down, failAt := p.down, p.failAt
		p.mu.Unlock()
		if down != nil {
			yield(cloud.Page{}, down)
			return
		}
		for n := 1; ; n++ {
			if n == failAt {
				p.mu.Lock()
				p.failAt = 0
				p.mu.Unlock()
				yield(cloud.Page{}, waybill.E(waybill.KindUnavailable, "the connection was cut"))
				return
			}
			var page cloud.Page
			for len(keys) > 0 && len(page.Entries) < p.perPage {
				p.mu.Lock()
				if e, ok := p.objects[keys[0]]; ok {
					page.Entries = append(page.Entries, e)
				}
				p.mu.Unlock()
				keys = keys[1:]
			}
			if len(keys) > 0 {
				page.Next = page.Entries[len(page.Entries)-1].Key
			}
			if !yield(page, nil) || page.Next == "" {
				return
			}
		}
	}
}

func (p *place) Stat(_ context.Context, key string) (cloud.Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down != nil {
		return cloud.Entry{}, p.down
	}
	e, ok := p.objects[key]
	if !ok {
		return e, waybill.E(waybill.KindNotFound, "there is no %s", key)
	}
	return e, nil
}

func (p *place) Open(ctx context.Context, key, version string) (cloud.Entry, io.ReadCloser, error) {
	e, err := p.Stat(ctx, key)
	if err != nil {
		return e, nil, err
	}
	p.mu.Lock()
	denied, reading, mark := p.denied[key], p.reading, p.marks[key]
	p.mu.Unlock()
	switch {
	case denied != nil:
		return e, nil, denied
	case e.Version != version:
		return e, nil, waybill.E(waybill.KindConflict, "%s has changed", key)
	}
	if reading != nil {
		reading(key)
	}
	e.Attempt = mark
	return e, io.NopCloser(&careful{p, key, version, strings.NewReader(p.text(key, version))}), nil
}

func (p *place) text(key, version string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.content[key+"@"+version]
}

// careful notices at the end that the object has changed.
type careful struct {
	p            *place
	key, version string
	r            io.Reader
}

func (c *careful) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if err == io.EOF {
		if e, _ := c.p.Stat(context.Background(), c.key); e.Version != c.version {
			return n, waybill.E(waybill.KindConflict, "%s has changed", c.key)
		}
	}
	return n, err
}

func (p *place) Delete(_ context.Context, key, version string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.stuck[key]; err != nil {
		return err
	}
	if e, ok := p.objects[key]; ok && e.Version != version {
		return waybill.E(waybill.KindConflict, "%s has changed", key)
	}
	delete(p.objects, key)
	return nil
}

func (p *place) Move(ctx context.Context, key, version, to string) error {
	p.mu.Lock()
	e, content := p.objects[key], p.content[key+"@"+version]
	p.mu.Unlock()
	if err := p.Delete(ctx, key, version); err != nil {
		return err
	}
	if e.Key != "" {
		p.put(to, content)
	}
	return nil
}

func (p *place) Close() error { return nil }

// world is a server that watches a place.
type world struct {
	t       *testing.T
	place   *place
	store   *sqlite.Store
	objects *object.Objects
	now     atomic.Int64 // nanoseconds
	conf    Bucket
	hops    map[string]int // by attempt
}

const poll = 30 * time.Second

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, place: newPlace(), hops: map[string]int{}, conf: Bucket{
		Name: "inbox", URL: "memory://user:password@inbox", Settle: 5 * time.Second, Poll: poll, MaxSize: 1 << 20,
	}}
	w.now.Store(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC).UnixNano())
	var err error
	if w.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), append(Tables(), object.Tables()...), sqlite.Options{
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
	w.objects = object.New(w.store, blobs, object.Options{Hops: func(_ context.Context, attempt string) (int, error) {
		n, ok := w.hops[attempt]
		if !ok {
			return 0, waybill.E(waybill.KindNotFound, "there is no run of %s", attempt)
		}
		return n, nil
	}})
	return w
}

func (w *world) pass(d time.Duration) { w.now.Add(int64(d)) }

// watcher is the watcher of one server.
func (w *world) watcher(objects Objects) *Watcher {
	return New(Options{
		Store: w.store, Objects: objects, Buckets: []Bucket{w.conf}, Node: "node",
		Open: func(context.Context, string) (cloud.Bucket, error) { return w.place, nil },
	})
}

// session is one that begins to watch.
func (w *world) session() *session {
	return &session{w: w.watcher(w.objects), conf: w.conf, now: w.store.Now, keys: map[string]bool{}}
}

// round makes one that must not fail.
func (w *world) round(s *session) time.Duration {
	w.t.Helper()
	wait, err := s.round(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return wait
}

// tell lets a bucket tell of changes.
func (s *session) tell(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.keys[k] = true
	}
}

// arrived lists what has arrived, in order: key, content and hops.
func (w *world) arrived() []string {
	w.t.Helper()
	var in []object.Arrival
	for after := ""; ; {
		msgs, next, err := w.store.Peek(w.t.Context(), "", queue.TopicArrival, after, 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, m := range msgs {
			var a object.Arrival
			if err := json.Unmarshal(m.Body, &a); err != nil {
				w.t.Fatal(err)
			}
			in = append(in, a)
		}
		if after = next; after == "" {
			break
		}
	}
	slices.SortFunc(in, func(a, b object.Arrival) int { return strings.Compare(a.Event.ID, b.Event.ID) })
	out := []string{}
	for _, a := range in {
		_, r, err := w.objects.OpenObject(w.t.Context(), "inbox", a.Event.Object.Key, a.Event.Object.Version)
		if err != nil {
			w.t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			w.t.Fatal(err)
		}
		text := a.Event.Object.Key + "=" + string(content)
		if a.Hops > 0 {
			text += fmt.Sprintf(" (%d)", a.Hops)
		}
		out = append(out, text)
	}
	return out
}

func (w *world) want(want ...string) {
	w.t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := cmp.Diff(want, w.arrived()); diff != "" {
		w.t.Errorf("what arrived (-want +got):\n%s", diff)
	}
}

// shown is the bucket as people see it.
func (w *world) shown() waybill.WatchedBucket {
	w.t.Helper()
	b, err := w.watcher(w.objects).WatchedBucket(w.t.Context(), "inbox")
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) problem(key string) waybill.WatchProblem {
	w.t.Helper()
	for _, p := range w.shown().Problems {
		if p.Key == key {
			return p
		}
	}
	return waybill.WatchProblem{}
}

// settled makes the rounds in which what is there settles and is taken.
func (w *world) settled(s *session) {
	w.t.Helper()
	w.pass(poll)
	w.round(s)
	w.pass(w.conf.Settle)
	w.round(s)
}

// An object whose change is told three times and that the listing shows as well is
// one arrival; what was known is counted.
func TestFB06SameObjectToldManyTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.place.put("a.csv", "one")
	for range 3 {
		s.tell("a.csv")
		w.round(s)
	}
	w.pass(w.conf.Settle)
	s.tell("a.csv")
	w.round(s)
	w.want("a.csv=one")
	for range 3 {
		s.tell("a.csv")
		w.pass(poll)
		w.round(s)
	}
	// Another server, or this one after a restart.
	w.settled(w.session())
	w.want("a.csv=one")
	if b := w.shown(); b.Duplicates != 6 || b.Taken != 1 || b.Listed != 1 || b.Status != "ok" {
		t.Errorf("%+v, want 6 duplicates of 1 taken", b)
	}
	// A new version arrives, also with the same content.
	w.place.put("a.csv", "one")
	s = w.session()
	w.settled(s)
	w.want("a.csv=one", "a.csv=one")
}

// A change that nobody tells of is found by the next listing.
func TestFB07LostEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	if wait := w.round(s); wait != poll {
		t.Errorf("it waits %v with nothing to do, want %v", wait, poll)
	}
	w.place.put("a.csv", "one")
	w.pass(poll - time.Second)
	if wait := w.round(s); wait != time.Second {
		t.Errorf("it waits %v for the listing, want 1s", wait)
	}
	w.pass(time.Second)
	if wait := w.round(s); wait != w.conf.Settle {
		t.Errorf("it waits %v for the object to settle, want %v", wait, w.conf.Settle)
	}
	w.pass(w.conf.Settle + 7*time.Second)
	if lag := w.shown().Lag; lag != 7 {
		t.Errorf("lag %v s, want 7", lag)
	}
	w.round(s)
	w.want("a.csv=one")
	if lag := w.shown().Lag; lag != 0 {
		t.Errorf("lag %v s after it was taken", lag)
	}
}

// What is deleted before it is read is skipped with a record, and not tried again.
func TestFB08DeletedBeforeReading(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(*world, *session){
		"found when it is read": func(w *world, s *session) { w.pass(w.conf.Settle); w.round(s) },
		"found by a listing": func(w *world, s *session) {
			w.conf.Settle = time.Hour
			w.pass(poll)
			w.round(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if name == "found by a listing" {
				w.conf.Settle = time.Hour
			}
			s := w.session()
			w.place.put("a.csv", "one")
			w.round(s)
			w.place.remove("a.csv")
			gone(w, s)
			for range 3 {
				w.pass(poll)
				w.round(s)
			}
			w.want()
			if p := w.problem("a.csv"); p.State != stateSkipped || p.Reason != reasonGone {
				t.Errorf("it is told as %+v", p)
			}
			records, err := w.store.Events(t.Context(), "", "object/inbox/a.csv", "", 10)
			if err != nil || len(records) != 1 || records[0].Kind != "object.skipped" || !strings.Contains(string(records[0].Data), reasonGone) {
				t.Errorf("records %v, %v", records, err)
			}
			// It may come again.
			w.conf.Settle = 5 * time.Second
			w.place.put("a.csv", "two")
			w.settled(w.session())
			w.want("a.csv=two")
			w.place.remove("a.csv")
			w.settled(w.session())
			w.pass(remember + time.Hour)
			w.round(w.session())
			if rows, err := w.store.Scan(t.Context(), "", tableSeen, "", 0); err != nil || len(rows) != 0 {
				t.Errorf("%d rows of what is long gone, %v", len(rows), err)
			}
		})
	}
}

// What changes while it is read is read again; each version that was there is one
// arrival at most, and none is a mixture.
func TestFB09OverwrittenWhileRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.place.put("a.csv", "old old old")
	times := 0
	w.place.reading = func(key string) {
		if times++; times <= 2 {
			w.place.put(key, fmt.Sprintf("new %d", times))
		}
	}
	for range 4 {
		w.settled(s)
	}
	w.want("a.csv=new 2")
	w.place.put("a.csv", "later")
	w.settled(s)
	w.want("a.csv=new 2", "a.csv=later")
}

// What still grows is not taken; what has no bytes is taken if the bucket says so.
func TestFB10StillGrowing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	text := ""
	for range 6 {
		text += "line\n"
		w.place.put("log", text)
		s.tell("log")
		w.round(s)
		w.pass(w.conf.Settle - time.Second)
		w.round(s)
	}
	w.want()
	w.pass(time.Second)
	w.round(s)
	w.want("log=" + text)

	w.place.put("empty", "")
	w.settled(s)
	w.want("log=" + text)
	if p := w.problem("empty"); p.State != stateSkipped || p.Reason != reasonEmpty {
		t.Errorf("it is told as %+v", p)
	}
	w.conf.TakeEmpty = true
	s = w.session()
	w.settled(s)
	w.want("log="+text, "empty=")

	// Pipelines may want to wait longer.
	s = w.session()
	s.w.o.Settle = func(_ context.Context, _, key string) (time.Duration, error) {
		if key == "slow" {
			return time.Minute, nil
		}
		return 0, nil
	}
	w.place.put("slow", "x")
	w.settled(s)
	if got := len(w.arrived()); got != 2 {
		t.Errorf("%d arrived before the minute was over", got)
	}
	w.pass(time.Minute)
	w.round(s)
	w.want("log="+text, "empty=", "slow=x")
}

// What an attempt wrote into the bucket itself arrives one hop further.
func TestFB14WrittenBackToTheBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.hops["run/one/1"] = 4
	w.place.put("by-hand", "x")
	w.place.put("by-unit", "x")
	w.place.put("by-stranger", "x")
	w.place.put("by-nonsense", "x")
	w.place.marks["by-unit"], w.place.marks["by-stranger"], w.place.marks["by-nonsense"] = "run/one/1", "other/one/1", "\x01//"
	w.settled(s)
	got := w.arrived()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"by-hand=x", "by-nonsense=x", "by-stranger=x", "by-unit=x (4)"}, got); diff != "" {
		t.Errorf("what arrived (-want +got):\n%s", diff)
	}
	// What was moved after it was taken is not looked at again.
	w.conf.MoveTo = "done/"
	s = w.session()
	w.place.put("in", "y")
	w.settled(s)
	w.settled(s)
	w.settled(s)
	if n := len(w.arrived()); n != 5 {
		t.Errorf("%d arrivals, want 5: %v", n, w.arrived())
	}
}

// The source is dealt with after the object is ours; if that fails it is tried again
// and nothing arrives twice.
func TestFB13SourceCannotBeDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conf.Delete = true
	s := w.session()
	w.place.put("a.csv", "one")
	w.place.stuck["a.csv"] = waybill.E(waybill.KindForbidden, "it may not be deleted")
	w.settled(s)
	for range 3 {
		w.pass(poll)
		w.round(s)
	}
	w.want("a.csv=one")
	if p := w.problem("a.csv"); p.State != stateFinishing || p.Reason != reasonFinish || !strings.Contains(p.Error, "may not be deleted") {
		t.Errorf("it is told as %+v", p)
	}
	delete(w.place.stuck, "a.csv")
	w.pass(10 * time.Minute)
	w.round(s)
	if _, err := w.place.Stat(t.Context(), "a.csv"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("its source is there: %v", err)
	}
	// A version that came in between is not deleted.
	w.place.put("b.csv", "one")
	w.pass(poll)
	w.round(s)
	w.pass(w.conf.Settle)
	if err := s.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.place.put("b.csv", "two")
	w.settled(s)
	w.settled(s)
	w.want("a.csv=one", "b.csv=one", "b.csv=two")
	if b := w.shown(); b.Finishing != 0 || len(w.place.objects) != 0 {
		t.Errorf("left: %+v, %v", b, w.place.objects)
	}
}

// cutShort puts objects and dies before anybody knows.
type cutShort struct{ Objects }

var errKilled = waybill.E(waybill.KindUnavailable, "killed")

func (c cutShort) PutObject(ctx context.Context, o waybill.Object, r io.Reader, key string, by waybill.Principal) (waybill.Object, error) {
	if o, err := c.Objects.PutObject(ctx, o, r, key, by); err != nil {
		return o, err
	}
	return waybill.Object{}, errKilled
}

func TestEndedBetweenObjectAndRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.place.put("a.csv", "one")
	dying := w.session()
	dying.w.o.Objects = cutShort{w.objects}
	w.round(dying)
	w.pass(w.conf.Settle)
	for range 3 {
		if _, err := dying.round(t.Context()); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	w.want("a.csv=one")
	w.settled(w.session())
	w.want("a.csv=one")
	if b := w.shown(); b.Pending != 0 || b.Error != "" {
		t.Errorf("%+v", b)
	}
}

// Two servers that both believe to watch take every version once.
func TestTwoServersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conf.Settle = 0
	var want []string
	for i := range 40 {
		w.place.put(fmt.Sprintf("k%02d", i), "x")
		want = append(want, fmt.Sprintf("k%02d=x", i))
	}
	var wg sync.WaitGroup
	for range 3 {
		s := w.session()
		wg.Go(func() {
			for range 30 {
				s.turn(t.Context())
			}
		})
	}
	wg.Wait()
	s := w.session()
	w.settled(s)
	got := w.arrived()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what arrived (-want +got):\n%s", diff)
	}
}

// A listing that breaks off goes on where it was, also with another server, and a
// bucket with more objects than fit a page is taken whole.
func TestListingGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conf.Settle = time.Hour
	w.place.perPage = 100
	for i := range 1000 {
		w.place.put(fmt.Sprintf("k%04d", i), "x")
	}
	s := w.session()
	w.place.failAt = 6
	if _, err := s.round(t.Context()); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Fatal(err)
	}
	if b := w.shown(); b.Status != "failing" || !strings.Contains(b.Error, "was cut") || b.Pending != 500 || b.ScanBegan.IsZero() {
		t.Errorf("after a listing that was cut: %+v", b)
	}
	w.round(w.session())
	if b := w.shown(); b.Status != "ok" || b.Error != "" || b.Pending != 1000 || b.Listed != 1000 {
		t.Errorf("after the listing: %+v", b)
	}
	if diff := cmp.Diff([]string{"", "k0499"}, w.place.from); diff != "" {
		t.Errorf("listings began at (-want +got):\n%s", diff)
	}
	// What is gone is seen on every page.
	for i := range 1000 {
		if i%10 != 0 {
			w.place.remove(fmt.Sprintf("k%04d", i))
		}
	}
	w.pass(poll)
	w.round(w.session())
	if b := w.shown(); b.Pending != 100 || b.Skipped != 900 || b.Listed != 100 {
		t.Errorf("after deletions: %+v", b)
	}
}

// A folder that is not there for a while, or seems empty, does not arrive again.
func TestAwayForAWhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.place.put("a", "x")
	w.place.put("b", "x")
	w.settled(s)
	kept := maps.Clone(w.place.objects)
	clear(w.place.objects)
	w.settled(s)
	w.place.down = waybill.E(waybill.KindNotFound, "there is no folder /srv/inbox")
	w.pass(poll)
	if _, err := s.round(t.Context()); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Fatal(err)
	}
	if b := w.shown(); b.Status != "failing" || !strings.Contains(b.Error, "/srv/inbox") || b.ErrorAt.IsZero() {
		t.Errorf("%+v", b)
	}
	w.place.down = nil
	w.place.objects = kept
	w.place.put("c", "x")
	w.settled(s)
	if n := len(w.arrived()); n != 3 || w.shown().Status != "ok" {
		t.Errorf("%v, %+v", w.arrived(), w.shown())
	}
}

func TestWhatCannotBeTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.conf.Ignore = func(key string) bool { return strings.HasSuffix(key, ".part") }
	s.conf = w.conf
	w.place.put("fine", "x")
	w.place.put("half.part", "x")
	w.place.put("a//b", "x")
	w.place.put("bad\xff\x00name", "x")
	w.place.put("large", strings.Repeat("x", 1<<20+1))
	w.place.put("closed", "x")
	w.place.denied["closed"] = waybill.E(waybill.KindForbidden, "permission denied")
	link := cloud.Entry{Key: "link", Version: "l", Err: errors.New("it is a symbolic link")}
	w.place.objects["link"] = link
	w.settled(s)
	w.want("fine=x")
	for key, want := range map[string]string{
		"a//b": reasonName, "large": reasonTooLarge, "closed": reasonRead, "link": reasonRead, "half.part": "",
	} {
		if p := w.problem(key); p.Reason != want {
			t.Errorf("%s is told as %+v, want %q", key, p, want)
		}
	}
	if b := w.shown(); b.Failed != 1 || b.Skipped != 4 || b.Status != "ok" || b.Listed != 6 {
		t.Errorf("%+v", b)
	}
	// Looking again and again writes nothing more about them.
	head, err := w.store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.settled(s)
	if more, err := w.store.Tail(t.Context(), head, 10); err != nil || len(more) > 0 {
		t.Errorf("more records: %v, %v", more, err)
	}
	// What can be read later is read later.
	delete(w.place.denied, "closed")
	w.pass(5 * time.Minute)
	w.round(s)
	w.want("fine=x", "closed=x")
	if p := w.problem("closed"); p.Key != "" {
		t.Errorf("it is still told as %+v", p)
	}
}

// When our own queue is full nothing is taken, and nothing is lost.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	full := &fullObjects{Objects: w.objects, full: true}
	s.w.o.Objects = full
	w.place.put("a", "x")
	w.round(s)
	w.pass(w.conf.Settle)
	if wait := s.turn(t.Context()); wait != 5*time.Second {
		t.Errorf("it waits %v, want as long as it is told to", wait)
	}
	w.want()
	full.full = false
	w.round(s)
	w.want("a=x")
}

type fullObjects struct {
	Objects
	full bool
}

func (f *fullObjects) PutObject(ctx context.Context, o waybill.Object, r io.Reader, key string, by waybill.Principal) (waybill.Object, error) {
	if f.full {
		e := waybill.E(waybill.KindExhausted, "the queue is full")
		e.RetryAfter = 5 * time.Second
		return o, e
	}
	return f.Objects.PutObject(ctx, o, r, key, by)
}

func TestScanOnRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session()
	w.round(s)
	w.place.put("a", "x")
	b, err := s.w.ScanBucket(t.Context(), "inbox", waybill.Principal{Name: "somebody"})
	if err != nil || b.Asked != 1 || b.Answered != 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	w.round(s)
	if b := w.shown(); b.Answered != 1 || b.Pending != 1 {
		t.Errorf("%+v", b)
	}
	if _, err := s.w.ScanBucket(t.Context(), "outbox", waybill.Principal{}); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("scan of a bucket that is not watched: %v", err)
	}
	if b := w.shown(); b.URL != "memory://inbox" {
		t.Errorf("its URL is shown as %s", b.URL)
	}
}

// Each bucket has one message, however many servers look after it.
func TestEachBucketHasItsLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lanes := func() int {
		t.Helper()
		msgs, _, err := w.store.Peek(t.Context(), "", queue.TopicWatch, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(msgs)
	}
	for range 2 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 {
					if err := w.watcher(w.objects).Ensure(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := lanes(); n != 1 {
			t.Fatalf("%d messages, want 1", n)
		}
		if _, err := w.store.Purge(t.Context(), "", queue.TopicWatch); err != nil {
			t.Fatal(err)
		}
	}
}

// Two servers share the buckets; when one stops, the other goes on at once.
func TestAnotherServerGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.conf.Settle, w.conf.Poll = 0, time.Second
	start := func(node string) *queue.Worker {
		t.Helper()
		x := w.watcher(w.objects)
		x.o.Node = node
		if err := x.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		worker, err := queue.Start(t.Context(), x.Worker())
		if err != nil {
			t.Fatal(err)
		}
		return worker
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("not in time: %s; %+v", what, w.shown())
			}
			w.pass(100 * time.Millisecond) // time passes as quickly as it can
		}
	}
	first := start("first")
	w.place.put("a", "x")
	until("a is taken", func() bool { return len(w.arrived()) == 1 })
	second := start("second")
	defer second.Stop()
	if b := w.shown(); b.Node != "first" {
		t.Errorf("%s watches", b.Node)
	}
	first.Stop()
	w.place.put("b", "x")
	until("b is taken", func() bool { return len(w.arrived()) == 2 })
	if b := w.shown(); b.Node != "second" {
		t.Errorf("%s watches", b.Node)
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"s3://ID:SE/CRET@name?region=x": "s3://name?region=x", "file:///srv/in": "file:///srv/in", "gs://name": "gs://name",
		"${secret:URL}": "${secret:URL}", "azblob://a:${secret:KEY}@c": "azblob://c", "nonsense": "(not shown)",
	} {
		if got := Redact(text); got != want {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
	}
}
