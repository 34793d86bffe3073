package delivery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// home is a service in a ring, with what is there now.
type home struct {
	home string // key
	*summary
}

// summaries are those of a partition, in the order of service and ring. What has not
// changed since it was read last is not decoded again.
func (s *Service) summaries(ctx context.Context, partition string) ([]home, error) {
	partition = orDefault(partition)
	prefix := escape(partition) + "/"
	rows, err := s.o.Store.Scan(ctx, "", tableSummary, prefix, 0)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	known := s.seen[partition]
	s.mu.Unlock()
	out := make([]home, len(rows))
	now := make(map[string]sighted, len(rows))
	for i, r := range rows {
		x, ok := known[r.Key]
		if !ok || x.rev != r.Rev || !bytes.Equal(x.val, r.Val) {
			x = sighted{rev: r.Rev, val: r.Val}
			if err := json.Unmarshal(r.Val, &x.summary); err != nil {
				return nil, err
			}
		}
		now[r.Key] = x
		out[i] = home{strings.TrimPrefix(r.Key, prefix), x.summary}
	}
	s.mu.Lock()
	if len(s.seen) >= warmPartitions {
		clear(s.seen)
	}
	s.seen[partition] = now
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b home) int { return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Ring, b.Ring)) })
	return out, nil
}

// sighted is a summary as it was read; nobody changes it.
type sighted struct {
	rev int64
	val []byte
	*summary
}

// places are those of a cluster, the one without a name for what manifests say, in the
// order of service and ring.
func (s *Service) places(ctx context.Context, partition, cluster string) ([]place, error) {
	rows, err := s.o.Store.Scan(ctx, "", tablePlace, escape(orDefault(partition))+"/"+escape(bounded(cluster))+"/", 0)
	if err != nil {
		return nil, err
	}
	out := make([]place, len(rows))
	for i, r := range rows {
		if err := json.Unmarshal(r.Val, &out[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b place) int { return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Ring, b.Ring)) })
	return out, nil
}

// Matrix implements waybill.Deliveries.
func (s *Service) Matrix(ctx context.Context, partition string) (waybill.Matrix, error) {
	out := waybill.Matrix{At: s.o.Now().UTC(), Cells: []waybill.MatrixCell{}}
	all, err := s.summaries(ctx, partition)
	if err != nil {
		return out, err
	}
	st := s.read(ctx, partition)
	for _, m := range all {
		for _, c := range slices.Sorted(maps.Keys(m.Now)) {
			if t, ok := st.now(m.home, m.summary, c); ok {
				out.Cells = append(out.Cells, waybill.MatrixCell{
					Service: m.Service, Ring: m.Ring, Cluster: c, Deployment: t.Deployment, ImageTag: t.ImageTag, State: t.State, Since: t.Since,
				})
			}
		}
	}
	return out, st.err
}

func sameImage(a, b visit) bool {
	if a.ImageDigest != "" && b.ImageDigest != "" {
		return a.ImageDigest == b.ImageDigest
	}
	return fold(a.ImageTag) == fold(b.ImageTag)
}

// ringPair is a service in two rings: what the manifests of each say, the newest first.
type ringPair struct {
	service  string
	from, to []visit
}

func (s *Service) pairs(ctx context.Context, partition, from, to string) ([]ringPair, error) {
	all, err := s.places(ctx, partition, "")
	if err != nil {
		return nil, err
	}
	from, to = fold(from), fold(to)
	rings := map[string]bool{}
	by := map[string]*ringPair{}
	for _, p := range all {
		rings[p.Ring] = true
		if p.Ring != from && p.Ring != to {
			continue
		}
		x := by[fold(p.Service)]
		if x == nil {
			x = &ringPair{service: p.Service}
			by[fold(p.Service)] = x
		}
		if p.Ring == from {
			x.from = p.Visits
		}
		if p.Ring == to {
			x.to = p.Visits
		}
	}
	for _, r := range []string{from, to} {
		if !rings[r] {
			return nil, waybill.E(waybill.KindNotFound, "nothing was ever deployed to ring %.100q; there are %s", r,
				cmp.Or(strings.Join(slices.Sorted(maps.Keys(rings)), ", "), "none"))
		}
	}
	out := make([]ringPair, 0, len(by))
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[k])
	}
	return out, nil
}

// behind is how many deployments of the first ring came after the image of the second.
func (p *ringPair) behind() int {
	if len(p.to) == 0 {
		return -1
	}
	return slices.IndexFunc(p.from, func(v visit) bool { return sameImage(v, p.to[0]) })
}

// Diff implements waybill.Deliveries.
func (s *Service) Diff(ctx context.Context, partition, from, to string) ([]waybill.RingDifference, error) {
	pairs, err := s.pairs(ctx, partition, from, to)
	out := []waybill.RingDifference{}
	for _, p := range pairs {
		d := waybill.RingDifference{Service: p.service, Behind: p.behind()}
		if d.Behind == 0 {
			continue
		}
		if len(p.from) > 0 {
			d.From, d.FromCommit, d.SourceRepo = p.from[0].ImageTag, p.from[0].Commit, p.from[0].SourceRepo
		}
		if len(p.to) > 0 {
			d.To, d.ToCommit = p.to[0].ImageTag, p.to[0].Commit
			d.SourceRepo = cmp.Or(d.SourceRepo, p.to[0].SourceRepo)
		}
		d.Compare = compareURL(d.SourceRepo, d.ToCommit, d.FromCommit)
		out = append(out, d)
	}
	return out, err
}

