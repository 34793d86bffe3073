package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) concurrent(t *testing.T) {
	s.group(t, map[string]func(*env){
		"one of 64 creates": func(e *env) {
			var won, lost atomic.Int32
			ctx := e.ctx()
			parallel(64, func(i int) {
				err := e.Commit(ctx, &store.Commit{
					Puts:  []store.Put{{Table: "item", Key: "k", Val: newItem(fmt.Sprint(i), 1, "g")}},
					Sends: []store.Send{{Topic: "t", Key: fmt.Sprint(i)}},
				})
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, store.ErrConflict):
					lost.Add(1)
				default:
					e.Errorf("Commit: %v", err)
				}
			})
			if won.Load() != 1 || lost.Load() != 63 {
				e.Errorf("%d won and %d lost, want 1 and 63", won.Load(), lost.Load())
			}
			if n := e.counts("item")["all"]; n != 1 {
				e.Errorf("counter %d, want 1", n)
			}
			if n := e.topic("", "t").Depth; n != 1 {
				e.Errorf("depth %d, want 1", n)
			}
		},
		"one of 64 finishes": func(e *env) {
			e.send("t", "k", "a", "b")
			m := e.one("t")
			var won atomic.Int32
			ctx := e.ctx()
			parallel(64, func(i int) {
				c := store.Commit{Sends: []store.Send{{Topic: "out", Key: fmt.Sprint(i)}}}
				switch i % 4 {
				case 0:
					c.Done = m
				case 1:
					c.Retry = m
				case 2:
					c.Yield = m
				case 3:
					c.Dead = m
				}
				err := e.Commit(ctx, &c)
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, store.ErrLeaseLost) {
					e.Errorf("Commit: %v", err)
				}
			})
			if n := won.Load(); n != 1 {
				e.Errorf("%d finished, want 1", n)
			}
			if n := e.topic("", "out").Depth; n != 1 {
				e.Errorf("depth %d, want 1", n)
			}
		},
		"one id from 16 callers": func(e *env) {
			ctx := e.ctx()
			parallel(16, func(int) {
				if err := e.Commit(ctx, &store.Commit{ID: "same", Sends: []store.Send{{Topic: "t", Key: "k"}}}); err != nil {
					e.Errorf("Commit: %v", err)
				}
			})
			if n := e.topic("", "t").Depth; n != 1 {
				e.Errorf("depth %d, want 1", n)
			}
		},
		"no increment is lost": func(e *env) {
			const callers, each = 12, 6
			ctx := e.ctx()
			parallel(callers, func(i int) {
				for range each {
					for {
						var n int
						r, err := e.Get(ctx, "", "note", "n")
						if err == nil {
							err = json.Unmarshal(r.Val, &n)
						} else if errors.Is(err, store.ErrNotFound) {
							err = nil
						}
						if err != nil {
							e.Errorf("Get: %v", err)
							return
						}
						err = e.Commit(ctx, &store.Commit{
							Puts:  []store.Put{{Table: "note", Key: "n", Rev: r.Rev, Val: fmt.Append(nil, n+1)}},
							Sends: []store.Send{{Topic: "t", Key: fmt.Sprint(rand.IntN(3)), Body: fmt.Append(nil, n+1)}},
						})
						if err == nil {
							break
						}
						if !errors.Is(err, store.ErrConflict) {
							e.Errorf("Commit: %v", err)
							return
						}
					}
				}
			})
			e.wantRow("note", "n", callers*each, fmt.Sprint(callers*each))
			if n := e.topic("", "t").Depth; n != callers*each {
				e.Errorf("depth %d, want %d", n, callers*each)
			}
		},
		"a bad commit harms no other": func(e *env) {
			const callers, each = 64, 8
			ctx := e.ctx()
			e.commit(store.Commit{Puts: []store.Put{{Table: "note", Key: "taken", Val: []byte(`1`)}}})
			parallel(callers, func(i int) {
				for j := range each {
					k := fmt.Sprintf("%d-%d", i, j)
					c := store.Commit{
						Puts:   []store.Put{{Table: "item", Key: k, Val: newItem(k, int64(i), fmt.Sprint(i%4))}},
						Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint(i % 5), Body: []byte(k)}},
						Events: []store.Event{{Subject: "s" + fmt.Sprint(i), Kind: "k", Data: fmt.Append(nil, j)}},
					}
					var want func(error) bool
					switch (i + j) % 8 {
					case 0:
						c.Puts = append(c.Puts, store.Put{Table: "note", Key: "taken", Val: []byte(`2`)})
						want = func(err error) bool { return errors.Is(err, store.ErrConflict) }
					case 1:
						c.Done = &store.Msg{Tenant: store.DefaultTenant, Topic: "t", Key: "0", Seq: 1, Token: "stolen"}
						want = func(err error) bool { return errors.Is(err, store.ErrLeaseLost) }
					case 2:
						c.Puts[0].Val = item{Bad: true}.json()
						want = func(err error) bool { return waybill.IsKind(err, waybill.KindInvalid) }
					default:
						want = func(err error) bool { return err == nil }
					}
					if err := e.Commit(ctx, &c); !want(err) {
						e.Errorf("commit %s: %v", k, err)
					}
				}
			})
			const good = callers * each * 5 / 8
			if n := e.counts("item")["all"]; n != good {
				e.Errorf("%d items, want %d", n, good)
			}
			if n := e.topic("", "t").Depth; n != good {
				e.Errorf("depth %d, want %d", n, good)
			}
			if n := len(e.tail(good)); n != good {
				e.Errorf("%d events, want %d", n, good)
			}
			// A lane holds the messages of one caller in the order it sent them.
			last := map[string]int{}
			for _, m := range e.claim(store.ClaimRequest{Topic: "t", Lanes: 100, PerLane: 1000}) {
				var i, j int
				if _, err := fmt.Sscanf(string(m.Body), "%d-%d", &i, &j); err != nil {
					e.Fatal(err)
				}
				if k := m.Key + "/" + fmt.Sprint(i); last[k] > j {
					e.Errorf("lane %s: message %d of caller %d came after %d", m.Key, j, i, last[k])
				} else {
					last[k] = j
				}
			}
		},
		"each message is worked once and in order": func(e *env) {
			const keys, each, workers = 10, 12, 8
			ctx := e.ctx()
			parallel(keys, func(k int) {
				for i := range each {
					if err := e.Commit(ctx, &store.Commit{Sends: []store.Send{{Topic: "t", Key: fmt.Sprint(k), Body: fmt.Append(nil, i)}}}); err != nil {
						e.Errorf("Commit: %v", err)
					}
				}
			})
			var left atomic.Int64
			left.Store(keys * each)
			seen := [keys]atomic.Int64{}
			parallel(workers, func(w int) {
				for left.Load() > 0 && !e.Failed() {
					got, err := e.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: fmt.Sprint(w), Lanes: 3, PerLane: 1 + w%3, Lease: time.Minute})
					if err != nil {
						e.Errorf("Claim: %v", err)
						return
					}
					for _, m := range got.Msgs {
						var k, i int64
						if err := json.Unmarshal(m.Body, &i); err != nil {
							e.Error(err)
						}
						if err := json.Unmarshal([]byte(m.Key), &k); err != nil {
							e.Error(err)
						}
						if got := seen[k].Add(1) - 1; got != i {
							e.Errorf("key %d: message %d came as number %d", k, i, got)
						}
						err := e.Commit(ctx, &store.Commit{Done: m,
							Puts: []store.Put{{Table: "note", Key: m.Key, Rev: i, Val: m.Body}}})
						if err != nil {
							e.Errorf("finish %d of key %d: %v", i, k, err)
						}
						left.Add(-1)
					}
				}
			})
			if st := e.topic("", "t"); st.Depth != 0 || st.Lanes != 0 {
				e.Errorf("depth %d and %d lanes after all work, want none", st.Depth, st.Lanes)
			}
		},
		"cancelled commits are all or nothing": func(e *env) {
			const n = 60
			base := e.ctx()
			var done [n]bool
			parallel(n, func(i int) {
				ctx, cancel := context.WithTimeout(base, time.Duration(i)*100*time.Microsecond)
				defer cancel()
				k := fmt.Sprint(i)
				err := e.Commit(ctx, &store.Commit{
					Puts:   []store.Put{{Table: "item", Key: k, Val: newItem(k, 1, "g")}, {Table: "note", Key: k, Val: []byte(`1`)}},
					Sends:  []store.Send{{Topic: "t", Key: k}},
					Events: []store.Event{{Subject: "s/" + k, Kind: "k", Data: []byte(`{}`)}},
				})
				done[i] = err == nil
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					e.Errorf("Commit: got %v, want the context's error", err)
				}
			})
			// Close waits for commits in flight, so nothing moves after it.
			e.reopen(Schema())
			queued := map[string]bool{}
			for _, m := range e.claim(store.ClaimRequest{Topic: "t", Lanes: n}) {
				queued[m.Key] = true
			}
			for i := range n {
				k := fmt.Sprint(i)
				_, err1 := e.Get(e.ctx(), "", "item", k)
				_, err2 := e.Get(e.ctx(), "", "note", k)
				ev, err3 := e.Events(e.ctx(), "", "s/"+k, "", 9)
				if err3 != nil {
					e.Fatal(err3)
				}
				there := []bool{err1 == nil, err2 == nil, queued[k], len(ev) == 1}
				for _, x := range there {
					if x != there[0] {
						e.Errorf("commit %d is half there: item, note, message, event: %v", i, there)
						break
					}
				}
				if done[i] && !there[0] {
					e.Errorf("commit %d was acknowledged and is not there", i)
				}
			}
		},
	})
}
