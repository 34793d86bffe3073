package httpd_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
)

// legacy is the answer of the older dashboard's API.
type legacy struct {
	Deployments []map[string]any
	ClusterSync *struct {
		ReleasesURL string
		Tags        []map[string]any
	}
}

func (b *bench) legacy(path string) legacy {
	b.Helper()
	res, body := b.ask("GET", path, "")
	var l legacy
	if res.StatusCode != 200 {
		b.Fatalf("GET %s: %d %s", path, res.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		b.Fatal(err)
	}
	return l
}

func TestF49_SpektateDeployments(t *testing.T) {
	b := deliver(t)
	if l := b.legacy("/spektate/api/deployments"); len(l.Deployments) != 0 || l.Deployments == nil || l.ClusterSync != nil {
		t.Errorf("of an empty store: %+v", l)
	}
	for _, body := range []string{
		`{"kind":"build","run":"6046","number":"20260301.2","branch":"refs/heads/main","image_tag":"crane:6046","commit":"c626394","service":"port/crane","source_repo":"https://github.com/port/crane",` +
			`"status":"succeeded","queued_at":"2026-03-01T08:00:00Z","started_at":"2026-03-01T08:00:10Z","finished_at":"2026-03-01T08:01:45Z","time":"2026-03-01T08:01:45Z","url":"https://ci.example.org/6046"}`,
		`{"kind":"config","run":"180","number":"Release-173","image_tag":"crane:6046","ring":"dev","config_commit":"706685f","pull_request":"1119","config_repo":"https://github.com/port/config","status":"succeeded","time":"2026-03-01T08:02:00Z"}`,
		`{"kind":"manifest","run":"abc-1","config_commit":"706685f","manifest_commit":"b3a3345","manifest_repo":"https://github.com/port/manifests","status":"succeeded","time":"2026-03-01T08:05:00Z"}`,
		`{"kind":"commit","commit":"c626394","author":{"name":"Ada Quay","username":"aquay","url":"https://github.com/aquay","image_url":"https://img.example.org/a.png"}}`,
		`{"kind":"review","pull_request":"1119","review":"merged","config_repo":"https://github.com/port/config","title":"Crane 6046","source_branch":"deploy/crane","target_branch":"main","url":"https://github.com/port/config/pull/1119","merged_by":"Bo Pier","merger":{"name":"Bo Pier","username":"bpier"}}`,
		`{"kind":"sync","cluster":"EUROPE","cluster_state":"healthy","manifest_commit":"b3a3345","manifest_repo":"https://github.com/port/manifests","time":"2026-03-01T08:10:00Z"}`,
		`{"kind":"build","run":"9","image_tag":"tug:9","service":"tug","time":"2026-03-01T07:00:00Z"}`,
	} {
		if res, text := b.ask("POST", reports, body); res.StatusCode != http.StatusAccepted {
			t.Fatalf("%s: %d %s", body, res.StatusCode, text)
		}
	}
	l := b.legacy("/spektate/api/deployments")
	if len(l.Deployments) != 2 {
		t.Fatalf("%d rows, want 2", len(l.Deployments))
	}
	d := l.Deployments[0]
	var names []string
	for name := range d {
		names = append(names, name)
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "author commitId deploymentId dockerToHldRelease duration endTime environment hldCommitId hldRepo hldToManifestBuild imageTag manifestCommitId manifestRepo pr pullRequest service sourceRepo srcToDockerBuild status timeStamp" {
		t.Errorf("members are %s", got)
	}
	for path, want := range map[string]any{
		"srcToDockerBuild.id": 6046.0, "srcToDockerBuild.buildNumber": "20260301.2", "srcToDockerBuild.result": "succeeded", "srcToDockerBuild.status": "completed", "srcToDockerBuild.URL": "https://ci.example.org/6046",
		"srcToDockerBuild.queueTime": "2026-03-01T08:00:00Z", "srcToDockerBuild.sourceBranch": "refs/heads/main", "srcToDockerBuild.sourceVersion": "c626394",
		"dockerToHldRelease.id": 180.0, "dockerToHldRelease.releaseName": "Release-173", "dockerToHldRelease.status": "succeeded", "hldToManifestBuild.id": "abc-1",
		"status": "Complete", "duration": "1.75", "environment": "dev", "hldCommitId": "706685f", "manifestCommitId": "b3a3345", "pr": "1119", "service": "port/crane",
		"author.name": "Ada Quay", "author.username": "aquay", "author.imageUrl": "https://img.example.org/a.png", "pullRequest.id": 1119.0, "pullRequest.mergedBy.name": "Bo Pier",
		"pullRequest.sourceBranch": "deploy/crane", "pullRequest.title": "Crane 6046", "endTime": "2026-03-01T08:05:00Z",
	} {
		var got any = d
		for word := range strings.SplitSeq(path, ".") {
			m, _ := got.(map[string]any)
			got = m[word]
		}
		if got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if l.ClusterSync == nil || l.ClusterSync.ReleasesURL != "https://github.com/port/manifests/releases" || len(l.ClusterSync.Tags) != 1 ||
		l.ClusterSync.Tags[0]["name"] != "EUROPE" || l.ClusterSync.Tags[0]["commit"] != "b3a3345" || l.ClusterSync.Tags[0]["date"] != "2026-03-01T08:10:00Z" {
		t.Errorf("clusters are %+v", l.ClusterSync)
	}
	for query, want := range map[string]int{"?service=crane": 1, "?service=port/crane&ring=DEV": 1, "?ring=prod": 0, "?limit=1": 1, "?partition=other": 0} {
		if n := len(b.legacy("/spektate/api/deployments" + query).Deployments); n != want {
			t.Errorf("%s lists %d, want %d", query, n, want)
		}
	}
	res, _ := b.ask("GET", "/spektate/api/deployments", "")
	b.steps([]step{
		{name: "unchanged", method: "GET", path: "/spektate/api/deployments", headers: []string{"If-None-Match: " + res.Header.Get("ETag")}, status: 304},
		{name: "limit 0", method: "GET", path: "/spektate/api/deployments?limit=0", status: 422},
		{name: "limit many", method: "GET", path: "/spektate/api/deployments?limit=10001", status: 422},
		{name: "from elsewhere without a token", method: "GET", path: "/spektate/api/deployments", headers: []string{"X-Forwarded-For: 203.0.113.9"}, status: 401, audits: []string{"auth.refused listSpektateDeployments unauthorized"}},
	})
}

// brokenDeliveries cannot read anything.
type brokenDeliveries struct{ waybill.Deliveries }

func (brokenDeliveries) Deployments(context.Context, waybill.DeploymentFilter) (waybill.Page[waybill.Deployment], error) {
	return waybill.Page[waybill.Deployment]{}, waybill.E(waybill.KindUnavailable, "the disk is gone")
}

// polled are providers that a server asks.
type polled []waybill.DeliveryProvider

func (p polled) DeliveryProviders(context.Context) ([]waybill.DeliveryProvider, error) { return p, nil }

func TestF50_SpektateHealth(t *testing.T) {
	b := deliver(t)
	services := b.world.Services()
	services.DeliveryChecks = func(context.Context) ([]error, map[string]string) {
		return nil, map[string]string{"INTROSPECTION_ACCOUNT_KEY": "****efgh"}
	}
	b.server.SetReady(services)
	b.steps([]step{
		{name: "good", method: "GET", path: "/spektate/api/health", status: 200, want: []string{`"errors":[]`, `"variables":{"INTROSPECTION_ACCOUNT_KEY":"****efgh"}`}, without: []string{"stack"}},
		{name: "probe", method: "GET", path: "/healthz", status: 200, want: []string{`"ok"`}},
		{name: "ready", method: "GET", path: "/readyz", status: 200, want: []string{`"ok"`}},
	})
	services.Deliveries = brokenDeliveries{}
	services.DeliveryChecks = func(context.Context) ([]error, map[string]string) {
		return []error{waybill.E(waybill.KindUnauthorized, "the token was refused")}, nil
	}
	services.Providers = polled{{Name: "github", Error: "answered 500"}, {Name: "gitlab"}}
	b.server.SetReady(services)
	res, body := b.ask("GET", "/spektate/api/health", "")
	var h struct {
		Errors []struct{ Message, Code, Stack string }
	}
	if err := json.Unmarshal([]byte(body), &h); err != nil || res.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%d %s", res.StatusCode, body)
	}
	if len(h.Errors) != 3 || !strings.Contains(h.Errors[0].Message, "the disk is gone") || h.Errors[0].Code != "unavailable" || h.Errors[2].Code != "unauthorized" || strings.Contains(body, "stack") {
		t.Errorf("errors are %+v", h.Errors)
	}
	b.steps([]step{{name: "it lives all the same", method: "GET", path: "/healthz", status: 200}})
}

func TestF50_ProbesBeforeAndAfter(t *testing.T) {
	t.Parallel()
	b := unready(t)
	b.steps([]step{
		{name: "it lives", method: "GET", path: "/healthz", status: 200},
		{name: "it is not ready", method: "GET", path: "/readyz", status: 503, want: []string{`"starting"`}},
	})
}

func TestF51_SpektateVersion(t *testing.T) {
	b := deliver(t)
	b.steps([]step{{name: "version", method: "GET", path: "/spektate/api/version", status: 200, want: []string{`{"version":"v0"}`}, headers: []string{"X-Forwarded-For: 203.0.113.9"}}})
}
