package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
)

// TestSmallDisk fills a disk of its own, and goes on when there is room again.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatalf("a small disk is needed and cannot be mounted: %v", err)
		}
		t.Skipf("only root can mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s, err := Open(filepath.Join(disk, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	part := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100<<10) }
	var kept []blob.Ref
	for i := 0; ; i++ {
		ref, err := s.Put(t.Context(), bytes.NewReader(part(i)), 0)
		if err != nil {
			var w *waybill.Error
			if !errors.As(err, &w) || w.Kind != waybill.KindUnavailable || w.RetryAfter <= 0 || !strings.Contains(fmt.Sprint(err), "disk is full") {
				t.Errorf("on a full disk: %v (%s)", err, waybill.KindOf(err))
			}
			break
		}
		if kept = append(kept, ref); len(kept) > 10 {
			t.Fatal("the disk never fills")
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("files stay: %v, %v", left, err)
	}
	for i, ref := range kept {
		r, err := s.Open(t.Context(), ref.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil || !bytes.Equal(got, part(i)) {
			t.Errorf("content %d is damaged: %d bytes, %v", i, len(got), err)
		}
	}
	// With room again it goes on as if nothing had been.
	if err := s.Delete(t.Context(), kept[0].SHA256); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), bytes.NewReader(part(100)), 0); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
