package process_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/process"
)

// serverUnits is how many units a server of a crash test starts.
const serverUnits = 40

// serverMain is a server that is going to be killed. It starts units that each
// add their name to a file, in a folder for each.
func serverMain(dir, work string) {
	s := setup{dir: dir, idle: 100 * time.Millisecond}
	r, err := process.New(options(s))
	if err != nil {
		panic(err)
	}
	for i := range serverUnits {
		if _, err := r.Start(context.Background(), crashSpec(work, i)); err != nil {
			panic(err)
		}
	}
	select {}
}

func crashSpec(work string, i int) runner.Spec {
	unit := fmt.Sprintf("crash-%d", i)
	dir := filepath.Join(work, unit)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		panic(err)
	}
	return runner.Spec{
		Unit: unit, Args: []string{"/bin/sh", "-c", "echo " + unit + " >> ../executed; sleep 0.03; exit " + strconv.Itoa(i%5)},
		Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, Log: filepath.Join(dir, "log"),
	}
}

func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			work, dir := t.TempDir(), filepath.Join(t.TempDir(), "p")
			for range 4 { // one server after another
				cmd := exec.Command(options(setup{}).Command[0], dir, work)
				cmd.Env = append(os.Environ(), "PROCESS_TEST_ROLE=server")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				// The moment is the point of the test, not an order of things.
				time.Sleep(time.Duration(rnd.IntN(250)) * time.Millisecond)
				cmd.Process.Kill()
				cmd.Wait()
			}
			r, _ := newRunner(t, setup{dir: dir})
			handles := make([]runner.Handle, serverUnits)
			for i := range handles {
				handles[i] = mustStart(t, r, crashSpec(work, i))
			}
			for i, h := range handles {
				if e := mustWait(t, r, h); e.Code != i%5 || e.Reason != "" {
					t.Errorf("unit %d: exit = %+v, want code %d", i, e, i%5)
				}
			}
			b, _ := os.ReadFile(filepath.Join(work, "executed"))
			times := map[string]int{}
			for _, u := range strings.Fields(string(b)) {
				times[u]++
			}
			for i := range serverUnits {
				if u := crashSpec(work, i).Unit; times[u] != 1 {
					t.Errorf("%s was executed %d times, want once", u, times[u])
				}
			}
		})
	}
}

func TestSupervisorIsKilled(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s setup) {
		r, dir := newRunner(t, s)
		ended := mustStart(t, r, sh(t, "ended", "exit 3"))
		mustWait(t, r, ended)
		sp := sh(t, "running", `echo $$ >> pids; (setsid sh -c 'echo $$ >> pids; exec sleep 1000' &); echo executed; sleep 1000`)
		running := mustStart(t, r, sp)
		path := filepath.Join(sp.Dir, "pids")
		eventually(t, "the unit runs", func() bool { return len(pids(t, path)) == 2 })

		waited := make(chan error, 1)
		go func() {
			_, err := r.Wait(t.Context(), running)
			waited <- err
		}()
		unix.Kill(supervisorPID(t, dir), unix.SIGKILL)
		if err := <-waited; !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("wait for the running unit = %v, want kind lost", err)
		}
		for _, pid := range pids(t, path) {
			if alive(pid) {
				t.Errorf("process %d survived the supervisor and the sweep", pid)
			}
		}
		if err := r.Recover(t.Context(), running, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("recover = %v, want kind lost", err)
		}
		if e := mustWait(t, r, ended); e.Code != 3 {
			t.Errorf("exit of the ended unit = %+v, want code 3", e)
		}
		// It was started once; nobody knows what it did, so never again.
		if got := mustStart(t, r, sp); got.Unit != running.Unit {
			t.Errorf("start again = %+v", got)
		}
		if _, err := r.Wait(t.Context(), running); !waybill.IsKind(err, waybill.KindLost) {
			t.Errorf("wait after another start = %v, want kind lost", err)
		}
		if got := logOf(t, sp); strings.Count(got, "executed") != 1 {
			t.Errorf("log = %q, want one execution", got)
		}
		// New units are not affected, and lost ones can be cleared away.
		if e := mustWait(t, r, mustStart(t, r, sh(t, "later", "exit 4"))); e.Code != 4 {
			t.Errorf("exit of a later unit = %+v", e)
		}
		if units, err := r.List(t.Context()); err != nil || len(units) != 3 {
			t.Errorf("list = %v, %v, want three units", units, err)
		}
		if err := r.Remove(t.Context(), running); err != nil {
			t.Errorf("remove of a lost unit: %v", err)
		}
		if units, err := r.List(t.Context()); err != nil || len(units) != 2 {
			t.Errorf("list = %v, %v, want two units", units, err)
		}
	})
}

