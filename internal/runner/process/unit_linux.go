package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// unit is one unit in the supervisor.
type unit struct {
	s     *supervisor
	name  string
	ready chan struct{} // closed when it is decided whether it runs
	void  bool          // it was never started, for the reason in why; set before ready
	why   response
	pipe  *os.File // the end that is read
	leaf  *leaf    // nil without control groups; set before ready
	hand  *handing // nil unless its program hands over to another process; set before ready

	main chan struct{} // closed when the main process was collected
	done chan struct{} // closed when the unit has ended or is lost

	mu        sync.Mutex
	pid       int
	reaped    bool // the main process was collected: its pid means nothing any more
	status    unix.WaitStatus
	startedAt time.Time
	endedAt   time.Time
	reason    string // why it was killed, when that is a reason of Exit
	termed    bool
	killed    bool
	grace     *time.Timer
	graceAt   time.Time
	hard      *time.Timer
	exit      *runner.Exit
	gone      bool // its end was not seen
	waiters   []waiter
}

// waiter is a client's request that is answered when the unit ends.
type waiter struct {
	w  *frameWriter
	id uint64
}

func newUnit(s *supervisor, name string) *unit {
	return &unit{s: s, name: name, ready: make(chan struct{}), main: make(chan struct{}), done: make(chan struct{})}
}

// endedUnit is a unit of the journal: ended, or lost when exit is nil.
func endedUnit(name string, exit *runner.Exit) *unit {
	u := newUnit(nil, name)
	u.exit, u.gone, u.reaped = exit, exit == nil, true
	close(u.ready)
	close(u.main)
	close(u.done)
	return u
}

// start starts a unit unless its name is known.
func (s *supervisor) start(spec *runner.Spec) response {
	if spec == nil {
		return response{Kind: waybill.KindMalformed, Msg: "start without a spec"}
	}
	s.mu.Lock()
	if u := s.units[spec.Unit]; u != nil {
		s.mu.Unlock()
		<-u.ready
		return u.why
	}
	u := newUnit(s, spec.Unit)
	s.units[spec.Unit] = u
	s.begun++
	s.running++
	s.mu.Unlock()

	if err := u.begin(spec); err != nil {
		u.void = true
		u.why = response{Kind: waybill.KindOf(err), Msg: err.Error()}
		s.mu.Lock()
		delete(s.units, spec.Unit)
		s.mu.Unlock()
		s.unitEnded()
		close(u.done)
	}
	close(u.ready)
	return u.why
}

func (s *supervisor) unitEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.idle = time.Now()
}

// begin starts the main process. After an error nothing was started; a program
// that cannot be executed is an end of the unit and not an error.
func (u *unit) begin(spec *runner.Spec) (err error) {
	if info, err := os.Stat(spec.Dir); err != nil || !info.IsDir() {
		return waybill.E(waybill.KindInvalid, "the working directory %s is not there", spec.Dir)
	}
	out, err := openLog(spec.Log, spec.LogCap, spec.Mask)
	if err != nil {
		return waybill.E(waybill.KindUnavailable, "open the log: %w", err)
	}
	if len(spec.With) > 0 && string(spec.With) != "null" {
		if u.hand, err = newHanding(spec.With); err != nil {
			return err
		}
	}
	path, lookErr := lookPath(spec)
	if lookErr != nil {
		u.startFailed(out, lookErr)
		return nil
	}
	if u.s.cgroups != nil {
		if u.leaf, err = u.s.cgroups.get(); err != nil {
			return waybill.E(waybill.KindUnavailable, "make a control group: %w", err)
		}
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		u.putLeaf()
		return waybill.E(waybill.KindUnavailable, "make a pipe: %w", err)
	}
	defer unix.Close(p[1])
	unix.SetNonblock(p[0], true) // only this end: a unit expects to block
	u.pipe = os.NewFile(uintptr(p[0]), "log")
	forked := false
	defer func() {
		if !forked {
			u.pipe.Close()
		}
	}()
	if err := u.s.journal.add(line{Op: lineIntent, Unit: u.name, At: time.Now()}); err != nil {
		u.putLeaf()
		return waybill.E(waybill.KindUnavailable, "%w", err)
	}

	switch err := u.fork(path, spec, p[1]); {
	case err == nil:
		forked = true
	case isShortage(err):
		u.putLeaf()
		if jerr := u.s.journal.add(line{Op: lineVoid, Unit: u.name}); jerr != nil {
			err = errors.Join(err, jerr)
		}
		return waybill.E(waybill.KindUnavailable, "start the process: %w", err)
	default:
		u.putLeaf()
		u.startFailed(out, fmt.Errorf("%s: %w", spec.Args[0], err))
		return nil
	}
	u.mu.Lock()
	if u.hand == nil || u.hand.pending() { // else it is in the journal as what it was handed over to
		id, _ := statProc(u.pid)
		if err := u.s.journal.add(line{Op: lineStart, Unit: u.name, PID: u.pid, Start: id.start}); err != nil {
			// The intent is there, which is what keeps it from being started twice.
			u.s.log.Error("a start is not in the journal", "unit", u.name, "error", err)
		}
	}
	u.mu.Unlock()
	if !spec.HardStop.IsZero() {
		u.mu.Lock()
		u.hard = time.AfterFunc(time.Until(spec.HardStop), func() { u.kill(runner.ReasonHardStop) })
		u.mu.Unlock()
	}
	go u.follow(out)
	return nil
}

