package httpd_test

import (
	"encoding/json"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

func TestAnswersAboutDeliveries(t *testing.T) {
	b := deliver(t)
	for _, r := range deliverytest.Reports() {
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if res, text := b.ask("POST", reports, string(body)); res.StatusCode != 202 {
			t.Fatalf("%s: %d %s", body, res.StatusCode, text)
		}
	}
	const base = "/api/v1/deliveries/"
	b.steps([]step{
		{name: "trace", method: "GET", path: base + "trace?ref=ferry:11", status: 200, want: []string{`"found":"image_tag"`, `"what":"image ferry:11"`, `"what":"cluster north"`}},
		{name: "trace of nothing", method: "GET", path: base + "trace?ref=nope", status: 404, want: []string{"nope"}},
		{name: "trace without", method: "GET", path: base + "trace", status: 400},
		{name: "matrix", method: "GET", path: base + "matrix?service=FERRY&ring=prod", status: 200, want: []string{`"cluster":"north"`, `"image_tag":"ferry:11"`}, without: []string{"ledger", `"ring":"dev"`}},
		{name: "matrix of nothing", method: "GET", path: base + "matrix?partition=moon", status: 200, want: []string{`"cells":[]`}},
		{name: "diff", method: "GET", path: base + "diff?from=dev&to=prod", status: 200, want: []string{`"service":"tariff"`, `"compare":"https://gitlab.example.com/harbor/tariff/-/compare/`, `"behind":3`}},
		{name: "diff of a ring that is none", method: "GET", path: base + "diff?from=dev&to=moon", status: 404, want: []string{"dev, prod, qa"}},
		{name: "diff without", method: "GET", path: base + "diff?from=dev", status: 400},
		{name: "lag", method: "GET", path: base + "lag?from=dev&to=prod", status: 200, want: []string{`"service":"tariff"`, `"seconds":`}},
		{name: "rollbacks", method: "GET", path: base + "rollbacks?ring=prod&service=ferry", status: 200, want: []string{`"cluster":"east"`, `"rolled_back":true`, `"image_tag":"ferry:12"`}},
		{name: "dora", method: "GET", path: base + "dora?ring=prod&from=2026-01-01T00:00:00Z&until=2026-05-01T00:00:00Z", status: 200, want: []string{`"fail_rate":`, `"recovery_seconds":`, `"approximate":["`}},
		{name: "dora without", method: "GET", path: base + "dora", status: 400},
		{name: "dora backwards", method: "GET", path: base + "dora?ring=prod&from=2026-05-01T00:00:00Z&until=2026-04-01T00:00:00Z", status: 422},
		{name: "dora of no time", method: "GET", path: base + "dora?ring=prod&from=soon", status: 400},
		{name: "unlinked", method: "GET", path: base + "unlinked?limit=1", status: 200, want: []string{"image mirror/ferry:9 for prod", `"next_cursor":"`}},
		{name: "unlinked, too many", method: "GET", path: base + "unlinked?limit=5000", status: 422},
		{name: "alerts", method: "GET", path: base + "alerts", status: 200, want: []string{`"kind":"stuck"`, `"kind":"silent"`}},
		{name: "alerts at once", method: "GET", path: base + "alerts?stuck_seconds=0", status: 422},
		{name: "what would be forgotten", method: "POST", path: base + "prune", body: `{"older_than_seconds":7776000,"keep":1,"dry_run":true}`, status: 200, want: []string{`"dry_run":true`, `"id":"`}, audits: []string{"delivery.prune ok"}},
		{name: "it is there still", method: "GET", path: deployments + "?image_tag=ferry:12&ring=dev", status: 200, want: []string{"ferry:12"}},
		{name: "forget", method: "POST", path: base + "prune", body: `{"older_than_seconds":7776000,"keep":1}`, status: 200, want: []string{`"dry_run":false`}, audits: []string{"delivery.prune ok"}},
		{name: "it is gone", method: "GET", path: deployments + "?image_tag=ferry:12&ring=dev", status: 200, want: []string{`"items":[]`}},
		{name: "prune without", method: "POST", path: base + "prune", body: `{"keep":1}`, status: 422, audits: []string{"delivery.prune invalid"}},
		{name: "made again", method: "POST", path: base + "rebuild", status: 200, want: []string{`"corrected":0`}, audits: []string{"delivery.rebuild ok"}},
		{name: "it stays gone", method: "GET", path: deployments + "?image_tag=ferry:12&ring=dev", status: 200, want: []string{`"items":[]`}},
	})
	// A token that reports reads none of it, one that reads forgets nothing.
	token := map[waybill.Role]string{}
	for _, role := range []waybill.Role{waybill.RoleReporter, waybill.RoleViewer} {
		_, body := b.ask("POST", "/api/v1/tokens", `{"name":"`+string(role)+`","role":"`+string(role)+`"}`)
		var made struct{ Secret string }
		if err := json.Unmarshal([]byte(body), &made); err != nil || made.Secret == "" {
			t.Fatalf("token: %s", body)
		}
		token[role] = "Authorization: Bearer " + made.Secret
	}
	for _, path := range []string{"trace?ref=ferry:11", "matrix", "diff?from=dev&to=prod", "lag?from=dev&to=prod", "rollbacks", "dora?ring=prod", "unlinked", "alerts"} {
		if res, body := b.ask("GET", base+path, "", token[waybill.RoleReporter]); res.StatusCode != 403 {
			t.Errorf("%s by a reporter: %d %s", path, res.StatusCode, body)
		}
	}
	for _, path := range []string{"prune", "rebuild"} {
		if res, body := b.ask("POST", base+path, `{"older_than_seconds":1,"keep":0}`, token[waybill.RoleViewer]); res.StatusCode != 403 {
			t.Errorf("%s by a viewer: %d %s", path, res.StatusCode, body)
		}
	}
}
