// Package spektate has the shapes in which an older service tells of deployments: the rows
// of its command line and of the API behind its pages. Programs that read those read ours.
//
// What is here only translates; it asks nobody.
package spektate

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Deployment is a row. Members that are not known are left out.
type Deployment struct {
	ID             string       `json:"deploymentId"`
	Build          *Run         `json:"srcToDockerBuild,omitempty"`
	Release        *Run         `json:"dockerToHldRelease,omitempty"`
	Stage          *Run         `json:"dockerToHldReleaseStage,omitempty"` // in the place of Release: a stage of the run that built
	Manifest       *Run         `json:"hldToManifestBuild,omitempty"`
	Commit         string       `json:"commitId,omitempty"`
	ConfigCommit   string       `json:"hldCommitId,omitempty"`
	ImageTag       string       `json:"imageTag,omitempty"`
	TimeStamp      time.Time    `json:"timeStamp"`
	ManifestCommit string       `json:"manifestCommitId,omitempty"`
	Ring           string       `json:"environment,omitempty"`
	Service        string       `json:"service,omitempty"`
	Duration       string       `json:"duration"` // minutes with two decimals
	Status         string       `json:"status"`
	EndTime        time.Time    `json:"endTime"`
	PullRequestID  string       `json:"pr,omitempty"`
	SourceRepo     string       `json:"sourceRepo,omitempty"`
	ConfigRepo     string       `json:"hldRepo,omitempty"`
	ManifestRepo   string       `json:"manifestRepo,omitempty"`
	Author         *Person      `json:"author,omitempty"`
	PullRequest    *PullRequest `json:"pullRequest,omitempty"`
}

// Run is a run of a stage. Status and Result are in the words of Azure DevOps, whatever the
// provider: notStarted, inProgress, completed; succeeded, failed, canceled, skipped. A
// release has its result as status.
type Run struct {
	ID               any        `json:"id"` // a number where it is one
	BuildNumber      string     `json:"buildNumber,omitempty"`
	ReleaseName      string     `json:"releaseName,omitempty"`
	ImageVersion     string     `json:"imageVersion,omitempty"`
	URL              string     `json:"URL,omitempty"`
	Status           string     `json:"status,omitempty"`
	Result           string     `json:"result,omitempty"`
	QueueTime        *time.Time `json:"queueTime,omitempty"`
	StartTime        *time.Time `json:"startTime,omitempty"`
	FinishTime       *time.Time `json:"finishTime,omitempty"`
	LastUpdateTime   *time.Time `json:"lastUpdateTime,omitempty"`
	SourceBranch     string     `json:"sourceBranch,omitempty"`
	SourceVersion    string     `json:"sourceVersion,omitempty"`
	SourceVersionURL string     `json:"sourceVersionURL,omitempty"`
}

// Person is the author of a commit, or who merged it.
type Person struct {
	Name     string `json:"name"`
	Username string `json:"username,omitempty"`
	URL      string `json:"url,omitempty"`
	ImageURL string `json:"imageUrl,omitempty"`
}

// PullRequest is the pull request of a deployment.
type PullRequest struct {
	ID           any     `json:"id"` // a number where it is one
	Title        string  `json:"title,omitempty"`
	Description  string  `json:"description,omitempty"`
	SourceBranch string  `json:"sourceBranch,omitempty"`
	TargetBranch string  `json:"targetBranch,omitempty"`
	URL          string  `json:"url,omitempty"`
	MergedBy     *Person `json:"mergedBy,omitempty"`
}

// ClusterSync says what clusters are at.
type ClusterSync struct {
	ReleasesURL string `json:"releasesURL,omitempty"`
	Tags        []Tag  `json:"tags"`
}

// Tag is a cluster at a commit of the manifests.
type Tag struct {
	Name    string    `json:"name"`
	Commit  string    `json:"commit"`
	Date    time.Time `json:"date"`
	Tagger  string    `json:"tagger"`
	Message string    `json:"message,omitempty"`
}

