package oci

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Runner runs units as containers. It touches nothing until the first unit is started, or
// was by an earlier server.
type Runner struct {
	o        Options
	log      *slog.Logger
	dir      string
	rootless bool
	mount    func(layersDir string, layers []string, upper, work, target string) error

	mu     sync.Mutex
	state  *state // nil until it is needed
	closed bool
	turns  map[string]*turn
}

// state is what a runner has open.
type state struct {
	instance string
	memory   string // folder that is lost with the machine
	images   *image.Store
	net      *network
	limits   controllers
	chooser  *chooser
	pins     sync.Map // of units: release functions
}

// turn lets one at a time do something to a unit.
type turn struct {
	c     chan struct{}
	users int
}

var (
	_ runner.Contained = (*Runner)(nil)
	_ runner.Bridged   = (*Runner)(nil)
)

// New returns a runner. It makes nothing yet, and needs no runtime yet.
func New(o Options) (*Runner, error) {
	if o.Inner == nil {
		return nil, waybill.E(waybill.KindInvalid, "the oci runner needs another one to start programs with")
	}
	dir := o.Root
	if dir == "" {
		dir = o.Dir
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, ":,\\") {
		return nil, waybill.E(waybill.KindInvalid, "the folder %s of the oci runner has a colon, comma or backslash in its name, which overlays cannot have", dir).
			WithHint("set another root under runners: oci in waybill.yaml")
	}
	if o.Subnet != "" {
		if p, err := netip.ParsePrefix(o.Subnet); err != nil || !p.Addr().Is4() || p.Bits() > 29 || p.Bits() < 8 {
			return nil, waybill.E(waybill.KindInvalid, "runners: oci: subnet: expected addresses such as 172.29.8.0/22, found %q", o.Subnet)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{o: o, log: o.Logger, dir: dir, rootless: os.Geteuid() != 0, mount: mountOverlay, turns: map[string]*turn{}}, nil
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Home implements [runner.Contained].
func (r *Runner) Home() string { return container.Home }

// Reach implements [runner.Contained]: units are on the bridge, or, without privileges, on
// the network of the machine.
func (r *Runner) Reach() runner.Reach {
	if r.rootless {
		return runner.ReachHost
	}
	return runner.ReachBridge
}

// Settings implements [runner.Described].
func (r *Runner) Settings() any { return container.Settings{} }

// Check implements [runner.Runner].
func (r *Runner) Check(args []string, with json.RawMessage) error {
	return Definition{}.Check(args, with)
}

// open opens what units need, and takes up those of an earlier server.
func (r *Runner) open() (*state, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, waybill.E(waybill.KindUnavailable, "the runner is closed")
	}
	if r.state != nil {
		return r.state, nil
	}
	s, err := r.begin()
	if err != nil {
		return nil, err
	}
	r.state = s
	return s, nil
}

func (r *Runner) begin() (*state, error) {
	for _, dir := range []string{r.dir, filepath.Join(r.dir, "units")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, waybill.E(waybill.KindUnavailable, "make the folder of the oci runner: %w", err)
		}
	}
	s := &state{limits: findControllers()}
	var err error
	if s.instance, err = instanceOf(r.dir); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "open the folder of the oci runner: %w", err)
	}
	inMemory := false
	if s.memory, inMemory, err = memoryDir(s.instance, r.dir); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "make a folder for the runtime: %w", err)
	}
	if !inMemory {
		r.log.Warn("there is no folder in memory, so the environment of a unit is on the disk for the moment in which it starts", "folder", s.memory)
	}
	s.images, err = image.Open(image.Options{
		Dir: filepath.Join(r.dir, "images"), Quota: int64(r.o.Quota), Largest: int64(r.o.Largest), Insecure: r.o.Insecure,
		Timeout: time.Duration(r.o.Pull), UserOnly: r.rootless, Logger: r.log,
	})
	if err != nil {
		return nil, err
	}
	tries, _ := filepath.Glob(filepath.Join(s.memory, tryPrefix+"*"))
	for _, dir := range tries { // of servers that were killed in one; what they try ends by itself
		if err := s.limits.prune(path.Join(tryGroup, filepath.Base(dir))); err == nil {
			os.RemoveAll(dir)
		}
	}
	s.chooser = &chooser{want: r.o.Runtime, dir: s.memory}
	s.net = &network{
		dir: r.dir, instance: s.instance, subnet: r.o.Subnet, masq: r.o.Masquerade == nil || *r.o.Masquerade, log: r.log, used: map[netip.Addr]string{},
	}
	if err := os.WriteFile(filepath.Join(s.memory, initFile+".new"), initProgram(), 0o755); err == nil {
		err = os.Rename(filepath.Join(s.memory, initFile+".new"), filepath.Join(s.memory, initFile))
	}
	if err != nil {
		s.images.Close()
		return nil, waybill.E(waybill.KindUnavailable, "write the first process of containers: %w", err)
	}
	if inMemory {
		if err := claim(s.memory, r.dir); err != nil {
			s.images.Close()
			return nil, waybill.E(waybill.KindUnavailable, "make a folder for the runtime: %w", err)
		}
		r.inherit(s.memory)
	}
	units, err := os.ReadDir(filepath.Join(r.dir, "units"))
	if err != nil {
		s.images.Close()
		return nil, waybill.E(waybill.KindUnavailable, "list units: %w", err)
	}
	for _, e := range units {
		rec, err := r.load(e.Name())
		if err != nil {
			r.log.Warn("the record of a unit cannot be read", "unit", e.Name(), "error", err)
			continue
		}
		if rec == nil { // a start that was killed before it had done anything
			os.RemoveAll(r.unitDir(e.Name()))
			continue
		}
		s.net.reserve(rec.Unit, rec.IP)
		if release, ok := s.images.Pin(rec.Layers); ok {
			s.pins.Store(rec.Unit, release)
		}
	}
	return s, nil
}

