package inside

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/runner"
)

// Main is the first process of a container. It returns its exit code, which is the
// unit's as a shell would say it.
func Main() int {
	runtime.GOMAXPROCS(1)
	// From here on nothing ends this process but the kernel; what comes before the unit
	// has begun reaches it afterwards.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.Signal(SignalKill))
	order, err := await()
	if err != nil {
		fmt.Fprintln(os.Stderr, "waybill: no order came:", err)
		return CodeNoOrder
	}
	if len(order.Open) > 0 {
		return open(order.Open)
	}
	p := process{order: order, began: time.Now()}
	p.tell(Frame{Began: p.began})
	f := p.run(signals)
	f.Began, f.Ended = p.began, time.Now()
	p.tell(f)
	switch {
	case f.Reason == runner.ReasonStartFailed:
		return 127
	case f.Signal != "":
		return 128 + int(unix.SignalNum(f.Signal))
	}
	return f.Code
}

// open lets all users read, write and remove what is in folders. It follows no link.
func open(folders []string) int {
	code := 0
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(at string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil || !(d.IsDir() || d.Type().IsRegular()) {
				return err
			}
			mode := info.Mode().Perm() | 0o666
			if d.IsDir() {
				mode |= 0o777
			} else if mode&0o111 != 0 {
				mode |= 0o111
			}
			return os.Chmod(at, mode)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "waybill:", err)
			code = 1
		}
	}
	return code
}

func await() (Order, error) {
	type answer struct {
		o   Order
		err error
	}
	got := make(chan answer, 1)
	go func() {
		o, err := Receive(os.Stdin)
		got <- answer{o, err}
	}()
	select {
	case a := <-got:
		return a.o, a.err
	case <-time.After(Patience):
		return Order{}, errors.New("nobody sent one")
	}
}

type process struct {
	order Order
	began time.Time

	mu      sync.Mutex
	pid     int
	stopped bool // by the hard stop
}

func (p *process) tell(f Frame) {
	_, _ = os.Stdout.Write(f.bytes(p.order.Word))
}

