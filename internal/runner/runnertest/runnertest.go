// Package runnertest is the conformance suite of internal/runner. Every runner
// passes it, so that the engine can treat them alike.
//
// The suite says what a unit does as a [Program]; the harness turns that into
// the arguments or settings of its runner. The log is the only channel the suite
// relies on for all runners: a unit that was executed twice has written twice.
package runnertest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Program is the behaviour of a unit. The fields act in their order: it prints,
// then runs for a while, then ends.
type Program struct {
	Lines  []string      // printed first, a line each
	Count  int           // then this many lines "line 1", "line 2", …
	Long   int64         // then one line of this many bytes of 'x', without its newline
	Binary int           // then this many zero bytes
	RunFor time.Duration // then it runs this long
	Hang   bool          // or for ever, ignoring a request to stop
	Exit   int           // its exit code
	Signal string        // or the signal it ends by: "SIGKILL" or "SIGTERM"
}

// Shell returns the program as an argument list for a POSIX shell, for runners
// that execute real programs.
func Shell(p Program) []string {
	var b strings.Builder
	if p.Hang {
		b.WriteString("trap '' TERM INT HUP\n")
	}
	for _, l := range p.Lines {
		fmt.Fprintf(&b, "echo '%s'\n", l)
	}
	if p.Count > 0 {
		fmt.Fprintf(&b, "i=1; while [ $i -le %d ]; do echo \"line $i\"; i=$((i+1)); done\n", p.Count)
	}
	if p.Long > 0 {
		fmt.Fprintf(&b, "head -c %d /dev/zero | tr '\\0' x\n", p.Long)
	}
	if p.Binary > 0 {
		fmt.Fprintf(&b, "head -c %d /dev/zero\n", p.Binary)
	}
	if p.RunFor > 0 && !p.Hang {
		// exec would lose the exit code; the wait is interruptible by TERM only so.
		fmt.Fprintf(&b, "trap 'kill $s; trap - TERM; kill -TERM $$' TERM; sleep %.3f & s=$!; wait $s\n", p.RunFor.Seconds())
	}
	if p.Hang {
		b.WriteString("while :; do sleep 1; done\n")
	}
	if p.Signal != "" {
		fmt.Fprintf(&b, "kill -%s $$\n", strings.TrimPrefix(p.Signal, "SIG"))
	}
	fmt.Fprintf(&b, "exit %d\n", p.Exit)
	return []string{"/bin/sh", "-c", b.String()}
}

// Harness is one runner under test.
type Harness struct {
	Runner runner.Runner
	// Program turns a program into Spec.Args and Spec.With.
	Program func(Program) (args []string, with json.RawMessage)
	// Contained is what a runner of containers is tested with besides; nil for others.
	Contained *Contained
	// Restart stands for the death of the server: it abandons Runner and returns
	// another one, closed by the suite, that knows what survived. Nil when units end
	// with the server.
	Restart func(t *testing.T) runner.Runner
	// BadProgram is what can never be started although Check accepts it. Empty
	// when the runner has no such thing.
	BadProgram     []string
	BadProgramWith json.RawMessage
}

