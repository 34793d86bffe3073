package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

const shipping = `
name: ship
params: {tag: {type: string, default: "shop:1"}, exit: {type: int, default: 0}}
delivery:
  - {stage: build, step: build, service: team/shop, image: "${{ params.tag }}", digest: "${{ steps.build.outputs.digest }}", commit: c0ffee1, source_repo: "https://git.example.com/team/shop"}
  - {stage: config, step: config, image: "${{ params.tag }}", service: team/shop, ring: dev, config_commit: "${{ steps.config.outputs.commit }}"}
  - {stage: manifest, step: render, config_commit: "${{ steps.config.outputs.commit }}", manifest_commit: "${{ steps.render.outputs.commit }}"}
  - {stage: sync, cluster: west, state: healthy, ring: dev, manifest_commit: "${{ steps.render.outputs.commit }}"}
steps:
  - {name: build, run: ["/bin/sh", "-c", "while [ ! -e {{dir}}/go ]; do sleep 0.02; done; echo digest=sha256:$(printf %064d 7) > $WAYBILL_OUTPUT; exit $1", x, "${{ params.exit }}"], outputs: {digest: string}}
  - {name: config, run: ["/bin/sh", "-c", "echo commit=abcdef1234567 > $WAYBILL_OUTPUT"], outputs: {commit: string}}
  - {name: render, run: ["/bin/sh", "-c", "echo commit=fedcba7654321 > $WAYBILL_OUTPUT"], outputs: {commit: string}}
`

func rows(t *testing.T, api *client.Client) []waybill.Deployment {
	t.Helper()
	page, err := api.Deployments(t.Context(), client.ListDeploymentsParams{})
	if err != nil {
		t.Fatal(err)
	}
	return page.Items
}

// A pipeline whose steps are stages is seen while it runs and when it has ended, on one
// row, without a word to anybody, and also when the server is replaced in the middle.
func TestOwnRunsAreDeliveries(t *testing.T) {
	t.Parallel()
	c := config(t, map[string]string{"pipelines/ship.yaml": shipping, "pipelines/plain.yaml": "name: plain\nsteps: [{name: one, run: [\"/bin/true\"]}]\n"})
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	succeeds(t, api, begin(t, api, "plain"))
	id := begin(t, api, "ship")
	eventually(t, "the build is seen to run", func() bool {
		r := rows(t, api)
		return len(r) == 1 && r[0].Status == waybill.DeploymentInProgress && r[0].Build.Last().Run == id
	})
	stop(t, s)
	if err := os.WriteFile(filepath.Join(filepath.Dir(c.Project), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s = start(t, c)
	api = clientOf(t, s.URL(), "")
	succeeds(t, api, id)
	eventually(t, "the row is complete and in its cluster", func() bool {
		r := rows(t, api)
		return len(r) == 1 && r[0].Status == waybill.DeploymentComplete && len(r[0].Clusters) == 1 && r[0].Clusters[0].State == waybill.ClusterHealthy
	})
	d := rows(t, api)[0]
	if d.Service != "team/shop" || d.ImageTag != "shop:1" || !strings.HasSuffix(d.ImageDigest, "7") || d.Commit != "c0ffee1" || d.Ring != "dev" ||
		d.ConfigCommit != "abcdef1234567" || d.ManifestCommit != "fedcba7654321" || d.Unlinked != "" {
		t.Errorf("%+v", d)
	}
	for _, st := range []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest} {
		if st == nil || st.Status != waybill.StatusSucceeded || len(st.Runs) != 1 || st.Last().Run != id || st.Last().FinishedAt.IsZero() || !strings.Contains(st.Last().URL, "/api/v1/runs/"+id) {
			t.Errorf("%+v", st)
		}
	}
	// One that fails is seen, too, and the same image again is another attempt at it.
	r, err := api.StartRun(t.Context(), "ship", client.StartRun{Params: vars(t, `{"exit":3,"tag":"shop:2"}`)}, "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is seen", func() bool {
		all := rows(t, api)
		return len(all) == 2 && all[0].ImageTag == "shop:2" && all[0].Status == waybill.DeploymentFailed
	})
	again, err := api.RetryRun(t.Context(), r.ID, "", "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the retry is seen", func() bool {
		all := rows(t, api)
		return len(all) == 2 && all[0].Build.Last().Run == again.ID && len(all[0].Build.Runs) == 2 && all[0].Status == waybill.DeploymentFailed
	})
	page, err := api.Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range page.Items {
		if q.Dead > 0 {
			t.Errorf("dead letters in %s", q.Topic)
		}
	}
}
