package aci

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// unit is a container group that this server follows.
type unit struct {
	r    *Runner
	name string
	ctx  context.Context
	cut  context.CancelFunc

	begun chan struct{} // closed when it runs, has ended or never will
	done  chan struct{} // closed when exit and err are set
	exit  runner.Exit
	err   error
	full  bool // the log is complete; set before done closes

	mu      sync.Mutex
	spec    runner.Spec
	stopped bool
	asked   chan struct{} // receives after spec or stopped has changed
}

// follow returns the unit of that name, which is followed from now on.
func (r *Runner) follow(name string) (*unit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open.Err() != nil {
		return nil, waybill.E(waybill.KindUnavailable, "the runner is closed").WithOp("follow", name)
	}
	if u := r.units[name]; u != nil {
		return u, nil
	}
	u := &unit{r: r, name: name, begun: make(chan struct{}), done: make(chan struct{}), asked: make(chan struct{}, 1)}
	u.ctx, u.cut = context.WithCancel(r.open)
	r.units[name] = u
	r.live.Go(u.live)
	return u, nil
}

func (r *Runner) forget(name string) {
	r.mu.Lock()
	u := r.units[name]
	delete(r.units, name)
	r.mu.Unlock()
	if u != nil {
		u.cut()
		<-u.done
	}
}

func (u *unit) tell(f func()) {
	u.mu.Lock()
	f()
	u.mu.Unlock()
	select {
	case u.asked <- struct{}{}:
	default:
	}
}

func (u *unit) know(s runner.Spec) {
	u.tell(func() {
		if u.spec.Log == "" && s.Log != "" {
			u.spec.Log, u.spec.LogCap, u.spec.Mask = s.Log, s.LogCap, s.Mask
		}
	})
}

func (u *unit) known() (runner.Spec, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.spec, u.stopped
}

// archived reports whether the unit has ended and its log is complete.
func (u *unit) archived() bool {
	select {
	case <-u.done:
		return u.full
	default:
		return false
	}
}

func (u *unit) live() {
	defer u.cut()
	defer close(u.done)
	var once sync.Once
	begun := func() { once.Do(func() { close(u.begun) }) }
	defer begun()
	if u.exit, u.err = u.watch(begun); u.err != nil && u.ctx.Err() != nil && u.r.open.Err() == nil {
		u.err = lost("follow", u.name, "the unit was removed")
	}
}

// verdict is what follows from what Azure tells of a group.
type verdict struct {
	over, running bool
	lost          string // why nobody will know how it ended
	exit          runner.Exit
	fault         string // the reason for which the image cannot be had
	why           string
}

