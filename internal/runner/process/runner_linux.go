package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// Runner starts units through the supervisor of its folder. It holds no state of
// its own: several of them, in one program or several, may share a folder.
type Runner struct {
	o   Options
	log *slog.Logger

	turn   chan struct{} // held by the one that connects
	closed chan struct{}

	mu    sync.Mutex
	conn  *conn
	child int // pid of the supervisor when it is our child and not yet collected
}

var _ runner.Runner = (*Runner)(nil)

// New returns a runner for o.Dir, which it makes. A supervisor is started when
// the first unit needs one.
func New(o Options) (*Runner, error) {
	if len(o.Command) == 0 || !filepath.IsAbs(o.Command[0]) {
		return nil, waybill.E(waybill.KindInvalid, "the command of the supervisor needs a program by its absolute path")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the supervisor: %w", err)
	}
	o.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "make the folder of the supervisor: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "close the folder of the supervisor to others: %w", err)
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 10 * time.Second
	}
	return &Runner{o: o, log: o.Logger, turn: make(chan struct{}, 1), closed: make(chan struct{})}, nil
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Check says what is wrong with an argument list. There are no settings.
func (r *Runner) Check(args []string, with json.RawMessage) error {
	if len(args) == 0 || args[0] == "" {
		return waybill.E(waybill.KindInvalid, "run: a program is needed")
	}
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			return waybill.E(waybill.KindInvalid, "run: argument %d contains a zero byte", i)
		}
	}
	if len(bytes.TrimSpace(with)) == 0 {
		return nil
	}
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(with, &settings); err != nil {
		return waybill.E(waybill.KindInvalid, "with: not an object: %w", err)
	}
	for key := range settings {
		return waybill.E(waybill.KindInvalid, "with: the process runner has no settings, so %q is unknown", key)
	}
	return nil
}

var unitName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Start implements [runner.Runner].
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := r.handle(s.Unit)
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit", s.Unit).WithOp("start", s.Unit)
	}
	err := r.Check(s.Args, nil)
	for _, v := range s.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsRune(v, 0) {
			err = waybill.E(waybill.KindInvalid, "%q in the environment is not NAME=value", name)
		}
	}
	if s.Dir == "" || s.Log == "" {
		err = waybill.E(waybill.KindInvalid, "a working directory and a log are needed")
	}
	if err != nil {
		return h, failed("start", s.Unit, err)
	}
	if s.Dir, err = filepath.Abs(s.Dir); err == nil {
		s.Log, err = filepath.Abs(s.Log)
	}
	if err != nil {
		return h, failed("start", s.Unit, err)
	}
	s.Meta = nil // nothing there reads it
	if !r.o.Handover {
		s.With = nil
	}
	_, err = r.call(ctx, request{Op: opStart, Unit: s.Unit, Spec: &s})
	return h, failed("start", s.Unit, err)
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(ctx context.Context, h runner.Handle, _ runner.Spec) error {
	_, err := r.call(ctx, request{Op: opState, Unit: h.Unit})
	return failed("recover", h.Unit, err)
}

// Wait implements [runner.Runner].
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	res, err := r.call(ctx, request{Op: opWait, Unit: h.Unit})
	if err != nil {
		return runner.Exit{}, failed("wait for", h.Unit, err)
	}
	if res.Exit == nil {
		return runner.Exit{}, failed("wait for", h.Unit, errors.New("the supervisor sent no exit"))
	}
	return *res.Exit, nil
}

// Stop implements [runner.Runner].
func (r *Runner) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	_, err := r.call(ctx, request{Op: opStop, Unit: h.Unit, Grace: grace})
	return failed("stop", h.Unit, err)
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	_, err := r.call(ctx, request{Op: opRemove, Unit: h.Unit})
	return failed("remove", h.Unit, err)
}

// List implements [runner.Runner]. It includes lost units, which are kept until
// they are removed.
func (r *Runner) List(ctx context.Context) ([]runner.Handle, error) {
	res, err := r.call(ctx, request{Op: opList})
	if err != nil {
		return nil, failed("list", "units", err)
	}
	hs := make([]runner.Handle, len(res.Units))
	for i, u := range res.Units {
		hs[i] = r.handle(u)
	}
	return hs, nil
}

// Close leaves the supervisor and the units alone. Calls that wait return an
// error of kind unavailable.
func (r *Runner) Close() error {
	r.turn <- struct{}{} // nobody connects meanwhile
	defer func() { <-r.turn }()
	r.mu.Lock()
	c := r.conn
	r.conn = nil
	select {
	case <-r.closed:
	default:
		close(r.closed)
	}
	r.mu.Unlock()
	if c != nil {
		c.close(net.ErrClosed)
		c.running.Wait()
	}
	r.collect()
	return nil
}

func (r *Runner) handle(unit string) runner.Handle { return runner.Handle{Runner: Name, Unit: unit} }

// failed says what failed. The end of a context is passed on as it is.
func failed(op, unit string, err error) error {
	var e *waybill.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &e):
		return e.WithOp(op, unit)
	}
	return waybill.E(waybill.KindInternal, "%w", err).WithOp(op, unit)
}

// call sends a request and returns its answer. All requests may be repeated, so
// when the supervisor goes away in between it is asked of the next one.
func (r *Runner) call(ctx context.Context, q request) (response, error) {
	const tries = 5
	var last error
	for range tries {
		c, err := r.connect(ctx)
		if err != nil {
			return response{}, err
		}
		if q.Spec != nil && len(q.Spec.Mask) > 0 && !c.hello.Masks {
			return response{}, waybill.E(waybill.KindUnavailable, "the supervisor with pid %d is of an older version, which would write secrets to the log", c.hello.PID).
				WithHint("it leaves when its units have ended and no server is connected; restart the server then")
		}
		res, err := c.call(ctx, q)
		if err == nil {
			if res.Kind != "" {
				return response{}, waybill.E(res.Kind, "%s", res.Msg)
			}
			return res, nil
		}
		if ctx.Err() != nil {
			return response{}, ctx.Err()
		}
		if waybill.KindOf(err) != waybill.KindUnavailable {
			return response{}, err
		}
		last = err
	}
	return response{}, last
}

