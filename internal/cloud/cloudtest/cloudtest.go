// Package cloudtest is the suite that every implementation of cloud.Bucket
// passes.
package cloudtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
)

// Place is a bucket under test and what others do to it.
type Place struct {
	// Open opens the bucket anew, as another process would.
	Open func(t *testing.T) cloud.Bucket
	// Put writes an object, which says that the attempt has written it if that is
	// not empty. Each call makes a version of its own.
	Put func(t *testing.T, key, content, attempt string)
	// Remove deletes an object.
	Remove func(t *testing.T, key string)
	// Missing opens a bucket that does not exist.
	Missing func(t *testing.T) cloud.Bucket
	// Denied opens a bucket with credentials that do not open it. Nil: there is no
	// such thing here.
	Denied func(t *testing.T) cloud.Bucket
	// Many is how many objects a listing is tested with; more than two pages of it.
	Many int
}

// Run tests the places that fresh makes, each of them empty.
func Run(t *testing.T, fresh func(t *testing.T) *Place) {
	for name, test := range map[string]func(*testing.T, *Place){
		"listing":          listing,
		"prefix":           prefix,
		"keys":             keys,
		"versions":         versions,
		"open":             open,
		"change":           change,
		"mark":             mark,
		"delete":           remove,
		"move":             move,
		"missing bucket":   missing,
		"denied":           denied,
		"end of a context": ended,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

// list returns all entries of a bucket.
func list(t *testing.T, b cloud.Bucket, prefix, from string) []cloud.Entry {
	t.Helper()
	var all []cloud.Entry
	for p, err := range b.Pages(t.Context(), prefix, from) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Entries...)
	}
	return all
}

func keysOf(all []cloud.Entry) []string {
	out := []string{}
	for _, e := range all {
		out = append(out, e.Key)
	}
	return out
}

func one(t *testing.T, b cloud.Bucket, key string) cloud.Entry {
	t.Helper()
	all := list(t, b, key, "")
	if len(all) != 1 || all[0].Key != key || all[0].Err != nil {
		t.Fatalf("listed %+v, want %s alone", all, key)
	}
	return all[0]
}

func read(t *testing.T, b cloud.Bucket, e cloud.Entry) string {
	t.Helper()
	got, r, err := b.Open(t.Context(), e.Key, e.Version)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() // it was only read
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != e.Version || got.Size != int64(len(content)) {
		t.Errorf("opened %+v, want the version %s of %d bytes", got, e.Version, len(content))
	}
	return string(content)
}

func wantKind(t *testing.T, err error, kinds ...waybill.Kind) {
	t.Helper()
	if err == nil || !slices.Contains(kinds, waybill.KindOf(err)) {
		t.Errorf("error %v of the kind %q, want one of %v", err, waybill.KindOf(err), kinds)
	}
}

func listing(t *testing.T, p *Place) {
	b := p.Open(t)
	if all := list(t, b, "", ""); len(all) != 0 {
		t.Fatalf("an empty bucket lists %v", keysOf(all))
	}
	var want []string
	for i := range p.Many {
		k := fmt.Sprintf("d%d/n%05d.csv", i%3, i)
		want = append(want, k)
		p.Put(t, k, "x", "")
	}
	slices.Sort(want)
	var got []string
	pages := 0
	for page, err := range b.Pages(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Entries) > 5000 {
			t.Errorf("a page of %d entries", len(page.Entries))
		}
		pages++
		got = append(got, keysOf(page.Entries)...)
		if page.Next == "" {
			continue
		}
		// Another process goes on where this page ends.
		rest := list(t, p.Open(t), "", page.Next)
		if diff := cmp.Diff(want, append(slices.Clone(got), keysOf(rest)...)); diff != "" {
			t.Fatalf("pages up to %d and what follows them (-want +got):\n%s", pages, diff)
		}
	}
	if pages < 2 {
		t.Errorf("%d pages for %d objects: the test needs more", pages, p.Many)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	// One need not read to the end.
	for range b.Pages(t.Context(), "", "") {
		break
	}
}

func prefix(t *testing.T, p *Place) {
	for _, k := range []string{"a.txt", "in/a.csv", "in/b/c.csv", "in-other/d.csv", "inn", "z/in/e.csv"} {
		p.Put(t, k, "x", "")
	}
	b := p.Open(t)
	for pre, want := range map[string][]string{
		"in/": {"in/a.csv", "in/b/c.csv"}, "in": {"in-other/d.csv", "in/a.csv", "in/b/c.csv", "inn"}, "in/b/c": {"in/b/c.csv"}, "no/": {},
	} {
		if diff := cmp.Diff(want, keysOf(list(t, b, pre, ""))); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", pre, diff)
		}
	}
}

func keys(t *testing.T, p *Place) {
	b := p.Open(t)
	want := []string{"a b.csv", "a+b.csv", "a%20b.csv", "ä/日本.csv", "q?x=1&y#z", "[x]*.csv", "deep/er/and/deeper/f"}
	for _, k := range want {
		p.Put(t, k, "content of "+k, "")
	}
	slices.Sort(want)
	got := list(t, b, "", "")
	// A store that writes some characters in another way sorts by what it wrote.
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(keysOf(got)))); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	for _, e := range got {
		if content := read(t, b, e); content != "content of "+e.Key {
			t.Errorf("%s holds %q", e.Key, content)
		}
		if st, err := b.Stat(t.Context(), e.Key); err != nil || st.Version != e.Version || st.Size != e.Size {
			t.Errorf("%s is %+v, %v; the listing says %+v", e.Key, st, err, e)
		}
	}
}

