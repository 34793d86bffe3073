package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/process"
)

// both runs a test with and without control groups.
func both(t *testing.T, fn func(t *testing.T, s setup)) {
	for name, s := range map[string]setup{"Cgroups": {}, "NoCgroups": {noCgroup: true}} {
		t.Run(name, func(t *testing.T) { t.Parallel(); fn(t, s) })
	}
}

func TestNothingOfATreeIsLeft(t *testing.T) {
	t.Parallel()
	scripts := map[string]string{
		"daemon":        `(setsid sh -c 'echo $$ >> pids; exec sleep 1000' &) ; while [ ! -s pids ]; do sleep 0.01; done`,
		"fifty":         `for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5; do sleep 1000 & echo $! >> pids; done; done`,
		"ignores TERM":  `trap "" TERM; sh -c 'echo $$ >> pids; while :; do sleep 1; done' & while [ ! -s pids ]; do sleep 0.01; done`,
		"clear env":     `(env -i setsid sh -c 'echo $$ >> pids; exec sleep 1000' &) ; while [ ! -s pids ]; do sleep 0.01; done`,
		"deep daemon":   `setsid sh -c '(setsid sh -c "echo \$\$ >> pids; exec sleep 1000" &); sleep 0.01' ; while [ ! -s pids ]; do sleep 0.01; done`,
		"closed output": `(setsid sh -c 'echo $$ >> pids; exec sleep 1000' >/dev/null 2>&1 </dev/null &) ; while [ ! -s pids ]; do sleep 0.01; done`,
	}
	both(t, func(t *testing.T, s setup) {
		for name, script := range scripts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r, _ := newRunner(t, s)
				for i, end := range []string{"", "; echo ready; while :; do sleep 1; done"} {
					sp := sh(t, fmt.Sprintf("tree-%d", i), script+end)
					h := mustStart(t, r, sp)
					if end != "" {
						eventually(t, "the unit is ready", func() bool {
							b, _ := os.ReadFile(sp.Log)
							return strings.Contains(string(b), "ready")
						})
						if err := r.Stop(t.Context(), h, 50*time.Millisecond); err != nil {
							t.Fatal(err)
						}
					}
					mustWait(t, r, h)
					tree := pids(t, filepath.Join(sp.Dir, "pids"))
					if len(tree) == 0 {
						t.Fatal("the test made no process")
					}
					for _, pid := range tree {
						if alive(pid) {
							t.Errorf("process %d of the unit is alive when Wait returned", pid)
						}
					}
				}
			})
		}
	})
}

func TestDaemonOfAnotherUnitIsLeftAlone(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s setup) {
		r, _ := newRunner(t, s)
		keeps := sh(t, "keeps", `(setsid sh -c 'echo $$ > pids; exec sleep 1000' &) ; while [ ! -s pids ]; do sleep 0.01; done; echo ready; sleep 1000`)
		h := mustStart(t, r, keeps)
		eventually(t, "the unit is ready", func() bool {
			b, _ := os.ReadFile(keeps.Log)
			return len(b) > 0
		})
		mustWait(t, r, mustStart(t, r, sh(t, "ends", `sleep 1000 & exit 0`)))
		pid := pids(t, filepath.Join(keeps.Dir, "pids"))[0]
		if !alive(pid) {
			t.Error("the end of one unit killed a daemon of another")
		}
		if err := r.Remove(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		if alive(pid) {
			t.Error("the daemon survived its unit")
		}
	})
}

func TestUnitsInheritNoFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "p")
	r, _ := newRunner(t, setup{dir: dir})
	// Others that run meanwhile have files of theirs open in the supervisor.
	for i := range 3 {
		mustStart(t, r, sh(t, fmt.Sprintf("other-%d", i), "sleep 1000"))
	}
	sp := sh(t, "fds", `echo $$ > pids; exec sleep 1000`)
	mustStart(t, r, sp)
	var pid int
	eventually(t, "the unit runs", func() bool {
		if p := pids(t, filepath.Join(sp.Dir, "pids")); len(p) == 1 {
			pid = p[0]
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && strings.HasSuffix(exe, "sleep")
	})
	// A leaked file stays open, one of the program's loader does not.
	eventually(t, "only the three standard files are open", func() bool {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		var fds []string
		for _, e := range open {
			fds = append(fds, e.Name())
		}
		return cmp.Equal(fds, []string{"0", "1", "2"})
	})
	if in, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid)); in != os.DevNull {
		t.Errorf("the input is %q, %v", in, err)
	}
	units, _ := r.List(t.Context())
	for _, h := range units {
		r.Remove(t.Context(), h)
	}
}

func TestInheritedFilesOfTheServerAreClosed(t *testing.T) {
	t.Parallel()
	// A server that was started with an open file, as shells and service managers do.
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	dir := filepath.Join(t.TempDir(), "p")
	o := options(setup{dir: dir, idle: 50 * time.Millisecond})
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Env, cmd.ExtraFiles = o.Env, []*os.File{pw}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() // it leaves, because nobody connects
	pw.Close()
	pr.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := pr.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("read = %d, %v: the supervisor keeps a file of the server open", n, err)
	}
}