// instanceOf returns the name of the folder's instance, made on first use.
func instanceOf(dir string) (string, error) {
	file := filepath.Join(dir, "instance")
	b, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(b)); err == nil && len(name) == 16 {
		return name, nil
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	var id [8]byte
	rand.Read(id[:])
	name := hex.EncodeToString(id[:])
	if err := os.WriteFile(file+".new", []byte(name+"\n"), 0o600); err != nil {
		return "", err
	}
	return name, os.Rename(file+".new", file)
}

// used reports whether there may be units: whether the folder was ever used.
func (r *Runner) used() bool {
	_, err := os.Stat(filepath.Join(r.dir, "instance"))
	return err == nil
}

// take waits for the turn to do something to a unit.
func (r *Runner) take(ctx context.Context, unit string) (give func(), err error) {
	r.mu.Lock()
	t := r.turns[unit]
	if t == nil {
		t = &turn{c: make(chan struct{}, 1)}
		r.turns[unit] = t
	}
	t.users++
	r.mu.Unlock()
	leave := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(r.turns, unit)
		}
	}
	select {
	case t.c <- struct{}{}:
		return func() { <-t.c; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

var unitName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func (r *Runner) handle(rec *record) runner.Handle {
	return runner.Handle{Runner: Name, Unit: rec.Unit, Image: rec.Image}
}

func inner(unit string) runner.Handle { return runner.Handle{Unit: unit} }

// failed says what failed. The end of a context and the faults of images are passed on.
func failed(op, unit string, err error) error {
	var e *waybill.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	if _, ok := runner.AsPullError(err); ok {
		return err
	}
	if errors.As(err, &e) {
		return e.WithOp(op, unit)
	}
	return waybill.E(waybill.KindUnavailable, "%w", err).WithOp(op, unit)
}

// List implements [runner.Runner].
func (r *Runner) List(context.Context) ([]runner.Handle, error) {
	if !r.used() {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(r.dir, "units"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("list", "units", err)
	}
	var out []runner.Handle
	for _, e := range entries {
		if rec, err := r.load(e.Name()); err == nil && rec != nil {
			out = append(out, r.handle(rec))
		} else if err != nil {
			out = append(out, runner.Handle{Runner: Name, Unit: e.Name()})
		}
	}
	return out, nil
}

// CopyOut implements [runner.Contained].
func (r *Runner) CopyOut(ctx context.Context, h runner.Handle, name string, w io.Writer) error {
	return failed("copy from", h.Unit, r.copyOut(ctx, h, name, w))
}

func (r *Runner) copyOut(ctx context.Context, h runner.Handle, name string, w io.Writer) error {
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return waybill.E(waybill.KindInvalid, "expected an absolute path, found %q", name)
	}
	rec, err := r.find(h.Unit)
	if err != nil {
		return err
	}
	st, err := r.open()
	if err != nil {
		return err
	}
	dir := filepath.Join(st.memory, rec.Unit, "rootfs")
	if rec.Flat {
		dir = r.unitDir(rec.Unit, flatDir)
	}
	root, err := openRoot(dir)
	if err != nil {
		return waybill.E(waybill.KindLost, "the file system of the unit is gone: %w", err)
	}
	defer root.close()
	f, err := root.file(name)
	if errors.Is(err, unix.ENOTDIR) {
		err = fmt.Errorf("%w: %w", os.ErrNotExist, err)
	}
	if errors.Is(err, os.ErrNotExist) {
		return waybill.E(waybill.KindNotFound, "%w", err)
	}
	if err != nil {
		return waybill.E(waybill.KindInvalid, "%w", err)
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	_, err = io.Copy(w, f)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Archive implements [runner.Contained]: the supervisor writes the log, and has written all
// of it that it could when a unit has ended.
func (r *Runner) Archive(_ context.Context, h runner.Handle, _ runner.Spec) error {
	rec, err := r.find(h.Unit)
	if err != nil {
		if waybill.IsKind(err, waybill.KindLost) {
			err = nil
		}
		return failed("archive the log of", h.Unit, err)
	}
	if rec.Exit != nil && rec.Exit.LogFault != "" {
		return waybill.E(waybill.KindLost, "%s", rec.Exit.LogFault)
	}
	return nil
}

// Gateway implements [runner.Bridged]: the address of this machine on the bridge.
func (r *Runner) Gateway(context.Context) (netip.Addr, error) {
	if r.rootless {
		return netip.Addr{}, waybill.E(waybill.KindUnsupported, "without privileges there is no bridge")
	}
	st, err := r.open()
	if err != nil {
		return netip.Addr{}, err
	}
	if err := st.net.ensure(); err != nil {
		return netip.Addr{}, err
	}
	return st.net.gateway, nil
}

// Close leaves units alone. The bridge goes when no unit is on it.
func (r *Runner) Close() error {
	r.mu.Lock()
	st := r.state
	r.state, r.closed = nil, true
	r.mu.Unlock()
	err := r.o.Inner.Close()
	if st == nil {
		return err
	}
	units, lerr := os.ReadDir(filepath.Join(r.dir, "units"))
	if lerr == nil && len(units) == 0 {
		st.net.tearDown()
		st.limits.forget("/waybill-" + st.instance[:8])
		if rerr := os.RemoveAll(st.memory); rerr != nil {
			r.log.Warn("a folder in memory could not be removed", "folder", st.memory, "error", rerr)
		}
	}
	return errors.Join(err, st.images.Close())
}
