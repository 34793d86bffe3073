package opensearch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/waybill-run/waybill/facet"
)

// number reads JSON without rounding integers.
func number(text []byte, out any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec.Decode(out)
}

// set is the documents that a facet counts.
func (s *search) set(r facet.FacetReq) []object {
	var all []object
	if !r.NoAccess {
		all = s.x.where("", s.q.Access)
	}
	without := r.Field
	if r.Filtered {
		without = ""
	}
	return append(all, s.x.where(without, s.q.Filters)...)
}

// walked reports whether the terms of a facet are walked through instead of asked for
// with all others.
func (s *search) walked(r facet.FacetReq) bool {
	return r.Size == 0 || r.Size > walkPage || len(r.Sub) > 0 || s.x.shards != 1
}

// counts asks for everything that one request can answer, and walks through the rest.
func (s *search) counts(ctx context.Context) error {
	full := s.x.where("", s.q.Access, s.q.Filters)
	aggs := object{
		":all": object{"filter": allOf(full)},
		":seq": object{"global": object{}, "aggs": object{":max": object{"max": object{"field": seqField}}}},
	}
	for i, r := range s.q.Facets {
		c := s.x.column(r.Field)
		nulls := object{"filter": isNull(c)}
		sub := object{}
		for k, below := range r.Sub {
			if below.Sum != "" {
				s.x.column(below.Sum).sums(sub, k)
			} else {
				sub[fmt.Sprintf(":null%d", k)] = object{"filter": isNull(s.x.column(below.Terms))}
			}
		}
		if len(sub) > 0 {
			nulls["aggs"] = sub
		}
		in := object{":nulls": nulls}
		if !s.walked(r) {
			in[":terms"] = object{"terms": object{"field": c.name, "size": r.Size, "order": []object{{"_count": "desc"}, {"_key": "asc"}}}}
		}
		aggs[fmt.Sprintf(":facet%d", i)] = object{"filter": allOf(s.set(r)), "aggs": in}
	}
	for i, a := range s.q.Aggs {
		of := object{"filter": allOf(append(slices.Clip(full), s.x.where("", a.Where)...))}
		if a.Op == facet.OpSum {
			sub := object{}
			s.x.column(a.Field).sums(sub, 0)
			of["aggs"] = sub
		}
		if a.Op != facet.OpCardinality {
			aggs[fmt.Sprintf(":agg%d", i)] = of
		}
	}
	a, err := s.ask(ctx, "facet", fmt.Sprintf("%d facets", len(s.q.Facets)), object{"query": documents, "size": 0, "track_total_hits": false, "aggs": aggs})
	if err != nil {
		return err
	}
	s.out.Total = a.Aggs[":all"].Count
	if v := a.Aggs[":seq"].Sub[":max"].Value; v != nil {
		f, err := v.Float64()
		if err != nil {
			return err
		}
		s.out.Seq = facet.Seq(f)
	}
	for i, r := range s.q.Facets {
		f, err := s.facet(ctx, r, a.Aggs[fmt.Sprintf(":facet%d", i)])
		if err != nil {
			return err
		}
		s.out.Facets = append(s.out.Facets, f)
	}
	return s.aggs(ctx, a, full)
}

func (s *search) aggs(ctx context.Context, a answer, full []object) error {
	if len(s.q.Aggs) > 0 {
		s.out.Aggs = map[string]facet.Value{}
	}
	for i, ag := range s.q.Aggs {
		got := a.Aggs[fmt.Sprintf(":agg%d", i)]
		var err error
		v := facet.Int(int64(got.Count))
		switch ag.Op {
		case facet.OpSum:
			v, err = s.x.column(ag.Field).sum(got.Sub, 0)
		case facet.OpCardinality:
			n := 0
			err = s.walk(ctx, append(slices.Clip(full), s.x.where("", ag.Where)...), []*column{s.x.column(ag.Field)}, nil, func([]facet.Value, bucket) error {
				n++
				return nil
			})
			v = facet.Int(int64(n))
		}
		if err != nil {
			return err
		}
		s.out.Aggs[ag.Name] = v
	}
	return nil
}