func TestSupervisorIsKilledWhileStarting(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 2))
			r, dir := newRunner(t, setup{})
			work := t.TempDir()
			stop := make(chan struct{})
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Duration(20+rnd.IntN(100)) * time.Millisecond):
						if pid := supervisorPID(t, dir); pid != 0 {
							unix.Kill(pid, unix.SIGKILL)
						}
					}
				}
			}()
			lost := 0
			for i := range serverUnits {
				sp := crashSpec(work, i)
				var h runner.Handle
				eventually(t, "a supervisor lives long enough for a start", func() bool {
					var err error
					h, err = r.Start(t.Context(), sp)
					return err == nil
				})
				eventually(t, "a supervisor lives long enough for an answer", func() bool {
					e, err := r.Wait(t.Context(), h)
					switch {
					case waybill.IsKind(err, waybill.KindLost):
						lost++
						return true
					case err == nil && e.Code != i%5:
						t.Errorf("unit %d: exit = %+v, want code %d", i, e, i%5)
					}
					return err == nil
				})
			}
			close(stop)
			<-killed
			if _, err := r.List(t.Context()); err != nil { // by a supervisor that tidies up after the last
				t.Errorf("list: %v", err)
			}
			b, _ := os.ReadFile(filepath.Join(work, "executed"))
			times := map[string]int{}
			for _, u := range strings.Fields(string(b)) {
				if times[u]++; times[u] > 1 {
					t.Errorf("%s was executed more than once", u)
				}
			}
			if len(times) < serverUnits-lost {
				t.Errorf("%d units executed, %d lost, of %d", len(times), lost, serverUnits)
			}
		})
	}
}

func TestTornJournal(t *testing.T) {
	t.Parallel()
	r, dir := newRunner(t, setup{})
	h := mustStart(t, r, sh(t, "ended", "exit 3"))
	mustWait(t, r, h)
	r.Close()
	awaitIdle(t, dir)
	path := filepath.Join(dir, "journal")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tail := range []string{`{"op":"remove","unit":"en`, `{"op":"intent","unit":"torn"`, "\x00\x00\x00", `{`} {
		if err := os.WriteFile(path, append(whole[:len(whole):len(whole)], tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		r, _ := newRunner(t, setup{dir: dir})
		if e := mustWait(t, r, h); e.Code != 3 {
			t.Errorf("tail %q: exit = %+v, want code 3", tail, e)
		}
		// What was torn off was told to nobody, so it did not happen.
		torn := sh(t, "torn", "exit 0")
		if e := mustWait(t, r, mustStart(t, r, torn)); !e.OK() {
			t.Errorf("tail %q: exit = %+v", tail, e)
		}
		if err := r.Remove(t.Context(), runner.Handle{Unit: "torn"}); err != nil {
			t.Fatal(err)
		}
		r.Close()
		awaitIdle(t, dir)
	}
}

func TestJournalStaysSmall(t *testing.T) {
	t.Parallel()
	r, dir := newRunner(t, setup{})
	h := mustStart(t, r, sh(t, "kept", "exit 3"))
	mustWait(t, r, h)
	for i := range 50 {
		x := mustStart(t, r, sh(t, fmt.Sprintf("removed-%d", i), "true"))
		mustWait(t, r, x)
		if err := r.Remove(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	r.Close()
	awaitIdle(t, dir)
	again, _ := newRunner(t, setup{dir: dir})
	if e := mustWait(t, again, h); e.Code != 3 {
		t.Errorf("exit = %+v, want code 3", e)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "journal")); err != nil || strings.Contains(string(b), "removed-") {
		t.Errorf("removed units are in the journal of the next supervisor: %v\n%s", err, b)
	}
}
