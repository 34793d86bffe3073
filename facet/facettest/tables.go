package facettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill/facet"
)

// files is a small catalog in which all kinds occur.
var files = facet.Schema{Fields: []facet.Field{
	{Name: "format", Kind: facet.KindKeyword},
	{Name: "organ", Kind: facet.KindKeyword, Multi: true},
	{Name: "name", Kind: facet.KindKeyword, Words: true},
	{Name: "size", Kind: facet.KindInt},
	{Name: "cells", Kind: facet.KindInt, Multi: true},
	{Name: "score", Kind: facet.KindNumber},
	{Name: "paired", Kind: facet.KindBool},
	{Name: "made", Kind: facet.KindDate},
	{Name: "age", Kind: facet.KindRange, Multi: true},
	{Name: "accession", Kind: facet.KindObject, Multi: true, Props: []string{"accession", "namespace"}},
	{Name: "project", Kind: facet.KindKeyword},
	{Name: "source", Kind: facet.KindKeyword},
}}

func day(n int) facet.Value {
	return facet.Date(time.Date(2024, 1, n, 0, 0, 0, 0, time.UTC))
}

func accession(ns, acc string) facet.Value {
	props := map[string]string{}
	if ns != "" {
		props["namespace"] = ns
	}
	if acc != "" {
		props["accession"] = acc
	}
	return facet.Object(props)
}

func fill(t testing.TB, c Config) *fixture {
	t.Helper()
	f := open(t, c, files)
	f.put(
		doc("a", map[string][]facet.Value{"format": keywords("fastq"), "organ": keywords("brain", "heart"), "name": keywords("Brain_R1.fastq.gz"), "size": {facet.Int(10)}, "cells": {facet.Int(3), facet.Int(1)}, "score": {facet.Number(0.5)},
			"paired": {facet.Bool(true)}, "made": {day(1)}, "age": {facet.Between(10, 20)}, "accession": {accession("geo", "GSE1"), accession("array", "E2")}, "project": keywords("p1"), "source": keywords("s1")}),
		doc("b", map[string][]facet.Value{"format": keywords("fastq"), "organ": keywords("heart", "-"), "name": keywords("brain r2.fastq"), "size": {facet.Int(20)}, "cells": {facet.Int(2)}, "score": {facet.Number(-1)},
			"paired": {facet.Bool(false)}, "made": {day(2)}, "age": {facet.Between(15, math.Inf(1))}, "accession": {accession("geo", "E2")}, "project": keywords("p1"), "source": keywords("s1")}),
	)
	f.put(
		doc("c", map[string][]facet.Value{"format": keywords("bam"), "organ": keywords("-"), "name": keywords("Straße ÅNGSTRÖM.bam"), "size": {facet.Int(30)}, "score": {facet.Number(2)},
			"paired": {facet.Null()}, "made": {day(3)}, "age": {facet.Between(30, 30), facet.Between(1, 2)}, "accession": {accession("geo", "")}, "project": keywords("p2"), "source": keywords("s2")}),
		doc("d", map[string][]facet.Value{"organ": keywords("liver"), "size": {facet.Int(-5)}, "project": keywords("p2"), "source": keywords("s2")}),
		doc("e", nil),
	)
	return f
}

func testEmpty(t *testing.T, c Config) {
	f := open(t, c, files)
	r := f.search(facet.Query{Size: 10, Facets: []facet.FacetReq{{Field: "format"}, {Field: "organ", Size: 3}}, Aggs: []facet.Agg{{Name: "n", Op: facet.OpCount}, {Name: "s", Op: facet.OpSum, Field: "size"}}})
	if r.Total != 0 || len(r.Hits) != 0 || r.First != nil || r.More || len(r.Facets) != 2 || r.Facets[0].Total != 0 || len(r.Facets[0].Terms) != 0 {
		t.Errorf("an empty index answered %+v", r)
	}
	if r.Aggs["n"] != facet.Int(0) || !r.Aggs["s"].IsNull() {
		t.Errorf("sums over nothing are %v", r.Aggs)
	}
	if seq, err := f.x.Applied(context.Background()); seq != 0 || err != nil {
		t.Errorf("applied %d, %v", seq, err)
	}
	if !f.x.Schema().Equal(files) {
		t.Errorf("schema is %+v", f.x.Schema())
	}
	f.put() // a batch with nothing in it moves the sequence on
	if seq, err := f.x.Applied(context.Background()); seq != 1 || err != nil {
		t.Errorf("applied %d, %v", seq, err)
	}
}

