package httpdtest

import (
	"context"
	"slices"

	"github.com/waybill-run/waybill"
)

func (w runs) PauseRun(_ context.Context, id string, pause bool, by waybill.Principal) (waybill.Run, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Run{}, err
	}
	defer unlock()
	d, err := w.get(id)
	if err != nil {
		return waybill.Run{}, err
	}
	if d.Status.Terminal() {
		return waybill.Run{}, waybill.E(waybill.KindConflict, "the run has ended as %s", d.Status)
	}
	d.Paused = ""
	if pause {
		d.Paused = by.Name
	}
	return d.Run, nil
}

// Answer answers the approval of the step "gate", which every run has: it wants an admin.
func (w runs) Answer(_ context.Context, run, step string, in waybill.Answer, by waybill.Principal) (waybill.Attempt, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Attempt{}, err
	}
	defer unlock()
	d, err := w.get(run)
	if err != nil {
		return waybill.Attempt{}, err
	}
	switch {
	case step != "gate":
		return waybill.Attempt{}, waybill.E(waybill.KindNotFound, "the run has no step %q that has begun", step)
	case !by.Role.Allows(waybill.RoleAdmin):
		return waybill.Attempt{}, waybill.E(waybill.KindForbidden, "answering needs the role admin")
	case in.Decision != waybill.Approved && in.Decision != waybill.Rejected:
		return waybill.Attempt{}, waybill.E(waybill.KindInvalid, "decision: expected approved or rejected, found %q", in.Decision)
	}
	i := slices.IndexFunc(d.Attempts, func(a waybill.Attempt) bool { return a.Step == step })
	if i >= 0 {
		a := d.Attempts[i]
		if a.Approval.Decision != in.Decision {
			return a, waybill.E(waybill.KindConflict, "it was %s by %s", a.Approval.Decision, a.Approval.By)
		}
		return a, nil
	}
	a := waybill.Attempt{
		Run: run, Step: step, Number: 1, Unit: "u-gate", Runner: "approval", Phase: waybill.PhaseTerminal, Status: waybill.StatusSucceeded, QueuedAt: w.Now(),
		Approval: &waybill.Approval{Role: waybill.RoleAdmin, Decision: in.Decision, By: by.Name, Comment: in.Comment, Values: in.Values, At: w.Now()},
	}
	d.Attempts = append(d.Attempts, a)
	return a, nil
}

// Slots lists one slot for each run that is open.
func (w runs) Slots(_ context.Context, limit int, cursor string) (waybill.Page[waybill.SlotInfo], error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Page[waybill.SlotInfo]{}, err
	}
	defer unlock()
	all := []waybill.SlotInfo{}
	for _, id := range w.order {
		if !w.Details[id].Status.Terminal() {
			all = append(all, waybill.SlotInfo{Key: "slot-" + id, Limit: 1, Holders: []string{id}})
		}
	}
	return page(all, limit, cursor)
}
