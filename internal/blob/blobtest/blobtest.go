// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
)

// Run checks stores made by open, which is called for each part of the suite and
// may be called concurrently. Each store is empty and lasts until its test ends.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, s blob.Store)
	}{
		{"content comes back", contentComesBack},
		{"ranges", ranges},
		{"slow and odd readers", oddReaders},
		{"a reader that fails leaves nothing", failingReader},
		{"nothing is visible before the end", notBeforeTheEnd},
		{"a context that ended leaves nothing", endedContext},
		{"limit", limit},
		{"the same content twice", twice},
		{"many at once", concurrent},
		{"open while deleted", openWhileDeleted},
		{"unknown content", unknown},
		{"walk", walk},
		{"logs", logs},
		{"names of logs", logNames},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, open(t))
		})
	}
}

// random is content that is the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b) // never fails
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func put(t *testing.T, s blob.Store, b []byte) blob.Ref {
	t.Helper()
	ref, err := s.Put(t.Context(), bytes.NewReader(b), 0)
	if err != nil {
		t.Fatalf("Put of %d bytes: %v", len(b), err)
	}
	if want := (blob.Ref{SHA256: sum(b), Size: int64(len(b))}); ref != want {
		t.Fatalf("Put returned %+v, want %+v", ref, want)
	}
	return ref
}

func get(t *testing.T, s blob.Store, sha string) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), sha)
	if err != nil {
		t.Fatalf("Open %s: %v", sha, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", sha, err)
	}
	return b
}

// all is what Walk tells.
func all(t *testing.T, s blob.Store) map[string]blob.Ref {
	t.Helper()
	out := map[string]blob.Ref{}
	if err := s.Walk(t.Context(), func(ref blob.Ref, _ time.Time) error {
		if _, dup := out[ref.SHA256]; dup {
			t.Errorf("Walk tells of %s twice", ref.SHA256)
		}
		out[ref.SHA256] = ref
		return nil
	}); err != nil {
		t.Fatalf("Walk: %v", err)
	}
	return out
}

func empty(t *testing.T, s blob.Store) {
	t.Helper()
	if left := all(t, s); len(left) > 0 {
		t.Errorf("there is content: %v", left)
	}
}

func kind(t *testing.T, err error, want waybill.Kind) {
	t.Helper()
	if waybill.KindOf(err) != want {
		t.Errorf("error is %v (%s), want kind %s", err, waybill.KindOf(err), want)
	}
}

func contentComesBack(t *testing.T, s blob.Store) {
	for i, n := range []int{0, 1, 4096, 1<<20 + 7} {
		b := random(uint64(i), n)
		if got := get(t, s, put(t, s, b).SHA256); !bytes.Equal(got, b) {
			t.Errorf("content of %d bytes came back as %d other bytes", n, len(got))
		}
	}
}

func ranges(t *testing.T, s blob.Store) {
	b := random(1, 100_000)
	r, err := s.Open(t.Context(), put(t, s, b).SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		from := rnd.IntN(len(b))
		n := rnd.IntN(len(b) - from)
		if at, err := r.Seek(int64(from), io.SeekStart); err != nil || at != int64(from) {
			t.Fatalf("Seek to %d: %d, %v", from, at, err)
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(r, part); err != nil || !bytes.Equal(part, b[from:from+n]) {
			t.Fatalf("bytes %d to %d are wrong, %v", from, from+n, err)
		}
	}
	if size, err := r.Seek(0, io.SeekEnd); err != nil || size != int64(len(b)) {
		t.Errorf("the end is at %d, %v; want %d", size, err, len(b))
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("a read at the end gives %d, %v; want EOF", n, err)
	}
}

func oddReaders(t *testing.T, s blob.Store) {
	b := random(2, 3000)
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"one byte at a time": iotest.OneByteReader, "half of what is asked for": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
	} {
		ref, err := s.Put(t.Context(), wrap(bytes.NewReader(b)), 0)
		if err != nil || ref.SHA256 != sum(b) || ref.Size != int64(len(b)) {
			t.Errorf("%s: %+v, %v", name, ref, err)
		}
	}
	if got := get(t, s, sum(b)); !bytes.Equal(got, b) {
		t.Error("other content came back")
	}
}

