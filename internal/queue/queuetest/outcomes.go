package queuetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// outcomes is what becomes of a message, by what its handler returns.
func (s suite) outcomes(t *testing.T) {
	s.group(t, map[string]func(*env){
		"commit and end are one": func(e *env) {
			var committed atomic.Int32
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				return &store.Commit{
					Puts:   []store.Put{effect(m)},
					Sends:  []store.Send{{Topic: "next", Key: m.Key, Body: m.Body}},
					Events: []store.Event{{Subject: "job/" + m.Key, Kind: "done", Data: []byte(`{}`)}},
				}, nil
			})
			o.Committed = func(m *store.Msg, c *store.Commit) {
				if c.Done == m && len(c.Sends) == 1 {
					committed.Add(1)
				}
			}
			e.start(o)
			e.send("a", "a1", "a2")
			e.drained()
			e.wantEffects("a1", "a2")
			next, _, err := e.Peek(e.ctx(), "", "next", "", 10)
			events, err2 := e.Events(e.ctx(), "", "job/a", "", 10)
			if err != nil || err2 != nil || len(next) != 2 || len(events) != 2 || committed.Load() != 2 {
				e.Errorf("%d messages sent on, %d events, %d calls of Committed, want 2 of each: %v, %v",
					len(next), len(events), committed.Load(), err, err2)
			}
		},
		"nothing to commit": func(e *env) {
			e.start(e.options("n", func(context.Context, *store.Msg) (*store.Commit, error) { return nil, nil }))
			e.send("a", "a1")
			e.drained()
		},
		"failures back off and end in a dead letter": func(e *env) {
			start := time.Now()
			var calls log
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if string(m.Body) != "bad" {
					return done(m)
				}
				calls.add("%d/%d@%v", m.Attempt, m.Fails, time.Since(start))
				return nil, errors.New("no such file")
			})
			o.MaxFails = 4
			e.start(o)
			e.send("a", "bad", "a2")
			e.send("b", "b1", "b2")
			e.settle()
			e.wantEffects("b1", "b2") // others go on meanwhile
			e.drained()
			e.want("calls", calls.String(), "1/0@0s 2/1@500ms 3/2@1.5s 4/3@3.5s")
			e.wantEffects("a2", "b1", "b2")
			l := e.wantLetter("bad", "failed 4 times: no such file")
			if l.Topic != topic || l.Key != "a" || l.Attempt != 4 || l.Fails != 3 {
				e.Errorf("dead letter %+v, want topic, key, 4 deliveries and 3 failures before the last", l)
			}
		},
		"a handler panics": func(e *env) {
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if m.Key == "a" {
					var none map[string]int
					none["x"] = 1
				}
				return done(m)
			})
			o.MaxFails = 2
			e.start(o)
			e.send("a", "a1")
			e.send("b", "b1")
			e.drained()
			e.wantLetter("a1", "panicked: assignment to entry in nil map")
			e.wantEffects("b1")
		},
		"bury": func(e *env) {
			e.start(e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if m.Key == "a" {
					return nil, fmt.Errorf("look at it: %w", queue.Bury("there is no pipeline %s", "x"))
				}
				return done(m)
			}))
			e.send("a", "a1")
			e.send("b", "b1")
			e.settle()
			e.wantLetter("a1", "there is no pipeline x")
			e.wantEffects("b1")
		},
		"a message that breaks a rule is buried at once": func(e *env) {
			e.start(e.options("n", func(context.Context, *store.Msg) (*store.Commit, error) {
				return nil, waybill.E(waybill.KindInvalid, "the number is negative")
			}))
			e.send("a", "a1")
			e.settle()
			e.wantLetter("a1", "the number is negative")
		},
		"a commit that can never be is buried at once": func(e *env) {
			e.start(e.options("n", func(context.Context, *store.Msg) (*store.Commit, error) {
				return &store.Commit{Puts: []store.Put{{Table: "unknown", Key: "x", Val: []byte(`1`)}}}, nil
			}))
			e.send("a", "a1")
			e.settle()
			e.wantLetter("a1", "unknown")
		},
		"retry": func(e *env) {
			start := time.Now()
			var calls log
			e.start(e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				calls.add("%d/%d@%v", m.Attempt, m.Fails, time.Since(start))
				if m.Fails < 2 {
					return nil, queue.Retry(7*time.Second, errors.New("not yet"))
				}
				return done(m)
			}))
			e.send("a", "a1")
			e.drained()
			e.want("calls", calls.String(), "1/0@0s 2/1@7s 3/2@14s")
			e.wantEffects("a1")
		},
		"yield counts nothing": func(e *env) {
			start := time.Now()
			calls := 0
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if calls++; calls <= 30 {
					if m.Attempt != 1 || m.Fails != 0 {
						e.Errorf("call %d: attempt %d, fails %d", calls, m.Attempt, m.Fails)
					}
					return nil, queue.Yield(2*time.Second, "the gate is closed")
				}
				return done(m)
			})
			o.MaxFails, o.MaxDeliveries = 2, 2
			e.start(o)
			e.send("a", "a1", "a2")
			e.drained()
			e.wantEffects("a1", "a2")
			if took := time.Since(start); took < 60*time.Second || took > 70*time.Second {
				e.Errorf("30 yields of 2 s took %v", took)
			}
		},
		"a conflict makes the handler look again": func(e *env) {
			calls := 0
			var o queue.Options
			o = e.options("n", func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				put, err := e.line(ctx, m)
				if calls++; calls <= 3 { // somebody else writes the row meanwhile
					other := *m
					other.Body = fmt.Appendf(nil, "other%d", calls)
					p, err := e.line(ctx, &other)
					if err != nil {
						return nil, err
					}
					e.commit(store.Commit{Puts: []store.Put{p}})
				}
				return &store.Commit{Puts: []store.Put{put, effect(m)}}, err
			})
			e.start(o)
			e.send("a", "a1")
			e.settle()
			if e.drained(); calls != 4 {
				e.Errorf("%d calls, want 4", calls)
			}
			e.wantEffects("a1")
			bodies, _, err := e.readLine(e.ctx(), "a")
			e.want("row", fmt.Sprint(bodies, err), "[other1 other2 other3 a1] <nil>")
		},
		"endless conflicts are a failure": func(e *env) {
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				return &store.Commit{Puts: []store.Put{{Table: "effect", Key: "gone", Rev: 7, Val: []byte(`1`)}}}, nil
			})
			o.MaxFails = 2
			e.start(o)
			e.send("a", "a1")
			e.drained()
			e.wantLetter("a1", "revision conflict")
		},
		"a killer of workers is buried": func(e *env) {
			calls := 0
			o := e.options("n", nil)
			o.MaxDeliveries = 3
			o.Handler = func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				calls++
				<-ctx.Done() // the process has died
				return nil, queue.ErrLeave
			}
			e.send("a", "bad", "a2")
			for range 3 {
				w := e.start(o)
				e.settle()
				w.Stop()
			}
			e.want("dead letters", show(e.letters()), "")
			o.Handler = func(_ context.Context, m *store.Msg) (*store.Commit, error) { calls++; return done(m) }
			e.start(o)
			e.drained()
			e.wantLetter("bad", "worker_killer: 3 deliveries ended without an outcome")
			e.wantEffects("a2")
			if calls != 4 {
				e.Errorf("%d calls, want three for the killer and one for the next", calls)
			}
		},
		"the burial and what it means to others are one": func(e *env) {
			n := e.node()
			calls := 0
			o := e.options("n", func(context.Context, *store.Msg) (*store.Commit, error) { return nil, queue.Bury("no") })
			o.Store = n
			o.Buried = func(ctx context.Context, m *store.Msg, reason string) (*store.Commit, error) {
				put, err := e.line(ctx, m)
				if calls++; calls == 1 {
					put.Rev = 9 // a conflict
				}
				return &store.Commit{Puts: []store.Put{put}, Sends: []store.Send{{Topic: "waiting", Key: "a", Body: []byte(reason)}}}, err
			}
			n.fail(before, before)
			e.start(o)
			e.send("a", "a1")
			e.settle()
			e.want("dead letters while the store is cut off", show(e.letters()), "")
			if bodies, _, _ := e.readLine(e.ctx(), "a"); len(bodies) > 0 {
				e.Errorf("the hook's commit was made without the burial: %v", bodies)
			}
			e.drained()
			e.wantLetter("a1", "no")
			bodies, _, err := e.readLine(e.ctx(), "a")
			e.want("row", fmt.Sprint(bodies, err), "[a1] <nil>")
			told, _, err := e.Peek(e.ctx(), "", "waiting", "", 10)
			if err != nil || len(told) != 1 || string(told[0].Body) != "no" || calls != 2 {
				e.Errorf("told %d times after %d calls of the hook, %v", len(told), calls, err)
			}
		},
		"a burial is not prevented by its hook": func(e *env) {
			o := e.options("n", func(context.Context, *store.Msg) (*store.Commit, error) { return nil, queue.Bury("no") })
			o.Buried = func(_ context.Context, m *store.Msg, _ string) (*store.Commit, error) {
				switch m.Key {
				case "panic":
					panic("oh")
				case "error":
					return nil, errors.New("oh")
				case "never":
					return &store.Commit{Puts: []store.Put{{Table: "unknown", Key: "x", Val: []byte(`1`)}}}, nil
				}
				return nil, nil
			}
			e.start(o)
			for _, key := range []string{"panic", "error", "never", "nothing"} {
				e.send(key, key)
			}
			e.settle()
			if got := e.letters(); len(got) != 4 {
				e.Errorf("dead letters: %s, want four", show(got))
			}
		},
	})
}
