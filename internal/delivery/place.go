package delivery

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// maxPast is how many deployments a place remembers.
const maxPast = 24

// place is a service in a ring and a cluster: what was there, the newest first. The
// cluster without a name holds what the manifests say. It follows from rows and answers
// what was there before and how far rings are apart without a look at rows.
type place struct {
	Partition string  `json:"partition"`
	Service   string  `json:"service"` // as stored
	Ring      string  `json:"ring"`
	Cluster   string  `json:"cluster"`
	Visits    []visit `json:"visits"`
}

// visit is a deployment in a place.
type visit struct {
	Deployment     string               `json:"deployment"`
	ImageTag       string               `json:"image_tag"`
	ImageDigest    string               `json:"image_digest,omitempty"`
	Commit         string               `json:"commit,omitempty"`
	SourceRepo     string               `json:"source_repo,omitempty"`
	ManifestCommit string               `json:"manifest_commit,omitempty"`
	State          waybill.ClusterState `json:"state"`
	Since          time.Time            `json:"since"`
	Made           time.Time            `json:"made"` // its manifests
	HealthyAt      time.Time            `json:"healthy_at,omitzero"`
}

// summary is what is of a service in a ring now, cluster by cluster: of every place the
// first visit, as far as the matrix shows it.
type summary struct {
	Service string         `json:"service"`
	Ring    string         `json:"ring"`
	Now     map[string]top `json:"now"`
}

type top struct {
	Deployment string               `json:"d"`
	ImageTag   string               `json:"t"`
	State      waybill.ClusterState `json:"s,omitempty"`
	Since      time.Time            `json:"at"`
	Commit     string               `json:"m,omitempty"` // of its manifests
}

func (v visit) top() top {
	return top{Deployment: v.Deployment, ImageTag: v.ImageTag, State: v.State, Since: v.Since, Commit: v.ManifestCommit}
}

func (p *place) clone() *place {
	if p == nil {
		return nil
	}
	c := *p
	c.Visits = slices.Clone(p.Visits)
	return &c
}

func (m *summary) clone() *summary {
	if m == nil {
		return nil
	}
	c := *m
	c.Now = maps.Clone(m.Now)
	return &c
}

// homeKey is the key of a service in a ring, empty when a row is of none.
func homeKey(d *waybill.Deployment) string {
	if d == nil || d.Service == "" || d.Ring == "" {
		return ""
	}
	return escape(bounded(fold(d.Service))) + "/" + escape(bounded(d.Ring))
}

// placeKey is the key of a place: those of one cluster stand together.
func placeKey(home, cluster string) string { return escape(bounded(cluster)) + "/" + home }

// visits are what a row adds to places, by cluster.
func visits(d *waybill.Deployment) map[string]visit {
	out := map[string]visit{}
	if homeKey(d) == "" {
		return out
	}
	v := visit{
		Deployment: d.ID, ImageTag: d.ImageTag, ImageDigest: d.ImageDigest, Commit: d.Commit, SourceRepo: d.SourceRepo,
		ManifestCommit: d.ManifestCommit, Made: d.UpdatedAt,
	}
	for _, c := range d.Clusters {
		x := v
		x.State, x.Since, x.HealthyAt = c.State, c.Since, c.HealthyAt
		out[c.Cluster] = x
	}
	if d.Status == waybill.DeploymentComplete {
		v.Since = d.UpdatedAt
		out[""] = v
	}
	return out
}

// settle brings the places of a row in line with it. Old is the row as it was, nil for
// none; so is now.
func (s *state) settle(id string, old, now *waybill.Deployment) {
	before, after := homeKey(old), homeKey(now)
	was, is := visits(old), visits(now)
	for _, c := range slices.Sorted(maps.Keys(was)) {
		if x, ok := is[c]; ok && before == after && x == was[c] {
			continue
		}
		if p := s.place(placeKey(before, c)).clone(); p != nil {
			p.Visits = slices.DeleteFunc(p.Visits, func(v visit) bool { return v.Deployment == id })
			s.putPlace(before, c, p)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(is)) {
		if x, ok := was[c]; ok && before == after && x == is[c] {
			continue
		}
		p := s.place(placeKey(after, c)).clone()
		if p == nil {
			p = &place{Partition: now.Partition, Service: now.Service, Ring: now.Ring, Cluster: c}
		}
		p.Visits = append(p.Visits, is[c])
		slices.SortFunc(p.Visits, s.younger)
		p.Visits = p.Visits[:min(len(p.Visits), maxPast)]
		s.putPlace(after, c, p)
	}
}

// younger orders visits, the newest first.
func (s *state) younger(a, b visit) int {
	// A cluster that comes late takes several at once.
	if x := cmp.Or(b.Since.Compare(a.Since), b.Made.Compare(a.Made)); x != 0 {
		return x
	}
	if s.cameOf(a.ManifestCommit, b.ManifestCommit) {
		return -1
	}
	if s.cameOf(b.ManifestCommit, a.ManifestCommit) {
		return 1
	}
	return cmp.Compare(a.Deployment, b.Deployment)
}

// putPlace stores a place, and what is there now beside those of the other clusters. A
// place in which nothing is left is deleted.
func (s *state) putPlace(home, cluster string, p *place) {
	key := placeKey(home, cluster)
	m := s.summary(home).clone()
	if m == nil {
		m = &summary{Service: p.Service, Ring: p.Ring}
	}
	if m.Now == nil {
		m.Now = map[string]top{}
	}
	if len(p.Visits) == 0 {
		s.places[key] = nil
		delete(m.Now, cluster)
	} else {
		s.places[key] = p
		m.Now[cluster] = p.Visits[0].top()
	}
	s.dirty.places[key] = true
	if old := s.summary(home); old != nil && maps.Equal(old.Now, m.Now) {
		return
	}
	if len(m.Now) == 0 {
		m = nil
	}
	s.summaries[home] = m
	s.dirty.summaries[home] = true
}
