package sqlite

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql/driver"
	"encoding/base64"
	"math"
	"slices"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

// queue is a topic of one tenant.
type queue struct {
	id            int64
	topic, tenant string

	// How many lanes have a row, and how many of those are in memory. While the two
	// are equal, a key that is not in memory has no lane.
	rows, cached int64
}

// queue returns the queue of a topic and tenant, making it when it is new.
func (w *writer) queue(topic, tenant string) (*queue, error) {
	for _, q := range w.queues[topic] {
		if q.tenant == tenant {
			return q, nil
		}
	}
	q := &queue{topic: topic, tenant: tenant}
	if _, err := w.exec(`INSERT INTO topic (topic, tenant) VALUES (?,?) ON CONFLICT DO NOTHING`, topic, tenant); err != nil {
		return nil, err
	}
	err := w.query(`SELECT id FROM topic WHERE topic=? AND tenant=?`, []any{topic, tenant}, func(v []driver.Value) error {
		q.id = v[0].(int64)
		return nil
	})
	if err == nil {
		w.queues[topic] = append(w.queues[topic], q)
	}
	return q, err
}

func (w *writer) loadQueues() error {
	w.queues = map[string][]*queue{}
	return w.query(`SELECT id, topic, tenant, (SELECT count(*) FROM lane WHERE lane.topic=topic.id) FROM topic`, nil, func(v []driver.Value) error {
		q := &queue{id: v[0].(int64), topic: text(v[1]), tenant: text(v[2]), rows: v[3].(int64)}
		w.queues[q.topic] = append(w.queues[q.topic], q)
		return nil
	})
}

// lane is a row of table lane. All messages of a lane are contiguous: only the
// head leaves it and only the tail is added to, so their numbers follow from tail
// and n.
type lane struct {
	*queue
	id      int64 // row; 0 while there is none
	key     string
	readyAt int64
	ready   bool // rank counts; otherwise the lane waits until readyAt
	rank    int64
	prio    int
	token   string
	owner   string
	attempt int
	fails   int
	n       int64
	tail    int64
	held    int64 // claimed messages not finished yet
	sentAt  int64 // of the head
	body    []byte

	dirty bool // the row is not up to date
}

type laneKey struct {
	queue int64
	key   string
}

func (l *lane) head() int64 { return l.tail - l.n + 1 }

const laneColumns = `id, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, sent_at, body`

func (l *lane) scan(v []driver.Value) {
	l.id, l.key = v[0].(int64), text(v[1])
	l.readyAt = v[2].(int64)
	l.rank, l.ready = v[3].(int64)
	l.prio = int(v[4].(int64))
	l.token, l.owner = text(v[5]), text(v[6])
	l.attempt, l.fails = int(v[7].(int64)), int(v[8].(int64))
	l.n, l.tail, l.held = v[9].(int64), v[10].(int64), v[11].(int64)
	l.sentAt, l.body = v[12].(int64), blob(v[13])
}

// lane returns the lane of a key; one that holds nothing has n = 0.
func (w *writer) lane(topic, tenant, key string) (*lane, error) {
	q, err := w.queue(topic, tenant)
	if err != nil {
		return nil, err
	}
	if l, ok := w.lanes[laneKey{q.id, key}]; ok {
		return l, nil
	}
	l := &lane{queue: q, key: key}
	if q.cached == q.rows {
		w.remember(l)
		return l, nil
	}
	err = w.query(`SELECT `+laneColumns+` FROM lane WHERE topic=? AND key=?`, []any{q.id, key}, func(v []driver.Value) error {
		l.scan(v)
		return nil
	})
	if err == nil {
		w.remember(l)
	}
	return l, err
}

// laneByID returns the lane of a row that exists.
func (w *writer) laneByID(q *queue, id int64) (*lane, error) {
	if l, ok := w.byID[id]; ok {
		return l, nil
	}
	l := &lane{queue: q}
	err := w.query(`SELECT `+laneColumns+` FROM lane WHERE id=?`, []any{id}, func(v []driver.Value) error {
		l.scan(v)
		return nil
	})
	if err == nil {
		w.remember(l)
	}
	return l, err
}

func (w *writer) remember(l *lane) {
	w.lanes[laneKey{l.queue.id, l.key}] = l
	if l.id != 0 {
		w.byID[l.id] = l
		l.queue.cached++
	}
	w.laneBytes += len(l.body) + 256
}

func (w *writer) touch(l *lane) {
	if due, ok := w.due[l.queue.id]; ok && l.n > 0 && !l.ready && l.readyAt < due {
		w.due[l.queue.id] = l.readyAt
	}
	if !l.dirty {
		l.dirty = true
		w.dirty = append(w.dirty, l)
	}
}

