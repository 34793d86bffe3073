package oci_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/oci"
	"github.com/waybill-run/waybill/internal/runner/process"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
	"github.com/waybill-run/waybill/internal/runner/runnertest"
)

// TestMain lets the test binary be the supervisor of a test, too.
func TestMain(m *testing.M) {
	if os.Getenv("OCI_TEST_ROLE") == "rootless" {
		if err := rootlessMain(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("OCI_TEST_ROLE") == "server" {
		fmt.Fprintln(os.Stderr, serverMain(os.Args[1], os.Args[2], len(os.Args) > 3))
		os.Exit(1)
	}
	if os.Getenv("OCI_TEST_ROLE") == "supervisor" {
		err := process.Supervise(context.Background(), os.Args[1], process.SupervisorOptions{
			IdleExit: 100 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// need leaves a test out where no container can be made.
func need(t testing.TB) {
	t.Helper()
	missing := ""
	if _, err := exec.LookPath("runc"); err != nil {
		missing = "runc is not installed: apt-get install runc"
	} else if os.Getuid() != 0 {
		missing = "containers are tested as root"
	}
	if missing == "" {
		return
	}
	if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}

// shared is a registry with the image of all tests.
var (
	shared struct{ image string }
	once   sync.Once
)

func baseImage(t testing.TB) string {
	t.Helper()
	need(t)
	i := registrytest.Base(t)
	once.Do(func() {
		reg := registrytest.New(keep{t})
		shared.image, _ = reg.Push(t, "base:v1", i.Build(t))
	})
	return shared.image
}

// keep is a test whose clean-up comes with the end of the process.
type keep struct{ testing.TB }

func (keep) Cleanup(func()) {}

type setup struct {
	dir    string
	config oci.Config
}

func open(t testing.TB, s setup) *oci.Runner {
	t.Helper()
	r, err := openRunner(s.dir, s.config, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func openRunner(dir string, config oci.Config, log io.Writer) (*oci.Runner, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	sup := filepath.Join(dir, "supervisor")
	env := append([]string{"OCI_TEST_ROLE=supervisor"}, os.Environ()...) // the first one counts
	in, err := process.New(process.Options{Dir: sup, Command: []string{exe, sup}, Env: env, Handover: true})
	if err != nil {
		return nil, err
	}
	return oci.New(oci.Options{Config: config, Dir: filepath.Join(dir, "oci"), Inner: in, Logger: slog.New(slog.NewTextHandler(log, nil))})
}

// newRunner makes a runner in a folder of its own, whose supervisor ends soon after the test.
func newRunner(t testing.TB, s setup) (*oci.Runner, setup) {
	t.Helper()
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	r := open(t, s)
	t.Cleanup(func() {
		r.Close()
		awaitIdle(t, filepath.Join(s.dir, "supervisor"))
		nothingLeft(t, s.dir)
	})
	return r, s
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

func harness(t *testing.T, config oci.Config, with map[string]any, networks ...string) func(t *testing.T) runnertest.Harness {
	img := baseImage(t)
	return func(t *testing.T) runnertest.Harness {
		r, s := newRunner(t, setup{config: config})
		all := map[string]any{"image": img}
		for k, v := range with {
			all[k] = v
		}
		settings, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return runnertest.Harness{
			Runner:     r,
			Program:    func(p runnertest.Program) ([]string, json.RawMessage) { return runnertest.Shell(p), settings },
			BadProgram: []string{"/no/such/program"}, BadProgramWith: settings,
			Restart: func(t *testing.T) runner.Runner {
				r.Close()
				r = open(t, s)
				return r
			},
			Contained: &runnertest.Contained{
				Image: img, With: with, Pulls: true, Limits: true, ReadOnlyRoot: true, Networks: networks,
				Decoys: func(t *testing.T, unit string) func(t *testing.T) { return decoys(t, s, r, unit) },
			},
		}
	}
}

func TestContract(t *testing.T) {
	runnertest.Run(t, runnertest.Options{
		New:   harness(t, oci.Config{}, map[string]any{"network": "none"}, container.NetworkNone, container.NetworkBridge, container.NetworkHost),
		Shell: true, ExtraEnv: []string{"HOME", "FROM_IMAGE"}, Patience: 60 * time.Second, Many: 24, LongLine: 40 << 20, MemoryGrowth: 64 << 20,
	})
}