func testIs(t *testing.T, c Config) {
	f := fill(t, c)
	is := func(v ...facet.Value) facet.Filter { return facet.Filter{Is: v} }
	not := func(v ...facet.Value) facet.Filter { return facet.Filter{IsNot: v} }
	f.wantIDs(one("format", is(keywords("fastq")...)), "a", "b")
	f.wantIDs(one("format", is(keywords("fastq", "bam", "none")...)), "a", "b", "c")
	f.wantIDs(one("format", is(keywords("-")...)), "d", "e")
	f.wantIDs(one("format", is(keywords("-", "bam")...)), "c", "d", "e")
	f.wantIDs(one("format", facet.Filter{Is: []facet.Value{}}))
	f.wantIDs(one("format", facet.Filter{}), "a", "b", "c", "d", "e")
	f.wantIDs(one("organ", is(keywords("heart")...)), "a", "b")
	f.wantIDs(one("organ", is(keywords("-")...)), "b", "c", "e") // null beside a value counts
	f.wantIDs(one("organ", not(keywords("-")...)), "a", "d")
	f.wantIDs(one("organ", not(keywords("heart")...)), "c", "d", "e")
	f.wantIDs(one("organ", facet.Filter{Is: keywords("heart"), IsNot: keywords("brain")}), "b")
	f.wantIDs(one("format", not(keywords("fastq", "-")...)), "c")
	f.wantIDs(one("size", is(facet.Int(20), facet.Int(-5))), "b", "d")
	f.wantIDs(one("score", is(facet.Int(2), facet.Number(0.5))), "a", "c") // an integer is a number
	f.wantIDs(one("paired", is(facet.Bool(false))), "b")
	f.wantIDs(one("paired", is(facet.Null(), facet.Bool(true))), "a", "c", "d", "e")
	f.wantIDs(one("made", is(day(2))), "b")
	f.wantIDs(one("age", is(facet.Between(10, 20))), "a")
	f.wantIDs(one("age", is(facet.Null())), "d", "e")
	f.wantIDs(facet.Query{Filters: map[string]facet.Filter{"organ": is(keywords("heart")...), "size": is(facet.Int(20))}}, "b")
}

func testSpans(t *testing.T, c Config) {
	f := fill(t, c)
	n := func(lo, hi float64) facet.Span { return facet.Span{Lo: facet.Number(lo), Hi: facet.Number(hi)} }
	i := func(lo, hi int64) facet.Span { return facet.Span{Lo: facet.Int(lo), Hi: facet.Int(hi)} }
	open := facet.Span{}
	// a: [10,20]   b: [15,∞]   c: [30,30] and [1,2]
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{n(10, 20)}}), "a")
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{n(11, 20)}}))
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{n(0, 50)}}), "a", "c")
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{open}}), "a", "b", "c")
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{{Lo: facet.Int(15)}}}), "b", "c")
	f.wantIDs(one("age", facet.Filter{Within: []facet.Span{n(0, 5), n(25, 35)}}), "c") // each by another value
	f.wantIDs(one("age", facet.Filter{Contains: []facet.Span{n(16, 17)}}), "a", "b")
	f.wantIDs(one("age", facet.Filter{Contains: []facet.Span{n(16, 17), n(100, 200)}}), "b")
	f.wantIDs(one("age", facet.Filter{Contains: []facet.Span{n(30, 30)}}), "b", "c")
	f.wantIDs(one("age", facet.Filter{Contains: []facet.Span{{Lo: facet.Number(15)}}}), "b")
	f.wantIDs(one("age", facet.Filter{Contains: []facet.Span{open}}))
	f.wantIDs(one("age", facet.Filter{Intersects: []facet.Span{n(20, 29)}}), "a", "b")
	f.wantIDs(one("age", facet.Filter{Intersects: []facet.Span{n(2, 9.5)}}), "c")
	f.wantIDs(one("age", facet.Filter{Intersects: []facet.Span{{Hi: facet.Number(10)}}}), "a", "c")
	f.wantIDs(one("size", facet.Filter{Within: []facet.Span{i(10, 20)}}), "a", "b")
	f.wantIDs(one("size", facet.Filter{Within: []facet.Span{{Hi: facet.Int(10)}}}), "a", "d")
	f.wantIDs(one("size", facet.Filter{Within: []facet.Span{{Lo: facet.Int(11)}}}), "b", "c")
	f.wantIDs(one("size", facet.Filter{Within: []facet.Span{open}}), "a", "b", "c", "d")
	f.wantIDs(one("size", facet.Filter{Intersects: []facet.Span{i(20, 40)}}), "b", "c")
	f.wantIDs(one("size", facet.Filter{Contains: []facet.Span{i(20, 20)}}), "b")
	f.wantIDs(one("size", facet.Filter{Contains: []facet.Span{i(20, 21)}}))
	f.wantIDs(one("size", facet.Filter{Contains: []facet.Span{open}}))
	f.wantIDs(one("cells", facet.Filter{Within: []facet.Span{i(1, 1), i(3, 3)}}), "a")
	f.wantIDs(one("score", facet.Filter{Within: []facet.Span{n(-1, 0.5)}}), "a", "b")
	f.wantIDs(one("made", facet.Filter{Within: []facet.Span{{Lo: day(2), Hi: day(9)}}}), "b", "c")
	f.wantIDs(one("made", facet.Filter{Within: []facet.Span{{Lo: day(2)}}, IsNot: []facet.Value{day(3)}}), "b")
}

func testPrefix(t *testing.T, c Config) {
	f := fill(t, c)
	p := func(s ...string) facet.Filter { return facet.Filter{Prefix: s} }
	f.wantIDs(one("format", p("fa")), "a", "b")
	f.wantIDs(one("format", p("Fa")))
	f.wantIDs(one("format", p("ba", "fastq")), "a", "b", "c")
	f.wantIDs(one("format", p("fastqq")))
	f.wantIDs(one("format", p("")), "a", "b", "c")
	f.wantIDs(one("organ", p("he")), "a", "b")
	f.wantIDs(one("name", p("bra")), "a", "b")
	f.wantIDs(one("name", p("BRA")), "a", "b")
	f.wantIDs(one("name", p("r2")), "b")
	f.wantIDs(one("name", p("r1 bra")), "a")
	f.wantIDs(one("name", p("ain")))
	f.wantIDs(one("name", p("r1", "straß")), "a", "c")
	f.wantIDs(one("name", p("ångs")), "c")
	f.wantIDs(one("name", p("...")), "a", "b", "c")
	f.wantIDs(one("name", p("r1 r2")))
}

