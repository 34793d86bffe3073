package delivery

import (
	"github.com/waybill-run/waybill"
)

// status is the state of a row as a whole, and why. The first rule that holds decides:
//
//  1. the manifests were made: complete, whatever became of earlier stages;
//  2. a stage runs or waits for its turn: in progress;
//  3. a stage failed: failed; 4. a stage was canceled: canceled;
//  5. the pull request was closed without being merged: canceled; it is open: waiting;
//  6. incomplete: the next stage has not been told of.
//
// A manifest commit is proof that manifests were made, if nobody says otherwise of the
// run that made it. What happens in clusters afterwards is told of each cluster, and
// does not change what became of the delivery.
func status(d *waybill.Deployment) (waybill.DeploymentStatus, string) {
	if m := d.Manifest; m != nil {
		switch {
		case m.Status == waybill.StatusSucceeded:
			return waybill.DeploymentComplete, "the manifests were made" + by(m)
		case m.Status == "" && d.ManifestCommit != "" && (m.Last() == nil || m.Last().Commit != ""):
			return waybill.DeploymentComplete, "manifest commit " + brief(d.ManifestCommit) + " was reported" + by(m)
		}
	}
	stages := []*waybill.DeploymentStage{d.Manifest, d.Config, d.Build}
	for _, st := range stages {
		if st == nil {
			continue
		}
		switch st.Status {
		case waybill.StatusRunning, waybill.StatusWaiting:
			return waybill.DeploymentInProgress, "the " + string(st.Stage) + " stage is running" + by(st)
		case waybill.StatusQueued:
			return waybill.DeploymentInProgress, "the " + string(st.Stage) + " stage waits for its turn" + by(st)
		}
	}
	for _, st := range stages {
		if st == nil {
			continue
		}
		switch st.Status {
		case waybill.StatusFailed, waybill.StatusTimedOut, waybill.StatusLost:
			return waybill.DeploymentFailed, "the " + string(st.Stage) + " stage failed" + by(st)
		}
	}
	for _, st := range stages {
		if st != nil && st.Status == waybill.StatusCanceled {
			return waybill.DeploymentCanceled, "the " + string(st.Stage) + " stage was canceled" + by(st)
		}
	}
	if d.Review != nil && d.Manifest == nil {
		switch d.Review.State {
		case waybill.ReviewClosed:
			return waybill.DeploymentCanceled, "pull request " + d.PullRequest + " was closed without being merged"
		case waybill.ReviewOpen:
			return waybill.DeploymentWaiting, "pull request " + d.PullRequest + " is open"
		}
	}
	return waybill.DeploymentIncomplete, missing(d)
}

// missing names the stage that nothing is known of.
func missing(d *waybill.Deployment) string {
	switch {
	case d.Manifest != nil && d.Manifest.Status == waybill.StatusSkipped:
		return "the manifest stage was skipped"
	case d.Manifest != nil:
		return "manifests are being made" + by(d.Manifest) + "; what became of it was not reported"
	case d.Config != nil && d.Config.Status == waybill.StatusSkipped:
		return "the config stage was skipped"
	case d.Config != nil:
		return "no manifests of config commit " + brief(d.ConfigCommit) + " were reported"
	case d.Build != nil && d.Build.Status == waybill.StatusSkipped:
		return "the build stage was skipped"
	}
	return "no ring has taken the image"
}

func by(s *waybill.DeploymentStage) string {
	if r := s.Last(); r != nil {
		return " (run " + r.Run + ")"
	}
	return ""
}

// brief is a commit as people write it.
func brief(commit string) string {
	if len(commit) > minPrefix && isHex(commit) {
		return commit[:minPrefix]
	}
	return commit
}

// Outcome translates what a provider calls the state of a run into the canonical one.
// The provider is "azdo", "azdo-release", "github", "gitlab", "cdevents", "flux",
// "argocd" or "" for one that speaks canonically; words of the canonical vocabulary are
// understood from all of them. Where a provider has a state and a result (Azure DevOps: status and
// result, GitHub: status and conclusion, Argo CD: phase and health), result is the
// second, else empty. ok is false for a word that is not known: the outcome is empty then.
func Outcome(provider, state, result string) (o waybill.Outcome, ok bool) {
	state, result = fold(state), fold(result)
	word := state
	switch provider {
	case "azdo", "github":
		// "completed" says nothing by itself.
		if result != "" && result != "none" {
			word = result
		} else if state == "completed" {
			return "", false
		}
	case "argocd":
		if result == "degraded" {
			return waybill.StatusFailed, true
		}
		if state == "succeeded" && result != "" && result != "healthy" {
			return waybill.StatusRunning, true
		}
	}
	if o, ok := outcomes[provider][word]; ok {
		return o, true
	}
	o, ok = outcomes[""][word]
	return o, ok
}

const (
	queued    = waybill.StatusQueued
	running   = waybill.StatusRunning
	succeeded = waybill.StatusSucceeded
	failed    = waybill.StatusFailed
	canceled  = waybill.StatusCanceled
	skipped   = waybill.StatusSkipped
)

// outcomes: provider → its word, folded → canonical.
var outcomes = map[string]map[string]waybill.Outcome{
	"": {
		"queued": queued, "running": running, "succeeded": succeeded, "failed": failed, "canceled": canceled, "skipped": skipped,
		"in_progress": running, "success": succeeded, "failure": failed, "cancelled": canceled, "error": failed, "timed_out": failed,
	},
	"azdo": {
		"notstarted": queued, "postponed": queued, "inprogress": running, "cancelling": running, "pending": queued,
		"partiallysucceeded": failed, "succeededwithissues": succeeded, "abandoned": canceled,
	},
	"azdo-release": {
		"notdeployed": queued, "inprogress": running, "partiallysucceeded": failed,
	},
	"github": {
		"requested": queued, "waiting": queued, "pending": queued, "neutral": succeeded, "startup_failure": failed,
		"action_required": failed, "stale": canceled,
	},
	"gitlab": {
		"created": queued, "waiting_for_resource": queued, "preparing": queued, "pending": queued, "scheduled": queued,
		"manual": queued, "canceling": running,
	},
	"cdevents": {
		"started": running, "cancel": canceled,
	},
	"flux": {
		"progressing": running, "dependencynotready": running, "reconciliationsucceeded": succeeded, "buildfailed": failed,
		"reconciliationfailed": failed, "healthcheckfailed": failed, "validationfailed": failed, "artifactfailed": failed, "prunefailed": failed,
	},
	"argocd": {},
}
