package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/waybill-run/waybill/facet"
)

// values is a table of the values of a field in the row d of the documents, one each,
// as name.v: numbers of terms, or numbers. Null is among them, as its term or as null.
func (s *statement) values(c *column, name string) string {
	switch {
	case c.term:
		return fmt.Sprintf("LATERAL (SELECT t AS v FROM unnest(d.tags) t WHERE t >> %d IN (SELECT block FROM %s WHERE field = %s)) %s",
			blockBits, s.x.sql("{block}"), s.arg(c.no, "int"), name)
	case c.Multi:
		return fmt.Sprintf("LATERAL (SELECT unnest(d.%s) AS v UNION ALL SELECT NULL WHERE %s) %s", c.value, s.tagged([]int32{c.null}), name)
	default:
		return fmt.Sprintf("LATERAL (SELECT d.%s AS v) %s", c.value, name)
	}
}

func notNull(c *column, name string) string {
	if c.term {
		return fmt.Sprintf("%s.v <> %d", name, c.null)
	}
	return name + ".v IS NOT NULL"
}

// sumValue reads a sum.
func sumValue(c *column, text *string) (facet.Value, error) {
	if text == nil {
		return facet.Null(), nil
	}
	if c.Kind == facet.KindInt {
		i, ok := new(big.Int).SetString(*text, 10)
		if !ok {
			return facet.Null(), fmt.Errorf("the sum %q is no integer", *text)
		}
		if i.IsInt64() {
			return facet.Int(i.Int64()), nil
		}
		f, _ := new(big.Float).SetInt(i).Float64()
		return facet.Number(f), nil
	}
	var f float64
	_, err := fmt.Sscan(*text, &f)
	return facet.Number(f), err
}

// counted is what is known of a facet before its terms are cut.
type counted struct {
	total, missing int
	terms          map[facet.Value]int
	distinct       int // of terms that were not fetched, too; 0: len(terms)
}

// set names the documents that facets count.
type set struct {
	without  string // the field of which the filter is left out
	noAccess bool
}

func (s *search) setOf(r facet.FacetReq) set {
	f := set{noAccess: r.NoAccess}
	if _, filtered := s.q.Filters[r.Field]; filtered && !r.Filtered {
		f.without = r.Field
	}
	return f
}

func (s *search) whereSet(st *statement, f set) string {
	if f.noAccess {
		return st.where(s.terms, f.without, s.q.Filters)
	}
	// Access holds for the facet's own field, too.
	where := st.where(s.terms, "", s.q.Access)
	rest := st.where(s.terms, f.without, s.q.Filters)
	switch {
	case where == "true":
		return rest
	case rest == "true":
		return where
	}
	return where + " AND " + rest
}

