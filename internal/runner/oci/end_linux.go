package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Recover implements [runner.Runner].
func (r *Runner) Recover(ctx context.Context, h runner.Handle, _ runner.Spec) error {
	rec, err := r.find(h.Unit)
	if err == nil && rec.Exit == nil {
		err = r.o.Inner.Recover(ctx, inner(h.Unit), runner.Spec{})
	}
	return failed("recover", h.Unit, err)
}

// find returns the record of a unit that was begun.
func (r *Runner) find(unit string) (*record, error) {
	lost := waybill.E(waybill.KindLost, "unit %s is unknown here", unit)
	if !unitName.MatchString(unit) || !r.used() {
		return nil, lost
	}
	if _, err := r.open(); err != nil {
		return nil, err
	}
	rec, err := r.load(unit)
	if err != nil {
		return nil, err
	}
	if rec == nil || !rec.Begun && rec.Exit == nil {
		return nil, lost
	}
	return rec, nil
}

// Wait implements [runner.Runner].
func (r *Runner) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	e, err := r.wait(ctx, h)
	return e, failed("wait for", h.Unit, err)
}

func (r *Runner) wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	if err := ctx.Err(); err != nil {
		return runner.Exit{}, err
	}
	rec, err := r.find(h.Unit)
	if err != nil {
		return runner.Exit{}, err
	}
	if rec.Exit != nil {
		return *rec.Exit, nil
	}
	e, err := r.o.Inner.Wait(ctx, inner(h.Unit))
	if err != nil {
		return runner.Exit{}, err
	}
	done, err := r.take(ctx, h.Unit)
	if err != nil {
		return runner.Exit{}, err
	}
	defer done()
	again, err := r.load(h.Unit)
	switch {
	case err != nil:
		return runner.Exit{}, err
	case again == nil:
		return runner.Exit{}, waybill.E(waybill.KindLost, "unit %s was removed", h.Unit)
	case again.Exit != nil:
		return *again.Exit, nil
	}
	st, err := r.open()
	if err != nil {
		return runner.Exit{}, err
	}
	r.judge(st, again, &e)
	again.Exit = &e
	if err := r.save(again); err != nil {
		return runner.Exit{}, fmt.Errorf("record how the unit ended: %w", err)
	}
	return e, nil
}

// judge says how the unit ended, after what the supervisor saw of its first process.
func (r *Runner) judge(st *state, rec *record, e *runner.Exit) {
	v, err := readVerdict(r.unitDir(rec.Unit, statusFile))
	if err != nil {
		e.Message = err.Error()
	}
	switch {
	case e.Reason == runner.ReasonStartFailed:
		text := r.runtimeFault(rec)
		if text != "" {
			e.Message = text
		}
		e.Code = 126
		if strings.Contains(text, "no such file") || strings.Contains(text, "not found") {
			e.Code = 127
		}
	case v.known && v.refused != 0:
		e.Code, e.Signal, e.Reason = 126, "", runner.ReasonStartFailed
		e.Message = "the program cannot be executed: " + v.refused.Error()
		if v.refused == unix.ENOENT {
			e.Code = 127
			e.Message = "the program cannot be executed: it is not there, or the image lacks what its first line or its loader names"
		}
	case v.known && v.status.Signaled():
		e.Code, e.Signal = -1, unix.SignalName(v.status.Signal())
	case v.known:
		e.Code, e.Signal = v.status.ExitStatus(), ""
	}
	if !e.OK() && e.Reason == "" && st.limits.oomKills(rec.Cgroup) > 0 {
		e.Reason = runner.ReasonOOM
		if e.Message == "" {
			e.Message = "a process of the unit was killed because it took more than its memory"
		}
	}
}

// runtimeFault is the last error in the log of the runtime.
func (r *Runner) runtimeFault(rec *record) string {
	b, err := os.ReadFile(r.unitDir(rec.Unit, runtimeLog))
	if err != nil {
		return ""
	}
	last := ""
	for line := range strings.Lines(string(b)) {
		var l struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &l) == nil && (l.Level == "error" || l.Level == "fatal") {
			last = l.Msg
		}
	}
	return container.Clean(errors.New(last))
}

// Stop implements [runner.Runner].
func (r *Runner) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	if _, err := r.find(h.Unit); err != nil {
		if waybill.IsKind(err, waybill.KindLost) {
			err = nil
		}
		return failed("stop", h.Unit, err)
	}
	return failed("stop", h.Unit, r.o.Inner.Stop(ctx, inner(h.Unit), grace))
}

// Remove implements [runner.Runner].
func (r *Runner) Remove(ctx context.Context, h runner.Handle) error {
	return failed("remove", h.Unit, r.remove(ctx, h.Unit))
}

func (r *Runner) remove(ctx context.Context, unit string) error {
	if !unitName.MatchString(unit) || !r.used() {
		return nil
	}
	st, err := r.open()
	if err != nil {
		return err
	}
	done, err := r.take(ctx, unit)
	if err != nil {
		return err
	}
	defer done()
	rec, err := r.load(unit)
	if err != nil {
		r.log.Warn("the record of a unit cannot be read; what is known of it is removed", "unit", unit, "error", err)
		rec = &record{Unit: unit, ID: "waybill-" + st.instance[:8] + "-" + unit, Begun: true}
	}
	if rec == nil {
		return nil
	}
	return r.scrap(ctx, st, rec)
}

// scrap removes everything of a unit, its record last. Every step may be repeated.
func (r *Runner) scrap(ctx context.Context, st *state, rec *record) error {
	if rec.Begun {
		if err := r.o.Inner.Remove(ctx, inner(rec.Unit)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(st.memory, stateDir, rec.ID)); err == nil {
		rt, err := st.chooser.get(ctx)
		if err != nil {
			return err
		}
		if err := rt.delete(ctx, filepath.Join(st.memory, stateDir), rec.ID); err != nil {
			return err
		}
	}
	if err := st.limits.prune(rec.Cgroup); err != nil {
		return err
	}
	mem := filepath.Join(st.memory, rec.Unit)
	if err := unmount(filepath.Join(mem, "rootfs")); err != nil {
		return err
	}
	if rec.IP != "" {
		if err := st.net.detach(rec.Unit, filepath.Join(mem, "netns")); err != nil {
			return err
		}
		st.net.release(rec.IP)
	}
	if rec.Begun && rec.Dir != "" {
		ungive(rec.Dir)
	}
	if err := os.RemoveAll(mem); err != nil {
		return err
	}
	if r.rootless {
		ungive(r.unitDir(rec.Unit))
	}
	for _, d := range []string{upperDir, workDir, flatDir} {
		if err := os.RemoveAll(r.unitDir(rec.Unit, d)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.unitDir(rec.Unit)); err != nil {
		return err
	}
	if release, ok := st.pins.LoadAndDelete(rec.Unit); ok {
		release.(func())()
	}
	return nil
}
