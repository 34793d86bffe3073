package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/facet"
)

// column says where the values of a field are.
type column struct {
	facet.Field
	no   int
	term bool   // values are terms
	null int32  // the number of null, which is a term of every field
	typ  string // of a number: the SQL type
	// value holds the value, or the array of values, of a number. A range has lo and hi.
	value, lo, hi string
	// sort holds what hits are sorted by: the number of a term, or a number itself.
	sort string
}

// blockBits is how many bits of a term's number count within a block.
const blockBits = 16

// columns derives the columns from the schema. The first blocks belong to the fields in
// their order, so that the numbers of null are known.
func columns(s facet.Schema) []column {
	cols := make([]column, len(s.Fields))
	for i, f := range s.Fields {
		c := column{Field: f, no: i, null: int32(i) << blockBits}
		switch f.Kind {
		case facet.KindInt, facet.KindDate:
			c.typ = "bigint"
		case facet.KindNumber, facet.KindRange:
			c.typ = "double precision"
		default:
			c.term = true
		}
		switch {
		case c.term:
			c.sort = fmt.Sprintf("m%d", i)
		case f.Kind == facet.KindRange:
			c.lo, c.hi = fmt.Sprintf("l%d", i), fmt.Sprintf("h%d", i)
		default:
			c.value = fmt.Sprintf("v%d", i)
			c.sort = c.value
			if f.Multi {
				c.sort = fmt.Sprintf("m%d", i)
			}
		}
		cols[i] = c
	}
	return cols
}

// declare lists the field's columns of the document's row, with their types.
func (c *column) declare() (out [][2]string) {
	typ := c.typ
	if c.Multi {
		typ += "[]"
	}
	if c.term {
		return [][2]string{{c.sort, "int"}}
	}
	if c.lo != "" {
		return [][2]string{{c.lo, typ}, {c.hi, typ}}
	}
	out = append(out, [2]string{c.value, typ})
	if c.Multi {
		out = append(out, [2]string{c.sort, c.typ})
	}
	return out
}

// create makes the tables. Of several that do so at the same time one does it.
func (x *Index) create(ctx context.Context, s facet.Schema) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var ddl strings.Builder
	ddl.WriteString(`
CREATE TABLE {meta} (one bool PRIMARY KEY DEFAULT true CHECK (one), format int NOT NULL, schema jsonb NOT NULL, seq bigint NOT NULL, blocks int NOT NULL);
CREATE TABLE {block} (block int PRIMARY KEY, field int NOT NULL, used int NOT NULL);
CREATE TABLE {term} (id int PRIMARY KEY, field int NOT NULL, value text COLLATE "C" NOT NULL);
CREATE UNIQUE INDEX {name}_term_value ON {term} (field, value) INCLUDE (id);
CREATE TABLE {word} (field int NOT NULL, word text COLLATE "C" NOT NULL, term int NOT NULL, PRIMARY KEY (field, word, term));
CREATE TABLE {doc} (id text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, source bytea NOT NULL, tags int[] NOT NULL`)
	cols := columns(s)
	for i := range cols {
		for _, d := range cols[i].declare() {
			ddl.WriteString(", " + d[0] + " " + d[1])
		}
	}
	ddl.WriteString(`);
ALTER TABLE {doc} ALTER source SET STORAGE EXTENDED;
CREATE INDEX {name}_doc_tags ON {doc} USING gin (tags pg_catalog.array_ops);
`)
	for i := range cols {
		if c := &cols[i]; !c.term && c.sort != "" {
			fmt.Fprintf(&ddl, "CREATE INDEX {name}_doc_%s ON {doc} (%s, id);\n", c.sort, c.sort)
		}
	}
	return pgx.BeginFunc(ctx, x.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('facet index ' || $1, 0))", x.name); err != nil {
			return err
		}
		var there bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", x.name+"_meta").Scan(&there); err != nil || there {
			return err
		}
		if _, err := tx.Exec(ctx, x.sql(ddl.String())); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, x.sql("INSERT INTO {meta} (format, schema, seq, blocks) VALUES ($1, $2, 0, $3)"), format, text, len(cols)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, x.sql("INSERT INTO {block} SELECT i, i, 1 FROM generate_series(0, $1::int - 1) i"), len(cols))
		return err
	})
}
