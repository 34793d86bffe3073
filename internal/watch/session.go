package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/store"
)

// session is the time for which this server watches a bucket.
type session struct {
	w    *Watcher
	conf Bucket
	now  func() time.Time

	b      cloud.Bucket // nil until it could be opened
	st     state        // as it was written last, and what changed since
	rev    int64
	loaded bool
	fails  int // rounds in a row that failed
	// unwritten counts the pages of a listing since its place was written down.
	unwritten int
	rescan    bool // a listing is wanted although its time has not come

	mu   sync.Mutex // guards what follows
	keys map[string]bool
	more bool
	bell chan struct{} // receives when there is something in keys, or more
	told error         // why changes are no longer told
}

const (
	// pace is the least time between two rounds: a file that grows tells of itself
	// with each write.
	pace = 200 * time.Millisecond
	// glance is how often another server's request for a scan is looked for when
	// records are written.
	glance = 500 * time.Millisecond
)

// run makes rounds until ctx ends.
func (s *session) run(ctx context.Context) {
	s.bell, s.keys = make(chan struct{}, 1), map[string]bool{}
	records, silence := s.w.o.Store.Watch()
	defer silence()
	var listening sync.WaitGroup
	defer listening.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changes cloud.Changes
	defer func() { s.close(changes) }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if changes == nil {
			changes = s.listen(ctx, &listening)
		}
		wait := s.turn(ctx)
		s.mu.Lock()
		if s.told != nil { // the notifier ended: it is begun anew, as is the bucket
			s.w.o.Logger.Warn("bucket tells no more of changes", "bucket", s.conf.Name, "err", s.told)
			s.told = nil
			s.mu.Unlock()
			listening.Wait()
			s.close(changes)
			changes, s.b = nil, nil
			s.rescan = true
			wait = min(wait, backoff(s.fails+1))
		} else {
			s.mu.Unlock()
		}
		if !s.sleep(ctx, timer, wait, records) {
			return
		}
	}
}

func (s *session) close(changes cloud.Changes) {
	if changes != nil {
		if err := changes.Close(); err != nil {
			s.w.o.Logger.Debug("changes not closed", "bucket", s.conf.Name, "err", err)
		}
	}
	if s.b != nil {
		if err := s.b.Close(); err != nil {
			s.w.o.Logger.Debug("bucket not closed", "bucket", s.conf.Name, "err", err)
		}
	}
}