// Word is the label of a state.
func Word(s waybill.DeploymentStatus) string {
	switch s {
	case waybill.DeploymentComplete:
		return "Complete"
	case waybill.DeploymentInProgress:
		return "In Progress"
	case waybill.DeploymentWaiting:
		return "Waiting"
	case waybill.DeploymentFailed:
		return "failed"
	case waybill.DeploymentCanceled:
		return "canceled"
	}
	return "Incomplete"
}

// Of translates a deployment. Runs that have not ended are timed until now.
func Of(d *waybill.Deployment, now time.Time) Deployment {
	out := Deployment{
		ID: d.ID, Commit: d.Commit, ConfigCommit: d.ConfigCommit, ImageTag: d.ImageTag, TimeStamp: d.UpdatedAt, ManifestCommit: d.ManifestCommit, Ring: d.Ring,
		Service: d.Service, Status: Word(d.Status), EndTime: d.UpdatedAt, PullRequestID: d.PullRequest, SourceRepo: d.SourceRepo, ConfigRepo: d.ConfigRepo, ManifestRepo: d.ManifestRepo,
		Duration: strconv.FormatFloat(minutes(Duration(d, now)), 'f', 2, 64), Author: person(d.Author),
	}
	if out.Build = run(d.Build); out.Build != nil {
		out.Build.SourceVersion = cmp.Or(out.Build.SourceVersion, d.Commit)
	}
	if r := run(d.Config); r != nil {
		// A release has a name where a build has a number.
		r.ReleaseName, r.BuildNumber, r.ImageVersion = r.BuildNumber, "", d.ImageTag
		if staged(d) {
			out.Stage = r
		} else {
			out.Release = r
		}
		if r.Result != "" {
			r.Status = r.Result
		}
	}
	if out.Manifest = run(d.Manifest); out.Manifest != nil {
		out.Manifest.SourceVersion = cmp.Or(out.Manifest.SourceVersion, d.ConfigCommit)
	}
	if d.PullRequest != "" && d.Review != nil {
		r := d.Review
		out.PullRequest = &PullRequest{
			ID: number(d.PullRequest), Title: r.Title, SourceBranch: r.SourceBranch, TargetBranch: r.TargetBranch, URL: r.URL, MergedBy: person(r.Merger),
		}
		if out.PullRequest.MergedBy == nil && r.MergedBy != "" {
			out.PullRequest.MergedBy = &Person{Name: r.MergedBy}
		}
	}
	return out
}

// staged reports whether the configuration was changed by the run that built the image.
func staged(d *waybill.Deployment) bool {
	b, c := d.Build.Last(), d.Config.Last()
	return b != nil && c != nil && strings.EqualFold(b.Run, c.Run)
}

// Duration is how long the stages took together, as the older service counts: from when
// the last run of each was queued until it ended. Where the run that built changed the
// configuration, too, it is the time of that change alone.
func Duration(d *waybill.Deployment, now time.Time) time.Duration {
	took := func(r *waybill.StageRun) time.Duration {
		if r == nil {
			return 0
		}
		begin, end := r.QueuedAt, r.FinishedAt
		if begin.IsZero() {
			begin = r.StartedAt
		}
		if begin.IsZero() {
			return 0
		}
		if end.IsZero() {
			end = now
		}
		return max(0, end.Sub(begin))
	}
	if staged(d) {
		if c := d.Config.Last(); !c.QueuedAt.IsZero() || !c.StartedAt.IsZero() {
			return took(c)
		}
		return took(d.Build.Last())
	}
	return took(d.Build.Last()) + took(d.Config.Last()) + took(d.Manifest.Last())
}

// minutes are rounded to two decimals, halves up.
func minutes(d time.Duration) float64 { return math.Floor(d.Minutes()*100+0.5) / 100 }

