package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// table is a registered table with the statements the writer needs for it.
type table struct {
	*store.Table
	insert, remove, revision string
}

func (t *table) sqlName() string { return "t_" + t.Name }

func newTable(t *store.Table) *table {
	x := &table{Table: t}
	cols := []string{"rev", "val", "counters"}
	for _, c := range t.Columns {
		cols = append(cols, column(c.Name))
	}
	x.insert = fmt.Sprintf("INSERT INTO %s (%s,tenant,key) VALUES (%s)", x.sqlName(),
		strings.Join(cols, ","), strings.TrimSuffix(strings.Repeat("?,", len(cols)+2), ","))
	x.remove = fmt.Sprintf("DELETE FROM %s WHERE id=?", x.sqlName())
	x.revision = fmt.Sprintf("SELECT id, rev, counters FROM %s WHERE tenant=? AND key=?", x.sqlName())
	return x
}

// column is the SQL name of a declared column; the prefix keeps it apart from ours
// and from key words.
func column(name string) string {
	if name == "key" {
		return "key"
	}
	return "c_" + name
}

// shape describes the SQL of a table, to see whether it changed.
func shape(t *store.Table) string {
	var b strings.Builder
	for _, c := range t.Columns {
		fmt.Fprintf(&b, "%s:%d ", c.Name, c.Type)
	}
	for _, ix := range t.Indexes {
		fmt.Fprintf(&b, "(%s) ", strings.Join(ix, ","))
	}
	return b.String()
}

func createSQL(t *store.Table, name string) (create string, indexes []string) {
	var cols strings.Builder
	for _, c := range t.Columns {
		kind := "TEXT"
		if c.Type == store.Int {
			kind = "INTEGER"
		}
		fmt.Fprintf(&cols, ", %s %s", column(c.Name), kind)
	}
	create = fmt.Sprintf(`CREATE TABLE %s (id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, rev INTEGER NOT NULL,
		val BLOB NOT NULL, counters TEXT NOT NULL%s, UNIQUE (key, tenant))`, name, cols.String())
	for i, ix := range t.Indexes {
		names := make([]string, len(ix))
		for j, c := range ix {
			names[j] = column(c)
		}
		indexes = append(indexes, fmt.Sprintf("CREATE INDEX t_%s_%d ON %s (tenant, %s, key)", t.Name, i, name, strings.Join(names, ", ")))
	}
	return create, indexes
}

