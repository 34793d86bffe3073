package engine_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// listWorld is an engine over a store whose rows a test makes up.
func listWorld(t testing.TB) (*engine.Engine, store.Store) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), engine.Tables(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine.New(engine.Options{Store: s}), s
}

func keep(t testing.TB, s store.Store, runs []waybill.Run) {
	t.Helper()
	for chunk := range slices.Chunk(runs, 200) {
		c := &store.Commit{}
		for i := range chunk {
			r := &chunk[i]
			val, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			c.Puts = append(c.Puts, store.Put{Table: "run", Key: r.ID, Val: val})
			for _, key := range engine.RunLinks(r) {
				c.Puts = append(c.Puts, store.Put{Table: "run_link", Key: key, Val: []byte(`true`)})
			}
		}
		if err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
}

var listed = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// manyRuns are runs of all kinds, several in the same millisecond.
func manyRuns(n int) []waybill.Run {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
	var runs []waybill.Run
	for i := range n {
		at := listed.Add(time.Duration(i/3) * 700 * time.Microsecond)
		r := waybill.Run{
			ID: waybill.NewID(at), Pipeline: pick("a", "b", "c"), Status: waybill.Statuses()[rnd.IntN(len(waybill.Statuses()))],
			Event: waybill.Event{Type: pick("http", "http", "schedule", "object")}, CreatedAt: at,
		}
		if rnd.IntN(4) == 0 {
			r.Labels = map[string]string{"team": pick("x", "y"), "tier": pick("1", "2", "3")}
		}
		if i > 10 && rnd.IntN(10) == 0 {
			r.Of = runs[rnd.IntN(10)].ID
		}
		if i > 10 && rnd.IntN(10) == 0 {
			r.Parent = &waybill.Parent{Run: runs[rnd.IntN(10)].ID, Step: "s", Attempt: 1}
		}
		runs = append(runs, r)
	}
	return runs
}

// Whatever is asked for, the pages hold exactly the runs that fit, newest first,
// each once, in both stores.
func TestListsAreExact(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		e, s := listWorld(t)
		listsAreExact(t, e, s)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s, err := postgres.Open(t.Context(), pgtest.DSN(t), engine.Tables(), postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		listsAreExact(t, engine.New(engine.Options{Store: s}), s)
	})
}

func listsAreExact(t *testing.T, e *engine.Engine, s store.Store) {
	runs := manyRuns(600)
	keep(t, s, runs)
	rnd := rand.New(rand.NewPCG(3, 4))
	filters := []waybill.RunFilter{
		{}, {Pipeline: "a"}, {Statuses: []waybill.Status{waybill.StatusFailed}}, {Statuses: []waybill.Status{waybill.StatusFailed, waybill.StatusLost, waybill.StatusFailed}},
		{Pipeline: "b", Statuses: []waybill.Status{waybill.StatusSucceeded, waybill.StatusQueued}}, {Trigger: "schedule"}, {Trigger: "object", Pipeline: "c"},
		{Trigger: "http", Statuses: []waybill.Status{waybill.StatusFailed, waybill.StatusRunning}}, {Since: listed.Add(50 * time.Millisecond)},
		{Until: listed.Add(50*time.Millisecond + 300*time.Microsecond)}, {Since: listed.Add(20 * time.Millisecond), Until: listed.Add(90 * time.Millisecond), Statuses: waybill.Statuses()},
		{Labels: map[string]string{"team": "x"}}, {Labels: map[string]string{"team": "x", "tier": "2"}}, {Labels: map[string]string{"team": "x"}, Pipeline: "a", Since: listed.Add(30 * time.Millisecond)},
		{Labels: map[string]string{"team": "nobody"}}, {RetryOf: runs[3].ID}, {Parent: runs[4].ID}, {Parent: runs[5].ID, RetryOf: runs[6].ID}, {Pipeline: "nobody"},
	}
	for _, f := range filters {
		var want []string
		for i := len(runs) - 1; i >= 0; i-- {
			r := runs[i]
			ok := (f.Pipeline == "" || r.Pipeline == f.Pipeline) && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, r.Status)) &&
				(f.Trigger == "" || r.Event.Type == f.Trigger) && (f.Since.IsZero() || !r.CreatedAt.Before(f.Since)) && (f.Until.IsZero() || r.CreatedAt.Before(f.Until)) &&
				(f.RetryOf == "" || r.Of == f.RetryOf) && (f.Parent == "" || r.Parent != nil && r.Parent.Run == f.Parent)
			for k, v := range f.Labels {
				ok = ok && r.Labels[k] == v
			}
			if ok {
				want = append(want, r.ID)
			}
		}
		f.Limit = 1 + rnd.IntN(90)
		var got []string
		for pages := 0; ; pages++ {
			p, err := e.Runs(t.Context(), f)
			if err != nil {
				t.Fatalf("%+v: %v", f, err)
			}
			if len(p.Items) > f.Limit {
				t.Fatalf("%+v: a page of %d", f, len(p.Items))
			}
			for _, r := range p.Items {
				got = append(got, r.ID)
			}
			if f.Cursor = p.Next; p.Next == "" {
				break
			}
			if pages > 700 {
				t.Fatalf("%+v: the list does not end", f)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d runs, want %d, or in another order", f, len(got), len(want))
		}
	}
	if _, err := e.Runs(t.Context(), waybill.RunFilter{Cursor: "nonsense"}); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a bad cursor: %v", err)
	}
}