func run(s *waybill.DeploymentStage) *Run {
	r := s.Last()
	if r == nil {
		return nil
	}
	out := &Run{
		ID: number(r.Run), BuildNumber: r.Number, URL: r.URL, QueueTime: at(r.QueuedAt), StartTime: at(r.StartedAt), FinishTime: at(r.FinishedAt), LastUpdateTime: at(r.UpdatedAt),
		SourceBranch: r.Branch, SourceVersion: r.Source,
	}
	out.Status, out.Result = words(cmp.Or(r.Status, s.Status))
	return out
}

// words are the state and the result of a run.
func words(s waybill.Outcome) (status, result string) {
	switch s {
	case waybill.StatusQueued:
		return "notStarted", ""
	case waybill.StatusRunning, waybill.StatusWaiting:
		return "inProgress", ""
	case waybill.StatusSucceeded:
		return "completed", "succeeded"
	case waybill.StatusFailed, waybill.StatusTimedOut, waybill.StatusLost:
		return "completed", "failed"
	case waybill.StatusCanceled:
		return "completed", "canceled"
	case waybill.StatusSkipped:
		return "completed", "skipped"
	}
	return "", ""
}

// number is a number where text is one of up to 15 digits, which every reader of JSON keeps
// exactly, and else the text.
func number(s string) any {
	if len(s) > 15 || s == "" || strings.TrimLeft(s, "0123456789") != "" || s[0] == '0' && s != "0" {
		return s
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return s
	}
	return n
}

func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func person(p *waybill.Person) *Person {
	if p == nil {
		return nil
	}
	return &Person{Name: p.Name, Username: p.Username, URL: p.URL, ImageURL: p.Image}
}

// Here are the clusters that run a deployment, or failed to: those in which another one
// has not come after it, and which have written its objects.
func Here(d *waybill.Deployment) []waybill.DeploymentCluster {
	var out []waybill.DeploymentCluster
	for _, c := range d.Clusters {
		switch c.State {
		case waybill.ClusterApplied, waybill.ClusterHealthy, waybill.ClusterFailed:
			out = append(out, c)
		}
	}
	return out
}

// Sync tells what the clusters of deployments are at, nil when none was told of. Each
// cluster has a tag for every manifest commit that a deployment in it has.
func Sync(list []waybill.Deployment) *ClusterSync {
	var out ClusterSync
	seen := map[string]bool{}
	for i := range list {
		d := &list[i]
		for _, c := range Here(d) {
			commit := short(cmp.Or(d.ManifestCommit, c.Revision))
			if commit == "" || seen[c.Cluster+"\x00"+commit] {
				continue
			}
			seen[c.Cluster+"\x00"+commit] = true
			out.Tags = append(out.Tags, Tag{Name: c.Cluster, Commit: commit, Date: c.Since, Message: c.Message})
			out.ReleasesURL = cmp.Or(out.ReleasesURL, releases(d.ManifestRepo))
		}
	}
	if out.Tags == nil {
		return nil
	}
	return &out
}

// short is a commit as it is shown: its first seven digits.
func short(commit string) string {
	if len(commit) > 7 && strings.Trim(strings.ToLower(commit), "0123456789abcdef") == "" {
		return commit[:7]
	}
	return commit
}

// releases is the page on which a provider lists the tags of a repository, empty where it is
// not known which provider that is.
func releases(repo string) string {
	repo = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(repo), "/"), ".git")
	switch {
	case !strings.Contains(repo, "://"):
		return ""
	case strings.Contains(repo, "dev.azure.com") || strings.Contains(repo, "visualstudio.com"):
		return repo + "/tags"
	case strings.Contains(repo, "gitlab"):
		return repo + "/-/tags"
	case strings.Contains(repo, "github"):
		return repo + "/releases"
	}
	return ""
}

// Mask hides a secret but for its last four characters, and all of one that has fewer than
// eight.
func Mask(s string) string {
	n := len([]rune(s))
	if n < 8 {
		return strings.Repeat("*", n)
	}
	r := []rune(s)
	return strings.Repeat("*", n-4) + string(r[n-4:])
}
