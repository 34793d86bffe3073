// Package queue works on messages of the store: a [Worker] claims those of one
// topic, hands them to a handler, keeps their leases and carries out what the
// handler returns. [Admin] shows and repairs topics.
//
// What a handler returns is a commit, not an effect: the worker adds the message
// to it as done, so that the change and the end of the message are one. A handler may
// therefore be called more than once for one message (after a crash, a lost lease
// or a revision conflict), and only one of its commits ever counts.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/store"
)

// Handler works on one message. It returns what is to be committed together with
// the end of the message (nil: nothing more), or an error: see Retry, Yield, Bury
// and ErrLeave; an error of waybill.KindInvalid, KindMalformed or KindTooLarge buries
// it; any other error is a failure that is tried again with backoff. Its context
// ends when the lease is lost or the worker stops.
type Handler func(ctx context.Context, m *store.Msg) (*store.Commit, error)

// Options of a worker.
type Options struct {
	Store   store.Store
	Topic   string
	Owner   string // this node; its leases are taken up again when the worker starts
	Handler Handler
	Logger  *slog.Logger

	Slots   int           // messages in work at once; 0 means 8
	PerLane int           // messages of one lane in one claim, worked on in order; 0 means 1
	Lease   time.Duration // 0 means 15 s; it is renewed every third of it, without a limit
	Poll    time.Duration // how long to trust the bell; 0 means 1 s

	MaxFails      int // failures after which a message is buried; 0 means 5
	MaxDeliveries int // deliveries without an outcome after which it is buried as a killer of workers; 0 means 10, negative no limit
	Backoff       func(fails int) time.Duration

	// Patient: an error of waybill.KindUnavailable is no failure. The message comes again
	// after a second, for as long as it takes: what it needs is away, and it is not to
	// blame.
	Patient bool

	// Committed is called after a handler's commit was made; it must not block. It
	// is not called when the store's answer was lost on the way.
	Committed func(m *store.Msg, c *store.Commit)
	// Buried is called when a message is about to be buried, and may add to the
	// commit that does it: what waits for the message must not wait for ever.
	Buried func(ctx context.Context, m *store.Msg, reason string) (*store.Commit, error)
}

// Worker claims and handles messages of one topic until it is stopped.
type Worker struct {
	o     Options
	slots chan struct{} // holds one value for each slot in use
	ctx   context.Context
	stop  context.CancelCauseFunc
	wg    sync.WaitGroup

	mu     sync.Mutex
	active map[*session]bool
}

// session is the claimed messages of one lane, worked on in order.
type session struct {
	left   []*store.Msg // the first is in work; guarded by Worker.mu
	last   *store.Msg
	cancel context.CancelCauseFunc
}

// Backoff is the default wait after a number of failures: 0.5 s, doubled each
// time, at most a minute.
func Backoff(fails int) time.Duration {
	d := 500 * time.Millisecond << min(max(fails-1, 0), 10)
	return min(d, time.Minute)
}

