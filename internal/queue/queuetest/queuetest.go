// Package queuetest checks the workers and the admin of package queue on a real
// store, as their users see them.
//
// Almost every test runs in a bubble of testing/synctest: time is that of the
// bubble, so leases of a minute end at once, and "nothing happens until" can be
// told exactly.
package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Open returns a fresh, empty store of that schema which measures time with clock
// (nil: its own) and is closed when the test ends. It is called inside a bubble
// when there is a clock: the store must not wait on the network while it is idle.
type Open func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store

// Run runs the whole suite. Tests run in parallel.
func Run(t *testing.T, open Open) {
	s := suite{open}
	t.Run("outcomes", s.outcomes)
	t.Run("workers", s.workers)
	t.Run("faults", s.faults)
	t.Run("admin", s.admin)
	t.Run("dump", s.dump)
	t.Run("model", s.model)
	t.Run("scale", s.scale)
}

type suite struct{ open Open }

// group runs tests in parallel, each in a bubble and on a store of its own.
func (s suite) group(t *testing.T, tests map[string]func(*env)) {
	t.Parallel()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.bubble(t, test)
		})
	}
}

func (s suite) bubble(t *testing.T, test func(*env)) {
	synctest.Test(t, func(t *testing.T) {
		test(&env{T: t, Store: s.open(t, Schema(), time.Now)})
	})
}

// Schema is what the suite opens stores with.
func Schema() store.Schema {
	return append(store.Schema{
		{Name: "effect"}, // key: body of a message; what its handler did
		{Name: "line"},   // key: key of a lane; the bodies that were worked on, in order
	}, queue.Tables()...)
}

// The suite's topic, lease and a span within which nothing but a bell wakes a worker.
const (
	topic = "job"
	lease = 15 * time.Second
	poll  = 5 * time.Second
)

type env struct {
	*testing.T
	store.Store
}

// ctx is bounded, so that a store that hangs fails its test.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	e.Cleanup(cancel)
	return ctx
}

func (e *env) commit(c store.Commit) {
	e.Helper()
	if err := e.Commit(e.ctx(), &c); err != nil {
		e.Fatalf("Commit: %v", err)
	}
}

func (e *env) send(key string, bodies ...string) {
	e.Helper()
	var c store.Commit
	for _, b := range bodies {
		c.Sends = append(c.Sends, store.Send{Topic: topic, Key: key, Body: []byte(b)})
	}
	e.commit(c)
}

// options are those of a worker with everything set that tests rely on.
func (e *env) options(owner string, h queue.Handler) queue.Options {
	return queue.Options{Store: e.Store, Topic: topic, Owner: owner, Handler: h, Lease: lease, Poll: poll}
}

func (e *env) start(o queue.Options) *queue.Worker {
	e.Helper()
	w, err := queue.Start(e.ctx(), o)
	if err != nil {
		e.Fatalf("Start: %v", err)
	}
	e.Cleanup(w.Stop)
	return w
}

// settle waits until nothing can happen any more at this instant.
func (e *env) settle() { synctest.Wait() }

// pass lets time go by and then settles.
func (e *env) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// drained waits until the topic is empty.
func (e *env) drained() {
	e.Helper()
	for range 2000 {
		synctest.Wait()
		if e.stat().Depth == 0 {
			return
		}
		time.Sleep(time.Second)
	}
	msgs, _, err := e.Peek(e.ctx(), "", topic, "", 3)
	e.Fatalf("the topic was not worked off: %+v, %v", msgs, err)
}

func (e *env) stat() store.TopicStat {
	e.Helper()
	all, err := e.Topics(e.ctx(), "")
	if err != nil {
		e.Fatalf("Topics: %v", err)
	}
	for _, s := range all {
		if s.Topic == topic {
			return s
		}
	}
	return store.TopicStat{}
}

// effect is the put of a handler that must count once.
func effect(m *store.Msg) store.Put {
	return store.Put{Table: "effect", Key: string(m.Body), Val: []byte(`true`)}
}

func done(m *store.Msg) (*store.Commit, error) {
	return &store.Commit{Puts: []store.Put{effect(m)}}, nil
}

// wantEffects checks that exactly these messages have had their effect, once.
func (e *env) wantEffects(want ...string) {
	e.Helper()
	rows, err := e.Scan(e.ctx(), "", "effect", "", 0)
	if err != nil {
		e.Fatalf("Scan: %v", err)
	}
	got := map[string]bool{}
	for _, r := range rows {
		got[r.Key] = true
		if r.Rev != 1 {
			e.Errorf("the effect of %s was written %d times", r.Key, r.Rev)
		}
	}
	for _, w := range want {
		if !got[w] {
			e.Errorf("message %s had no effect", w)
		}
		delete(got, w)
	}
	for k := range got {
		e.Errorf("message %s had an effect", k)
	}
}

func (e *env) letters() []store.DeadLetter {
	e.Helper()
	rows, err := e.Scan(e.ctx(), "", store.DeadTable, "", 0)
	if err != nil {
		e.Fatalf("Scan: %v", err)
	}
	out := make([]store.DeadLetter, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r.Val, &out[i]); err != nil {
			e.Fatalf("dead letter %s: %v", r.Val, err)
		}
	}
	return out
}

// wantLetter checks that there is one dead letter, of that message and for a
// reason that contains why.
func (e *env) wantLetter(body, why string) store.DeadLetter {
	e.Helper()
	got := e.letters()
	if len(got) != 1 || string(got[0].Body) != body || !strings.Contains(got[0].Reason, why) {
		e.Fatalf("dead letters: got %s, want one of %s because of %q", show(got), body, why)
	}
	return got[0]
}

func show(letters []store.DeadLetter) string {
	var b strings.Builder
	for _, l := range letters {
		fmt.Fprintf(&b, "[%s: %s]", l.Body, l.Reason)
	}
	return b.String()
}

// line adds a message to the row of its lane, which shows in what order the lane
// was worked on.
func (e *env) line(ctx context.Context, m *store.Msg) (store.Put, error) {
	bodies, rev, err := e.readLine(ctx, m.Key)
	if err != nil {
		return store.Put{}, err
	}
	val, err := json.Marshal(append(bodies, string(m.Body)))
	return store.Put{Table: "line", Key: m.Key, Rev: rev, Val: val}, err
}

func (e *env) readLine(ctx context.Context, key string) (bodies []string, rev int64, err error) {
	r, err := e.Get(ctx, "", "line", key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return bodies, r.Rev, errors.Join(json.Unmarshal(r.Val, &bodies))
}

// log is a list that handlers add to.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, " ")
}

func (e *env) want(what, got, want string) {
	e.Helper()
	if got != want {
		e.Fatalf("%s: got %q, want %q", what, got, want)
	}
}
