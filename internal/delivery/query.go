package delivery

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

func orDefault(partition string) string {
	return cmp.Or(strings.TrimSpace(partition), DefaultPartition)
}

// read is a state to look at.
func (s *Service) read(ctx context.Context, partition string) *state {
	return newState(newStored(ctx, s.o.Store), orDefault(partition))
}

// Deployment implements waybill.Deliveries.
func (s *Service) Deployment(ctx context.Context, partition, id string) (waybill.DeploymentDetail, error) {
	st := s.read(ctx, partition)
	d := st.rowOf(id)
	if st.err != nil {
		return waybill.DeploymentDetail{}, st.err
	}
	if d == nil {
		return waybill.DeploymentDetail{}, noRow(id)
	}
	out := waybill.DeploymentDetail{Deployment: *st.supersede(d), Events: []waybill.DeliveryEvent{}}
	anchor, _ := st.anchors(d.ID)
	if anchor == nil {
		return out, st.err // it has changed since it was read
	}
	seen := map[string]bool{}
	var keys []string
	if v, _ := st.view(anchor); v != nil {
		for _, p := range v.parts {
			for _, e := range p.Events {
				if !seen[e] {
					seen[e] = true
					keys = append(keys, rowKey(st.partition, e))
				}
			}
		}
	}
	if st.err != nil {
		return out, st.err
	}
	records, err := s.records(ctx, keys)
	if err != nil {
		return out, err
	}
	for _, r := range records {
		out.Events = append(out.Events, r.DeliveryEvent)
	}
	slices.SortFunc(out.Events, func(a, b waybill.DeliveryEvent) int { return cmp.Compare(a.Seq, b.Seq) })
	return out, nil
}

// supersede marks the clusters in which another deployment came after a row. One of the
// same manifest commit and image did not: the cluster runs both. The row is not changed.
func (s *state) supersede(d *waybill.Deployment) *waybill.Deployment {
	home := homeKey(d)
	if len(d.Clusters) == 0 || home == "" {
		return d
	}
	m := s.summary(home)
	if m == nil {
		return d
	}
	c := *d
	c.Clusters = slices.Clone(d.Clusters)
	for i := range c.Clusters {
		cluster := c.Clusters[i].Cluster
		_, there := m.Now[cluster]
		now, ok := s.now(home, m, cluster)
		switch {
		case !there:
		case !ok:
			c.Clusters[i].State = waybill.ClusterSuperseded
		case now.Deployment != d.ID && !(sameCommit(now.Commit, d.ManifestCommit) && fold(now.ImageTag) == fold(d.ImageTag)):
			c.Clusters[i].State = waybill.ClusterSuperseded
		}
	}
	return &c
}

// Deployments implements waybill.Deliveries.
func (s *Service) Deployments(ctx context.Context, f waybill.DeploymentFilter) (waybill.Page[waybill.Deployment], error) {
	out := waybill.Page[waybill.Deployment]{Items: []waybill.Deployment{}}
	st := s.read(ctx, f.Partition)
	if f.Limit < 0 || f.Limit > 1000 {
		return out, waybill.E(waybill.KindInvalid, "limit %d is not between 1 and 1000", f.Limit)
	}
	q := store.Query{Table: tableRow, Limit: cmp.Or(f.Limit, 50), Desc: !f.Asc, After: f.Cursor}
	where := func(column string, op store.Op, value any) {
		q.Where = append(q.Where, store.Where{Column: column, Op: op, Value: value})
	}
	where("part", store.Eq, escape(st.partition))
	switch cmp.Or(f.Sort, waybill.SortUpdated) {
	case waybill.SortUpdated, waybill.SortCreated, waybill.SortRing:
		q.Order = string(cmp.Or(f.Sort, waybill.SortUpdated))
	case waybill.SortService:
		q.Order = "shown"
	default:
		return out, waybill.E(waybill.KindInvalid, "deployments cannot be sorted by %.40q; want updated, created, service or ring", f.Sort)
	}
	if f.ID != "" {
		d := st.rowOf(f.ID)
		if st.err != nil || d == nil {
			return out, st.err
		}
		where("key", store.Eq, rowKey(st.partition, d.ID))
	}
	if service := fold(f.Service); strings.Count(service, "/") == 1 {
		where("service", store.Eq, bounded(service))
	} else if service != "" {
		where("shown", store.Eq, bounded(service))
	}
	for _, x := range []struct{ column, value string }{
		{"build", bounded(fold(f.Build))}, {"source", short(f.Commit)}, {"tag", bounded(fold(f.ImageTag))}, {"ring", bounded(fold(f.Ring))}, {"kind", fold(f.Kind)},
	} {
		if x.value != "" {
			where(x.column, store.Eq, x.value)
		}
	}
	if len(f.Statuses) > 0 {
		var list []string
		for _, x := range f.Statuses {
			if !slices.Contains(waybill.DeploymentStatuses(), x) {
				return out, waybill.E(waybill.KindInvalid, "status %.40q of a deployment is not known", x)
			}
			list = append(list, string(x))
		}
		where("status", store.In, list)
	}
	if f.Unlinked {
		where("inbox", store.Eq, escape(st.partition))
	}
	if !f.Since.IsZero() {
		where("updated", store.Ge, f.Since.UnixMilli())
	}
	if !f.Until.IsZero() {
		where("updated", store.Lt, f.Until.UnixMilli())
	}
	page, err := s.list(ctx, q)
	if err != nil {
		return out, err
	}
	for _, x := range page.Rows {
		d := &waybill.Deployment{}
		if err := json.Unmarshal(x.Val, d); err != nil {
			return out, err
		}
		if f.Commit != "" && !sameCommit(f.Commit, d.Commit) {
			continue // another commit that begins with the same seven digits
		}
		out.Items = append(out.Items, *st.supersede(d))
	}
	out.Next = page.Next
	return out, st.err
}

