package enginetest_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// TestWatchSees breaks the invariants one by one, past the engine, and holds the watch to
// noticing it.
func TestWatchSees(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	run := waybill.Run{ID: "r", Pipeline: "leaf", Status: waybill.StatusRunning, StartedAt: at, StepCount: 1}
	ended := run
	ended.Status = waybill.StatusSucceeded
	attempt := waybill.Attempt{Run: "r", Step: "s", Number: 1, Phase: waybill.PhaseRunning, Stop: "canceled", Node: "a"}
	second := attempt
	second.Number = 2
	closed := attempt
	closed.Phase, closed.Status = waybill.PhaseTerminal, waybill.StatusSucceeded
	changed := closed
	changed.Status = waybill.StatusFailed
	other := attempt
	other.Stop = "timed_out"
	moved := attempt
	moved.Node = "b"
	held := run
	held.Slots = []waybill.Slot{{Key: "k", Limit: 1}}
	type holder struct{ Run string }
	over := map[string]any{"limit": 1, "holders": []holder{{"r"}, {"q"}}, "waiting": 0}
	end := store.Event{Subject: "run/r", Kind: "run.ended", At: at}

	for _, c := range []struct {
		want    string
		commits []any // a row, or an event
	}{
		{"the ended run r was written again", []any{ended, ended}},
		{"and its step s is running", []any{waybill.Step{Run: "r", Name: "s", Status: waybill.StatusRunning}, ended}},
		{"says that 0 steps are done, and 1 are", []any{waybill.Step{Run: "r", Name: "s", Status: waybill.StatusSkipped}, ended}},
		{"the ended step r/s was written again", []any{waybill.Step{Run: "r", Name: "s", Status: waybill.StatusSkipped}, waybill.Step{Run: "r", Name: "s", Status: waybill.StatusFailed}}},
		{"while another attempt of its step is open", []any{attempt, second}},
		{"the ended attempt r/s/1 changed", []any{attempt, closed, changed}},
		{`is now to end as "timed_out"`, []any{attempt, other}},
		{"was of node a and became one of b", []any{attempt, moved}},
		{"2 runs hold the slot k, its limit is 1", []any{over}},
		{"has begun and does not hold the slot k", []any{held}},
		{"gets the record step.ended", []any{end, store.Event{Subject: "run/r", Kind: "step.ended", At: at}}},
		{"holds the secret", []any{store.Event{Subject: "run/r", Kind: "step.ended", Data: []byte(`{"error":"it was hunter22222"}`), At: at}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			w.f.stop()
			w.watch.secret("hunter22222")
			for _, x := range c.commits {
				commit := &store.Commit{}
				table, key := "", ""
				switch v := x.(type) {
				case waybill.Run:
					table, key = "run", v.ID
				case waybill.Step:
					table, key = "step", v.Run+"/"+v.Name
				case waybill.Attempt:
					table, key = "attempt", v.Key()
				case map[string]any:
					table, key = "slot", "k"
				case store.Event:
					commit.Events = []store.Event{v}
				}
				if table != "" {
					val, err := json.Marshal(x)
					if err != nil {
						t.Fatal(err)
					}
					commit.Puts = []store.Put{{Table: table, Key: key, Rev: store.AnyRev, Val: val}}
				}
				if err := w.watch.Commit(t.Context(), commit); err != nil {
					t.Error(err)
				}
			}
			if got := strings.Join(w.watch.wrong, "\n"); !strings.Contains(got, c.want) {
				t.Errorf("want %q, the watch says: %s", c.want, got)
			}
			w.watch.secrets = nil // it is in the store, as was the point
			w.close()
		})
	}
}
