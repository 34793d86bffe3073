package opensearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/opensearch"
)

var names atomic.Int64

func TestConformanceOfRequestsAgainstTheFake(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint("shards ", shards), func(t *testing.T) {
			_, url := newFake(t)
			var opened sync.Map
			facettest.Run(t, facettest.Config{
				New: func(t testing.TB, s facet.Schema) facet.Index {
					name := fmt.Sprint("i", names.Add(1))
					x, err := opensearch.Open(context.Background(), url, name, s, opensearch.Options{Shards: shards})
					if err != nil {
						t.Fatal(err)
					}
					opened.Store(x, name)
					return x
				},
				Reopen: func(t testing.TB, x facet.Index) facet.Index {
					if err := x.Close(); err != nil {
						t.Fatal(err)
					}
					name, _ := opened.Load(x)
					again, err := opensearch.Open(context.Background(), url, name.(string), facet.Schema{}, opensearch.Options{})
					if err != nil {
						t.Fatal(err)
					}
					opened.Store(again, name)
					return again
				},
				Checks: 4,
			})
		})
	}
}

var update = flag.Bool("update", false, "write the golden files again")

// What is sent to a cluster, word for word: who changes it sees what a cluster would.
func TestRequests(t *testing.T) {
	f, url := newFake(t)
	ctx := context.Background()
	s := facet.Schema{Fields: []facet.Field{
		{Name: "organ", Kind: facet.KindKeyword, Multi: true}, {Name: "title", Kind: facet.KindKeyword, Words: true},
		{Name: "size", Kind: facet.KindInt}, {Name: "score", Kind: facet.KindNumber}, {Name: "paired", Kind: facet.KindBool},
		{Name: "made", Kind: facet.KindDate}, {Name: "age", Kind: facet.KindRange},
		{Name: "accession", Kind: facet.KindObject, Multi: true, Props: []string{"namespace", "accession"}},
	}}
	var log bytes.Buffer
	f.log = func(method, path string, body []byte) {
		fmt.Fprintf(&log, "%s %s\n", method, path)
		for line := range strings.Lines(string(body)) {
			var b bytes.Buffer
			if err := json.Indent(&b, []byte(line), "", "  "); err != nil {
				t.Errorf("%s is no JSON: %v", line, err)
			}
			log.Write(b.Bytes())
		}
		log.WriteString("\n")
	}
	x, err := opensearch.Open(ctx, url, "golden", s, opensearch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := x.Apply(ctx, facet.Batch{Seq: 7, Del: []string{"old"}, Put: []facet.Doc{{ID: "a", Version: 3, Source: []byte(`{"id":"a"}`), Fields: map[string][]facet.Value{
		"organ": {facet.String("liver"), facet.Null()}, "title": {facet.String("Two words")}, "size": {facet.Int(-5)}, "score": {facet.Number(0.5)},
		"paired": {facet.Bool(true)}, "made": {facet.Date(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))}, "age": {facet.Between(10, 20)},
		"accession": {facet.Object(map[string]string{"namespace": "geo", "accession": "G1"})}}}}}); err != nil {
		t.Fatal(err)
	}
	all := map[string]facet.Filter{
		"organ": {Is: []facet.Value{facet.String("liver"), facet.Null()}}, "title": {Prefix: []string{"wo", "tw"}},
		"size": {Within: []facet.Span{{Hi: facet.Int(9)}}}, "paired": {IsNot: []facet.Value{facet.Bool(false)}},
		"age":       {Intersects: []facet.Span{{Lo: facet.Number(5), Hi: facet.Number(12)}}, Contains: []facet.Span{{Lo: facet.Number(11), Hi: facet.Number(12)}}},
		"accession": {Is: []facet.Value{facet.Object(map[string]string{"namespace": "geo"})}},
	}
	r, err := x.Search(ctx, facet.Query{Access: map[string]facet.Filter{facet.IDField: {Is: []facet.Value{facet.String("a"), facet.String("b")}}}, Filters: all,
		Facets: []facet.FacetReq{{Field: "organ", Size: 10}, {Field: "paired", Sub: []facet.Sub{{Sum: "size"}, {Terms: "organ"}}}},
		Aggs:   []facet.Agg{{Name: "bytes", Op: facet.OpSum, Field: "score"}, {Name: "organs", Op: facet.OpCardinality, Field: "organ"}},
		Sort:   facet.Sort{Field: "made", Desc: true}, After: &facet.Key{Value: facet.Date(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)), ID: "z"}, Size: 5})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != 1 || len(r.Hits) != 1 || r.Seq != 7 {
		t.Errorf("the fake answered %+v", r)
	}
	if err := opensearch.Drop(ctx, url, "golden", opensearch.Options{}); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/requests.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, log.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, log.Bytes()) {
		t.Errorf("the requests are not those of %s; run with -update and look at what has changed", file)
	}
}

// The point of the fake: what it does not know, it refuses.
func TestTheFakeIsStrict(t *testing.T) {
	f, url := newFake(t)
	x, err := opensearch.Open(context.Background(), url, "strict", facet.Schema{Fields: []facet.Field{{Name: "k", Kind: facet.KindKeyword}}}, opensearch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := x.Apply(context.Background(), facet.Batch{Seq: 1, Put: []facet.Doc{{ID: "a"}}}); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pits["p"] = f.indices["strict"].visible
	for _, body := range []string{
		`"query":{"match":{"f0":"a"}}`, `"query":{"term":{"f9":"a"}}`, `"query":{"term":{"f0":{"value":"a","boost":2}}}`, `"post_filter":{"match_all":{}}`,
		`"query":{"range":{"f0":{"gte":1}}}`, `"query":{"bool":{"must":[{"match_all":{}}]}}`, `"query":{"match_all":{}},"from":3`,
		`"query":{"match_all":{}},"aggs":{"x":{"missing":{"field":"f0"}}}`, `"query":{"match_all":{}},"aggs":{"x":{"terms":{"field":"f0","size":1}}}`,
		`"query":{"match_all":{}},"aggs":{"x":{"cardinality":{"field":"f0"}}}`,
	} {
		_, err := f.search([]byte(`{"pit":{"id":"p","keep_alive":"1m"},"size":0,"track_total_hits":false,` + body + `}`))
		if !errors.As(err, new(refused)) {
			t.Errorf("%s was not refused: %v", body, err)
		}
	}
}

func TestAnIndexOfAnotherKindIsRefused(t *testing.T) {
	t.Parallel()
	_, url := newFake(t)
	ctx := context.Background()
	s := facet.Schema{Fields: []facet.Field{{Name: "k", Kind: facet.KindKeyword}}}
	x, err := opensearch.Open(ctx, url, "one", s, opensearch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := opensearch.Open(ctx, url, "one", facet.Schema{Fields: []facet.Field{{Name: "k", Kind: facet.KindInt}}}, opensearch.Options{}); !errors.Is(err, facet.ErrSchema) {
		t.Errorf("another schema: %v", err)
	}
	if _, err := opensearch.Open(ctx, url, "two", facet.Schema{}, opensearch.Options{}); err == nil {
		t.Error("opened an index that is not there")
	}
	if _, err := opensearch.Open(ctx, url, "../x", s, opensearch.Options{}); !errors.Is(err, facet.ErrBadValue) {
		t.Errorf("a name that is none: %v", err)
	}
}
