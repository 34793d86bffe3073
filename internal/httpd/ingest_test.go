package httpd_test

import (
	"strings"
	"testing"
)

func TestIngest(t *testing.T) {
	b := deliver(t)
	const received = "/api/v1/deliveries/received"
	big := `"` + strings.Repeat("x", 3<<20) + `"`
	b.steps([]step{
		{name: "by the server's own tokens", method: "POST", path: "/ingest/native", body: `{}`, status: 202, want: []string{`"subject":"local"`, `"reports":[]`, `"fresh":true`}},
		{name: "unknown source", method: "POST", path: "/ingest/nobody", body: `{}`, status: 404, want: []string{"nobody"}},
		{name: "no body", method: "POST", path: "/ingest/native", status: 400},
		{name: "something is missing", method: "POST", path: "/ingest/native", body: `"nowhere"`, status: 422, want: []string{"cluster"}},
		{name: "too much", method: "POST", path: "/ingest/native", body: big, status: 413},
		{name: "more than a request of the rest may have", method: "POST", path: "/ingest/native", body: big[:2<<20], status: 202},
		{name: "not signed", method: "POST", path: "/ingest/signed", body: `{}`, status: 401, audits: []string{"delivery.refused signed unauthorized"}},
		{name: "signed", method: "POST", path: "/ingest/signed", body: `{}`, headers: []string{"X-Signature: good"}, status: 202, want: []string{`"subject":"ingest signed"`}},
		{name: "other method", method: "GET", path: "/ingest/signed", status: 405},
		{name: "sources", method: "GET", path: "/api/v1/deliveries/sources", status: 200, want: []string{`"auth":"signature"`, `"auth":"server"`}},
		{name: "what was received", method: "GET", path: received + "?source=native&limit=5", status: 200, want: []string{`"action":"inserted"`, `"next_cursor":null`}},
		{name: "too many of it", method: "GET", path: received + "?limit=1001", status: 422},
		{name: "one of it", method: "GET", path: received + "/r1", status: 200, want: []string{`"body":"{}"`}},
		{name: "none", method: "GET", path: received + "/r2", status: 404},
	})
}

// Who guesses signatures has to wait.
func TestIngestGuesses(t *testing.T) {
	b := deliver(t)
	for i := range 30 {
		res, _ := b.ask("POST", "/ingest/signed", "{}")
		if want := map[bool]int{true: 401, false: 429}[i < 20]; res.StatusCode != want {
			t.Fatalf("guess %d: %d, want %d", i+1, res.StatusCode, want)
		}
	}
}
