package github_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/github"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
)

var setup = providertest.Setup{
	Kind: provider.GitHub, Serve: providertest.GitHub, Repo: "acme/app", Path: "acme/app.git",
	New:       func(web *url.URL, o provider.Options) provider.Provider { return github.New(web, o) },
	Succeeded: [2]string{"completed", "success"}, Failed: [2]string{"completed", "failure"}, Running: [2]string{"in_progress", ""}, Queued: [2]string{"queued", ""},
}

func TestProvider(t *testing.T) { providertest.Test(t, setup) }

func TestAPI(t *testing.T) {
	for web, want := range map[string]string{"https://github.com": "https://api.github.com", "https://ghe.example.com": "https://ghe.example.com/api/v3"} {
		u, _ := url.Parse(web)
		if got := github.API(u).String(); got != want {
			t.Errorf("%s: %s", web, got)
		}
	}
}

// Ids are those of jobs or of runs; what they are is learned once for a repository.
func TestF66_GitHubActions(t *testing.T) {
	w := providertest.NewWorld("acme/spartan-app")
	at := func(s string) time.Time {
		x, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	w.Runs["1115488431"] = providertest.Run{ID: "1115488431", Job: true, State: "completed", Result: "success", Commit: providertest.Digest("x"), Started: at("2020-09-15T02:29:56Z"), Finished: at("2020-09-15T02:33:38Z")}
	w.Runs["1255355142"] = providertest.Run{ID: "1255355142", Job: true, State: "completed", Result: "success", Commit: providertest.Digest("y"), Started: at("2020-10-14T20:11:30Z"), Finished: at("2020-10-14T20:13:10Z")}
	w.Runs["254907244"] = providertest.Run{ID: "254907244", Number: "17", State: "completed", Result: "cancelled", Commit: providertest.Digest("x"), Queued: at("2020-09-15T02:29:50Z"), Started: at("2020-09-15T02:29:50Z"), Finished: at("2020-09-15T02:33:40Z")}
	b := providertest.Open(t, setup, w)
	b.Repo.Path = w.Repo
	for id, took := range map[string]time.Duration{"1115488431": 3*time.Minute + 42*time.Second, "1255355142": 100 * time.Second} {
		a := b.Run(t, id)
		if a.Err != nil || a.Run.Status != waybill.StatusSucceeded || a.Run.FinishedAt.Sub(a.Run.QueuedAt) != took {
			t.Errorf("job %s: %+v, %v", id, a.Run, a.Err)
		}
	}
	w.Forget()
	if a := b.Run(t, "1115488431"); a.Err != nil || len(w.Calls()) != 1 {
		t.Errorf("a job again: %v, calls %q", a.Err, w.Calls())
	}
	if a := b.Run(t, "254907244"); a.Err != nil || a.Run.Status != waybill.StatusCanceled || a.Run.Number != "17" {
		t.Errorf("a run: %+v, %v", a.Run, a.Err)
	}
	for _, c := range []struct {
		state, result string
		want          waybill.Outcome
	}{
		{"queued", "", waybill.StatusQueued}, {"requested", "", waybill.StatusQueued}, {"waiting", "", waybill.StatusQueued}, {"pending", "", waybill.StatusQueued},
		{"in_progress", "", waybill.StatusRunning}, {"completed", "success", waybill.StatusSucceeded}, {"completed", "neutral", waybill.StatusSucceeded},
		{"completed", "failure", waybill.StatusFailed}, {"completed", "timed_out", waybill.StatusFailed}, {"completed", "startup_failure", waybill.StatusFailed},
		{"completed", "action_required", waybill.StatusFailed}, {"completed", "cancelled", waybill.StatusCanceled}, {"completed", "stale", waybill.StatusCanceled}, {"completed", "skipped", waybill.StatusSkipped},
	} {
		w.Change(func(w *providertest.World) {
			w.Runs["5"] = providertest.Run{ID: "5", State: c.state, Result: c.result, Queued: providertest.Noon, Started: providertest.Noon, Finished: providertest.Noon}
		})
		if a := b.Run(t, "5"); a.Err != nil || a.Run.Status != c.want {
			t.Errorf("%s/%s: %+v, %v", c.state, c.result, a.Run, a.Err)
		}
	}
}

// What GitHub calls "not found" is told apart: a run that is gone, a repository that the
// token does not show.
func TestHiddenRepository(t *testing.T) {
	w := providertest.Example(setup)
	w.Hidden = true
	b := providertest.Open(t, setup, w)
	if err := b.Run(t, "4711").Err; !waybill.IsKind(err, waybill.KindForbidden) {
		t.Errorf("%v", err)
	}
}

func TestF68_GitHubAuthorAndPullRequest(t *testing.T) {
	w := providertest.NewWorld("acme/app")
	w.Commits = []providertest.Commit{{SHA: providertest.Digest("c"), Name: "Edaena Salinas", Email: "edaena@users.example.com", Login: "edaena", At: providertest.Noon}}
	w.Pulls[408] = providertest.Pull{Number: 408, Title: "Install the tool first", Source: "helm-2-pipelines", Target: "master", State: "merged", By: "bnookala", Merge: providertest.Digest("m"), Created: providertest.Noon, Ended: providertest.Noon}
	b := providertest.Open(t, setup, w)
	c, err := b.P.Commit(t.Context(), b.Repo, providertest.Digest("c")[:7])
	if err != nil || c.Author.Name != "Edaena Salinas" || c.Author.Username != "edaena" || c.Author.Image == "" || c.Author.URL == "" {
		t.Errorf("%+v, %v", c, err)
	}
	p, err := b.P.PullRequest(t.Context(), b.Repo, "408")
	if err != nil || p.MergedBy == nil || p.MergedBy.Name != "bnookala" || p.SourceBranch != "helm-2-pipelines" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestF69_GitHubTags(t *testing.T) {
	w := providertest.NewWorld("username/reponame")
	w.Tags = []providertest.Tag{
		{Name: "flux-alaska", Commit: "57cb69b" + providertest.Digest("1")[:33], Tagger: "Weave Flux", Message: "Sync pointer", At: providertest.Noon},
		{Name: "flux-sync", Commit: "096c952" + providertest.Digest("2")[:33], Tagger: "Weave Flux", Message: "Sync pointer", At: providertest.Noon},
		{Name: "flux-light", Commit: providertest.Digest("3"), Lightweight: true}, {Name: "v2", Commit: providertest.Digest("3"), Tagger: "Ada", At: providertest.Noon},
	}
	b := providertest.Open(t, setup, w)
	b.Repo.Path = w.Repo
	list, err := b.P.Tags(t.Context(), b.Repo, "flux-")
	if err != nil || len(list) != 2 || list[0].Commit[:7] != "57cb69b" || list[1].Commit[:7] != "096c952" || list[0].Tagger != "Weave Flux" {
		t.Errorf("%+v, %v", list, err)
	}
	if u := b.P.TagsURL(b.Repo); u != b.URL.String()+"/username/reponame/releases" {
		t.Errorf("%s", u)
	}
}
