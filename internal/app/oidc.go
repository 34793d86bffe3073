package app

import (
	"context"
	"os"
	"path/filepath"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/auth/oidc"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/store"
)

// hasIssuers reports whether a project folder names identity providers.
func hasIssuers(folder string) (bool, error) {
	if folder == "" {
		return false, nil
	}
	settings, err := project.ReadSettings(os.DirFS(folder), os.LookupEnv)
	return len(settings.Auth.OIDC) > 0, err
}

// openOIDC begins to take tokens of identity providers. It waits for none of them.
func (s *Server) openOIDC(ctx context.Context, issuers []waybill.OIDCIssuer) error {
	v, err := oidc.New(s.found(issuers), oidc.Options{Tenant: store.DefaultTenant, Logger: s.log})
	if err != nil {
		return err
	}
	s.oidc = v
	s.background.Go(func() { v.Run(ctx) })
	return nil
}

// found are issuers whose files are looked up in the project folder.
func (s *Server) found(issuers []waybill.OIDCIssuer) []waybill.OIDCIssuer {
	out := make([]waybill.OIDCIssuer, len(issuers))
	for n, i := range issuers {
		if i.CAFile != "" && !filepath.IsAbs(i.CAFile) {
			i.CAFile = filepath.Join(s.c.Project, i.CAFile)
		}
		out[n] = i
	}
	return out
}

// reloadOIDC takes issuers and rules that have changed.
func (s *Server) reloadOIDC(issuers []waybill.OIDCIssuer) {
	if err := s.oidc.Set(s.found(issuers)); err != nil {
		s.log.Error("auth.oidc not taken up; what it held before stays", "err", err)
	}
}

// checkOIDC tells how it stands with the issuers. None of them makes the server itself
// unfit for work.
func (s *Server) checkOIDC(checks map[string]string) {
	for issuer, state := range s.oidc.Checks() {
		checks["oidc "+issuer] = state
	}
}
