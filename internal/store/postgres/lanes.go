package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// promoteMost is how many waiting lanes one claim makes ready at most.
const promoteMost = 1000

const (
	// promote makes the lanes ready whose instant has come.
	promote = `UPDATE lane l SET rank = l.ready_at - l.prio * $4::bigint FROM (
			SELECT topic, tenant, key FROM lane WHERE topic = $1 AND rank IS NULL AND ready_at <= $2 ORDER BY ready_at LIMIT $3 FOR UPDATE SKIP LOCKED
		) w WHERE l.topic = w.topic AND l.tenant = w.tenant AND l.key = w.key`

	take = `UPDATE lane l SET rank = NULL, ready_at = $3, token = $4, owner = $5, attempt = l.attempt + 1, held = least(l.n, $6::bigint) FROM (
			SELECT topic, tenant, key, rank FROM lane WHERE topic = $1 AND rank IS NOT NULL ORDER BY rank LIMIT $2 FOR UPDATE SKIP LOCKED
		) w WHERE l.topic = w.topic AND l.tenant = w.tenant AND l.key = w.key AND NOT EXISTS (SELECT FROM topic t WHERE t.topic = $1 AND t.paused)
		RETURNING l.tenant, l.key, w.rank, l.prio, l.attempt, l.fails, l.tail - l.n + 1, l.held, l.due`

	retake = `UPDATE lane l SET rank = NULL, ready_at = $2, token = $3, owner = $4, attempt = l.attempt + 1, held = least(l.n, $5::bigint) FROM (
			SELECT topic, tenant, key, ready_at FROM lane WHERE topic = $1 AND owner = $4 AND token <> '' ORDER BY topic, tenant, key FOR UPDATE
		) w WHERE l.topic = w.topic AND l.tenant = w.tenant AND l.key = w.key
		RETURNING l.tenant, l.key, w.ready_at, l.prio, l.attempt, l.fails, l.tail - l.n + 1, l.held, l.due`
)

// taken is a lane that a claim has just locked and stamped.
type taken struct {
	tenant, key    string
	rank           int64
	prio           int32
	attempt, fails int32
	head, held     int64
	due            int64
	msgs           []*store.Msg
	until          int64 // its head is not due before
}

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	var got store.Claimed
	for {
		deferred, err := s.claim(ctx, r, &got)
		if err != nil {
			// Lanes of a round before are ours, but nobody would know.
			return store.Claimed{}, s.failed(ctx, "claim "+r.Topic, err)
		}
		if deferred == 0 || r.Reclaim {
			return got, nil
		}
		// Lanes whose new head is not due yet have stood in the way of others.
		r.Lanes = deferred
	}
}

