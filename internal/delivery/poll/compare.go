package poll

import (
	"context"

	"github.com/waybill-run/waybill"
)

// Covers reports whether a source has a repository of manifests. An empty address is that
// of the settings.
func (p *Poller) Covers(repo string) bool { return p.manifests(repo) != nil }

// Ancestor asks the source of a repository of manifests whether head came of base.
// KindNotFound: no source has the repository, or it lacks one of the commits.
func (p *Poller) Ancestor(ctx context.Context, repo, base, head string) (bool, error) {
	at := p.manifests(repo)
	if at == nil {
		return false, waybill.E(waybill.KindNotFound, "no provider has the repository %.200q", repo).WithHint("deliveries.providers in waybill.yaml names them")
	}
	x, _, err := p.Provider(at.src.Name)
	if err != nil {
		return false, err
	}
	c, err := x.Compare(ctx, at.repo, base, head)
	return c.Ancestor, err
}

func (p *Poller) manifests(repo string) *place {
	conf, _ := p.config()
	res := newResolver(conf)
	if repo != "" {
		return res.anywhere(repo)
	}
	for _, s := range res.sources {
		if s.ManifestRepo != "" {
			return res.anywhere(s.ManifestRepo)
		}
	}
	return nil
}

// anywhere finds the source of a repository whatever partitions it looks at.
func (r *resolver) anywhere(text string) *place {
	for _, s := range r.sources {
		partition := ""
		if len(s.Partitions) > 0 {
			partition = s.Partitions[0]
		}
		if at := r.repo(partition, text); at != nil {
			return at
		}
	}
	return nil
}
