package facet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Snapshot implements Index. All files but the last, the manifest, are Immutable.
// A folder with the files of a snapshot is an index that Open opens.
func (e *Engine) Snapshot(ctx context.Context, dst Sink) error {
	v, err := e.acquire()
	if err != nil {
		return err
	}
	defer e.done(v)
	for _, p := range v.parts {
		files := []File{{Name: p.man.Name, Size: p.man.Size}}
		if p.delFile != nil {
			files = append(files, File{Name: p.man.Deleted.Name, Size: p.man.Deleted.Size})
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			f.Immutable, f.Path = true, e.fs.Path(f.Name)
			f.Open = func() (io.ReadCloser, error) { return os.Open(f.Path) }
			if err := dst.Put(ctx, f); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return dst.Put(ctx, File{Name: manifestName, Size: int64(len(v.manifest)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(v.manifest)), nil
	}})
}

// DirSink is a Sink that puts a snapshot into a folder, by hard links where it can. Immutable files that are there
// already stay, so taking a snapshot again into the same folder costs only what is new; files of
// earlier ones that the last does not need stay until Open sweeps them away.
type DirSink string

// Put implements Sink.
func (d DirSink) Put(ctx context.Context, f File) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	to := filepath.Join(string(d), f.Name)
	if f.Immutable {
		if info, err := os.Stat(to); err == nil && info.Size() == f.Size {
			return nil
		}
		if f.Path != "" && os.Link(f.Path, to) == nil {
			return syncDir(string(d))
		}
	}
	tmp := to + ".tmp"
	if err := d.copy(ctx, f, tmp); err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(string(d))
}

func (d DirSink) copy(ctx context.Context, f File, to string) (err error) {
	src, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(dst, readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return src.Read(b)
	}))
	if err == nil && n != f.Size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func removeIfThere(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
