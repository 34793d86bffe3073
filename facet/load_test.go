package facet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/memory"
)

// TestLoad loads documents some of which replace others, of the same load and of before.
func TestLoad(t *testing.T) {
	ctx := context.Background()
	x := open(t, t.TempDir(), crashSchema, facet.Options{Workers: 3})
	defer x.Close()
	m, err := memory.New(crashSchema)
	if err != nil {
		t.Fatal(err)
	}
	first := roundBatch(1)
	var docs []facet.Doc
	for i := range 5000 {
		docs = append(docs, facet.Doc{ID: fmt.Sprint(i * 7 % 3000), Version: int64(i), Source: fmt.Appendf(nil, "source %d", i), Fields: map[string][]facet.Value{"part": {facet.String(fmt.Sprint(i % 11))}, "round": {facet.Int(int64(i))}}})
	}
	for _, i := range []facet.Index{x, m} {
		if _, err := i.Apply(ctx, first); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Apply(ctx, facet.Batch{Seq: 9, Put: docs}); err != nil {
		t.Fatal(err)
	}
	all := func(yield func(facet.Doc, error) bool) {
		for _, d := range docs {
			if !yield(d, nil) {
				return
			}
		}
	}
	// One that fails leaves nothing behind.
	broken := errors.New("the source broke")
	if _, err := x.Load(ctx, 9, then(all, facet.Doc{}, broken)); !errors.Is(err, broken) {
		t.Errorf("a broken load: %v", err)
	}
	if _, err := x.Load(ctx, 9, then(all, facet.Doc{ID: "bad", Fields: map[string][]facet.Value{"nope": nil}}, nil)); !errors.Is(err, facet.ErrUnknownField) {
		t.Errorf("a load with a bad document: %v", err)
	}
	sameAsRound(t, x, 1)
	if seq, err := x.Load(ctx, 9, all); seq != 9 || err != nil {
		t.Fatalf("load: %d, %v", seq, err)
	}
	if seq, err := x.Load(ctx, 9, then(all, facet.Doc{}, broken)); seq != 9 || err != nil {
		t.Errorf("a load that was done: %d, %v", seq, err)
	}
	q := facet.Query{Size: 1000, Sort: facet.Sort{Field: "round", Desc: true}, Facets: []facet.FacetReq{{Field: "part"}, {Field: "round"}}}
	for range 2 {
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
		if err := x.Compact(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := x.Stats(); err != nil || len(st.Segments) != 1 || st.Deleted != 0 || st.Docs != 3000 {
		t.Errorf("compacted to %+v, %v", st, err)
	}
}

func then(docs func(func(facet.Doc, error) bool), d facet.Doc, err error) iter.Seq2[facet.Doc, error] {
	return func(yield func(facet.Doc, error) bool) {
		more := true
		docs(func(d facet.Doc, err error) bool {
			more = yield(d, err)
			return more
		})
		if more {
			yield(d, err)
		}
	}
}

func TestDecodeLines(t *testing.T) {
	s := facet.Schema{Fields: []facet.Field{{Name: "n", Kind: facet.KindInt}}}
	var b bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&b, "{\"id\":\"%d\",\"n\":%d}\n\n", i, i)
	}
	n := 0
	for d, err := range facet.DecodeLines(&b, s, "id") {
		if err != nil || d.ID != fmt.Sprint(n) || d.Fields["n"][0] != facet.Int(int64(n)) {
			t.Fatalf("document %d is %+v, %v", n, d, err)
		}
		n++
	}
	if n != 3000 {
		t.Errorf("%d documents", n)
	}
	for range facet.DecodeLines(strings.NewReader(strings.Repeat("{\"id\":\"1\"}\n", 5000)), s, "id") {
		break // and nothing is left running
	}
	var last error
	for _, err := range facet.DecodeLines(strings.NewReader("{\"id\":\"1\"}\n{\"id\":\"2\",\"n\":\"x\"}\n{\"id\":\"3\"}\n"), s, "id") {
		last = err
	}
	if !errors.Is(last, facet.ErrWrongKind) || !strings.Contains(last.Error(), "line 2") {
		t.Errorf("a bad line: %v", last)
	}
}

// TestSnapshot takes snapshots into one folder while batches go on; the second copies only what is new.
func TestSnapshot(t *testing.T) {
	ctx := context.Background()
	x := open(t, t.TempDir(), crashSchema, facet.Options{ScrubEvery: -1})
	defer x.Close()
	to := filepath.Join(t.TempDir(), "copy")
	for round := 1; round <= 6; round++ {
		if _, err := x.Apply(ctx, roundBatch(round)); err != nil {
			t.Fatal(err)
		}
		if round%3 != 0 {
			continue
		}
		sink := &counting{Sink: facet.DirSink(to)}
		if err := x.Snapshot(ctx, sink); err != nil {
			t.Fatal(err)
		}
		if sink.last != "MANIFEST" {
			t.Errorf("the last file is %s", sink.last)
		}
		y, err := facet.Open(to, facet.Schema{}, facet.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		sameAsRound(t, y, round)
		if err := y.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A snapshot is an index of its own.
	y := open(t, to, crashSchema, facet.Options{})
	defer y.Close()
	if _, err := y.Apply(ctx, roundBatch(7)); err != nil {
		t.Fatal(err)
	}
	sameAsRound(t, y, 7)
	sameAsRound(t, x, 6)
}

type counting struct {
	facet.Sink
	last string
}

func (c *counting) Put(ctx context.Context, f facet.File) error {
	c.last = f.Name
	return c.Sink.Put(ctx, f)
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir, crashSchema, facet.Options{})
	if _, err := facet.Open(dir, crashSchema, facet.Options{}); !errors.Is(err, facet.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	other := facet.Schema{Fields: crashSchema.Fields[:1]}
	if _, err := facet.Open(dir, other, facet.Options{}); !errors.Is(err, facet.ErrSchema) {
		t.Errorf("opened with another schema: %v", err)
	}
	if _, err := facet.Open(t.TempDir(), facet.Schema{}, facet.Options{}); !errors.Is(err, facet.ErrSchema) {
		t.Errorf("made without a schema: %v", err)
	}
	if _, err := facet.Open(t.TempDir(), crashSchema, facet.Options{ReadOnly: true}); !errors.Is(err, facet.ErrReadOnly) {
		t.Errorf("read where nothing is: %v", err)
	}
	r := open(t, dir, facet.Schema{}, facet.Options{ReadOnly: true})
	defer r.Close()
	if _, err := r.Apply(context.Background(), roundBatch(1)); !errors.Is(err, facet.ErrReadOnly) {
		t.Errorf("wrote to what is to be read: %v", err)
	}
	// What a crash has left is swept away; what is not ours stays.
	for _, name := range []string{"seg-00000000000000ff.facet", "MANIFEST.tmp", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	y := open(t, dir, facet.Schema{}, facet.Options{})
	defer y.Close()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 3 {
		t.Errorf("left are %q, %v", left, err)
	}
}

// TestMerging applies many batches, so that merges happen beside them, and deletes what is being merged.
func TestMerging(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	x := open(t, dir, crashSchema, facet.Options{MergeRate: -1})
	m, err := memory.New(crashSchema)
	if err != nil {
		t.Fatal(err)
	}
	for seq := 1; seq <= campaign(120, 2000); seq++ {
		b := facet.Batch{Seq: facet.Seq(seq)}
		for i := range 30 {
			b.Put = append(b.Put, facet.Doc{ID: fmt.Sprint((seq*13 + i*i) % 900), Version: int64(seq), Source: fmt.Append(nil, seq), Fields: map[string][]facet.Value{
				"part": {facet.String(fmt.Sprint(i % 4)), facet.String(fmt.Sprint(seq % 50))}, "name": {facet.String(fmt.Sprintf("n%d of %d", i, seq))}, "round": {facet.Int(int64(seq))}}})
		}
		b.Del = []string{fmt.Sprint(seq * 7 % 900), fmt.Sprint(seq * 11 % 900)}
		for _, i := range []facet.Index{x, m} {
			if _, err := i.Apply(ctx, b); err != nil {
				t.Fatal(err)
			}
		}
		if seq%10 > 0 {
			continue
		}
		q := facet.Query{Size: 1000, Sort: facet.Sort{Field: "name"}, Facets: []facet.FacetReq{{Field: "part"}, {Field: "round", Size: 7}, {Field: "name", Size: 20}}, Filters: map[string]facet.Filter{"round": {IsNot: []facet.Value{facet.Int(int64(seq))}}}}
		want, err := m.Search(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Search(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if d := facettest.Diff(want, got); d != "" {
			t.Fatalf("at %d:\n%s", seq, d)
		}
	}
	st, err := x.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Segments) > 30 {
		t.Errorf("%d segments: nothing was merged", len(st.Segments))
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil {
		t.Fatal(err)
	}
	y := open(t, dir, facet.Schema{}, facet.Options{ReadOnly: true})
	defer y.Close()
	if st, err = y.Stats(); err != nil || len(st.Segments) != len(names) {
		t.Errorf("%d files for %d segments, %v", len(names), len(st.Segments), err)
	}
}
