package httpd_test

import (
	"testing"
)

// Answers about deployments say when they may be old, and how old, and keep their ETags.
func TestF60_StaleAnswers(t *testing.T) {
	b := deliver(t)
	const list, old = "/api/v1/deployments", "/spektate/api/deployments"
	b.steps([]step{
		{name: "providers", method: "GET", path: "/api/v1/deliveries/providers", status: 200, want: []string{`"name":"hub"`, `"status":"ok"`, `"stale":false`}},
		{name: "all answer", method: "GET", path: list, status: 200, without: []string{"stale", "age"}},
	})
	b.world.Do(func() { b.world.Away = true })
	b.steps([]step{
		{name: "one is away", method: "GET", path: "/api/v1/deliveries/providers", status: 200, want: []string{`"status":"failing"`, `"stale":true`, `"age":95`, "502"}},
		{name: "what is shown may be old", method: "GET", path: list, status: 200, want: []string{`"stale":true`, `"age":90`, `lab: GitLab at gitlab.com answers 502`, "lab: authors"}},
		{name: "so it may in the older shape", method: "GET", path: old, status: 200, want: []string{`"stale":true`, `"age":90`}},
	})
}
