package httpd_test

import (
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/httpd"
)

func TestHooksAndEvents(t *testing.T) {
	b := setup(t)
	const good, cloud = "Waybill-Signature: good", "Content-Type: application/cloudevents+json"
	b.steps([]step{
		{name: "deliver", method: "POST", path: "/api/v1/hooks/hello", headers: []string{good}, body: "1", status: 202, want: []string{`"fresh":true`, `"runs":[{"pipeline":"hello","run":"run-1"}]`}},
		{name: "deliver again", method: "POST", path: "/api/v1/hooks/hello", headers: []string{good}, body: "1", status: 200, want: []string{`"fresh":false`, `"run":"run-1"`}},
		{name: "deliver to another", method: "POST", path: "/api/v1/hooks/hello/deploy", headers: []string{good}, body: "2", status: 202},
		{name: "wrong signature", method: "POST", path: "/api/v1/hooks/hello/deploy", headers: []string{"Waybill-Signature: bad"}, body: "3", status: 401, audits: []string{"hook.refused hello/deploy unauthorized"}},
		{name: "no signature", method: "POST", path: "/api/v1/hooks/hello", status: 401, audits: []string{"hook.refused hello unauthorized"}},
		{name: "no such hook", method: "POST", path: "/api/v1/hooks/nope", headers: []string{good}, status: 404},
		{name: "only posts", method: "GET", path: "/api/v1/hooks/hello", status: 405},
		{name: "publish", method: "POST", path: "/api/v1/events", headers: []string{cloud}, body: `{"id":"1"}`, status: 202, want: []string{`"fresh":true`}},
		{name: "publish again", method: "POST", path: "/api/v1/events", headers: []string{cloud}, body: `{"id":"1"}`, status: 200, want: []string{`"fresh":false`}},
		{name: "publish nothing", method: "POST", path: "/api/v1/events", status: 400},
	})
}

func TestHooksAreGuessedSlowly(t *testing.T) {
	b := setup(t, func(o *httpd.Options) { o.Limits.AuthFailures, o.Limits.AuthRecovery = 3, time.Minute })
	codes := map[int]int{}
	for range 50 {
		res, _ := b.ask("POST", "/api/v1/hooks/hello", "1", "Waybill-Signature: guess")
		codes[res.StatusCode]++
	}
	if codes[401] != 3 || codes[429] != 47 {
		t.Errorf("50 guesses were answered %v, want 3 of 401 and 47 of 429", codes)
	}
	if res, _ := b.ask("POST", "/api/v1/hooks/hello", "1", "Waybill-Signature: good"); res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("the right one after guesses: %d", res.StatusCode)
	}
}

func TestSchedules(t *testing.T) {
	b := setup(t)
	b.steps([]step{
		{name: "list", method: "GET", path: "/api/v1/schedules", status: 200, want: []string{`"pipeline":"hello"`, `"number":1`, `"next_cursor":null`, `"words":"at 02:00 every day"`}},
		{name: "bad cursor", method: "GET", path: "/api/v1/schedules?cursor=x", status: 422},
		{name: "bad limit", method: "GET", path: "/api/v1/schedules?limit=0", status: 422},
		{name: "show", method: "GET", path: "/api/v1/schedules/hello/1", status: 200, want: []string{`"recent":[{`, `"run":"run-1"`}},
		{name: "show nothing", method: "GET", path: "/api/v1/schedules/hello/2", status: 404},
		{name: "no number", method: "GET", path: "/api/v1/schedules/hello/x", status: 400, want: []string{"number"}},
		{name: "pause", method: "POST", path: "/api/v1/schedules/hello/1/pause", status: 200, want: []string{`"paused":true`, `"paused_by":"local"`}, without: []string{`"next"`}, audits: []string{"schedule.pause hello/1 ok"}},
		{name: "resume", method: "POST", path: "/api/v1/schedules/hello/1/resume", status: 200, without: []string{"paused"}, audits: []string{"schedule.resume hello/1 ok"}},
		{name: "pause nothing", method: "POST", path: "/api/v1/schedules/nope/1/pause", status: 404, audits: []string{"schedule.pause nope/1 not_found"}},
	})
}
