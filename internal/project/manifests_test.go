package project

import (
	"strings"
	"testing"
)

func TestManifestsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"deliveries: {manifests: {a: {}}}":                                        "deliveries.manifests.a.repo",
		"deliveries: {manifests: {a: {repo: 'git@example.com:o/r'}}}":             "deliveries.manifests.a.repo",
		"deliveries: {manifests: {a: {repo: 'https://u:p@example.com/r'}}}":       "without credentials",
		"deliveries: {manifests: {a: {repo: 'https://example.com/r', token: x}}}": "deliveries.manifests.a.token",
		"deliveries: {alerts: {stuck: 1s}}":                                       "deliveries.alerts.stuck",
	} {
		var wrong []string
		s := Default()
		r := &settingsReader{fields: s.fields(), at: map[string]place{}}
		r.file([]byte(text))
		s.checkManifests(func(path, format string, _ ...any) { wrong = append(wrong, path+" "+format) })
		if !strings.Contains(strings.Join(wrong, "\n"), want) {
			t.Errorf("%s: %q, want %q", text, wrong, want)
		}
	}
}
