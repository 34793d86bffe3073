package engine

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/waybill-run/waybill"
)

// Hops returns how many arrivals led to what an attempt makes: one more than led to
// the object or event that started its run, none when none did. KindNotFound: there is
// no such run.
func (e *Engine) Hops(ctx context.Context, attemptKey string) (int, error) {
	id, _, _ := strings.Cut(attemptKey, "/")
	run, err := e.run(ctx, id)
	if err != nil {
		return 0, err
	}
	if run.Event.Hops > 0 || run.Event.Object == nil {
		return run.Event.Hops, nil
	}
	var before struct {
		Hops int `json:"hops"`
	}
	if len(run.Event.Data) > 0 {
		if err := json.Unmarshal(run.Event.Data, &before); err != nil {
			return 0, waybill.E(waybill.KindInternal, "the event of run %s: %w", id, err)
		}
	}
	return before.Hops + 1, nil
}
