package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// A snapshot of a store that is written all the time is the store as of one
// moment: all that was acknowledged before it began, and nothing by half.
func TestSnapshotUnderLoad(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	s := mustOpen(t, filepath.Join(dir, "store.db"), sqlite.Options{})
	ctx := t.Context()
	body := []byte(strings.Repeat("x", 2000))
	var mu sync.Mutex
	var waits []time.Duration
	acked := 0
	one := func(i int) {
		began := time.Now()
		err := s.Commit(ctx, &store.Commit{
			Puts:   []store.Put{{Table: "thing", Key: fmt.Sprint(i), Val: fmt.Appendf(nil, `{"n":%d}`, i)}},
			Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint(i), Body: body}},
			Events: []store.Event{{Subject: "s", Kind: "k", Data: body}},
		})
		if err != nil {
			if ctx.Err() == nil {
				t.Error(err)
			}
			return
		}
		mu.Lock()
		acked++
		waits = append(waits, time.Since(began))
		mu.Unlock()
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 80 {
				one(w*1000000 + i)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	quiet := slices.Clone(waits)
	waits = nil
	mu.Unlock()
	stop := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 { // so that the store does not grow faster than it is copied
				select {
				case <-stop:
					return
				default:
					one(100000000 + w*1000000 + i)
				}
			}
		})
	}
	for n := range 2 {
		mu.Lock()
		before := acked
		mu.Unlock()
		path := filepath.Join(dir, fmt.Sprint("copy", n))
		stat, err := s.Snapshot(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("snapshot of %d bytes in %d steps, longest pause %v", stat.Bytes, stat.Steps, stat.Longest)
		if left, err := filepath.Glob(path + "-*"); err != nil || len(left) > 0 {
			t.Errorf("left beside the copy: %v", left)
		}
		if got := pragma(t, path, "integrity_check"); got != "ok" {
			t.Fatal(got)
		}
		c := mustOpen(t, path, sqlite.Options{MustExist: true})
		d, err := store.DigestOf(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if n := d.Counts["thing"]; n < int64(before) || d.Counts[".lanes"] != n || d.Counts[".events"] != n {
			t.Errorf("the copy holds %v, and %d commits were acknowledged before", d.Counts, before)
		}
		if depth, err := c.Depth(ctx, "t"); err != nil || depth != d.Counts["thing"] {
			t.Errorf("depth %d, %v", depth, err)
		}
		mustClose(t, c)
	}
	close(stop)
	wg.Wait()
	p99 := func(d []time.Duration) time.Duration {
		slices.Sort(d)
		return d[len(d)*99/100]
	}
	t.Logf("p99 of a commit: %v with 16 callers before, %v with 4 callers during snapshots (%d commits)", p99(quiet), p99(waits), len(waits))
	if len(waits) == 0 {
		t.Error("nothing was written while snapshots were made")
	}
}

func TestSnapshotRefused(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	s := mustOpen(t, filepath.Join(dir, "store.db"), sqlite.Options{})
	putThings(t, s, 2000)
	there := filepath.Join(dir, "there")
	write(t, there, []byte("precious"))
	if _, err := s.Snapshot(t.Context(), there); !waybill.IsKind(err, waybill.KindConflict) || string(read(t, there)) != "precious" {
		t.Errorf("over a file that exists: %v", err)
	}
	if _, err := s.Snapshot(t.Context(), filepath.Join(dir, "nowhere", "x")); err == nil {
		t.Error("a snapshot into a folder that does not exist")
	}
	// One that is given up leaves nothing, and the store goes on.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Snapshot(ctx, filepath.Join(dir, "late")); !errors.Is(err, context.Canceled) {
		t.Errorf("one given up: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it left a file: %v", err)
	}
	putThings(t, s, 1)
	// Closing the store in the middle ends it.
	ended := make(chan error, 1)
	go func() {
		_, err := s.Snapshot(t.Context(), filepath.Join(dir, "closed"))
		ended <- err
	}()
	mustClose(t, s)
	<-ended // with or without an error, as they met
	mustClose(t, mustOpen(t, filepath.Join(dir, "store.db"), sqlite.Options{MustExist: true}))
}

func putThings(t *testing.T, s *sqlite.Store, n int) {
	t.Helper()
	c := &store.Commit{}
	for i := range n {
		c.Puts = append(c.Puts, store.Put{Table: "thing", Key: fmt.Sprint(i), Rev: store.AnyRev, Val: fmt.Appendf(nil, `{"n":%d}`, i)})
	}
	if err := s.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// A migration keeps a copy of the store as it was, which the version before opens;
// that version refuses the migrated file.
func TestMigrationKeepsACopy(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	path := filepath.Join(dir, "store.db")
	now := sqlite.Options{}
	s := mustOpen(t, path, now)
	version := s.Info().Schema
	putThings(t, s, 50)
	mustClose(t, s)
	later := now.WithMigrations("CREATE TABLE later (x)")
	s = mustOpen(t, path, later)
	if got := s.Info().Schema; got != version+1 {
		t.Errorf("schema %d, want %d", got, version+1)
	}
	putThings(t, s, 60)
	mustClose(t, s)
	_, err := sqlite.Open(t.Context(), path, thing, now)
	if !waybill.IsKind(err, waybill.KindConflict) || !strings.Contains(err.Error(), "schema") {
		t.Fatalf("the earlier version opens the migrated store: %v", err)
	}
	kept := fmt.Sprintf("%s.schema-%d", path, version)
	s = mustOpen(t, kept, now)
	rows, err := s.Scan(t.Context(), "", "thing", "", 0)
	if err != nil || len(rows) != 50 {
		t.Errorf("the copy holds %d rows, %v; want 50", len(rows), err)
	}
	mustClose(t, s)
	// Once migrated, nothing is copied any more.
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, path, later))
	if _, err := os.Stat(kept); !errors.Is(err, os.ErrNotExist) {
		t.Error("a start without a migration made a copy")
	}
	// A migration that fails leaves the store to the version before.
	other := filepath.Join(dir, "other.db")
	s = mustOpen(t, other, now)
	putThings(t, s, 5)
	mustClose(t, s)
	if _, err := sqlite.Open(t.Context(), other, thing, now.WithMigrations("CREATE TABLE a (x)", "NONSENSE")); err == nil {
		t.Error("a broken migration went through")
	}
	mustClose(t, mustOpen(t, other, now))
}

func TestExamine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	putThings(t, s, 3000)
	for _, deep := range []bool{false, true} {
		for _, f := range s.Examine(t.Context(), deep) {
			if f.Status != store.OK {
				t.Errorf("%+v", f)
			}
		}
	}
	mustClose(t, s)
}