func testObjects(t *testing.T, c Config) {
	f := fill(t, c)
	is := func(v ...facet.Value) facet.Filter { return facet.Filter{Is: v} }
	f.wantIDs(one("accession", is(accession("geo", ""))), "a", "b", "c")
	f.wantIDs(one("accession", is(accession("", "E2"))), "a", "b")
	f.wantIDs(one("accession", is(accession("geo", "E2"))), "b") // of one object, not of two
	f.wantIDs(one("accession", is(accession("geo", "GSE1"), accession("array", ""))), "a")
	f.wantIDs(one("accession", is(facet.Null())), "d", "e")
	f.wantIDs(one("accession", is(facet.Null(), accession("", "GSE1"))), "a", "d", "e")
	f.wantIDs(one("accession", facet.Filter{IsNot: []facet.Value{accession("geo", "E2")}}), "a", "c", "d", "e")
	r := f.search(facet.Query{Facets: []facet.FacetReq{{Field: "accession"}}})
	if n := r.Facets[0].Distinct; n != 4 {
		t.Errorf("%d different objects, want 4", n)
	}
}

func testIDs(t *testing.T, c Config) {
	f := fill(t, c)
	f.wantIDs(one(facet.IDField, facet.Filter{Is: keywords("b", "x", "d")}), "b", "d")
	f.wantIDs(one(facet.IDField, facet.Filter{Is: keywords("-")}))
	f.wantIDs(one(facet.IDField, facet.Filter{IsNot: keywords("b", "x", "-")}), "a", "c", "d", "e")
	f.wantIDs(one(facet.IDField, facet.Filter{Prefix: []string{"c", "e"}}), "c", "e")
	f.wantIDs(facet.Query{Sort: facet.Sort{Field: facet.IDField, Desc: true}}, "e", "d", "c", "b", "a")
}

func testFacets(t *testing.T, c Config) {
	f := fill(t, c)
	check := func(q facet.Query, want ...string) {
		t.Helper()
		r := f.search(q)
		for i, w := range want {
			if got := terms(r.Facets[i]); got != w {
				t.Errorf("facet %s is %s, want %s", r.Facets[i].Name, got, w)
			}
		}
	}
	all := []facet.FacetReq{{Field: "format"}, {Field: "organ"}, {Field: "paired"}, {Field: "size"}, {Field: "made", Size: 1}}
	check(facet.Query{Facets: all}, "fastq:2 bam:1 -:2 /5", "heart:2 brain:1 liver:1 -:3 /5", "false:1 true:1 -:3 /5", "-5:1 10:1 20:1 30:1 -:1 /5", "2024-01-01T00:00:00Z:1 -:2 /5")
	// A facet leaves out the filter on its own field, and no other.
	q := facet.Query{Facets: all[:3], Filters: map[string]facet.Filter{"organ": {Is: keywords("heart")}, "format": {Is: keywords("fastq")}}}
	check(q, "fastq:2 /2", "heart:2 brain:1 -:1 /2", "false:1 true:1 /2")
	q.Filters["organ"] = facet.Filter{Is: keywords("liver")}
	check(q, "-:1 /1", "heart:2 brain:1 -:1 /2", "/0")
	// Twice with different scopes, under names of their own.
	q.Facets = []facet.FacetReq{{Name: "mine", Field: "organ", Filtered: true}, {Field: "organ", Size: 1}}
	check(q, "/0", "heart:2 -:1 /2")
	r := f.search(facet.Query{Facets: []facet.FacetReq{{Field: "organ", Size: 2}}})
	if x := r.Facets[0]; x.Distinct != 3 || len(x.Terms) != 2 || x.Terms[1].Value != facet.String("brain") {
		t.Errorf("top 2 of 3 is %+v", x)
	}
}

func testFacetInvariant(t *testing.T, c Config) {
	f := fill(t, c)
	base := map[string]facet.Filter{"size": {Within: []facet.Span{{Lo: facet.Int(-5), Hi: facet.Int(20)}}}}
	for _, field := range files.Fields {
		if !field.Facetable() || field.Name == "size" {
			continue
		}
		q := facet.Query{Filters: base, Facets: []facet.FacetReq{{Field: field.Name}}}
		x := f.search(q).Facets[0]
		x.Terms = append(x.Terms, facet.Term{Value: facet.Null(), Count: x.Missing})
		for _, term := range x.Terms {
			q := facet.Query{Filters: map[string]facet.Filter{"size": base["size"], field.Name: {Is: []facet.Value{term.Value}}}}
			total := f.search(q).Total
			if field.Kind == facet.KindObject && !term.Value.IsNull() {
				if total < term.Count {
					t.Errorf("%s %v: count %d, but the filter finds %d", field.Name, term.Value, term.Count, total)
				}
				continue
			}
			if total != term.Count {
				t.Errorf("%s %v: count %d, but the filter finds %d", field.Name, term.Value, term.Count, total)
			}
		}
	}
}

