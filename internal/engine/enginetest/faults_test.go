package enginetest_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// faults decides what goes wrong in the store, the runners, the content, the secrets and
// on the way of callbacks, for all servers of a world.
type faults struct {
	mu     sync.Mutex
	rng    *rand.Rand
	on     bool
	rate   int            // of a thousand calls, how many are hit by each kind of fault
	made   map[string]int // faults made, by kind
	outage time.Time      // the store does not answer before
	deaf   time.Time      // leases are not renewed before
	now    func() time.Time
}

// hit reports whether a fault of a kind is to be made now. Times multiplies the rate.
func (f *faults) hit(kind string, times int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on || f.rng.IntN(1000) >= f.rate*times {
		return false
	}
	f.made[kind]++
	return true
}

// draw is a duration below most.
func (f *faults) draw(most time.Duration) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Duration(f.rng.Int64N(int64(most)))
}

func (f *faults) until(at *time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on && f.now().Before(*at)
}

// begin makes the store, or the renewal of leases, fail for a while.
func (f *faults) begin(kind string, at *time.Time, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made[kind]++
	*at = f.now().Add(d)
}

func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = false
}

var errAway = waybill.E(waybill.KindUnavailable, "it does not answer, by a fault")

// life is one life of a server. What a server does after its life has ended, be it that
// it was killed, reaches nothing.
type life struct {
	f    *faults
	over atomic.Bool
}

func (l *life) away() error {
	if l.over.Load() {
		return errAway
	}
	return nil
}

// faultyStore is the store as one life of a server sees it.
type faultyStore struct {
	store.Store // a watch
	l           *life
}

func (s *faultyStore) read() error {
	if err := s.l.away(); err != nil {
		return err
	}
	if s.l.f.until(&s.l.f.outage) || s.l.f.hit("read", 1) {
		return errAway
	}
	return nil
}

func (s *faultyStore) Commit(ctx context.Context, c *store.Commit) error {
	f := s.l.f
	if err := s.l.away(); err != nil {
		return err
	}
	fenced := false
	for _, p := range c.Puts {
		fenced = fenced || p.Rev > 0 // a row that is new can have no other revision
	}
	switch {
	case f.until(&f.outage), f.hit("commit before", 2):
		return errAway
	case f.hit("commit broken", 1):
		return errors.New("the connection broke, by a fault")
	case fenced && f.hit("conflict", 2):
		return store.ErrConflict
	case f.hit("commit slow", 2):
		time.Sleep(f.draw(time.Second))
	case f.hit("commit very slow", 1):
		time.Sleep(lease + f.draw(lease))
	}
	if err := s.l.away(); err != nil {
		return err
	}
	err := s.Store.Commit(ctx, c)
	if s.l.over.Load() || err == nil && f.hit("commit answer", 2) {
		return errAway
	}
	if err == nil && f.hit("commit answer broken", 1) {
		return errors.New("the connection broke on the way back, by a fault")
	}
	return err
}

func (s *faultyStore) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	if err := s.read(); err != nil {
		return store.Claimed{}, err
	}
	got, err := s.Store.Claim(ctx, r)
	if s.l.over.Load() || len(got.Msgs) > 0 && s.l.f.hit("claim answer", 1) {
		return store.Claimed{}, errAway
	}
	return got, err
}

func (s *faultyStore) Extend(ctx context.Context, msgs []*store.Msg, d time.Duration) ([]*store.Msg, error) {
	if err := s.read(); err != nil {
		return nil, err
	}
	if s.l.f.until(&s.l.f.deaf) {
		return nil, errAway
	}
	return s.Store.Extend(ctx, msgs, d)
}

func (s *faultyStore) Get(ctx context.Context, tenant, table, key string) (store.Row, error) {
	if err := s.read(); err != nil {
		return store.Row{}, err
	}
	return s.Store.Get(ctx, tenant, table, key)
}

func (s *faultyStore) Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error) {
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.Scan(ctx, tenant, table, prefix, limit)
}

func (s *faultyStore) Query(ctx context.Context, q store.Query) (store.Page, error) {
	if err := s.read(); err != nil {
		return store.Page{}, err
	}
	return s.Store.Query(ctx, q)
}

func (s *faultyStore) Tail(ctx context.Context, after store.Cursor, n int) ([]store.StoredEvent, error) {
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.Tail(ctx, after, n)
}

func (s *faultyStore) Head(ctx context.Context) (store.Cursor, error) {
	if err := s.read(); err != nil {
		return "", err
	}
	return s.Store.Head(ctx)
}

