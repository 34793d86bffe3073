// Package folder reads a folder of this machine as a bucket: file:///srv/inbox.
//
// Keys are paths below the folder with slashes. Links are never followed, and
// nothing outside of the folder is ever touched; what is no regular file is told
// as an entry that cannot be read. A version is made of size, time of
// modification and inode. Renaming a finished file into the folder is the surest
// way to hand it over: it appears as a whole.
package folder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"mime"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
)

// Scheme is that of its URLs.
const Scheme = "file"

// Bucket is a folder.
type Bucket struct{ dir string }

var (
	_ cloud.Bucket   = (*Bucket)(nil)
	_ cloud.Notifier = (*Bucket)(nil)
)

// Open is a cloud.Opener.
func Open(_ context.Context, u *url.URL) (cloud.Bucket, error) {
	switch {
	case u.Host != "" && u.Host != "localhost":
		return nil, waybill.E(waybill.KindInvalid, "file URL with the host %q: want file:///path with three slashes", u.Host)
	case !filepath.IsAbs(filepath.FromSlash(u.Path)):
		return nil, waybill.E(waybill.KindInvalid, "file URL without an absolute path: want file:///path")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, waybill.E(waybill.KindInvalid, "file URL with parameters: want file:///path; write ? and # as %%3F and %%23")
	}
	return &Bucket{filepath.Clean(filepath.FromSlash(u.Path))}, nil
}

// Close implements io.Closer; there is nothing to release.
func (b *Bucket) Close() error { return nil }

// root opens the folder anew each time, so that one that is replaced or mounted
// is seen.
func (b *Bucket) root() (*os.Root, error) {
	r, err := os.OpenRoot(b.dir)
	if err != nil {
		return nil, kind(err, "folder "+b.dir)
	}
	return r, nil
}

// kind gives an error of the file system its kind.
func kind(err error, what string) error {
	k := waybill.KindUnavailable
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return waybill.E(waybill.KindNotFound, "there is no %s", what)
	case errors.Is(err, fs.ErrPermission):
		return waybill.E(waybill.KindForbidden, "%s: permission denied", what).WithHint("let the user of the server read it")
	case errors.Is(err, errNotDir):
		return waybill.E(waybill.KindNotFound, "%s is no folder", what)
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return waybill.E(k, "%s: %w", what, err)
}

func entry(key string, info fs.FileInfo) cloud.Entry {
	e := cloud.Entry{Key: key, Version: version(info), Size: info.Size(), Modified: info.ModTime().UTC()}
	switch m := info.Mode(); {
	case m.IsRegular():
	case m&fs.ModeSymlink != 0:
		e.Err = waybill.E(waybill.KindUnsupported, "it is a symbolic link, which is not followed")
	default:
		e.Err = waybill.E(waybill.KindUnsupported, "it is no regular file")
	}
	return e
}

// version names what a file holds, as far as its file system tells.
func version(info fs.FileInfo) string {
	return fmt.Sprintf("%x-%x-%x", info.Size(), info.ModTime().UnixNano(), inode(info))
}

// pageSize is how many entries a page has.
const pageSize = 1000

// walk is one listing.
type walk struct {
	ctx           context.Context
	root          *os.Root
	prefix, after string
	page          []cloud.Entry
	yield         func(cloud.Page, error) bool
}

// errEnd ends a walk early.
var errEnd = errors.New("enough")

// Pages implements cloud.Bucket. Memory is bounded by the largest single folder,
// whose names are sorted.
func (b *Bucket) Pages(ctx context.Context, prefix, from string) iter.Seq2[cloud.Page, error] {
	return func(yield func(cloud.Page, error) bool) {
		r, err := b.root()
		if err != nil {
			yield(cloud.Page{}, err)
			return
		}
		defer r.Close() // it was only read
		w := &walk{ctx: ctx, root: r, prefix: prefix, after: from, yield: yield}
		switch err := w.dir(""); {
		case errors.Is(err, errEnd):
		case err != nil:
			yield(cloud.Page{}, kind(err, "folder "+b.dir))
		default:
			yield(cloud.Page{Entries: w.page}, nil)
		}
	}
}

// dir lists what is below a folder, whose key is empty or ends with a slash.
func (w *walk) dir(key string) error {
	names, err := readDir(w.root, strings.TrimSuffix(key, "/"))
	if err != nil {
		switch {
		case key == "":
			return err
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errNotDir):
			return nil // it went away, or is something else by now
		}
		return w.add(cloud.Entry{Key: key, Err: kind(err, "folder "+key)})
	}
	for _, d := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		k := key + d.Name()
		if d.IsDir() {
			k += "/"
			if !strings.HasPrefix(k, w.prefix) && !strings.HasPrefix(w.prefix, k) || k < w.after && !strings.HasPrefix(w.after, k) {
				continue
			}
			if err := w.dir(k); err != nil {
				return err
			}
			continue
		}
		if !strings.HasPrefix(k, w.prefix) || k <= w.after {
			continue
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		e := cloud.Entry{Key: k, Err: kind(err, "file "+k)}
		if err == nil {
			e = entry(k, info)
		}
		if err := w.add(e); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) add(e cloud.Entry) error {
	w.page = append(w.page, e)
	if len(w.page) < pageSize {
		return nil
	}
	if !w.yield(cloud.Page{Entries: w.page, Next: e.Key}, nil) {
		return errEnd
	}
	w.page = nil
	return nil
}

