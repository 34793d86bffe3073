package lineage_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/lineage"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is a server without runners: what arrives becomes runs, and the test says what
// they make.
type world struct {
	t        *testing.T
	store    store.Store
	engine   *engine.Engine
	objects  *object.Objects
	arrivals *arrival.Arrivals
	lineages *lineage.Lineages
	now      atomic.Int64
	names    map[string]string // ids of nodes, by what the test calls them
}

// both runs a test over each store.
func both(t *testing.T, f func(w *world)) {
	t.Parallel()
	var schema store.Schema
	for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables()} {
		schema = append(schema, part...)
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		w := &world{t: t, names: map[string]string{}}
		s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{Clock: w.clock})
		w.prepare(s, err)
		f(w)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		w := &world{t: t, names: map[string]string{}}
		s, err := postgres.Open(t.Context(), pgtest.DSN(t), schema, postgres.Options{})
		w.prepare(s, err)
		f(w)
	})
}

func (w *world) clock() time.Time { return time.Unix(0, w.now.Load()) }

func (w *world) prepare(s store.Store, err error) {
	t := w.t
	t.Helper()
	w.now.Store(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC).UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	blobs, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := project.Open(t.Context(), s, "", project.Options{Parse: pipeline.Options{}})
	if err != nil {
		t.Fatal(err)
	}
	w.store = s
	w.engine = engine.New(engine.Options{Store: s, Blobs: blobs, Plans: p})
	w.objects = object.New(s, blobs, object.Options{Hops: w.engine.Hops})
	w.arrivals = arrival.New(s, p, w.objects, w.engine.Begin, arrival.Options{})
	w.lineages = lineage.New(w.engine, w.objects, w.arrivals)
	for _, d := range []string{"first inbox", "second mid", "third mid"} {
		name, bucket, _ := strings.Cut(d, " ")
		_, _, err := p.ApplyPipeline(t.Context(), fmt.Appendf(nil,
			"name: %s\non: {object: {bucket: %s, match: \"**\"}}\nsteps: [{name: one, run: [\"true\"]}]\n", name, bucket), waybill.Principal{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// put stores a version, which the test calls name, and lets it arrive. The runs that it
// starts are called by their pipelines and the name.
func (w *world) put(name, bucket, key string, by waybill.Principal) waybill.Object {
	w.t.Helper()
	o, err := w.objects.PutObject(w.t.Context(), waybill.Object{Bucket: bucket, Key: key}, strings.NewReader(name), "", by)
	if err != nil {
		w.t.Fatal(err)
	}
	w.names["object/"+bucket+"/"+key+"@"+o.Version] = name
	for {
		got, err := w.store.Claim(w.t.Context(), store.ClaimRequest{Topic: queue.TopicArrival, Owner: "test", Lanes: 1, Lease: time.Minute})
		if err != nil {
			w.t.Fatal(err)
		}
		if len(got.Msgs) == 0 {
			break
		}
		c, err := w.arrivals.Handle(w.t.Context(), got.Msgs[0])
		if err != nil {
			w.t.Fatal(err)
		}
		c.Done = got.Msgs[0]
		if err := w.store.Commit(w.t.Context(), c); err != nil {
			w.t.Fatal(err)
		}
	}
	page, err := w.arrivals.Started(w.t.Context(), bucket, key, o.Version, 100, "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range page.Items {
		w.names["run/"+s.Run] = s.Pipeline + " " + name
	}
	return o
}

// run is the id of a run by its name.
func (w *world) run(name string) string {
	w.t.Helper()
	for id, n := range w.names {
		if rest, ok := strings.CutPrefix(id, "run/"); ok && n == name {
			return rest
		}
	}
	w.t.Fatalf("there is no run %q among %v", name, w.names)
	return ""
}

var person = waybill.Principal{Name: "alice", Role: waybill.RoleOperator}

// attempt is the first attempt of the step of a run.
func (w *world) attempt(run string) waybill.Principal {
	key := w.run(run) + "/one/1"
	return waybill.Principal{Name: "attempt " + key, Role: waybill.RoleUnit, Attempt: key}
}

// says writes a lineage in the names of the test: edges, then what is said of nodes.
func (w *world) says(l waybill.Lineage, err error) []string {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if len(l.Nodes) == 0 || l.Nodes[0].ID != l.Root {
		w.t.Fatalf("the root %s is not the first of %+v", l.Root, l.Nodes)
	}
	var out []string
	there := map[string]bool{}
	for _, n := range l.Nodes {
		if there[n.ID] {
			w.t.Errorf("node %s is there twice", n.ID)
		}
		there[n.ID] = true
		if n.Gone {
			out = append(out, w.names[n.ID]+" is gone")
		}
		if n.Object != nil && n.Object.State != waybill.LineageCurrent && !n.Gone {
			out = append(out, w.names[n.ID]+" is "+string(n.Object.State))
		}
		if n.MoreUp || n.MoreDown {
			out = append(out, w.names[n.ID]+" has more")
		}
	}
	for _, e := range l.Edges {
		if !there[e.From] || !there[e.To] {
			w.t.Errorf("edge %+v has an end that is no node", e)
		}
		by := ""
		if e.Step != "" {
			by = fmt.Sprintf(" by %s/%d", e.Step, e.Attempt)
		}
		out = append(out, fmt.Sprintf("%s %s%s %s", w.names[e.From], e.Kind, by, w.names[e.To]))
	}
	slices.Sort(out)
	return out
}

func (w *world) same(what string, got []string, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// chain is an object whose run made another, which started two runs, one of which made
// a third.
func (w *world) chain() (a, b, c waybill.Object) {
	a = w.put("a", "inbox", "x/a.csv", person)
	b = w.put("b", "mid", "b.csv", w.attempt("first a"))
	c = w.put("c", "out", "c.csv", w.attempt("second b"))
	return a, b, c
}

var whole = []string{"a started first a", "first a made by one/1 b", "b started second b", "b started third b", "second b made by one/1 c"}

func TestForwardAndBackward(t *testing.T) {
	both(t, func(w *world) {
		ctx := w.t.Context()
		w.chain()
		w.same("from the first", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{})), whole...)
		w.same("back from the last", w.says(w.lineages.TraceObject(ctx, "out", "c.csv", "", waybill.LineageQuery{})),
			"a started first a", "first a made by one/1 b", "b started second b", "second b made by one/1 c")
		w.same("back from the first", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{Up: true})))
		w.same("from a run", w.says(w.lineages.TraceRun(ctx, w.run("first a"), waybill.LineageQuery{})), whole...)
		w.same("back from a run", w.says(w.lineages.TraceRun(ctx, w.run("third b"), waybill.LineageQuery{})),
			"a started first a", "first a made by one/1 b", "b started third b")
	})
}

func TestVersionsAreToldApart(t *testing.T) {
	both(t, func(w *world) {
		ctx := w.t.Context()
		old, _, _ := w.chain()
		w.put("a2", "inbox", "x/a.csv", person)
		w.same("the current version", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{})), "a2 started first a2")
		w.same("the one before", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", old.Version, waybill.LineageQuery{})),
			append([]string{"a is replaced"}, whole...)...)
		if err := w.objects.DeleteObject(ctx, "inbox", "x/a.csv", person); err != nil {
			w.t.Fatal(err)
		}
		w.same("deleted", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{})), "a2 is deleted", "a2 started first a2")
	})
}

