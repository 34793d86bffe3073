package facettest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill/facet"
)

// Schemas are random schemas in which every kind can occur.
func Schemas() *rapid.Generator[facet.Schema] {
	return rapid.Custom(func(t *rapid.T) facet.Schema {
		var s facet.Schema
		for i := range rapid.IntRange(1, 7).Draw(t, "fields") {
			f := facet.Field{Name: fmt.Sprintf("f%d", i), Kind: facet.Kind(rapid.IntRange(int(facet.KindKeyword), int(facet.KindObject)).Draw(t, "kind"))}
			f.Multi = rapid.Bool().Draw(t, "multi")
			switch f.Kind {
			case facet.KindKeyword:
				f.Words = rapid.Bool().Draw(t, "words")
			case facet.KindObject:
				f.Props = []string{"p", "q", "r"}
			}
			s.Fields = append(s.Fields, f)
		}
		return s
	})
}

var strs = []string{"a", "b", "ab", "abc", "B", "", " ", "a b", "b-a c", "é", "É", "zz", "z", "日本", "a.b.c", "abcabcabcabcabcabc"}

// Values are random values of a field from a small choice, so that they meet again.
func Values(f facet.Field) *rapid.Generator[facet.Value] {
	return rapid.Custom(func(t *rapid.T) facet.Value {
		if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
			return facet.Null()
		}
		n := rapid.IntRange(-6, 12).Draw(t, "n")
		switch f.Kind {
		case facet.KindKeyword:
			if n > 6 {
				return facet.String(fmt.Sprintf("k%d", rapid.IntRange(0, 300).Draw(t, "k")))
			}
			return facet.String(rapid.SampledFrom(strs).Draw(t, "s"))
		case facet.KindInt:
			switch n {
			case -6:
				return facet.Int(math.MinInt64)
			case 12:
				return facet.Int(math.MaxInt64)
			}
			return facet.Int(int64(n))
		case facet.KindNumber:
			if n == 12 {
				return facet.Number(math.Inf(1))
			}
			return facet.Number(float64(n) / 4)
		case facet.KindBool:
			return facet.Bool(n%2 == 0)
		case facet.KindDate:
			return facet.DateMicros(int64(n) * 1_000_003)
		case facet.KindRange:
			lo, hi := float64(n), float64(n+rapid.IntRange(0, 6).Draw(t, "length"))
			if n == -6 {
				lo = math.Inf(-1)
			}
			if n > 9 {
				hi = math.Inf(1)
			}
			return facet.Between(lo, hi)
		default:
			props := map[string]string{}
			for _, p := range f.Props {
				if rapid.Bool().Draw(t, "has") {
					props[p] = rapid.SampledFrom(strs[:6]).Draw(t, "prop")
				}
			}
			if len(props) == 0 {
				return facet.Null()
			}
			return facet.Object(props)
		}
	})
}

// Docs are random documents with one of some hundred ids.
func Docs(s facet.Schema) *rapid.Generator[facet.Doc] {
	return rapid.Custom(func(t *rapid.T) facet.Doc {
		id := fmt.Sprintf("%d", rapid.IntRange(0, 150).Draw(t, "id"))
		if len(id) == 3 {
			id = fmt.Sprintf("0000%s-0000-4000-8000-%012s", id+"0", id)
		}
		d := facet.Doc{ID: id, Version: int64(rapid.IntRange(0, 9).Draw(t, "version")), Fields: map[string][]facet.Value{}}
		d.Source = fmt.Appendf(nil, "%s at %d", id, d.Version)
		for _, f := range s.Fields {
			most := 1
			if f.Multi {
				most = 4
			}
			if n := rapid.IntRange(0, most).Draw(t, "values"); n > 0 {
				d.Fields[f.Name] = rapid.SliceOfN(Values(f), n, n).Draw(t, f.Name)
			}
		}
		return d
	})
}

// Batches are random changes; Seq is left to the caller.
func Batches(s facet.Schema) *rapid.Generator[facet.Batch] {
	return rapid.Custom(func(t *rapid.T) facet.Batch {
		var b facet.Batch
		b.Put = rapid.SliceOfN(Docs(s), 0, 30).Draw(t, "put")
		for range rapid.IntRange(0, 6).Draw(t, "deletions") {
			b.Del = append(b.Del, Docs(facet.Schema{}).Draw(t, "del").ID)
		}
		return b
	})
}

func filters(t *rapid.T, s facet.Schema, most int) map[string]facet.Filter {
	fs := map[string]facet.Filter{}
	for range rapid.IntRange(0, most).Draw(t, "filters") {
		if rapid.IntRange(0, 7).Draw(t, "on id") == 0 {
			fs[facet.IDField] = idFilter(t)
			continue
		}
		f := rapid.SampledFrom(s.Fields).Draw(t, "on")
		fs[f.Name] = filter(t, f)
	}
	return fs
}