// judge reads a group.
func judge(g *group, stopped bool) verdict {
	stopped = stopped || g.Tags[tagStop] != ""
	v := viewOf(g)
	var events []event
	if v != nil {
		events = v.Events
	}
	if g.Properties.View != nil {
		events = append(append([]event{}, g.Properties.View.Events...), events...)
	}
	if v != nil && v.Current != nil {
		switch v.Current.State {
		case "Terminated":
			return verdict{over: true, exit: exitOf(g, v.Current, events, stopped)}
		case "Running":
			return verdict{running: true}
		}
	}
	groupState := ""
	if g.Properties.View != nil {
		groupState = g.Properties.View.State
	}
	switch {
	case g.Properties.ProvisioningState == "Deleting":
		return verdict{lost: "its group is being deleted by somebody else"}
	case groupState == "Stopped" && stopped:
		return verdict{over: true, exit: runner.Exit{Code: -1, Signal: "SIGKILL", Message: "it was stopped before it ran", EndedAt: now()}}
	case groupState == "Stopped":
		return verdict{lost: "its group was stopped by somebody else"}
	}
	out := verdict{}
	if text := eventText(events, "Failed", "FailedToPull", "ErrImagePull", "ImagePullBackOff", "BackOff"); text != "" {
		out.why = text
		if lower := strings.ToLower(text); strings.Contains(lower, "pull") || strings.Contains(lower, "image") {
			out.fault, _ = container.Classify(errors.New(text))
		}
	}
	if g.Properties.ProvisioningState == "Failed" || g.Properties.ProvisioningState == "Canceled" {
		if out.fault != "" {
			return out
		}
		reason := runner.ReasonStartFailed
		return verdict{over: true, exit: runner.Exit{Code: 127, Reason: reason, Message: first(out.why, "Azure could not make the group and does not say why"), StartedAt: now(), EndedAt: now()}}
	}
	return out
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// exitOf reads the end of a container.
func exitOf(g *group, s *state, events []event, stopped bool) runner.Exit {
	e := runner.Exit{Code: s.ExitCode, StartedAt: s.Start.UTC(), EndedAt: s.Finish.UTC()}
	hard, _ := time.Parse(time.RFC3339Nano, g.Tags[container.LabelStop])
	signal := map[int]string{128 + int(syscall.SIGTERM): "SIGTERM", 128 + int(syscall.SIGKILL): "SIGKILL"}[s.ExitCode]
	switch {
	case s.Detail == "OOMKilled":
		e.Code, e.Signal, e.Reason, e.Message = -1, "SIGKILL", runner.ReasonOOM, "it took more memory than its limit"
	case s.Detail == "StartError" || s.Detail == "ContainerCannotRun" || s.Start.IsZero() && s.ExitCode != 0:
		e.Code, e.Reason, e.StartedAt = 127, runner.ReasonStartFailed, e.EndedAt
		e.Message = first(eventText(events, "Failed", "FailedStart", "Error"), s.Detail)
	case s.ExitCode == 0:
	case !stopped && !hard.IsZero() && signal != "" && !s.Finish.Before(hard.Add(-2*time.Second)):
		e.Code, e.Signal, e.Reason, e.Message = -1, "SIGKILL", runner.ReasonHardStop, "it ran past the last moment at which it may run"
	case stopped && signal != "":
		e.Code, e.Signal = -1, signal
	}
	return e
}

// watch waits for the end of the unit, and brings home its log.
func (u *unit) watch(begun func()) (runner.Exit, error) {
	r := u.r
	var log *logReader
	defer func() {
		if log != nil {
			log.out.Leave() // it goes on another time; what is in the file stays
		}
	}()
	var since time.Time // the image cannot be had
	pause, shape := r.pace.First, ""
	for {
		g, err := r.get(u.ctx, u.name)
		spec, stopped := u.known()
		switch {
		case u.ctx.Err() != nil:
			return runner.Exit{}, u.ctx.Err()
		case waybill.IsKind(err, waybill.KindUnavailable):
			r.log.Warn("Azure does not answer, asking again", "unit", u.name, "err", err)
		case err != nil:
			begun()
			return runner.Exit{}, err
		default:
			v := judge(g, stopped)
			if (v.running || v.over && !v.exit.StartedAt.IsZero() && v.exit.Reason != runner.ReasonStartFailed) && log == nil && spec.Log != "" {
				if log, err = r.openLog(u.name, g, spec); err != nil {
					return runner.Exit{}, err
				}
			}
			switch {
			case v.over:
				begun()
				if log != nil {
					why := log.last(u.ctx)
					if u.ctx.Err() != nil {
						return runner.Exit{}, u.ctx.Err()
					}
					if why != nil {
						log.out.Note("the log may not be complete: " + why.Error())
					}
					log.out.Close(&v.exit)
					log = nil
				}
				u.full = spec.Log != ""
				return v.exit, nil
			case v.lost != "":
				begun()
				return runner.Exit{}, lost("wait for", u.name, "%s", v.lost)
			case v.running:
				begun()
				since = time.Time{}
				if log != nil {
					if err := log.fetch(u.ctx); err != nil && u.ctx.Err() == nil {
						r.log.Warn("the log cannot be read, trying again", "unit", u.name, "err", r.armError(u.ctx, err, "read the log", ""))
					}
				}
			case v.fault != "":
				if since.IsZero() {
					since = time.Now()
				}
				limit := time.Duration(r.config.PullPatience)
				if !runner.PullAgain(v.fault) {
					limit = min(limit, r.pace.Sure)
				}
				if time.Since(since) >= limit {
					begun()
					return runner.Exit{Code: -1, Reason: v.fault, Message: v.why, StartedAt: now(), EndedAt: now()}, nil
				}
			}
			// The longer nothing changes, the more seldom Azure is asked.
			next := fmt.Sprint(v.running, g.Properties.ProvisioningState, log != nil && log.grew)
			if next != shape || log != nil && log.grew {
				shape, pause = next, r.pace.First
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			pause = min(pause*3/2, r.pace.Most)
		case <-u.asked:
			pause = r.pace.First
		case <-u.ctx.Done():
			return runner.Exit{}, u.ctx.Err()
		}
		t.Stop()
	}
}

// logReader brings what Azure returns of a log into the file of its unit.
type logReader struct {
	r    *Runner
	unit string
	out  *container.Replay
	had  string // the end of what was had, to find the place again
	size int    // of what was had, as long as Azure has it from the beginning
	grew bool
}

func (r *Runner) openLog(unit string, g *group, s runner.Spec) (*logReader, error) {
	base, _ := strconv.ParseInt(g.Tags[tagBase], 10, 64)
	out, err := container.OpenReplay(s.Log, base, s.LogCap, s.Mask...)
	if err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "open the log: %w", err).WithOp("follow", unit)
	}
	return &logReader{r: r, unit: unit, out: out}, nil
}

// mark is how much of the end is remembered to find the place again.
const mark = 64 << 10

// mostKept is so much that what Azure returns may not be all there was. It speaks of 4 MB.
const mostKept = 4_000_000

// fetch asks for the log and keeps what is new.
func (l *logReader) fetch(ctx context.Context) error {
	text, err := l.r.logs(ctx, l.unit)
	if err != nil {
		return err
	}
	news := ""
	if l.size == 0 && len(text) >= mostKept {
		l.out.Note("Azure keeps the newest 4 MB of a log: lines may be missing here")
	}
	switch {
	case len(text) >= l.size && strings.HasSuffix(text[:l.size], l.had):
		news = text[l.size:]
	case l.had != "" && strings.Contains(text, l.had):
		// The beginning is no longer there.
		at := strings.LastIndex(text, l.had)
		if strings.Index(text, l.had) != at {
			l.out.Note("Azure no longer has all of this log, which repeats itself: lines may be missing here")
		}
		news = text[at+len(l.had):]
	default:
		l.out.Note("Azure no longer has all of this log: lines are missing here")
		news = text
	}
	l.grew, l.size = news != "", len(text)
	if news != "" {
		if _, err := l.out.Write([]byte(news)); err != nil {
			return err
		}
		l.had = (l.had + news)[max(0, len(l.had)+len(news)-mark):]
	}
	return nil
}

// last asks for the log of a container that has ended, until two answers are the same.
func (l *logReader) last(ctx context.Context) error {
	for try, same := 0, 0; same < 2; try++ {
		err := l.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && try > 4:
			return l.r.armError(ctx, err, "read the log of "+l.unit, "")
		case err == nil && !l.grew:
			same += 2
		case err == nil:
			same = 1
		}
		if same >= 2 {
			break
		}
		select {
		case <-time.After(min(l.r.pace.First, time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
