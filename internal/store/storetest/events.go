package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func event(subject, data string) store.Event {
	return store.Event{Subject: subject, Kind: "test", Data: []byte(data)}
}

func datas(events []store.StoredEvent) []string {
	var out []string
	for _, ev := range events {
		out = append(out, string(ev.Data))
	}
	return out
}

func (s suite) events(t *testing.T) {
	s.group(t, map[string]func(*env){
		"what an event says": func(e *env) {
			at := e.clock.Now().Add(-time.Hour)
			e.commit(store.Commit{Tenant: "acme", Events: []store.Event{{Subject: "run/1", Kind: "started", Data: []byte(`{"a":1}`), At: at}}})
			got := e.tail(1)[0]
			if got.Tenant != "acme" || got.Subject != "run/1" || got.Kind != "started" || string(got.Data) != `{"a":1}` || !got.At.Equal(at) || got.Cursor == "" {
				e.Errorf("got %+v", got)
			}
		},
		"pages": func(e *env) {
			if got, err := e.Tail(e.ctx(), "", 10); err != nil || len(got) > 0 {
				e.Errorf("Tail of an empty log: %v, %v", got, err)
			}
			if _, err := e.Head(e.ctx()); err != nil {
				e.Errorf("Head of an empty log: %v", err)
			}
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprint(2*i), fmt.Sprint(2*i+1))
				e.commit(store.Commit{Events: []store.Event{event("s", want[2*i]), event("s", want[2*i+1])}})
			}
			all := e.tail(40)
			if got := datas(all); !slices.Equal(got, want) {
				e.Errorf("got %v, want %v", got, want)
			}
			for i, ev := range all {
				got, err := e.Tail(e.ctx(), ev.Cursor, 3)
				if err != nil || !slices.Equal(datas(got), want[i+1:min(i+4, 40)]) {
					e.Fatalf("after event %d: %v, %v", i, datas(got), err)
				}
			}
			head, err := e.Head(e.ctx())
			if err != nil {
				e.Fatal(err)
			}
			if got, err := e.Tail(e.ctx(), head, 10); err != nil || len(got) > 0 {
				e.Errorf("after the head: %v, %v, want none", datas(got), err)
			}
			e.commit(store.Commit{Events: []store.Event{event("s", "after")}})
			e.eventually("the event after the head", func() bool {
				got, err := e.Tail(e.ctx(), head, 10)
				if err != nil || len(got) > 1 {
					e.Fatalf("after the head: %v, %v, want one", datas(got), err)
				}
				return len(got) == 1 && string(got[0].Data) == "after"
			})
			_, err = e.Tail(e.ctx(), "no such cursor", 10)
			e.wantKind("Tail with a bad cursor", err, waybill.KindInvalid)
			_, err = e.Events(e.ctx(), "", "s", "no such cursor", 10)
			e.wantKind("Events with a bad cursor", err, waybill.KindInvalid)
		},
		"of one subject": func(e *env) {
			for i := range 10 {
				e.commit(store.Commit{Events: []store.Event{event("run/1", fmt.Sprint(i)), event("run/11", "x"), event("run/%", "y")}})
				// A reader who comes after the commit sees it.
				got, err := e.Events(e.ctx(), "", "run/1", "", 100)
				if err != nil || len(got) != i+1 {
					e.Fatalf("after commit %d: %v, %v", i, datas(got), err)
				}
			}
			e.commit(store.Commit{Tenant: "acme", Events: []store.Event{event("run/1", "other")}})
			var all []string
			var at store.Cursor
			for {
				got, err := e.Events(e.ctx(), "", "run/1", at, 3)
				if err != nil {
					e.Fatal(err)
				}
				if len(got) == 0 {
					break
				}
				all = append(all, datas(got)...)
				at = got[len(got)-1].Cursor
			}
			if fmt.Sprint(all) != "[0 1 2 3 4 5 6 7 8 9]" {
				e.Errorf("got %v", all)
			}
			if got, err := e.Events(e.ctx(), "acme", "run/1", "", 3); err != nil || fmt.Sprint(datas(got)) != "[other]" {
				e.Errorf("other tenant: %v, %v", datas(got), err)
			}
		},
		"trim": func(e *env) {
			for i := range 6 {
				e.commit(store.Commit{Events: []store.Event{event(fmt.Sprint("s", i%3), fmt.Sprint(i))}})
			}
			e.commit(store.Commit{Tenant: "acme", Events: []store.Event{event("s0", "other")}})
			all := e.tail(7)
			if err := e.TrimEvents(e.ctx(), "", []string{"s0", "s2", "none"}); err != nil {
				e.Fatal(err)
			}
			if err := e.TrimEvents(e.ctx(), "", nil); err != nil {
				e.Fatal(err)
			}
			if got := datas(e.tail(3)); fmt.Sprint(got) != "[1 4 other]" {
				e.Errorf("left: %v", got)
			}
			// Cursors of events that are gone are still good.
			got, err := e.Tail(e.ctx(), all[2].Cursor, 10)
			if err != nil || fmt.Sprint(datas(got)) != "[4 other]" {
				e.Errorf("after a trimmed event: %v, %v", datas(got), err)
			}
		},
		"watch": func(e *env) {
			bell, cancel := e.Watch()
			defer cancel()
			e.commit(store.Commit{Events: []store.Event{event("s", "1")}})
			e.rings(bell, "an event")
			drain(bell)
			e.commit(store.Commit{Events: []store.Event{event("s", "1")}})
			e.rings(bell, "another event")
			cancel()
			cancel()
		},
		"cursors outlive a restart": func(e *env) {
			e.commit(store.Commit{Events: []store.Event{event("s", "1"), event("s", "2")}})
			at := e.tail(2)[0].Cursor
			e.reopen(Schema())
			e.commit(store.Commit{Events: []store.Event{event("s", "3")}})
			e.eventually("the new event", func() bool {
				got, err := e.Tail(e.ctx(), at, 10)
				if err != nil {
					e.Fatal(err)
				}
				return fmt.Sprint(datas(got)) == "[2 3]"
			})
		},
		"none is missed": func(e *env) { tailWhileWriting(e, []store.Store{e.Store}) },
	})
}

