//go:build linux

package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
)

// TestFullDisk writes to a device that is always full.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	full := true
	roomy := s.temp
	s.temp = func() (*os.File, error) {
		if !full {
			return roomy()
		}
		link := filepath.Join(s.dir, "tmp", "put-full")
		if err := os.Symlink("/dev/full", link); err != nil {
			return nil, err
		}
		return os.OpenFile(link, os.O_WRONLY, 0)
	}
	_, err = s.Put(t.Context(), strings.NewReader("no room"), 0)
	if !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(fmt.Sprint(err), "disk is full") {
		t.Errorf("the error is %v (%s), want unavailable and that the disk is full", err, waybill.KindOf(err))
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("files stay: %v, %v", left, err)
	}
	full = false
	if _, err := s.Put(t.Context(), strings.NewReader("no room"), 0); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
