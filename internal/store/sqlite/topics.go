package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func (s *Store) loadPaused(ctx context.Context) error {
	rows, err := s.wconn.QueryContext(ctx, "SELECT topic FROM paused")
	if err != nil {
		return err
	}
	for rows.Next() {
		var topic string
		if err := rows.Scan(&topic); err != nil {
			rows.Close()
			return err
		}
		s.paused[topic] = true
	}
	return errorsOf(rows)
}

// Pause implements store.Store.
func (s *Store) Pause(ctx context.Context, topic string, paused bool) error {
	return s.submit(ctx, false, func(w *writer) error {
		w.paused[topic] = paused
		q := `DELETE FROM paused WHERE topic=?`
		if paused {
			q = `INSERT INTO paused (topic) VALUES (?) ON CONFLICT DO NOTHING`
		}
		_, err := w.exec(q, topic)
		return err
	})
}

// Topics implements store.Store.
func (s *Store) Topics(ctx context.Context, tenant string) ([]store.TopicStat, error) {
	rows, err := s.read.QueryContext(ctx, `
		SELECT t.tenant, t.topic,
			coalesce((SELECT c.n FROM counter c WHERE c.tbl='.depth' AND c.tenant=t.tenant AND c.name=t.topic), 0),
			coalesce((SELECT c.n FROM counter c WHERE c.tbl='dead' AND c.tenant=t.tenant AND c.name='topic:'||t.topic), 0),
			coalesce((SELECT c.n FROM counter c WHERE c.tbl='.lanes' AND c.tenant=t.tenant AND c.name=t.topic), 0),
			(SELECT count(*) FROM lane l WHERE l.topic=t.id AND l.rank IS NULL AND l.token<>''),
			coalesce((SELECT l.sent_at FROM lane l WHERE l.topic=t.id AND l.rank IS NOT NULL ORDER BY l.rank LIMIT 1), 0),
			EXISTS (SELECT 1 FROM paused p WHERE p.topic=t.topic)
		FROM topic t WHERE ?='*' OR t.tenant=? ORDER BY t.topic, t.tenant`, tenantOf(tenant), tenantOf(tenant))
	if err != nil {
		return nil, unavailable(err)
	}
	var out []store.TopicStat
	for rows.Next() {
		var t store.TopicStat
		var oldest int64
		if err := rows.Scan(&t.Tenant, &t.Topic, &t.Depth, &t.Dead, &t.Lanes, &t.Leased, &oldest, &t.Paused); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		t.Oldest = micros(oldest)
		out = append(out, t)
	}
	return out, unavailable(errorsOf(rows))
}

// Depth implements store.Store.
func (s *Store) Depth(ctx context.Context, topic string) (int64, error) {
	m, err := s.counts(ctx, "SELECT name, n FROM counter WHERE tbl='.depth' AND name=?", topic)
	return m[topic], err
}

// Peek implements store.Store.
func (s *Store) Peek(ctx context.Context, tenant, topic, after string, n int) ([]store.QueuedMsg, string, error) {
	type place struct {
		Key string `json:"k"`
		Seq int64  `json:"s"`
	}
	var from place
	if after != "" {
		b, err := base64.RawURLEncoding.DecodeString(after)
		if err != nil || json.Unmarshal(b, &from) != nil {
			return nil, "", waybill.E(waybill.KindInvalid, "the cursor is not one of this list")
		}
	}
	if n <= 0 {
		n = 100
	}
	tenant = tenantOf(tenant)
	lanes, err := s.peekLanes(ctx, tenant, topic, from.Key, n+1)
	if err != nil {
		return nil, "", err
	}
	var out []store.QueuedMsg
	for _, l := range lanes {
		if l.key != from.Key || l.head > from.Seq {
			out = append(out, l.QueuedMsg)
		}
		if l.n > 1 && len(out) <= n {
			after := l.head
			if l.key == from.Key {
				after = max(after, from.Seq)
			}
			if out, err = s.peekRest(ctx, l, after, n+1-len(out), out); err != nil {
				return nil, "", err
			}
		}
		if len(out) > n {
			break
		}
	}
	if len(out) <= n {
		return out, "", nil
	}
	out = out[:n]
	b, err := json.Marshal(place{out[n-1].Key, out[n-1].Seq})
	return out, base64.RawURLEncoding.EncodeToString(b), err
}

