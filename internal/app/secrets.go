package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/secret"
	"github.com/waybill-run/waybill/internal/store"
)

// secretKeyFile is the key of the store's secrets in the data directory, unless one
// is given.
const secretKeyFile = "secret-key"

// secretKey is the key that a server of this data directory uses: from the file that
// was named, from the environment, or its own.
func secretKey(file string, d *dataDir) (*secret.Key, error) {
	text := os.Getenv(secret.KeyVariable)
	switch {
	case file != "" && text != "":
		return nil, waybill.E(waybill.KindInvalid, "the key of secrets is given twice, with --secret-key-file and %s", secret.KeyVariable)
	case file != "":
		return secret.KeyFile(file)
	case text != "":
		return secret.GivenKey(text, secret.KeyVariable)
	}
	return secret.ManagedKey(d.join(secretKeyFile))
}

// openSecrets opens the store's secrets and the chain of providers that definitions
// and settings are resolved with. learned gets every value before it is used.
func openSecrets(ctx context.Context, st store.Store, d *dataDir, keyFile string, set project.Secrets, learned func(...string), log *slog.Logger) (*secret.Kept, *secret.Chain, error) {
	key, err := secretKey(keyFile, d)
	if err != nil {
		return nil, nil, err
	}
	kept := secret.NewKept(st, key, mask.Maskable)
	if err := kept.Check(ctx); err != nil {
		// Runs without secrets of the store are not held up: those that need one fail and say so.
		if !waybill.IsKind(err, waybill.KindConflict) {
			return nil, nil, err
		}
		log.Error("secrets of the store cannot be used", "err", err)
	}
	var providers []secret.Provider
	for _, name := range set.Providers {
		switch name {
		case "store":
			providers = append(providers, kept)
		case "env":
			providers = append(providers, secret.Env{Prefix: set.EnvPrefix})
		case "file":
			providers = append(providers, secret.Dir{Path: set.FileDir})
		}
	}
	return kept, secret.NewChain(learned, providers...), nil
}

// OpenSecrets opens the secrets of a server that is stopped.
func OpenSecrets(ctx context.Context, data, where, keyFile string) (waybill.Secrets, func() error, error) {
	d, err := openDataDir(data)
	if err != nil {
		return nil, nil, err
	}
	key, err := secretKey(keyFile, d)
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	st, err := openStore(ctx, where, d, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	return secret.NewKept(st, key, mask.Maskable), func() error { return errors.Join(st.Close(), d.Close()) }, nil
}

// hasSecret reports whether some provider has a secret. While the providers are not
// there, because the settings that name them are being read, all are taken for known.
func (s *Server) hasSecret(ctx context.Context, name string) (bool, error) {
	if s.secrets == nil {
		return true, nil
	}
	return s.secrets.Known(ctx, name)
}

// doubts tells what is not wrong in the definitions of a path and may yet be, as far as
// can be told without a server.
func doubts(path string) []client.SourceProblem {
	o := ParseOptions(localRunners())
	var plans []*pipeline.Plan
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		plans, _ = pipeline.Load(os.DirFS(path), o) // what is wrong was told
	} else if src, err := os.ReadFile(path); err == nil {
		if plan, err := pipeline.Parse(strings.TrimPrefix(path, "./"), src, o); err == nil {
			plans = append(plans, plan)
		}
	}
	var out []client.SourceProblem
	for _, plan := range plans {
		for _, p := range plan.Warnings {
			out = append(out, client.SourceProblem{Msg: p.Msg, File: p.File, Line: p.Line, Column: p.Column, Hint: p.Hint, Warning: true})
		}
		for _, r := range plan.Secrets() {
			out = append(out, client.SourceProblem{
				Msg: "step " + r.Step + ": whether there is a secret " + r.Name + " is known to a server only", File: r.File, Line: r.Line, Column: r.Column,
				Hint: "waybill secret list shows those of the store",
			})
		}
	}
	return out
}

// checkSecretKey reports whether the key of a data directory fits the secrets of its
// store.
func checkSecretKey(ctx context.Context, st store.Store, d *dataDir, keyFile string) error {
	key, err := secretKey(keyFile, d)
	if err != nil {
		return err
	}
	return secret.NewKept(st, key, mask.Maskable).Check(ctx)
}

// supervisorEnv is the environment of the supervisor: the server's without what is secret
// in it. It outlives the server and needs none of that.
func supervisorEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		for _, name := range []string{secret.DefaultEnvPrefix, "WAYBILL_STORE=", "WAYBILL_API_TOKEN="} {
			if strings.HasPrefix(v, name) {
				return true
			}
		}
		return false
	})
}
