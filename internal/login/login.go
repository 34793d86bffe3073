// Package login gets tokens of identity providers for people, and keeps them.
//
// A person logs in by the device authorization grant (RFC 8628): the terminal shows an
// address and a code, the browser, on any machine, does the rest. What comes of it is kept
// in a file for each server in the folder of the person's settings, readable for them
// alone, and renewed with its refresh token when it is about to expire. Several processes
// may do that at once: one of them renews, under a lock beside the file.
package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/waybill-run/waybill"
)

const (
	// soon is how long before its end a token is renewed.
	soon    = time.Minute
	timeout = 30 * time.Second // of one request to an issuer
	maxBody = 1 << 20          // bytes of its answers
)

// Provider is an identity provider and this program as its client.
type Provider struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes,omitempty"`
	Audience string   `json:"audience,omitempty"` // asked for, if not empty
	CAFile   string   `json:"ca_file,omitempty"`
	// Secret is for issuers that want one of this kind of client. It is never stored.
	Secret string `json:"-"`
}

// Login is what a person has for one server.
type Login struct {
	Provider
	Server  string `json:"server"`
	ID      string `json:"id_token,omitempty"`
	Access  string `json:"access_token,omitempty"`
	Refresh string `json:"refresh_token,omitempty"`
	// UseAccess says that the server takes the access token; else it is the ID token.
	UseAccess bool `json:"use_access,omitempty"`
}

// Token is what is sent to the server.
func (l Login) Token() string {
	if l.UseAccess {
		return l.Access
	}
	return l.ID
}

// Expires is when Token ends; the zero time when it does not say.
func (l Login) Expires() time.Time { return expiry(l.Token()) }

// expiry reads when a JWT ends. Whether it is good is the server's business.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Exp float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(b, &c) != nil || c.Exp <= 0 || c.Exp > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(c.Exp), 0)
}

// Prompt is what a person must do.
type Prompt struct {
	URL      string    // where the code is entered
	Complete string    // the same with the code in it; may be empty
	Code     string    // that is entered
	Expires  time.Time // when it is too late
}

// client calls issuers with the provider's certificates, and reads no more than maxBody.
func (p Provider) client() (*http.Client, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if p.CAFile != "" {
		pem, err := os.ReadFile(p.CAFile)
		if err != nil {
			return nil, waybill.E(waybill.KindInvalid, "%w", err).WithOp("read certificates", p.CAFile)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, waybill.E(waybill.KindInvalid, "%s holds no certificate in PEM", p.CAFile)
		}
	}
	return &http.Client{Transport: careful{t}, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // codes and tokens go where they were meant to go
	}}, nil
}

// careful sends nothing in the clear and bounds answers.
type careful struct{ next http.RoundTripper }

func (c careful) RoundTrip(r *http.Request) (*http.Response, error) {
	if !waybill.SafeIdentityURL(r.URL.String()) {
		return nil, waybill.E(waybill.KindInvalid, "%.200s is not https", r.URL.Redacted())
	}
	res, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxBody), res.Body}
	return res, nil
}

// found is a provider with what discovery says of it.
type found struct {
	oauth2.Config
	ctx      context.Context // carries the client, as both libraries want it
	revoke   string
	provider *goidc.Provider
}

func (p Provider) discover(ctx context.Context) (*found, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	ctx = goidc.ClientContext(ctx, c)
	provider, err := goidc.NewProvider(ctx, p.Issuer)
	if err != nil {
		return nil, told("ask issuer", p.Issuer, err)
	}
	var doc struct {
		Revoke string `json:"revocation_endpoint"`
	}
	if err := provider.Claims(&doc); err != nil {
		return nil, told("ask issuer", p.Issuer, err)
	}
	f := &found{ctx: ctx, revoke: doc.Revoke, provider: provider}
	f.ClientID, f.ClientSecret, f.Endpoint, f.Scopes = p.ClientID, p.Secret, provider.Endpoint(), p.Scopes
	f.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a try of each style would spend a code
	return f, nil
}