func (s *Store) claim(ctx context.Context, r store.ClaimRequest, got *store.Claimed) (deferred int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !plain(r.Topic) || !plain(r.Owner) || r.Lanes <= 0 && !r.Reclaim {
		return 0, nil
	}
	now := s.now()
	per := int64(max(1, r.PerLane))
	token := newToken()
	conn, err := s.work.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	// A claim whose context has ended closes its connection, which undoes it.
	defer conn.Release()

	var lanes []*taken
	var next *int64
	collect := func(rows pgx.Rows) error {
		var t taken
		_, err := pgx.ForEachRow(rows, []any{&t.tenant, &t.key, &t.rank, &t.prio, &t.attempt, &t.fails, &t.head, &t.held, &t.due}, func() error {
			c := t
			lanes = append(lanes, &c)
			return nil
		})
		return err
	}
	until := now + r.Lease.Microseconds()
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	if r.Reclaim {
		b.Queue(retake, r.Topic, until, token, r.Owner, per).Query(collect)
	} else {
		b.Queue("SELECT EXISTS (SELECT FROM topic WHERE topic = $1 AND paused)", r.Topic).QueryRow(func(row pgx.Row) error { return row.Scan(&got.Paused) })
		b.Queue(promote, r.Topic, now, promoteMost, store.PriorityAge.Microseconds())
		b.Queue(take, r.Topic, min(r.Lanes, math.MaxInt32), until, token, r.Owner, per).Query(collect)
		b.Queue("SELECT (SELECT ready_at FROM lane WHERE topic = $1 AND rank IS NULL AND ready_at > $2 ORDER BY ready_at LIMIT 1)", r.Topic, now).
			QueryRow(func(row pgx.Row) error { return row.Scan(&next) })
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return 0, undo(conn.Conn(), err)
	}
	slices.SortStableFunc(lanes, func(a, b *taken) int { return cmp.Compare(a.rank, b.rank) })

	// The heads are read by another statement: one that began before the lanes
	// were locked might see older messages than they hold.
	b = &pgx.Batch{}
	wait := false
	if len(lanes) > 0 {
		wait = slices.ContainsFunc(lanes, func(t *taken) bool { return t.due > now })
		s.readMsgs(b, lanes, r, now, token)
	}
	if !wait {
		if per > 1 {
			countExtra(b, r.Topic, lanes)
		}
		b.Queue("COMMIT")
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return 0, undo(conn.Conn(), err)
	}
	if wait {
		b = &pgx.Batch{}
		deferred = s.giveBack(b, r, lanes)
		lanes = slices.DeleteFunc(lanes, func(t *taken) bool { return len(t.msgs) == 0 })
		if per > 1 {
			countExtra(b, r.Topic, lanes)
		}
		b.Queue("COMMIT")
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return 0, undo(conn.Conn(), err)
		}
	}
	for _, t := range lanes {
		got.Msgs = append(got.Msgs, t.msgs...)
	}
	if next != nil && !got.Paused && (got.Next.IsZero() || *next < got.Next.UnixMicro()) {
		got.Next = micros(*next)
	}
	return deferred, nil
}

// undo rolls back on a connection that is still good.
func undo(conn *pgx.Conn, err error) error {
	if !conn.IsClosed() {
		ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
		defer cancel()
		if _, rerr := conn.Exec(ctx, "ROLLBACK"); rerr != nil {
			_ = conn.Close(ctx) // the pool makes a new one
		}
	}
	return err
}

func (s *Store) readMsgs(b *pgx.Batch, lanes []*taken, r store.ClaimRequest, now int64, token string) {
	tenants, keys := make([]string, len(lanes)), make([]string, len(lanes))
	heads, ends := make([]int64, len(lanes)), make([]int64, len(lanes))
	for i, t := range lanes {
		tenants[i], keys[i], heads[i], ends[i] = t.tenant, t.key, t.head, t.head+t.held
	}
	b.Queue(`SELECT u.i, m.seq, m.sent_at, m.due, m.extra, m.body
		FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) WITH ORDINALITY AS u(tenant, key, head, past, i)
		CROSS JOIN LATERAL (SELECT * FROM msg WHERE topic = $1 AND tenant = u.tenant AND key = u.key AND seq >= u.head AND seq < u.past OFFSET 0) m
		ORDER BY u.i, m.seq`, r.Topic, tenants, keys, heads, ends).Query(func(rows pgx.Rows) error {
		var i, seq, sent, due int64
		var extra int
		var body []byte
		_, err := pgx.ForEachRow(rows, []any{&i, &seq, &sent, &due, &extra, &body}, func() error {
			t := lanes[i-1]
			if t.until > 0 {
				return nil // behind one that is not due
			}
			if due > now {
				t.until = due
				return nil
			}
			m := &store.Msg{Tenant: t.tenant, Topic: r.Topic, Key: t.key, Seq: seq, Body: body, Token: token,
				Priority: int(t.prio), SentAt: micros(sent)}
			if seq == t.head {
				m.Attempt, m.Fails = extra+int(t.attempt), int(t.fails)
			} else {
				m.Attempt = extra + 1
			}
			m.Attempt = max(1, m.Attempt)
			t.msgs = append(t.msgs, m)
			return nil
		})
		return err
	})
}

