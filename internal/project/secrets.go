package project

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waybill-run/waybill/internal/pipeline"
)

// Secrets says where ${secret:NAME} is looked up.
type Secrets struct {
	Providers []string // "store", "env", "file", in the order in which they are asked
	EnvPrefix string   // of the variables of provider env
	FileDir   string   // folder of provider file
}

// SecretProviders are the providers there are, in the order of the default.
var SecretProviders = []string{"store", "env", "file"}

func defaultSecrets() Secrets {
	return Secrets{Providers: slices.Clone(SecretProviders), EnvPrefix: "WAYBILL_SECRET_", FileDir: "/run/secrets"}
}

// fields are the places that values go to, by their path below "secrets".
func (s *Secrets) fields() map[string]any {
	return map[string]any{"providers": &s.Providers, "env_prefix": &s.EnvPrefix, "file_dir": &s.FileDir}
}

// check reports values that make no sense.
func (s Secrets) check(add func(path, format string, args ...any)) {
	seen := map[string]bool{}
	for _, p := range s.Providers {
		switch {
		case !slices.Contains(SecretProviders, p):
			add("secrets.providers", "there is no provider %.40q; there are %s", p, strings.Join(SecretProviders, ", "))
		case seen[p]:
			add("secrets.providers", "%s is named twice", p)
		}
		seen[p] = true
	}
	if len(s.Providers) == 0 {
		add("secrets.providers", "expected at least one of %s", strings.Join(SecretProviders, ", "))
	}
	// Without a prefix every variable of the server could be read by a definition.
	if len(s.EnvPrefix) < 3 || strings.ContainsAny(s.EnvPrefix, "=\x00 ") {
		add("secrets.env_prefix", "expected at least three characters without blanks and =")
	}
	if !filepath.IsAbs(s.FileDir) {
		add("secrets.file_dir", "expected an absolute path, found %.100q", s.FileDir)
	}
}

// checkSecrets reports secrets that a definition names and nobody has.
func (p *Project) checkSecrets(ctx context.Context, plan *pipeline.Plan) error {
	if p.o.HasSecret == nil || len(plan.Secrets()) == 0 {
		return nil
	}
	problems, err := plan.UnknownSecrets(func(name string) (bool, error) { return p.o.HasSecret(ctx, name) })
	if err == nil && len(problems) > 0 {
		err = problems
	}
	return err
}

// WarnSecrets logs which pipelines name secrets that nobody has. Those of the folder are
// taken all the same: it is there before the secrets can be set.
func (p *Project) WarnSecrets(ctx context.Context) {
	p.mu.Lock()
	plans := []*pipeline.Plan{}
	for _, x := range p.newest {
		if x.Plan != nil && !x.retired {
			plans = append(plans, x.Plan)
		}
	}
	p.mu.Unlock()
	for _, plan := range plans {
		if err := p.checkSecrets(ctx, plan); err != nil {
			p.log.Warn("pipeline names secrets that are not there; its attempts will fail", "pipeline", plan.Name, "err", err)
		}
	}
}
