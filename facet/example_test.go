package facet_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/waybill-run/waybill/facet"
)

var books = facet.Schema{Fields: []facet.Field{
	{Name: "title", Kind: facet.KindKeyword, Words: true},
	{Name: "subject", Kind: facet.KindKeyword, Multi: true},
	{Name: "language", Kind: facet.KindKeyword},
	{Name: "pages", Kind: facet.KindInt},
}}

const bookLines = `{"id":"1","title":"The Sea of Grass","subject":["nature","travel"],"language":"en","pages":240}
{"id":"2","title":"Grass and Stone","subject":["nature"],"language":"en","pages":96}
{"id":"3","title":"Le voyage","subject":["travel"],"language":"fr","pages":310}
{"id":"4","title":"Untitled","language":"fr"}
`

// library opens an index in a temporary folder and loads some books.
func library() (*facet.Engine, func()) {
	dir, err := os.MkdirTemp("", "books-")
	if err != nil {
		log.Fatal(err)
	}
	x, err := facet.Open(dir, books, facet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := x.Load(context.Background(), 1, facet.DecodeLines(strings.NewReader(bookLines), books, "id")); err != nil {
		log.Fatal(err)
	}
	return x, func() {
		if err := x.Close(); err != nil {
			log.Print(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Print(err)
		}
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "books-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	x, err := facet.Open(dir, books, facet.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	ctx := context.Background()

	_, err = x.Apply(ctx, facet.Batch{Seq: 1, Put: []facet.Doc{
		{ID: "1", Source: []byte(`{"title":"The Sea of Grass"}`), Fields: map[string][]facet.Value{
			"title": {facet.String("The Sea of Grass")}, "subject": {facet.String("nature"), facet.String("travel")}, "pages": {facet.Int(240)}}},
		{ID: "2", Source: []byte(`{"title":"Grass and Stone"}`), Fields: map[string][]facet.Value{
			"title": {facet.String("Grass and Stone")}, "subject": {facet.String("nature")}, "pages": {facet.Int(96)}}},
	}})
	if err != nil {
		log.Fatal(err)
	}
	r, err := x.Search(ctx, facet.Query{
		Filters: map[string]facet.Filter{"title": {Prefix: []string{"gra"}}},
		Facets:  []facet.FacetReq{{Field: "subject", Size: 10}},
		Sort:    facet.Sort{Field: "pages"},
		Size:    10,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, h := range r.Hits {
		fmt.Println(h.ID, string(h.Source))
	}
	for _, t := range r.Facets[0].Terms {
		fmt.Println(t.Value, t.Count)
	}
	// Output:
	// 2 {"title":"Grass and Stone"}
	// 1 {"title":"The Sea of Grass"}
	// nature 2
	// travel 1
}

// A facet leaves out the filter on its own field, so that readers see what else they could choose.
func ExampleEngine_Search_facets() {
	x, done := library()
	defer done()
	r, err := x.Search(context.Background(), facet.Query{
		Filters: map[string]facet.Filter{"language": {Is: []facet.Value{facet.String("fr")}}},
		Facets:  []facet.FacetReq{{Field: "language"}, {Field: "subject", Sub: []facet.Sub{{Sum: "pages"}}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("found", r.Total)
	for _, f := range r.Facets {
		fmt.Println(f.Name, "of", f.Total)
		for _, t := range f.Terms {
			fmt.Print("  ", t.Value, " ", t.Count)
			for _, s := range t.Sub {
				fmt.Print(", pages ", s.Sum)
			}
			fmt.Println()
		}
		if f.Missing > 0 {
			fmt.Println("  none", f.Missing)
		}
	}
	// Output:
	// found 2
	// language of 4
	//   en 2
	//   fr 2
	// subject of 2
	//   travel 1, pages 310
	//   none 1
}

// Pages are walked by keys: the next one begins behind the last hit, the one before ends before the first.
func ExampleEngine_Search_pages() {
	x, done := library()
	defer done()
	q := facet.Query{Size: 2, Sort: facet.Sort{Field: "pages", Desc: true, Nulls: facet.NullsLast}, Fields: []string{"title"}}
	for {
		r, err := x.Search(context.Background(), q)
		if err != nil {
			log.Fatal(err)
		}
		for _, h := range r.Hits {
			fmt.Println(h.Key.Value, h.Fields["title"][0])
		}
		if !r.More {
			break
		}
		fmt.Println("--")
		q.After = r.Last
	}
	// Output:
	// 310 Le voyage
	// 240 The Sea of Grass
	// --
	// 96 Grass and Stone
	// null Untitled
}

func ExampleError() {
	x, done := library()
	defer done()
	_, err := x.Search(context.Background(), facet.Query{Filters: map[string]facet.Filter{"pages": {Is: []facet.Value{facet.String("many")}}}})
	var e *facet.Error
	if errors.Is(err, facet.ErrWrongKind) && errors.As(err, &e) {
		fmt.Println(e.Field)
	}
	fmt.Println(err)
	// Output:
	// pages
	// facet: wrong kind: field "pages": "many" is of kind keyword, the field of kind int
}

// A snapshot is taken while the index is in use. Where the folders are on one disk, it costs no space.
func ExampleEngine_Snapshot() {
	x, done := library()
	defer done()
	dir, err := os.MkdirTemp("", "backup-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := x.Snapshot(context.Background(), facet.DirSink(dir)); err != nil {
		log.Fatal(err)
	}
	copied, err := facet.Open(dir, facet.Schema{}, facet.Options{ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer copied.Close()
	st, err := copied.Stats()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(st.Docs, "documents at", st.Seq)
	// Output:
	// 4 documents at 1
}
