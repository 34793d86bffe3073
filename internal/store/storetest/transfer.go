package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// everything puts something of every kind into a store.
func (e *env) everything() {
	e.Helper()
	for i := range 30 {
		k := fmt.Sprintf("k%02d", i)
		e.commit(store.Commit{
			ID:     "once-" + k,
			Puts:   []store.Put{{Table: "item", Key: k, Val: newItem("n<"+k+">", int64(100-i), fmt.Sprint("g", i%3))}, {Table: "note", Key: k, Val: []byte(`{"a": 1 }`)}},
			Sends:  []store.Send{{Topic: "t", Key: fmt.Sprint("lane", i%4), Body: []byte(k)}},
			Events: []store.Event{event(fmt.Sprint("s", i%2), fmt.Sprintf(`{"i":%d}`, i))},
		})
		e.clock.Advance(time.Second)
	}
	e.commit(store.Commit{Puts: []store.Put{{Table: "item", Key: "k03", Rev: 1, Val: newItem("again", 7, "g0")}}})
	e.commit(store.Commit{Puts: []store.Put{{Table: "item", Key: "k04", Rev: 1}}})
	e.commit(store.Commit{Tenant: "acme", Puts: []store.Put{{Table: "item", Key: "k00", Val: newItem("theirs", 1, "g9")}}, Sends: []store.Send{{Topic: "t", Key: "lane0", Body: []byte("theirs")}}})
	e.commit(store.Commit{Sends: []store.Send{
		{Topic: "timer", Key: "a", Body: []byte("in an hour"), Delay: time.Hour},
		{Topic: "urgent", Key: "low", Body: []byte("low")}, {Topic: "urgent", Key: "high", Body: []byte("high"), Priority: 5},
		{Topic: "mixed", Key: "a", Body: []byte("first")}, {Topic: "mixed", Key: "a", Body: []byte("held up"), Delay: 2 * time.Hour},
		{Topic: "bad", Key: "b", Body: []byte("poison\x00\xff")}, {Topic: "done", Key: "d"},
	}})
	e.commit(store.Commit{Done: e.one("done")})
	e.commit(store.Commit{Dead: e.one("bad"), Reason: "it never works"})
	e.send("leased", "a", "1", "2", "3")
	e.send("failed", "a", "x")
	e.commit(store.Commit{Retry: e.one("failed"), Delay: time.Minute, Reason: "again"})
	if got := e.claim(store.ClaimRequest{Topic: "leased", PerLane: 2, Owner: "worker", Lease: 10 * time.Minute}); len(got) != 2 {
		e.Fatalf("claimed %s", bodies(got))
	}
	if err := e.Pause(e.ctx(), "mixed", true); err != nil {
		e.Fatal(err)
	}
}

// other opens another empty store with the same clock.
func (e *env) other() *env {
	e.Helper()
	st := e.suite.opts.Open(e.T, Schema(), e.clock.Now)
	e.Cleanup(func() { closeStore(e.T, st) })
	return &env{e.T, st, e.suite, e.clock}
}

func (e *env) digest() *store.Digest {
	e.Helper()
	d, err := store.DigestOf(e.ctx(), e.Store)
	if err != nil {
		e.Fatalf("Export: %v", err)
	}
	return d
}

func (e *env) moved(to *env) {
	e.Helper()
	if err := to.Import(e.ctx(), e.Export(e.ctx())); err != nil {
		e.Fatalf("Import: %v", err)
	}
}

func items(list []store.Item, last error) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		for _, i := range list {
			if !yield(i, nil) {
				return
			}
		}
		if last != nil {
			yield(store.Item{}, last)
		}
	}
}

func (e *env) exported() []store.Item {
	e.Helper()
	var all []store.Item
	for i, err := range e.Export(e.ctx()) {
		if err != nil {
			e.Fatalf("Export: %v", err)
		}
		all = append(all, i)
	}
	return all
}

