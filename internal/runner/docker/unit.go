package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	dockercontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/docker/inside"
)

// errReplaced is the end of a unit that somebody else follows now.
var errReplaced = errors.New("another one follows the unit")

// unit is a container whose log is read until its end.
type unit struct {
	r      *Runner
	name   string
	id     string
	files  string
	spec   runner.Spec
	logged bool
	cancel context.CancelFunc

	replay   *container.Replay // nil when nothing is written
	parser   *inside.Parser
	consumed int64 // bytes of the container's log that the parser has seen
	complain []byte
	first    *inside.Frame
	last     *inside.Frame
	tell     sync.Once

	began chan struct{} // closed when the unit has begun or has ended
	done  chan struct{} // closed when exit and err are there
	exit  runner.Exit
	err   error
	none  bool // it has ended without an order

	mu      sync.Mutex
	killing *time.Timer // the end of the grace of a stop
	killAt  time.Time
	gone    error // why nobody follows any more
}

// follow returns the unit of a container, which is followed from now on. A spec with a
// log takes the place of one without.
func (r *Runner) follow(c dockercontainer.InspectResponse, s runner.Spec) *unit {
	name := c.Config.Labels[container.LabelUnit]
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.units[name]
	if old != nil && old.id == c.ID && (old.logged || s.Log == "") {
		return old
	}
	if old != nil {
		old.give(errReplaced)
	}
	u := &unit{
		r: r, name: name, id: c.ID, files: c.Config.Labels[labelFiles], spec: s, logged: s.Log != "",
		began: make(chan struct{}), done: make(chan struct{}),
	}
	u.parser = inside.NewParser(c.Config.Labels[labelWord], u.frame, func(b []byte) {
		if u.replay != nil {
			_, _ = u.replay.Write(b)
		}
	})
	ctx, cancel := context.WithCancel(r.open)
	u.cancel = cancel
	r.units[name] = u
	r.live.Go(func() {
		defer cancel()
		if old != nil {
			<-old.done // it writes to the same file
		}
		u.live(ctx, c)
	})
	return u
}

// give ends the following of a unit.
func (u *unit) give(why error) {
	u.mu.Lock()
	if u.gone == nil {
		u.gone = why
	}
	if u.killing != nil {
		u.killing.Stop()
	}
	u.mu.Unlock()
	u.cancel()
}

func (u *unit) frame(f inside.Frame) {
	if u.first == nil {
		u.first = &f
	}
	if f.Last() {
		u.last = &f
	}
	u.tell.Do(func() { close(u.began) })
}

// never reports whether a unit has ended without its order.
func (u *unit) never() bool {
	select {
	case <-u.done:
		return u.none
	default:
		return false
	}
}

// collected reports whether the unit has ended and its files were taken.
func (u *unit) collected() bool {
	select {
	case <-u.done:
		return u.err == nil
	default:
		return false
	}
}

