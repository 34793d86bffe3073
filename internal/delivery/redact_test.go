package delivery

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
)

func TestF87_NothingSecretIsKept(t *testing.T) {
	for in, want := range map[string]string{
		"https://ci.example.com/run/7?tab=log":                       "https://ci.example.com/run/7?tab=log",
		"https://ann:hunter2@ci.example.com/run/7":                   "https://ci.example.com/run/7",
		"https://ci.example.com/run/7?b=2&access_token=hunter2&a=1":  "https://ci.example.com/run/7?b=2&access_token=***&a=1",
		"https://x.blob.example.com/log?se=2026&sig=hunter2%3D&sp=r": "https://x.blob.example.com/log?se=2026&sig=***&sp=r",
		"https://ci.example.com/run?monkey=1":                        "https://ci.example.com/run?monkey=1",
		"mailto:ann@example.com":                                     "mailto:ann@example.com",
	} {
		if got := plainURL(in); got != want {
			t.Errorf("%s is kept as %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"health check failed: token is missing":               "health check failed: token is missing",
		"clone of https://u:hunter2@git.example.com/r failed": "clone of https://git.example.com/r failed",
		"Authorization: Bearer hunter2hunter2":                "Authorization: Bearer ***",
		`{"password": "hunter2", "user": "ann"}`:              `{"password": "***", "user": "ann"}`,
		"AZURE_STORAGE_ACCESS_KEY=hunter2== and more":         "AZURE_STORAGE_ACCESS_KEY=*** and more",
		"pushed with ghp_abcdefghijklmnopqrstuvwxyz0123":      "pushed with ***",
		"AccountName=a;AccountKey=hunter2==;EndpointSuffix=x": "AccountName=a;AccountKey=***;EndpointSuffix=x",
	} {
		if got := plainText(in); got != want {
			t.Errorf("%q is kept as %q, want %q", in, got, want)
		}
	}
	f := newFeed(t)
	f.tell(
		report{Kind: waybill.ReportBuild, Run: "1", ImageTag: "app:1", SourceRepo: "https://u:hunter2@example.com/r", URL: "https://u:hunter2@example.com/1?token=hunter2",
			Author: &waybill.Person{Name: "Ann", URL: "https://example.com/ann?private_token=hunter2"}, Message: "password=hunter2"},
		report{Kind: waybill.ReportSync, Cluster: "east", ManifestCommit: "m1", ClusterState: waybill.ClusterFailed, Message: "pull with token: hunter2 failed"},
		report{Kind: waybill.ReportHistory, ManifestRepo: "https://u:hunter2@example.com/m", History: []waybill.CommitParents{{Commit: "m1"}}},
	)
	all := []any{f.events}
	for _, p := range f.m.of(DefaultPartition).parts {
		all = append(all, p)
	}
	for _, d := range f.m.of(DefaultPartition).rows {
		all = append(all, d)
	}
	text, err := json.Marshal(all)
	if err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("%v: a credential was kept: %s", err, text)
	}
}
