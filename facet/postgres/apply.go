package postgres

import (
	"context"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/facet"
)

// Apply implements [facet.Index].
func (x *Index) Apply(ctx context.Context, b facet.Batch) (facet.Seq, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := x.schema.CheckBatch(b, x.limits); err != nil {
		return 0, err
	}
	if b.Seq > math.MaxInt64 {
		return 0, &facet.Error{Kind: facet.ErrBadValue, Msg: "the sequence does not fit into 63 bits"}
	}
	var applied facet.Seq
	var numbered *numbering
	err = pgx.BeginFunc(ctx, x.pool, func(tx pgx.Tx) error {
		var seq int64
		// One writer at a time: the row is locked until the end.
		if err := tx.QueryRow(ctx, x.sql("SELECT seq FROM {meta} FOR UPDATE")).Scan(&seq); err != nil {
			return err
		}
		if facet.Seq(seq) >= b.Seq {
			applied = facet.Seq(seq)
			return nil
		}
		applied = b.Seq
		puts, gone := lastPuts(b)
		numbered = x.newNumbering()
		if err := numbered.number(ctx, tx, puts); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, x.sql("DELETE FROM {doc} WHERE id = ANY($1::text[])"), gone); err != nil {
			return err
		}
		if err := x.insert(ctx, tx, puts, numbered); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, x.sql("UPDATE {meta} SET seq = $1"), int64(b.Seq))
		return err
	})
	if err != nil {
		return 0, x.failed(ctx, "apply a batch", err)
	}
	if numbered != nil {
		numbered.keep()
	}
	return applied, nil
}

// lastPuts returns the documents that count, and the ids of which no former document
// may stay.
func lastPuts(b facet.Batch) (puts []*facet.Doc, gone []string) {
	at := make(map[string]int, len(b.Put))
	gone = slices.Clone(b.Del)
	for i := range b.Put {
		d := &b.Put[i]
		if j, twice := at[d.ID]; twice {
			puts[j] = d
			continue
		}
		at[d.ID] = len(puts)
		puts = append(puts, d)
		gone = append(gone, d.ID)
	}
	return puts, gone
}

// insert writes the rows of the documents.
func (x *Index) insert(ctx context.Context, tx pgx.Tx, puts []*facet.Doc, n *numbering) error {
	names := []string{"id", "version", "source", "tags"}
	for i := range x.cols {
		for _, d := range x.cols[i].declare() {
			names = append(names, d[0])
		}
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{x.name + "_doc"}, names, pgx.CopyFromSlice(len(puts), func(i int) ([]any, error) {
		d := puts[i]
		source := d.Source
		if source == nil {
			source = []byte{}
		}
		row := make([]any, 4, len(names))
		row[0], row[1], row[2] = d.ID, d.Version, source
		tags := []int32{}
		for i := range x.cols {
			c := &x.cols[i]
			set := c.Set(d.Fields[c.Name])
			if c.term {
				var least any // NULL without a value
				for k, v := range set {
					if v.IsNull() {
						tags = append(tags, c.null)
						continue
					}
					id := n.of(c.no, v)
					tags = append(tags, id)
					if k == 0 {
						least = id
					}
				}
				row = append(row, least)
				continue
			}
			if set[len(set)-1].IsNull() {
				tags = append(tags, c.null)
				set = set[:len(set)-1]
			}
			row = append(row, c.cells(set)...)
		}
		row[3] = tags
		return row, nil
	}))
	return err
}

// cells are a number's or a range's columns of a row for these values, of which none
// is null.
func (c *column) cells(set []facet.Value) []any {
	if len(set) == 0 {
		return make([]any, len(c.declare()))
	}
	if c.lo != "" {
		lo, hi := make([]float64, len(set)), make([]float64, len(set))
		for i, v := range set {
			lo[i], hi[i] = v.Bounds()
		}
		if c.Multi {
			return []any{lo, hi}
		}
		return []any{lo[0], hi[0]}
	}
	if !c.Multi {
		return []any{c.native(set[0])}
	}
	return []any{c.natives(set), c.native(set[0])}
}

// native is a value as the column has it.
func (c *column) native(v facet.Value) any {
	if c.Kind == facet.KindNumber {
		return v.Float64()
	}
	return v.Int64()
}

func (c *column) natives(vs []facet.Value) any {
	if c.Kind == facet.KindNumber {
		out := make([]float64, len(vs))
		for i, v := range vs {
			out[i] = v.Float64()
		}
		return out
	}
	out := make([]int64, len(vs))
	for i, v := range vs {
		out[i] = v.Int64()
	}
	return out
}