// live follows the unit to its end.
func (u *unit) live(ctx context.Context, c dockercontainer.InspectResponse) {
	defer u.tell.Do(func() { close(u.began) }) // after done: see never
	defer close(u.done)
	if u.logged {
		var err error
		if u.replay, err = container.OpenReplay(u.spec.Log, base(c), u.spec.LogCap, u.spec.Mask...); err != nil {
			u.err = waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("follow", u.name)
			u.r.forget(u)
			return
		}
	}
	c, err := u.readAll(ctx)
	if err != nil {
		if u.replay != nil {
			_ = u.replay.Leave()
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.err = err; u.gone != nil {
			u.err = u.gone
		} else if ctx.Err() != nil {
			u.err = waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("wait for", u.name)
		}
		return
	}
	u.parser.End()
	e, err := u.judge(c)
	if u.last != nil && u.last.Unsaid > 0 && u.replay != nil {
		u.replay.Skip(u.last.Unsaid)
	}
	if u.replay != nil {
		u.replay.Close(&e)
	}
	u.exit, u.err = e, err
}

// readAll reads the container's log until the container has ended and all of it is read.
// An engine that does not answer is asked again until ctx ends.
func (u *unit) readAll(ctx context.Context) (dockercontainer.InspectResponse, error) {
	pause := 50 * time.Millisecond
	whole := false  // the log was read to its end after the container had ended
	silent := false // what is wrong was said
	for {
		before := u.consumed
		err := u.read(ctx, !whole)
		var c dockercontainer.InspectResponse
		if err == nil {
			var found bool
			c, found, err = u.r.look(ctx, "follow", u.name)
			if err == nil && (!found || c.ID != u.id) {
				err = lost("follow", u.name)
			}
		}
		switch {
		case ctx.Err() != nil:
			return c, ctx.Err()
		case waybill.IsKind(err, waybill.KindLost), waybill.IsKind(err, waybill.KindConflict):
			if u.last != nil && u.files != filesCopy { // it was removed, and had told everything
				c.State = &dockercontainer.State{Status: dockercontainer.StateExited}
				return c, nil
			}
			return c, lost("follow", u.name)
		case err != nil:
			if !silent {
				u.r.log.Warn("a unit cannot be followed for now", "unit", u.name, "error", err)
			}
			silent = true
		case ended(c):
			if whole || u.last != nil {
				if err = u.collect(ctx, c); err == nil || waybill.IsKind(err, waybill.KindLost) {
					return c, err
				}
				u.r.log.Warn("the files of a unit cannot be taken for now", "unit", u.name, "error", err)
				break
			}
			whole = true
			continue
		default:
			silent = false
		}
		if u.consumed > before {
			pause = 50 * time.Millisecond
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 5*time.Second)
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}

func ended(c dockercontainer.InspectResponse) bool {
	switch c.State.Status {
	case dockercontainer.StateExited, dockercontainer.StateDead, dockercontainer.StateRemoving:
		return true
	case dockercontainer.StateCreated:
		return c.State.Error != ""
	case "stopped": // Podman
		return true
	}
	return false
}

// read reads the log from its beginning, and hands on what is new.
func (u *unit) read(ctx context.Context, follow bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logs, err := u.r.api.ContainerLogs(ctx, u.id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: follow})
	if cerrdefs.IsNotFound(err) {
		return lost("follow", u.name)
	}
	if err != nil {
		return u.r.fault(ctx, "follow", u.name, err)
	}
	defer logs.Close()
	u.r.heard()
	u.complain = nil
	out := &after{skip: u.consumed, to: func(b []byte) {
		u.consumed += int64(len(b))
		_, _ = u.parser.Write(b)
	}}
	_, err = stdcopy.StdCopy(out, &tail{&u.complain}, logs)
	if err != nil && ctx.Err() == nil {
		return u.r.fault(ctx, "follow", u.name, fmt.Errorf("read the log: %w", err))
	}
	return ctx.Err()
}

// after is a writer that leaves out the beginning.
type after struct {
	skip int64
	to   func([]byte)
}

func (a *after) Write(b []byte) (int, error) {
	n := len(b)
	k := min(a.skip, int64(n))
	a.skip -= k
	if b = b[k:]; len(b) > 0 {
		a.to(b)
	}
	return n, nil
}

// tail keeps the end of what the first process complains of.
type tail struct{ b *[]byte }

func (t *tail) Write(b []byte) (int, error) {
	*t.b = append(*t.b, b...)
	if over := len(*t.b) - 2000; over > 0 {
		*t.b = (*t.b)[over:]
	}
	return len(b), nil
}

// collect takes the unit's files back where they are not shared, or not with this user.
func (u *unit) collect(ctx context.Context, c dockercontainer.InspectResponse) error {
	if u.files != filesCopy {
		return u.r.openHome(ctx, c, u.name)
	}
	if u.spec.Dir == "" {
		return nil
	}
	return u.r.copyBack(ctx, u.id, u.name, u.spec.Dir)
}

// judge says how a unit has ended.
func (u *unit) judge(c dockercontainer.InspectResponse) (runner.Exit, error) {
	e := runner.Exit{Code: -1, StartedAt: parseTime(c.State.StartedAt), EndedAt: parseTime(c.State.FinishedAt)}
	if u.first != nil {
		e.StartedAt = u.first.Began
	}
	if f := u.last; f != nil {
		e.Code, e.Signal, e.Reason, e.Message, e.StartedAt, e.EndedAt = f.Code, f.Signal, f.Reason, f.Text, f.Began, f.Ended
		if e.Signal == "SIGKILL" && e.Reason == "" && c.State.OOMKilled {
			e.Reason = runner.ReasonOOM
		}
		return e, nil
	}
	switch {
	case c.State.Error != "" && u.first == nil:
		e.Reason, e.Message = runner.ReasonStartFailed, container.Clean(errors.New(c.State.Error))
		if e.EndedAt.IsZero() {
			e.EndedAt = parseTime(c.Created)
		}
		if e.StartedAt.IsZero() {
			e.StartedAt = e.EndedAt
		}
	case c.State.OOMKilled:
		e.Signal, e.Reason, e.Message = "SIGKILL", runner.ReasonOOM, "it took more memory than it may"
	case u.first == nil:
		u.none = true
		return e, lost("follow", u.name)
	case c.State.ExitCode > 128 && c.State.ExitCode < 128+65:
		// The first process was killed itself, so it was by somebody else, or with a kill
		// of the engine.
		e.Signal = unix.SignalName(unix.Signal(c.State.ExitCode - 128))
		e.Message = "the container was killed from outside"
	default:
		e.Signal, e.Message = "SIGKILL", fmt.Sprintf("the container has ended with its engine (code %d)", c.State.ExitCode)
	}
	return e, nil
}

func parseTime(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1970 {
		return time.Time{}
	}
	return t
}

func (r *Runner) forget(u *unit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.units[u.name] == u {
		delete(r.units, u.name)
	}
}

func (r *Runner) find(unit string) *unit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.units[unit]
}

