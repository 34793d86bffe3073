package delivery

import (
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
)

// What every provider calls a state, and what it is.
var words = map[waybill.Outcome]map[string]string{
	queued: {
		"azdo": "notStarted postponed", "azdo-release": "notDeployed", "github": "queued requested waiting pending",
		"gitlab": "created waiting_for_resource preparing pending scheduled manual", "cdevents": "queued",
	},
	running: {
		"azdo": "inProgress cancelling", "azdo-release": "inProgress", "github": "in_progress", "gitlab": "running canceling",
		"cdevents": "started", "flux": "Progressing DependencyNotReady", "argocd": "Running",
	},
	succeeded: {
		"azdo": "succeeded", "azdo-release": "succeeded", "github": "success neutral", "gitlab": "success", "cdevents": "success",
		"flux": "ReconciliationSucceeded", "argocd": "Succeeded",
	},
	failed: {
		"azdo": "failed partiallySucceeded", "azdo-release": "failed partiallySucceeded", "github": "failure timed_out startup_failure action_required",
		"gitlab": "failed", "cdevents": "failure error", "argocd": "Failed Error",
		"flux": "BuildFailed ReconciliationFailed HealthCheckFailed ValidationFailed ArtifactFailed PruneFailed",
	},
	canceled: {"azdo": "canceled", "azdo-release": "canceled", "github": "cancelled stale", "gitlab": "canceled", "cdevents": "cancel"},
	skipped:  {"github": "skipped", "gitlab": "skipped"},
}

func TestF38_CanonicalStatus(t *testing.T) {
	for want, providers := range words {
		for provider, list := range providers {
			for word := range strings.FieldsSeq(list) {
				got, ok := Outcome(provider, word, "")
				if got != want || !ok {
					t.Errorf("%s %s is %q (%v), want %s", provider, word, got, ok, want)
				}
				// Where the result stands beside the state.
				if want.Terminal() && (provider == "azdo" || provider == "github") {
					if got, _ := Outcome(provider, "completed", word); got != want {
						t.Errorf("%s completed, %s is %q, want %s", provider, word, got, want)
					}
				}
				for _, stage := range []waybill.Stage{waybill.StageBuild, waybill.StageConfig, waybill.StageManifest} {
					status, reason := statusWith(t, stage, got)
					if status != overall(stage, want) {
						t.Errorf("%s stage %s: row %s (%s), want %s", stage, want, status, reason, overall(stage, want))
					}
					if !strings.Contains(reason, string(stage)) {
						t.Errorf("%s stage %s: the reason does not name the stage: %s", stage, want, reason)
					}
				}
			}
		}
	}
	if o, ok := Outcome("argocd", "Succeeded", "Degraded"); o != failed || !ok {
		t.Errorf("degraded is %s", o)
	}
	if o, ok := Outcome("argocd", "Succeeded", "Healthy"); o != succeeded || !ok {
		t.Errorf("healthy is %s", o)
	}
	if o, ok := Outcome("github", "completed", ""); ok || o != "" {
		t.Errorf("completed without a conclusion is %s", o)
	}
	if o, ok := Outcome("gitlab", "perplexed", ""); ok || o != "" {
		t.Errorf("a word that nobody knows is %s", o)
	}
}

// overall is the state of a row whose stages before the named one have succeeded.
func overall(stage waybill.Stage, o waybill.Outcome) waybill.DeploymentStatus {
	switch o {
	case queued, running:
		return waybill.DeploymentInProgress
	case failed:
		return waybill.DeploymentFailed
	case canceled:
		return waybill.DeploymentCanceled
	case succeeded:
		if stage == waybill.StageManifest {
			return waybill.DeploymentComplete
		}
	}
	return waybill.DeploymentIncomplete
}

func statusWith(t *testing.T, stage waybill.Stage, o waybill.Outcome) (waybill.DeploymentStatus, string) {
	f := newFeed(t)
	all := []report{p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", ""), p3("200", "h1", "")}
	for i, s := range []waybill.Stage{waybill.StageBuild, waybill.StageConfig, waybill.StageManifest} {
		all[i].Status = succeeded
		if s == stage {
			all[i].Status = o
			f.tell(all[i])
			break
		}
		f.tell(all[i])
	}
	d := f.one()
	if o == succeeded && stage != waybill.StageManifest {
		return d.Status, d.Reason + " " + string(stage) // what is missing is named, not what is there
	}
	return d.Status, strings.ReplaceAll(d.Reason, "manifests were", "manifest stage")
}

func TestF38_FailedManifestsAreNotComplete(t *testing.T) {
	f := newFeed(t)
	f.tell(
		with(p1("100", "app:1", "app", "c1"), func(r *report) { r.Status = succeeded }), p2("101", "app:1", "h1", "dev", ""),
		p3("200", "h1", ""), report{Kind: waybill.ReportRun, Stage: waybill.StageManifest, Run: "200", Status: failed})
	if d := f.one(); d.Status != waybill.DeploymentFailed || d.Reason != "the manifest stage failed (run 200)" {
		t.Errorf("%s (%s)", d.Status, d.Reason)
	}
	// Another attempt counts.
	f.tell(with(p3("201", "h1", ""), func(r *report) { r.Status = succeeded }))
	if d := f.one(); d.Status != waybill.DeploymentComplete {
		t.Errorf("%s (%s)", d.Status, d.Reason)
	}
}

func TestFailedBuildWithManifestsIsComplete(t *testing.T) {
	f := newFeed(t)
	f.tell(
		with(p1("100", "app:1", "app", "c1"), func(r *report) { r.Status = failed }), p2("101", "app:1", "h1", "dev", ""),
		with(p3("200", "h1", ""), func(r *report) { r.Status = succeeded }))
	if d := f.one(); d.Status != waybill.DeploymentComplete {
		t.Errorf("%s (%s)", d.Status, d.Reason)
	}
}

func TestF37_Waiting(t *testing.T) {
	review := func(s waybill.ReviewState) report {
		return report{Kind: waybill.ReportReview, PullRequest: "7", Review: s, ApprovedBy: "ann"}
	}
	for _, c := range []struct {
		name   string
		tell   []report
		status waybill.DeploymentStatus
		reason string
	}{
		{"open", []report{review("open")}, waybill.DeploymentWaiting, "pull request 7 is open"},
		{"closed", []report{review("open"), review("closed")}, waybill.DeploymentCanceled, "pull request 7 was closed without being merged"},
		{"merged", []report{review("merged")}, waybill.DeploymentIncomplete, "no manifests of config commit h1 were reported"},
		{"failed build", []report{review("open"), {Kind: waybill.ReportRun, Stage: waybill.StageBuild, Run: "100", Status: failed}},
			waybill.DeploymentFailed, "the build stage failed (run 100)"},
		{"manifests", []report{review("open"), p3("200", "h1", ""), patch("200", "m1")}, waybill.DeploymentComplete, "manifest commit m1 was reported (run 200)"},
	} {
		f := newFeed(t)
		f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", "7"))
		f.tell(c.tell...)
		if d := f.one(); d.Status != c.status || d.Reason != c.reason || d.Review.ApprovedBy != "ann" {
			t.Errorf("%s: %s (%s), approved by %q", c.name, d.Status, d.Reason, d.Review.ApprovedBy)
		}
	}
}

func TestMergeCommitOfAReviewLinksManifests(t *testing.T) {
	permute([]report{
		p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", "7"), p3("200", "h9", ""),
		{Kind: waybill.ReportReview, PullRequest: "7", Review: waybill.ReviewMerged, MergeCommit: "h9"},
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("app dev app:1 100 c1 101 h9 7 200 -")
	})
}
