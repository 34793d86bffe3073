package delivery

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// What an alert waits for when nobody says otherwise.
const (
	DefaultStuck  = time.Hour
	DefaultSilent = 24 * time.Hour
)

// maxAlerts bounds the alerts of one kind; the longest lasting ones are listed.
const maxAlerts = 1000

// Alerts implements waybill.Deliveries.
func (s *Service) Alerts(ctx context.Context, q waybill.AlertQuery) ([]waybill.Alert, error) {
	if q.Stuck < 0 || q.Silent < 0 {
		return nil, waybill.E(waybill.KindInvalid, "an alert waits for a time that is not negative; %s and %s are given", q.Stuck, q.Silent)
	}
	partition, now := orDefault(q.Partition), s.o.Now().UTC()
	stuck, silent := now.Add(-cmp.Or(q.Stuck, DefaultStuck)), now.Add(-cmp.Or(q.Silent, DefaultSilent))
	st := s.read(ctx, partition)
	all, err := s.summaries(ctx, partition)
	if err != nil {
		return nil, err
	}
	clusters, err := s.clusters(ctx, partition)
	if err != nil {
		return nil, err
	}
	out, err := s.stuck(ctx, partition, stuck, all)
	if err != nil {
		return nil, err
	}
	out = append(out, st.unsynced(all, stuck)...)
	heard := map[string]time.Time{} // by cluster, whatever of it was told of
	for _, at := range clusters {
		heard[at.Cluster] = later(heard[at.Cluster], at.Last)
		out = append(out, st.drifted(at, stuck)...)
	}
	for _, c := range slices.Sorted(maps.Keys(heard)) {
		if last := heard[c]; last.Before(silent) {
			out = append(out, waybill.Alert{
				Kind: waybill.AlertSilent, Cluster: c, Since: last, Text: fmt.Sprintf("cluster %s has not been heard of since %s", c, last.Format(time.RFC3339)),
			})
		}
	}
	if st.err != nil {
		return nil, st.err
	}
	for i := range out {
		a := &out[i]
		a.Partition = partition
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s\x00%s\x00%s", a.Kind, partition, a.Deployment, fold(a.Service), a.Ring, a.Cluster, a.Revision))
		a.ID = hex.EncodeToString(sum[:8])
	}
	slices.SortFunc(out, func(a, b waybill.Alert) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// stuck are the rows whose next stage has not been told of since before a time. One
// that a later deployment of its service and ring has overtaken is not waited for.
func (s *Service) stuck(ctx context.Context, partition string, before time.Time, all []home) ([]waybill.Alert, error) {
	newest := map[string]time.Time{}
	for _, p := range all {
		if t, ok := p.Now[""]; ok {
			newest[fold(p.Service)+"\x00"+p.Ring] = t.Since
		}
	}
	out := []waybill.Alert{}
	for _, status := range []waybill.DeploymentStatus{waybill.DeploymentInProgress, waybill.DeploymentWaiting, waybill.DeploymentIncomplete} {
		// The newest first: what is long overtaken is not looked at to the end.
		page, err := s.o.Store.Query(ctx, store.Query{
			Table: tableRow, Order: "updated", Desc: true, Limit: maxAlerts,
			Where: []store.Where{
				{Column: "part", Op: store.Eq, Value: escape(partition)}, {Column: "status", Op: store.Eq, Value: string(status)},
				{Column: "updated", Op: store.Lt, Value: before.UnixMilli()},
			},
		})
		if err != nil {
			return nil, err
		}
		for _, x := range page.Rows {
			var d waybill.Deployment
			if err := json.Unmarshal(x.Val, &d); err != nil {
				return nil, err
			}
			if newest[fold(d.Service)+"\x00"+d.Ring].After(d.UpdatedAt) || d.Ring == "" && d.Status == waybill.DeploymentIncomplete {
				continue // overtaken, or an image that no ring has to take
			}
			out = append(out, waybill.Alert{
				Kind: waybill.AlertStuck, Deployment: d.ID, Service: d.Service, Ring: d.Ring, Since: d.UpdatedAt,
				Text: fmt.Sprintf("%s is %s: %s", name(d.Service, d.ImageTag, d.Ring), d.Status, d.Reason),
			})
		}
	}
	return out, nil
}

// name says what a row is, for people.
func name(service, tag, ring string) string {
	out := cmp.Or(tag, "an edit of the configuration")
	if service != "" {
		out = service + " " + out
	}
	if ring != "" {
		out += " for " + ring
	}
	return out
}

// unsynced are the clusters that have something of a service and ring, and not the newest
// manifests.
func (s *state) unsynced(all []home, before time.Time) []waybill.Alert {
	var out []waybill.Alert
	for _, p := range all {
		want, ok := p.Now[""]
		if !ok || !want.Since.Before(before) {
			continue
		}
		for _, c := range slices.Sorted(maps.Keys(p.Now)) {
			now, ok := s.now(p.home, p.summary, c)
			if c == "" || !ok || now.Deployment == want.Deployment || len(out) == maxAlerts {
				continue
			}
			out = append(out, waybill.Alert{
				Kind: waybill.AlertUnsynced, Deployment: want.Deployment, Service: p.Service, Ring: p.Ring, Cluster: c, Since: want.Since,
				Text: fmt.Sprintf("cluster %s has %s of %s for %s, the newest manifests are of %s", c, now.ImageTag, p.Service, p.Ring, want.ImageTag),
			})
		}
	}
	return out
}

// drifted tells of a cluster that is at a revision which leads to no deployment.
func (s *state) drifted(at *part, before time.Time) []waybill.Alert {
	if at.ManifestCommit == "" || !at.Last.Before(before) || s.leads(at.ManifestCommit) {
		return nil
	}
	return []waybill.Alert{{
		Kind: waybill.AlertDrift, Ring: at.Ring, Service: at.Service, Cluster: at.Cluster, Revision: at.ManifestCommit, Since: at.Last,
		Text: fmt.Sprintf("cluster %s is at %s, which no deployment is known of", at.Cluster, brief(at.ManifestCommit)),
	}}
}

// leads reports whether a revision is of a deployment, or came of that of one.
func (s *state) leads(revision string) bool {
	of := func(commit string) bool {
		for _, kind := range []waybill.ReportKind{waybill.ReportConfig, waybill.ReportManifest, waybill.ReportRun} {
			if slices.ContainsFunc(s.find(kind, refMan, short(commit)), func(p *part) bool {
				return slices.ContainsFunc(commitsOf(p), func(c string) bool { return sameCommit(c, commit) })
			}) {
				return true
			}
		}
		return false
	}
	if of(revision) {
		return true
	}
	start := s.commitPart(revision)
	if start == nil {
		return false
	}
	seen, todo := map[string]bool{start.Key: true}, []*part{start}
	for len(todo) > 0 && len(seen) < maxWalk {
		h := todo[0]
		todo = todo[1:]
		for _, c := range h.Parents {
			p := s.commitPart(c)
			if p == nil || seen[p.Key] {
				continue
			}
			if of(p.ManifestCommit) {
				return true
			}
			seen[p.Key] = true
			todo = append(todo, p)
		}
	}
	return false
}

// clusters are where all clusters of a partition are, by name.
func (s *Service) clusters(ctx context.Context, partition string) ([]*part, error) {
	rows, err := s.o.Store.Scan(ctx, "", tablePart, rowKey(partition, string(partCluster))+"/", 0)
	if err != nil {
		return nil, err
	}
	out := make([]*part, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r.Val, &out[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b *part) int { return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Key, b.Key)) })
	return out, nil
}