// Options describe the runner to the suite.
type Options struct {
	// New makes a runner with a state of its own; it is closed by the suite.
	New func(t *testing.T) Harness
	// Shell says that Spec.Args of /bin/sh with POSIX tools are really executed.
	Shell bool
	// Request says that units are no programs but something that is asked of another
	// machine: the runner writes their log, which names every Line of the program, they
	// end with code 0 or with code 1 and a reason, and none ignores a request to stop.
	Request bool
	// ExtraEnv names the variables that the platform adds to the environment.
	ExtraEnv []string
	// Patience is how long the suite waits for what must happen. Default 20 s.
	Patience time.Duration
	// Many is the number of units of the test with many at once. Default 60.
	Many int
	// LongLine is the length of the long line. Default 100 MB.
	LongLine int64
	// MemoryGrowth is how much memory of this process the long line may take.
	// Default 32 MiB.
	MemoryGrowth uint64
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	if o.Patience == 0 {
		o.Patience = 20 * time.Second
	}
	if o.Many == 0 {
		o.Many = 60
	}
	if o.LongLine == 0 {
		o.LongLine = 100 << 20
	}
	if o.MemoryGrowth == 0 {
		o.MemoryGrowth = 32 << 20
	}
	cases := []testCase{
		{"StartIsIdempotent", testStartIdempotent, nil},
		{"StartConcurrently", testStartConcurrently, nil},
		{"StartAfterEnd", testStartAfterEnd, nil},
		{"BadProgram", testBadProgram, needBadProgram},
		{"BadSpec", testBadSpec, nil},
		{"ExitCodes", testExitCodes, nil},
		{"Signals", testSignals, needProgram},
		{"Times", testTimes, nil},
		{"LogInOrder", testLogInOrder, needProgram},
		{"LogAppends", testLogAppends, nil},
		{"LogIsPrompt", testLogPrompt, nil},
		{"LogCap", testLogCap, needProgram},
		{"LogCapNotReached", testLogCapNotReached, needProgram},
		{"LogBinary", testLogBinary, needProgram},
		{"Masks", testMasks, needProgram},
		{"MasksAfterRestart", testMasksRestart, needMasksRestart},
		{"MasksAndCap", testMasksCap, needProgram},
		{"WaitRepeated", testWaitRepeated, nil},
		{"WaitContext", testWaitContext, nil},
		{"StopPolite", testStopPolite, nil},
		{"StopKills", testStopKills, needProgram},
		{"StopSoonerWins", testStopSooner, needProgram},
		{"StopRacesExit", testStopRacesExit, nil},
		{"Unknown", testUnknown, nil},
		{"Recover", testRecover, nil},
		{"RecoverAfterRestart", testRecoverRestart, needRestart},
		{"List", testList, nil},
		{"RemoveKills", testRemoveKills, nil},
		{"RemoveLeavesFiles", testRemoveLeavesFiles, nil},
		{"HardStop", testHardStop, nil},
		{"HardStopWithoutServer", testHardStopNoServer, needRestart},
		{"Many", testMany, nil},
		{"CanceledContext", testCanceledContext, nil},
		{"TreeIsKilledOnStop", testTreeStop, needShell},
		{"TreeIsKilledOnExit", testTreeExit, needShell},
		{"PipeHeldOpen", testPipeHeld, needShell},
		{"Streams", testStreams, needShell},
		{"Environment", testEnvironment, needShell},
		{"WorkingDirectory", testWorkingDirectory, needShell},
		{"NoShellExpansion", testNoShell, needShell},
	}
	t.Run("Contract", func(t *testing.T) {
		for _, c := range append(cases, containedCases...) {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				s := newSuite(t, o)
				if c.need != nil {
					if why := c.need(o, s.h); why != "" {
						t.Skip(why)
					}
				}
				c.fn(t, s)
			})
		}
	})
	// Alone, because they measure this process.
	if !o.Request {
		t.Run("LongLine", func(t *testing.T) { testLongLine(t, newSuite(t, o)) })
	}
	t.Run("NoGoroutineLeft", func(t *testing.T) { testNoGoroutineLeft(t, o) })
}

type testCase struct {
	name string
	fn   func(*testing.T, *suite)
	need func(Options, Harness) string // why it is left out
}

func needShell(o Options, _ Harness) string {
	if !o.Shell {
		return "this runner executes no real program"
	}
	return ""
}

func needProgram(o Options, _ Harness) string {
	if o.Request {
		return "a unit of this runner is a request, not a program"
	}
	return ""
}

func needRestart(_ Options, h Harness) string {
	if h.Restart == nil {
		return "units of this runner end with the server"
	}
	return ""
}

func needBadProgram(_ Options, h Harness) string {
	if h.BadProgram == nil && h.BadProgramWith == nil {
		return "this runner has no program that cannot be started"
	}
	return ""
}

// suite is what one test works with.
type suite struct {
	o   Options
	h   Harness
	r   runner.Runner
	dir string
	n   atomic.Int64
}

func newSuite(t *testing.T, o Options) *suite {
	t.Helper()
	h := o.New(t)
	s := &suite{o: o, h: h, r: h.Runner, dir: t.TempDir()}
	// Later than the harness's own cleanup was registered, so it runs before it:
	// the folders must not vanish under units that still run.
	t.Cleanup(func() { s.tidy(t) })
	return s
}

// tidy removes whatever the test left running and closes the runner.
func (s *suite) tidy(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Patience)
	defer cancel()
	units, err := s.r.List(ctx)
	if err != nil {
		t.Errorf("list at the end: %v", err)
	}
	for _, h := range units {
		if err := s.r.Remove(ctx, h); err != nil {
			t.Errorf("remove %s at the end: %v", h.Unit, err)
		}
	}
	if err := s.r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// ctx returns a context that ends when the suite has lost patience.
func (s *suite) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), s.o.Patience)
	t.Cleanup(cancel)
	return ctx
}