// tailWhileWriting tails the log while many write to it through several handles,
// and checks that every acknowledged event came, once, in the order of its
// subject. Two kinds of order are checked: what one writer did one after
// another, and what different writers did to one row, whose revision says who
// was first. Commits touch lanes in random order before and after the row, so
// that transactions begin and lock in every combination.
func tailWhileWriting(e *env, stores []store.Store) {
	const writers, each, rows = 8, 40, 3
	ctx := e.ctx()
	var mu sync.Mutex
	want := map[string]bool{}
	var writing atomic.Bool
	writing.Store(true)

	var got []store.StoredEvent
	var tailer sync.WaitGroup
	tailer.Go(func() {
		var at store.Cursor
		deadline := time.Now().Add(20 * time.Second)
		for time.Now().Before(deadline) {
			last := !writing.Load()
			evs, err := e.Tail(ctx, at, 37)
			if err != nil {
				e.Errorf("Tail: %v", err)
				return
			}
			got = append(got, evs...)
			if len(evs) > 0 {
				at = evs[len(evs)-1].Cursor
				continue
			}
			mu.Lock()
			n := len(want)
			mu.Unlock()
			if last && len(got) >= n {
				return
			}
		}
	})
	parallel(writers, func(w int) {
		st := stores[w%len(stores)]
		rng := rand.New(rand.NewPCG(uint64(w), 9))
		for i := range each {
			row := fmt.Sprint(rng.IntN(rows))
			for {
				r, err := st.Get(ctx, "", "note", row)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					e.Errorf("Get: %v", err)
					return
				}
				own, shared := fmt.Sprintf(`{"w":%d,"n":%d}`, w, i), fmt.Sprintf(`{"row":%s,"n":%d}`, row, r.Rev)
				c := store.Commit{
					Puts:   []store.Put{{Table: "note", Key: row, Rev: r.Rev, Val: []byte(`1`)}},
					Events: []store.Event{event(fmt.Sprint("writer/", w), own), event("row/"+row, shared)},
				}
				for range rng.IntN(3) {
					c.Sends = append(c.Sends, store.Send{Topic: "t", Key: fmt.Sprint(rng.IntN(4))})
				}
				err = st.Commit(ctx, &c)
				if err == nil {
					mu.Lock()
					want[own], want[shared] = true, true
					mu.Unlock()
					break
				}
				if !errors.Is(err, store.ErrConflict) {
					e.Errorf("Commit: %v", err)
					return
				}
			}
		}
	})
	writing.Store(false)
	tailer.Wait()

	next := map[string]int{}
	seen := map[string]bool{}
	for _, ev := range got {
		var d struct{ N int }
		if err := json.Unmarshal(ev.Data, &d); err != nil {
			e.Fatal(err)
		}
		if seen[string(ev.Data)] || !want[string(ev.Data)] {
			e.Errorf("%s %s came twice or was never acknowledged", ev.Subject, ev.Data)
		}
		seen[string(ev.Data)] = true
		if d.N != next[ev.Subject] {
			e.Errorf("%s: event %d came where %d was due", ev.Subject, d.N, next[ev.Subject])
		}
		next[ev.Subject] = d.N + 1
	}
	if len(seen) != len(want) {
		e.Errorf("%d of %d events were tailed", len(seen), len(want))
	}
	for w := range writers {
		evs, err := e.Events(ctx, "", fmt.Sprint("writer/", w), "", 1000)
		if err != nil || len(evs) != each {
			e.Errorf("%d events of writer %d, %v, want %d", len(evs), w, err, each)
		}
	}
}
