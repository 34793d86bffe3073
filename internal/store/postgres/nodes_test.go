package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/storetest"
)

func refused(t *testing.T, dsn string, kind waybill.Kind, words ...string) {
	t.Helper()
	s, err := postgres.Open(t.Context(), dsn, storetest.Schema(), postgres.Options{})
	if err == nil {
		s.Close()
	}
	if !waybill.IsKind(err, kind) {
		t.Fatalf("Open: got %v, want kind %s", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("Open: %q does not say %q", err, w)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	t.Run("a newer database", func(t *testing.T) {
		t.Parallel()
		dsn := pgtest.DSN(t)
		open(t, dsn, storetest.Schema(), postgres.Options{}).Close()
		pgtest.Exec(t, dsn, "UPDATE waybill SET version = 99")
		refused(t, dsn, waybill.KindConflict, "99")
	})
	t.Run("tables of somebody else", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{"lane", "t_item", "waybill"} {
			dsn := pgtest.DSN(t)
			pgtest.Exec(t, dsn, "CREATE TABLE "+name+" (n int)")
			refused(t, dsn, waybill.KindConflict, name)
		}
	})
	t.Run("a server that is not there", func(t *testing.T) {
		t.Parallel()
		ctx := t.Context()
		for _, dsn := range []string{"postgres://me:hunter2@127.0.0.1:1/db", "postgres://me:hunter2@127.0.0.1:port/db"} {
			_, err := postgres.Open(ctx, dsn, storetest.Schema(), postgres.Options{})
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), "hunter2") {
				t.Errorf("Open: %v", err)
			}
		}
		refused(t, "postgres://me:hunter2@127.0.0.1:1/db", waybill.KindUnavailable, "127.0.0.1:1")
	})
}

func TestInfoHasNoCredentials(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.DSN(t), storetest.Schema(), postgres.Options{})
	if i := s.Info(); i.Engine != "postgres" || strings.Contains(i.Where, "waybill@") || !strings.Contains(i.Where, "database") {
		t.Errorf("Info: %+v", i)
	}
}

// A database that is restored into a new server has events of transactions that
// this server has never seen.
func TestEventsOutliveAMoveToAnotherServer(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	add := func(s store.Store, data string) {
		if err := s.Commit(t.Context(), &store.Commit{Events: []store.Event{{Subject: "s", Kind: "k", Data: []byte(data)}}}); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dsn, nil, postgres.Options{})
	add(s, "1")
	s.Close()
	pgtest.Exec(t, dsn, "UPDATE event SET pos = pos + 1000000000")
	s = open(t, dsn, nil, postgres.Options{})
	add(s, "2")
	waitFor(t, "both events", func() bool {
		got, err := s.Tail(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(got) == 2 && string(got[0].Data) == "1" && string(got[1].Data) == "2"
	})
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond) // other processes
	}
}

