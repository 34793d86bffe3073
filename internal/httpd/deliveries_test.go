package httpd_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

// deliver is a server whose deliveries are real, over SQLite.
func deliver(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	b := unready(t)
	b.world.Deliveries = deliverytest.New(t, b.clock.now)
	b.server.SetReady(b.world.Services())
	return b
}

const reports, deployments = "/api/v1/deliveries/reports", "/api/v1/deployments"

func TestF23_Ingest(t *testing.T) {
	b := deliver(t)
	const build = `{"kind":"build","run":"100","image_tag":"app:1","commit":"c1aaaaa","service":"team/app","time":"2026-11-20T08:00:00Z"}`
	b.steps([]step{
		{name: "a report", method: "POST", path: reports, body: build, status: 202, want: []string{`"action":"inserted"`, `"service":"team/app"`, `"image_tag":"app:1"`}},
		{name: "the same again", method: "POST", path: reports, body: build, status: 202, want: []string{`"action":"repeated"`}},
		{name: "one row", method: "GET", path: deployments, status: 200, want: []string{`"next_cursor":null`, `"status":"incomplete"`}},
		{name: "its partition", method: "GET", path: "/api/v1/deliveries/partitions", status: 200, want: []string{`{"items":["default"]}`}},
		{name: "what is missing is named", method: "POST", path: reports, body: `{"kind":"config","ring":"dev"}`, status: 422, want: []string{"image"}},
		{name: "unknown kind", method: "POST", path: reports, body: `{"kind":"birth"}`, status: 422, want: []string{"birth"}},
		{name: "unknown field", method: "POST", path: reports, body: `{"kind":"build","image":"app:1"}`, status: 422, want: []string{`image`}},
		{name: "no report", method: "POST", path: reports, body: `[1`, status: 400},
		{name: "a broken one", method: "POST", path: reports, body: `{"kind":"build","image_tag":`, status: 400},
		{name: "an image of many bytes", method: "POST", path: reports, body: `{"kind":"build","image_tag":"` + strings.Repeat("x", 600) + `"}`, status: 413},
		{name: "a row that is not there", method: "POST", path: reports, body: `{"kind":"config","deployment":"0123456789ab","ring":"dev","image_tag":"app:1","config_commit":"h1"}`, status: 404},
	})
	if n := len(b.rows(deployments)); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

// rows lists deployments.
func (b *bench) rows(path string) []waybill.Deployment {
	b.Helper()
	res, body := b.ask("GET", path, "")
	var l struct{ Items []waybill.Deployment }
	if res.StatusCode != 200 {
		b.Fatalf("GET %s: %d %s", path, res.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		b.Fatal(err)
	}
	return l.Items
}

// A token that reports does not read, one that reads does not report.
func TestF63_ReporterAndViewer(t *testing.T) {
	b := deliver(t)
	token := map[waybill.Role]string{}
	for _, role := range []waybill.Role{waybill.RoleReporter, waybill.RoleViewer, waybill.RoleOperator} {
		_, body := b.ask("POST", "/api/v1/tokens", `{"name":"`+string(role)+`","role":"`+string(role)+`"}`)
		var made struct{ Secret string }
		if err := json.Unmarshal([]byte(body), &made); err != nil || made.Secret == "" {
			t.Fatalf("token: %s", body)
		}
		token[role] = made.Secret
	}
	b.world.Do(func() { b.world.Attempts["attempt-token"] = "run/step/1" })
	as := func(role waybill.Role) []string { return []string{"Authorization: Bearer " + token[role]} }
	const build = `{"kind":"build","image_tag":"app:1","service":"app","time":"2026-11-20T08:00:00Z"}`
	const attach = `{"kind":"attach","deployment":"0123456789ab","target":"0123456789ac"}`
	b.steps([]step{
		{name: "reporter reports", method: "POST", path: reports, body: build, headers: as(waybill.RoleReporter), status: 202},
		{name: "reporter lists", method: "GET", path: deployments, headers: as(waybill.RoleReporter), status: 403, want: []string{"viewer", "reporter"}, audits: []string{"auth.refused listDeployments forbidden"}},
		{name: "reporter starts a run", method: "POST", path: "/api/v1/pipelines/hello/runs", body: `{}`, headers: as(waybill.RoleReporter), status: 403, audits: []string{"run.start hello forbidden"}},
		{name: "reporter reads runs", method: "GET", path: "/api/v1/runs", headers: as(waybill.RoleReporter), status: 403, audits: []string{"auth.refused listRuns forbidden"}},
		{name: "reporter attaches", method: "POST", path: reports, body: attach, headers: as(waybill.RoleReporter), status: 403, want: []string{"operator"}},
		{name: "viewer lists", method: "GET", path: deployments, headers: as(waybill.RoleViewer), status: 200, want: []string{"app:1"}},
		{name: "viewer reports", method: "POST", path: reports, body: build, headers: as(waybill.RoleViewer), status: 403, want: []string{"reporter", "viewer"}, audits: []string{"delivery.report forbidden"}},
		{name: "operator reports", method: "POST", path: reports, body: build, headers: as(waybill.RoleOperator), status: 202, want: []string{"repeated"}},
		{name: "operator attaches", method: "POST", path: reports, body: attach, headers: as(waybill.RoleOperator), status: 404},
		{name: "a unit reports", method: "POST", path: reports, body: build, headers: []string{"Authorization: Bearer attempt-token"}, status: 202},
		{name: "a unit lists", method: "GET", path: deployments, headers: []string{"Authorization: Bearer attempt-token"}, status: 403, audits: []string{"auth.refused listDeployments forbidden"}},
		{name: "a wrong token", method: "POST", path: reports, body: build, headers: []string{"Authorization: Bearer wbt_nope"}, status: 401, audits: []string{"auth.refused reportDelivery unauthorized"}},
		{name: "no token, from elsewhere", method: "POST", path: reports, body: build, headers: []string{"X-Forwarded-For: 203.0.113.9"}, status: 401, audits: []string{"auth.refused reportDelivery unauthorized"}},
	})
}

func TestF49_ListDeployments(t *testing.T) {
	b := deliver(t)
	for _, body := range []string{
		`{"kind":"build","run":"1","image_tag":"web:1","commit":"aaaaaaa1","service":"team/web","time":"2026-11-20T08:00:00Z","status":"succeeded"}`,
		`{"kind":"config","run":"2","image_tag":"web:1","ring":"Dev","config_commit":"bbbbbbb1","time":"2026-11-20T08:10:00Z"}`,
		`{"kind":"config","run":"3","image_tag":"web:1","ring":"prod","config_commit":"bbbbbbb2","time":"2026-11-20T08:20:00Z"}`,
		`{"kind":"build","run":"4","image_tag":"api:1","commit":"ccccccc1","service":"api","time":"2026-11-20T08:30:00Z"}`,
		`{"kind":"manifest","run":"5","config_commit":"ddddddd1","manifest_commit":"eeeeeee1","time":"2026-11-20T08:40:00Z"}`,
		`{"kind":"build","run":"6","image_tag":"other:1","service":"web","partition":"second","time":"2026-11-20T08:50:00Z"}`,
		`{"kind":"config","run":"7","image_tag":"lost:1","ring":"dev","config_commit":"fffffff1","partition":"third","time":"2026-11-20T08:50:00Z"}`,
	} {
		if res, text := b.ask("POST", reports, body); res.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %d %s", body, res.StatusCode, text)
		}
	}
	for query, want := range map[string]int{
		"": 4, "?service=web": 2, "?service=TEAM/Web&ring=dev": 1, "?ring=PROD": 1, "?image_tag=WEB:1": 2, "?build=4": 1, "?commit=aaaaaaa1": 2, "?commit=aaaaaaa2": 0,
		"?kind=manual": 1, "?kind=deployment": 3, "?status=complete,failed": 1, "?status=waiting": 0, "?unlinked=true": 0, "?unlinked=true&partition=third": 1,
		"?partition=second": 1, "?partition=third": 1, "?partition=fourth": 0, "?since=2026-11-20T08:30:00Z": 2, "?until=2026-11-20T08:30:00Z": 2, "?limit=1": 1, "?sort=service&asc=true": 4,
	} {
		if rows := b.rows(deployments + query); len(rows) != want {
			t.Errorf("%q lists %d, want %d", query, len(rows), want)
		}
	}
	first := b.rows(deployments + "?limit=1")[0]
	if first.Kind != waybill.DeploymentManual {
		t.Errorf("the newest is %+v, want the manual edit", first)
	}
	b.steps([]step{
		{name: "unknown status", method: "GET", path: deployments + "?status=great", status: 422, want: []string{"great", "in_progress"}},
		{name: "unknown kind", method: "GET", path: deployments + "?kind=odd", status: 422},
		{name: "unknown order", method: "GET", path: deployments + "?sort=size", status: 422},
		{name: "limit 0", method: "GET", path: deployments + "?limit=0", status: 422},
		{name: "limit many", method: "GET", path: deployments + "?limit=1001", status: 422},
		{name: "a strange cursor", method: "GET", path: deployments + "?cursor=%00", status: 422},
		{name: "an odd instant", method: "GET", path: deployments + "?since=yesterday", status: 400, want: []string{"since"}},
		{name: "detail", method: "GET", path: deployments + "/" + first.ID, status: 200, want: []string{`"events":[{`, `"manifest_commit":"eeeeeee1"`}},
		{name: "no such row", method: "GET", path: deployments + "/0123456789ab", status: 404},
		{name: "of another partition", method: "GET", path: deployments + "/" + first.ID + "?partition=second", status: 404},
	})
}

func TestF49_NotModified(t *testing.T) {
	b := deliver(t)
	const build = `{"kind":"build","run":"1","image_tag":"web:1","service":"web","time":"2026-11-20T08:00:00Z"}`
	b.ask("POST", reports, build)
	id := b.rows(deployments)[0].ID
	for _, path := range []string{deployments, deployments + "/" + id} {
		res, _ := b.ask("GET", path, "")
		tag := res.Header.Get("ETag")
		if !regexp.MustCompile(`^"[0-9a-f]{32}"$`).MatchString(tag) {
			t.Fatalf("%s: ETag %q", path, tag)
		}
		for _, match := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			res, body := b.ask("GET", path, "", "If-None-Match: "+match)
			if res.StatusCode != http.StatusNotModified || body != "" || res.Header.Get("ETag") != tag {
				t.Errorf("%s with %s: %d %q", path, match, res.StatusCode, body)
			}
		}
		b.ask("POST", reports, build) // a repetition changes nothing
		if res, _ := b.ask("GET", path, "", "If-None-Match: "+tag); res.StatusCode != http.StatusNotModified {
			t.Errorf("%s after a repetition: %d", path, res.StatusCode)
		}
		b.ask("POST", reports, `{"kind":"run","stage":"build","run":"1","status":"failed","time":"2026-11-20T09:00:00Z","url":"https://ci.example.org/1?`+path+`"}`)
		if res, _ := b.ask("GET", path, "", "If-None-Match: "+tag); res.StatusCode != http.StatusOK || res.Header.Get("ETag") == tag {
			t.Errorf("%s after news: %d", path, res.StatusCode)
		}
	}
}
