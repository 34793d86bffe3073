package httpd_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/httpd/httpdtest"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
)

func remoteServer(o *httpd.Options) { o.Loopback = false }

func auth(token string) []string { return []string{"Authorization: Bearer " + token} }

func TestRoles(t *testing.T) {
	b := setup(t, remoteServer)
	viewer, operator, admin := auth(b.world.AddToken("v", "viewer")), auth(b.world.AddToken("o", "operator")), auth(b.world.AddToken("a", "admin"))
	b.steps([]step{
		{name: "page needs none", method: "GET", path: "/", status: 200},
		{name: "health needs none", method: "GET", path: "/health", status: 200},
		{name: "no token", method: "GET", path: "/api/v1/runs", status: 401, want: []string{`"kind":"unauthorized"`, `"hint":`}, header: `WWW-Authenticate: Bearer realm="waybill"`, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "wrong token", method: "GET", path: "/api/v1/runs", headers: auth("wbt_t1_guess"), status: 401, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "basic", method: "GET", path: "/api/v1/runs", headers: []string{"Authorization: Basic eDp5"}, status: 401, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "token in the URL", method: "GET", path: "/api/v1/runs?token=" + strings.Fields(admin[0])[2], status: 401, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "viewer reads", method: "GET", path: "/api/v1/runs", headers: viewer, status: 200},
		{name: "viewer starts", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: viewer, status: 403, want: []string{"needs the role operator"}, audits: []string{"run.start hello forbidden"}},
		{name: "viewer puts", method: "PUT", path: "/api/v1/buckets/b/objects/k", body: "x", headers: viewer, status: 403, audits: []string{"object.put b/k forbidden"}},
		{name: "operator starts", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: operator, status: 202},
		{name: "operator applies", method: "POST", path: "/api/v1/pipelines", body: "name: x", headers: operator, status: 403, audits: []string{"pipeline.apply forbidden"}},
		{name: "operator makes tokens", method: "POST", path: "/api/v1/tokens", body: `{"name":"x","role":"admin"}`, headers: operator, status: 403, audits: []string{"token.create forbidden"}},
		{name: "operator reads the audit log", method: "GET", path: "/api/v1/audit", headers: operator, status: 403, audits: []string{"auth.refused listAuditRecords forbidden"}},
		{name: "admin applies", method: "POST", path: "/api/v1/pipelines", body: "name: x", headers: admin, status: 201, audits: []string{"pipeline.apply ok"}},
		{name: "admin completes", method: "POST", path: "/api/v1/runs/r/steps/s/attempts/1/callback", headers: admin, status: 403, audits: []string{"attempt.complete r/s/1 forbidden"}},
	})
}

func TestLoopback(t *testing.T) {
	b := setup(t)
	viewer := b.world.AddToken("v", "viewer")
	b.steps([]step{
		{name: "no token is the local admin", method: "POST", path: "/api/v1/pipelines", body: "name: x", status: 201, audits: []string{"pipeline.apply ok"}},
		{name: "a token's role applies", method: "POST", path: "/api/v1/pipelines", body: "name: x", headers: auth(viewer), status: 403, audits: []string{"pipeline.apply forbidden"}},
		{name: "a wrong token is refused", method: "GET", path: "/api/v1/runs", headers: auth("nope"), status: 401, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "through a proxy nobody is local", method: "GET", path: "/api/v1/runs", headers: []string{"X-Forwarded-For: 203.0.113.7"}, status: 401, audits: []string{"auth.refused listRuns unauthorized"}},
		{name: "a callback needs its token", method: "POST", path: "/api/v1/runs/r/steps/s/attempts/1/callback", body: "{}", status: 401, audits: []string{"auth.refused completeAttempt unauthorized"}},
	})
}

