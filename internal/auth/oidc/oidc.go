// Package oidc takes tokens of identity providers: signed JWTs, ID tokens as well as
// access tokens (RFC 9068), of people and of machines such as the jobs of CI systems.
//
// A token is taken when its signature is by a key of its issuer with one of the
// algorithms in [Algorithms], iss and aud are those of the settings, and the time is within
// exp and nbf, with [waybill.ClockSkew] to spare. The first rule whose claim fits gives the
// role.
//
// The keys of an issuer are found by OpenID Connect Discovery 1.0 and kept in memory. They
// are read again every hour, and when a token names a key that is not among them, the
// latter at most every ten seconds, so that made-up tokens cause no storm. An issuer that
// cannot be reached keeps its keys; one that was never reached makes its tokens
// unavailable, not invalid. Nothing waits for an issuer but requests with its tokens.
package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"github.com/waybill-run/waybill"
)

// MaxToken is the most bytes of a token.
const MaxToken = 16 << 10

// maxName is the most bytes of a principal's name.
const maxName = 200

// Algorithms are the signatures that are taken: all of them are of key pairs, so that
// nobody can sign with what is public.
var Algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// types are the values of the header typ of tokens that say who somebody is. Others, such
// as that of logout tokens, are signed by the same keys and mean something else.
var types = []string{"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"}

// Options configure a [Verifier].
type Options struct {
	Tenant string // of all principals
	Logger *slog.Logger
	Now    func() time.Time // nil means time.Now
}

// Verifier implements [waybill.Identities]. It is safe for concurrent use.
type Verifier struct {
	o       Options
	changed chan struct{} // holds one when there may be something to fetch

	mu      sync.RWMutex
	issuers []waybill.OIDCIssuer
	keys    map[source]*keySet
}

// source is where keys come from.
type source struct{ issuer, caFile string }

var _ waybill.Identities = (*Verifier)(nil)

// New returns a verifier for tokens of issuers. It does not call them yet.
func New(issuers []waybill.OIDCIssuer, o Options) (*Verifier, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{o: o, changed: make(chan struct{}, 1), keys: map[source]*keySet{}}
	return v, v.Set(issuers)
}

// Set replaces the issuers and their rules from the next request on. Keys of issuers that
// stay are kept. With an error nothing has changed.
func (v *Verifier) Set(issuers []waybill.OIDCIssuer) error {
	if _, err := waybill.CheckOIDCIssuers(issuers); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	keys := map[source]*keySet{}
	for _, i := range issuers {
		if err := i.Check(); err != nil {
			return err
		}
		s := source{i.Issuer, i.CAFile}
		if keys[s] != nil {
			continue
		}
		if keys[s] = v.keys[s]; keys[s] == nil {
			k, err := newKeySet(s, v.o.Now, v.o.Logger)
			if err != nil {
				return err
			}
			keys[s] = k
		}
	}
	v.issuers, v.keys = slices.Clone(issuers), keys
	select {
	case v.changed <- struct{}{}:
	default:
	}
	return nil
}

// Run keeps the keys fresh until ctx ends.
func (v *Verifier) Run(ctx context.Context) {
	for {
		v.mu.RLock()
		sets := make([]*keySet, 0, len(v.keys))
		for _, k := range v.keys {
			sets = append(sets, k)
		}
		v.mu.RUnlock()
		next := time.Hour
		for _, k := range sets {
			next = min(next, k.due())
		}
		t := time.NewTimer(max(0, next))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-v.changed:
			t.Stop()
			continue
		case <-t.C:
		}
		var all sync.WaitGroup
		for _, k := range sets {
			if k.due() <= 0 {
				all.Go(func() { _ = k.refresh(ctx) }) // it is logged, and health tells
			}
		}
		all.Wait()
	}
}

// Checks says how it stands with each issuer, by its URL: "ok" or what is wrong.
func (v *Verifier) Checks() map[string]string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[string]string{}
	for s, k := range v.keys {
		out[s.issuer] = k.state()
	}
	return out
}

// LooksLike reports whether a text has the form of a JWT.
func LooksLike(token string) bool {
	return strings.HasPrefix(token, "ey") && strings.Count(token, ".") == 2
}

func refused(format string, args ...any) error {
	return waybill.E(waybill.KindUnauthorized, "the token is not valid: "+format, args...)
}

