package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
)

// Options are the settings of a [Store].
type Options struct {
	Dir      string        // its folder, made with mode 0700
	Quota    int64         // bytes that layers may take. Default 20 GiB
	Largest  int64         // bytes that one image may take. Default the quota
	Insecure []string      // registries that may be asked over HTTP and whose certificates are not checked, as host or host:port
	Timeout  time.Duration // for one pull. Default 15 min
	Stall    time.Duration // a download of which nothing has come for so long fails. Default 1 min
	UserOnly bool          // whiteouts are marked as a server without privileges can
	Logger   *slog.Logger  // receives what an operator should know. Nil means nothing is logged
}

// Store keeps unpacked images. All methods are safe for concurrent use.
type Store struct {
	o       Options
	log     *slog.Logger
	lock    *os.File
	flights flights

	mu     sync.Mutex
	layers map[string]*layer // by directory name
	pulls  map[string]int64  // bytes that are being unpacked, by temporary folder
}

// layer is one unpacked layer.
type layer struct {
	DiffID string    `json:"diff_id"`
	Size   int64     `json:"size"`
	Files  int64     `json:"files"`
	At     time.Time `json:"at"`

	used time.Time // last time it was pinned
	pins int
}

// Folders of a store.
const (
	layersDir   = "layers"   // a folder each, and NAME.json, which says that it is whole
	imagesDir   = "images"   // what an image consists of, by the digest of its manifest
	refsDir     = "refs"     // what a name stood for when it was asked last
	tmpDir      = "tmp"      // what is being unpacked
	overhead    = 4096       // bytes that a file takes besides its content, at least
	maxRecord   = 8 << 20    // bytes of a manifest or a configuration
	defaultRoom = 20 << 30   // bytes
	maxLayers   = 120        // what one mount can name
	maxEntries  = 10_000_000 // of one layer
)

// Open opens a store and removes what pulls left behind that were killed.
func Open(o Options) (*Store, error) {
	if o.Quota <= 0 {
		o.Quota = defaultRoom
	}
	if o.Largest <= 0 || o.Largest > o.Quota {
		o.Largest = o.Quota
	}
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Minute
	}
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o, log: o.Logger, layers: map[string]*layer{}, pulls: map[string]int64{}}
	if err := s.open(); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "open the images in %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) open() error {
	for _, dir := range []string{"", layersDir, imagesDir, refsDir, tmpDir} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chmod(s.o.Dir, 0o700); err != nil { // what is in there has setuid bits
		return err
	}
	lock, err := os.OpenFile(s.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := flock(lock); err != nil {
		lock.Close()
		return fmt.Errorf("another server uses it: %w", err)
	}
	s.lock = lock
	if err := removeContent(s.path(tmpDir)); err != nil {
		s.log.Warn("what an interrupted pull left behind could not be removed", "error", err)
	}
	if err := s.load(); err != nil {
		lock.Close()
		return err
	}
	return nil
}

// flock takes the lock. A server that was killed may take a moment to be gone.
func flock(f *os.File) error {
	var err error
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// load reads which layers are whole, and removes what is not.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, marked := strings.CutSuffix(e.Name(), ".json")
		if !marked {
			continue
		}
		l := &layer{}
		b, err := os.ReadFile(s.path(layersDir, e.Name()))
		if err == nil {
			err = json.Unmarshal(b, l)
		}
		info, statErr := os.Stat(s.path(layersDir, name))
		if err != nil || statErr != nil || !info.IsDir() || dirName(l.DiffID) != name {
			os.Remove(s.path(layersDir, e.Name()))
			continue
		}
		if info, err := e.Info(); err == nil {
			l.used = info.ModTime()
		}
		s.layers[name] = l
	}
	for _, e := range entries {
		if e.IsDir() && s.layers[e.Name()] == nil {
			if err := removeTree(s.path(layersDir, e.Name())); err != nil {
				s.log.Warn("an unfinished layer could not be removed", "layer", e.Name(), "error", err)
			}
		}
	}
	return nil
}

// Close gives the folder to another process.
func (s *Store) Close() error {
	s.flights.close()
	return s.lock.Close()
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.o.Dir}, parts...)...)
}

// Dir is where layers are: the names that [Image.Layers] and [Store.Pin] speak of are
// folders below it.
func (s *Store) Dir() string { return s.path(layersDir) }

