package process_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/process"
)

// handed makes a unit whose program starts another one, says its pid and ends.
func handed(t testing.TB, unit, script string) (runner.Spec, string) {
	t.Helper()
	sp := sh(t, unit, script)
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	sp.Env = append(sp.Env, "PIDFILE="+pid)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	with, err := json.Marshal(process.Handover{PIDFile: pid, Remove: []string{filepath.Join(dir, "secret"), filepath.Join(dir, "none")}, Status: filepath.Join(dir, "status")})
	if err != nil {
		t.Fatal(err)
	}
	sp.With = with
	return sp, dir
}

func handingRunner(t testing.TB, s setup) *process.Runner {
	t.Helper()
	s.handover = true
	r, _ := newRunner(t, s)
	return r
}

// written is the log of a unit, which is not there before it writes.
func written(sp runner.Spec) string {
	b, _ := os.ReadFile(sp.Log)
	return string(b)
}

const leave = `echo $! > "$PIDFILE"; exit 0`

func TestHandover(t *testing.T) {
	for _, noCgroup := range []bool{false, true} {
		r := handingRunner(t, setup{noCgroup: noCgroup})
		for name, c := range map[string]struct {
			script string
			want   runner.Exit
			log    string
		}{
			"code":     {`(echo from the child; sleep 0.2; exit 7) & ` + leave, runner.Exit{Code: 7}, "from the child\n"},
			"success":  {`(sleep 0.1; echo done) & ` + leave, runner.Exit{}, "done\n"},
			"signal":   {`sh -c 'sleep 0.1; kill -USR1 $$' & ` + leave, runner.Exit{Code: -1, Signal: "SIGUSR1"}, ""},
			"is quick": {`(sleep 0.1; exit 3) & echo $! > "$PIDFILE"; exec sleep 0.3`, runner.Exit{Code: 3}, ""},
			"fails":    {`echo no; exit 5`, runner.Exit{Code: 5, Reason: runner.ReasonStartFailed}, "no\n"},
			"no pid":   {`exit 0`, runner.Exit{Reason: runner.ReasonStartFailed}, ""},
			"other":    {`echo 1 > "$PIDFILE"; exit 0`, runner.Exit{Reason: runner.ReasonStartFailed}, ""},
			"stranger": {fmt.Sprintf(`echo %d > "$PIDFILE"; exit 0`, os.Getpid()), runner.Exit{Reason: runner.ReasonStartFailed}, ""},
			"nonsense": {`echo many > "$PIDFILE"; exit 0`, runner.Exit{Reason: runner.ReasonStartFailed}, ""},
			"killed":   {`kill -9 $$`, runner.Exit{Code: -1, Signal: "SIGKILL"}, ""},
		} {
			sp, dir := handed(t, strings.ReplaceAll(name, " ", "-"), c.script)
			e := mustWait(t, r, mustStart(t, r, sp))
			if e.Code != c.want.Code || e.Signal != c.want.Signal || e.Reason != c.want.Reason || written(sp) != c.log {
				t.Errorf("%s (without control groups: %t): exit = %+v, log %q; want %+v, %q", name, noCgroup, e, written(sp), c.want, c.log)
			}
			if _, err := os.Stat(filepath.Join(dir, "secret")); err == nil {
				t.Errorf("%s: a file that was to be removed is there", name)
			}
		}
	}
}

func TestHandoverStop(t *testing.T) {
	r := handingRunner(t, setup{})
	// It has the status file, so it is taken to hear requests, and does not.
	sp, _ := handed(t, "deaf", `sh -c 'trap "" TERM; echo ready; while :; do sleep 0.05; done' & `+leave)
	h := mustStart(t, r, sp)
	eventually(t, "it runs", func() bool { return strings.Contains(written(sp), "ready") })
	if err := r.Stop(t.Context(), h, 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := mustWait(t, r, h); e.Signal != "SIGKILL" {
		t.Errorf("exit = %+v, want SIGKILL", e)
	}
	// A request that comes before there is anybody to hear it is passed on.
	early, dir := handed(t, "early", `sleep 0.3; sh -c 'trap "echo asked; exit 9" TERM; echo ready; while :; do sleep 0.02; done' & sleep 0.2; `+leave)
	h = mustStart(t, r, early)
	if err := r.Stop(t.Context(), h, time.Hour); err != nil {
		t.Fatal(err)
	}
	if e := mustWait(t, r, h); e.Code != 9 || written(early) != "ready\nasked\n" {
		t.Errorf("exit = %+v, log %q", e, written(early))
	}
	if _, err := os.Stat(filepath.Join(dir, "status")); err != nil {
		t.Errorf("the status file was not made: %v", err)
	}
}

// What a unit was handed over to ends with the supervisor, too.
func TestHandoverSupervisorKilled(t *testing.T) {
	s := setup{idle: 100 * time.Millisecond, dir: filepath.Join(t.TempDir(), "p")}
	r := handingRunner(t, s)
	sp, dir := handed(t, "long", `sleep 1000 & `+leave)
	h := mustStart(t, r, sp)
	var child int
	eventually(t, "it is handed over", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "pid"))
		child, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		_, err := os.Stat(filepath.Join(dir, "secret"))
		return child > 0 && err != nil
	})
	p, err := os.FindProcess(supervisorPID(t, s.dir))
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if _, err := r.Wait(t.Context(), h); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait: %v, want kind lost", err)
	}
	eventually(t, "the child is gone", func() bool { return !alive(child) })
}

func TestHandoverBadWith(t *testing.T) {
	r := handingRunner(t, setup{})
	sp := sh(t, "bad", "echo executed")
	sp.With = json.RawMessage(`{"pid_file": ""}`)
	if _, err := r.Start(t.Context(), sp); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("start: %v, want kind invalid", err)
	}
}
