package sqlite_test

import (
	"encoding/binary"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// BenchmarkStep measures the step of a pipeline, one durable commit: change the
// state, record an event, finish a message, send the next. 64 callers work at
// once on messages that one claimant hands them; "waybill loadtest store" does the same.
func BenchmarkStep(b *testing.B) {
	s, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "bench.db"), store.Schema{{Name: "job"}}, sqlite.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := b.Context()
	const callers = 64
	body := make([]byte, 256)
	for i := range 2 * callers {
		binary.BigEndian.PutUint64(body, 0)
		if err := s.Commit(ctx, &store.Commit{Sends: []store.Send{{Topic: "step", Key: string(rune('A' + i)), Body: body}}}); err != nil {
			b.Fatal(err)
		}
	}
	work := make(chan *store.Msg, callers)
	bell, cancel := s.Bell("step")
	defer cancel()
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for m := range work {
				rev := int64(binary.BigEndian.Uint64(m.Body))
				next := make([]byte, 256)
				binary.BigEndian.PutUint64(next, uint64(rev+1))
				if err := s.Commit(ctx, &store.Commit{
					Done:   m,
					Puts:   []store.Put{{Table: "job", Key: m.Key, Rev: rev, Val: next}},
					Sends:  []store.Send{{Topic: "step", Key: m.Key, Body: next}},
					Events: []store.Event{{Subject: "job/" + m.Key, Kind: "step", Data: []byte(`{"n":1}`)}},
				}); err != nil {
					b.Error(err)
				}
				if left.Add(-1) == 0 {
					close(done)
				}
			}
		}()
	}
claim:
	for {
		got, err := s.Claim(ctx, store.ClaimRequest{Topic: "step", Owner: "n", Lanes: callers, Lease: time.Minute})
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range got.Msgs {
			select {
			case work <- m:
			case <-done:
				break claim
			}
		}
		if len(got.Msgs) == 0 {
			select {
			case <-bell:
			case <-done:
				break claim
			}
		}
	}
	b.StopTimer()
	close(work)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
}