// Lag implements waybill.Deliveries.
func (s *Service) Lag(ctx context.Context, partition, from, to string) ([]waybill.Lag, error) {
	pairs, err := s.pairs(ctx, partition, from, to)
	out := []waybill.Lag{}
	now := s.o.Now()
	for _, p := range pairs {
		if len(p.from) == 0 {
			continue
		}
		l := waybill.Lag{Service: p.service, Behind: p.behind(), From: p.from[0].ImageTag}
		if len(p.to) > 0 {
			l.To = p.to[0].ImageTag
		}
		switch {
		case l.Behind > 0:
			l.Seconds = now.Sub(p.from[l.Behind-1].Since).Seconds()
		case l.Behind < 0:
			l.Seconds = now.Sub(p.from[len(p.from)-1].Since).Seconds()
		}
		out = append(out, l)
	}
	return out, err
}

// Rollbacks implements waybill.Deliveries.
func (s *Service) Rollbacks(ctx context.Context, partition, ring, service string) ([]waybill.Rollback, error) {
	all, err := s.summaries(ctx, partition)
	out := []waybill.Rollback{}
	if err != nil {
		return out, err
	}
	all = slices.DeleteFunc(all, func(m home) bool {
		return ring != "" && m.Ring != fold(ring) || service != "" && fold(m.Service) != fold(service) && fold(waybill.DisplayService(m.Service)) != fold(service)
	})
	src := newStored(ctx, s.o.Store)
	st := newState(src, orDefault(partition))
	src.missed = map[string]map[string]bool{tablePlace: {}}
	for _, m := range all {
		for c := range m.Now {
			if c != "" { // of what manifests say nobody says whether it works
				src.missed[tablePlace][rowKey(st.partition, placeKey(m.home, c))] = true
			}
		}
	}
	if err := src.fetch(); err != nil {
		return out, err
	}
	for _, m := range all {
		for _, c := range slices.Sorted(maps.Keys(m.Now)) {
			if c == "" {
				continue
			}
			p := st.place(placeKey(m.home, c))
			if p == nil {
				continue // it has changed since
			}
			n := st.index(p)
			if n < 0 {
				continue
			}
			list := p.Visits[n:]
			now := list[0]
			r := waybill.Rollback{Service: p.Service, Ring: p.Ring, Cluster: c, Current: now.Deployment, RolledBack: back(list, 0)}
			for _, v := range list[1:] {
				if !v.HealthyAt.IsZero() && !sameImage(v, now) {
					r.Deployment, r.ImageTag, r.ImageDigest, r.ManifestCommit, r.HealthyAt = v.Deployment, v.ImageTag, v.ImageDigest, v.ManifestCommit, v.HealthyAt
					break
				}
			}
			out = append(out, r)
		}
	}
	return out, st.err
}

// back reports whether entry i of a list, newest first, returned to an image that was
// there before another one.
func back(list []visit, i int) bool {
	other := false
	for _, v := range list[i+1:] {
		same := sameImage(v, list[i])
		if same && other {
			return true
		}
		other = other || !same
	}
	return false
}

// compareURL is where the commits between two are shown, for hosts whose addresses are
// known. https://docs.github.com/en/pull-requests (compare view), GitLab's
// /-/compare/A...B, Azure DevOps' branchCompare.
func compareURL(repo, from, to string) string {
	base, kind := webURL(repo)
	if base == "" || from == "" || to == "" {
		return ""
	}
	switch kind {
	case "github":
		return base + "/compare/" + from + "..." + to
	case "gitlab":
		return base + "/-/compare/" + from + "..." + to
	case "azdo":
		return base + "/branchCompare?baseVersion=GC" + from + "&targetVersion=GC" + to
	}
	return ""
}

// commitURL is where a commit is shown.
func commitURL(repo, commit string) string {
	base, kind := webURL(repo)
	if base == "" || commit == "" {
		return ""
	}
	if kind == "gitlab" {
		return base + "/-/commit/" + commit
	}
	return base + "/commit/" + commit
}

// reviewURL is where a pull request is shown.
func reviewURL(repo, number string) string {
	base, kind := webURL(repo)
	if base == "" || number == "" {
		return ""
	}
	number = url.PathEscape(number)
	switch kind {
	case "gitlab":
		return base + "/-/merge_requests/" + number
	case "azdo":
		return base + "/pullrequest/" + number
	}
	return base + "/pull/" + number
}

// clusterURL is where the revision of a cluster is shown.
func clusterURL(repo string, c *waybill.DeploymentCluster) string {
	if c.Match == "image" {
		return ""
	}
	return commitURL(repo, c.Revision)
}

// webURL is the address of a repository in a browser, and what kind of host it has; empty
// when the repository is no address or its host is of no known kind.
func webURL(repo string) (base, kind string) {
	name := foldRepo(repo)
	host, path, ok := strings.Cut(name, "/")
	if !ok || path == "" || !strings.Contains(host, ".") {
		return "", ""
	}
	switch {
	case strings.Contains(host, "github"):
		kind = "github"
	case strings.Contains(host, "gitlab"):
		kind = "gitlab"
	case host == "dev.azure.com" || strings.HasSuffix(host, ".visualstudio.com"):
		kind = "azdo"
	default:
		return "", ""
	}
	u, err := url.Parse(strings.TrimSpace(repo))
	switch {
	case err != nil || u.Scheme == "" || u.Host == "": // an address of SSH, or none
	case u.Scheme == "https" || u.Scheme == "http":
		// As it is written: paths may tell case apart.
		path = strings.Trim(u.Path, "/")
		return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/" + strings.TrimSuffix(path, ".git")}).String(), kind
	case u.Scheme != "ssh" && u.Scheme != "git":
		return "", ""
	}
	return (&url.URL{Scheme: "https", Host: host, Path: "/" + path}).String(), kind
}
