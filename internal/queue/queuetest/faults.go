package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// faults is what happens when servers die, pause, and lose their store.
func (s suite) faults(t *testing.T) {
	s.group(t, map[string]func(*env){
		"a worker dies": func(e *env) {
			n := e.node()
			g := newGate()
			o := e.options("dead", g.handle)
			o.Store, o.PerLane = n, 2
			e.start(o)
			e.send("a", "a1", "a2", "a3")
			e.settle()
			n.cut()
			start := time.Now()
			var took time.Duration
			e.start(e.options("heir", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if string(m.Body) == "a1" {
					took = time.Since(start)
					if m.Attempt != 2 || m.Fails != 0 {
						e.Errorf("attempt %d, fails %d, want 2 and 0", m.Attempt, m.Fails)
					}
				}
				return done(m)
			}))
			e.pass(lease - time.Second)
			e.wantEffects()
			e.drained()
			e.wantEffects("a1", "a2", "a3")
			if took < lease || took > lease+poll {
				e.Errorf("taken up after %v, want the lease of %v", took, lease)
			}
			close(g.open)
		},
		"a dead worker starts again": func(e *env) {
			n := e.node()
			g := newGate()
			o := e.options("me", g.handle)
			o.Store = n
			e.start(o)
			e.send("a", "a1")
			e.settle()
			n.cut()
			start := time.Now()
			e.start(e.options("me", done2))
			e.settle()
			e.wantEffects("a1")
			if time.Since(start) != 0 {
				e.Errorf("waited %v for its own lease", time.Since(start))
			}
			// The ghost of the first life comes back and finishes.
			n.heal()
			close(g.open)
			e.pass(time.Minute)
			e.wantEffects("a1")
			e.want("dead letters", show(e.letters()), "")
		},
		"a worker is paused past its lease": func(e *env) {
			n := e.node()
			causes := make(chan error, 1)
			let := make(chan struct{})
			o := e.options("paused", func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				if string(m.Body) != "a1" {
					return done(m)
				}
				<-ctx.Done()
				causes <- context.Cause(ctx)
				<-let
				return &store.Commit{Puts: []store.Put{{Table: "effect", Key: "ghost", Val: []byte(`1`)}}}, nil
			})
			o.Store = n
			e.start(o)
			e.send("a", "a1", "a2")
			e.settle()
			n.cut()
			g := newGate()
			e.start(e.options("heir", g.handle))
			e.pass(lease + poll)
			e.want("taken over", g.log.String(), "a1")
			n.heal()
			e.pass(lease / 3)
			if err := <-causes; !errors.Is(err, store.ErrLeaseLost) {
				e.Errorf("the paused handler was told %v, want that the lease is lost", err)
			}
			close(let) // and commits all the same
			e.settle()
			e.wantEffects()
			close(g.open)
			e.drained()
			e.wantEffects("a1", "a2")
		},
		"the answer to a commit is lost": func(e *env) {
			n := e.node()
			calls := map[string]int{}
			o := e.options("n", nil)
			o.Store, o.PerLane, o.Slots = n, 4, 1
			o.Handler = func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				calls[string(m.Body)]++
				switch string(m.Body) {
				case "2", "3":
					n.fail(after)
				case "4":
					n.fail(before, before, after)
				case "6":
					n.fail(after, before)
				}
				put, err := e.line(ctx, m)
				return &store.Commit{Puts: []store.Put{put, effect(m)}, Sends: []store.Send{{Topic: "next", Key: m.Key, Body: m.Body}}}, err
			}
			e.send("a", "1", "2", "3", "4", "5", "6", "7")
			start := time.Now()
			e.start(o)
			e.drained()
			e.wantEffects("1", "2", "3", "4", "5", "6", "7")
			bodies, _, err := e.readLine(e.ctx(), "a")
			e.want("order", fmt.Sprint(bodies, err), "[1 2 3 4 5 6 7] <nil>")
			next, _, err := e.Peek(e.ctx(), "", "next", "", 100)
			if err != nil || len(next) != 7 {
				e.Errorf("%d messages were sent on, want 7: %v", len(next), err)
			}
			for body, c := range calls {
				if c != 1 {
					e.Errorf("message %s: %d calls", body, c)
				}
			}
			if took := time.Since(start); took >= lease {
				e.Errorf("took %v: a session that was still ours was given up", took)
			}
			e.want("dead letters", show(e.letters()), "")
		},
		"the answer to a burial, retry or yield is lost": func(e *env) {
			for _, f := range []fault{before, after} {
				n := e.node()
				o := e.options(fmt.Sprint(f), nil)
				o.Store, o.MaxFails, o.Topic = n, 2, fmt.Sprint("t", f)
				o.Handler = func(_ context.Context, m *store.Msg) (*store.Commit, error) {
					n.fail(f)
					return nil, errors.New("no")
				}
				w := e.start(o)
				e.commit(store.Commit{Sends: []store.Send{{Topic: o.Topic, Key: "k", Body: []byte(o.Topic)}}})
				e.pass(time.Minute)
				w.Stop()
			}
			got := e.letters()
			if len(got) != 2 || got[0].Attempt != 2 || got[1].Attempt != 2 {
				e.Errorf("dead letters: %s, want one of each topic after two deliveries", show(got))
			}
		},
		"the answer to a commit comes late": func(e *env) {
			// The lease is renewed between a commit and its answer. The message is no
			// longer in the queue then, but those behind it are ours.
			n := e.node()
			o := e.options("n", nil)
			o.Store, o.PerLane = n, 4
			var calls log
			o.Handler = func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				calls.add("%s", m.Body)
				if ctx.Err() != nil {
					e.Errorf("message %s begins with a context that has ended: %v", m.Body, context.Cause(ctx))
				}
				return done(m)
			}
			n.fail(late, late, late, late)
			e.send("a", "1", "2", "3", "4")
			e.start(o)
			e.pass(2 * lease)
			e.want("calls", calls.String(), "1 2 3 4")
			e.wantEffects("1", "2", "3", "4")
		},
		"the store is gone for long": func(e *env) {
			n := e.node()
			var calls log
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				calls.add("%s", m.Body)
				if calls.String() == "1" {
					n.cut()
				}
				return done(m)
			})
			o.Store = n
			e.send("a", "1", "2")
			e.start(o)
			e.pass(20 * lease)
			e.want("calls", calls.String(), "1")
			n.heal()
			e.drained()
			// The lease is over by then: it is chance whether the commit that waits or
			// a new claim comes first.
			if got := calls.String(); got != "1 2" && got != "1 1 2" {
				e.Errorf("calls: %s", got)
			}
			e.wantEffects("1", "2")
			e.want("dead letters", show(e.letters()), "")
		},
		"a stop while the store is gone": func(e *env) {
			n := e.node()
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				n.cut()
				return done(m)
			})
			o.Store = n
			e.send("a", "1")
			w := e.start(o)
			e.pass(time.Second)
			start := time.Now()
			w.Stop()
			if took := time.Since(start); took > time.Second {
				e.Errorf("Stop took %v", took)
			}
			e.start(e.options("n", done2))
			e.settle()
			e.wantEffects("1")
		},
		"the store cannot do a commit": func(e *env) {
			// An error of no kind is not waited out for ever: the message fails.
			n := &broken{Store: e.Store}
			o := e.options("n", done2)
			o.Store, o.MaxFails = n, 2
			e.send("a", "1")
			e.send("b", "2")
			e.start(o)
			e.pass(5 * time.Minute)
			e.wantLetter("1", "failed 2 times: something is odd")
			e.wantEffects("2")
		},
		"claims fail": func(e *env) {
			n := e.node()
			o := e.options("n", done2)
			o.Store = n
			e.start(o)
			e.settle()
			n.cut()
			e.send("a", "1")
			e.pass(time.Hour)
			e.wantEffects()
			n.heal()
			e.pass(poll)
			e.wantEffects("1")
		},
		"a start without a store": func(e *env) {
			n := e.node()
			n.cut()
			o := e.options("n", done2)
			o.Store = n
			if _, err := queue.Start(e.ctx(), o); err == nil || !strings.Contains(err.Error(), topic) {
				e.Errorf("Start: got %v, want an error that names the topic", err)
			}
		},
	})
}

// broken refuses commits that have the effect of message 1, for no known reason.
type broken struct{ store.Store }

func (b *broken) Commit(ctx context.Context, c *store.Commit) error {
	if len(c.Puts) > 0 && c.Puts[0].Key == "1" {
		return errors.New("something is odd")
	}
	return b.Store.Commit(ctx, c)
}
