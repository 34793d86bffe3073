package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// receiver is a collector that keeps what it is sent.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	spans    []*tracepb.Span
	resource map[string]string
	path     string
	header   http.Header
	fail     bool
	hold     chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{resource: map[string]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var body io.Reader = q.Body
		if q.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(q.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = z
		}
		b, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
			return
		}
		var m collectorpb.ExportTraceServiceRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			t.Error(err)
			return
		}
		r.mu.Lock()
		hold := r.hold
		r.mu.Unlock()
		if hold != nil {
			<-hold
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.path, r.header = q.URL.Path, q.Header
		for _, rs := range m.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				r.resource[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				r.spans = append(r.spans, ss.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(nil)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) span(t *testing.T, name string) *tracepb.Span {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no span %q among %d", name, len(r.spans))
	return nil
}

func attr(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			if a.Value.GetStringValue() != "" {
				return a.Value.GetStringValue()
			}
			return strings.TrimSpace(a.Value.String())
		}
	}
	return ""
}

const runID = "01994d2e-7b7a-7000-8000-0123456789ab"

// world is runs by their ids.
type world map[string]waybill.RunDetail

func (w world) run(_ context.Context, id string) (waybill.RunDetail, error) {
	if d, ok := w[id]; ok {
		return d, nil
	}
	return waybill.RunDetail{}, waybill.E(waybill.KindNotFound, "there is no run %s", id)
}

func twoSteps(id string) waybill.RunDetail {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	code := 3
	return waybill.RunDetail{
		Run: waybill.Run{
			ID: id, Tenant: "default", Pipeline: "nightly", Version: 4, Status: waybill.StatusFailed, Error: "step crunch: exit code 3",
			Event:     waybill.Event{ID: "e1", Type: "http", Time: at},
			CreatedAt: at, StartedAt: at.Add(time.Second), FinishedAt: at.Add(time.Minute),
		},
		Steps: []waybill.Step{
			{Run: id, Name: "fetch", Runner: "process", Status: waybill.StatusSucceeded, StartedAt: at.Add(time.Second), FinishedAt: at.Add(20 * time.Second), Attempts: 1},
			{Run: id, Name: "crunch", Runner: "sim", Status: waybill.StatusFailed, Error: "exit code 3", StartedAt: at.Add(20 * time.Second), FinishedAt: at.Add(time.Minute), Attempts: 2},
			{Run: id, Name: "publish", Status: waybill.StatusCanceled},
		},
		Attempts: []waybill.Attempt{
			{Run: id, Step: "fetch", Number: 1, Unit: "u1", Runner: "process", Node: "n1", Status: waybill.StatusSucceeded, QueuedAt: at.Add(time.Second), StartedAt: at.Add(2 * time.Second), FinishedAt: at.Add(20 * time.Second)},
			{Run: id, Step: "crunch", Number: 1, Unit: "u2", Runner: "sim", Node: "n1", Status: waybill.StatusFailed, Reason: "exit", ExitCode: &code, Error: "exit code 3", QueuedAt: at.Add(20 * time.Second), StartedAt: at.Add(21 * time.Second), FinishedAt: at.Add(30 * time.Second)},
			{Run: id, Step: "crunch", Number: 2, Unit: "u3", Runner: "sim", Node: "n2", Status: waybill.StatusFailed, Reason: "exit", ExitCode: &code, Error: "exit code 3", QueuedAt: at.Add(31 * time.Second), StartedAt: at.Add(32 * time.Second), FinishedAt: at.Add(time.Minute)},
		},
	}
}

func ends(ids ...string) *store.Commit {
	c := &store.Commit{}
	for _, id := range ids {
		c.Events = append(c.Events, store.Event{Subject: "run/" + id, Kind: "run.ended"})
	}
	return c
}

func noEnv(string) (string, bool) { return "", false }

