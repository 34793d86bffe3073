// Package secret finds the values that definitions name as ${secret:NAME}.
//
// A [Provider] is a place that holds values. [Kept] is the built-in one: values in
// the store, encrypted with age, under a key that the store never sees. [Env] and
// [Dir] read what the platform provides. A [Chain] asks several in order; the first
// that has a name is the one that counts.
//
// A value leaves this package for one purpose: to be handed to a unit, or to a part
// of the server that speaks to another system, in memory. Nothing writes it
// anywhere. There is no way to read a value back through the API.
package secret

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// Limits of names and values, in bytes.
const (
	MaxName  = 100
	MaxValue = 64 << 10
)

// Provider is a place that holds secrets. Implementations are safe for concurrent
// use and keep no copy of a value longer than they need.
type Provider interface {
	// Name is what waybill.yaml calls it: "store", "env", "file".
	Name() string
	// Lookup returns the value of a secret, KindNotFound when there is none here,
	// KindInvalid when it is there and can never be used, KindUnavailable when that
	// cannot be told now. Errors name the secret and never hold its value.
	Lookup(ctx context.Context, name string) (string, error)
	// Former returns earlier values of the secret that may still be in use somewhere,
	// so that they are masked; usually none.
	Former(ctx context.Context, name string) ([]string, error)
	// Has reports whether there is such a secret here, without reading its value.
	Has(ctx context.Context, name string) (bool, error)
}

// CheckName reports why a text cannot name a secret: names have up to 100 letters,
// digits, dots, dashes and underscores, and begin with a letter or an underscore.
func CheckName(name string) error {
	ok := name != "" && len(name) <= MaxName
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		ok = ok && (letter || i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '.'))
	}
	if !ok {
		return waybill.E(waybill.KindInvalid, "%.120q is no name of a secret: up to %d letters, digits, '.', '-' and '_', beginning with a letter or '_'", name, MaxName)
	}
	return nil
}

// CheckValue reports why a text cannot be a secret's value. The error does not hold it.
func CheckValue(value string) error {
	switch {
	case value == "":
		return waybill.E(waybill.KindInvalid, "a secret cannot be empty")
	case len(value) > MaxValue:
		return waybill.E(waybill.KindTooLarge, "the value has %d bytes, the limit is %d", len(value), MaxValue)
	case strings.ContainsRune(value, 0):
		return waybill.E(waybill.KindInvalid, "the value holds a NUL character, which no environment can").
			WithHint("encode it, for example with base64")
	case !utf8.ValidString(value):
		return waybill.E(waybill.KindInvalid, "the value is not text in UTF-8").WithHint("encode it, for example with base64")
	}
	return nil
}

// Chain asks providers in order. It is safe for concurrent use.
type Chain struct {
	providers []Provider
	learned   func(values ...string)
}

// NewChain returns a chain of providers. learned, unless it is nil, is called with
// every value before it is handed out, so that the server's own log can mask it.
func NewChain(learned func(values ...string), providers ...Provider) *Chain {
	if learned == nil {
		learned = func(...string) {}
	}
	return &Chain{providers, learned}
}

// Secret returns the value of a secret from the first provider that has it. The
// error is of KindNotFound, naming the secret and where it was looked for, when none
// has. Callers never store or log the value.
func (c *Chain) Secret(ctx context.Context, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	for _, p := range c.providers {
		v, err := p.Lookup(ctx, name)
		if waybill.IsKind(err, waybill.KindNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		c.learned(v)
		return v, nil
	}
	return "", c.unknown(name)
}

func (c *Chain) unknown(name string) error {
	var places []string
	for _, p := range c.providers {
		places = append(places, p.Name())
	}
	where := "no provider is configured"
	if len(places) > 0 {
		where = "looked for in " + strings.Join(places, ", ")
	}
	return waybill.E(waybill.KindNotFound, "there is no secret %s (%s)", name, where).WithHint("set it with: waybill secret set %s", name)
}

// Values returns the value of a secret and its earlier ones, as far as they are
// known, for masking. A secret that is not there has none.
func (c *Chain) Values(ctx context.Context, name string) ([]string, error) {
	var out []string
	for _, p := range c.providers {
		v, err := p.Lookup(ctx, name)
		if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
			return nil, err
		}
		if err == nil {
			out = append(out, v)
		}
		former, err := p.Former(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, former...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	c.learned(out...)
	return out, nil
}

// Known reports whether some provider has the secret.
func (c *Chain) Known(ctx context.Context, name string) (bool, error) {
	for _, p := range c.providers {
		ok, err := p.Has(ctx, name)
		if err != nil {
			return false, fmt.Errorf("provider %s: %w", p.Name(), err)
		}
		if ok {
			return true, nil
		}
	}
	return false, nil
}

// Expand replaces every ${secret:NAME} of a text, as it may stand in waybill.yaml, by
// the secret's value. $${secret: stands for ${secret: itself. The result is as secret
// as what it holds.
func (c *Chain) Expand(ctx context.Context, text string) (string, error) {
	const open = "${secret:"
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, open)
		if !found {
			out.WriteString(text)
			return out.String(), nil
		}
		if plain, ok := strings.CutSuffix(before, "$"); ok {
			out.WriteString(plain + open)
			text = rest
			continue
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", waybill.E(waybill.KindInvalid, "%s has no closing }", open)
		}
		value, err := c.Secret(ctx, name)
		if err != nil {
			return "", err
		}
		out.WriteString(before)
		out.WriteString(value)
		text = after
	}
}
