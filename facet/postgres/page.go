package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-run/waybill/facet"
)

// page counts the matching documents and fetches the page.
func (s *search) page(ctx context.Context) error {
	st := s.statement()
	if err := s.query(ctx, "set", "", st, "SELECT count(*) FROM {doc} d WHERE "+s.matching(st), []any{&s.out.Total}, nothing); err != nil {
		return err
	}
	if s.q.Size == 0 {
		return nil
	}
	// Backwards is forwards in the other direction, turned round.
	back := s.q.Before != nil
	from, desc, first := s.q.After, s.q.Sort.Desc, s.q.Sort.First()
	if back {
		from, desc, first = s.q.Before, !desc, !first
	}
	var rows []row
	want := s.q.Size + 1
	for _, p := range s.stretches(from, desc, first) {
		if len(rows) == want {
			break
		}
		more, err := s.fetch(ctx, p, want-len(rows))
		if err != nil {
			return err
		}
		rows = append(rows, more...)
	}
	if len(rows) == want {
		s.out.More = true
		rows = rows[:s.q.Size]
	}
	if back {
		slices.Reverse(rows)
	}
	return s.hits(ctx, rows)
}

// stretch is a part of the order of documents within which all have a value or none
// has: what a query for it can be answered from an index.
type stretch struct {
	nulls bool
	desc  bool
	after *facet.Key
}

// stretches are the parts of the order that come after the key.
func (s *search) stretches(from *facet.Key, desc, nullsFirst bool) []stretch {
	if s.q.Sort.Field == facet.IDField {
		return []stretch{{desc: desc, after: from}}
	}
	nulls, values := stretch{nulls: true, desc: desc}, stretch{desc: desc}
	inNulls := from != nil && from.Value.IsNull()
	if inNulls {
		nulls.after = from
	} else {
		values.after = from
	}
	switch {
	case from == nil && nullsFirst, inNulls && nullsFirst:
		return []stretch{nulls, values}
	case from == nil, !inNulls && !nullsFirst:
		return []stretch{values, nulls}
	case inNulls:
		return []stretch{nulls}
	default:
		return []stretch{values}
	}
}

// row is a hit as the table has it.
type row struct {
	id      string
	version int64
	source  []byte
	value   facet.Value // that it is sorted by
}

// fetch reads the first documents of a stretch.
func (s *search) fetch(ctx context.Context, p stretch, limit int) ([]row, error) {
	st := s.statement()
	where := s.matching(st)
	source := "NULL::bytea"
	if s.q.Fields == nil {
		source = "d.source"
	}
	dir, beyond := "ASC", ">"
	if p.desc {
		dir, beyond = "DESC", "<"
	}
	c := s.x.column(s.q.Sort.Field)
	sort, from := "d.id", "{doc} d"
	var v scanner
	value := "NULL"
	order := "d.id " + dir
	switch {
	case c == nil:
		if p.after != nil {
			where += fmt.Sprintf(" AND d.id %s %s", beyond, st.arg(p.after.ID, "text"))
		}
	case p.nulls:
		where += " AND d." + c.sort + " IS NULL"
		if p.after != nil {
			where += fmt.Sprintf(" AND d.id %s %s", beyond, st.arg(p.after.ID, "text"))
		}
	default:
		sort = "d." + c.sort
		if c.term {
			sort = "st.value"
			from += " JOIN {term} st ON st.id = d." + c.sort
		}
		v.c, value = c, sort
		where += " AND d." + c.sort + " IS NOT NULL"
		if k := p.after; k != nil {
			var at string
			if c.term {
				at = st.arg(text(k.Value), `text COLLATE "C"`)
			} else {
				at = st.arg(c.native(k.Value), c.typ)
			}
			where += fmt.Sprintf(" AND (%s, d.id) %s (%s, %s)", sort, beyond, at, st.arg(k.ID, "text"))
		}
		order = sort + " " + dir + ", " + order
	}
	var r row
	into := []any{&r.id, &r.version, &r.source, nil}
	if v.c != nil {
		into[3] = v.into()
	} else {
		into[3] = new(*string)
	}
	var out []row
	err := s.query(ctx, "page", s.q.Sort.Field, st, fmt.Sprintf("SELECT d.id, d.version, %s, %s FROM %s WHERE %s ORDER BY %s LIMIT %d", source, value, from, where, order, limit), into, func() (err error) {
		r.value = facet.Null()
		switch {
		case c == nil:
			r.value = facet.String(r.id)
		case v.c != nil:
			r.value = v.value(&err)
		}
		out = append(out, r)
		r.source = nil // the next row has one of its own
		return err
	})
	return out, err
}

// hits makes hits of rows.
func (s *search) hits(ctx context.Context, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	s.out.Hits = make([]facet.Hit, len(rows))
	for i, r := range rows {
		s.out.Hits[i] = facet.Hit{ID: r.id, Version: r.version, Source: r.source, Key: facet.Key{Value: r.value, ID: r.id}}
	}
	first, last := s.out.Hits[0].Key, s.out.Hits[len(rows)-1].Key
	s.out.First, s.out.Last = &first, &last
	if len(s.q.Fields) == 0 {
		return nil
	}
	return s.fields(ctx)
}

