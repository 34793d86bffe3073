package oidc

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/waybill-run/waybill"
)

const (
	keysLife     = time.Hour        // until keys are read again
	askAgain     = 10 * time.Second // between two readings because of an unknown key
	firstPause   = 2 * time.Second  // after a failure, doubled up to lastPause
	lastPause    = time.Minute
	fetchTimeout = 10 * time.Second // of both requests together
	maxDocument  = 1 << 20          // bytes
	maxKeys      = 1000
)

// keySet is the public keys of an issuer. It is safe for concurrent use.
type keySet struct {
	source
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	fetched time.Time     // last success
	tried   time.Time     // last attempt
	fails   int           // since then
	err     error         // of the last attempt
	flight  chan struct{} // closed when the attempt under way has ended; nil when there is none
}

func newKeySet(s source, now func() time.Time, log *slog.Logger) (*keySet, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if s.caFile != "" {
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read ca_file of issuer", s.issuer)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, waybill.E(waybill.KindInvalid, "%s holds no certificate in PEM", s.caFile).WithOp("read ca_file of issuer", s.issuer)
		}
	}
	c := &http.Client{Transport: bounded{t}, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 || !waybill.SafeIdentityURL(r.URL.String()) {
			return errors.New("it leads elsewhere, too often or without encryption")
		}
		return nil
	}}
	return &keySet{source: s, client: c, now: now, log: log}, nil
}

// bounded cuts documents that are too long.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxDocument), res.Body}
	return res, nil
}

// verify checks the signature and issuer of a token.
func (k *keySet) verify(ctx context.Context, token string, h jose.Header) (*goidc.IDToken, error) {
	public, err := k.find(ctx, h)
	if err != nil {
		return nil, err
	}
	good, err := k.check(ctx, token, public)
	if err != nil && k.askable() {
		// The issuer may have another key under the same name, or none.
		if k.refresh(ctx) == nil {
			good, err = k.check(ctx, token, k.among(h))
		}
	}
	if err != nil {
		return nil, refused("its signature is not by a key of %s", k.issuer)
	}
	return good, nil
}

func (k *keySet) check(ctx context.Context, token string, public []crypto.PublicKey) (*goidc.IDToken, error) {
	return goidc.NewVerifier(k.issuer, &goidc.StaticKeySet{PublicKeys: public}, &goidc.Config{
		SupportedSigningAlgs: algorithmList(),
		SkipClientIDCheck:    true, // the caller does: one issuer may have several audiences
		SkipExpiryCheck:      true, // the caller does: two clocks may be apart
	}).Verify(ctx, token)
}

// find returns the keys that may have signed a token. It asks the issuer when there are
// none, unless it was asked a moment ago.
func (k *keySet) find(ctx context.Context, h jose.Header) ([]crypto.PublicKey, error) {
	if keys := k.among(h); len(keys) > 0 {
		return keys, nil
	}
	if k.askable() {
		_ = k.refresh(ctx) // what came of it is looked at below
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if keys := k.among(h); len(keys) > 0 {
			return keys, nil
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil || k.fetched.IsZero() {
		// The token may well be good. Nobody can tell.
		return nil, &waybill.Error{Kind: waybill.KindUnavailable, RetryAfter: max(time.Second, k.pause()),
			Msg: fmt.Sprintf("the keys of the issuer %s cannot be read at the moment, so the token cannot be checked", k.issuer)}
	}
	return nil, refused("it is signed with a key that %s does not have", k.issuer)
}

// among returns the known keys that may have signed a token.
func (k *keySet) among(h jose.Header) []crypto.PublicKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []crypto.PublicKey
	for _, key := range k.keys {
		if (h.KeyID == "" || key.KeyID == h.KeyID) && usable(key, h.Algorithm) {
			out = append(out, key.Key)
		}
	}
	return out
}

// askable reports whether the issuer may be asked again for the sake of one token, or is
// being asked.
func (k *keySet) askable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	since := k.now().Sub(k.tried)
	return k.flight != nil || k.tried.IsZero() || since < 0 || since >= k.pause()
}

// pause is the shortest time between two attempts; k.mu is held.
func (k *keySet) pause() time.Duration {
	if k.err == nil {
		return askAgain
	}
	return min(lastPause, firstPause<<min(10, max(0, k.fails-1)))
}

// due is how long the keys need not be read.
func (k *keySet) due() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := keysLife
	switch {
	case k.tried.IsZero():
		return 0
	case k.err != nil:
		wait = k.pause()
	}
	return k.tried.Add(wait).Sub(k.now())
}

// refresh reads the keys, or waits for somebody who does. What it reads is kept although
// ctx ends.
func (k *keySet) refresh(ctx context.Context) error {
	k.mu.Lock()
	flight := k.flight
	if flight == nil {
		flight = make(chan struct{})
		k.flight, k.tried = flight, k.now()
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
			defer cancel()
			keys, err := k.fetch(ctx)
			k.took(keys, err)
			close(flight)
		}()
	}
	k.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-flight:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// took keeps what an attempt brought. Keys that were known stay when it failed.
func (k *keySet) took(keys []jose.JSONWebKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.flight = nil
	if err != nil {
		if k.err == nil {
			k.log.Warn("keys of an identity provider cannot be read", "issuer", k.issuer, "known", len(k.keys), "err", err)
		}
		k.fails++
		k.err = err
		return
	}
	if k.err != nil || k.fetched.IsZero() {
		k.log.Info("keys of an identity provider read", "issuer", k.issuer, "keys", len(keys))
	}
	k.keys, k.err, k.fails, k.fetched = keys, nil, 0, k.now()
}

// state is how it stands, for health.
func (k *keySet) state() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.err != nil && k.fetched.IsZero():
		return fmt.Sprintf("its keys could not be read yet: %v", k.err)
	case k.err != nil:
		return fmt.Sprintf("its keys are those of %s, since then: %v", k.fetched.UTC().Format(time.RFC3339), k.err)
	case k.fetched.IsZero():
		return "its keys were not read yet"
	}
	return "ok"
}

// fetch reads the keys from where discovery says they are.
func (k *keySet) fetch(ctx context.Context) ([]jose.JSONWebKey, error) {
	provider, err := goidc.NewProvider(goidc.ClientContext(ctx, k.client), k.issuer)
	if err != nil {
		return nil, short("discovery", err)
	}
	var doc struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&doc); err != nil {
		return nil, short("discovery", err)
	}
	if !waybill.SafeIdentityURL(doc.Keys) {
		return nil, fmt.Errorf("discovery: the address of the keys, %.200q, is not https", doc.Keys)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, doc.Keys, nil)
	if err != nil {
		return nil, short("keys", err)
	}
	res, err := k.client.Do(r)
	if err != nil {
		return nil, short("keys", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, short("keys", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("keys: the issuer answers %d", res.StatusCode)
	}
	return parseKeys(body)
}

// parseKeys reads a JWK Set (RFC 7517). Keys of kinds that are not known are left out, as
// section 5 wants.
func parseKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, short("keys", err)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) == nil && key.Valid() && key.IsPublic() && strong(key.Key) {
			out = append(out, key)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("keys: the issuer shows none that can be used")
	}
	return out, nil
}

// short is an error in one line that is not long, whatever the issuer sent.
func short(what string, err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return fmt.Errorf("%s: %s", what, text)
}
