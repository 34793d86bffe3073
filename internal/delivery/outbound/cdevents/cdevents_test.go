package cdevents_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound/cdevents"
	"github.com/waybill-run/waybill/internal/delivery/outbound/outboundtest"
)

var at = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

func change() outbound.Change {
	run := func(stage waybill.Stage, id string, status waybill.Outcome) *waybill.DeploymentStage {
		return &waybill.DeploymentStage{Stage: stage, Status: status, Runs: []waybill.StageRun{{Run: id, Status: status, StatusAt: at, URL: "https://ci.example.com/" + id}}}
	}
	return outbound.Change{Partition: "default", Event: waybill.DeliveryEvent{ID: "e", Seq: 1}, Action: waybill.ActionUpdated, Deployments: []waybill.Deployment{{
		ID: "0123456789ab", Service: "team/shop", Ring: "prod", Commit: "c0ffee1", SourceRepo: "https://git.example.com/team/shop", ImageTag: "registry.example.com/team/Shop:1",
		ImageDigest: "sha256:12", PullRequest: "7", ConfigRepo: "https://git.example.com/config",
		Build: run(waybill.StageBuild, "100", waybill.StatusSucceeded), Config: run(waybill.StageConfig, "101", waybill.StatusSucceeded), Manifest: run(waybill.StageManifest, "102", waybill.StatusRunning),
		Review:   &waybill.DeploymentReview{State: waybill.ReviewMerged, MergeCommit: "abcdef1", UpdatedAt: at},
		Clusters: []waybill.DeploymentCluster{{Cluster: "west", State: waybill.ClusterHealthy, Since: at, FailedAt: at.Add(time.Minute), HealthyAt: at.Add(2 * time.Minute), UpdatedAt: at.Add(2 * time.Minute), Message: "m"}},
	}}}
}

func TestSuite(t *testing.T) {
	t.Parallel()
	outboundtest.Run(t, outboundtest.Case{
		New: func(_ *testing.T, url, secret string) outbound.Sink {
			return cdevents.New(cdevents.Options{URL: url, Secret: secret, Token: secret})
		},
		Change: change(),
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	r := outboundtest.NewReceiver(t)
	s := cdevents.New(cdevents.Options{URL: r.URL + "/in", Secret: "key", Source: func() string { return "https://waybill.example.com" }})
	list, err := s.Plan(t.Context(), change())
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, m := range list {
		if err := s.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for i, q := range r.Got() {
		var e struct {
			SpecVersion, ID, Source, Type string
			Data                          struct {
				Context struct{ Specversion, ID, Source, Type, Timestamp, ChainID string }
				Subject struct {
					ID      string
					Content map[string]any
				}
			}
		}
		if err := json.Unmarshal(q.Body, &e); err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, []byte("key"))
		mac.Write(q.Body)
		c := e.Data.Context
		if q.Path != "/in" || q.Header.Get("X-Signature") != "sha256="+hex.EncodeToString(mac.Sum(nil)) || e.SpecVersion != "1.0" || c.ID != e.ID || c.ID != list[i].ID ||
			c.Type != e.Type || c.Source != "https://waybill.example.com" || c.Specversion != cdevents.SpecVersion || c.ChainID == "" || e.Data.Subject.ID == "" {
			t.Errorf("%s", q.Body)
		}
		if _, err := time.Parse(time.RFC3339, c.Timestamp); err != nil {
			t.Error(err)
		}
		types = append(types, e.Type)
		if e.Type == "dev.cdevents.artifact.packaged.0.3.0" && e.Data.Subject.ID != "pkg:oci/shop@sha256%3A12?repository_url=registry.example.com%2Fteam%2FShop&tag=1" {
			t.Errorf("the artifact is %s", e.Data.Subject.ID)
		}
	}
	want := []string{"build.finished", "artifact.packaged", "pipelinerun.finished", "pipelinerun.started", "change.merged", "service.deployed", "incident.detected", "incident.resolved", "service.published"}
	for i := range want {
		want[i] = "dev.cdevents." + want[i] + ".0.3.0"
	}
	if !slices.Equal(types, want) {
		t.Errorf("told %q\nwant %q", types, want)
	}
	c := change()
	c.Event.Report.Provider = "cdevents"
	if list, err := s.Plan(t.Context(), c); err != nil || len(list) > 0 {
		t.Errorf("what came as a CDEvent goes out again: %v, %v", list, err)
	}
}

func TestPURL(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]waybill.Deployment{
		"": {}, "pkg:oci/app?tag=1": {ImageTag: "app:1"}, "pkg:oci/app@sha256%3A12": {Service: "team/App", ImageDigest: "sha256:12"},
		"pkg:oci/app?repository_url=localhost%3A5000%2Fapp": {ImageTag: "localhost:5000/app"},
	} {
		if got := cdevents.PURL(&d); got != want {
			t.Errorf("%+v is %s, want %s", d, got, want)
		}
	}
}