// Trace implements waybill.Deliveries.
func (s *Service) Trace(ctx context.Context, partition, ref string) ([]waybill.Trace, error) {
	st := s.read(ctx, partition)
	name := strings.TrimLeft(fold(ref), "#!")
	found := map[string]string{} // row → what led to it
	var order []string
	note := func(id, what string) {
		if id != "" && found[id] == "" {
			found[id] = what
			order = append(order, id)
		}
	}
	if d := st.rowOf(name); d != nil {
		note(d.ID, "id")
	}
	commit := func(of func(*part) []string) func(*part) bool {
		return func(p *part) bool {
			return slices.ContainsFunc(of(p), func(c string) bool { return sameCommit(c, name) })
		}
	}
	all := func(*part) bool { return true }
	for _, x := range []struct {
		part       waybill.ReportKind
		kind, what string
		value      string
		ok         func(*part) bool
	}{
		{waybill.ReportBuild, refSource, "commit", short(name), commit(func(p *part) []string { return []string{p.Commit} })},
		{waybill.ReportConfig, refSource, "commit", short(name), commit(func(p *part) []string { return []string{p.Commit} })},
		{waybill.ReportBuild, refTag, "image_tag", name, all},
		{waybill.ReportConfig, refTag, "image_tag", name, all},
		{waybill.ReportBuild, refDigest, "image_digest", name, all},
		{waybill.ReportConfig, refDigest, "image_digest", name, all},
		{waybill.ReportConfig, refConfig, "config_commit", short(name), commit(func(p *part) []string { return []string{p.ConfigCommit} })},
		{waybill.ReportManifest, refConfig, "config_commit", short(name), commit(func(p *part) []string { return []string{p.ConfigCommit} })},
		{waybill.ReportConfig, refPR, "pull_request", name, all},
		{waybill.ReportManifest, refPR, "pull_request", name, all},
		{waybill.ReportConfig, refMan, "manifest_commit", short(name), commit(commitsOf)},
		{waybill.ReportManifest, refMan, "manifest_commit", short(name), commit(commitsOf)},
		{waybill.ReportRun, refMan, "manifest_commit", short(name), commit(commitsOf)},
		{waybill.ReportBuild, refRun, "build_run", "build:" + name, all},
		{waybill.ReportConfig, refRun, "config_run", "config:" + name, all},
		{waybill.ReportConfig, refRun, "manifest_run", "manifest:" + name, all},
		{waybill.ReportManifest, refRun, "manifest_run", "manifest:" + name, all},
	} {
		if name == "" {
			break
		}
		for _, p := range keep(st.find(x.part, x.kind, x.value), x.ok) {
			for _, id := range st.rowsOf(p) {
				note(id, x.what)
			}
		}
	}
	out := []waybill.Trace{}
	for _, id := range order {
		if d := st.row(id); d != nil {
			d = st.supersede(d)
			out = append(out, waybill.Trace{Deployment: *d, Found: found[id], Hops: hops(d)})
		}
	}
	if st.err != nil {
		return nil, st.err
	}
	if len(out) == 0 {
		return nil, waybill.E(waybill.KindNotFound, "%.100q is no commit, image, pull request, run or deployment that was reported in partition %.40q", ref, st.partition).
			WithHint("commits need seven digits at least, and references are those that were reported")
	}
	slices.SortStableFunc(out, func(a, b waybill.Trace) int {
		return cmp.Or(b.Deployment.UpdatedAt.Compare(a.Deployment.UpdatedAt), cmp.Compare(a.Deployment.ID, b.Deployment.ID))
	})
	return out, nil
}

// commitsOf are the commits of manifests that a part knows.
func commitsOf(p *part) []string {
	out := []string{p.ManifestCommit}
	for _, r := range p.Runs {
		out = append(out, r.Commit)
	}
	return out
}

