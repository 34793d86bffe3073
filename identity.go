package waybill

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Identities knows those who hold a token of an identity provider.
type Identities interface {
	// AuthenticateIdentity returns the principal of a signed token (a JWT): KindUnauthorized
	// when it is not valid here, KindForbidden, with the principal's name, when no rule gives
	// it a role, and KindUnavailable when its issuer's keys cannot be had.
	AuthenticateIdentity(ctx context.Context, token string) (Principal, error)
}

// OIDCIssuer is an identity provider whose tokens a server takes (OpenID Connect
// Discovery 1.0).
type OIDCIssuer struct {
	Issuer   string // URL, exactly as the claim iss has it
	ID       string // keeps the names of several issuers apart; at most one has none
	Audience string // what the claim aud must hold
	Name     string // claim that names the holder; empty means sub
	Roles    []OIDCRule
	CAFile   string // PEM certificates that the issuer's is checked with; empty means the system's
}

// OIDCRule gives a role to those whose claim has a value. The first rule that fits counts.
type OIDCRule struct {
	Claim string // name of a claim, or names with dots for one inside of another
	Value string // with * for any number of characters
	Role  Role
}

var identityID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Prefix begins the names of the issuer's principals. No API token has a name that begins
// like one, and no two issuers of a server have the same.
func (i OIDCIssuer) Prefix() string {
	if i.ID == "" {
		return "oidc:"
	}
	return "oidc/" + i.ID + ":"
}

// ReservedName reports whether a name is one of an identity provider's principals, so that
// no API token may have it.
func ReservedName(name string) bool {
	return strings.HasPrefix(name, "oidc:") || strings.HasPrefix(name, "oidc/")
}

// SafeIdentityURL reports whether a URL of an identity provider can be trusted: it is
// https, or http on this machine.
func SafeIdentityURL(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	switch u.Hostname() {
	case "localhost", "127.0.0.1", "::1":
		return u.Scheme == "https" || u.Scheme == "http"
	}
	return u.Scheme == "https"
}

// Check reports what is wrong with an issuer, as KindInvalid. The message begins with the
// key of the settings.
func (i OIDCIssuer) Check() error {
	switch {
	case !SafeIdentityURL(i.Issuer) || strings.Contains(i.Issuer, "?"):
		return E(KindInvalid, "issuer: expected an https:// URL (http:// on this machine only), found %.100q", i.Issuer)
	case i.Audience == "" || len(i.Audience) > 1000:
		return E(KindInvalid, "audience: expected what the claim aud of its tokens holds, such as waybill")
	case i.ID != "" && !identityID.MatchString(i.ID):
		return E(KindInvalid, "id: expected up to 32 of a-z, 0-9 and -, found %.60q", i.ID)
	case len(i.Name) > 200:
		return E(KindInvalid, "name: expected the name of a claim")
	case len(i.Roles) == 0 || len(i.Roles) > 1000:
		return E(KindInvalid, "roles: expected 1 to 1000 rules such as {claim: groups, value: admins, role: admin}")
	}
	for n, r := range i.Roles {
		switch {
		case r.Claim == "" || len(r.Claim) > 200:
			return E(KindInvalid, "roles[%d].claim: expected the name of a claim", n)
		case r.Value == "" || len(r.Value) > 1000:
			return E(KindInvalid, "roles[%d].value: expected a value, or a pattern such as team-*", n)
		case r.Role != RoleViewer && r.Role != RoleOperator && r.Role != RoleAdmin && r.Role != RoleReporter:
			return E(KindInvalid, "roles[%d].role: expected viewer, operator, admin or reporter, found %.40q", n, string(r.Role))
		}
	}
	return nil
}

// CheckOIDCIssuers reports what is wrong with the issuers of a server taken together, and
// which one is to blame.
func CheckOIDCIssuers(all []OIDCIssuer) (int, error) {
	ids := map[string]string{} // id → issuer
	pairs := map[string]bool{}
	for n, i := range all {
		if other, ok := ids[i.ID]; ok && other != i.Issuer {
			return n, E(KindInvalid, "id: expected one of its own, or people of %.100s and of %.100s could have the same name", other, i.Issuer)
		}
		ids[i.ID] = i.Issuer
		if pair := i.Issuer + " " + i.Audience; pairs[pair] {
			return n, E(KindInvalid, "the issuer is there twice with the audience %.100q", i.Audience)
		} else {
			pairs[pair] = true
		}
	}
	return 0, nil
}

// ClockSkew is how far the clocks of an issuer and of a server may be apart.
const ClockSkew = 5 * time.Minute
