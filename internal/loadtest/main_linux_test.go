package loadtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/app"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/loadtest"
)

// The load test starts servers from its own executable, which is this one here.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "up" || os.Args[1] == "supervise") {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		code := cli.Run(ctx, app.CLI(), os.Args[1:])
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// command runs a command line of the program in a temporary folder of its own and
// checks that it leaves nothing behind.
func command(ctx context.Context, t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var stdout, stderr bytes.Buffer
	d := app.CLI()
	d.Stdout, d.Stderr, d.Stdin = &stdout, &stderr, strings.NewReader("")
	code = cli.Run(ctx, d, args)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%v left %s behind", args, e.Name())
	}
	for _, pid := range mentions(dir + "/") {
		t.Errorf("%v left process %d behind", args, pid)
	}
	return code, stdout.String(), stderr.String()
}

// mentions are the processes that have a path in their command line.
func mentions(path string) []int {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well formed
	var pids []int
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(path)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err == nil && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// names reads a report and returns the names of its figures.
func names(t *testing.T, out string) []string {
	t.Helper()
	var r loadtest.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var all []string
	for _, f := range r.Figures {
		if !(f.Value > 0) {
			t.Errorf("%s is %v %s", f.Name, f.Value, f.Unit)
		}
		all = append(all, f.Name)
	}
	return all
}

func TestStoreIsMeasured(t *testing.T) {
	// Whether the bars are met is the machine's business.
	_, out, errs := command(t.Context(), t, "loadtest", "store", "--seconds", "1", "--callers", "8", "-o", "json")
	got := names(t, out)
	for _, want := range []string{"fdatasync p50", "steps, commit only", "steps, claimed by a worker", "message to handler p50"} {
		if !slices.Contains(got, want) {
			t.Errorf("no figure %q in %v\n%s", want, got, errs)
		}
	}
}

func TestRunsAreMeasured(t *testing.T) {
	_, out, errs := command(t.Context(), t, "loadtest", "runs", "--quick", "--only", "latency", "-o", "json")
	got := names(t, out)
	for _, want := range []string{"bare process: start p50", "run: start p50", "run: done p50", "run: seen p50"} {
		if !slices.Contains(got, want) {
			t.Errorf("no figure %q in %v\n%s", want, got, errs)
		}
	}
}

func TestSchedulesAreMeasured(t *testing.T) {
	_, out, errs := command(t.Context(), t, "loadtest", "schedules", "--seconds", "4", "-o", "json")
	var r loadtest.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, errs)
	}
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Name] = f.Value
	}
	for _, want := range []string{"deciding: late p99", "firing: late p99", "memory with schedules"} {
		if !(got[want] > 0) {
			t.Errorf("figure %q is %v\n%s", want, got[want], errs)
		}
	}
	// In so short a time the kernel may not have counted any of it.
	if cpu, ok := got["idle CPU"]; !ok || cpu > 50 {
		t.Errorf("idle CPU %v, there %v", cpu, ok)
	}
}

func TestInterruptedLoadTestLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // interrupts it when its server runs
		for len(mentions("/waybill-loadtest-")) == 0 {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		cancel()
	}()
	code, out, errs := command(ctx, t, "loadtest", "runs", "--quick", "--only", "sustained")
	if code != 1 || out != "" || !strings.Contains(errs, "interrupted") {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errs)
	}
}

func TestWrongArgumentsStartNothing(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"loadtest", "runs", "--only", "latency,nothing"},
		{"loadtest", "runs", "--repeat", "0"},
		{"loadtest", "store", "--store", "mysql://x"},
	} {
		d := app.CLI()
		d.Stdout, d.Stderr = io.Discard, io.Discard
		began := time.Now()
		if code := cli.Run(t.Context(), d, args); code == 0 || time.Since(began) > 5*time.Second {
			t.Errorf("%v: exit code %d after %s", args, code, time.Since(began))
		}
	}
}
