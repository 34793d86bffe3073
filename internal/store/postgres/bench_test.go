package postgres_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/storetest"
)

// BenchmarkStep is the step of a pipeline: move a row on by its revision, write
// an event, finish a message and send the next one, in one commit, by 64 callers.
func BenchmarkStep(b *testing.B) {
	const callers = 64
	s := open(b, pgtest.DSN(b), storetest.Schema(), postgres.Options{})
	ctx := b.Context()
	each := b.N/callers + 1
	msgs := make([][]*store.Msg, callers)
	for i := range callers {
		var c store.Commit
		for range each {
			c.Sends = append(c.Sends, store.Send{Topic: "t", Key: fmt.Sprint(i), Body: make([]byte, 256)})
		}
		if err := s.Commit(ctx, &c); err != nil {
			b.Fatal(err)
		}
		got, err := s.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "bench", Lanes: 1, PerLane: each, Lease: time.Hour})
		if err != nil || len(got.Msgs) != each {
			b.Fatalf("claimed %d of %d: %v", len(got.Msgs), each, err)
		}
		msgs[i] = got.Msgs
	}
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j, m := range msgs[i] {
				err := s.Commit(ctx, &store.Commit{
					Done:   m,
					Puts:   []store.Put{{Table: "item", Key: m.Key, Rev: int64(j), Val: []byte(`{"name":"step","size":1,"grp":"g"}`)}},
					Sends:  []store.Send{{Topic: "next", Key: fmt.Sprint(i, "-", j), Body: m.Body}},
					Events: []store.Event{{Subject: "run/" + m.Key, Kind: "step", Data: []byte(`{"status":"succeeded"}`)}},
				})
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(each*callers)/time.Since(start).Seconds(), "steps/s")
}

// BenchmarkWork claims and finishes messages of keys of their own.
func BenchmarkWork(b *testing.B) {
	const workers, lanes = 8, 32
	s := open(b, pgtest.DSN(b), storetest.Schema(), postgres.Options{})
	ctx := b.Context()
	for i := 0; i < b.N; i += 1000 {
		var c store.Commit
		for j := i; j < min(i+1000, b.N); j++ {
			c.Sends = append(c.Sends, store.Send{Topic: "t", Key: fmt.Sprint(j), Body: make([]byte, 256)})
		}
		if err := s.Commit(ctx, &c); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	start := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				got, err := s.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "bench", Lanes: lanes, Lease: time.Hour})
				if err != nil {
					b.Error(err)
				}
				if err != nil || len(got.Msgs) == 0 {
					return
				}
				var done sync.WaitGroup
				for _, m := range got.Msgs {
					done.Go(func() {
						if err := s.Commit(ctx, &store.Commit{Done: m}); err != nil {
							b.Error(err)
						}
					})
				}
				done.Wait()
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "messages/s")
}
