package runnertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

func testStartIdempotent(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"executed"}, RunFor: 300 * time.Millisecond})
	first := s.start(t, sp)
	second := s.start(t, sp)
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("the second start returned another handle (-first +second):\n%s", d)
	}
	if e := s.wait(t, first); !e.OK() {
		t.Errorf("exit = %+v, want a success", e)
	}
	if n := strings.Count(readLog(t, sp), "executed"); n != 1 {
		t.Errorf("executed %d times, want once", n)
	}
}

func testStartConcurrently(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"executed"}})
	handles := make([]runner.Handle, 20)
	ctx := s.ctx(t)
	var wg sync.WaitGroup
	for i := range handles {
		wg.Go(func() {
			h, err := s.r.Start(ctx, sp)
			if err != nil {
				t.Errorf("start %d: %v", i, err)
				return
			}
			handles[i] = h
		})
	}
	wg.Wait()
	for _, h := range handles[1:] {
		if d := cmp.Diff(handles[0], h); d != "" {
			t.Errorf("handles differ:\n%s", d)
		}
	}
	s.wait(t, handles[0])
	if n := strings.Count(readLog(t, sp), "executed"); n != 1 {
		t.Errorf("executed %d times, want once", n)
	}
}

func testStartAfterEnd(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"executed"}, Exit: 3})
	h := s.start(t, sp)
	want := s.wait(t, h)
	again := s.start(t, sp)
	if d := cmp.Diff(h, again); d != "" {
		t.Errorf("a start after the end returned another handle:\n%s", d)
	}
	if d := cmp.Diff(want, s.wait(t, again)); d != "" {
		t.Errorf("the exit changed:\n%s", d)
	}
	if n := strings.Count(readLog(t, sp), "executed"); n != 1 {
		t.Errorf("executed %d times, want once", n)
	}
}

func testBadProgram(t *testing.T, s *suite) {
	sp := s.bare(t)
	sp.Args = s.h.BadProgram
	if s.h.BadProgramWith != nil {
		sp.With = s.h.BadProgramWith
	}
	h := s.start(t, sp)
	e := s.wait(t, h)
	if e.Reason != runner.ReasonStartFailed || e.OK() {
		t.Errorf("exit = %+v, want reason %s", e, runner.ReasonStartFailed)
	}
	if e.Message == "" {
		t.Error("nothing says why it could not be started")
	}
	if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); err != nil {
		t.Errorf("recover: %v", err)
	}
}

func testBadSpec(t *testing.T, s *suite) {
	good := s.spec(t, Program{Lines: []string{"executed"}})
	for name, spoil := range map[string]func(*runner.Spec){
		"no unit name":      func(sp *runner.Spec) { sp.Unit = "" },
		"path as unit name": func(sp *runner.Spec) { sp.Unit = "../x" },
		"long unit name":    func(sp *runner.Spec) { sp.Unit = strings.Repeat("x", 64) },
	} {
		sp := good
		spoil(&sp)
		if _, err := s.r.Start(s.ctx(t), sp); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: error = %v, want kind invalid", name, err)
		}
	}
	if _, err := os.Stat(good.Log); err == nil {
		t.Error("something was executed")
	}
}

func testExitCodes(t *testing.T, s *suite) {
	for _, code := range []int{0, 1, 2, 42, 137, 255} {
		e := s.run(t, s.spec(t, Program{Exit: code}))
		reason := s.o.Request && code != 0
		if e.Code != s.code(code) || e.Signal != "" || (e.Reason != "") != reason || e.OK() != (code == 0) {
			t.Errorf("exit = %+v, want code %d", e, s.code(code))
		}
	}
}

func testSignals(t *testing.T, s *suite) {
	for _, sig := range []string{"SIGKILL", "SIGTERM"} {
		e := s.run(t, s.spec(t, Program{Signal: sig}))
		if c := s.h.Contained; c != nil && c.SignalAsCode {
			if want := map[string]int{"SIGKILL": 137, "SIGTERM": 143}[sig]; e.Code != want || e.OK() {
				t.Errorf("exit = %+v, want code %d, as the platform shows %s", e, want, sig)
			}
			continue
		}
		if e.Code != -1 || e.Signal != sig || e.OK() {
			t.Errorf("exit = %+v, want code -1 by %s", e, sig)
		}
	}
}