// Usage is what a store holds.
type Usage struct {
	Layers int
	Bytes  int64
	Pinned int64 // of these, bytes that cannot be removed now
	Quota  int64
}

// Usage returns what the store holds.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := Usage{Layers: len(s.layers), Quota: s.o.Quota}
	for _, l := range s.layers {
		u.Bytes += l.Size
		if l.pins > 0 {
			u.Pinned += l.Size
		}
	}
	return u
}

// Pin keeps layers from being removed until release is called, and reports false when
// one of them is not there any more. Release may be called twice.
func (s *Store) Pin(names []string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if s.layers[n] == nil {
			return nil, false
		}
	}
	now := time.Now()
	var touch []string
	for _, n := range names {
		l := s.layers[n]
		l.pins++
		if now.Sub(l.used) > time.Second { // the order among others is what counts
			touch = append(touch, n)
		}
		l.used = now
	}
	for _, n := range touch {
		os.Chtimes(s.path(layersDir, n+".json"), now, now)
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, n := range names {
			if l := s.layers[n]; l != nil {
				l.pins--
			}
		}
	}), true
}

// errQuota is reported as a full disk.
type errQuota struct{ text string }

func (e *errQuota) Error() string { return e.text }
func (e *errQuota) Unwrap() error { return syscall.ENOSPC }

// reserve counts bytes that are about to be unpacked into a temporary folder and makes
// room for them. The folder counts until it is a layer or gone.
func (s *Store) reserve(tmp string, bytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pulls[tmp] = bytes
	over := func() int64 {
		sum := int64(0)
		for _, l := range s.layers {
			sum += l.Size
		}
		for _, n := range s.pulls {
			sum += n
		}
		return sum - s.o.Quota
	}
	n := over()
	if n <= 0 {
		return nil
	}
	names := make([]string, 0, len(s.layers))
	for name, l := range s.layers {
		if l.pins == 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return s.layers[a].used.Compare(s.layers[b].used) })
	for _, name := range names {
		if n <= 0 {
			break
		}
		size := s.layers[name].Size
		if err := s.drop(name); err != nil {
			s.log.Warn("a layer could not be removed to make room", "layer", name, "error", err)
			continue
		}
		n -= size
	}
	if n > 0 {
		return &errQuota{fmt.Sprintf("the images that are in use and this one take %d bytes more than the quota of %d", n, s.o.Quota)}
	}
	return nil
}

// drop removes a layer. Its mark goes first, and its folder leaves its place by a rename,
// so that it is never half there.
func (s *Store) drop(name string) error {
	if err := os.Remove(s.path(layersDir, name+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	away, err := os.MkdirTemp(s.path(tmpDir), "old-")
	if err == nil {
		err = os.Rename(s.path(layersDir, name), filepath.Join(away, name))
	}
	if err != nil {
		return err
	}
	delete(s.layers, name)
	return removeTree(away)
}

func (s *Store) unreserve(tmp string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pulls, tmp)
}

// has reports whether a layer is there.
func (s *Store) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[name] != nil
}

// Remove removes all layers that are not pinned and returns how many bytes that gave.
func (s *Store) Remove() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	var errs []error
	for name, l := range s.layers {
		if l.pins > 0 {
			continue
		}
		if err := s.drop(name); err != nil {
			errs = append(errs, err)
			continue
		}
		sum += l.Size
	}
	return sum, errors.Join(errs...)
}

// dirName is the folder of a layer: 16 of the 32 bytes of its digest, because one mount
// names all layers in one page of text.
func dirName(diffID string) string {
	_, hex, ok := strings.Cut(diffID, ":")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return ""
	}
	const letters = "abcdefghijklmnopqrstuvwxyz234567"
	var out strings.Builder
	bits, n := uint32(0), 0
	for i := range 16 {
		var b byte
		fmt.Sscanf(hex[2*i:2*i+2], "%02x", &b)
		bits, n = bits<<8|uint32(b), n+8
		for n >= 5 {
			out.WriteByte(letters[bits>>(n-5)&31])
			n -= 5
		}
	}
	out.WriteByte(letters[bits<<(5-n)&31])
	return out.String()
}

// removeContent empties a folder.
func removeContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// removeTree removes a folder whatever its modes.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