func TestBounds(t *testing.T) {
	both(t, func(w *world) {
		ctx := w.t.Context()
		w.chain()
		w.same("depth 2", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{Depth: 2})),
			"a started first a", "b has more", "first a made by one/1 b")
		w.same("as deep as it goes", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{Depth: 4})), whole...)
		for i := range 30 {
			w.put(fmt.Sprintf("part %d", i), "parts", fmt.Sprintf("%02d", i), w.attempt("third b"))
		}
		for limit, want := range map[int]int{1: 1, 10: 10, 31: 31, 32: 32, 200: 34} {
			l, err := w.lineages.TraceRun(ctx, w.run("third b"), waybill.LineageQuery{Limit: limit})
			if err != nil {
				w.t.Fatal(err)
			}
			if len(l.Nodes) != want || l.Truncated != (limit < 34) {
				w.t.Errorf("limit %d: %d nodes, truncated %t, want %d", limit, len(l.Nodes), l.Truncated, want)
			}
		}
		for _, q := range []waybill.LineageQuery{{Depth: 51}, {Depth: -1}, {Limit: 1001}, {Limit: -1}} {
			if _, err := w.lineages.TraceRun(ctx, w.run("third b"), q); !waybill.IsKind(err, waybill.KindInvalid) {
				w.t.Errorf("%+v: %v", q, err)
			}
		}
	})
}

