package backup

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
)

// archiveEnd is how names of archives end.
const archiveEnd = ".tar.zst"

// IsArchive reports whether a backup of this name is an archive, not a folder.
func IsArchive(path string) bool { return strings.HasSuffix(path, archiveEnd) }

// maxManifest bounds what is read into memory of an archive from elsewhere.
const maxManifest = 2 << 30

func contentPath(dir, sha string) string { return filepath.Join(dir, "files", sha[:2], sha[2:]) }

// Folder is a folder of backups that is held for one writer.
type Folder struct {
	dir  string
	lock io.Closer
	has  map[string]bool
}

// OpenFolder makes a folder for a backup, or opens one that holds one.
// KindConflict: somebody else writes to it, or it holds something else.
func OpenFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o700); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open backup", dir)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open backup", dir)
	}
	for _, e := range left {
		switch e.Name() {
		case "files", ManifestName, ManifestName + ".new", ".lock":
		default:
			return nil, waybill.E(waybill.KindConflict, "the folder holds %s, which is not of a backup", e.Name()).WithOp("open backup", dir).
				WithHint("name a folder of its own, or an archive: NAME" + archiveEnd)
		}
	}
	f := &Folder{dir: dir, has: map[string]bool{}}
	if f.lock, err = hold(filepath.Join(dir, ".lock")); err != nil {
		return nil, waybill.E(waybill.KindConflict, "another backup is being written to it").WithOp("open backup", dir)
	}
	// What a whole backup names is durable. What one left that was broken off may not
	// be, if the machine failed, and is read again.
	if m, err := ReadFolder(dir); err == nil {
		for _, e := range m.Files {
			f.has[e.SHA256] = true
		}
	}
	err = f.walk(func(sha, path string, _ fs.DirEntry) error {
		if !f.has[sha] {
			if !whole(sha, path) {
				return os.Remove(path)
			}
			f.has[sha] = true
		}
		return nil
	})
	for sha := range f.has {
		if _, err := os.Stat(contentPath(dir, sha)); err != nil {
			delete(f.has, sha)
		}
	}
	if err != nil {
		f.lock.Close()
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open backup", dir)
	}
	return f, nil
}

func (f *Folder) walk(each func(sha, path string, e fs.DirEntry) error) error {
	root := filepath.Join(f.dir, "files")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return each(filepath.Base(filepath.Dir(path))+e.Name(), path, e)
	})
}

// whole reports whether content is what its name says.
func whole(sha, path string) bool {
	r, err := os.Open(path)
	if err != nil {
		return false
	}
	defer r.Close() // it was only read
	st, err := r.Stat()
	return err == nil && sum(io.Discard, r, &Entry{SHA256: sha, Size: st.Size()}) == nil
}

// ReadFolder returns the manifest of the backup in a folder.
func ReadFolder(dir string) (*Manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, waybill.E(waybill.KindInvalid, "the folder holds no whole backup: there is no %s", ManifestName).WithOp("read backup", dir)
	}
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("read backup", dir)
	}
	return decode(text)
}

// Has are the checksums of the content that is there.
func (f *Folder) Has() map[string]bool { return f.has }

// Close gives the folder to others.
func (f *Folder) Close() error { return f.lock.Close() }