func failingReader(t *testing.T, s blob.Store) {
	gone := errors.New("the sender went away")
	for _, n := range []int{0, 1, 70_000} {
		ref, err := s.Put(t.Context(), io.MultiReader(bytes.NewReader(random(3, n)), iotest.ErrReader(gone)), 0)
		if !errors.Is(err, gone) {
			t.Errorf("after %d bytes the error is %v, want that of the reader", n, err)
		}
		if ref != (blob.Ref{}) {
			t.Errorf("after %d bytes there is an address: %+v", n, ref)
		}
	}
	// The kind of a sender's error is not lost.
	_, err := s.Put(t.Context(), iotest.ErrReader(waybill.E(waybill.KindTooLarge, "enough")), 0)
	kind(t, err, waybill.KindTooLarge)
	empty(t, s)
}

func notBeforeTheEnd(t *testing.T, s blob.Store) {
	b := random(4, 50_000)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.Put(context.WithoutCancel(t.Context()), r, 0)
		done <- err
	}()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
	if _, err := s.Open(t.Context(), sum(b)); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("content can be opened before its end: %v", err)
	}
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, sum(b)); !bytes.Equal(got, b) {
		t.Error("other content came back")
	}
}

func endedContext(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	r := io.MultiReader(bytes.NewReader(random(5, 1000)), readFunc(func([]byte) (int, error) {
		cancel()
		return 0, nil
	}), bytes.NewReader(random(6, 1000)))
	if _, err := s.Put(ctx, r, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v, want that of the context", err)
	}
	empty(t, s)
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func limit(t *testing.T, s blob.Store) {
	b := random(7, 1000)
	_, err := s.Put(t.Context(), bytes.NewReader(b), 999)
	kind(t, err, waybill.KindTooLarge)
	if err != nil && !strings.Contains(err.Error(), "999") {
		t.Errorf("the error does not name the limit: %v", err)
	}
	empty(t, s)
	// A sender that never ends is given up.
	_, err = s.Put(t.Context(), readFunc(func(p []byte) (int, error) { return len(p), nil }), 1<<20)
	kind(t, err, waybill.KindTooLarge)
	empty(t, s)
	if _, err := s.Put(t.Context(), bytes.NewReader(b), 1000); err != nil {
		t.Errorf("content of just the limit: %v", err)
	}
}

func twice(t *testing.T, s blob.Store) {
	b := random(8, 5000)
	before := time.Now().Add(-time.Second) // file systems round
	put(t, s, b)
	put(t, s, b)
	n := 0
	if err := s.Walk(t.Context(), func(_ blob.Ref, at time.Time) error {
		n++
		if at.Before(before) {
			t.Errorf("its time is %v, before its put at %v", at, before)
		}
		return nil
	}); err != nil || n != 1 {
		t.Errorf("Walk tells of %d contents, %v; want 1", n, err)
	}
	if err := s.Delete(t.Context(), sum(b)); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
	put(t, s, b)
	if got := get(t, s, sum(b)); !bytes.Equal(got, b) {
		t.Error("content put again after it was deleted is other content")
	}
}

func concurrent(t *testing.T, s blob.Store) {
	const contents, writers = 4, 8
	var wg sync.WaitGroup
	for w := range writers {
		for i := range contents {
			wg.Go(func() {
				b := random(uint64(20+i), 20_000)
				ref, err := s.Put(t.Context(), iotest.HalfReader(bytes.NewReader(b)), 0)
				if err != nil || ref.SHA256 != sum(b) {
					t.Errorf("writer %d of content %d: %+v, %v", w, i, ref, err)
					return
				}
				// What was put is there at once, whoever else is putting it.
				r, err := s.Open(t.Context(), ref.SHA256)
				if err != nil {
					t.Errorf("writer %d of content %d: %v", w, i, err)
					return
				}
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
					t.Errorf("writer %d of content %d reads other content, %v", w, i, err)
				}
			})
		}
	}
	wg.Wait()
	if n := len(all(t, s)); n != contents {
		t.Errorf("there are %d contents, want %d", n, contents)
	}
}

func openWhileDeleted(t *testing.T, s blob.Store) {
	b := random(9, 300_000)
	ref := put(t, s, b)
	r, err := s.Open(t.Context(), ref.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	head := make([]byte, 100)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), ref.SHA256); err != nil {
		t.Fatal(err)
	}
	_, err = s.Open(t.Context(), ref.SHA256)
	kind(t, err, waybill.KindNotFound)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), b) {
		t.Errorf("a reader that was there before does not get all: %d bytes, %v", len(head)+len(rest), err)
	}
}

