package storetest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

func decode[T any](e *env, val []byte) T {
	e.Helper()
	var v T
	if err := json.Unmarshal(val, &v); err != nil {
		e.Fatalf("decode %s: %v", val, err)
	}
	return v
}

func (e *env) extend(lease time.Duration, msgs ...*store.Msg) []*store.Msg {
	e.Helper()
	lost, err := e.Extend(e.ctx(), msgs, lease)
	if err != nil {
		e.Fatalf("Extend: %v", err)
	}
	return lost
}

func (s suite) leases(t *testing.T) {
	s.group(t, map[string]func(*env){
		"expiry and fence": func(e *env) {
			e.send("t", "k", "a")
			old := e.one("t")
			e.clock.Advance(59 * time.Second)
			e.none("t")
			e.clock.Advance(2 * time.Second)
			m := e.one("t")
			if m.Attempt != 2 || m.Fails != 0 || m.Token == old.Token || m.Seq != old.Seq {
				e.Errorf("got attempt %d, fails %d, same token %t; want 2, 0 and a new one", m.Attempt, m.Fails, m.Token == old.Token)
			}
			for _, c := range []store.Commit{{Done: old}, {Retry: old}, {Yield: old}, {Dead: old}} {
				e.refuse(store.ErrLeaseLost, c)
			}
			if lost := e.extend(time.Minute, old); len(lost) != 1 || lost[0] != old {
				e.Errorf("Extend with an old token: lost %v, want that message", lost)
			}
			e.commit(store.Commit{Done: m})
		},
		"late but nobody else came": func(e *env) {
			e.send("t", "k", "a", "b")
			m := e.one("t")
			e.clock.Advance(time.Hour)
			if lost := e.extend(time.Minute, m); len(lost) > 0 {
				e.Fatalf("Extend after the lease ended and before another claim: lost %v", lost)
			}
			e.none("t")
			e.clock.Advance(time.Hour)
			e.commit(store.Commit{Done: m})
			e.wantBodies([]*store.Msg{e.one("t")}, "b")
		},
		"extend counts from now": func(e *env) {
			e.send("t", "a", "a1", "a2")
			e.send("t", "b", "b1")
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 2, PerLane: 2})
			if len(msgs) != 3 {
				e.Fatalf("claimed %s, want three", bodies(msgs))
			}
			e.clock.Advance(50 * time.Second)
			if lost := e.extend(time.Minute, msgs...); len(lost) > 0 {
				e.Fatalf("lost %s", bodies(lost))
			}
			e.clock.Advance(50 * time.Second)
			e.none("t")
			e.clock.Advance(11 * time.Second)
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 2})); n != 2 {
				e.Errorf("%d claimed after the extended lease, want 2", n)
			}
			// A shorter lease is a lease, too.
			m := e.claim(store.ClaimRequest{Topic: "t", Owner: "node", Lanes: 2, Reclaim: true})
			e.extend(time.Second, m...)
			e.clock.Advance(2 * time.Second)
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 2})); n != 2 {
				e.Errorf("%d claimed after the shortened lease, want 2", n)
			}
		},
		"extend returns exactly the lost": func(e *env) {
			e.send("t", "a", "a")
			e.send("t", "b", "b")
			e.send("t", "c", "c")
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 3})
			e.commit(store.Commit{Done: msgs[0]})
			e.commit(store.Commit{Retry: msgs[1], Delay: time.Hour})
			lost := e.extend(time.Minute, msgs...)
			if len(lost) != 2 || lost[0] != msgs[0] || lost[1] != msgs[1] {
				e.Errorf("lost %s, want those finished and retried", bodies(lost))
			}
			if lost := e.extend(time.Minute); len(lost) > 0 {
				e.Errorf("lost %v of nothing", lost)
			}
		},
		"reclaim": func(e *env) {
			e.send("t", "a", "a1", "a2")
			e.send("t", "b", "b1")
			e.send("t", "c", "c1")
			e.send("t", "d", "d1")
			mine := e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 2, PerLane: 2})
			theirs := e.claim(store.ClaimRequest{Topic: "t", Owner: "them", Lanes: 1})
			again := e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 100, PerLane: 2, Reclaim: true})
			if len(again) != len(mine) {
				e.Fatalf("reclaimed %s, want %s", bodies(again), bodies(mine))
			}
			tokens := map[string]string{}
			for _, m := range mine {
				tokens[string(m.Body)] = m.Token
			}
			for _, m := range again {
				// A reclaim is a delivery of the head; those behind it may be counted from
				// their own turn as head.
				head := m.Body[1] == '1'
				if tok, ok := tokens[string(m.Body)]; !ok || tok == m.Token || head && m.Attempt != 2 || m.Attempt > 2 {
					e.Errorf("reclaimed %s: ours %t, new token %t, attempt %d", m.Body, ok, tok != m.Token, m.Attempt)
				}
			}
			e.refuse(store.ErrLeaseLost, store.Commit{Done: mine[0]})
			if lost := e.extend(time.Minute, append(mine, theirs...)...); len(lost) != len(mine) {
				e.Errorf("lost %s, want all of mine", bodies(lost))
			}
			// Expired ones too, as long as nobody else took them.
			e.clock.Advance(time.Hour)
			taken := e.claim(store.ClaimRequest{Topic: "t", Owner: "them", Lanes: 1})
			again = e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 100, PerLane: 2, Reclaim: true})
			for _, m := range again {
				if m.Key == taken[0].Key || m.Key == theirs[0].Key {
					e.Errorf("reclaimed %s of another owner", m.Body)
				}
				e.commit(store.Commit{Done: m})
			}
			if got := e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 100, Reclaim: true}); len(got) > 0 {
				e.Errorf("reclaimed %s after all was done", bodies(got))
			}
		},
		"reclaim takes nothing that was given back": func(e *env) {
			e.send("t", "a", "a")
			e.send("t", "b", "b")
			msgs := e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 2})
			e.commit(store.Commit{Retry: msgs[0]})
			e.commit(store.Commit{Yield: msgs[1]})
			if got := e.claim(store.ClaimRequest{Topic: "t", Owner: "me", Lanes: 2, Reclaim: true}); len(got) > 0 {
				e.Errorf("reclaimed %s", bodies(got))
			}
		},
		"held leases survive a restart": func(e *env) {
			e.send("t", "a", "a1", "a2")
			m := e.one("t")
			e.reopen(Schema())
			e.none("t")
			e.commit(store.Commit{Retry: m})
			m = e.one("t")
			if m.Attempt != 2 || m.Fails != 1 {
				e.Errorf("attempt %d, fails %d, want 2 and 1", m.Attempt, m.Fails)
			}
			e.reopen(Schema())
			got := e.claim(store.ClaimRequest{Topic: "t", Owner: "node", Lanes: 5, Reclaim: true})
			if len(got) != 1 || got[0].Attempt != 3 || got[0].Fails != 1 {
				e.Fatalf("reclaimed %s, want a1 in its third attempt, failed once", bodies(got))
			}
			e.refuse(store.ErrLeaseLost, store.Commit{Done: m})
			e.commit(store.Commit{Done: got[0]})
			e.wantBodies([]*store.Msg{e.one("t")}, "a2")
		},
	})
}