// spec makes a complete spec for a new unit.
func (s *suite) spec(t *testing.T, p Program) runner.Spec {
	t.Helper()
	sp := s.bare(t)
	sp.Args, sp.With = s.h.Program(p)
	return sp
}

// sh makes a spec that runs a shell script.
func (s *suite) sh(t *testing.T, script string) runner.Spec {
	t.Helper()
	sp := s.bare(t)
	sp.Args = []string{"/bin/sh", "-c", script}
	return sp
}

// Parts of a script: once it is armed, it waits until it is released.
const (
	armed         = `go=; trap 'go=1' TERM; `
	untilReleased = `while [ -z "$go" ]; do sleep 0.01; done 2>/dev/null; trap - TERM; ` // some shells tell of the sleep that a request reached, too
)

// release lets a unit go on that waits for it.
func (s *suite) release(t *testing.T, h runner.Handle) {
	t.Helper()
	if err := s.r.Stop(s.ctx(t), h, time.Hour); err != nil {
		t.Fatal(err)
	}
}

// work is the working directory of a unit on this machine.
func (s *suite) work(sp runner.Spec) string {
	if s.h.Contained != nil {
		return filepath.Join(sp.Dir, container.Work)
	}
	return sp.Dir
}

func (s *suite) bare(t *testing.T) runner.Spec {
	t.Helper()
	unit := fmt.Sprintf("u-%d", s.n.Add(1))
	dir := filepath.Join(s.dir, unit)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sp := runner.Spec{
		Unit: unit, Dir: dir, Log: filepath.Join(s.dir, unit+".log"),
		Env:  []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		Meta: map[string]string{"run": "r1", "step": unit, "attempt": "1"},
	}
	if s.h.Contained != nil {
		makeHome(t, dir)
		sp.With = s.h.Contained.with(t, nil)
	}
	return sp
}

func (s *suite) start(t *testing.T, sp runner.Spec) runner.Handle {
	t.Helper()
	h, err := s.r.Start(s.ctx(t), sp)
	if err != nil {
		t.Fatalf("start %s: %v", sp.Unit, err)
	}
	if h.Unit != sp.Unit || h.Runner != s.r.Name() {
		t.Fatalf("handle of unit %q of runner %q is %+v", sp.Unit, s.r.Name(), h)
	}
	return h
}

func (s *suite) wait(t *testing.T, h runner.Handle) runner.Exit {
	t.Helper()
	e, err := s.r.Wait(s.ctx(t), h)
	if err != nil {
		t.Fatalf("wait for %s: %v", h.Unit, err)
	}
	return e
}

func (s *suite) run(t *testing.T, sp runner.Spec) runner.Exit {
	t.Helper()
	return s.wait(t, s.start(t, sp))
}

// code is the exit code that a unit ends with whose program says so.
func (s *suite) code(exit int) int {
	if s.o.Request {
		return min(exit, 1)
	}
	return exit
}

func readLog(t *testing.T, sp runner.Spec) string {
	t.Helper()
	b, err := os.ReadFile(sp.Log)
	if err != nil {
		t.Fatalf("log of %s: %v", sp.Unit, err)
	}
	return string(b)
}

// eventually polls until ok or patience ends.
func (s *suite) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !poll(s.o.Patience, ok) {
		t.Fatalf("never happened: %s", what)
	}
}

func poll(patience time.Duration, ok func() bool) bool {
	for end := time.Now().Add(patience); ; {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *suite) printed(sp runner.Spec, text string) func() bool {
	return func() bool {
		b, err := os.ReadFile(sp.Log)
		return err == nil && strings.Contains(string(b), text)
	}
}

// testNoGoroutineLeft uses a runner, closes it, and compares goroutines.
func testNoGoroutineLeft(t *testing.T, o Options) {
	before := runtime.NumGoroutine()
	h := o.New(t)
	s := &suite{o: o, h: h, r: h.Runner, dir: t.TempDir()}
	for range 5 {
		s.run(t, s.spec(t, Program{Lines: []string{"x"}}))
	}
	long := s.start(t, s.spec(t, Program{Lines: []string{"x"}, RunFor: time.Hour}))
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := s.r.Wait(ctx, long); err == nil {
		t.Fatal("wait for a unit that runs for an hour returned no error")
	}
	s.tidy(t)
	if !poll(o.Patience, func() bool { return runtime.NumGoroutine() <= before }) {
		buf := make([]byte, 1<<20)
		t.Fatalf("%d goroutines before, %d after Close:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
	}
}
