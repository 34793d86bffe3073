package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// unitFiles are what a unit finds on the disk. They stand beside each other, not in
// a folder of the unit: making and removing folders is the most costly thing that
// happens to a short unit.
type unitFiles struct {
	work   string // its working directory
	event  string
	output string
	in     string // copies of objects, if there are any
}

func (e *Engine) unitFiles(unit string) unitFiles {
	at := filepath.Join(e.o.Dir, unit)
	return unitFiles{work: at, event: at + ".event.json", output: at + ".output", in: at + ".in"}
}

// spares are empty folders that were left by units and wait for others: renaming
// one costs a tenth of making and removing it.
type spares struct {
	dir  string
	next atomic.Int64
	free chan string
}

const maxSpares = 64

// newSpares removes what an earlier life left in dir.
func newSpares(dir string) (*spares, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, diskError("clear spare folders", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, diskError("make spare folders", err)
	}
	return &spares{dir: dir, free: make(chan string, maxSpares)}, nil
}

// make gives a unit its empty working directory. One that is there already stays
// as it is: the unit may have been started.
func (s *spares) make(work string) error {
	if _, err := os.Lstat(work); err == nil {
		return nil
	}
	select {
	case spare := <-s.free:
		if os.Rename(spare, work) == nil {
			return nil
		}
	default:
	}
	if err := os.Mkdir(work, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return diskError("make the unit's folder", err)
	}
	return nil
}

// remove deletes everything of a unit. Its folder is kept as a spare if nothing
// is left in it and the unit has not changed the folder itself.
func (s *spares) remove(f unitFiles) error {
	for _, path := range []string{f.event, f.output} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.RemoveAll(f.in); err != nil {
		return err
	}
	if len(s.free) < maxSpares && pristine(f.work) {
		spare := filepath.Join(s.dir, strconv.FormatInt(s.next.Add(1), 10))
		if os.Rename(f.work, spare) == nil {
			select {
			case s.free <- spare:
				return nil
			default:
				return os.RemoveAll(spare)
			}
		}
	}
	return os.RemoveAll(f.work)
}

// pristine reports whether a folder is empty and as we make them.
func pristine(dir string) bool {
	st, err := os.Lstat(dir)
	if err != nil || !st.IsDir() || st.Mode().Perm() != 0o755 || st.Mode()&(os.ModeSticky|os.ModeSetgid|os.ModeSetuid) != 0 {
		return false
	}
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return err == io.EOF
}
