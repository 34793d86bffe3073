package secret

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-run/waybill"
)

// DefaultEnvPrefix begins the variables that [Env] reads.
const DefaultEnvPrefix = "WAYBILL_SECRET_"

// DefaultDir is where platforms put secrets as files.
const DefaultDir = "/run/secrets"

// KeyVariable is the variable that holds the key of [Kept]. It is no secret that
// definitions can name.
const KeyVariable = "WAYBILL_SECRET_KEY"

// Env is a provider of the server's environment: the secret db-password is the
// variable PREFIX followed by db-password, or else by DB_PASSWORD, in which dots and
// dashes have become underscores. An empty variable is none.
type Env struct {
	Prefix  string
	Lookenv func(string) (string, bool) // nil means os.LookupEnv
}

// Name returns "env".
func (Env) Name() string { return "env" }

var variable = strings.NewReplacer("-", "_", ".", "_")

// Lookup implements [Provider].
func (e Env) Lookup(_ context.Context, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	look := e.Lookenv
	if look == nil {
		look = os.LookupEnv
	}
	for _, v := range []string{e.Prefix + name, e.Prefix + strings.ToUpper(variable.Replace(name))} {
		if v == KeyVariable {
			continue
		}
		if value, ok := look(v); ok && value != "" {
			return value, usable(name, "variable "+v, value)
		}
	}
	return "", waybill.E(waybill.KindNotFound, "the environment has no secret %s", name)
}

// Former implements [Provider].
func (Env) Former(context.Context, string) ([]string, error) { return nil, nil }

// Has implements [Provider].
func (e Env) Has(ctx context.Context, name string) (bool, error) { return has(ctx, e, name) }

// Dir is a provider of a folder in which every file is a secret, as platforms mount
// them. One newline at the end is not part of the value. Links are followed, because
// platforms use them to change all files at once, but names cannot lead elsewhere.
type Dir struct{ Path string }

// Name returns "file".
func (Dir) Name() string { return "file" }

// Lookup implements [Provider].
func (d Dir) Lookup(_ context.Context, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	path := filepath.Join(d.Path, name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", waybill.E(waybill.KindNotFound, "%s has no secret %s", d.Path, name)
	}
	if err != nil {
		return "", waybill.E(waybill.KindUnavailable, "%w", err).WithOp("read secret", name)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return "", waybill.E(waybill.KindNotFound, "%s is not a file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxValue+2))
	if err != nil {
		return "", waybill.E(waybill.KindUnavailable, "%w", err).WithOp("read secret", name)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	return value, usable(name, "file "+path, value)
}

// Former implements [Provider].
func (Dir) Former(context.Context, string) ([]string, error) { return nil, nil }

// Has implements [Provider].
func (d Dir) Has(ctx context.Context, name string) (bool, error) { return has(ctx, d, name) }

// usable reports why the value of a platform cannot be used.
func usable(name, where, value string) error {
	err := CheckValue(value)
	var e *waybill.Error
	if errors.As(err, &e) {
		return e.WithOp("read secret "+name+" from", where)
	}
	return err
}

func has(ctx context.Context, p Provider, name string) (bool, error) {
	_, err := p.Lookup(ctx, name)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}
