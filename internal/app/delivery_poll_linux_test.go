package app

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
)

// A server asks the providers of its settings: with a token that expires and is set anew,
// a provider that goes away, settings that change, a restart, and a cluster whose tag
// goes on to manifests of another service.
func TestF60_ProvidersOfAServer(t *testing.T) {
	t.Parallel()
	w := providertest.NewWorld("acme/shop")
	w.Token = "gh-s3cr3t-1"
	commit := providertest.Digest
	w.Commits = []providertest.Commit{{SHA: commit("c1"), Name: "Ada Byron", Login: "ada", At: providertest.Noon}}
	w.Order = []string{commit("m1"), commit("m2")}
	w.Runs["100"] = providertest.Run{ID: "100", Number: "7", State: "completed", Result: "success", Branch: "main", Commit: commit("c1"), Queued: providertest.Noon, Started: providertest.Noon, Finished: providertest.Noon.Add(time.Minute)}
	w.Tags = []providertest.Tag{{Name: "flux-west", Commit: commit("m1"), Tagger: "Flux", At: providertest.Noon}}
	hub := httptest.NewServer(providertest.GitHub(w))
	defer hub.Close()
	repo := hub.URL + "/acme/shop"
	settings := `deliveries:
  interval: 1s
  providers:
    hub:
      kind: github
      url: ` + hub.URL + `
      token: ${secret:HUB_TOKEN}
      manifest: ` + repo + `
      status: commit
`
	c := config(t, map[string]string{"waybill.yaml": settings})
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	if _, err := api.SetSecret(t.Context(), "HUB_TOKEN", "an-old-s3cr3t"); err != nil {
		t.Fatal(err)
	}
	report := func(list ...client.DeliveryReport) {
		t.Helper()
		for _, r := range list {
			if _, err := api.ReportDelivery(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows := func() map[string]client.Deployment {
		t.Helper()
		page, err := api.Deployments(t.Context(), client.ListDeploymentsParams{})
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]client.Deployment{}
		for _, d := range page.Items {
			out[d.ImageTag] = d
		}
		return out
	}
	look := func() waybill.DeliveryProvider {
		t.Helper()
		list, err := api.DeliveryProviders(t.Context())
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list.Items[0]
	}
	report(
		client.DeliveryReport{Kind: "build", Service: "shop", ImageTag: "shop:1", Commit: commit("c1")[:7], SourceRepo: repo, Run: "100"},
		client.DeliveryReport{Kind: "config", ImageTag: "shop:1", Ring: "dev", ConfigCommit: "abcdef1", ConfigRepo: repo},
		client.DeliveryReport{Kind: "manifest", ConfigCommit: "abcdef1", ConfigRepo: repo, ManifestCommit: commit("m1"), ManifestRepo: repo, Run: "102", Status: "succeeded"},
	)
	eventually(t, "the token is refused", func() bool { return look().Status == waybill.ProviderFailing })
	p := look()
	page, err := api.Deployments(t.Context(), client.ListDeploymentsParams{})
	health, herr := api.Health(t.Context())
	if err != nil || herr != nil || !page.Stale || len(page.Notes) != 1 || !strings.Contains(p.Error, "deliveries.providers.hub.token") || !strings.Contains(health.Checks["provider hub"], "expired") {
		t.Errorf("%+v, %+v, %+v, %v, %v", p, page.Notes, health.Checks, err, herr)
	}
	if _, err := api.SetSecret(t.Context(), "HUB_TOKEN", "gh-s3cr3t-1"); err != nil {
		t.Fatal(err)
	}
	full := func(d client.Deployment) bool {
		return d.Author != nil && d.Author.Username == "ada" && d.Build.Last().Number == "7" && d.Status == "complete" && len(d.Clusters) == 1 && d.Clusters[0].Cluster == "WEST"
	}
	eventually(t, "everything is known", func() bool { return full(rows()["shop:1"]) })
	eventually(t, "and is told back", func() bool { return len(w.Written()) > 0 })
	if x := w.Written()[0]; x.Path != "/statuses/"+commit("c1") || x.Body["context"] != "waybill/dev" {
		t.Errorf("%+v", x)
	}

	w.Break("", providertest.Fault{Status: 502})
	eventually(t, "the provider is in trouble", func() bool { return look().Status == waybill.ProviderPartly })
	if !full(rows()["shop:1"]) {
		t.Errorf("what was known is gone: %+v", rows()["shop:1"])
	}
	stop(t, s)
	w.Break("", providertest.Fault{})

	// Manifests of another service come after, and the tag moves to them.
	s = start(t, c)
	api = clientOf(t, s.URL(), "")
	report(
		client.DeliveryReport{Kind: "build", Service: "web", ImageTag: "web:1", Commit: commit("c1")[:7], SourceRepo: repo, Run: "101"},
		client.DeliveryReport{Kind: "config", ImageTag: "web:1", Ring: "dev", ConfigCommit: "abcdef2", ConfigRepo: repo},
		client.DeliveryReport{Kind: "manifest", ConfigCommit: "abcdef2", ConfigRepo: repo, ManifestCommit: commit("m2"), ManifestRepo: repo, Run: "103", Status: "succeeded"},
	)
	w.Change(func(w *providertest.World) { w.Tags[0].Commit = commit("m2") })
	eventually(t, "the cluster has both", func() bool {
		all := rows()
		return full(all["shop:1"]) && len(all["web:1"].Clusters) == 1
	})

	// Settings that change are taken up.
	if err := os.WriteFile(filepath.Join(c.Project, "waybill.yaml"), []byte(strings.Replace(settings, "hub:\n", "git:\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other name", func() bool { p := look(); return p.Name == "git" && p.Status == waybill.ProviderOK })
}
