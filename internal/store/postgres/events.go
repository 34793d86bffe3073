package postgres

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// The order of the log is (pos, seq). Transactions end in another order than
// they begin, so neither an identity nor a transaction id alone can be paged by:
// a reader would pass events that are not visible yet.
//
// pos is taken after the transaction has all its locks: the greater of its own id
// and the newest id that had ended by then. So
//   - of two transactions of which the second waited for the first (they write
//     the same row or lane), the second has no lower pos, and a higher seq;
//   - whatever is still running has an id, and so a pos, of at least the xmin of
//     a reader's snapshot. Events below xmin are complete, and Tail shows those.
const insertEvents = `INSERT INTO event (pos, tenant, subject, kind, at, data)
	SELECT (SELECT $1::bigint + greatest(pg_current_xact_id()::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)),
		tenant, subject, kind, at, data
	FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[]) AS u(tenant, subject, kind, at, data)`

// horizon is the end of the log that Tail shows, as an expression.
const horizon = "($1::bigint + pg_snapshot_xmin(pg_current_snapshot())::text::bigint)"

func cursor(pos, seq int64) store.Cursor {
	return store.Cursor(fmt.Sprintf("%d.%d", pos, seq))
}

func parseCursor(c store.Cursor) (pos, seq int64, err error) {
	if c == "" {
		return -1, 0, nil
	}
	p, q, ok := strings.Cut(string(c), ".")
	pos, err1 := strconv.ParseInt(p, 10, 64)
	seq, err2 := strconv.ParseInt(q, 10, 64)
	if !ok || err1 != nil || err2 != nil || pos < 0 || seq < 0 {
		return 0, 0, waybill.E(waybill.KindInvalid, "%q is not a cursor of the event log", string(c))
	}
	return pos, seq, nil
}

// Tail implements store.Store. Events stay hidden while a transaction that began
// before them runs anywhere on the server.
func (s *Store) Tail(ctx context.Context, after store.Cursor, n int) ([]store.StoredEvent, error) {
	pos, seq, err := parseCursor(after)
	if err != nil {
		return nil, err
	}
	rows, err := s.work.Query(ctx, `SELECT pos, seq, tenant, subject, kind, at, data FROM event
		WHERE (pos, seq) > ($2, $3) AND pos < `+horizon+` ORDER BY pos, seq LIMIT $4`, s.base, pos, seq, max(n, 0))
	got, err := collectEvents(rows, err)
	return got, s.failed(ctx, "tail", err)
}

func collectEvents(rows pgx.Rows, err error) ([]store.StoredEvent, error) {
	if err != nil {
		return nil, err
	}
	var out []store.StoredEvent
	var e store.StoredEvent
	var pos, seq, at int64
	_, err = pgx.ForEachRow(rows, []any{&pos, &seq, &e.Tenant, &e.Subject, &e.Kind, &at, &e.Data}, func() error {
		e.Cursor, e.At = cursor(pos, seq), micros(at)
		out = append(out, e)
		return nil
	})
	return out, err
}

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (store.Cursor, error) {
	var pos, seq int64
	err := s.work.QueryRow(ctx, `(SELECT pos, seq FROM event WHERE pos < `+horizon+` ORDER BY pos DESC, seq DESC LIMIT 1)
		UNION ALL SELECT `+horizon+` - 1, $2::bigint LIMIT 1`, s.base, int64(math.MaxInt64)).Scan(&pos, &seq)
	if err != nil {
		return "", s.failed(ctx, "head", err)
	}
	return cursor(pos, seq), nil
}

// Events implements store.Store. Unlike Tail it shows an event as soon as it is
// committed.
func (s *Store) Events(ctx context.Context, tenant, subject string, after store.Cursor, n int) ([]store.StoredEvent, error) {
	pos, seq, err := parseCursor(after)
	if err != nil {
		return nil, err
	}
	rows, err := s.work.Query(ctx, `SELECT pos, seq, tenant, subject, kind, at, data FROM event
		WHERE tenant = $1 AND subject = $2 AND (pos, seq) > ($3, $4) ORDER BY pos, seq LIMIT $5`, tenantOf(tenant), subject, pos, seq, max(n, 0))
	got, err := collectEvents(rows, err)
	return got, s.failed(ctx, "events of "+subject, err)
}

// TrimEvents implements store.Store.
func (s *Store) TrimEvents(ctx context.Context, tenant string, subjects []string) error {
	if len(subjects) == 0 {
		return nil
	}
	_, err := s.work.Exec(ctx, "DELETE FROM event e USING unnest($2::text[]) AS u(subject) WHERE e.subject = u.subject AND e.tenant = $1", tenantOf(tenant), subjects)
	return s.failed(ctx, "trim events", err)
}
