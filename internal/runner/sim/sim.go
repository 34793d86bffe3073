// Package sim runs units that exist only in this process and misbehave on
// demand. It ships in the program: with it a pipeline can be tried out, and every
// fault of a unit rehearsed, without a program or a container.
//
// What a unit does is said by the step's "with", see [Settings]. Arguments are
// ignored. Units end with the process, so a restarted server finds them lost.
// All time is that of package time, so a test in a synctest bubble controls it.
package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// Name is the name of this runner in definitions.
const Name = "sim"

// Options are the settings of a [Runner].
type Options struct {
	// Client sends callbacks and heartbeats. Nil means a client with a time limit
	// of 10 s.
	Client *http.Client
	// Logger receives callbacks that failed. Nil means nothing is logged.
	Logger *slog.Logger
}

// Runner implements [runner.Runner].
type Runner struct {
	client *http.Client
	log    *slog.Logger

	open  context.Context // ends with Close
	close context.CancelFunc

	mu     sync.Mutex
	units  map[string]*unit
	faults map[string]*faults // by fail key
	live   sync.WaitGroup     // the goroutines of units
}

// faults counts what was misdone for one key, which is a step as a rule.
type faults struct {
	failed, refused, unpulled, unanswered int
}

var _ runner.Runner = (*Runner)(nil)

// New returns a runner without units.
func New(o Options) *Runner {
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{client: o.Client, log: o.Logger, units: map[string]*unit{}, faults: map[string]*faults{}}
	r.open, r.close = context.WithCancel(context.Background())
	return r
}

// Name returns [Name].
func (r *Runner) Name() string { return Name }

// Check says what is wrong with the settings.
func (r *Runner) Check(_ []string, with json.RawMessage) error {
	_, err := parse(with, runner.DecodeOpen)
	return err
}

// Settings implements [runner.Described].
func (r *Runner) Settings() any { return Settings{} }

var unitName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Start implements [runner.Runner].
func (r *Runner) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	h := r.handle(s.Unit)
	if err := ctx.Err(); err != nil {
		return h, err
	}
	if !unitName.MatchString(s.Unit) {
		return h, waybill.E(waybill.KindInvalid, "%q is no name of a unit", s.Unit).WithOp("start", s.Unit)
	}
	set, err := parse(s.With, runner.Decode)
	if err != nil {
		return h, err
	}
	if h, err = r.begin(h, s, set); err != nil || set.SlowStart <= 0 {
		return h, err
	}
	answer := time.NewTimer(time.Duration(set.SlowStart))
	defer answer.Stop()
	select {
	case <-answer.C:
		return h, nil
	case <-ctx.Done():
		return h, ctx.Err()
	}
}

func (r *Runner) begin(h runner.Handle, s runner.Spec, set Settings) (runner.Handle, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Err() != nil {
		return h, waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("start", s.Unit)
	}
	if r.units[s.Unit] != nil {
		return h, nil
	}
	key := set.FailKey
	if key == "" {
		key = s.Meta["run"] + "/" + s.Meta["step"]
	}
	f := r.faults[key]
	if f == nil {
		f = &faults{}
		r.faults[key] = f
	}
	if f.refused < set.StartError {
		f.refused++
		return h, waybill.E(waybill.KindUnavailable, "refused on demand, %d of %d", f.refused, set.StartError).WithOp("start", s.Unit)
	}
	if f.unpulled < set.PullErrors {
		f.unpulled++
		reason := set.PullReason
		if reason == "" {
			reason = runner.ReasonPullNetwork
		}
		return h, &runner.PullError{Image: "sim", Reason: reason, Err: waybill.E(waybill.KindUnavailable, "not to be had on demand, %d of %d", f.unpulled, set.PullErrors)}
	}
	fail := f.failed < set.FailFirst
	if fail {
		f.failed++
	}
	u, err := newUnit(r, s, set, fail)
	if err != nil {
		return h, waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("start", s.Unit)
	}
	r.units[s.Unit] = u
	r.live.Go(u.live)
	if c := set.Callback; c != nil && c.After > 0 {
		r.live.Go(u.timedCallback)
	}
	if f.unanswered < set.LoseAnswer {
		f.unanswered++
		return h, waybill.E(waybill.KindUnavailable, "started, but the answer is lost on demand").WithOp("start", s.Unit)
	}
	return h, nil
}

func (r *Runner) find(h runner.Handle) *unit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.units[h.Unit]
}

func lost(op string, h runner.Handle) error {
	return waybill.E(waybill.KindLost, "the unit is unknown or has vanished").WithOp(op, h.Unit)
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(_ context.Context, h runner.Handle, _ runner.Spec) error {
	u := r.find(h)
	if u == nil || u.hasVanished() {
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
	default:
		select {
		case <-u.done:
		case <-ctx.Done():
			return runner.Exit{}, ctx.Err()
		}
	}
	if u.hasVanished() {
		return runner.Exit{}, lost("wait for", h)
	}
	return u.exit, nil
}

// Stop implements [runner.Runner].
func (r *Runner) Stop(_ context.Context, h runner.Handle, grace time.Duration) error {
	if u := r.find(h); u != nil {
		u.stop(grace)
	}
	return nil
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	u := r.find(h)
	if u == nil {
		return nil
	}
	u.kill("")
	select {
	case <-u.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.kept < u.set.RemoveError {
		u.kept++
		return waybill.E(waybill.KindUnavailable, "refused on demand, %d of %d", u.kept, u.set.RemoveError).WithOp("remove", h.Unit)
	}
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
	for name, u := range r.units {
		if !u.hasVanished() {
			hs = append(hs, r.handle(name))
		}
	}
	return hs, nil
}

// Close ends all units, which live in this process only, and returns when they
// are gone.
func (r *Runner) Close() error {
	r.mu.Lock()
	r.close()
	for _, u := range r.units {
		u.kill("")
	}
	r.mu.Unlock()
	r.live.Wait()
	return nil
}

func (r *Runner) handle(unit string) runner.Handle { return runner.Handle{Runner: Name, Unit: unit} }

// post sends a callback. What comes back changes nothing for the unit: a real
// one might not look at it either.
func (r *Runner) post(ctx context.Context, url, token string, body any) {
	b, err := json.Marshal(body)
	if err == nil {
		err = r.send(ctx, url, token, b)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		r.log.Warn("a callback of a simulated unit failed", "error", err)
	}
}

func (r *Runner) send(ctx context.Context, url, token string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	if res.StatusCode >= 300 {
		return fmt.Errorf("answered %s", res.Status)
	}
	return nil
}

// env returns the value of a variable in the unit's environment.
func env(s runner.Spec, name string) string {
	for _, v := range s.Env {
		if val, ok := strings.CutPrefix(v, name+"="); ok {
			return val
		}
	}
	return ""
}

// writeOutputs appends variables to the file that the environment names, as JSON
// lines.
func writeOutputs(s runner.Spec, outputs map[string]json.RawMessage) error {
	path := env(s, "WAYBILL_OUTPUT")
	if path == "" {
		return errors.New("outputs: the environment has no WAYBILL_OUTPUT")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("outputs: %w", err)
	}
	enc := json.NewEncoder(f)
	for name, v := range outputs {
		if err := enc.Encode(map[string]json.RawMessage{name: v}); err != nil {
			f.Close()
			return fmt.Errorf("outputs: %w", err)
		}
	}
	return f.Close()
}