func testTimes(t *testing.T, s *suite) {
	const slack = 50 * time.Millisecond
	if c := s.h.Contained; c != nil && c.WholeSeconds {
		before := time.Now()
		e := s.run(t, s.spec(t, Program{RunFor: 1200 * time.Millisecond}))
		if e.StartedAt.Before(before.Add(-time.Second)) || e.EndedAt.After(time.Now().Add(slack)) || e.EndedAt.Sub(e.StartedAt) < time.Second {
			t.Errorf("unit ran from %v to %v, asked at %v to run for more than a second", e.StartedAt, e.EndedAt, before)
		}
		return
	}
	before := time.Now()
	e := s.run(t, s.spec(t, Program{RunFor: 200 * time.Millisecond}))
	after := time.Now()
	// Clocks are read in different processes and may be rounded on the way.
	if e.StartedAt.Before(before.Add(-slack)) || e.EndedAt.After(after.Add(slack)) {
		t.Errorf("unit ran from %v to %v, asked from %v to %v", e.StartedAt, e.EndedAt, before, after)
	}
	if d := e.EndedAt.Sub(e.StartedAt); d < 150*time.Millisecond {
		t.Errorf("unit ran %v, want at least 200ms", d)
	}
}

func testWaitRepeated(t *testing.T, s *suite) {
	h := s.start(t, s.spec(t, Program{RunFor: 200 * time.Millisecond, Exit: 7}))
	exits := make([]runner.Exit, 10)
	ctx := s.ctx(t)
	var wg sync.WaitGroup
	for i := range exits {
		wg.Go(func() {
			e, err := s.r.Wait(ctx, h)
			if err != nil {
				t.Errorf("wait %d: %v", i, err)
			}
			exits[i] = e
		})
	}
	wg.Wait()
	for _, e := range append(exits, s.wait(t, h)) {
		if d := cmp.Diff(exits[0], e); d != "" {
			t.Errorf("waits differ:\n%s", d)
		}
	}
	if exits[0].Code != s.code(7) {
		t.Errorf("exit = %+v, want code 7", exits[0])
	}
}

func testWaitContext(t *testing.T, s *suite) {
	h := s.start(t, s.spec(t, Program{RunFor: 600 * time.Millisecond, Exit: 5}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.r.Wait(ctx, h); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait with a context that ended: %v", err)
	}
	if e := s.wait(t, h); e.Code != s.code(5) {
		t.Errorf("exit = %+v, want the unit to end as if nobody had waited", e)
	}
}

func testCanceledContext(t *testing.T, s *suite) {
	h := s.start(t, s.spec(t, Program{RunFor: time.Hour}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.r.Wait(ctx, h); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v, want the context's error", err)
	}
	if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); err != nil {
		t.Errorf("recover afterwards: %v", err)
	}
}

func testStopPolite(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"ready"}, RunFor: time.Hour})
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	if err := s.r.Stop(s.ctx(t), h, time.Hour); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if e := s.wait(t, h); e.Signal != "SIGTERM" || e.OK() {
		t.Errorf("exit = %+v, want an end by SIGTERM", e)
	}
	if err := s.r.Stop(s.ctx(t), h, time.Second); err != nil {
		t.Errorf("stop of an ended unit: %v", err)
	}
}

func testStopKills(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"ready"}, Hang: true})
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	const grace = 400 * time.Millisecond
	asked := time.Now()
	if err := s.r.Stop(s.ctx(t), h, grace); err != nil {
		t.Fatalf("stop: %v", err)
	}
	quick := grace
	if s.h.Contained != nil {
		quick += time.Second // it is asked of somebody else
	}
	if d := time.Since(asked); d > quick {
		t.Errorf("stop took %v; it must return when the request is recorded", d)
	}
	e := s.wait(t, h)
	if e.Signal != "SIGKILL" {
		t.Errorf("exit = %+v, want an end by SIGKILL", e)
	}
	if d := time.Since(asked); d < grace-20*time.Millisecond {
		t.Errorf("killed after %v, grace was %v", d, grace)
	}
}

