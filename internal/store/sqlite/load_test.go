package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// The log stays small under a steady load, however many readers come and go.
func TestLogStaysSmall(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	fill(t, s, 1000)
	commits := 8000
	if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
		commits = 60000
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				if rows, err := s.Scan(ctx, "", "thing", "0", 300); err == nil && len(rows) == 0 {
					t.Error("nothing to read")
				}
			}
		})
	}
	var largest int64
	readers.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			if st, err := os.Stat(path + "-wal"); err == nil {
				largest = max(largest, st.Size())
			}
		}
	})
	for caller := range 64 {
		writers.Go(func() {
			for i := range commits / 64 {
				if err := s.Commit(ctx, &store.Commit{
					Puts: []store.Put{{Table: "thing", Key: fmt.Sprintf("w%d-%d", caller, i%500), Rev: store.AnyRev, Val: []byte(`{"n":1}`)}},
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	t.Logf("largest log: %d MB", largest>>20)
	if largest > 100<<20 {
		t.Errorf("the log grew to %d bytes", largest)
	}
}

// A reader that takes its time does not keep others from writing.
func TestLongReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	fill(t, s, 100)
	done := holdSnapshot(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 500 {
		if err := s.Commit(ctx, step(0, i)); err != nil {
			t.Fatalf("commit %d while somebody reads: %v", i, err)
		}
	}
	if n := done(); n != 100 {
		t.Errorf("the reader saw %d rows of 100", n)
	}
	mustClose(t, s)
	if rows, err := mustOpen(t, path, sqlite.Options{}).Scan(ctx, "", "thing", "", 0); err != nil || len(rows) != 600 {
		t.Errorf("%d rows of 600: %v", len(rows), err)
	}
}
