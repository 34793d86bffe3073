package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is the number of embedded migrations.
const schemaVersion = 1

// The classes of our advisory locks; their object is the hash of the schema.
const (
	lockMigrate = 0x5761790 // held while tables are made or derived again
	lockSlot    = 0x5761800 // plus the slot: held by the committer that counts in it
	slots       = 64
)

func lockID(schema string) int32 {
	h := fnv.New32a()
	h.Write([]byte(schema))
	return int32(h.Sum32())
}

// prepare makes the database ready for this program, one process at a time.
func (s *Store) prepare(ctx context.Context, conn *pgx.Conn, schema store.Schema) error {
	var name *string
	var encoding string
	err := conn.QueryRow(ctx, "SELECT current_schema(), pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()").Scan(&name, &encoding)
	if err != nil {
		return err
	}
	if name == nil {
		return waybill.E(waybill.KindInvalid, "open PostgreSQL: no schema of the search_path exists")
	}
	if encoding != "UTF8" {
		return waybill.E(waybill.KindInvalid, "open PostgreSQL: the database has encoding %s, want UTF8", encoding)
	}
	s.schema, s.lockID = *name, lockID(*name)
	// The lock ends with the connection.
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", lockMigrate, s.lockID); err != nil {
		return err
	}
	if err := s.migrate(ctx, conn); err != nil {
		return err
	}
	for i := range schema {
		if err := s.tables[schema[i].Name].prepare(ctx, conn); err != nil {
			return fmt.Errorf("table %s: %w", schema[i].Name, err)
		}
	}
	return s.rebase(ctx, conn)
}

func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) error {
	var have int
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass(quote_ident($1) || '.waybill') IS NOT NULL", s.schema).Scan(&exists); err != nil {
		return err
	}
	if exists {
		err := conn.QueryRow(ctx, "SELECT version FROM waybill").Scan(&have)
		if errors.Is(err, pgx.ErrNoRows) {
			return foreign("its table waybill has no version row")
		}
		if err != nil {
			return foreign("its table waybill is not ours")
		}
	} else {
		var other *string
		if err := conn.QueryRow(ctx, `SELECT min(tablename) FROM pg_tables WHERE schemaname = $1 AND
			(tablename IN ('lane', 'msg', 'topic', 'event', 'counter', 'applied', 'descriptor') OR tablename = ANY($2))`,
			s.schema, s.tableNames()).Scan(&other); err != nil {
			return err
		}
		if other != nil {
			return foreign("it has a table " + *other + " that is not ours")
		}
	}
	if have > schemaVersion {
		return waybill.E(waybill.KindConflict, "open PostgreSQL: the database is of version %d, this program knows up to %d", have, schemaVersion).
			WithHint("run a newer waybill")
	}
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return err
	}
	for i := have; i < schemaVersion; i++ {
		text, err := migrations.ReadFile("migrations/" + files[i].Name())
		if err != nil {
			return err
		}
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if i == 0 {
				if _, err := tx.Exec(ctx, "CREATE TABLE waybill (version int NOT NULL, base bigint NOT NULL)"); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, "INSERT INTO waybill VALUES (0, 0)"); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(ctx, string(text)); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "UPDATE waybill SET version = $1", i+1)
			return err
		})
		if err != nil {
			return fmt.Errorf("migration %s: %w", files[i].Name(), err)
		}
	}
	return nil
}

func (s *Store) tableNames() []string {
	var names []string
	for _, t := range s.tables {
		names = append(names, t.sql)
	}
	return names
}

func foreign(why string) error {
	return waybill.E(waybill.KindConflict, "open PostgreSQL: the database holds something else: %s", why).
		WithHint("give waybill a database or a schema (search_path) of its own")
}

