package app

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/outbound/outboundtest"
)

// A receiver of CDEvents is told, at least once and with the same id, also what happened
// while it was away and while no server ran; another server understands it.
func TestF78_CDEventsOut(t *testing.T) {
	r := outboundtest.NewReceiver(t)
	other := toolsWith(t, "")
	c := config(t, map[string]string{"waybill.yaml": "deliveries: {cdevents: {url: " + r.URL + ", token: \"receiver-token\", source: \"https://waybill.example.com\"}}\n"})
	s := start(t, c)
	w := &tools{t, s.URL(), clientOf(t, s.URL(), "")}
	away := outboundtest.Answer{Status: 503}
	r.Answer(away, away)
	w.report(client.DeliveryReport{Kind: "build", Service: "shop", ImageTag: "shop:1", ImageDigest: "sha256:12", Commit: "c0ffee1", Run: "100", Status: "succeeded"})
	w.report(client.DeliveryReport{Kind: "config", Service: "shop", ImageTag: "shop:1", Ring: "prod", ConfigCommit: "abcdef1", Run: "101", Status: "succeeded"})
	eventually(t, "it was away", func() bool { return len(r.Got()) > 0 })
	stop(t, s)
	s = start(t, c)
	w = &tools{t, s.URL(), clientOf(t, s.URL(), "")}
	w.report(client.DeliveryReport{Kind: "manifest", ConfigCommit: "abcdef1", ManifestCommit: manifest, Run: "102", Status: "succeeded"})
	w.report(client.DeliveryReport{Kind: "sync", Cluster: "west", ManifestCommit: manifest, ClusterState: "healthy"})
	types := func() map[string]int {
		out := map[string]int{}
		for _, q := range r.Got() {
			var e struct{ ID, Type string }
			if err := json.Unmarshal(q.Body, &e); err != nil {
				t.Fatal(err)
			}
			if q.Header.Get("Authorization") != "Bearer receiver-token" {
				t.Fatal(q.Header)
			}
			out[e.Type+" "+e.ID]++
		}
		return out
	}
	want := []string{"artifact.packaged", "build.finished", "pipelinerun.finished", "pipelinerun.finished", "service.deployed", "service.published"}
	eventually(t, "all is told", func() bool { return len(types()) >= len(want) })
	var got []string
	for k := range types() {
		name, _, _ := strings.Cut(strings.TrimPrefix(k, "dev.cdevents."), ".0.3.0")
		got = append(got, name)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	for _, q := range r.Got() {
		if got := other.takes("cdevents", string(q.Body), "Content-Type: "+q.Header.Get("Content-Type")); len(got.Reports) == 0 {
			t.Errorf("another server makes nothing of %s: %+v", q.Body, got)
		}
	}
	page, err := other.api.Deployments(t.Context(), client.ListDeploymentsParams{Ring: "prod"})
	if err != nil || len(page.Items) != 1 || page.Items[0].ImageDigest != "sha256:12" || page.Items[0].Commit != "c0ffee1" {
		t.Errorf("%v: there it is %+v", err, page.Items)
	}
}

// A deployment is one trace, whatever comes when.
func TestF79_Traces(t *testing.T) {
	r := outboundtest.NewReceiver(t)
	w := toolsWith(t, "telemetry: {otlp: "+r.URL+"}\ndeliveries: {traces: \"on\"}\n")
	var mu sync.Mutex
	seen := map[string]map[string]*tracepb.Span{} // by trace and name
	read := func() int {
		mu.Lock()
		defer mu.Unlock()
		clear(seen)
		n := 0
		for _, q := range r.Got() {
			var m collectorpb.ExportTraceServiceRequest
			if err := proto.Unmarshal(q.Body, &m); err != nil || q.Path != "/v1/traces" {
				t.Fatal(q.Path, err)
			}
			for _, x := range m.ResourceSpans[0].ScopeSpans[0].Spans {
				id := fmt.Sprintf("%x", x.TraceId)
				if seen[id] == nil {
					seen[id] = map[string]*tracepb.Span{}
				}
				seen[id][x.Name] = x
				n++
			}
		}
		return n
	}
	w.deployed("web", "web:1", "prod", manifest)
	w.report(client.DeliveryReport{Kind: "sync", Cluster: "west", ManifestCommit: manifest, ClusterState: "healthy"})
	eventually(t, "a trace of five spans", func() bool { return read() >= 5 })
	w.deployed("db", "db:1", "dev", "1111111222222233333334444444555555566666")
	eventually(t, "and one of four", func() bool { return read() >= 9 })
	if len(seen) != 2 {
		t.Fatalf("%d traces", len(seen))
	}
	for _, spans := range seen {
		root := spans["deploy web to prod"]
		if root == nil {
			root = spans["deploy db to dev"]
		} else if spans["sync west"] == nil {
			t.Error("the cluster is missing")
		}
		for _, name := range []string{"build", "config", "manifest"} {
			x := spans[name]
			if root == nil || x == nil || string(x.ParentSpanId) != string(root.SpanId) {
				t.Fatalf("%s of %v", name, spans)
			}
			attrs := map[string]string{}
			for _, a := range x.Attributes {
				attrs[a.Key] = a.Value.GetStringValue()
			}
			if attrs["cicd.pipeline.run.id"] == "" || attrs["cicd.pipeline.result"] != "success" || attrs["deployment.environment.name"] == "" || attrs["service.name"] == "" {
				t.Errorf("%s has %v", name, attrs)
			}
		}
	}
}
