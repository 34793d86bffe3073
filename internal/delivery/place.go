package delivery

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// maxPast is how many deployments a place remembers for each cluster.
const maxPast = 24

// place is a service in a ring: what was there, cluster by cluster, the newest first. The
// cluster without a name holds what the manifests say. It follows from rows and answers
// what is where, what was there before and how far rings are apart without a look at
// rows.
type place struct {
	Partition string             `json:"partition"`
	Service   string             `json:"service"` // as displayed
	Ring      string             `json:"ring"`
	Clusters  map[string][]visit `json:"clusters"`
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

func (p *place) clone() *place {
	if p == nil {
		return nil
	}
	c := *p
	c.Clusters = maps.Clone(p.Clusters)
	for k, v := range c.Clusters {
		c.Clusters[k] = slices.Clone(v)
	}
	return &c
}

// placeKey is the key of the place of a row, empty when it has none.
func placeKey(d *waybill.Deployment) string {
	if d == nil || d.Service == "" || d.Ring == "" {
		return ""
	}
	return escape(bounded(fold(d.Service))) + "/" + escape(bounded(d.Ring))
}

// visits are what a row adds to its place.
func visits(d *waybill.Deployment) map[string]visit {
	out := map[string]visit{}
	if placeKey(d) == "" {
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
	before, after := placeKey(old), placeKey(now)
	was, is := visits(old), visits(now)
	if before == after && maps.Equal(was, is) {
		return
	}
	if p := s.place(before).clone(); len(was) > 0 && p != nil {
		for c, list := range p.Clusters {
			if list = slices.DeleteFunc(list, func(v visit) bool { return v.Deployment == id }); len(list) == 0 {
				delete(p.Clusters, c)
			} else {
				p.Clusters[c] = list
			}
		}
		s.putPlace(before, p)
	}
	if len(is) == 0 {
		return
	}
	p := s.place(after).clone()
	if p == nil {
		p = &place{Partition: now.Partition, Service: now.Service, Ring: now.Ring}
	}
	if p.Clusters == nil {
		p.Clusters = map[string][]visit{}
	}
	for c, v := range is {
		list := append(slices.Clone(p.Clusters[c]), v)
		slices.SortFunc(list, func(a, b visit) int {
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
		})
		p.Clusters[c] = list[:min(len(list), maxPast)]
	}
	s.putPlace(after, p)
}

func (s *state) putPlace(key string, p *place) {
	s.places[key] = p
	s.dirty.places[key] = true
}
