package otlp_test

import (
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound/otlp"
	"github.com/waybill-run/waybill/internal/delivery/outbound/outboundtest"
)

var at = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

func change(status waybill.Outcome) outbound.Change {
	return outbound.Change{Partition: "default", Event: waybill.DeliveryEvent{ID: "e", Seq: 1}, Action: waybill.ActionUpdated, Deployments: []waybill.Deployment{{
		ID: "0123456789ab", Service: "team/shop", Ring: "prod", Commit: "c0ffee1", SourceRepo: "https://git.example.com/team/shop", ImageTag: "shop:1",
		Build: &waybill.DeploymentStage{Stage: waybill.StageBuild, Status: status, Runs: []waybill.StageRun{
			{Run: "99", Status: waybill.StatusRunning, SeenAt: at}, {Run: "100", Attempt: 2, Status: status, SeenAt: at, StatusAt: at.Add(time.Minute), URL: "https://ci.example.com/100"},
		}},
		Status:    map[waybill.Outcome]waybill.DeploymentStatus{waybill.StatusFailed: waybill.DeploymentFailed, waybill.StatusSucceeded: waybill.DeploymentComplete}[status],
		Reason:    "the build stage failed",
		CreatedAt: at, UpdatedAt: at.Add(2 * time.Minute),
		Clusters: []waybill.DeploymentCluster{{Cluster: "west", State: waybill.ClusterHealthy, Since: at, HealthyAt: at.Add(time.Minute), UpdatedAt: at.Add(time.Hour)}, {Cluster: "east", State: waybill.ClusterPending}},
	}}}
}

func sink(t *testing.T, url, secret string) outbound.Sink {
	t.Helper()
	s, err := otlp.New(otlp.Options{Endpoint: url, Env: func(name string) (string, bool) {
		return "authorization=Bearer%20" + secret, name == "OTEL_EXPORTER_OTLP_HEADERS"
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	t.Parallel()
	outboundtest.Run(t, outboundtest.Case{New: func(t *testing.T, url, secret string) outbound.Sink { return sink(t, url, secret) }, Change: change(waybill.StatusSucceeded)})
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for _, status := range []waybill.Outcome{waybill.StatusSucceeded, waybill.StatusFailed} {
		r := outboundtest.NewReceiver(t)
		s := sink(t, r.URL, "k")
		list, err := s.Plan(t.Context(), change(status))
		if err != nil {
			t.Fatal(err)
		}
		spans := map[string]*trace.Span{}
		for _, m := range list {
			if err := s.Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		for _, q := range r.Got() {
			if q.Path != "/v1/traces" || q.Header.Get("Authorization") != "Bearer k" || q.Header.Get("Content-Type") != "application/x-protobuf" {
				t.Errorf("%s %v", q.Path, q.Header)
			}
			var req collector.ExportTraceServiceRequest
			if err := proto.Unmarshal(q.Body, &req); err != nil {
				t.Fatal(err)
			}
			for _, x := range req.ResourceSpans[0].ScopeSpans[0].Spans {
				spans[x.Name] = x
			}
		}
		root, build, sync := spans["deploy shop to prod"], spans["build"], spans["sync west"]
		if len(spans) != 3 || root == nil || build == nil || sync == nil {
			t.Fatalf("%v", spans)
		}
		for _, x := range []*trace.Span{build, sync} {
			if string(x.TraceId) != string(root.TraceId) || string(x.ParentSpanId) != string(root.SpanId) || len(x.TraceId) != 16 || len(x.SpanId) != 8 {
				t.Errorf("%v is not below %v", x, root)
			}
		}
		if build.EndTimeUnixNano-build.StartTimeUnixNano != uint64(time.Minute) {
			t.Errorf("%v", build)
		}
		wantCode, wantResult := trace.Status_STATUS_CODE_OK, "success"
		if status == waybill.StatusFailed {
			wantCode, wantResult = trace.Status_STATUS_CODE_ERROR, "failure"
		}
		if build.Status.Code != wantCode || root.Status.Code != wantCode {
			t.Errorf("%v %v", build.Status, root.Status)
		}
		attrs := map[string]string{}
		for _, a := range build.Attributes {
			attrs[a.Key] = a.Value.GetStringValue()
		}
		for k, v := range map[string]string{
			"cicd.pipeline.name": "build", "cicd.pipeline.run.id": "100", "cicd.pipeline.run.url.full": "https://ci.example.com/100", "cicd.pipeline.result": wantResult,
			"vcs.repository.url.full": "https://git.example.com/team/shop", "vcs.ref.head.revision": "c0ffee1", "deployment.environment.name": "prod", "service.name": "shop", "service.version": "shop:1",
		} {
			if attrs[k] != v {
				t.Errorf("%s is %q, want %q", k, attrs[k], v)
			}
		}
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "127.0.0.1:4318", "ftp://x"} {
		if _, err := otlp.New(otlp.Options{Endpoint: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