func TestAttemptTokens(t *testing.T) {
	b := setup(t, remoteServer)
	operator := b.world.AddToken("o", "operator")
	res, _ := b.ask("POST", "/api/v1/pipelines/hello/runs", "", auth(operator)...)
	if res.StatusCode != 202 {
		t.Fatal(res.Status)
	}
	b.world.Do(func() {
		b.world.Attempts["unit"] = "run-1/greet/1"
		b.world.Attempts["other"] = "run-1/greet/2"
		b.world.Attempts["late"] = "run-1/greet/3"
		b.world.Closed["run-1/greet/3"] = true
	})
	const attempts = "/api/v1/runs/run-1/steps/greet/attempts/"
	unit := auth("unit")
	b.steps([]step{
		{name: "variables", method: "POST", path: attempts + "1/variables", body: `{"___A":"x"}`, headers: unit, status: 204},
		{name: "variables with a bad name", method: "POST", path: attempts + "1/variables", body: `{"a=b":"x"}`, headers: unit, status: 422},
		{name: "heartbeat", method: "POST", path: attempts + "1/heartbeat", body: `{"progress":"half"}`, headers: unit, status: 200, want: []string{`"stop":false`}},
		{name: "of another attempt", method: "POST", path: attempts + "1/callback", body: `{}`, headers: auth("other"), status: 403, want: []string{"another attempt"}, audits: []string{"attempt.complete run-1/greet/1 forbidden"}},
		{name: "of a closed attempt", method: "POST", path: attempts + "3/callback", body: `{}`, headers: auth("late"), status: 410, want: []string{`"kind":"gone"`}, audits: []string{"auth.refused completeAttempt gone"}},
		{name: "by an operator", method: "POST", path: attempts + "1/heartbeat", headers: auth(operator), status: 403, audits: []string{"attempt.heartbeat run-1/greet/1 forbidden"}},
		{name: "spelled otherwise", method: "POST", path: attempts + "01/callback", headers: unit, status: 403, audits: []string{"attempt.complete run-1/greet/01 forbidden"}},
		{name: "token in the URL of a heartbeat", method: "POST", path: attempts + "1/heartbeat?token=unit", status: 401, audits: []string{"auth.refused heartbeatAttempt unauthorized"}},
		{name: "deep", method: "POST", path: attempts + "1/callback", body: strings.Repeat(`{"a":`, 1000), headers: unit, status: 422},
		{name: "twice the same name", method: "POST", path: attempts + "1/callback", body: `{"variables":{"a":1,"a":2}}`, headers: unit, status: 422},
		{name: "too large", method: "POST", path: attempts + "1/callback", body: `{"a":"` + strings.Repeat("x", 1<<20) + `"}`, headers: unit, status: 413, want: []string{"1048576"}},
		{name: "classic", method: "POST", path: attempts + "1/callback?token=unit", body: `{"___A":"1"}`, headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 202, want: []string{`"first":true`}},
		{name: "repeated", method: "POST", path: attempts + "1/callback", body: `{"___A":"1"}`, headers: unit, status: 200, want: []string{`"first":false`}},
		{name: "contradicted", method: "POST", path: attempts + "1/callback", body: `{"___A":"2"}`, headers: unit, status: 409},
		{name: "puts an object", method: "PUT", path: "/api/v1/buckets/b/objects/k", body: "x", headers: unit, status: 201, want: []string{"attempt run-1/greet/1"}},
		{name: "gets it", method: "GET", path: "/api/v1/buckets/b/objects/k", headers: unit, status: 200},
		{name: "lists", method: "GET", path: "/api/v1/buckets/b/objects", headers: unit, status: 200},
		{name: "does not delete", method: "DELETE", path: "/api/v1/buckets/b/objects/k", headers: unit, status: 403, audits: []string{"object.delete b/k forbidden"}},
		{name: "does not read runs", method: "GET", path: "/api/v1/runs/run-1", headers: unit, status: 403, audits: []string{"auth.refused getRun forbidden"}},
	})
	b.world.Do(func() {
		if v, _ := b.world.Vars["run-1/greet/1"].Get("___a"); v.Text() != "x" {
			t.Errorf("variables are %v", b.world.Vars)
		}
	})
}

func TestGuessing(t *testing.T) {
	b := setup(t, func(o *httpd.Options) { o.Limits.AuthFailures, o.Limits.AuthRecovery = 5, 10*time.Second })
	id, attempt := b.run()
	if res, _ := b.ask("POST", attempt+"/heartbeat", "", auth("unit")...); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	codes := map[int]int{}
	for i := range 1000 {
		res, _ := b.ask("POST", attempt+"/callback", "{}", auth(fmt.Sprintf("guess-%d", i))...)
		codes[res.StatusCode]++
		if res.StatusCode == 429 && res.Header.Get("Retry-After") == "" {
			t.Fatal("429 without Retry-After")
		}
	}
	if codes[401] != 5 || codes[429] != 995 {
		t.Errorf("1000 guesses were answered %v, want 5 of 401 and 995 of 429", codes)
	}
	b.world.Do(func() {
		if n := len(b.world.Audits); n != 5 {
			t.Errorf("%d audit records, want 5", n)
		}
		if len(b.world.Completed) != 0 {
			t.Error("a guess changed something")
		}
	})
	if res, _ := b.ask("POST", attempt+"/heartbeat", "", auth("unit")...); res.StatusCode != 200 {
		t.Errorf("a token that was right before is answered %s", res.Status)
	}
	if res, _ := b.ask("GET", "/api/v1/runs/"+id, ""); res.StatusCode != 200 {
		t.Errorf("the local admin is answered %s", res.Status)
	}
	b.clock.add(10 * time.Second)
	if res, _ := b.ask("POST", attempt+"/callback", "{}", auth("guess")...); res.StatusCode != 401 {
		t.Errorf("after the recovery time: %s", res.Status)
	}
	if res, _ := b.ask("POST", attempt+"/callback", "{}", auth("guess")...); res.StatusCode != 429 {
		t.Errorf("and at once again: %s", res.Status)
	}
}

