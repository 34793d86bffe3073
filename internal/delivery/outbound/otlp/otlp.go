// Package otlp tells an OpenTelemetry collector one trace for each deployment: a span for
// the deployment, and below it one for each run of a stage and for each cluster. Spans are
// sent when what they tell of has ended, with ids that follow from the deployment, so they
// come together whoever sent them and in whatever order.
//
// Attributes are those of the semantic conventions for CI/CD, VCS and deployments, which
// are in status Development: https://opentelemetry.io/docs/specs/semconv/registry/attributes/cicd/.
package otlp

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
)

// Options of a Sink.
type Options struct {
	// Endpoint is the base URL of a collector, to which /v1/traces is added when it has no
	// path. OTEL_EXPORTER_OTLP_ENDPOINT and its kin go before it; OTEL_EXPORTER_OTLP_HEADERS
	// are sent along.
	Endpoint string
	Env      func(name string) (string, bool)
	Version  string // of the server
	Node     string // this server
	Client   *http.Client
}

// Sink implements outbound.Sink.
type Sink struct {
	o      Options
	url    string
	header http.Header
}

// New returns a sink. It does not connect.
func New(o Options) (*Sink, error) {
	get := func(name string) string {
		if o.Env == nil {
			return ""
		}
		v, ok := o.Env(name)
		if !ok {
			return ""
		}
		return strings.TrimSpace(v)
	}
	if o.Client == nil {
		o.Client = outbound.Client(nil)
	}
	s := &Sink{o: o, header: http.Header{"Content-Type": {"application/x-protobuf"}}}
	s.url = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if s.url == "" {
		base := cmp.Or(get("OTEL_EXPORTER_OTLP_ENDPOINT"), o.Endpoint)
		u, err := url.Parse(base)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, waybill.E(waybill.KindInvalid, "traces of deliveries need a collector").WithHint("name it in telemetry.otlp of waybill.yaml, such as http://127.0.0.1:4318")
		}
		if base != o.Endpoint || u.Path == "" || u.Path == "/" {
			u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/traces"
		}
		s.url = u.String()
	}
	for pair := range strings.SplitSeq(cmp.Or(get("OTEL_EXPORTER_OTLP_TRACES_HEADERS"), get("OTEL_EXPORTER_OTLP_HEADERS")), ",") {
		name, value, ok := strings.Cut(pair, "=")
		if value, err := url.PathUnescape(strings.TrimSpace(value)); ok && err == nil && strings.TrimSpace(name) != "" {
			s.header.Set(strings.TrimSpace(name), value)
		}
	}
	return s, nil
}

// Name implements outbound.Sink.
func (*Sink) Name() string { return "otlp" }

// span is what the queue holds of one.
type span struct {
	Trace  []byte            `json:"trace"`
	ID     []byte            `json:"id"`
	Parent []byte            `json:"parent,omitempty"`
	Name   string            `json:"name"`
	From   time.Time         `json:"from"`
	To     time.Time         `json:"to"`
	Failed string            `json:"failed,omitempty"` // why
	Ended  bool              `json:"ended"`            // well or not
	Attrs  map[string]string `json:"attrs"`
}

