package feed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var schema = append(feed.Tables(), store.Table{Name: "sum", Version: 1})

func open(t *testing.T) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func tell(t *testing.T, s store.Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := s.Commit(t.Context(), &store.Commit{Events: []store.Event{{Subject: "x", Kind: "k", Data: []byte(strconv.Itoa(i)), At: time.Now()}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// sum adds up what it is told in a row, so that an event that counted twice, or
// not at all, shows.
func sum(s store.Store) func(context.Context, feed.Batch) (feed.Effect, error) {
	return func(ctx context.Context, b feed.Batch) (feed.Effect, error) {
		total, rev := 0, int64(0)
		row, err := s.Get(ctx, "", "sum", "all")
		if err == nil {
			rev = row.Rev
			err = json.Unmarshal(row.Val, &total)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return feed.Effect{}, err
		}
		for _, e := range b.Events {
			n, err := strconv.Atoi(string(e.Data))
			if err != nil {
				return feed.Effect{}, err
			}
			total += n
		}
		return feed.Effect{Puts: []store.Put{{Table: "sum", Key: "all", Rev: rev, Val: []byte(strconv.Itoa(total))}}}, nil
	}
}

func total(t *testing.T, s store.Store) int {
	row, err := s.Get(t.Context(), "", "sum", "all")
	if errors.Is(err, store.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(row.Val))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const quick = 5 * time.Millisecond

// Every event counts once although several read, fail, stop and take over from
// each other in the middle.
func TestEachEventCountsOnce(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		eachEventCountsOnce(t, open(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s, err := postgres.Open(t.Context(), pgtest.DSN(t), schema, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		eachEventCountsOnce(t, s)
	})
}

func eachEventCountsOnce(t *testing.T, s store.Store) {
	tell(t, s, 0, 50)
	const most = 400
	go func() {
		for i := 50; i < most; i++ {
			if err := s.Commit(context.WithoutCancel(t.Context()), &store.Commit{Events: []store.Event{{Subject: "x", Kind: "k", Data: []byte(strconv.Itoa(i)), At: time.Now()}}}); err != nil {
				t.Error(err)
			}
		}
	}()
	var mu sync.Mutex
	calls := 0
	for round := range 8 {
		var feeds []*feed.Feed
		for node := range 3 {
			handle := sum(s)
			feeds = append(feeds, feed.Start(t.Context(), feed.Options{
				Store: s, Name: "sum", Owner: fmt.Sprintf("n%d-%d", round, node), Pace: quick, Takeover: 10 * time.Millisecond, Batch: 7, Past: true,
				Handle: func(ctx context.Context, b feed.Batch) (feed.Effect, error) {
					mu.Lock()
					calls++
					bad := calls%5 == 0
					mu.Unlock()
					if bad {
						return feed.Effect{}, errors.New("made up")
					}
					return handle(ctx, b)
				},
			}))
		}
		before := total(t, s)
		eventually(t, "the feed moves", func() bool { return total(t, s) > before || total(t, s) == most*(most-1)/2 })
		for _, f := range feeds {
			f.Stop()
		}
	}
	last := feed.Start(t.Context(), feed.Options{Store: s, Name: "sum", Owner: "last", Pace: quick, Takeover: 10 * time.Millisecond, Past: true, Handle: sum(s)})
	defer last.Stop()
	eventually(t, "everything is counted", func() bool { return total(t, s) == most*(most-1)/2 })
}

// A feed without a place begins now, unless it asks for the past.
func TestBegin(t *testing.T) {
	t.Parallel()
	s := open(t)
	tell(t, s, 1, 4)
	seen := make(chan string, 100)
	f := feed.Start(t.Context(), feed.Options{Store: s, Name: "new", Owner: "n", Pace: quick, Handle: func(_ context.Context, b feed.Batch) (feed.Effect, error) {
		for _, e := range b.Events {
			seen <- string(e.Data)
		}
		return feed.Effect{}, nil
	}})
	defer f.Stop()
	eventually(t, "the place is known", func() bool { _, err := s.Get(t.Context(), "", "feed", "new"); return err == nil })
	tell(t, s, 4, 5)
	if got := <-seen; got != "4" {
		t.Errorf("the first event is %s, want 4: those before were told before anybody listened", got)
	}
}

// What nobody cares for is skipped and not told later.
func TestIdle(t *testing.T) {
	t.Parallel()
	s := open(t)
	var mu sync.Mutex
	idle, looks := true, 0
	seen := make(chan string, 100)
	f := feed.Start(t.Context(), feed.Options{
		Store: s, Name: "idle", Owner: "n", Pace: quick,
		Idle: func(context.Context) bool {
			mu.Lock()
			defer mu.Unlock()
			looks++
			return idle
		},
		Handle: func(_ context.Context, b feed.Batch) (feed.Effect, error) {
			for _, e := range b.Events {
				seen <- string(e.Data)
			}
			return feed.Effect{}, nil
		},
	})
	defer f.Stop()
	looked := func() int { mu.Lock(); defer mu.Unlock(); return looks }
	eventually(t, "it looks", func() bool { return looked() > 0 })
	tell(t, s, 1, 4)
	n := looked()
	eventually(t, "it looks again", func() bool { return looked() > n+1 })
	mu.Lock()
	idle = false
	mu.Unlock()
	tell(t, s, 4, 5)
	if got := <-seen; got != "4" {
		t.Errorf("told of %s, which happened while nobody cared", got)
	}
}

// State travels with the place, from one server to the next.
func TestState(t *testing.T) {
	t.Parallel()
	s := open(t)
	count := func(_ context.Context, b feed.Batch) (feed.Effect, error) {
		n := 0
		if b.State != nil {
			if err := json.Unmarshal(b.State, &n); err != nil {
				return feed.Effect{}, err
			}
		}
		return feed.Effect{State: []byte(strconv.Itoa(n + len(b.Events)))}, nil
	}
	state := func() string {
		row, err := s.Get(t.Context(), "", "feed", "count")
		if err != nil {
			return ""
		}
		var p struct{ State json.RawMessage }
		if err := json.Unmarshal(row.Val, &p); err != nil {
			t.Fatal(err)
		}
		return string(p.State)
	}
	for i := range 3 {
		tell(t, s, 0, 10)
		f := feed.Start(t.Context(), feed.Options{Store: s, Name: "count", Owner: fmt.Sprint(i), Pace: quick, Takeover: time.Millisecond, Past: true, Handle: count})
		eventually(t, "ten more are counted", func() bool { return state() == strconv.Itoa(10*(i+1)) })
		f.Stop()
	}
}