// fields gives the hits the values of the fields that were chosen.
func (s *search) fields(ctx context.Context) error {
	at := make(map[string]*facet.Hit, len(s.out.Hits))
	ids := make([]string, len(s.out.Hits))
	for i := range s.out.Hits {
		h := &s.out.Hits[i]
		h.Fields = map[string][]facet.Value{}
		at[h.ID], ids[i] = h, h.ID
	}
	var terms []int32
	for _, name := range slices.Compact(slices.Sorted(slices.Values(s.q.Fields))) {
		c := s.x.column(name)
		if c.term {
			terms = append(terms, int32(c.no))
			continue
		}
		if err := s.numbers(ctx, c, ids, at); err != nil {
			return err
		}
	}
	if len(terms) == 0 {
		return nil
	}
	st := s.statement()
	var id, value string
	var field int
	return s.query(ctx, "page", "fields", st, fmt.Sprintf(`SELECT d.id, v.field, v.value FROM {doc} d, unnest(d.tags) t JOIN {term} v ON v.id = t
		WHERE d.id = ANY(%s) AND v.field = ANY(%s) ORDER BY v.field, v.value`, st.arg(ids, "text[]"), st.arg(terms, "int[]")), []any{&id, &field, &value}, func() error {
		c := &s.x.cols[field]
		v, err := c.fromText(value)
		at[id].Fields[c.Name] = append(at[id].Fields[c.Name], v)
		return err
	})
}

// numbers gives the hits the values of a field that are no terms.
func (s *search) numbers(ctx context.Context, c *column, ids []string, at map[string]*facet.Hit) error {
	st := s.statement()
	var id string
	add := func(v facet.Value) { at[id].Fields[c.Name] = append(at[id].Fields[c.Name], v) }
	columns := []string{c.value}
	if c.lo != "" {
		columns = []string{c.lo, c.hi}
	}
	list := make([]string, len(columns))
	for i, name := range columns {
		list[i] = "d." + name
	}
	from, what := "{doc} d", strings.Join(list, ", ")
	if c.Multi {
		from += ", unnest(" + what + ") WITH ORDINALITY r(" + strings.Join([]string{"a", "b"}[:len(list)], ", ") + ", place)"
		what = strings.Join([]string{"r.a", "r.b"}[:len(list)], ", ")
	}
	where := " WHERE d.id = ANY(" + st.arg(ids, "text[]") + ")"
	if c.Multi {
		where += " ORDER BY d.id, r.place"
	}
	if c.lo != "" {
		var lo, hi *float64
		return s.query(ctx, "page", c.Name, st, "SELECT d.id, "+what+" FROM "+from+where, []any{&id, &lo, &hi}, func() error {
			if lo != nil {
				add(facet.Between(*lo, *hi))
			}
			return nil
		})
	}
	v := scanner{c: c}
	return s.query(ctx, "page", c.Name, st, "SELECT d.id, "+what+" FROM "+from+where, []any{&id, v.into()}, func() error {
		if v := v.value(nil); !v.IsNull() {
			add(v)
		}
		return nil
	})
}

// planOf asks the server how it would run a statement.
func (s *search) planOf(ctx context.Context, step *facet.Step, text string, args []any) error {
	var plan []struct {
		Plan planNode `json:"Plan"`
	}
	if err := s.tx.QueryRow(ctx, "EXPLAIN (FORMAT JSON) "+text, args...).Scan(&plan); err != nil {
		return err
	}
	if len(plan) == 0 {
		return nil
	}
	top := plan[0].Plan
	step.Cost = top.Cost
	table := s.x.sql("{doc}")
	if n := top.reads(table); n != nil {
		step.Part, step.Plan, step.Docs = table, n.Type, int(n.Rows)
		for _, below := range n.Plans {
			if below.Index != "" {
				step.Plan += ", " + below.Type + " of " + below.Index
			}
		}
		if n.Index != "" {
			step.Plan += " of " + n.Index
		}
	} else {
		step.Plan = top.Type
	}
	step.Why = "the server's choice"
	return nil
}

// planNode is what is looked at of a plan.
type planNode struct {
	Type  string     `json:"Node Type"`
	Table string     `json:"Relation Name"`
	Index string     `json:"Index Name"`
	Rows  float64    `json:"Plan Rows"`
	Cost  float64    `json:"Total Cost"`
	Plans []planNode `json:"Plans"`
}

// reads finds the node that reads a table.
func (n *planNode) reads(table string) *planNode {
	if n.Table == table {
		return n
	}
	for i := range n.Plans {
		if found := n.Plans[i].reads(table); found != nil {
			return found
		}
	}
	return nil
}
