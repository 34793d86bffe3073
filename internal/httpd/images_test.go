package httpd_test

import "testing"

func TestImages(t *testing.T) {
	const base = "/api/v1/images"
	tar := []string{"Content-Type: application/x-tar"}
	b := setup(t)
	b.steps([]step{
		{name: "none", method: "GET", path: base, status: 200, want: []string{`"items":[]`, `"quota":`}},
		{name: "load", method: "POST", path: base, headers: tar, body: "archive", status: 201, want: []string{`"name":"index.docker.io/demo/crunch:v1"`, `"whole":true`}, audits: []string{"image.load ok"}},
		{name: "load as", method: "POST", path: base + "?name=busy:v1", headers: tar, body: "archive", status: 201, want: []string{`"name":"busy:v1"`}, audits: []string{"image.load ok"}},
		{name: "load nonsense", method: "POST", path: base, headers: tar, body: "bad", status: 422, want: []string{"neither index.json nor"}, audits: []string{"image.load invalid"}},
		{name: "list", method: "GET", path: base, status: 200, want: []string{`"busy:v1"`, `"in_use":true`, `"bytes":14`}},
		{name: "remove what is in use", method: "DELETE", path: base + "?name=busy:v1", status: 409, audits: []string{"image.remove conflict"}},
		{name: "remove nothing", method: "DELETE", path: base + "?name=x:y", status: 404, audits: []string{"image.remove not_found"}},
		{name: "remove without a name", method: "DELETE", path: base, status: 400, audits: []string{"image.remove malformed"}},
		{name: "prune what is old", method: "POST", path: base + "/prune", body: `{"unused_seconds":3600}`, status: 200, want: []string{`"count":0`}, audits: []string{"image.prune ok"}},
		{name: "prune nonsense", method: "POST", path: base + "/prune", body: `{"unused_seconds":-1}`, status: 422, audits: []string{"image.prune invalid"}},
		{name: "prune", method: "POST", path: base + "/prune", body: `{}`, status: 200, want: []string{`"count":1`, `"bytes":7`}, audits: []string{"image.prune ok"}},
	})
	b.world.NoImages = true
	b.server.SetReady(b.world.Services())
	b.steps([]step{
		{name: "keeps none", method: "GET", path: base, status: 501, want: []string{"the runner oci is not available"}},
		{name: "cannot load", method: "POST", path: base, headers: tar, body: "x", status: 501, audits: []string{"image.load unsupported"}},
		{name: "cannot remove", method: "DELETE", path: base + "?name=x:y", status: 501, audits: []string{"image.remove unsupported"}},
		{name: "cannot prune", method: "POST", path: base + "/prune", body: `{}`, status: 501, audits: []string{"image.prune unsupported"}},
	})
}
