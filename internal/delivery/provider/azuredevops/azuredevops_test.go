package azuredevops_test

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/azuredevops"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
)

var setup = providertest.Setup{
	Kind: provider.AzureDevOps, Serve: providertest.AzureDevOps, Repo: "acme/shop/app", Path: "acme/shop/_git/app",
	New:       func(web *url.URL, o provider.Options) provider.Provider { return azuredevops.New(web, "acme/shop", o) },
	Succeeded: [2]string{"completed", "succeeded"}, Failed: [2]string{"completed", "partiallySucceeded"}, Running: [2]string{"inProgress", ""}, Queued: [2]string{"notStarted", ""},
	CannotDeploy: true, Annotations: true,
}

func TestProvider(t *testing.T) { providertest.Test(t, setup) }

func TestF65_AzureDevOpsBuildsReleasesTimeline(t *testing.T) {
	w := providertest.NewWorld("acme/shop/app")
	build := func(id, result string) providertest.Run {
		return providertest.Run{ID: id, Number: "2019103" + id + ".1", State: "completed", Result: result, Branch: "master", Commit: providertest.Digest(id), SourceRepo: "edaena/spartan-app", Queued: providertest.Noon, Started: providertest.Noon, Finished: providertest.Noon}
	}
	w.Runs["7176"], w.Runs["7271"] = build("7176", "succeeded"), build("7271", "succeeded")
	multi := build("6676", "failed")
	multi.Stages = []string{"succeeded", "failed"}
	w.Runs["6676"] = multi
	for i, image := range []string{"7033", "7038", "7043", "7254"} {
		id := strconv.Itoa(261 + i)
		w.Runs[id] = providertest.Run{ID: id, Release: true, Number: fmt.Sprintf("Release-%d", 208+i), State: "succeeded", Environment: "Dev", Image: "hello-bedrock-master-" + image, Queued: providertest.Noon, Started: providertest.Noon, Finished: providertest.Noon}
	}
	w.Runs["300"] = providertest.Run{ID: "300", Release: true, Number: "Release-240", State: "failed", Environment: "Dev", Queued: providertest.Noon, Finished: providertest.Noon}
	b := providertest.Open(t, setup, w)
	ask := func(stage waybill.Stage, shared bool, ids ...string) []provider.RunAnswer {
		var qs []provider.RunQuery
		for _, id := range ids { // of a repository elsewhere: the project is that of the settings
			qs = append(qs, provider.RunQuery{Repo: provider.Repository{Kind: provider.GitHub, Host: "github.com", Path: "edaena/spartan-app"}, Stage: stage, ID: id, Shared: shared})
		}
		return b.P.Runs(t.Context(), qs)
	}
	for _, a := range ask(waybill.StageBuild, false, "7176", "7271") {
		if a.Err != nil || a.Run.Status != waybill.StatusSucceeded || a.Run.Repository != "https://github.com/edaena/spartan-app" || a.Run.Branch != "master" {
			t.Errorf("build: %+v, %v", a.Run, a.Err)
		}
	}
	if n := len(w.Calls()); n != 1 {
		t.Errorf("two builds took %d calls", n)
	}
	for i, a := range ask(waybill.StageConfig, false, "261", "262", "263", "264", "300") {
		if i == 4 {
			if a.Err != nil || a.Run.Status != waybill.StatusFailed {
				t.Errorf("failed release: %+v, %v", a.Run, a.Err)
			}
			continue
		}
		if want := fmt.Sprintf("Release-%d", 208+i); a.Err != nil || a.Run.Number != want || a.Run.Status != waybill.StatusSucceeded || a.Run.Image != "hello-bedrock-master-"+[]string{"7033", "7038", "7043", "7254"}[i] {
			t.Errorf("release %s: %+v, %v", want, a.Run, a.Err)
		}
	}
	for _, stage := range []waybill.Stage{waybill.StageBuild, waybill.StageConfig} {
		a := ask(stage, true, "6676")[0]
		if a.Err != nil || a.Run.Status != waybill.StatusFailed || len(a.Run.Stages) != 2 || a.Run.Stages[0] != waybill.StatusSucceeded || a.Run.Stages[1] != waybill.StatusFailed {
			t.Errorf("stages: %+v, %v", a.Run, a.Err)
		}
	}
	// A configuration stage that is a build of its own.
	if a := ask(waybill.StageConfig, false, "7176")[0]; a.Err != nil || a.Run.Status != waybill.StatusSucceeded {
		t.Errorf("a configuration by a build: %+v, %v", a.Run, a.Err)
	}

	var many []string
	for i := range 450 {
		id := strconv.Itoa(10_000 + i)
		many = append(many, id)
		if i%2 == 0 {
			w.Change(func(w *providertest.World) { w.Runs[id] = build(id, "succeeded") })
		}
	}
	w.Forget()
	for i, a := range ask(waybill.StageBuild, false, many...) {
		if (a.Err == nil) != (i%2 == 0) || i%2 == 1 && !waybill.IsKind(a.Err, waybill.KindNotFound) {
			t.Fatalf("build %s: %+v, %v", many[i], a.Run, a.Err)
		}
	}
	calls := 0
	for _, c := range w.Calls() {
		u, _ := url.Parse(strings.TrimPrefix(c, "GET "))
		if n := len(strings.Split(u.Query().Get("buildIds"), ",")); n > 200 {
			t.Errorf("%d ids in one call", n)
		}
		if u.Query().Get("continuationToken") == "" {
			calls++
		}
	}
	if calls != 3 {
		t.Errorf("450 ids took %d calls", calls)
	}
	if a := b.P.Runs(t.Context(), []provider.RunQuery{{ID: "1", Stage: waybill.StageBuild}}); len(a) != 1 {
		t.Error(a)
	}
}

