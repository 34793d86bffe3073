package app

import (
	"context"
	"path/filepath"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/ancestry"
	"github.com/waybill-run/waybill/internal/project"
)

// followHistory finds out what the revisions of clusters came of: from clones of the
// repositories that deliveries.manifests names, else from the providers that are polled.
func (s *Server) followHistory(ctx context.Context, settings project.Settings) error {
	if !ancestry.WithGit && len(settings.Manifests) > 0 {
		return waybill.E(waybill.KindUnsupported, "deliveries: manifests: this program was built without git").
			WithHint("use the full program (make build), or name the provider of the repository in deliveries.providers")
	}
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
			if len(s.project.Settings().Providers) > 0 {
				out = append(out, s.compared())
			}
			return out
		},
	})
	s.background.Go(func() { r.Run(ctx) })
	return nil
}

// compared asks the providers that are polled, within their limits.
func (s *Server) compared() ancestry.Source {
	return ancestry.Compared{Of: s.polling.poller.Covers, Newest: s.deliveries.ManifestCommits, Ancestor: s.polling.poller.Ancestor}
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