func TestOtherSites(t *testing.T) {
	b := setup(t, func(o *httpd.Options) { o.Hosts = []string{"Box.example:4040"} })
	start := "/api/v1/pipelines/hello/runs"
	b.steps([]step{
		{name: "rebound name", method: "GET", path: "/api/v1/runs", headers: []string{"Host: evil.example"}, status: 421, want: []string{"evil.example"}},
		{name: "other address", method: "GET", path: "/", headers: []string{"Host: 192.0.2.1:4040"}, status: 421},
		{name: "address of all", method: "GET", path: "/health", headers: []string{"Host: 0.0.0.0"}, status: 421},
		{name: "localhost", method: "GET", path: "/api/v1/runs", headers: []string{"Host: localhost:1"}, status: 200},
		{name: "IPv6", method: "GET", path: "/api/v1/runs", headers: []string{"Host: [::1]:4040"}, status: 200},
		{name: "configured", method: "GET", path: "/api/v1/runs", headers: []string{"Host: box.example"}, status: 200},
		{name: "post of another site", method: "POST", path: start, headers: []string{"Sec-Fetch-Site: cross-site"}, status: 403, want: []string{"another site"}},
		{name: "post of a neighbour", method: "POST", path: start, headers: []string{"Sec-Fetch-Site: same-site"}, status: 403},
		{name: "post by an old browser", method: "POST", path: start, headers: []string{"Origin: https://evil.example"}, status: 403},
		{name: "delete", method: "DELETE", path: "/api/v1/tokens/x", headers: []string{"Sec-Fetch-Site: cross-site"}, status: 403},
		{name: "own page", method: "POST", path: start, headers: []string{"Sec-Fetch-Site: same-origin"}, status: 202},
		{name: "a program", method: "POST", path: start, status: 202},
		{name: "preflight", method: "OPTIONS", path: start, headers: []string{"Origin: https://evil.example", "Access-Control-Request-Method: POST"}, status: 405, header: "Access-Control-Allow-Origin: "},
	})
	b = unready(t, remoteServer)
	if res, _ := b.ask("GET", "/version", "", "Host: any.example"); res.StatusCode != 200 {
		t.Errorf("a server with logins and without hosts answers %s", res.Status)
	}
}

func TestOneRunForManyCallers(t *testing.T) {
	b := setup(t)
	id, _ := b.run()
	b.world.End(id, waybill.StatusFailed)
	var wg sync.WaitGroup
	ids := make([]string, 50)
	for i := range ids {
		wg.Go(func() {
			_, text := b.ask("POST", "/api/v1/runs/"+id+"/retry", "", "Idempotency-Key: same")
			_, ids[i], _ = strings.Cut(text, `"id":"run-`)
			ids[i], _, _ = strings.Cut(ids[i], `"`)
		})
	}
	wg.Wait()
	for _, x := range ids {
		if x != ids[0] || x == "" {
			t.Fatalf("runs %q", ids)
		}
	}
}

func TestPanicIsAProblem(t *testing.T) {
	b := setup(t)
	v := b.world.Services()
	v.Runs = nil // a defect of ours
	b.server.SetReady(v)
	b.steps([]step{{name: "panic", method: "GET", path: "/api/v1/runs", status: 500, want: []string{`"kind":"internal"`}}})
	if !strings.Contains(b.log.String(), "handler panicked") {
		t.Error("the log does not tell of the panic")
	}
	b.steps([]step{{name: "alive", method: "GET", path: "/api/v1/queues", status: 200}})
}

func FuzzJSONBodies(f *testing.F) {
	for _, s := range []string{``, `{}`, `{"vars":{"a":1}}`, `{"vars":null}`, `null`, `[1]`, `{"a":{"a":[{}]}}`, `{"vars":{"":0}}`, "\xff", `"x" "y"`} {
		f.Add(s)
	}
	now := func() time.Time { return time.Unix(1_800_000_000, 0) }
	huge := regexp.MustCompile(`[eE][+]?[0-9]{3}`) // numbers that the validator itself cannot read
	f.Fuzz(func(t *testing.T, body string) {
		if huge.MatchString(body) {
			t.Skip("holds a huge number")
		}
		world := httpdtest.New(now)
		world.Attempts["unit"] = "run-1/greet/1"
		server := httpd.New(httpd.Options{Logger: slog.New(slog.DiscardHandler), Loopback: true, Now: now})
		server.SetReady(world.Services())
		for _, path := range []string{"/api/v1/pipelines/hello/runs", "/api/v1/tokens", "/api/v1/queues/unit/redrive", "/api/v1/runs/run-1/steps/greet/attempts/1/callback", "/api/v1/runs/run-1/steps/greet/attempts/1/variables"} {
			req := httptest.NewRequest("POST", path, strings.NewReader(body))
			req.Host = "localhost"
			if strings.Contains(path, "attempts") {
				req.Header.Set("Authorization", "Bearer unit")
			}
			tr := openapitest.Transport{T: t, Next: handlerTransport{server.Handler()}}
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode >= 500 {
				t.Errorf("%s with %q: %s", path, body, res.Status)
			}
		}
	})
}

type handlerTransport struct{ h http.Handler }

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	h.h.ServeHTTP(rec, r)
	return rec.Result(), nil
}