// Device logs a person in. prompt is called once with what they must do; it returns when
// they did, or refused, or when ctx or the time of the code ends.
func Device(ctx context.Context, p Provider, server string, prompt func(Prompt)) (Login, error) {
	f, err := p.discover(ctx)
	if err != nil {
		return Login{}, err
	}
	if f.Endpoint.DeviceAuthURL == "" {
		return Login{}, waybill.E(waybill.KindUnsupported, "%s has no device authorization endpoint", p.Issuer).
			WithOp("log in", server).WithHint("get a token another way, and hand it over with WAYBILL_API_TOKEN")
	}
	var opts []oauth2.AuthCodeOption
	if p.Audience != "" {
		opts = append(opts, oauth2.SetAuthURLParam("audience", p.Audience))
	}
	d, err := f.DeviceAuth(f.ctx, opts...)
	if err != nil {
		return Login{}, told("log in", p.Issuer, err)
	}
	if d.DeviceCode == "" || d.UserCode == "" || d.VerificationURI == "" {
		return Login{}, waybill.E(waybill.KindInvalid, "the issuer's answer has no code").WithOp("log in", p.Issuer)
	}
	prompt(Prompt{URL: d.VerificationURI, Complete: d.VerificationURIComplete, Code: d.UserCode, Expires: d.Expiry})
	t, err := f.DeviceAccessToken(f.ctx, d)
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("nobody entered the code in time")
		}
		return Login{}, told("log in", p.Issuer, err)
	}
	l := Login{Provider: p, Server: server}
	l.take(t)
	if l.ID == "" && l.Access == "" {
		return Login{}, waybill.E(waybill.KindInvalid, "the issuer's answer has no token").WithOp("log in", p.Issuer)
	}
	l.UseAccess = l.ID == ""
	return l, nil
}

// take keeps what a token endpoint answered. What it did not send again stays.
func (l *Login) take(t *oauth2.Token) {
	if id, _ := t.Extra("id_token").(string); id != "" {
		l.ID = id
	}
	if t.AccessToken != "" {
		l.Access = t.AccessToken
	}
	if t.RefreshToken != "" {
		l.Refresh = t.RefreshToken
	}
}

// renewed returns the login with new tokens. KindUnauthorized says that the issuer will
// not renew it any more.
func (l Login) renewed(ctx context.Context) (Login, error) {
	f, err := l.discover(ctx)
	if err != nil {
		return l, err
	}
	before := l.Token()
	t, err := f.TokenSource(f.ctx, &oauth2.Token{RefreshToken: l.Refresh, Expiry: time.Unix(1, 0)}).Token()
	if err != nil {
		return l, told("renew login", l.Issuer, err)
	}
	l.take(t)
	if l.Token() == before {
		return l, ended("the issuer did not renew the token that the server takes")
	}
	return l, nil
}

// revoke asks the issuer to forget a login (RFC 7009). Not every issuer can.
func (l Login) revoke(ctx context.Context) error {
	if l.Refresh == "" {
		return nil
	}
	f, err := l.discover(ctx)
	if err != nil || f.revoke == "" {
		return err
	}
	c, err := l.client()
	if err != nil {
		return err
	}
	form := url.Values{"token": {l.Refresh}, "token_type_hint": {"refresh_token"}, "client_id": {l.ClientID}}
	if l.Secret != "" {
		form.Set("client_secret", l.Secret)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.revoke, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.Do(r)
	if err != nil {
		return told("log out", l.Issuer, err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return waybill.E(waybill.KindUnavailable, "the issuer answers %d", res.StatusCode).WithOp("log out", l.Issuer)
	}
	return nil
}

func ended(format string, args ...any) error {
	return waybill.E(waybill.KindUnauthorized, "the login has ended: "+format, args...).WithHint("log in again with: waybill login")
}

// told is an error of an issuer as one of ours. What it holds of the issuer's words is
// short.
func told(op, subject string, err error) error {
	if ours := (*waybill.Error)(nil); errors.As(err, &ours) {
		return ours
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	var r *oauth2.RetrieveError
	if errors.As(err, &r) && r.ErrorCode != "" {
		text := r.ErrorCode
		if r.ErrorDescription != "" {
			text += ": " + r.ErrorDescription
		}
		text = cut(text)
		switch r.ErrorCode {
		case "invalid_grant", "expired_token":
			return ended("%s", text)
		case "access_denied":
			return waybill.E(waybill.KindForbidden, "the issuer says %s", text).WithOp(op, subject)
		}
		return waybill.E(waybill.KindInvalid, "the issuer says %s", text).WithOp(op, subject)
	}
	return waybill.E(waybill.KindUnavailable, "%s", cut(err.Error())).WithOp(op, subject)
}

func cut(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
