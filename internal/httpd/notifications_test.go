package httpd_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd"
)

func TestNotifications(t *testing.T) {
	b := setup(t)
	const rule = `{"on":["failed"],"webhook":{"url":"https://example.org/x"}}`
	b.steps([]step{
		{name: "list", method: "GET", path: "/api/v1/notifications", status: 200, want: []string{`"name":"ops"`, `"origin":"folder"`}},
		{name: "add", method: "PUT", path: "/api/v1/notifications/mine", body: rule, status: 201, want: []string{`"name":"mine"`, `"origin":"api"`, `"created_by":"local"`}, audits: []string{"notification.apply mine ok"}},
		{name: "change", method: "PUT", path: "/api/v1/notifications/mine", body: `{"name":"mine","on":["lost"],"email":{"to":["a@example.org"],"from":"b@example.org","smtp":"mail:25","starttls":false}}`, status: 200,
			want: []string{`"on":["lost"]`, `"starttls":false`}, audits: []string{"notification.apply mine ok"}},
		{name: "show", method: "GET", path: "/api/v1/notifications/mine", status: 200, want: []string{`"smtp":"mail:25"`}},
		{name: "show nothing", method: "GET", path: "/api/v1/notifications/nope", status: 404},
		{name: "two names", method: "PUT", path: "/api/v1/notifications/mine", body: `{"name":"other","on":["lost"]}`, status: 422, audits: []string{"notification.apply mine invalid"}},
		{name: "about nothing", method: "PUT", path: "/api/v1/notifications/mine", body: `{"on":["burnt"],"webhook":{"url":"https://example.org/x"}}`, status: 422, want: []string{"burnt", "timed_out"}, audits: []string{"notification.apply mine invalid"}},
		{name: "nobody", method: "PUT", path: "/api/v1/notifications/mine", body: `{"on":["failed"]}`, status: 422, want: []string{"nobody is told"}, audits: []string{"notification.apply mine invalid"}},
		{name: "unknown member", method: "PUT", path: "/api/v1/notifications/mine", body: `{"on":["failed"],"hook":{}}`, status: 422, want: []string{"hook"}, audits: []string{"notification.apply mine invalid"}},
		{name: "of the folder", method: "PUT", path: "/api/v1/notifications/ops", body: rule, status: 409, audits: []string{"notification.apply ops conflict"}},
		{name: "test", method: "POST", path: "/api/v1/notifications/mine/test", status: 204, audits: []string{"notification.test mine ok"}},
		{name: "test nothing", method: "POST", path: "/api/v1/notifications/nope/test", status: 404, audits: []string{"notification.test nope not_found"}},
		{name: "add one that is away", method: "PUT", path: "/api/v1/notifications/away", body: `{"on":["failed"],"webhook":{"url":"http://127.0.0.1:1/"}}`, status: 201, audits: []string{"notification.apply away ok"}},
		{name: "test it", method: "POST", path: "/api/v1/notifications/away/test", status: 503, want: []string{"connection refused"}, audits: []string{"notification.test away unavailable"}},
		{name: "delete", method: "DELETE", path: "/api/v1/notifications/mine", status: 204, audits: []string{"notification.delete mine ok"}},
		{name: "delete again", method: "DELETE", path: "/api/v1/notifications/mine", status: 404, audits: []string{"notification.delete mine not_found"}},
		{name: "delete of the folder", method: "DELETE", path: "/api/v1/notifications/ops", status: 409, audits: []string{"notification.delete ops conflict"}},
	})
}

func TestFiguresAndFilters(t *testing.T) {
	b := setup(t)
	b.steps([]step{
		{name: "start", method: "POST", path: "/api/v1/pipelines/hello/runs", status: 202},
		{name: "metrics", method: "GET", path: "/metrics", status: 200, want: []string{"waybill_node_up 1"}},
		{name: "counts", method: "GET", path: "/api/v1/stats/runs", status: 200, want: []string{`"started":1`, `"timezone":"UTC"`, `"day":"2026-11-21"`}},
		{name: "counts of a pipeline", method: "GET", path: "/api/v1/stats/runs?days=7&pipeline=nope&timezone=Europe/Paris", status: 200, want: []string{`"started":0`, `"timezone":"Europe/Paris"`}},
		{name: "no days", method: "GET", path: "/api/v1/stats/runs?days=0", status: 422},
		{name: "too many days", method: "GET", path: "/api/v1/stats/runs?days=401", status: 422},
		{name: "no such zone", method: "GET", path: "/api/v1/stats/runs?timezone=Mars/Olympus", status: 422},
		{name: "statuses", method: "GET", path: "/api/v1/runs?status=failed,running", status: 200, want: []string{`"id":"run-1"`}},
		{name: "other statuses", method: "GET", path: "/api/v1/runs?status=failed,lost", status: 200, want: []string{`"items":[]`}},
		{name: "one of two is none", method: "GET", path: "/api/v1/runs?status=failed,burnt", status: 422, want: []string{"burnt"}},
		{name: "all conditions", method: "GET", path: "/api/v1/runs?since=2026-01-01T00:00:00Z&until=2027-01-01T00:00:00%2B01:00&trigger=http&label=a%3Db&label=c%3Dd", status: 200},
		{name: "no time", method: "GET", path: "/api/v1/runs?since=yesterday", status: 400, want: []string{"since"}},
		{name: "no label", method: "GET", path: "/api/v1/runs?label=team", status: 422, want: []string{"NAME=VALUE"}},
		{name: "two values", method: "GET", path: "/api/v1/runs?label=a%3Db&label=a%3Dc", status: 422, want: []string{"twice"}},
	})
	var got waybill.RunFilter
	b.world.Do(func() { got = b.world.Filter })
	want := waybill.RunFilter{Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC), Trigger: "http", Limit: 50}
	if !got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) || got.Trigger != want.Trigger || got.Labels["a"] != "b" || got.Labels["c"] != "d" {
		t.Errorf("asked for %+v", got)
	}
}

// A traceparent goes into the run's event if it is one.
func TestTraceparent(t *testing.T) {
	const given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	b := setup(t)
	b.steps([]step{
		{name: "with one", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Traceparent: " + given}, status: 202, want: []string{`"traceparent":"` + given + `"`}},
		{name: "with nonsense", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Traceparent: " + given + "x"}, status: 202, without: []string{"traceparent"}},
		{name: "with zeros", method: "POST", path: "/api/v1/pipelines/hello/runs", headers: []string{"Traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, status: 202, without: []string{"traceparent"}},
	})
}

// Every answer is told to whoever observes, streams are not.
func TestObserve(t *testing.T) {
	var mu sync.Mutex
	var got []string
	b := setup(t, func(o *httpd.Options) {
		o.Observe = func(operation string, status int, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, operation+" "+string(rune('0'+status/100)))
		}
	})
	b.ask("GET", "/api/v1/runs", "")
	b.ask("GET", "/api/v1/runs/nope", "")
	b.ask("GET", "/nowhere", "")
	b.ask("POST", "/api/v1/pipelines/hello/runs", "")
	b.ask("GET", "/api/v1/runs/run-1/logs", "")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"listRuns 2", "getRun 4", " 4", "startRun 2"}; !slices.Equal(got, want) {
		t.Errorf("observed %q, want %q", got, want)
	}
}
