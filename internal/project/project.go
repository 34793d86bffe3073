// Package project keeps the definitions a server works with: those of its project
// folder and those that came through the API, each in versions that stay as long
// as runs refer to them.
package project

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

// Options of a project.
type Options struct {
	Parse  pipeline.Options // for files of the folder; Env is left out for definitions from the API
	Logger *slog.Logger
}

// Project implements waybill.Pipelines and finds plans. Safe for concurrent use.
type Project struct {
	store store.Store
	o     Options
	log   *slog.Logger
	set   Settings

	mu     sync.Mutex
	plans  map[string]*pipeline.Plan // by versionKey
	newest []Match                   // by name; what may start
	seen   time.Time                 // when newest was read
	rev    string                    // of the table then
}

var _ waybill.Pipelines = (*Project)(nil)

// Match is a plan and its version.
type Match struct {
	Plan    *pipeline.Plan
	Version int
	retired bool
}

const (
	tablePipeline = "pipeline"         // key: name; value: latest
	tableVersion  = "pipeline_version" // key: name@version; value: definition
)

// latest is the row of a pipeline.
type latest struct {
	waybill.Pipeline
	Retired bool `json:"retired,omitempty"` // its file is gone: it starts nothing
}

// definition is the row of a version.
type definition struct {
	waybill.Pipeline
	Env map[string]string `json:"env,omitempty"` // what ${env:…} stood for when it was read
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{{
		Name: tablePipeline, Version: 1,
		Derive: func(string, []byte) (store.Derived, error) { return store.Derived{Counters: []string{"all"}}, nil },
	}, {Name: tableVersion, Version: 1}}
}

// Origins of definitions.
const (
	originFolder = "folder"
	originAPI    = "api"
)

// maxPlans bounds the cache of compiled plans.
const maxPlans = 500

func versionKey(name string, version int) string { return fmt.Sprintf("%s@%09d", name, version) }

