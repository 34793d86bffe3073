package postgres

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, tenant, table, key string) (store.Row, error) {
	t, err := s.table(table)
	if err != nil {
		return store.Row{}, err
	}
	r := store.Row{Tenant: tenantOf(tenant), Key: key}
	if !plain(r.Tenant) || !plain(key) {
		return store.Row{}, store.ErrNotFound
	}
	err = s.work.QueryRow(ctx, "SELECT rev, val FROM "+t.sql+" WHERE tenant = $1 AND key = $2", r.Tenant, key).Scan(&r.Rev, &r.Val)
	if errors.Is(err, pgx.ErrNoRows) {
		return store.Row{}, store.ErrNotFound
	}
	if err != nil {
		return store.Row{}, s.failed(ctx, "get "+table, err)
	}
	return r, nil
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error) {
	t, err := s.table(table)
	if err != nil {
		return nil, err
	}
	b := sqlBuilder{}
	b.where("tenant = " + b.arg(tenantOf(tenant)))
	b.prefix("key", prefix)
	sql := "SELECT tenant, key, rev, val FROM " + t.sql + b.text() + " ORDER BY key"
	if limit > 0 {
		sql += fmt.Sprintf(" LIMIT %d", limit)
	}
	rows, err := s.read.Query(ctx, sql, b.args...)
	if err != nil {
		return nil, s.failed(ctx, "scan "+table, err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[store.Row])
	return got, s.failed(ctx, "scan "+table, err)
}

// Counts implements store.Store.
func (s *Store) Counts(ctx context.Context, tenant, table string) (map[string]int64, error) {
	t, err := s.table(table)
	if err != nil {
		return nil, err
	}
	rows, err := s.work.Query(ctx, "SELECT name, sum(n)::bigint FROM counter WHERE tbl = $1 AND tenant = $2 GROUP BY name HAVING sum(n) <> 0", t.Name, tenantOf(tenant))
	if err != nil {
		return nil, s.failed(ctx, "counts of "+table, err)
	}
	got := map[string]int64{}
	var name string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error {
		got[name] = n
		return nil
	})
	return got, s.failed(ctx, "counts of "+table, err)
}

// sqlBuilder collects conditions and their arguments.
type sqlBuilder struct {
	conds []string
	args  []any
}

func (b *sqlBuilder) arg(v any) string {
	b.args = append(b.args, v)
	return fmt.Sprintf("$%d", len(b.args))
}

func (b *sqlBuilder) where(cond string) { b.conds = append(b.conds, cond) }

func (b *sqlBuilder) text() string {
	if len(b.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(b.conds, " AND ")
}

// prefix makes a range of it, which an index can serve: texts are compared byte
// by byte, and bytes of UTF-8 are in the order of code points.
func (b *sqlBuilder) prefix(col, prefix string) {
	b.where(col + " >= " + b.arg(prefix))
	for end := prefix; end != ""; {
		r, n := utf8.DecodeLastRuneInString(end)
		end = end[:len(end)-n]
		if r < utf8.MaxRune {
			if r++; r == 0xd800 {
				r = 0xe000 // what lies between is no text
			}
			b.where(col + " < " + b.arg(end+string(r)))
			return
		}
	}
}

// value checks that v fits a column, and gives what the driver wants.
func value(typ store.Type, v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, typ == store.Text && plain(v)
	case int64:
		return v, typ == store.Int
	case int:
		return int64(v), typ == store.Int
	case bool:
		if v {
			return int64(1), typ == store.Int
		}
		return int64(0), typ == store.Int
	}
	return nil, false
}

func (b *sqlBuilder) condition(t *table, w store.Where) error {
	typ, ok := t.columnType(w.Column)
	if !ok {
		return waybill.E(waybill.KindInvalid, "query: table %s has no column %q", t.Name, w.Column)
	}
	col := column(w.Column)
	switch w.Op {
	case store.Eq, store.Ne, store.Lt, store.Le, store.Gt, store.Ge:
		if v, ok := value(typ, w.Value); ok {
			b.where(col + " " + string(w.Op) + " " + b.arg(v))
			return nil
		}
	case store.In:
		switch v := w.Value.(type) {
		case []string:
			if typ == store.Text {
				b.where(col + " = ANY(" + b.arg(v) + ")")
				return nil
			}
		case []int64:
			if typ == store.Int {
				b.where(col + " = ANY(" + b.arg(v) + ")")
				return nil
			}
		}
	case store.Prefix:
		if v, ok := w.Value.(string); ok && typ == store.Text && plain(v) {
			b.prefix(col, v)
			return nil
		}
	default:
		return waybill.E(waybill.KindInvalid, "query: no comparison %q", string(w.Op))
	}
	return waybill.E(waybill.KindInvalid, "query: column %s cannot be compared by %s with a %T", w.Column, w.Op, w.Value)
}

// position is where a page ended. Order and Desc tell a cursor of another list.
type position struct {
	Order  string  `json:"o"`
	Desc   bool    `json:"d,omitempty"`
	Text   *string `json:"s,omitempty"` // value of the sort column; neither is set for none
	Int    *int64  `json:"i,omitempty"`
	Key    string  `json:"k"`
	Tenant string  `json:"t,omitempty"`
}

