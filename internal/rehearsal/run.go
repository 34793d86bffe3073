package rehearsal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/sim"
	"github.com/waybill-run/waybill/internal/store"
)

// World is what a rehearsal takes place in.
type World struct {
	Project string           // folder with the pipelines
	Parse   pipeline.Options // how definitions are read; Env gives way to that of a test
	Runners []string         // names of the runners that pipelines may use
	Store   func(ctx context.Context, dir string) (store.Store, error)
	Blobs   func(dir string) (blob.Store, error)
	// Objects makes the buckets of a rehearsal; nil has none.
	Objects  func(st store.Store, b blob.Store) engine.Objects
	Patience time.Duration // for one test; 0 means a minute
	Logger   *slog.Logger  // nil discards
}

// Result is what came of one test.
type Result struct {
	File     string        `json:"file"`
	Name     string        `json:"name"`
	Pipeline string        `json:"pipeline"`
	OK       bool          `json:"ok"`
	Diffs    []Diff        `json:"diffs,omitempty"`
	Error    string        `json:"error,omitempty"` // why it could not be run
	Took     time.Duration `json:"took_ns"`
	Log      string        `json:"-"` // the run as it was, of a test that failed
}

// Diff is one difference between what a test expects and what came.
type Diff struct {
	Path string `json:"path"` // such as expect.steps.publish.status
	Want string `json:"want"`
	Got  string `json:"got"`
}

func (d Diff) String() string { return d.Path + ": want " + d.Want + ", got " + d.Got }

// plans has the one pipeline of a rehearsal.
type plans struct{ plan *pipeline.Plan }

func (p plans) Plan(_ context.Context, name string, _ int) (*pipeline.Plan, int, error) {
	if name != p.plan.Name {
		return nil, 0, waybill.E(waybill.KindNotFound, "the rehearsal is of pipeline %s", p.plan.Name)
	}
	return p.plan, 1, nil
}

type secrets map[string]string

func (s secrets) Secret(_ context.Context, name string) (string, error) {
	if v, ok := s[name]; ok {
		return v, nil
	}
	return "", waybill.E(waybill.KindNotFound, "the test has no secret %s", name).WithHint("add secrets: {%s: a-value}", name)
}

func (s secrets) Values(_ context.Context, name string) ([]string, error) {
	if v, ok := s[name]; ok {
		return []string{v}, nil
	}
	return nil, nil
}

// Run runs a test. What is wrong with the test or its pipeline is in the result.
func (w World) Run(ctx context.Context, file string, c Case) Result {
	began := time.Now()
	r := Result{File: file, Name: c.Name, Pipeline: c.Pipeline}
	err := w.run(ctx, &c, &r)
	r.Took = time.Since(began)
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil && len(r.Diffs) == 0
	return r
}

