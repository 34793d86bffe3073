package runnertest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill/internal/runner"
)

func testLogInOrder(t *testing.T, s *suite) {
	const n = 5000
	sp := s.spec(t, Program{Count: n})
	e := s.run(t, sp)
	got := strings.Split(readLog(t, sp), "\n")
	if len(got) != n+1 {
		t.Fatalf("%d lines in the log when Wait returned, want %d", len(got)-1, n)
	}
	for i, l := range got[:n] {
		if want := fmt.Sprintf("line %d", i+1); l != want {
			t.Fatalf("line %d is %q, want %q", i+1, l, want)
		}
	}
	if info, err := os.Stat(sp.Log); err != nil || e.LogBytes != info.Size() || e.Truncated {
		t.Errorf("exit = %+v, log has %d bytes", e, info.Size())
	}
}

func testLogAppends(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"from-the-unit"}})
	if err := os.WriteFile(sp.Log, []byte("from before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(t, sp)
	got := readLog(t, sp)
	if s.o.Request && strings.HasPrefix(got, "from before\n") && strings.Contains(got, "from-the-unit") {
		return
	}
	if got != "from before\nfrom-the-unit\n" {
		t.Errorf("log = %q", got)
	}
}

func testLogPrompt(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"early"}, RunFor: time.Hour})
	s.start(t, sp)
	s.eventually(t, "the line is in the log while the unit runs", s.printed(sp, "early"))
}

func testLogCap(t *testing.T, s *suite) {
	const size, limit = 300_000, 1000
	sp := s.spec(t, Program{Lines: []string{"first"}, Long: size})
	sp.LogCap = limit
	e := s.run(t, sp)
	if total := int64(size + len("first\n")); e.LogBytes != total || !e.Truncated {
		t.Errorf("exit = %+v, want %d bytes counted and truncated", e, total)
	}
	if !e.OK() {
		t.Errorf("exit = %+v, want a long log to be no failure", e)
	}
	checkCut(t, sp, "first\n"+strings.Repeat("x", limit-len("first\n")))
}

// checkCut checks that the log is kept and then a line of its own that names the cap.
func checkCut(t *testing.T, sp runner.Spec, kept string) {
	t.Helper()
	got := readLog(t, sp)
	rest, ok := strings.CutPrefix(got, kept)
	if !ok {
		t.Fatalf("the log of %d bytes does not begin with the %d bytes kept: %.80q…", len(got), len(kept), got)
	}
	rest = strings.TrimPrefix(rest, "\n")
	if strings.Count(rest, "\n") != 1 || !strings.HasSuffix(rest, "\n") || !strings.Contains(rest, fmt.Sprint(sp.LogCap)) {
		t.Errorf("after the cap comes %q, want one line that names %d", rest, sp.LogCap)
	}
}

func testLogCapNotReached(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Long: 1000})
	sp.LogCap = 1000
	if e := s.run(t, sp); e.Truncated || e.LogBytes != 1000 {
		t.Errorf("exit = %+v, want 1000 bytes, not truncated", e)
	}
	if got := readLog(t, sp); got != strings.Repeat("x", 1000) {
		t.Errorf("log has %d bytes, want exactly the 1000 written", len(got))
	}
}

func testLogBinary(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"before"}, Binary: 10_000})
	s.run(t, sp)
	want := append([]byte("before\n"), make([]byte, 10_000)...)
	if got := []byte(readLog(t, sp)); !bytes.Equal(got, want) {
		t.Errorf("log of %d bytes differs from the %d bytes written", len(got), len(want))
	}
}

func testLongLine(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Long: s.o.LongLine})
	sp.LogCap = 1 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e := s.run(t, sp)
	runtime.ReadMemStats(&after)
	if grown := after.Sys - before.Sys; after.Sys > before.Sys && grown > s.o.MemoryGrowth {
		t.Errorf("a line of %d bytes took %d bytes of memory", s.o.LongLine, grown)
	}
	if e.LogBytes != s.o.LongLine || !e.Truncated || !e.OK() {
		t.Errorf("exit = %+v, want %d bytes counted", e, s.o.LongLine)
	}
	checkCut(t, sp, strings.Repeat("x", 1<<20))
}

