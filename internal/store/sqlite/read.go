package sqlite

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

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
	rows, err := s.query(ctx, "SELECT rev, val FROM "+t.sqlName()+" WHERE tenant=? AND key=?", r.Tenant, key)
	if err != nil {
		return store.Row{}, unavailable(err)
	}
	found := rows.Next()
	if found {
		err = rows.Scan(&r.Rev, &r.Val)
	}
	if cerr := errorsOf(rows); err == nil {
		err = cerr
	}
	if err == nil && !found {
		return store.Row{}, store.ErrNotFound
	}
	return r, unavailable(err)
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error) {
	t, err := s.table(table)
	if err != nil {
		return nil, err
	}
	q, args := "SELECT tenant, key, rev, val FROM "+t.sqlName()+" WHERE tenant=? AND key>=?", []any{tenantOf(tenant), prefix}
	if end := prefixEnd(prefix); end != "" {
		q, args = q+" AND key<?", append(args, end)
	}
	q += " ORDER BY key"
	if limit > 0 {
		q += fmt.Sprintf(" LIMIT %d", limit)
	}
	return s.rows(ctx, q, args)
}

// prefixEnd is the first text after all those that begin with prefix, or empty
// when there is none. SQLite compares text byte by byte.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}

// maxIdleReaders is how many connections for reading are kept open.
const maxIdleReaders = 3

// maxReaders bounds how many statements are kept prepared for reading.
const maxReaders = 200

// reader returns a prepared statement: preparing costs several times what most of
// them take to run. It returns nil for a new one when there are enough.
func (s *Store) reader(ctx context.Context, q string) (*sql.Stmt, error) {
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	if st, ok := s.readers[q]; ok || len(s.readers) >= maxReaders {
		return st, nil
	}
	st, err := s.read.PrepareContext(ctx, q)
	if err == nil {
		s.readers[q] = st
	}
	return st, err
}

// shrink closes the connections that nobody reads from; their caches go with them.
func (s *Store) shrink() {
	s.read.SetMaxIdleConns(1)
	s.read.SetMaxIdleConns(maxIdleReaders)
}

func (s *Store) query(ctx context.Context, q string, args ...any) (*sql.Rows, error) {
	st, err := s.reader(ctx, q)
	switch {
	case err != nil:
		return nil, err
	case st == nil:
		return s.read.QueryContext(ctx, q, args...)
	}
	return st.QueryContext(ctx, args...)
}

func (s *Store) rows(ctx context.Context, q string, args []any) ([]store.Row, error) {
	rows, err := s.query(ctx, q, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	var out []store.Row
	for rows.Next() {
		var r store.Row
		if err := rows.Scan(&r.Tenant, &r.Key, &r.Rev, &r.Val); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		out = append(out, r)
	}
	return out, unavailable(errorsOf(rows))
}

// position is where a page of a query ended.
type position struct {
	List   string `json:"l"`           // which order it is a position in
	Null   bool   `json:"z,omitempty"` // among the rows whose sort column has no value
	Text   string `json:"t,omitempty"`
	Int    int64  `json:"i,omitempty"`
	Tenant string `json:"n,omitempty"` // with every tenant
	Key    string `json:"k"`
}

// list names an order of a table; a cursor is worth nothing in another.
func list(q store.Query) string {
	dir := "+"
	if q.Desc {
		dir = "-"
	}
	return q.Table + dir + q.Order
}

func (p position) encode() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Query implements store.Store. Rows without a value in the sort column form a
// segment of their own, before the others when ascending and after them when
// descending; each segment is one range of an index.
func (s *Store) Query(ctx context.Context, q store.Query) (store.Page, error) {
	t, err := s.table(q.Table)
	if err != nil {
		return store.Page{}, err
	}
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, 1000)
	if q.Order == "" {
		q.Order = "key"
	}
	kind, ok := columnType(t.Table, q.Order)
	if !ok {
		return store.Page{}, unknownColumn(t.Table, q.Order)
	}
	conds, args, err := conditions(t.Table, q)
	if err != nil {
		return store.Page{}, err
	}
	var after *position
	if q.After != "" {
		after = &position{}
		b, err := base64.RawURLEncoding.DecodeString(q.After)
		if err != nil || json.Unmarshal(b, after) != nil || after.List != list(q) {
			return store.Page{}, waybill.E(waybill.KindInvalid, "the cursor is not one of this list")
		}
	}
	segments := []bool{false} // is it the one of the nulls?
	if q.Order != "key" {
		if segments = []bool{true, false}; q.Desc {
			segments = []bool{false, true}
		}
	}
	if after != nil && len(segments) == 2 && segments[0] != after.Null {
		segments = segments[1:]
	}
	var page store.Page
	for i, null := range segments {
		from := after
		if i > 0 && len(segments) == 2 {
			from = nil
		}
		rows, last, err := s.segment(ctx, t, q, kind, conds, args, null, from, q.Limit+1-len(page.Rows))
		if err != nil {
			return store.Page{}, err
		}
		for j := range rows {
			if len(page.Rows) == q.Limit {
				return page, nil // Next was set by the row before
			}
			page.Rows = append(page.Rows, rows[j])
			page.Next = last[j].encode()
		}
	}
	page.Next = ""
	return page, nil
}