func (s suite) transfer(t *testing.T) {
	s.group(t, map[string]func(*env){
		"everything arrives": func(e *env) {
			e.everything()
			to := e.other()
			e.moved(to)
			if err := e.digest().Compare(to.digest()); err != nil {
				e.Error(err)
			}
			for _, table := range []string{"item", "note", store.DeadTable} {
				if a, b := fmt.Sprint(e.counts(table)), fmt.Sprint(to.counts(table)); a != b {
					e.Errorf("counters of %s: %s, were %s", table, b, a)
				}
			}
			was, err1 := e.Topics(e.ctx(), "*")
			is, err2 := to.Topics(e.ctx(), "*")
			if err := errors.Join(err1, err2); err != nil {
				e.Fatal(err)
			}
			if len(was) != len(is) || len(was) < 8 {
				e.Errorf("%d topics, were %d", len(is), len(was))
			}
			for _, a := range was {
				for _, b := range is {
					if a.Topic == b.Topic && a.Tenant == b.Tenant && (a.Depth != b.Depth || a.Dead != b.Dead || a.Lanes != b.Lanes || a.Leased != b.Leased || a.Paused != b.Paused) {
						e.Errorf("topic %+v, was %+v", b, a)
					}
				}
			}
			to.reopen(Schema())
			if err := e.digest().Compare(to.digest()); err != nil {
				e.Errorf("after a restart: %v", err)
			}
		},
		"and goes on": func(e *env) {
			e.everything()
			to := e.other()
			e.moved(to)
			to.wantRow("item", "k03", 2, string(newItem("again", 7, "g0")))
			to.wantNoRow("item", "k04")
			page, err := to.Query(to.ctx(), store.Query{Table: "item", Order: "size", Limit: 2})
			if err != nil || len(page.Rows) != 2 || page.Rows[0].Key != "k03" {
				e.Errorf("sorted by a derived column: %+v, %v", page.Rows, err)
			}
			// A commit that is repeated was applied there.
			to.commit(store.Commit{ID: "once-k00", Puts: []store.Put{{Table: "item", Key: "k00", Rev: 0, Val: newItem("no", 0, "x")}}})
			// Leases hold, until their owner takes up its own.
			to.none("leased")
			got := to.claim(store.ClaimRequest{Topic: "leased", PerLane: 10, Owner: "worker", Reclaim: true})
			to.wantBodies(got, "1", "2", "3")
			if got[0].Attempt != 2 {
				e.Errorf("delivery %d of what was leased, want the second", got[0].Attempt)
			}
			to.none("failed")
			to.none("timer")
			to.wantBodies(to.claim(store.ClaimRequest{Topic: "urgent", Lanes: 2}), "high", "low")
			if err := to.Pause(to.ctx(), "mixed", false); err != nil {
				e.Fatal(err)
			}
			to.commit(store.Commit{Done: to.one("mixed")})
			to.none("mixed")
			to.clock.Advance(2 * time.Hour)
			to.wantBodies(to.claim(store.ClaimRequest{Topic: "mixed"}), "held up")
			to.wantBodies(to.claim(store.ClaimRequest{Topic: "timer"}), "in an hour")
			m := to.one("failed")
			if m.Fails != 1 || m.Attempt != 2 {
				e.Errorf("what had failed once: fails %d, delivery %d", m.Fails, m.Attempt)
			}
			var order []string
			for _, m := range to.claim(store.ClaimRequest{Topic: "t", Lanes: 10, PerLane: 10}) {
				if m.Key == "lane1" && m.Tenant == store.DefaultTenant {
					order = append(order, string(m.Body))
				}
			}
			if fmt.Sprint(order) != "[k01 k05 k09 k13 k17 k21 k25 k29]" {
				e.Errorf("order of a lane: %v", order)
			}
		},
		"new events come after the old ones": func(e *env) {
			e.everything()
			all := e.tail(30)
			if err := e.TrimEvents(e.ctx(), "", []string{"s1"}); err != nil { // the newest is of it
				e.Fatal(err)
			}
			to := e.other()
			e.moved(to)
			to.commit(store.Commit{Events: []store.Event{event("new", `{}`)}})
			// Who had read all of the old log sees what is new, and nothing twice.
			var got []store.StoredEvent
			e.eventually("the new event", func() bool {
				var err error
				if got, err = to.Tail(to.ctx(), all[29].Cursor, 10); err != nil {
					e.Fatal(err)
				}
				return len(got) > 0
			})
			if len(got) != 1 || got[0].Subject != "new" {
				e.Errorf("after the last cursor of the old log: %+v", got)
			}
			mid, err := to.Tail(to.ctx(), all[10].Cursor, 100)
			if err != nil || len(mid) != 10 || mid[0].Subject != "s0" {
				e.Errorf("after a cursor of the old log there are %d events, %v, want 10", len(mid), err)
			}
		},
		"all or nothing": func(e *env) {
			e.everything()
			all := e.exported()
			to := e.other()
			broken := errors.New("the source broke")
			if err := to.Import(e.ctx(), items(all[:len(all)-2], broken)); !errors.Is(err, broken) {
				e.Errorf("an import that broke off: %v", err)
			}
			for what, list := range map[string][]store.Item{
				"an unknown table":   append(all[:len(all):len(all)], store.Item{Row: &store.RowItem{Table: "nobody", Tenant: "x", Key: "k", Rev: 1, Val: []byte(`1`)}}),
				"a bad row":          append(all[:len(all):len(all)], store.Item{Row: &store.RowItem{Table: "item", Tenant: "x", Key: "k", Rev: 1, Val: []byte(`{"bad":true}`)}}),
				"a row twice":        append(all[:len(all):len(all)], all...),
				"a stray message":    append(all[:len(all):len(all)], store.Item{Msg: &store.MsgItem{Seq: 9}}),
				"a message missing":  append(all[:len(all):len(all)], store.Item{Lane: &store.LaneItem{Tenant: "x", Topic: "x", Key: "x", N: 2, Tail: 2}}),
				"nothing in an item": append(all[:len(all):len(all)], store.Item{}),
			} {
				if err := to.Import(e.ctx(), items(list, nil)); err == nil {
					e.Errorf("%s was imported", what)
				}
			}
			if d := to.digest(); d.Items() != 0 {
				e.Errorf("after imports that failed there are %v", d.Counts)
			}
			if err := to.Import(e.ctx(), items(all, nil)); err != nil {
				e.Fatalf("Import after ones that failed: %v", err)
			}
			err := to.Import(e.ctx(), items(all, nil))
			e.wantKind("Import into a full store", err, waybill.KindConflict)
			if err := e.digest().Compare(to.digest()); err != nil {
				e.Error(err)
			}
		},
		"as text and back": func(e *env) {
			e.everything()
			var text bytes.Buffer
			d, err := store.WriteItems(&text, e.Export(e.ctx()))
			if err != nil {
				e.Fatal(err)
			}
			if err := d.Compare(e.digest()); err != nil {
				e.Error(err)
			}
			whole := text.String()
			to := e.other()
			lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
			for what, bad := range map[string]string{
				"cut off at the end": strings.Join(lines[:len(lines)-1], ""),
				"cut off in a line":  whole[:len(whole)/2],
				"a line missing":     strings.Join(lines[:5], "") + strings.Join(lines[6:], ""),
				"a byte changed":     strings.Replace(whole, "lane1", "lane9", 1),
				"nothing":            "",
			} {
				if err := to.Import(e.ctx(), store.ReadItems(strings.NewReader(bad))); err == nil {
					e.Errorf("text with %s was imported", what)
				}
			}
			if err := to.Import(e.ctx(), store.ReadItems(strings.NewReader(whole))); err != nil {
				e.Fatal(err)
			}
			if err := e.digest().Compare(to.digest()); err != nil {
				e.Error(err)
			}
		},
		"one moment of a busy store": func(e *env) {
			ctx := e.ctx()
			stop := make(chan struct{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					k := fmt.Sprint(i)
					if err := e.Commit(ctx, &store.Commit{
						Puts: []store.Put{{Table: "note", Key: k, Val: []byte(`1`)}}, Sends: []store.Send{{Topic: "t", Key: k}}, Events: []store.Event{event(k, `{}`)},
					}); err != nil {
						e.Errorf("Commit: %v", err)
						return
					}
				}
			}()
			for range 5 {
				d := e.digest()
				if n := d.Counts["note"]; d.Counts[".lanes"] != n || d.Counts[".events"] != n {
					e.Errorf("an export while others write holds parts of commits: %v", d.Counts)
				}
			}
			close(stop)
			<-done
		},
	})
}

