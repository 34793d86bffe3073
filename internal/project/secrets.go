package project

import (
	"path/filepath"
	"slices"
	"strings"
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