// Keep takes an archive from r into the folder. Until it returns without an error
// the folder holds the backup that it held before, if any.
func (f *Folder) Keep(ctx context.Context, r io.Reader) (*Manifest, error) {
	m, err := read(ctx, r, func(e *Entry, r io.Reader) error {
		if f.has[e.SHA256] {
			return sum(io.Discard, r, e)
		}
		fault.At("backup.kept")
		if err := keep(contentPath(f.dir, e.SHA256), r, e); err != nil {
			return err
		}
		f.has[e.SHA256] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(m.Files))
	for _, e := range m.Files {
		if !f.has[e.SHA256] {
			return nil, waybill.E(waybill.KindInvalid, "the backup lacks %s %s", e.Kind, e.Path)
		}
		wanted[e.SHA256] = true
	}
	if err := syncAll(f.dir); err != nil {
		return nil, err
	}
	text, err := m.encode()
	if err != nil {
		return nil, err
	}
	fault.At("backup.manifest")
	if err := writeWhole(filepath.Join(f.dir, ManifestName), text); err != nil {
		return nil, err
	}
	fault.At("backup.prune")
	// What only the backup before named is no longer needed.
	return m, f.walk(func(sha, path string, _ fs.DirEntry) error {
		if !wanted[sha] {
			return os.Remove(path)
		}
		return nil
	})
}

// keep writes content under its name. It is durable after syncAll.
func keep(path string, r io.Reader, e *Entry) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := path + ".part"
	w, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = sum(w, r, e)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// writeWhole writes a file so that it is there as a whole or not at all.
func writeWhole(path string, text []byte) error {
	tmp := path + ".new"
	w, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// KeepArchive writes an archive from r, compressed, to a file that does not exist.
// The file has its name when it is whole and durable.
func KeepArchive(ctx context.Context, r io.Reader, path string) (*Manifest, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, waybill.E(waybill.KindConflict, "the file exists").WithOp("write backup", path).WithHint("name another one; archives are not added to")
	}
	w, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-")
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("write backup", path)
	}
	defer os.Remove(w.Name()) // after the rename it is not there
	defer w.Close()           // it was synced, or is not wanted
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	// The copy is checked as it passes.
	m, err := read(ctx, io.TeeReader(r, z), func(e *Entry, r io.Reader) error {
		seen[e.SHA256] = true
		return sum(io.Discard, r, e)
	})
	if err != nil {
		return nil, err
	}
	for _, e := range m.Files {
		if !seen[e.SHA256] {
			return nil, waybill.E(waybill.KindInvalid, "the backup lacks %s %s", e.Kind, e.Path)
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if err := w.Sync(); err != nil {
		return nil, err
	}
	fault.At("backup.manifest")
	if err := os.Link(w.Name(), path); err != nil { // unlike a rename it replaces nothing
		if errors.Is(err, fs.ErrExist) {
			return nil, waybill.E(waybill.KindConflict, "the file exists").WithOp("write backup", path)
		}
		if err := os.Rename(w.Name(), path); err != nil {
			return nil, err
		}
	}
	return m, syncDir(filepath.Dir(path))
}

// read reads an archive to its end and calls each for its files. It is an error
// when the manifest is not at the end or not whole.
func read(ctx context.Context, r io.Reader, each func(*Entry, io.Reader) error) (*Manifest, error) {
	in := tar.NewReader(source{ctx, r})
	var m *Manifest
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, broken(ctx, err)
		}
		if m != nil {
			return nil, damaged("something follows it")
		}
		if h.Name == ManifestName {
			if h.Size > maxManifest {
				return nil, damaged("it has %d bytes", h.Size)
			}
			text, err := io.ReadAll(in)
			if err != nil {
				return nil, broken(ctx, err)
			}
			if m, err = decode(text); err != nil {
				return nil, err
			}
			continue
		}
		name, ok := strings.CutPrefix(h.Name, "files/")
		e := &Entry{Kind: "content", SHA256: strings.Replace(name, "/", "", 1), Size: h.Size}
		e.Path = e.SHA256
		if check := (Entry{Kind: KindObject, Path: e.SHA256, SHA256: e.SHA256, Size: e.Size}); !ok || check.check() != nil {
			return nil, waybill.E(waybill.KindInvalid, "%q is not part of a backup", h.Name)
		}
		if err := each(e, in); err != nil {
			return nil, broken(ctx, err)
		}
	}
	if m == nil {
		return nil, waybill.E(waybill.KindInvalid, "the backup is cut off: it has no manifest")
	}
	// What follows the archive's end marks belongs to it, and to its checksum on the wire.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, broken(ctx, err)
	}
	return m, nil
}

func broken(ctx context.Context, err error) error {
	var ours *waybill.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &ours):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, tar.ErrHeader):
		return waybill.E(waybill.KindInvalid, "the backup is cut off or damaged: %w", err)
	}
	return err
}
