package gitlab_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/gitlab"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
)

var setup = providertest.Setup{
	Kind: provider.GitLab, Serve: providertest.GitLab, Repo: "group/sub/app", Path: "group/sub/app.git",
	New:       func(web *url.URL, o provider.Options) provider.Provider { return gitlab.New(web, o) },
	Succeeded: [2]string{"success"}, Failed: [2]string{"failed"}, Running: [2]string{"running"}, Queued: [2]string{"waiting_for_resource"}, CannotCount: true,
}

func TestProvider(t *testing.T) { providertest.Test(t, setup) }

// A private project on a server of one's own below a path, by its number and by its name.
func TestF67_GitLab(t *testing.T) {
	w := providertest.NewWorld("samiya/hello-world-full-stack")
	w.Token = "glpat-s3cr3t"
	w.Project = 21761957
	for _, id := range []string{"208859532", "208955061"} {
		w.Runs[id] = providertest.Run{ID: id, State: "success", Branch: "master", Commit: providertest.Digest(id), Queued: providertest.Noon, Started: providertest.Noon.Add(2 * time.Second), Finished: providertest.Noon.Add(7 * time.Minute)}
	}
	b := providertest.Open(t, setup, w)
	for _, text := range []string{"21761957", b.URL.String() + "/samiya/hello-world-full-stack/-/tree/master", "git@" + b.URL.Hostname() + ":samiya/hello-world-full-stack.git"} {
		r, err := provider.ParseRepository(text, provider.Host{Kind: provider.GitLab, Web: b.URL})
		if err != nil {
			t.Fatal(err)
		}
		b.Repo = r
		for id := range w.Runs {
			if a := b.Run(t, id); a.Err != nil || a.Run.Status != waybill.StatusSucceeded || a.Run.Branch != "master" || !strings.HasSuffix(a.Run.Repository, w.Repo) {
				t.Errorf("%s, pipeline %s: %+v, %v", text, id, a.Run, a.Err)
			}
		}
	}
	w.Change(func(w *providertest.World) { w.Token = "another" })
	if err := b.Run(t, "208859532").Err; !waybill.IsKind(err, waybill.KindUnauthorized) {
		t.Errorf("the wrong token: %v", err)
	}
	for state, want := range map[string]waybill.Outcome{
		"created": waybill.StatusQueued, "waiting_for_resource": waybill.StatusQueued, "preparing": waybill.StatusQueued, "pending": waybill.StatusQueued, "scheduled": waybill.StatusQueued, "manual": waybill.StatusQueued,
		"running": waybill.StatusRunning, "canceling": waybill.StatusRunning, "success": waybill.StatusSucceeded, "failed": waybill.StatusFailed, "canceled": waybill.StatusCanceled, "skipped": waybill.StatusSkipped,
	} {
		w.Change(func(w *providertest.World) {
			w.Token = "glpat-s3cr3t"
			w.Runs["5"] = providertest.Run{ID: "5", State: state, Queued: providertest.Noon}
		})
		if a := b.Run(t, "5"); a.Err != nil || a.Run.Status != want {
			t.Errorf("%s: %+v, %v", state, a.Run, a.Err)
		}
	}
}

func TestF67_GitLabBelowAPath(t *testing.T) {
	w := providertest.Example(setup)
	b := providertest.Open(t, setup, w)
	r, err := provider.ParseRepository("https://code.example.com/gitlab/group/sub/app.git", provider.Host{Kind: provider.GitLab, Web: &url.URL{Scheme: "https", Host: "code.example.com", Path: "/gitlab"}})
	if err != nil || r.Path != "group/sub/app" || r.Kind != provider.GitLab {
		t.Fatalf("%+v, %v", r, err)
	}
	g := gitlab.New(&url.URL{Scheme: "https", Host: "code.example.com", Path: "/gitlab"}, provider.Options{Name: "own"})
	if u := g.Client().API().String(); u != "https://code.example.com/gitlab/api/v4" {
		t.Errorf("%s", u)
	}
	if u := g.TagsURL(r); u != "https://code.example.com/gitlab/group/sub/app/-/tags" {
		t.Errorf("%s", u)
	}
	_ = b
}

func TestF68_GitLabAuthorAndMergeRequest(t *testing.T) {
	w := providertest.NewWorld("group/sub/app")
	w.Commits = []providertest.Commit{{SHA: providertest.Digest("c"), Name: "samiya akhtar", Email: "samiya@example.com", At: providertest.Noon}}
	w.Avatars["samiya@example.com"] = "https://secure.example.com/avatar/89"
	w.Pulls[5] = providertest.Pull{Number: 5, Title: "automated", Source: "DEPLOY/backend.208444041", Target: "master", State: "merged", By: "samiyaakhtar", ByName: "samiya akhtar", Merge: providertest.Digest("m"), Created: providertest.Noon, Ended: providertest.Noon}
	b := providertest.Open(t, setup, w)
	for range 2 {
		c, err := b.P.Commit(t.Context(), b.Repo, providertest.Digest("c"))
		if err != nil || c.Author.Name != "samiya akhtar" || c.Author.Image != "https://secure.example.com/avatar/89" {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if n := len(w.Calls()); n != 3 {
		t.Errorf("%d calls; the picture is asked for once: %q", n, w.Calls())
	}
	w.Break("/avatar", providertest.Fault{Status: 500})
	p, err := b.P.PullRequest(t.Context(), b.Repo, "5")
	if err != nil || p.SourceBranch != "DEPLOY/backend.208444041" || p.MergedBy == nil || p.MergedBy.Name != "samiya akhtar" || !strings.HasSuffix(p.URL, "/-/merge_requests/5") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestF69_GitLabTags(t *testing.T) {
	w := providertest.NewWorld("group/sub/app")
	w.Tags = []providertest.Tag{
		{Name: "flux-east-us", Commit: "a41c826" + providertest.Digest("1")[:33], Tagger: "Automated Account", At: providertest.Noon},
		{Name: "flux-light", Commit: providertest.Digest("3"), Lightweight: true}, {Name: "v2", Commit: providertest.Digest("3"), At: providertest.Noon},
	}
	b := providertest.Open(t, setup, w)
	list, err := b.P.Tags(t.Context(), b.Repo, "flux-")
	if err != nil || len(list) != 1 || list[0].Name != "flux-east-us" || list[0].Commit[:7] != "a41c826" || list[0].Tagger != "Automated Account" {
		t.Errorf("%+v, %v", list, err)
	}
	if u := b.P.TagsURL(b.Repo); !strings.HasSuffix(u, "/group/sub/app/-/tags") {
		t.Errorf("%s", u)
	}
	numbered := provider.Repository{Kind: provider.GitLab, Path: "21000123"}
	g := b.P.(*gitlab.GitLab)
	if err := g.Learn(t.Context(), numbered); err != nil || !strings.HasSuffix(g.TagsURL(numbered), "/group/sub/app/-/tags") {
		t.Errorf("%s, %v", g.TagsURL(numbered), err)
	}
}
