package app

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/waybill-run/waybill"
	httprunner "github.com/waybill-run/waybill/internal/runner/http"
)

// projectFolder is the project folder of a server.
type projectFolder struct{ s *Server }

// Reload implements waybill.Folder.
func (f projectFolder) Reload(ctx context.Context) (waybill.Reloaded, error) {
	r, err := f.s.project.Reload(ctx)
	f.s.reloaded(r, err)
	return r, err
}

// reloaded hands settings that were taken up to the parts that use them.
func (s *Server) reloaded(r waybill.Reloaded, err error) {
	if err != nil || len(r.Settings) == 0 {
		return
	}
	if x, ok := s.runners[httprunner.Name].(*httprunner.Runner); ok {
		x.SetGuard(s.project.Settings().HTTP.Guard())
	}
	s.reloadOIDC(s.project.Settings().Auth.OIDC)
	s.polling.poller.Set(pollConfig(s.project.Settings()))
}

// watchFolder takes up changes of the project folder until ctx ends: when files change,
// and when somebody sends SIGHUP.
func (s *Server) watchFolder(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	again := make(chan struct{}, 1)
	s.background.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				s.log.Info("SIGHUP: the project folder is read again")
				select {
				case again <- struct{}{}:
				default:
				}
			}
		}
	})
	s.project.Watch(ctx, again, s.reloaded)
	<-ctx.Done() // a server without a folder ignores SIGHUP all the same
}