// Start begins to work. It first takes up what this owner held when it last
// ended, and returns when that is known.
func Start(ctx context.Context, o Options) (*Worker, error) {
	if o.Slots <= 0 {
		o.Slots = 8
	}
	if o.PerLane <= 0 {
		o.PerLane = 1
	}
	if o.Lease <= 0 {
		o.Lease = 15 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.MaxFails == 0 {
		o.MaxFails = 5
	}
	if o.MaxDeliveries == 0 {
		o.MaxDeliveries = 10
	}
	if o.Backoff == nil {
		o.Backoff = Backoff
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{o: o, slots: make(chan struct{}, o.Slots), active: map[*session]bool{}}
	w.ctx, w.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	held, err := o.Store.Claim(ctx, store.ClaimRequest{Topic: o.Topic, Owner: o.Owner, PerLane: o.PerLane, Lease: o.Lease, Reclaim: true})
	if err != nil {
		return nil, fmt.Errorf("take up messages of %s: %w", o.Topic, err)
	}
	w.wg.Add(2)
	go w.renew()
	go w.claim(held.Msgs)
	return w, nil
}

// Stop ends the worker: handlers are told by their contexts, and Stop returns when
// all have returned. Messages they did not finish are taken up at the next start.
func (w *Worker) Stop() {
	w.stop(ErrStopping)
	w.wg.Wait()
}

// Active returns how many messages are in work.
func (w *Worker) Active() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for s := range w.active {
		n += len(s.left)
	}
	return n
}

func (w *Worker) claim(held []*store.Msg) {
	defer w.wg.Done()
	bell, silence := w.o.Store.Bell(w.o.Topic)
	defer silence()
	// What was held is more urgent than the limit of slots: its units run already.
	w.launch(held, false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for w.ctx.Err() == nil {
		free := w.acquire()
		if free == 0 {
			return
		}
		got, err := w.o.Store.Claim(w.ctx, store.ClaimRequest{
			Topic: w.o.Topic, Owner: w.o.Owner, Lanes: free, PerLane: w.o.PerLane, Lease: w.o.Lease,
		})
		used := w.launch(got.Msgs, true)
		for range free - used {
			<-w.slots
		}
		wait := w.o.Poll
		switch {
		case err != nil:
			if w.ctx.Err() != nil {
				return
			}
			w.o.Logger.Warn("queue claim failed", "topic", w.o.Topic, "err", err)
		case used == free, used > 0 && got.Next.IsZero() && !got.Drained:
			continue // there may be more, or something to wait for
		case !got.Next.IsZero():
			wait = min(wait, max(got.Next.Sub(w.o.Store.Now()), 0))
		}
		timer.Reset(wait)
		select {
		case <-w.ctx.Done():
		case <-bell:
		case <-timer.C:
		}
	}
}

// acquire waits for at least one free slot and takes all that are free. It
// returns 0 when the worker stops.
func (w *Worker) acquire() int {
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		return 0
	}
	n := 1
	for {
		select {
		case w.slots <- struct{}{}:
			n++
		default:
			return n
		}
	}
}

// launch starts work on claimed messages, one goroutine a lane, and returns how
// many lanes there are.
func (w *Worker) launch(msgs []*store.Msg, slotted bool) int {
	lanes := 0
	for len(msgs) > 0 {
		n := 1
		for n < len(msgs) && msgs[n].Key == msgs[0].Key && msgs[n].Tenant == msgs[0].Tenant {
			n++
		}
		ctx, cancel := context.WithCancelCause(w.ctx)
		s := &session{left: msgs[:n], last: msgs[n-1], cancel: cancel}
		msgs = msgs[n:]
		lanes++
		w.mu.Lock()
		w.active[s] = true
		w.mu.Unlock()
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			defer cancel(nil)
			w.run(ctx, s)
			if slotted {
				<-w.slots
			}
		}()
	}
	return lanes
}

func (w *Worker) run(ctx context.Context, s *session) {
	for m := s.left[0]; m != nil; {
		more := w.work(ctx, s, m)
		w.mu.Lock()
		if s.left = s.left[1:]; more && len(s.left) > 0 {
			m = s.left[0]
		} else {
			m = nil
			delete(w.active, s)
		}
		w.mu.Unlock()
	}
}

// renew extends every lease in one go.
func (w *Worker) renew() {
	defer w.wg.Done()
	tick := time.NewTicker(w.o.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			return
		}
		w.mu.Lock()
		// The last message of a session stands for its lane: the ones before it may
		// be finished just now, and count as lost then.
		msgs := make([]*store.Msg, 0, len(w.active))
		sessions := make(map[*store.Msg]*session, len(w.active))
		for s := range w.active {
			msgs = append(msgs, s.last)
			sessions[s.last] = s
		}
		w.mu.Unlock()
		if len(msgs) == 0 {
			continue
		}
		lost, err := w.o.Store.Extend(w.ctx, msgs, w.o.Lease)
		if err != nil {
			if w.ctx.Err() == nil {
				w.o.Logger.Warn("queue leases not renewed", "topic", w.o.Topic, "err", err)
			}
			continue
		}
		for _, m := range lost {
			sessions[m].cancel(store.ErrLeaseLost) // harmless if it was finished meanwhile
		}
	}
}

// work brings one message to an outcome. It reports whether the next message of
// the session may follow.
func (w *Worker) work(ctx context.Context, s *session, m *store.Msg) bool {
	if limit := w.o.MaxDeliveries; limit > 0 && m.Attempt-m.Fails > limit {
		return w.bury(ctx, s, m, "worker_killer: "+fmt.Sprint(m.Attempt-m.Fails-1)+" deliveries ended without an outcome")
	}
	for tries := 0; ; tries++ {
		c, err := w.call(ctx, m)
		if err != nil {
			return w.judge(ctx, s, m, err)
		}
		if c == nil {
			c = &store.Commit{}
		}
		c.Done = m
		fault.At("queue.commit")
		err = w.commit(ctx, c)
		switch {
		case err == nil:
			fault.At("queue.committed")
			if w.o.Committed != nil {
				w.o.Committed(m, c)
			}
			return true
		case errors.Is(err, store.ErrConflict) && tries < 10:
			continue // what the handler read has changed: let it look again
		case errors.Is(err, store.ErrLeaseLost):
			return w.holds(ctx, s, m)
		case w.ctx.Err() != nil:
			return false
		}
		return w.judge(ctx, s, m, err)
	}
}