// rowsOf are the rows that a part is in.
func (s *state) rowsOf(p *part) []string {
	if p.Row != "" {
		return []string{p.Row}
	}
	var out []string
	var in []*part
	switch p.Kind {
	case waybill.ReportBuild:
		in = keep(s.configs(p), func(c *part) bool { b, _, _ := s.resolve(c); return b == p })
	case waybill.ReportRun:
		for _, x := range union(s.runs(waybill.ReportBuild, p), s.runs(waybill.ReportConfig, p), s.runs(waybill.ReportManifest, p), resolveKeys(s, p.Tied)) {
			out = append(out, s.rowsOf(x)...)
		}
		return out
	default:
		in = s.uses(p)
	}
	for _, c := range in {
		if c.Row != "" {
			out = append(out, c.Row)
		} else if c != p {
			for _, o := range s.subsumed(c) {
				out = append(out, o.Row)
			}
		}
	}
	return out
}

// hops are the lines of a trace.
func hops(d *waybill.Deployment) []waybill.Hop {
	var out []waybill.Hop
	add := func(stage waybill.Stage, what string, st *waybill.DeploymentStage, link string) {
		h := waybill.Hop{Stage: stage, What: what}
		if st != nil {
			h.Status, h.Time = string(st.Status), st.UpdatedAt
			if r := st.Last(); r != nil {
				h.Run, h.URL = r.Run, r.URL
			}
		}
		h.URL = cmp.Or(h.URL, link)
		out = append(out, h)
	}
	if d.Commit != "" {
		h := waybill.Hop{Stage: waybill.StageBuild, What: "commit " + d.Commit, Time: d.CommittedAt, URL: commitURL(d.SourceRepo, d.Commit)}
		out = append(out, h)
	}
	if image := cmp.Or(d.ImageTag, d.ImageDigest); image != "" {
		add(waybill.StageBuild, "image "+image, d.Build, "")
	}
	if d.ConfigCommit != "" {
		add(waybill.StageConfig, "config commit "+d.ConfigCommit+" for "+cmp.Or(d.Ring, "no ring"), d.Config, commitURL(d.ConfigRepo, d.ConfigCommit))
	}
	if d.Review != nil {
		h := waybill.Hop{Stage: waybill.StageConfig, What: "pull request " + d.PullRequest, Status: string(d.Review.State), Time: d.Review.UpdatedAt, URL: cmp.Or(d.Review.URL, reviewURL(d.ConfigRepo, d.PullRequest))}
		if who := cmp.Or(d.Review.ApprovedBy, d.Review.MergedBy); who != "" {
			h.What += " by " + who
		}
		out = append(out, h)
	} else if d.PullRequest != "" {
		out = append(out, waybill.Hop{Stage: waybill.StageConfig, What: "pull request " + d.PullRequest, URL: reviewURL(d.ConfigRepo, d.PullRequest)})
	}
	if d.Manifest != nil {
		what := "manifests"
		if d.ManifestCommit != "" {
			what = "manifest commit " + d.ManifestCommit
		}
		add(waybill.StageManifest, what, d.Manifest, commitURL(d.ManifestRepo, d.ManifestCommit))
	}
	for _, c := range d.Clusters {
		out = append(out, waybill.Hop{Stage: waybill.StageSync, What: "cluster " + c.Cluster, Status: string(c.State), Time: c.UpdatedAt, URL: clusterURL(d.ManifestRepo, &c)})
	}
	return out
}

// Unlinked implements waybill.Deliveries.
func (s *Service) Unlinked(ctx context.Context, partition string, limit int, cursor string) (waybill.Page[waybill.UnlinkedItem], error) {
	out := waybill.Page[waybill.UnlinkedItem]{Items: []waybill.UnlinkedItem{}}
	page, err := s.o.Store.Query(ctx, store.Query{
		Table: tablePart, Order: "since", Desc: true, Limit: limit, After: cursor,
		Where: []store.Where{{Column: "inbox", Op: store.Eq, Value: escape(orDefault(partition))}},
	})
	if err != nil {
		return out, err
	}
	for _, x := range page.Rows {
		var p part
		if err := json.Unmarshal(x.Val, &p); err != nil {
			return out, err
		}
		item := waybill.UnlinkedItem{ID: cmp.Or(p.Row, p.Key), Kind: p.Kind, Reason: p.Unlinked, Deployment: p.Row, Since: p.First}
		switch p.Kind {
		case waybill.ReportConfig:
			item.What = "image " + p.image() + " for " + p.Ring
		case waybill.ReportManifest:
			item.What = "manifests of " + cmp.Or(p.ConfigCommit, "pull request "+p.PR)
		default:
			item.What = "run " + p.Runs[0].Run
		}
		out.Items = append(out.Items, item)
	}
	out.Next = page.Next
	return out, nil
}
