package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var names atomic.Int64

// index makes an index in a database schema.
func index(t testing.TB, dsn string, s facet.Schema) facet.Index {
	t.Helper()
	name := fmt.Sprintf("i%d", names.Add(1))
	x, err := postgres.Open(context.Background(), dsn, name, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Drop(context.Background(), dsn, name); err != nil {
			t.Error(err)
		}
	})
	return x
}

func TestConformance(t *testing.T) {
	dsn := pgtest.DSN(t)
	var mu sync.Mutex
	opened := map[facet.Index]string{}
	facettest.Run(t, facettest.Config{
		New: func(t testing.TB, s facet.Schema) facet.Index {
			x := index(t, dsn, s)
			mu.Lock()
			defer mu.Unlock()
			opened[x] = fmt.Sprintf("i%d", names.Load())
			return x
		},
		Reopen: func(t testing.TB, x facet.Index) facet.Index {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			again, err := postgres.Open(context.Background(), dsn, opened[x], facet.Schema{})
			if err != nil {
				t.Fatal(err)
			}
			opened[again] = opened[x]
			return again
		},
		Checks: 5,
	})
}

var words = facet.Schema{Fields: []facet.Field{{Name: "word", Kind: facet.KindKeyword, Multi: true}, {Name: "n", Kind: facet.KindInt}}}

func TestAnIndexIsMadeOnceByManyThatOpenIt(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			x, err := postgres.Open(context.Background(), dsn, "shared", words)
			if err != nil {
				t.Error(err)
				return
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestAnotherSchemaIsRefused(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	x, err := postgres.Open(context.Background(), dsn, "one", words)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	other := facet.Schema{Fields: words.Fields[:1]}
	if _, err := postgres.Open(context.Background(), dsn, "one", other); !errors.Is(err, facet.ErrSchema) {
		t.Errorf("opened with another schema: %v", err)
	}
	if _, err := postgres.Open(context.Background(), dsn, "nothing", facet.Schema{}); err == nil || !strings.Contains(err.Error(), "there is no such index") {
		t.Errorf("opened an index that is not there: %v", err)
	}
	if _, err := postgres.Open(context.Background(), dsn, "x; DROP", words); !errors.Is(err, facet.ErrBadValue) {
		t.Errorf("opened under a name that is none: %v", err)
	}
}

// Several servers write to one index. Each knows terms that others numbered.
func TestWritersShareTerms(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	ctx := context.Background()
	var writers []facet.Index
	for range 2 {
		x, err := postgres.Open(ctx, dsn, "shared", words)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		writers = append(writers, x)
	}
	for i := range 20 {
		put := []facet.Doc{{ID: fmt.Sprint(i), Fields: map[string][]facet.Value{"word": {facet.String("same"), facet.String(fmt.Sprint("own", i/2))}}}}
		if _, err := writers[i%2].Apply(ctx, facet.Batch{Seq: facet.Seq(i + 1), Put: put}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := writers[0].Search(ctx, facet.Query{Facets: []facet.FacetReq{{Field: "word"}}})
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Facets[0]; len(f.Terms) != 11 || f.Terms[0].Count != 20 || f.Terms[1].Count != 2 {
		t.Errorf("the facet is %+v", f)
	}
}

// More different values than a block of numbers holds.
func TestAFieldHasManyBlocks(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("200,000 values")
	}
	x := index(t, pgtest.DSN(t), words)
	defer x.Close()
	ctx := context.Background()
	const perDoc, docs = 20_000, 10
	var b facet.Batch
	b.Seq = 1
	for d := range docs {
		doc := facet.Doc{ID: fmt.Sprint(d), Fields: map[string][]facet.Value{"n": {facet.Int(int64(d))}}}
		for i := range perDoc {
			doc.Fields["word"] = append(doc.Fields["word"], facet.String(fmt.Sprintf("w%d", d*perDoc+i)))
		}
		b.Put = append(b.Put, doc)
	}
	if _, err := x.Apply(ctx, b); err != nil {
		t.Fatal(err)
	}
	// A value in the last block is found, and none is counted as null.
	r, err := x.Search(ctx, facet.Query{Filters: map[string]facet.Filter{"word": {Is: []facet.Value{facet.String("w199999")}}},
		Facets: []facet.FacetReq{{Field: "word", Size: 3}}, Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Facets[0]; r.Total != 1 || r.Hits[0].ID != "9" || f.Distinct != perDoc*docs || f.Missing != 0 || len(f.Terms) != 3 || f.Terms[0].Value.Str() != "w0" {
		t.Errorf("total %d, distinct %d, missing %d, terms %v", r.Total, f.Distinct, f.Missing, f.Terms)
	}
}
