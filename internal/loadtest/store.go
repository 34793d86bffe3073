package loadtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// payload is how large a message and a row are.
const payload = 256

// The bars of a step, commit only.
const (
	stepsSQLite   = 30_000
	stepsPostgres = 10_000
)

// stores measures one store.
func stores(ctx context.Context, o *options, s *sheet) (err error) {
	dir, err := os.MkdirTemp("", "waybill-loadtest-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	where, drop, err := o.scratch(ctx)
	if err != nil {
		return err
	}
	defer drop()
	o.note("flushes of the disk")
	t, err := flushes(ctx, dir, 1024)
	if err != nil {
		return err
	}
	s.add("fdatasync p50", t.at(.5), "ms", bar{}, "4 KiB, one after another, where the temporary folder is")
	s.add("fdatasync p99", t.at(.99), "ms", bar{}, "")

	st, err := o.OpenStore(ctx, where, dir, store.Schema{{Name: "job"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	b := &storeBench{store: st, callers: o.callers, span: o.span()}

	o.note("steps with messages claimed beforehand, %d callers, %d s", o.callers, o.seconds)
	rate, lat, err := b.commits(ctx)
	if err != nil {
		return err
	}
	want := atLeast(stepsSQLite)
	if isPostgres(o.where) {
		want = atLeast(stepsPostgres)
	}
	s.add("steps, commit only", rate, "/s", want, "%d callers; each waits for its commit", o.callers)
	s.add("step p50", lat.at(.5), "ms", bar{}, "under that load")
	s.add("step p99", lat.at(.99), "ms", bar{}, "")

	o.note("steps with their claims, %d slots, %d s", o.callers, o.seconds)
	if rate, err = b.claims(ctx); err != nil {
		return err
	}
	s.add("steps, claimed by a worker", rate, "/s", bar{}, "%d slots, %d jobs that go round", o.callers, 4*o.callers)

	want = bar{}
	if !isPostgres(o.where) {
		want = atMost(1)
	}
	o.note("latency of messages at 200/s, %d s", o.seconds)
	if lat, err = b.latency(ctx, 200); err != nil {
		return err
	}
	s.add("message to handler p50", lat.at(.5), "ms", want, "at 200/s; from before the durable send to inside the handler")
	s.add("message to handler p99", lat.at(.99), "ms", bar{}, "")
	return nil
}

type storeBench struct {
	store   store.Store
	callers int
	span    time.Duration
	rounds  int // of commits
}

// step is the commit that is measured.
func step(m *store.Msg, rev int64, next string, body []byte) *store.Commit {
	return &store.Commit{
		Done:   m,
		Puts:   []store.Put{{Table: "job", Key: m.Key, Rev: rev, Val: body}},
		Sends:  []store.Send{{Topic: next, Key: m.Key, Body: body}},
		Events: []store.Event{{Subject: "job/" + m.Key, Kind: "step", Data: []byte(`{"status":"succeeded"}`), At: time.Now()}},
	}
}

// row is a value of the right size whose revision stands in it.
func row(rev int64) []byte {
	b := fmt.Appendf(make([]byte, 0, payload), `{"rev":%d,"pad":"`, rev)
	for len(b) < payload-2 {
		b = append(b, 'x')
	}
	return append(b, `"}`...)
}

// commits measures commits alone. In each round messages are sent and claimed
// in large batches first; only the steps are timed.
func (b *storeBench) commits(ctx context.Context) (float64, times, error) {
	size := 250 * b.callers
	var spent time.Duration
	var done int
	var all times
	for spent < b.span {
		msgs, err := b.fill(ctx, size)
		if err != nil {
			return 0, nil, err
		}
		work := make(chan *store.Msg, len(msgs))
		for _, m := range msgs {
			work <- m
		}
		close(work)
		lats := make([]times, b.callers)
		errs := make([]error, b.callers)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range b.callers {
			wg.Go(func() {
				body := row(2)
				for m := range work {
					t := time.Now()
					if errs[i] = b.store.Commit(ctx, step(m, 1, "next", body)); errs[i] != nil {
						return
					}
					lats[i] = append(lats[i], time.Since(t))
				}
			})
		}
		wg.Wait()
		spent += time.Since(began)
		done += len(msgs)
		if err := errors.Join(errs...); err != nil {
			return 0, nil, err
		}
		for _, l := range lats {
			all = append(all, l...)
		}
		if _, err := b.store.Purge(ctx, store.DefaultTenant, "next"); err != nil {
			return 0, nil, err
		}
	}
	return float64(done) / spent.Seconds(), all, nil
}

// fill makes n jobs at revision 1 with a claimed message each.
func (b *storeBench) fill(ctx context.Context, n int) ([]*store.Msg, error) {
	b.rounds++
	body := row(1)
	const batch = 500
	for i := 0; i < n; i += batch {
		c := &store.Commit{}
		for j := i; j < min(i+batch, n); j++ {
			key := fmt.Sprintf("c%d-%d", b.rounds, j)
			c.Puts = append(c.Puts, store.Put{Table: "job", Key: key, Val: body})
			c.Sends = append(c.Sends, store.Send{Topic: "step", Key: key, Body: body})
		}
		if err := b.store.Commit(ctx, c); err != nil {
			return nil, err
		}
	}
	var msgs []*store.Msg
	for len(msgs) < n {
		got, err := b.store.Claim(ctx, store.ClaimRequest{Topic: "step", Owner: "loadtest", Lanes: 1000, Lease: time.Hour})
		if err != nil {
			return nil, err
		}
		if len(got.Msgs) == 0 {
			return nil, fmt.Errorf("claimed %d of %d messages", len(msgs), n)
		}
		msgs = append(msgs, got.Msgs...)
	}
	return msgs, nil
}

// claims measures steps that a worker claims: jobs go round, each step sends the
// message of the next one to its own lane.
func (b *storeBench) claims(ctx context.Context) (float64, error) {
	c := &store.Commit{}
	for i := range 4 * b.callers {
		key := fmt.Sprintf("w-%d", i)
		c.Puts = append(c.Puts, store.Put{Table: "job", Key: key, Val: row(1)})
		c.Sends = append(c.Sends, store.Send{Topic: "round", Key: key, Body: binary.BigEndian.AppendUint64(nil, 1)})
	}
	if err := b.store.Commit(ctx, c); err != nil {
		return 0, err
	}
	var n atomic.Int64
	w, err := queue.Start(ctx, queue.Options{
		Store: b.store, Topic: "round", Owner: "loadtest", Slots: b.callers, Lease: time.Minute,
		Handler: func(_ context.Context, m *store.Msg) (*store.Commit, error) {
			rev := int64(binary.BigEndian.Uint64(m.Body))
			c := step(m, rev, "round", row(rev+1))
			c.Sends[0].Body = binary.BigEndian.AppendUint64(make([]byte, 0, payload), uint64(rev+1))
			return c, nil
		},
		Committed: func(*store.Msg, *store.Commit) { n.Add(1) },
	})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	if err := pause(ctx, time.Second); err != nil { // until it runs steadily
		return 0, err
	}
	before, began := n.Load(), time.Now()
	if err := pause(ctx, b.span); err != nil {
		return 0, err
	}
	return float64(n.Load()-before) / time.Since(began).Seconds(), nil
}

// latency measures from before a durable send to inside the handler.
func (b *storeBench) latency(ctx context.Context, rate int) (times, error) {
	var mu sync.Mutex
	var lats times
	base := time.Now()
	w, err := queue.Start(ctx, queue.Options{
		Store: b.store, Topic: "latency", Owner: "loadtest",
		Handler: func(_ context.Context, m *store.Msg) (*store.Commit, error) {
			t := time.Since(base) - time.Duration(binary.BigEndian.Uint64(m.Body))
			mu.Lock()
			lats = append(lats, t)
			mu.Unlock()
			return nil, nil
		},
	})
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	n := rate * int(b.span/time.Second)
	errs := make(chan error, n)
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		wg.Go(func() { // a slow commit does not hold up the next send
			body := binary.BigEndian.AppendUint64(make([]byte, 0, payload), uint64(time.Since(base)))
			errs <- b.store.Commit(ctx, &store.Commit{Sends: []store.Send{{Topic: "latency", Key: fmt.Sprint(i), Body: body[:payload]}}})
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return nil, err
		}
	}
	err = until(ctx, 30*time.Second, "messages handled", func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return len(lats) >= n, nil
	})
	mu.Lock()
	defer mu.Unlock()
	return lats, err
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until waits for a condition.
func until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	for began := time.Now(); ; {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Since(began) > limit {
			return fmt.Errorf("%s: not within %s", what, limit)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
