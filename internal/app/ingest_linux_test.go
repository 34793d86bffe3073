package app

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/inbound/flux"
)

// tools is a server that tools of deliveries send to.
type tools struct {
	*testing.T
	url string
	api *client.Client
}

func toolsWith(t *testing.T, settings string) *tools {
	t.Helper()
	t.Parallel()
	s := start(t, config(t, map[string]string{"waybill.yaml": settings}))
	return &tools{t, s.URL(), clientOf(t, s.URL(), "")}
}

func sign(key, body string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// send posts to a source; headers are "Name: value".
func (w *tools) send(source, body string, headers ...string) (int, waybill.Received, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodPost, w.url+"/ingest/"+source, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := caller().Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	var r waybill.Received
	if res.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(text, &r); err != nil {
			w.Fatalf("%v in %s", err, text)
		}
	}
	return res.StatusCode, r, string(text)
}

// takes sends what must be taken.
func (w *tools) takes(source, body string, headers ...string) waybill.Received {
	w.Helper()
	code, r, text := w.send(source, body, headers...)
	if code != http.StatusAccepted {
		w.Fatalf("%s answered %d: %s\nto %s", source, code, text, body)
	}
	return r
}

// refuses sends what must be refused with a status and these words.
func (w *tools) refuses(status int, words, source, body string, headers ...string) {
	w.Helper()
	if code, _, text := w.send(source, body, headers...); code != status || !strings.Contains(text, words) {
		w.Errorf("%s answered %d: %s\nwant %d with %q", source, code, text, status, words)
	}
}