// cut ends all connections of the test's stores at the server.
func cut(t *testing.T, dsn string) {
	t.Helper()
	pgtest.Exec(t, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()`)
}

// TestNodes has several stores work one queue, each message moving a row on and
// sending its successor, while all connections are cut again and again and one
// store is abandoned with a lease. What is acknowledged stands, what is unknown
// is repeated, and nothing happens twice.
func TestNodes(t *testing.T) {
	t.Parallel()
	const nodes, workers, keys, steps, cuts = 3, 8, 12, 15, 10
	dsn := pgtest.DSN(t)
	var stores []*postgres.Store
	for i := range nodes {
		opts := postgres.Options{}
		if i == 1 { // groups with a border everywhere, and no notifications
			opts = postgres.Options{Committers: 2, Group: 3, NoListen: true}
		}
		stores = append(stores, open(t, dsn, storetest.Schema(), opts))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var c store.Commit
	for k := range keys {
		c.Sends = append(c.Sends, store.Send{Topic: "t", Key: fmt.Sprint(k), Body: []byte("0")})
	}
	if err := stores[0].Commit(ctx, &c); err != nil {
		t.Fatal(err)
	}
	abandoned, err := stores[2].Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "gone", Lanes: 1, Lease: time.Second})
	if err != nil || len(abandoned.Msgs) != 1 {
		t.Fatalf("claim: %v, %v", abandoned.Msgs, err)
	}
	work, stop := context.WithCancel(ctx)
	var unknown atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		s := stores[w%2]
		wg.Go(func() {
			for work.Err() == nil {
				got, err := s.Claim(work, store.ClaimRequest{Topic: "t", Owner: fmt.Sprint(w), Lanes: 2, Lease: time.Second})
				if err != nil {
					continue // cut
				}
				for _, m := range got.Msgs {
					n, err := strconv.Atoi(string(m.Body))
					if err != nil {
						t.Error(err)
					}
					c := store.Commit{
						Done:   m,
						Puts:   []store.Put{{Table: "note", Key: m.Key, Rev: int64(n), Val: fmt.Append(nil, n+1)}},
						Events: []store.Event{{Subject: m.Key, Kind: "step", Data: fmt.Append(nil, n)}},
					}
					if n+1 < steps {
						c.Sends = []store.Send{{Topic: "t", Key: m.Key, Body: fmt.Append(nil, n+1)}}
					}
					err = s.Commit(work, &c)
					for waybill.IsKind(err, waybill.KindUnavailable) {
						unknown.Add(1)
						err = s.Commit(work, &c)
					}
					// What was written although its outcome was unknown is refused when repeated.
					if err != nil && !errors.Is(err, store.ErrLeaseLost) && work.Err() == nil {
						t.Errorf("step %d of key %s: %v", n, m.Key, err)
					}
				}
			}
		})
	}
	for range cuts {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // for some work between the cuts
		}
		cut(t, dsn)
	}
	var rows []store.Row
	waitFor(t, "all steps", func() bool {
		if rows, err = stores[0].Scan(ctx, "", "note", "", 0); err != nil || len(rows) < keys {
			return false
		}
		for _, r := range rows {
			if r.Rev < steps {
				return false
			}
		}
		return true
	})
	stop()
	wg.Wait()
	for _, r := range rows {
		if r.Rev != steps || string(r.Val) != fmt.Sprint(steps) {
			t.Errorf("key %s: rev %d, value %s, want %d", r.Key, r.Rev, r.Val, steps)
		}
		ev, err := stores[0].Events(ctx, "", r.Key, "", 1000)
		if err != nil || len(ev) != steps {
			t.Errorf("key %s: %d events, %v, want %d", r.Key, len(ev), err, steps)
		}
		for i := range ev {
			if string(ev[i].Data) != fmt.Sprint(i) {
				t.Errorf("key %s: event %s in place %d", r.Key, ev[i].Data, i)
			}
		}
	}
	if n, err := stores[0].Depth(ctx, "t"); n != 0 || err != nil {
		t.Errorf("depth %d, %v, want 0", n, err)
	}
	if err := stores[2].Commit(ctx, &store.Commit{Done: abandoned.Msgs[0]}); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("the abandoned store finished its message: %v", err)
	}
	t.Logf("%d commits had an unknown outcome", unknown.Load())
}

// TestCutKeepsWhatWasAcknowledged commits rows from many callers while the
// connections are cut, repeating what is unknown under the same id.
func TestCutKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 40
	dsn := pgtest.DSN(t)
	s := open(t, dsn, storetest.Schema(), postgres.Options{})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				c := store.Commit{ID: fmt.Sprint(i, "/", j),
					Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint(i), Body: fmt.Append(nil, j)}},
					Events: []store.Event{{Subject: "s", Kind: "k"}}}
				err := s.Commit(t.Context(), &c)
				for waybill.IsKind(err, waybill.KindUnavailable) {
					err = s.Commit(t.Context(), &c)
				}
				if err != nil {
					t.Errorf("commit: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for working := true; working; {
		cut(t, dsn)
		select {
		case <-done:
			working = false
		case <-time.After(20 * time.Millisecond): // for some work between the cuts
		}
	}
	var msgs []*store.Msg
	waitFor(t, "a claim", func() bool {
		got, err := s.Claim(t.Context(), store.ClaimRequest{Topic: "t", Owner: "o", Lanes: callers, PerLane: 2 * each, Lease: time.Minute})
		msgs = got.Msgs
		return err == nil
	})
	if len(msgs) != callers*each {
		t.Fatalf("%d messages, want %d", len(msgs), callers*each)
	}
	for i, m := range msgs {
		if string(m.Body) != fmt.Sprint(i%each) {
			t.Errorf("lane %s: message %s in place %d", m.Key, m.Body, i%each)
		}
	}
	if ev, err := s.Events(t.Context(), "", "s", "", 10000); err != nil || len(ev) != callers*each {
		t.Errorf("%d events, %v, want %d", len(ev), err, callers*each)
	}
}

// TestHotKeys moves messages between few lanes through three stores, and asks the
// server whether any of it ever had to break a deadlock.
func TestHotKeys(t *testing.T) {
	t.Parallel()
	const keys, callers, each = 5, 24, 40
	dsn := pgtest.DSN(t)
	var stores []*postgres.Store
	for range 3 {
		stores = append(stores, open(t, dsn, storetest.Schema(), postgres.Options{}))
	}
	var wg sync.WaitGroup
	for w := range callers {
		s := stores[w%3]
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for range each {
				c := store.Commit{}
				for _, k := range rng.Perm(keys)[:3] {
					c.Puts = append(c.Puts, store.Put{Table: "item", Key: fmt.Sprint(k), Rev: store.AnyRev, Val: []byte(`{"grp":"g"}`)})
					c.Sends = append(c.Sends, store.Send{Topic: "t", Key: fmt.Sprint(rng.IntN(keys))})
				}
				got, err := s.Claim(t.Context(), store.ClaimRequest{Topic: "t", Owner: "o", Lanes: 1, Lease: time.Hour})
				if err != nil {
					t.Errorf("claim: %v", err)
				}
				if len(got.Msgs) > 0 {
					c.Done = got.Msgs[0]
				}
				if err := s.Commit(t.Context(), &c); err != nil {
					t.Errorf("commit: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		if err := s.Close(); err != nil { // backends tell their numbers when they end
			t.Error(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d deadlocks, %v, want none", n, err)
	}
}

func TestClockFollowsTheDatabase(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.DSN(t), nil, postgres.Options{})
	if d := time.Since(s.Now()).Abs(); d > time.Second {
		t.Errorf("Now is %s away from this machine's clock, which the server shares", d)
	}
	for last := s.Now(); ; {
		now := s.Now()
		if now.Before(last) {
			t.Fatalf("the clock went back from %s to %s", last, now)
		}
		if now.Sub(last) > 0 {
			return
		}
	}
}
