package delivery

import (
	"cmp"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// part is one thing that reports tell of: an image that was built, a configuration that
// names an image for a ring, manifests made of a configuration, a run, a pull request,
// a cluster at a revision. Reports of the same thing are folded into one part, and
// rows are views over parts. All references are folded (see fold) but those that are
// only shown.
type part struct {
	Key       string             `json:"key"` // kind/16 digits, unique in its partition
	Kind      waybill.ReportKind `json:"kind"`
	Partition string             `json:"partition"`
	Seq       int64              `json:"seq"`   // of its first event
	First     time.Time          `json:"first"` // earliest report by its time
	Last      time.Time          `json:"last"`  // latest

	Service        string    `json:"service,omitempty"`
	Tag            string    `json:"tag,omitempty"`
	Digests        []string  `json:"digests,omitempty"` // newest last
	Commit         string    `json:"commit,omitempty"`
	CommittedAt    time.Time `json:"committed_at,omitzero"`
	Ring           string    `json:"ring,omitempty"`
	ConfigCommit   string    `json:"config_commit,omitempty"`
	PR             string    `json:"pr,omitempty"`
	ManifestCommit string    `json:"manifest_commit,omitempty"`
	SourceRepo     string    `json:"source_repo,omitempty"` // as it is shown
	ConfigRepo     string    `json:"config_repo,omitempty"`
	ManifestRepo   string    `json:"manifest_repo,omitempty"`
	BuildRun       string    `json:"build_run,omitempty"`
	Direct         bool      `json:"direct,omitempty"`

	Stage waybill.Stage      `json:"stage,omitempty"` // of a run
	Runs  []waybill.StageRun `json:"runs,omitempty"`

	Author    *waybill.Person           `json:"author,omitempty"` // of a commit
	Review    *waybill.DeploymentReview `json:"review,omitempty"`
	URL       string                    `json:"url,omitempty"`
	Cluster   string                    `json:"cluster,omitempty"`
	State     waybill.ClusterState      `json:"state,omitempty"`
	StateAt   time.Time                 `json:"state_at,omitzero"`
	AppliedAt time.Time                 `json:"applied_at,omitzero"`
	HealthyAt time.Time                 `json:"healthy_at,omitzero"`
	FailedAt  time.Time                 `json:"failed_at,omitzero"`
	Message   string                    `json:"message,omitempty"`
	Parents   []string                  `json:"parents,omitempty"` // of a commit of the history
	Told      bool                      `json:"told,omitempty"`    // its parents are known
	Tip       string                    `json:"tip,omitempty"`     // where a cluster came to last
	TipAt     time.Time                 `json:"tip_at,omitzero"`
	Marks     map[string]mark           `json:"marks,omitempty"`    // by lane
	Tied      []string                  `json:"tied,omitempty"`     // parts that somebody said it belongs to
	ShowTag   string                    `json:"show_tag,omitempty"` // as they were first written
	ShowName  string                    `json:"show_name,omitempty"`
	Row       string                    `json:"row,omitempty"`      // the row it has
	Unlinked  string                    `json:"unlinked,omitempty"` // why it is in the inbox
	Events    []string                  `json:"events,omitempty"`   // that told of it, in order
}

// newer reports whether what a report of time t says counts over what is there.
func (p *part) newer(t time.Time) bool { return !t.Before(p.Last) }

// take sets a field to what a report says, unless a later report said otherwise.
func (p *part) take(dst *string, v string, t time.Time) {
	if v != "" && (*dst == "" || p.newer(t)) {
		*dst = v
	}
}

// takeCommit is take for commits: a longer spelling of the same one is kept.
func (p *part) takeCommit(dst *string, v string, t time.Time) {
	if sameCommit(*dst, v) {
		if len(v) > len(*dst) {
			*dst = v
		}
		return
	}
	p.take(dst, v, t)
}

// absorb folds a report into the part. r's references are folded already.
func (p *part) absorb(r *waybill.DeliveryReport, event string) {
	t := r.Time
	p.takeCommit(&p.Commit, r.Commit, t)
	p.takeCommit(&p.ConfigCommit, r.ConfigCommit, t)
	p.take(&p.Service, r.Service, t)
	p.take(&p.Tag, r.ImageTag, t)
	p.take(&p.Ring, r.Ring, t)
	p.take(&p.PR, r.PullRequest, t)
	p.take(&p.SourceRepo, r.SourceRepo, t)
	p.take(&p.ConfigRepo, r.ConfigRepo, t)
	p.take(&p.ManifestRepo, r.ManifestRepo, t)
	p.take(&p.BuildRun, r.BuildRun, t)
	p.take(&p.URL, r.URL, t)
	if !r.CommittedAt.IsZero() && (p.CommittedAt.IsZero() || p.newer(t)) {
		p.CommittedAt = r.CommittedAt
	}
	takePerson(&p.Author, r.Author, p.newer(t))
	// Manifests that a run made are those of the run.
	if p.Direct || p.Kind == waybill.ReportSync || p.Kind == waybill.ReportManifest && r.Run == "" {
		p.takeCommit(&p.ManifestCommit, r.ManifestCommit, t)
	}
	if r.ImageDigest != "" && !slices.Contains(p.Digests, r.ImageDigest) {
		if p.newer(t) || len(p.Digests) == 0 {
			p.Digests = append(p.Digests, r.ImageDigest)
		} else {
			p.Digests = slices.Insert(p.Digests, len(p.Digests)-1, r.ImageDigest)
		}
	}
	switch p.Kind {
	case waybill.ReportBuild, waybill.ReportConfig, waybill.ReportManifest, waybill.ReportRun:
		if r.Run != "" {
			p.Runs = addRun(p.Runs, runOf(r))
		}
	case waybill.ReportReview:
		p.absorbReview(r)
	case waybill.ReportSync:
		p.absorbSync(r)
	}
	if p.First.IsZero() || t.Before(p.First) {
		p.First = t
	}
	if t.After(p.Last) {
		p.Last = t
	}
	p.Events = append(p.Events, event)
}

func (p *part) absorbReview(r *waybill.DeliveryReport) {
	if p.Review == nil {
		p.Review = &waybill.DeploymentReview{}
	}
	v, t := p.Review, r.Time
	p.take((*string)(&v.State), string(r.Review), t)
	p.take(&v.ApprovedBy, r.ApprovedBy, t)
	p.take(&v.MergedBy, r.MergedBy, t)
	p.takeCommit(&v.MergeCommit, r.MergeCommit, t)
	p.take(&v.URL, r.URL, t)
	p.take(&v.Title, r.Title, t)
	p.take(&v.SourceBranch, r.SourceBranch, t)
	p.take(&v.TargetBranch, r.TargetBranch, t)
	takePerson(&v.Merger, r.Merger, p.newer(t))
	if t.After(v.UpdatedAt) {
		v.UpdatedAt = t
	}
}

func (p *part) absorbSync(r *waybill.DeliveryReport) {
	if p.State == "" || p.newer(r.Time) {
		p.State, p.StateAt, p.Message = r.ClusterState, r.Time, r.Message
	}
	if r.ClusterState == waybill.ClusterApplied && (p.AppliedAt.IsZero() || r.Time.Before(p.AppliedAt)) {
		p.AppliedAt = r.Time
	}
	if r.ClusterState == waybill.ClusterHealthy && (p.HealthyAt.IsZero() || r.Time.Before(p.HealthyAt)) {
		p.HealthyAt = r.Time
	}
	if r.ClusterState == waybill.ClusterFailed && (p.FailedAt.IsZero() || r.Time.Before(p.FailedAt)) {
		p.FailedAt = r.Time
	}
}

func runOf(r *waybill.DeliveryReport) waybill.StageRun {
	var told time.Time
	if r.Status != "" {
		told = r.Time
	}
	source := ""
	if r.Kind == waybill.ReportRun {
		source = r.Commit
	}
	return waybill.StageRun{
		StatusAt: told, StartedAt: r.StartedAt, Number: r.Number, Branch: r.Branch, Source: source, Expired: r.Expired,
		Run: r.Run, Attempt: r.Attempt, URL: r.URL, Status: r.Status, QueuedAt: r.QueuedAt, FinishedAt: r.FinishedAt,
		SeenAt: r.Time, UpdatedAt: r.Time, Commit: r.ManifestCommit,
	}
}

// addRun folds what is known of a run into a list, which is kept in the order in which
// the runs were first told of. The lists given are not changed.
func addRun(runs []waybill.StageRun, x waybill.StageRun) []waybill.StageRun {
	runs = slices.Clone(runs)
	i := slices.IndexFunc(runs, func(r waybill.StageRun) bool { return r.Run == x.Run && r.Attempt == x.Attempt })
	if i < 0 {
		runs = append(runs, x)
	} else {
		runs[i] = foldRun(runs[i], x)
	}
	slices.SortStableFunc(runs, func(a, b waybill.StageRun) int {
		return cmp.Or(a.SeenAt.Compare(b.SeenAt), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Attempt, b.Attempt))
	})
	return runs
}

