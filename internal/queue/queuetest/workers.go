package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// gate is a handler that waits until it is let through, whatever its context says.
type gate struct {
	log  log
	open chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) handle(_ context.Context, m *store.Msg) (*store.Commit, error) {
	g.log.add("%s", m.Body)
	<-g.open
	return done(m)
}

// leave waits for the end of the worker and leaves its message to the next start.
func leave(ctx context.Context, _ *store.Msg) (*store.Commit, error) {
	<-ctx.Done()
	return nil, queue.ErrLeave
}

// workers is how workers share out the messages and hold on to them.
func (s suite) workers(t *testing.T) {
	s.group(t, map[string]func(*env){
		"the bell wakes": func(e *env) {
			var calls log
			start := time.Now()
			e.start(e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				calls.add("%s@%v", m.Body, time.Since(start))
				return done(m)
			}))
			e.pass(poll + time.Second)
			e.send("a", "a1")
			e.settle()
			e.want("calls", calls.String(), "a1@6s") // long before the next poll
			e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: "b", Body: []byte("b1"), Delay: 2 * time.Second}}})
			e.pass(3 * time.Second)
			e.want("calls", calls.String(), "a1@6s b1@8s") // nor does a timer wait for it
			e.pass(time.Second)
			e.send("c", "c1", "c2", "c3") // one lane: each one's end rings for the next
			e.settle()
			e.want("calls", calls.String(), "a1@6s b1@8s c1@10s c2@10s c3@10s")
		},
		"slots": func(e *env) {
			g := newGate()
			o := e.options("n", g.handle)
			o.Slots = 3
			w := e.start(o)
			var all []string
			for i := range 10 {
				body := fmt.Sprint(i)
				all = append(all, body)
				e.send(body, body)
			}
			e.settle()
			for i := 3; i < 10; i++ {
				if n := len(strings.Fields(g.log.String())); n != i || w.Active() != 3 {
					e.Fatalf("%d were begun and %d are in work, want %d and 3 in work", n, w.Active(), i)
				}
				g.open <- struct{}{}
				e.settle() // a free slot is filled at once
			}
			close(g.open)
			e.drained()
			e.wantEffects(all...)
			if e.settle(); w.Active() != 0 {
				e.Errorf("%d in work at the end", w.Active())
			}
		},
		"sessions are in order and go side by side": func(e *env) {
			begun := map[string]bool{}
			var order log
			o := e.options("n", nil)
			o.PerLane = 4
			o.Handler = func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				order.add("%s", m.Body)
				time.Sleep(time.Second)
				put, err := e.line(ctx, m)
				return &store.Commit{Puts: []store.Put{put, effect(m)}}, err
			}
			start := time.Now()
			var all []string
			var c store.Commit
			for _, key := range []string{"a", "b", "c"} {
				for i := range 8 {
					all = append(all, fmt.Sprint(key, i))
					c.Sends = append(c.Sends, store.Send{Topic: topic, Key: key, Body: fmt.Append(nil, key, i)})
				}
			}
			e.commit(c)
			w := e.start(o)
			e.settle()
			if w.Active() != 12 {
				e.Errorf("%d in work, want three sessions of four", w.Active())
			}
			for _, b := range strings.Fields(order.String()) {
				begun[b] = true
			}
			if len(begun) != 3 || !begun["a0"] || !begun["b0"] || !begun["c0"] {
				e.Errorf("begun at once: %v, want the first of each lane", begun)
			}
			e.drained()
			for _, key := range []string{"a", "b", "c"} {
				bodies, _, err := e.readLine(e.ctx(), key)
				e.want("order", fmt.Sprint(bodies, err), fmt.Sprintf("[%[1]s0 %[1]s1 %[1]s2 %[1]s3 %[1]s4 %[1]s5 %[1]s6 %[1]s7] <nil>", key))
			}
			e.wantEffects(all...)
			if took := time.Since(start); took != 8*time.Second {
				e.Errorf("three lanes of 8 messages of 1 s took %v side by side", took)
			}
		},
		"a session outlives its lease": func(e *env) {
			// Every message ends just when the leases are renewed.
			o := e.options("n", nil)
			o.PerLane = 6
			o.Handler = func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				time.Sleep(lease / 3)
				if ctx.Err() != nil || m.Attempt != 1 {
					e.Errorf("message %s: attempt %d, %v", m.Body, m.Attempt, context.Cause(ctx))
				}
				return done(m)
			}
			e.send("a", "1", "2", "3", "4", "5", "6")
			start := time.Now()
			e.start(o)
			e.drained()
			e.wantEffects("1", "2", "3", "4", "5", "6")
			if took := time.Since(start); took != 2*lease {
				e.Errorf("took %v, want %v", took, 2*lease)
			}
		},
		"a failure ends its session": func(e *env) {
			o := e.options("n", nil)
			o.PerLane = 10
			var calls log
			o.Handler = func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				calls.add("%s", m.Body)
				if string(m.Body) == "2" && m.Fails == 0 {
					return nil, errors.New("once")
				}
				return done(m)
			}
			e.send("a", "1", "2", "3", "4")
			start := time.Now()
			e.start(o)
			e.drained()
			e.want("calls", calls.String(), "1 2 2 3 4")
			e.wantEffects("1", "2", "3", "4")
			if took := time.Since(start); took > 2*time.Second {
				e.Errorf("took %v: somebody waited for a lease", took)
			}
		},
		"a dead letter does not end its session": func(e *env) {
			o := e.options("n", nil)
			o.PerLane = 10
			o.Handler = func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if string(m.Body) == "2" {
					return nil, queue.Bury("no")
				}
				return done(m)
			}
			e.send("a", "1", "2", "3")
			e.start(o)
			e.settle()
			e.wantLetter("2", "no")
			e.wantEffects("1", "3")
		},
		"leases are renewed without a limit": func(e *env) {
			g := newGate()
			e.start(e.options("slow", g.handle))
			e.send("a", "a1")
			e.settle()
			e.start(e.options("idle", done2))
			e.pass(40*lease + time.Second)
			e.wantEffects()
			close(g.open)
			e.drained()
			e.want("calls of the slow one", g.log.String(), "a1")
			e.wantEffects("a1")
		},
		"stop and start again": func(e *env) {
			w := e.start(e.options("me", leave))
			e.send("a", "a1", "a2")
			e.send("b", "b1")
			e.settle()
			w.Stop()
			if w.Active() != 0 {
				e.Errorf("%d in work after Stop", w.Active())
			}
			var other log
			e.start(e.options("other", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				other.add("%s", m.Body)
				return done(m)
			}))
			e.pass(lease / 2) // the leases hold
			start := time.Now()
			e.start(e.options("me", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if m.Attempt != 2 && string(m.Body) != "a2" || m.Fails != 0 {
					e.Errorf("message %s: attempt %d, fails %d", m.Body, m.Attempt, m.Fails)
				}
				return done(m)
			}))
			e.settle()
			if time.Since(start) != 0 {
				e.Errorf("waited %v for what it held itself", time.Since(start))
			}
			e.wantEffects("a1", "a2", "b1")
			if got := other.String(); got != "" && got != "a2" {
				e.Errorf("the other worker got %s", got)
			}
		},
		"what was held may exceed the slots": func(e *env) {
			o := e.options("me", leave)
			w := e.start(o)
			for _, k := range []string{"a", "b", "c", "d"} {
				e.send(k, k)
			}
			e.settle()
			w.Stop()
			g := newGate()
			o.Handler, o.Slots = g.handle, 1
			w = e.start(o)
			e.send("e", "e")
			e.settle()
			if w.Active() != 5 {
				e.Errorf("%d in work, want the four that were held and one more", w.Active())
			}
			close(g.open)
			e.drained()
			e.wantEffects("a", "b", "c", "d", "e")
		},
		"stop waits for a commit that is ready": func(e *env) {
			told := make(chan error, 1)
			w := e.start(e.options("me", func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
				<-ctx.Done()
				told <- context.Cause(ctx)
				time.Sleep(time.Second)
				return done(m)
			}))
			e.send("a", "a1")
			e.settle()
			w.Stop()
			if err := <-told; !errors.Is(err, queue.ErrStopping) {
				e.Errorf("the handler was told %v", err)
			}
			e.wantEffects("a1")
			if d := e.stat().Depth; d != 0 {
				e.Errorf("%d messages left", d)
			}
		},
		"failing because of the stop does not count": func(e *env) {
			w := e.start(e.options("me", func(ctx context.Context, _ *store.Msg) (*store.Commit, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}))
			e.send("a", "a1")
			e.settle()
			w.Stop()
			e.start(e.options("me", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if m.Fails != 0 {
					e.Errorf("%d failures", m.Fails)
				}
				return done(m)
			}))
			e.settle()
			e.wantEffects("a1")
		},
		"a paused topic": func(e *env) {
			e.send("a", "a1")
			if err := e.Pause(e.ctx(), topic, true); err != nil {
				e.Fatal(err)
			}
			e.start(e.options("n", done2))
			e.send("b", "b1")
			e.pass(time.Hour)
			e.wantEffects()
			if err := e.Pause(e.ctx(), topic, false); err != nil {
				e.Fatal(err)
			}
			e.pass(poll)
			e.wantEffects("a1", "b1")
		},
		"priorities": func(e *env) {
			for i, p := range []int{0, 5, -1, 5, 1} {
				e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: fmt.Sprint(i), Body: fmt.Append(nil, i), Priority: p}}})
				e.pass(time.Millisecond)
			}
			var order log
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				order.add("%s", m.Body)
				return done(m)
			})
			o.Slots = 1
			e.start(o)
			e.drained()
			e.want("order", order.String(), "1 3 4 0 2")
		},
		"nobody starves": func(e *env) {
			e.send("low", "low")
			e.pass(2*store.PriorityAge + time.Second)
			e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: "high", Body: []byte("high"), Priority: 2}}})
			var order log
			o := e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				order.add("%s", m.Body)
				return done(m)
			})
			o.Slots = 1
			e.start(o)
			e.drained()
			e.want("order", order.String(), "low high")
		},
		"workers share": func(e *env) {
			// Each of many keys is counted in a row, so a message that ran twice or out
			// of order shows.
			const lanes, each = 10, 12
			for _, owner := range []string{"x", "y", "z"} {
				o := e.options(owner, func(ctx context.Context, m *store.Msg) (*store.Commit, error) {
					put, err := e.line(ctx, m)
					return &store.Commit{Puts: []store.Put{put, effect(m)}}, err
				})
				o.Slots, o.PerLane = 4, 1+len(owner)
				e.start(o)
			}
			var all []string
			for i := range each {
				var c store.Commit
				for l := range lanes {
					all = append(all, fmt.Sprintf("%d.%02d", l, i))
					c.Sends = append(c.Sends, store.Send{Topic: topic, Key: fmt.Sprint(l), Body: fmt.Appendf(nil, "%d.%02d", l, i)})
				}
				e.commit(c)
			}
			e.drained()
			e.wantEffects(all...)
			for l := range lanes {
				bodies, _, err := e.readLine(e.ctx(), fmt.Sprint(l))
				if err != nil || len(bodies) != each || !slices.IsSorted(bodies) {
					e.Errorf("lane %d: %v, %v", l, bodies, err)
				}
			}
		},
	})
}

// done2 is done as a handler.
func done2(_ context.Context, m *store.Msg) (*store.Commit, error) { return done(m) }