// Between moves what one kind of store holds into another kind. It is for the
// tests of the program, which knows several.
func Between(t *testing.T, from, to Options) {
	a, b := suite{from}, suite{to}
	e := a.env(t)
	e.everything()
	st := to.Open(t, Schema(), e.clock.Now)
	t.Cleanup(func() { closeStore(t, st) })
	other := &env{t, st, b, e.clock}
	e.moved(other)
	if err := e.digest().Compare(other.digest()); err != nil {
		t.Error(err)
	}
	for _, table := range []string{"item", "note", store.DeadTable} {
		if x, y := fmt.Sprint(e.counts(table)), fmt.Sprint(other.counts(table)); x != y {
			t.Errorf("counters of %s: %s, were %s", table, y, x)
		}
	}
	got := other.claim(store.ClaimRequest{Topic: "leased", PerLane: 10, Owner: "worker", Reclaim: true})
	other.wantBodies(got, "1", "2", "3")
	other.clock.Advance(3 * time.Hour)
	other.wantBodies(other.claim(store.ClaimRequest{Topic: "timer"}), "in an hour")
	other.commit(store.Commit{Events: []store.Event{event("new", `{}`)}})
	events := other.tail(31)
	if last := events[len(events)-1]; last.Subject != "new" || events[0].Subject != "s0" {
		t.Errorf("the log begins with %s and ends with %s", events[0].Subject, last.Subject)
	}
}