func (s *Store) segment(ctx context.Context, t *table, q store.Query, kind store.Type, conds []string, args []any, null bool, after *position, limit int) ([]store.Row, []position, error) {
	if limit <= 0 {
		return nil, nil, nil
	}
	conds, args = append([]string{}, conds...), append([]any{}, args...)
	col, dir, cmp := column(q.Order), "", ">"
	if q.Desc {
		dir, cmp = " DESC", "<"
	}
	every := q.Tenant == "*"
	var cols []string
	var vals []any
	if q.Order != "key" {
		if null {
			conds = append(conds, col+" IS NULL")
		} else {
			conds = append(conds, col+" IS NOT NULL")
			cols = append(cols, col)
			if after != nil {
				if kind == store.Text {
					vals = append(vals, after.Text)
				} else {
					vals = append(vals, after.Int)
				}
			}
		}
	}
	if every {
		cols = append(cols, "tenant")
	}
	cols = append(cols, "key")
	if after != nil {
		if every {
			vals = append(vals, after.Tenant)
		}
		vals = append(vals, after.Key)
		conds = append(conds, fmt.Sprintf("(%s) %s (%s)", strings.Join(cols, ","), cmp, strings.TrimSuffix(strings.Repeat("?,", len(cols)), ",")))
		args = append(args, vals...)
	}
	order := make([]string, len(cols))
	for i, c := range cols {
		order[i] = c + dir
	}
	where := ""
	if len(conds) > 0 {
		where = " WHERE " + strings.Join(conds, " AND ")
	}
	stmt := fmt.Sprintf("SELECT tenant, key, rev, val, %s FROM %s%s ORDER BY %s LIMIT %d", col, t.sqlName(), where, strings.Join(order, ","), limit)
	rows, err := s.query(ctx, stmt, args...)
	if err != nil {
		return nil, nil, unavailable(err)
	}
	var out []store.Row
	var last []position
	for rows.Next() {
		var r store.Row
		p := position{List: list(q), Null: null}
		var txt sql.NullString
		var num sql.NullInt64
		dest := any(&txt)
		if kind == store.Int {
			dest = &num
		}
		if err := rows.Scan(&r.Tenant, &r.Key, &r.Rev, &r.Val, dest); err != nil {
			rows.Close()
			return nil, nil, unavailable(err)
		}
		p.Key, p.Int = r.Key, num.Int64
		if q.Order != "key" {
			p.Text = txt.String
		}
		if every {
			p.Tenant = r.Tenant
		}
		out, last = append(out, r), append(last, p)
	}
	return out, last, unavailable(errorsOf(rows))
}

func columnType(t *store.Table, name string) (store.Type, bool) {
	if name == "key" {
		return store.Text, true
	}
	for _, c := range t.Columns {
		if c.Name == name {
			return c.Type, true
		}
	}
	return 0, false
}

func unknownColumn(t *store.Table, name string) error {
	return waybill.E(waybill.KindInvalid, "store: table %s has no column %q", t.Name, name)
}