func (w *tools) report(r client.DeliveryReport) client.ReportResult {
	w.Helper()
	got, err := w.api.ReportDelivery(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	return got
}

// deployed reports an image that went to a ring with a manifest commit.
func (w *tools) deployed(service, tag, ring, manifest string) string {
	w.Helper()
	at := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	w.report(client.DeliveryReport{Kind: "build", Service: service, ImageTag: tag, Commit: "c0ffee1234567", Run: "b" + tag, Status: "succeeded", Time: at})
	w.report(client.DeliveryReport{Kind: "config", ImageTag: tag, Ring: ring, ConfigCommit: "ab" + manifest, Run: "c" + tag, Status: "succeeded", Time: at})
	res := w.report(client.DeliveryReport{Kind: "manifest", ConfigCommit: "ab" + manifest, ManifestCommit: manifest, Run: "m" + tag, Status: "succeeded", Time: at})
	return res.Deployments[0].ID
}

// cluster is the state of a deployment in a cluster, empty when it is not there.
func (w *tools) cluster(id, name string) waybill.DeploymentCluster {
	w.Helper()
	d, err := w.api.Deployment(w.Context(), "", id)
	if err != nil {
		w.Fatal(err)
	}
	for _, c := range d.Clusters {
		if c.Cluster == name {
			return c
		}
	}
	return waybill.DeploymentCluster{}
}

func (w *tools) state(id, cluster string, want waybill.ClusterState) {
	w.Helper()
	if got := w.cluster(id, cluster); got.State != want {
		w.Errorf("%s in %s is %q (%s), want %q", id, cluster, got.State, got.Message, want)
	}
}

// fluxEvent is an event of notification-controller.
func fluxEvent(object, reason, severity, message, at string, meta map[string]string) string {
	kind, name, _ := strings.Cut(object, "/")
	b, err := json.Marshal(map[string]any{
		"involvedObject": map[string]string{"kind": kind, "namespace": "flux-system", "name": name, "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "uid": "7b6f6f1a"},
		"severity":       severity, "timestamp": at, "reason": reason, "message": message, "reportingController": "kustomize-controller",
		"reportingInstance": "kustomize-controller-79cbb", "metadata": meta,
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

const manifest = "40d6b21b888db0ca794876cf7bdd399e3da2137e"

func TestF71_FluxEvents(t *testing.T) {
	w := toolsWith(t, `deliveries: {ingest: {flux: {secret: "${secret:FLUX_KEY}"}, east: {format: flux, token: "east-token-1", cluster: east, ring: prod}}}`)
	const key = "flux-hmac-key"
	if _, err := w.api.SetSecret(t.Context(), "FLUX_KEY", key); err != nil {
		t.Fatal(err)
	}
	id := w.deployed("web", "web:1", "prod", manifest)
	plain := fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "Reconciliation finished in 2s", "2026-11-20T09:00:00Z",
		map[string]string{"revision": "main@sha1:" + manifest, "cluster": "west", "env": "prod"})
	w.refuses(401, "not signed", "flux", plain)
	w.refuses(401, "wrong", "flux", plain, "X-Signature: "+sign("another key", plain))
	w.refuses(401, "wrong", "flux", plain+" ", "X-Signature: "+sign(key, plain))
	if got := w.cluster(id, "west"); got.State != "" {
		t.Fatalf("what was refused counts: %+v", got)
	}
	first := w.takes("flux", plain, "X-Signature: "+sign(key, plain), "Gotk-Component: kustomize-controller")
	if !first.Fresh || len(first.Reports) != 1 || first.Reports[0].Deployments[0] != id {
		t.Errorf("taken as %+v", first)
	}
	w.state(id, "west", "applied")
	again := w.takes("flux", plain, "X-Signature: "+sign(key, plain))
	if again.Fresh || again.ID != first.ID || again.Reports[0].Event != first.Reports[0].Event {
		t.Errorf("a replay is %+v", again)
	}
	// The keys with the prefix of their controller, and the commit behind an OCI artifact.
	prefixed := fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "Health check passed in 3s", "2026-11-20T09:00:05Z", map[string]string{
		"kustomize.toolkit.fluxcd.io/revision": "latest@sha256:" + strings.Repeat("ab", 32), "kustomize.toolkit.fluxcd.io/originRevision": "main@sha1:" + manifest,
		"event.toolkit.fluxcd.io/cluster": "south", "event.toolkit.fluxcd.io/env": "prod",
	})
	w.takes("flux", prefixed, "X-Signature: "+sign(key, prefixed))
	w.state(id, "south", "healthy")
	nowhere := fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "done", "2026-11-20T09:00:00Z", map[string]string{"revision": "main@sha1:" + manifest})
	w.refuses(422, "eventMetadata", "flux", nowhere, "X-Signature: "+sign(key, nowhere))
	// A token for each cluster says which one it is, and it can be no other.
	w.takes("east", nowhere, "Authorization: Bearer east-token-1")
	w.state(id, "east", "applied")
	w.refuses(401, "token", "east", nowhere)
	w.refuses(422, "cluster east", "east", plain, "Authorization: Bearer east-token-1")
	// What says nothing of clusters is kept.
	source := fluxEvent("GitRepository/apps", "NewArtifact", "info", "stored artifact", "2026-11-20T09:00:00Z", map[string]string{"cluster": "west"})
	if r := w.takes("flux", source, "X-Signature: "+sign(key, source)); r.Reason == "" || len(r.Reports) > 0 {
		t.Errorf("an event of a source is %+v", r)
	}
	for _, junk := range []string{"", "{", "[]", `"x"`, `{"involvedObject":5}`, `{"reason":"x"}`} {
		w.refuses(400, "", "flux", junk, "X-Signature: "+sign(key, junk))
	}
	list, err := w.api.ReceivedList(t.Context(), "flux", 0, "")
	if err != nil || len(list.Items) != 3 {
		t.Fatalf("received %d, %v", len(list.Items), err)
	}
	one, err := w.api.Received(t.Context(), first.ID)
	if err != nil || !strings.Contains(one.Body, manifest) {
		t.Errorf("%v: %+v", err, one)
	}
}

func TestF72_Revisions(t *testing.T) {
	t.Parallel()
	const sum = "7301f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4f2a4"
	for text, want := range map[string]flux.Revision{
		"main@sha1:" + manifest:             {Ref: "main", Commit: manifest},
		"v1.2.3@sha1:" + manifest:           {Ref: "v1.2.3", Commit: manifest},
		"sha1:" + manifest:                  {Commit: manifest},
		"refs/heads/b@sha1:" + manifest:     {Ref: "refs/heads/b", Commit: manifest},
		"feature/x/" + manifest:             {Ref: "feature/x", Commit: manifest},
		"main/" + manifest[:10]:             {Ref: "main", Commit: manifest[:10]},
		"latest@sha256:" + sum:              {Ref: "latest", Digest: "sha256:" + sum},
		"sha256:" + sum:                     {Digest: "sha256:" + sum},
		"6.5.0":                             {Ref: "6.5.0", Version: "6.5.0"},
		"v6.5.0-rc.1+4b2f":                  {Ref: "v6.5.0-rc.1+4b2f", Version: "v6.5.0-rc.1+4b2f"},
		manifest:                            {Commit: manifest},
		" main@sha1:" + manifest + " ":      {Ref: "main", Commit: manifest},
		"a@b@sha1:" + manifest:              {Ref: "a@b", Commit: manifest},
		"MAIN@sha1:" + "40D6B21B888DB0CA79": {Ref: "MAIN", Commit: "40d6b21b888db0ca79"},
	} {
		if got, ok := flux.ParseRevision(text); !ok || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "main", "main@", "main@sha1:", "main@sha1:xyz", "main@md5:" + manifest, "/" + manifest, "main/", "1.2", "sha1:12"} {
		if got, ok := flux.ParseRevision(text); ok {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
	w := toolsOf(t, "")
	id := w.deployed("web", "web:1", "prod", manifest)
	for i, rev := range []string{"main@sha1:" + manifest, "refs/heads/main@sha1:" + manifest, "main/" + manifest, "sha1:" + manifest} {
		cluster := fmt.Sprint("c", i)
		w.takes("flux", fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "done", "2026-11-20T09:00:00Z", map[string]string{"revision": rev, "cluster": cluster}))
		w.state(id, cluster, "applied")
	}
	w.refuses(422, "revision", "flux", fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "done", "2026-11-20T09:00:00Z", map[string]string{"revision": "what?", "cluster": "c"}))
}

// toolsOf is toolsWith for a test that is parallel already.
func toolsOf(t *testing.T, settings string) *tools {
	t.Helper()
	s := start(t, config(t, map[string]string{"waybill.yaml": settings}))
	return &tools{t, s.URL(), clientOf(t, s.URL(), "")}
}

func TestF73_AppliedAndHealthy(t *testing.T) {
	w := toolsWith(t, "")
	id := w.deployed("web", "web:1", "prod", manifest)
	n := 0
	tell := func(object, reason, severity, message string) {
		n++
		at := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second).Format(time.RFC3339)
		w.takes("flux", fluxEvent(object, reason, severity, message, at, map[string]string{"revision": "main@sha1:" + manifest, "cluster": "west", "env": "prod"}))
	}
	tell("Kustomization/apps", "Progressing", "info", "Deployment/web configured")
	w.state(id, "west", "pending")
	tell("Kustomization/apps", "ReconciliationSucceeded", "info", "Reconciliation finished in 1s, next run in 10m0s")
	w.state(id, "west", "applied")
	tell("Kustomization/apps", "Progressing", "info", "Health check passed in 5s")
	w.state(id, "west", "healthy")
	tell("Kustomization/apps", "ReconciliationSucceeded", "info", "Reconciliation finished in 1s, next run in 10m0s")
	w.state(id, "west", "healthy") // what works is not applied less
	tell("Kustomization/apps", "HealthCheckFailed", "error", "timeout waiting for: [Deployment/web status: 'Failed']")
	w.state(id, "west", "failed")
	// The success of another object of the cluster does not hide it.
	tell("Kustomization/infra", "ReconciliationSucceeded", "info", "Reconciliation finished in 1s")
	w.state(id, "west", "failed")
	if c := w.cluster(id, "west"); !strings.Contains(c.Message, "timeout") || c.FailedAt.IsZero() {
		t.Errorf("the failure is told as %+v", c)
	}
	tell("Kustomization/apps", "ReconciliationSucceeded", "info", "Reconciliation finished in 1s")
	w.state(id, "west", "applied") // a later success clears
	tell("Kustomization/apps", "ReconciliationSucceeded", "info", "Health check passed in 2s")
	w.state(id, "west", "applied") // infra has no health checks
	// An event that comes late changes nothing.
	w.takes("flux", fluxEvent("Kustomization/apps", "HealthCheckFailed", "error", "late", "2026-11-20T09:00:02Z", map[string]string{"revision": "main@sha1:" + manifest, "cluster": "west", "env": "prod"}))
	w.state(id, "west", "applied")
	// helm-controller waits for what it installs.
	helm := w.deployed("db", "db:1", "prod", "1111111222222233333334444444555555566666")
	for i, x := range []struct {
		reason, severity string
		want             waybill.ClusterState
	}{
		{"Progressing", "info", "pending"}, {"InstallFailed", "error", "failed"}, {"UpgradeSucceeded", "info", "healthy"}, {"RollbackSucceeded", "info", "failed"},
	} {
		w.takes("flux", fluxEvent("HelmRelease/db", x.reason, x.severity, "release", fmt.Sprintf("2026-11-20T10:00:0%dZ", i),
			map[string]string{"revision": "main/1111111222222233333334444444555555566666", "cluster": "west"}))
		w.state(helm, "west", x.want)
	}
}

// A cluster that goes back to a revision it was at before is there again, although that
// revision was said to be healthy long ago.
func TestF73_Back(t *testing.T) {
	w := toolsWith(t, "")
	w.deployed("web", "web:1", "prod", manifest)
	const other = "1111111222222233333334444444555555566666"
	w.deployed("web", "web:2", "prod", other)
	for i, rev := range []string{manifest, other, manifest} {
		r := w.takes("flux", fluxEvent("Kustomization/apps", "ReconciliationSucceeded", "info", "Health check passed in 1s", fmt.Sprintf("2026-11-20T1%d:00:00Z", i),
			map[string]string{"revision": "main@sha1:" + rev, "cluster": "west"}))
		if len(r.Reports) != 1 {
			t.Errorf("event %d made %+v", i, r)
		}
	}
}

func TestF74_Connector(t *testing.T) {
	w := toolsWith(t, `deliveries: {ingest: {west: {format: connector, token: "west-token-1", cluster: west, ring: prod}}}`)
	id := w.deployed("web", "web:1", "prod", manifest)
	body := func(operator, genre, name, state, message string) string {
		return fmt.Sprintf(`{"commit_id":%q,"status_name":%q,"state":%q,"message":%q,"callback_url":"https://example.com/cb","gitops_operator":%q,"genre":%q}`,
			manifest, name, state, message, operator, genre)
	}
	token := "Authorization: Bearer west-token-1"
	for _, x := range []struct {
		operator, genre, state, message string
		want                            waybill.ClusterState
	}{
		{"Flux", "Kustomization", "Progressing", "applying", "pending"},
		{"Flux", "Kustomization", "ReconciliationSucceeded", "done", "applied"},
		{"Flux", "Kustomization", "Progressing", "Health check passed in 2s", "healthy"},
		{"Flux", "GitRepository", "ReconciliationFailed", "cannot clone", "healthy"},
		{"Flux", "Kustomization", "HealthCheckFailed", "timeout", "failed"},
		{"Flux", "Kustomization", "ReconciliationSucceeded", "done again", "applied"},
	} {
		w.takes("west", body(x.operator, x.genre, "kustomization/apps", x.state, x.message), token)
		w.state(id, "west", x.want)
	}
	const other = "1111111222222233333334444444555555566666"
	argo := w.deployed("db", "db:1", "prod", other)
	for _, x := range []struct {
		state string
		want  waybill.ClusterState
	}{
		{"Running", "pending"}, {"Succeeded", "applied"}, {"Succeeded, Healthy", "healthy"}, {"Inconclusive", "pending"}, {"Degraded", "failed"}, {"Succeeded+Healthy", "healthy"},
	} {
		w.takes("west", strings.ReplaceAll(body("ArgoCD", "Application", "apps", x.state, x.state), manifest, other), token)
		w.state(argo, "west", x.want)
	}
	w.refuses(422, "cluster", "connector", body("Flux", "Kustomization", "x", "Progressing", "m"))
	w.refuses(422, "gitops_operator", "west", body("Spinnaker", "x", "x", "Progressing", "m"), token)
	w.refuses(401, "token", "west", body("Flux", "Kustomization", "x", "Progressing", "m"), "Authorization: Bearer wrong")
}

// argoTemplate is the template that is shipped, as Argo CD renders it: text/template with
// toJson.
func argoTemplate(t *testing.T) func(app string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "deliveries", "argocd", "argocd-notifications.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var cm struct {
		Data map[string]string `yaml:"data"`
	}
	if err := yaml.Unmarshal(b, &cm); err != nil {
		t.Fatal(err)
	}
	var tpl struct {
		Webhook map[string]struct {
			Method, Body string
		} `yaml:"webhook"`
	}
	if err := yaml.Unmarshal([]byte(cm.Data["template.waybill"]), &tpl); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"service.webhook.waybill", "trigger.waybill", "subscriptions"} {
		var any any
		if err := yaml.Unmarshal([]byte(cm.Data[key]), &any); err != nil || any == nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	if tpl.Webhook["waybill"].Method != "POST" {
		t.Fatalf("the template is %+v", tpl)
	}
	parsed, err := template.New("body").Funcs(template.FuncMap{"toJson": func(v any) string {
		out, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(out)
	}}).Parse(tpl.Webhook["waybill"].Body)
	if err != nil {
		t.Fatal(err)
	}
	return func(app string) string {
		var v any
		if err := yaml.Unmarshal([]byte(app), &v); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := parsed.Execute(&out, map[string]any{"app": v, "context": map[string]any{"argocdUrl": "https://argo.example.com"}}); err != nil {
			t.Fatalf("%v of %s", err, app)
		}
		if !json.Valid(out.Bytes()) {
			t.Fatalf("the body is no JSON: %s", out.String())
		}
		return out.String()
	}
}

