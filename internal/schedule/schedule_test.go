package schedule_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/schedule"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// world is a server without runners, whose wall clock the test sets.
type world struct {
	tb      testing.TB
	store   *broken
	project *project.Project
	engine  *engine.Engine
	admin   *queue.Admin
	wall    atomic.Int64 // nanoseconds
	mono    atomic.Int64
}

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// broken is a store whose commits may fail before or after they were made.
type broken struct {
	store.Store
	before, after atomic.Bool
}

var errCut = errors.New("the connection was cut")

func (b *broken) Commit(ctx context.Context, c *store.Commit) error {
	if b.before.Swap(false) {
		return errCut
	}
	err := b.Store.Commit(ctx, c)
	if err == nil && b.after.Swap(false) {
		return errCut
	}
	return err
}

func newWorld(tb testing.TB, dir string, definitions ...string) *world {
	tb.Helper()
	w := &world{tb: tb}
	w.wall.Store(noon.UnixNano())
	w.mono.Store(noon.UnixNano())
	var schema store.Schema
	for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables(), schedule.Tables()} {
		schema = append(schema, part...)
	}
	st, err := sqlite.Open(context.Background(), filepath.Join(dir, "store.db"), schema, sqlite.Options{
		Clock: func() time.Time { return time.Unix(0, w.mono.Load()) },
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.Close(); err != nil {
			tb.Error(err)
		}
	})
	w.store = &broken{Store: st}
	blobs, err := file.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		tb.Fatal(err)
	}
	if w.project, err = project.Open(context.Background(), w.store, "", project.Options{Parse: pipeline.Options{}}); err != nil {
		tb.Fatal(err)
	}
	w.engine = engine.New(engine.Options{Store: w.store, Blobs: blobs, Plans: w.project})
	w.admin = queue.NewAdmin(w.store, 0)
	for _, d := range definitions {
		w.apply(d)
	}
	return w
}

func (w *world) apply(definition string) {
	w.tb.Helper()
	if _, _, err := w.project.ApplyPipeline(context.Background(), []byte(definition), waybill.Principal{Name: "test"}); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) now() time.Time { return time.Unix(0, w.wall.Load()).UTC() }

// server is a scheduler as a server has it: a restart makes a new one.
func (w *world) server() *schedule.Scheduler {
	return schedule.New(schedule.Options{
		Store: w.store, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, w.now, nil), Now: w.now,
	})
}

func (w *world) tick(s *schedule.Scheduler) time.Time {
	w.tb.Helper()
	next, err := s.Tick(context.Background())
	if err != nil {
		w.tb.Fatal(err)
	}
	return next
}

// pass lets both clocks go on.
func (w *world) pass(d time.Duration) { w.wall.Add(int64(d)); w.mono.Add(int64(d)) }

// jump sets the wall clock.
func (w *world) jump(d time.Duration) { w.wall.Add(int64(d)) }

// runs are the nominal times of the runs of a pipeline, in the order of their starts.
func (w *world) runs(name string) []waybill.Run {
	w.tb.Helper()
	var out []waybill.Run
	cursor := ""
	for {
		page, err := w.engine.Runs(context.Background(), waybill.RunFilter{Pipeline: name, Limit: 1000, Cursor: cursor})
		if err != nil {
			w.tb.Fatal(err)
		}
		out = append(out, page.Items...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	slices.SortFunc(out, func(a, b waybill.Run) int { return a.Event.Time.Compare(b.Event.Time) })
	return out
}

func (w *world) nominal(name string) []string {
	out := []string{}
	for _, r := range w.runs(name) {
		out = append(out, r.Event.Time.UTC().Format("02T15:04:05"))
	}
	return out
}

func (w *world) want(name string, want ...string) {
	w.tb.Helper()
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, w.nominal(name)); d != "" {
		w.tb.Fatalf("nominal times of %s (-want +got):\n%s", name, d)
	}
}

func (w *world) records(subject string) []store.StoredEvent {
	w.tb.Helper()
	evs, err := w.store.Events(context.Background(), "", subject, "", 1000)
	if err != nil {
		w.tb.Fatal(err)
	}
	return evs
}

func on(name, schedule string) string {
	return "name: " + name + "\non: {schedule: {" + schedule + "}}\nsteps: [{name: one, run: [\"true\"]}]\n"
}

func TestFiresOnTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("every", "every: 10m"), on("cron", `cron: "5,35 * * * *"`))
	s := w.server()
	if next := w.tick(s); !next.Equal(noon.Add(5 * time.Minute)) {
		t.Fatalf("next %s", next)
	}
	for range 60 {
		w.pass(time.Minute)
		w.tick(s)
		w.tick(s) // looking again changes nothing
	}
	w.want("every", "02T12:10:00", "02T12:20:00", "02T12:30:00", "02T12:40:00", "02T12:50:00", "02T13:00:00")
	w.want("cron", "02T12:05:00", "02T12:35:00")
	ev := w.runs("cron")[0].Event
	if ev.Type != "schedule" || ev.Source != "/schedules/cron/1" || ev.ID != "2026-03-02T12:05:00Z" {
		t.Errorf("event %+v", ev)
	}
	var data struct {
		Nominal time.Time `json:"nominal"`
		Late    float64   `json:"late"`
		Catchup bool      `json:"catchup"`
	}
	if err := json.Unmarshal(ev.Data, &data); err != nil || !data.Nominal.Equal(ev.Time) || data.Late != 0 || data.Catchup {
		t.Errorf("data %s, %v", ev.Data, err)
	}
}