func conditions(t *store.Table, q store.Query) (conds []string, args []any, err error) {
	if q.Tenant != "*" {
		conds, args = append(conds, "tenant=?"), append(args, tenantOf(q.Tenant))
	}
	for _, w := range q.Where {
		kind, ok := columnType(t, w.Column)
		if !ok {
			return nil, nil, unknownColumn(t, w.Column)
		}
		if !fits(kind, w) {
			return nil, nil, waybill.E(waybill.KindInvalid, "store: column %s cannot be compared by %s with %T", w.Column, w.Op, w.Value)
		}
		col := column(w.Column)
		switch w.Op {
		case store.Eq, store.Lt, store.Le, store.Gt, store.Ge:
			conds, args = append(conds, col+string(w.Op)+"?"), append(args, scalar(w.Value))
		case store.Ne:
			conds, args = append(conds, col+"<>?"), append(args, scalar(w.Value))
		case store.In:
			var list []any
			switch v := w.Value.(type) {
			case []string:
				for _, x := range v {
					list = append(list, x)
				}
			case []int64:
				for _, x := range v {
					list = append(list, x)
				}
			}
			conds = append(conds, col+" IN ("+strings.TrimSuffix(strings.Repeat("?,", len(list)), ",")+")")
			args = append(args, list...)
		case store.Prefix:
			p, _ := w.Value.(string)
			conds, args = append(conds, col+">=?"), append(args, p)
			if end := prefixEnd(p); end != "" {
				conds, args = append(conds, col+"<?"), append(args, end)
			}
		default:
			return nil, nil, waybill.E(waybill.KindInvalid, "store: unknown comparison %q", w.Op)
		}
	}
	return conds, args, nil
}

// fits reports whether the value of a condition is of its column's type.
func fits(kind store.Type, w store.Where) bool {
	switch w.Value.(type) {
	case string:
		return kind == store.Text && w.Op != store.In
	case int64, bool:
		return kind == store.Int && w.Op != store.In && w.Op != store.Prefix
	case []string:
		return kind == store.Text && w.Op == store.In
	case []int64:
		return kind == store.Int && w.Op == store.In
	}
	return false
}

func scalar(v any) any {
	if b, ok := v.(bool); ok {
		if b {
			return int64(1)
		}
		return int64(0)
	}
	return v
}

// Counts implements store.Store.
func (s *Store) Counts(ctx context.Context, tenant, table string) (map[string]int64, error) {
	if _, err := s.table(table); err != nil {
		return nil, err
	}
	return s.counts(ctx, "SELECT name, n FROM counter WHERE tbl=? AND tenant=? AND n<>0", table, tenantOf(tenant))
}

func (s *Store) counts(ctx context.Context, q string, args ...any) (map[string]int64, error) {
	rows, err := s.read.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	out := map[string]int64{}
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		out[name] += n
	}
	return out, unavailable(errorsOf(rows))
}

// Tail implements store.Store.
func (s *Store) Tail(ctx context.Context, after store.Cursor, n int) ([]store.StoredEvent, error) {
	seq, err := parseCursor(after)
	if err != nil {
		return nil, err
	}
	return s.events(ctx, fmt.Sprintf("SELECT seq, tenant, subject, kind, at, data FROM event WHERE seq>? ORDER BY seq LIMIT %d", n), seq)
}

// Events implements store.Store.
func (s *Store) Events(ctx context.Context, tenant, subject string, after store.Cursor, n int) ([]store.StoredEvent, error) {
	seq, err := parseCursor(after)
	if err != nil {
		return nil, err
	}
	return s.events(ctx, fmt.Sprintf(`SELECT seq, tenant, subject, kind, at, data FROM event
		WHERE subject=? AND tenant=? AND seq>? ORDER BY seq LIMIT %d`, n), subject, tenantOf(tenant), seq)
}

func (s *Store) events(ctx context.Context, q string, args ...any) ([]store.StoredEvent, error) {
	rows, err := s.query(ctx, q, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	var out []store.StoredEvent
	for rows.Next() {
		var e store.StoredEvent
		var seq, at int64
		if err := rows.Scan(&seq, &e.Tenant, &e.Subject, &e.Kind, &at, &e.Data); err != nil {
			rows.Close()
			return nil, unavailable(err)
		}
		e.At, e.Cursor = micros(at), store.Cursor(strconv.FormatInt(seq, 10))
		out = append(out, e)
	}
	return out, unavailable(errorsOf(rows))
}

func parseCursor(c store.Cursor) (int64, error) {
	if c == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(c), 10, 64)
	if err != nil || n < 0 {
		return 0, waybill.E(waybill.KindInvalid, "%q is not a cursor of the event log", c)
	}
	return n, nil
}

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (store.Cursor, error) {
	var seq int64
	err := s.read.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM event").Scan(&seq)
	if err != nil || seq == 0 {
		return "", unavailable(err)
	}
	return store.Cursor(strconv.FormatInt(seq, 10)), nil
}
