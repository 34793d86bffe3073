package engine

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// home is where a unit finds its files: on this machine, and in the eyes of the unit.
type home struct {
	unitFiles
	dir    string // Spec.Dir
	inside string // where the unit finds dir; empty for one that sees the files of this machine
}

// homeOf is the home of a unit of a runner. That of a container is one folder, with
// everything in it that the unit sees; see runner.Contained. Whoever removes a unit's
// files need not know which of the two it was: the folder has the same name.
func (e *Engine) homeOf(r runner.Runner, unit string) home {
	files := e.unitFiles(unit)
	c, ok := r.(runner.Contained)
	if !ok {
		return home{unitFiles: files, dir: files.work}
	}
	at := filepath.Join(e.o.Dir, unit)
	return home{
		unitFiles: unitFiles{
			work: filepath.Join(at, "work"), event: filepath.Join(at, "event.json"),
			output: filepath.Join(at, "out", "variables"), in: filepath.Join(at, "in"),
		},
		dir: at, inside: c.Home(),
	}
}

// path is where the unit finds a file of its home.
func (h home) path(outside string) string {
	if h.inside == "" {
		return outside
	}
	rel, err := filepath.Rel(h.dir, outside)
	if err != nil {
		return outside
	}
	return path.Join(h.inside, filepath.ToSlash(rel))
}

// make makes the home of a container. The unit may run as any user, so what it writes to
// is open to all; the folder above is not. What is there stays as it is.
// Links that a unit made there lead nowhere.
func (h home) make(event []byte) error {
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return diskError("make the unit's home", err)
	}
	root, err := os.OpenRoot(h.dir)
	if err != nil {
		return diskError("open the unit's home", err)
	}
	defer root.Close()
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{".", 0o755}, {"work", 0o777}, {"out", 0o777}, {"in", 0o755}} {
		if err := root.MkdirAll(d.name, 0o755); err != nil {
			return diskError("make the unit's home", err)
		}
		if err := root.Chmod(d.name, d.mode); err != nil {
			return diskError("make the unit's home", err)
		}
	}
	if _, err := root.Lstat("event.json"); err == nil {
		return nil
	}
	if err = root.WriteFile("event.part", event, 0o644); err == nil {
		err = root.Rename("event.part", "event.json")
	}
	if err != nil {
		return diskError("write the event", err)
	}
	return nil
}

// openPlain opens a regular file below a folder, which a unit has written: what it made
// there may be a link to somewhere else, which is not followed, or a pipe, which would
// be waited for.
func openPlain(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.Clean(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, waybill.E(waybill.KindInvalid, "%s is not a regular file", name)
	}
	return f, nil
}

// address is the one of this server that units of a runner call. Empty when they have no
// way to it.
func (e *Engine) address(ctx context.Context, r runner.Runner) string {
	return e.o.URL(ctx, r.Name())
}

// errUnreachable says that a unit owes a callback and cannot make one.
func errUnreachable(name string) error {
	return waybill.E(waybill.KindInvalid, "units of the runner %s have no address of this server to call", name).
		WithHint("start the server with --public-url, or with --callback-listen for containers of this machine")
}
