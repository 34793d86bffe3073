package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// handing is how far a unit has come that is handed over. Who writes its fields holds the
// unit's mutex and the supervisor's reap, who reads them one of the two; early is guarded
// by reap alone. Its methods may be called without one.
type handing struct {
	Handover
	done    bool   // the unit is the other process
	failed  string // why it never will be
	emptied bool   // it was killed because it could not hear the request to stop

	early *ended // the other process, when its end was seen before that of the program
}

// ended is a child that was collected.
type ended struct {
	pid    int
	status unix.WaitStatus
	at     time.Time
}

func newHanding(with json.RawMessage) (*handing, error) {
	h := &handing{}
	if err := json.Unmarshal(with, &h.Handover); err != nil || h.PIDFile == "" {
		return nil, waybill.E(waybill.KindInvalid, "a unit that is handed over needs a file for its pid")
	}
	return h, nil
}

// pending reports whether the main process is still the program that hands over.
func (h *handing) pending() bool { return h != nil && !h.done && h.failed == "" }

// note writes into the exit what became of it.
func (h *handing) note(e *runner.Exit) {
	switch {
	case h == nil:
	case h.failed != "" && e.Signal == "":
		e.Reason, e.Message = runner.ReasonStartFailed, h.failed
	case h.emptied && e.Signal == "SIGKILL" && e.Reason == "":
		e.Signal = "SIGTERM"
	}
}

// term asks the process to end. Before it is there the request is kept for it.
func (h *handing) term(pid int) {
	if !h.done {
		return
	}
	if h.Status != "" || hearsTerm(pid) {
		unix.Kill(pid, unix.SIGTERM)
		unix.Kill(pid, unix.SIGCONT)
		return
	}
	h.emptied = true
	unix.Kill(pid, unix.SIGKILL)
}

// hearsTerm reports whether SIGTERM does anything to a process that is the first of its
// namespace, or is ignored on purpose: the kernel drops what such a process has not asked
// for.
func hearsTerm(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	nested := false
	var mask uint64
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		switch key {
		case "NSpid":
			f := strings.Fields(value)
			nested = len(f) > 1 && f[len(f)-1] == "1"
		case "SigCgt", "SigIgn", "SigBlk":
			m, _ := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			mask |= m
		}
	}
	return !nested || mask&(1<<(unix.SIGTERM-1)) != 0
}

// pidIn reads the file that the program writes.
func pidIn(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}

// orphanEnded collects a child that is no main process. It may be the one that a unit is
// about to be handed over to: such a child is left to us when its parent, the program,
// ends, and the kernel does not say which of the two ended first. The caller holds reap.
func (s *supervisor) orphanEnded(pid int) {
	at := time.Now()
	var heir *unit
	for _, u := range s.pids {
		if u.hand.pending() && u.hand.early == nil && pidIn(u.hand.PIDFile) == pid {
			heir = u
			break
		}
	}
	status := wait(pid)
	if heir != nil {
		heir.hand.early = &ended{pid, status, at}
	}
}

// handOver collects the program of a unit and makes the unit the process that it left
// behind. It reports false when there is none, with the program's own end still to be
// taken for that of the unit. The caller holds reap.
func (s *supervisor) handOver(u *unit, program int) bool {
	h := u.hand
	pid := pidIn(h.PIDFile)
	info := peek(program)
	for _, path := range h.Remove {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			s.log.Warn("a file of a unit could not be removed", "unit", u.name, "error", err)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case info != 0:
		h.failed = fmt.Sprintf("its program ended with code %d before it ran", info)
		return false
	case pid == 0:
		h.failed = "its program did not say which process it left behind"
		return false
	}
	id, ok := statProc(pid)
	if h.early == nil && (!ok || id.parent != os.Getpid()) {
		h.failed = fmt.Sprintf("its program left no process with pid %d behind", pid)
		return false
	}
	wait(program)
	delete(s.pids, program)
	h.done = true
	if e := h.early; e != nil && e.pid == pid {
		u.pid, u.status, u.reaped, u.endedAt = pid, e.status, true, e.at
		u.mainEnded()
		return true
	}
	u.pid = pid
	s.pids[pid] = u
	if err := s.journal.add(line{Op: lineStart, Unit: u.name, PID: pid, Start: id.start}); err != nil {
		s.log.Error("a start is not in the journal", "unit", u.name, "error", err)
	}
	switch { // what was asked for meanwhile
	case u.killed:
		unix.Kill(-pid, unix.SIGKILL)
	case u.termed:
		h.term(pid)
	}
	return true
}

// peek returns how a child has ended without collecting it: 0 for a success.
func peek(pid int) int {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return -1
	}
	return siginfoStatus(&info)
}