// AuthenticateIdentity implements [waybill.Identities].
func (v *Verifier) AuthenticateIdentity(ctx context.Context, token string) (waybill.Principal, error) {
	var none waybill.Principal
	if len(token) > MaxToken {
		return none, refused("it has %d bytes, at most %d are taken", len(token), MaxToken)
	}
	signed, err := jose.ParseSignedCompact(token, Algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return none, refused("it is no JWT signed with one of %s", algorithmNames())
	}
	header := signed.Signatures[0].Header
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); !slices.Contains(types, strings.ToLower(typ)) {
		return none, refused("its type %.40q is not one of tokens that open something", typ)
	}
	// Who claims to have issued it says where to look for keys, and nothing else.
	var claimed struct {
		Iss string `json:"iss"`
	}
	if json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &claimed) != nil {
		return none, refused("its claims cannot be read")
	}
	v.mu.RLock()
	var issuers []waybill.OIDCIssuer
	var keys *keySet
	for _, i := range v.issuers {
		if i.Issuer == claimed.Iss {
			issuers = append(issuers, i)
			if keys == nil {
				keys = v.keys[source{i.Issuer, i.CAFile}]
			}
		}
	}
	none.Tenant = v.o.Tenant
	v.mu.RUnlock()
	if keys == nil {
		return none, refused("its issuer %.200q is not one of this server", claimed.Iss)
	}
	good, err := keys.verify(ctx, token, header)
	if err != nil {
		return none, err
	}
	var claims map[string]any
	var times struct {
		Exp, Nbf, Iat *float64
		Events        json.RawMessage
	}
	if good.Claims(&claims) != nil || good.Claims(&times) != nil {
		return none, refused("its claims cannot be read")
	}
	if times.Events != nil {
		return none, refused("it tells of events and is not one that opens something")
	}
	now := v.o.Now()
	for _, i := range issuers {
		if !slices.Contains(good.Audience, i.Audience) {
			continue
		}
		switch {
		case times.Exp == nil:
			return none, refused("it has no time at which it expires")
		case !now.Before(at(*times.Exp).Add(waybill.ClockSkew)):
			return none, expired(at(*times.Exp))
		case times.Nbf != nil && now.Before(at(*times.Nbf).Add(-waybill.ClockSkew)):
			return none, refused("it is not valid before %s", at(*times.Nbf).Format(time.RFC3339))
		case times.Iat != nil && now.Before(at(*times.Iat).Add(-waybill.ClockSkew)):
			return none, refused("it was issued in the future, at %s", at(*times.Iat).Format(time.RFC3339))
		}
		return v.principal(i, claims, none)
	}
	return none, refused("it is for the audience %.200q", strings.Join(good.Audience, ", "))
}

func expired(when time.Time) error {
	return waybill.E(waybill.KindUnauthorized, "the token is not valid: it expired at %s", when.Format(time.RFC3339)).
		WithHint("get a new one, on the command line with: waybill login")
}

// at is a NumericDate of RFC 7519. Numbers that no clock shows become the nearest that
// can be told.
func at(seconds float64) time.Time {
	const most = 253402300799 // the end of the year 9999
	return time.Unix(int64(max(0, min(most, seconds))), 0).UTC()
}

// principal is the holder of good claims.
func (v *Verifier) principal(i waybill.OIDCIssuer, claims map[string]any, p waybill.Principal) (waybill.Principal, error) {
	claim := i.Name
	if claim == "" {
		claim = "sub"
	}
	name := first(values(claims, claim))
	switch {
	case name == "":
		return p, waybill.E(waybill.KindForbidden, "the token has no claim %.100s, which names its holder here", claim)
	case len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return p, waybill.E(waybill.KindForbidden, "the claim %.100s of the token is no name of up to %d bytes that print", claim, maxName)
	}
	// Whoever may write any address into a profile could else go by the name of another.
	if verified := first(values(claims, "email_verified")); claim == "email" && verified != "" && verified != "true" {
		return p, waybill.E(waybill.KindForbidden, "the issuer has not verified the e-mail address in the token")
	}
	p.Name = i.Prefix() + name
	for _, r := range i.Roles {
		if slices.ContainsFunc(values(claims, r.Claim), func(s string) bool { return match(r.Value, s) }) {
			p.Role = r.Role
			return p, nil
		}
	}
	return p, waybill.E(waybill.KindForbidden, "%s has no role here: no rule of auth.oidc fits the claims of the token", p.Name)
}

func first(list []string) string {
	if len(list) == 1 {
		return list[0]
	}
	return ""
}

// values are those of a claim as texts, without empty ones: one, or those of a list. Dots
// in a name lead into objects, unless there is a claim of the whole name.
func values(claims map[string]any, name string) []string {
	v, ok := claims[name]
	for rest := name; !ok; {
		key, after, more := strings.Cut(rest, ".")
		inner, is := claims[key].(map[string]any)
		if !more || !is {
			return nil
		}
		claims, rest = inner, after
		v, ok = claims[rest]
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var out []string
	for _, x := range list {
		switch x := x.(type) {
		case string:
			if x != "" {
				out = append(out, x)
			}
		case bool, float64:
			b, _ := json.Marshal(x) // both always marshal
			out = append(out, string(b))
		}
	}
	return out
}

// match reports whether a text fits a pattern in which * is any number of characters.
func match(pattern, text string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	text, ok := strings.CutPrefix(text, head)
	if !star || !ok {
		return ok && text == ""
	}
	for {
		part, after, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(text, part)
		}
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text, rest = text[i+len(part):], after
	}
}

func algorithmList() []string {
	out := make([]string, len(Algorithms))
	for i, a := range Algorithms {
		out[i] = string(a)
	}
	return out
}

func algorithmNames() string { return strings.Join(algorithmList(), ", ") }

// usable reports whether a key verifies signatures of an algorithm.
func usable(k jose.JSONWebKey, algorithm string) bool {
	if k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != algorithm || !k.IsPublic() {
		return false
	}
	return strong(k.Key)
}

// strong reports whether a public key is of a kind that is taken.
func strong(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= 2048 && key.N.BitLen() <= 16384
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}
