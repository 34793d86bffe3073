package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/waybill-run/waybill/client"
)

// program is what steps and bare processes run: it tells when it runs, in
// nanoseconds since 1970.
var program = []string{"sh", "-c", "date +%s%N"}

// server is a server of its own: a process of this program with a folder and,
// on PostgreSQL, a schema.
type server struct {
	o    *options
	dir  string
	url  string
	args []string
	drop func()

	cmd    *exec.Cmd
	exited chan struct{}
	*client.Client
}

// newServer starts a server and waits until it is healthy. The caller ends it with
// remove.
func newServer(ctx context.Context, o *options) (_ *server, err error) {
	s := &server{o: o, drop: func() {}}
	if s.dir, err = os.MkdirTemp("", "waybill-loadtest-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	if err := s.project(); err != nil {
		return nil, err
	}
	where, drop, err := o.scratch(ctx)
	if err != nil {
		return nil, err
	}
	s.drop = drop
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s.url = "http://" + address
	s.args = []string{"up", "--listen", address, "--data", s.path("data"), "--project", s.path("project"), "--store", where, "--log-level", "warn"}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxIdleConns = 256, 256
	if s.Client, err = client.New(client.Options{Server: s.url, HTTP: &http.Client{Transport: t}, RetryFor: time.Minute}); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, s.healthy(ctx)
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

// project writes the pipelines that are measured.
func (s *server) project() error {
	args := func(words ...string) string {
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, strconv.Quote(w))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	var chain strings.Builder
	fmt.Fprint(&chain, "name: chain\non: {http: {}}\nsteps:\n")
	for i := range chainSteps {
		fmt.Fprintf(&chain, "  - {name: s%d, run: %s}\n", i+1, args(program...))
	}
	cells := make([]string, matrixCells)
	for i := range cells {
		cells[i] = strconv.Itoa(i)
	}
	files := map[string]string{
		"waybill.yaml":        "name: loadtest\n",
		"pipelines/wide.yaml": "name: wide\non: {http: {}}\nsteps:\n  - {name: only, matrix: {values: {n: [" + strings.Join(cells, ", ") + "]}, max_parallel: 8}, run: " + args(program...) + "}\n",
		"pipelines/one.yaml":  "name: one\non: {http: {}}\nsteps:\n  - {name: only, run: " + args(program...) + "}\n",
		"pipelines/gate.yaml": "name: gate\non: {http: {}}\nsteps:\n  - {name: only, run: " + args("sh", "-c", `cat "$0" 2>/dev/null; exit 0`, s.path("gate")) + "}\n",
		// Units stand before the gate without using the processor, until it is opened.
		"pipelines/chain.yaml": chain.String(),
	}
	maps.Copy(files, s.o.files)
	for name, text := range files {
		path := s.path(filepath.Join("project", name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return syscall.Mkfifo(s.path("gate"), 0o600)
}

// open lets those who stand before the gate pass, and all who come later.
func (s *server) open(ctx context.Context) error {
	if err := os.Rename(s.path("gate"), s.path("opened")); err != nil {
		return err
	}
	// Some may have found the gate and not yet stand before it, so it is opened for a while.
	for range 50 {
		f, err := os.OpenFile(s.path("opened"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = f.Close()
		} else if errors.Is(err, syscall.ENXIO) {
			err = nil // nobody is there
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress is one at which nobody listens, outside of the range from which the
// system takes ports of outgoing connections, so that a restart finds it free.
func freeAddress() (string, error) {
	var err error
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(18000))
		var ln net.Listener
		if ln, err = net.Listen("tcp", address); err == nil {
			return address, ln.Close()
		}
	}
	return "", fmt.Errorf("no free port: %w", err)
}

// start starts the process and does not wait.
func (s *server) start() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command(exe, s.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WAYBILL_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	// A group of its own: what is typed at the terminal is meant for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // nobody asks how it ended
		close(exited)
	}()
	return nil
}

// healthy waits until the server can work.
func (s *server) healthy(ctx context.Context) error {
	for began := time.Now(); ; {
		hctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		h, err := s.Health(hctx)
		cancel()
		if err == nil && h.Status == client.HealthStatusOk {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended at its start: %s", s.logTail())
		default:
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("the server is not healthy within a minute: %s", s.logTail())
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *server) logTail() string {
	b, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// kill ends the server, and nothing that it started, with SIGKILL.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it may have ended by itself
		<-s.exited
	}
}

// remove ends the server and all that it started, and removes what they left.
func (s *server) remove() error {
	s.kill()
	var err error
	for began := time.Now(); ; {
		left := processes(s.dir + "/")
		if len(left) == 0 {
			break
		}
		if time.Since(began) > 10*time.Second {
			err = fmt.Errorf("processes are left: %v", left)
			break
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		time.Sleep(10 * time.Millisecond) // the system ends them when it likes
	}
	s.drop()
	if s.o.keep {
		s.o.note("kept %s", s.dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// processes are those that have a path in their command line or environment.
func processes(path string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for _, file := range []string{"cmdline", "environ"} {
			// A process that is gone, or is not ours, reads as empty.
			if b, err := os.ReadFile("/proc/" + e.Name() + "/" + file); err == nil && bytes.Contains(b, []byte(path)) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// own are the processes of the program itself: the server and its supervisor.
func (s *server) own() (main, supervisor int) {
	main = s.cmd.Process.Pid
	for _, pid := range processes(s.dir + "/") {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(b, []byte("\x00supervise\x00")) {
			supervisor = pid
		}
	}
	return main, supervisor
}

// memory is what processes hold, in MiB: pages shared by several are counted for
// each of them in rss, and once together in pss.
type memory struct{ rss, pss float64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, err
	}
	var m memory
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		switch {
		case err != nil:
		case f[0] == "Rss:":
			m.rss = kib / 1024
		case f[0] == "Pss:":
			m.pss = kib / 1024
		}
	}
	return m, nil
}

// idle waits until the server's memory has settled, and returns it with the
// supervisor's. It gives up after half a minute and returns what it saw last.
func (s *server) idle(ctx context.Context) (main, supervisor memory, err error) {
	var seen []float64
	for range 60 {
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return main, supervisor, err
		}
		a, b := s.own()
		if main, err = memoryOf(a); err != nil {
			return main, supervisor, err
		}
		supervisor = memory{}
		if b != 0 {
			if supervisor, err = memoryOf(b); err != nil {
				return main, supervisor, err
			}
		}
		// The server gives memory back some seconds after it was busy.
		seen = append(seen, main.rss+supervisor.rss)
		if n := len(seen); n >= 24 && within(seen[n-14:], .02) {
			break
		}
	}
	return main, supervisor, nil
}

// within reports whether values differ by no more than a share of the first.
func within(v []float64, share float64) bool {
	for _, x := range v {
		if x < v[0]*(1-share) || x > v[0]*(1+share) {
			return false
		}
	}
	return true
}

// cpu is the processor time that a process has used, its children not counted.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if errors.Join(err1, err2) != nil {
		return 0
	}
	return time.Duration(user+system) * 10 * time.Millisecond // the kernel's ticks
}

// bare runs the program of the steps directly: how long until it ran, and until
// its end was known.
func bare(ctx context.Context) (start, whole time.Duration, err error) {
	began := time.Now()
	out, err := exec.CommandContext(ctx, program[0], program[1:]...).Output()
	whole = time.Since(began)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, 0, err
	}
	at, err := stamp(bytes.NewReader(out))
	return at.Sub(began), whole, err
}

// stamp reads what the program wrote.
func stamp(r io.Reader) (time.Time, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return time.Time{}, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("this machine's date does not know %%N: %q", b)
	}
	return time.Unix(0, ns), nil
}
