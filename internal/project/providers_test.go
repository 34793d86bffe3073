package project_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/waybill-run/waybill/internal/project"
)

func TestDeliveryProviders(t *testing.T) {
	t.Parallel()
	read := func(text string) (project.Settings, error) {
		return project.ReadSettings(fstest.MapFS{"waybill.yaml": {Data: []byte(text)}}, nil)
	}
	s, err := read(`
deliveries:
  interval: 10s
  providers:
    hub:
      kind: github
      token: ${secret:GITHUB_TOKEN}
      repositories: [acme/*]
    azdo: {kind: azure-devops, project: acme/shop, stages: [build, config], status: commit}
    lab: {kind: gitlab, url: "https://code.example.com/gitlab", tag_prefix: sync-}
`)
	if err != nil || len(s.Providers) != 3 || s.Polling.Interval != project.Duration(10*time.Second) || s.Polling.Rows != 1000 {
		t.Fatalf("%+v, %v", s.Polling, err)
	}
	if p := s.Providers[0]; p.PageURL() != "https://github.com" || p.Token != "${secret:GITHUB_TOKEN}" || p.TagPrefix != "flux-" || p.Status != "off" {
		t.Errorf("%+v", p)
	}
	for text, want := range map[string]string{
		"{providers: {x: {}}}":                                              "expected a kind",
		"{providers: {x: {kind: bitbucket}}}":                               "azure-devops, github, gitlab",
		"{providers: {x: {kind: github, url: github.com}}}":                 "https://github.com",
		"{providers: {x: {kind: github, url: 'https://me:pw@github.com'}}}": "token",
		"{providers: {x: {kind: azure-devops, project: shop}}}":             "ORGANIZATION/PROJECT",
		"{providers: {x: {kind: github, stages: [deploy]}}}":                "build, config or manifest",
		"{providers: {x: {kind: azure-devops, status: deployment}}}":        "off or commit",
		"{providers: {x: {kind: github, status: 'yes'}}}":                   "off, commit or deployment",
		"{providers: {x: {kind: github, tokn: y}}}":                         "token",
		"{interval: 1ms}": "1s to 24h",
		"{calls: 0}":      "1 to 10000",
		"{rows: 100000}":  "1 to 20000",
	} {
		if _, err := read("deliveries: " + text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
