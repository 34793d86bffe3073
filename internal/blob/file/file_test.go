package file_test

import (
	"bytes"
	"context"

	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/blob/blobtest"
	"github.com/waybill-run/waybill/internal/blob/file"
)

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
}

// TestTwoProcesses passes the suite through two stores in one folder, as two
// servers that share it see it.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blob.Store {
		dir := t.TempDir()
		return both{open(t, dir), open(t, dir)}
	})
}

// both writes through one store and reads through another.
type both struct {
	*file.Store
	other *file.Store
}

func (b both) Delete(ctx context.Context, sha string) error { return b.other.Delete(ctx, sha) }

func (b both) Walk(ctx context.Context, f func(blob.Ref, time.Time) error) error {
	return b.other.Walk(ctx, f)
}

func put(t *testing.T, s *file.Store, text string) blob.Ref {
	t.Helper()
	ref, err := s.Put(t.Context(), strings.NewReader(text), 0)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func path(dir string, ref blob.Ref) string {
	return filepath.Join(dir, "objects", ref.SHA256[:2], ref.SHA256[2:])
}

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestContentStaysOverRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ref := put(t, open(t, dir), "kept")
	r, err := open(t, dir).Open(t.Context(), ref.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil || b.String() != "kept" {
		t.Errorf("content is %q, %v", b.String(), err)
	}
	if left := names(t, filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("temporary files stay: %v", left)
	}
}

// TestPutRenews: content that is put again is new for those who sweep by age.
func TestPutRenews(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	ref := put(t, s, "again")
	age(t, path(dir, ref), 48*time.Hour)
	put(t, s, "again")
	if err := s.Walk(t.Context(), func(_ blob.Ref, at time.Time) error {
		if time.Since(at) > time.Hour {
			t.Errorf("its time is still %v", at)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPutMendsShortContent: content that lost its end, as on a disk without
// barriers, is written again.
func TestPutMendsShortContent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	ref := put(t, s, "all of it")
	if err := os.Truncate(path(dir, ref), 3); err != nil {
		t.Fatal(err)
	}
	put(t, s, "all of it")
	if b, err := os.ReadFile(path(dir, ref)); err != nil || string(b) != "all of it" {
		t.Errorf("content is %q, %v", b, err)
	}
}

func TestOpenTidies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	ref := put(t, s, "half deleted")
	tmp := filepath.Join(dir, "tmp")
	// A process died between setting content aside and deleting it.
	if err := os.Rename(path(dir, ref), filepath.Join(tmp, "del-"+ref.SHA256)); err != nil {
		t.Fatal(err)
	}
	// One died while it wrote, one has just begun, and one is still writing.
	for name, old := range map[string]time.Duration{"put-dead": time.Hour, "put-young": time.Second} {
		if err := os.WriteFile(filepath.Join(tmp, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		age(t, filepath.Join(tmp, name), old)
	}
	reading, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		_, err := s.Put(t.Context(), readFunc(func(p []byte) (int, error) {
			if first {
				first = false
				close(reading)
				return copy(p, "slow"), nil
			}
			<-goOn
			return 0, fmt.Errorf("given up")
		}), 0)
		done <- err
	}()
	<-reading
	for _, name := range names(t, tmp) {
		if name != "put-young" && name != "put-dead" {
			age(t, filepath.Join(tmp, name), time.Hour)
		}
	}
	open(t, dir)
	left := names(t, tmp)
	if len(left) != 2 || strings.Contains(strings.Join(left, " "), "put-dead") {
		t.Errorf("what stays is %v, want the young one and the one that is being written", left)
	}
	if b, err := os.ReadFile(path(dir, ref)); err != nil || string(b) != "half deleted" {
		t.Errorf("content that was set aside is %q, %v", b, err)
	}
	close(goOn)
	<-done
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestDeleteOlder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	old, fresh := put(t, s, "old"), put(t, s, "fresh")
	age(t, path(dir, old), 2*time.Hour)
	limit := time.Now().Add(-time.Hour)
	for _, sha := range []string{old.SHA256, fresh.SHA256, strings.Repeat("0", 64), "../x"} {
		if err := s.DeleteOlder(t.Context(), sha, limit); err != nil {
			t.Errorf("%s: %v", sha, err)
		}
	}
	if _, err := s.Open(t.Context(), old.SHA256); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("old content: %v", err)
	}
	r, err := s.Open(t.Context(), fresh.SHA256)
	if err != nil {
		t.Fatalf("fresh content: %v", err)
	}
	r.Close()
}

// TestDeleteOlderWhilePut: a put of old content that nothing refers to wins over a
// sweep that has already decided to delete it.
func TestDeleteOlderWhilePut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, other := open(t, dir), open(t, dir)
	const text = "wanted again"
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 250 {
		ref := put(t, s, text)
		age(t, path(dir, ref), 2*time.Hour)
		limit := time.Now().Add(-time.Hour)
		begin := make(chan struct{})
		after := time.Duration(rnd.IntN(400)) * time.Microsecond
		var wg sync.WaitGroup
		wg.Go(func() {
			<-begin
			for from := time.Now(); time.Since(from) < after; { // too short for a timer
			}
			if err := other.DeleteOlder(t.Context(), ref.SHA256, limit); err != nil {
				t.Errorf("DeleteOlder: %v", err)
			}
		})
		close(begin)
		put(t, s, text)
		wg.Wait()
		if b, err := os.ReadFile(path(dir, ref)); err != nil || string(b) != text {
			t.Fatalf("round %d: content that was put is %q, %v", i, b, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "taken")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file in the place of the folder: %v, want an error that names it", err)
	}
}