func testAccess(t *testing.T, c Config) {
	f := fill(t, c)
	q := facet.Query{
		Access:  map[string]facet.Filter{"source": {Is: keywords("s1")}},
		Filters: map[string]facet.Filter{"source": {Is: keywords("s1", "s2")}, "size": {Within: []facet.Span{{Hi: facet.Int(15)}}}},
		Facets:  []facet.FacetReq{{Field: "source"}, {Name: "there", Field: "source", NoAccess: true}, {Field: "format"}},
		Aggs:    []facet.Agg{{Name: "n", Op: facet.OpCount}},
		Size:    10,
	}
	r := f.search(q)
	if len(r.Hits) != 1 || r.Hits[0].ID != "a" || r.Aggs["n"] != facet.Int(1) {
		t.Errorf("access let %d through, counted %v", len(r.Hits), r.Aggs["n"])
	}
	for i, want := range []string{"s1:1 /1", "s1:1 s2:1 /2", "fastq:1 /1"} {
		if got := terms(r.Facets[i]); got != want {
			t.Errorf("facet %s is %s, want %s", r.Facets[i].Name, got, want)
		}
	}
	q.Access = map[string]facet.Filter{"source": {Is: []facet.Value{}}}
	if r := f.search(q); r.Total != 0 || len(r.Facets[0].Terms) != 0 || r.Facets[1].Total != 2 {
		t.Errorf("access to nothing gave %+v", r)
	}
}

func testSub(t *testing.T, c Config) {
	f := fill(t, c)
	r := f.search(facet.Query{Facets: []facet.FacetReq{
		{Field: "format", Sub: []facet.Sub{{Sum: "size"}, {Terms: "project"}, {Sum: "cells"}, {Terms: "organ", Size: 1}, {Sum: "score"}}},
		{Field: "organ", Size: 1, Sub: []facet.Sub{{Sum: "size"}}},
		{Field: "project", Sub: []facet.Sub{{Terms: "project"}}},
	}})
	fastq := r.Facets[0].Terms[0]
	if fastq.Sub[0].Sum != facet.Int(30) || len(fastq.Sub[1].Terms) != 1 || fastq.Sub[1].Terms[0].Count != 2 || fastq.Sub[2].Sum != facet.Int(6) {
		t.Errorf("below fastq: %+v", fastq.Sub)
	}
	missing := r.Facets[0].MissingSub
	if missing[0].Sum != facet.Int(-5) || missing[1].Missing != 1 || len(missing[1].Terms) != 1 || !missing[2].Sum.IsNull() {
		t.Errorf("below no format: %+v", missing)
	}
	// Sums keep what does not fit into 64 bits.
	big := open(t, c, facet.Schema{Fields: []facet.Field{{Name: "k", Kind: facet.KindKeyword}, {Name: "n", Kind: facet.KindInt}}})
	var docs []facet.Doc
	for i := range 4 {
		docs = append(docs, doc(fmt.Sprint(i), map[string][]facet.Value{"k": keywords(fmt.Sprint(i / 3)), "n": {facet.Int(math.MaxInt64 - int64(i))}}))
	}
	docs = append(docs, doc("x", map[string][]facet.Value{"k": keywords("2"), "n": {facet.Int(math.MinInt64)}}))
	big.put(docs...)
	sums := big.search(facet.Query{Aggs: []facet.Agg{{Name: "n", Op: facet.OpSum, Field: "n"}}, Facets: []facet.FacetReq{{Field: "k", Sub: []facet.Sub{{Sum: "n"}}}}})
	if got := sums.Facets[0].Terms[1].Sub[0].Sum; got != facet.Int(math.MaxInt64-3) {
		t.Errorf("sum of one is %v", got)
	}
	if got := sums.Facets[0].Terms[0].Sub[0].Sum; got.Kind() != facet.KindNumber || got.Float64() != 3*math.Pow(2, 63) {
		t.Errorf("three times the greatest is %v", got)
	}
}

func testAggs(t *testing.T, c Config) {
	f := fill(t, c)
	r := f.search(facet.Query{
		Filters: map[string]facet.Filter{"size": {Within: []facet.Span{{}}}},
		Facets:  []facet.FacetReq{{Field: "size"}},
		Aggs: []facet.Agg{
			{Name: "files", Op: facet.OpCount},
			{Name: "bytes", Op: facet.OpSum, Field: "size"},
			{Name: "cells", Op: facet.OpSum, Field: "cells"},
			{Name: "score", Op: facet.OpSum, Field: "score"},
			{Name: "organs", Op: facet.OpCardinality, Field: "organ"},
			{Name: "sizes", Op: facet.OpCardinality, Field: "size"},
			{Name: "fastq bytes", Op: facet.OpSum, Field: "size", Where: map[string]facet.Filter{"format": {Is: keywords("fastq")}}},
			{Name: "big", Op: facet.OpCount, Where: map[string]facet.Filter{"size": {Within: []facet.Span{{Lo: facet.Int(15)}}}}},
			{Name: "none", Op: facet.OpSum, Field: "size", Where: map[string]facet.Filter{"format": {Is: keywords("zip")}}},
		},
	})
	want := map[string]facet.Value{"files": facet.Int(4), "bytes": facet.Int(55), "cells": facet.Int(6), "score": facet.Number(1.5), "organs": facet.Int(3), "sizes": facet.Int(4),
		"fastq bytes": facet.Int(30), "big": facet.Int(2), "none": facet.Null()}
	for name, w := range want {
		if r.Aggs[name] != w {
			t.Errorf("%s is %v, want %v", name, r.Aggs[name], w)
		}
	}
}

