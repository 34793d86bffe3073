package delivery

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// Which cluster has which manifests. A cluster has what it said it is at and everything
// that this came of. The history of manifests is told of in reports; a commit of it is a part
// (of kind "history"), and carries for each cluster when it first had the commit, and when
// it first said that it is healthy, or failed, with the commit in it. What holds of a
// commit holds of those that it came of as well, so that these instants are spread
// along parents, and spreading ends where nothing becomes earlier: every commit is
// visited once for each cluster, not once for each revision. Minima do not depend on the order
// in which revisions and history become known.

// partCluster is the kind of parts that hold where a cluster is.
const partCluster waybill.ReportKind = "cluster"

// refParent leads from a commit to those that came of it.
const refParent = "parent"

// sight is when a cluster was first seen somehow, and the revision that it was at.
type sight struct {
	At  time.Time `json:"at,omitzero"`
	Rev string    `json:"rev,omitempty"`
}

// first is the earlier of two; the revision decides between two at the same time.
func (a sight) first(b sight) sight {
	switch {
	case b.At.IsZero():
		return a
	case a.At.IsZero() || b.At.Before(a.At) || b.At.Equal(a.At) && b.Rev < a.Rev:
		return b
	}
	return a
}

// mark is what a cluster told of a commit, by itself or by one that came of it.
type mark struct {
	First   sight `json:"first"`
	Applied sight `json:"applied,omitzero"`
	Healthy sight `json:"healthy,omitzero"`
	Failed  sight `json:"failed,omitzero"`
}

// with joins two marks. A failure after the commit was healthy is that of a later one.
func (m mark) with(x mark) mark {
	out := mark{First: m.First.first(x.First), Applied: m.Applied.first(x.Applied), Healthy: m.Healthy.first(x.Healthy), Failed: m.Failed}
	if !x.Failed.At.IsZero() && (out.Healthy.At.IsZero() || x.Failed.At.Before(out.Healthy.At)) {
		out.Failed = m.Failed.first(x.Failed)
	}
	return out
}

// failed is the first failure that is the commit's own: while it was not healthy yet.
func (m mark) failed() sight {
	if m.Healthy.At.IsZero() || m.Failed.At.Before(m.Healthy.At) {
		return m.Failed
	}
	return sight{}
}

// markOf is what a cluster told of its revision.
func markOf(y *part) mark {
	at := func(t time.Time) sight {
		if t.IsZero() {
			return sight{}
		}
		return sight{At: t, Rev: short(y.ManifestCommit)} // which all its spellings share
	}
	return mark{First: at(y.First), Applied: at(y.AppliedAt), Healthy: at(y.HealthyAt), Failed: at(y.FailedAt)}
}

// lane is the scope within which a cluster is at one revision: what reports of one ring,
// service and repository say does not hold of others.
func (p *part) lane() string {
	return escape(p.Cluster) + "/" + escape(p.Ring) + "/" + escape(fold(waybill.DisplayService(p.Service)))
}

// laneOf takes a lane apart.
func laneOf(lane string) (cluster, ring, service string) {
	f := strings.Split(lane, "/")
	if len(f) != 3 {
		return lane, "", ""
	}
	return unescape(f[0]), unescape(f[1]), unescape(f[2])
}

// holdsOf reports whether what is told of a lane holds of a service in a ring.
func holdsOf(lane, ring, service string) bool {
	_, r, s := laneOf(lane)
	return fits(r, ring) && fits(s, fold(waybill.DisplayService(service)))
}

