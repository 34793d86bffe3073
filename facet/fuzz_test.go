package facet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/memory"
)

// FuzzSegment opens files that differ from a good one. Whatever they hold, nothing but an error or a right
// answer comes of it.
func FuzzSegment(f *testing.F) {
	ctx := context.Background()
	dir := f.TempDir()
	x, err := facet.Open(dir, crashSchema, facet.Options{ScrubEvery: -1})
	if err != nil {
		f.Fatal(err)
	}
	for round := 1; round <= 2; round++ {
		if _, err := x.Apply(ctx, roundBatch(round)); err != nil {
			f.Fatal(err)
		}
	}
	want := answers(f, x)
	st, err := x.Stats()
	if err != nil {
		f.Fatal(err)
	}
	if err := x.Close(); err != nil {
		f.Fatal(err)
	}
	name := filepath.Join(dir, st.Segments[0].Name)
	good, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(len(good)-40), []byte{1, 2, 3})
	f.Add(uint32(len(good)/2), bytes.Repeat([]byte{0xff}, 64))
	f.Add(uint32(len(good)), []byte("more"))
	f.Fuzz(func(t *testing.T, at uint32, with []byte) {
		bad := bytes.Clone(good)
		n := copy(bad[min(int(at), len(bad)):], with)
		bad = append(bad, with[n:]...)
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := facet.Open(dir, facet.Schema{}, facet.Options{ReadOnly: true, ScrubEvery: -1})
		if err != nil {
			if !errors.Is(err, facet.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer x.Close()
		for i, q := range damageQueries {
			r, err := x.Search(ctx, q)
			if err != nil {
				if !errors.Is(err, facet.ErrCorrupt) {
					t.Fatal(err)
				}
				continue
			}
			if d := facettest.Diff(want[i], r); d != "" {
				t.Fatal(d)
			}
		}
	})
}

// FuzzManifest opens indexes with any manifest.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("{}\n00000000\n"))
	f.Add([]byte(`{"format":1,"schema":{"fields":[{"name":"a","kind":"int"}]},"seq":1,"next":2,"segments":[]}` + "\n4ac2ab54\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, "MANIFEST"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := facet.Open(dir, facet.Schema{}, facet.Options{ReadOnly: true, ScrubEvery: -1})
		if err != nil {
			if !errors.Is(err, facet.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if _, err := x.Search(context.Background(), facet.Query{Size: 3}); err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDecode reads documents from any bytes. What is read can be applied or is refused with a typed
// error, and JSON that is none is not taken for a document.
func FuzzDecode(f *testing.F) {
	s := facet.Schema{Fields: []facet.Field{
		{Name: "k", Kind: facet.KindKeyword, Multi: true}, {Name: "i", Kind: facet.KindInt}, {Name: "n", Kind: facet.KindNumber}, {Name: "b", Kind: facet.KindBool},
		{Name: "d", Kind: facet.KindDate, Multi: true}, {Name: "r", Kind: facet.KindRange, Multi: true}, {Name: "o", Kind: facet.KindObject, Multi: true, Props: []string{"p", "q"}}, {Name: "x.y", Kind: facet.KindKeyword, Multi: true},
	}}
	f.Add([]byte(`{"id":"1","k":["a",null,2,true],"i":3,"n":1e3,"b":false,"d":"2024-01-02","r":[1,2],"o":{"p":"x","q":null},"x":{"y":"z"},"other":{"deep":[[1]]}}`))
	f.Add([]byte(`{"id":7,"r":[[null,2],{"gte":1},5],"x":[{"y":"1"},{"y":"2"}],"x.y":"3","d":["2024-01-02T03:04:05.6Z"]}`))
	f.Add([]byte(`{"id":"\u00e9\n","k":"\ud800"}`))
	f.Add([]byte(`{"id":"1","i":1.5}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		doc, err := facet.NewDecoder(s, "id").Decode(line)
		if err != nil {
			var e *facet.Error
			if !errors.As(err, &e) {
				t.Fatalf("%v", err)
			}
			return
		}
		if !json.Valid(line) {
			t.Fatalf("read as %+v, but it is no JSON: %q", doc, line)
		}
		x, err := memory.New(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := x.Apply(context.Background(), facet.Batch{Seq: 1, Put: []facet.Doc{doc}}); err != nil {
			var e *facet.Error
			if !errors.As(err, &e) || e.Doc == "" {
				t.Fatal(err)
			}
			return
		}
		// Values survive being written and read again.
		r, err := x.Search(context.Background(), facet.Query{Size: 1, Fields: []string{"k", "i", "n", "b", "d", "r", "o"}})
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range r.Hits[0].Fields {
			for _, v := range values {
				text, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				if again, err := s.Value(name, text); err != nil || again != v {
					t.Fatalf("%v is written as %s and read as %v, %v", v, text, again, err)
				}
			}
		}
	})
}

// FuzzQuery asks an engine what the bytes make of it, and compares with the definition.
func FuzzQuery(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 4 {
		choices := make([]byte, 1<<16)
		for i := range choices {
			choices[i] = byte(rnd.Uint32())
		}
		f.Add(choices)
	}
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		s := facettest.Schemas().Draw(t, "schema")
		dir, err := os.MkdirTemp("", "facet-fuzz-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		x, err := facet.Open(dir, s, facet.Options{ScrubEvery: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		m, err := memory.New(s)
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		for seq := range 2 {
			b := facettest.Batches(s).Draw(t, "batch")
			b.Seq = facet.Seq(seq + 1)
			for _, x := range []facet.Index{x, m} {
				if _, err := x.Apply(ctx, b); err != nil {
					t.Fatal(err)
				}
			}
		}
		q := facettest.Queries(s).Draw(t, "query")
		want, err := m.Search(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Search(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if d := facettest.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	}))
}