func testSort(t *testing.T, c Config) {
	f := fill(t, c)
	by := func(field string, desc bool, nulls facet.Nulls) facet.Query {
		return facet.Query{Sort: facet.Sort{Field: field, Desc: desc, Nulls: nulls}}
	}
	f.wantIDs(by("size", false, 0), "d", "a", "b", "c", "e")
	f.wantIDs(by("size", true, 0), "e", "c", "b", "a", "d")
	f.wantIDs(by("size", false, facet.NullsFirst), "e", "d", "a", "b", "c")
	f.wantIDs(by("size", true, facet.NullsLast), "c", "b", "a", "d", "e")
	f.wantIDs(by("format", false, 0), "c", "a", "b", "d", "e")
	f.wantIDs(by("format", true, 0), "e", "d", "b", "a", "c")
	f.wantIDs(by("organ", false, 0), "a", "b", "d", "c", "e") // by brain, heart, liver
	f.wantIDs(by("organ", true, 0), "e", "c", "d", "b", "a")
	f.wantIDs(by("cells", true, facet.NullsLast), "b", "a", "e", "d", "c") // least value in both directions
	f.wantIDs(by("paired", false, 0), "b", "a", "c", "d", "e")
	f.wantIDs(by("score", false, 0), "b", "a", "c", "d", "e")
	f.wantIDs(by("", true, 0), "e", "d", "c", "b", "a")
	for _, field := range files.Fields {
		if field.Sortable() {
			for _, desc := range []bool{false, true} {
				f.search(facet.Query{Size: 3, Sort: facet.Sort{Field: field.Name, Desc: desc}})
			}
		}
	}
}

func testPaging(t *testing.T, c Config) {
	f := fill(t, c)
	q := facet.Query{Size: 2, Sort: facet.Sort{Field: "format"}}
	page1 := f.search(q)
	if !page1.More || *page1.Last != (facet.Key{Value: facet.String("fastq"), ID: "a"}) {
		t.Fatalf("first page ends at %v, more %v", page1.Last, page1.More)
	}
	q.After = page1.Last
	page2 := f.search(q)
	q.After = page2.Last
	page3 := f.search(q)
	if !page2.More || page3.More || len(page3.Hits) != 1 || !page3.Hits[0].Key.Value.IsNull() {
		t.Fatalf("pages: %+v %+v", page2, page3)
	}
	q.After, q.Before = nil, page3.First
	back := f.search(q)
	if d := Diff(page2, back); d != "" {
		t.Errorf("the page before the last is not the one that led there:\n%s", d)
	}
	q.Before = page1.First
	if r := f.search(q); len(r.Hits) != 0 || r.More {
		t.Errorf("before the first page: %+v", r)
	}
	// A key need not be that of a document.
	q.Before, q.After = nil, &facet.Key{Value: facet.String("c"), ID: "zzz"}
	if r := f.search(q); r.Hits[0].ID != "a" {
		t.Errorf("behind c: %+v", r.Hits)
	}
	// Keys survive being written down.
	text, err := page2.Last.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := files.ParseKey(q.Sort, text); err != nil || k != *page2.Last {
		t.Errorf("%s is read as %v, %v", text, k, err)
	}
}

func testHits(t *testing.T, c Config) {
	f := fill(t, c)
	h := f.search(facet.Query{Size: 1}).Hits[0]
	if h.ID != "a" || h.Version != 1 || string(h.Source) != `{"id":"a"}` || h.Fields != nil {
		t.Errorf("hit %+v", h)
	}
	hits := f.search(facet.Query{Size: 2, Fields: []string{"organ", "cells", "age", "accession", "made", "paired", "score"}}).Hits
	if hits[0].Source != nil || !slices.Equal(hits[0].Fields["cells"], []facet.Value{facet.Int(1), facet.Int(3)}) {
		t.Errorf("chosen fields: %+v", hits[0])
	}
	if got := hits[1].Fields["organ"]; !slices.Equal(got, keywords("heart")) {
		t.Errorf("null beside a value is returned: %v", got)
	}
	if h := f.search(facet.Query{Size: 1, Fields: []string{}}).Hits[0]; h.Source != nil || len(h.Fields) != 0 {
		t.Errorf("no fields: %+v", h)
	}
}