func TestF75_ArgoCD(t *testing.T) {
	w := toolsWith(t, "")
	render := argoTemplate(t)
	id := w.deployed("web", "web:1", "prod", manifest)
	app := func(status string) string {
		return `
metadata: {name: web, namespace: argocd, labels: {waybill.run/cluster: west, waybill.run/ring: prod}}
spec: {project: default, destination: {server: "https://kubernetes.default.svc", namespace: web}, source: {repoURL: "https://git.example.com/manifests", path: web}}
status:
  sync: {status: Synced, revision: ` + manifest + `}
` + status
	}
	running := app("  operationState: {phase: Running, startedAt: '2026-11-20T09:00:00Z', message: 'waiting for completion of hook', syncResult: {revision: " + manifest + "}}\n  health: {status: Progressing}\n")
	w.takes("argocd", render(running))
	w.state(id, "west", "pending")
	applied := app("  operationState: {phase: Succeeded, startedAt: '2026-11-20T09:00:00Z', finishedAt: '2026-11-20T09:00:10Z', syncResult: {revision: " + manifest + "}}\n  health: {status: Progressing}\n")
	w.takes("argocd", render(applied))
	w.state(id, "west", "applied")
	healthy := strings.Replace(applied, "status: Progressing", "status: Healthy", 1) + "  summary: {images: ['registry.example.com/team/web:1', 'busybox']}\n"
	first := w.takes("argocd", render(healthy))
	w.state(id, "west", "healthy")
	if len(first.Reports) == 0 {
		t.Fatalf("%+v", first)
	}
	// Duplicates collapse, whether word for word or with another message.
	if again := w.takes("argocd", render(healthy)); again.Fresh {
		t.Errorf("word for word: %+v", again)
	}
	dup := w.takes("argocd", render(strings.Replace(healthy, "status: Healthy", "status: Healthy, message: still", 1)))
	if len(dup.Reports) != 0 || dup.Reason == "" {
		t.Errorf("the same state again made %+v", dup)
	}
	degraded := strings.Replace(healthy, "status: Healthy", "status: Degraded, message: 'pods crash'", 1)
	w.takes("argocd", render(degraded))
	w.state(id, "west", "failed")
	if c := w.cluster(id, "west"); !strings.Contains(c.Message, "pods crash") {
		t.Errorf("the failure is told as %+v", c)
	}
	// A running notification that was tried again comes late.
	w.takes("argocd", render(strings.Replace(running, "waiting for", "late", 1)))
	w.state(id, "west", "failed")
	w.takes("argocd", render(strings.Replace(healthy, "status: Healthy", "status: Healthy, message: again", 1)))
	w.state(id, "west", "healthy")

	// Several sources have a revision each.
	const second = "1111111222222233333334444444555555566666"
	db := w.deployed("db", "db:1", "prod", second)
	multi := `
metadata: {name: all, namespace: argocd}
spec: {destination: {name: south}, sources: [{repoURL: "https://git.example.com/charts", chart: base}, {repoURL: "https://git.example.com/manifests", path: db}]}
status:
  sync: {status: Synced, revisions: [6.5.0, ` + second + `]}
  operationState: {phase: Succeeded, finishedAt: '2026-11-20T09:10:00Z', syncResult: {revisions: [6.5.0, ` + second + `]}}
  health: {status: Healthy}
`
	if r := w.takes("argocd", render(multi)); len(r.Reports) != 2 {
		t.Errorf("two sources made %+v", r)
	}
	w.state(db, "south", "healthy")
	// An application of which next to nothing is known renders, and tells of nothing.
	if r := w.takes("argocd", render("metadata: {name: new, namespace: argocd}\nspec: {destination: {}}\nstatus: {}\n")); r.Reason == "" {
		t.Errorf("nothing is told as %+v", r)
	}
	// The connector's body.
	w.refuses(422, "cluster", "argocd", `{"commitid":"`+manifest+`","phase":"Succeeded","sync_status":"Synced","health":"Healthy","message":"m","resources":[]}`)
}

