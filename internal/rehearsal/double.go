package rehearsal

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/sim"
)

func duration(s string) (time.Duration, error) {
	var d runner.Duration
	err := d.UnmarshalText([]byte(s))
	return time.Duration(d), err
}

// stage has the doubles of one run.
type stage struct {
	c    *Case
	plan *pipeline.Plan

	mu    sync.Mutex
	calls map[string][]Call // by step
	made  map[string]int    // units by step, cells apart
	says  map[string]string // the errors of units
	slow  map[string]time.Duration
}

func newStage(c *Case, plan *pipeline.Plan) *stage {
	s := &stage{c: c, plan: plan, calls: map[string][]Call{}, made: map[string]int{}, says: map[string]string{}, slow: map[string]time.Duration{}}
	for _, step := range plan.Steps {
		s.prepare(step)
	}
	return s
}

// soon is the timeout of a step that is to be timed out. Other cells of the same step
// have to end within it.
const soon = 500 * time.Millisecond

// prepare changes a step so that nothing has to be waited for. The plan is this
// rehearsal's own.
func (s *stage) prepare(step *pipeline.Step) {
	if step.Control() {
		step.Runner = simulated + step.Runner
	}
	step.Retry.Backoff, step.Retry.MaxBackoff = time.Millisecond, time.Millisecond
	step.Heartbeat, step.KeepFailed = 0, 0
	if step.Callback == pipeline.CallbackRequired {
		step.Callback = pipeline.CallbackOptional // who would call back
	}
	s.slow[step.Name] = step.Timeout
	for name, list := range s.c.Steps {
		if base, _, _ := strings.Cut(name, "."); base != step.Name {
			continue
		}
		for _, d := range list {
			if t, err := duration(d.Duration); err == nil && t >= s.slow[step.Name] {
				step.Timeout = soon
			}
		}
	}
}

// simulated begins the names of runners that stand for those of the engine itself.
const simulated = "simulated-"

// next says what the next unit of a step does, and notes how it was started.
func (s *stage) next(name, base string, sp runner.Spec) Double {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := Call{Args: sp.Args, Env: map[string]string{}}
	for _, v := range sp.Env {
		key, val, _ := strings.Cut(v, "=")
		c.Env[key] = val
	}
	if len(sp.With) > 0 {
		// Settings are an object of JSON: the engine made them.
		_ = json.Unmarshal(sp.With, &c.With)
	}
	s.calls[base] = append(s.calls[base], c)
	list, ok := s.c.Steps[name]
	if !ok {
		list = s.c.Steps[base]
	}
	n := s.made[name]
	s.made[name]++
	if len(list) == 0 {
		return Double{}
	}
	d := list[min(n, len(list)-1)]
	s.says[sp.Unit] = d.Error
	return d
}

// outputs are what the unit returns.
func outputs(step *pipeline.Step, d Double) map[string]any {
	out := map[string]any{}
	if step != nil {
		for _, o := range step.Outputs {
			switch o.Type {
			case waybill.TypeFile:
				continue
			case waybill.TypeInt, waybill.TypeNumber:
				out[o.Name] = 0
			case waybill.TypeBool:
				out[o.Name] = false
			case waybill.TypeJSON:
				out[o.Name] = nil
			default:
				out[o.Name] = ""
			}
		}
		if step.Runner == simulated+pipeline.RunnerApproval {
			out["decision"], out["by"], out["comment"] = string(waybill.Approved), "test", ""
		}
	}
	for name, v := range d.Outputs {
		for declared := range out {
			if strings.EqualFold(declared, name) {
				delete(out, declared)
			}
		}
		out[name] = v
	}
	return out
}

// files makes what the unit leaves in its folder.
func files(step *pipeline.Step, d Double, dir string) error {
	make := func(name, content string) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(content), 0o600)
	}
	if step != nil {
		for _, o := range step.Outputs {
			if _, given := d.Files[o.File]; o.File != "" && !o.Optional && !given {
				if err := make(o.File, ""); err != nil {
					return err
				}
			}
		}
	}
	for name, content := range d.Files {
		if !filepath.IsLocal(name) {
			return waybill.E(waybill.KindInvalid, "%q leads out of the step's folder", name)
		}
		if err := make(name, content); err != nil {
			return err
		}
	}
	return nil
}

// double stands for a runner: it starts a simulated unit in the place of each.
type double struct {
	*sim.Runner
	name string
	s    *stage
}

// Name implements runner.Runner.
func (d *double) Name() string { return d.name }

// Start implements runner.Runner. Every unit is started once: the engine of a
// rehearsal is never killed.
func (d *double) Start(ctx context.Context, sp runner.Spec) (runner.Handle, error) {
	name := sp.Meta["step"]
	base, _, _ := strings.Cut(name, ".") // of a cell
	do := d.s.next(name, base, sp)
	step := d.s.plan.Step(base)
	with := map[string]any{"exit": do.Exit, "vanish": do.Lost, "log_text": do.Log}
	if do.Signal != "" {
		with["signal"] = do.Signal
	}
	if do.Reason != "" {
		with["reason"] = do.Reason
	}
	if t, err := duration(do.Duration); do.Duration != "" && err == nil && t >= d.s.slow[base] {
		with["run_for"] = "24h" // it is stopped at its timeout, see prepare
	}
	good := do.Exit == 0 && do.Signal == "" && !do.Lost && do.Reason == ""
	if good {
		with["outputs"] = outputs(step, do)
		if err := files(step, do, sp.Dir); err != nil {
			return runner.Handle{Runner: d.name, Unit: sp.Unit}, waybill.E(waybill.KindInvalid, "files: %w", err)
		}
	}
	raw, err := json.Marshal(with)
	if err != nil {
		return runner.Handle{Runner: d.name, Unit: sp.Unit}, waybill.E(waybill.KindInvalid, "%w", err)
	}
	sp.With = raw
	h, err := d.Runner.Start(ctx, sp)
	h.Runner = d.name
	return h, err
}

// Wait implements runner.Runner.
func (d *double) Wait(ctx context.Context, h runner.Handle) (runner.Exit, error) {
	e, err := d.Runner.Wait(ctx, h)
	if err == nil && !e.OK() {
		d.s.mu.Lock()
		defer d.s.mu.Unlock()
		if text := d.s.says[h.Unit]; text != "" {
			e.Message = text
		}
	}
	return e, err
}