func testBatches(t *testing.T, c Config) {
	f := fill(t, c)
	f.apply(facet.Batch{Put: []facet.Doc{doc("a", map[string][]facet.Value{"format": keywords("zip")}), doc("x", nil), doc("x", map[string][]facet.Value{"format": keywords("tar")})}, Del: []string{"b", "nobody", "x"}})
	f.wantIDs(one("format", facet.Filter{Is: keywords("fastq")}))
	f.wantIDs(one("format", facet.Filter{Is: keywords("zip", "tar")}), "a", "x")
	f.apply(facet.Batch{Del: []string{"a", "a"}})
	f.apply(facet.Batch{Seq: 1000, Put: []facet.Doc{doc("b", nil)}})
	f.wantIDs(facet.Query{}, "b", "c", "d", "e", "x")
	f.apply(facet.Batch{Del: []string{"b", "c", "d", "e", "x"}})
	f.wantIDs(facet.Query{})
	f.search(facet.Query{Facets: []facet.FacetReq{{Field: "format"}, {Field: "organ"}}})
	// One bad document refuses the batch, and nothing of it is there.
	_, err := f.x.Apply(context.Background(), facet.Batch{Seq: 2000, Put: []facet.Doc{doc("y", nil), doc("z", map[string][]facet.Value{"nope": keywords("1")})}})
	var e *facet.Error
	if !errors.Is(err, facet.ErrUnknownField) || !errors.As(err, &e) || e.Doc != "z" || e.Field != "nope" {
		t.Errorf("unknown field: %v", err)
	}
	f.wantIDs(facet.Query{})
	if seq, _ := f.x.Applied(context.Background()); seq != 1001 {
		t.Errorf("a refused batch moved the sequence to %d", seq)
	}
}

func testReplay(t *testing.T, c Config) {
	f := fill(t, c)
	for _, seq := range []facet.Seq{1, 2} {
		got, err := f.x.Apply(context.Background(), facet.Batch{Seq: seq, Put: []facet.Doc{doc("z", nil)}, Del: []string{"a"}})
		if err != nil || got != 2 {
			t.Errorf("repeating %d: %d, %v", seq, got, err)
		}
	}
	f.wantIDs(facet.Query{}, "a", "b", "c", "d", "e")
}

