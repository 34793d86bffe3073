package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// unit is an attempt in the hands of this node.
type unit struct {
	e    *Engine
	msg  *unitMsg
	step *pipeline.Step
	plan *pipeline.Plan
	run  runner.Runner
	h    runner.Handle

	rev     int64            // of a
	a       *waybill.Attempt // as last seen in the store
	records []record         // to be written with the next change

	changed chan struct{} // receives after the row may have been changed by others

	again bool // this is not the first time that somebody works on the attempt

	audit []store.Event // for the audit log, to be written with the next change

	mu     sync.Mutex
	beat   time.Time    // last heartbeat
	secret []string     // values that the unit was given; nil if that is not known
	masker *mask.Masker // of them, nil until one is needed
}

// errNotOurs says that another node owns the attempt, or that it has ended.
var errNotOurs = errors.New("the attempt is no longer ours")

func (u *unit) poke() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

// work is the handler of the topic "unit". It may be called again for an attempt
// at any point of its life: after a crash, a stop of the server, or a conflict.
func (e *Engine) work(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var msg unitMsg
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	if m.Attempt == 1 && m.Fails == 0 {
		e.fair.began(queue.TopicUnit, msg.Tag)
	}
	u := &unit{e: e, msg: &msg, changed: make(chan struct{}, 1), rev: 1}
	u.a = &msg.Attempt
	if m.Attempt > 1 || m.Fails > 0 {
		u.again = true
		if err := u.reload(ctx); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	e.live[m.Key] = u
	e.worked = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.live[m.Key] == u {
			delete(e.live, m.Key)
		}
	}()
	c, err := u.pass(ctx)
	if errors.Is(err, store.ErrConflict) {
		// Only before the first commit of a message whose row was changed by others:
		// what was to be recorded with it has not happened.
		u.records, u.again = nil, true
		if err = u.reload(ctx); err == nil {
			c, err = u.pass(ctx)
		}
	}
	if errors.Is(err, errNotOurs) {
		u.abandon()
		return nil, nil
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		if errors.Is(cause, store.ErrLeaseLost) {
			u.abandon()
			return nil, cause
		}
		if errors.Is(cause, queue.ErrStopping) {
			return nil, queue.ErrLeave
		}
	}
	return c, err
}

// abandon ends a unit if this node no longer has a right to it. The attempt's
// outcome is decided elsewhere.
func (u *unit) abandon() {
	if u.run == nil || u.h.Unit == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// A lost lease alone says little: a server that was paused loses its leases, and
	// claims the same messages again. Its units are its own as long as their rows say so.
	a, _, err := u.e.attempt(ctx, u.msg.Attempt.Tenant, u.msg.Attempt.Key())
	if err != nil || a.Phase != waybill.PhaseTerminal && a.Node == u.e.o.Node {
		return
	}
	if err := u.run.Remove(ctx, u.h); err != nil {
		u.e.log.Warn("unit of another's attempt not removed", "unit", u.h.Unit, "err", err)
	}
}

func (u *unit) key() string { return u.a.Key() }

func (u *unit) reload(ctx context.Context) error {
	a, rev, err := u.e.attempt(ctx, u.msg.Attempt.Tenant, u.msg.Attempt.Key())
	if errors.Is(err, store.ErrNotFound) {
		return queue.Bury("%v", err)
	}
	if err == nil {
		u.a, u.rev = a, rev
	}
	return err
}

