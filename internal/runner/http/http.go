// Package http runs units that are requests to other systems: a step with
// "runner: http" calls an API, checks the answer, waits for a long operation and
// takes variables and files out of it, without a program.
//
// What is sent and expected is said by the step's "with", see [Settings].
// Arguments are ignored.
//
// # At least once
//
// A unit lives in this process. When the server ends while a request is under way,
// nobody will know its answer: the unit is lost, and the engine makes another
// attempt, which sends the request again. The same is true of an attempt that timed
// out or was stopped, and of every retry. So a request is sent at least once, and a
// system that must act once has to recognise the second: every request carries the
// header Idempotency-Key, made of run and step, the same in every attempt.
//
// # How a unit ends
//
// Code 0, or code 1 with one of the reasons below and a message for people:
//
//	connect          no connection: no such name, refused, unreachable
//	denied           the address is one that this server does not call, see internal/netguard
//	tls              no trust: certificate, name or protocol
//	timeout          no complete answer within the timeout of a request
//	connection_lost  the connection ended before the answer did
//	bad_answer       what came is not HTTP, or not the JSON it says it is
//	too_large        a body or header over its limit
//	redirect         more than ten redirects, or one that leads nowhere
//	http_status      a status that is not expected
//	expectation      another part of "expect" is not as it should be
//	poll             there is nothing to ask for the operation
//	outputs          a value is not in the answer, or the file cannot be written
//	start_failed     the request cannot be made: a file is missing
//
// # Expressions
//
// CEL with its string functions and default(value, other), over status (a number),
// headers (texts, by their names in small letters) and body: what the JSON holds if
// the answer says that it is JSON or says nothing, else a text, or bytes if it is none.
package http

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	nethttp "net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/netguard"
	"github.com/waybill-run/waybill/internal/runner"
)

// Name is the name of this runner in definitions.
const Name = "http"

// Options are the settings of a [Runner].
type Options struct {
	Guard     netguard.Guard // which addresses may be called
	UserAgent string         // "waybill" if empty
}

// Runner implements [runner.Runner].
type Runner struct {
	agent string
	guard atomic.Pointer[netguard.Guard]
	base  *nethttp.Transport // of steps without TLS settings of their own

	mu     sync.Mutex
	closed bool
	units  map[string]*unit
	live   sync.WaitGroup // the goroutines of units
}

var (
	_ runner.Runner    = (*Runner)(nil)
	_ runner.Described = (*Runner)(nil)
)

// New returns a runner without units.
func New(o Options) *Runner {
	r := &Runner{agent: o.UserAgent, units: map[string]*unit{}}
	if r.agent == "" {
		r.agent = "waybill"
	}
	r.guard.Store(&o.Guard)
	r.base = r.transport(&tls.Config{MinVersion: tls.VersionTLS12})
	return r
}

// SetGuard changes which addresses may be called, for connections made from now on.
func (r *Runner) SetGuard(g netguard.Guard) {
	r.guard.Store(&g)
	r.base.CloseIdleConnections()
}

// transport makes one that the guard watches. It uses no proxy: what a proxy
// connects to, the guard could not see.
func (r *Runner) transport(c *tls.Config) *nethttp.Transport {
	dialer := &net.Dialer{Timeout: defaultTimeout, KeepAlive: 15 * time.Second, Control: r.control}
	return &nethttp.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: c, ForceAttemptHTTP2: true,
		MaxResponseHeaderBytes: maxHeader, TLSHandshakeTimeout: defaultTimeout,
		MaxIdleConnsPerHost: 4, MaxIdleConns: 64, IdleConnTimeout: 30 * time.Second,
	}
}

// control judges every address that is dialled by the guard of that moment.
func (r *Runner) control(network, address string, c syscall.RawConn) error {
	return r.guard.Load().Control(network, address, c)
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Settings implements [runner.Described].
func (r *Runner) Settings() any { return Settings{} }

// Check says what is wrong with the settings. Values that hold expressions are
// judged when the unit starts.
func (r *Runner) Check(_ []string, with json.RawMessage) error {
	_, err := read(with, true)
	return err
}

var unitName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

func handle(unit string) runner.Handle { return runner.Handle{Runner: Name, Unit: unit} }

// Start implements [runner.Runner].
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := handle(s.Unit)
	if err := ctx.Err(); err != nil {
		return h, err
	}
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit", s.Unit).WithOp("start", s.Unit)
	}
	set, err := read(s.With, false)
	if err != nil {
		return h, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return h, waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("start", s.Unit)
	}
	if r.units[s.Unit] != nil {
		return h, nil
	}
	log, err := runner.OpenLog(s.Log, s.LogCap, s.Mask...)
	if err != nil {
		return h, waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("start", s.Unit)
	}
	u := newUnit(r, s, set, log)
	r.units[s.Unit] = u
	r.live.Go(u.live)
	return h, nil
}

func (r *Runner) find(h runner.Handle) *unit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.units[h.Unit]
}

func lost(op string, h runner.Handle) error {
	return waybill.E(waybill.KindLost, "the server ended while the request was under way, or the unit is unknown").WithOp(op, h.Unit)
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(_ context.Context, h runner.Handle, _ runner.Spec) error {
	if r.find(h) == nil {
		return lost("recover", h)
	}
	return nil
}

// Wait implements [runner.Runner].
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	u := r.find(h)
	if u == nil {
		return runner.Exit{}, lost("wait for", h)
	}
	select {
	case <-u.done:
		return u.exit, nil
	default:
	}
	select {
	case <-u.done:
		return u.exit, nil
	case <-ctx.Done():
		return runner.Exit{}, ctx.Err()
	}
}

// Stop implements [runner.Runner]. A request that is under way is given up at once:
// the other side may act upon it all the same.
func (r *Runner) Stop(_ context.Context, h runner.Handle, grace time.Duration) error {
	if u := r.find(h); u != nil {
		signal := "SIGTERM"
		if grace <= 0 {
			signal = "SIGKILL"
		}
		u.cut(cut{signal: signal})
	}
	return nil
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	u := r.find(h)
	if u == nil {
		return nil
	}
	u.cut(cut{signal: "SIGKILL"})
	select {
	case <-u.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.units[h.Unit] == u {
		delete(r.units, h.Unit)
	}
	return nil
}

// List implements [runner.Runner].
func (r *Runner) List(context.Context) ([]runner.Handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hs := make([]runner.Handle, 0, len(r.units))
	for name := range r.units {
		hs = append(hs, handle(name))
	}
	return hs, nil
}

// Close ends all units, which live in this process only, and returns when they
// are gone.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.closed = true
	for _, u := range r.units {
		u.cut(cut{signal: "SIGKILL"})
	}
	r.mu.Unlock()
	r.live.Wait()
	r.base.CloseIdleConnections()
	return nil
}
