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
	// HasSecret reports whether the server has a secret. Nil knows of none, and definitions
	// are not checked for it.
	HasSecret func(ctx context.Context, name string) (bool, error)
}

// Project implements waybill.Pipelines and finds plans. Safe for concurrent use.
type Project struct {
	store store.Store
	o     Options
	log   *slog.Logger
	dir   string // empty without a folder
	// opened is the fingerprint of the folder before it was read first.
	opened    string
	reloading sync.Mutex

	mu       sync.Mutex
	set      Settings
	wrong    []waybill.SourceProblem   // in the folder, as it was last read
	restart  []string                  // settings that changed and need a restart
	newest   map[string]current        // by name, as of changes
	watching []string                  // names of those that objects start, sorted
	changes  int64                     // revision of the row of tableChanges
	seen     time.Time                 // when changes was last compared; zero: never
	plans    map[string]*pipeline.Plan // other versions, by versionKey
}

// current is the newest version of a pipeline.
type current struct {
	Match
	retired bool
	err     error // why it cannot be used
}

var _ waybill.Pipelines = (*Project)(nil)

// Match is a plan and its version.
type Match struct {
	Plan    *pipeline.Plan
	Version int
}

const (
	tablePipeline = "pipeline"         // key: name; value: latest
	tableVersion  = "pipeline_version" // key: name@version; value: definition
	tableChanges  = "pipeline_changes" // one row, whose revision counts the changes of tablePipeline
)

// changed is the part of a commit that says that tablePipeline has changed.
var changed = store.Put{Table: tableChanges, Key: "all", Rev: store.AnyRev, Val: []byte(`{}`)}

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
	}, {Name: tableVersion, Version: 1}, {Name: tableChanges, Version: 1}}
}

// Origins of definitions.
const (
	originFolder = "folder"
	originAPI    = "api"
)

// maxPlans bounds the cache of compiled plans that are not the newest.
const maxPlans = 200

func versionKey(name string, version int) string { return fmt.Sprintf("%s@%09d", name, version) }

