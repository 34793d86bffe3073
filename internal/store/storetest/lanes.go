package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) lanes(t *testing.T) {
	s.group(t, map[string]func(*env){
		"strictly one after another": func(e *env) {
			e.send("t", "a", "a1", "a2")
			e.send("t", "b", "b1")
			e.send("t", "a", "a3")
			for _, want := range []string{"a1", "a2", "a3"} {
				var a *store.Msg
				for _, m := range e.claim(store.ClaimRequest{Topic: "t", Lanes: 10}) {
					if m.Key == "a" {
						a = m
					}
				}
				if a == nil || string(a.Body) != want {
					e.Fatalf("got %v, want %s", a, want)
				}
				if got := e.claim(store.ClaimRequest{Topic: "t", Lanes: 10}); len(got) > 0 {
					e.Fatalf("%s was handed out while its lane was held", bodies(got))
				}
				e.commit(store.Commit{Done: a})
			}
		},
		"what a message says of itself": func(e *env) {
			sent := e.clock.Now()
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{{Topic: "t", Key: "k'%_é", Body: []byte("x"), Priority: 3}}})
			e.clock.Advance(time.Second)
			m := e.one("t")
			if m.Tenant != "acme" || m.Topic != "t" || m.Key != "k'%_é" || string(m.Body) != "x" || m.Token == "" ||
				m.Attempt != 1 || m.Fails != 0 || m.Priority != 3 || !m.SentAt.Equal(sent) {
				e.Errorf("got %+v", m)
			}
		},
		"tenants and topics have lanes of their own": func(e *env) {
			e.send("t", "k", "1")
			e.send("u", "k", "2")
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{{Topic: "t", Key: "k", Body: []byte("3")}}})
			if msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 10}); len(msgs) != 2 {
				e.Errorf("got %s, want the lanes of two tenants", bodies(msgs))
			}
			m := e.one("u")
			// A message keeps its tenant, whatever the commit's.
			e.commit(store.Commit{Tenant: "other", Done: m})
			if d := e.topic("", "u").Depth; d != 0 {
				e.Errorf("depth %d, want 0", d)
			}
		},
		"no more lanes than asked for": func(e *env) {
			for i := range 10 {
				e.send("t", fmt.Sprint(i), "x", "y")
			}
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 4})); n != 4 {
				e.Errorf("%d messages, want 4", n)
			}
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 4, PerLane: 2})); n != 8 {
				e.Errorf("%d messages, want 8", n)
			}
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 4, PerLane: 2})); n != 4 {
				e.Errorf("%d messages, want 4", n)
			}
		},
		"session": func(e *env) {
			e.send("t", "k", "a", "b", "c", "d")
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 5, PerLane: 3})
			e.wantBodies(msgs, "a", "b", "c")
			e.refuse(store.ErrLeaseLost, store.Commit{Done: msgs[1]})
			e.refuse(store.ErrLeaseLost, store.Commit{Retry: msgs[2]})
			e.commit(store.Commit{Done: msgs[0]})
			e.none("t")
			e.commit(store.Commit{Done: msgs[1]})
			e.none("t")
			e.refuse(store.ErrLeaseLost, store.Commit{Done: msgs[0]})
			e.commit(store.Commit{Dead: msgs[2], Reason: "r"})
			m := e.one("t")
			e.wantBodies([]*store.Msg{m}, "d")
			e.commit(store.Commit{Done: m})
			if st := e.topic("", "t"); st.Depth != 0 || st.Lanes != 0 || st.Leased != 0 || st.Dead != 1 {
				e.Errorf("got %+v, want nothing but one dead letter", st)
			}
		},
		"a retry ends the session": func(e *env) {
			e.send("t", "k", "a", "b", "c")
			msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 3})
			e.commit(store.Commit{Done: msgs[0]})
			e.commit(store.Commit{Retry: msgs[1], Reason: "again"})
			e.refuse(store.ErrLeaseLost, store.Commit{Done: msgs[2]})
			e.refuse(store.ErrLeaseLost, store.Commit{Done: msgs[1]})
			msgs = e.claim(store.ClaimRequest{Topic: "t", PerLane: 3})
			e.wantBodies(msgs, "b", "c")
			if msgs[0].Attempt != 2 || msgs[0].Fails != 1 || msgs[1].Fails != 0 {
				e.Errorf("attempt %d, fails %d and %d, want 2, 1 and 0", msgs[0].Attempt, msgs[0].Fails, msgs[1].Fails)
			}
		},
		"a message that kills its worker in a session is counted": func(e *env) {
			e.send("t", "k", "a", "b")
			msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 2})
			e.commit(store.Commit{Done: msgs[0]})
			e.clock.Advance(2 * time.Minute)
			if m := e.one("t"); m.Attempt != 2 || string(m.Body) != "b" {
				e.Errorf("%s attempt %d, want b attempt 2", m.Body, m.Attempt)
			}
		},
		"a new message has a clean record": func(e *env) {
			e.send("t", "k", "a", "b")
			for range 3 {
				e.commit(store.Commit{Retry: e.one("t")})
			}
			msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 2})
			e.wantBodies(msgs, "a", "b")
			if a, b := msgs[0], msgs[1]; a.Attempt != 4 || a.Fails != 3 || b.Attempt != 1 || b.Fails != 0 {
				e.Errorf("attempts %d and %d, fails %d and %d, want 4 and 1, 3 and 0", a.Attempt, b.Attempt, a.Fails, b.Fails)
			}
			e.commit(store.Commit{Done: msgs[0]})
			e.commit(store.Commit{Retry: msgs[1]})
			if m := e.one("t"); m.Attempt != 2 || m.Fails != 1 {
				e.Errorf("attempt %d, fails %d, want 2 and 1", m.Attempt, m.Fails)
			}
		},
		"retry": func(e *env) {
			e.send("t", "k", "a", "b")
			e.commit(store.Commit{Retry: e.one("t"), Delay: time.Minute, Reason: "broken"})
			e.none("t")
			e.clock.Advance(59 * time.Second)
			e.none("t")
			e.clock.Advance(2 * time.Second)
			m := e.one("t")
			if string(m.Body) != "a" || m.Attempt != 2 || m.Fails != 1 {
				e.Errorf("%s attempt %d fails %d, want a, 2 and 1", m.Body, m.Attempt, m.Fails)
			}
			if st := e.topic("", "t"); st.Depth != 2 {
				e.Errorf("depth %d, want 2", st.Depth)
			}
		},
		"yield counts as nothing": func(e *env) {
			e.send("t", "k", "a", "b")
			for range 3 {
				m := e.one("t")
				if string(m.Body) != "a" || m.Attempt != 1 || m.Fails != 0 {
					e.Fatalf("%s attempt %d fails %d, want a, 1 and 0", m.Body, m.Attempt, m.Fails)
				}
				e.commit(store.Commit{Yield: m, Delay: time.Second})
				e.none("t")
				e.clock.Advance(2 * time.Second)
			}
		},
		"dead": func(e *env) {
			e.commit(store.Commit{Tenant: "acme", Sends: []store.Send{
				{Topic: "t", Key: "k", Body: []byte{0, 'a', 0xff}, Priority: 2}, {Topic: "t", Key: "k", Body: []byte("b")}}})
			sent := e.clock.Now()
			e.commit(store.Commit{Retry: e.one("t")})
			e.clock.Advance(time.Second)
			e.commit(store.Commit{Dead: e.one("t"), Reason: "gave up: it's 100%"})
			page, err := e.Query(e.ctx(), store.Query{Table: store.DeadTable, Tenant: "acme", Where: []store.Where{{Column: "topic", Op: store.Eq, Value: "t"}}})
			if err != nil || len(page.Rows) != 1 {
				e.Fatalf("dead letters: %v, %v, want one", page.Rows, err)
			}
			d := decode[store.DeadLetter](e, page.Rows[0].Val)
			if d.Topic != "t" || d.Key != "k" || string(d.Body) != "\x00a\xff" || d.Reason != "gave up: it's 100%" || d.Attempt != 2 ||
				d.Fails != 1 || d.Priority != 2 || !d.SentAt.Equal(sent) || !d.DeadAt.Equal(e.clock.Now()) {
				e.Errorf("got %+v", d)
			}
			st := e.topic("acme", "t")
			if st.Depth != 1 || st.Dead != 1 {
				e.Errorf("depth %d, dead %d, want 1 and 1", st.Depth, st.Dead)
			}
			if n, err := e.Counts(e.ctx(), "acme", store.DeadTable); err != nil || n["topic:t"] != 1 {
				e.Errorf("counts %v, %v, want one of t", n, err)
			}
			m := e.one("t")
			e.wantBodies([]*store.Msg{m}, "b")
			if m.Attempt != 1 || m.Fails != 0 {
				e.Errorf("attempt %d, fails %d, want 1 and 0", m.Attempt, m.Fails)
			}
			// Sending it again is one commit.
			row := page.Rows[0]
			redrive := store.Commit{Tenant: "acme", Puts: []store.Put{{Table: store.DeadTable, Key: row.Key, Rev: row.Rev}},
				Sends: []store.Send{{Topic: d.Topic, Key: d.Key, Body: d.Body}}}
			e.commit(redrive)
			e.refuse(store.ErrConflict, redrive)
			if st := e.topic("acme", "t"); st.Depth != 2 || st.Dead != 0 {
				e.Errorf("depth %d, dead %d, want 2 and 0", st.Depth, st.Dead)
			}
		},
		"dead letters are listed in the order they died": func(e *env) {
			for i := range 5 {
				e.send("t", "k", fmt.Sprint(i))
				e.commit(store.Commit{Dead: e.one("t")})
				e.clock.Advance(time.Second)
			}
			rows, err := e.Scan(e.ctx(), "", store.DeadTable, "t", 0)
			if err != nil || len(rows) != 5 {
				e.Fatalf("Scan: %d rows, %v, want 5", len(rows), err)
			}
			for i, r := range rows {
				if d := decode[store.DeadLetter](e, r.Val); string(d.Body) != fmt.Sprint(i) {
					e.Errorf("row %d is %s", i, d.Body)
				}
			}
		},
		"delay": func(e *env) {
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "a", Body: []byte("late"), Delay: time.Hour}, {Topic: "t", Key: "b", Body: []byte("now")}}})
			m := e.one("t")
			e.wantBodies([]*store.Msg{m}, "now")
			e.none("t")
			e.commit(store.Commit{Done: m})
			got, err := e.Claim(e.ctx(), store.ClaimRequest{Topic: "t", Owner: "o", Lanes: 1, Lease: time.Minute})
			if err != nil || len(got.Msgs) > 0 || !got.Next.Equal(e.clock.Now().Add(time.Hour)) {
				e.Errorf("got %d messages, next %s, %v; want none and next in an hour", len(got.Msgs), got.Next, err)
			}
			e.clock.Advance(time.Hour)
			e.wantBodies([]*store.Msg{e.one("t")}, "late")
		},
		"delay behind others": func(e *env) {
			e.send("t", "k", "a")
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "k", Body: []byte("b"), Delay: time.Minute}}})
			e.send("t", "k", "c")
			e.send("t", "z", "z")
			msgs := e.claim(store.ClaimRequest{Topic: "t", PerLane: 3})
			e.wantBodies(msgs, "a")
			e.commit(store.Commit{Done: msgs[0]})
			// A lane whose head is not due takes no other's place.
			z := e.one("t")
			e.wantBodies([]*store.Msg{z}, "z")
			e.commit(store.Commit{Done: z})
			e.none("t")
			e.clock.Advance(30 * time.Second)
			e.none("t")
			e.clock.Advance(31 * time.Second)
			e.wantBodies(e.claim(store.ClaimRequest{Topic: "t", PerLane: 3}), "b", "c")
		},
		"older first, then by priority": func(e *env) {
			e.send("t", "old", "old")
			e.clock.Advance(time.Second)
			e.send("t", "new", "new")
			e.wantBodies(e.claim(store.ClaimRequest{Topic: "t", Lanes: 2}), "old", "new")

			prio := func(key string, p int) {
				e.commit(store.Commit{Sends: []store.Send{{Topic: "p", Key: key, Body: []byte(key), Priority: p}}})
			}
			prio("low", 0)
			e.clock.Advance(store.PriorityAge / 2)
			prio("high", 1) // ranks half a PriorityAge before low
			e.clock.Advance(store.PriorityAge)
			prio("late", 1) // ranks half a PriorityAge after low
			e.wantBodies(e.claim(store.ClaimRequest{Topic: "p", Lanes: 1}), "high")
			e.wantBodies(e.claim(store.ClaimRequest{Topic: "p", Lanes: 5}), "low", "late")
		},
		"a lane may stand behind or before others": func(e *env) {
			at := func(key string, behind time.Duration) {
				e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: key, Body: []byte(key), Behind: behind}}})
			}
			at("second", 0)
			at("third", time.Minute)
			at("first", -time.Minute)
			// It is a place in the line and no delay.
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 3})
			e.wantBodies(msgs, "first", "second", "third")
			// Once claimed it counts no more.
			e.commit(store.Commit{Yield: msgs[2]})
			at("fourth", time.Second)
			e.wantBodies(e.claim(store.ClaimRequest{Topic: "t", Lanes: 2}), "third", "fourth")
		},
		"priority belongs to the lane": func(e *env) {
			e.send("t", "first", "first")
			e.send("t", "k", "k1")
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "k", Body: []byte("k2"), Priority: 5}}})
			e.commit(store.Commit{Sends: []store.Send{{Topic: "t", Key: "k", Body: []byte("k3"), Priority: 1}}})
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 2, PerLane: 3})
			e.wantBodies(msgs, "k1", "k2", "k3", "first")
			for _, m := range msgs[:3] {
				if m.Priority != 5 {
					e.Errorf("priority %d of %s, want 5", m.Priority, m.Body)
				}
				e.commit(store.Commit{Done: m})
			}
			// Empty lanes forget.
			e.send("t", "k", "k4")
			if m := e.one("t"); m.Priority != 0 {
				e.Errorf("priority %d after the lane was empty, want 0", m.Priority)
			}
		},
		"bell": func(e *env) {
			bell, cancel := e.Bell("t")
			defer cancel()
			e.send("t", "k", "a", "b")
			e.rings(bell, "a send")
			m := e.one("t")
			drain(bell)
			e.commit(store.Commit{Done: m})
			e.rings(bell, "a lane became free")
			m = e.one("t")
			drain(bell)
			e.commit(store.Commit{Yield: m})
			e.rings(bell, "a message was given back")
			if err := e.Pause(e.ctx(), "t", true); err != nil {
				e.Fatal(err)
			}
			drain(bell)
			if err := e.Pause(e.ctx(), "t", false); err != nil {
				e.Fatal(err)
			}
			e.rings(bell, "the topic was resumed")
			// Each call makes a new bell, and one rings once for many.
			second, cancelSecond := e.Bell("t")
			for i := range 10 {
				e.send("t", fmt.Sprint(i), "x")
			}
			e.rings(second, "many sends")
			cancelSecond()
			cancelSecond()
		},
	})
}

func drain(bell <-chan struct{}) {
	select {
	case <-bell:
	default:
	}
}