// Plan implements outbound.Sink. Rows that no ring has taken are no deployments yet.
func (s *Sink) Plan(_ context.Context, c outbound.Change) ([]outbound.Message, error) {
	var out []outbound.Message
	for i := range c.Deployments {
		d := &c.Deployments[i]
		if d.Ring == "" {
			continue
		}
		key := c.Partition + "\x00" + d.ID
		id := traceID(key)
		root := spanID(key)
		all := trim(map[string]string{
			"service.name": d.DisplayService(), "service.version": cmp.Or(d.ImageTag, d.ImageDigest), "deployment.environment.name": d.Ring, "deployment.id": d.ID,
			"vcs.repository.url.full": d.SourceRepo, "vcs.ref.head.revision": d.Commit, "waybill.partition": c.Partition,
		})
		add := func(what string, x span) error {
			x.Trace, x.From = id, x.From.UTC()
			if x.To = x.To.UTC(); x.To.Before(x.From) {
				x.To = x.From
			}
			for k, v := range all {
				if _, own := x.Attrs[k]; !own {
					x.Attrs[k] = v
				}
			}
			body, err := json.Marshal(x)
			if err == nil {
				out = append(out, outbound.Message{ID: d.ID + "/" + what, Lane: d.ID, Body: body})
			}
			return err
		}
		for _, st := range []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest} {
			if st == nil {
				continue
			}
			for _, r := range st.Runs {
				if !r.Status.Terminal() {
					continue
				}
				what := string(st.Stage) + "/" + r.Run + "/" + strconv.Itoa(r.Attempt)
				if err := add(what+"/"+string(r.Status), stageSpan(d, st.Stage, &r, spanID(key+"\x00"+what), root)); err != nil {
					return nil, err
				}
			}
		}
		for _, x := range d.Clusters {
			if x.State != waybill.ClusterHealthy && x.State != waybill.ClusterFailed {
				continue
			}
			what := "sync/" + x.Cluster
			y := span{
				ID: spanID(key + "\x00" + what + x.Since.String()), Parent: root, Name: "sync " + x.Cluster, From: x.Since, To: x.UpdatedAt, Ended: true,
				Attrs: trim(map[string]string{"deployment.name": d.DisplayService() + " in " + x.Cluster, "deployment.status": "succeeded", "k8s.cluster.name": x.Cluster, "vcs.ref.head.revision": x.Revision, "vcs.repository.url.full": d.ManifestRepo}),
			}
			if x.State == waybill.ClusterHealthy && !x.HealthyAt.IsZero() {
				y.To = x.HealthyAt
			}
			if x.State == waybill.ClusterFailed {
				y.Failed, y.Attrs["deployment.status"] = cmp.Or(x.Message, "failed"), "failed"
			}
			if err := add(what+"/"+string(x.State)+"/"+x.Since.UTC().Format(time.RFC3339), y); err != nil {
				return nil, err
			}
		}
		if d.Status == waybill.DeploymentComplete || d.Status == waybill.DeploymentFailed || d.Status == waybill.DeploymentCanceled {
			y := span{
				ID: root, Name: "deploy " + d.DisplayService() + " to " + d.Ring, From: d.CreatedAt, To: d.UpdatedAt, Ended: d.Status != waybill.DeploymentCanceled,
				Attrs: map[string]string{"deployment.status": "succeeded"},
			}
			if d.Status != waybill.DeploymentComplete {
				y.Attrs["deployment.status"] = "failed"
			}
			if d.Status == waybill.DeploymentFailed {
				y.Failed = d.Reason
			}
			if err := add("root/"+string(d.Status), y); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// stageSpan is a run of a stage.
func stageSpan(d *waybill.Deployment, stage waybill.Stage, r *waybill.StageRun, id, parent []byte) span {
	from, to := r.QueuedAt, r.FinishedAt
	if from.IsZero() {
		from = r.SeenAt
	}
	if to.IsZero() {
		to = r.StatusAt
	}
	x := span{ID: id, Parent: parent, Name: string(stage), From: from, To: to, Ended: true, Attrs: trim(map[string]string{
		"cicd.pipeline.name": string(stage), "cicd.pipeline.run.id": r.Run, "cicd.pipeline.run.url.full": r.URL,
		"cicd.pipeline.result": map[waybill.Outcome]string{
			waybill.StatusSucceeded: "success", waybill.StatusFailed: "failure", waybill.StatusCanceled: "cancellation", waybill.StatusSkipped: "skip",
		}[r.Status],
	})}
	switch stage {
	case waybill.StageConfig:
		x.Attrs["vcs.ref.head.revision"], x.Attrs["vcs.repository.url.full"] = d.ConfigCommit, d.ConfigRepo
	case waybill.StageManifest:
		x.Attrs["vcs.ref.head.revision"], x.Attrs["vcs.repository.url.full"] = cmp.Or(r.Commit, d.ManifestCommit), d.ManifestRepo
	}
	trim(x.Attrs)
	switch r.Status {
	case waybill.StatusFailed:
		x.Failed = "the " + string(stage) + " stage failed"
	case waybill.StatusCanceled, waybill.StatusSkipped:
		x.Ended = false // a wish fulfilled
	}
	return x
}

func trim(m map[string]string) map[string]string {
	for k, v := range m {
		if v == "" {
			delete(m, k)
		}
	}
	return m
}

func traceID(key string) []byte {
	sum := sha256.Sum256([]byte("deployment\x00" + key))
	return sum[:16]
}

func spanID(key string) []byte {
	sum := sha256.Sum256([]byte("span\x00" + key))
	return sum[:8]
}

// Send implements outbound.Sink.
func (s *Sink) Send(ctx context.Context, m outbound.Message) error {
	var x span
	if err := json.Unmarshal(m.Body, &x); err != nil {
		return waybill.E(waybill.KindMalformed, "the message is no span: %w", err)
	}
	status := &trace.Status{}
	switch {
	case x.Failed != "":
		status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: x.Failed}
	case x.Ended:
		status.Code = trace.Status_STATUS_CODE_OK
	}
	req := &collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource: &resource.Resource{Attributes: attributes(trim(map[string]string{"service.name": "waybill", "service.version": s.o.Version, "service.instance.id": s.o.Node}))},
		ScopeSpans: []*trace.ScopeSpans{{
			Scope: &common.InstrumentationScope{Name: "github.com/waybill-run/waybill/deliveries"},
			Spans: []*trace.Span{{
				TraceId: x.Trace, SpanId: x.ID, ParentSpanId: x.Parent, Name: x.Name, Kind: trace.Span_SPAN_KIND_INTERNAL, Flags: 1,
				StartTimeUnixNano: uint64(max(0, x.From.UnixNano())), EndTimeUnixNano: uint64(max(0, x.To.UnixNano())), Attributes: attributes(x.Attrs), Status: status,
			}},
		}},
	}}}
	body, err := proto.Marshal(req)
	if err != nil {
		return waybill.E(waybill.KindMalformed, "the span cannot be written: %w", err)
	}
	return outbound.Post(ctx, s.o.Client, http.MethodPost, s.url, s.header, body)
}

func attributes(m map[string]string) []*common.KeyValue {
	out := make([]*common.KeyValue, 0, len(m))
	for k, v := range m {
		out = append(out, &common.KeyValue{Key: k, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(v, "?")}}})
	}
	return out
}