func TestWhatIsUnknown(t *testing.T) {
	both(t, func(w *world) {
		ctx := w.t.Context()
		a, _, _ := w.chain()
		for name, f := range map[string]func() (waybill.Lineage, error){
			"no such object": func() (waybill.Lineage, error) {
				return w.lineages.TraceObject(ctx, "inbox", "x", "", waybill.LineageQuery{})
			},
			"no such bucket": func() (waybill.Lineage, error) {
				return w.lineages.TraceObject(ctx, "none", "x", "", waybill.LineageQuery{})
			},
			"no such version": func() (waybill.Lineage, error) {
				return w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "v", waybill.LineageQuery{})
			},
			"another's version": func() (waybill.Lineage, error) {
				return w.lineages.TraceObject(ctx, "mid", "b.csv", a.Version, waybill.LineageQuery{})
			},
			"control characters": func() (waybill.Lineage, error) {
				return w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "\x01", waybill.LineageQuery{})
			},
			"no such run": func() (waybill.Lineage, error) { return w.lineages.TraceRun(ctx, "none", waybill.LineageQuery{}) },
		} {
			if _, err := f(); !waybill.IsKind(err, waybill.KindNotFound) {
				w.t.Errorf("%s: %v, want not found", name, err)
			}
		}
		// Whoever calls a token after an attempt makes nothing in its name.
		liar := w.attempt("third b")
		liar.Attempt, liar.Role = "", waybill.RoleOperator
		w.put("forged", "out", "forged", liar)
		w.same("a token named like an attempt", w.says(w.lineages.TraceObject(ctx, "out", "forged", "", waybill.LineageQuery{})))
	})
}

// What retention took is said to be gone where something that is kept tells of it.
func TestWhatIsGone(t *testing.T) {
	both(t, func(w *world) {
		ctx := w.t.Context()
		_, b, _ := w.chain()
		w.put("b2", "mid", "b.csv", person)
		gone := w.run("first a")
		forget := func(table, key string) {
			if err := w.store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: table, Key: key, Rev: store.AnyRev}}}); err != nil {
				w.t.Fatal(err)
			}
		}
		forget("run", gone)
		want := append([]string{"b is replaced", "first a is gone"}, whole...)
		w.same("without the run, from the first", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{})), want...)
		w.same("without the run, from the run", w.says(w.lineages.TraceRun(ctx, gone, waybill.LineageQuery{})), want...)
		w.same("without the run, back from the last", w.says(w.lineages.TraceObject(ctx, "out", "c.csv", "", waybill.LineageQuery{Up: true})),
			"b is replaced", "first a is gone", "a started first a", "first a made by one/1 b", "b started second b", "second b made by one/1 c")

		w.put("c2", "out", "c.csv", person)
		later := w.store.Now().Add(time.Hour)
		keep := object.Keep{Versions: time.Nanosecond, Run: w.engine.Kept}
		if err := w.objects.Sweep(ctx, later, keep); err != nil {
			w.t.Fatal(err)
		}
		// Neither the version nor the run that made it is there, but the runs that it started are.
		w.same("without the version", w.says(w.lineages.TraceObject(ctx, "mid", "b.csv", b.Version, waybill.LineageQuery{})),
			"b is gone", "c is gone", "b started second b", "b started third b", "second b made by one/1 c")
		w.same("back to what is gone", w.says(w.lineages.TraceRun(ctx, w.run("third b"), waybill.LineageQuery{})), "b is gone", "b started third b")
		w.same("what the gone run made is forgotten with it", w.says(w.lineages.TraceObject(ctx, "inbox", "x/a.csv", "", waybill.LineageQuery{})),
			"first a is gone", "a started first a")
	})
}
