package app

import (
	"context"
	"path/filepath"
	"time"

	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/ancestry"
	"github.com/waybill-run/waybill/internal/delivery/poll"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/project"
)

// followHistory finds out what the revisions of clusters came of: from clones of the
// repositories that deliveries.manifests names, else from the providers that are polled.
func (s *Server) followHistory(ctx context.Context, settings project.Settings) {
	var clones []ancestry.Source
	for _, m := range settings.Manifests {
		clones = append(clones, ancestry.NewClone(ancestry.CloneOptions{
			Dir: filepath.Join(s.c.Data, "manifests"), Repo: m.Repo, Nameless: len(settings.Manifests) == 1, Fold: delivery.FoldRepo,
			Auth: func(ctx context.Context) (user, token string, err error) {
				token, err = s.secrets.Expand(ctx, m.Token)
				return m.User, token, err
			},
		}))
	}
	r := ancestry.New(ancestry.Options{
		Deliveries: s.deliveries, Logger: s.log,
		Sources: func() []ancestry.Source {
			out := clones[:len(clones):len(clones)]
			for _, src := range pollConfig(s.project.Settings()).Sources {
				if src.ManifestRepo != "" {
					out = append(out, s.compared(src))
				}
			}
			return out
		},
	})
	s.background.Go(func() { r.Run(ctx) })
}

// compared asks the provider of a source.
func (s *Server) compared(src poll.Source) ancestry.Source {
	return ancestry.Compared{
		Of: func(repo string) bool {
			return repo == "" || delivery.FoldRepo(repo) == delivery.FoldRepo(src.ManifestRepo)
		},
		Newest: s.deliveries.ManifestCommits,
		Ancestor: func(ctx context.Context, repo, base, head string) (bool, error) {
			if repo == "" {
				repo = src.ManifestRepo
			}
			p, err := s.newProvider(src)
			if err != nil {
				return false, err
			}
			r, err := provider.ParseRepository(repo, provider.Host{Kind: src.Kind, Web: src.URL})
			if err != nil {
				return false, err
			}
			c, err := p.Compare(ctx, r, base, head)
			return c.Ancestor, err
		},
	}
}

// watchAlerts tells those who listen of what is wrong with deliveries.
func (s *Server) watchAlerts(ctx context.Context) {
	s.background.Go(func() {
		s.deliveries.WatchAlerts(ctx, time.Minute, func() (stuck, silent time.Duration) {
			a := s.project.Settings().Alerts
			return time.Duration(a.Stuck), time.Duration(a.Silent)
		}, s.log)
	})
}