// holds reports whether the lane is still ours after the store has refused to end
// m, which may only mean that m had been ended before: see commit.
func (w *Worker) holds(ctx context.Context, s *session, m *store.Msg) bool {
	if m == s.last || ctx.Err() != nil {
		return false
	}
	lost, err := w.o.Store.Extend(ctx, []*store.Msg{s.last}, w.o.Lease)
	return err == nil && len(lost) == 0
}

func (w *Worker) call(ctx context.Context, m *store.Msg) (c *store.Commit, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v", p)
			w.o.Logger.Error("queue handler panicked", "topic", m.Topic, "key", m.Key, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return w.o.Handler(ctx, m)
}

// patience is the pause before a message comes again that found something unavailable.
const patience = time.Second

// commitTries is how often a commit is tried that fails for an unknown reason. One
// that fails because the store is unavailable is tried for as long as it takes.
const commitTries = 8

// commit repeats a commit whose outcome is unknown: it carries a message, so
// that is safe. A refusal after such a repetition may mean that the first one
// had succeeded; either way the message is no longer ours.
func (w *Worker) commit(ctx context.Context, c *store.Commit) error {
	// A commit that is ready is not given up because the worker stops.
	free := context.WithoutCancel(ctx)
	wait := 50 * time.Millisecond
	for tries := 1; ; tries++ {
		err := w.o.Store.Commit(free, c)
		if err == nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrLeaseLost) || permanent(err) {
			return err
		}
		if tries >= commitTries && !waybill.IsKind(err, waybill.KindUnavailable) {
			return err
		}
		w.o.Logger.Warn("queue commit failed, repeating", "topic", w.o.Topic, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func (w *Worker) judge(ctx context.Context, s *session, m *store.Msg, err error) bool {
	if cause := context.Cause(ctx); errors.Is(cause, store.ErrLeaseLost) || errors.Is(err, store.ErrLeaseLost) {
		w.o.Logger.Info("queue lease lost", "topic", m.Topic, "key", m.Key)
		return false
	}
	var v *verdict
	if !errors.As(err, &v) {
		if w.ctx.Err() != nil {
			return false // it failed because we stop
		}
		v = &verdict{verdictRetry, w.o.Backoff(m.Fails + 1), err}
		switch {
		case permanent(err):
			v.kind = verdictBury
		case w.o.Patient && waybill.IsKind(err, waybill.KindUnavailable):
			v.kind, v.after = verdictYield, patience
			w.o.Logger.Warn("queue message waits for what is unavailable", "topic", m.Topic, "key", m.Key, "err", err)
		}
	}
	c := &store.Commit{Delay: v.after, Reason: v.err.Error()}
	switch {
	case v.kind == verdictLeave:
		return false
	case v.kind == verdictYield:
		c.Yield = m
	case v.kind == verdictBury:
		return w.bury(ctx, s, m, v.err.Error())
	case m.Fails+1 >= w.o.MaxFails:
		return w.bury(ctx, s, m, fmt.Sprintf("failed %d times: %v", m.Fails+1, v.err))
	default:
		c.Retry = m
		w.o.Logger.Warn("queue message failed", "topic", m.Topic, "key", m.Key, "fails", m.Fails+1, "err", v.err)
	}
	if err := w.commit(ctx, c); err != nil && w.ctx.Err() == nil {
		w.o.Logger.Warn("queue message not returned", "topic", m.Topic, "key", m.Key, "err", err)
	}
	return false
}

func (w *Worker) bury(ctx context.Context, s *session, m *store.Msg, reason string) bool {
	w.o.Logger.Error("queue message buried", "topic", m.Topic, "key", m.Key, "reason", reason)
	incomplete := func(err error) {
		w.o.Logger.Error("queue burial is incomplete", "topic", m.Topic, "key", m.Key, "err", err)
	}
	hook := w.o.Buried != nil
	for range 10 {
		c := &store.Commit{}
		if hook {
			more, err := w.callBuried(ctx, m, reason)
			if err != nil {
				incomplete(err)
			} else if more != nil {
				c = more
			}
		}
		c.Dead, c.Reason = m, reason
		c.Events = append(c.Events, buriedEvent(m, reason, w.o.Store.Now()))
		err := w.commit(ctx, c)
		switch {
		case err == nil:
			return true
		case errors.Is(err, store.ErrLeaseLost):
			return w.holds(ctx, s, m)
		case errors.Is(err, store.ErrConflict): // let the hook look again
		case ctx.Err() != nil:
			return false
		default:
			// What the hook wants can never be: the message is buried without it, or
			// it would come back for ever.
			incomplete(err)
			if !hook {
				return false
			}
			hook = false
		}
	}
	return false
}

func (w *Worker) callBuried(ctx context.Context, m *store.Msg, reason string) (c *store.Commit, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("the hook panicked: %v", p)
		}
	}()
	return w.o.Buried(ctx, m, reason)
}
