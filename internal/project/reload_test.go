package project_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/store"
)

func put(t *testing.T, dir string, files ...string) {
	t.Helper()
	for i := 0; i+1 < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(files[i+1]), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func definitionOf(name, word string) string {
	return "name: " + name + "\non: {http: {}}\nsteps: [{name: a, run: [echo, " + word + "]}]\n"
}

func version(t *testing.T, p *project.Project, name string) int {
	t.Helper()
	plan, v, err := p.Plan(t.Context(), name, 0)
	if err != nil {
		return -1
	}
	if plan.Name != name {
		t.Errorf("asked for %s, got %s", name, plan.Name)
	}
	return v
}

func TestReload(t *testing.T) {
	t.Parallel()
	st, _ := newStore(t)
	dir := folder(t, "pipelines/a.yaml", definitionOf("a", "one"), "pipelines/b.yaml", definitionOf("b", "one"), "waybill.yaml", "name: first\n")
	p, err := project.Open(t.Context(), st, dir, project.Options{})
	if err != nil {
		t.Fatal(err)
	}
	reload := func() waybill.Reloaded {
		t.Helper()
		r, err := p.Reload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := reload(); len(r.Applied)+len(r.Retired)+len(r.Problems)+len(r.Settings)+len(r.Restart) != 0 {
		t.Errorf("nothing has changed, and yet: %+v", r)
	}

	put(t, dir, "pipelines/a.yaml", definitionOf("a", "two"), "pipelines/c.yaml", definitionOf("c", "one"))
	if d := cmp.Diff([]waybill.Applied{{Name: "a", Version: 2}, {Name: "c", Version: 1}}, reload().Applied); d != "" {
		t.Errorf("applied (-want +got):\n%s", d)
	}
	if version(t, p, "a") != 2 || version(t, p, "c") != 1 {
		t.Error("what was applied is not seen at once")
	}
	if plan, _, err := p.Plan(t.Context(), "a", 1); err != nil || plan == nil {
		t.Errorf("version 1, which runs may have begun with: %v", err)
	}

	// A file with a mistake changes nothing of its pipeline, and nothing keeps the others.
	put(t, dir, "pipelines/a.yaml", strings.Replace(definitionOf("a", "three"), "steps", "setps", 1), "pipelines/b.yaml", definitionOf("b", "two"))
	r := reload()
	if len(r.Problems) != 2 || r.Problems[0].File != "pipelines/a.yaml" || r.Problems[1].Line != 3 || !strings.Contains(r.Problems[1].Hint, "steps") {
		t.Errorf("problems: %+v", r.Problems)
	}
	if version(t, p, "a") != 2 || version(t, p, "b") != 2 || len(r.Retired) != 0 {
		t.Errorf("after a mistake in a: a has version %d, b %d, retired %v", version(t, p, "a"), version(t, p, "b"), r.Retired)
	}
	page, err := p.Pipelines(t.Context(), 10, "")
	if err != nil || !strings.Contains(page.Items[0].Problem, "pipelines/a.yaml:1:1") || !strings.Contains(page.Items[0].Problem, "1 more") || page.Items[1].Problem != "" {
		t.Errorf("list: %v %+v", err, page.Items)
	}
	if problems, _ := p.Trouble(); len(problems) != 2 {
		t.Errorf("trouble: %v", problems)
	}
	// So does one that is no YAML at all.
	put(t, dir, "pipelines/a.yaml", "\x00{{{")
	if r := reload(); len(r.Problems) == 0 || len(r.Retired) != 0 || version(t, p, "a") != 2 {
		t.Errorf("after garbage: %+v, a has version %d", r, version(t, p, "a"))
	}

	if err := os.Remove(filepath.Join(dir, "pipelines/a.yaml")); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a"}, reload().Retired); d != "" || version(t, p, "a") != -1 {
		t.Errorf("retired (-want +got):\n%s", d)
	}
	put(t, dir, "pipelines/a.yaml", definitionOf("a", "two"))
	if reload(); version(t, p, "a") != 2 {
		t.Errorf("a came back as version %d", version(t, p, "a"))
	}

	put(t, dir, "waybill.yaml", "name: second\nhttp: {deny: [all]}\nunits: {max: 5}\nretention: {runs: 2d}\n")
	r = reload()
	if d := cmp.Diff([]string{"http.deny", "name", "retention.runs"}, r.Settings); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"units.max"}, r.Restart); d != "" {
		t.Errorf("restart (-want +got):\n%s", d)
	}
	if s := p.Settings(); s.Name != "second" || s.HTTP.Deny[0] != "all" || s.Units.Max != 16 {
		t.Errorf("settings now: %+v", s)
	}
	put(t, dir, "waybill.yaml", "name: third\nunits: {max: none}\n")
	if r = reload(); len(r.Problems) != 1 || p.Settings().Name != "second" {
		t.Errorf("settings with a mistake: %+v, name %s", r, p.Settings().Name)
	}

	// The whole folder is gone, as when a disk is not there: nothing is retired.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if r = reload(); len(r.Retired) != 0 || len(r.Problems) != 1 || version(t, p, "a") != 2 {
		t.Errorf("without the folder: %+v", r)
	}
	recorded(t, st)
}

// recorded fails unless reloads are in the event log.
func recorded(t *testing.T, st store.Store) {
	t.Helper()
	events, err := st.Tail(t.Context(), "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Kind == "project.reloaded" && e.Subject == "project" {
			n++
		}
	}
	if n < 6 {
		t.Errorf("%d reloads are recorded", n)
	}
}

func TestReloadWithoutFolder(t *testing.T) {
	t.Parallel()
	st, _ := newStore(t)
	p, err := project.Open(t.Context(), st, "", project.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Reload(t.Context()); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("reload without a folder: %v", err)
	}
}

// A change is taken up by itself: told of by the file system, or asked for.
func TestWatch(t *testing.T) {
	t.Parallel()
	st, _ := newStore(t)
	dir := folder(t, "pipelines/a.yaml", definitionOf("a", "one"))
	p, err := project.Open(t.Context(), st, dir, project.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done, again, ended := make(chan waybill.Reloaded, 10), make(chan struct{}), make(chan struct{})
	go func() {
		p.Watch(ctx, again, func(r waybill.Reloaded, err error) {
			if err != nil {
				t.Error(err)
			}
			done <- r
		})
		close(ended)
	}()
	next := func() waybill.Reloaded {
		t.Helper()
		select {
		case r := <-done:
			return r
		case <-time.After(20 * time.Second):
			t.Fatal("nothing was reloaded")
			return waybill.Reloaded{}
		}
	}
	put(t, dir, "pipelines/a.yaml", definitionOf("a", "another"))
	if r := next(); len(r.Applied) != 1 || r.Applied[0].Version != 2 {
		t.Errorf("after a change: %+v", r)
	}
	again <- struct{}{}
	if r := next(); len(r.Applied) != 0 {
		t.Errorf("asked again: %+v", r)
	}
	// A folder that takes the place of the old one is watched too.
	if err := os.Rename(filepath.Join(dir, "pipelines"), filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "pipelines/a.yaml", definitionOf("a", "a third one"))
	for r := next(); len(r.Applied) == 0; r = next() { // it may have been gone for a moment
	}
	if v := version(t, p, "a"); v != 3 {
		t.Errorf("a has version %d", v)
	}
	stop()
	<-ended
}
