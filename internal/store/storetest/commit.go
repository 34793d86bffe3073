package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) commit(t *testing.T) {
	s.group(t, map[string]func(*env){
		"revisions": func(e *env) {
			put := func(rev int64, val string) store.Commit {
				return store.Commit{Puts: []store.Put{{Table: "note", Key: "k", Rev: rev, Val: []byte(val)}}}
			}
			e.refuse(store.ErrConflict, put(1, `1`))
			e.commit(put(0, `1`))
			e.wantRow("note", "k", 1, `1`)
			e.refuse(store.ErrConflict, put(0, `2`))
			e.commit(put(1, `2`))
			e.refuse(store.ErrConflict, put(1, `3`))
			e.refuse(store.ErrConflict, put(3, `3`))
			e.commit(put(store.AnyRev, `3`))
			e.wantRow("note", "k", 3, `3`)
			e.commit(store.Commit{Puts: []store.Put{{Table: "note", Key: "new", Rev: store.AnyRev, Val: []byte(`{}`)}}})
			e.wantRow("note", "new", 1, `{}`)
		},
		"delete": func(e *env) {
			del := func(rev int64) store.Commit {
				return store.Commit{Puts: []store.Put{{Table: "note", Key: "k", Rev: rev}}}
			}
			e.commit(del(store.AnyRev))
			e.refuse(store.ErrConflict, del(1))
			e.commit(store.Commit{Puts: []store.Put{{Table: "note", Key: "k", Val: []byte(`1`)}}})
			e.refuse(store.ErrConflict, del(0))
			e.refuse(store.ErrConflict, del(2))
			e.commit(del(1))
			e.wantNoRow("note", "k")
			e.commit(store.Commit{Puts: []store.Put{{Table: "note", Key: "k", Val: []byte(`2`)}}})
			e.wantRow("note", "k", 1, `2`)
			e.commit(del(store.AnyRev))
			e.wantNoRow("note", "k")
		},
		"a refused put leaves nothing": func(e *env) {
			e.commit(store.Commit{Puts: []store.Put{{Table: "note", Key: "there", Val: []byte(`1`)}}})
			e.send("in", "k", "work")
			m := e.one("in")
			bad := store.Commit{
				ID:   "once",
				Done: m,
				Puts: []store.Put{
					{Table: "item", Key: "first", Val: newItem("n", 1, "g")},
					{Table: "note", Key: "there", Rev: 7, Val: []byte(`2`)},
					{Table: "note", Key: "last", Val: []byte(`1`)},
				},
				Sends:  []store.Send{{Topic: "out", Key: "k", Body: []byte("no")}},
				Events: []store.Event{{Subject: "s", Kind: "k", Data: []byte(`{}`)}},
			}
			e.refuse(store.ErrConflict, bad)
			e.wantNoRow("item", "first")
			e.wantNoRow("note", "last")
			e.wantRow("note", "there", 1, `1`)
			e.none("out")
			if n := e.counts("item"); len(n) > 0 {
				e.Errorf("counters moved: %v", n)
			}
			if ev, err := e.Events(e.ctx(), "", "s", "", 10); err != nil || len(ev) > 0 {
				e.Errorf("events written: %v, %v", ev, err)
			}
			// The message is still ours, and the id was not used up.
			bad.Puts[1].Rev = 1
			e.commit(bad)
			e.wantRow("note", "there", 2, `2`)
			e.wantBodies([]*store.Msg{e.one("out")}, "no")
			e.none("in")
		},
		"a lost lease leaves nothing": func(e *env) {
			e.send("in", "k", "work")
			m := e.one("in")
			e.commit(store.Commit{Done: m})
			for _, c := range []store.Commit{{Done: m}, {Retry: m}, {Yield: m}, {Dead: m, Reason: "r"}} {
				c.Puts = []store.Put{{Table: "note", Key: "k", Rev: store.AnyRev, Val: []byte(`1`)}}
				c.Sends = []store.Send{{Topic: "out", Key: "k"}}
				c.Events = []store.Event{{Subject: "s", Kind: "k", Data: []byte(`{}`)}}
				e.refuse(store.ErrLeaseLost, c)
			}
			e.wantNoRow("note", "k")
			e.none("out")
			e.none("in")
			if n := e.counts(store.DeadTable); len(n) > 0 {
				e.Errorf("dead letters: %v", n)
			}
		},
		"invalid": func(e *env) {
			e.send("in", "k", "a", "b")
			m := e.one("in")
			for name, c := range map[string]store.Commit{
				"unknown table":   {Puts: []store.Put{{Table: "nope", Key: "k", Val: []byte(`1`)}}},
				"Derive refuses":  {Puts: []store.Put{{Table: "item", Key: "k", Val: item{Bad: true}.json()}}},
				"two outcomes":    {Done: m, Retry: m},
				"key not UTF-8":   {Puts: []store.Put{{Table: "note", Key: "\xff", Val: []byte(`1`)}}},
				"key with a zero": {Puts: []store.Put{{Table: "note", Key: "a\x00b", Val: []byte(`1`)}}},
				"one key put twice": {Puts: []store.Put{
					{Table: "note", Key: "k", Rev: store.AnyRev, Val: []byte(`1`)},
					{Table: "note", Key: "k", Rev: store.AnyRev, Val: []byte(`2`)},
				}},
			} {
				c.Sends = append(c.Sends, store.Send{Topic: "out", Key: "k"})
				err := e.Commit(e.ctx(), &c)
				if !waybill.IsKind(err, waybill.KindInvalid) {
					e.Errorf("%s: got %v, want kind invalid", name, err)
				}
			}
			e.none("out")
			e.wantNoRow("note", "k")
			e.commit(store.Commit{Done: m})
		},
		"id makes repeating safe": func(e *env) {
			c := store.Commit{ID: "id", Sends: []store.Send{{Topic: "t", Key: "k", Body: []byte("a")}},
				Puts:   []store.Put{{Table: "item", Key: "k", Rev: store.AnyRev, Val: newItem("n", 1, "g")}},
				Events: []store.Event{{Subject: "s", Kind: "k", Data: []byte(`{}`)}}}
			e.commit(c)
			e.commit(c)
			e.wantRow("item", "k", 1, string(newItem("n", 1, "g")))
			if n := e.topic("", "t").Depth; n != 1 {
				e.Errorf("depth %d after a repeat, want 1", n)
			}
			// Ids belong to a tenant.
			c.Tenant = "other"
			e.commit(c)
			if n := e.topic("other", "t").Depth; n != 1 {
				e.Errorf("depth %d of the other tenant, want 1", n)
			}
			c.Tenant = ""
			e.reopen(Schema())
			e.commit(c)
			if n := e.topic("", "t").Depth; n != 1 {
				e.Errorf("depth %d after a repeat on the reopened store, want 1", n)
			}
			if got := e.tail(2); len(got) != 2 {
				e.Errorf("%d events, want 2", len(got))
			}
		},
		"bytes come back as they were": func(e *env) {
			val := []byte("{ \"b\" : 1,\n\t\"a\":\t\"\\u0000 é 😀\", \"b\": 2.50 }")
			body := []byte{0, 1, 2, 0xff, '\'', '\\', 0}
			e.commit(store.Commit{
				Puts:   []store.Put{{Table: "note", Key: "k", Val: val}},
				Sends:  []store.Send{{Topic: "t", Key: "k", Body: body}, {Topic: "t2", Key: "k"}},
				Events: []store.Event{{Subject: "s", Kind: "k", Data: val}},
			})
			e.wantRow("note", "k", 1, string(val))
			if m := e.one("t"); !bytes.Equal(m.Body, body) {
				e.Errorf("body %q, want %q", m.Body, body)
			}
			if m := e.one("t2"); len(m.Body) != 0 {
				e.Errorf("body %q, want none", m.Body)
			}
			if got := e.tail(1); !bytes.Equal(got[0].Data, val) {
				e.Errorf("event data %q, want %q", got[0].Data, val)
			}
		},
		"one big commit": func(e *env) {
			var c store.Commit
			for i := range 1500 {
				k := fmt.Sprintf("%05d", i)
				c.Puts = append(c.Puts, store.Put{Table: "item", Key: k, Val: newItem(k, int64(i), "g")})
				c.Sends = append(c.Sends, store.Send{Topic: "t", Key: k, Body: []byte(k)})
				c.Sends = append(c.Sends, store.Send{Topic: "line", Key: "k", Body: []byte(k)})
				c.Events = append(c.Events, store.Event{Subject: "s", Kind: "k", Data: []byte(`{}`)})
			}
			e.commit(c)
			if n := e.counts("item")["all"]; n != 1500 {
				e.Errorf("%d rows counted, want 1500", n)
			}
			if n := len(e.claim(store.ClaimRequest{Topic: "t", Lanes: 2000})); n != 1500 {
				e.Errorf("%d lanes claimed, want 1500", n)
			}
			msgs := e.claim(store.ClaimRequest{Topic: "line", PerLane: 2000})
			if len(msgs) != 1500 || string(msgs[1499].Body) != "01499" {
				e.Errorf("%d messages of one lane, want 1500 in order", len(msgs))
			}
		},
		"many messages to one lane keep their order": func(e *env) {
			e.commit(store.Commit{Sends: []store.Send{
				{Topic: "t", Key: "a", Body: []byte("a1")}, {Topic: "t", Key: "b", Body: []byte("b1")},
				{Topic: "t", Key: "a", Body: []byte("a2")}, {Topic: "u", Key: "a", Body: []byte("u1")},
				{Topic: "t", Key: "a", Body: []byte("a3")},
			}})
			msgs := e.claim(store.ClaimRequest{Topic: "t", Lanes: 9, PerLane: 9})
			var as []*store.Msg
			for _, m := range msgs {
				if m.Key == "a" {
					as = append(as, m)
				}
			}
			e.wantBodies(as, "a1", "a2", "a3")
		},
		"finish and send to the same lane": func(e *env) {
			e.send("t", "k", "0")
			for i := range 5 {
				m := e.one("t")
				e.wantBodies([]*store.Msg{m}, fmt.Sprint(i))
				if m.Attempt != 1 {
					e.Errorf("attempt %d of a new message, want 1", m.Attempt)
				}
				e.commit(store.Commit{Done: m, Sends: []store.Send{{Topic: "t", Key: "k", Body: fmt.Append(nil, i+1)}}})
			}
			if st := e.topic("", "t"); st.Depth != 1 || st.Lanes != 1 {
				e.Errorf("depth %d, lanes %d, want 1 and 1", st.Depth, st.Lanes)
			}
		},
		"an ended context": func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx())
			cancel()
			if err := e.Commit(ctx, &store.Commit{Sends: []store.Send{{Topic: "t", Key: "k"}}}); !errors.Is(err, context.Canceled) {
				e.Errorf("Commit: got %v, want context.Canceled", err)
			}
			if _, err := e.Claim(ctx, store.ClaimRequest{Topic: "t", Owner: "o", Lanes: 1, Lease: 1e9}); !errors.Is(err, context.Canceled) {
				e.Errorf("Claim: got %v, want context.Canceled", err)
			}
			if _, err := e.Get(ctx, "", "note", "k"); !errors.Is(err, context.Canceled) {
				e.Errorf("Get: got %v, want context.Canceled", err)
			}
		},
	})
}
