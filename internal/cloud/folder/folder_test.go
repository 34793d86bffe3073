package folder_test

import (
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/cloudtest"
	"github.com/waybill-run/waybill/internal/cloud/folder"
)

func open(t *testing.T, dir string) cloud.Bucket {
	t.Helper()
	b, err := folder.Open(t.Context(), &url.URL{Scheme: "file", Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, dir, key, content, attempt string) {
	t.Helper()
	path := filepath.Join(dir, key)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if attempt != "" {
		if err := unix.Setxattr(path, "user."+cloud.AttemptMark, []byte(attempt), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBucket(t *testing.T) {
	t.Parallel()
	cloudtest.Run(t, func(t *testing.T) *cloudtest.Place {
		dir := t.TempDir()
		p := &cloudtest.Place{
			Open: func(t *testing.T) cloud.Bucket { return open(t, dir) },
			Put:  func(t *testing.T, key, content, attempt string) { put(t, dir, key, content, attempt) },
			Remove: func(t *testing.T, key string) {
				if err := os.Remove(filepath.Join(dir, key)); err != nil {
					t.Fatal(err)
				}
			},
			Missing: func(t *testing.T) cloud.Bucket { return open(t, filepath.Join(dir, "nowhere")) },
			Many:    2500,
		}
		if os.Getuid() != 0 {
			p.Denied = func(t *testing.T) cloud.Bucket {
				closed := t.TempDir()
				if err := os.Chmod(closed, 0); err != nil {
					t.Fatal(err)
				}
				return open(t, closed)
			}
		}
		return p
	})
}

// What is no regular file is told, and nothing outside is read by a link.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	put(t, outside, "secret", "secret", "")
	put(t, dir, "fine", "x", "")
	put(t, dir, "below/fine", "x", "")
	for link, to := range map[string]string{"link": filepath.Join(outside, "secret"), "dir-link": outside, "inside": "fine", "round": "."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir)
	odd, fine := 0, 0
	for page, err := range b.Pages(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			if e.Err == nil {
				fine++
				continue
			}
			odd++
			if _, r, err := b.Open(t.Context(), e.Key, e.Version); err == nil {
				_ = r.Close() // the test has failed
				t.Errorf("%s can be read", e.Key)
			}
		}
	}
	if odd != 5 || fine != 2 {
		t.Errorf("%d odd and %d fine entries, want 5 and 2", odd, fine)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"file:///srv/inbox": true, "file://srv/inbox": false, "file:srv/inbox": false, "file:///srv?x=1": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = folder.Open(t.Context(), u)
		if ok != (err == nil) || !ok && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the order of events is that of inotify")
	}
	dir := t.TempDir()
	put(t, dir, "in/deep/there-before", "x", "")
	c, err := open(t, dir).(cloud.Notifier).Notify(t.Context(), "in/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	// want waits until the keys were told.
	want := func(keys ...string) {
		t.Helper()
		missing := map[string]bool{}
		for _, k := range keys {
			missing[k] = true
		}
		for limit := time.Now().Add(10 * time.Second); len(missing) > 0 && time.Now().Before(limit); {
			got, _, err := c.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range got {
				if !strings.HasPrefix(k, "in/") {
					t.Errorf("told of %s", k)
				}
				delete(missing, k)
			}
		}
		if len(missing) > 0 {
			t.Errorf("not told of %v", missing)
		}
	}
	put(t, dir, "other", "x", "")
	put(t, dir, "in/a", "x", "")
	put(t, dir, "in/deep/b", "x", "")
	want("in/a", "in/deep/b")
	// A folder that arrives as a whole, and one that is made.
	away := filepath.Join(t.TempDir(), "whole")
	put(t, away, "below/c", "x", "")
	if err := os.Rename(away, filepath.Join(dir, "in", "whole")); err != nil {
		t.Fatal(err)
	}
	want("in/whole/below/c")
	put(t, dir, "in/whole/below/d", "x", "")
	put(t, dir, "in/new/e", "x", "")
	want("in/whole/below/d", "in/new/e")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for {
		if _, _, err := c.Wait(t.Context()); err != nil {
			if !waybill.IsKind(err, waybill.KindNotFound) {
				t.Errorf("after the folder was removed: %v", err)
			}
			return
		}
	}
}