// sleep waits for the time of the next round, or for something that makes it come
// earlier. It reports whether ctx goes on.
func (s *session) sleep(ctx context.Context, timer *time.Timer, wait time.Duration, records <-chan struct{}) bool {
	end := time.Now().Add(max(wait, time.Millisecond))
	least := time.Now().Add(pace)
	looked := time.Now()
	look := time.Time{} // when it is looked whether a scan was asked for; zero: not
	bell := s.bell
	for {
		next := end
		if !look.IsZero() {
			next = earlier(end, look)
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return false
		case <-bell:
			bell, end = nil, earlier(end, least)
		case <-records:
			if look.IsZero() {
				look = looked.Add(glance)
			}
		case <-timer.C:
			if !time.Now().Before(end) {
				return true
			}
			looked, look = time.Now(), time.Time{}
			if n, err := s.w.asked(ctx, s.conf.Name); err == nil && n > s.st.Asked {
				return true
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// listen lets the bucket tell of changes, if it can. Nil: only listings find them.
func (s *session) listen(ctx context.Context, wg *sync.WaitGroup) cloud.Changes {
	if s.b == nil {
		b, err := s.w.o.Open(ctx, s.conf.URL)
		if err != nil {
			return nil // the round tells
		}
		s.b = b
	}
	n, ok := s.b.(cloud.Notifier)
	if !ok {
		return nil
	}
	c, err := n.Notify(ctx, s.conf.Prefix)
	if err != nil {
		if s.fails == 0 { // else it was told that the bucket cannot be reached
			s.w.o.Logger.Info("bucket tells nothing of changes, listings find them", "bucket", s.conf.Name, "err", err)
		}
		return nil
	}
	s.st.Told = true
	wg.Go(func() {
		for {
			keys, more, err := c.Wait(ctx)
			s.mu.Lock()
			for _, k := range keys {
				s.keys[k] = true
			}
			if s.more = s.more || more || len(s.keys) > maxKeys; s.more {
				clear(s.keys)
			}
			if s.told = err; ctx.Err() != nil {
				s.told = nil
			}
			s.mu.Unlock()
			select {
			case s.bell <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	})
	return c
}

// maxKeys is how many changes are looked at one by one.
const maxKeys = 1000

// turn makes a round, and says how long to wait until the next.
func (s *session) turn(ctx context.Context) time.Duration {
	wait, err := s.round(ctx)
	if ctx.Err() != nil {
		return 0
	}
	if err == nil {
		s.fails = 0
		return wait
	}
	s.fails++
	wait = backoff(s.fails)
	var e *waybill.Error
	if errors.As(err, &e) && e.RetryAfter > 0 {
		wait = e.RetryAfter
	}
	if !errors.Is(err, store.ErrConflict) { // else another server writes, or this one had stopped for a while
		s.w.o.Logger.Warn("bucket not watched", "bucket", s.conf.Name, "fails", s.fails, "err", err)
	}
	s.loaded = s.loaded && !errors.Is(err, store.ErrConflict)
	return wait
}

// round looks at what was told, lists if it is time, takes what has settled and
// deals with sources that were taken. It says how long nothing is to be done then.
func (s *session) round(ctx context.Context) (time.Duration, error) {
	if !s.loaded {
		told := s.st.Told
		var err error
		if s.st, s.rev, err = s.w.state(ctx, s.conf.Name); err != nil {
			return 0, err
		}
		s.st.Told, s.st.Node, s.loaded = told, s.w.o.Node, true
	}
	err := s.work(ctx)
	switch {
	case err == nil && s.st.Error != "":
		s.st.Error, s.st.ErrorAt = "", time.Time{}
		s.w.o.Logger.Info("bucket can be watched again", "bucket", s.conf.Name)
		if err := s.save(ctx); err != nil {
			return 0, err
		}
	case err != nil:
		if s.st.Error == "" || s.st.Error != err.Error() {
			s.st.Error, s.st.ErrorAt = err.Error(), s.now().UTC()
			if serr := s.save(context.WithoutCancel(ctx)); serr != nil {
				return 0, serr
			}
		}
		return 0, err
	}
	return s.next(ctx)
}

func (s *session) work(ctx context.Context) error {
	if s.b == nil {
		b, err := s.w.o.Open(ctx, s.conf.URL)
		if err != nil {
			return err
		}
		s.b = b
	}
	s.mu.Lock()
	keys, more := s.keys, s.more
	s.keys, s.more = map[string]bool{}, false
	s.mu.Unlock()
	if err := s.look(ctx, keys); err != nil {
		s.rescan = true // what was told is not lost
		return err
	}
	asked, err := s.w.asked(ctx, s.conf.Name)
	if err != nil {
		return err
	}
	s.rescan = s.rescan || more
	if s.rescan || asked > s.st.Asked || s.st.ScannedAt.IsZero() || !s.now().Before(s.st.ScannedAt.Add(s.conf.Poll)) {
		if err := s.scan(ctx, asked); err != nil {
			return err
		}
		s.rescan = false
	}
	if err := s.take(ctx); err != nil {
		return err
	}
	if err := s.finish(ctx); err != nil {
		return err
	}
	return s.forget(ctx)
}

// next is how long until something is due.
func (s *session) next(ctx context.Context) (time.Duration, error) {
	now := s.now()
	wait := max(s.st.ScannedAt.Add(s.conf.Poll).Sub(now), 0)
	for _, st := range []string{statePending, stateFailed, stateFinishing} {
		rows, err := s.w.due(ctx, s.conf.Name, st, time.Time{}, 1)
		if err != nil {
			return 0, err
		}
		for _, r := range rows {
			wait = min(wait, max(r.Due.Sub(now), 0))
		}
	}
	return wait, nil
}

// save writes the row of the bucket.
func (s *session) save(ctx context.Context, more ...store.Put) error {
	val, err := json.Marshal(s.st)
	if err != nil {
		return err
	}
	c := &store.Commit{Puts: append(more, store.Put{Table: tableWatch, Key: s.conf.Name, Rev: s.rev, Val: val})}
	if err := s.w.o.Store.Commit(ctx, c); err != nil {
		s.loaded = false // what is there now is read again
		return fmt.Errorf("state of bucket %s: %w", s.conf.Name, err)
	}
	s.rev++
	return nil
}
