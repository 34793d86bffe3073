package project

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

// Contents are those of a project folder.
type Contents struct {
	Settings Settings
	Plans    []*pipeline.Plan
}

// Read reads the settings and definitions of a folder. The error is of type
// [pipeline.Problems] and holds every mistake in every file; what is without one is in
// the contents all the same.
func Read(folder fs.FS, o pipeline.Options) (Contents, error) {
	var c Contents
	var problems pipeline.Problems
	var err error
	c.Settings, err = ReadSettings(folder, o.Env)
	if err := collect(&problems, err); err != nil {
		return c, err
	}
	c.Plans, err = pipeline.Load(folder, o)
	if err := collect(&problems, err); err != nil {
		return c, err
	}
	if len(problems) > 0 {
		return c, problems
	}
	return c, nil
}

// live are the settings that change while a server runs; the others are read when it
// starts. A path ends with a dot if it stands for all below it.
var live = []string{"name", "http.", "retention.", "auth.", "deliveries.providers", "deliveries.interval", "deliveries.rows", "deliveries.calls", "deliveries.ingest", "deliveries.alerts."}

// Reload takes up what has changed in the project folder. A file with mistakes changes
// nothing: its pipeline stays as it was, and so do all settings if they are in
// waybill.yaml. Runs keep the version they began with. It returns what it did; the
// error is for a folder or a store that cannot be reached. One at a time.
func (p *Project) Reload(ctx context.Context) (waybill.Reloaded, error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	r := waybill.Reloaded{Applied: []waybill.Applied{}, Retired: []string{}, Settings: []string{}, Restart: []string{}, Problems: []waybill.SourceProblem{}}
	if p.dir == "" {
		return r, waybill.E(waybill.KindConflict, "this server has no project folder").WithOp("reload project", "")
	}
	folder := os.DirFS(p.dir)
	if !isProject(folder) {
		// It is not there at the moment, or was named by mistake: nothing is retired.
		r.Problems = append(r.Problems, waybill.SourceProblem{File: p.dir, Msg: "the folder has neither waybill.yaml nor pipelines; everything stays as it was"})
		p.note(ctx, r)
		return r, nil
	}
	c, err := Read(folder, p.o.Parse)
	var problems pipeline.Problems
	if err := collect(&problems, err); err != nil {
		return r, err
	}
	broken := map[string]bool{}
	for _, x := range problems {
		broken[x.File] = true
		r.Problems = append(r.Problems, waybill.SourceProblem{File: x.File, Line: x.Line, Column: x.Column, Msg: x.Msg, Hint: x.Hint})
	}
	// Definitions of a file that is read but names a pipeline of another are in neither.
	for _, plan := range c.Plans {
		got, fresh, err := p.apply(ctx, plan, originFolder, waybill.Principal{Name: "folder"})
		if err != nil {
			return r, fmt.Errorf("pipeline %s: %w", plan.Name, err)
		}
		if fresh {
			r.Applied = append(r.Applied, waybill.Applied{Name: got.Name, Version: got.Version})
			p.log.Info("pipeline taken up", "pipeline", got.Name, "version", got.Version, "file", plan.File)
		}
	}
	// Without the list of files, nothing can be said to be gone.
	if !broken["pipelines"] {
		if r.Retired, err = p.retire(ctx, c.Plans, broken); err != nil {
			return r, err
		}
	}
	if !broken[settingsFile] {
		p.takeSettings(c.Settings, &r)
	}
	p.note(ctx, r)
	p.mu.Lock()
	p.seen = p.seen.Add(-refreshEvery) // what was applied is to be seen at once
	p.mu.Unlock()
	return r, p.refresh(ctx)
}

// takeSettings takes the settings that can change, and says which others did.
func (p *Project) takeSettings(next Settings, r *waybill.Reloaded) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.set
	old, fresh := now.values(), next.values()
	for _, path := range sortedKeys(fresh) {
		if reflect.DeepEqual(old[path], fresh[path]) {
			continue
		}
		if slices.ContainsFunc(live, func(l string) bool { return l == path || strings.HasSuffix(l, ".") && strings.HasPrefix(path, l) }) {
			r.Settings = append(r.Settings, path)
		} else {
			r.Restart = append(r.Restart, path)
		}
	}
	now.Name, now.HTTP, now.Retention, now.Auth = next.Name, next.HTTP, next.Retention, next.Auth
	now.Providers, now.Polling, now.Ingest, now.Alerts = next.Providers, next.Polling, next.Ingest, next.Alerts
	p.set = now
	if len(r.Settings) > 0 {
		p.log.Info("settings taken up", "settings", r.Settings)
	}
}

// values are the settings by their paths.
func (s *Settings) values() map[string]any {
	out := map[string]any{"notify": s.Notify, "buckets": s.Buckets, "sources": s.Sources, "auth.oidc": s.Auth.OIDC, "deliveries.providers": s.Providers, "deliveries.ingest": s.Ingest, "deliveries.manifests": s.Manifests}
	for path, field := range s.fields() {
		if v := reflect.ValueOf(field); v.Kind() == reflect.Pointer {
			out[path] = v.Elem().Interface()
		}
	}
	return out
}

func sortedKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// note keeps what a reload found wrong, logs and records it, once for as long as it is
// the same.
func (p *Project) note(ctx context.Context, r waybill.Reloaded) {
	p.mu.Lock()
	same := slices.Equal(p.wrong, r.Problems) && slices.Equal(p.restart, r.Restart)
	mended := len(p.wrong) > 0 && len(r.Problems) == 0
	p.wrong, p.restart = r.Problems, r.Restart
	p.mu.Unlock()
	changed := len(r.Applied)+len(r.Retired)+len(r.Settings) > 0
	if same && !changed {
		return
	}
	if !same {
		for _, x := range r.Problems {
			p.log.Error("project file with a mistake; what it held before stays", "file", x.File, "line", x.Line, "column", x.Column, "problem", x.Msg, "hint", x.Hint)
		}
		if mended {
			p.log.Info("no mistakes in the project folder any more")
		}
		if len(r.Restart) > 0 {
			p.log.Warn("settings changed that need a restart", "settings", r.Restart)
		}
	}
	short := r
	short.Problems = r.Problems[:min(len(r.Problems), 20)]
	data, err := json.Marshal(short)
	if err == nil {
		err = p.store.Commit(ctx, &store.Commit{Events: []store.Event{{Subject: "project", Kind: "project.reloaded", At: p.store.Now().UTC(), Data: data}}})
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		p.log.Warn("reload not recorded", "err", err)
	}
}

// Trouble returns what was wrong in the folder when it was last read, and which changed
// settings wait for a restart.
func (p *Project) Trouble() (problems []waybill.SourceProblem, restart []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.wrong), slices.Clone(p.restart)
}

// trouble is what is wrong with a file, in a line; p.mu is not held.
func (p *Project) trouble(file string) string {
	if file == "" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	first, n := "", 0
	for _, x := range p.wrong {
		if x.File == file {
			if n++; n == 1 {
				first = fmt.Sprintf("%s:%d:%d: %s", x.File, x.Line, x.Column, x.Msg)
			}
		}
	}
	if n > 1 {
		first += fmt.Sprintf(" (and %d more)", n-1)
	}
	return first
}