// rebase reads the base of event positions. A position is the base plus a
// transaction id; a database that was restored into another server has
// transaction ids that may be lower than those of its events, and then the base
// moves on.
func (s *Store) rebase(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `UPDATE waybill SET base = e.pos + 1 FROM (SELECT max(pos) AS pos FROM event) e
		WHERE e.pos >= base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint`)
	if err != nil {
		return err
	}
	var base int64
	err = conn.QueryRow(ctx, "SELECT base FROM waybill").Scan(&base)
	s.base.Store(base)
	return err
}

// table is a registered table and its SQL.
type table struct {
	*store.Table
	sql   string // name
	index int    // place in the order of locks
	shape string // columns and indexes, as text

	lock, insert, update, delete string
}

func column(name string) string {
	if name == "key" {
		return name
	}
	return "c_" + name
}

func (t *table) columnType(name string) (store.Type, bool) {
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

func sqlType(t store.Type) string {
	if t == store.Int {
		return "bigint"
	}
	return "text"
}

func newTable(d *store.Table) *table {
	t := &table{Table: d, sql: "t_" + d.Name}
	var names, arrays, sets strings.Builder
	for i, c := range d.Columns {
		fmt.Fprintf(&names, ", c_%s", c.Name)
		fmt.Fprintf(&arrays, ", $%d::%s[]", i+6, sqlType(c.Type))
		fmt.Fprintf(&sets, ", c_%s = u.c_%s", c.Name, c.Name)
		t.shape += fmt.Sprintf("%s:%d ", c.Name, c.Type)
	}
	t.shape += fmt.Sprint(d.Indexes)
	// The counters of a row travel as one text, because unnest flattens lists of lists.
	const counters = "string_to_array(nullif(u.counters, ''), chr(31))"
	cols := names.String()
	from := fmt.Sprintf("unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::text[]%s) AS u(tenant, key, rev, val, counters%s)", arrays.String(), cols)
	t.lock = fmt.Sprintf(`SELECT r.tenant, r.key, r.rev, r.counters FROM unnest($1::text[], $2::text[]) AS u(tenant, key)
		JOIN %s r ON r.tenant = u.tenant AND r.key = u.key ORDER BY r.tenant, r.key FOR UPDATE OF r`, t.sql)
	t.insert = fmt.Sprintf("INSERT INTO %s (tenant, key, rev, val, counters%s) SELECT tenant, key, rev, val, %s%s FROM %s",
		t.sql, cols, counters, cols, from)
	t.update = fmt.Sprintf("UPDATE %s r SET rev = u.rev, val = u.val, counters = %s%s FROM %s WHERE r.tenant = u.tenant AND r.key = u.key",
		t.sql, counters, sets.String(), from)
	t.delete = fmt.Sprintf("DELETE FROM %s r USING unnest($1::text[], $2::text[]) AS u(tenant, key) WHERE r.tenant = u.tenant AND r.key = u.key", t.sql)
	return t
}

// prepare makes the table, or derives its columns and counters again when the
// descriptor has changed. A version of -1 says that this has begun and not ended.
func (t *table) prepare(ctx context.Context, conn *pgx.Conn) error {
	var version int
	var shape string
	err := conn.QueryRow(ctx, "SELECT version, shape FROM descriptor WHERE tbl = $1", t.Name).Scan(&version, &shape)
	fresh := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !fresh {
		return err
	}
	if !fresh && version == t.Version && shape == t.shape {
		return nil
	}
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return t.clear(ctx, tx) }); err != nil {
		return err
	}
	if err := t.derive(ctx, conn); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for i, ix := range t.Indexes {
			cols := "tenant"
			keyed := false
			for _, c := range ix {
				keyed = keyed || c == "key"
				cols += ", " + column(c) + " NULLS FIRST"
			}
			if !keyed {
				cols += ", key"
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE INDEX %s_%d ON %s (%s)", t.sql, i, t.sql, cols)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "UPDATE descriptor SET version = $2, shape = $3 WHERE tbl = $1", t.Name, t.Version, t.shape)
		return err
	})
}