// facets counts. All fields with terms that look at the same documents are counted in
// one pass.
func (s *search) facets(ctx context.Context) error {
	if len(s.q.Facets) == 0 {
		return nil
	}
	s.out.Facets = make([]facet.Facet, len(s.q.Facets))
	passes := map[set][]int{}
	var order []set
	for i, r := range s.q.Facets {
		if c := s.x.column(r.Field); c.term {
			f := s.setOf(r)
			if passes[f] == nil {
				order = append(order, f)
			}
			passes[f] = append(passes[f], i)
			continue
		}
		if err := s.numberFacet(ctx, i); err != nil {
			return err
		}
	}
	for _, f := range order {
		if err := s.pass(ctx, f, passes[f]); err != nil {
			return err
		}
	}
	for i, r := range s.q.Facets {
		for k, sub := range r.Sub {
			if err := s.sub(ctx, i, k, sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// pass counts the terms of the facets.
func (s *search) pass(ctx context.Context, f set, facets []int) error {
	sizes := map[int]int{} // by field; 0 is all
	for _, i := range facets {
		r := s.q.Facets[i]
		no := s.x.column(r.Field).no
		if old, twice := sizes[no]; twice && (old == 0 || r.Size == 0) {
			sizes[no] = 0
		} else {
			sizes[no] = max(old, r.Size)
		}
	}
	var fields, limits []int32
	for no, size := range sizes {
		fields, limits = append(fields, int32(no)), append(limits, int32(min(size, 1<<30)))
	}
	st := s.statement()
	where := s.whereSet(st, f)
	// Term -1 is that of every document, so that the pass counts them too. Number 0
	// of a block is null. Terms are ranked with ties, and cut by their text later.
	text := fmt.Sprintf(`
		WITH asked AS (SELECT b.block, q.field, q.size FROM unnest(%s, %s) q(field, size) JOIN {block} b ON b.field = q.field),
		counts AS MATERIALIZED (
			SELECT t, count(*) AS n FROM {doc} d, unnest(d.tags || -1) t
			WHERE %s AND (t = -1 OR t >> %d IN (SELECT block FROM asked)) GROUP BY t),
		ranked AS (
			SELECT c.t, c.n, a.field, a.size, rank() OVER (PARTITION BY a.field ORDER BY c.n DESC) AS pos,
				count(*) OVER (PARTITION BY a.field) AS terms
			FROM counts c JOIN asked a ON a.block = c.t >> %d WHERE c.t & 65535 <> 0)
		SELECT -1, NULL, n, 0 FROM counts WHERE t = -1
		UNION ALL SELECT a.field, NULL, c.n, 0 FROM counts c JOIN asked a ON a.block = c.t >> %d WHERE c.t & 65535 = 0
		UNION ALL SELECT r.field, v.value, r.n, r.terms FROM ranked r JOIN {term} v ON v.id = r.t WHERE r.size = 0 OR r.pos <= r.size`,
		st.arg(fields, "int[]"), st.arg(limits, "int[]"), where, blockBits, blockBits, blockBits)
	found := map[int]*counted{}
	for no := range sizes {
		found[no] = &counted{terms: map[facet.Value]int{}}
	}
	total := 0
	var field, n, distinct int
	var value *string
	err := s.query(ctx, "facet", fmt.Sprintf("%d fields", len(sizes)), st, text, []any{&field, &value, &n, &distinct}, func() error {
		switch {
		case field < 0:
			total = n
		case value == nil:
			found[field].missing = n
		default:
			v, err := s.x.cols[field].fromText(*value)
			if err != nil {
				return err
			}
			found[field].terms[v] = n
			found[field].distinct = distinct
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range facets {
		c := found[s.x.column(s.q.Facets[i].Field).no]
		c.total = total
		s.out.Facets[i] = c.facet(s.q.Facets[i])
	}
	return nil
}

// facet makes the answer.
func (c *counted) facet(r facet.FacetReq) facet.Facet {
	terms := topTerms(c.terms, r.Size)
	for i := range terms {
		if len(r.Sub) > 0 {
			terms[i].Sub = make([]facet.SubResult, len(r.Sub))
		}
	}
	f := facet.Facet{Name: r.Name, Field: r.Field, Terms: terms, Total: c.total, Missing: c.missing, Distinct: max(c.distinct, len(c.terms))}
	if len(r.Sub) > 0 {
		f.MissingSub = make([]facet.SubResult, len(r.Sub))
	}
	return f
}

// topTerms orders terms and cuts them to size, if it is not 0.
func topTerms(counts map[facet.Value]int, size int) []facet.Term {
	terms := make([]facet.Term, 0, len(counts))
	for v, n := range counts {
		terms = append(terms, facet.Term{Value: v, Count: n})
	}
	slices.SortFunc(terms, func(a, b facet.Term) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), facet.Compare(a.Value, b.Value))
	})
	if size > 0 && len(terms) > size {
		terms = slices.Clone(terms[:size])
	}
	return terms
}

// numberFacet counts a field of which the values are no terms.
func (s *search) numberFacet(ctx context.Context, i int) error {
	r := s.q.Facets[i]
	c := s.x.column(r.Field)
	st := s.statement()
	where := s.whereSet(st, s.setOf(r))
	k := counted{terms: map[facet.Value]int{}}
	var n int
	if err := s.query(ctx, "facet", r.Name, st, "SELECT count(*) FROM {doc} d WHERE "+where, []any{&k.total}, nothing); err != nil {
		return err
	}
	v := scanner{c: c}
	st = s.statement()
	where = s.whereSet(st, s.setOf(r))
	err := s.query(ctx, "facet", r.Name, st, "SELECT x.v, count(*) FROM {doc} d, "+st.values(c, "x")+" WHERE "+where+" GROUP BY x.v", []any{v.into(), &n}, func() error {
		if v := v.value(nil); v.IsNull() {
			k.missing = n
		} else {
			k.terms[v] = n
		}
		return nil
	})
	s.out.Facets[i] = k.facet(r)
	return err
}

func nothing() error { return nil }

// scanner reads values of a field as values gives them.
type scanner struct {
	c    *column
	term *string // the text of a term, joined
	i    *int64
	f    *float64
}

func (v *scanner) into() any {
	switch {
	case v.c.term:
		return &v.term
	case v.c.Kind == facet.KindNumber:
		return &v.f
	default:
		return &v.i
	}
}

// value returns what was read. What goes wrong is put into err.
func (v *scanner) value(err *error) facet.Value {
	switch {
	case v.c.term && v.term != nil:
		out, e := v.c.fromText(*v.term)
		if e != nil && err != nil {
			*err = e
		}
		return out
	case v.f != nil:
		return facet.Number(*v.f)
	case v.i != nil && v.c.Kind == facet.KindDate:
		return facet.DateMicros(*v.i)
	case v.i != nil:
		return facet.Int(*v.i)
	}
	return facet.Null()
}

// sub adds to the terms of a facet, and to its documents without value.
func (s *search) sub(ctx context.Context, i, k int, sub facet.Sub) error {
	r, f := s.q.Facets[i], &s.out.Facets[i]
	c := s.x.column(r.Field)
	at := make(map[facet.Value]*facet.SubResult, len(f.Terms)+1)
	at[facet.Null()] = &f.MissingSub[k]
	for t := range f.Terms {
		at[f.Terms[t].Value] = &f.Terms[t].Sub[k]
	}
	st := s.statement()
	where := s.whereSet(st, s.setOf(r))
	key := scanner{c: c}
	keyText, keyJoin := termText(c, "x", "kt")
	from := "{doc} d, " + st.values(c, "x")
	if sub.Sum != "" {
		of := s.x.column(sub.Sum)
		var sum *string
		return s.query(ctx, "facet", r.Name+" sum", st, fmt.Sprintf("SELECT %s, g.sum FROM (SELECT x.v, sum(y.v)::text AS sum FROM %s, %s WHERE %s GROUP BY x.v) g %s",
			strings.ReplaceAll(keyText, "x.v", "g.v"), from, st.values(of, "y"), where, strings.ReplaceAll(keyJoin, "x.v", "g.v")),
			[]any{key.into(), &sum}, func() (err error) {
				if to := at[key.value(&err)]; to != nil && err == nil {
					to.Sum, err = sumValue(of, sum)
				}
				return err
			})
	}
	of := s.x.column(sub.Terms)
	below := scanner{c: of}
	belowText, belowJoin := termText(of, "y", "bt")
	counts := map[*facet.SubResult]map[facet.Value]int{}
	var n int
	replace := strings.NewReplacer("x.v", "g.x", "y.v", "g.y").Replace
	err := s.query(ctx, "facet", r.Name+" terms", st, fmt.Sprintf("SELECT %s, %s, g.n FROM (SELECT x.v AS x, y.v AS y, count(*) AS n FROM %s, %s WHERE %s GROUP BY x.v, y.v) g %s %s",
		replace(keyText), replace(belowText), from, st.values(of, "y"), where, replace(keyJoin), replace(belowJoin)),
		[]any{key.into(), below.into(), &n}, func() (err error) {
			to := at[key.value(&err)]
			v := below.value(&err)
			switch {
			case to == nil || err != nil:
			case v.IsNull():
				to.Missing = n
			default:
				if counts[to] == nil {
					counts[to] = map[facet.Value]int{}
				}
				counts[to][v] = n
			}
			return err
		})
	for to, m := range counts {
		to.Terms = topTerms(m, sub.Size)
	}
	return err
}

// termText is the text of a term and the join that finds it; null stays null. A number
// is itself.
func termText(c *column, of, as string) (text, join string) {
	if !c.term {
		return of + ".v", ""
	}
	return as + ".value", fmt.Sprintf("LEFT JOIN {term} %s ON %s.id = %s.v", as, as, of)
}
