package postgres

import (
	"context"
	"errors"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// call is a commit on its way through a group.
type call struct {
	*store.Commit
	tenant string
	puts   []put
	msg    *store.Msg // the one of Done, Retry, Yield and Dead that is set
	done   chan error // receives the outcome once
}

// put is a checked Put with what its descriptor derived.
type put struct {
	table *table
	key   string
	rev   int64
	val   []byte
	store.Derived
}

// plain says whether PostgreSQL can hold s as text.
func plain(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] == 0 {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) error {
	return (waybill.E(waybill.KindInvalid, format, args...)).WithOp("commit", "")
}

// newCall checks all of a commit that can be checked without the database.
func (s *Store) newCall(c *store.Commit) (*call, error) {
	k := &call{Commit: c, tenant: tenantOf(c.Tenant), done: make(chan error, 1)}
	texts := []string{k.tenant, c.ID}
	for _, m := range []*store.Msg{c.Done, c.Retry, c.Yield, c.Dead} {
		if m == nil {
			continue
		}
		if k.msg != nil {
			return nil, invalid("more than one of Done, Retry, Yield and Dead")
		}
		k.msg = m
		texts = append(texts, m.Tenant, m.Topic, m.Key)
	}
	type name struct{ table, key string }
	seen := make(map[name]bool, len(c.Puts))
	for i := range c.Puts {
		p := &c.Puts[i]
		t, err := s.table(p.Table)
		if err != nil {
			return nil, err
		}
		if p.Rev < store.AnyRev {
			return nil, invalid("put of %s %q: revision %d", p.Table, p.Key, p.Rev)
		}
		if seen[name{p.Table, p.Key}] {
			return nil, invalid("%s %q is put twice", p.Table, p.Key)
		}
		seen[name{p.Table, p.Key}] = true
		q := put{table: t, key: p.Key, rev: p.Rev, val: p.Val}
		if p.Val != nil {
			if q.Derived, err = t.derived(p.Key, p.Val); err != nil {
				return nil, invalid("put of %s %q: %w", p.Table, p.Key, err)
			}
		}
		texts = append(texts, p.Key)
		k.puts = append(k.puts, q)
	}
	for i := range c.Sends {
		texts = append(texts, c.Sends[i].Topic, c.Sends[i].Key)
	}
	for i := range c.Events {
		texts = append(texts, c.Events[i].Subject, c.Events[i].Kind)
	}
	for _, x := range texts {
		if !plain(x) {
			return nil, invalid("%q is not valid UTF-8 without zero bytes", x)
		}
	}
	return k, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, c *store.Commit) error {
	if err := ctx.Err(); err != nil {
		return s.failed(ctx, "commit", err)
	}
	k, err := s.newCall(c)
	if err != nil {
		return err
	}
	if !s.queue.put(k) {
		return waybill.E(waybill.KindUnavailable, "the store is closed").WithOp("commit", "")
	}
	select {
	case err := <-k.done:
		return err
	case <-ctx.Done():
		s.queue.drop(k)
		return s.failed(ctx, "commit", ctx.Err())
	}
}

// queue holds the commits that wait for a committer.
type queue struct {
	wg     sync.WaitGroup // the committers
	wake   chan struct{}  // one for each committer that should look
	mu     sync.Mutex
	calls  []*call
	busy   int // committers that write
	closed bool
}

func (q *queue) put(k *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.calls = append(q.calls, k)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// drop takes back a call that no committer has taken yet.
func (q *queue) drop(k *call) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.calls {
		if q.calls[i] == k {
			q.calls = append(q.calls[:i], q.calls[i+1:]...)
			return
		}
	}
}

// While another group is being written, a committer lets a small one grow for a
// moment: a group costs two round trips and a flush, whatever its size.
const (
	small  = 48
	linger = 300 * time.Microsecond
)

// take waits for calls and returns up to n, or none when the queue was closed.
// Whoever got some says done when they are written.
func (q *queue) take(n int) []*call {
	lingered := false
	for {
		q.mu.Lock()
		if k := min(n, len(q.calls)); k > 0 {
			if k < min(n, small) && q.busy > 0 && !lingered {
				q.mu.Unlock()
				time.Sleep(linger)
				lingered = true
				continue
			}
			got := append([]*call{}, q.calls[:k]...)
			q.calls = append(q.calls[:0], q.calls[k:]...)
			q.busy++
			q.mu.Unlock()
			return got
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return nil
		}
		<-q.wake
	}
}

func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		if q.wake != nil {
			close(q.wake)
		}
	}
}