// TestFA30 stops the scheduler over five nominal times.
func TestFA30(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("none", "every: 10m, catchup: none"), on("last", "every: 10m, catchup: last"),
		on("all", "every: 10m, catchup: all"), on("default", "every: 10m"))
	w.tick(w.server())
	w.pass(55 * time.Minute) // 12:10 to 12:50 pass
	s := w.server()
	w.tick(s)
	w.want("none")
	w.want("last", "02T12:50:00")
	w.want("default", "02T12:50:00")
	w.want("all", "02T12:10:00", "02T12:20:00", "02T12:30:00", "02T12:40:00", "02T12:50:00")
	told := func(name string) []string {
		t.Helper()
		for _, e := range w.records("schedule/" + name + "/1") {
			if e.Kind != schedule.RecordSkipped {
				continue
			}
			var data struct {
				Count int         `json:"count"`
				Times []time.Time `json:"times"`
			}
			if err := json.Unmarshal(e.Data, &data); err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, x := range data.Times {
				out = append(out, x.Format("15:04"))
			}
			if len(out) != data.Count {
				t.Errorf("%s: %d told, count %d", name, len(out), data.Count)
			}
			return out
		}
		return nil
	}
	for name, want := range map[string][]string{
		"none": {"12:10", "12:20", "12:30", "12:40", "12:50"}, "last": {"12:10", "12:20", "12:30", "12:40"}, "all": nil,
	} {
		if d := cmp.Diff(want, told(name)); d != "" {
			t.Errorf("%s: left out (-want +got):\n%s", name, d)
		}
	}
	for _, r := range w.runs("all") {
		if !strings.Contains(string(r.Event.Data), `"catchup":true`) {
			t.Errorf("event of what was made up for: %s", r.Event.Data)
		}
	}
	// They go on as if nothing had been.
	w.pass(5 * time.Minute)
	w.tick(s)
	w.want("none", "02T13:00:00")
	w.want("last", "02T12:50:00", "02T13:00:00")
	sc, err := s.Schedule(t.Context(), "none", 1)
	if err != nil || sc.Fired != 1 || sc.Skipped != 5 || len(sc.Recent) != 2 || sc.Recent[1].Count != 5 || !sc.Next.Equal(noon.Add(70*time.Minute)) {
		t.Errorf("schedule %+v, %v", sc, err)
	}
}

func TestCatchupIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("all", "every: 1s, catchup: all, overlap: allow"))
	w.tick(w.server())
	w.pass(40 * time.Minute) // 2,400 seconds
	s := w.server()
	w.tick(s)
	sc, err := s.Schedule(t.Context(), "all", 1)
	if err != nil || sc.Fired != schedule.MaxCatchup || sc.Skipped != 1400 {
		t.Fatalf("fired %d, skipped %d, %v", sc.Fired, sc.Skipped, err)
	}
	runs := w.runs("all")
	if len(runs) != schedule.MaxCatchup || !runs[len(runs)-1].Event.Time.Equal(w.now()) {
		t.Errorf("%d runs, the last at %s", len(runs), runs[len(runs)-1].Event.Time)
	}
}

