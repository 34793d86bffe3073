// Package facettest is the suite that every facet.Index passes.
package facettest

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/memory"
)

// Config says how to test an index.
type Config struct {
	// New makes an empty index. The suite closes it; whatever else is to be removed
	// belongs in t.Cleanup.
	New func(t testing.TB, s facet.Schema) facet.Index

	// Reopen closes an index and opens it again, for those that keep what they have. Optional.
	Reopen func(t testing.TB, x facet.Index) facet.Index

	// Checks is how many random histories are tried; 0 is a number that takes a fast index some seconds.
	Checks int
}

// Run tests an index. Each part is a subtest.
func Run(t *testing.T, c Config) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Config)
	}{
		{"Empty", testEmpty},
		{"Is", testIs},
		{"Spans", testSpans},
		{"Prefix", testPrefix},
		{"Objects", testObjects},
		{"IDs", testIDs},
		{"Facets", testFacets},
		{"Ties", testTies},
		{"FacetInvariant", testFacetInvariant},
		{"Access", testAccess},
		{"Sub", testSub},
		{"Aggs", testAggs},
		{"Sort", testSort},
		{"Paging", testPaging},
		{"Hits", testHits},
		{"Batches", testBatches},
		{"Replay", testReplay},
		{"Errors", testErrors},
		{"Explain", testExplain},
		{"Contexts", testContexts},
		{"Closed", testClosed},
		{"Readers", testReaders},
		{"Ownership", testOwnership},
		{"Histories", testHistories},
		{"Walks", testWalks},
		{"Reopen", testReopen},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, c) })
	}
}

// RunRandom runs only the parts of Run that make up documents and queries by chance.
func RunRandom(t *testing.T, c Config) {
	t.Run("Histories", func(t *testing.T) { testHistories(t, c) })
	t.Run("Walks", func(t *testing.T) { testWalks(t, c) })
	t.Run("Reopen", func(t *testing.T) { testReopen(t, c) })
}

// setChecks makes rapid try n histories.
func setChecks(t testing.TB, n int) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	if f == nil {
		t.Fatal("rapid has no flag rapid.checks")
	}
	old := f.Value.String()
	if old != f.DefValue {
		return // chosen on the command line
	}
	if err := f.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Value.Set(old); err != nil {
			t.Error(err)
		}
	})
}

var options = cmp.Options{
	cmp.Comparer(func(a, b facet.Value) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// Diff says how an answer differs from the right one, or nothing.
func Diff(want, got facet.Result) string { return cmp.Diff(want, got, options) }

// fixture is an index beside its definition.
type fixture struct {
	t testing.TB
	x facet.Index
	m *memory.Index
	s facet.Schema
	n facet.Seq
}

func open(t testing.TB, c Config, s facet.Schema) *fixture {
	t.Helper()
	m, err := memory.New(s)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, x: c.New(t, s), m: m, s: s}
	t.Cleanup(func() {
		if err := f.x.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

func (f *fixture) apply(b facet.Batch) {
	f.t.Helper()
	f.n++
	if b.Seq == 0 {
		b.Seq = f.n
	}
	f.n = b.Seq
	for _, x := range []facet.Index{f.m, f.x} {
		got, err := x.Apply(context.Background(), b)
		if err != nil {
			f.t.Fatalf("apply %d: %v", b.Seq, err)
		}
		if got != b.Seq {
			f.t.Fatalf("apply %d returned %d", b.Seq, got)
		}
	}
}

func (f *fixture) put(docs ...facet.Doc) { f.t.Helper(); f.apply(facet.Batch{Put: docs}) }

// search asks both and compares.
func (f *fixture) search(q facet.Query) facet.Result {
	f.t.Helper()
	want, err := f.m.Search(context.Background(), q)
	if err != nil {
		f.t.Fatalf("the definition refuses %+v: %v", q, err)
	}
	got, err := f.x.Search(context.Background(), q)
	if err != nil {
		f.t.Fatalf("search %+v: %v", q, err)
	}
	if d := Diff(want, got); d != "" {
		f.t.Fatalf("%+v\nanswered otherwise than it is defined (-want +got):\n%s", q, d)
	}
	return got
}

func (f *fixture) ids(q facet.Query) []string {
	f.t.Helper()
	if q.Size == 0 {
		q.Size = 1000
	}
	var ids []string
	for _, h := range f.search(q).Hits {
		ids = append(ids, h.ID)
	}
	return ids
}

func (f *fixture) wantIDs(q facet.Query, want ...string) {
	f.t.Helper()
	if got := f.ids(q); !cmp.Equal(want, got, cmpopts.EquateEmpty()) {
		f.t.Errorf("%+v: hits %q, want %q", q, got, want)
	}
}

// terms is a facet as "value:count …", missing at the end as "-:count", and the total behind a slash.
func terms(x facet.Facet) string {
	s := ""
	for _, t := range x.Terms {
		s += fmt.Sprintf("%s:%d ", t.Value, t.Count)
	}
	if x.Missing > 0 {
		s += fmt.Sprintf("-:%d ", x.Missing)
	}
	return s + fmt.Sprintf("/%d", x.Total)
}

func doc(id string, fields map[string][]facet.Value) facet.Doc {
	return facet.Doc{ID: id, Version: int64(len(id)), Fields: fields, Source: []byte(`{"id":"` + id + `"}`)}
}

func keywords(values ...string) []facet.Value {
	var list []facet.Value
	for _, v := range values {
		if v == "-" {
			list = append(list, facet.Null())
			continue
		}
		list = append(list, facet.String(v))
	}
	return list
}

func one(field string, filter facet.Filter) facet.Query {
	return facet.Query{Filters: map[string]facet.Filter{field: filter}}
}

// openQuiet makes an index that its user closes.
func openQuiet(rt interface{ Fatal(...any) }, t testing.TB, c Config, s facet.Schema) *fixture {
	m, err := memory.New(s)
	if err != nil {
		rt.Fatal(err)
	}
	return &fixture{t: t, x: c.New(t, s), m: m, s: s}
}