func unknown(t *testing.T, s blob.Store) {
	ref := put(t, s, []byte("here"))
	for _, sha := range []string{
		"", ".", "..", "/", "x", "../../etc/passwd", strings.Repeat("0", 64), strings.Repeat("z", 64), strings.ToUpper(ref.SHA256),
		ref.SHA256[:63], ref.SHA256 + "0", ref.SHA256[:2] + "/" + ref.SHA256[2:], ref.SHA256 + "\x00",
	} {
		if _, err := s.Open(t.Context(), sha); !waybill.IsKind(err, waybill.KindNotFound) {
			t.Errorf("Open %q: %v, want not_found", sha, err)
		}
		if err := s.Delete(t.Context(), sha); err != nil {
			t.Errorf("Delete %q: %v", sha, err)
		}
	}
	if string(get(t, s, ref.SHA256)) != "here" {
		t.Error("other content was changed")
	}
}

func walk(t *testing.T, s blob.Store) {
	empty(t, s)
	want := map[string]blob.Ref{}
	for i := range 20 {
		ref := put(t, s, random(uint64(i), 10+i))
		want[ref.SHA256] = ref
	}
	got := all(t, s)
	if len(got) != len(want) {
		t.Errorf("Walk tells of %d contents, want %d", len(got), len(want))
	}
	for sha, ref := range want {
		if got[sha] != ref {
			t.Errorf("Walk tells %+v of %s, want %+v", got[sha], sha, ref)
		}
	}
	enough, n := errors.New("enough"), 0
	err := s.Walk(t.Context(), func(blob.Ref, time.Time) error { n++; return enough })
	if err != enough || n != 1 {
		t.Errorf("Walk went on for %d calls after an error and returned %v", n, err)
	}
	// What is walked may be deleted on the way.
	if err := s.Walk(t.Context(), func(ref blob.Ref, _ time.Time) error { return s.Delete(t.Context(), ref.SHA256) }); err != nil {
		t.Errorf("Walk while deleting: %v", err)
	}
	empty(t, s)
	put(t, s, []byte("one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Walk(ctx, func(blob.Ref, time.Time) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Walk with an ended context: %v", err)
	}
}

func logs(t *testing.T, s blob.Store) {
	// The first is the beginning of the last.
	runs := []string{waybill.NewID(time.Now()), waybill.NewID(time.Now()), "r", "a..", "run with blanks", "élan"}
	runs = append(runs, runs[0]+"00"+runs[0][len(runs[0])-2:])
	paths := map[string]string{}
	for _, run := range runs {
		for _, unit := range []string{"wb-1", "wb-2"} {
			path, err := s.LogFile(run, unit)
			if err != nil {
				t.Fatalf("LogFile(%q, %q): %v", run, unit, err)
			}
			if other, dup := paths[path]; dup {
				t.Errorf("%s/%s and %s share the log %s", run, unit, other, path)
			}
			paths[path] = run
			if !filepath.IsAbs(path) {
				t.Errorf("the log of %s/%s has a relative path: %s", run, unit, path)
			}
			for _, line := range []string{"one\n", "two\n"} {
				f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatalf("log of %s/%s: %v", run, unit, err)
				}
				fmt.Fprint(f, line)
				f.Close()
			}
			if again, err := s.LogFile(run, unit); err != nil || again != path {
				t.Errorf("the log of %s/%s has moved to %s, %v", run, unit, again, err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "one\ntwo\n" {
				t.Errorf("the log of %s/%s holds %q, %v", run, unit, b, err)
			}
		}
	}
	empty(t, s) // logs are no content
	if err := s.RemoveLogs(runs[0]); err != nil {
		t.Fatal(err)
	}
	for path, run := range paths {
		_, err := os.Stat(path)
		if gone := errors.Is(err, os.ErrNotExist); gone != (run == runs[0]) {
			t.Errorf("after the logs of %s were removed, the log %s of %s: %v", runs[0], path, run, err)
		}
	}
	if err := s.RemoveLogs(runs[0]); err != nil {
		t.Errorf("removing logs twice: %v", err)
	}
	if err := s.RemoveLogs("never-there"); err != nil {
		t.Errorf("removing logs of an unknown run: %v", err)
	}
}

func logNames(t *testing.T, s blob.Store) {
	const fine = "0197-fine"
	path, err := s.LogFile(fine, "u")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"", ".", "..", "../" + fine, "/etc", "a/b", "a/../b", `..\x`, ".hidden", "a\x00b", "a\nb", "a\x7f", "\xff", strings.Repeat("x", 201),
	} {
		if p, err := s.LogFile(name, "u"); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("LogFile of run %q: %s, %v; want invalid", name, p, err)
		}
		if p, err := s.LogFile(fine, name); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("LogFile of unit %q: %s, %v; want invalid", name, p, err)
		}
		if err := s.RemoveLogs(name); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("RemoveLogs of run %q: %v; want invalid", name, err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "kept" {
		t.Errorf("a log was changed by a bad name: %q, %v", b, err)
	}
}
