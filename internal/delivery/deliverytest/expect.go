package deliverytest

import (
	"sort"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Row is what a deployment of the set has to look like.
type Row struct {
	Kind           string
	Service        string
	Ring           string
	ImageTag       string
	Commit         string
	Build          string // run
	Config         string // run
	Manifest       string // run
	ConfigCommit   string
	PullRequest    string
	ManifestCommit string
	Status         waybill.DeploymentStatus
	Unlinked       bool
	Updated        time.Time
	Duration       time.Duration                   // as of Now
	Clusters       map[string]waybill.ClusterState // as they were told, later deployments aside
	Healthy        map[string]time.Time            // by cluster
	Failed         map[string]time.Time
}

// Display is the service without its owner.
func (r *Row) Display() string { return r.Service[strings.Index(r.Service, "/")+1:] }

// Rows calculates the deployments that reports stand for, the newest first, those of the same
// time in the order of ring and tag. It is a plain nested loop over the list: what the set holds
// is simple enough for that (tags are of one build, commits are written in full or
// with seven digits and more, every pull request of a repository is of one change).
func Rows(reports []waybill.DeliveryReport) []Row {
	var out []Row
	for i := range reports {
		c := &reports[i]
		var row Row
		switch {
		case c.Kind == waybill.ReportBuild:
			taken := false
			for j := range reports {
				if x := &reports[j]; x.ImageTag == c.ImageTag && x.Ring != "" {
					taken = true
				}
			}
			if taken {
				continue
			}
			row = Row{Kind: waybill.DeploymentRegular}
			build(&row, c)
			row.Status = waybill.DeploymentIncomplete
			switch c.Status {
			case waybill.StatusFailed:
				row.Status = waybill.DeploymentFailed
			case waybill.StatusRunning:
				row.Status = waybill.DeploymentInProgress
			}
		case c.Kind == waybill.ReportConfig || c.Kind == waybill.ReportManifest && c.ImageTag != "":
			row = Row{Kind: waybill.DeploymentRegular, ImageTag: c.ImageTag, Unlinked: true}
			for j := range reports {
				if b := &reports[j]; b.Kind == waybill.ReportBuild && b.ImageTag == c.ImageTag {
					build(&row, b)
					row.Unlinked = false
				}
			}
			row.Ring = c.Ring
			if c.Kind == waybill.ReportConfig {
				change(&row, c, reports)
			} else {
				row.Manifest, row.ManifestCommit, row.Status = c.Run, c.ManifestCommit, waybill.DeploymentComplete
				row.Duration += took(c)
				row.Updated = c.Time
			}
			where(&row, reports)
		case c.Kind == waybill.ReportManifest:
			known := false
			for j := range reports {
				if x := &reports[j]; x.Kind == waybill.ReportConfig && x.PullRequest == c.PullRequest && x.ConfigRepo == c.ConfigRepo {
					known = true
				}
			}
			if known {
				continue
			}
			row = Row{
				Kind: waybill.DeploymentManual, ConfigCommit: c.ConfigCommit, Manifest: c.Run, ManifestCommit: c.ManifestCommit,
				Status: waybill.DeploymentComplete, Updated: c.Time, Duration: took(c),
			}
			if c.Status == waybill.StatusFailed {
				row.Status = waybill.DeploymentFailed
			}
		default:
			continue
		}
		out = append(out, row)
	}
	sort.SliceStable(out, func(i, j int) bool {
		if !out[i].Updated.Equal(out[j].Updated) {
			return out[i].Updated.After(out[j].Updated)
		}
		return out[i].Ring+out[i].ImageTag < out[j].Ring+out[j].ImageTag
	})
	return out
}

func build(row *Row, b *waybill.DeliveryReport) {
	row.Service, row.ImageTag, row.Commit, row.Build, row.Updated = b.Service, b.ImageTag, b.Commit, b.Run, b.Time
	row.Duration += took(b)
}

func took(r *waybill.DeliveryReport) time.Duration {
	end := r.FinishedAt
	if end.IsZero() {
		end = Now
	}
	return end.Sub(r.QueuedAt)
}

// change adds what became of a change of the configuration.
func change(row *Row, c *waybill.DeliveryReport, reports []waybill.DeliveryReport) {
	row.Config, row.ConfigCommit, row.PullRequest, row.Updated = c.Run, c.ConfigCommit, c.PullRequest, c.Time
	row.Status = waybill.DeploymentIncomplete
	row.Duration += took(c)
	if c.Status == waybill.StatusFailed {
		row.Status = waybill.DeploymentFailed
	}
	for j := range reports {
		v := &reports[j]
		if v.Kind != waybill.ReportReview || v.PullRequest != c.PullRequest || v.ConfigRepo != c.ConfigRepo {
			continue
		}
		if v.Review == waybill.ReviewOpen {
			row.Status = waybill.DeploymentWaiting
		}
		if v.Review == waybill.ReviewClosed {
			row.Status = waybill.DeploymentCanceled
		}
	}
	for j := range reports {
		m := &reports[j]
		if m.Kind != waybill.ReportManifest || m.PullRequest != c.PullRequest || m.ConfigRepo != c.ConfigRepo {
			continue
		}
		row.Manifest, row.ConfigCommit, row.Updated, row.Status = m.Run, m.ConfigCommit, m.Time, waybill.DeploymentInProgress
		end := Now
		for k := range reports {
			e := &reports[k]
			if e.Kind != waybill.ReportRun || e.Run != m.Run {
				continue
			}
			row.Updated, row.ManifestCommit, end = e.Time, e.ManifestCommit, e.FinishedAt
			switch e.Status {
			case waybill.StatusSucceeded:
				row.Status = waybill.DeploymentComplete
			case waybill.StatusFailed:
				row.Status = waybill.DeploymentFailed
			case waybill.StatusCanceled:
				row.Status = waybill.DeploymentCanceled
			}
		}
		row.Duration += end.Sub(m.QueuedAt)
	}
}

// where adds what clusters told of the manifests.
func where(row *Row, reports []waybill.DeliveryReport) {
	row.Clusters, row.Healthy, row.Failed = map[string]waybill.ClusterState{}, map[string]time.Time{}, map[string]time.Time{}
	last := map[string]time.Time{}
	for j := range reports {
		y := &reports[j]
		if y.Kind != waybill.ReportSync || row.ManifestCommit == "" || y.ManifestCommit != row.ManifestCommit {
			continue
		}
		if y.Time.After(last[y.Cluster]) {
			last[y.Cluster], row.Clusters[y.Cluster] = y.Time, y.ClusterState
		}
		if y.ClusterState == waybill.ClusterHealthy {
			row.Healthy[y.Cluster] = y.Time
		}
		if y.ClusterState == waybill.ClusterFailed {
			row.Failed[y.Cluster] = y.Time
		}
	}
}

// Count is how many rows a condition holds for.
func Count(rows []Row, is func(*Row) bool) int {
	n := 0
	for i := range rows {
		if is(&rows[i]) {
			n++
		}
	}
	return n
}
