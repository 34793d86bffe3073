package project

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/waybill-run/waybill"
)

func authSettings(text string) (Settings, error) {
	return ReadSettings(fstest.MapFS{"waybill.yaml": {Data: []byte(text)}}, func(name string) (string, bool) { return "https://login.example.com/", name == "ISSUER" })
}

func TestOIDCSettings(t *testing.T) {
	t.Parallel()
	s, err := authSettings(`auth:
  oidc:
    - issuer: ${env:ISSUER}
      audience: waybill
      name: email
      ca_file: ca.pem
      roles:
        - {claim: groups, value: admins, role: admin}
        - {claim: staff, value: true, role: viewer}
    - {issuer: "http://127.0.0.1:8080", id: local, audience: waybill, roles: [{claim: sub, value: "*", role: operator}]}
`)
	want := []waybill.OIDCIssuer{
		{Issuer: "https://login.example.com/", Audience: "waybill", Name: "email", CAFile: "ca.pem", Roles: []waybill.OIDCRule{
			{Claim: "groups", Value: "admins", Role: waybill.RoleAdmin}, {Claim: "staff", Value: "true", Role: waybill.RoleViewer},
		}},
		{Issuer: "http://127.0.0.1:8080", ID: "local", Audience: "waybill", Roles: []waybill.OIDCRule{{Claim: "sub", Value: "*", Role: waybill.RoleOperator}}},
	}
	if err != nil || !reflect.DeepEqual(s.Auth.OIDC, want) {
		t.Errorf("%+v, %v", s.Auth.OIDC, err)
	}
}

func TestBadOIDCSettings(t *testing.T) {
	t.Parallel()
	const rules = `audience: a, roles: [{claim: sub, value: "*", role: viewer}]`
	for text, want := range map[string]string{
		`{}`:                             `waybill.yaml:2:9: auth.oidc: expected a list of issuers`,
		`[x]`:                            `2:10: auth.oidc[0]: expected an object with`,
		`[{isuer: x}]`:                   `2:11: unknown key auth.oidc[0].isuer (did you mean issuer?)`,
		`[{issuer: [x], ` + rules + `}]`: `auth.oidc[0].issuer: expected one value`,
		`[{issuer: http://x.example, ` + rules + `}]`:                                       `auth.oidc[0].issuer: expected an https:// URL`,
		`[{issuer: "https://x", roles: [{claim: a, value: b, role: viewer}]}]`:              `auth.oidc[0].audience: expected`,
		`[{issuer: "https://x", audience: a}]`:                                              `auth.oidc[0].roles: expected 1 to 1000 rules`,
		`[{issuer: "https://x", audience: a, roles: {}}]`:                                   `auth.oidc[0].roles: expected a list of rules`,
		`[{issuer: "https://x", audience: a, roles: [{claim: a, value: b, role: root}]}]`:   `auth.oidc[0].roles[0].role: expected viewer, operator, admin or reporter, found "root"`,
		`[{issuer: "https://x", audience: a, roles: [{claim: a, valeu: b, role: viewer}]}]`: `unknown key auth.oidc[0].roles[0].valeu (did you mean value?)`,
		`[{issuer: "https://x", ` + rules + `}, {issuer: "https://y", ` + rules + `}]`:      `auth.oidc[1].id: expected one of its own`,
		`[{issuer: "https://x", ` + rules + `}, {issuer: "https://x", ` + rules + `}]`:      `auth.oidc[1].the issuer is there twice`,
		`[{issuer: "https://x", id: "A b", ` + rules + `}]`:                                 `auth.oidc[0].id: expected up to 32 of`,
	} {
		_, err := authSettings("auth:\n  oidc: " + text + "\n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n\tis refused with %v\n\twant %s", text, err, want)
		}
	}
}