// A server of Azure DevOps Services has another host for releases.
func TestReleaseHost(t *testing.T) {
	a := azuredevops.New(&url.URL{Scheme: "https", Host: "dev.azure.com"}, "", provider.Options{Name: "x"})
	out := a.Runs(t.Context(), []provider.RunQuery{{ID: "1", Stage: waybill.StageBuild}})
	if !waybill.IsKind(out[0].Err, waybill.KindInvalid) || !strings.Contains(fmt.Sprint(out[0].Err), "project") {
		t.Errorf("no project: %v", out[0].Err)
	}
}

func TestF68_AzureDevOpsAuthorAndPullRequest(t *testing.T) {
	w := providertest.NewWorld("acme/shop/app")
	w.Commits = []providertest.Commit{{SHA: providertest.Digest("c"), Name: "Samiya Akhtar", Email: "saakhta@example.com", At: providertest.Noon}}
	w.Pulls[1354] = providertest.Pull{Number: 1354, Title: "Updating samiya.frontend image tag", Source: "DEPLOY/samiya2019-samiya.frontend-master-20200317.12", Target: "master", State: "merged", By: "saakhta@example.com", ByName: "Samiya Akhtar", Merge: providertest.Digest("m"), Created: providertest.Noon, Ended: providertest.Noon}
	b := providertest.Open(t, setup, w)
	c, err := b.P.Commit(t.Context(), b.Repo, providertest.Digest("c"))
	if err != nil || c.Author.Name != "Samiya Akhtar" || c.Author.Username != "saakhta@example.com" || c.Author.Image == "" {
		t.Errorf("%+v, %v", c, err)
	}
	p, err := b.P.PullRequest(t.Context(), b.Repo, "1354")
	if err != nil || p.SourceBranch != "DEPLOY/samiya2019-samiya.frontend-master-20200317.12" || p.TargetBranch != "master" || p.MergedBy == nil || p.MergedBy.Name != "Samiya Akhtar" || !strings.HasSuffix(p.URL, "/_git/app/pullrequest/1354") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestF69_AzureDevOpsTags(t *testing.T) {
	w := providertest.NewWorld("org/project/repo")
	w.Tags = []providertest.Tag{
		{Name: "flux-sync", Commit: "ab4c9f1" + providertest.Digest("1")[:33], Tagger: "Weave Flux", Message: "Sync pointer", At: providertest.Noon},
		{Name: "flux-light", Commit: providertest.Digest("3"), Lightweight: true}, {Name: "v2", Commit: providertest.Digest("3"), Tagger: "x", At: providertest.Noon},
	}
	b := providertest.Open(t, setup, w)
	b.Repo.Path = w.Repo
	list, err := b.P.Tags(t.Context(), b.Repo, "flux-")
	if err != nil || len(list) != 1 || list[0].Name != "flux-sync" || list[0].Commit[:7] != "ab4c9f1" || !list[0].At.Equal(providertest.Noon) {
		t.Errorf("%+v, %v", list, err)
	}
	dev := azuredevops.New(&url.URL{Scheme: "https", Host: "dev.azure.com"}, "", provider.Options{Name: "x"})
	if u := dev.TagsURL(b.Repo); u != "https://dev.azure.com/org/project/_git/repo/tags" {
		t.Errorf("%s", u)
	}
}
