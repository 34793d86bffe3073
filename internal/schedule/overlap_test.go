package schedule_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/sim"
	"github.com/waybill-run/waybill/internal/schedule"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// TestFB31 lets a schedule fire while the run before it has not ended: on a real engine
// with simulated units, in time that the test owns.
func TestFB31(t *testing.T) {
	t.Parallel()
	slow := func(name, more string) string {
		return "name: " + name + "\non: {schedule: {every: 20s, " + more + "}}\nsteps: [{name: one, runner: sim, with: {run_for: 50s}}]\n"
	}
	for name, want := range map[string][]waybill.Status{
		// Of the nominal times 20, 40, 60, 80 and 100 seconds, seen at 112; a run takes 50.
		"skip":   {"succeeded", "skipped", "skipped", "running", "skipped"},
		"queue":  {"succeeded", "running", "waiting", "waiting", "waiting"},
		"cancel": {"canceled", "canceled", "canceled", "canceled", "running"},
		"allow":  {"succeeded", "succeeded", "succeeded", "running", "running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				// The bubble's clock begins at midnight.
				w := &world{tb: t}
				var schema store.Schema
				for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables(), schedule.Tables()} {
					schema = append(schema, part...)
				}
				st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{Clock: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				w.store = &broken{Store: st}
				blobs, err := file.Open(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				if w.project, err = project.Open(t.Context(), st, "", project.Options{Parse: pipeline.Options{}}); err != nil {
					t.Fatal(err)
				}
				simulated := sim.New(sim.Options{})
				w.admin = queue.NewAdmin(st, 0)
				w.engine = engine.New(engine.Options{
					Store: st, Blobs: blobs, Plans: w.project, Runners: map[string]runner.Runner{"sim": simulated}, Admit: w.admin.Admit,
					Node: "one", Instance: "test", Secret: []byte("0123456789abcdef0123456789abcdef"), Dir: t.TempDir(), URL: func(context.Context, string) string { return "http://127.0.0.1:1" }, Units: 8,
				})
				if err := w.engine.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				s := schedule.New(schedule.Options{Store: st, Plans: w.project, Starter: arrival.NewStarter(w.engine.Begin, time.Now, nil)})
				w.apply(slow(name, "overlap: "+name))
				s.Start(t.Context())
				time.Sleep(112 * time.Second)
				var got []waybill.Status
				for _, r := range w.runs(name) {
					got = append(got, r.Status)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("runs (-want +got):\n%s", d)
				}
				s.Stop()
				w.engine.Stop()
				if err := simulated.Close(); err != nil {
					t.Error(err)
				}
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