// faultyRunner is a runner as one life of a server sees it.
type faultyRunner struct {
	runner.Runner
	l *life
	w *world
	n string // the node
}

func (r *faultyRunner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	f := r.l.f
	if err := r.l.away(); err != nil {
		return runner.Handle{}, err
	}
	switch {
	case f.hit("start refused", 4):
		return runner.Handle{}, errAway
	case f.hit("start slow", 3):
		pause(ctx, f.draw(5*time.Second))
	}
	if err := r.l.away(); err != nil {
		return runner.Handle{}, err
	}
	r.w.started(s, r.n)
	h, err := r.Runner.Start(ctx, s)
	if err != nil {
		return h, err
	}
	switch {
	case r.l.over.Load(), f.hit("start answer", 4):
		return runner.Handle{}, errAway
	case f.hit("start answer broken", 1):
		return runner.Handle{}, errors.New("the platform's answer makes no sense, by a fault")
	case f.hit("start answer late", 4): // the unit has ended by then, as a rule
		pause(ctx, 10*time.Second)
	}
	return h, nil
}

func (r *faultyRunner) Recover(ctx context.Context, h runner.Handle, s runner.Spec) error {
	if r.l.over.Load() || r.l.f.hit("recover", 4) {
		return errAway
	}
	return r.Runner.Recover(ctx, h, s)
}

func (r *faultyRunner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	if r.l.f.hit("wait lost", 2) {
		return runner.Exit{}, waybill.E(waybill.KindLost, "nobody knows what became of it, by a fault")
	}
	x, err := r.Runner.Wait(ctx, h)
	if r.l.over.Load() || err == nil && r.l.f.hit("wait answer", 3) {
		return runner.Exit{}, errAway
	}
	return x, err
}

func (r *faultyRunner) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	if r.l.over.Load() || r.l.f.hit("stop", 20) {
		return errAway
	}
	return r.Runner.Stop(ctx, h, grace)
}

func (r *faultyRunner) Remove(ctx context.Context, h runner.Handle) error {
	if r.l.over.Load() || r.l.f.hit("remove", 25) {
		return errAway
	}
	err := r.Runner.Remove(ctx, h)
	if r.l.over.Load() || err == nil && r.l.f.hit("remove answer", 5) {
		return errAway
	}
	return err
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// faultyBlobs is the content as one life of a server sees it.
type faultyBlobs struct {
	blob.Store
	l *life
	w *watch
}

func (b *faultyBlobs) Put(ctx context.Context, r io.Reader, limit int64) (blob.Ref, error) {
	if r2, ok := r.(io.ReadSeeker); ok && b.l.f.hit("content breaks off", 10) {
		_, _ = io.CopyN(io.Discard, r2, 10)
		return blob.Ref{}, errAway
	}
	if b.l.over.Load() || b.l.f.hit("put content", 10) {
		return blob.Ref{}, errAway
	}
	ref, err := b.Store.Put(ctx, r, limit)
	if err == nil && b.l.f.hit("put content answer", 10) {
		return blob.Ref{}, errAway
	}
	return ref, err
}

func (b *faultyBlobs) Open(ctx context.Context, sha string) (io.ReadSeekCloser, error) {
	if b.l.over.Load() || b.l.f.hit("open content", 10) {
		return nil, errAway
	}
	return b.Store.Open(ctx, sha)
}

// vault has the secrets of a world. Former values count as long as they may be in use.
type vault struct {
	f      *faults
	mu     sync.Mutex
	values map[string][]string
	away   int // so many reads fail
}

// fail makes the next reads fail.
func (v *vault) fail(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = n
}

// down reports whether this read fails.
func (v *vault) down(kind string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away > 0 {
		v.away--
		return true
	}
	return v.f.hit(kind, 10)
}

func (v *vault) Secret(_ context.Context, name string) (string, error) {
	if v.down("secret") {
		return "", errAway
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.values[name]
	if len(list) == 0 {
		return "", waybill.E(waybill.KindNotFound, "there is no secret %s", name)
	}
	return list[len(list)-1], nil
}

func (v *vault) Values(_ context.Context, name string) ([]string, error) {
	if v.down("secret values") {
		return nil, errAway
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string{}, v.values[name]...), nil
}

func (v *vault) turn(name, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[name] = append(v.values[name], value)
}

// injected reports whether the text of an error comes from a fault of ours.
func injected(reason string) bool { return strings.Contains(reason, "by a fault") }
