// Package file keeps blobs in a folder of the local disk.
//
//	objects/ab/cdef…      content, named by its SHA-256
//	logs/9f/RUN~UNIT.log  logs
//	tmp/put-…             content that is being written
//	tmp/del-…             content that is being deleted
package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
)

// Store is a blob.Store in a folder. Several processes may use one folder.
type Store struct {
	dir  string
	temp func() (*os.File, error) // a new file for content that is being written
}

var _ blob.Store = (*Store)(nil)

// Open opens a folder, making it, and tidies up after processes that died while
// they wrote or deleted.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	s.temp = func() (*os.File, error) { return os.CreateTemp(filepath.Join(dir, "tmp"), "put-") }
	err := s.layout()
	if err == nil {
		err = s.tidy()
	}
	if err != nil {
		return nil, fault("open blobs in "+dir, err)
	}
	return s, nil
}

// layout makes every folder that content can go to, durably and once and for all,
// so that a put has to care for its own folder only.
func (s *Store) layout() error {
	for _, name := range []string{"objects", "logs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), 0o700); err != nil {
			return err
		}
	}
	root := filepath.Join(s.dir, "objects")
	there, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(there))
	for _, e := range there {
		known[e.Name()] = true
	}
	for i := range 256 {
		if name := fmt.Sprintf("%02x", i); !known[name] {
			if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	for _, dir := range []string{root, s.dir, filepath.Dir(s.dir)} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// young is how long a temporary file is left alone: its writer may not have marked
// it as its own yet.
const young = time.Minute

// tidy removes what nobody writes any more, and puts back what was set aside to be
// deleted: only the one who did that knew whether it was still wanted.
func (s *Store) tidy() error {
	tmp := filepath.Join(s.dir, "tmp")
	left, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, e := range left {
		path := filepath.Join(tmp, e.Name())
		info, err := e.Info()
		if sha, ok := strings.CutPrefix(e.Name(), "del-"); ok && checkSum(sha) == nil {
			err = os.Rename(path, s.path(sha))
		} else if err == nil && time.Since(info.ModTime()) > young && abandoned(path, info.ModTime()) {
			err = os.Remove(path)
		}
		if err := unlessGone(err); err != nil {
			return err
		}
	}
	return nil
}

// fault translates an error of the file system.
func fault(op string, err error) error {
	var w *waybill.Error
	if err == nil || errors.As(err, &w) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	x := waybill.E(waybill.KindInternal, "%w", err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		x = waybill.E(waybill.KindUnavailable, "the disk is full").WithHint("free some space; nothing was changed")
		x.Err, x.RetryAfter = err, 5*time.Second
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		x = waybill.E(waybill.KindUnavailable, "the disk cannot be used")
		x.Err, x.RetryAfter = err, 5*time.Second
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		x = waybill.E(waybill.KindUnavailable, "too many files are open")
		x.Err, x.RetryAfter = err, time.Second
	}
	x.Op = op
	return x
}

// source reads what a caller gives. It ends with the context's error, so that a
// slow sender can be given up, and keeps errors of the sender apart from ours.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, r io.Reader, limit int64) (ref blob.Ref, err error) {
	const op = "store content"
	tmp, err := s.temp()
	if err != nil {
		return blob.Ref{}, fault(op, err)
	}
	defer func() {
		if err != nil {
			ref = blob.Ref{}
			os.Remove(tmp.Name()) // what stays is removed at the next start
		}
		tmp.Close() // its content is synced, or not wanted
	}()
	hold(tmp)
	in := &source{ctx: ctx, r: r}
	var from io.Reader = in
	if limit > 0 {
		from = io.LimitReader(in, limit+1)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum), from)
	if in.err != nil {
		return ref, fmt.Errorf("%s: read it: %w", op, in.err)
	}
	if err != nil {
		return ref, fault(op, err)
	}
	if limit > 0 && n > limit {
		return ref, waybill.E(waybill.KindTooLarge, "the content is larger than %d bytes", limit).WithOp(op, "")
	}
	ref = blob.Ref{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: n}
	path := s.path(ref.SHA256)
	// Known content is renewed instead of written again. Its size is looked at
	// after that: content that is still there then is not deleted by DeleteOlder.
	now := time.Now()
	if os.Chtimes(path, now, now) == nil {
		if st, err := os.Stat(path); err == nil && st.Size() == n {
			os.Remove(tmp.Name()) // what stays is removed at the next start
			// The one who brought it may not have got as far as this.
			return ref, fault(op, syncDir(filepath.Dir(path)))
		}
	}
	if err := tmp.Sync(); err != nil {
		return ref, fault(op, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return ref, fault(op, err)
	}
	return ref, fault(op, syncDir(filepath.Dir(path)))
}

func (s *Store) path(sha string) string {
	return filepath.Join(s.dir, "objects", sha[:2], sha[2:])
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

func checkSum(sha string) error {
	if b, err := hex.DecodeString(sha); err != nil || len(b) != sha256.Size || strings.ToLower(sha) != sha {
		return waybill.E(waybill.KindNotFound, "there is no content %.80q", sha)
	}
	return nil
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, sha string) (io.ReadSeekCloser, error) {
	if err := checkSum(sha); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(sha))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, waybill.E(waybill.KindNotFound, "there is no content %s", sha)
	}
	if err != nil {
		return nil, fault("open content", err)
	}
	return f, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(_ context.Context, sha string) error {
	if checkSum(sha) != nil {
		return nil
	}
	return fault("delete content", unlessGone(os.Remove(s.path(sha))))
}

// DeleteOlder deletes content whose last Put was before a time, also when it is
// put again at this very moment: then it stays, or is written again. Deleting what
// is not there is no error.
func (s *Store) DeleteOlder(_ context.Context, sha string, than time.Time) error {
	if checkSum(sha) != nil {
		return nil
	}
	const op = "delete content"
	path, aside := s.path(sha), filepath.Join(s.dir, "tmp", "del-"+sha)
	if st, err := os.Stat(path); err != nil || !st.ModTime().Before(than) {
		return fault(op, unlessGone(err))
	}
	// It is set aside before the time is looked at again: a Put that comes later
	// writes it anew, one that came sooner has renewed its time.
	if err := os.Rename(path, aside); err != nil {
		return fault(op, unlessGone(err))
	}
	st, err := os.Stat(aside)
	switch {
	case err != nil:
	case st.ModTime().Before(than):
		err = os.Remove(aside)
	default:
		err = os.Rename(aside, path)
	}
	return fault(op, unlessGone(err))
}

// unlessGone leaves out the error that something is not there.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Walk implements blob.Store.
func (s *Store) Walk(ctx context.Context, f func(blob.Ref, time.Time) error) error {
	root := filepath.Join(s.dir, "objects")
	for i := range 256 {
		fan := fmt.Sprintf("%02x", i)
		files, err := os.ReadDir(filepath.Join(root, fan))
		if err != nil {
			return fault("list content", err)
		}
		for _, e := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			sha := fan + e.Name()
			info, err := e.Info()
			if checkSum(sha) != nil || err != nil {
				continue // not ours, or gone meanwhile
			}
			if err := f(blob.Ref{SHA256: sha, Size: info.Size()}, info.ModTime()); err != nil {
				return err
			}
		}
	}
	return nil
}

