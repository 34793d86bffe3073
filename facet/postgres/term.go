package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/facet"
)

// termKey is a term: a value of a field.
type termKey struct {
	field int
	value string
}

// text is a term's value as the table has it. Its order is that of values.
func text(v facet.Value) string {
	switch v.Kind() {
	case facet.KindBool:
		return v.String()
	default:
		return v.Str()
	}
}

// value is a term's value from the table.
func (c *column) fromText(s string) (facet.Value, error) {
	switch c.Kind {
	case facet.KindBool:
		return facet.Bool(s == "true"), nil
	case facet.KindObject:
		return objectOf(s), nil
	default:
		return facet.String(s), nil
	}
}

// termCache knows numbers of terms, which never change. It is emptied when it has
// become large.
type termCache struct {
	mu  sync.Mutex
	ids map[termKey]int32
}

// cachedTerms is how many terms are remembered: some hundred megabytes at most.
const cachedTerms = 1 << 20

// numbering gives numbers to the terms of one batch.
type numbering struct {
	x     *Index
	known map[termKey]int32 // of this batch
	fresh map[termKey]int32
}

func (x *Index) newNumbering() *numbering {
	return &numbering{x: x, known: map[termKey]int32{}, fresh: map[termKey]int32{}}
}

// of returns the number of a term that was given one.
func (n *numbering) of(field int, v facet.Value) int32 {
	id, ok := n.known[termKey{field, text(v)}]
	if !ok {
		panic("facet/postgres: a term of the batch has no number")
	}
	return id
}

// keep remembers the numbers, once they are committed.
func (n *numbering) keep() {
	c := &n.x.terms
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil || len(c.ids)+len(n.known) > cachedTerms {
		c.ids = map[termKey]int32{}
	}
	for k, id := range n.known {
		c.ids[k] = id
	}
}

// number finds or makes the numbers of all terms in the documents.
func (n *numbering) number(ctx context.Context, tx pgx.Tx, docs []*facet.Doc) error {
	missing := map[termKey]bool{}
	c := &n.x.terms
	c.mu.Lock()
	for _, d := range docs {
		for i := range n.x.cols {
			col := &n.x.cols[i]
			if !col.term {
				continue
			}
			for _, v := range d.Fields[col.Name] {
				k := termKey{i, text(v)}
				if v.IsNull() || missing[k] {
					continue
				}
				if _, ok := n.known[k]; ok {
					continue
				}
				if id, ok := c.ids[k]; ok {
					n.known[k] = id
				} else {
					missing[k] = true
				}
			}
		}
	}
	c.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	keys := make([]termKey, 0, len(missing))
	for k := range missing {
		keys = append(keys, k)
	}
	// In order, because neighbours in the index are written together.
	slices.SortFunc(keys, func(a, b termKey) int {
		if a.field != b.field {
			return a.field - b.field
		}
		return strings.Compare(a.value, b.value)
	})
	found, err := n.x.find(ctx, tx, keys)
	if err != nil {
		return err
	}
	var unknown []termKey
	for _, k := range keys {
		if id, ok := found[k]; ok {
			n.known[k] = id
		} else {
			unknown = append(unknown, k)
		}
	}
	return n.create(ctx, tx, unknown)
}

// find looks terms up. Those that are not there are not in the answer.
func (x *Index) find(ctx context.Context, tx pgx.Tx, keys []termKey) (map[termKey]int32, error) {
	found := make(map[termKey]int32, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	fields, values := make([]int32, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		fields[i], values[i] = int32(k.field), k.value
	}
	rows, err := tx.Query(ctx, x.sql(`SELECT t.id, t.field, t.value FROM unnest($1::int[], $2::text[]) k(field, value)
		JOIN {term} t ON t.field = k.field AND t.value = k.value`), fields, values)
	if err != nil {
		return nil, err
	}
	var id int32
	var k termKey
	_, err = pgx.ForEachRow(rows, []any{&id, &k.field, &k.value}, func() error {
		found[k] = id
		return nil
	})
	return found, err
}

// create adds terms, in new blocks where the fields' last ones are full.
func (n *numbering) create(ctx context.Context, tx pgx.Tx, keys []termKey) error {
	if len(keys) == 0 {
		return nil
	}
	type block struct{ block, used int }
	last := map[int]*block{}
	rows, err := tx.Query(ctx, n.x.sql("SELECT DISTINCT ON (field) field, block, used FROM {block} ORDER BY field, block DESC"))
	if err != nil {
		return err
	}
	var field, no, used int
	if _, err := pgx.ForEachRow(rows, []any{&field, &no, &used}, func() error {
		last[field] = &block{no, used}
		return nil
	}); err != nil {
		return err
	}
	var blocks int
	if err := tx.QueryRow(ctx, n.x.sql("SELECT blocks FROM {meta}")).Scan(&blocks); err != nil {
		return err
	}
	changed := map[int][2]int{} // block: field, used
	for _, k := range keys {
		b := last[k.field]
		if b.used == 1<<blockBits {
			if blocks >= 1<<(31-blockBits) {
				return &facet.Error{Kind: facet.ErrTooMany, Field: n.x.cols[k.field].Name, Msg: "different values in this index; make a new one", Got: blocks << blockBits, Limit: 1 << 31}
			}
			b.block, b.used = blocks, 1 // number 0 of a block stays free: it would be taken for null
			blocks++
		}
		id := int32(b.block<<blockBits | b.used)
		b.used++
		changed[b.block] = [2]int{k.field, b.used}
		n.known[k], n.fresh[k] = id, id
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{n.x.name + "_term"}, []string{"id", "field", "value"},
		pgx.CopyFromSlice(len(keys), func(i int) ([]any, error) {
			return []any{n.known[keys[i]], int32(keys[i].field), keys[i].value}, nil
		})); err != nil {
		return err
	}
	var words [][]any
	for _, k := range keys {
		if n.x.cols[k.field].Words {
			ws := facet.Words(k.value)
			slices.Sort(ws)
			for _, w := range slices.Compact(ws) {
				words = append(words, []any{int32(k.field), w, n.known[k]})
			}
		}
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{n.x.name + "_word"}, []string{"field", "word", "term"}, pgx.CopyFromRows(words)); err != nil {
		return err
	}
	for no, b := range changed {
		if _, err := tx.Exec(ctx, n.x.sql("INSERT INTO {block} VALUES ($1, $2, $3) ON CONFLICT (block) DO UPDATE SET used = excluded.used"), no, b[0], b[1]); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, n.x.sql("UPDATE {meta} SET blocks = $1"), blocks); err != nil {
		return fmt.Errorf("blocks: %w", err)
	}
	return nil
}

// objectOf reads an object's canonical form.
func objectOf(s string) facet.Value {
	props := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimSuffix(s, "\x1e"), "\x1e") {
		name, value, _ := strings.Cut(part, "\x1f")
		props[name] = value
	}
	return facet.Object(props)
}