// prepareTables makes the registered tables that are missing, and derives the
// rows of those again whose descriptor changed.
func (s *Store) prepareTables(ctx context.Context) (map[string]*table, error) {
	tables := map[string]*table{}
	for i := range s.schema {
		t := &s.schema[i]
		tables[t.Name] = newTable(t)
		var version int
		var have string
		err := s.wconn.QueryRowContext(ctx, "SELECT version, shape FROM descriptor WHERE tbl=?", t.Name).Scan(&version, &have)
		switch {
		case err == sql.ErrNoRows:
			err = s.makeTable(ctx, t, false)
		case err == nil && (version != t.Version || have != shape(t)):
			s.log.Info("table derived again", "table", t.Name, "from", version, "to", t.Version)
			err = s.makeTable(ctx, t, true)
		}
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	return tables, nil
}

func (s *Store) makeTable(ctx context.Context, t *store.Table, rebuild bool) error {
	tx, err := s.wconn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	name := "t_" + t.Name
	var script []string
	if rebuild {
		script = append(script, fmt.Sprintf("ALTER TABLE %s RENAME TO old_%s", name, name))
		rows, err := tx.QueryContext(ctx, "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name=? AND sql IS NOT NULL", name)
		if err != nil {
			return err
		}
		for rows.Next() {
			var ix string
			if err := rows.Scan(&ix); err != nil {
				rows.Close()
				return err
			}
			script = append(script, "DROP INDEX "+ix)
		}
		if err := errorsOf(rows); err != nil {
			return err
		}
	}
	create, indexes := createSQL(t, name)
	script = append(script, create)
	for _, q := range script {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	if rebuild {
		if err := s.rederive(ctx, tx, t); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DROP TABLE old_"+name); err != nil {
			return err
		}
	}
	for _, q := range indexes {
		if _, err := tx.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO descriptor (tbl, version, shape) VALUES (?,?,?)
		ON CONFLICT (tbl) DO UPDATE SET version=excluded.version, shape=excluded.shape`, t.Name, t.Version, shape(t)); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *Store) rederive(ctx context.Context, tx *sql.Tx, t *store.Table) error {
	x := newTable(t)
	if _, err := tx.ExecContext(ctx, "DELETE FROM counter WHERE tbl=?", t.Name); err != nil {
		return err
	}
	insert, err := tx.PrepareContext(ctx, x.insert)
	if err != nil {
		return err
	}
	defer insert.Close()
	sums := map[[2]string]int64{}
	tenant, key := "", ""
	for first := true; ; first = false {
		// Paged by key: a cursor left open on a table would hold its pages while the
		// other is written.
		q, args := fmt.Sprintf("SELECT tenant, key, rev, val FROM old_t_%s ORDER BY tenant, key LIMIT 500", t.Name), []any(nil)
		if !first {
			q = fmt.Sprintf("SELECT tenant, key, rev, val FROM old_t_%s WHERE (tenant, key) > (?,?) ORDER BY tenant, key LIMIT 500", t.Name)
			args = []any{tenant, key}
		}
		rows, err := tx.QueryContext(ctx, q, args...)
		if err != nil {
			return err
		}
		var page []store.Row
		for rows.Next() {
			var r store.Row
			if err := rows.Scan(&r.Tenant, &r.Key, &r.Rev, &r.Val); err != nil {
				rows.Close()
				return err
			}
			page = append(page, r)
		}
		if err := errorsOf(rows); err != nil {
			return err
		}
		for _, r := range page {
			d, err := derive(t, r.Key, r.Val)
			if err != nil {
				return fmt.Errorf("row %s: %w", r.Key, err)
			}
			if _, err := insert.ExecContext(ctx, append(x.values(r.Rev, r.Val, d), r.Tenant, r.Key)...); err != nil {
				return err
			}
			for _, c := range d.Counters {
				sums[[2]string{r.Tenant, c}]++
			}
		}
		if len(page) < 500 {
			break
		}
		tenant, key = page[len(page)-1].Tenant, page[len(page)-1].Key
	}
	for k, n := range sums {
		if _, err := tx.ExecContext(ctx, "INSERT INTO counter (tbl, tenant, name, n) VALUES (?,?,?,?)", t.Name, k[0], k[1], n); err != nil {
			return err
		}
	}
	return nil
}

// update is the statement that changes a row, and its arguments without the row's
// number. Columns that keep their value are left out: SQLite would take their
// entries out of every index and put them back. A nil old means that the values
// are not known.
func (t *table) update(rev int64, val []byte, d store.Derived, old []any) (string, []any) {
	var b strings.Builder
	b.WriteString("UPDATE ")
	b.WriteString(t.sqlName())
	b.WriteString(" SET rev=?, val=?, counters=?")
	args := append(make([]any, 0, 5+len(d.Columns)), rev, val, strings.Join(d.Counters, "\n"))
	for i, c := range t.Columns {
		if old != nil && old[i] == d.Columns[i] {
			continue
		}
		b.WriteString(", ")
		b.WriteString(column(c.Name))
		b.WriteString("=?")
		args = append(args, d.Columns[i])
	}
	b.WriteString(" WHERE id=?")
	return b.String(), args
}

// values are the first arguments of insert, in their order.
func (t *table) values(rev int64, val []byte, d store.Derived) []any {
	args := make([]any, 0, 5+len(d.Columns))
	args = append(args, rev, val, strings.Join(d.Counters, "\n"))
	return append(args, d.Columns...)
}

// derive applies a descriptor and checks what it returns.
func derive(t *store.Table, key string, val []byte) (store.Derived, error) {
	if t.Derive == nil {
		return store.Derived{}, nil
	}
	d, err := t.Derive(key, val)
	if err != nil {
		return d, waybill.E(waybill.KindInvalid, "table %s: %w", t.Name, err)
	}
	if len(d.Columns) != len(t.Columns) {
		return d, waybill.E(waybill.KindInternal, "table %s derives %d columns of %d", t.Name, len(d.Columns), len(t.Columns))
	}
	return d, nil
}

func errorsOf(rows *sql.Rows) error {
	err := rows.Err()
	if cerr := rows.Close(); err == nil {
		err = cerr
	}
	return err
}