func (q *position) decode(after string, order string, desc bool, typ store.Type) error {
	b, err := base64.RawURLEncoding.DecodeString(after)
	if err == nil {
		err = json.Unmarshal(b, q)
	}
	if err != nil || q.Order != order || q.Desc != desc || q.Text != nil && typ != store.Text || q.Int != nil && typ != store.Int || !plain(q.Key) || !plain(q.Tenant) {
		return waybill.E(waybill.KindInvalid, "query: %q is not a cursor of this list", after)
	}
	return nil
}

// Query implements store.Store. Rows without a value in the sort column are a
// part of the list of their own, before the others or, descending, behind them:
// each part is a range of an index.
func (s *Store) Query(ctx context.Context, q store.Query) (store.Page, error) {
	t, err := s.table(q.Table)
	if err != nil {
		return store.Page{}, err
	}
	order := q.Order
	if order == "" {
		order = "key"
	}
	typ, ok := t.columnType(order)
	if !ok {
		return store.Page{}, waybill.E(waybill.KindInvalid, "query: table %s has no column %q", t.Name, order)
	}
	limit := min(q.Limit, 1000)
	if limit <= 0 {
		limit = 100
	}
	b := &sqlBuilder{}
	if q.Tenant != "*" {
		b.where("tenant = " + b.arg(tenantOf(q.Tenant)))
	}
	for _, w := range q.Where {
		if err := b.condition(t, w); err != nil {
			return store.Page{}, err
		}
	}
	var after *position
	if q.After != "" {
		after = &position{}
		if err := after.decode(q.After, order, q.Desc, typ); err != nil {
			return store.Page{}, err
		}
	}
	rows, err := s.read.Query(ctx, pageSQL(t, b, order, q.Tenant == "*", q.Desc, after, limit+1), b.args...)
	if err != nil {
		return store.Page{}, s.failed(ctx, "query "+q.Table, err)
	}
	var page store.Page
	var last, at position
	var r store.Row
	_, err = pgx.ForEachRow(rows, []any{&r.Tenant, &r.Key, &r.Rev, &r.Val, &at.Text, &at.Int}, func() error {
		if len(page.Rows) == limit {
			text, err := json.Marshal(last)
			page.Next = base64.RawURLEncoding.EncodeToString(text)
			return err
		}
		page.Rows = append(page.Rows, r)
		last = position{Order: order, Desc: q.Desc, Text: at.Text, Int: at.Int, Key: r.Key}
		if q.Tenant == "*" {
			last.Tenant = r.Tenant
		}
		return nil
	})
	if err != nil {
		return store.Page{}, s.failed(ctx, "query "+q.Table, err)
	}
	return page, nil
}

// pageSQL is the statement of one page. The parts are read one after another by
// one statement, so that both are of one snapshot.
func pageSQL(t *table, b *sqlBuilder, order string, every, desc bool, after *position, limit int) string {
	col := column(order)
	typ, _ := t.columnType(order)
	text, num := "NULL::text", "NULL::bigint"
	if order != "key" {
		if typ == store.Text {
			text = col
		} else {
			num = col
		}
	}
	dir, beyond := "", ">"
	if desc {
		dir, beyond = " DESC", "<"
	}
	part := func(null bool, from *position) string {
		conds := append([]string{}, b.conds...)
		var cols, vals []string
		if order != "key" {
			if null {
				conds = append(conds, col+" IS NULL")
			} else {
				conds = append(conds, col+" IS NOT NULL")
				cols = append(cols, col)
				if from != nil && from.Text != nil {
					vals = append(vals, b.arg(*from.Text))
				} else if from != nil {
					vals = append(vals, b.arg(*from.Int))
				}
			}
		}
		if every {
			cols = append(cols, "tenant")
			if from != nil {
				vals = append(vals, b.arg(from.Tenant))
			}
		}
		cols = append(cols, "key")
		if from != nil {
			vals = append(vals, b.arg(from.Key))
			conds = append(conds, "("+strings.Join(cols, ", ")+") "+beyond+" ("+strings.Join(vals, ", ")+")")
		}
		where := ""
		if len(conds) > 0 {
			where = " WHERE " + strings.Join(conds, " AND ")
		}
		return fmt.Sprintf("SELECT tenant, key, rev, val, %s, %s FROM %s%s ORDER BY %s%s LIMIT %d",
			text, num, t.sql, where, strings.Join(cols, dir+", "), dir, limit)
	}
	if order == "key" {
		return part(false, after)
	}
	hasValue := after != nil && (after.Text != nil || after.Int != nil)
	switch {
	case after == nil:
		return fmt.Sprintf("(%s) UNION ALL (%s) LIMIT %d", part(!desc, nil), part(desc, nil), limit)
	case hasValue == desc: // in the first part
		return fmt.Sprintf("(%s) UNION ALL (%s) LIMIT %d", part(!desc, after), part(desc, nil), limit)
	default:
		return part(desc, after)
	}
}

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
	if !ok { // of a SQLite store that was copied into this one
		q, ok = p, p != ""
	}
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
		WHERE (pos, seq) > ($2, $3) AND pos < `+horizon+` ORDER BY pos, seq LIMIT $4`, s.base.Load(), pos, seq, max(n, 0))
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
		UNION ALL SELECT `+horizon+` - 1, $2::bigint LIMIT 1`, s.base.Load(), int64(math.MaxInt64)).Scan(&pos, &seq)
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
