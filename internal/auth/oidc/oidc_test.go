package oidc

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/auth/oidc/oidctest"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type world struct {
	t      *testing.T
	key    oidctest.Key
	issuer *oidctest.Issuer
	set    waybill.OIDCIssuer
	v      *Verifier
	clock  *clock
}

func setup(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, key: oidctest.RSA(t, "k1"), clock: &clock{t: time.Unix(1_900_000_000, 0)}}
	w.issuer = oidctest.New(t, w.key, oidctest.EC(t, "k2"))
	w.set = waybill.OIDCIssuer{Issuer: w.issuer.URL, Audience: "waybill", Roles: []waybill.OIDCRule{
		{Claim: "groups", Value: "admins", Role: waybill.RoleAdmin},
		{Claim: "realm_access.roles", Value: "ops-*", Role: waybill.RoleOperator},
		{Claim: "repository", Value: "example-org/*", Role: waybill.RoleOperator},
		{Claim: "https://example.org/staff", Value: "true", Role: waybill.RoleViewer},
		{Claim: "groups", Value: "*", Role: waybill.RoleViewer},
	}}
	var err error
	if w.v, err = New([]waybill.OIDCIssuer{w.set}, Options{Tenant: "default", Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	return w
}

// claims are good ones, changed by pairs of name and value; nil takes one away.
func (w *world) claims(pairs ...any) map[string]any {
	now := w.clock.now()
	c := map[string]any{"iss": w.issuer.URL, "aud": "waybill", "sub": "alice", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "groups": []string{"admins"}}
	for i := 0; i < len(pairs); i += 2 {
		if c[pairs[i].(string)] = pairs[i+1]; pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		}
	}
	return c
}

func (w *world) ask(token string) (waybill.Principal, error) {
	return w.v.AuthenticateIdentity(w.t.Context(), token)
}

func (w *world) refuses(name, token string, kind waybill.Kind, words string) {
	w.t.Helper()
	p, err := w.ask(token)
	if waybill.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		w.t.Errorf("%s: %+v, %v, want %s with %q", name, p, err, kind, words)
	}
	if p.Role != "" {
		w.t.Errorf("%s: role %s", name, p.Role)
	}
}

func TestGoodTokens(t *testing.T) {
	w := setup(t)
	ec := oidctest.EC(t, "k3")
	w.issuer.SetKeys(w.key, ec)
	for _, k := range []oidctest.Key{w.key, ec} {
		p, err := w.ask(oidctest.Sign(t, k, w.claims("aud", []string{"other", "waybill"})))
		if err != nil || p != (waybill.Principal{Name: "oidc:alice", Tenant: "default", Role: waybill.RoleAdmin}) {
			t.Errorf("%s: %+v, %v", k.Algorithm, p, err)
		}
	}
	if n := w.issuer.Asked("/keys"); n != 1 {
		t.Errorf("keys were read %d times, want once", n)
	}
}