// fork makes the main process on the thread that all units are children of.
func (u *unit) fork(path string, spec *runner.Spec, out int) error {
	marker := Marker + "="
	env := slices.DeleteFunc(slices.Clone(spec.Env), func(v string) bool { return strings.HasPrefix(v, marker) })
	attr := &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   append(env, marker+u.s.instance+"/"+u.name),
		Files: []uintptr{uintptr(u.s.null), uintptr(out), uintptr(out)},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if u.hand != nil && u.hand.Status != "" {
		f, err := os.OpenFile(u.hand.Status, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		attr.Files = append(attr.Files, f.Fd())
	}
	if u.leaf != nil {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, u.leaf.fd
	}
	done := make(chan error, 1)
	u.s.spawn <- func() {
		u.s.reap.Lock()
		defer u.s.reap.Unlock()
		at := time.Now()
		pid, err := syscall.ForkExec(path, spec.Args, attr)
		if err == nil {
			u.mu.Lock()
			u.pid, u.startedAt = pid, at
			u.mu.Unlock()
			u.s.pids[pid] = u
		}
		done <- err
	}
	return <-done
}

// isShortage reports whether a fork failed for want of something that may be
// there later.
func isShortage(err error) bool {
	for _, e := range []syscall.Errno{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.ENODEV, syscall.EBUSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (u *unit) putLeaf() {
	if u.leaf != nil {
		u.s.cgroups.put(u.leaf)
		u.leaf = nil
	}
}

// startFailed ends a unit that never ran. Its codes are those of a shell.
func (u *unit) startFailed(out *logFile, why error) {
	code := 126
	if errors.Is(why, os.ErrNotExist) {
		code = 127
	}
	now := time.Now()
	u.mu.Lock()
	u.reaped = true
	u.mu.Unlock()
	close(u.main)
	out.close()
	u.finish(runner.Exit{Code: code, Reason: runner.ReasonStartFailed, Message: why.Error(), StartedAt: now, EndedAt: now})
}

// mainEnded tells follow that the main process was collected.
func (u *unit) mainEnded() {
	close(u.main)
	u.pipe.SetReadDeadline(time.Unix(1, 0)) // whoever else holds the pipe
}

// follow copies the unit's output until its main process has ended, kills what
// is left of the tree, and reports the end once the log is complete.
func (u *unit) follow(out *logFile) {
	raw, err := u.pipe.SyscallConn()
	if err != nil {
		u.s.log.Error("the output of a unit cannot be read", "unit", u.name, "error", err)
	} else {
		out.copy(raw)
	}
	<-u.main
	u.killTree()
	if err == nil {
		out.drain(raw)
	}
	u.pipe.Close()
	out.close()

	u.mu.Lock()
	for _, t := range []*time.Timer{u.grace, u.hard} {
		if t != nil {
			t.Stop()
		}
	}
	e := runner.Exit{
		Code: u.status.ExitStatus(), StartedAt: u.startedAt, EndedAt: u.endedAt,
		LogBytes: out.total, Truncated: out.dropped > 0,
	}
	if u.status.Signaled() {
		e.Code, e.Signal = -1, unix.SignalName(u.status.Signal())
		if u.status.Signal() == unix.SIGKILL {
			e.Reason = u.reason
		}
	}
	u.hand.note(&e)
	if out.err != nil {
		e.LogFault = out.err.Error()
		e.Message = "the log is not complete: " + e.LogFault
	}
	u.mu.Unlock()
	u.putLeaf()
	u.finish(e)
}

// finish records the end and tells everybody.
func (u *unit) finish(e runner.Exit) {
	e.StartedAt, e.EndedAt = e.StartedAt.UTC().Round(0), e.EndedAt.UTC().Round(0)
	if err := u.s.journal.add(line{Op: lineExit, Unit: u.name, At: e.StartedAt, Exit: &e}); err != nil {
		// Whoever waits is told all the same: better than never.
		u.s.log.Error("an end is not in the journal yet", "unit", u.name, "error", err)
	}
	u.mu.Lock()
	u.exit = &e
	waiters := u.waiters
	u.waiters = nil
	u.mu.Unlock()
	close(u.done)
	u.s.unitEnded()
	for _, w := range waiters {
		w.w.send(response{ID: w.id, Exit: &e})
	}
}

// result answers a wait, or notes it for the end of the unit.
func (u *unit) result(w *frameWriter, id uint64) (res response, ended bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.gone:
		res = lostResponse(u.name)
		res.ID = id
		return res, true
	case u.exit != nil:
		return response{ID: id, Exit: u.exit}, true
	}
	u.waiters = append(u.waiters, waiter{w, id})
	return response{}, false
}

// forget drops a wait of a client, or all of them when id is 0.
func (u *unit) forget(w *frameWriter, id uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waiters = slices.DeleteFunc(u.waiters, func(x waiter) bool { return x.w == w && (id == 0 || x.id == id) })
}

func (u *unit) lost() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gone
}

// stop asks the unit to end and kills it after grace. Of several calls the
// earliest end counts.
func (u *unit) stop(grace time.Duration) {
	if grace <= 0 {
		u.kill("")
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reaped {
		return
	}
	if !u.termed {
		u.termed = true
		u.term()
	}
	at := time.Now().Add(grace)
	if u.grace == nil {
		u.grace = time.AfterFunc(grace, func() { u.kill("") })
		u.graceAt = at
	} else if at.Before(u.graceAt) {
		u.grace.Reset(grace)
		u.graceAt = at
	}
}

// term asks the main process and its group to end, or the one that the unit was handed
// over to. The caller holds u.mu.
func (u *unit) term() {
	if u.hand == nil {
		unix.Kill(-u.pid, unix.SIGTERM)
		unix.Kill(-u.pid, unix.SIGCONT) // one that is suspended could not end
		return
	}
	u.hand.term(u.pid)
}

// kill kills the whole tree. The reason is reported if the unit dies of it.
func (u *unit) kill(reason string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reaped {
		return
	}
	if u.reason == "" {
		u.reason = reason
	}
	u.killed = true
	if u.leaf != nil {
		u.leaf.kill()
	}
	unix.Kill(-u.pid, unix.SIGKILL)
}

// killTree kills what the main process left behind and returns when it is gone.
func (u *unit) killTree() {
	if u.leaf != nil {
		backoff(func() bool {
			if !u.leaf.populated() {
				return true
			}
			u.leaf.kill()
			return false
		})
		return
	}
	backoff(func() bool { return u.s.killOrphans(u) })
}

// killOrphans kills the orphans of a unit that has ended, which are children of
// ours by now, and reports whether there were none. Their own children are found
// by the next call.
func (s *supervisor) killOrphans(u *unit) bool {
	s.reap.Lock()
	mains := make(map[int]bool, len(s.pids))
	for pid := range s.pids {
		mains[pid] = true
	}
	s.reap.Unlock()
	none := true
	for _, p := range children() {
		if mains[p.pid] || !s.ownedBy(p, u, mains) {
			continue
		}
		if unix.Kill(p.pid, unix.SIGKILL) == nil {
			none = false
		}
	}
	return none
}

// ownedBy reports whether an orphan is to be killed with a unit that has ended:
// it is of its session, or carries its marker or that of a unit that is over, or
// nothing tells whose it is and no other unit runs.
func (s *supervisor) ownedBy(p proc, u *unit, mains map[int]bool) bool {
	if p.session == u.pid {
		return true
	}
	if mains[p.session] {
		return false
	}
	name, ok := strings.CutPrefix(markerOf(p.pid), s.instance+"/")
	if !ok {
		return len(mains) == 0
	}
	if name == u.name {
		return true
	}
	s.mu.Lock()
	other := s.units[name]
	s.mu.Unlock()
	if other == nil {
		return true
	}
	select {
	case <-other.main:
		return true
	default:
		return false
	}
}

// siginfoPID returns the pid in what waitid fills in: the union after three ints
// begins with it, aligned to a pointer.
func siginfoPID(info *unix.Siginfo) int {
	offset := (3*4 + unsafe.Sizeof(uintptr(0)) - 1) / unsafe.Sizeof(uintptr(0)) * unsafe.Sizeof(uintptr(0))
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}

// siginfoStatus returns the exit code or the signal in what waitid fills in: it follows
// the pid and the user.
func siginfoStatus(info *unix.Siginfo) int {
	offset := (3*4+unsafe.Sizeof(uintptr(0))-1)/unsafe.Sizeof(uintptr(0))*unsafe.Sizeof(uintptr(0)) + 8
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}

// lookPath finds the program of a spec. One with a slash is left to the kernel,
// which sees it from the working directory.
func lookPath(spec *runner.Spec) (string, error) {
	name := spec.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range spec.Env {
		path, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			if !filepath.IsAbs(dir) {
				dir = filepath.Join(spec.Dir, dir)
			}
			full := filepath.Join(dir, name)
			if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return full, nil
			}
		}
		return "", fmt.Errorf("%s is in no folder of PATH: %w", name, os.ErrNotExist)
	}
	return "", fmt.Errorf("%s has no slash and the environment has no PATH: %w", name, os.ErrNotExist)
}
