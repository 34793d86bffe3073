package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) topics(t *testing.T) {
	s.group(t, map[string]func(*env){
		"numbers": func(e *env) {
			first := e.clock.Now()
			e.send("t", "a", "1", "2", "3")
			e.clock.Advance(time.Second)
			e.send("t", "b", "4")
			e.send("t", "c", "5")
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{{Topic: "t", Key: "a"}, {Topic: "u", Key: "a"}}})
			st := e.topic("", "t")
			if want := (store.TopicStat{Tenant: store.DefaultTenant, Topic: "t", Depth: 5, Lanes: 3, Oldest: st.Oldest}); st != want || !st.Oldest.Equal(first) {
				e.Errorf("got %+v, want %+v and oldest %s", st, want, first)
			}
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 2})
			e.commit(store.Commit{Dead: msgs[0]})
			if st := e.topic("", "t"); st.Depth != 4 || st.Dead != 1 || st.Leased != 1 && e.topic("acme", "t").Leased != 1 {
				e.Errorf("got %+v, want depth 4, one dead, one leased", st)
			}
			all, err := e.Topics(e.ctx(), "*")
			if err != nil || len(all) != 3 {
				e.Errorf("topics of all tenants: %+v, %v, want 3", all, err)
			}
			e.eventually("the cheap depth", func() bool {
				n, err := e.Depth(e.ctx(), "t")
				if err != nil {
					e.Fatal(err)
				}
				return n == 5
			})
		},
		"a drained topic is remembered": func(e *env) {
			e.send("t", "a", "1")
			e.commit(store.Commit{Done: e.one("t")})
			st := e.topic("", "t")
			if st.Topic != "t" || st.Depth != 0 || st.Lanes != 0 || st.Leased != 0 || !st.Oldest.IsZero() {
				e.Errorf("got %+v, want an empty topic", st)
			}
			if n, err := e.Depth(e.ctx(), "never heard of"); n != 0 || err != nil {
				e.Errorf("depth of an unknown topic: %d, %v", n, err)
			}
		},
		"pause": func(e *env) {
			e.send("t", "a", "1", "2")
			m := e.one("t")
			if err := e.Pause(e.ctx(), "t", true); err != nil {
				e.Fatal(err)
			}
			e.send("t", "b", "3")
			e.send("u", "b", "4")
			paused := func() bool {
				got, err := e.Claim(e.ctx(), store.ClaimRequest{Topic: "t", Owner: "o", Lanes: 5, Lease: time.Minute})
				if err != nil {
					e.Fatal(err)
				}
				if got.Paused && len(got.Msgs) > 0 {
					e.Errorf("a paused topic handed out %s", bodies(got.Msgs))
				}
				return got.Paused
			}
			if !paused() || !e.topic("", "t").Paused {
				e.Error("the topic is not paused")
			}
			// What is in hand can be finished, and other topics go on.
			e.commit(store.Commit{Done: m})
			e.one("u")
			e.reopen(Schema())
			if !paused() {
				e.Error("the topic is not paused after a restart")
			}
			if err := e.Pause(e.ctx(), "t", false); err != nil {
				e.Fatal(err)
			}
			if e.topic("", "t").Paused {
				e.Error("the topic is still paused")
			}
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 5})); n != 2 {
				e.Errorf("%d messages after resuming, want 2", n)
			}
		},
		"purge": func(e *env) {
			e.send("t", "a", "1", "2")
			held := e.one("t")
			e.send("t", "b", "3", "4")
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "c", Delay: time.Hour}, {Topic: "u", Key: "c"}}})
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{{Topic: "t", Key: "b", Delay: time.Hour}}})
			n, err := e.Purge(e.ctx(), "", "t")
			if err != nil || n != 3 {
				e.Errorf("purged %d, %v, want 3", n, err)
			}
			if st := e.topic("", "t"); st.Depth != 2 || st.Lanes != 1 {
				e.Errorf("depth %d, lanes %d, want 2 and 1", st.Depth, st.Lanes)
			}
			if a, u := e.topic("acme", "t").Depth, e.topic("", "u").Depth; a != 1 || u != 1 {
				e.Errorf("depths elsewhere %d and %d, want 1 and 1", a, u)
			}
			e.commit(store.Commit{Done: held})
			e.send("t", "b", "5")
			m := e.one("t")
			if m.Key == "b" { // both lanes became ready at the same instant
				e.commit(store.Commit{Yield: m, Delay: time.Hour})
				m = e.one("t")
			}
			e.wantBodies([]*store.Msg{m}, "2")
			if n, err := e.Purge(e.ctx(), "", "t"); err != nil || n != 1 {
				e.Errorf("purged %d, %v, want 1", n, err)
			}
			e.commit(store.Commit{Done: m})
			if n, err := e.Purge(e.ctx(), "", "t"); err != nil || n != 0 {
				e.Errorf("purged %d, %v, want 0", n, err)
			}
		},
		"peek": func(e *env) {
			for _, k := range []string{"b", "a%", "c'", "a"} {
				e.send("t", k, k+"1", k+"2", k+"3")
			}
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{{Topic: "t", Key: "x"}}})
			lease := e.clock.Now().Add(time.Minute)
			held := e.one("t")
			var got []store.QueuedMsg
			after := ""
			for {
				msgs, next, err := e.Peek(e.ctx(), "", "t", after, 5)
				if err != nil {
					e.Fatal(err)
				}
				if len(msgs) > 5 {
					e.Fatalf("a page of %d, want at most 5", len(msgs))
				}
				got = append(got, msgs...)
				if next == "" {
					break
				}
				if len(msgs) == 0 {
					e.Fatal("an empty page with a next one")
				}
				after = next
			}
			var order []string
			for _, m := range got {
				order = append(order, string(m.Body))
				if m.Tenant != store.DefaultTenant || m.Topic != "t" || m.Token != "" || m.SentAt.IsZero() {
					e.Errorf("got %+v", m)
				}
				if is := m.Key == held.Key; m.Leased != is || (m.Owner == "node") != is || is && !m.ReadyAt.Equal(lease) {
					e.Errorf("%s: leased %t, owner %q, until %s", m.Body, m.Leased, m.Owner, m.ReadyAt)
				}
			}
			if want := "[a1 a2 a3 a%1 a%2 a%3 b1 b2 b3 c'1 c'2 c'3]"; fmt.Sprint(order) != want {
				e.Errorf("got %v, want %s", order, want)
			}
			_, _, err := e.Peek(e.ctx(), "", "t", "no such cursor", 5)
			e.wantKind("Peek with a bad cursor", err, waybill.KindInvalid)
			if msgs, next, err := e.Peek(e.ctx(), "", "empty", "", 5); err != nil || len(msgs) > 0 || next != "" {
				e.Errorf("Peek of an empty topic: %v, %q, %v", msgs, next, err)
			}
		},
		"info and clock": func(e *env) {
			if !e.Now().Equal(e.clock.Now()) {
				e.Errorf("Now is %s, the injected clock says %s", e.Now(), e.clock.Now())
			}
			if i := e.Info(); i.Engine == "" || i.Schema < 1 || i.Where == "" {
				e.Errorf("Info: %+v", i)
			}
		},
	})
}
