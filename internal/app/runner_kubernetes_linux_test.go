//go:build !slim

package app

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/runner/kubernetes/kubetest"
)

func kubeconfig(address string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: %s}}]
current-context: x
`, address, kubetest.Namespace)
}

// A pipeline whose steps are Jobs: variables go from step to step, logs and the image's
// digest are there, and nothing stays in the cluster.
func TestPipelineOnKubernetes(t *testing.T) {
	t.Parallel()
	cluster := kubetest.New(t)
	file := t.TempDir() + "/kubeconfig"
	if err := os.WriteFile(file, []byte(kubeconfig(cluster.Client().Host)), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := "runners:\n  kubernetes: {kubeconfig: " + file + "}\n"
	c := config(t, map[string]string{
		"waybill.yaml": settings,
		"pipelines/jobs.yaml": `name: jobs
steps:
  - name: count
    runner: kubernetes
    image: demo/count:1
    run: ["/bin/sh", "-c", "cat $WAYBILL_EVENT > /dev/null && echo counting && echo rows=7 > $WAYBILL_OUTPUT"]
    outputs: {rows: int}
  - name: tell
    runner: kubernetes
    image: demo/count:1
    run: ["/bin/sh", "-c", "echo there are ${{ steps.count.outputs.rows }}"]
`,
	})
	s := start(t, c)
	api := clientOf(t, s.URL(), "")
	started, err := api.StartRun(t.Context(), "jobs", client.StartRun{}, "")
	if err != nil {
		t.Fatal(err)
	}
	var run client.RunDetail
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if run, err = api.Run(t.Context(), started.ID); err != nil {
			t.Fatal(err)
		}
		if waybill.Status(run.Status).Terminal() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the run is %s", run.Status)
		}
	}
	if waybill.Status(run.Status) != waybill.StatusSucceeded {
		t.Errorf("the run is %s: %+v", run.Status, run)
	}
	for end := time.Now().Add(time.Minute); len(append(cluster.Names("jobs"), cluster.Names("secrets")...)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left in the cluster: %v %v", cluster.Names("jobs"), cluster.Names("secrets"))
		}
	}
}

// The doctor tries a cluster out, says what works, and leaves nothing.
func TestTrialOfACluster(t *testing.T) {
	t.Parallel()
	cluster := kubetest.New(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"kubeconfig": kubeconfig(cluster.Client().Host), "waybill.yaml": "runners:\n  kubernetes: {kubeconfig: " + dir + "/kubeconfig}\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := tryRunner(t.Context(), "kubernetes", dir, "demo/shell:1")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, f := range found {
		said[f.Check] = true
		if f.Status != waybill.FindingOK {
			t.Errorf("%+v", f)
		}
	}
	for _, want := range []string{"kubernetes.start", "kubernetes.exit", "kubernetes.log", "kubernetes.outputs", "kubernetes.stop", "kubernetes.tidy"} {
		if !said[want] {
			t.Errorf("%s was not looked at", want)
		}
	}
	if left := append(cluster.Names("jobs"), cluster.Names("secrets")...); len(left) > 0 {
		t.Errorf("left in the cluster: %v", left)
	}
	cluster.Deny("create", "jobs", "")
	found, err = tryRunner(t.Context(), "kubernetes", dir, "demo/shell:1")
	if err != nil || !failed(found) {
		t.Errorf("without the right to make Jobs: %+v, %v", found, err)
	}
}

func failed(found []waybill.Finding) bool {
	for _, f := range found {
		if f.Status == waybill.FindingFail {
			return true
		}
	}
	return false
}
