package delivery

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// view is the row of a part, and the parts that it is made of. It is nil when the part
// has none: a build that a configuration uses, manifests of a known configuration and
// a report that another one says better are part of other rows.
type view struct {
	row   *waybill.Deployment
	parts []*part
}

// view makes the row of a part and says why the part belongs into the inbox.
func (s *state) view(p *part) (*view, string) {
	switch p.Kind {
	case waybill.ReportBuild:
		for _, c := range s.configs(p) {
			b, _, doubt := s.resolve(c)
			if b == p && len(s.subsumed(c)) == 0 {
				return nil, ""
			}
			if slices.Contains(doubt, p) && len(s.subsumed(c)) == 0 {
				v := s.compose(p, nil, nil)
				v.row.Unlinked = "ambiguous: a deployment of " + p.image() + " can be of this build or of another"
				return v, ""
			}
		}
		return s.compose(p, nil, nil), ""
	case waybill.ReportConfig:
		if len(s.subsumed(p)) > 0 {
			return nil, ""
		}
		b, why, _ := s.resolve(p)
		ms := s.manifests(p)
		for _, x := range s.without(p) {
			ms = append(ms, keep(s.manifests(x), func(m *part) bool { return !slices.Contains(ms, m) })...)
		}
		slices.SortStableFunc(ms, func(a, b *part) int { return cmp.Or(a.First.Compare(b.First), cmp.Compare(a.Key, b.Key)) })
		v := s.compose(b, p, ms)
		v.row.Unlinked = why
		return v, why
	case waybill.ReportManifest:
		if linked, near := s.targets(p); len(linked) > 0 {
			return nil, ""
		} else if len(near) > 0 {
			v := s.compose(nil, nil, []*part{p})
			v.row.Unlinked = "ambiguous: several repositories have the pull request of " + cmp.Or(p.ConfigCommit, p.PR) + "; name the repository of the configuration"
			return v, v.row.Unlinked
		}
		return s.compose(nil, nil, []*part{p}), ""
	case waybill.ReportRun:
		for _, kind := range []waybill.ReportKind{waybill.ReportBuild, waybill.ReportConfig, waybill.ReportManifest} {
			if slices.ContainsFunc(s.runs(kind, p), func(x *part) bool { return x.stage() == p.Stage }) {
				return nil, ""
			}
		}
		if len(p.Tied) > 0 {
			return nil, ""
		}
		if p.Stage == waybill.StageManifest && slices.ContainsFunc(p.Runs, func(r waybill.StageRun) bool { return r.Commit != "" }) {
			return nil, "no manifests of run " + p.Runs[0].Run + " were reported"
		}
		return nil, "" // the status of a run that nobody told of is nothing to look after
	}
	return nil, ""
}

// runs are the parts of a kind that share a run with p.
func (s *state) runs(kind waybill.ReportKind, p *part) []*part {
	var out []*part
	for _, r := range p.Runs {
		out = union(out, s.find(kind, refRun, string(p.stage())+":"+r.Run))
	}
	return out
}

