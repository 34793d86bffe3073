package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/process"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

// TestMain lets the test binary be the other processes of a test, too.
func TestMain(m *testing.M) {
	switch os.Getenv("PROCESS_TEST_ROLE") {
	case "supervisor":
		idle, _ := time.ParseDuration(os.Getenv("PROCESS_TEST_IDLE"))
		err := process.Supervise(context.Background(), os.Args[1], process.SupervisorOptions{
			IdleExit: idle,
			NoCgroup: os.Getenv("PROCESS_TEST_NO_CGROUP") != "",
			Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "server":
		serverMain(os.Args[1], os.Args[2])
	}
	os.Exit(m.Run())
}

type setup struct {
	noCgroup bool
	handover bool
	idle     time.Duration
	dir      string
}

// newRunner makes a runner whose supervisor ends soon after the test.
func newRunner(t testing.TB, s setup) (*process.Runner, string) {
	t.Helper()
	if s.dir == "" {
		s.dir = filepath.Join(t.TempDir(), "p")
	}
	if s.idle == 0 {
		s.idle = 100 * time.Millisecond
	}
	r, err := process.New(options(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		awaitIdle(t, s.dir)
	})
	return r, s.dir
}

func options(s setup) process.Options {
	env := append(os.Environ(), "PROCESS_TEST_ROLE=supervisor", "PROCESS_TEST_IDLE="+s.idle.String())
	if s.noCgroup {
		env = append(env, "PROCESS_TEST_NO_CGROUP=1")
	}
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return process.Options{Dir: s.dir, Command: []string{exe, s.dir}, Env: env, Handover: s.handover}
}

// awaitIdle returns when no supervisor holds the folder, so that it can be removed.
func awaitIdle(t testing.TB, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "supervisor.lock"))
	if err != nil {
		return
	}
	defer f.Close()
	eventually(t, "the supervisor leaves", func() bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil })
	if t.Failed() {
		b, _ := os.ReadFile(filepath.Join(dir, "supervisor.log"))
		t.Logf("log of the supervisor:\n%s", b)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func harness(s setup) func(t *testing.T) runnertest.Harness {
	return func(t *testing.T) runnertest.Harness {
		s := s
		s.idle = 100 * time.Millisecond
		s.dir = filepath.Join(t.TempDir(), "p")
		r, _ := newRunner(t, s)
		return runnertest.Harness{
			Runner:     r,
			Program:    func(p runnertest.Program) ([]string, json.RawMessage) { return runnertest.Shell(p), nil },
			BadProgram: []string{"/no/such/program"},
			Restart: func(t *testing.T) runner.Runner {
				r.Close()
				again, err := process.New(options(s)) // closed by the suite
				if err != nil {
					t.Fatal(err)
				}
				return again
			},
		}
	}
}

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Options{New: harness(setup{}), Shell: true, ExtraEnv: []string{process.Marker}})
}

func TestContractWithoutCgroups(t *testing.T) {
	runnertest.Run(t, runnertest.Options{
		New: harness(setup{noCgroup: true}), Shell: true, ExtraEnv: []string{process.Marker}, LongLine: 10 << 20,
	})
}

// sh makes a spec that runs a shell script in a folder of its own.
func sh(t testing.TB, unit, script string) runner.Spec {
	t.Helper()
	dir := t.TempDir()
	return runner.Spec{
		Unit: unit, Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		Dir: dir, Log: filepath.Join(dir, "log"),
	}
}

func mustStart(t testing.TB, r *process.Runner, sp runner.Spec) runner.Handle {
	t.Helper()
	h, err := r.Start(t.Context(), sp)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return h
}

func mustWait(t testing.TB, r *process.Runner, h runner.Handle) runner.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	e, err := r.Wait(ctx, h)
	if err != nil {
		t.Fatalf("wait for %s: %v", h.Unit, err)
	}
	return e
}

func logOf(t testing.TB, sp runner.Spec) string {
	t.Helper()
	b, err := os.ReadFile(sp.Log)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// supervisorPID finds the live supervisor of a folder.
func supervisorPID(t testing.TB, dir string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		b, _ := os.ReadFile(path)
		if args := strings.Split(string(b), "\x00"); len(args) > 1 && args[1] == dir {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// alive reports whether a process runs, zombies not counted.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return !strings.HasPrefix(strings.TrimSpace(rest), "Z") && !strings.HasPrefix(strings.TrimSpace(rest), "X")
}

func pids(t testing.TB, path string) []int {
	t.Helper()
	b, _ := os.ReadFile(path)
	var out []int
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out = append(out, pid)
	}
	return out
}
