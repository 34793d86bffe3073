package engine

import (
	"context"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// PlanRun implements waybill.Runs: it says what StartRun would do. Nothing is stored.
func (e *Engine) PlanRun(ctx context.Context, r waybill.StartRequest) (waybill.RunPlan, error) {
	plan, version, err := e.o.Plans.Plan(ctx, r.Pipeline, 0)
	if err != nil {
		return waybill.RunPlan{}, err
	}
	if !plan.On.HTTP {
		return waybill.RunPlan{}, waybill.E(waybill.KindConflict, "it is not started by HTTP").
			WithOp("start pipeline", r.Pipeline).WithHint("add \"http: {}\" under \"on\"")
	}
	if n := r.Vars.Size() + r.Params.Size(); n > maxVars {
		return waybill.RunPlan{}, waybill.E(waybill.KindTooLarge, "variables and parameters take %d bytes, the limit is %d", n, maxVars)
	}
	now := e.now()
	ev := waybill.Event{ID: waybill.NewID(now), Type: "http", Source: "/pipelines/" + r.Pipeline, Subject: r.By.Name, Time: now}
	run, _, err := e.Begin(plan, version, ev, r.Params, r.Vars) // its commit is left out
	if err != nil {
		return waybill.RunPlan{}, err
	}
	sc := pipeline.Scope{
		Event: eventData(ev), Run: map[string]any{"id": run.ID, "pipeline": run.Pipeline, "version": int64(version)},
		Params: run.Params, Vars: run.Vars,
	}
	return waybill.RunPlan{
		Pipeline: plan.Name, Version: version, Params: run.Params, Vars: run.Vars, Slots: run.Slots, Steps: plan.Preview(sc),
	}, nil
}