// part reports whether a name is safe as one part of a path.
func part(name string) bool {
	return name != "" && len(name) <= 200 && name[0] != '.' && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) })
}

// logDir is the folder of a run's logs. Runs share a few hundred folders: to make
// one for each would cost more than all else that a short unit writes.
func (s *Store) logDir(run string) (string, error) {
	if !part(run) || strings.Contains(run, "~") {
		return "", waybill.E(waybill.KindInvalid, "%.80q cannot name a log", run)
	}
	fan := "other"
	if n := len(run); n > 2 && strings.Trim(run[n-2:], "0123456789abcdef") == "" {
		fan = run[n-2:] // ids begin with the time, so their ends spread better
	}
	return filepath.Join(s.dir, "logs", fan), nil
}

// LogFile implements blob.Store.
func (s *Store) LogFile(run, unit string) (string, error) {
	dir, err := s.logDir(run)
	if err == nil && (!part(unit) || len(run)+len(unit) > 240) {
		err = waybill.E(waybill.KindInvalid, "%.80q cannot name a log", unit)
	}
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // nearly always there
		return "", fault("make log", err)
	}
	return filepath.Join(dir, run+"~"+unit+".log"), nil
}

// RemoveLogs implements blob.Store.
func (s *Store) RemoveLogs(run string) error {
	dir, err := s.logDir(run)
	if err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err := unlessGone(err); err != nil {
		return fault("remove logs", err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), run+"~") {
			continue
		}
		if err := unlessGone(os.Remove(filepath.Join(dir, f.Name()))); err != nil {
			return fault("remove logs", err)
		}
	}
	return nil
}