func testErrors(t *testing.T, c Config) {
	f := fill(t, c)
	limits := f.x.Caps().Limits
	many := make([]facet.Value, limits.FilterValues+1)
	for i := range many {
		many[i] = facet.Int(int64(i))
	}
	facets := make([]facet.FacetReq, limits.Facets+1)
	for i := range facets {
		facets[i] = facet.FacetReq{Name: fmt.Sprint(i), Field: "format"}
	}
	long := strings.Repeat("x", limits.Keyword+1)
	key := &facet.Key{ID: "a"}
	for _, test := range []struct {
		name  string
		q     facet.Query
		kind  error
		field string
	}{
		{"filter on nothing known", one("nope", facet.Filter{}), facet.ErrUnknownField, "nope"},
		{"access on nothing known", facet.Query{Access: map[string]facet.Filter{"nope": {}}}, facet.ErrUnknownField, "nope"},
		{"facet of nothing known", facet.Query{Facets: []facet.FacetReq{{Field: "nope"}}}, facet.ErrUnknownField, "nope"},
		{"sort by nothing known", facet.Query{Sort: facet.Sort{Field: "nope"}}, facet.ErrUnknownField, "nope"},
		{"choose nothing known", facet.Query{Fields: []string{"nope"}}, facet.ErrUnknownField, "nope"},
		{"sum of nothing known", facet.Query{Aggs: []facet.Agg{{Name: "x", Op: facet.OpSum, Field: "nope"}}}, facet.ErrUnknownField, "nope"},
		{"sub of nothing known", facet.Query{Facets: []facet.FacetReq{{Field: "format", Sub: []facet.Sub{{Sum: "nope"}}}}}, facet.ErrUnknownField, "nope"},
		{"number for a keyword", one("format", facet.Filter{Is: []facet.Value{facet.Int(1)}}), facet.ErrWrongKind, "format"},
		{"number for an integer", one("size", facet.Filter{IsNot: []facet.Value{facet.Number(1)}}), facet.ErrWrongKind, "size"},
		{"span on a keyword", one("format", facet.Filter{Within: []facet.Span{{}}}), facet.ErrWrongKind, "format"},
		{"span on objects", one("accession", facet.Filter{Contains: []facet.Span{{}}}), facet.ErrWrongKind, "accession"},
		{"span of dates on integers", one("size", facet.Filter{Intersects: []facet.Span{{Lo: day(1)}}}), facet.ErrWrongKind, "size"},
		{"prefix of a number", one("size", facet.Filter{Prefix: []string{"1"}}), facet.ErrWrongKind, "size"},
		{"facet of ranges", facet.Query{Facets: []facet.FacetReq{{Field: "age"}}}, facet.ErrWrongKind, "age"},
		{"sort by ranges", facet.Query{Sort: facet.Sort{Field: "age"}}, facet.ErrWrongKind, "age"},
		{"sum of keywords", facet.Query{Aggs: []facet.Agg{{Name: "x", Op: facet.OpSum, Field: "format"}}}, facet.ErrWrongKind, "format"},
		{"facet of ids", facet.Query{Facets: []facet.FacetReq{{Field: facet.IDField}}}, facet.ErrUnknownField, facet.IDField},
		{"key of another kind", facet.Query{Size: 1, Sort: facet.Sort{Field: "size"}, After: &facet.Key{Value: facet.String("x"), ID: "a"}}, facet.ErrWrongKind, "size"},
		{"empty span", one("size", facet.Filter{Within: []facet.Span{{Lo: facet.Int(2), Hi: facet.Int(1)}}}), facet.ErrBadQuery, "size"},
		{"NaN", one("score", facet.Filter{Is: []facet.Value{facet.Number(math.NaN())}}), facet.ErrBadValue, "score"},
		{"reversed range", one("age", facet.Filter{Is: []facet.Value{facet.Between(2, 1)}}), facet.ErrBadValue, "age"},
		{"unknown property", one("accession", facet.Filter{Is: []facet.Value{facet.Object(map[string]string{"x": "y"})}}), facet.ErrBadValue, "accession"},
		{"no property", one("accession", facet.Filter{Is: []facet.Value{facet.Object(nil)}}), facet.ErrBadValue, "accession"},
		{"long keyword", one("format", facet.Filter{Is: keywords(long)}), facet.ErrBadValue, "format"},
		{"no UTF-8", one("format", facet.Filter{Prefix: []string{"\xff"}}), facet.ErrBadValue, "format"},
		{"too many values", one("size", facet.Filter{Is: many}), facet.ErrTooMany, ""},
		{"too many facets", facet.Query{Facets: facets}, facet.ErrTooMany, ""},
		{"two facets of a name", facet.Query{Facets: facets[:1:1], Aggs: nil, Fields: nil, Size: -1}, facet.ErrBadQuery, ""},
		{"same name twice", facet.Query{Facets: []facet.FacetReq{{Field: "format"}, {Field: "format"}}}, facet.ErrBadQuery, "format"},
		{"aggregation without name", facet.Query{Aggs: []facet.Agg{{Op: facet.OpCount}}}, facet.ErrBadQuery, ""},
		{"unknown aggregation", facet.Query{Aggs: []facet.Agg{{Name: "x", Op: "median", Field: "size"}}}, facet.ErrBadQuery, "x"},
		{"two keys", facet.Query{After: key, Before: key}, facet.ErrBadQuery, ""},
		{"sub without field", facet.Query{Facets: []facet.FacetReq{{Field: "format", Sub: []facet.Sub{{}}}}}, facet.ErrBadQuery, "format"},
		{"large page", facet.Query{Size: limits.Page + 1}, facet.ErrPageTooLarge, ""},
	} {
		_, err := f.x.Search(context.Background(), test.q)
		var e *facet.Error
		if !errors.Is(err, test.kind) || !errors.As(err, &e) || e.Field != test.field {
			t.Errorf("%s: %v, want %v about %q", test.name, err, test.kind, test.field)
		}
		if _, err := f.x.Explain(context.Background(), test.q); !errors.Is(err, test.kind) {
			t.Errorf("explaining %s: %v", test.name, err)
		}
	}
	for _, test := range []struct {
		name string
		b    facet.Batch
		kind error
	}{
		{"no sequence", facet.Batch{}, facet.ErrBadValue},
		{"no id", facet.Batch{Seq: 9, Put: []facet.Doc{{}}}, facet.ErrBadValue},
		{"delete no id", facet.Batch{Seq: 9, Del: []string{""}}, facet.ErrBadValue},
		{"long id", facet.Batch{Seq: 9, Del: []string{strings.Repeat("x", limits.ID+1)}}, facet.ErrBadValue},
		{"id with NUL", facet.Batch{Seq: 9, Del: []string{"a\x00"}}, facet.ErrBadValue},
		{"two values", facet.Batch{Seq: 9, Put: []facet.Doc{doc("z", map[string][]facet.Value{"format": keywords("a", "b")})}}, facet.ErrTooMany},
		{"wrong kind", facet.Batch{Seq: 9, Put: []facet.Doc{doc("z", map[string][]facet.Value{"size": keywords("a")})}}, facet.ErrWrongKind},
		{"long value", facet.Batch{Seq: 9, Put: []facet.Doc{doc("z", map[string][]facet.Value{"format": keywords(long)})}}, facet.ErrBadValue},
		{"date out of reach", facet.Batch{Seq: 9, Put: []facet.Doc{doc("z", map[string][]facet.Value{"made": {facet.DateMicros(math.MaxInt64)}})}}, facet.ErrBadValue},
		{"property with a separator", facet.Batch{Seq: 9, Put: []facet.Doc{doc("z", map[string][]facet.Value{"accession": {accession("a\x1eb", "c")}})}}, facet.ErrBadValue},
		{"many documents", facet.Batch{Seq: 9, Del: slices.Repeat([]string{"a"}, limits.Batch+1)}, facet.ErrTooMany},
	} {
		if _, err := f.x.Apply(context.Background(), test.b); !errors.Is(err, test.kind) {
			t.Errorf("%s: %v, want %v", test.name, err, test.kind)
		}
	}
	f.wantIDs(facet.Query{}, "a", "b", "c", "d", "e")
}

func testExplain(t *testing.T, c Config) {
	f := fill(t, c)
	q := one("format", facet.Filter{Is: keywords("fastq")})
	q.Facets = []facet.FacetReq{{Field: "format"}, {Field: "organ"}}
	e, err := f.x.Explain(context.Background(), q)
	if err != nil || e.Total != 2 || e.Seq != 2 || e.Engine != f.x.Caps().Engine || len(e.Steps) == 0 {
		t.Fatalf("explained as %+v, %v", e, err)
	}
	for _, s := range e.Steps {
		if s.Stage == "" || s.Plan == "" || s.Why == "" {
			t.Errorf("a step says nothing: %+v", s)
		}
	}
	if !strings.Contains(e.String(), e.Steps[0].Plan) {
		t.Errorf("not printed: %s", e)
	}
}

