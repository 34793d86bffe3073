package backup

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
)

// Unfinished is the file in a data directory that says that a restore has begun and
// not ended. No server starts there.
const Unfinished = "restore.unfinished"

// staging is where an archive is unpacked, in the data directory.
const staging = ".restore"

// Encrypted is how names of keys end that are encrypted.
const Encrypted = ".age"

// Options say where a backup goes.
type Options struct {
	Data    string // data directory; it must be empty, or have been left by a restore that was broken off
	Blobs   string // folder of objects and logs; empty means one in Data. It may hold some already
	Project string // for the files of the project, where the backup has them; empty leaves them out
	// Identities open keys that are encrypted; without them such keys are left out.
	Identities []age.Identity
	// Store restores the content of the store from the given file, whose name in the
	// backup is name.
	Store func(ctx context.Context, m *Manifest, name, path string) error
	// Note tells people what was done besides. Required.
	Note func(format string, args ...any)
}

// Check reads all of a backup and compares it with its checksums.
func Check(ctx context.Context, path string) (*Manifest, error) {
	if IsArchive(path) {
		seen := map[string]bool{}
		m, err := readArchive(ctx, path, func(e *Entry, r io.Reader) error {
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
		return m, nil
	}
	m, err := ReadFolder(path)
	if err != nil {
		return nil, err
	}
	for i := range m.Files {
		if err := copyTo(ctx, io.Discard, path, &m.Files[i]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func copyTo(ctx context.Context, w io.Writer, dir string, e *Entry) error {
	r, err := os.Open(contentPath(dir, e.SHA256))
	if errors.Is(err, fs.ErrNotExist) {
		return waybill.E(waybill.KindInvalid, "the backup lacks %s %s", e.Kind, e.Path).WithHint("use another backup")
	}
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	return sum(w, source{ctx, r}, e)
}

func readArchive(ctx context.Context, path string, each func(*Entry, io.Reader) error) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, waybill.E(waybill.KindNotFound, "%w", err).WithOp("read backup", path)
	}
	defer f.Close() // it was only read
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	m, err := read(ctx, z, each)
	if err != nil && waybill.KindOf(err) == waybill.KindInternal && ctx.Err() == nil {
		err = waybill.E(waybill.KindInvalid, "the archive is cut off or damaged: %w", err)
	}
	return m, err
}

// Restore makes a data directory of a backup. Every file is compared with its
// checksum. Whenever it ends before its end, the directory is one in which no server
// starts, and doing it again begins anew.
func Restore(ctx context.Context, path string, o Options) (*Manifest, error) {
	if err := o.begin(); err != nil {
		return nil, err
	}
	from, owned := path, false
	if IsArchive(path) {
		from, owned = filepath.Join(o.Data, staging), true
		if err := os.MkdirAll(filepath.Join(from, "files"), 0o700); err != nil {
			return nil, err
		}
		m, err := readArchive(ctx, path, func(e *Entry, r io.Reader) error { return keep(contentPath(from, e.SHA256), r, e) })
		if err != nil {
			return nil, err
		}
		text, err := m.encode()
		if err == nil {
			err = writeWhole(filepath.Join(from, ManifestName), text)
		}
		if err != nil {
			return nil, err
		}
	}
	m, err := ReadFolder(from)
	if err != nil {
		return nil, err
	}
	if m.Count(KindStore) != 1 {
		return nil, waybill.E(waybill.KindInvalid, "the backup holds %d stores", m.Count(KindStore))
	}
	r := &restore{o: o, ctx: ctx, m: m, from: from, owned: owned, left: map[string]int{}}
	for _, e := range m.Files {
		r.left[e.SHA256]++
	}
	for i := range m.Files {
		if err := r.place(&m.Files[i]); err != nil {
			return nil, err
		}
		fault.At("restore.file")
	}
	return m, r.end()
}

// begin refuses a directory that is in use, and marks it as unfinished before
// anything else is in it.
func (o *Options) begin() error {
	fail := func(err error) error {
		return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("restore into", o.Data)
	}
	if o.Blobs == "" {
		o.Blobs = filepath.Join(o.Data, "blobs")
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fail(err)
	}
	there, err := os.ReadDir(o.Data)
	if err != nil {
		return fail(err)
	}
	mark := filepath.Join(o.Data, Unfinished)
	if len(there) > 0 {
		if _, err := os.Lstat(mark); err != nil {
			return waybill.E(waybill.KindConflict, "the folder is not empty: it holds %s", there[0].Name()).WithOp("restore into", o.Data).
				WithHint("name a folder that does not exist")
		}
		for _, e := range there {
			if e.Name() != Unfinished {
				if err := os.RemoveAll(filepath.Join(o.Data, e.Name())); err != nil {
					return fail(err)
				}
			}
		}
	}
	if o.Project != "" {
		if left, err := os.ReadDir(o.Project); err == nil && len(left) > 0 && len(there) == 0 {
			return waybill.E(waybill.KindConflict, "the folder is not empty: it holds %s", left[0].Name()).WithOp("restore the project into", o.Project)
		}
	}
	if err := writeWhole(mark, []byte("A restore into this folder has begun and not ended. Do it again.\n")); err != nil {
		return fail(err)
	}
	return nil
}

type restore struct {
	o     Options
	ctx   context.Context
	m     *Manifest
	from  string
	owned bool           // from is ours to take apart
	left  map[string]int // how often content is needed still

	store       *Entry
	locked      []string
	projectLeft int
}

func (r *restore) place(e *Entry) error {
	r.left[e.SHA256]--
	switch e.Kind {
	case KindStore:
		r.store = e
		return r.copy(e, filepath.Join(r.o.Data, "restored-"+e.Path), 0o600)
	case KindObject:
		return r.copy(e, filepath.Join(r.o.Blobs, "objects", e.SHA256[:2], e.SHA256[2:]), 0o600)
	case KindLog:
		return r.copy(e, filepath.Join(r.o.Blobs, "logs", filepath.FromSlash(e.Path)), 0o600)
	case KindKey:
		return r.key(e)
	case KindProject:
		if r.o.Project == "" {
			r.projectLeft++
			return nil
		}
		mode := os.FileMode(0o644)
		if e.Exec {
			mode = 0o755
		}
		return r.copy(e, filepath.Join(r.o.Project, filepath.FromSlash(e.Path)), mode)
	}
	return nil
}

// copy brings content to its place, by moving it where it is ours and nobody else
// needs it.
func (r *restore) copy(e *Entry, to string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	tmp := to + ".part"
	if r.owned && r.left[e.SHA256] == 0 {
		// It was compared with its checksum when it was unpacked.
		if err := os.Chmod(contentPath(r.from, e.SHA256), mode); err != nil {
			return err
		}
		return os.Rename(contentPath(r.from, e.SHA256), to)
	}
	w, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = copyTo(r.ctx, w, r.from, e)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, to)
	}
	return err
}

func (r *restore) key(e *Entry) error {
	name := e.Path
	if filepath.Ext(name) != Encrypted {
		return r.copy(e, filepath.Join(r.o.Data, name), 0o600)
	}
	if len(r.o.Identities) == 0 {
		r.locked = append(r.locked, name)
		return nil
	}
	in, err := os.Open(contentPath(r.from, e.SHA256))
	if err != nil {
		return err
	}
	defer in.Close() // it was only read
	plain, err := age.Decrypt(in, r.o.Identities...)
	if err != nil {
		return waybill.E(waybill.KindForbidden, "the key %s cannot be opened: %w", name, err).WithHint("give the identity that the backup was made for")
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(r.o.Data, name[:len(name)-len(Encrypted)]), text)
}

func (r *restore) end() error {
	fault.At("restore.store")
	path := filepath.Join(r.o.Data, "restored-"+r.store.Path)
	if err := r.o.Store(r.ctx, r.m, r.store.Path, path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(filepath.Join(r.o.Data, staging)); err != nil {
		return err
	}
	dirs := []string{r.o.Data, r.o.Blobs}
	if r.o.Project != "" {
		dirs = append(dirs, r.o.Project)
	}
	for _, dir := range dirs {
		if err := syncAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(r.locked) > 0 {
		r.o.Note("left out, because they are encrypted and no identity was given: %v", r.locked)
	}
	if r.projectLeft > 0 {
		r.o.Note("left out: %d files of the project; name a folder for them with --project", r.projectLeft)
	}
	fault.At("restore.end")
	if err := os.Remove(filepath.Join(r.o.Data, Unfinished)); err != nil {
		return err
	}
	return syncDir(r.o.Data)
}
