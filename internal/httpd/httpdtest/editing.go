package httpdtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

// PlanRun plans one step, whose argument is known only during the run.
func (w runs) PlanRun(_ context.Context, r waybill.StartRequest) (waybill.RunPlan, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.RunPlan{}, err
	}
	defer unlock()
	if _, ok := w.pipelines[r.Pipeline]; !ok {
		return waybill.RunPlan{}, waybill.E(waybill.KindNotFound, "there is no pipeline %q", r.Pipeline)
	}
	return waybill.RunPlan{Pipeline: r.Pipeline, Version: 1, Params: r.Params, Vars: r.Vars, Steps: []waybill.PlannedStep{{
		Name: "work", Runner: "process", Runs: waybill.PlannedYes, Args: []string{"./work", "${{ run.id }}"}, Timeout: "1h0m0s", Unknown: []string{"run.id"},
	}}}, nil
}

type folder struct{ *World }

// Reload finds one mistake.
func (w folder) Reload(context.Context) (waybill.Reloaded, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Reloaded{}, err
	}
	defer unlock()
	return waybill.Reloaded{
		Applied: []waybill.Applied{{Name: "hello", Version: 2}}, Retired: []string{}, Settings: []string{}, Restart: []string{"units.max"},
		Problems: []waybill.SourceProblem{{File: "pipelines/x.yaml", Line: 3, Column: 1, Msg: "unknown key setps", Hint: "did you mean steps?"}},
	}, nil
}

func schemas(kind string) ([]byte, error) {
	if kind != "pipeline" {
		return nil, waybill.E(waybill.KindNotFound, "there is no schema of %q", kind)
	}
	return []byte(`{"type":"object"}`), nil
}