// groupTimeout ends a group whose database does not answer.
const groupTimeout = 30 * time.Second

// committer writes groups one after another on a connection of its own.
type committer struct {
	s    *Store
	conn *pgx.Conn
	slot int // in which its counters are kept
}

func (w *committer) run() {
	defer func() {
		if w.conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = w.conn.Close(ctx) // everything in it is committed or reported
		}
	}()
	for {
		calls := w.s.queue.take(w.s.opts.Group)
		if calls == nil {
			return
		}
		w.group(calls)
		w.s.queue.done()
	}
}

// group writes the calls and tells each its outcome. What another transaction or
// one bad call spoils is tried again, at last call by call.
func (w *committer) group(calls []*call) {
	var err error
	for range 4 {
		g := newGroup(w.s, calls)
		began := time.Now()
		if err = w.write(g); err == nil {
			if f := w.s.flushed.Load(); f != nil {
				(*f)(len(calls), time.Since(began))
			}
			w.s.rang(g)
			for i, k := range calls {
				k.done <- g.outcome[i]
			}
			return
		}
		var pg *pgconn.PgError
		switch {
		case w.conn != nil && w.conn.IsClosed():
			w.conn = nil
			if g.written {
				w.s.log.Warn("the connection was lost while committing", "commits", len(calls), "error", err)
				w.refuse(calls, err)
				return
			}
		case w.conn == nil: // no connection could be made
			w.refuse(calls, err)
			return
		case errors.As(err, &pg) && (pg.Code == "23505" || pg.Code == "40P01" || pg.Code == "40001"):
			// Somebody made the same row or id at the same time; look again.
		case len(calls) == 1 || errors.As(err, &pg) && pg.Code[:2] == "53":
			w.refuse(calls, err)
			return
		default:
			w.each(calls)
			return
		}
	}
	if len(calls) == 1 {
		w.refuse(calls, err)
		return
	}
	w.each(calls)
}

func (w *committer) each(calls []*call) {
	for i := range calls {
		w.group(calls[i : i+1])
	}
}

func (w *committer) refuse(calls []*call, err error) {
	err = w.s.fail("commit", err)
	for _, k := range calls {
		k.done <- err
	}
}

func (w *committer) connect(ctx context.Context) error {
	if w.conn != nil && !w.conn.IsClosed() {
		return nil
	}
	w.conn = nil
	conn, err := pgx.ConnectConfig(ctx, w.s.conf)
	if err != nil {
		return err
	}
	// The slot is ours as long as the connection lives.
	for w.slot = range slots {
		var ours bool
		err = conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1, $2)", lockSlot+w.slot, w.s.lockID).Scan(&ours)
		if err != nil || ours {
			break
		}
	}
	if err != nil {
		_ = conn.Close(ctx) // err says why
		return err
	}
	w.conn = conn
	return nil
}

// write runs the two round trips of a group. With an error nothing was written,
// unless the connection broke after g.written was set: then nobody knows.
func (w *committer) write(g *group) error {
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	if err := w.connect(ctx); err != nil {
		return err
	}
	err := w.conn.SendBatch(ctx, g.look()).Close()
	if err == nil {
		if err = g.decide(); err == nil {
			g.written = true
			err = w.conn.SendBatch(ctx, g.save(w.slot)).Close()
		}
	}
	if err != nil && !w.conn.IsClosed() {
		if _, rerr := w.conn.Exec(ctx, "ROLLBACK"); rerr != nil {
			_ = w.conn.Close(ctx) // the next group makes a new one
		}
	}
	return err
}
