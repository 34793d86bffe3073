package app

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-run/waybill/client"
)

// listener keeps the names of spans by run, and notifications.
type listener struct {
	*httptest.Server
	mu    sync.Mutex
	spans map[string][]string
	told  []string // event, pipeline
}

func newListener(t *testing.T) *listener {
	l := &listener{spans: map[string][]string{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if r.URL.Path == "/v1/traces" {
			var m collectorpb.ExportTraceServiceRequest
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Error(err)
			}
			for _, rs := range m.ResourceSpans {
				for _, ss := range rs.ScopeSpans {
					for _, s := range ss.Spans {
						l.spans[string(s.TraceId)] = append(l.spans[string(s.TraceId)], s.Name)
					}
				}
			}
			return
		}
		var e struct {
			Data struct{ Event, Pipeline, Run string }
		}
		if err := json.Unmarshal(b, &e); err != nil {
			t.Error(err)
		}
		l.told = append(l.told, e.Data.Event+" "+e.Data.Pipeline+" "+e.Data.Run)
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *listener) hears() (traces int, spans []string, told []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.spans {
		spans = append(spans, s...)
	}
	slices.Sort(spans)
	return len(l.spans), spans, slices.Clone(l.told)
}

// A server that is replaced in the middle of a run leaves one trace, one
// notification, and figures that say what happened.
func TestObserver(t *testing.T) {
	t.Parallel()
	l := newListener(t)
	c := config(t, map[string]string{
		"waybill.yaml": "telemetry: {otlp: " + l.URL + "}\nnotify: [{on: [failed, recovered], webhook: {url: \"" + l.URL + "/told\"}}]\n",
		"pipelines/two.yaml": `
name: two
labels: {team: data}
params: {exit: {type: int, default: 0}}
steps:
  - {name: long, run: ["/bin/sh", "-c", "while [ ! -e {{dir}}/go ]; do sleep 0.05; done; echo parent=$TRACEPARENT"]}
  - {name: last, run: ["/bin/sh", "-c", "exit $1", "x", "${{ params.exit }}"]}
`,
	})
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	r, err := api.StartRun(t.Context(), "two", client.StartRun{Params: vars(t, `{"exit":3}`)}, "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first step runs", func() bool {
		d, err := api.Run(t.Context(), r.ID)
		return err == nil && len(d.Attempts) == 1 && d.Attempts[0].Phase == "running"
	})
	stop(t, s)
	s = start(t, c)
	api = clientOf(t, s.URL(), "")
	writeFile(t, c, "go")
	eventually(t, "the run ends", func() bool { d, err := api.Run(t.Context(), r.ID); return err == nil && d.Status == "failed" })
	succeeds(t, api, begin(t, api, "two"))

	eventually(t, "both are told", func() bool { _, _, told := l.hears(); return len(told) >= 2 })
	eventually(t, "both are traced", func() bool { traces, _, _ := l.hears(); return traces == 2 })
	_, spans, told := l.hears()
	want := []string{"attempt last", "attempt last", "attempt long", "attempt long", "run two", "run two", "step last", "step last", "step long", "step long"}
	if !slices.Equal(spans, want) {
		t.Errorf("spans are %q, want %q", spans, want)
	}
	slices.Sort(told)
	if len(told) != 2 || told[0] != "failed two "+r.ID || !strings.HasPrefix(told[1], "recovered two ") {
		t.Errorf("told %q", told)
	}
	var log strings.Builder
	if err := api.Log(t.Context(), r.ID, client.GetRunLogsParams{Step: "long"}, &log); err != nil {
		t.Fatal(err)
	}
	if want := "parent=00-" + strings.ReplaceAll(r.ID, "-", "") + "-"; !strings.Contains(log.String(), want) {
		t.Errorf("the unit saw %q, want %q", log.String(), want)
	}
	text, err := api.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`waybill_runs_ended_total{pipeline="two",status="failed"} 1`, `waybill_runs_ended_total{pipeline="two",status="succeeded"} 1`,
		`waybill_runs_accepted_total{pipeline="two",trigger="http"} 1`, // the other one was accepted by the server before
		`waybill_queue_messages_total{outcome="done",topic="notify"} 2`, `waybill_trace_spans_total{result="dropped"} 0`,
		`waybill_unit_create_seconds_count{runner="process"} 3`, `waybill_node_up{node="`, "waybill_store_flush_operations_count",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in the metrics", want)
		}
	}
	eventually(t, "both are counted", func() bool {
		d, err := api.RunStats(t.Context(), client.GetRunStatsParams{Days: 1, Pipeline: "two"})
		return err == nil && d.Items[0].Started == 2 && d.Items[0].Ended["failed"] == 1 && d.Items[0].Ended["succeeded"] == 1
	})
	page, err := api.Runs(t.Context(), client.ListRunsParams{Label: []string{"team=data"}, Status: []client.Status{"failed", "lost"}})
	if err != nil || len(page.Items) != 1 || page.Items[0].ID != r.ID {
		t.Errorf("found %+v by label and status (%v)", page.Items, err)
	}
	stop(t, s)
}

func vars(t *testing.T, text string) (v client.Vars) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// writeFile makes an empty file beside the project.
func writeFile(t *testing.T, c Config, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.Project), name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}