// clear leaves the table with rows that count nowhere and have no derived values.
func (t *table) clear(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (
		tenant text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, rev bigint NOT NULL, val bytea NOT NULL,
		PRIMARY KEY (tenant, key)) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)`, t.sql)); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND (attname LIKE 'c\\_%' OR attname = 'counters')", t.sql)
	if err != nil {
		return err
	}
	old, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	var alter []string // dropping a column drops its indexes
	for _, c := range old {
		alter = append(alter, "DROP COLUMN "+pgx.Identifier{c}.Sanitize())
	}
	alter = append(alter, "ADD COLUMN counters text[]")
	for _, c := range t.Columns {
		def := "bigint"
		if c.Type == store.Text {
			def = `text COLLATE "C"`
		}
		alter = append(alter, "ADD COLUMN c_"+c.Name+" "+def)
	}
	if _, err := tx.Exec(ctx, "ALTER TABLE "+t.sql+" "+strings.Join(alter, ", ")); err != nil {
		return err
	}
	// An index on the key alone would be left.
	rows, err = tx.Query(ctx, "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::regclass AND NOT indisprimary", t.sql)
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, ix := range left {
		if _, err := tx.Exec(ctx, "DROP INDEX "+ix); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "DELETE FROM counter WHERE tbl = $1", t.Name); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO descriptor (tbl, version, shape) VALUES ($1, -1, '') ON CONFLICT (tbl) DO UPDATE SET version = -1, shape = ''", t.Name)
	return err
}

// derive computes every row again, in batches, so that no transaction is long.
func (t *table) derive(ctx context.Context, conn *pgx.Conn) error {
	const batch = 500
	tenant, key := "", ""
	for {
		var n int
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, fmt.Sprintf("SELECT tenant, key, rev, val FROM %s WHERE (tenant, key) > ($1, $2) ORDER BY tenant, key LIMIT %d FOR UPDATE", t.sql, batch), tenant, key)
			if err != nil {
				return err
			}
			all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[store.Row])
			if n = len(all); err != nil || n == 0 {
				return err
			}
			set := rowSet{cols: make([][]any, len(t.Columns))}
			counts := counts{}
			for i := range all {
				r := &all[i]
				d, err := t.derived(r.Key, r.Val)
				if err != nil {
					return waybill.E(waybill.KindInvalid, "derive %s of %s again: %w", r.Key, r.Tenant, err)
				}
				set.add(r.Tenant, r.Key, r.Rev, r.Val, d)
				for _, c := range d.Counters {
					counts.add(t.Name, r.Tenant, c, 1)
				}
			}
			if _, err := tx.Exec(ctx, t.update, set.args(t)...); err != nil {
				return err
			}
			if sql, args := counts.write(0); sql != "" {
				if _, err := tx.Exec(ctx, sql, args...); err != nil {
					return err
				}
			}
			tenant, key = all[n-1].Tenant, all[n-1].Key
			return nil
		})
		if err != nil {
			return err
		}
		if n < batch {
			return nil
		}
	}
}

// derived runs the descriptor and checks that its answer fits.
func (t *table) derived(key string, val []byte) (store.Derived, error) {
	if t.Derive == nil {
		return store.Derived{}, nil
	}
	d, err := t.Derive(key, val)
	if err != nil {
		return d, err
	}
	if len(d.Columns) != len(t.Columns) {
		return d, fmt.Errorf("the descriptor made %d columns, want %d", len(d.Columns), len(t.Columns))
	}
	for i, v := range d.Columns {
		ok := v == nil
		switch v := v.(type) {
		case string:
			ok = t.Columns[i].Type == store.Text && plain(v)
		case int64:
			ok = t.Columns[i].Type == store.Int
		}
		if !ok {
			return d, fmt.Errorf("column %s cannot hold %v", t.Columns[i].Name, v)
		}
	}
	for _, c := range d.Counters {
		if c == "" || !plain(c) || strings.ContainsRune(c, '\x1f') {
			return d, fmt.Errorf("%q cannot be the name of a counter", c)
		}
	}
	return d, nil
}