// TestFA29 sets the wall clock while schedules wait.
func TestFA29(t *testing.T) {
	t.Parallel()
	t.Run("forward", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, t.TempDir(), on("last", "every: 10m"), on("none", "every: 10m, catchup: none"), on("all", "every: 10m, catchup: all"))
		s := w.server()
		w.tick(s)
		w.jump(time.Hour + time.Minute + time.Second)
		w.tick(s)
		w.want("last", "02T13:00:00")
		w.want("none")
		w.want("all", "02T12:10:00", "02T12:20:00", "02T12:30:00", "02T12:40:00", "02T12:50:00", "02T13:00:00")
		w.pass(9 * time.Minute)
		w.tick(s)
		w.want("none", "02T13:10:00")
	})
	t.Run("backward", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, t.TempDir(), on("every", "every: 10m"), on("cron", `cron: "*/10 * * * *"`))
		s := w.server()
		for range 3 {
			w.tick(s)
			w.pass(10 * time.Minute)
		}
		w.tick(s)
		w.jump(-time.Hour)
		for range 70 {
			w.pass(time.Minute)
			w.tick(s)
			if w.now().Minute() == 40 {
				s = w.server() // also not after a restart
			}
		}
		for _, name := range []string{"every", "cron"} {
			w.want(name, "02T12:10:00", "02T12:20:00", "02T12:30:00", "02T12:40:00")
		}
	})
	t.Run("leap second", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, t.TempDir(), on("every", "every: 1s"))
		s := w.server()
		w.tick(s)
		for i := range 50 {
			w.pass(100 * time.Millisecond)
			if i == 25 {
				w.jump(-time.Second)
			}
			w.tick(s)
		}
		w.want("every", "02T12:00:01", "02T12:00:02", "02T12:00:03", "02T12:00:04")
	})
	t.Run("daylight saving time", func(t *testing.T) {
		t.Parallel()
		for _, c := range []struct {
			begin time.Time
			want  []string
		}{
			{time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC), []string{"28T01:30:00", "29T01:00:00", "30T00:30:00"}},
			{time.Date(2026, 10, 24, 0, 0, 0, 0, time.UTC), []string{"24T00:30:00", "25T00:30:00", "26T01:30:00"}},
		} {
			w := newWorld(t, t.TempDir(), on("daily", `cron: "30 2 * * *", timezone: Europe/Paris`))
			w.wall.Store(c.begin.UnixNano())
			s := w.server()
			for range 3 * 24 * 4 {
				w.tick(s)
				w.pass(15 * time.Minute)
			}
			w.want("daily", c.want...)
		}
	})
}

func TestServersShareSchedules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("a", "every: 1m, catchup: all"), on("b", "every: 1m"), on("c", `cron: "* * * * *"`))
	servers := []*schedule.Scheduler{w.server(), w.server(), w.server()}
	together := func() {
		var wg sync.WaitGroup
		for _, s := range servers {
			wg.Go(func() { w.tick(s) })
		}
		wg.Wait()
	}
	together()
	for range 20 {
		w.pass(time.Minute)
		together()
	}
	for _, name := range []string{"a", "b", "c"} {
		got := w.nominal(name)
		if len(got) != 20 || len(slices.Compact(slices.Clone(got))) != 20 {
			t.Errorf("%s fired at %v", name, got)
		}
	}
}

// TestModel mixes ticks of several servers with restarts, cuts and jumps of the clock,
// and holds what fired against what should have.
func TestModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	checks := 0
	rapid.Check(t, func(r *rapid.T) {
		checks++
		name := fmt.Sprintf("x%d", checks)
		catchup := rapid.SampledFrom([]string{"none", "last", "all"}).Draw(r, "catchup")
		// Dense enough that a nominal time is often near.
		w.wall.Store(noon.UnixNano())
		w.apply(on(name, "every: 90s, overlap: allow, catchup: "+catchup))
		defer w.apply("name: " + name + "\nsteps: [{name: one, run: [\"true\"]}]\n")
		every := 90 * time.Second
		servers := []*schedule.Scheduler{w.server(), w.server()}
		w.tick(servers[0])
		begin, high := w.now(), w.now() // high is the latest that any server has seen
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			switch rapid.IntRange(0, 6).Draw(r, "do") {
			case 0:
				w.jump(time.Duration(rapid.IntRange(-600, 600).Draw(r, "jump")) * time.Second)
			case 1:
				servers[rapid.IntRange(0, 1).Draw(r, "restart")] = w.server()
			case 2:
				w.store.before.Store(true)
			case 3:
				w.store.after.Store(true)
			default:
				w.pass(time.Duration(rapid.IntRange(0, 400).Draw(r, "pass")) * time.Second)
			}
			for _, i := range rapid.SliceOfN(rapid.IntRange(0, 1), 0, 3).Draw(r, "ticks") {
				if _, err := servers[i].Tick(context.Background()); err != nil && !errors.Is(err, errCut) {
					r.Fatal(err)
				}
				if w.now().After(high) {
					high = w.now()
				}
			}
		}
		w.store.before.Store(false)
		w.store.after.Store(false)
		w.wall.Store(max(w.wall.Load(), high.UnixNano()))
		w.tick(servers[0])
		high = w.now()
		fired := map[time.Time]int{}
		for _, x := range w.runs(name) {
			at := x.Event.Time
			if fired[at]++; fired[at] > 1 {
				r.Fatalf("%s fired twice", at)
			}
			if at.Unix()%int64(every/time.Second) != 0 || !at.After(begin) || at.After(high) {
				r.Fatalf("%s fired, which is no nominal time between %s and %s", at, begin, high)
			}
		}
		newest := time.Unix(high.Unix()-high.Unix()%90, 0).UTC()
		all := int(newest.Sub(time.Unix(begin.Unix()-begin.Unix()%90, 0)) / every)
		sc, err := servers[0].Schedule(context.Background(), name, 1)
		if err != nil {
			r.Fatal(err)
		}
		if all == 0 {
			return
		}
		if int(sc.Fired) != len(fired) || int(sc.Fired+sc.Skipped) != all {
			r.Fatalf("catchup %s: %d fired (%d runs) and %d left out, of %d nominal times", catchup, sc.Fired, len(fired), sc.Skipped, all)
		}
		if catchup == "all" && len(fired) != all {
			r.Fatalf("%d of %d fired", len(fired), all)
		}
		if catchup == "last" && fired[newest] == 0 {
			r.Fatalf("the newest, %s, did not fire", newest)
		}
	})
}

func TestDefinitionsChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("x", "every: 10m"))
	s := w.server()
	w.tick(s)
	w.pass(10 * time.Minute)
	w.tick(s)
	w.apply(on("x", "every: 7m")) // 12:10 is the instant of a change: nothing fires twice
	w.pass(2 * time.Minute)
	w.tick(s)
	w.want("x", "02T12:10:00")
	w.pass(8 * time.Minute)
	w.tick(s)
	runs := w.runs("x")
	if len(runs) != 2 || runs[1].Version != 2 || runs[1].Event.Time.Unix()%420 != 0 {
		t.Fatalf("after the change: %v", w.nominal("x"))
	}
	// A pipeline without schedules has none.
	w.apply("name: x\nsteps: [{name: one, run: [\"true\"]}]\n")
	w.pass(time.Hour)
	w.tick(s)
	if l, err := s.Schedules(t.Context(), 0, ""); err != nil || len(l.Items) != 0 || len(w.runs("x")) != 2 {
		t.Fatalf("schedules %+v, %v; runs %v", l.Items, err, w.nominal("x"))
	}
	if _, err := s.Schedule(t.Context(), "x", 1); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("a schedule that is gone: %v", err)
	}
	// It comes back and makes up for nothing of that time.
	w.apply(on("x", "every: 7m, catchup: all"))
	w.tick(s)
	w.tick(s)
	if n := len(w.runs("x")); n != 2 {
		t.Errorf("%d runs after it came back", n)
	}
	w.pass(7 * time.Minute)
	w.tick(s)
	if n := len(w.runs("x")); n != 3 {
		t.Errorf("%d runs, want one more", n)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("x", "every: 10m, catchup: all"))
	s, other := w.server(), w.server()
	w.tick(s)
	by := waybill.Principal{Name: "ann"}
	sc, err := s.PauseSchedule(t.Context(), "x", 1, true, by)
	if err != nil || !sc.Paused || sc.PausedBy != "ann" || !sc.Next.IsZero() {
		t.Fatalf("%+v, %v", sc, err)
	}
	w.pass(35 * time.Minute)
	w.tick(other)
	w.want("x")
	if sc, err = other.PauseSchedule(t.Context(), "x", 1, false, by); err != nil || sc.Paused || !sc.Next.Equal(noon.Add(40*time.Minute)) {
		t.Fatalf("%+v, %v", sc, err)
	}
	w.pass(5 * time.Minute)
	w.tick(s)
	w.want("x", "02T12:40:00")
	if _, err := s.PauseSchedule(t.Context(), "x", 2, true, by); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("a schedule that is not there: %v", err)
	}
	var kinds []string
	for _, e := range w.records("schedule/x/1") {
		kinds = append(kinds, e.Kind)
	}
	if d := cmp.Diff([]string{schedule.RecordPlanned, schedule.RecordPaused, schedule.RecordResumed}, kinds); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