// Open reads the settings and definitions of a folder into the store. An empty dir
// is a project without folder. All mistakes in all files come back as one error.
func Open(ctx context.Context, s store.Store, dir string, o Options) (*Project, error) {
	p := &Project{store: s, o: o, log: o.Logger, set: Default(), plans: map[string]*pipeline.Plan{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if dir == "" {
		return p, p.refresh(ctx)
	}
	folder := os.DirFS(dir)
	p.dir, p.opened = dir, fingerprint(folder)
	c, err := Read(folder, o.Parse)
	if err != nil {
		return nil, err
	}
	p.set = c.Settings
	for _, plan := range c.Plans {
		if _, _, err := p.apply(ctx, plan, originFolder, waybill.Principal{Name: "folder"}); err != nil {
			return nil, fmt.Errorf("pipeline %s: %w", plan.Name, err)
		}
	}
	// A folder that is no project is one that was named by mistake: it says nothing
	// about the pipelines that other servers know.
	if isProject(folder) {
		if _, err := p.retire(ctx, c.Plans, nil); err != nil {
			return nil, err
		}
	}
	return p, p.refresh(ctx)
}

// collect adds problems to a list, and returns any other error.
func collect(to *pipeline.Problems, err error) error {
	var ps pipeline.Problems
	if errors.As(err, &ps) {
		*to = append(*to, ps...)
		return nil
	}
	return err
}

func isProject(folder fs.FS) bool {
	for _, name := range []string{settingsFile, "pipelines"} {
		if _, err := fs.Stat(folder, name); err == nil {
			return true
		}
	}
	return false
}

// Close implements io.Closer; there is nothing to release.
func (p *Project) Close() error { return nil }

// Settings are those of waybill.yaml.
func (p *Project) Settings() Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.set
}

// retire keeps pipelines whose files are gone from starting. Their versions stay. What
// is in a broken file is not gone. It returns the names of those it retired.
func (p *Project) retire(ctx context.Context, plans []*pipeline.Plan, broken map[string]bool) ([]string, error) {
	retired := []string{}
	rows, err := p.store.Scan(ctx, "", tablePipeline, "", 0)
	if err != nil {
		return retired, err
	}
	for _, r := range rows {
		var l latest
		if err := json.Unmarshal(r.Val, &l); err != nil {
			return retired, err
		}
		gone := !slices.ContainsFunc(plans, func(x *pipeline.Plan) bool { return x.Name == l.Name })
		if l.Origin != originFolder || !gone || l.Retired || broken[l.File] {
			continue
		}
		l.Retired, l.Triggers = true, []string{}
		retired = append(retired, l.Name)
		p.log.Info("pipeline retired: its file is gone", "pipeline", l.Name)
		val, err := json.Marshal(l)
		if err != nil {
			return retired, err
		}
		if err := p.store.Commit(ctx, &store.Commit{
			Puts:   []store.Put{{Table: tablePipeline, Key: r.Key, Rev: r.Rev, Val: val}, changed},
			Events: []store.Event{{Subject: "pipeline/" + l.Name, Kind: "pipeline.retired"}},
		}); err != nil && !errors.Is(err, store.ErrConflict) {
			return retired, err
		}
	}
	return retired, nil
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
		next.Origin = origin
		next.Version, next.CreatedAt, next.CreatedBy = old.Version, old.CreatedAt, old.CreatedBy
		fresh := old.Hash != plan.Hash
		if fresh { // otherwise it changes its origin, or comes back
			next.Version, next.CreatedAt, next.CreatedBy = old.Version+1, p.store.Now().UTC(), by.Name
		}
		val, err := json.Marshal(next)
		if err != nil {
			return waybill.Pipeline{}, false, err
		}
		c := &store.Commit{
			Puts: []store.Put{{Table: tablePipeline, Key: plan.Name, Rev: row.Rev, Val: val}, changed},
			Events: []store.Event{{
				Subject: "pipeline/" + plan.Name, Kind: "pipeline.applied", At: p.store.Now().UTC(),
				Data: fmt.Appendf(nil, `{"version":%d,"origin":%q}`, next.Version, origin),
			}},
		}
		if fresh {
			val, err := json.Marshal(definition{next.Pipeline, plan.Env})
			if err != nil {
				return waybill.Pipeline{}, false, err
			}
			c.Puts = append(c.Puts, store.Put{Table: tableVersion, Key: versionKey(plan.Name, next.Version), Val: val})
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
		return next.Pipeline, fresh, nil
	}
}

// describe is a plan as the API shows it.
func describe(plan *pipeline.Plan) waybill.Pipeline {
	x := waybill.Pipeline{
		Tenant: store.DefaultTenant, Name: plan.Name, Hash: plan.Hash, File: plan.File, Source: string(plan.Source),
		Summary: plan.Description, Triggers: []string{}, Steps: []string{},
	}
	x.Triggers = append(x.Triggers, plan.On.Strings()...)
	for _, w := range plan.Warnings {
		x.Warnings = append(x.Warnings, w.String())
	}
	for _, s := range plan.Steps {
		x.Steps = append(x.Steps, s.Name)
	}
	return x
}

// refreshEvery is how soon a server sees what another one applied.
const refreshEvery = time.Second

// refresh brings newest up to date, if it was not looked at just now.
func (p *Project) refresh(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.store.Now()
	if age := now.Sub(p.seen); !p.seen.IsZero() && age >= 0 && age < refreshEvery {
		return nil
	}
	// The counter is read before the rows: what changes in between is read again.
	count, err := p.store.Get(ctx, "", tableChanges, changed.Key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if p.newest != nil && count.Rev == p.changes {
		p.seen = now
		return nil
	}
	rows, err := p.store.Scan(ctx, "", tablePipeline, "", 0)
	if err != nil {
		return err
	}
	newest, watching := make(map[string]current, len(rows)), []string{}
	for _, r := range rows {
		var l latest
		if err := json.Unmarshal(r.Val, &l); err != nil {
			return fmt.Errorf("pipeline %s: %w", r.Key, err)
		}
		x := current{Match: Match{Version: l.Version}, retired: l.Retired}
		if old, ok := p.newest[l.Name]; ok && old.Version == l.Version && old.err == nil {
			x.Plan = old.Plan
		} else {
			x.Plan, x.err = p.compile(ctx, l.Name, l.Version)
		}
		if x.err != nil {
			if ctx.Err() != nil || waybill.IsKind(x.err, waybill.KindUnavailable) {
				return x.err
			}
			p.log.Error("pipeline cannot be used", "pipeline", l.Name, "version", l.Version, "err", x.err)
		} else if !x.retired && len(x.Plan.On.Objects) > 0 {
			watching = append(watching, l.Name)
		}
		newest[l.Name] = x
	}
	p.newest, p.watching, p.changes, p.seen = newest, watching, count.Rev, now
	return nil
}

// version returns a compiled version. p.mu is held.
func (p *Project) version(ctx context.Context, name string, version int) (*pipeline.Plan, error) {
	if x, ok := p.newest[name]; ok && x.Version == version && x.err == nil {
		return x.Plan, nil
	}
	key := versionKey(name, version)
	if x := p.plans[key]; x != nil {
		return x, nil
	}
	plan, err := p.compile(ctx, name, version)
	if err != nil {
		return nil, err
	}
	for old := range p.plans { // any will do: old versions are rarely asked for
		if len(p.plans) < maxPlans {
			break
		}
		delete(p.plans, old)
	}
	p.plans[key] = plan
	return plan, nil
}

// compile reads a version from the store.
func (p *Project) compile(ctx context.Context, name string, version int) (*pipeline.Plan, error) {
	row, err := p.store.Get(ctx, "", tableVersion, versionKey(name, version))
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
		plan, err := p.version(ctx, name, version)
		return plan, version, err
	}
	if err := p.refresh(ctx); err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := p.newest[name]
	switch {
	case !ok:
		return nil, 0, notFound(name, 0)
	case x.retired:
		return nil, 0, waybill.E(waybill.KindGone, "pipeline %s was removed from the project folder", name)
	case x.err != nil:
		return nil, 0, x.err
	}
	return x.Plan, x.Version, nil
}

// Matching returns the newest versions of the pipelines that an object starts, in
// the order of their names.
func (p *Project) Matching(ctx context.Context, bucket, key string) ([]Match, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Match
	for _, name := range p.watching {
		m := p.newest[name].Match
		if slices.ContainsFunc(m.Plan.On.Objects, func(t pipeline.ObjectTrigger) bool { return t.Matches(bucket, key) }) {
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
		if l.Origin == originFolder {
			out.Items[i].Problem = p.trouble(l.File)
		}
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
	if err == nil {
		err = p.checkSecrets(ctx, plan)
	}
	if err != nil {
		return waybill.Pipeline{}, false, err
	}
	return p.apply(ctx, plan, originAPI, by)
}

// ValidatePipeline implements waybill.Pipelines.
func (p *Project) ValidatePipeline(ctx context.Context, source []byte) (waybill.Pipeline, error) {
	plan, err := p.parse(source)
	if err == nil {
		err = p.checkSecrets(ctx, plan)
	}
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