func (w *writer) flushLanes() error {
	for _, l := range w.dirty {
		var rank any
		if l.ready {
			rank = l.rank
		}
		var err error
		switch {
		case l.n == 0:
			if l.id != 0 {
				_, err = w.exec(`DELETE FROM lane WHERE id=?`, l.id)
				w.count(".lanes", l.tenant, l.topic, -1)
				l.queue.rows--
				l.queue.cached--
			}
			delete(w.byID, l.id)
			delete(w.lanes, laneKey{l.queue.id, l.key})
		case l.id != 0:
			_, err = w.exec(`UPDATE lane SET ready_at=?, rank=?, prio=?, token=?, owner=?, attempt=?, fails=?, n=?, tail=?, held=?,
				sent_at=?, body=? WHERE id=?`,
				l.readyAt, rank, l.prio, l.token, l.owner, l.attempt, l.fails, l.n, l.tail, l.held, l.sentAt, l.body, l.id)
		default:
			l.id, err = w.insert(`INSERT INTO lane (topic, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, sent_at, body)
				VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
				l.queue.id, l.key, l.readyAt, rank, l.prio, l.token, l.owner, l.attempt, l.fails, l.n, l.tail, l.held, l.sentAt, l.body)
			w.byID[l.id] = l
			l.queue.rows++
			l.queue.cached++
			w.count(".lanes", l.tenant, l.topic, 1)
		}
		if err != nil {
			return err
		}
		l.dirty = false
	}
	w.dirty = w.dirty[:0]
	return nil
}

// setReady makes a lane claimable at an instant.
func (w *writer) setReady(l *lane, at int64) {
	l.readyAt = max(at, w.now)
	l.ready = at <= w.now
	if l.ready {
		l.rank = rank(l.readyAt, l.prio)
	}
}

// after is the instant a delay from now.
func (w *writer) after(delay time.Duration) int64 { return w.now + max(delay, 0).Microseconds() }

func rank(readyAt int64, prio int) int64 {
	return readyAt - int64(prio)*store.PriorityAge.Microseconds()
}

func (w *writer) send(tenant string, x *store.Send) error {
	l, err := w.lane(x.Topic, tenant, x.Key)
	if err != nil {
		return err
	}
	body := x.Body
	if body == nil {
		body = []byte{}
	}
	w.count(".depth", tenant, x.Topic, 1)
	w.rings[x.Topic] = true
	if l.n == 0 {
		// What was there before may still have a row; it is taken over.
		*l = lane{queue: l.queue, id: l.id, key: l.key, dirty: l.dirty, prio: x.Priority, n: 1, tail: 1, sentAt: w.now, body: body}
		w.laneBytes += len(body)
		w.setReady(l, w.after(x.Delay))
		if l.ready {
			l.rank += x.Behind.Microseconds()
		}
		w.touch(l)
		return nil
	}
	if x.Priority > l.prio {
		l.prio = x.Priority
		if l.ready {
			l.rank = rank(l.readyAt, l.prio)
		}
	}
	l.n++
	l.tail++
	w.touch(l)
	if l.id == 0 { // its second message needs the row's number
		if err := w.flushLanes(); err != nil {
			return err
		}
	}
	_, err = w.exec(`INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (?,?,?,?,?)`, l.id, l.tail, w.after(x.Delay), w.now, body)
	return err
}

// finish takes the head out of its lane.
func (w *writer) finish(l *lane) error {
	w.count(".depth", l.tenant, l.topic, -1)
	l.n--
	l.held--
	l.fails = 0
	due := w.now
	if l.n > 0 {
		if err := w.query(`SELECT ready_at, sent_at, body FROM msg WHERE lane=? AND seq=?`, []any{l.id, l.head()}, func(v []driver.Value) error {
			due, l.sentAt, l.body = v[0].(int64), v[1].(int64), blob(v[2])
			return nil
		}); err != nil {
			return err
		}
		if _, err := w.exec(`DELETE FROM msg WHERE lane=? AND seq=?`, l.id, l.head()); err != nil {
			return err
		}
	}
	if l.held > 0 {
		l.attempt = 1 // the next one was delivered with this claim
		w.touch(l)
		return nil
	}
	l.attempt = 0
	w.release(l, due)
	return nil
}

// release gives a claimed lane back, to be claimed again from an instant on.
func (w *writer) release(l *lane, at int64) {
	l.token, l.owner, l.held = "", "", 0
	w.setReady(l, at)
	w.touch(l)
	if l.n > 0 {
		w.rings[l.topic] = true
	}
}

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	var got store.Claimed
	s.mu.RLock()
	paused := s.paused[r.Topic]
	s.mu.RUnlock()
	if paused && !r.Reclaim {
		return store.Claimed{Paused: true}, nil
	}
	err := s.submit(ctx, true, func(w *writer) error {
		got = store.Claimed{}
		if err := w.flushLanes(); err != nil {
			return err
		}
		lanes, err := w.pick(r, &got)
		if err != nil {
			return err
		}
		for _, l := range lanes {
			if got.Msgs, err = w.take(l, r, got.Msgs); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return store.Claimed{}, err // the writer may still be at it when ctx ended
	}
	return got, nil
}

// pick selects the lanes of a claim: of each tenant's queue the best ranked, and
// of those the best ranked.
func (w *writer) pick(r store.ClaimRequest, got *store.Claimed) ([]*lane, error) {
	var lanes []*lane
	due := int64(math.MaxInt64)
	for _, q := range w.queues[r.Topic] {
		var ids []int64
		all := func(v []driver.Value) error {
			ids = append(ids, v[0].(int64))
			return nil
		}
		best := func(v []driver.Value) error {
			if ids = append(ids, v[0].(int64)); len(ids) == r.Lanes {
				return errEnough
			}
			return nil
		}
		var err error
		switch {
		case r.Reclaim:
			err = w.query(`SELECT id FROM lane WHERE topic=? AND owner=?`, []any{q.id, r.Owner}, all)
		case r.Lanes > 0:
			if err = w.promote(q); err == nil {
				err = w.query(`SELECT id FROM lane WHERE topic=? AND rank IS NOT NULL ORDER BY rank`, []any{q.id}, best)
			}
			if err == nil && len(ids) < r.Lanes {
				err = w.setDue(q)
			}
			due = min(due, w.due[q.id])
		}
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			l, err := w.laneByID(q, id)
			if err != nil {
				return nil, err
			}
			lanes = append(lanes, l)
		}
	}
	if got.Drained = !r.Reclaim && len(lanes) < r.Lanes; got.Drained && due < math.MaxInt64 {
		got.Next = micros(due)
	}
	if !r.Reclaim && len(w.queues[r.Topic]) > 1 {
		slices.SortStableFunc(lanes, func(a, b *lane) int { return cmp.Compare(a.rank, b.rank) })
		lanes = lanes[:min(len(lanes), r.Lanes)]
	}
	return lanes, nil
}

// promote makes the lanes ready whose instant has come.
func (w *writer) promote(q *queue) error {
	if due, ok := w.due[q.id]; ok && due > w.now {
		return nil
	}
	err := w.query(`UPDATE lane SET rank = ready_at - prio * ? WHERE topic=? AND rank IS NULL AND ready_at <= ?
		RETURNING id, rank`, []any{store.PriorityAge.Microseconds(), q.id, w.now}, func(v []driver.Value) error {
		if l, ok := w.byID[v[0].(int64)]; ok {
			l.ready, l.rank = true, v[1].(int64)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.setDue(q)
}

// setDue finds out when the queue's next waiting lane becomes ready.
func (w *writer) setDue(q *queue) error {
	w.due[q.id] = math.MaxInt64
	return w.query(`SELECT ready_at FROM lane WHERE topic=? AND rank IS NULL ORDER BY ready_at`, []any{q.id}, func(v []driver.Value) error {
		w.due[q.id] = v[0].(int64)
		return errEnough
	})
}

// take claims a lane and adds its first messages to msgs.
func (w *writer) take(l *lane, r store.ClaimRequest, msgs []*store.Msg) ([]*store.Msg, error) {
	l.token, l.owner = newToken(), r.Owner
	l.attempt++
	l.ready = false
	l.readyAt = w.now + r.Lease.Microseconds()
	l.held = 1
	w.touch(l)
	first := store.Msg{
		Tenant: l.tenant, Topic: l.topic, Key: l.key, Seq: l.head(), SentAt: micros(l.sentAt),
		Body: slices.Clone(l.body), Token: l.token, Attempt: l.attempt, Fails: l.fails, Priority: l.prio,
	}
	msgs = append(msgs, &first)
	if r.PerLane <= 1 || l.n == 1 {
		return msgs, nil
	}
	return msgs, w.query(`SELECT ready_at, seq, sent_at, body FROM msg WHERE lane=? AND seq>? AND seq<? ORDER BY seq`,
		[]any{l.id, first.Seq, first.Seq + int64(r.PerLane)}, func(v []driver.Value) error {
			if v[0].(int64) > w.now {
				return errEnough
			}
			m := first
			m.Seq, m.SentAt, m.Body, m.Attempt, m.Fails = v[1].(int64), micros(v[2].(int64)), blob(v[3]), 1, 0
			msgs = append(msgs, &m)
			l.held++
			return nil
		})
}

func newToken() string {
	var b [15]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand does not fail on any supported platform
	}
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Extend implements store.Store.
func (s *Store) Extend(ctx context.Context, msgs []*store.Msg, lease time.Duration) ([]*store.Msg, error) {
	var lost []*store.Msg
	err := s.submit(ctx, false, func(w *writer) error {
		lost = nil
		for _, m := range msgs {
			l, err := w.lane(m.Topic, m.Tenant, m.Key)
			if err != nil {
				return err
			}
			if l.n == 0 || l.token == "" || l.token != m.Token || m.Seq < l.head() {
				lost = append(lost, m)
				continue
			}
			l.ready = false
			l.readyAt = w.now + lease.Microseconds()
			w.touch(l)
		}
		return nil
	})
	if err != nil {
		return nil, err // as in Claim
	}
	return lost, nil
}

// Bell implements store.Store.
func (s *Store) Bell(topic string) (<-chan struct{}, func()) { return s.bells.listen(topic) }

// Watch implements store.Store.
func (s *Store) Watch() (<-chan struct{}, func()) { return s.bells.listen(eventBell) }