func testStopSooner(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"ready"}, Hang: true})
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	for _, grace := range []time.Duration{time.Hour, 50 * time.Millisecond, 2 * time.Hour} {
		if err := s.r.Stop(s.ctx(t), h, grace); err != nil {
			t.Fatalf("stop: %v", err)
		}
	}
	if e := s.wait(t, h); e.Signal != "SIGKILL" {
		t.Errorf("exit = %+v, want an end by SIGKILL", e)
	}
}

func testStopRacesExit(t *testing.T, s *suite) {
	ctx := s.ctx(t)
	var wg sync.WaitGroup
	for i := range 30 {
		sp := s.spec(t, Program{RunFor: time.Duration(i) * time.Millisecond})
		wg.Go(func() {
			h, err := s.r.Start(ctx, sp)
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			if err := s.r.Stop(ctx, h, time.Duration(i%3)*5*time.Millisecond); err != nil {
				t.Errorf("stop: %v", err)
			}
			e, err := s.r.Wait(ctx, h)
			if err != nil {
				t.Errorf("wait: %v", err)
			}
			if !e.OK() && e.Signal != "SIGTERM" && e.Signal != "SIGKILL" {
				t.Errorf("exit = %+v, want a success or an end by the stop", e)
			}
		})
	}
	wg.Wait()
}

func testUnknown(t *testing.T, s *suite) {
	h := runner.Handle{Runner: s.r.Name(), Unit: "never-started"}
	ctx := s.ctx(t)
	if err := s.r.Recover(ctx, h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost", err)
	}
	if _, err := s.r.Wait(ctx, h); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait = %v, want kind lost", err)
	}
	if err := s.r.Stop(ctx, h, time.Second); err != nil {
		t.Errorf("stop = %v, want none", err)
	}
	if err := s.r.Remove(ctx, h); err != nil {
		t.Errorf("remove = %v, want none", err)
	}
}

func testRecover(t *testing.T, s *suite) {
	h := s.start(t, s.spec(t, Program{RunFor: 100 * time.Millisecond}))
	// What a caller has that crashed before it was answered.
	bare := runner.Handle{Runner: h.Runner, Unit: h.Unit}
	for _, when := range []string{"while it runs", "after it ended"} {
		for _, h := range []runner.Handle{h, bare} {
			if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); err != nil {
				t.Errorf("recover %s: %v", when, err)
			}
		}
		s.wait(t, bare)
	}
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover after remove = %v, want kind lost", err)
	}
}

func testRecoverRestart(t *testing.T, s *suite) {
	shortSpec := s.spec(t, Program{Lines: []string{"ended"}, Exit: 9})
	short := s.start(t, shortSpec)
	s.wait(t, short)
	longSpec := s.spec(t, Program{Lines: []string{"executed"}, RunFor: 500 * time.Millisecond, Exit: 4})
	long := s.start(t, longSpec)

	s.r = s.h.Restart(t)
	s.recover(t, short, shortSpec)
	s.recover(t, long, longSpec)
	if e := s.wait(t, short); e.Code != s.code(9) {
		t.Errorf("exit of the ended unit = %+v, want code 9", e)
	}
	s.start(t, longSpec)
	if e := s.wait(t, long); e.Code != s.code(4) {
		t.Errorf("exit of the running unit = %+v, want code 4", e)
	}
	if n := strings.Count(readLog(t, longSpec), "executed"); n != 1 {
		t.Errorf("executed %d times, want once", n)
	}
	if n := strings.Count(readLog(t, shortSpec), "ended"); n != 1 && !s.o.Request {
		t.Errorf("the log of the ended unit says so %d times, want once", n)
	}
}

// recover takes up a unit after a restart, with what the engine knows of it then.
func (s *suite) recover(t *testing.T, h runner.Handle, sp runner.Spec) {
	t.Helper()
	known := runner.Spec{Unit: sp.Unit, Dir: sp.Dir, Log: sp.Log, LogCap: sp.LogCap, Mask: sp.Mask, HardStop: sp.HardStop}
	if err := s.r.Recover(s.ctx(t), h, known); err != nil {
		t.Errorf("recover %s: %v", h.Unit, err)
	}
}