func versions(t *testing.T, p *Place) {
	b := p.Open(t)
	seen := map[string]string{}
	for i, content := range []string{"one", "two", "three", ""} {
		p.Put(t, "a", content, "")
		e := one(t, b, "a")
		if was, twice := seen[e.Version]; twice || e.Version == "" {
			t.Errorf("version %q of %q was that of %q", e.Version, content, was)
		}
		seen[e.Version] = content
		if e.Size != int64(len(content)) || e.Modified.IsZero() {
			t.Errorf("put %d is listed as %+v", i, e)
		}
		if again := one(t, p.Open(t), "a"); again.Version != e.Version {
			t.Errorf("looked at twice, the version is %s and %s", e.Version, again.Version)
		}
		if got := read(t, b, e); got != content {
			t.Errorf("read %q, want %q", got, content)
		}
	}
}

func open(t *testing.T, p *Place) {
	b := p.Open(t)
	p.Put(t, "a", "old", "")
	old := one(t, b, "a")
	p.Put(t, "a", "newer", "")
	_, _, err := b.Open(t.Context(), "a", old.Version)
	wantKind(t, err, waybill.KindConflict)
	if got := read(t, b, one(t, b, "a")); got != "newer" {
		t.Errorf("read %q", got)
	}
	p.Remove(t, "a")
	_, _, err = b.Open(t.Context(), "a", old.Version)
	wantKind(t, err, waybill.KindNotFound)
	_, err = b.Stat(t.Context(), "a")
	wantKind(t, err, waybill.KindNotFound)
}

// change writes to an object while it is read: what is read to the end without an
// error is the version that was asked for.
func change(t *testing.T, p *Place) {
	b := p.Open(t)
	before := bytes.Repeat([]byte("before "), 1<<20)
	p.Put(t, "a", string(before), "")
	e := one(t, b, "a")
	_, r, err := b.Open(t.Context(), "a", e.Version)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() // it was only read
	part := make([]byte, 1000)
	if _, err := io.ReadFull(r, part); err != nil {
		t.Fatal(err)
	}
	p.Put(t, "a", strings.Repeat("after! ", 1<<20), "")
	rest, err := io.ReadAll(r)
	switch {
	case err != nil:
		wantKind(t, err, waybill.KindConflict, waybill.KindUnavailable)
	case !bytes.Equal(append(part, rest...), before):
		t.Error("a mixture of two versions was read without an error")
	}
	if now := one(t, b, "a"); now.Version == e.Version {
		t.Error("the version is the same after the change")
	}
}

func mark(t *testing.T, p *Place) {
	b := p.Open(t)
	p.Put(t, "by-hand", "x", "")
	p.Put(t, "by-unit", "x", "0193/one/1")
	for key, want := range map[string]string{"by-hand": "", "by-unit": "0193/one/1"} {
		e, r, err := b.Open(t.Context(), key, one(t, b, key).Version)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if e.Attempt != want {
			t.Errorf("%s was written by attempt %q, want %q", key, e.Attempt, want)
		}
	}
}

func remove(t *testing.T, p *Place) {
	b := p.Open(t)
	p.Put(t, "a", "old", "")
	old := one(t, b, "a")
	p.Put(t, "a", "newer", "")
	wantKind(t, b.Delete(t.Context(), "a", old.Version), waybill.KindConflict)
	if got := read(t, b, one(t, b, "a")); got != "newer" {
		t.Fatalf("after a refused deletion it holds %q", got)
	}
	v := one(t, b, "a").Version
	for range 2 {
		if err := b.Delete(t.Context(), "a", v); err != nil {
			t.Fatal(err)
		}
	}
	if all := list(t, b, "", ""); len(all) != 0 {
		t.Errorf("after its deletion there is %v", keysOf(all))
	}
}

func move(t *testing.T, p *Place) {
	b := p.Open(t)
	p.Put(t, "in/a", "old", "")
	old := one(t, b, "in/a")
	p.Put(t, "in/a", "newer", "")
	wantKind(t, b.Move(t.Context(), "in/a", old.Version, "done/in/a"), waybill.KindConflict)
	v := one(t, b, "in/a").Version
	for range 2 { // its answer may be lost, and then it is asked for again
		if err := b.Move(t.Context(), "in/a", v, "done/in/a"); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"done/in/a"}, keysOf(list(t, b, "", ""))); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if got := read(t, b, one(t, b, "done/in/a")); got != "newer" {
		t.Errorf("it holds %q", got)
	}
	wantKind(t, b.Move(t.Context(), "in/b", v, "done/in/b"), waybill.KindNotFound)
}

// failing returns the error by which a listing ends.
func failing(ctx context.Context, b cloud.Bucket) error {
	for _, err := range b.Pages(ctx, "", "") {
		if err != nil {
			return err
		}
	}
	return nil
}

func missing(t *testing.T, p *Place) {
	wantKind(t, failing(t.Context(), p.Missing(t)), waybill.KindNotFound)
}

func denied(t *testing.T, p *Place) {
	if p.Denied == nil {
		return // nothing is closed to the user that runs this
	}
	p.Put(t, "a", "x", "")
	wantKind(t, failing(t.Context(), p.Denied(t)), waybill.KindForbidden, waybill.KindUnauthorized)
}

func ended(t *testing.T, p *Place) {
	b := p.Open(t)
	p.Put(t, "a", "x", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := failing(ctx, b); err == nil {
		t.Error("a listing whose context has ended has no error")
	}
}