// connect returns the connection, made anew when there is none. It starts a
// supervisor when none answers.
func (r *Runner) connect(ctx context.Context) (*conn, error) {
	if c := r.current(); c != nil {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := r.current(); c != nil {
		return c, nil
	}
	select {
	case <-r.closed:
		return nil, waybill.E(waybill.KindUnavailable, "the runner is closed")
	default:
	}
	// Not the caller's context: others wait for the same supervisor.
	until := time.Now().Add(r.o.StartTimeout)
	var why error
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		r.collect()
		c, err := dial(r.o.Dir)
		if err == nil {
			r.mu.Lock()
			r.conn = c
			r.mu.Unlock()
			return c, nil
		}
		if e := (*waybill.Error)(nil); errors.As(err, &e) {
			return nil, err // it answers, and waiting will not help
		}
		why = err
		if r.childGone() {
			if err := r.startSupervisor(); err != nil {
				return nil, waybill.E(waybill.KindUnavailable, "start the supervisor: %w", err)
			}
		}
		if time.Now().After(until) {
			return nil, waybill.E(waybill.KindUnavailable, "the supervisor does not answer: %w", why).
				WithHint("see %s", filepath.Join(r.o.Dir, logName))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// current returns the connection if it is still good.
func (r *Runner) current() *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return nil
	}
	select {
	case <-r.conn.done:
		r.conn = nil
	default:
	}
	return r.conn
}

// startSupervisor starts one in a session of its own. If another is faster, ours
// ends by itself.
func (r *Runner) startSupervisor() error {
	path := filepath.Join(r.o.Dir, logName)
	mode := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
		mode |= os.O_TRUNC
	}
	out, err := os.OpenFile(path, mode, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	// Not os/exec: nobody waits for it, and it is not ours to end.
	pid, err := syscall.ForkExec(r.o.Command[0], r.o.Command, &syscall.ProcAttr{
		Dir: "/", Env: r.o.Env,
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", r.o.Command[0], err)
	}
	r.mu.Lock()
	r.child = pid
	r.mu.Unlock()
	r.log.Info("started a supervisor for processes", "pid", pid, "dir", r.o.Dir)
	return nil
}

// collect takes the status of a supervisor that was our child and has ended.
func (r *Runner) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == 0 {
		return
	}
	if pid, err := unix.Wait4(r.child, nil, unix.WNOHANG, nil); pid == r.child || err == unix.ECHILD {
		r.child = 0
	}
}

func (r *Runner) childGone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.child == 0
}

// conn is a connection to a supervisor.
type conn struct {
	c       *net.UnixConn
	hello   hello
	w       *frameWriter
	done    chan struct{}  // closed when it is of no use any more
	running sync.WaitGroup // its two goroutines

	mu      sync.Mutex
	err     error
	last    uint64
	pending map[uint64]chan response
}

func dial(dir string) (*conn, error) {
	var c *net.UnixConn
	err := socketPath(dir, func(path string) error {
		var err error
		c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := samePeer(c); err != nil {
		c.Close()
		return nil, err
	}
	fr := newFrameReader(c)
	var h hello
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err := fr.read(&h); err != nil {
		c.Close()
		return nil, fmt.Errorf("greeting of the supervisor: %w", err)
	}
	c.SetReadDeadline(time.Time{})
	if h.Protocol != protocol {
		c.Close()
		return nil, waybill.E(waybill.KindUnavailable, "the supervisor with pid %d speaks version %d, this program version %d", h.PID, h.Protocol, protocol).
			WithHint("it leaves when its units have ended; until then use the program that started it")
	}
	cn := &conn{c: c, hello: h, w: newFrameWriter(c), done: make(chan struct{}), pending: map[uint64]chan response{}}
	cn.running.Go(cn.w.run)
	cn.running.Go(func() { cn.read(fr) })
	return cn, nil
}

func (c *conn) read(fr *frameReader) {
	for {
		var res response
		if err := fr.read(&res); err != nil {
			c.close(err)
			return
		}
		c.mu.Lock()
		ch := c.pending[res.ID]
		delete(c.pending, res.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- res
		}
	}
}

func (c *conn) close(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = why
	close(c.done)
	c.w.close()
	c.c.Close()
}

// call returns an error of kind unavailable when the connection is lost, after
// which the request may have been served or not.
func (c *conn) call(ctx context.Context, q request) (response, error) {
	ch := make(chan response, 1)
	c.mu.Lock()
	c.last++
	q.ID = c.last
	c.pending[q.ID] = ch
	c.mu.Unlock()
	if err := c.w.send(q); err != nil {
		c.drop(q.ID)
		if errors.Is(err, net.ErrClosed) {
			return response{}, c.lostErr()
		}
		return response{}, err
	}
	select {
	case res := <-ch:
		return res, nil
	case <-ctx.Done():
		c.drop(q.ID)
		if q.Op == opWait {
			c.w.send(request{Op: opForget, Unit: q.Unit, Of: q.ID})
		}
		return response{}, ctx.Err()
	case <-c.done:
		select {
		case res := <-ch: // it came just before
			return res, nil
		default:
		}
		c.drop(q.ID)
		return response{}, c.lostErr()
	}
}

func (c *conn) drop(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *conn) lostErr() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return waybill.E(waybill.KindUnavailable, "the supervisor went away: %w", c.err)
}