// pass goes through the rest of an attempt's life, from wherever it stands, and
// returns the commit that ends it.
func (u *unit) pass(ctx context.Context) (*store.Commit, error) {
	e := u.e
	if u.a.Phase == waybill.PhaseTerminal {
		return nil, nil
	}
	plan, _, err := e.o.Plans.Plan(ctx, u.msg.Pipeline, u.msg.Version)
	if err != nil {
		return nil, err
	}
	u.plan, u.step = plan, definition(plan, u.msg.Attempt.Step)
	if u.step == nil {
		return nil, queue.Bury("pipeline %s version %d has no step %s", u.msg.Pipeline, u.msg.Version, u.msg.Attempt.Step)
	}
	if u.a.Node != "" {
		if u.a.Phase != waybill.PhaseProvisioning || u.a.Node != e.o.Node {
			if err := u.learn(ctx); err != nil {
				return nil, err
			}
		}
	}
	u.run = e.o.Runners[u.a.Runner]
	if u.a.Node != "" && u.a.Node != e.o.Node {
		if c, err := u.foreign(ctx); c != nil || err != nil {
			return c, err
		}
	}
	if u.run == nil {
		return u.end(ctx, outcome{status: waybill.StatusFailed, reason: "no_runner", err: "this server has no runner " + u.a.Runner})
	}
	u.h = runner.Handle{Runner: u.a.Runner, Unit: u.a.Unit}
	if len(u.a.Handle) > 0 {
		if err := json.Unmarshal(u.a.Handle, &u.h); err != nil {
			return nil, queue.Bury("the handle of attempt %s cannot be read: %v", u.key(), err)
		}
	}
	adopted := u.a.StartedAt.Before(e.up)
	switch u.a.Phase {
	case waybill.PhaseQueued, waybill.PhaseLeased:
		if err := u.provision(ctx); err != nil {
			return nil, err
		}
		fallthrough
	case waybill.PhaseProvisioning:
		// Starting is idempotent by the unit's name: if an earlier life of this node
		// got as far as that, this finds the unit it started.
		if u.a.Stop != "" {
			return u.end(ctx, outcome{status: waybill.Status(u.a.Stop), err: "stopped before it started"})
		}
		spec, err := u.prepare(ctx)
		if err != nil {
			if ctx.Err() != nil || waybill.IsKind(err, waybill.KindUnavailable) {
				return nil, err
			}
			reason := "prepare"
			if errors.As(err, new(*secretError)) {
				reason = "secret"
			}
			return u.end(ctx, outcome{status: waybill.StatusFailed, reason: reason, err: err.Error()})
		}
		if done, err := u.start(ctx, spec); done != nil || err != nil {
			return done, err
		}
		adopted = false
	default:
		known, err := u.recovered()
		if err != nil {
			return nil, err
		}
		if err := u.run.Recover(ctx, u.h, known); waybill.IsKind(err, waybill.KindLost) {
			return u.lost(ctx, outcome{status: waybill.StatusLost, reason: "unit_lost", err: "its unit is gone: " + err.Error()})
		} else if err != nil {
			return nil, err
		}
	}
	if adopted && e.keep(u.key()) {
		// Time during which no server could hear the unit is not held against it, nor
		// that it may be some seconds before it tries again.
		soonest := e.now().Add(comeback)
		u.setBeat(soonest)
		if err := u.change(ctx, func(a *waybill.Attempt) {
			if a.Deadline = a.Deadline.Add(e.down); a.Deadline.Before(soonest) {
				a.Deadline = soonest
			}
		}, record{"attempt.adopted", map[string]any{"attempt": u.key(), "node": e.o.Node, "down": e.down.Round(time.Millisecond).String()}, e.now()}); err != nil {
			return nil, err
		}
	}
	return u.follow(ctx)
}

// comeback is the longest pause of package client between two tries to reach a
// server: 5 s, spread by half as much again.
const comeback = 8 * time.Second

// keep reports, once for each attempt, that this life of the node takes it up.
func (e *Engine) keep(attempt string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kept[attempt] || e.down < time.Second {
		return false
	}
	e.kept[attempt] = true
	return true
}