// Recover implements [runner.Runner].
func (r *Runner) Recover(ctx context.Context, h runner.Handle, s runner.Spec) error {
	c, found, err := r.look(ctx, "recover", h.Unit)
	if waybill.IsKind(err, waybill.KindConflict) {
		return lost("recover", h.Unit)
	}
	if err != nil {
		return err
	}
	if !found || c.State.Status == dockercontainer.StateRemoving || c.State.Status == dockercontainer.StateDead || unstarted(c) {
		return lost("recover", h.Unit)
	}
	r.follow(c, s)
	return nil
}

// Archive implements [runner.Contained].
func (r *Runner) Archive(ctx context.Context, h runner.Handle, s runner.Spec) error {
	c, found, err := r.look(ctx, "archive the log of", h.Unit)
	if waybill.IsKind(err, waybill.KindConflict) || err == nil && (!found || !ended(c)) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Unit = h.Unit
	u := r.follow(c, s)
	select {
	case <-u.done:
		if u.exit.LogFault != "" { // there may be room for it now
			r.forget(u)
			u = r.follow(c, s)
		}
	default:
	}
	select {
	case <-u.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if u.err != nil && !waybill.IsKind(u.err, waybill.KindLost) {
		return u.err
	}
	if u.exit.LogFault != "" {
		return waybill.E(waybill.KindUnavailable, "%s", u.exit.LogFault).WithOp("archive the log of", h.Unit)
	}
	return nil
}

// Wait implements [runner.Runner].
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	began := time.Now()
	for {
		u := r.find(h.Unit)
		if u == nil {
			if err := r.Recover(ctx, h, runner.Spec{}); err != nil {
				return runner.Exit{}, err
			}
			continue
		}
		look := time.NewTimer(r.o.Patience / 3)
		select {
		case <-u.done:
			look.Stop()
			if errors.Is(u.err, errReplaced) {
				continue
			}
			return u.exit, u.err
		case <-ctx.Done():
			look.Stop()
			return runner.Exit{}, ctx.Err()
		case <-look.C:
		}
		if err := r.alive(ctx, began); err != nil {
			return runner.Exit{}, err
		}
	}
}

// alive asks the engine for a sign of life, and says so when there was none for too long.
func (r *Runner) alive(ctx context.Context, began time.Time) error {
	r.mu.Lock()
	seen := r.seen
	r.mu.Unlock()
	if time.Since(seen) < r.o.Patience/3 {
		return nil
	}
	bound, cancel := context.WithTimeout(ctx, r.o.Patience/3)
	defer cancel()
	_, err := r.api.Ping(bound, client.PingOptions{})
	if err == nil {
		r.heard()
		return nil
	}
	if seen.Before(began) {
		seen = began
	}
	if time.Since(seen) < r.o.Patience && ctx.Err() == nil {
		return nil
	}
	return r.fault(ctx, "wait for", "the engine", err)
}