// plan reads the pipeline of a test.
func (w World) plan(c *Case) (*pipeline.Plan, error) {
	o := w.Parse
	env := o.Env
	o.Env = func(name string) (string, bool) {
		if v, ok := c.Env[name]; ok {
			return v, true
		}
		if env != nil {
			return env(name)
		}
		return "", false
	}
	var tried []string
	names := []string{c.Pipeline}
	if !strings.ContainsAny(c.Pipeline, "/.") {
		names = []string{"pipelines/" + c.Pipeline + ".yaml", "pipelines/" + c.Pipeline + ".yml"}
	}
	for _, name := range names {
		src, err := os.ReadFile(filepath.Join(w.Project, name))
		if err == nil {
			return pipeline.Parse(name, src, o)
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		tried = append(tried, name)
	}
	// The file need not be called like its pipeline.
	all, _ := pipeline.Load(os.DirFS(w.Project), o)
	for _, p := range all {
		if p.Name == c.Pipeline {
			return pipeline.Parse(p.File, p.Source, o)
		}
	}
	return nil, waybill.E(waybill.KindNotFound, "there is no pipeline %s in %s (looked for %s)", c.Pipeline, w.Project, strings.Join(tried, ", "))
}

func (w World) run(ctx context.Context, c *Case, r *Result) (err error) {
	patience := w.Patience
	if patience == 0 {
		patience = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	plan, err := w.plan(c)
	if err != nil {
		return err
	}
	for name := range c.Steps {
		if base, _, _ := strings.Cut(name, "."); plan.Step(base) == nil {
			return waybill.E(waybill.KindInvalid, "steps: the pipeline has no step %s", name)
		}
	}
	stage := newStage(c, plan)
	dir, err := os.MkdirTemp("", "waybill-test-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	st, err := w.Store(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	blobs, err := w.Blobs(filepath.Join(dir, "blobs"))
	if err != nil {
		return err
	}
	units := sim.New(sim.Options{})
	runners := map[string]runner.Runner{}
	names := append(slices.Clone(w.Runners), simulated+pipeline.RunnerWait, simulated+pipeline.RunnerApproval, simulated+pipeline.RunnerPipeline)
	for _, n := range names {
		runners[n] = &double{Runner: units, name: n, s: stage}
	}
	e := engine.New(engine.Options{
		Store: st, Blobs: blobs, Plans: plans{plan}, Runners: runners, Secrets: secrets(c.Secrets), Logger: w.Logger,
		Node: "test", Instance: "test", Secret: []byte("of a rehearsal, which nobody can reach"), Dir: filepath.Join(dir, "units"),
		URL: func(context.Context, string) string { return "http://waybill.invalid" }, StopGrace: time.Second,
	})
	if w.Objects != nil {
		e.UseObjects(w.Objects(st, blobs))
	}
	if err := e.Start(ctx); err != nil {
		return err
	}
	defer func() {
		e.Stop()
		err = errors.Join(err, units.Close())
	}()
	ev, err := event(ctx, c, blobs)
	if err != nil {
		return err
	}
	params, err := vars(c.Params)
	if err != nil {
		return err
	}
	given, err := vars(c.Vars)
	if err != nil {
		return err
	}
	run, commit, err := e.Begin(plan, 1, ev, params, given)
	if waybill.IsKind(err, waybill.KindInvalid) && c.Expect.Error != "" {
		// A start that is refused, as it shall be.
		compare(&r.Diffs, "expect.error", contains(c.Expect.Error), err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	if err := st.Commit(ctx, commit); err != nil {
		return err
	}
	for {
		d, err := e.Run(ctx, run.ID)
		if err != nil {
			return err
		}
		if d.Status.Terminal() {
			r.Diffs = stage.judge(d)
			if len(r.Diffs) > 0 {
				r.Log = describe(ctx, d, blobs)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it did not end within %s: %s", patience, describe(context.WithoutCancel(ctx), d, blobs))
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func vars(m map[string]any) (waybill.Vars, error) {
	var out waybill.Vars
	for _, name := range slices.Sorted(maps.Keys(m)) {
		v, err := waybill.ValueOf(plain(m[name]))
		if err != nil {
			return out, waybill.E(waybill.KindInvalid, "%s: %w", name, err)
		}
		out.Set(name, v)
	}
	return out, nil
}

// plain is a value of YAML as one of JSON.
func plain(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		return v
	}
	var out any
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	if d.Decode(&out) != nil {
		return v
	}
	return numbers(out)
}

func numbers(v any) any {
	switch x := v.(type) {
	case json.Number:
		if i, err := x.Int64(); err == nil {
			return i
		}
		f, _ := x.Float64()
		return f
	case []any:
		for i := range x {
			x[i] = numbers(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = numbers(x[k])
		}
	}
	return v
}

func event(ctx context.Context, c *Case, blobs blob.Store) (waybill.Event, error) {
	x := c.Event
	ev := waybill.Event{ID: "test", Type: "http", Source: "/pipelines/" + c.Pipeline, Subject: x.Subject, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	if x.Type != "" {
		ev.Type = x.Type
	}
	if x.Source != "" {
		ev.Source = x.Source
	}
	if x.Time != "" {
		ev.Time, _ = time.Parse(time.RFC3339, x.Time) // it was checked
	}
	if x.Data != nil {
		b, err := json.Marshal(x.Data)
		if err != nil {
			return ev, err
		}
		ev.Data = b
	}
	if o := x.Object; o != nil {
		ref, err := blobs.Put(ctx, strings.NewReader(o.Content), 0)
		if err != nil {
			return ev, err
		}
		if x.Type == "" {
			ev.Type, ev.Source = "object", "/buckets/"+o.Bucket
		}
		ev.Object = &waybill.Object{Bucket: o.Bucket, Key: o.Key, Version: "test", Size: ref.Size, SHA256: ref.SHA256, ContentType: o.ContentType, CreatedAt: ev.Time}
	}
	return ev, nil
}

// describe shows a run for who has to find out why it was not as expected.
func describe(ctx context.Context, d waybill.RunDetail, blobs blob.Store) string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s", d.Status)
	if d.Error != "" {
		fmt.Fprintf(&b, " (%s)", d.Error)
	}
	for _, s := range d.Steps {
		fmt.Fprintf(&b, "\n  %-20s %s", s.Name, s.Status)
		if s.Error != "" {
			fmt.Fprintf(&b, " (%s)", s.Error)
		}
		if len(s.Outputs.Names()) > 0 {
			fmt.Fprintf(&b, " outputs %s", show(asMap(s.Outputs)))
		}
	}
	for _, a := range d.Attempts {
		path, err := blobs.LogFile(a.Run, a.Unit)
		if err != nil {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(io.LimitReader(f, 2000))
		f.Close()
		if len(text) > 0 {
			fmt.Fprintf(&b, "\n  log of %s, attempt %d: %s", a.Step, a.Number, strings.TrimSpace(string(text)))
		}
	}
	_ = ctx
	return b.String()
}