func idFilter(t *rapid.T) facet.Filter {
	var ids []facet.Value
	for range rapid.IntRange(0, 40).Draw(t, "ids") {
		ids = append(ids, facet.String(Docs(facet.Schema{}).Draw(t, "doc").ID))
	}
	switch rapid.IntRange(0, 2).Draw(t, "how") {
	case 0:
		return facet.Filter{Is: ids}
	case 1:
		return facet.Filter{IsNot: ids}
	default:
		return facet.Filter{Prefix: []string{"1", "00001"}}
	}
}

func filter(t *rapid.T, f facet.Field) facet.Filter {
	var x facet.Filter
	some := func(label string) []facet.Value {
		return rapid.SliceOfN(Values(f), 0, 6).Draw(t, label)
	}
	spans := func(label string) (list []facet.Span) {
		end := f
		if f.Kind == facet.KindRange {
			end.Kind = facet.KindNumber
		}
		for range rapid.IntRange(1, 2).Draw(t, label) {
			span := facet.Span{Lo: Values(end).Draw(t, "lo"), Hi: Values(end).Draw(t, "hi")}
			if !span.Lo.IsNull() && !span.Hi.IsNull() && facet.Compare(span.Lo, span.Hi) > 0 {
				span.Lo, span.Hi = span.Hi, span.Lo
			}
			list = append(list, span)
		}
		return list
	}
	for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "conditions") {
		how := rapid.IntRange(0, 5).Draw(t, "condition")
		switch {
		case how == 0:
			x.IsNot = some("isn't")
		case how == 1 && f.Spans():
			x.Within = spans("within")
		case how == 2 && f.Spans():
			x.Contains = spans("contains")
		case how == 3 && f.Spans():
			x.Intersects = spans("intersects")
		case how <= 3 && f.Kind == facet.KindKeyword:
			x.Prefix = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "", "k", "k1", "a b", "É", "zzz"}), 1, 2).Draw(t, "prefix")
		default:
			x.Is = some("is")
		}
	}
	return x
}

// Queries are random queries that are valid for the schema.
func Queries(s facet.Schema) *rapid.Generator[facet.Query] {
	return rapid.Custom(func(t *rapid.T) facet.Query {
		var q facet.Query
		if rapid.IntRange(0, 3).Draw(t, "access") == 0 {
			q.Access = filters(t, s, 1)
		}
		q.Filters = filters(t, s, 3)
		var sums, all []string
		for _, f := range s.Fields {
			if f.Summable() {
				sums = append(sums, f.Name)
			}
			if f.Facetable() {
				all = append(all, f.Name)
			}
		}
		for _, name := range all {
			req := facet.FacetReq{Field: name, Size: rapid.IntRange(0, 4).Draw(t, "size")}
			req.Filtered = rapid.IntRange(0, 5).Draw(t, "filtered") == 0
			req.NoAccess = rapid.IntRange(0, 5).Draw(t, "noaccess") == 0
			if rapid.IntRange(0, 4).Draw(t, "sub") == 0 {
				req.Sub = append(req.Sub, facet.Sub{Terms: rapid.SampledFrom(all).Draw(t, "sub terms"), Size: rapid.IntRange(0, 2).Draw(t, "sub size")})
				if len(sums) > 0 {
					req.Sub = append(req.Sub, facet.Sub{Sum: rapid.SampledFrom(sums).Draw(t, "sub sum")})
				}
			}
			q.Facets = append(q.Facets, req)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "aggs") {
			a := facet.Agg{Name: fmt.Sprint(i), Op: facet.OpCount}
			if len(all) > 0 && rapid.Bool().Draw(t, "cardinality") {
				a.Op, a.Field = facet.OpCardinality, rapid.SampledFrom(all).Draw(t, "of")
			} else if len(sums) > 0 {
				a.Op, a.Field = facet.OpSum, rapid.SampledFrom(sums).Draw(t, "sum of")
			}
			if rapid.Bool().Draw(t, "where") {
				a.Where = filters(t, s, 2)
			}
			q.Aggs = append(q.Aggs, a)
		}
		q.Sort = sortBy(t, s)
		q.Size = rapid.SampledFrom([]int{0, 1, 3, 10, 200}).Draw(t, "page")
		if how := rapid.IntRange(0, 3).Draw(t, "from"); how > 1 {
			k := facet.Key{ID: Docs(facet.Schema{}).Draw(t, "key").ID}
			if f, ok := s.Field(q.Sort.Field); ok {
				k.Value = Values(f).Draw(t, "key value")
			}
			if how == 2 {
				q.After = &k
			} else {
				q.Before = &k
			}
		}
		if rapid.IntRange(0, 2).Draw(t, "choose") == 0 {
			q.Fields = []string{}
			for _, f := range s.Fields {
				if rapid.Bool().Draw(t, "chosen") {
					q.Fields = append(q.Fields, f.Name)
				}
			}
		}
		return q
	})
}

func sortBy(t *rapid.T, s facet.Schema) facet.Sort {
	by := facet.Sort{Desc: rapid.Bool().Draw(t, "desc"), Nulls: facet.Nulls(rapid.IntRange(0, 2).Draw(t, "nulls"))}
	names := []string{""}
	for _, f := range s.Fields {
		if f.Sortable() {
			names = append(names, f.Name)
		}
	}
	by.Field = rapid.SampledFrom(names).Draw(t, "sort")
	return by
}

