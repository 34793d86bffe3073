package project_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// counting counts the scans of a store.
type counting struct {
	store.Store
	mu    sync.Mutex
	scans int
}

func (c *counting) Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error) {
	c.mu.Lock()
	c.scans++
	c.mu.Unlock()
	return c.Store.Scan(ctx, tenant, table, prefix, limit)
}

func newStore(t *testing.T) (*counting, *clock) {
	t.Helper()
	c := &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	st, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), project.Tables(), sqlite.Options{Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &counting{Store: st}, c
}

// folder makes a project of files, given as path and text.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files...)
	return dir
}

func write(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, s store.Store, dir string) *project.Project {
	t.Helper()
	p, err := project.Open(t.Context(), s, dir, project.Options{Parse: pipeline.Options{Env: env}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// def is a definition that runs one program.
func def(name, program, more string) string {
	return fmt.Sprintf("name: %s\n%ssteps:\n  - {name: only, run: [%q]}\n", name, more, program)
}

const onCSV = "on:\n  object: {bucket: inbox, match: \"*.csv\"}\n"

var ann = waybill.Principal{Name: "ann", Role: waybill.RoleAdmin}

func apply(t *testing.T, p *project.Project, src string) (waybill.Pipeline, bool) {
	t.Helper()
	x, fresh, err := p.ApplyPipeline(t.Context(), []byte(src), ann)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return x, fresh
}

func wantKind(t *testing.T, what string, err error, want waybill.Kind) {
	t.Helper()
	if waybill.KindOf(err) != want {
		t.Errorf("%s: %v (%s), want kind %s", what, err, waybill.KindOf(err), want)
	}
}

// matching are names and versions of what an object starts.
func matching(t *testing.T, p *project.Project, bucket, key string) []string {
	t.Helper()
	ms, err := p.Matching(t.Context(), bucket, key)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range ms {
		out = append(out, fmt.Sprintf("%s@%d", m.Plan.Name, m.Version))
	}
	return out
}

func TestFolder(t *testing.T) {
	t.Parallel()
	s, clock := newStore(t)
	dir := folder(t, "waybill.yaml", "name: nights\nunits: {max: 3}\n",
		"pipelines/b.yaml", def("second", "./b", onCSV), "pipelines/a.yml", def("first", "./a", "description: it comes first\n"), "notes.txt", "x")
	p := open(t, s, dir)
	if got := p.Settings(); got.Name != "nights" || got.Units.Max != 3 {
		t.Errorf("settings are %+v", got)
	}
	page, err := p.Pipelines(t.Context(), 10, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []waybill.Pipeline{
		{
			Tenant: "default", Name: "first", Version: 1, Origin: "folder", File: "pipelines/a.yml", Source: def("first", "./a", "description: it comes first\n"),
			Summary: "it comes first", Triggers: []string{"http"}, Steps: []string{"only"}, CreatedAt: clock.Now(), CreatedBy: "folder",
		}, {
			Tenant: "default", Name: "second", Version: 1, Origin: "folder", File: "pipelines/b.yaml", Source: def("second", "./b", onCSV),
			Triggers: []string{"object inbox/*.csv"}, Steps: []string{"only"}, CreatedAt: clock.Now(), CreatedBy: "folder",
		},
	}
	for i := range want {
		want[i].Hash = page.Items[i].Hash
	}
	if diff := cmp.Diff(want, page.Items); diff != "" {
		t.Errorf("pipelines differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"second@1"}, matching(t, p, "inbox", "orders.csv")); diff != "" {
		t.Errorf("what a file starts (-want +got):\n%s", diff)
	}
	for _, x := range [][2]string{{"inbox", "orders.txt"}, {"outbox", "orders.csv"}, {"inbox", "a/orders.csv"}} {
		if got := matching(t, p, x[0], x[1]); got != nil {
			t.Errorf("%s/%s starts %v", x[0], x[1], got)
		}
	}
	_, _, err = p.ApplyPipeline(t.Context(), []byte(def("first", "./other", "")), ann)
	wantKind(t, "apply over a file", err, waybill.KindConflict)
	if err == nil || !strings.Contains(err.Error(), "pipelines/a.yml") {
		t.Errorf("the refusal does not name the file: %v", err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	dir := folder(t, "waybill.yaml", "unit: {}\n", "pipelines/a.yaml", "name: a\n", "pipelines/b.yaml", def("b", "./b", "nam: x\n"),
		"pipelines/c.yaml", def("c", "./c", ""))
	_, err := project.Open(t.Context(), s, dir, project.Options{})
	var ps pipeline.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("opened with %v, want problems", err)
	}
	var files []string
	for _, x := range ps {
		files = append(files, x.File)
	}
	if diff := cmp.Diff([]string{"waybill.yaml", "pipelines/a.yaml", "pipelines/b.yaml"}, files); diff != "" {
		t.Errorf("files with problems (-want +got):\n%s", diff)
	}
	// Nothing of a broken project is taken.
	if page, err := open(t, s, "").Pipelines(t.Context(), 10, ""); err != nil || len(page.Items) > 0 {
		t.Errorf("pipelines of a broken project are there: %+v, %v", page.Items, err)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	s, clock := newStore(t)
	p := open(t, s, "")
	first, fresh := apply(t, p, def("x", "./1", ""))
	if first.Version != 1 || !fresh || first.Origin != "api" || first.CreatedBy != "ann" {
		t.Errorf("the first is %+v, fresh %v", first, fresh)
	}
	clock.pass(time.Minute)
	again, fresh := apply(t, p, def("x", "./1", ""))
	if diff := cmp.Diff(first, again); diff != "" || fresh {
		t.Errorf("applied again it is fresh %v, and differs (-first +again):\n%s", fresh, diff)
	}
	second, fresh := apply(t, p, def("x", "./2", ""))
	if second.Version != 2 || !fresh {
		t.Errorf("the second is %+v, fresh %v", second, fresh)
	}
	// An old text that comes back is a new version: versions only grow.
	if third, fresh := apply(t, p, def("x", "./1", "")); third.Version != 3 || !fresh {
		t.Errorf("the third is %+v, fresh %v", third, fresh)
	}
	for version, want := range map[int]string{0: "./1", 1: "./1", 2: "./2", 3: "./1"} {
		x, err := p.Pipeline(t.Context(), "x", version)
		if err != nil || !strings.Contains(x.Source, want) {
			t.Errorf("version %d is %q, %v; want one with %s", version, x.Source, err, want)
		}
		plan, n, err := p.Plan(t.Context(), "x", version)
		if err != nil || string(plan.Source) != x.Source || n != x.Version {
			t.Errorf("the plan of version %d is of %d, %v", version, n, err)
		}
	}
	_, err := p.Pipeline(t.Context(), "x", 4)
	wantKind(t, "a version to come", err, waybill.KindNotFound)
	_, _, err = p.Plan(t.Context(), "x", 4)
	wantKind(t, "the plan of a version to come", err, waybill.KindNotFound)
	_, _, err = p.Plan(t.Context(), "nope", 0)
	wantKind(t, "the plan of an unknown pipeline", err, waybill.KindNotFound)
	_, err = p.PipelineGraph(t.Context(), "nope", "text")
	wantKind(t, "the graph of an unknown pipeline", err, waybill.KindNotFound)
	if g, err := p.PipelineGraph(t.Context(), "x", "text"); err != nil || !strings.Contains(g, "only") {
		t.Errorf("the graph is %q, %v", g, err)
	}
	_, _, err = p.ApplyPipeline(t.Context(), []byte("name: x\n"), ann)
	wantKind(t, "apply a bad definition", err, waybill.KindInvalid)
	_, err = p.ValidatePipeline(t.Context(), []byte(def("x", "./${env:TEAM}", "")))
	wantKind(t, "the server's environment in a definition of the API", err, waybill.KindInvalid)
	if v, err := p.ValidatePipeline(t.Context(), []byte(def("valid", "./x", ""))); err != nil || v.Name != "valid" {
		t.Errorf("a valid definition: %+v, %v", v, err)
	}
	_, err = p.Pipeline(t.Context(), "valid", 0)
	wantKind(t, "a definition that was only looked at", err, waybill.KindNotFound)
}

func TestConcurrentApply(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	a, b := open(t, s, ""), open(t, s, "")
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := map[int]int{}
	for i := range 20 {
		p := a
		if i%2 == 1 {
			p = b
		}
		wg.Go(func() {
			x, isNew, err := p.ApplyPipeline(t.Context(), []byte(def("x", fmt.Sprintf("./%d", i/4), "")), ann)
			if err != nil {
				t.Errorf("apply: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if isNew {
				fresh[x.Version]++
			}
		})
	}
	wg.Wait()
	x, err := a.Pipeline(t.Context(), "x", 0)
	if err != nil {
		t.Fatal(err)
	}
	for v := 1; v <= x.Version; v++ {
		if fresh[v] != 1 {
			t.Errorf("version %d was made %d times", v, fresh[v])
		}
	}
}

func TestRetire(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	src := def("x", "./1", onCSV)
	dir := folder(t, "pipelines/x.yaml", src, "pipelines/y.yaml", def("y", "./y", ""))
	open(t, s, dir)
	if err := os.Remove(filepath.Join(dir, "pipelines/x.yaml")); err != nil {
		t.Fatal(err)
	}
	p := open(t, s, dir)
	_, _, err := p.Plan(t.Context(), "x", 0)
	wantKind(t, "start what was removed from the folder", err, waybill.KindGone)
	if got := matching(t, p, "inbox", "a.csv"); got != nil {
		t.Errorf("a file starts %v, whose definition is gone", got)
	}
	if plan, _, err := p.Plan(t.Context(), "x", 1); err != nil || plan.Name != "x" {
		t.Errorf("the plan for its old runs: %v", err)
	}
	x, err := p.Pipeline(t.Context(), "x", 0)
	if err != nil || len(x.Triggers) > 0 || x.Version != 1 {
		t.Errorf("it is shown as %+v, %v; want version 1 that nothing starts", x, err)
	}
	// It comes back as it was, and another text is another version.
	write(t, dir, "pipelines/x.yaml", src)
	p = open(t, s, dir)
	if diff := cmp.Diff([]string{"x@1"}, matching(t, p, "inbox", "a.csv")); diff != "" {
		t.Errorf("back in the folder (-want +got):\n%s", diff)
	}
	write(t, dir, "pipelines/x.yaml", def("x", "./2", onCSV))
	p = open(t, s, dir)
	if diff := cmp.Diff([]string{"x@2"}, matching(t, p, "inbox", "a.csv")); diff != "" {
		t.Errorf("changed in the folder (-want +got):\n%s", diff)
	}
	// What was removed may be taken over through the API.
	if err := os.Remove(filepath.Join(dir, "pipelines/x.yaml")); err != nil {
		t.Fatal(err)
	}
	p = open(t, s, dir)
	if x, fresh := apply(t, p, def("x", "./2", onCSV)); fresh || x.Version != 2 || x.Origin != "api" {
		t.Errorf("the same text through the API is %+v, fresh %v", x, fresh)
	}
	if diff := cmp.Diff([]string{"x@2"}, matching(t, p, "inbox", "a.csv")); diff != "" {
		t.Errorf("through the API (-want +got):\n%s", diff)
	}
	// A definition of the API is nobody's file, so a start retires nothing of it.
	p = open(t, s, dir)
	if _, _, err := p.Plan(t.Context(), "x", 0); err != nil {
		t.Errorf("a definition of the API after a restart: %v", err)
	}
}

// TestNoProject: a server that is started in a folder that is no project leaves
// alone what others made.
func TestNoProject(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	open(t, s, folder(t, "pipelines/x.yaml", def("x", "./1", "")))
	for name, dir := range map[string]string{"none": "", "an empty folder": t.TempDir(), "another folder": folder(t, "readme", "x")} {
		if _, _, err := open(t, s, dir).Plan(t.Context(), "x", 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEnvironment: a version keeps the values it was read with, and another value
// is another version.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	dir := folder(t, "pipelines/x.yaml", def("x", "./${env:STAGE}", ""))
	start := func(stage string) *project.Project {
		t.Helper()
		p, err := project.Open(t.Context(), s, dir, project.Options{Parse: pipeline.Options{Env: func(name string) (string, bool) {
			return stage, name == "STAGE" && stage != ""
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	start("test")
	p := start("live")
	for version, want := range map[int]string{1: "test", 2: "live", 0: "live"} {
		plan, n, err := p.Plan(t.Context(), "x", version)
		if err != nil || plan.Env["STAGE"] != want || version > 0 && n != version {
			t.Errorf("version %d (%d) has %v, %v; want %s", version, n, plan.Env, err, want)
		}
	}
}

// TestOtherServers: what one server applies, the others start within a second,
// and until something changes they ask for no more than a counter.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	s, clock := newStore(t)
	a, b := open(t, s, ""), open(t, s, "")
	apply(t, a, def("x", "./1", onCSV))
	if diff := cmp.Diff([]string{"x@1"}, matching(t, a, "inbox", "a.csv")); diff != "" {
		t.Errorf("a server does not know at once what it applied (-want +got):\n%s", diff)
	}
	clock.pass(time.Second)
	if diff := cmp.Diff([]string{"x@1"}, matching(t, b, "inbox", "a.csv")); diff != "" {
		t.Errorf("another server does not know after a second (-want +got):\n%s", diff)
	}
	apply(t, a, def("x", "./2", onCSV))
	apply(t, a, def("w", "./w", "on:\n  object: {bucket: inbox}\n"))
	clock.pass(time.Second)
	if diff := cmp.Diff([]string{"w@1", "x@2"}, matching(t, b, "inbox", "a.csv")); diff != "" {
		t.Errorf("another server does not know the change after a second (-want +got):\n%s", diff)
	}
	before := s.scans
	for range 100 {
		clock.pass(time.Second)
		matching(t, b, "inbox", "a.csv")
	}
	if s.scans != before {
		t.Errorf("all definitions were read %d times though none changed", s.scans-before)
	}
	clock.pass(-time.Hour)
	apply(t, a, def("x", "./3", onCSV))
	clock.pass(time.Second)
	if diff := cmp.Diff([]string{"w@1", "x@3"}, matching(t, b, "inbox", "a.csv")); diff != "" {
		t.Errorf("after the clock was set back (-want +got):\n%s", diff)
	}
}

// TestBrokenDefinition: a definition that this server cannot read keeps the others
// from nothing.
func TestBrokenDefinition(t *testing.T) {
	t.Parallel()
	s, clock := newStore(t)
	p := open(t, s, "")
	apply(t, p, def("good", "./1", onCSV))
	apply(t, p, def("bad", "./bad", onCSV))
	clock.pass(time.Second)
	other, err := project.Open(t.Context(), s, "", project.Options{Parse: pipeline.Options{
		Check: func(_ string, args []string, _ json.RawMessage) error {
			if args[0] == "./bad" {
				return errors.New("not on this server")
			}
			return nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"good@1"}, matching(t, other, "inbox", "a.csv")); diff != "" {
		t.Errorf("what a file starts (-want +got):\n%s", diff)
	}
	_, _, err = other.Plan(t.Context(), "bad", 0)
	if err == nil || !strings.Contains(err.Error(), "not on this server") {
		t.Errorf("the plan that cannot be read: %v, want the reason", err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	p := open(t, s, "")
	for _, name := range []string{"c", "a", "b"} {
		apply(t, p, def(name, "./1", ""))
	}
	var names []string
	for cursor := ""; ; {
		page, err := p.Pipelines(t.Context(), 2, cursor)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Items {
			names = append(names, x.Name)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); diff != "" {
		t.Errorf("the list (-want +got):\n%s", diff)
	}
}

// TestManyVersions asks for more versions than are kept compiled.
func TestManyVersions(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	p := open(t, s, "")
	const n = 210
	for i := range n {
		apply(t, p, def("x", fmt.Sprintf("./%d", i+1), ""))
	}
	for v := 1; v <= n; v++ {
		plan, _, err := p.Plan(t.Context(), "x", v)
		if err != nil || !strings.Contains(string(plan.Source), fmt.Sprintf(`"./%d"`, v)) {
			t.Fatalf("version %d: %v", v, err)
		}
	}
}
