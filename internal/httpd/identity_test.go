package httpd_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/httpd"
)

func TestIdentities(t *testing.T) {
	b := setup(t, remoteServer)
	viewer, nobody, later := auth("eyviewer.of.alice"), auth("eynobody.of.bob"), auth("eylater.of.carol")
	b.world.Do(func() { b.world.Attempts["unit"] = "run-1/greet/1" })
	b.steps([]step{
		{name: "who", method: "GET", path: "/api/v1/whoami", headers: viewer, status: 200, want: []string{`"name":"oidc:alice"`, `"role":"viewer"`}},
		{name: "reads", method: "GET", path: "/api/v1/runs", headers: viewer, status: 200},
		{name: "starts", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: viewer, status: 403, audits: []string{"run.start hello forbidden"}},
		{name: "without a role", method: "GET", path: "/api/v1/whoami", headers: nobody, status: 403, want: []string{"oidc:bob has no role"}, audits: []string{"auth.refused getWhoami forbidden"}},
		{name: "without keys", method: "GET", path: "/api/v1/whoami", headers: later, status: 503, want: []string{`"kind":"unavailable"`}},
		{name: "wrong", method: "GET", path: "/api/v1/whoami", headers: auth("eyx.y.z"), status: 401, audits: []string{"auth.refused getWhoami unauthorized"}},
		{name: "huge", method: "GET", path: "/api/v1/whoami", headers: auth("ey" + strings.Repeat("x", 17<<10) + ".y.z"), status: 401, want: []string{"16384"}, audits: []string{"auth.refused getWhoami unauthorized"}},
		{name: "huge and ours", method: "GET", path: "/api/v1/whoami", headers: auth("wbt_" + strings.Repeat("x", 501)), status: 401, want: []string{"500"}, audits: []string{"auth.refused getWhoami unauthorized"}},
		{name: "a callback", method: "POST", path: "/api/v1/runs/run-1/steps/greet/attempts/1/callback", body: "{}", headers: viewer, status: 403, audits: []string{"attempt.complete run-1/greet/1 forbidden"}},
		{name: "a unit", method: "GET", path: "/api/v1/whoami", headers: auth("unit"), status: 200, want: []string{`"role":"unit"`, `"attempt":"run-1/greet/1"`}},
		{name: "nobody", method: "GET", path: "/api/v1/whoami", status: 401, audits: []string{"auth.refused getWhoami unauthorized"}},
	})
	b.world.Do(func() {
		for _, a := range b.world.Audits {
			if a.Action == "auth.refused" && a.Result == "forbidden" && a.Who != "oidc:bob" {
				t.Errorf("the audit log calls bob %q", a.Who)
			}
		}
	})
}

// Neither somebody without a role nor an issuer that is away is a guess at a token.
func TestNoGuesses(t *testing.T) {
	b := setup(t, remoteServer, func(o *httpd.Options) { o.Limits.AuthFailures, o.Limits.AuthRecovery = 3, time.Hour })
	for range 10 {
		for token, want := range map[string]int{"eynobody.of.bob": 403, "eylater.of.carol": 503} {
			if res, _ := b.ask(http.MethodGet, "/api/v1/whoami", "", auth(token)...); res.StatusCode != want {
				t.Fatalf("%s: %s", token, res.Status)
			}
		}
	}
	codes := map[int]int{}
	for range 10 {
		res, _ := b.ask(http.MethodGet, "/api/v1/whoami", "", auth("eyguess.y.z")...)
		codes[res.StatusCode]++
	}
	if codes[401] != 3 || codes[429] != 7 {
		t.Errorf("ten guesses were answered %v", codes)
	}
}