// peeked is a lane with its first message.
type peeked struct {
	store.QueuedMsg
	id, n, head int64
	key         string
}

func (s *Store) peekLanes(ctx context.Context, tenant, topic, from string, n int) ([]peeked, error) {
	rows, err := s.query(ctx, fmt.Sprintf(`SELECT id, key, n, tail-n+1, sent_at, body, ready_at, rank IS NULL AND token<>'', owner, prio, attempt, fails
		FROM lane WHERE topic=(SELECT id FROM topic WHERE topic=? AND tenant=?) AND key>=? ORDER BY key LIMIT %d`, n), topic, tenant, from)
	if err != nil {
		return nil, unavailable(err)
	}
	var out []peeked
	for rows.Next() {
		var l peeked
		var sent, ready int64
		if err := rows.Scan(&l.id, &l.key, &l.n, &l.head, &sent, &l.Body, &ready, &l.Leased, &l.Owner, &l.Priority, &l.Attempt, &l.Fails); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		l.Tenant, l.Topic, l.Key, l.Seq, l.SentAt, l.ReadyAt = tenant, topic, l.key, l.head, micros(sent), micros(ready)
		out = append(out, l)
	}
	return out, unavailable(errorsOf(rows))
}

// peekRest adds what stands behind a place in a lane.
func (s *Store) peekRest(ctx context.Context, l peeked, after int64, n int, out []store.QueuedMsg) ([]store.QueuedMsg, error) {
	rows, err := s.read.QueryContext(ctx, fmt.Sprintf(`SELECT seq, sent_at, body FROM msg WHERE lane=? AND seq>? ORDER BY seq LIMIT %d`, n), l.id, after)
	if err != nil {
		return nil, unavailable(err)
	}
	for rows.Next() {
		m := l.QueuedMsg
		m.Body, m.Attempt, m.Fails = nil, 0, 0
		var sent int64
		if err := rows.Scan(&m.Seq, &sent, &m.Body); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		m.SentAt = micros(sent)
		out = append(out, m)
	}
	return out, unavailable(errorsOf(rows))
}

// purgeChunk bounds how long a purge keeps others from writing.
const purgeChunk = 500

// Purge implements store.Store.
func (s *Store) Purge(ctx context.Context, tenant, topic string) (int64, error) {
	tenant = tenantOf(tenant)
	var total, after int64
	for {
		var lanes int
		var gone int64
		var last int64
		err := s.submit(ctx, true, func(w *writer) error {
			lanes, gone = 0, 0
			q, err := w.queue(topic, tenant)
			if err != nil {
				return err
			}
			if err := w.flushLanes(); err != nil {
				return err
			}
			var ids []int64
			if err := w.query(`SELECT id FROM lane WHERE topic=? AND id>? ORDER BY id`, []any{q.id, after}, func(v []driver.Value) error {
				if ids = append(ids, v[0].(int64)); len(ids) == purgeChunk {
					return errEnough
				}
				return nil
			}); err != nil {
				return err
			}
			for _, id := range ids {
				lanes++
				last = id
				l, err := w.laneByID(q, id)
				if err != nil {
					return err
				}
				if l.token != "" && !l.ready && l.readyAt > w.now {
					continue
				}
				if _, err := w.exec(`DELETE FROM msg WHERE lane=?`, id); err != nil {
					return err
				}
				gone += l.n
				w.count(".depth", tenant, topic, -l.n)
				l.n = 0
				w.touch(l)
			}
			return nil
		})
		if err != nil {
			return total, err
		}
		total, after = total+gone, last
		if lanes < purgeChunk {
			return total, nil
		}
	}
}

// TrimEvents implements store.Store.
func (s *Store) TrimEvents(ctx context.Context, tenant string, subjects []string) error {
	for len(subjects) > 0 {
		chunk := subjects[:min(len(subjects), 200)]
		subjects = subjects[len(chunk):]
		if err := s.submit(ctx, false, func(w *writer) error {
			for _, subject := range chunk {
				if _, err := w.exec(`DELETE FROM event WHERE subject=? AND tenant=?`, subject, tenantOf(tenant)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
