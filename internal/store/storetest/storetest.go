// Package storetest is the conformance suite of package store: what every
// implementation promises, told as tests. It knows no dialect. Where the
// contract leaves a choice (the rank of a lane after its head was finished, how
// soon Tail shows an event), the suite accepts every allowed answer.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Options say how to make the stores under test.
type Options struct {
	// Open returns a fresh, empty store. A nil clock means the store's own. The
	// suite closes it; closing twice must be harmless.
	Open func(t *testing.T, schema store.Schema, clock func() time.Time) store.Store
	// Reopen opens the database of s again: after s was closed or, for shared
	// stores, beside it.
	Reopen func(t *testing.T, s store.Store, schema store.Schema, clock func() time.Time) store.Store
	// Shared says that several handles may be open on one database at once.
	Shared bool
}

// Run runs the whole suite.
func Run(t *testing.T, opts Options) {
	s := suite{opts}
	t.Run("leaks", s.leaks) // first and alone: it looks at all goroutines
	t.Run("commit", s.commit)
	t.Run("concurrent", s.concurrent)
	t.Run("lanes", s.lanes)
	t.Run("leases", s.leases)
	t.Run("topics", s.topics)
	t.Run("rows", s.rows)
	t.Run("query", s.query)
	t.Run("events", s.events)
	t.Run("reopen", s.reopen)
	t.Run("transfer", s.transfer)
	t.Run("model", s.model)
	if opts.Shared {
		t.Run("shared", s.shared)
	}
}

type suite struct{ opts Options }

// group runs tests in parallel, each on a store of its own with a clock that
// stands still unless it is advanced.
func (s suite) group(t *testing.T, tests map[string]func(*env)) {
	t.Parallel()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(s.env(t))
		})
	}
}

// env is one store under test and its clock.
type env struct {
	*testing.T
	store.Store
	suite suite
	clock *clock
}

func (s suite) env(t *testing.T) *env {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)}
	st := s.opts.Open(t, Schema(), c.Now)
	t.Cleanup(func() { closeStore(t, st) })
	return &env{t, st, s, c}
}

// reopen closes the store and opens its database again.
func (e *env) reopen(schema store.Schema) {
	e.Helper()
	closeStore(e.T, e.Store)
	st := e.suite.opts.Reopen(e.T, e.Store, schema, e.clock.Now)
	e.Cleanup(func() { closeStore(e.T, st) })
	e.Store = st
}

func closeStore(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// ctx is bounded, so that a store that hangs fails its test instead of the run.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(e.Context(), 30*time.Second)
	e.Cleanup(cancel)
	return ctx
}

func (e *env) commit(c store.Commit) {
	e.Helper()
	if err := e.Commit(e.ctx(), &c); err != nil {
		e.Fatalf("Commit: %v", err)
	}
}

func (e *env) refuse(want error, c store.Commit) {
	e.Helper()
	if err := e.Commit(e.ctx(), &c); !errors.Is(err, want) {
		e.Fatalf("Commit: got %v, want %v", err, want)
	}
}

func (e *env) send(topic, key string, bodies ...string) {
	e.Helper()
	var c store.Commit
	for _, b := range bodies {
		c.Sends = append(c.Sends, store.Send{Topic: topic, Key: key, Body: []byte(b)})
	}
	e.commit(c)
}

func (e *env) claim(r store.ClaimRequest) []*store.Msg {
	e.Helper()
	if r.Lease == 0 {
		r.Lease = time.Minute
	}
	if r.Lanes == 0 {
		r.Lanes = 1
	}
	if r.Owner == "" {
		r.Owner = "node"
	}
	got, err := e.Claim(e.ctx(), r)
	if err != nil {
		e.Fatalf("Claim: %v", err)
	}
	return got.Msgs
}

// one claims exactly one message.
func (e *env) one(topic string) *store.Msg {
	e.Helper()
	msgs := e.claim(store.ClaimRequest{Topic: topic})
	if len(msgs) != 1 {
		e.Fatalf("claim of %s: got %s, want one message", topic, bodies(msgs))
	}
	return msgs[0]
}

// none checks that nothing can be claimed.
func (e *env) none(topic string) {
	e.Helper()
	if msgs := e.claim(store.ClaimRequest{Topic: topic, Lanes: 100, PerLane: 100}); len(msgs) > 0 {
		e.Fatalf("claim of %s: got %s, want none", topic, bodies(msgs))
	}
}