// foldRun is what two reports of one run say together.
func foldRun(a, x waybill.StageRun) waybill.StageRun {
	first, last := a, x
	if x.UpdatedAt.Before(a.UpdatedAt) {
		first, last = x, a
	}
	out := first
	if last.URL != "" {
		out.URL = last.URL
	}
	// A run that has ended does not begin again: what is told late of its life is old news.
	out.Status, out.StatusAt = a.Status, a.StatusAt
	if later := !x.StatusAt.Before(a.StatusAt); x.Status != "" && (a.Status == "" ||
		x.Status.Terminal() && (later || !a.Status.Terminal()) || later && !a.Status.Terminal()) {
		out.Status, out.StatusAt = x.Status, x.StatusAt
	}
	tellMore(&out, &last)
	if !last.QueuedAt.IsZero() {
		out.QueuedAt = last.QueuedAt
	}
	if !last.FinishedAt.IsZero() {
		out.FinishedAt = last.FinishedAt
	}
	switch {
	case sameCommit(out.Commit, last.Commit):
		if len(last.Commit) > len(out.Commit) {
			out.Commit = last.Commit
		}
	case last.Commit != "":
		out.Commit = last.Commit
	}
	out.UpdatedAt = last.UpdatedAt
	if x.SeenAt.Before(out.SeenAt) {
		out.SeenAt = x.SeenAt
	}
	if a.SeenAt.Before(out.SeenAt) {
		out.SeenAt = a.SeenAt
	}
	return out
}