// compose makes a row of a build, a configuration and the manifests of it; each may be
// missing.
func (s *state) compose(b, c *part, ms []*part) *view {
	d := &waybill.Deployment{Kind: waybill.DeploymentRegular}
	v := &view{row: d}
	var subsumed []*part
	if c != nil {
		subsumed = s.without(c)
	}
	if b != nil {
		v.parts = append(v.parts, b)
		d.Build = s.stageOf(waybill.StageBuild, v, b)
		d.Service, d.ImageTag, d.Commit, d.CommittedAt, d.SourceRepo = cmp.Or(b.ShowName, b.Service), cmp.Or(b.ShowTag, b.Tag), b.Commit, b.CommittedAt, b.SourceRepo
		d.ImageDigest = lastOf(b.Digests)
	}
	if c != nil {
		v.parts = append(v.parts, c)
		v.parts = append(v.parts, subsumed...)
		d.Service = cmp.Or(d.Service, c.ShowName, c.Service)
		d.ImageTag = cmp.Or(d.ImageTag, c.ShowTag, c.Tag)
		d.ImageDigest = cmp.Or(lastOf(c.Digests), d.ImageDigest)
		d.Commit, d.SourceRepo = cmp.Or(d.Commit, c.Commit), cmp.Or(d.SourceRepo, c.SourceRepo)
		d.Ring, d.ConfigCommit, d.ConfigRepo, d.PullRequest, d.Direct = c.Ring, c.ConfigCommit, c.ConfigRepo, c.PR, c.Direct
		d.ManifestRepo = c.ManifestRepo
		if c.Direct {
			d.Manifest = s.stageOf(waybill.StageManifest, v, append([]*part{c}, subsumed...)...)
			d.ManifestCommit = c.ManifestCommit
		} else {
			d.Config = s.stageOf(waybill.StageConfig, v, append([]*part{c}, subsumed...)...)
		}
		for _, x := range append([]*part{c}, subsumed...) {
			d.PullRequest, d.ConfigRepo = cmp.Or(d.PullRequest, x.PR), cmp.Or(d.ConfigRepo, x.ConfigRepo)
			for _, r := range s.reviews(x) {
				if d.Review == nil {
					v.parts = append(v.parts, r)
					review := *r.Review
					d.Review = &review
				}
			}
		}
	}
	if len(ms) > 0 {
		v.parts = append(v.parts, ms...)
		d.Manifest = s.stageOf(waybill.StageManifest, v, ms...)
		for _, m := range ms {
			if m.ConfigCommit != "" {
				// The commit that manifests were made of replaces that of the branch.
				if !sameCommit(d.ConfigCommit, m.ConfigCommit) || len(m.ConfigCommit) > len(d.ConfigCommit) {
					d.ConfigCommit = m.ConfigCommit
				}
			}
			d.PullRequest = cmp.Or(d.PullRequest, m.PR)
			d.ConfigRepo = cmp.Or(d.ConfigRepo, m.ConfigRepo)
			d.ManifestRepo = cmp.Or(m.ManifestRepo, d.ManifestRepo)
			d.Ring = cmp.Or(d.Ring, m.Ring)
			d.ManifestCommit = cmp.Or(m.ManifestCommit, d.ManifestCommit)
		}
		if c == nil {
			d.Kind = waybill.DeploymentManual
		}
	}
	if d.Review != nil && sameCommit(d.ConfigCommit, d.Review.MergeCommit) && len(d.Review.MergeCommit) > len(d.ConfigCommit) {
		d.ConfigCommit = d.Review.MergeCommit
	}
	var commits []string
	if d.ManifestCommit != "" {
		commits = append(commits, d.ManifestCommit)
	}
	if d.Manifest != nil {
		for _, r := range d.Manifest.Runs {
			if r.Commit != "" {
				commits = append(commits, r.Commit)
				if !sameCommit(d.ManifestCommit, r.Commit) || len(r.Commit) > len(d.ManifestCommit) {
					d.ManifestCommit = r.Commit
				}
			}
		}
	}
	for _, x := range v.parts { // what only the report of a run knew
		if x.Kind == waybill.ReportRun && x.Stage == waybill.StageManifest {
			d.ManifestRepo = cmp.Or(d.ManifestRepo, x.ManifestRepo)
			d.ConfigRepo = cmp.Or(d.ConfigRepo, x.ConfigRepo)
		}
		if x.Kind == waybill.ReportRun && x.Stage == waybill.StageBuild {
			d.SourceRepo = cmp.Or(d.SourceRepo, x.SourceRepo)
		}
	}
	if c != nil {
		s.clusters(v, c, d, commits)
	}
	s.author(v)
	for _, x := range v.parts {
		d.Partition = x.Partition
		// A cluster may have been told of long before; a row begins with what was made.
		if x.Kind != waybill.ReportSync && x.Kind != waybill.ReportReview && x.Kind != waybill.ReportCommit && (d.CreatedAt.IsZero() || x.First.Before(d.CreatedAt)) {
			d.CreatedAt = x.First
		}
	}
	for _, st := range []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest} {
		if st != nil && !st.UpdatedAt.IsZero() {
			d.UpdatedAt = st.UpdatedAt
		}
	}
	if d.UpdatedAt.IsZero() {
		d.UpdatedAt = d.CreatedAt
	}
	d.Status, d.Reason = status(d)
	return v
}

func lastOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// stageOf is the stage that the runs of parts make together.
func (s *state) stageOf(stage waybill.Stage, v *view, parts ...*part) *waybill.DeploymentStage {
	out := &waybill.DeploymentStage{Stage: stage, Runs: []waybill.StageRun{}}
	for _, p := range parts {
		for _, r := range p.Runs {
			out.Runs = addRun(out.Runs, r)
			for _, x := range s.extra(stage, r.Run) {
				if !slices.Contains(v.parts, x) && fits(x.scope(), p.scope()) {
					v.parts = append(v.parts, x)
				}
			}
		}
		if p.Last.After(out.UpdatedAt) && len(p.Runs) == 0 {
			out.UpdatedAt = p.Last
		}
	}
	for _, p := range parts {
		for _, x := range s.find(waybill.ReportRun, refTied, p.Key) {
			if x.Stage == stage && !slices.Contains(v.parts, x) {
				v.parts = append(v.parts, x)
			}
		}
	}
	for _, x := range v.parts {
		if x.Kind != waybill.ReportRun || x.Stage != stage {
			continue
		}
		for _, r := range x.Runs {
			out.Runs = addExtra(out.Runs, r)
		}
	}
	if last := out.Last(); last != nil {
		out.Status = last.Status
		out.UpdatedAt = later(out.UpdatedAt, later(last.UpdatedAt, last.FinishedAt))
	}
	return out
}

// addExtra folds in what is said of a run by its number alone: an attempt that was not
// named is the last one.
func addExtra(runs []waybill.StageRun, x waybill.StageRun) []waybill.StageRun {
	if x.Attempt == 0 {
		for _, r := range runs {
			if r.Run == x.Run && r.Attempt > x.Attempt {
				x.Attempt = r.Attempt
			}
		}
	} else if i := slices.IndexFunc(runs, func(r waybill.StageRun) bool { return r.Run == x.Run && r.Attempt == 0 }); i >= 0 {
		// The first report named no attempt; it was of the first.
		if x.Attempt == 1 {
			x.Attempt = 0
		}
	}
	return addRun(runs, x)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// clusters adds where a row is.
func (s *state) clusters(v *view, c *part, d *waybill.Deployment, commits []string) {
	byName := map[string]waybill.DeploymentCluster{}
	add := func(x waybill.DeploymentCluster) {
		old, ok := byName[x.Cluster]
		if ok {
			if old.UpdatedAt.After(x.UpdatedAt) {
				old, x = x, old
			}
			if old.Since.Before(x.Since) {
				x.Since = old.Since
			}
			x.HealthyAt, x.FailedAt = earliest(old.HealthyAt, x.HealthyAt), earliest(old.FailedAt, x.FailedAt)
		}
		byName[x.Cluster] = x
	}
	revisions := map[string]bool{}
	for _, m := range commits {
		at := s.at(m, d.Ring, d.Service)
		for _, lane := range slices.Sorted(maps.Keys(at)) {
			add(at[lane])
			revisions[at[lane].Revision] = true
		}
	}
	for _, m := range slices.Sorted(maps.Keys(revisions)) { // the reports that say so
		v.parts = union2(v.parts, keep(s.find(waybill.ReportSync, refMan, short(m)), func(y *part) bool {
			return sameCommit(y.ManifestCommit, m) && holdsOf(y.lane(), d.Ring, d.Service)
		}))
	}
	for _, y := range s.images(waybill.ReportSync, c) {
		// An image says nothing of rings: without one the cluster runs it for none of them.
		if y.ManifestCommit != "" || y.Ring == "" || y.Ring != d.Ring || !fits(y.Service, c.Service) ||
			len(y.Digests) > 0 && len(c.Digests) > 0 && !slices.ContainsFunc(y.Digests, func(d string) bool { return slices.Contains(c.Digests, d) }) {
			continue
		}
		v.parts = union2(v.parts, []*part{y})
		x := told(y)
		x.Match, x.Revision = "image", y.image()
		add(x)
	}
	for _, x := range byName {
		d.Clusters = append(d.Clusters, x)
	}
	slices.SortFunc(d.Clusters, func(a, b waybill.DeploymentCluster) int { return strings.Compare(a.Cluster, b.Cluster) })
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
