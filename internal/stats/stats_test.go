package stats_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/stats"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

type world struct {
	t     *testing.T
	store store.Store
	stats *stats.Stats
	now   atomic.Int64

	mu   sync.Mutex
	runs map[string]waybill.Run
}

func newWorld(t *testing.T, now time.Time) *world {
	t.Helper()
	w := &world{t: t, runs: map[string]waybill.Run{}}
	w.now.Store(now.UnixNano())
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), append(feed.Tables(), stats.Tables()...), sqlite.Options{
		Clock: func() time.Time { return time.Unix(0, w.now.Load()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.store = s
	w.stats = stats.New(stats.Options{Store: s, Owner: "n", Pace: 5 * time.Millisecond, Run: w.run})
	t.Cleanup(func() {
		w.stats.Stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) run(_ context.Context, id string) (waybill.Run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.runs[id]
	if !ok {
		return r, waybill.E(waybill.KindNotFound, "no run")
	}
	return r, nil
}

// happen writes the events of a run that was accepted at one time and took so long.
func (w *world) happen(pipeline string, at time.Time, status waybill.Status, took time.Duration) {
	w.t.Helper()
	w.mu.Lock()
	id := fmt.Sprintf("r%06d", len(w.runs))
	w.runs[id] = waybill.Run{ID: id, Pipeline: pipeline, Status: status, CreatedAt: at, StartedAt: at, FinishedAt: at.Add(took)}
	w.mu.Unlock()
	event := func(kind string, at time.Time, data any) store.Event {
		b, err := json.Marshal(data)
		if err != nil {
			w.t.Fatal(err)
		}
		return store.Event{Subject: "run/" + id, Kind: kind, Data: b, At: at}
	}
	if err := w.store.Commit(w.t.Context(), &store.Commit{Events: []store.Event{
		event("run.accepted", at, map[string]any{"pipeline": pipeline}), event("run.ended", at.Add(took), map[string]any{"status": status}),
	}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ask(q waybill.RunStatsQuery) []waybill.RunDay {
	w.t.Helper()
	days, err := w.stats.RunStats(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	return days
}

// counted waits until so many runs have ended in the counts.
func (w *world) counted(n int64) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		sum := int64(0)
		for _, d := range w.ask(waybill.RunStatsQuery{Days: 400}) {
			for _, k := range d.Ended {
				sum += k
			}
		}
		if sum == n {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d runs are counted, want %d", sum, n)
		}
	}
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func TestDays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon)
	w.happen("a", noon.Add(-24*time.Hour), waybill.StatusSucceeded, 10*time.Second)
	w.happen("a", noon.Add(-time.Hour), waybill.StatusFailed, time.Second)
	w.stats.Start(t.Context()) // what was there before counts, too
	for i := range 100 {
		w.happen("b", noon.Add(-2*time.Hour), waybill.StatusSucceeded, time.Duration(i+1)*time.Second)
	}
	w.counted(102)

	days := w.ask(waybill.RunStatsQuery{Days: 3})
	if len(days) != 3 || days[0].Day != "2026-03-08" || days[2].Day != "2026-03-10" {
		t.Fatalf("days are %+v", days)
	}
	if d := days[0]; d.Started != 0 || len(d.Ended) != 0 || d.P50 != 0 {
		t.Errorf("a day without runs: %+v", d)
	}
	if d := days[1]; d.Started != 1 || d.Ended[waybill.StatusSucceeded] != 1 {
		t.Errorf("yesterday: %+v", d)
	}
	if d := days[2]; d.Started != 101 || d.Ended[waybill.StatusSucceeded] != 100 || d.Ended[waybill.StatusFailed] != 1 {
		t.Errorf("today: %+v", d)
	}
	b := w.ask(waybill.RunStatsQuery{Days: 1, Pipeline: "b"})[0]
	if b.Started != 100 || b.Ended[waybill.StatusFailed] != 0 {
		t.Errorf("pipeline b: %+v", b)
	}
	for name, x := range map[string][2]time.Duration{"p50": {b.P50, 50 * time.Second}, "p95": {b.P95, 95 * time.Second}} {
		if off := math.Abs(float64(x[0]-x[1])) / float64(x[1]); off > 0.05 {
			t.Errorf("%s is %v, want %v within 5 %%", name, x[0], x[1])
		}
	}
	if d := w.ask(waybill.RunStatsQuery{Days: 1, Pipeline: "nobody"}); d[0].Started != 0 {
		t.Errorf("a pipeline that never ran: %+v", d)
	}

	// Runs are forgotten, counts are not.
	w.mu.Lock()
	clear(w.runs)
	w.mu.Unlock()
	if d := w.ask(waybill.RunStatsQuery{Days: 1}); d[0].Started != 101 {
		t.Errorf("after retention: %+v", d)
	}
}

// Days begin and end where the time zone says, also by half and quarter hours and
// on days with 23 or 25 hours.
func TestTimezones(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Date(2026, 3, 30, 12, 0, 0, 0, time.UTC))
	w.stats.Start(t.Context())
	// In Kathmandu (+5:45) midnight is 18:15 UTC.
	w.happen("k", time.Date(2026, 3, 20, 18, 14, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	w.happen("k", time.Date(2026, 3, 20, 18, 15, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	// In Paris 29 March has 23 hours: from 23:00 UTC of the 28th to 22:00 UTC.
	w.happen("p", time.Date(2026, 3, 28, 22, 59, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	w.happen("p", time.Date(2026, 3, 28, 23, 0, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	w.happen("p", time.Date(2026, 3, 29, 21, 59, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	w.happen("p", time.Date(2026, 3, 29, 22, 0, 0, 0, time.UTC), waybill.StatusSucceeded, 0)
	w.counted(6)
	started := func(pipeline, zone string) map[string]int64 {
		out := map[string]int64{}
		for _, d := range w.ask(waybill.RunStatsQuery{Days: 20, Pipeline: pipeline, Timezone: zone}) {
			if d.Started > 0 {
				out[d.Day] = d.Started
			}
		}
		return out
	}
	for _, x := range []struct {
		pipeline, zone string
		want           string
	}{
		{"k", "", "map[2026-03-20:2]"},
		{"k", "Asia/Kathmandu", "map[2026-03-20:1 2026-03-21:1]"},
		{"p", "Europe/Paris", "map[2026-03-28:1 2026-03-29:2 2026-03-30:1]"},
	} {
		if got := fmt.Sprint(started(x.pipeline, x.zone)); got != x.want {
			t.Errorf("%s in %q: %s, want %s", x.pipeline, x.zone, got, x.want)
		}
	}
	for _, q := range []waybill.RunStatsQuery{{Timezone: "Mars/Olympus"}, {Timezone: "Local"}, {Days: 401}, {Days: -1}} {
		if _, err := w.stats.RunStats(t.Context(), q); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%+v: %v, want invalid", q, err)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, noon)
	w.stats.Start(t.Context())
	w.happen("a", noon, waybill.StatusSucceeded, time.Second)
	w.counted(1)
	w.now.Store(noon.Add(stats.Keep - 24*time.Hour).UnixNano())
	if err := w.stats.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows, err := w.store.Scan(t.Context(), "", "run_day", "", 0); err != nil || len(rows) != 2 {
		t.Errorf("%d rows are kept before their time (%v)", len(rows), err)
	}
	w.now.Store(noon.Add(stats.Keep + 48*time.Hour).UnixNano())
	if err := w.stats.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows, err := w.store.Scan(t.Context(), "", "run_day", "", 0); err != nil || len(rows) != 0 {
		t.Errorf("%d rows are kept after their time (%v)", len(rows), err)
	}
}