func testList(t *testing.T, s *suite) {
	names := func() map[string]bool {
		t.Helper()
		hs, err := s.r.List(s.ctx(t))
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		m := map[string]bool{}
		for _, h := range hs {
			if h.Runner != s.r.Name() {
				t.Errorf("listed handle %+v is not of runner %s", h, s.r.Name())
			}
			m[h.Unit] = true
		}
		return m
	}
	if got := names(); len(got) != 0 {
		t.Errorf("a new runner lists %v", got)
	}
	ended := s.start(t, s.spec(t, Program{}))
	s.wait(t, ended)
	running := s.start(t, s.spec(t, Program{RunFor: time.Hour}))
	if d := cmp.Diff(map[string]bool{ended.Unit: true, running.Unit: true}, names()); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	if err := s.r.Remove(s.ctx(t), ended); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if d := cmp.Diff(map[string]bool{running.Unit: true}, names()); d != "" {
		t.Errorf("list after remove (-want +got):\n%s", d)
	}
}

func testRemoveKills(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"ready"}, Hang: true})
	h := s.start(t, sp)
	s.eventually(t, "the unit runs", s.printed(sp, "ready"))
	waited := make(chan error, 1)
	ctx := s.ctx(t)
	go func() {
		_, err := s.r.Wait(ctx, h)
		waited <- err
	}()
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if err := s.r.Recover(s.ctx(t), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost", err)
	}
	if err := <-waited; err != nil && !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("a wait during the removal = %v, want an exit or kind lost", err)
	}
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Errorf("second remove: %v", err)
	}
}

func testRemoveLeavesFiles(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Lines: []string{"kept"}})
	h := s.start(t, sp)
	s.wait(t, h)
	if err := s.r.Remove(s.ctx(t), h); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if got := readLog(t, sp); got != "kept\n" && !(s.o.Request && strings.Contains(got, "kept")) {
		t.Errorf("log after remove = %q", got)
	}
	if _, err := os.Stat(sp.Dir); err != nil {
		t.Errorf("folder after remove: %v", err)
	}
}

func testHardStop(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Hang: true})
	sp.HardStop = time.Now().Add(300 * time.Millisecond)
	e := s.run(t, sp)
	if e.Reason != runner.ReasonHardStop || e.OK() {
		t.Errorf("exit = %+v, want reason %s", e, runner.ReasonHardStop)
	}
	early := 20 * time.Millisecond
	if c := s.h.Contained; c != nil && c.WholeSeconds {
		early = time.Second // it is shown as the second in which it was
	}
	if e.EndedAt.Before(sp.HardStop.Add(-early)) {
		t.Errorf("ended at %v, before the hard stop at %v", e.EndedAt, sp.HardStop)
	}

	in := s.spec(t, Program{})
	in.HardStop = time.Now().Add(time.Hour)
	if e := s.run(t, in); !e.OK() {
		t.Errorf("exit = %+v, want a unit in time untouched", e)
	}
	past := s.spec(t, Program{Hang: true})
	past.HardStop = time.Now().Add(-time.Hour)
	if e := s.run(t, past); e.Reason != runner.ReasonHardStop {
		t.Errorf("exit = %+v, want a hard stop in the past to act at once", e)
	}
}

func testHardStopNoServer(t *testing.T, s *suite) {
	sp := s.spec(t, Program{Hang: true})
	sp.HardStop = time.Now().Add(300 * time.Millisecond)
	h := s.start(t, sp)
	s.r = s.h.Restart(t)
	if e := s.wait(t, h); e.Reason != runner.ReasonHardStop {
		t.Errorf("exit = %+v, want reason %s", e, runner.ReasonHardStop)
	}
}

func testMany(t *testing.T, s *suite) {
	ctx := s.ctx(t)
	var wg sync.WaitGroup
	for i := range s.o.Many {
		text := fmt.Sprintf("unit-%d.", i)
		sp := s.spec(t, Program{Lines: []string{text}, RunFor: time.Duration(i%10) * 10 * time.Millisecond, Exit: i % 7})
		wg.Go(func() {
			h, err := s.r.Start(ctx, sp)
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			e, err := s.r.Wait(ctx, h)
			if err != nil || e.Code != s.code(i%7) {
				t.Errorf("unit %d: exit %+v, error %v, want code %d", i, e, err, s.code(i%7))
			}
			if got, _ := os.ReadFile(sp.Log); string(got) != text+"\n" && !(s.o.Request && strings.Contains(string(got), text)) {
				t.Errorf("unit %d: log %q", i, got)
			}
			if err := s.r.Remove(ctx, h); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
}
