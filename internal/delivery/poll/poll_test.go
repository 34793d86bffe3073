package poll

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/azuredevops"
	"github.com/waybill-run/waybill/internal/delivery/provider/github"
	"github.com/waybill-run/waybill/internal/delivery/provider/gitlab"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

type report = waybill.DeliveryReport

var (
	noon   = providertest.Noon
	digest = providertest.Digest
)

// bench is a poller before servers that answer as providers do.
type bench struct {
	t   *testing.T
	st  store.Store
	d   *delivery.Service
	p   *Poller
	s   *session
	mu  sync.Mutex
	now time.Time

	conf  Config
	hosts map[string]string // by source
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, now: noon.Add(time.Hour), hosts: map[string]string{}, conf: Config{Interval: 30 * time.Second}}
	var err error
	schema := append(append(delivery.Tables(), Tables()...), queue.Tables()...)
	if b.st, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), schema, sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.st.Close() })
	b.d = delivery.New(delivery.Options{Store: b.st, Now: b.clock})
	return b
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) wait(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// source adds a provider with a world.
func (b *bench) source(name, kind string, w *providertest.World, change ...func(*Source)) {
	b.t.Helper()
	serve := map[string]func(*providertest.World) http.Handler{
		provider.GitHub: providertest.GitHub, provider.GitLab: providertest.GitLab, provider.AzureDevOps: providertest.AzureDevOps,
	}[kind]
	srv := httptest.NewServer(serve(w))
	b.t.Cleanup(srv.Close)
	b.t.Cleanup(srv.CloseClientConnections)
	u, err := url.Parse(srv.URL)
	if err != nil {
		b.t.Fatal(err)
	}
	b.hosts[name] = srv.URL
	src := Source{Name: name, Kind: kind, URL: u, Token: w.Token}
	for _, f := range change {
		f(&src)
	}
	b.conf.Sources = append(b.conf.Sources, src)
}

// start makes the poller.
func (b *bench) start() *bench {
	b.p = New(Options{Store: b.st, Deliveries: b.d, Now: b.clock, Config: b.conf, Node: "test", New: func(s Source) (provider.Provider, error) {
		o := provider.Options{Name: s.Name, API: s.API, Now: b.clock, Timeout: 5 * time.Second, Token: func(context.Context) (string, error) { return s.Token, nil }}
		switch s.Kind {
		case provider.GitHub:
			return github.New(s.URL, o), nil
		case provider.GitLab:
			return gitlab.New(s.URL, o), nil
		}
		return azuredevops.New(s.URL, s.Project, o), nil
	}})
	b.s = newSession(b.p)
	return b
}

// round polls once, an interval after the last.
func (b *bench) round() {
	b.t.Helper()
	b.wait(b.p.conf.Interval)
	if err := b.s.round(b.t.Context(), b.p.conf); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) tell(list ...report) {
	b.t.Helper()
	for _, r := range list {
		if _, err := b.d.Report(b.t.Context(), r, waybill.Principal{Name: "ci"}); err != nil {
			b.t.Fatalf("%+v: %v", r, err)
		}
	}
}

func (b *bench) rows() map[string]waybill.Deployment {
	b.t.Helper()
	out := map[string]waybill.Deployment{}
	page, err := b.d.Deployments(b.t.Context(), waybill.DeploymentFilter{Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, d := range page.Items {
		out[d.ImageTag+d.Ring] = d
	}
	return out
}

func (b *bench) events() int64 {
	n, err := b.d.LastEvent(b.t.Context(), delivery.DefaultPartition)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *bench) look(name string) waybill.DeliveryProvider {
	b.t.Helper()
	list, err := b.p.DeliveryProviders(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	b.t.Fatalf("no source %s in %+v", name, list)
	return waybill.DeliveryProvider{}
}

// github is a world of GitHub with a service app, and a source "hub" of it.
func (b *bench) github() *providertest.World {
	w := providertest.NewWorld("acme/app")
	w.Token = "t0ken"
	b.source("hub", provider.GitHub, w)
	return w
}

// deliver tells of an image n in w, and of the ring dev taking it.
func (b *bench) deliver(host string, w *providertest.World, n int, status string) {
	repo := host + "/" + w.Repo
	b.tell(
		report{Kind: waybill.ReportBuild, Time: b.clock(), Run: fmt.Sprint(1000 + n), ImageTag: fmt.Sprint("app:", n), Service: "app", Commit: digest(fmt.Sprint("c", n))[:7], SourceRepo: repo},
		report{Kind: waybill.ReportConfig, Time: b.clock(), Run: fmt.Sprint(2000 + n), ImageTag: fmt.Sprint("app:", n), Ring: "dev", ConfigCommit: digest(fmt.Sprint("h", n))[:7], ConfigRepo: repo, PullRequest: fmt.Sprint(n)},
	)
	if status == "complete" {
		b.tell(report{Kind: waybill.ReportManifest, Time: b.clock(), Run: fmt.Sprint(3000 + n), ConfigCommit: digest(fmt.Sprint("h", n))[:7], ConfigRepo: repo, ManifestRepo: repo, ManifestCommit: digest(fmt.Sprint("m", n))})
	}
	w.Change(func(w *providertest.World) {
		for _, id := range []int{1000, 2000, 3000} {
			key := fmt.Sprint(id + n)
			w.Runs[key] = providertest.Run{ID: key, Number: fmt.Sprint(n), State: "completed", Result: "success", Branch: "main", Commit: digest(fmt.Sprint("c", n)), Queued: noon, Started: noon, Finished: noon.Add(time.Minute)}
		}
		w.Commits = append(w.Commits, providertest.Commit{SHA: digest(fmt.Sprint("c", n)), Name: "Ada Byron", Email: "ada@example.com", Login: "ada", At: noon.Add(-time.Hour)})
		w.Pulls[n] = providertest.Pull{Number: n, Title: fmt.Sprint("Take app ", n), Source: "deploy", Target: "main", State: "merged", By: "bob", Merge: digest(fmt.Sprint("h", n)), Created: noon, Ended: noon}
	})
}

// calls counts the calls whose path holds a text.
func calls(w *providertest.World, part string) (n int) {
	for _, c := range w.Calls() {
		if strings.Contains(c, part) {
			n++
		}
	}
	return n
}

// A run that its provider has deleted stays as it was told of last.
func TestF25_RetentionOfProvider(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	b.deliver(b.hosts["hub"], w, 1, "complete")
	b.tell(report{Kind: waybill.ReportRun, Time: noon, Stage: waybill.StageBuild, Run: "1001", Status: waybill.StatusSucceeded, URL: "https://ci.example.com/1001"})
	w.Change(func(w *providertest.World) { delete(w.Runs, "1001") })
	b.round()
	b.round()
	d := b.rows()["app:1dev"]
	if r := d.Build.Last(); !r.Expired || r.Status != waybill.StatusSucceeded || d.Status != waybill.DeploymentComplete {
		t.Errorf("build: %+v", r)
	}
	if r := d.Manifest.Last(); r.Expired || r.Number != "1" || r.FinishedAt.IsZero() {
		t.Errorf("manifest: %+v", r)
	}
	w.Forget()
	b.round()
	if calls(w, "/actions/") != 0 {
		t.Errorf("what has expired is asked for again: %q", w.Calls())
	}
	// One that was known is looked for again, now and then.
	w.Change(func(w *providertest.World) { delete(w.Runs, "3001") })
	for range 8 {
		b.wait(again)
		b.round()
	}
	if r := b.rows()["app:1dev"].Manifest.Last(); !r.Expired || r.Status != waybill.StatusSucceeded {
		t.Errorf("manifest, later: %+v", r)
	}
	// A run that was told of a moment ago is on its way, not gone.
	b.tell(report{Kind: waybill.ReportBuild, Time: b.clock(), Run: "1999", ImageTag: "app:9", Service: "app", Commit: "c0ffee99", SourceRepo: b.hosts["hub"] + "/acme/app"})
	b.round()
	if r := b.rows()["app:9"].Build.Last(); r.Expired {
		t.Errorf("%+v", r)
	}
	// A repository that is not shown proves nothing either.
	b.wait(time.Hour)
	w.Change(func(w *providertest.World) { w.Hidden = true })
	b.wait(11 * time.Minute)
	b.round()
	if r := b.rows()["app:9"].Build.Last(); r.Expired {
		t.Errorf("%+v", r)
	}
	if s := b.look("hub"); s.Status != waybill.ProviderPartly || !strings.Contains(strings.Join(s.Notes, " "), "deliveries.providers.hub.token") {
		t.Errorf("%+v", s)
	}
}

func TestF58_Delta(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	for n := 1; n <= 3; n++ {
		b.deliver(b.hosts["hub"], w, n, "complete")
	}
	w.Change(func(w *providertest.World) { p := w.Pulls[3]; p.State = "open"; w.Pulls[3] = p })
	b.round()
	for _, d := range b.rows() {
		if d.Author == nil || d.Author.Name != "Ada Byron" || d.Author.Username != "ada" || d.Author.Image == "" {
			t.Errorf("%s: author %+v", d.ImageTag, d.Author)
		}
		if d.Review == nil || d.Review.Title == "" || d.Review.SourceBranch != "deploy" || d.Review.URL == "" || (d.ImageTag == "app:3") != (d.Review.State == waybill.ReviewOpen) || d.Review.State == waybill.ReviewMerged && d.Review.Merger == nil {
			t.Errorf("%s: %+v", d.ImageTag, d.Review)
		}
	}
	b.round() // what the first round learned is in the rows now
	w.Forget()
	b.tell(report{Kind: waybill.ReportRun, Time: b.clock(), Stage: waybill.StageManifest, Run: "3002", Status: waybill.StatusSucceeded, URL: "https://ci.example.com"})
	before := b.events()
	b.round()
	if n := calls(w, "/commits/"); n != 0 {
		t.Errorf("%d calls for authors that are known: %q", n, w.Calls())
	}
	if n, all := calls(w, "/pulls/3"), calls(w, "/pulls/"); n != 1 || all != 1 {
		t.Errorf("%d calls for pull requests, %d for the open one", all, n)
	}
	if n := b.events(); n != before {
		t.Errorf("%d events although nothing has changed", n-before)
	}
	w.Change(func(w *providertest.World) { p := w.Pulls[3]; p.State = "merged"; w.Pulls[3] = p })
	b.round()
	if d := b.rows()["app:3dev"]; d.Review.State != waybill.ReviewMerged || d.Review.MergedBy != "bob" {
		t.Errorf("%+v", d.Review)
	}
	w.Forget()
	b.round()
	if n := calls(w, "/pulls/"); n != 0 {
		t.Errorf("%d calls for what is merged", n)
	}
}

// Tags that move are seen though all deployments are complete, also those that move back.
func TestF59_ClusterRefresh(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	b.deliver(b.hosts["hub"], w, 1, "complete")
	b.deliver(b.hosts["hub"], w, 2, "complete")
	tag := func(n int) {
		w.Change(func(w *providertest.World) {
			w.Tags = []providertest.Tag{{Name: "flux-west", Commit: digest(fmt.Sprint("m", n)), Tagger: "Flux", Message: "Sync pointer", At: noon.Add(time.Duration(n) * time.Second)}}
		})
	}
	at := func(n int) bool {
		d := b.rows()[fmt.Sprintf("app:%ddev", n)]
		for _, c := range d.Clusters {
			if c.Cluster == "WEST" && c.State == waybill.ClusterApplied {
				return true
			}
		}
		return false
	}
	tag(1)
	b.round()
	if d := b.rows()["app:1dev"]; d.Status != waybill.DeploymentComplete || !at(1) || at(2) {
		t.Errorf("%+v", d.Clusters)
	}
	tag(2)
	b.round()
	if !at(2) {
		t.Errorf("the tag has moved: %+v", b.rows()["app:2dev"].Clusters)
	}
	before := b.events()
	b.round()
	b.s = newSession(b.p) // as after a restart
	b.round()
	if n := b.events(); n != before {
		t.Errorf("%d events for tags that are where they were", n-before)
	}
	tag(1)
	b.round()
	if !at(1) {
		t.Errorf("the tag has moved back: %+v", b.rows()["app:1dev"].Clusters)
	}
	w.Change(func(w *providertest.World) {
		w.Tags = append(w.Tags, providertest.Tag{Name: "flux-light", Commit: digest("m1"), Lightweight: true}, providertest.Tag{Name: "v1", Commit: digest("m1"), At: noon})
	})
	b.round()
	if d := b.rows()["app:1dev"]; len(d.Clusters) != 1 {
		t.Errorf("lightweight and other tags are no clusters: %+v", d.Clusters)
	}
}

// Whoever reads meanwhile never sees less than before; when the provider is away, what
// was known stays, and it is said how old it is.
func TestF60_ConsistentSnapshots(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	for n := 1; n <= 5; n++ {
		b.deliver(b.hosts["hub"], w, n, "complete")
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			had := map[string]bool{}
			for ctx.Err() == nil {
				page, err := b.d.Deployments(ctx, waybill.DeploymentFilter{})
				if err != nil {
					return
				}
				for _, d := range page.Items {
					if had[d.ID] && d.Author == nil {
						t.Errorf("deployment %s has lost its author", d.ID)
					}
					had[d.ID] = had[d.ID] || d.Author != nil
				}
				if _, err := b.p.DeliveryProviders(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 6 {
		if n == 3 {
			w.Break("/commits/", providertest.Fault{Status: 500})
		}
		b.deliver(b.hosts["hub"], w, 10+n, "complete")
		b.round()
	}
	stop()
	readers.Wait()
	if s := b.look("hub"); s.Status != waybill.ProviderPartly || s.Stale || !strings.HasPrefix(s.Notes[0], "authors: ") {
		t.Errorf("authors cannot be had: %+v", s)
	}
	w.Break("/commits/", providertest.Fault{})
	b.round()
	before := b.rows()
	if s := b.look("hub"); s.Status != waybill.ProviderOK || s.Stale || s.Age > 1 || s.Calls == 0 || s.Tags != 0 || s.Node != "test" {
		t.Errorf("all is well: %+v", s)
	}
	b.wait(61 * time.Second)
	if s := b.look("hub"); s.Stale {
		t.Errorf("a round that is due: %+v", s)
	}
	w.Break("", providertest.Fault{Cut: true})
	b.deliver(b.hosts["hub"], w, 30, "")
	b.round()
	s := b.look("hub")
	if s.Status != waybill.ProviderFailing || !s.Stale || s.Age < 61 || s.Error == "" || s.Calls > 2 {
		t.Errorf("the provider is away: %+v", s)
	}
	after := b.rows()
	for k, d := range before {
		if x := after[k]; x.Author == nil || x.Build.Last().Number != d.Build.Last().Number || x.Status != d.Status {
			t.Errorf("%s was %+v, is %+v", k, d, after[k])
		}
	}
	// It is asked less often while it is away, and again when it is back.
	w.Forget()
	for range 20 {
		b.round()
	}
	if n := len(w.Calls()); n > 12 {
		t.Errorf("%d calls in ten minutes to a provider that is away", n)
	}
	w.Break("", providertest.Fault{})
	b.wait(longest)
	b.round()
	if s := b.look("hub"); s.Status != waybill.ProviderOK || s.Stale || b.rows()["app:30dev"].Author == nil {
		t.Errorf("it is back: %+v", s)
	}
}

func TestF61_CallBudget(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.conf.Calls = 100
	b.start()
	var tellers sync.WaitGroup // those who report together are written together
	for part := range 25 {
		tellers.Go(func() {
			for n := part*20 + 1; n <= part*20+20; n++ {
				b.deliver(b.hosts["hub"], w, n, "complete")
			}
		})
	}
	tellers.Wait()
	w.Change(func(w *providertest.World) {
		w.Tags = []providertest.Tag{{Name: "flux-west", Commit: digest("m500"), Tagger: "Flux", At: noon}}
	})
	rounds := 0
	for ; rounds < 60; rounds++ {
		w.Forget()
		b.round()
		if n := len(w.Calls()); n > 101 {
			t.Fatalf("%d calls in one interval, 100 are allowed", n)
		} else if n <= 2 {
			break
		}
	}
	for _, d := range b.rows() {
		if d.Author == nil || d.Review.State != waybill.ReviewMerged || d.Build.Last().FinishedAt.IsZero() || d.Manifest.Last().Number == "" || d.Status != waybill.DeploymentComplete {
			t.Fatalf("after %d rounds: %+v", rounds, d)
		}
	}
	before := b.events()
	for range 5 {
		w.Forget()
		b.round()
		if n := len(w.Calls()); n > 5 {
			t.Errorf("%d calls for 500 complete deployments: %q", n, w.Calls())
		}
	}
	b.wait(again + time.Hour) // when what ended is looked for again
	for range 5 {
		w.Forget()
		b.round()
		if n := len(w.Calls()); n > 5 {
			t.Errorf("%d calls, later: %q", n, w.Calls())
		}
	}
	if n := b.events(); n != before {
		t.Errorf("%d events although nothing has changed", n-before)
	}
	b.s = newSession(b.p)
	w.Forget()
	b.round()
	if n := len(w.Calls()); n > 5 {
		t.Errorf("%d calls after a restart: %q", n, w.Calls())
	}
}

func TestF62_ManyProvidersAndRepositories(t *testing.T) {
	b := newBench(t)
	hub, lab, az := b.github(), providertest.NewWorld("group/sub/shop"), providertest.NewWorld("acme/web/site")
	lab.Token, az.Token = "glpat", "pat"
	b.source("lab", provider.GitLab, lab)
	b.source("azdo", provider.AzureDevOps, az)
	b.start()
	add := func(service, repo string, w *providertest.World, run, sha, login string, r providertest.Run) {
		r.ID, r.Number, r.Branch, r.Commit, r.Queued, r.Started, r.Finished = run, run, "main", sha, noon, noon, noon.Add(time.Minute)
		w.Runs[run] = r
		w.Commits = append(w.Commits, providertest.Commit{SHA: sha, Name: login, Email: login + "@example.com", Login: login, At: noon})
		b.tell(report{Kind: waybill.ReportBuild, Time: noon, Run: run, ImageTag: service + ":1", Service: service, Commit: sha[:7], SourceRepo: repo})
	}
	// Two of them give the same number to their runs.
	add("app", b.hosts["hub"]+"/acme/app.git", hub, "77", digest("a"), "ada", providertest.Run{State: "completed", Result: "failure"})
	add("shop", strings.Replace(b.hosts["lab"], "http://", "http://oauth2:x@", 1)+"/group/sub/shop.git", lab, "77", digest("b"), "bob", providertest.Run{State: "success"})
	add("site", b.hosts["azdo"]+"/acme/web/_git/site", az, "78", digest("c"), "cleo", providertest.Run{State: "completed", Result: "canceled"})
	b.round()
	rows := b.rows()
	for tag, want := range map[string]struct {
		status waybill.Outcome
		page   string
		author string
	}{
		"app:1":  {waybill.StatusFailed, "/acme/app/actions/runs/77", "ada"},
		"shop:1": {waybill.StatusSucceeded, "/group/sub/shop/-/pipelines/77", "bob"},
		"site:1": {waybill.StatusCanceled, "/acme/web/_build/results?buildId=78", "cleo"},
	} {
		d := rows[tag]
		if d.Build.Status != want.status || !strings.HasSuffix(d.Build.Last().URL, want.page) || d.Author == nil || d.Author.Name != want.author {
			t.Errorf("%s: %s %s %+v", tag, d.Build.Status, d.Build.Last().URL, d.Author)
		}
	}
	for _, name := range []string{"hub", "lab", "azdo"} {
		if s := b.look(name); s.Status != waybill.ProviderOK || s.Rows != 1 {
			t.Errorf("%+v", s)
		}
	}
	// A repository that is named goes to its provider whatever its host is.
	b.conf.Sources[0].Repositories = []string{"https://mirror.example.com/acme/app", "other/*"}
	r := newResolver(b.conf)
	for text, want := range map[string]string{
		"https://mirror.example.com/acme/app.git": "hub", "git@mirror.example.com:acme/app": "hub", "other/thing": "hub", b.hosts["hub"] + "/acme/else": "",
		b.hosts["lab"] + "/x/y": "lab", "12345": "lab", "https://nowhere.example.com/x/y": "",
	} {
		got := ""
		if p := r.repo("default", text); p != nil {
			got = p.src.Name
		}
		if got != want {
			t.Errorf("%s is asked of %q, want %q", text, got, want)
		}
	}
}

// Rows of an older store, which hold nothing but numbers and name no repository, get their
// state, authors and clusters.
func TestF65_LegacyRows(t *testing.T) {
	b := newBench(t)
	az, hub := providertest.NewWorld("acme/shop/hld"), providertest.NewWorld("edaena/spartan-app")
	b.source("azdo", provider.AzureDevOps, az, func(s *Source) { s.Project = "acme/shop"; s.ConfigRepo = s.URL.String() + "/acme/shop/_git/hld" })
	b.source("hub", provider.GitHub, hub, func(s *Source) {
		s.Repositories = []string{"https://github.com/edaena/*"}
		s.ManifestRepo = "https://github.com/edaena/spartan-app"
	})
	b.start()
	build := func(id, result string, stages ...string) {
		az.Runs[id] = providertest.Run{ID: id, Number: "20191030." + id, State: "completed", Result: result, Branch: "master", Commit: digest(id), SourceRepo: "edaena/spartan-app", Stages: stages, Queued: noon, Started: noon, Finished: noon.Add(time.Minute)}
	}
	build("7176", "succeeded")
	build("6676", "failed", "succeeded", "failed")
	build("7200", "succeeded")
	az.Runs["264"] = providertest.Run{ID: "264", Release: true, Number: "Release-211", State: "failed", Environment: "Dev", Queued: noon, Started: noon, Finished: noon.Add(time.Minute)}
	hub.Commits = []providertest.Commit{{SHA: digest("7176"), Name: "Edaena Salinas", Login: "edaena", At: noon}}
	hub.Tags = []providertest.Tag{{Name: "flux-east-us", Commit: digest("m1"), Tagger: "Flux", At: noon}}
	b.tell(
		report{Kind: waybill.ReportBuild, Run: "7176", ImageTag: "app:1", Service: "app", Commit: digest("7176")[:7]},
		report{Kind: waybill.ReportConfig, Run: "264", ImageTag: "app:1", Ring: "dev", ConfigCommit: "aaaaaaa"},
		report{Kind: waybill.ReportBuild, Run: "6676", ImageTag: "app:2", Service: "app", Commit: "bbbbbbb"},
		report{Kind: waybill.ReportConfig, Run: "6676", ImageTag: "app:2", Ring: "dev", ConfigCommit: "ccccccc"},
		report{Kind: waybill.ReportManifest, Run: "7200", ConfigCommit: "ddddddd", ManifestCommit: digest("m1")},
		report{Kind: waybill.ReportConfig, ImageTag: "app:1", Ring: "prod", ConfigCommit: "ddddddd"},
	)
	b.wait(time.Hour)
	b.round()
	b.round()
	rows := b.rows()
	d := rows["app:1dev"]
	if d.Build.Status != waybill.StatusSucceeded || d.Config.Status != waybill.StatusFailed || d.Config.Last().Number != "Release-211" || d.Status != waybill.DeploymentFailed {
		t.Errorf("a release that failed: %+v %+v %s", d.Build, d.Config, d.Status)
	}
	if d.SourceRepo != "https://github.com/edaena/spartan-app" || d.Author == nil || d.Author.Name != "Edaena Salinas" {
		t.Errorf("the repository that the build tells of: %q, %+v", d.SourceRepo, d.Author)
	}
	d = rows["app:2dev"]
	if d.Build.Status != waybill.StatusSucceeded || d.Config.Status != waybill.StatusFailed || d.Status != waybill.DeploymentFailed {
		t.Errorf("a run of two stages: %s %s %s", d.Build.Status, d.Config.Status, d.Status)
	}
	d = rows["app:1prod"]
	if d.Manifest.Status != waybill.StatusSucceeded || len(d.Clusters) != 1 || d.Clusters[0].Cluster != "EAST-US" {
		t.Errorf("clusters: %+v, manifest %+v", d.Clusters, d.Manifest)
	}
}

// A token that has expired is said plainly; a new one is taken up without a restart.
func TestExpiredTokenAndReload(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	b.deliver(b.hosts["hub"], w, 1, "complete")
	w.Change(func(w *providertest.World) { w.Token = "n3w" })
	b.round()
	s := b.look("hub")
	if s.Status != waybill.ProviderFailing || !s.Stale || s.Age != -1 || !strings.Contains(s.Error, "deliveries.providers.hub.token") || strings.Contains(s.Error, "t0ken") || s.Calls != 1 {
		t.Errorf("%+v", s)
	}
	next := b.conf
	next.Sources[0].Token = "n3w"
	b.p.Set(next)
	b.s.due = map[string]time.Time{} // as its pause has ended
	b.round()
	if s := b.look("hub"); s.Status != waybill.ProviderOK || b.rows()["app:1dev"].Author == nil {
		t.Errorf("%+v", s)
	}
}

// Rate limits are kept to, and said.
func TestRateLimit(t *testing.T) {
	b := newBench(t)
	w := providertest.NewWorld("group/app")
	b.source("lab", provider.GitLab, w)
	b.start()
	b.deliver(b.hosts["lab"], w, 1, "complete")
	w.Break("", providertest.Fault{Status: 429, Header: map[string]string{"Retry-After": "300"}, Times: 1})
	b.round()
	s := b.look("lab")
	if s.Status != waybill.ProviderLimited || s.LimitedUntil.IsZero() || s.Calls != 1 {
		t.Errorf("%+v", s)
	}
	w.Forget()
	for range 9 {
		b.round()
	}
	if n := len(w.Calls()); n != 0 {
		t.Errorf("%d calls although none are wanted", n)
	}
	b.round()
	b.round()
	if s := b.look("lab"); s.Status != waybill.ProviderOK || len(w.Calls()) == 0 {
		t.Errorf("%+v", s)
	}
}

// Pull requests of the three, as deployments show them.
func TestF68_PullRequestsInDeployments(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	b.deliver(b.hosts["hub"], w, 4, "")
	w.Change(func(w *providertest.World) {
		p := w.Pulls[4]
		p.State, p.Ended = "closed", noon
		w.Pulls[4] = p
	})
	b.round()
	if d := b.rows()["app:4dev"]; d.Status != waybill.DeploymentCanceled || d.Review.Title != "Take app 4" {
		t.Errorf("%s: %+v", d.Reason, d.Review)
	}
	w.Forget()
	b.round()
	if n := calls(w, "/pulls/"); n != 0 {
		t.Errorf("%d calls for what is closed", n)
	}
	b.wait(seldom)
	w.Change(func(w *providertest.World) {
		p := w.Pulls[4]
		p.State = "merged"
		p.Ended = noon.Add(time.Minute)
		w.Pulls[4] = p
	})
	b.round()
	if d := b.rows()["app:4dev"]; d.Review.State != waybill.ReviewMerged {
		t.Errorf("%+v", d.Review)
	}
}

// What fails beside runs leaves blanks and a note, and hinders nothing.
func TestF39_SideLookups(t *testing.T) {
	for _, part := range []string{"/commits/", "/pulls/", "/matching-refs/"} {
		b := newBench(t)
		w := b.github()
		b.start()
		for n := 1; n <= 6; n++ {
			b.deliver(b.hosts["hub"], w, n, "complete")
		}
		w.Break(part, providertest.Fault{Status: 500, Body: `{"message":"oops"}`})
		b.round()
		s := b.look("hub")
		if s.Status != waybill.ProviderPartly || len(s.Notes) != 1 || s.Error != "" || calls(w, part) > 2 {
			t.Errorf("%s: %+v, calls %q", part, s, w.Calls())
		}
		for _, d := range b.rows() {
			if d.Build.Last().Number == "" || (d.Author == nil) != (part == "/commits/") || (d.Review == nil) != (part == "/pulls/") {
				t.Errorf("%s: %+v", part, d)
			}
		}
	}
}

// Of two servers one polls; the other goes on when it stops.
func TestOneOfTwoServersPolls(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.conf.Interval = 20 * time.Millisecond
	b.start()
	b.deliver(b.hosts["hub"], w, 1, "complete")
	w.Change(func(w *providertest.World) {
		w.Tags = []providertest.Tag{{Name: "flux-ALASKA", Commit: digest("m1"), Tagger: "Flux", At: noon}}
	})
	servers := map[string]*queue.Worker{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var keepers sync.WaitGroup
	defer keepers.Wait()
	defer stop()
	for _, node := range []string{"one", "two"} {
		o := b.p.o
		o.Node, o.Lease, o.Now = node, time.Second, time.Now
		p := New(o)
		keepers.Go(func() { p.Keep(ctx) })
		wo := p.Worker()
		wo.Poll = 20 * time.Millisecond
		worker, err := queue.Start(ctx, wo)
		if err != nil {
			t.Fatal(err)
		}
		servers[node] = worker
	}
	holder := func(not string) (node string) {
		until(t, "a server other than "+not+" polls", func() bool {
			s, err := b.p.state(ctx, "hub")
			node = s.Node
			return err == nil && node != "" && node != not && s.Error == "" && !s.FreshAt.IsZero()
		})
		return node
	}
	first := holder("")
	servers[first].Stop()
	second := holder(first)
	if first == second {
		t.Errorf("%s has stopped and polls", first)
	}
	servers[second].Stop()
	if d := b.rows()["app:1dev"]; len(d.Clusters) != 1 || d.Clusters[0].Cluster != "ALASKA" || d.Author == nil {
		t.Errorf("%+v", d.Clusters)
	}
}

// A provider that never answers holds up no other, and settings that change count at once.
func TestF62_SlowProviderHoldsUpNoOther(t *testing.T) {
	b := newBench(t)
	hub, lab := b.github(), providertest.NewWorld("group/app")
	b.source("lab", provider.GitLab, lab)
	b.conf.Interval = 10 * time.Millisecond
	b.start()
	b.deliver(b.hosts["hub"], hub, 1, "complete")
	b.deliver(b.hosts["lab"], lab, 2, "complete")
	lab.Break("", providertest.Fault{Stall: true})
	o := b.p.o
	o.Now = time.Now
	p := New(o)
	ctx, stop := context.WithCancel(t.Context())
	var polls sync.WaitGroup
	polls.Go(func() { newSession(p).run(ctx) })
	defer polls.Wait()
	defer stop()
	until(t, "the stalled provider is asked", func() bool { return len(lab.Calls()) > 0 })
	for range 3 {
		hub.Forget()
		until(t, "the other one is asked meanwhile", func() bool { return len(hub.Calls()) > 0 })
	}
	if d := b.rows()["app:1dev"]; d.Author == nil {
		t.Errorf("%+v", d)
	}
	lab.Break("", providertest.Fault{})
	next := b.conf
	next.Sources = next.Sources[1:]
	p.Set(next) // what was on its way is given up, and the rest asked at once
	until(t, "the provider that stays", func() bool { return b.rows()["app:2dev"].Author != nil })
	if list, err := p.DeliveryProviders(t.Context()); err != nil || len(list) != 1 || list[0].Name != "lab" {
		t.Errorf("%+v, %v", list, err)
	}
}

// What sources told can be made again from events.
func TestRebuildAfterPolling(t *testing.T) {
	b := newBench(t)
	w := b.github()
	b.start()
	for n := 1; n <= 3; n++ {
		b.deliver(b.hosts["hub"], w, n, "complete")
	}
	b.round()
	r, err := b.d.Rebuild(t.Context(), delivery.DefaultPartition)
	if err != nil || r.Fixed != 0 || r.Events < 12 {
		t.Errorf("%+v, %v", r, err)
	}
}