// commitPart is what is known of the history of a commit, nil when nothing is, and when it
// is cut short so that it can be one of several.
func (s *state) commitPart(commit string) *part {
	found := keep(s.find(waybill.ReportHistory, refMan, short(commit)), func(h *part) bool { return sameCommit(h.ManifestCommit, commit) })
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// flood spreads a mark from a commit to those that it came of, and returns the parts that
// have changed.
func (s *state) flood(from *part, lane string, m mark) []*part {
	var out []*part
	todo := []string{from.Key}
	for len(todo) > 0 && len(out) < maxFlood {
		key := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		h := s.part(key)
		if h == nil {
			continue
		}
		now := h.Marks[lane].with(m)
		if now == h.Marks[lane] {
			continue
		}
		h = s.editHistory(h)
		h.Marks[lane] = now
		out = append(out, h)
		for _, c := range h.Parents {
			if p := s.commitPart(c); p != nil {
				todo = append(todo, p.Key)
			}
		}
	}
	return out
}

// maxFlood bounds how many commits one report can change.
const maxFlood = 20_000

// editHistory returns a copy of a part of the history that takes its place.
func (s *state) editHistory(h *part) *part {
	if s.edited[h.Key] {
		return h
	}
	h = h.clone()
	if h.Marks == nil {
		h.Marks = map[string]mark{}
	}
	s.edited[h.Key] = true
	s.loaded[h.Key] = h
	s.dirty.parts[h.Key] = true
	return h
}

// absorbHistory folds a report of history in and returns the parts that have changed.
func (s *state) absorbHistory(r *folded, e *waybill.DeliveryEvent) []*part {
	changed := map[string]bool{}
	note := func(list ...*part) {
		for _, h := range list {
			changed[h.Key] = true
		}
	}
	ensure := func(commit string) *part {
		h := s.commitPart(commit)
		if h == nil {
			if len(s.find(waybill.ReportHistory, refMan, short(commit))) > 0 && len(commit) <= minPrefix {
				return nil // several begin so
			}
			h = &part{
				Kind: waybill.ReportHistory, Partition: s.partition, Seq: e.Seq, First: r.Time, Last: r.Time,
				ManifestCommit: commit, ManifestRepo: r.ManifestRepo, Marks: map[string]mark{},
				Key: string(waybill.ReportHistory) + "/" + digest(e.ID+" "+commit),
			}
			s.edited[h.Key] = true
			s.put(h, nil)
			note(h)
			for _, y := range keep(s.find(waybill.ReportSync, refMan, short(commit)), func(y *part) bool { return sameCommit(y.ManifestCommit, commit) }) {
				note(s.flood(h, y.lane(), markOf(y))...)
			}
		} else if len(commit) > len(h.ManifestCommit) {
			before := h.refs()
			h = s.editHistory(h)
			h.ManifestCommit = commit
			s.put(h, before)
			note(h)
		}
		return s.part(h.Key)
	}
	for _, c := range r.History {
		h := ensure(fold(c.Commit))
		if h == nil {
			continue
		}
		if !h.Told {
			h = s.editHistory(h)
			h.Told = true
			note(h)
		}
		for _, name := range c.Parents {
			p := ensure(fold(name))
			if p == nil || p.Key == h.Key {
				continue
			}
			h = s.part(h.Key)
			if !slices.ContainsFunc(h.Parents, func(x string) bool { return sameCommit(x, p.ManifestCommit) }) {
				before := h.refs()
				h = s.editHistory(h)
				h.Parents = append(h.Parents, p.ManifestCommit)
				slices.Sort(h.Parents)
				s.put(h, before)
				note(h)
			}
			for lane, m := range h.Marks {
				note(s.flood(p, lane, m)...)
			}
		}
	}
	var out []*part
	lanes := map[string]bool{}
	for key := range changed {
		h := s.part(key)
		out = append(out, h)
		for lane := range h.Marks {
			lanes[lane] = true
		}
	}
	for _, lane := range slices.Sorted(maps.Keys(lanes)) {
		for _, at := range s.byRef(refLane + lane) {
			s.mayBeBack(at)
		}
	}
	return union(out)
}

// follow spreads what a cluster told of its revision, notes where the cluster is, and
// returns the commits whose marks have changed.
func (s *state) follow(y *part, r *folded, event string) []*part {
	key := string(partCluster) + "/" + digest(y.lane()+" "+foldRepo(y.ManifestRepo))
	at := s.part(key).clone()
	if at == nil {
		at = &part{Kind: partCluster, Key: key, Partition: s.partition, Seq: y.Seq, Cluster: y.Cluster, Ring: y.Ring, Service: y.Service, ManifestRepo: y.ManifestRepo, First: r.Time}
	}
	if y.First.After(at.TipAt) {
		at.Tip, at.TipAt = y.place(), y.First
	}
	if !r.Time.Before(at.Last) {
		at.ManifestCommit, at.State, at.StateAt, at.Message, at.Last = y.ManifestCommit, r.ClusterState, r.Time, r.Message, r.Time
		at.Tag, at.Digests = y.Tag, y.Digests
		at.Events = []string{event}
	}
	if r.Time.Before(at.First) {
		at.First = r.Time
	}
	s.loaded[key] = at
	s.dirty.parts[key] = true
	ref := refLane + y.lane()
	if s.byRef(ref); !slices.Contains(s.keys[ref], key) {
		s.keys[ref] = slices.Sorted(slices.Values(append(slices.Clone(s.keys[ref]), key)))
		s.dirty.refs[ref] = true
	}
	var out []*part
	if h := s.commitPart(y.ManifestCommit); h != nil {
		out = s.flood(h, y.lane(), markOf(y))
	}
	s.mayBeBack(at)
	return out
}

// refLane leads from a lane to the clusters in it, of one repository each.
const refLane = "lane:"

// place is where a report of a cluster puts it.
func (y *part) place() string {
	if y.ManifestCommit != "" {
		return short(y.ManifestCommit)
	}
	return y.Tag + "@" + lastOf(y.Digests)
}

// refBack leads to clusters that may have gone back: they are not where they came to last.
const refBack = "back"

func (s *state) mayBeBack(at *part) {
	is := at.place() != at.Tip
	if h := s.commitPart(at.ManifestCommit); h != nil && h.Marks[at.lane()].First.Rev != short(at.ManifestCommit) {
		is = true // it had come with a later one
	}
	list := s.byRef(refBack)
	was := slices.Contains(list, at) || slices.ContainsFunc(list, func(p *part) bool { return p.Key == at.Key })
	if is == was {
		return
	}
	keys := slices.DeleteFunc(slices.Clone(s.keys[refBack]), func(k string) bool { return k == at.Key })
	if is {
		keys = append(keys, at.Key)
		slices.Sort(keys)
	}
	s.keys[refBack] = keys
	s.dirty.refs[refBack] = true
}

// now is what is of a service and ring in a cluster: the newest that came there, unless the
// cluster went back behind it.
func (s *state) now(home string, m *summary, cluster string) (top, bool) {
	t, ok := m.Now[cluster]
	if !ok || s.back(cluster, m.Ring, m.Service) == nil {
		return t, ok
	}
	p := s.place(placeKey(home, cluster))
	if p == nil {
		return t, ok
	}
	n := s.index(p)
	if n < 0 {
		return top{}, false
	}
	return p.Visits[n].top(), true
}

// back is where a cluster is that may have gone back, nil when it did not.
func (s *state) back(cluster, ring, service string) *part {
	var back *part
	if cluster == "" {
		return nil
	}
	for _, at := range s.byRef(refBack) {
		if at.Cluster == cluster && holdsOf(at.lane(), ring, service) && (back == nil || at.StateAt.After(back.StateAt)) {
			back = at
		}
	}
	return back
}

// index is which visit of a place is there now, -1 when none is.
func (s *state) index(p *place) int {
	back := s.back(p.Cluster, p.Ring, p.Service)
	for i, v := range p.Visits {
		if back == nil || !s.left(back, v, p.Visits[i+1:]) {
			return i
		}
	}
	return -1
}

// left reports whether a cluster that went back has left a visit. It has to be certain:
// the revision that it is at comes before the visit's commit, or is that of an older visit.
func (s *state) left(at *part, v visit, older []visit) bool {
	if at.ManifestCommit == "" {
		is := visit{ImageTag: at.Tag, ImageDigest: lastOf(at.Digests)}
		return !sameImage(v, is) && slices.ContainsFunc(older, func(o visit) bool { return sameImage(o, is) })
	}
	if sameCommit(v.ManifestCommit, at.ManifestCommit) {
		return false
	}
	if slices.ContainsFunc(older, func(o visit) bool { return sameCommit(o.ManifestCommit, at.ManifestCommit) }) {
		return true
	}
	return s.cameOf(v.ManifestCommit, at.ManifestCommit)
}

// maxWalk bounds how far back in history is looked at once.
const maxWalk = 1000

// cameOf reports whether a commit came of another, as far as the history of it is known.
func (s *state) cameOf(commit, of string) bool {
	start, end := s.commitPart(commit), s.commitPart(of)
	if start == nil || end == nil || start.Key == end.Key {
		return false
	}
	seen := map[string]bool{start.Key: true}
	todo := []*part{start}
	for len(todo) > 0 && len(seen) < maxWalk {
		h := todo[0]
		todo = todo[1:]
		for _, c := range h.Parents {
			p := s.commitPart(c)
			if p == nil || seen[p.Key] {
				continue
			}
			if p.Key == end.Key {
				return true
			}
			seen[p.Key] = true
			todo = append(todo, p)
		}
	}
	return false
}

// at are the clusters that have a commit of manifests, for a service in a ring, by lane.
func (s *state) at(commit, ring, service string) map[string]waybill.DeploymentCluster {
	out := map[string]waybill.DeploymentCluster{}
	syncs := func(commit string) map[string]*part {
		found := map[string]*part{}
		for _, y := range s.find(waybill.ReportSync, refMan, short(commit)) {
			if sameCommit(y.ManifestCommit, commit) && holdsOf(y.lane(), ring, service) {
				if old := found[y.lane()]; old == nil || y.StateAt.After(old.StateAt) {
					found[y.lane()] = y
				}
			}
		}
		return found
	}
	exact := syncs(commit)
	for lane, y := range exact {
		x := told(y)
		x.Match = "commit"
		out[lane] = x
	}
	h := s.commitPart(commit)
	if h == nil {
		return out
	}
	for lane, m := range h.Marks {
		if !holdsOf(lane, ring, service) {
			continue
		}
		x, ok := out[lane]
		if y := syncs(m.First.Rev)[lane]; y != nil && y != exact[lane] {
			z := told(y)
			z.Match = "ancestry"
			if ok {
				z.Match = "commit"
			}
			if !ok || z.UpdatedAt.After(x.UpdatedAt) {
				x = z
			}
		} else if !ok {
			cluster, _, _ := laneOf(lane)
			x = waybill.DeploymentCluster{Cluster: cluster, Revision: m.First.Rev, State: waybill.ClusterPending, Since: m.First.At, UpdatedAt: m.First.At, Match: "ancestry"}
		}
		x.Since = m.First.At
		x.HealthyAt, x.FailedAt = m.Healthy.At, m.failed().At
		// What a later revision said of it, which it is part of: it works at last, or not.
		switch {
		case m.Healthy.At.After(x.UpdatedAt):
			x.State, x.UpdatedAt, x.Message = waybill.ClusterHealthy, m.Healthy.At, ""
		case m.Healthy.At.IsZero() && m.Failed.At.After(x.UpdatedAt):
			x.State, x.UpdatedAt, x.Message = waybill.ClusterFailed, m.Failed.At, ""
		case x.State == waybill.ClusterPending && m.Applied.At.After(x.UpdatedAt):
			x.State, x.UpdatedAt, x.Message = waybill.ClusterApplied, m.Applied.At, ""
		}
		if y := exact[lane]; y != nil && !y.FailedAt.IsZero() {
			x.FailedAt = earliest(x.FailedAt, y.FailedAt) // it worked, and did not any more
		}
		out[lane] = x
	}
	return out
}

// told is what one part says of a cluster.
func told(y *part) waybill.DeploymentCluster {
	return waybill.DeploymentCluster{
		Cluster: y.Cluster, State: y.State, Revision: y.ManifestCommit, Since: y.First, HealthyAt: y.HealthyAt,
		FailedAt: y.FailedAt, UpdatedAt: y.StateAt, Message: y.Message,
	}
}

// escape makes a value a part of a key.
func escape(s string) string { return url.PathEscape(s) }