// countExtra counts the delivery of messages behind the heads.
func countExtra(b *pgx.Batch, topic string, lanes []*taken) {
	var tenants, keys []string
	var firsts, ends []int64
	for _, t := range lanes {
		n := t.held
		if t.msgs != nil {
			n = int64(len(t.msgs))
		}
		if n > 1 {
			tenants, keys, firsts, ends = append(tenants, t.tenant), append(keys, t.key), append(firsts, t.head+1), append(ends, t.head+n)
		}
	}
	if len(keys) > 0 {
		b.Queue(`UPDATE msg m SET extra = m.extra + 1 FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS u(tenant, key, first, past)
			WHERE m.topic = $1 AND m.tenant = u.tenant AND m.key = u.key AND m.seq >= u.first AND m.seq < u.past`, topic, tenants, keys, firsts, ends)
	}
}

// giveBack ends the sessions before messages that are not due, and lets lanes
// whose head is not due wait for it.
func (s *Store) giveBack(b *pgx.Batch, r store.ClaimRequest, lanes []*taken) (deferred int) {
	for _, t := range lanes {
		switch n := len(t.msgs); {
		case n == 0 && t.until > 0:
			deferred++
			b.Queue(`UPDATE lane SET ready_at = $4, rank = NULL, token = '', owner = '', attempt = attempt - 1, held = 0
				WHERE topic = $1 AND tenant = $2 AND key = $3`, r.Topic, t.tenant, t.key, t.until)
		case int64(n) < t.held:
			b.Queue("UPDATE lane SET held = $4 WHERE topic = $1 AND tenant = $2 AND key = $3", r.Topic, t.tenant, t.key, n)
		}
	}
	return deferred
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
	type held struct {
		laneKey
		token string
	}
	var topics, tenants, keys, tokens []string
	seen := map[held]bool{}
	for _, m := range msgs {
		h := held{keyOf(m), m.Token}
		if !seen[h] && m.Token != "" && plain(m.Topic) && plain(m.Tenant) && plain(m.Key) && plain(m.Token) {
			seen[h] = true
			topics, tenants, keys, tokens = append(topics, h.topic), append(tenants, h.tenant), append(keys, h.key), append(tokens, h.token)
		}
	}
	heads := map[held]int64{}
	if len(keys) > 0 {
		rows, err := s.work.Query(ctx, `WITH ours AS (
				SELECT l.topic, l.tenant, l.key FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u(topic, tenant, key, token)
				JOIN lane l ON l.topic = u.topic AND l.tenant = u.tenant AND l.key = u.key AND l.token = u.token
				ORDER BY l.topic, l.tenant, l.key FOR UPDATE OF l)
			UPDATE lane l SET ready_at = $5, rank = NULL FROM ours o WHERE l.topic = o.topic AND l.tenant = o.tenant AND l.key = o.key
			RETURNING l.topic, l.tenant, l.key, l.token, l.tail - l.n + 1`, topics, tenants, keys, tokens, s.now()+lease.Microseconds())
		if err == nil {
			var h held
			var head int64
			_, err = pgx.ForEachRow(rows, []any{&h.topic, &h.tenant, &h.key, &h.token, &head}, func() error {
				heads[h] = head
				return nil
			})
		}
		if err != nil {
			return nil, s.failed(ctx, "extend", err)
		}
	}
	var lost []*store.Msg
	for _, m := range msgs {
		if head, ok := heads[held{keyOf(m), m.Token}]; !ok || m.Seq < head {
			lost = append(lost, m)
		}
	}
	return lost, nil
}

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
		LEFT JOIN LATERAL (SELECT m.sent_at FROM msg m WHERE m.topic || '/' || m.tenant = d.name || '/' || d.tenant
				AND m.topic || '' = d.name AND NOT EXISTS (
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
			tag, err := tx.Exec(ctx, `DELETE FROM msg WHERE topic = $1 AND tenant = $2 AND key = ANY ($3::text[])`, topic, tenant, keys)
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