// Unresolved are revisions of clusters whose history is not known, with the repository
// where one was named, at most n.
func (s *Service) Unresolved(ctx context.Context, partition string, n int) ([]Revision, error) {
	partition = orDefault(partition)
	clusters, err := s.clusters(ctx, partition)
	if err != nil {
		return nil, err
	}
	st := s.read(ctx, partition)
	var out []Revision
	for _, at := range clusters {
		if at.ManifestCommit == "" || len(out) == n {
			continue
		}
		r := Revision{Repo: at.ManifestRepo, Commit: at.ManifestCommit}
		if h := st.commitPart(at.ManifestCommit); (h == nil || !h.Told) && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, st.err
}

// Known reports whether the history of a commit is known: what it came of was told.
func (s *Service) Known(ctx context.Context, partition, commit string) (bool, error) {
	st := s.read(ctx, orDefault(partition))
	h := st.commitPart(fold(commit))
	return h != nil && h.Told, st.err
}

// Revision is a commit of a repository of manifests.
type Revision struct {
	Repo   string // as clusters name it; empty when they do not
	Commit string
}

// ManifestCommits are those of the newest deployments whose manifests are in a repository,
// or in one that is not known, the newest first, each once, at most a hundred.
func (s *Service) ManifestCommits(ctx context.Context, partition, repo string) ([]string, error) {
	page, err := s.Deployments(ctx, waybill.DeploymentFilter{Partition: partition, Limit: 200})
	var out []string
	for _, d := range page.Items {
		if d.ManifestCommit != "" && len(out) < 100 && fits(foldRepo(repo), foldRepo(d.ManifestRepo)) && !slices.Contains(out, d.ManifestCommit) {
			out = append(out, d.ManifestCommit)
		}
	}
	return out, err
}

// FoldRepo is the form in which addresses of repositories are compared: host and path,
// without scheme, credentials, port and ".git".
func FoldRepo(address string) string { return foldRepo(address) }