func TestProgramLookup(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(t, setup{})
	bin := t.TempDir()
	write := func(name, body string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, name), []byte(body), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("mytool", "#!/bin/sh\necho found\n", 0o755)
	write("plain", "#!/bin/sh\necho found\n", 0o644)
	write("noexec", "\x7fELF but not really", 0o755)
	for i, c := range []struct {
		args string
		path string
		code int
		ran  bool
	}{
		{"mytool", "PATH=/usr/bin:" + bin, 0, true},
		{"mytool", "PATH=/usr/bin", 127, false},
		{"mytool", "NOPATH=1", 127, false},
		{"plain", "PATH=" + bin, 127, false},
		{bin + "/plain", "PATH=", 126, false},
		{bin + "/noexec", "PATH=", 126, false},
		{bin + "/absent", "PATH=", 127, false},
		{bin, "PATH=", 126, false},
	} {
		sp := sh(t, fmt.Sprintf("lookup-%d", i), "")
		sp.Args, sp.Env = []string{c.args}, []string{c.path}
		e := mustWait(t, r, mustStart(t, r, sp))
		if e.Code != c.code || (e.Reason == runner.ReasonStartFailed) == c.ran {
			t.Errorf("%s with %s: exit = %+v, want code %d, executed %v", c.args, c.path, e, c.code, c.ran)
		}
	}
}

func TestMissingFolderStartsNothing(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(t, setup{})
	sp := sh(t, "homeless", "echo executed")
	good := sp.Dir
	sp.Dir = filepath.Join(sp.Dir, "absent")
	if _, err := r.Start(t.Context(), sp); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("start without a folder = %v, want kind invalid", err)
	}
	sp.Dir, sp.Log = good, filepath.Join(good, "absent", "log")
	if _, err := r.Start(t.Context(), sp); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("start without a place for the log = %v, want kind unavailable", err)
	}
	// Nothing was started, so the name is free.
	sp.Log = filepath.Join(good, "log")
	if e := mustWait(t, r, mustStart(t, r, sp)); !e.OK() || logOf(t, sp) != "executed\n" {
		t.Errorf("exit = %+v, log %q", e, logOf(t, sp))
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(t, setup{})
	for _, with := range []string{"", "{}", "null"} {
		if err := r.Check([]string{"true"}, []byte(with)); err != nil {
			t.Errorf("with %q: %v", with, err)
		}
	}
	if err := r.Check(nil, nil); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("no program: %v", err)
	}
	if err := r.Check([]string{"a\x00b"}, nil); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("zero byte: %v", err)
	}
	if err := r.Check([]string{"true"}, []byte(`{"image":"x"}`)); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "image") {
		t.Errorf("unknown setting: %v", err)
	}
}

func TestFolderIsPrivate(t *testing.T) {
	t.Parallel()
	r, dir := newRunner(t, setup{})
	mustWait(t, r, mustStart(t, r, sh(t, "any", "true")))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info.Mode(), err)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestLongFolderPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 16), "p")
	if len(dir) < 150 {
		t.Fatalf("the path has %d bytes only", len(dir))
	}
	r, _ := newRunner(t, setup{dir: dir})
	sp := sh(t, "deep", "echo ok")
	if e := mustWait(t, r, mustStart(t, r, sp)); !e.OK() || logOf(t, sp) != "ok\n" {
		t.Errorf("exit = %+v", e)
	}
}

func TestSupervisorLeavesWhenIdle(t *testing.T) {
	t.Parallel()
	r, dir := newRunner(t, setup{idle: 50 * time.Millisecond})
	sp := sh(t, "long", "while [ ! -e go ]; do sleep 0.02; done; exit 8")
	h := mustStart(t, r, sp)
	pid := supervisorPID(t, dir)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// While the unit runs it stays, whoever left.
	r2, _ := newRunner(t, setup{dir: dir})
	if err := r2.Recover(t.Context(), h, runner.Spec{}); err != nil {
		t.Fatalf("recover: %v", err)
	}
	if got := supervisorPID(t, dir); got != pid {
		t.Errorf("the supervisor changed from %d to %d", pid, got)
	}
	r2.Close()
	if err := os.WriteFile(filepath.Join(sp.Dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the supervisor leaves", func() bool { return !alive(pid) })
	// Its successor knows the end.
	r3, _ := newRunner(t, setup{dir: dir})
	if e := mustWait(t, r3, h); e.Code != 8 {
		t.Errorf("exit = %+v, want code 8", e)
	}
}

func TestTwoSupervisorsRace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "p")
	runners := make([]*process.Runner, 6)
	for i := range runners {
		r, err := process.New(options(setup{dir: dir, idle: 100 * time.Millisecond}))
		if err != nil {
			t.Fatal(err)
		}
		runners[i] = r
	}
	sp := sh(t, "one", "echo executed; sleep 0.2")
	var wg sync.WaitGroup
	for _, r := range runners {
		wg.Go(func() {
			h, err := r.Start(t.Context(), sp)
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			if e, err := r.Wait(t.Context(), h); err != nil || !e.OK() {
				t.Errorf("wait: %+v, %v", e, err)
			}
		})
	}
	wg.Wait()
	for _, r := range runners {
		r.Close()
	}
	awaitIdle(t, dir)
	if got := logOf(t, sp); got != "executed\n" {
		t.Errorf("log = %q, want one execution", got)
	}
}

func TestSuspendedServerBlocksNobody(t *testing.T) {
	t.Parallel()
	// A client that never reads its answers.
	dir := filepath.Join(t.TempDir(), "p")
	r, _ := newRunner(t, setup{dir: dir})
	mustWait(t, r, mustStart(t, r, sh(t, "first", "true")))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "supervisor.sock")}); err != nil {
		t.Fatal(err)
	}
	list := []byte("\x00\x00\x00\x16{\"id\":1,\"op\":\"list\"}  ")
	for range 20_000 {
		if _, err := unix.Write(fd, list); err != nil {
			break // its own requests are stuck, as they should be
		}
	}
	for i := range 3 {
		mustWait(t, r, mustStart(t, r, sh(t, fmt.Sprintf("next-%d", i), "true")))
	}
}