// foreign deals with an attempt that another node began: its unit is a thing of
// that node, so it is left alone until the node must be dead. A unit that lives elsewhere
// is taken over then: neither a commit nor an error.
func (u *unit) foreign(ctx context.Context) (*store.Commit, error) {
	e := u.e
	row, err := e.o.Store.Get(ctx, "", tableNode, u.a.Node)
	var n node
	if err == nil {
		err = json.Unmarshal(row.Val, &n)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	lease, perr := time.ParseDuration(n.Lease)
	if perr != nil {
		lease = e.o.Lease
	}
	if dead := n.At.Add(2 * lease); e.now().Before(dead) {
		return nil, queue.Yield(min(time.Second, lease/4), "node %s still has its lease", u.a.Node)
	}
	if u.run != nil && runner.Elsewhere(u.run) {
		former := u.a.Node
		return nil, u.change(ctx, func(a *waybill.Attempt) { a.Node = e.o.Node }, record{"attempt.taken_over", map[string]any{
			"attempt": u.key(), "from": former, "node": e.o.Node,
		}, e.now()})
	}
	return u.lost(ctx, outcome{status: waybill.StatusLost, reason: "node_lost", err: "the server " + u.a.Node + " that ran it is gone"})
}

// provision records that this node makes the attempt, before anything is started.
// ErrConflict: the row has changed since the message was sent.
func (u *unit) provision(ctx context.Context) error {
	now := u.e.now()
	u.a.Phase, u.a.Status, u.a.Node = waybill.PhaseProvisioning, waybill.StatusRunning, u.e.o.Node
	u.a.TokenHash, u.a.Cleanup = hashToken(u.e.token(u.key())), waybill.CleanupPending
	u.records = append(u.records, record{"attempt.provisioning", map[string]any{
		"attempt": u.key(), "step": u.a.Step, "node": u.e.o.Node, "unit": u.a.Unit,
	}, now})
	return u.write(ctx)
}

// outcome is how an attempt ends, before its outputs have their say.
type outcome struct {
	status waybill.Status
	reason string // a word
	err    string // for people
}

// follow waits for the unit to end, and ends it when its time is over or somebody
// asks for it.
func (u *unit) follow(ctx context.Context) (*store.Commit, error) {
	type ended struct {
		exit runner.Exit
		err  error
	}
	wctx, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	exits := make(chan ended, 1)
	go func() {
		exit, err := u.run.Wait(wctx, u.h)
		exits <- ended{exit, err}
	}()
	u.setBeat(u.e.now())

	// Until the lag is over the start is only remembered: most short units end
	// before, and then start and end are one commit.
	running := time.NewTimer(u.e.o.RunningLag)
	defer running.Stop()
	if len(u.records) == 0 {
		running.Stop()
	}
	tick := time.NewTimer(u.nextLimit())
	defer tick.Stop()
	var stopped *outcome // why we stopped it
	stop := func(o outcome) {
		if stopped == nil {
			stopped = &o
		}
		if err := u.run.Stop(ctx, u.h, u.e.o.StopGrace); err != nil && ctx.Err() == nil {
			u.e.log.Warn("unit not stopped, trying again", "unit", u.h.Unit, "err", err)
			tick.Reset(time.Second)
			return
		}
		tick.Reset(u.e.o.StopGrace + 5*time.Second)
	}
	if u.a.Stop != "" {
		stop(u.asked())
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-running.C:
			if err := u.change(ctx, func(*waybill.Attempt) {}); err != nil {
				return nil, err
			}
			fault.At("unit.running")
			if u.a.Stop != "" && stopped == nil {
				stop(u.asked())
			}
		case <-u.changed:
			if len(u.records) > 0 { // our own change is not written yet: write it and see both
				running.Reset(0)
				continue
			}
			if err := u.reload(ctx); err != nil {
				return nil, err
			}
			if u.a.Phase == waybill.PhaseTerminal {
				return nil, errNotOurs
			}
			switch {
			case u.a.Stop != "":
				stop(u.asked())
			case u.a.Callback != nil && stopped == nil:
				tick.Reset(u.nextLimit())
			}
		case <-tick.C:
			if stopped != nil {
				stop(*stopped)
				continue
			}
			o := u.overdue(ctx)
			switch {
			case u.a.Stop != "": // somebody asked first
				stop(u.asked())
			case o == nil:
				tick.Reset(u.nextLimit())
			case u.a.Callback != nil:
				stop(*o)
			case len(u.records) > 0: // our own change is not written yet
				running.Reset(0)
				tick.Reset(time.Millisecond)
			default:
				closed, err := u.expire(ctx, *o)
				switch {
				case err != nil:
					return nil, err
				case closed:
					stop(*o)
				default:
					u.poke() // somebody was faster: look at what they want
					tick.Reset(u.nextLimit())
				}
			}
		case x := <-exits:
			switch {
			case waybill.IsKind(x.err, waybill.KindLost):
				if stopped != nil && stopped.status != waybill.StatusSucceeded {
					return u.end(ctx, *stopped)
				}
				return u.lost(ctx, outcome{status: waybill.StatusLost, reason: "unit_lost", err: "its unit is gone: " + x.err.Error()})
			case x.err != nil:
				return nil, x.err
			}
			return u.collect(ctx, x.exit, stopped)
		}
	}
}