// cdevent is one in the shape of the specification's examples.
func cdevent(kind, id, subject, content string) string {
	return fmt.Sprintf(`{"context":{"specversion":"0.5.1","id":%q,"source":"/event/source/123","type":"dev.cdevents.%s","timestamp":"2026-11-20T14:27:05.315384Z"},
"subject":{"id":%q,"source":"/event/source/123","content":%s},"customData":{"key":"value"},"customDataContentType":"application/json"}`, id, kind, subject, content)
}

func TestF76_CDEvents(t *testing.T) {
	w := toolsWith(t, "")
	const digest = "sha256:0b31b1c02ff458ad9b7b81cbdf8f028bd54699fa151f221d1e8de6817db93427"
	purl := "pkg:oci/myapp@" + strings.Replace(digest, ":", "%3A", 1) + "?repository_url=registry.example.com/team/myapp&tag=1.0"
	all := []string{
		cdevent("build.queued.0.3.0", "e1", "mySubject1", `{}`),
		cdevent("build.started.0.3.0", "e2", "mySubject1", `{}`),
		cdevent("build.finished.0.3.0", "e3", "mySubject1", `{"artifactId":"`+purl+`","outcome":"success"}`),
		cdevent("artifact.packaged.0.3.0", "e4", purl, `{"change":{"id":"c0ffee1234567890","source":"https://git.example.com/team/myapp"},"sbom":{"uri":"https://sbom.example.com/1"}}`),
		cdevent("artifact.signed.0.3.0", "e5", purl, `{"signature":"MEYCIQ"}`),
		cdevent("artifact.published.0.3.0", "e6", purl, `{"user":"mybot"}`),
		cdevent("pipelinerun.queued.0.3.0", "e7", "run1", `{"pipelineName":"myPipeline","uri":"https://ci.example.com/1"}`),
		cdevent("pipelinerun.started.0.3.0", "e8", "run1", `{"pipelineName":"myPipeline","uri":"https://ci.example.com/1"}`),
		cdevent("pipelinerun.finished.0.3.0", "e9", "run1", `{"pipelineName":"myPipeline","uri":"https://ci.example.com/1","outcome":"failure","errors":"Something went wrong"}`),
		cdevent("taskrun.started.0.3.0", "e10", "task1", `{"taskName":"myTask","uri":"https://ci.example.com/1/t","pipelineRun":{"id":"run1"}}`),
		cdevent("taskrun.finished.0.3.0", "e11", "task1", `{"taskName":"myTask","outcome":"cancel"}`),
		cdevent("change.created.0.3.0", "e12", "17", `{"repository":{"id":"TestRepo/TestOrg","source":"https://example.org"}}`),
		cdevent("change.merged.0.3.0", "e13", "17", `{"repository":{"id":"TestRepo/TestOrg","source":"https://example.org"}}`),
		cdevent("service.deployed.0.3.0", "e14", "service1", `{"environment":{"id":"prod","source":"https://clusters.example.com"},"artifactId":"`+purl+`"}`),
		cdevent("service.upgraded.0.3.0", "e15", "service1", `{"environment":{"id":"prod"},"artifactId":"`+purl+`"}`),
		cdevent("service.published.0.3.0", "e16", "service1", `{"environment":{"id":"prod"},"artifactId":"`+purl+`"}`),
		cdevent("service.removed.0.3.0", "e17", "service1", `{"environment":{"id":"test1"}}`),
		cdevent("incident.detected.0.3.0", "e18", "incident-1", `{"description":"latency","environment":{"id":"prod"},"service":{"id":"myapp"},"artifactId":"`+purl+`"}`),
		cdevent("incident.resolved.0.3.0", "e19", "incident-1", `{"environment":{"id":"prod"},"service":{"id":"myapp"},"artifactId":"`+purl+`"}`),
		cdevent("ticket.created.0.2.0", "e20", "ticket-1", `{"summary":"s"}`),
		cdevent("environment.created.0.3.0", "e21", "env1", `{"name":"n"}`),
	}
	kind := func(e string) (string, string) {
		var x struct{ Context struct{ ID, Type string } }
		if err := json.Unmarshal([]byte(e), &x); err != nil {
			t.Fatal(err)
		}
		return x.Context.ID, x.Context.Type
	}
	row := func() waybill.Deployment {
		page, err := w.api.Deployments(t.Context(), client.ListDeploymentsParams{Ring: "prod"})
		if err != nil || len(page.Items) != 1 {
			t.Fatalf("%v: %+v", err, page.Items)
		}
		return page.Items[0]
	}
	states := map[string]waybill.ClusterState{"e14": "applied", "e15": "applied", "e16": "healthy", "e18": "failed", "e19": "healthy"}
	for i, e := range all {
		id, typ := kind(e)
		var r waybill.Received
		if i%2 == 0 { // structured
			r = w.takes("cdevents", fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/event/source/123","type":%q,"datacontenttype":"application/json","data":%s}`, id, typ, e),
				"Content-Type: application/cloudevents+json; charset=utf-8")
		} else {
			r = w.takes("cdevents", e, "Ce-Specversion: 1.0", "Ce-Id: "+id, "Ce-Source: /event/source/123", "Ce-Type: "+typ)
		}
		if (r.Reason == "") != (len(r.Reports) > 0) || r.Type != typ {
			t.Errorf("%s is taken as %+v", typ, r)
		}
		if want := states[id]; want != "" {
			w.state(row().ID, "prod", want)
		}
		// The other mode is the same event.
		if again := w.takes("cdevents", e); again.Fresh {
			t.Errorf("%s counts twice", typ)
		}
	}
	d := row()
	if d.ImageDigest != digest || d.Commit != "c0ffee1234567890" || d.Service != "myapp" || d.ImageTag != "myapp:1.0" || d.Unlinked != "" {
		t.Errorf("packaged and deployed are %+v", d)
	}
	if r := w.takes("cdevents", cdevent("service.deployed.0.9.0-draft", "f1", "s", `{}`)); !strings.Contains(r.Reason, "newer") {
		t.Errorf("a newer version is %+v", r)
	}
	if r := w.takes("cdevents", cdevent("toaster.burnt.0.1.0", "f2", "s", `{}`)); r.Reason == "" {
		t.Errorf("an unknown type is %+v", r)
	}
	w.takes("cdevents", `[{"specversion":"1.0","id":"b1","source":"/s","type":"dev.cdevents.artifact.published.0.3.0","data":`+cdevent("artifact.published.0.3.0", "b1", "pkg:oci/two@sha256%3A12", `{}`)+`}]`,
		"Content-Type: application/cloudevents-batch+json")
	w.refuses(400, "JSON", "cdevents", `{"context":`)
	w.refuses(400, "CDEvent", "cdevents", `{"context":{"id":"1"}}`)
	w.refuses(400, "type", "cdevents", cdevent("build.started.0.3.0", "g1", "s", `{}`), "Ce-Specversion: 1.0", "Ce-Id: g1", "Ce-Source: /s", "Ce-Type: dev.cdevents.build.queued.0.3.0")
	w.refuses(422, "pkg:", "cdevents", cdevent("artifact.packaged.0.3.0", "g2", "thing", `{}`))
}