// testHistories applies random batches to the index and to its definition and compares whole answers.
func testHistories(t *testing.T, c Config) {
	checks := c.Checks
	if checks == 0 {
		checks = 60
	}
	setChecks(t, checks)
	rapid.Check(t, func(rt *rapid.T) {
		f := openRapid(rt, t, c)
		defer f.x.Close()
		batches := Batches(f.s)
		queries := Queries(f.s)
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			f.random(rt, batches)
			for range rapid.IntRange(1, 4).Draw(rt, "questions") {
				f.compare(rt, queries.Draw(rt, "query"))
			}
		}
	})
}

// quiet makes an index for one history; it is closed at the end of it, not of the test.
func openRapid(rt *rapid.T, t testing.TB, c Config) *fixture {
	s := Schemas().Draw(rt, "schema")
	return openQuiet(rt, t, c, s)
}

func (f *fixture) random(rt *rapid.T, batches *rapid.Generator[facet.Batch]) {
	b := batches.Draw(rt, "batch")
	f.n += facet.Seq(rapid.IntRange(1, 3).Draw(rt, "gap"))
	b.Seq = f.n
	for _, x := range []facet.Index{f.m, f.x} {
		for range rapid.SampledFrom([]int{1, 1, 2}).Draw(rt, "times") {
			if got, err := x.Apply(context.Background(), b); err != nil || got != b.Seq {
				rt.Fatalf("apply %d: %d, %v", b.Seq, got, err)
			}
		}
	}
}

func (f *fixture) compare(rt *rapid.T, q facet.Query) facet.Result {
	want, err := f.m.Search(context.Background(), q)
	if err != nil {
		rt.Fatalf("the definition refuses the query: %v", err)
	}
	got, err := f.x.Search(context.Background(), q)
	if err != nil {
		rt.Fatalf("search: %v", err)
	}
	if d := Diff(want, got); d != "" {
		rt.Fatalf("answered otherwise than it is defined (-want +got):\n%s", d)
	}
	return got
}

// testWalks walks through all pages of random orders, forwards and backwards: each document
// comes exactly once, in order, and a page is the same from both sides.
func testWalks(t *testing.T, c Config) {
	checks := c.Checks
	if checks == 0 {
		checks = 40
	}
	setChecks(t, max(checks/2, 5))
	rapid.Check(t, func(rt *rapid.T) {
		f := openRapid(rt, t, c)
		defer f.x.Close()
		for range rapid.IntRange(1, 3).Draw(rt, "steps") {
			f.random(rt, Batches(f.s))
		}
		q := facet.Query{Filters: filters(rt, f.s, 1), Sort: sortBy(rt, f.s), Size: rapid.IntRange(1, 16).Draw(rt, "page"), Fields: []string{}}
		var pages []facet.Result
		var keys []facet.Key
		for {
			r, err := f.x.Search(context.Background(), q)
			if err != nil {
				rt.Fatal(err)
			}
			pages = append(pages, r)
			for _, h := range r.Hits {
				keys = append(keys, h.Key)
			}
			if !r.More {
				break
			}
			if len(r.Hits) != q.Size {
				rt.Fatalf("a page of %d hits and more", len(r.Hits))
			}
			q.After = r.Last
		}
		if len(keys) != pages[0].Total {
			rt.Fatalf("%d hits of %d", len(keys), pages[0].Total)
		}
		if !slices.IsSortedFunc(keys, func(a, b facet.Key) int {
			if c := q.Sort.Compare(a, b); c != 0 {
				return c
			}
			return 1 // the same document twice
		}) {
			rt.Fatalf("out of order: %v", keys)
		}
		q.After = nil
		for i := len(pages) - 1; i > 0; i-- {
			if q.Before = pages[i].First; q.Before == nil {
				continue
			}
			r, err := f.x.Search(context.Background(), q)
			if err != nil {
				rt.Fatal(err)
			}
			want := pages[i-1]
			want.More = i > 1
			if d := Diff(want, r); d != "" {
				rt.Fatalf("page %d from behind:\n%s", i-1, d)
			}
		}
	})
}

// testReopen closes the index between batches.
func testReopen(t *testing.T, c Config) {
	if c.Reopen == nil {
		if c.New(t, files).Caps().Durable {
			t.Fatal("a durable index is tested with Config.Reopen")
		}
		return
	}
	checks := c.Checks
	if checks == 0 {
		checks = 20
	}
	setChecks(t, max(checks/2, 5))
	rapid.Check(t, func(rt *rapid.T) {
		f := openRapid(rt, t, c)
		defer func() { f.x.Close() }()
		for range rapid.IntRange(1, 4).Draw(rt, "steps") {
			f.random(rt, Batches(f.s))
			f.x = c.Reopen(t, f.x)
			if seq, err := f.x.Applied(context.Background()); err != nil || seq != f.n {
				rt.Fatalf("applied %d, %v, want %d", seq, err, f.n)
			}
			f.compare(rt, Queries(f.s).Draw(rt, "query"))
		}
	})
}