// nextLimit is how long until the unit may be overdue.
func (u *unit) nextLimit() time.Duration {
	now := u.e.now()
	next := u.a.Deadline.Sub(now)
	if cb := u.a.Callback; cb != nil {
		next = min(next, cb.At.Add(u.e.o.CallGrace).Sub(now))
	} else if u.step.Heartbeat > 0 {
		next = min(next, u.lastBeat().Add(u.step.Heartbeat).Sub(now))
	}
	return max(next, 0)
}

// overdue reports whether a limit has passed.
func (u *unit) overdue(ctx context.Context) *outcome {
	now := u.e.now()
	if cb := u.a.Callback; cb != nil {
		if now.Before(u.a.Deadline) && now.Before(cb.At.Add(u.e.o.CallGrace)) {
			return nil
		}
		// It has reported and does not end: its report counts, the unit goes.
		return &outcome{status: cb.Status, reason: "after_callback", err: cb.Error}
	}
	if !now.Before(u.a.Deadline) {
		return &outcome{status: waybill.StatusTimedOut, reason: "timeout", err: fmt.Sprintf("did not end within its timeout of %s", u.step.Timeout)}
	}
	if u.step.Heartbeat > 0 && !now.Before(u.lastBeat().Add(u.step.Heartbeat)) {
		// Another server may have heard it.
		if a, _, err := u.e.attempt(ctx, u.a.Tenant, u.key()); err == nil && a.HeartbeatAt.After(u.lastBeat()) {
			u.setBeat(a.HeartbeatAt)
			return nil
		}
		return &outcome{status: waybill.StatusTimedOut, reason: "heartbeat", err: fmt.Sprintf("gave no heartbeat for %s", u.step.Heartbeat)}
	}
	return nil
}

// expire writes that the attempt is being ended because its time is over, so that
// nothing the unit reports from now on is accepted and then not counted. It
// reports false when a callback, a heartbeat or a request to stop came first.
func (u *unit) expire(ctx context.Context, o outcome) (bool, error) {
	for {
		u.a.Stop, u.a.Reason, u.a.Error = string(o.status), o.reason, o.err
		u.records = []record{{"attempt.overdue", map[string]any{
			"attempt": u.key(), "step": u.a.Step, "status": o.status, "reason": o.reason,
		}, u.e.now()}}
		err := u.write(ctx)
		if err == nil {
			return true, nil
		}
		u.records = nil
		if !errors.Is(err, store.ErrConflict) {
			return false, err
		}
		if err := u.reload(ctx); err != nil {
			return false, err
		}
		if u.a.Phase == waybill.PhaseTerminal || u.a.Node != u.e.o.Node {
			return false, errNotOurs
		}
		if u.a.Stop != "" || u.a.Callback != nil {
			return false, nil
		}
		if o.reason == "heartbeat" && u.a.HeartbeatAt.After(u.lastBeat()) {
			u.setBeat(u.a.HeartbeatAt)
			return false, nil
		}
	}
}

// asked is the outcome that the attempt's row asks for.
func (u *unit) asked() outcome {
	return outcome{status: waybill.Status(u.a.Stop), reason: u.a.Reason, err: orElse(u.a.Error, "stopped on request")}
}

