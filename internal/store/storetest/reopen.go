package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) reopen(t *testing.T) {
	s.group(t, map[string]func(*env){
		"what was acknowledged is there": func(e *env) {
			ctx := e.ctx()
			parallel(16, func(i int) {
				for j := range 10 {
					k := fmt.Sprintf("%d-%d", i, j)
					err := e.Commit(ctx, &store.Commit{
						Puts:   []store.Put{{Table: "item", Key: k, Val: newItem(k, int64(j), "g")}},
						Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint(i), Body: fmt.Append(nil, j)}},
						Events: []store.Event{event(k, `{}`)},
					})
					if err != nil {
						e.Errorf("Commit: %v", err)
					}
				}
			})
			e.reopen(Schema())
			if n := e.counts("item")["all"]; n != 160 {
				e.Errorf("%d items counted, want 160", n)
			}
			if rows, err := e.Scan(ctx, "", "item", "", 0); err != nil || len(rows) != 160 {
				e.Errorf("%d rows, %v, want 160", len(rows), err)
			}
			if n := len(e.tail(160)); n != 160 {
				e.Errorf("%d events, want 160", n)
			}
			if st := e.topic("", "t"); st.Depth != 160 || st.Lanes != 16 {
				e.Errorf("depth %d in %d lanes, want 160 in 16", st.Depth, st.Lanes)
			}
			for i := range 16 {
				msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 20})
				if fmt.Sprint(bodies(msgs)) != "[0 1 2 3 4 5 6 7 8 9]" {
					e.Errorf("lane %d: %s", i, bodies(msgs))
				}
			}
		},
		"close waits for commits in flight": func(e *env) {
			ctx := e.ctx()
			var acked [32]atomic.Int32
			started := make(chan struct{}, len(acked))
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				parallel(len(acked), func(i int) {
					for j := 0; ; j++ {
						err := e.Store.Commit(ctx, &store.Commit{Sends: []store.Send{{Topic: "t", Key: fmt.Sprint(i), Body: fmt.Append(nil, j)}}})
						if j == 0 {
							started <- struct{}{}
						}
						if err != nil {
							return // closed
						}
						acked[i].Store(int32(j + 1))
					}
				})
			}()
			for range len(acked) {
				<-started
			}
			closeStore(e.T, e.Store)
			<-stopped
			e.reopen(Schema())
			for range len(acked) {
				msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 1 << 20})
				var i int
				if _, err := fmt.Sscan(msgs[0].Key, &i); err != nil {
					e.Fatal(err)
				}
				// What was refused while closing may have happened, what was
				// acknowledged must have.
				if n := int(acked[i].Load()); len(msgs) < n {
					e.Errorf("lane %d has %d messages, %d were acknowledged", i, len(msgs), n)
				}
			}
		},
	})
}

// shared is for stores of which several handles are open at once.
func (s suite) shared(t *testing.T) {
	second := func(e *env) store.Store {
		e.Helper()
		st := s.opts.Reopen(e.T, e.Store, Schema(), e.clock.Now)
		e.Cleanup(func() { closeStore(e.T, st) })
		return st
	}
	s.group(t, map[string]func(*env){
		"one store, two handles": func(e *env) {
			other := second(e)
			e.send("t", "k", "a", "b")
			m := e.one("t")
			got, err := other.Claim(e.ctx(), store.ClaimRequest{Topic: "t", Owner: "other", Lanes: 1, Lease: time.Minute})
			if err != nil || len(got.Msgs) > 0 {
				e.Fatalf("the other handle claimed %s, %v, while the lane was held", bodies(got.Msgs), err)
			}
			e.clock.Advance(2 * time.Minute)
			got, err = other.Claim(e.ctx(), store.ClaimRequest{Topic: "t", Owner: "other", Lanes: 1, Lease: time.Minute})
			if err != nil || len(got.Msgs) != 1 {
				e.Fatalf("the other handle claimed %s, %v, after the lease ended", bodies(got.Msgs), err)
			}
			e.refuse(store.ErrLeaseLost, store.Commit{Done: m})
			if err := other.Commit(e.ctx(), &store.Commit{Done: got.Msgs[0], Puts: []store.Put{{Table: "item", Key: "k", Val: newItem("n", 1, "g")}}}); err != nil {
				e.Fatal(err)
			}
			e.wantRow("item", "k", 1, string(newItem("n", 1, "g")))
			if n := e.counts("item")["all"]; n != 1 {
				e.Errorf("count %d, want 1", n)
			}
		},
		"bells ring in other handles": func(e *env) {
			other := second(e)
			bell, cancel := other.Bell("t")
			defer cancel()
			watch, cancelWatch := other.Watch()
			defer cancelWatch()
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "k"}}, Events: []store.Event{event("s", `{}`)}})
			e.rings(bell, "a send through another handle")
			e.rings(watch, "an event through another handle")
		},
		"none is missed": func(e *env) { tailWhileWriting(e, []store.Store{e.Store, second(e), second(e)}) },
		"hot keys from three handles": func(e *env) {
			stores := []store.Store{e.Store, second(e), second(e)}
			const keys, workers, steps = 6, 9, 25
			ctx := e.ctx()
			for k := range keys {
				e.send("t", fmt.Sprint(k), "x")
			}
			// Each worker moves messages between few lanes: it finishes one lane's
			// head and sends to two others.
			var moved atomic.Int64
			parallel(workers, func(w int) {
				st := stores[w%len(stores)]
				rng := rand.New(rand.NewPCG(uint64(w), 1))
				for moved.Load() < keys*steps && !e.Failed() {
					got, err := st.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: fmt.Sprint(w), Lanes: 2, Lease: time.Hour})
					if err != nil {
						e.Errorf("Claim: %v", err)
						return
					}
					for _, m := range got.Msgs {
						c := store.Commit{Done: m, Sends: []store.Send{
							{Topic: "t", Key: fmt.Sprint(rng.IntN(keys)), Body: m.Body},
							{Topic: "log", Key: fmt.Sprint(rng.IntN(3))},
						}}
						if err := st.Commit(ctx, &c); err != nil {
							e.Errorf("Commit: %v", err)
						}
						moved.Add(1)
					}
				}
			})
			if d := e.topic("", "t").Depth; d != keys {
				e.Errorf("depth %d, want %d", d, keys)
			}
			if d := e.topic("", "log").Depth; d != moved.Load() {
				e.Errorf("depth of the log %d, want %d", d, moved.Load())
			}
		},
		"one winner in three handles": func(e *env) {
			stores := []store.Store{e.Store, second(e), second(e)}
			ctx := e.ctx()
			var won atomic.Int32
			parallel(30, func(i int) {
				err := stores[i%3].Commit(ctx, &store.Commit{Puts: []store.Put{{Table: "note", Key: "k", Val: []byte(`1`)}}})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, store.ErrConflict) {
					e.Errorf("Commit: %v", err)
				}
			})
			if n := won.Load(); n != 1 {
				e.Errorf("%d won, want 1", n)
			}
		},
	})
}
