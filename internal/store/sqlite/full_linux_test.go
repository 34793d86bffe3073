package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := mounted(t, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
	path := filepath.Join(dir, "store.db")
	s := mustOpen(t, path, sqlite.Options{})
	acked := map[int]int{}
	var mu sync.Mutex
	var refused atomic.Int64
	// commit writes from all callers until each is refused, or n times.
	commit := func(n int) {
		var wg sync.WaitGroup
		for caller := range 8 {
			wg.Go(func() {
				for range n {
					mu.Lock()
					i := acked[caller]
					mu.Unlock()
					err := s.Commit(t.Context(), step(caller, i))
					if err != nil {
						var w *waybill.Error
						if !errors.As(err, &w) || w.Kind != waybill.KindUnavailable || !strings.Contains(w.Error(), "the disk is full") || w.RetryAfter == 0 {
							t.Errorf("commit: %v", err)
						}
						refused.Add(1)
						return
					}
					mu.Lock()
					acked[caller] = i + 1
					mu.Unlock()
				}
			})
		}
		wg.Wait()
	}
	same := func(when string) {
		t.Helper()
		rows, err := s.Scan(t.Context(), "", "thing", "", 0)
		want := 0
		for _, n := range acked {
			want += n
		}
		if err != nil || len(rows) != want {
			t.Errorf("%s: %d rows of %d: %v", when, len(rows), want, err)
		}
	}
	commit(10)
	if refused.Load() > 0 {
		t.Fatal("the disk is too small for this test")
	}
	for round := range 3 {
		ballast := fillDisk(t, dir)
		refused.Store(0)
		commit(100000)
		if refused.Load() != 8 {
			t.Fatalf("%d of 8 callers were refused", refused.Load())
		}
		within(t, "reading while the disk is full", 10*time.Second, func() error {
			_, err := s.Get(t.Context(), "", "thing", key(0, 0))
			return err
		})
		same("while the disk is full")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		refused.Store(0)
		commit(5)
		if refused.Load() > 0 {
			t.Errorf("round %d: refused though there is space again", round)
		}
		same("after space came back")
	}
	mustClose(t, s) // and the log with it
	for _, bad := range missing(t, mustOpen(t, path, sqlite.Options{}), acked) {
		t.Error(bad)
	}
}

// A store that is closed on a full disk opens again and has everything, then and
// when there is space.
func TestClosedOnFullDisk(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		dir := mounted(t, "-t", "tmpfs", "-o", "size=8m", "tmpfs")
		path := filepath.Join(dir, "store.db")
		s := mustOpen(t, path, sqlite.Options{})
		fill(t, s, 1+rnd.IntN(400))
		ballast := fillDisk(t, dir)
		n := 0
		for ; n < 100000; n++ {
			if err := s.Commit(t.Context(), step(0, n)); err != nil {
				break
			}
		}
		if err := s.Close(); err != nil {
			t.Logf("close: %v", err) // it may say so, and must do no harm
		}
		if s, err := open(t, path, sqlite.Options{MustExist: true}); err == nil {
			for _, bad := range missing(t, s, map[int]int{}) {
				if !strings.Contains(bad, "rows") && !strings.Contains(bad, "comes") {
					t.Error(bad)
				}
			}
			s.Close()
		} else if !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("seed %d: open on the full disk: %v", seed, err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, path, sqlite.Options{MustExist: true})
		if rows, err := s.Scan(t.Context(), "", "thing", "000-", 0); err != nil || len(rows) != n {
			t.Errorf("seed %d: %d rows of %d: %v", seed, len(rows), n, err)
		}
		mustClose(t, s)
	}
}

// One commit that does not fit does not harm those that share its transaction.
func TestHugeCommit(t *testing.T) {
	t.Parallel()
	dir := mounted(t, "-t", "tmpfs", "-o", "size=3m", "tmpfs")
	s := mustOpen(t, filepath.Join(dir, "store.db"), sqlite.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	huge := make([]store.Put, 24)
	for i := range huge {
		huge[i] = store.Put{Table: "thing", Key: fmt.Sprint("huge-", i), Rev: store.AnyRev, Val: text(t, strings.Repeat("x", 200<<10))}
	}
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			for i := range 10 {
				if err := s.Commit(ctx, step(caller, i)); err != nil {
					t.Errorf("small commit: %v", err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			err := s.Commit(ctx, &store.Commit{Puts: huge})
			if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "the disk is full") {
				t.Errorf("huge commit: %v", err)
			}
		})
	}
	wg.Wait()
	rows, err := s.Scan(ctx, "", "thing", "", 0)
	if err != nil || len(rows) != 160 {
		t.Errorf("%d rows of 160: %v", len(rows), err)
	}
}