// run executes the unit and returns when nothing of it is left.
func (p *process) run(signals <-chan os.Signal) Frame {
	oom := oomKills()
	env := environ(os.Environ(), p.order.Env)
	if len(p.order.Args) == 0 {
		return failed("neither the step nor the image says what to run")
	}
	path, err := lookPath(p.order.Args[0], env)
	if err != nil {
		return failed(err.Error())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return failed(err.Error())
	}
	from, to, err := os.Pipe()
	if err != nil {
		return failed(err.Error())
	}
	pid, err := syscall.ForkExec(path, p.order.Args, &syscall.ProcAttr{
		Env: env, Files: []uintptr{null.Fd(), to.Fd(), to.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_, _ = null.Close(), to.Close()
	if err != nil {
		return failed(fmt.Sprintf("%s: %v", p.order.Args[0], err))
	}
	unsaid := make(chan int64, 1)
	go func() { unsaid <- pass(from, os.Stdout, p.order.Word, p.order.Output) }()
	p.mu.Lock()
	p.pid = pid
	p.mu.Unlock()
	if !p.order.HardStop.IsZero() {
		stop := time.AfterFunc(time.Until(p.order.HardStop), p.hardStop)
		defer stop.Stop()
	}
	go p.forward(signals)
	status := reap(pid)

	p.mu.Lock()
	p.pid = 0
	stopped := p.stopped
	p.mu.Unlock()
	killRest()

	f := Frame{Code: status.ExitStatus()}
	select {
	case f.Unsaid = <-unsaid:
	case <-time.After(2 * time.Second): // somebody out of reach holds the other end
	}
	if status.Signaled() {
		f.Code, f.Signal = -1, unix.SignalName(status.Signal())
		if f.Signal == "" {
			f.Signal = fmt.Sprintf("SIG%d", status.Signal())
		}
	}
	killed := oomKills() - oom
	switch {
	case stopped && status.Signaled():
		f.Reason = runner.ReasonHardStop
	case killed > 0 && f.Signal == "SIGKILL":
		f.Reason, f.Text = runner.ReasonOOM, "it took more memory than it may"
	case killed > 0 && f.Code != 0:
		f.Text = "a process that it started was killed for its memory"
	}
	return f
}

func failed(text string) Frame {
	return Frame{Code: -1, Reason: runner.ReasonStartFailed, Text: text}
}

func (p *process) hardStop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 {
		return
	}
	p.stopped = true
	_ = syscall.Kill(-1, syscall.SIGKILL)
}

func (p *process) forward(signals <-chan os.Signal) {
	for s := range signals {
		p.mu.Lock()
		switch n, _ := s.(syscall.Signal); {
		case p.pid == 0:
		case n == SignalKill:
			_ = syscall.Kill(-1, syscall.SIGKILL)
		default:
			_ = syscall.Kill(p.pid, n)
		}
		p.mu.Unlock()
	}
}

// How lines are passed on: broken softly when they are as long, and when nothing has come
// for so long. Engines cut lines at 16 KiB.
const (
	longest = 8 << 10
	idle    = 50 * time.Millisecond
)

// pass passes on what the unit writes, up to a limit, and counts the rest. It ends at the
// beginning of a line.
func pass(from *os.File, to io.Writer, word string, limit int64) (rest int64) {
	if limit <= 0 {
		limit = math.MaxInt64
	}
	b := make([]byte, longest)
	line := 0 // bytes of the line so far
	for limit > 0 {
		wait := time.Time{}
		if line > 0 {
			wait = time.Now().Add(idle)
		}
		_ = from.SetReadDeadline(wait)
		n, err := from.Read(b[:min(int64(len(b)-line), limit)])
		limit -= int64(n)
		_, _ = to.Write(b[:n])
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			line = n - i - 1
		} else {
			line += n
		}
		if line == longest || line > 0 && (err != nil || limit == 0) {
			_, _ = to.Write(soft(word))
			line = 0
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0
		}
	}
	_ = from.SetReadDeadline(time.Time{})
	rest, _ = io.Copy(io.Discard, from)
	return rest
}

// reap waits for a process and meanwhile takes what others left to this one.
func reap(main int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if pid == main && (status.Exited() || status.Signaled()) {
			return status
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return status // there is none: impossible, as nobody else waits for it
		}
	}
}

// killRest ends all other processes of the container. One that is another user's, and
// for that reason out of reach, ends with the container.
func killRest() {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			_ = syscall.Kill(-1, syscall.SIGKILL)
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(-1, &status, 0, nil); errors.Is(err, syscall.ECHILD) {
				return
			}
		}
	}()
	select {
	case <-gone:
	case <-time.After(2 * time.Second):
	}
}

// environ lays one environment over another.
func environ(below, over []string) []string {
	name := func(kv string) string { n, _, _ := strings.Cut(kv, "="); return n }
	out := slices.DeleteFunc(slices.Clone(below), func(kv string) bool {
		return slices.ContainsFunc(over, func(o string) bool { return name(o) == name(kv) })
	})
	return append(out, over...)
}

// lookPath finds a program as a shell does.
func lookPath(program string, env []string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	var found error
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			at := filepath.Join(dir, program)
			if dir == "" {
				at = "./" + program
			}
			info, err := os.Stat(at)
			if err == nil && !info.IsDir() {
				if info.Mode()&0o111 != 0 {
					return at, nil
				}
				found = fmt.Errorf("%s cannot be executed", at)
			}
		}
	}
	if found == nil {
		found = fmt.Errorf("%q: %w in the PATH of the unit", program, fs.ErrNotExist)
	}
	return "", found
}

// oomKills is how often the kernel killed a process of this container for its memory.
func oomKills() int {
	for _, at := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		b, err := os.ReadFile(at)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			var n int
			if _, err := fmt.Sscanf(string(line), "oom_kill %d", &n); err == nil {
				return n
			}
		}
	}
	return 0
}
