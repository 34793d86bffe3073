package sqlite_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestWriterIsKilled(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			path := filepath.Join(scratch(t), "store.db")
			for round := range 3 {
				if round > 0 {
					path = filepath.Join(scratch(t), "store.db")
				}
				w := startWriting(t, path, 16, "FULL")
				w.await(t, 1+rnd.IntN(1500))
				w.kill()
				s := mustOpen(t, path, sqlite.Options{MustExist: true})
				for _, bad := range missing(t, s, w.told()) {
					t.Error(bad)
				}
				mustClose(t, s)
			}
		})
	}
}

// What was committed and told to nobody, not even to those who wait for messages,
// is delivered all the same.
func TestCommittedAndNotTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(scratch(t), "store.db")
	w := startWriting(t, path, 0, "FULL")
	<-w.end
	if err := w.cmd.Wait(); err == nil || !w.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("the process ended with %v", err)
	}
	s := mustOpen(t, path, sqlite.Options{MustExist: true})
	got, err := s.Claim(t.Context(), store.ClaimRequest{Topic: "t", Owner: "n", Lanes: 1, Lease: time.Minute})
	if err != nil || len(got.Msgs) != 1 || string(got.Msgs[0].Body) != "0" {
		t.Errorf("claimed %v, %v", got.Msgs, err)
	}
}