// readDir returns what is in a folder in the order of the keys below it.
func readDir(r *os.Root, name string) ([]fs.DirEntry, error) {
	if name == "" {
		name = "."
	}
	// What is no folder must not be opened: a pipe would wait for its other end.
	if info, err := r.Lstat(name); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, errNotDir
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	all, err := f.ReadDir(-1)
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return cmp.Compare(sortKey(a), sortKey(b)) })
	return all, err
}

var errNotDir = errors.New("not a folder")

func sortKey(d fs.DirEntry) string {
	if d.IsDir() {
		return d.Name() + "/"
	}
	return d.Name()
}

// Stat implements cloud.Bucket.
func (b *Bucket) Stat(_ context.Context, key string) (cloud.Entry, error) {
	r, err := b.root()
	if err != nil {
		return cloud.Entry{}, err
	}
	defer r.Close() // it was only read
	return stat(r, key)
}

func stat(r *os.Root, key string) (cloud.Entry, error) {
	info, err := r.Lstat(filepath.FromSlash(key))
	if err != nil {
		return cloud.Entry{}, kind(err, "file "+key)
	}
	if info.IsDir() {
		return cloud.Entry{}, waybill.E(waybill.KindNotFound, "%s is a folder", key)
	}
	return entry(key, info), nil
}

// Open implements cloud.Bucket.
func (b *Bucket) Open(_ context.Context, key, want string) (cloud.Entry, io.ReadCloser, error) {
	r, err := b.root()
	if err != nil {
		return cloud.Entry{}, nil, err
	}
	defer r.Close() // the file stays open
	f, err := r.OpenFile(filepath.FromSlash(key), os.O_RDONLY|openFlags, 0)
	if err != nil {
		return cloud.Entry{}, nil, kind(err, "file "+key)
	}
	e, err := b.opened(r, f, key, want)
	if err != nil {
		return e, nil, errors.Join(err, f.Close())
	}
	return e, &content{f: f, want: want, left: e.Size}, nil
}

// opened checks that what was opened is what was asked for, and stands under its
// name itself and not by a link.
func (b *Bucket) opened(r *os.Root, f *os.File, key, want string) (cloud.Entry, error) {
	named, err := stat(r, key)
	if err != nil {
		return named, err
	}
	info, err := f.Stat()
	if err != nil {
		return named, kind(err, "file "+key)
	}
	e := entry(key, info)
	switch {
	case named.Err != nil:
		return e, named.Err
	case e.Err != nil:
		return e, e.Err
	case e.Version != want || named.Version != want:
		return e, changed(key)
	}
	e.ContentType = mime.TypeByExtension(path.Ext(key))
	e.Attempt = attempt(f)
	return e, nil
}

func changed(key string) error {
	return waybill.E(waybill.KindConflict, "%s has changed", key)
}

// content is a file that is read. At its end it is looked at once more: a writer
// that was at work meanwhile has moved its time of modification.
type content struct {
	f    *os.File
	want string
	left int64
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.f.Read(p)
	c.left -= int64(n)
	if errors.Is(err, io.EOF) || err == nil && c.left < 0 {
		info, serr := c.f.Stat()
		if serr != nil {
			return n, kind(serr, "file")
		}
		if version(info) != c.want || c.left != 0 {
			return n, changed("the file")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = kind(err, "file")
	}
	return n, err
}

func (c *content) Close() error { return c.f.Close() }

// Delete implements cloud.Bucket.
func (b *Bucket) Delete(_ context.Context, key, want string) error {
	r, err := b.root()
	if err != nil {
		return err
	}
	defer r.Close() // what was done is done
	e, err := stat(r, key)
	switch {
	case waybill.IsKind(err, waybill.KindNotFound):
		return nil
	case err != nil:
		return err
	case e.Version != want:
		return changed(key)
	}
	if err := r.Remove(filepath.FromSlash(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kind(err, "file "+key)
	}
	return nil
}

// Move implements cloud.Bucket.
func (b *Bucket) Move(_ context.Context, key, want, to string) error {
	r, err := b.root()
	if err != nil {
		return err
	}
	defer r.Close() // what was done is done
	e, err := stat(r, key)
	if waybill.IsKind(err, waybill.KindNotFound) {
		if _, there := stat(r, to); there == nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	if e.Version != want {
		return changed(key)
	}
	dst := filepath.FromSlash(to)
	if dir := filepath.Dir(dst); dir != "." {
		if err := r.MkdirAll(dir, 0o777); err != nil {
			return kind(err, "folder "+dir)
		}
	}
	return kind(r.Rename(filepath.FromSlash(key), dst), "file "+key)
}
