package facettest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/waybill-run/waybill/facet"
)

// testTies counts many values of one document each, written in batches whose values lie between each other's, so that
// an index of several parts has ties within and across them and values that only some parts have.
func testTies(t *testing.T, c Config) {
	schema := facet.Schema{Fields: []facet.Field{
		{Name: "term", Kind: facet.KindKeyword},
		{Name: "tags", Kind: facet.KindKeyword, Multi: true},
		{Name: "number", Kind: facet.KindInt},
		{Name: "part", Kind: facet.KindInt},
	}}
	f := open(t, c, schema)
	const values = 2003 // a prime, so that steps reach all
	n := 0
	put := func(part, docs, step int, value func(i int) int) {
		t.Helper()
		var batch []facet.Doc
		for i := range docs {
			v := value(i * step)
			tag := func(k int) facet.Value { return facet.String(fmt.Sprintf("g%d", (v*k+part)%values)) }
			batch = append(batch, doc(fmt.Sprintf("d%06d", n), map[string][]facet.Value{
				"term": {facet.String(fmt.Sprintf("t%04d", v))}, "tags": {tag(3), tag(5), tag(7)},
				"number": {facet.Int(int64(v - values/2))}, "part": {facet.Int(int64(part))}}))
			n++
		}
		f.put(batch...)
	}
	check := func(what string) {
		t.Helper()
		for _, filters := range []map[string]facet.Filter{
			nil,
			{"part": {Is: []facet.Value{facet.Int(1)}}},
			{"part": {Is: []facet.Value{facet.Int(0), facet.Int(3)}}},
			{"part": {IsNot: []facet.Value{facet.Int(2)}}},
			{"number": {Within: []facet.Span{{Lo: facet.Int(-40), Hi: facet.Int(40)}}}},
			{"term": {Prefix: []string{"t00", "t19"}}},
		} {
			for _, size := range []int{1, 3, 100, 0} {
				var reqs []facet.FacetReq
				for _, field := range []string{"term", "tags", "number"} {
					reqs = append(reqs, facet.FacetReq{Field: field, Size: size, Filtered: true})
				}
				for _, x := range f.search(facet.Query{Filters: filters, Facets: reqs}).Facets {
					ordered := slices.IsSortedFunc(x.Terms, func(a, b facet.Term) int {
						if a.Count != b.Count {
							return b.Count - a.Count
						}
						return facet.Compare(a.Value, b.Value)
					})
					if !ordered {
						t.Fatalf("%s: the first %d of %s under %v are not in the order of counts and values", what, size, x.Name, filters)
					}
				}
			}
		}
	}

	put(0, 900, 1, func(i int) int { return 400 + i })                // every value once, in the middle
	put(1, 300, 7, func(i int) int { return i % values })             // before, between and behind them
	put(2, 300, 13, func(i int) int { return values - 1 - i%values }) // some of them again
	put(3, 40, 50, func(i int) int { return (i + 1) % values })
	check("four batches")
	r := f.search(facet.Query{Facets: []facet.FacetReq{{Field: "term", Size: 2}}})
	if x := r.Facets[0]; len(x.Terms) != 2 || x.Terms[0].Count < 2 || x.Distinct >= n {
		t.Errorf("%d documents have the terms %+v of %d", n, x.Terms, x.Distinct)
	}
	// What ties is deleted, so that others move up, in every part.
	var gone []string
	for i := 0; i < n; i += 9 {
		gone = append(gone, fmt.Sprintf("d%06d", i))
	}
	f.apply(facet.Batch{Del: gone})
	check("after deletions")
	put(4, 25, 1, func(int) int { return 3 }) // one value rises
	check("a value with many")
	if x := f.search(facet.Query{Facets: []facet.FacetReq{{Field: "term", Size: 1}}}).Facets[0]; x.Terms[0].Value != facet.String("t0003") || x.Terms[0].Count < 25 {
		t.Errorf("the greatest is %+v", x.Terms[0])
	}
}
