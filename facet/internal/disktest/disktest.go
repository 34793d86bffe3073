// Package disktest has a folder that loses power and fills up.
package disktest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/waybill-run/waybill/facet/internal/disk"
)

// FS is a folder of which is known what would be left after a loss of power: of each file what was synced, and of the
// folder's entries those that were there when it was synced last. It can also run out of space.
type FS struct {
	disk.Dir
	t testing.TB

	mu      sync.Mutex
	synced  map[string][]byte // content at the last sync, by number of the file
	inode   map[string]string // the file behind each name
	entries map[string]string // the same, when the folder was synced
	next    int
	left    int  // bytes until the disk is full; negative is never
	steps   int  // operations until everything fails; negative is never
	dead    bool // everything fails
	ops     int
}

// New returns an empty folder.
func New(t testing.TB) *FS {
	return &FS{t: t, Dir: disk.Dir(t.TempDir()), synced: map[string][]byte{}, inode: map[string]string{}, entries: map[string]string{}, left: -1, steps: -1}
}

// Ops returns how many operations that change something there were.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// FillAfter makes the disk full after so many more bytes; negative makes space again.
func (f *FS) FillAfter(bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = bytes
}

// DieAfter makes every operation fail after so many more.
func (f *FS) DieAfter(steps int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = steps
}

// step counts an operation; f.mu is held.
func (f *FS) step() error {
	f.ops++
	if f.steps == 0 {
		f.dead = true
	}
	if f.steps > 0 {
		f.steps--
	}
	if f.dead {
		return fmt.Errorf("the power is gone: %w", syscall.EIO)
	}
	return nil
}

// Crash returns the folder as it is after a loss of power: of what was not synced, rnd chooses whether it is
// there, not there, or for the end of a file there in part.
func (f *FS) Crash(rnd *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := New(f.t)
	names := map[string]string{}
	for name, inode := range f.entries {
		names[name] = inode
	}
	// Entries that were not synced may have come through all the same.
	for name, inode := range f.inode {
		if names[name] != inode && rnd.IntN(2) == 0 {
			names[name] = inode
		}
	}
	for name := range f.entries {
		if _, ok := f.inode[name]; !ok && rnd.IntN(2) == 0 {
			delete(names, name)
		}
	}
	for name, inode := range names {
		content := f.synced[inode]
		// What was written after the last sync may be there in part, or be rubbish.
		if now, err := os.ReadFile(f.Dir.Path(name)); err == nil && f.inode[name] == inode && len(now) > len(content) {
			switch rnd.IntN(3) {
			case 0:
				content = now[:len(content)+rnd.IntN(len(now)-len(content)+1)]
			case 1:
				tail := make([]byte, rnd.IntN(len(now)-len(content)+1))
				content = append(append([]byte(nil), content...), tail...)
			}
		}
		if err := os.WriteFile(filepath.Join(string(g.Dir), name), content, 0o600); err != nil {
			f.t.Fatal(err)
		}
		id := g.number()
		g.inode[name], g.entries[name], g.synced[id] = id, id, content
	}
	return g
}

func (f *FS) number() string {
	f.next++
	return fmt.Sprint(f.next)
}

// Create implements disk.FS.
func (f *FS) Create(name string) (disk.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return nil, err
	}
	if f.left == 0 {
		return nil, &os.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	file, err := f.Dir.Create(name)
	if err != nil {
		return nil, err
	}
	id := f.number()
	f.inode[name] = id
	return &written{fs: f, id: id, path: f.Dir.Path(name), File: file}, nil
}

type written struct {
	disk.File
	fs   *FS
	id   string
	path string
	all  []byte
}

func (w *written) Write(b []byte) (int, error) {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	if err := w.fs.step(); err != nil {
		return 0, err
	}
	var full error
	if w.fs.left >= 0 {
		if len(b) > w.fs.left {
			b, full = b[:w.fs.left], &os.PathError{Op: "write", Path: w.path, Err: syscall.ENOSPC}
		}
		w.fs.left -= len(b)
	}
	n, err := w.File.Write(b)
	w.all = append(w.all, b[:n]...)
	if err == nil {
		err = full
	}
	return n, err
}

func (w *written) Sync() error {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	if err := w.fs.step(); err != nil {
		return err
	}
	w.fs.synced[w.id] = append([]byte(nil), w.all...)
	return nil
}

// Rename implements disk.FS.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return err
	}
	if err := f.Dir.Rename(from, to); err != nil {
		return err
	}
	f.inode[to] = f.inode[from]
	delete(f.inode, from)
	return nil
}

// Remove implements disk.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return err
	}
	if err := f.Dir.Remove(name); err != nil {
		return err
	}
	delete(f.inode, name)
	return nil
}

// Sync implements disk.FS.
func (f *FS) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.step(); err != nil {
		return err
	}
	f.entries = map[string]string{}
	for name, id := range f.inode {
		f.entries[name] = id
	}
	return nil
}

// Lock implements disk.FS; the folder is the test's own.
func (f *FS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }
