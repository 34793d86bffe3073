package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
	"github.com/waybill-run/waybill/internal/runner/kubernetes"
	"github.com/waybill-run/waybill/internal/runner/kubernetes/kubetest"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// spec is a unit with a home as the engine lays it out.
func spec(t *testing.T, unit, script string, more ...string) runner.Spec {
	t.Helper()
	dir := filepath.Join(t.TempDir(), unit)
	for _, d := range []string{container.Work, container.Out, container.In} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{container.Event: `{"id":"e-1"}`, "in/object": "an object\n", "work/input": "an input\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	with := map[string]any{"image": image}
	if len(more) > 0 {
		if err := json.Unmarshal([]byte(more[0]), &with); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(with)
	if err != nil {
		t.Fatal(err)
	}
	return runner.Spec{
		Unit: unit, Args: []string{"/bin/sh", "-c", script}, Dir: dir, Log: filepath.Join(t.TempDir(), "log"), With: b,
		Env:  []string{"PATH=/usr/bin:/bin", "WAYBILL_EVENT=/waybill/event.json", "WAYBILL_OUTPUT=/waybill/out/variables", "WAYBILL_TOKEN=wba_token-of-the-attempt"},
		Meta: map[string]string{"run": "0190-run", "step": "crunch", "attempt": "2", "pipeline": "Nightly Report!"},
	}
}

func start(t *testing.T, r *kubernetes.Runner, s runner.Spec) runner.Handle {
	t.Helper()
	h, err := r.Start(within(t), s)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return h
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestFilesAndVariables(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	s := spec(t, "files", `cat "$WAYBILL_EVENT" ; echo; cat input ../in/object; echo '$(WAYBILL_TOKEN) $$' ; echo rows=7 > "$WAYBILL_OUTPUT"`)
	h := start(t, r, s)
	if e, err := r.Wait(within(t), h); err != nil || !e.OK() {
		t.Errorf("exit = %+v, %v", e, err)
	}
	if got, want := text(t, s.Log), "{\"id\":\"e-1\"}\nan input\nan object\n$(WAYBILL_TOKEN) $$\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	if got := text(t, filepath.Join(s.Dir, "out", "variables")); got != "rows=7\n" {
		t.Errorf("variables = %q", got)
	}
	if want := image[:strings.LastIndex(image, ":")] + ":1@sha256:"; !strings.HasPrefix(h.Image, want) {
		t.Errorf("image = %q, want it to begin with %q", h.Image, want)
	}
	if shown := c.Show(); strings.Contains(shown, "wba_token") || !strings.Contains(shown, `"waybill.pipeline": "Nightly-Report"`) {
		t.Errorf("the cluster shows a token, or not the label of the pipeline:\n%s", shown)
	}
	if left := c.Names("secrets"); len(left) != 2 {
		t.Errorf("secrets = %v", left)
	}
	if err := r.Remove(within(t), h); err != nil {
		t.Fatal(err)
	}
	if left := append(c.Names("secrets"), c.Names("jobs")...); len(left) != 0 {
		t.Errorf("after remove there is %v", left)
	}
}

func TestVariablesTooLarge(t *testing.T) {
	r := open(t, kubetest.New(t))
	s := spec(t, "large", `head -c 5000 /dev/zero | tr '\0' x > "$WAYBILL_OUTPUT"`)
	e, err := r.Wait(within(t), start(t, r, s))
	if err != nil || e.Reason != kubernetes.ReasonOutputs || !strings.Contains(e.Message, "4096") {
		t.Errorf("exit = %+v, %v; want variables that may have been cut to be a failure that names the limit", e, err)
	}
}

func TestInputsTooLarge(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	s := spec(t, "inputs", "true")
	if err := os.WriteFile(filepath.Join(s.Dir, "in", "big"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(within(t), s); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("start = %v, want an error that names the limit", err)
	}
	if left := c.Names("secrets"); len(left) != 0 {
		t.Errorf("secrets = %v, want nothing made", left)
	}
}

func TestPodIsConfined(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c, func(o *kubernetes.Options) {
		o.Config.NodeSelector = map[string]string{"pool": "batch"}
		o.Config.Tolerations = []kubernetes.Toleration{{Key: "batch", Operator: "Exists"}}
		o.Config.ImagePullSecrets, o.Config.ServiceAccount = []string{"regcred"}, "units"
	})
	s := spec(t, "confined", "true", `{"user":"1000:2000","cpu":"500m","memory":"64MiB","platform":"linux/arm64","pull_secret":"bob:registry-password","cap_add":["NET_BIND_SERVICE"]}`)
	s.HardStop = time.Now().Add(90 * time.Second)
	h := start(t, r, s)
	p := c.Job(h.Unit).Spec.Template.Spec
	k := p.Containers[0]
	for what, ok := range map[string]bool{
		"token is not mounted": !*p.AutomountServiceAccountToken, "account": p.ServiceAccountName == "units", "never again": p.RestartPolicy == corev1.RestartPolicyNever && *c.Job(h.Unit).Spec.BackoffLimit == 0,
		"user": *p.SecurityContext.RunAsUser == 1000 && *p.SecurityContext.RunAsGroup == 2000 && *p.SecurityContext.RunAsNonRoot, "seccomp": p.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"read-only root": *k.SecurityContext.ReadOnlyRootFilesystem, "capabilities": fmt.Sprint(k.SecurityContext.Capabilities.Drop, k.SecurityContext.Capabilities.Add) == "[ALL] [NET_BIND_SERVICE]",
		"no escalation": !*k.SecurityContext.AllowPrivilegeEscalation, "limits": k.Resources.Limits.Cpu().String() == "500m" && k.Resources.Limits.Memory().String() == "64Mi",
		"nodes": p.NodeSelector["pool"] == "batch" && p.NodeSelector["kubernetes.io/arch"] == "arm64", "taints": len(p.Tolerations) == 1, "pull secrets": len(p.ImagePullSecrets) == 2,
		"deadline": *p.ActiveDeadlineSeconds <= 91 && *p.ActiveDeadlineSeconds > 80, "second net": *c.Job(h.Unit).Spec.ActiveDeadlineSeconds > *p.ActiveDeadlineSeconds, "kept": *c.Job(h.Unit).Spec.TTLSecondsAfterFinished == 86400,
	} {
		if !ok {
			t.Errorf("%s: %+v", what, p)
		}
	}
	if _, err := r.Wait(within(t), h); err != nil {
		t.Error(err)
	}
}

func TestPullFaults(t *testing.T) {
	for name, x := range map[string]struct{ fault, reason string }{
		"auth":      {`failed to pull image: unexpected status from HEAD request: 401 Unauthorized`, runner.ReasonPullAuth},
		"not found": {`rpc error: code = NotFound desc = failed to pull and unpack image: docker.io/library/none:1: not found`, runner.ReasonPullNotFound},
		"limit":     {`toomanyrequests: You have reached your pull rate limit`, runner.ReasonPullQuota},
		"network":   {`dial tcp 10.0.0.9:443: connect: connection refused`, runner.ReasonPullNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kubetest.New(t)
			r := open(t, c, func(o *kubernetes.Options) { o.Config.PullPatience = runner.Duration(time.Second) })
			c.SetImage(image, kubetest.Image{Fault: x.fault})
			s := spec(t, "pull", "echo mended")
			_, err := r.Start(within(t), s)
			p, ok := runner.AsPullError(err)
			if !ok || p.Reason != x.reason || p.Again() != waybill.IsKind(err, waybill.KindUnavailable) {
				t.Fatalf("start = %v, want a PullError for %s", err, x.reason)
			}
			await(t, "nothing is left", func() bool { return len(append(c.Names("jobs"), c.Names("secrets")...)) == 0 })
			c.SetImage(image, kubetest.Image{})
			if e, err := r.Wait(within(t), start(t, r, s)); err != nil || !e.OK() || text(t, s.Log) != "mended\n" {
				t.Errorf("the same unit later: %+v, %v, log %q", e, err, text(t, s.Log))
			}
		})
	}
}

func TestTakenAway(t *testing.T) {
	for name, do := range map[string]func(*kubetest.Cluster, string){
		"evicted":     func(c *kubetest.Cluster, u string) { c.Evict(u) },
		"node lost":   func(c *kubetest.Cluster, u string) { c.LoseNode(u) },
		"pod deleted": func(c *kubetest.Cluster, u string) { c.Delete("pods", c.Pod(u).Name) },
		"job deleted": func(c *kubetest.Cluster, u string) { c.Delete("jobs", u) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kubetest.New(t)
			r := open(t, c)
			s := spec(t, "taken", "echo ready; while :; do sleep 1; done")
			h := start(t, r, s)
			await(t, "it runs", func() bool { return text(t, s.Log) == "ready\n" })
			do(c, h.Unit)
			if e, err := r.Wait(within(t), h); !waybill.IsKind(err, waybill.KindLost) {
				t.Errorf("wait = %+v, %v; want kind lost", e, err)
			}
			if err := r.Remove(within(t), h); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
}

func TestOOM(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	c.SetImage(image, kubetest.Image{OOM: true})
	e, err := r.Wait(within(t), start(t, r, spec(t, "oom", "echo much; sleep 100")))
	if err != nil || e.Reason != runner.ReasonOOM || e.Signal != "SIGKILL" {
		t.Errorf("exit = %+v, %v", e, err)
	}
}

func TestUnschedulable(t *testing.T) {
	c := kubetest.New(t)
	c.Room(false)
	r := open(t, c, func(o *kubernetes.Options) { o.Config.SchedulePatience = runner.Duration(2 * time.Second) })
	e, err := r.Wait(within(t), start(t, r, spec(t, "big", "true")))
	if err != nil || e.Reason != kubernetes.ReasonUnschedulable || !strings.Contains(e.Message, "Insufficient memory") {
		t.Errorf("exit = %+v, %v; want the scheduler's reason", e, err)
	}
}

func TestNoPodIsMade(t *testing.T) {
	c := kubetest.New(t)
	c.Deny("create", "pods", `pods "x" is forbidden: exceeded quota: compute, requested: pods=1, used: pods=10, limited: pods=10`)
	r := open(t, c, func(o *kubernetes.Options) { o.Config.SchedulePatience = runner.Duration(7 * time.Second) })
	e, err := r.Wait(within(t), start(t, r, spec(t, "quota", "true")))
	if err != nil || e.Reason != kubernetes.ReasonNotCreated || !strings.Contains(e.Message, "exceeded quota: compute") {
		t.Errorf("exit = %+v, %v; want the quota named", e, err)
	}
}

// A server that is started while a unit is being stopped knows why its pod is gone.
func TestStopAcrossRestart(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	s := spec(t, "stopped", "echo ready; while :; do sleep 0.1; done")
	h := start(t, r, s)
	await(t, "it runs", func() bool { return text(t, s.Log) == "ready\n" })
	if err := r.Stop(within(t), h, time.Second); err != nil {
		t.Fatal(err)
	}
	r.Close()
	await(t, "the pod is gone", func() bool { return len(c.Names("pods")) == 0 })
	r = open(t, c)
	if err := r.Recover(within(t), h, s); err != nil {
		t.Fatal(err)
	}
	e, err := r.Wait(within(t), h)
	if err != nil || e.OK() || e.Signal == "" {
		t.Errorf("exit = %+v, %v; want an end by the stop", e, err)
	}
}

// What was once known of an end stays known when the pod is gone, to every server.
func TestEndIsKept(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	s := spec(t, "kept", `echo out; echo rows=1 > "$WAYBILL_OUTPUT"; exit 5`)
	h := start(t, r, s)
	want, err := r.Wait(within(t), h)
	if err != nil || want.Code != 5 {
		t.Fatalf("exit = %+v, %v", want, err)
	}
	c.Delete("pods", c.Pod(h.Unit).Name)
	other := open(t, c)
	s.Dir = t.TempDir() // of another server
	if err := other.Recover(within(t), h, s); err != nil {
		t.Fatal(err)
	}
	if got, err := other.Wait(within(t), h); err != nil || got != want {
		t.Errorf("exit = %+v, %v; want %+v", got, err, want)
	}
	if got := text(t, filepath.Join(s.Dir, "out", "variables")); got != "rows=1\n" {
		t.Errorf("variables = %q", got)
	}
	if err := other.Archive(within(t), h, s); err != nil || text(t, s.Log) != "out\n" {
		t.Errorf("archive: %v, log %q", err, text(t, s.Log))
	}
}

// A server that never waited for a unit brings its log home.
func TestArchive(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	s := spec(t, "archive", "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done")
	quiet := s
	quiet.Log = ""
	h := start(t, r, quiet)
	if _, err := r.Wait(within(t), h); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Archive(within(t), h, s); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(text(t, s.Log), "\n"); n != 200 {
			t.Errorf("the log has %d lines, want 200", n)
		}
	}
	if err := r.Archive(within(t), runner.Handle{Runner: "kubernetes", Unit: "unknown"}, s); err != nil {
		t.Errorf("archive of an unknown unit: %v", err)
	}
}

// Connections are cut, watches expire, the API server errs: every line once, one Job.
func TestBadWeather(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	c.Break(kubetest.Fault{Verb: "create", Resource: "jobs", Lost: true, Times: 1})
	c.Break(kubetest.Fault{Verb: "create", Resource: "secrets", Status: 429, RetryAfter: 1, Times: 2})
	const n = 300
	s := spec(t, "weather", fmt.Sprintf("i=1; while [ $i -le %d ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 4", n))
	var h runner.Handle
	await(t, "it is started", func() bool {
		var err error
		h, err = r.Start(within(t), s)
		if err != nil && !waybill.IsKind(err, waybill.KindUnavailable) {
			t.Fatalf("start: %v", err)
		}
		return err == nil
	})
	for i := 1; i < n; i += n / 6 {
		await(t, "the log goes on", func() bool { return strings.Contains(text(t, s.Log), fmt.Sprintf("line %d\n", i)) })
		c.Break(kubetest.Fault{Verb: "get", Resource: "pods/log", Status: 500, Times: 2})
		c.Expire()
		c.Cut()
	}
	c.Break(kubetest.Fault{Verb: "patch", Status: 503, Times: 1})
	e, err := r.Wait(within(t), h)
	if err != nil || e.Code != 4 {
		t.Errorf("exit = %+v, %v", e, err)
	}
	want := ""
	for i := 1; i <= n; i++ {
		want += fmt.Sprintf("line %d\n", i)
	}
	if got := text(t, s.Log); got != want {
		t.Errorf("log of %d bytes, want %d: every line once\n%s", len(got), len(want), got)
	}
	if jobs := c.Names("jobs"); len(jobs) != 1 {
		t.Errorf("jobs = %v", jobs)
	}
}

func TestErrorsOfTheCluster(t *testing.T) {
	for name, x := range map[string]struct {
		spoil func(*kubetest.Cluster)
		kind  waybill.Kind
		text  string
	}{
		"no right": {func(c *kubetest.Cluster) { c.Deny("create", "jobs", "") }, waybill.KindInvalid, "does not allow"},
		"quota": {func(c *kubetest.Cluster) {
			c.Deny("create", "secrets", `secrets "x" is forbidden: exceeded quota: objects`)
		}, waybill.KindUnavailable, "exceeded quota: objects"},
		"who are you":    {func(c *kubetest.Cluster) { c.Break(kubetest.Fault{Status: 401}) }, waybill.KindUnavailable, "does not know us"},
		"internal error": {func(c *kubetest.Cluster) { c.Break(kubetest.Fault{Verb: "create", Status: 500}) }, waybill.KindUnavailable, ""},
		"may not watch":  {func(c *kubetest.Cluster) { c.Room(false); c.Deny("watch", "pods", "") }, waybill.KindInvalid, "does not allow"},
		"name is taken": {func(c *kubetest.Cluster) {
			c.Put(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "unit", Labels: map[string]string{container.LabelInstance: "another", container.LabelUnit: "unit"}}})
		}, waybill.KindInvalid, "not of this server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kubetest.New(t)
			r := open(t, c)
			x.spoil(c)
			_, err := r.Start(within(t), spec(t, "unit", "true"))
			if !waybill.IsKind(err, x.kind) || !strings.Contains(err.Error(), x.text) {
				t.Errorf("start = %v, want kind %s and %q", err, x.kind, x.text)
			}
			if w := (*waybill.Error)(nil); strings.HasPrefix(name, "no right") && (!errors.As(err, &w) || !strings.Contains(w.Hint, `resources ["jobs"], verbs ["create"]`)) {
				t.Errorf("the hint of %v does not name the rule", err)
			}
		})
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	c.Put(&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Labels: map[string]string{container.LabelInstance: "another", container.LabelUnit: "theirs"}}})
	c.Put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs-env"}})
	h := runner.Handle{Runner: "kubernetes", Unit: "theirs"}
	if units, err := r.List(within(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v", units, err)
	}
	if err := r.Stop(within(t), h, time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := r.Remove(within(t), h); err != nil {
		t.Errorf("remove: %v", err)
	}
	if got := fmt.Sprint(c.Names("jobs"), c.Names("secrets")); got != "[theirs] [theirs-env]" {
		t.Errorf("left: %s", got)
	}
	if notes := c.Job("theirs").Annotations; len(notes) != 0 {
		t.Errorf("the Job of another server was written to: %v", notes)
	}
}

func TestCheck(t *testing.T) {
	r := &kubernetes.Runner{}
	for with, want := range map[string]string{
		`{}`: "needs an image", `{"image":"x","network":"none"}`: "network", `{"image":"x","pids":5}`: "pids", `{"image":"x","user":"bob"}`: "numbers",
		`{"image":"x","tolerations":[{"operator":"Sometimes"}]}`: "operator", `{"image":"x","imag":"y"}`: "did you mean", `{"image":"x","cpu":1,"requests":{"cpu":2}}`: "requests",
		`{"image":"x","node_selector":{"a":"not a label!"}}`: "label",
	} {
		if err := r.Check(nil, json.RawMessage(with)); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", with, err, want)
		}
	}
	if err := r.Check(nil, json.RawMessage(`{"image":"${{ params.image }}","user":"${{ params.user }}","cpu":"${{ params.cpu }}"}`)); err != nil {
		t.Errorf("a step with expressions: %v", err)
	}
}

func TestExamine(t *testing.T) {
	c := kubetest.New(t)
	r := open(t, c)
	for _, f := range r.Examine(within(t)) {
		if f.Status != waybill.FindingOK {
			t.Errorf("%+v", f)
		}
	}
	if left := append(c.Names("jobs"), c.Names("secrets")...); len(left) != 0 {
		t.Errorf("looking made %v", left)
	}
	c.Deny("create", "secrets", "")
	failed := false
	for _, f := range r.Examine(within(t)) {
		failed = failed || f.Status == waybill.FindingFail && strings.Contains(f.Hint, `resources ["secrets"]`)
	}
	if !failed {
		t.Error("a right that is missing is not told")
	}
}