func (u *unit) setBeat(t time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t.After(u.beat) {
		u.beat = t
	}
}

func (u *unit) lastBeat() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.beat
}

// write writes the attempt's row and the records that wait.
func (u *unit) write(ctx context.Context) error {
	u.hide(ctx)
	p, err := put(tableAttempt, u.key(), u.rev, u.a)
	if err != nil {
		return err
	}
	if err := u.e.o.Store.Commit(ctx, &store.Commit{
		Tenant: u.a.Tenant, Puts: []store.Put{p}, Events: append(events(u.a.Run, u.records), u.audit...),
	}); err != nil {
		return err
	}
	u.rev++
	u.records, u.audit = nil, nil
	return nil
}

// change changes the attempt and writes it. When others changed the row meanwhile
// (a callback, a request to stop), their changes are kept: fields that only the
// owner writes are ours, all others theirs.
func (u *unit) change(ctx context.Context, f func(*waybill.Attempt), records ...record) error {
	u.records = append(u.records, records...)
	f(u.a)
	for {
		err := u.write(ctx)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		ours := u.a
		if err := u.reload(ctx); err != nil {
			return err
		}
		if u.a.Phase == waybill.PhaseTerminal || u.a.Node != u.e.o.Node {
			return errNotOurs
		}
		u.own(ours)
	}
}

// own takes over the fields of an attempt that only its owner writes.
func (u *unit) own(ours *waybill.Attempt) {
	u.a.Phase, u.a.Status, u.a.Node, u.a.TokenHash = ours.Phase, ours.Status, ours.Node, ours.TokenHash
	u.a.Handle, u.a.StartedAt, u.a.Deadline, u.a.Cleanup = ours.Handle, ours.StartedAt, ours.Deadline, ours.Cleanup
	u.a.Image = ours.Image
}