// Kinds of references. A reference leads from a value to the parts that carry it.
const (
	refTag    = "tag"
	refDigest = "digest"
	refSource = "source"   // commit
	refConfig = "config"   // commit
	refMan    = "manifest" // commit
	refPR     = "pr"
	refRun    = "run" // stage:run
	refTied   = "tied"
)

// refs are the references of a part, as "kind of part:kind of reference:value".
func (p *part) refs() []string {
	if p.Kind == partCluster {
		return nil
	}
	var out []string
	add := func(kind, value string) {
		if value != "" {
			out = append(out, refKey(p.Kind, kind, value))
		}
	}
	add(refTag, p.Tag)
	for _, d := range p.Digests {
		add(refDigest, d)
	}
	add(refSource, short(p.Commit))
	add(refConfig, short(p.ConfigCommit))
	add(refMan, short(p.ManifestCommit))
	add(refPR, p.PR)
	for _, r := range p.Runs {
		add(refRun, string(p.stage())+":"+r.Run)
		if !p.Direct {
			add(refMan, short(r.Commit))
		} else if r.Commit != "" && !sameCommit(r.Commit, p.ManifestCommit) {
			add(refMan, short(r.Commit))
		}
	}
	if p.Review != nil {
		add(refConfig, short(p.Review.MergeCommit))
	}
	for _, t := range p.Tied {
		add(refTied, t)
	}
	for _, c := range p.Parents {
		add(refParent, short(c))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func refKey(part waybill.ReportKind, kind, value string) string {
	return string(part) + ":" + kind + ":" + value
}

// stage is the stage that the runs of a part are of.
func (p *part) stage() waybill.Stage {
	switch p.Kind {
	case waybill.ReportBuild:
		return waybill.StageBuild
	case waybill.ReportConfig:
		if p.Direct {
			return waybill.StageManifest
		}
		return waybill.StageConfig
	case waybill.ReportManifest:
		return waybill.StageManifest
	case waybill.ReportRun:
		return p.Stage
	}
	return ""
}