// facet makes a facet of what was answered, and walks through what was not.
func (s *search) facet(ctx context.Context, r facet.FacetReq, a agg) (facet.Facet, error) {
	c := s.x.column(r.Field)
	f := facet.Facet{Name: r.Name, Field: r.Field, Total: a.Count, Missing: a.Sub[":nulls"].Count, Terms: []facet.Term{}}
	if !s.walked(r) {
		t := a.Sub[":terms"]
		for _, b := range t.Buckets {
			v, err := c.value(b.Key)
			if err != nil {
				return f, err
			}
			f.Terms = append(f.Terms, facet.Term{Value: v, Count: b.Count})
		}
		f.Distinct = len(f.Terms)
		if t.Other == 0 {
			return f, nil
		}
		f.Distinct = 0
		return f, s.walk(ctx, s.set(r), []*column{c}, nil, func([]facet.Value, bucket) error {
			f.Distinct++
			return nil
		})
	}
	sums := object{}
	for k, sub := range r.Sub {
		if sub.Sum != "" {
			s.x.column(sub.Sum).sums(sums, k)
		}
	}
	err := s.walk(ctx, s.set(r), []*column{c}, sums, func(key []facet.Value, b bucket) error {
		t := facet.Term{Value: key[0], Count: b.Count}
		for k, sub := range r.Sub {
			var of facet.SubResult
			var err error
			if sub.Sum != "" {
				of.Sum, err = s.x.column(sub.Sum).sum(b.Sub, k)
			}
			if err != nil {
				return err
			}
			t.Sub = append(t.Sub, of)
		}
		f.Terms = append(f.Terms, t)
		return nil
	})
	if err != nil {
		return f, err
	}
	f.Distinct = len(f.Terms)
	f.Terms = top(f.Terms, r.Size)
	if len(r.Sub) == 0 {
		return f, nil
	}
	f.MissingSub = make([]facet.SubResult, len(r.Sub))
	for k, sub := range r.Sub {
		var err error
		if sub.Sum != "" {
			f.MissingSub[k].Sum, err = s.x.column(sub.Sum).sum(a.Sub[":nulls"].Sub, k)
		} else {
			f.MissingSub[k].Missing = a.Sub[":nulls"].Sub[fmt.Sprintf(":null%d", k)].Count
			err = s.subTerms(ctx, r, k, &f)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// subTerms counts the terms of another field below those of a facet.
func (s *search) subTerms(ctx context.Context, r facet.FacetReq, k int, f *facet.Facet) error {
	c, of, size := s.x.column(r.Field), s.x.column(r.Sub[k].Terms), r.Sub[k].Size
	at := map[facet.Value]*facet.SubResult{}
	for i := range f.Terms {
		at[f.Terms[i].Value] = &f.Terms[i].Sub[k]
	}
	add := func(to *facet.SubResult, v facet.Value, n int) {
		if to != nil {
			to.Terms = append(to.Terms, facet.Term{Value: v, Count: n})
		}
	}
	set := s.set(r)
	if err := s.walk(ctx, set, []*column{c, of}, nil, func(key []facet.Value, b bucket) error {
		add(at[key[0]], key[1], b.Count)
		return nil
	}); err != nil {
		return err
	}
	if err := s.walk(ctx, append(slices.Clip(set), isNull(of)), []*column{c}, nil, func(key []facet.Value, b bucket) error {
		if to := at[key[0]]; to != nil {
			to.Missing = b.Count
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.walk(ctx, append(slices.Clip(set), isNull(c)), []*column{of}, nil, func(key []facet.Value, b bucket) error {
		add(&f.MissingSub[k], key[0], b.Count)
		return nil
	}); err != nil {
		return err
	}
	for _, to := range at {
		to.Terms = top(to.Terms, size)
	}
	f.MissingSub[k].Terms = top(f.MissingSub[k].Terms, size)
	return nil
}

// top orders terms and cuts them to size, if it is not 0.
func top(ts []facet.Term, size int) []facet.Term {
	slices.SortFunc(ts, func(a, b facet.Term) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), facet.Compare(a.Value, b.Value))
	})
	if size > 0 && len(ts) > size {
		return slices.Clone(ts[:size])
	}
	return ts
}

// walkPage is how many terms a request walks through, which is below what a cluster
// allows (search.max_buckets).
const walkPage = 5000

// walk gives every combination of values that documents of the set have in the columns
// to each, with the number of documents.
func (s *search) walk(ctx context.Context, set []object, cols []*column, sub object, each func(key []facet.Value, b bucket) error) error {
	var after object
	for {
		sources := make([]object, len(cols))
		for i, c := range cols {
			sources[i] = object{fmt.Sprintf("k%d", i): object{"terms": object{"field": c.name}}}
		}
		composite := object{"size": walkPage, "sources": sources}
		if after != nil {
			composite["after"] = after
		}
		walk := object{"composite": composite}
		if len(sub) > 0 {
			walk["aggs"] = sub
		}
		a, err := s.ask(ctx, "facet", cols[0].Name, object{"query": allOf(append([]object{documents}, set...)), "size": 0, "track_total_hits": false, "aggs": object{":walk": walk}})
		if err != nil {
			return err
		}
		got := a.Aggs[":walk"]
		for _, b := range got.Buckets {
			keys, ok := b.Key.(object)
			if !ok {
				return fmt.Errorf("a bucket of a composite aggregation has the key %v", b.Key)
			}
			values := make([]facet.Value, len(cols))
			for i, c := range cols {
				if values[i], err = c.value(keys[fmt.Sprintf("k%d", i)]); err != nil {
					return err
				}
			}
			if err := each(values, b); err != nil {
				return err
			}
		}
		if len(got.Buckets) < walkPage || got.After == nil {
			return nil
		}
		after = got.After
	}
}

// sums asks for what the sum of the column is made of, number k of several.
func (c *column) sums(into object, k int) {
	add := func(part, field string) {
		into[fmt.Sprintf(":sum%d%s", k, part)] = object{"sum": object{"field": field}}
	}
	into[fmt.Sprintf(":sum%dn", k)] = object{"value_count": object{"field": c.name}}
	if c.Kind == facet.KindInt {
		for _, part := range sumParts {
			add(part, c.side(part))
		}
		return
	}
	add("s", c.side("s"))
	into[fmt.Sprintf(":sum%d+", k)] = object{"filter": term(c.name, sortable(posInf))}
	into[fmt.Sprintf(":sum%d-", k)] = object{"filter": term(c.name, sortable(negInf))}
}

// sum puts it together.
func (c *column) sum(a map[string]agg, k int) (facet.Value, error) {
	get := func(part string) (float64, error) {
		v := a[fmt.Sprintf(":sum%d%s", k, part)].Value
		if v == nil {
			return 0, fmt.Errorf("the cluster left out part %q of the sum of field %q", part, c.Name)
		}
		return v.Float64()
	}
	n, err := get("n")
	if err != nil || n == 0 {
		return facet.Null(), err
	}
	if c.Kind != facet.KindInt {
		f, err := get("s")
		if a[fmt.Sprintf(":sum%d+", k)].Count > 0 {
			f += math.Inf(1)
		}
		if a[fmt.Sprintf(":sum%d-", k)].Count > 0 {
			f += math.Inf(-1)
		}
		return facet.Number(f), err
	}
	sum := new(big.Int)
	for i, shift := range []uint{42, 21, 0} {
		f, err := get(sumParts[i])
		if err != nil {
			return facet.Null(), err
		}
		part, _ := big.NewFloat(f).Int(nil)
		sum.Add(sum, part.Lsh(part, shift))
	}
	if sum.IsInt64() {
		return facet.Int(sum.Int64()), nil
	}
	f, _ := new(big.Float).SetInt(sum).Float64()
	return facet.Number(f), nil
}
