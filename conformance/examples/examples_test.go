//go:build linux

// Package examples runs every example as its README tells a reader to.
package examples

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
)

func TestMain(m *testing.M) { harness.Main(m, engine) }

const soon = 60 * time.Second

// example is a server of one example's folder.
type example struct {
	*harness.Server
	t *testing.T
}

func serve(t *testing.T, name string) *example {
	t.Helper()
	t.Parallel()
	return serveWith(t, name, harness.Options{})
}

func serveWith(t *testing.T, name string, o harness.Options) *example {
	t.Helper()
	root := filepath.Join("..", "..", "examples", name)
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, rerr := filepath.Rel(root, path)
		if err == nil {
			files[rel], err = string(b), rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Project = files
	return &example{harness.New(t, o), t}
}

// run runs a command of the program and returns what it printed; in stands on its
// standard input.
func (e *example) run(in string, args ...string) (out string, code int) {
	e.t.Helper()
	cmd := e.Command(args...)
	cmd.Stdin = strings.NewReader(in)
	var b, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		e.t.Fatal(err)
	}
	if errs.Len() > 0 {
		e.t.Logf("waybill %s: %s", strings.Join(args, " "), errs.String())
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// must is run for a command that has to succeed.
func (e *example) must(args ...string) string {
	e.t.Helper()
	out, code := e.run("", args...)
	if code != 0 {
		e.t.Fatalf("waybill %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return strings.TrimSpace(out)
}

// newest waits until the newest run of a pipeline has ended.
func (e *example) newest(pipeline string, want client.Status) client.RunDetail {
	e.t.Helper()
	var r client.RunDetail
	harness.Until(e.t, soon, "a run of "+pipeline+" ends as "+string(want), func() error {
		l, err := e.Client().Runs(e.t.Context(), client.ListRunsParams{Pipeline: pipeline, Limit: 1})
		if err != nil || len(l.Items) == 0 {
			return fmt.Errorf("there is none: %v", err)
		}
		if r, err = e.Client().Run(e.t.Context(), l.Items[0].ID); err != nil || r.Status != want {
			return fmt.Errorf("it is %s (%s), %v", r.Status, r.Error, err)
		}
		return nil
	})
	return r
}

func (e *example) holds(what, text string, words ...string) {
	e.t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			e.t.Errorf("%s does not hold %q:\n%s", what, w, text)
		}
	}
}

func TestNightlyReport(t *testing.T) {
	e := serve(t, "nightly-report")
	e.holds("schedule list", e.must("schedule", "list"), "nightly-report", "0 2 * * *", "Europe/Paris")
	e.must("start", "nightly-report", "--wait")
	day := time.Now().UTC().Format("2006-01-02")
	r := e.newest("nightly-report", waybill.StatusSucceeded)
	day = r.CreatedAt.Format("2006-01-02")
	e.holds("object list", e.must("object", "list", "reports"), day+".txt")
	report := e.must("object", "get", "reports", day+".txt")
	total, _ := r.Outputs.Get("total")
	e.holds("the report", report, "Revenue of "+day, "north", "west", "total", total.Text())

	if _, code := e.run("", "start", "nightly-report", "--param", "broken=south", "--wait"); code != 1 {
		t.Errorf("a night with a broken source: exit code %d, want 1", code)
	}
	e.holds("the note", e.must("object", "get", "reports", day+"-missing.txt"), "step collect failed", "1 of 4 cells failed")
	for _, s := range e.newest("nightly-report", waybill.StatusFailed).Steps {
		if s.Name == "collect" && (s.Cells.Succeeded != 3 || s.Cells.Failed != 1) {
			t.Errorf("cells: %+v", s.Cells)
		}
		if s.Name == "collect.1" && s.Attempts != 2 {
			t.Errorf("the broken source was asked %d times, want 2", s.Attempts)
		}
	}
}

func TestFileIngest(t *testing.T) {
	e := serve(t, "file-ingest")
	var text strings.Builder
	for i := range 1050 {
		fmt.Fprintf(&text, "line %d of a text\n", i)
	}
	if _, code := e.run(text.String(), "object", "put", "inbox", "notes/one.txt", "-"); code != 0 {
		t.Fatal("the file cannot be put")
	}
	r := e.newest("ingest", waybill.StatusSucceeded)
	if v, _ := r.Outputs.Get("words"); v.Text() != "5250" {
		t.Errorf("the file has %s words, want 5250", v.Text())
	}
	cells := 0
	for _, s := range r.Steps {
		if s.Cell != nil {
			cells++
		}
	}
	if cells != 6 {
		t.Errorf("the file was cut into %d parts, want 6", cells)
	}
	e.holds("the result", e.must("object", "get", "results", "notes/one.txt"), "notes/one.txt has 5250 words")
	if l, err := e.Client().Runs(t.Context(), client.ListRunsParams{Limit: 10}); err != nil || len(l.Items) != 1 {
		t.Errorf("one file made %d runs, %v", len(l.Items), err)
	}
}

func TestApprovalGate(t *testing.T) {
	e := serve(t, "approval-gate")
	asked := func(id string) {
		t.Helper()
		harness.Until(t, soon, "the run asks", func() error {
			if out := e.must("run", "show", id); !strings.Contains(out, "gate asks: Release") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	id := e.must("start", "release", "--param", "version=1.4.0")
	asked(id)
	e.holds("run slots", e.must("run", "slots"), "release/release", id)
	e.must("run", "approve", id, "--value", "ticket=C-17", "--value", "clusters=all", "--comment", "looks good")
	r := e.newest("release", waybill.StatusSucceeded)
	log := e.must("run", "logs", id)
	e.holds("the log", log, "is in edge for change C-17", "is in core", "is in lab")
	if at := [3]int{strings.Index(log, "in edge"), strings.Index(log, "in core"), strings.Index(log, "in lab")}; at[0] > at[1] || at[1] > at[2] {
		t.Errorf("the clusters came at %v of\n%s", at, log)
	}
	if v, _ := r.Outputs.Get("decision"); v.Text() != "approved" {
		t.Errorf("the run returns %s", v)
	}

	id = e.must("start", "release", "--param", "version=1.4.1")
	asked(id)
	e.must("run", "reject", id, "--comment", "not on a Friday")
	e.newest("release", waybill.StatusSucceeded)
	e.holds("the log", e.must("run", "logs", id), "not released: rejected by local not on a Friday")

	e.must("start", "release", "--param", "version=1.4.2", "--param", "patience=300ms", "--wait")
	r = e.newest("release", waybill.StatusSucceeded)
	if v, _ := r.Outputs.Get("decision"); v.Text() != "expired" {
		t.Errorf("the run returns %s", v)
	}
}

func TestWebhookDeploy(t *testing.T) {
	e := serve(t, "webhook-deploy")
	for name, value := range map[string]string{"WEBHOOK_KEY": "swordfish", "CLUSTER_KEY": "cluster-password"} {
		if out, code := e.run(value, "secret", "set", name); code != 0 {
			t.Fatalf("secret set %s: %s", name, out)
		}
	}
	hook := func(branch, delivery, key string) int {
		t.Helper()
		body := `{"ref":"refs/heads/` + branch + `","after":"8d6f0c2e9b71","deleted":false,"repository":{"name":"shop"}}`
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(body))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL()+"/api/v1/hooks/deploy", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{
			"Content-Type": "application/json", "X-Hub-Signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil)),
			"X-GitHub-Event": "push", "X-GitHub-Delivery": delivery,
		} {
			req.Header.Set(k, v)
		}
		res, err := (&http.Client{Transport: e.Transport()}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := hook("main", "d0", "a wrong key"); got != http.StatusUnauthorized {
		t.Errorf("a wrong signature: %d, want 401", got)
	}
	if got := hook("a-branch", "d1", "swordfish"); got/100 != 2 {
		t.Errorf("another branch: %d", got)
	}
	for range 2 {
		if got := hook("main", "d2", "swordfish"); got/100 != 2 {
			t.Errorf("a push to main: %d", got)
		}
	}
	r := e.newest("deploy", waybill.StatusSucceeded)
	if l, err := e.Client().Runs(t.Context(), client.ListRunsParams{Limit: 10}); err != nil || len(l.Items) != 1 {
		t.Errorf("there are %d runs, want the one of main, once; %v", len(l.Items), err)
	}
	log := e.must("run", "logs", r.ID)
	e.holds("the log", log, "signing in with ***", "applied: service: shop")
	if strings.Contains(log, "cluster-password") {
		t.Errorf("the log holds the secret:\n%s", log)
	}
	if v, _ := r.Outputs.Get("release"); v.Text() != "shop-8d6f0c2e" {
		t.Errorf("the release is %s", v)
	}
	e.holds("the manifest", e.must("object", "get", "manifests", "shop.yaml"), "image: registry.example/shop:8d6f0c2e9b71")
}

func TestClassicChain(t *testing.T) {
	e := serve(t, "classic-chain")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.URL()+"/api/v1/pipelines/classic-chain/runs", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: e.Transport()}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusAccepted {
		t.Fatalf("a start without a body: %d, want 202", res.StatusCode)
	}
	r := e.newest("classic-chain", waybill.StatusSucceeded)
	name, _ := r.Vars.Get("___ContainerName")
	made, _ := r.Vars.Get("___NewVarFromContainer")
	if want := "demo-" + r.CreatedAt.Format("20060102150405"); name.Text() != want || made.Text() != "made in "+want {
		t.Errorf("the variables are %s and %s, want %s in both", name, made, want)
	}
	e.holds("the log", e.must("run", "logs", r.ID), "I am demo-", "called the next stage", "it made:    made in demo-", "lines:      3", "the run succeeded")
	for _, a := range r.Attempts {
		if a.Step == "container" && a.Callback.Status != waybill.StatusSucceeded {
			t.Errorf("the callback says %q", a.Callback.Status)
		}
	}
	harness.Until(t, soon, "the unit is removed", func() error {
		if left := e.Units(); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
}
