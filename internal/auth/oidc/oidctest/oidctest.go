// Package oidctest is an identity provider for tests: discovery, keys, the device
// authorization grant (RFC 8628), refresh tokens that count once, and revocation. It signs
// with real keys, and does wrong what it is told to do wrong.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Key is one that tokens are signed with.
type Key struct {
	ID        string
	Algorithm jose.SignatureAlgorithm
	Signer    crypto.Signer
}

// RSA makes a key of 2048 bits for RS256.
func RSA(tb testing.TB, id string) Key {
	tb.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return Key{id, jose.RS256, k}
}

// EC makes a key for ES256.
func EC(tb testing.TB, id string) Key {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return Key{id, jose.ES256, k}
}

// Issuer is an identity provider. It is safe for concurrent use.
type Issuer struct {
	URL string
	// Claims are those of the tokens it gives to who logs in, besides iss, iat and exp. They
	// are set before it is asked for the first time.
	Claims map[string]any

	server *httptest.Server
	mu     sync.Mutex
	keys   []Key
	life   time.Duration
	status int           // that everything is answered with; 0 works
	gate   chan struct{} // not nil: answers wait for it
	polls  int           // of the device code that are answered "pending"
	asked  map[string]int
	live   map[string]bool // refresh tokens that count
	count  int
}

// New starts an issuer with keys. It ends with the test.
func New(tb testing.TB, keys ...Key) *Issuer {
	tb.Helper()
	return start(tb, httptest.NewServer, keys)
}

// NewTLS is New with a certificate of its own authority, which is returned as PEM.
func NewTLS(tb testing.TB, keys ...Key) (*Issuer, []byte) {
	tb.Helper()
	i := start(tb, httptest.NewTLSServer, keys)
	return i, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
}

func start(tb testing.TB, serve func(http.Handler) *httptest.Server, keys []Key) *Issuer {
	tb.Helper()
	i := &Issuer{keys: keys, life: time.Hour, asked: map[string]int{}, live: map[string]bool{}, Claims: map[string]any{}}
	i.server = serve(http.HandlerFunc(i.serve))
	i.URL = i.server.URL
	tb.Cleanup(func() { i.Slow(false); i.server.Close() })
	return i
}

// SetKeys replaces the keys that it shows.
func (i *Issuer) SetKeys(keys ...Key) { i.do(func() { i.keys = keys }) }

// SetLife is how long the tokens count that it gives; an hour unless set.
func (i *Issuer) SetLife(d time.Duration) { i.do(func() { i.life = d }) }

// Fail answers everything with a status; 0 ends that.
func (i *Issuer) Fail(status int) { i.do(func() { i.status = status }) }

// Pending makes the next n questions for the device's token come too early.
func (i *Issuer) Pending(n int) { i.do(func() { i.polls = n }) }

// Slow lets answers wait until it is called with false.
func (i *Issuer) Slow(on bool) {
	i.do(func() {
		if i.gate != nil {
			close(i.gate)
			i.gate = nil
		}
		if on {
			i.gate = make(chan struct{})
		}
	})
}

// Asked is how often a path was asked for.
func (i *Issuer) Asked(path string) (n int) {
	i.do(func() { n = i.asked[path] })
	return n
}

// Live is how many logins have not ended.
func (i *Issuer) Live() (n int) {
	i.do(func() { n = len(i.live) })
	return n
}

func (i *Issuer) do(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

// Sign makes a token.
func Sign(tb testing.TB, k Key, claims map[string]any) string {
	tb.Helper()
	token, err := sign(k, claims)
	if err != nil {
		tb.Fatal(err)
	}
	return token
}

func sign(k Key, claims map[string]any) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: k.Algorithm, Key: jose.JSONWebKey{Key: k.Signer, KeyID: k.ID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := s.Sign(b)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	gate := i.gate
	i.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.status != 0 {
		w.WriteHeader(i.status)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		answer(w, 200, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token",
			"device_authorization_endpoint": i.URL + "/device", "revocation_endpoint": i.URL + "/revoke",
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"},
		})
	case "/keys":
		set := []any{map[string]string{"kty": "unheard-of", "kid": "x"}, map[string]string{"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0"}}
		for _, k := range i.keys {
			set = append(set, jose.JSONWebKey{Key: k.Signer.Public(), KeyID: k.ID, Use: "sig"})
		}
		answer(w, 200, map[string]any{"keys": set})
	case "/device":
		answer(w, 200, map[string]any{"device_code": "device", "user_code": "WDJB-MJHT", "verification_uri": i.URL + "/enter", "interval": 1, "expires_in": 300})
	case "/token":
		i.token(w, r)
	case "/revoke":
		delete(i.live, r.PostFormValue("token"))
		w.WriteHeader(http.StatusOK)
	default:
		http.NotFound(w, r)
	}
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	switch r.PostFormValue("grant_type") {
	case "urn:ietf:params:oauth:grant-type:device_code":
		if i.polls > 0 {
			i.polls--
			answer(w, 400, map[string]string{"error": "authorization_pending"})
			return
		}
	case "refresh_token":
		old := r.PostFormValue("refresh_token")
		if !i.live[old] {
			answer(w, 400, map[string]string{"error": "invalid_grant", "error_description": "this refresh token does not count"})
			return
		}
		delete(i.live, old)
	default:
		answer(w, 400, map[string]string{"error": "unsupported_grant_type"})
		return
	}
	now := time.Now()
	i.count++
	claims := map[string]any{"iss": i.URL, "iat": now.Unix(), "exp": now.Add(i.life).Unix(), "jti": fmt.Sprint(i.count)}
	maps.Copy(claims, i.Claims)
	id, err := sign(i.keys[0], claims)
	if err != nil {
		answer(w, 500, map[string]string{"error": "server_error"})
		return
	}
	refresh := fmt.Sprintf("refresh-%d", i.count)
	i.live[refresh] = true
	answer(w, 200, map[string]any{"access_token": "opaque", "token_type": "Bearer", "id_token": id, "refresh_token": refresh, "expires_in": int(i.life.Seconds())})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who asks may have gone
}
