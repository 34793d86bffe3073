package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// unit is one simulated unit.
type unit struct {
	r    *Runner
	spec runner.Spec
	set  Settings
	fail bool // one of those that fail first
	out  *runner.Log

	started time.Time
	killed  context.Context // ends when it is killed; its cause is a cut
	cut     context.CancelCauseFunc
	done    chan struct{}
	exit    runner.Exit // set before done closes
	gone    bool        // vanished; set before done closes
	kept    int         // removals that were refused; guarded by r.mu

	mu      sync.Mutex
	grace   *time.Timer
	graceAt time.Time
	hard    *time.Timer
}

// cut is how a unit was ended from outside.
type cut struct{ signal, reason string }

func (c cut) Error() string { return "ended by " + c.signal }

func newUnit(r *Runner, s runner.Spec, set Settings, fail bool) (*unit, error) {
	out, err := runner.OpenLog(s.Log, s.LogCap, s.Mask...)
	if err != nil {
		return nil, err
	}
	u := &unit{
		r: r, spec: s, set: set, fail: fail, out: out,
		started: time.Now(), done: make(chan struct{}),
	}
	u.killed, u.cut = context.WithCancelCause(context.Background())
	if !s.HardStop.IsZero() {
		u.hard = time.AfterFunc(time.Until(s.HardStop), func() { u.kill(runner.ReasonHardStop) })
	}
	return u, nil
}

// live is the whole life of the unit.
func (u *unit) live() {
	end := u.run()
	u.mu.Lock()
	for _, t := range []*time.Timer{u.grace, u.hard} {
		if t != nil {
			t.Stop()
		}
	}
	u.mu.Unlock()
	u.out.Close(&end)
	end.StartedAt, end.EndedAt = u.started.UTC().Round(0), time.Now().UTC().Round(0)
	u.exit = end
	close(u.done)
	u.cut(nil)
}

// run does what the settings say and returns how the unit ended.
func (u *unit) run() runner.Exit {
	if u.set.StartFail {
		return runner.Exit{Code: 127, Reason: runner.ReasonStartFailed, Message: "it cannot be started, on demand"}
	}
	// The clock of run_for runs from the start, whatever the unit does meanwhile.
	over := time.NewTimer(time.Duration(u.set.RunFor))
	defer over.Stop()
	// Nothing that accompanies the unit acts for it after its end.
	ctx, cancel := context.WithCancel(u.killed)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	if u.set.Heartbeat > 0 {
		beside.Go(func() { u.heartbeats(ctx) })
	}
	if !u.print() {
		return u.cutShort()
	}
	if u.set.Hang {
		<-u.killed.Done()
		return u.cutShort()
	}
	select {
	case <-over.C:
	case <-u.killed.Done():
		return u.cutShort()
	}
	if u.set.Vanish {
		u.gone = true
		return runner.Exit{Code: -1}
	}
	if u.fail {
		return runner.Exit{Code: max(1, u.set.Exit), Message: "it fails on demand"}
	}
	e := runner.Exit{Code: u.set.Exit, Signal: u.set.Signal, Reason: u.set.Reason}
	if e.Signal != "" {
		e.Code = -1
	}
	if len(u.set.Outputs) > 0 {
		if err := writeOutputs(u.spec, u.set.Outputs); err != nil {
			return runner.Exit{Code: 1, Message: err.Error()}
		}
	}
	if c := u.set.Callback; c != nil && c.After == 0 {
		u.callback(u.killed)
	}
	return e
}

func (u *unit) cutShort() runner.Exit {
	c, _ := context.Cause(u.killed).(cut)
	return runner.Exit{Code: -1, Signal: c.signal, Reason: c.reason}
}

// print writes the log. It reports false when the unit was ended meanwhile.
func (u *unit) print() bool {
	w := bufio.NewWriterSize(u.out, 32<<10)
	for _, l := range u.set.LogText {
		fmt.Fprintln(w, l)
	}
	for i := range u.set.LogLines {
		fmt.Fprintf(w, "line %d\n", i+1)
		if u.set.LogRate > 0 {
			w.Flush()
			if !pause(u.killed, time.Duration(float64(time.Second)/u.set.LogRate)) {
				return false
			}
		}
	}
	for _, part := range []struct {
		n    int64
		what repeated
	}{{u.set.LogBytes, 'x'}, {int64(u.set.LogBinary), 0}} {
		for left := part.n; left > 0; {
			if u.killed.Err() != nil {
				w.Flush()
				return false
			}
			n, _ := io.CopyN(w, part.what, min(left, 1<<20))
			left -= n
		}
	}
	w.Flush()
	return u.killed.Err() == nil
}

// repeated reads as the same byte for ever.
type repeated byte

func (r repeated) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r)
	}
	return len(b), nil
}

// pause waits and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (u *unit) heartbeats(ctx context.Context) {
	// Heartbeats go beside the callback.
	url := strings.TrimSuffix(env(u.spec, "WAYBILL_CALLBACK"), "/callback")
	for pause(ctx, time.Duration(u.set.Heartbeat)) && url != "" {
		u.r.post(ctx, url+"/heartbeat", env(u.spec, "WAYBILL_TOKEN"), struct{}{})
	}
}

// timedCallback is one at a time of its own, whatever became of the unit: a
// message that was long on its way.
func (u *unit) timedCallback() {
	if pause(u.r.open, time.Duration(u.set.Callback.After)) {
		u.callback(u.r.open)
	}
}

// callbackBody is what a unit sends when it is done.
type callbackBody struct {
	Status    string                     `json:"status"`
	Variables map[string]json.RawMessage `json:"variables,omitempty"`
	Error     string                     `json:"error,omitempty"`
}

func (u *unit) callback(ctx context.Context) {
	c, url, token := u.set.Callback, env(u.spec, "WAYBILL_CALLBACK"), env(u.spec, "WAYBILL_TOKEN")
	if url == "" {
		return
	}
	if c.WrongToken {
		token = "wrong"
	}
	body := callbackBody{Status: c.Status, Variables: c.Variables, Error: c.Error}
	if body.Status == "" {
		body.Status = "succeeded"
	}
	u.r.post(ctx, url, token, body)
	if c.Twice {
		u.r.post(ctx, url, token, body)
	}
}

// hasVanished reports whether the unit is gone without a trace.
func (u *unit) hasVanished() bool {
	select {
	case <-u.done:
		return u.gone
	default:
		return false
	}
}

// stop ends the unit, or after grace when it hangs. The earliest end counts.
func (u *unit) stop(grace time.Duration) {
	if grace <= 0 {
		u.kill("")
		return
	}
	if !u.set.Hang {
		u.cut(cut{signal: "SIGTERM"})
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	at := time.Now().Add(grace)
	switch {
	case u.killed.Err() != nil:
	case u.grace == nil:
		u.grace, u.graceAt = time.AfterFunc(grace, func() { u.kill("") }), at
	case at.Before(u.graceAt):
		u.grace.Reset(grace)
		u.graceAt = at
	}
}

func (u *unit) kill(reason string) { u.cut(cut{signal: "SIGKILL", reason: reason}) }
