package sqlite_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// mounted mounts something on a new folder until the test ends.
func mounted(t *testing.T, args ...string) string {
	t.Helper()
	needs(t, os.Getuid() == 0, "root, to mount file systems")
	dir := t.TempDir()
	out, err := exec.Command("mount", append(args, dir)...).CombinedOutput()
	needs(t, err == nil, fmt.Sprintf("mounts: %v: %s", err, out))
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Unmount(dir, 0); err == nil {
		return
	}
	// Somebody still holds a file; the mount must go all the same.
	if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

// mountImage mounts a file as an ext4 file system. The long interval keeps the
// kernel from flushing what nobody asked it to flush while the test goes on.
func mountImage(t *testing.T, image string) string {
	t.Helper()
	return mounted(t, "-t", "ext4", "-o", "loop,commit=300,noatime", image)
}

// TestPowerLoss copies the disk below a store that is being written to: that is
// what the power leaves when it goes. The process stands still during the copy,
// because copying takes time and the power does not.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		synchronous string
		rounds      int
		loses       bool
	}{
		{"FULL", 3, false},
		{"OFF", 2, true}, // shows that the test would notice
	} {
		t.Run(c.synchronous, func(t *testing.T) {
			t.Parallel()
			needs(t, os.Getuid() == 0, "root, to mount file systems")
			work := t.TempDir()
			image := filepath.Join(work, "disk")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 96<<20); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput()
			needs(t, err == nil, fmt.Sprintf("mkfs.ext4: %v: %s", err, out))
			w := startWriting(t, filepath.Join(mountImage(t, image), "store.db"), 64, c.synchronous)
			lost := 0
			for round := range c.rounds {
				w.await(t, (round+1)*1200)
				stopped(t, w.cmd.Process, true)
				acked := w.told()
				copied := filepath.Join(work, fmt.Sprint("copy", round))
				copyFile(t, image, copied)
				stopped(t, w.cmd.Process, false)

				path := filepath.Join(mountImage(t, copied), "store.db")
				s, err := open(t, path, sqlite.Options{MustExist: true})
				if err != nil {
					if lost++; !c.loses {
						t.Errorf("round %d: %v", round, err)
					}
					continue
				}
				bad := missing(t, s, acked)
				if len(bad) > 0 {
					lost++
				}
				for _, b := range bad {
					if !c.loses {
						t.Errorf("round %d: %s", round, b)
					}
				}
				mustClose(t, s)
				if got := integrity(t, path); got != "ok" && !c.loses {
					t.Errorf("round %d: integrity check: %s", round, got)
				}
			}
			w.kill() // before its disk is unmounted
			if c.loses && lost != c.rounds {
				t.Errorf("without flushes, %d of %d power losses were noticed", lost, c.rounds)
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "--sparse=always", "--reflink=never", from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// stopped stops a process, all its threads, or lets it go on.
func stopped(t *testing.T, p *os.Process, stop bool) {
	t.Helper()
	sig := syscall.SIGCONT
	if stop {
		sig = syscall.SIGSTOP
	}
	if err := p.Signal(sig); err != nil {
		t.Fatal(err)
	}
	if !stop {
		return
	}
	eventually(t, "the process stands still", func() bool {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("threads of the process: %v", err)
		}
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			if err == nil && !strings.HasPrefix(string(b[strings.LastIndexByte(string(b), ')')+1:]), " T") {
				return false
			}
		}
		return true
	})
}

func integrity(t *testing.T, path string) string {
	t.Helper()
	return pragma(t, path, "integrity_check")
}

// fillDisk writes a file until nothing more fits.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size >= 512; {
		n, err := io.WriteString(f, strings.Repeat("x", size))
		if err != nil || n < size {
			size /= 2
		}
	}
	return path
}

func within(t *testing.T, what string, limit time.Duration, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(limit):
		t.Fatalf("%s takes longer than %v", what, limit)
	}
}