// A rare combination is looked for in steps: each request looks at so many rows,
// and says where to go on.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	e, s := listWorld(t)
	var runs []waybill.Run
	for i := range 6000 {
		at := listed.Add(time.Duration(i) * time.Millisecond)
		runs = append(runs, waybill.Run{ID: waybill.NewID(at), Pipeline: "a", Status: waybill.StatusSucceeded, Event: waybill.Event{Type: "http"}, CreatedAt: at})
	}
	runs[0].Event.Type = "object"
	keep(t, s, runs)
	f := waybill.RunFilter{Pipeline: "a", Trigger: "object", Limit: 10}
	requests, found := 0, 0
	for {
		p, err := e.Runs(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		requests++
		found += len(p.Items)
		if f.Cursor = p.Next; p.Next == "" {
			break
		}
	}
	if found != 1 || requests < 3 || requests > 10 {
		t.Errorf("%d found in %d requests", found, requests)
	}
}

func BenchmarkRuns(b *testing.B) {
	e, s := listWorld(b)
	const n = 200_000
	rnd := rand.New(rand.NewPCG(1, 2))
	var runs []waybill.Run
	for i := range n {
		at := listed.Add(time.Duration(i) * time.Second)
		r := waybill.Run{ID: waybill.NewID(at), Pipeline: fmt.Sprintf("p%d", rnd.IntN(50)), Status: waybill.StatusSucceeded, Event: waybill.Event{Type: "http"}, CreatedAt: at}
		if rnd.IntN(1000) == 0 {
			r.Status = waybill.StatusFailed
		}
		if rnd.IntN(1000) == 0 {
			r.Labels = map[string]string{"team": "x"}
		}
		runs = append(runs, r)
	}
	keep(b, s, runs)
	for name, f := range map[string]waybill.RunFilter{
		"all": {}, "pipeline": {Pipeline: "p7"}, "failed,lost": {Statuses: []waybill.Status{waybill.StatusFailed, waybill.StatusLost}},
		"pipeline+failed": {Pipeline: "p7", Statuses: []waybill.Status{waybill.StatusFailed}}, "label": {Labels: map[string]string{"team": "x"}},
		"old": {Until: listed.Add(time.Hour)}, "trigger": {Trigger: "schedule"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := e.Runs(b.Context(), f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
