// Package file keeps blobs in a folder of the local disk.
//
//	objects/ab/cdef…   content, named by its SHA-256
//	logs/9f/RUN/UNIT.log
//	tmp/               content that is being written
package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
)

// Store is a blob.Store in a folder. Several processes may use one folder.
type Store struct {
	dir string

	mu   sync.Mutex
	made map[string]bool // folders that are known to exist, durably
}

var _ blob.Store = (*Store)(nil)

// staleAfter is the age at which content that was never finished is taken for
// left over by a process that died.
const staleAfter = 24 * time.Hour

// Open opens a folder, making it, and removes what was left half written.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, made: map[string]bool{}}
	for _, d := range []string{"objects", "logs", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fault("open blobs", err)
		}
	}
	old, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return nil, fault("open blobs", err)
	}
	for _, e := range old {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			if err := os.Remove(filepath.Join(dir, "tmp", e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fault("open blobs", err)
			}
		}
	}
	return s, nil
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
		x = waybill.E(waybill.KindUnavailable, "the disk is full")
		x.Err, x.RetryAfter = err, 5*time.Second
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		x = waybill.E(waybill.KindUnavailable, "the disk cannot be used")
		x.Err, x.RetryAfter = err, 5*time.Second
	case errors.Is(err, fs.ErrNotExist):
		x.Kind = waybill.KindNotFound
	}
	x.Op = op
	return x
}

// contextReader ends with the context's error, so that a slow sender can be given up.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, r io.Reader, limit int64) (ref blob.Ref, err error) {
	tmp, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "put-")
	if err != nil {
		return ref, fault("store content", err)
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	src := io.Reader(contextReader{ctx, r})
	if limit > 0 {
		src = io.LimitReader(src, limit+1)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum), src)
	if err != nil {
		return ref, fault("store content", err)
	}
	if limit > 0 && n > limit {
		return ref, waybill.E(waybill.KindTooLarge, "the content is larger than %d bytes", limit).WithOp("store content", "")
	}
	ref = blob.Ref{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: n}
	path := s.path(ref.SHA256)
	now := time.Now()
	// Known content is renewed instead of written again. Renewing comes before the
	// check of its size, so that a sweep that has not looked yet leaves it alone.
	if os.Chtimes(path, now, now) == nil {
		if st, err := os.Stat(path); err == nil && st.Size() == n {
			return ref, os.Remove(tmp.Name())
		}
	}
	if err = tmp.Sync(); err != nil {
		return ref, fault("store content", err)
	}
	dir := filepath.Dir(path)
	if err = s.mkdir(dir); err != nil {
		return ref, fault("store content", err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return ref, fault("store content", err)
	}
	return ref, fault("store content", syncDir(dir))
}

func (s *Store) path(sha string) string {
	return filepath.Join(s.dir, "objects", sha[:2], sha[2:])
}

// mkdir makes a folder of objects durably, once.
func (s *Store) mkdir(dir string) error {
	s.mu.Lock()
	known := s.made[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	s.mu.Lock()
	s.made[dir] = true
	s.mu.Unlock()
	return nil
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
	if err := os.Remove(s.path(sha)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault("delete content", err)
	}
	return nil
}

// Walk implements blob.Store.
func (s *Store) Walk(ctx context.Context, f func(blob.Ref, time.Time) error) error {
	root := filepath.Join(s.dir, "objects")
	fans, err := os.ReadDir(root)
	if err != nil {
		return fault("list content", err)
	}
	for _, fan := range fans {
		files, err := os.ReadDir(filepath.Join(root, fan.Name()))
		if err != nil {
			return fault("list content", err)
		}
		for _, e := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			sha := fan.Name() + e.Name()
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

// part is a name that is safe as one part of a path.
func part(name string) bool {
	return name != "" && len(name) <= 200 && !strings.ContainsAny(name, "/\\\x00") && name[0] != '.'
}

func (s *Store) logDir(run string) (string, error) {
	if !part(run) {
		return "", waybill.E(waybill.KindInvalid, "%.80q cannot name a log", run)
	}
	fan := run
	if len(fan) > 2 {
		fan = fan[len(fan)-2:]
	}
	return filepath.Join(s.dir, "logs", fan, run), nil
}

// LogFile implements blob.Store.
func (s *Store) LogFile(run, unit string) (string, error) {
	dir, err := s.logDir(run)
	if err == nil && !part(unit) {
		err = waybill.E(waybill.KindInvalid, "%.80q cannot name a log", unit)
	}
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fault("make log", err)
	}
	return filepath.Join(dir, unit+".log"), nil
}

// RemoveLogs implements blob.Store.
func (s *Store) RemoveLogs(run string) error {
	dir, err := s.logDir(run)
	if err != nil {
		return err
	}
	return fault("remove logs", os.RemoveAll(dir))
}