func bodies(msgs []*store.Msg) string {
	var out []string
	for _, m := range msgs {
		out = append(out, string(m.Body))
	}
	return fmt.Sprint(out)
}

func (e *env) wantBodies(msgs []*store.Msg, want ...string) {
	e.Helper()
	if got := bodies(msgs); got != fmt.Sprint(want) {
		e.Fatalf("messages: got %s, want %v", got, want)
	}
}

func (e *env) wantRow(table, key string, rev int64, val string) {
	e.Helper()
	r, err := e.Get(e.ctx(), "", table, key)
	if err != nil {
		e.Fatalf("Get %s %q: %v", table, key, err)
	}
	if r.Key != key || r.Rev != rev || string(r.Val) != val || r.Tenant != store.DefaultTenant {
		e.Fatalf("Get %s: got %s %q rev %d %s, want %q rev %d %s", table, r.Tenant, r.Key, r.Rev, r.Val, key, rev, val)
	}
}

func (e *env) wantNoRow(table, key string) {
	e.Helper()
	if r, err := e.Get(e.ctx(), "", table, key); !errors.Is(err, store.ErrNotFound) {
		e.Fatalf("Get %s %q: got rev %d, %v, want ErrNotFound", table, key, r.Rev, err)
	}
}

func (e *env) wantKind(what string, err error, kind waybill.Kind) {
	e.Helper()
	if !waybill.IsKind(err, kind) {
		e.Fatalf("%s: got error %v, want kind %s", what, err, kind)
	}
}

func (e *env) topic(tenant, topic string) store.TopicStat {
	e.Helper()
	all, err := e.Topics(e.ctx(), tenant)
	if err != nil {
		e.Fatalf("Topics: %v", err)
	}
	var got store.TopicStat
	n := 0
	for _, s := range all {
		if s.Topic == topic {
			got = s
			n++
		}
	}
	if n > 1 {
		e.Fatalf("Topics: %s is there %d times", topic, n)
	}
	return got
}

func (e *env) counts(table string) map[string]int64 {
	e.Helper()
	got, err := e.Counts(e.ctx(), "", table)
	if err != nil {
		e.Fatalf("Counts: %v", err)
	}
	for k, v := range got {
		if v == 0 {
			delete(got, k)
		}
	}
	return got
}

// tail reads the log until it has n events. A store may hold events back while
// other transactions of its server run, so it waits a little.
func (e *env) tail(n int) []store.StoredEvent {
	e.Helper()
	var all []store.StoredEvent
	var at store.Cursor
	e.eventually(fmt.Sprintf("%d events in the log", n), func() bool {
		for {
			got, err := e.Tail(e.ctx(), at, 7)
			if err != nil {
				e.Fatalf("Tail: %v", err)
			}
			if len(got) == 0 {
				return len(all) >= n
			}
			all = append(all, got...)
			at = got[len(got)-1].Cursor
		}
	})
	return all
}

// eventually waits for what no injected clock can hasten: other goroutines of
// the store, or another process.
func (e *env) eventually(what string, cond func() bool) {
	e.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			e.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func (e *env) rings(bell <-chan struct{}, after string) {
	e.Helper()
	select {
	case <-bell:
	case <-time.After(10 * time.Second):
		e.Fatalf("the bell did not ring after %s", after)
	}
}

// parallel runs n calls at once and waits for them.
func parallel(n int, call func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { call(i) })
	}
	wg.Wait()
}

func (s suite) leaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	e := s.env(t)
	bell, cancel := e.Bell("t")
	watch, cancelWatch := e.Watch()
	e.send("t", "k", "a")
	e.rings(bell, "a send")
	e.commit(store.Commit{Done: e.one("t"), Events: []store.Event{{Subject: "s", Kind: "k", Data: []byte(`{}`)}}})
	e.rings(watch, "an event")
	cancel()
	cancelWatch()
	closeStore(t, e.Store)
	if err := e.Commit(e.ctx(), &store.Commit{Sends: []store.Send{{Topic: "t", Key: "k"}}}); err == nil {
		t.Error("a closed store accepted a commit")
	}
	goleak.VerifyNone(t, ignore)
}
