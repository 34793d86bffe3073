package metrics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/metrics"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

type world struct {
	t     *testing.T
	m     *metrics.Metrics
	raw   *sqlite.Store
	store store.Store
	now   atomic.Int64
}

func newWorld(t *testing.T, o metrics.Options, also ...func(*store.Commit)) *world {
	t.Helper()
	w := &world{t: t, m: metrics.New(o)}
	w.now.Store(at.UnixNano())
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), engine.Tables(), sqlite.Options{Clock: func() time.Time { return time.Unix(0, w.now.Load()) }})
	if err != nil {
		t.Fatal(err)
	}
	s.OnFlush(w.m.Flushed)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w.raw, w.store = s, w.m.Store(s, also...)
	return w
}

var at = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func (w *world) commit(c *store.Commit) {
	w.t.Helper()
	if err := w.store.Commit(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

func js(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run lets a run with one step happen, as the engine commits it.
func (w *world) run(pipeline, trigger string, status waybill.Status, lag, took time.Duration) {
	w.t.Helper()
	id := waybill.NewID(at)
	r := waybill.Run{ID: id, Pipeline: pipeline, Status: waybill.StatusQueued, CreatedAt: at, Event: waybill.Event{Type: trigger, Time: at.Add(-2 * time.Second)}}
	event := func(kind string, data any) store.Event {
		return store.Event{Subject: "run/" + id, Kind: kind, Data: js(w.t, data), At: at}
	}
	put := func(table, key string, v any) store.Put {
		return store.Put{Table: table, Key: key, Rev: store.AnyRev, Val: js(w.t, v)}
	}
	w.commit(&store.Commit{Puts: []store.Put{put("run", id, r)}, Events: []store.Event{event("run.accepted", map[string]any{"pipeline": pipeline})}})
	r.Status, r.StartedAt = waybill.StatusRunning, at.Add(lag)
	w.commit(&store.Commit{Puts: []store.Put{put("run", id, r)}, Events: []store.Event{event("run.started", nil), event("step.started", map[string]any{"step": "one"})}})
	a := waybill.Attempt{Run: id, Step: "one", Number: 1, Runner: "sim", Status: status}
	reason := ""
	if status != waybill.StatusSucceeded {
		reason = "exit"
	}
	w.commit(&store.Commit{Puts: []store.Put{put("attempt", a.Key(), a)}, Events: []store.Event{event("attempt.ended", map[string]any{"attempt": a.Key(), "status": status, "reason": reason})}})
	r.Status, r.FinishedAt = status, r.StartedAt.Add(took)
	st := waybill.Step{Run: id, Name: "one", Status: status, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt}
	w.commit(&store.Commit{Puts: []store.Put{put("run", id, r), put("step", id+"/one", st)}, Events: []store.Event{
		event("step.ended", map[string]any{"step": "one", "status": status}), event("run.ended", map[string]any{"status": status}),
	}})
	w.commit(&store.Commit{Events: []store.Event{event("cleanup.gone", map[string]any{"attempt": a.Key()})}})
}

// scrape returns the lines of the text format that are no comments.
func (w *world) scrape() []string {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.m.Handler(w.raw).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != 200 {
		w.t.Fatalf("%d: %s", rec.Code, rec.Body)
	}
	var out []string
	for line := range strings.Lines(rec.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func (w *world) wants(lines ...string) {
	w.t.Helper()
	got := w.scrape()
	for _, l := range lines {
		if !slices.Contains(got, l) {
			name, _, _ := strings.Cut(l, "{")
			name, _, _ = strings.Cut(name, " ")
			var like []string
			for _, g := range got {
				if strings.HasPrefix(g, name) {
					like = append(like, g)
				}
			}
			w.t.Errorf("there is no\n  %s\nbut\n  %s", l, strings.Join(like, "\n  "))
		}
	}
}

func TestRuns(t *testing.T) {
	t.Parallel()
	told := 0
	w := newWorld(t, metrics.Options{Version: "v1", Go: "go1", Platform: "linux/amd64"}, func(*store.Commit) { told++ })
	w.run("a", "http", waybill.StatusSucceeded, 20*time.Millisecond, 3*time.Second)
	w.run("a", "schedule", waybill.StatusFailed, 20*time.Millisecond, 30*time.Second)
	w.run("b", "http", waybill.StatusSucceeded, 20*time.Millisecond, time.Second)
	w.wants(
		`waybill_build_info{go="go1",platform="linux/amd64",version="v1"} 1`,
		`waybill_runs_accepted_total{pipeline="a",trigger="http"} 1`, `waybill_runs_accepted_total{pipeline="a",trigger="schedule"} 1`,
		`waybill_runs_started_total{pipeline="a"} 2`, `waybill_runs_ended_total{pipeline="a",status="failed"} 1`, `waybill_runs_ended_total{pipeline="b",status="succeeded"} 1`,
		`waybill_run_duration_seconds_sum{pipeline="a"} 33`, `waybill_run_duration_seconds_count{pipeline="b"} 1`,
		`waybill_run_start_lag_seconds_bucket{le="0.025"} 3`, `waybill_run_start_lag_seconds_bucket{le="0.01"} 0`,
		`waybill_trigger_lag_seconds_sum{trigger="schedule"} 2`,
		`waybill_steps_ended_total{pipeline="a",status="failed"} 1`, `waybill_step_duration_seconds_sum{pipeline="a"} 33`,
		`waybill_attempts_ended_total{reason="",runner="sim",status="succeeded"} 2`, `waybill_attempts_ended_total{reason="exit",runner="sim",status="failed"} 1`,
		`waybill_cleanups_total{result="gone"} 3`, `waybill_cleanups_total{result="failed"} 0`, `waybill_store_commit_seconds_count 15`,
		`waybill_runs{status="succeeded"} 2`, `waybill_runs{status="failed"} 1`, `waybill_store_up 1`,
	)
	if told != 15 {
		t.Errorf("%d commits were told, want 15", told)
	}
	// A commit that was refused counts nothing but itself.
	err := w.store.Commit(t.Context(), &store.Commit{
		Puts:   []store.Put{{Table: "run", Key: "x", Rev: 7, Val: js(t, waybill.Run{ID: "x", Pipeline: "a"})}},
		Events: []store.Event{{Subject: "run/x", Kind: "run.ended", Data: []byte(`{"status":"failed"}`)}},
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	w.wants(`waybill_runs_ended_total{pipeline="a",status="failed"} 1`, `waybill_store_commit_errors_total{kind="conflict"} 1`)
}

func TestQueues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	var c store.Commit
	for i := range 5 {
		c.Sends = append(c.Sends, store.Send{Topic: "unit", Key: fmt.Sprint(i), Body: []byte("x")})
	}
	c.Sends = append(c.Sends, store.Send{Topic: "cleanup", Key: "u", Body: []byte("x")})
	w.commit(&c)
	claim := func(owner string, n int) []*store.Msg {
		t.Helper()
		got, err := w.store.Claim(t.Context(), store.ClaimRequest{Topic: "unit", Owner: owner, Lanes: n, Lease: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		return got.Msgs
	}
	first := claim("n1", 4)
	w.commit(&store.Commit{Done: first[0]})
	w.commit(&store.Commit{Retry: first[1], Reason: "not now"})
	w.commit(&store.Commit{Yield: first[2]})
	w.now.Add(int64(20 * time.Second)) // the lease of the fourth ends
	again := claim("n2", 4)
	if len(again) != 4 {
		t.Fatalf("%d messages, want those that were retried, yielded, lost and new", len(again))
	}
	w.commit(&store.Commit{Dead: again[0], Reason: "no"})
	if err := w.store.Commit(t.Context(), &store.Commit{Done: first[3]}); !errors.Is(err, store.ErrLeaseLost) {
		t.Fatal(err)
	}
	if err := w.raw.Pause(t.Context(), "unit", true); err != nil {
		t.Fatal(err)
	}
	w.wants(
		`waybill_queue_messages_total{outcome="done",topic="unit"} 1`, `waybill_queue_messages_total{outcome="retried",topic="unit"} 1`,
		`waybill_queue_messages_total{outcome="yielded",topic="unit"} 1`, `waybill_queue_messages_total{outcome="buried",topic="unit"} 1`,
		`waybill_lease_expiries_total{topic="unit"} 1`, `waybill_leases_lost_total 1`, `waybill_store_commit_errors_total{kind="lease_lost"} 1`,
		`waybill_queue_depth{topic="unit"} 3`, `waybill_queue_leased{topic="unit"} 3`, `waybill_dead_letters{topic="unit"} 1`, `waybill_queue_paused{topic="unit"} 1`,
		`waybill_queue_depth{topic="cleanup"} 1`, `waybill_queue_oldest_seconds{topic="cleanup"} 20`, `waybill_cleanup_pending 1`, `waybill_cleanup_failed 0`,
	)
}

// However many names there are, the labels are few.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{Pipelines: 3})
	for i := range 10 {
		w.run(fmt.Sprintf("p%d", i), "http", waybill.StatusSucceeded, 0, time.Second)
	}
	w.wants(`waybill_runs_started_total{pipeline="p2"} 1`, `waybill_runs_started_total{pipeline="other"} 7`)
	for i := range 60 {
		w.run("p0", fmt.Sprintf("com.example.%d", i), waybill.StatusSucceeded, 0, time.Second)
	}
	w.wants(`waybill_runs_accepted_total{pipeline="p0",trigger="other"} 11`)
	w.m.LimitPipelines(4)
	w.run("p9", "http", waybill.StatusSucceeded, 0, time.Second)
	w.wants(`waybill_runs_started_total{pipeline="p9"} 1`)
}

func TestCallbacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	for _, status := range []int{202, 200, 200, 409, 410, 401, 403, 413, 422, 503} {
		w.m.Request("completeAttempt", status, time.Millisecond)
	}
	w.m.Request("getRun", 404, 20*time.Millisecond)
	w.wants(
		`waybill_callbacks_total{result="accepted"} 1`, `waybill_callbacks_total{result="repeated"} 2`, `waybill_callbacks_total{result="conflict"} 1`,
		`waybill_callbacks_total{result="closed"} 1`, `waybill_callbacks_total{result="refused"} 2`, `waybill_callbacks_total{result="invalid"} 2`,
		`waybill_callbacks_total{result="failed"} 1`, `waybill_http_request_duration_seconds_count{code="4xx",operation="getRun"} 1`,
		`waybill_http_request_duration_seconds_bucket{code="4xx",operation="getRun",le="0.01"} 0`,
	)
}

func TestNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	node := func(name string, last time.Time) store.Put {
		return store.Put{Table: "node", Key: name, Rev: store.AnyRev, Val: js(t, map[string]any{"at": last, "lease": "15s"})}
	}
	w.commit(&store.Commit{Puts: []store.Put{node("alive", at.Add(-10*time.Second)), node("dead", at.Add(-time.Minute))}})
	w.wants(`waybill_node_up{node="alive"} 1`, `waybill_node_up{node="dead"} 0`)
}

// units is a runner that fails to remove.
type units struct{ runner.Runner }

func (units) Name() string                                { return "sim" }
func (units) Remove(context.Context, runner.Handle) error { return errors.New("no") }
func (units) Start(context.Context, runner.Spec) (runner.Handle, error) {
	return runner.Handle{Unit: "u"}, nil
}

func TestUnits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	r := w.m.Runner(units{})
	if h, err := r.Start(t.Context(), runner.Spec{}); err != nil || h.Unit != "u" {
		t.Error(h, err)
	}
	if err := r.Remove(t.Context(), runner.Handle{}); err == nil {
		t.Error("the error is lost")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = r.Remove(gone, runner.Handle{}) // nobody waits for it any more
	w.wants(
		`waybill_unit_create_seconds_count{runner="sim"} 1`, `waybill_unit_remove_seconds_count{runner="sim"} 2`,
		`waybill_unit_errors_total{operation="remove",runner="sim"} 1`, `waybill_unit_errors_total{operation="start",runner="sim"} 0`,
	)
}

// away is a store that does not answer.
type away struct{ asked atomic.Int32 }

func (a *away) Topics(ctx context.Context, _ string) ([]store.TopicStat, error) {
	a.asked.Add(1)
	return nil, errors.New("away")
}
func (*away) Counts(context.Context, string, string) (map[string]int64, error) {
	return nil, errors.New("away")
}
func (*away) Scan(context.Context, string, string, string, int) ([]store.Row, error) {
	return nil, errors.New("away")
}
func (*away) Now() time.Time { return at }

// A store that is away does not take the server's own figures with it, and many
// who scrape do not ask it many times.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	m, src := metrics.New(metrics.Options{}), &away{}
	h := m.Handler(src)
	for range 50 {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		if rec.Code != 200 || !strings.Contains(rec.Body.String(), "waybill_store_up 0") || !strings.Contains(rec.Body.String(), "waybill_leases_lost_total 0") {
			t.Fatalf("%d: %s", rec.Code, rec.Body)
		}
	}
	if n := src.asked.Load(); n > 5 {
		t.Errorf("the store was asked %d times for 50 scrapes", n)
	}
}

const guide = "../../docs/guides/operations.md"

// The guide names every metric with its type, labels and scope, and none else.
func TestGuide(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	type row struct{ kind, labels, scope string }
	told := map[string]row{}
	line := regexp.MustCompile("^\\| `(waybill_[a-z_]+)` \\| (\\w+) \\| ([^|]*) \\| (server|store) \\| [^|]+ \\|$")
	for l := range strings.Lines(string(text)) {
		if m := line.FindStringSubmatch(strings.TrimSpace(l)); m != nil {
			if _, twice := told[m[1]]; twice {
				t.Errorf("the guide has %s twice", m[1])
			}
			told[m[1]] = row{m[2], strings.ReplaceAll(strings.TrimSpace(m[3]), "`", ""), m[4]}
		}
	}
	for _, d := range metrics.New(metrics.Options{}).Definitions() {
		want := row{d.Type, strings.Join(d.Labels, ", "), "server"}
		if d.Global {
			want.scope = "store"
		}
		if got, ok := told[d.Name]; !ok {
			t.Errorf("the guide does not tell of %s (%+v)", d.Name, want)
		} else if got != want {
			t.Errorf("the guide says of %s %+v, want %+v", d.Name, got, want)
		}
		delete(told, d.Name)
	}
	for name := range told {
		t.Errorf("the guide tells of %s, which does not exist", name)
	}
}

// What a server shows is what is defined: no metric comes from elsewhere.
func TestDefinitionsAreComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	w.run("a", "http", waybill.StatusSucceeded, 0, time.Second)
	w.m.Runner(units{})
	known := map[string]metrics.Definition{}
	for _, d := range w.m.Definitions() {
		known[d.Name] = d
	}
	for _, l := range w.scrape() {
		name, labels, _ := strings.Cut(strings.Fields(l)[0], "{")
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		d, ok := known[name]
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, end); cut && !ok {
				d, ok = known[base]
			}
		}
		if !ok {
			t.Errorf("%s is not defined", name)
			continue
		}
		for _, m := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(labels, -1) {
			if m[1] != "le" && !slices.Contains(d.Labels, m[1]) {
				t.Errorf("%s has a label %s that is not defined", name, m[1])
			}
		}
	}
}

// The alert rules use metrics and labels that exist.
func TestAlerts(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(b, &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	known := map[string]metrics.Definition{}
	for _, d := range metrics.New(metrics.Options{}).Definitions() {
		known[d.Name] = d
		if d.Type == "histogram" {
			for _, end := range []string{"_bucket", "_sum", "_count"} {
				known[d.Name+end] = metrics.Definition{Name: d.Name, Type: d.Type, Labels: append([]string{"le"}, d.Labels...), Global: d.Global}
			}
		}
	}
	selector := regexp.MustCompile(`(waybill_[a-z_]+)(\{[^}]*\})?(\[[0-9a-z]+\])?`)
	grouping := regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	seen := map[string]bool{}
	count := 0
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			count++
			if r.Alert == "" || seen[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("rule %q is there twice, or lacks a name, severity, summary or description", r.Alert)
			}
			seen[r.Alert] = true
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: for: %v", r.Alert, err)
				}
			}
			if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") || strings.Count(r.Expr, "{") != strings.Count(r.Expr, "}") {
				t.Errorf("%s: brackets do not match", r.Alert)
			}
			used := selector.FindAllStringSubmatch(r.Expr, -1)
			if len(used) == 0 {
				t.Errorf("%s uses no metric of ours", r.Alert)
			}
			labels := []string{"instance", "job"}
			for _, u := range used {
				d, ok := known[u[1]]
				if !ok {
					t.Errorf("%s: there is no metric %s", r.Alert, u[1])
					continue
				}
				labels = append(labels, d.Labels...)
				for _, m := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`).FindAllStringSubmatch(u[2], -1) {
					if !slices.Contains(d.Labels, m[1]) {
						t.Errorf("%s: %s has no label %s", r.Alert, u[1], m[1])
					}
				}
				if d.Type == "counter" && u[3] == "" {
					t.Errorf("%s: %s is a counter, which means something only as a rate or increase", r.Alert, u[1])
				}
			}
			for _, m := range grouping.FindAllStringSubmatch(r.Expr, -1) {
				for l := range strings.SplitSeq(m[1], ",") {
					if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
						t.Errorf("%s: groups by %s, which no metric in it has", r.Alert, l)
					}
				}
			}
		}
	}
	if count < 10 {
		t.Errorf("%d rules", count)
	}
}

func BenchmarkCommitted(b *testing.B) {
	m := metrics.New(metrics.Options{})
	s := m.Store(nothing{})
	r := waybill.Run{ID: "r", Pipeline: "a", Status: waybill.StatusSucceeded, CreatedAt: at, StartedAt: at, FinishedAt: at, Vars: waybill.Vars{}}
	c := &store.Commit{Puts: []store.Put{{Table: "run", Key: "r", Val: js(b, r)}}, Events: []store.Event{{Subject: "run/r", Kind: "run.ended", Data: []byte(`{"status":"succeeded"}`)}}}
	for b.Loop() {
		if err := s.Commit(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

type nothing struct{ store.Store }

func (nothing) Commit(context.Context, *store.Commit) error { return nil }