func TestBadTokens(t *testing.T) {
	w := setup(t)
	now := w.clock.now()
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for _, x := range []struct {
		name  string
		pairs []any
		words string // empty: it is good
	}{
		{"other audience", []any{"aud", "other"}, "audience"},
		{"no audience", []any{"aud", nil}, "audience"},
		{"other issuer", []any{"iss", "https://evil.example"}, "not one of this server"},
		{"issuer with a slash more", []any{"iss", w.issuer.URL + "/"}, "not one of this server"},
		{"no issuer", []any{"iss", nil}, "not one of this server"},
		{"expired", []any{"exp", unix(-5 * time.Minute)}, "expired at"},
		{"expired within the skew", []any{"exp", unix(-5*time.Minute + time.Second)}, ""},
		{"expires never", []any{"exp", nil}, "no time at which it expires"},
		{"exp as text", []any{"exp", "soon"}, "not"},
		{"not yet", []any{"nbf", unix(5*time.Minute + time.Second)}, "not valid before"},
		{"not yet within the skew", []any{"nbf", unix(5 * time.Minute)}, ""},
		{"issued in the future", []any{"iat", unix(time.Hour), "exp", unix(2 * time.Hour)}, "in the future"},
		{"at the end of time", []any{"exp", 1e300}, ""},
		{"a logout token", []any{"events", map[string]any{"x": map[string]any{}}}, "events"},
	} {
		token := oidctest.Sign(t, w.key, w.claims(x.pairs...))
		if x.words != "" {
			w.refuses(x.name, token, waybill.KindUnauthorized, x.words)
		} else if _, err := w.ask(token); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
	}
	good := oidctest.Sign(t, w.key, w.claims())
	parts := strings.Split(good, ".")
	enc := func(v any) string { b, _ := json.Marshal(v); return base64.RawURLEncoding.EncodeToString(b) }
	admin := enc(w.claims("sub", "mallory"))
	der, err := x509.MarshalPKIXPublicKey(w.key.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	hs := func(secret []byte) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: "k1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(w.claims())
		j, err := s.Sign(b)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := j.CompactSerialize()
		return text
	}
	stranger := oidctest.RSA(t, "k1")
	inside := jose.JSONWebKey{Key: stranger.Signer.Public(), KeyID: "k1"}
	for name, token := range map[string]string{
		"other claims":               parts[0] + "." + admin + "." + parts[2],
		"no signature":               parts[0] + "." + parts[1] + ".",
		"alg none":                   enc(map[string]string{"alg": "none"}) + "." + admin + ".",
		"alg None":                   enc(map[string]string{"alg": "None", "kid": "k1"}) + "." + admin + ".",
		"HS256 with the public key":  hs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"HS256 with its DER":         hs(der),
		"HS256 with its modulus":     hs(w.key.Signer.Public().(*rsa.PublicKey).N.Bytes()),
		"a stranger's key, same kid": oidctest.Sign(t, stranger, w.claims()),
		"its own key in the header":  enc(map[string]any{"alg": "RS256", "jwk": inside}) + "." + strings.Join(strings.Split(oidctest.Sign(t, stranger, w.claims()), ".")[1:], "."),
		"unknown kid":                oidctest.Sign(t, oidctest.Key{ID: "guess", Algorithm: w.key.Algorithm, Signer: w.key.Signer}, w.claims()),
		"garbage":                    "ey.ey.ey",
		"five parts":                 good + ".x.y",
		"empty":                      "",
		"JSON form":                  `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"huge":                       oidctest.Sign(t, w.key, w.claims("x", strings.Repeat("x", MaxToken))),
		"no object":                  enc(map[string]string{"alg": "RS256"}) + "." + enc("text") + "." + parts[2],
		"of another type":            enc(map[string]string{"alg": "RS256", "kid": "k1", "typ": "logout+jwt"}) + "." + parts[1] + "." + parts[2],
	} {
		w.refuses(name, token, waybill.KindUnauthorized, "the token is not valid")
	}
}

func TestRoles(t *testing.T) {
	w := setup(t)
	for _, x := range []struct {
		name  string
		pairs []any
		role  waybill.Role
	}{
		{"first rule that fits", []any{"groups", []string{"x", "admins"}}, "admin"},
		{"any group", []any{"groups", []string{"/team/a"}}, "viewer"},
		{"a single text", []any{"groups", "admins"}, "admin"},
		{"not a part of it", []any{"groups", nil, "repository", "example-org-evil/x"}, ""},
		{"nor the end", []any{"groups", nil, "repository", "x/example-org/y"}, ""},
		{"no group", []any{"groups", []string{}}, ""},
		{"empty group", []any{"groups", ""}, ""},
		{"null", []any{"groups", json.RawMessage("null")}, ""},
		{"an object", []any{"groups", map[string]string{"admins": "admins"}}, ""},
		{"inside of an object", []any{"groups", nil, "realm_access", map[string]any{"roles": []string{"ops-eu"}}}, "operator"},
		{"a job of CI", []any{"groups", nil, "repository", "example-org/app"}, "operator"},
		{"a truth in a name with dots", []any{"groups", nil, "https://example.org/staff", true}, "viewer"},
		{"a lie", []any{"groups", nil, "https://example.org/staff", false}, ""},
		{"no rule", []any{"groups", nil}, ""},
	} {
		p, err := w.ask(oidctest.Sign(t, w.key, w.claims(x.pairs...)))
		if x.role == "" {
			if waybill.KindOf(err) != waybill.KindForbidden || p.Name != "oidc:alice" || p.Role != "" {
				t.Errorf("%s: %+v, %v", x.name, p, err)
			}
		} else if err != nil || p.Role != x.role {
			t.Errorf("%s: %+v, %v, want %s", x.name, p, err, x.role)
		}
	}
}

func TestNames(t *testing.T) {
	w := setup(t)
	w.set.Name, w.set.ID = "email", "corp"
	if err := w.v.Set([]waybill.OIDCIssuer{w.set}); err != nil {
		t.Fatal(err)
	}
	if p, err := w.ask(oidctest.Sign(t, w.key, w.claims("email", "a@example.org", "email_verified", true))); err != nil || p.Name != "oidc/corp:a@example.org" {
		t.Errorf("%+v, %v", p, err)
	}
	for name, pairs := range map[string][]any{
		"without the claim":     {},
		"unverified":            {"email", "root@example.org", "email_verified", false},
		"unverified as text":    {"email", "root@example.org", "email_verified", "false"},
		"a list":                {"email", []string{"a", "b"}},
		"control characters":    {"email", "a\nb"},
		"characters to deceive": {"email", "a\u202eb"},
		"very long":             {"email", strings.Repeat("a", 201)},
	} {
		w.refuses(name, oidctest.Sign(t, w.key, w.claims(pairs...)), waybill.KindForbidden, "")
	}
}

func TestRotation(t *testing.T) {
	w := setup(t)
	old, next := w.key, oidctest.RSA(t, "k9")
	if _, err := w.ask(oidctest.Sign(t, old, w.claims())); err != nil {
		t.Fatal(err)
	}
	w.issuer.SetKeys(next)
	w.clock.add(askAgain)
	if _, err := w.ask(oidctest.Sign(t, next, w.claims())); err != nil {
		t.Errorf("a new key: %v", err)
	}
	w.refuses("a key that was withdrawn", oidctest.Sign(t, old, w.claims()), waybill.KindUnauthorized, "key")
	// A thousand tokens with made-up keys are no thousand questions.
	before := w.issuer.Asked("/keys")
	for range 1000 {
		w.refuses("made up", oidctest.Sign(t, oidctest.Key{ID: waybill.NewSecret(), Algorithm: next.Algorithm, Signer: next.Signer}, w.claims()), waybill.KindUnauthorized, "key")
	}
	if n := w.issuer.Asked("/keys") - before; n != 0 {
		t.Errorf("made-up keys caused %d questions", n)
	}
	// Another key under the same name.
	again := oidctest.RSA(t, "k9")
	w.issuer.SetKeys(again)
	w.clock.add(askAgain)
	if _, err := w.ask(oidctest.Sign(t, again, w.claims())); err != nil {
		t.Errorf("another key with the same name: %v", err)
	}
}

func TestIssuerDown(t *testing.T) {
	w := setup(t)
	good := oidctest.Sign(t, w.key, w.claims())
	w.issuer.Fail(http.StatusInternalServerError)
	w.refuses("never reached", good, waybill.KindUnavailable, "cannot be read")
	if s := w.v.Checks()[w.issuer.URL]; !strings.Contains(s, "could not be read yet") {
		t.Errorf("health says %q", s)
	}
	before := w.issuer.Asked("/.well-known/openid-configuration")
	for range 100 {
		w.refuses("never reached", good, waybill.KindUnavailable, "cannot be read")
	}
	if n := w.issuer.Asked("/.well-known/openid-configuration"); n != before {
		t.Errorf("an issuer that is down was asked %d times in a moment", n-before+1)
	}
	w.issuer.Fail(0)
	w.clock.add(lastPause)
	if _, err := w.ask(good); err != nil {
		t.Fatalf("it is back: %v", err)
	}
	if s := w.v.Checks()[w.issuer.URL]; s != "ok" {
		t.Errorf("health says %q", s)
	}
	w.issuer.Fail(http.StatusBadGateway)
	w.clock.add(30 * time.Minute)
	if _, err := w.ask(good); err != nil {
		t.Errorf("down again, with a known key: %v", err)
	}
	w.refuses("a new key while it is down", oidctest.Sign(t, oidctest.RSA(t, "new"), w.claims()), waybill.KindUnavailable, "cannot be read")
	if s := w.v.Checks()[w.issuer.URL]; !strings.Contains(s, "since then") {
		t.Errorf("health says %q", s)
	}
}

func TestSlowIssuer(t *testing.T) {
	w := setup(t)
	w.issuer.Slow(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	for range 5 {
		go func() {
			_, err := w.v.AuthenticateIdentity(ctx, oidctest.Sign(t, w.key, w.claims()))
			done <- err
		}()
	}
	for w.issuer.Asked("/.well-known/openid-configuration") == 0 {
		time.Sleep(time.Millisecond) // the question is under way in another goroutine
	}
	cancel()
	for range 5 {
		if err := <-done; err == nil {
			t.Error("a token was taken without keys")
		}
	}
	// The question goes on for the next one, although those who asked have gone.
	w.issuer.Slow(false)
	if _, err := w.ask(oidctest.Sign(t, w.key, w.claims())); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if n := w.issuer.Asked("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestKeysAreReadAhead(t *testing.T) {
	w := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.v.Run(ctx); close(ended) }()
	for w.v.Checks()[w.issuer.URL] != "ok" {
		time.Sleep(time.Millisecond)
	}
	// Another issuer is asked as soon as the settings name it.
	other := oidctest.New(t, oidctest.EC(t, "o"))
	if err := w.v.Set([]waybill.OIDCIssuer{w.set, {ID: "other", Issuer: other.URL, Audience: "x", Roles: w.set.Roles}}); err != nil {
		t.Fatal(err)
	}
	for w.v.Checks()[other.URL] != "ok" {
		time.Sleep(time.Millisecond)
	}
	if n := w.issuer.Asked("/keys"); n != 1 {
		t.Errorf("keys of the first were read %d times", n)
	}
	cancel()
	<-ended
}

func TestCertificates(t *testing.T) {
	w := setup(t)
	issuer, ca := oidctest.NewTLS(t, w.key)
	w.issuer, w.set.Issuer = issuer, issuer.URL
	if err := w.v.Set([]waybill.OIDCIssuer{w.set}); err != nil {
		t.Fatal(err)
	}
	w.refuses("an authority that nobody knows", oidctest.Sign(t, w.key, w.claims()), waybill.KindUnavailable, "cannot be read")
	w.set.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(w.set.CAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.v.Set([]waybill.OIDCIssuer{w.set}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(oidctest.Sign(t, w.key, w.claims())); err != nil {
		t.Errorf("with ca_file: %v", err)
	}
}

func TestBadSettings(t *testing.T) {
	w := setup(t)
	good := w.set
	twin := good
	twin.Issuer = "https://other.example"
	for name, list := range map[string][]waybill.OIDCIssuer{
		"two without id": {good, twin},
		"twice":          {good, good},
		"plain http":     {{Issuer: "http://login.example.com", Audience: "x", Roles: good.Roles}},
		"no rule":        {{Issuer: good.Issuer, Audience: "x"}},
		"no CA file":     {{Issuer: good.Issuer, Audience: "x", Roles: good.Roles, CAFile: "/nonexistent"}},
	} {
		if err := w.v.Set(list); waybill.KindOf(err) != waybill.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.ask(oidctest.Sign(t, w.key, w.claims())); err != nil {
		t.Errorf("what was before does not count any more: %v", err)
	}
}
