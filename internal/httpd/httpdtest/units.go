package httpdtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

type units struct{ *World }

// Units are those of all attempts.
func (u units) Units(context.Context) (waybill.UnitList, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := waybill.UnitList{At: u.Now(), Items: []waybill.Unit{}}
	for _, id := range u.order {
		r := u.Details[id]
		for _, a := range r.Attempts {
			l.Items = append(l.Items, waybill.Unit{
				Unit: a.Unit, Runner: a.Runner, Key: a.Key(), Run: a.Run, Step: a.Step, Attempt: a.Number, Phase: a.Phase, Status: a.Status, Known: true, StartedAt: a.StartedAt,
			})
		}
	}
	return l, nil
}