func TestF77_Deployments(t *testing.T) {
	w := toolsWith(t, `deliveries: {ingest: {github: {secret: "github-key-1"}, gitlab: {secret: "gitlab-key-1"}}}`)
	const sha = "c0ffee1234567890c0ffee1234567890c0ffee12"
	w.report(client.DeliveryReport{Kind: "build", Service: "team/shop", ImageTag: "shop:main-7", Commit: sha[:7], Run: "7", Status: "succeeded"})
	n := 0
	status := func(deployment int, commit, env, state string) (string, []string) {
		n++
		body := fmt.Sprintf(`{"action":"created","deployment":{"id":%d,"sha":%q,"ref":"main","environment":%q,"payload":{}},"deployment_status":{"state":%q,"description":"d","environment":%q,
"log_url":"https://github.com/team/shop/actions/runs/9","updated_at":"2026-11-20T09:00:%02dZ"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`,
			deployment, commit, env, state, env, n)
		return body, []string{"X-GitHub-Event: deployment_status", fmt.Sprint("X-GitHub-Delivery: ", n), "X-Hub-Signature-256: " + sign("github-key-1", body)}
	}
	find := func(ring string) waybill.Deployment {
		t.Helper()
		page, err := w.api.Deployments(t.Context(), client.ListDeploymentsParams{Ring: ring})
		if err != nil || len(page.Items) != 1 {
			t.Fatalf("%s: %v: %+v", ring, err, page.Items)
		}
		return page.Items[0]
	}
	for _, x := range []struct {
		state string
		want  waybill.ClusterState
	}{{"in_progress", "pending"}, {"failure", "failed"}, {"success", "healthy"}, {"inactive", "healthy"}} {
		body, head := status(1, sha, "production", x.state)
		w.takes("github", body, head...)
		d := find("production")
		if d.ImageTag != "shop:main-7" || d.Service != "team/shop" || d.Unlinked != "" {
			t.Errorf("the commit's image is not found: %+v", d)
		}
		w.state(d.ID, "production", x.want)
	}
	body, head := status(2, sha, "production", "success")
	w.refuses(401, "not signed", "github", body, head[:2]...)
	w.refuses(401, "wrong", "github", body, head[0], head[1], "X-Hub-Signature-256: "+sign("wrong", body))
	// A commit of which no image is known stands for itself.
	body, head = status(3, "1111111222222233333334444444555555566666", "staging", "success")
	w.takes("github", body, head...)
	if d := find("staging"); d.Commit != "1111111222222233333334444444555555566666" || d.ImageTag != "shop@1111111" || d.Service != "shop" {
		t.Errorf("%+v", d)
	}
	// A form, runs and pull requests.
	run := `{"action":"completed","workflow_run":{"id":77,"run_attempt":1,"name":"ci","status":"completed","conclusion":"failure","html_url":"https://github.com/x","updated_at":"2026-11-20T09:00:00Z"},"repository":{"full_name":"team/shop"}}`
	form := "payload=" + strings.NewReplacer("%", "%25", "+", "%2B", "&", "%26").Replace(run)
	if r := w.takes("github", form, "Content-Type: application/x-www-form-urlencoded", "X-GitHub-Event: workflow_run", "X-Hub-Signature-256: "+sign("github-key-1", form)); len(r.Reports) != 1 || r.Reports[0].Kind != "run" {
		t.Errorf("%+v", r)
	}
	ping := `{"zen":"Design for failure."}`
	if r := w.takes("github", ping, "X-GitHub-Event: ping", "X-Hub-Signature-256: "+sign("github-key-1", ping)); r.Reason == "" {
		t.Errorf("%+v", r)
	}
	// Sync tags of Flux v1.
	tag := `{"ref":"refs/tags/flux-west","after":"9999999999999999999999999999999999999999","deleted":false,"head_commit":{"id":"` + manifest + `"},"repository":{"full_name":"team/manifests","html_url":"https://github.com/team/manifests"}}`
	id := w.deployed("web", "web:1", "prod", manifest)
	w.takes("github", tag, "X-GitHub-Event: push", "X-Hub-Signature-256: "+sign("github-key-1", tag))
	w.state(id, "WEST", "applied")

	lab := func(deployment int, commit, env, state, at string) string {
		return fmt.Sprintf(`{"object_kind":"deployment","status":%q,"status_changed_at":%q,"deployment_id":%d,"deployable_id":796,"deployable_url":"https://gitlab.com/team/shop/-/jobs/796","environment":%q,
"project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"},"short_sha":%q,"commit_url":"https://gitlab.com/team/shop/-/commit/%s","commit_title":"Add cart"}`,
			state, at, deployment, env, commit[:8], commit)
	}
	for i, x := range []struct {
		state string
		want  waybill.ClusterState
	}{{"running", "pending"}, {"success", "healthy"}, {"failed", "failed"}} {
		w.takes("gitlab", lab(5, sha, "review", x.state, fmt.Sprintf("2026-11-20 09:00:0%d +0000", i)), "X-Gitlab-Token: gitlab-key-1", "X-Gitlab-Event: Deployment Hook")
		w.state(find("review").ID, "review", x.want)
	}
	w.refuses(401, "X-Gitlab-Token", "gitlab", lab(6, sha, "review", "success", ""), "X-Gitlab-Token: wrong")
	pipeline := `{"object_kind":"pipeline","object_attributes":{"id":31,"sha":"` + sha + `","status":"success","created_at":"2026-11-20 09:00:00 UTC","finished_at":"2026-11-20 09:03:00 UTC"},"project":{"web_url":"https://gitlab.com/team/shop"}}`
	if r := w.takes("gitlab", pipeline, "X-Gitlab-Token: gitlab-key-1"); len(r.Reports) != 1 {
		t.Errorf("%+v", r)
	}
	w.refuses(400, "object_kind", "gitlab", `{}`, "X-Gitlab-Token: gitlab-key-1")
}

