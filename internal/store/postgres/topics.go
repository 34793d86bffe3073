package postgres

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Topics implements store.Store.
func (s *Store) Topics(ctx context.Context, tenant string) ([]store.TopicStat, error) {
	rows, err := s.read.Query(ctx, `
		WITH sums AS (SELECT tbl, tenant, name, sum(n)::bigint AS n FROM counter
			WHERE (tbl IN ('.depth', '.lanes') OR tbl = $3 AND name LIKE 'topic:%') AND ($1 = '*' OR tenant = $1) GROUP BY tbl, tenant, name),
		leased AS (SELECT tenant, topic, count(*) AS n FROM lane WHERE token <> '' AND ready_at > $2 GROUP BY tenant, topic)
		SELECT d.tenant, d.name, d.n, coalesce(x.n, 0), coalesce(l.n, 0), coalesce(h.n, 0), coalesce(p.paused, false), o.sent_at
		FROM sums d
		LEFT JOIN sums x ON x.tbl = $3 AND x.tenant = d.tenant AND x.name = 'topic:' || d.name
		LEFT JOIN sums l ON l.tbl = '.lanes' AND l.tenant = d.tenant AND l.name = d.name
		LEFT JOIN leased h ON h.tenant = d.tenant AND h.topic = d.name
		LEFT JOIN topic p ON p.topic = d.name
		LEFT JOIN LATERAL (SELECT m.sent_at FROM msg m WHERE m.topic = d.name AND m.tenant = d.tenant AND NOT EXISTS (
				SELECT FROM lane l WHERE l.topic = m.topic AND l.tenant = m.tenant AND l.key = m.key
				AND l.token <> '' AND l.ready_at > $2 AND m.seq <= l.tail - l.n + l.held)
			ORDER BY m.sent_at LIMIT 1) o ON true
		WHERE d.tbl = '.depth' ORDER BY d.tenant, d.name`, tenantOf(tenant), s.now(), store.DeadTable)
	if err != nil {
		return nil, s.failed(ctx, "topics", err)
	}
	var out []store.TopicStat
	var st store.TopicStat
	var oldest *int64
	_, err = pgx.ForEachRow(rows, []any{&st.Tenant, &st.Topic, &st.Depth, &st.Dead, &st.Lanes, &st.Leased, &st.Paused, &oldest}, func() error {
		c := st
		if oldest != nil {
			c.Oldest = micros(*oldest)
		}
		out = append(out, c)
		return nil
	})
	return out, s.failed(ctx, "topics", err)
}

// Depth implements store.Store.
func (s *Store) Depth(ctx context.Context, topic string) (int64, error) {
	var n int64
	err := s.work.QueryRow(ctx, "SELECT coalesce(sum(n), 0)::bigint FROM counter WHERE tbl = '.depth' AND name = $1", topic).Scan(&n)
	return n, s.failed(ctx, "depth of "+topic, err)
}

// Peek implements store.Store.
func (s *Store) Peek(ctx context.Context, tenant, topic, after string, n int) ([]store.QueuedMsg, string, error) {
	var key string
	seq := int64(-1)
	if after != "" {
		b, err := base64.RawURLEncoding.DecodeString(after)
		num, rest, ok := strings.Cut(string(b), " ")
		if err == nil {
			seq, err = strconv.ParseInt(num, 10, 64)
		}
		if key = rest; err != nil || !ok || !plain(key) {
			return nil, "", waybill.E(waybill.KindInvalid, "%q is not a cursor of this list", after)
		}
	}
	if n <= 0 {
		n = 100
	}
	now := s.now()
	rows, err := s.work.Query(ctx, `SELECT m.tenant, m.key, m.seq, m.body, m.sent_at, m.extra, l.prio, l.attempt, l.fails, l.tail - l.n + 1, l.ready_at, l.owner, l.token <> ''
		FROM msg m JOIN lane l ON l.topic = m.topic AND l.tenant = m.tenant AND l.key = m.key
		WHERE m.topic = $1 AND m.tenant = $2 AND (m.key, m.seq) > ($3, $4) ORDER BY m.key, m.seq LIMIT $5`,
		topic, tenantOf(tenant), key, seq, n+1)
	if err != nil {
		return nil, "", s.failed(ctx, "peek "+topic, err)
	}
	var out []store.QueuedMsg
	var m store.QueuedMsg
	var sent, head, ready int64
	var extra, attempt, fails int
	_, err = pgx.ForEachRow(rows, []any{&m.Tenant, &m.Key, &m.Seq, &m.Body, &sent, &extra, &m.Priority, &attempt, &fails, &head, &ready, &m.Owner, &m.Leased}, func() error {
		q := m
		q.Topic, q.SentAt, q.ReadyAt, q.Attempt = topic, micros(sent), micros(ready), extra
		if q.Seq == head {
			q.Attempt, q.Fails = extra+attempt, fails
		}
		if q.Leased = q.Leased && ready > now; !q.Leased {
			q.Owner = ""
		}
		out = append(out, q)
		return nil
	})
	if err != nil {
		return nil, "", s.failed(ctx, "peek "+topic, err)
	}
	if len(out) <= n {
		return out, "", nil
	}
	last := out[n-1]
	return out[:n], base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", last.Seq, last.Key)), nil
}

// Purge implements store.Store. It works in batches; one that fails leaves the
// batches before purged.
func (s *Store) Purge(ctx context.Context, tenant, topic string) (int64, error) {
	tenant = tenantOf(tenant)
	var total int64
	for {
		var keys []string
		err := pgx.BeginFunc(ctx, s.work, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `DELETE FROM lane l USING (
					SELECT topic, tenant, key FROM lane WHERE topic = $1 AND tenant = $2 AND (token = '' OR ready_at <= $3) ORDER BY topic, tenant, key LIMIT 1000 FOR UPDATE
				) w WHERE l.topic = w.topic AND l.tenant = w.tenant AND l.key = w.key RETURNING l.key`, topic, tenant, s.now())
			if err != nil {
				return err
			}
			if keys, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(keys) == 0 {
				return err
			}
			tag, err := tx.Exec(ctx, `DELETE FROM msg m USING unnest($3::text[]) AS u(key) WHERE m.topic = $1 AND m.tenant = $2 AND m.key = u.key`, topic, tenant, keys)
			if err != nil {
				return err
			}
			c := counts{}
			c.add(".depth", tenant, topic, -tag.RowsAffected())
			c.add(".lanes", tenant, topic, -int64(len(keys)))
			sql, args := c.write(slots)
			_, err = tx.Exec(ctx, sql, args...)
			total += tag.RowsAffected()
			return err
		})
		if err != nil || len(keys) == 0 {
			return total, s.failed(ctx, "purge "+topic, err)
		}
	}
}

// Pause implements store.Store.
func (s *Store) Pause(ctx context.Context, topic string, paused bool) error {
	_, err := s.work.Exec(ctx, "INSERT INTO topic (topic, paused) VALUES ($1, $2) ON CONFLICT (topic) DO UPDATE SET paused = excluded.paused", topic, paused)
	if err == nil {
		s.bells.ring([]string{topic}, false)
	}
	return s.failed(ctx, "pause "+topic, err)
}