func start(t *testing.T, o Options) *Traces {
	t.Helper()
	if o.Env == nil {
		o.Env = noEnv
	}
	x, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// One run is one trace: its ids follow from the run's, steps hang below the run
// and attempts below their steps, with the times of the timeline.
func TestOneTraceForARun(t *testing.T) {
	r := newReceiver(t)
	exported, dropped := 0, 0
	x := start(t, Options{Endpoint: r.URL, Run: world{runID: twoSteps(runID)}.run, Count: func(e, d int) { exported, dropped = exported+e, dropped+d }, Node: "n1", Version: "v9"})
	x.Committed(ends(runID))
	handed := x.Traceparent(runID, waybill.Event{}, waybill.AttemptKey(runID, "crunch", 2))
	x.Stop()

	if r.path != "/v1/traces" {
		t.Errorf("sent to %s", r.path)
	}
	if r.resource["service.name"] != "waybill" || r.resource["service.version"] != "v9" || r.resource["service.instance.id"] != "n1" {
		t.Errorf("resource %v", r.resource)
	}
	if len(r.spans) != 6 || exported != 6 || dropped != 0 {
		t.Fatalf("%d spans came, %d exported, %d dropped; want 6: the run, two steps that began, three attempts", len(r.spans), exported, dropped)
	}
	ids := map[string]bool{}
	for _, s := range r.spans {
		if got := hex.EncodeToString(s.TraceId); got != strings.ReplaceAll(runID, "-", "") {
			t.Errorf("span %s is of trace %s, want the run's id", s.Name, got)
		}
		ids[string(s.SpanId)] = true
	}
	if len(ids) != 6 {
		t.Errorf("%d different span ids of 6 spans", len(ids))
	}
	run, crunch := r.span(t, "run nightly"), r.span(t, "step crunch")
	if len(run.ParentSpanId) != 0 {
		t.Error("the run has a parent although nobody gave one")
	}
	if string(crunch.ParentSpanId) != string(run.SpanId) {
		t.Error("the step does not hang below the run")
	}
	if d := time.Duration(run.EndTimeUnixNano - run.StartTimeUnixNano); d != time.Minute {
		t.Errorf("the run lasts %v", d)
	}
	if run.Status.Code != tracepb.Status_STATUS_CODE_ERROR || run.Status.Message != "step crunch: exit code 3" {
		t.Errorf("status %v", run.Status)
	}
	if r.span(t, "step fetch").Status.Code != tracepb.Status_STATUS_CODE_OK {
		t.Error("a step that succeeded is not ok")
	}
	for key, want := range map[string]string{"waybill.run": runID, "waybill.pipeline": "nightly", "waybill.version": "int_value:4", "waybill.status": "failed", "waybill.trigger": "http"} {
		if got := attr(run, key); strings.ReplaceAll(got, " ", "") != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	below := 0
	for _, s := range r.spans {
		if s.Name == "attempt crunch" && string(s.ParentSpanId) == string(crunch.SpanId) {
			below++
			if attr(s, "waybill.reason") != "exit" || !strings.HasSuffix(attr(s, "process.exit.code"), "3") {
				t.Errorf("attempt says %q, %q", attr(s, "waybill.reason"), attr(s, "process.exit.code"))
			}
		}
	}
	if below != 2 {
		t.Errorf("%d attempts below step crunch, want 2", below)
	}
	var found bool
	for _, s := range r.spans {
		if "00-"+hex.EncodeToString(s.TraceId)+"-"+hex.EncodeToString(s.SpanId)+"-01" == handed {
			found = attr(s, "waybill.unit") == "u3"
		}
	}
	if !found {
		t.Errorf("the unit was handed %s, which is not the span of its attempt", handed)
	}
}

// A run whose request came with a trace belongs to it.
func TestTraceOfTheRequest(t *testing.T) {
	const given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, sampled := range []bool{true, false} {
		r := newReceiver(t)
		d := twoSteps(runID)
		d.Event.Traceparent = given
		if !sampled {
			d.Event.Traceparent = given[:53] + "00"
		}
		x := start(t, Options{Endpoint: r.URL, Run: world{runID: d}.run})
		x.Committed(ends(runID))
		handed := x.Traceparent(runID, d.Event, waybill.AttemptKey(runID, "fetch", 1))
		x.Stop()
		if want := "00-4bf92f3577b34da6a3ce929d0e0e4736-"; !strings.HasPrefix(handed, want) || handed[36:52] == "00f067aa0ba902b7" {
			t.Errorf("handed %s, want trace %s and a span of ours", handed, want)
		}
		if !sampled {
			if len(r.spans) != 0 || !strings.HasSuffix(handed, "-00") {
				t.Errorf("%d spans of a trace that nobody wants; handed %s", len(r.spans), handed)
			}
			continue
		}
		run := r.span(t, "run nightly")
		if hex.EncodeToString(run.TraceId) != "4bf92f3577b34da6a3ce929d0e0e4736" || hex.EncodeToString(run.ParentSpanId) != "00f067aa0ba902b7" {
			t.Errorf("the run is %x below %x", run.TraceId, run.ParentSpanId)
		}
	}
	var off *Traces
	if got := off.Traceparent(runID, waybill.Event{Traceparent: given}, "a"); got != given {
		t.Errorf("without traces of ours the unit gets %q, want the caller's", got)
	}
	if got := off.Traceparent(runID, waybill.Event{Traceparent: "nonsense"}, "a"); got != "" {
		t.Errorf("nonsense is passed on: %q", got)
	}
}

func TestLinks(t *testing.T) {
	r := newReceiver(t)
	first, child := "01994d2e-7b7a-7000-8000-000000000001", "01994d2e-7b7a-7000-8000-000000000002"
	d := twoSteps(runID)
	d.Of = first
	d.Parent = &waybill.Parent{Run: "01994d2e-7b7a-7000-8000-000000000003", Step: "s", Attempt: 1}
	d.Attempts[0].Child = child
	x := start(t, Options{Endpoint: r.URL, Run: world{runID: d}.run})
	x.Committed(ends(runID))
	x.Stop()
	run := r.span(t, "run nightly")
	if len(run.Links) != 2 {
		t.Fatalf("%d links", len(run.Links))
	}
	for i, want := range []string{first, d.Parent.Run} {
		if got := hex.EncodeToString(run.Links[i].TraceId); got != strings.ReplaceAll(want, "-", "") {
			t.Errorf("link %d leads to %s, want %s", i, got, want)
		}
		if id := spanOf(want); string(run.Links[i].SpanId) != string(id[:]) {
			t.Errorf("link %d leads to another span than that of the run", i)
		}
	}
	if a := r.span(t, "attempt fetch"); len(a.Links) != 1 || hex.EncodeToString(a.Links[0].TraceId) != strings.ReplaceAll(child, "-", "") {
		t.Errorf("links of the attempt: %v", a.Links)
	}
}

// A collector that hangs or fails holds up nobody; what does not fit is dropped
// and counted.
func TestCollectorAway(t *testing.T) {
	r := newReceiver(t)
	r.hold = make(chan struct{})
	var mu sync.Mutex
	exported, dropped := 0, 0
	x := start(t, Options{Endpoint: r.URL, Run: world{runID: twoSteps(runID)}.run, Waiting: 8, Count: func(e, d int) {
		mu.Lock()
		defer mu.Unlock()
		exported, dropped = exported+e, dropped+d
	}})
	began := time.Now()
	for range 1000 {
		x.Committed(ends(runID))
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a collector that hangs held up 1000 commits for %v", took)
	}
	mu.Lock()
	if dropped < 900 {
		t.Errorf("%d traces were dropped, want nearly all of 1000", dropped)
	}
	mu.Unlock()
	r.mu.Lock()
	r.fail = true
	r.mu.Unlock()
	close(r.hold)
	x.Stop()
	if exported != 0 {
		t.Errorf("%d spans count as exported to a collector that refused them", exported)
	}
	// Of the refused ones each span is counted.
	if dropped < 1000 {
		t.Errorf("%d dropped", dropped)
	}

	gone := start(t, Options{Endpoint: "http://127.0.0.1:1", Run: world{runID: twoSteps(runID)}.run, Patience: 300 * time.Millisecond, Count: func(e, d int) { exported += e }})
	gone.Committed(ends(runID))
	began = time.Now()
	gone.Stop()
	if took := time.Since(began); took > 2*flushFor {
		t.Errorf("stopping took %v", took)
	}
}

func TestOn(t *testing.T) {
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1], true
				}
			}
			return "", false
		}
	}
	for _, x := range []struct {
		endpoint string
		env      func(string) (string, bool)
		want     bool
	}{
		{"", env(), false},
		{"http://c:4318", env(), true},
		{"", env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"), true},
		{"", env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces"), true},
		{"http://c:4318", env("OTEL_SDK_DISABLED", "true"), false},
		{"http://c:4318", env("OTEL_TRACES_EXPORTER", "none"), false},
	} {
		if got := On(x.endpoint, x.env); got != x.want {
			t.Errorf("with %q: %v, want %v", x.endpoint, got, x.want)
		}
	}
	if _, err := Start(t.Context(), Options{Endpoint: "collector:4318", Env: noEnv}); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a URL without scheme: %v", err)
	}
}

// The standard variables name the collector and its headers.
func TestEnvironment(t *testing.T) {
	r := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=abc")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
	t.Setenv("OTEL_SERVICE_NAME", "ours")
	env := func(name string) (string, bool) {
		if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
			return r.URL, true
		}
		return "", false
	}
	x := start(t, Options{Endpoint: "http://127.0.0.1:1", Env: env, Run: world{runID: twoSteps(runID)}.run})
	x.Committed(ends(runID))
	x.Stop()
	if len(r.spans) == 0 {
		t.Fatal("nothing came")
	}
	if r.header.Get("X-Key") != "abc" || r.resource["service.name"] != "ours" || r.resource["deployment.environment"] != "test" {
		t.Errorf("headers %v, resource %v", r.header, r.resource)
	}
}
