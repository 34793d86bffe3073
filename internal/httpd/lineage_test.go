package httpd_test

import "testing"

func TestTraces(t *testing.T) {
	b := setup(t)
	const o, tr = "/api/v1/buckets/inbox/objects", "/api/v1/buckets/inbox/trace"
	b.steps([]step{
		{name: "put", method: "PUT", path: o + "/a/b%20c.csv", body: "1", status: 201},
		{name: "put again", method: "PUT", path: o + "/a/b%20c.csv", body: "22", status: 201},
		{name: "an object", method: "GET", path: tr + "/a/b%20c.csv", status: 200, want: []string{`"root":"object/inbox/a/b c.csv@v2"`, `"state":"current"`, `"edges":[]`, `"truncated":false`}},
		{name: "one of its versions", method: "GET", path: tr + "/a/b%20c.csv?version=v1", status: 200, want: []string{`"version":"v1"`, `"size":1`}},
		{name: "start", method: "POST", path: "/api/v1/pipelines/hello/runs", body: `{}`, status: 202},
		{name: "start again", method: "POST", path: "/api/v1/pipelines/hello/runs", body: `{}`, status: 202},
		{name: "what came of it", method: "GET", path: tr + "/a/b%20c.csv?direction=down&depth=3", status: 200, want: []string{`"kind":"started"`, `"pipeline":"hello"`, `"event":{`}},
		{name: "what it came of", method: "GET", path: tr + "/a/b%20c.csv?direction=up", status: 200, want: []string{`"edges":[]`}, without: []string{"hello"}},
		{name: "not all of it", method: "GET", path: tr + "/a/b%20c.csv?limit=2", status: 200, want: []string{`"truncated":true`, `"more_down":true`}},
		{name: "a run", method: "GET", path: "/api/v1/runs/run-1/trace", status: 200, want: []string{`"root":"run/run-1"`}},
		{name: "no such object", method: "GET", path: tr + "/nope", status: 404, want: []string{`"kind":"not_found"`}},
		{name: "no such version", method: "GET", path: tr + "/a/b%20c.csv?version=v9", status: 404},
		{name: "no such run", method: "GET", path: "/api/v1/runs/nope/trace", status: 404},
		{name: "depth 0", method: "GET", path: tr + "/a/b%20c.csv?depth=0", status: 422},
		{name: "depth 51", method: "GET", path: tr + "/a/b%20c.csv?depth=51", status: 422},
		{name: "depth many", method: "GET", path: tr + "/a/b%20c.csv?depth=many", status: 400, want: []string{"depth"}},
		{name: "limit 1001", method: "GET", path: tr + "/a/b%20c.csv?limit=1001", status: 422},
		{name: "limit 0", method: "GET", path: "/api/v1/runs/run-1/trace?limit=0", status: 422},
		{name: "sideways", method: "GET", path: "/api/v1/runs/run-1/trace?direction=sideways", status: 422, want: []string{"sideways"}},
		{name: "only read", method: "DELETE", path: tr + "/a/b%20c.csv", status: 405},
	})
}