// heartbeatScript appends to a file for ever, in a session of its own, ignoring TERM.
const heartbeatScript = `setsid sh -c 'trap "" TERM HUP; while :; do echo beat >> beats; sleep 0.02; done' &
while [ ! -s beats ]; do sleep 0.01; done
`

// silent fails unless the file stops growing: everything that wrote to it is gone.
func (s *suite) silent(t *testing.T, dir string) {
	t.Helper()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "beats"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	was := size()
	// The one place where nothing can be awaited: the absence of a process that
	// would have written ten times by then.
	time.Sleep(200 * time.Millisecond)
	if now := size(); now != was {
		t.Errorf("a process of the unit still runs after Wait returned")
	}
}

func testTreeStop(t *testing.T, s *suite) {
	sp := s.sh(t, heartbeatScript+`trap "" TERM; echo ready; while :; do sleep 1; done`)
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	if err := s.r.Stop(s.ctx(t), h, 50*time.Millisecond); err != nil {
		t.Fatalf("stop: %v", err)
	}
	s.wait(t, h)
	s.silent(t, s.work(sp))
}

func testTreeExit(t *testing.T, s *suite) {
	sp := s.sh(t, heartbeatScript+`exit 6`)
	if e := s.run(t, sp); e.Code != 6 {
		t.Errorf("exit = %+v, want the code of the main process", e)
	}
	s.silent(t, s.work(sp))
}

func testPipeHeld(t *testing.T, s *suite) {
	sp := s.sh(t, `echo before; setsid sleep 1000 & echo after; exit 0`)
	began := time.Now()
	if e := s.run(t, sp); !e.OK() {
		t.Errorf("exit = %+v", e)
	}
	if d := time.Since(began); d > s.o.Patience/2 {
		t.Errorf("took %v: a process that holds the log open must not delay the end", d)
	}
	if got := readLog(t, sp); got != "before\nafter\n" {
		t.Errorf("log = %q", got)
	}
}

func testStreams(t *testing.T, s *suite) {
	sp := s.sh(t, `echo one; echo two >&2; echo three; echo four >&2; cat; echo five`)
	s.run(t, sp)
	if got := readLog(t, sp); got != "one\ntwo\nthree\nfour\nfive\n" {
		t.Errorf("log = %q, want both streams in the order of writing and an empty input", got)
	}
}

func testEnvironment(t *testing.T, s *suite) {
	sp := s.bare(t)
	sp.Args = []string{"/usr/bin/env"}
	sp.Env = []string{"PATH=/usr/bin:/bin", "A=1", "EMPTY=", "___DAY=a b=c", "QUOTED='\"$HOME`", "UNI=äöü"}
	s.run(t, sp)
	var got []string
	for l := range strings.Lines(readLog(t, sp)) {
		l = strings.TrimSuffix(l, "\n")
		name, _, _ := strings.Cut(l, "=")
		if !slices.Contains(s.o.ExtraEnv, name) {
			got = append(got, l)
		}
	}
	want := slices.Clone(sp.Env)
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
}

func testWorkingDirectory(t *testing.T, s *suite) {
	sp := s.sh(t, `echo made > here; cat here`)
	if e := s.run(t, sp); !e.OK() {
		t.Fatalf("exit = %+v, log %q", e, readLog(t, sp))
	}
	if got, err := os.ReadFile(filepath.Join(s.work(sp), "here")); string(got) != "made\n" {
		t.Errorf("file made in the working directory: %q, %v", got, err)
	}
	// A program with a slash is looked up there too.
	if err := os.WriteFile(filepath.Join(s.work(sp), "tool.sh"), []byte("#!/bin/sh\necho tool\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	rel := s.bare(t)
	rel.Dir, rel.Args = sp.Dir, []string{"./tool.sh"}
	if e := s.run(t, rel); !e.OK() || readLog(t, rel) != "tool\n" {
		t.Errorf("exit = %+v, log %q", e, readLog(t, rel))
	}
}

func testNoShell(t *testing.T, s *suite) {
	sp := s.bare(t)
	sp.Args = []string{"/bin/echo", "$PATH", "*", "a;b", "`id`", "", "two  spaces"}
	s.run(t, sp)
	if got, want := readLog(t, sp), "$PATH * a;b `id`  two  spaces\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}
