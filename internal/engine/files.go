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
	return unitFiles{work: at, event: at + eventEnd, output: at + ".output", in: at + ".in"}
}

// spares are empty folders, each with a file for an event, that were left by units
// and wait for others: renaming costs a tenth of making and removing.
type spares struct {
	dir  string
	next atomic.Int64
	free chan string
}

const maxSpares = 64

const eventEnd = ".event.json"

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

// make gives a unit its empty working directory and the file with its event. What
// is there already stays as it is: the unit may have been started.
func (s *spares) make(f unitFiles, event []byte) error {
	if _, err := os.Lstat(f.work); err == nil {
		if _, err := os.Lstat(f.event); err == nil {
			return nil
		}
	}
	select {
	case spare := <-s.free:
		if os.Rename(spare+eventEnd, f.event) == nil && overwrite(f.event, event) == nil && os.Rename(spare, f.work) == nil {
			return nil
		}
	default:
	}
	if err := os.WriteFile(f.event, event, 0o644); err != nil {
		return diskError("write the event", err)
	}
	if err := os.Mkdir(f.work, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return diskError("make the unit's folder", err)
	}
	return nil
}

// overwrite replaces the content of a file. Cutting it off before would free its
// blocks, which is most of what making a file costs.
func overwrite(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// remove deletes everything of a unit. Its folder and event file are kept as a
// spare if nothing is left in the folder and the unit has changed neither.
func (s *spares) remove(f unitFiles) error {
	if err := remove(f.output); err != nil {
		return err
	}
	if err := os.RemoveAll(f.in); err != nil {
		return err
	}
	if len(s.free) < maxSpares && pristine(f.work) && plain(f.event) {
		spare := filepath.Join(s.dir, strconv.FormatInt(s.next.Add(1), 10))
		if os.Rename(f.event, spare+eventEnd) == nil && os.Rename(f.work, spare) == nil {
			select {
			case s.free <- spare:
				return nil
			default:
			}
		}
		f.event, f.work = spare+eventEnd, spare
	}
	if err := remove(f.event); err != nil {
		return err
	}
	return os.RemoveAll(f.work)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// plain reports whether a file is as we make them, and nobody else has a name for it.
func plain(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode() == 0o644 && links(st) == 1
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