// prepare makes the unit's folder and says what to start.
func (u *unit) prepare(ctx context.Context) (runner.Spec, error) {
	e := u.e
	files := e.homeOf(u.run, u.a.Unit)
	contained := files.inside != ""
	event, err := json.Marshal(u.msg.Event)
	if err != nil {
		return runner.Spec{}, err
	}
	if contained {
		err = files.make(event)
	} else {
		err = e.spares.make(files.unitFiles, event)
	}
	if err != nil {
		return runner.Spec{}, err
	}
	log, err := e.o.Blobs.LogFile(u.a.Run, u.a.Unit)
	if err != nil {
		return runner.Spec{}, err
	}
	token, url := e.token(u.key()), e.address(ctx, u.run)
	var env []string
	if !contained { // a container has these from its image
		env = append(env, e.o.HostEnv...)
		env = append(env, "HOME="+files.work, "PWD="+files.work, "TMPDIR="+files.work)
	}
	env = append(env, e.o.BaseEnv...)
	ours := []string{
		"WAYBILL_RUN=" + u.a.Run, "WAYBILL_STEP=" + u.a.Step, fmt.Sprintf("WAYBILL_ATTEMPT=%d", u.a.Number),
		"WAYBILL_EVENT=" + files.path(files.event), "WAYBILL_OUTPUT=" + files.path(files.output), "WAYBILL_TOKEN=" + token,
	}
	if url != "" {
		callback := fmt.Sprintf("%s/api/v1/runs/%s/steps/%s/attempts/%d/callback", url, u.a.Run, u.a.Step, u.a.Number)
		ours = append(ours, "WAYBILL_SERVER="+url, "WAYBILL_CALLBACK="+callback, "___NextStageFunctionUrl="+callback+"?token="+token)
	} else if u.step.Callback == pipeline.CallbackRequired {
		return runner.Spec{}, errUnreachable(u.a.Runner)
	}
	if tp := e.o.Traceparent(u.a.Run, u.msg.Event, u.key()); tp != "" {
		ours = append(ours, "TRACEPARENT="+tp)
	}
	if o := u.msg.Event.Object; o != nil && !o.Deleted {
		path, err := e.localCopy(ctx, files.in, waybill.FileRef{SHA256: o.SHA256, Size: o.Size, Name: base(o.Key)})
		if err != nil {
			return runner.Spec{}, err
		}
		ours = append(ours, "WAYBILL_OBJECT="+files.path(path))
	}
	for _, name := range u.msg.Vars.Names() {
		v, _ := u.msg.Vars.Get(name)
		text := v.Text()
		if f, ok := v.File(); ok {
			if text, err = e.localCopy(ctx, files.in, f); err != nil {
				return runner.Spec{}, err
			}
			text = files.path(text)
		}
		if strings.ContainsRune(text, 0) {
			return runner.Spec{}, waybill.E(waybill.KindInvalid, "variable %s holds a NUL character, which no environment can", name)
		}
		env = append(env, name+"="+text)
		if up := strings.ToUpper(name); u.plan.EnvUpper && up != name {
			env = append(env, up+"="+text)
		}
	}
	if c := u.msg.Cell; c != nil {
		values, err := json.Marshal(c.Values)
		if err != nil {
			return runner.Spec{}, err
		}
		ours = append(ours, fmt.Sprintf("WAYBILL_CELL=%d", c.Index), "WAYBILL_MATRIX="+string(values))
	}
	if err := u.inputs(ctx, files.work); err != nil {
		return runner.Spec{}, err
	}
	built, masks, err := u.resolve(ctx, pipeline.Built{Env: u.msg.Env, With: u.msg.With})
	if err != nil {
		return runner.Spec{}, err
	}
	args := append([]string{}, u.msg.Args...)
	if len(args) > 0 && !contained {
		args[0] = e.program(args[0])
	}
	return runner.Spec{
		Unit: u.a.Unit, Args: args, Env: environment(env, built.Env, ours), Dir: files.dir, Log: log, With: built.With, LogCap: e.o.LogCap, Mask: masks,
		Meta: map[string]string{
			"instance": e.o.Instance, "run": u.a.Run, "step": u.a.Step, "attempt": fmt.Sprint(u.a.Number), "pipeline": u.msg.Pipeline,
		},
		HardStop: u.hardStop(e.now()),
	}, nil
}

// hardStop is when a unit is killed that was started then. A unit outlives the server; it
// shall not outlive everybody's interest.
func (u *unit) hardStop(started time.Time) time.Time {
	return started.Add(2*u.step.Timeout + time.Hour)
}

// recovered is what is known of a unit that an earlier life of a server started.
func (u *unit) recovered() (runner.Spec, error) {
	s := runner.Spec{Unit: u.a.Unit, Dir: u.e.homeOf(u.run, u.a.Unit).dir, LogCap: u.e.o.LogCap, HardStop: u.hardStop(u.a.StartedAt)}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.secret == nil {
		return s, nil // what it was given is known to nobody, so its log cannot be masked
	}
	for _, v := range u.secret {
		s.Mask = append(s.Mask, []byte(v))
	}
	var err error
	s.Log, err = u.e.o.Blobs.LogFile(u.a.Run, u.a.Unit)
	return s, err
}

// environment joins lists of NAME=value; of one name the last counts.
func environment(lists ...[]string) []string {
	at := map[string]int{}
	var out []string
	for _, list := range lists {
		for _, x := range list {
			name, _, _ := strings.Cut(x, "=")
			if i, ok := at[name]; ok {
				out[i] = x
				continue
			}
			at[name] = len(out)
			out = append(out, x)
		}
	}
	return out
}

// unitBuried fails an attempt that cannot be worked on, so that its run goes on.
func (e *Engine) unitBuried(ctx context.Context, m *store.Msg, reason string) (*store.Commit, error) {
	a, rev, err := e.attempt(ctx, m.Tenant, m.Key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil || a.Phase == waybill.PhaseTerminal {
		return nil, err
	}
	return e.endCommit(a, rev, outcome{status: waybill.StatusFailed, reason: "dead_letter", err: "dead letter: " + reason}, nil, 0)
}