func testContexts(t *testing.T, c Config) {
	f := fill(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.x.Search(ctx, facet.Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("search: %v", err)
	}
	if _, err := f.x.Apply(ctx, facet.Batch{Seq: 3, Del: []string{"a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("apply: %v", err)
	}
	f.apply(facet.Batch{Seq: 3, Del: []string{"a"}})
	f.wantIDs(facet.Query{}, "b", "c", "d", "e")
}

func testClosed(t *testing.T, c Config) {
	f := fill(t, c)
	ctx := context.Background()
	for range 2 {
		if err := f.x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err1 := f.x.Search(ctx, facet.Query{})
	_, err2 := f.x.Apply(ctx, facet.Batch{Seq: 3})
	_, err3 := f.x.Applied(ctx)
	_, err4 := f.x.Explain(ctx, facet.Query{})
	for _, err := range []error{err1, err2, err3, err4} {
		if !errors.Is(err, facet.ErrClosed) {
			t.Errorf("after close: %v", err)
		}
	}
}

// testReaders holds searches against a writer whose batches leave a sum unchanged.
func testReaders(t *testing.T, c Config) {
	s := facet.Schema{Fields: []facet.Field{{Name: "part", Kind: facet.KindKeyword}, {Name: "n", Kind: facet.KindInt}}}
	f := open(t, c, s)
	const docs, parts = 40, 5
	batch := func(round int) facet.Batch {
		b := facet.Batch{Seq: facet.Seq(round + 1)}
		for i := range docs {
			d := facet.Doc{ID: fmt.Sprint(i), Version: int64(round), Source: []byte(fmt.Sprint(round)), Fields: map[string][]facet.Value{
				"part": keywords(fmt.Sprint((i + round) % parts)), "n": {facet.Int(int64(round))}}}
			b.Put = append(b.Put, d)
		}
		return b
	}
	ctx := context.Background()
	if _, err := f.x.Apply(ctx, batch(0)); err != nil {
		t.Fatal(err)
	}
	rounds := 30
	if testing.Short() {
		rounds = 10
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := facet.Seq(0)
			for {
				select {
				case <-done:
					return
				default:
				}
				r, err := f.x.Search(ctx, facet.Query{Size: docs, Facets: []facet.FacetReq{{Field: "part"}, {Field: "n"}}, Aggs: []facet.Agg{{Name: "sum", Op: facet.OpSum, Field: "n"}}})
				if err != nil {
					t.Errorf("search beside a writer: %v", err)
					return
				}
				round := int64(r.Seq) - 1
				switch {
				case r.Seq < last:
					t.Errorf("went back from %d to %d", last, r.Seq)
				case r.Total != docs || len(r.Hits) != docs:
					t.Errorf("at %d: %d documents, %d hits", r.Seq, r.Total, len(r.Hits))
				case r.Aggs["sum"] != facet.Int(round*docs):
					t.Errorf("at %d: the sum is %v, half of a batch", r.Seq, r.Aggs["sum"])
				case len(r.Facets[1].Terms) != 1 || len(r.Facets[0].Terms) != parts:
					t.Errorf("at %d: facets %+v", r.Seq, r.Facets)
				}
				for _, h := range r.Hits {
					if h.Version != round || string(h.Source) != fmt.Sprint(round) {
						t.Errorf("at %d: a hit of round %d", r.Seq, h.Version)
					}
				}
				last = r.Seq
				if t.Failed() {
					return
				}
			}
		})
	}
	for round := 1; round <= rounds; round++ {
		if _, err := f.x.Apply(ctx, batch(round)); err != nil {
			t.Error(err)
			break
		}
		if r, err := f.x.Search(ctx, facet.Query{}); err != nil || r.Seq < facet.Seq(round+1) {
			t.Errorf("a write is not read: %d, %v", r.Seq, err)
		}
	}
	close(done)
	readers.Wait()
}

// testOwnership changes everything that was handed in and out.
func testOwnership(t *testing.T, c Config) {
	f := open(t, c, files)
	d := doc("a", map[string][]facet.Value{"organ": keywords("x", "y")})
	b := facet.Batch{Seq: 1, Put: []facet.Doc{d}}
	ctx := context.Background()
	if _, err := f.x.Apply(ctx, b); err != nil {
		t.Fatal(err)
	}
	d.Source[0] = '!'
	d.Fields["organ"][0] = facet.String("changed")
	for range 2 {
		r, err := f.x.Search(ctx, facet.Query{Size: 1, Facets: []facet.FacetReq{{Field: "organ"}}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(r.Hits[0].Source, []byte(`{"id":"a"}`)) || terms(r.Facets[0]) != "x:1 y:1 /1" {
			t.Fatalf("changed from outside: %s %s", r.Hits[0].Source, terms(r.Facets[0]))
		}
		r.Hits[0].Source[1] = '?'
		r.Facets[0].Terms[0].Count = 77
		r, err = f.x.Search(ctx, facet.Query{Size: 1, Fields: []string{"organ"}})
		if err != nil {
			t.Fatal(err)
		}
		r.Hits[0].Fields["organ"][0] = facet.String("changed")
	}
}
