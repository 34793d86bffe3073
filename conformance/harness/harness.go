//go:build linux

// Package harness runs the built program for tests that look at it from outside:
// real processes, real files, kill -9.
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
//	s := harness.New(t, harness.Options{Project: map[string]string{"pipelines/x.yaml": …}})
//	run, err := s.Client().StartRun(ctx, "x", client.StartRun{}, "")
//	s.Kill()  // SIGKILL; units and their supervisor live on
//	s.Start() // the same data, the same address
//
// The program is built once for each test process and set of build tags, with the
// race detector when the test has it. A server's address stays the same for its
// life. Everything that a test starts is ended with it: servers, supervisors and
// units are found by the server's folder in their command line or environment,
// and ended by pid. A server whose log tells of a data race or a panic fails its
// test.
//
// Every answer that a client of this package gets is checked against
// api/openapi.yaml.
//
// Environment: WAYBILL_KEEP=1 keeps the folders, WAYBILL_REQUIRE_ALL=1 makes a
// missing PostgreSQL a failure.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// The program is not called from here, but go test must know that the result of a
	// test depends on it.
	_ "github.com/waybill-run/waybill/internal/app"
	_ "github.com/waybill-run/waybill/internal/cli"

	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

// rootVar names the folder of everything that a test process makes.
const rootVar = "WAYBILL_HARNESS_ROOT"

// Main runs the tests of a package. Call it from TestMain.
//
// The tests run in a child of this process, so that this one can end what they
// left behind even when they panicked or ran out of time. What a package shares among
// its tests and is not of this program, setups start before them, in this process, and
// their results end it after them.
func Main(m *testing.M, setups ...func() (stop func() error, err error)) {
	if os.Getenv(rootVar) != "" {
		pgtest.Main(m)
	}
	code, err := prepared(setups)
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func prepared(setups []func() (func() error, error)) (code int, err error) {
	for _, setup := range setups {
		stop, serr := setup()
		if serr != nil {
			return 1, serr
		}
		if stop != nil {
			defer func() { err = errors.Join(err, stop()) }()
		}
	}
	return guard()
}

func guard() (code int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	// A short name: the path of a Unix socket has at most 107 bytes.
	root, err := os.MkdirTemp("", "wbc")
	if err != nil {
		return 1, err
	}
	args := os.Args[1:]
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "-test.parallel") }) {
		// Tests of processes wait more than they compute.
		args = append([]string{fmt.Sprintf("-test.parallel=%d", 2*runtime.GOMAXPROCS(0))}, args...)
	}
	cmd := exec.Command(exe, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), rootVar+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	runtime.LockOSThread() // the signal on the parent's death is sent when this thread ends
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return 1, err
		}
		code = max(exit.ExitCode(), 1)
	}
	var left []string
	for _, p := range processes(root + "/") {
		left = append(left, p.String())
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if os.Getenv("WAYBILL_KEEP") != "1" {
		err = os.RemoveAll(root)
	}
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("the tests left processes behind:\n\t%s", strings.Join(left, "\n\t")))
	}
	return code, err
}

// tempDir makes a folder that lives as long as the test.
func tempDir(t testing.TB) string {
	t.Helper()
	root := os.Getenv(rootVar)
	if root == "" {
		t.Fatal("the package has no TestMain that calls harness.Main")
	}
	dir, err := os.MkdirTemp(root, "s")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("WAYBILL_KEEP") != "1" {
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Errorf("folder of the test: %v", err)
			}
		})
	}
	return dir
}

type built struct {
	once sync.Once
	path string
	err  error
}

// The binaries belong to the process, as TestMain does.
var (
	buildsMu sync.Mutex
	builds   = map[string]*built{}
)

// Plain is a tag for [Binary] and [Options]: the program as it is released, which is
// static and lacks the race detector. It is what goes into containers.
const Plain = "plain"

// Binary returns the path of the program, built with the given tags.
func Binary(t testing.TB, tags ...string) string {
	t.Helper()
	root := os.Getenv(rootVar)
	if root == "" {
		t.Fatal("the package has no TestMain that calls harness.Main")
	}
	key := strings.Join(slices.Sorted(slices.Values(tags)), ",")
	buildsMu.Lock()
	b := builds[key]
	if b == nil {
		b = &built{}
		builds[key] = b
	}
	buildsMu.Unlock()
	b.once.Do(func() {
		dir := filepath.Join(root, "bin-"+key)
		b.path = filepath.Join(dir, "waybill")
		// With these flags nothing is compiled that the test, or "make build", has not
		// compiled already.
		args, env := []string{"build", "-tags", key, "-o", b.path}, os.Environ()
		if race && !slices.Contains(tags, Plain) {
			args = append(args, "-race")
		} else {
			args, env = append(args, "-trimpath"), append(env, "CGO_ENABLED=0")
		}
		cmd := exec.Command("go", append(args, "github.com/waybill-run/waybill/cmd/waybill")...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.path
}

// Until waits until f returns nil. It asks often and fails the test with the last
// error when that takes longer than limit. It is for what other processes do.
func Until(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := Await(limit, f); err != nil {
		t.Fatalf("%s: still not after %v: %v", what, limit, err)
	}
}

// Await is Until for callers without a test to fail.
func Await(limit time.Duration, f func() error) error {
	end := time.Now().Add(limit)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(pause)
	}
}