// Stop implements [runner.Runner]. The end of the grace is kept in memory: a server that
// starts anew is asked to stop again.
func (r *Runner) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	c, found, err := r.look(ctx, "stop", h.Unit)
	if waybill.IsKind(err, waybill.KindConflict) || err == nil && (!found || !c.State.Running) {
		return nil
	}
	if err != nil {
		return err
	}
	u := r.follow(c, runner.Spec{})
	if grace <= 0 {
		return u.kill(ctx)
	}
	u.mu.Lock()
	at := time.Now().Add(grace)
	if u.killing == nil || at.Before(u.killAt) {
		if u.killing != nil {
			u.killing.Stop()
		}
		u.killAt = at
		u.killing = time.AfterFunc(grace, u.killLate)
	}
	u.mu.Unlock()
	return u.signal(ctx, "SIGTERM")
}

// killLate ends a unit that has not ended within its grace.
func (u *unit) killLate() {
	ctx := u.r.open
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 10*time.Second) {
		err := u.kill(ctx)
		if err == nil {
			return
		}
		u.r.log.Warn("a unit cannot be killed for now", "unit", u.name, "error", err)
		select {
		case <-time.After(pause):
		case <-u.done:
			return
		case <-ctx.Done():
		}
	}
}

// speak is how long the first process has to end what it watches over.
const speak = 5 * time.Second

// kill has the first process kill the unit, and kills it itself when that is of no use.
func (u *unit) kill(ctx context.Context) error {
	if err := u.signal(ctx, fmt.Sprint(inside.SignalKill)); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.killing != nil {
		u.killing.Stop()
	}
	u.killAt = time.Time{}
	u.killing = time.AfterFunc(speak, func() {
		select {
		case <-u.done:
		default:
			if err := u.signal(u.r.open, "SIGKILL"); err != nil {
				u.r.log.Warn("a container cannot be killed", "unit", u.name, "error", err)
			}
		}
	})
	return nil
}

// signal sends a signal to the first process; a container that has ended is no error.
func (u *unit) signal(ctx context.Context, sig string) error {
	_, err := call(ctx, u.r, func(ctx context.Context) (client.ContainerKillResult, error) {
		return u.r.api.ContainerKill(ctx, u.id, client.ContainerKillOptions{Signal: sig})
	})
	if err == nil || cerrdefs.IsNotFound(err) || cerrdefs.IsConflict(err) || strings.Contains(err.Error(), "can only kill running containers") || strings.Contains(err.Error(), "container state improper") {
		return nil // the last two are Podman's
	}
	return u.r.fault(ctx, "stop", u.name, err)
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	c, found, err := r.look(ctx, "remove", h.Unit)
	if waybill.IsKind(err, waybill.KindConflict) {
		return nil
	}
	if err != nil {
		return err
	}
	if found && c.State.Running {
		// Its log shall have an end.
		u := r.follow(c, runner.Spec{})
		if err := u.kill(ctx); err != nil {
			return err
		}
		select {
		case <-u.done:
		case <-time.After(2 * speak):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if found {
		if u := r.find(h.Unit); u == nil || !u.collected() {
			if err := r.openHome(ctx, c, h.Unit); err != nil && ctx.Err() != nil {
				return err
			} else if err != nil {
				r.log.Warn("files of a unit may stay that this server cannot remove", "unit", h.Unit, "error", err)
			}
		}
		if err := r.remove(ctx, c.ID, h.Unit); err != nil {
			return err
		}
	}
	if u := r.find(h.Unit); u != nil {
		u.give(lost("wait for", h.Unit))
		select {
		case <-u.done: // its log is closed
		case <-ctx.Done():
			return ctx.Err()
		}
		r.forget(u)
	}
	return nil
}

// List implements [runner.Runner].
func (r *Runner) List(ctx context.Context) ([]runner.Handle, error) {
	if r.absent() {
		return nil, nil
	}
	got, err := call(ctx, r, func(ctx context.Context) (client.ContainerListResult, error) {
		return r.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", container.LabelInstance+"="+r.o.Instance)})
	})
	if err != nil {
		return nil, r.fault(ctx, "list", "units", err)
	}
	var out []runner.Handle
	for _, c := range got.Items {
		unit := c.Labels[container.LabelUnit]
		if unit == "" || c.Labels[container.LabelInstance] != r.o.Instance || c.State == dockercontainer.StateRemoving {
			continue
		}
		out = append(out, runner.Handle{Runner: Name, Unit: unit, Image: c.Labels[labelImage]})
	}
	return out, nil
}