// Reports of our own form, one or several, and what a token of the server opens.
func TestF23_NativeIngest(t *testing.T) {
	w := toolsWith(t, "")
	one := `{"kind":"build","service":"web","image_tag":"web:1","run":"1","time":"2026-11-20T09:00:00Z"}`
	if r := w.takes("native", one); len(r.Reports) != 1 || r.Reports[0].Action != "inserted" {
		t.Fatalf("%+v", r)
	}
	if r := w.takes("native", one); r.Fresh || len(r.Reports) != 1 {
		t.Fatalf("a replay is %+v", r)
	}
	if r := w.takes("native", "["+one+`,{"kind":"config","image_tag":"web:1","ring":"dev","config_commit":"abcdef1"}]`); len(r.Reports) != 2 || r.Reports[0].Action != "repeated" {
		t.Fatalf("%+v", r)
	}
	page, err := w.api.Deployments(t.Context(), client.ListDeploymentsParams{})
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("%v: %+v", err, page.Items)
	}
	// A forwarded request is not one of this machine.
	w.refuses(401, "token", "native", one, "X-Forwarded-For: 10.0.0.1")
	secret := func(role waybill.Role) string {
		tok, err := w.api.CreateToken(t.Context(), client.CreateToken{Name: string(role), Role: role}, "")
		if err != nil {
			t.Fatal(err)
		}
		return "Authorization: Bearer " + tok.Secret
	}
	w.refuses(403, "role", "native", one, "X-Forwarded-For: 10.0.0.1", secret(waybill.RoleViewer))
	w.takes("native", one, "X-Forwarded-For: 10.0.0.1", secret(waybill.RoleReporter))
	w.refuses(422, "unknown field", "native", `{"kind":"build","image":"web:1"}`)
	w.refuses(403, "attach", "native", `{"kind":"attach","deployment":"a","target":"b"}`)
	w.refuses(404, "nothing", "nothing", one)
	sources, err := w.api.IngestSources(t.Context())
	if err != nil || !slices.ContainsFunc(sources.Items, func(s waybill.IngestSource) bool { return s.Name == "flux" && s.Auth == "server" }) {
		t.Errorf("%v: %+v", err, sources.Items)
	}
}