// TestFA26 starts a pipeline whose parameters cannot be bound.
func TestFA26(t *testing.T) {
	t.Parallel()
	broken := "name: bad\nparams: {region: {type: string, required: true}}\non: {schedule: {every: 10m}}\nsteps: [{name: one, run: [\"true\"]}]\n"
	w := newWorld(t, t.TempDir(), broken, on("good", "every: 10m"))
	s := w.server()
	w.tick(s)
	w.pass(10 * time.Minute)
	w.tick(s)
	w.want("bad")
	w.want("good", "02T12:10:00")
	letters, err := w.admin.DeadLetters(t.Context(), queue.TopicEvent, 0, "")
	if err != nil || len(letters.Items) != 1 || !strings.Contains(letters.Items[0].Reason, "parameter region is required") {
		t.Fatalf("dead letters %+v, %v", letters.Items, err)
	}
	// After the definition was corrected, the letter starts what it could not.
	w.apply(strings.Replace(broken, "required: true", "default: eu", 1))
	events := arrival.NewEvents(arrival.EventOptions{
		Store: w.store, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, w.now, nil), Now: w.now,
	})
	if n, err := w.admin.Redrive(t.Context(), queue.TopicEvent, nil, waybill.Principal{}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	got, err := w.store.Claim(t.Context(), store.ClaimRequest{Topic: queue.TopicEvent, Owner: "test", Lanes: 1, Lease: time.Minute})
	if err != nil || len(got.Msgs) != 1 {
		t.Fatalf("%d messages, %v", len(got.Msgs), err)
	}
	c, err := events.Handle(t.Context(), got.Msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	c.Done = got.Msgs[0]
	if err := w.store.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.want("bad", "02T12:10:00")
}

func TestFiltersAndValuesOfSchedules(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), `
name: x
params: {hour: int}
on:
  schedule:
    every: 10m
    filter: event.time.getMinutes() != 20
    params: {hour: "${{ event.time.getHours() }}"}
    vars: {___LATE: "${{ event.data.late }}"}
steps: [{name: one, run: ["true"]}]
`, on("fails", `every: 10m, filter: "event.data.nothing == 1"`))
	s := w.server()
	for range 4 {
		w.tick(s)
		w.pass(10 * time.Minute)
	}
	w.want("x", "02T12:10:00", "02T12:30:00")
	if v, _ := w.runs("x")[0].Params.Get("hour"); string(v) != "12" {
		t.Errorf("hour is %s", v)
	}
	w.want("fails")
	n := 0
	for _, e := range w.records("pipeline/fails") {
		if e.Kind == arrival.RecordFilterFailed {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d records of a filter that failed, want 3", n)
	}
	if l, err := w.admin.DeadLetters(t.Context(), queue.TopicEvent, 0, ""); err != nil || len(l.Items) > 0 {
		t.Errorf("dead letters %+v, %v", l.Items, err)
	}
}

func TestFB31Slots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), on("skip", "every: 10m, overlap: skip, catchup: all"), on("queue", "every: 10m, overlap: queue"),
		on("cancel", "every: 10m, overlap: cancel"), on("allow", "every: 10m, overlap: allow"), on("default", "every: 10m"))
	w.tick(w.server())
	w.pass(20 * time.Minute)
	w.tick(w.server())
	for name, want := range map[string][]waybill.SlotPolicy{
		// What is made up for waits where it would be skipped.
		"skip": {waybill.SlotQueue, waybill.SlotSkip}, "queue": {waybill.SlotQueue}, "cancel": {waybill.SlotCancel}, "allow": nil, "default": {waybill.SlotSkip},
	} {
		var got []waybill.SlotPolicy
		for _, r := range w.runs(name) {
			for _, x := range r.Slots {
				if x.Key != "schedule/"+name+"/1" || x.Limit != 1 {
					t.Errorf("%s: slot %+v", name, x)
				}
				got = append(got, x.Policy)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestManySchedulesOfOneInstant(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 300 {
		many = append(many, on(fmt.Sprintf("p%03d", i), "every: 1h"))
	}
	w := newWorld(t, t.TempDir(), many...)
	s := w.server()
	w.tick(s)
	w.pass(time.Hour)
	w.tick(s)
	if n := len(w.runs("")); n != 300 {
		t.Errorf("%d runs", n)
	}
	seen, cursor := 0, ""
	for {
		l, err := s.Schedules(t.Context(), 100, cursor)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(l.Items)
		if cursor = l.Next; cursor == "" {
			break
		}
	}
	if seen != 300 {
		t.Errorf("%d schedules listed", seen)
	}
}