// Open reads the settings and definitions of a folder into the store. An empty dir
// is a project without folder. All mistakes in all files come back as one error.
func Open(ctx context.Context, s store.Store, dir string, o Options) (*Project, error) {
	p := &Project{store: s, o: o, log: o.Logger, set: Default(), plans: map[string]*pipeline.Plan{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	var plans []*pipeline.Plan
	if dir != "" {
		folder := os.DirFS(dir)
		set, err := ReadSettings(folder)
		if err != nil {
			return nil, err
		}
		p.set = set
		if plans, err = pipeline.Load(folder, o.Parse); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	for _, plan := range plans {
		if _, _, err := p.apply(ctx, plan, originFolder, waybill.Principal{Name: "folder"}); err != nil {
			return nil, fmt.Errorf("pipeline %s: %w", plan.Name, err)
		}
	}
	if dir != "" {
		if err := p.retire(ctx, plans); err != nil {
			return nil, err
		}
	}
	return p, p.refresh(ctx)
}

// Close implements io.Closer; there is nothing to release.
func (p *Project) Close() error { return nil }

// Settings are those of waybill.yaml.
func (p *Project) Settings() Settings { return p.set }

// retire keeps pipelines whose files are gone from starting. Their versions stay.
func (p *Project) retire(ctx context.Context, plans []*pipeline.Plan) error {
	rows, err := p.store.Scan(ctx, "", tablePipeline, "", 0)
	if err != nil {
		return err
	}
	for _, r := range rows {
		var l latest
		if err := json.Unmarshal(r.Val, &l); err != nil {
			return err
		}
		gone := !slices.ContainsFunc(plans, func(x *pipeline.Plan) bool { return x.Name == l.Name })
		if l.Origin != originFolder || !gone || l.Retired {
			continue
		}
		l.Retired = true
		p.log.Info("pipeline retired: its file is gone", "pipeline", l.Name)
		val, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if err := p.store.Commit(ctx, &store.Commit{
			Puts:   []store.Put{{Table: tablePipeline, Key: r.Key, Rev: r.Rev, Val: val}},
			Events: []store.Event{{Subject: "pipeline/" + l.Name, Kind: "pipeline.retired"}},
		}); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// apply stores a plan as the newest version of its pipeline, unless it is that
// already.
func (p *Project) apply(ctx context.Context, plan *pipeline.Plan, origin string, by waybill.Principal) (waybill.Pipeline, bool, error) {
	for {
		var old latest
		row, err := p.store.Get(ctx, "", tablePipeline, plan.Name)
		if err == nil {
			err = json.Unmarshal(row.Val, &old)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return waybill.Pipeline{}, false, err
		}
		if old.Origin == originFolder && origin == originAPI && !old.Retired {
			return waybill.Pipeline{}, false, waybill.E(waybill.KindConflict, "it comes from the project folder (%s) and is read-only here", old.File).
				WithOp("apply pipeline", plan.Name).WithHint("change the file, or use another name")
		}
		if old.Hash == plan.Hash && old.Origin == origin && !old.Retired {
			return old.Pipeline, false, nil
		}
		next := latest{Pipeline: describe(plan)}
		next.Version, next.Origin, next.CreatedAt, next.CreatedBy = old.Version+1, origin, p.store.Now().UTC(), by.Name
		c := &store.Commit{Events: []store.Event{{Subject: "pipeline/" + plan.Name, Kind: "pipeline.applied", Data: fmt.Appendf(nil, `{"version":%d}`, next.Version)}}}
		for _, x := range []struct {
			table, key string
			rev        int64
			val        any
		}{
			{tablePipeline, plan.Name, row.Rev, next},
			{tableVersion, versionKey(plan.Name, next.Version), 0, definition{next.Pipeline, plan.Env}},
		} {
			val, err := json.Marshal(x.val)
			if err != nil {
				return waybill.Pipeline{}, false, err
			}
			c.Puts = append(c.Puts, store.Put{Table: x.table, Key: x.key, Rev: x.rev, Val: val})
		}
		err = p.store.Commit(ctx, c)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return waybill.Pipeline{}, false, err
		}
		p.mu.Lock()
		p.seen = time.Time{}
		p.mu.Unlock()
		return next.Pipeline, true, nil
	}
}

// describe is a plan as the API shows it.
func describe(plan *pipeline.Plan) waybill.Pipeline {
	x := waybill.Pipeline{
		Tenant: store.DefaultTenant, Name: plan.Name, Hash: plan.Hash, File: plan.File, Source: string(plan.Source),
		Summary: plan.Description, Triggers: []string{}, Steps: []string{},
	}
	if plan.On.HTTP {
		x.Triggers = append(x.Triggers, "http")
	}
	for _, t := range plan.On.Objects {
		x.Triggers = append(x.Triggers, "object "+t.Bucket+"/"+t.Match)
	}
	for _, s := range plan.Steps {
		x.Steps = append(x.Steps, s.Name)
	}
	return x
}

// refreshEvery is how soon a server sees what another one applied.
const refreshEvery = time.Second

// refresh reads which pipelines there are, if that was some time ago.
func (p *Project) refresh(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.store.Now()
	if !p.seen.IsZero() && now.Sub(p.seen) < refreshEvery {
		return nil
	}
	rows, err := p.store.Scan(ctx, "", tablePipeline, "", 0)
	if err != nil {
		return err
	}
	rev := ""
	for _, r := range rows {
		rev += fmt.Sprintf("%s=%d ", r.Key, r.Rev)
	}
	if rev != p.rev || p.seen.IsZero() {
		var newest []Match
		for _, r := range rows {
			var l latest
			if err := json.Unmarshal(r.Val, &l); err != nil {
				return err
			}
			plan, err := p.plan(ctx, l.Name, l.Version)
			if err != nil {
				p.log.Error("pipeline cannot be used", "pipeline", l.Name, "version", l.Version, "err", err)
				continue
			}
			newest = append(newest, Match{plan, l.Version, l.Retired})
		}
		p.newest, p.rev = newest, rev
	}
	p.seen = now
	return nil
}

// plan compiles a version, or finds it compiled. p.mu is held.
func (p *Project) plan(ctx context.Context, name string, version int) (*pipeline.Plan, error) {
	key := versionKey(name, version)
	if x := p.plans[key]; x != nil {
		return x, nil
	}
	row, err := p.store.Get(ctx, "", tableVersion, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, notFound(name, version)
	}
	if err != nil {
		return nil, err
	}
	var d definition
	if err := json.Unmarshal(row.Val, &d); err != nil {
		return nil, err
	}
	o := p.o.Parse
	o.Env = nil
	if d.Origin == originFolder {
		// A version keeps the values it was read with.
		o.Env = func(name string) (string, bool) { v, ok := d.Env[name]; return v, ok }
	}
	plan, err := pipeline.Parse(d.File, []byte(d.Source), o)
	if err != nil {
		return nil, fmt.Errorf("pipeline %s version %d is no longer valid: %w", name, version, err)
	}
	if len(p.plans) >= maxPlans {
		clear(p.plans)
	}
	p.plans[key] = plan
	return plan, nil
}

func notFound(name string, version int) error {
	if version > 0 {
		return waybill.E(waybill.KindNotFound, "there is no version %d of pipeline %s", version, name)
	}
	return waybill.E(waybill.KindNotFound, "there is no pipeline %q", name).WithHint("waybill pipeline list shows those there are")
}

// Plan returns a compiled version, the newest when version is 0, and its number.
// KindNotFound: there is none. KindGone: the pipeline starts nothing any more.
func (p *Project) Plan(ctx context.Context, name string, version int) (*pipeline.Plan, int, error) {
	if version > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		plan, err := p.plan(ctx, name, version)
		return plan, version, err
	}
	if err := p.refresh(ctx); err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.newest {
		if m.Plan.Name != name {
			continue
		}
		if m.retired {
			return nil, 0, waybill.E(waybill.KindGone, "pipeline %s was removed from the project folder", name)
		}
		return m.Plan, m.Version, nil
	}
	return nil, 0, notFound(name, 0)
}

// Matching returns the newest versions of the pipelines that an object starts.
func (p *Project) Matching(ctx context.Context, bucket, key string) ([]Match, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Match
	for _, m := range p.newest {
		if !m.retired && slices.ContainsFunc(m.Plan.On.Objects, func(t pipeline.ObjectTrigger) bool { return t.Matches(bucket, key) }) {
			out = append(out, m)
		}
	}
	return out, nil
}

// Pipelines implements waybill.Pipelines.
func (p *Project) Pipelines(ctx context.Context, limit int, cursor string) (waybill.Page[waybill.Pipeline], error) {
	page, err := p.store.Query(ctx, store.Query{Table: tablePipeline, Limit: limit, After: cursor})
	out := waybill.Page[waybill.Pipeline]{Items: make([]waybill.Pipeline, len(page.Rows)), Next: page.Next}
	for i, r := range page.Rows {
		var l latest
		if err := json.Unmarshal(r.Val, &l); err != nil {
			return out, err
		}
		out.Items[i] = l.Pipeline
	}
	return out, err
}

// Pipeline implements waybill.Pipelines.
func (p *Project) Pipeline(ctx context.Context, name string, version int) (waybill.Pipeline, error) {
	table, key := tablePipeline, name
	if version > 0 {
		table, key = tableVersion, versionKey(name, version)
	}
	var x waybill.Pipeline
	row, err := p.store.Get(ctx, "", table, key)
	if errors.Is(err, store.ErrNotFound) {
		return x, notFound(name, version)
	}
	if err != nil {
		return x, err
	}
	return x, json.Unmarshal(row.Val, &x)
}

// ApplyPipeline implements waybill.Pipelines.
func (p *Project) ApplyPipeline(ctx context.Context, source []byte, by waybill.Principal) (waybill.Pipeline, bool, error) {
	plan, err := p.parse(source)
	if err != nil {
		return waybill.Pipeline{}, false, err
	}
	return p.apply(ctx, plan, originAPI, by)
}

// ValidatePipeline implements waybill.Pipelines.
func (p *Project) ValidatePipeline(_ context.Context, source []byte) (waybill.Pipeline, error) {
	plan, err := p.parse(source)
	if err != nil {
		return waybill.Pipeline{}, err
	}
	return describe(plan), nil
}

func (p *Project) parse(source []byte) (*pipeline.Plan, error) {
	o := p.o.Parse
	o.Env = nil
	return pipeline.Parse("", source, o)
}

// PipelineGraph implements waybill.Pipelines.
func (p *Project) PipelineGraph(ctx context.Context, name, format string) (string, error) {
	x, err := p.Pipeline(ctx, name, 0)
	if err != nil {
		return "", err
	}
	plan, _, err := p.Plan(ctx, name, x.Version)
	if err != nil {
		return "", err
	}
	return plan.Graph(format)
}
