package aci_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/aci"
	"github.com/waybill-run/waybill/internal/runner/aci/armtest"
	"github.com/waybill-run/waybill/internal/runner/container"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func spec(t *testing.T, unit, script string, more ...string) runner.Spec {
	t.Helper()
	dir := filepath.Join(t.TempDir(), unit)
	for _, d := range []string{container.Work, container.Out, container.In} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{container.Event: `{"id":"e-1"}`, "in/object": "an object\n"} {
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
		Env: []string{"PATH=/usr/bin:/bin", "EMPTY=", "WAYBILL_EVENT=/waybill/event.json", "WAYBILL_OBJECT=/waybill/in/object",
			"WAYBILL_CALLBACK=https://waybill.example/callback", "WAYBILL_TOKEN=wba_token-of-the-attempt"},
		Meta: map[string]string{"run": "0190-run", "step": "crunch", "attempt": "2"},
	}
}

func start(t *testing.T, r *aci.Runner, s runner.Spec) runner.Handle {
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

func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		if v = m[k]; v == nil {
			return nil
		}
		if l, ok := v.([]any); ok && len(l) > 0 {
			v = l[0]
		}
	}
	return v
}

func TestFilesAndSecrets(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	sp := spec(t, "files", `cat "$WAYBILL_EVENT"; echo; cat "$WAYBILL_OBJECT"; echo "[$EMPTY] $WAYBILL_TOKEN"`)
	sp.Mask = [][]byte{[]byte("wba_token-of-the-attempt")}
	h := start(t, r, sp)
	if e, err := r.Wait(within(t), h); err != nil || !e.OK() {
		t.Errorf("exit = %+v, %v", e, err)
	}
	if got, want := text(t, sp.Log), "{\"id\":\"e-1\"}\nan object\n[] ***\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	for _, hidden := range []string{"wba_token", "waybill.example", base64.StdEncoding.EncodeToString([]byte(`{"id":"e-1"}`))} {
		if strings.Contains(s.Show(), hidden) {
			t.Errorf("Azure shows %q", hidden)
		}
	}
	sent := s.Sent("files")
	if at(sent, "properties", "restartPolicy") != "Never" || at(sent, "tags", "waybill.run") != "0190-run" {
		t.Errorf("sent: %v", sent)
	}
	odd := spec(t, "odd", "true")
	if err := os.WriteFile(filepath.Join(odd.Dir, "work", "input"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(within(t), odd); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "work/input") {
		t.Errorf("a file in the working directory: %v", err)
	}
}

// Who pulls and what a unit may do are said by ids of their own, whatever resource group
// the groups are made in.
func TestScopesAreApart(t *testing.T) {
	s := armtest.New(t)
	const id = "/subscriptions/99999999-2222-3333-4444-555555555555/resourceGroups/management/providers/Microsoft.ManagedIdentity/userAssignedIdentities/units"
	r := open(t, s, func(o *aci.Options) {
		o.Config.Identity = id
		o.Config.Registries = []aci.Registry{{Server: "acme.azurecr.io"}}
	})
	sp := spec(t, "scopes", "true", `{"image":"acme.azurecr.io/crunch:1","cpu":2,"memory":"3.25GB","user":"1000:1000"}`)
	h := start(t, r, sp)
	sent := s.Sent("scopes")
	if got := at(sent, "properties", "imageRegistryCredentials"); fmt.Sprint(got) != fmt.Sprint(map[string]any{"server": "acme.azurecr.io", "identity": id}) {
		t.Errorf("credentials = %v", got)
	}
	if at(sent, "identity", "userAssignedIdentities", id) == nil {
		t.Errorf("identity = %v", at(sent, "identity"))
	}
	if got := at(sent, "properties", "containers", "properties", "resources", "requests"); fmt.Sprint(got) != "map[cpu:2 memoryInGB:3.3]" {
		t.Errorf("resources = %v", got)
	}
	if !strings.Contains(string(h.Data), armtest.Subscription) {
		t.Errorf("handle = %s", h.Data)
	}
	if err := r.Remove(within(t), h); err != nil || len(s.Names()) != 0 {
		t.Errorf("remove: %v, left %v", err, s.Names())
	}
}

func TestPullFaults(t *testing.T) {
	for name, x := range map[string]struct {
		image  armtest.Image
		fault  *armtest.Fault
		reason string
		says   string
	}{
		"inaccessible": {armtest.Image{Refused: "The image 'x' in container group 'pull' is not accessible. Please check the image and registry credential."}, nil, runner.ReasonPullAuth, "not accessible"},
		"event":        {armtest.Image{Event: "Failed to pull image \"x\": manifest unknown: not found"}, nil, runner.ReasonPullNotFound, "manifest unknown"},
		"event limit":  {armtest.Image{Event: "Failed to pull image \"x\": toomanyrequests: rate limit"}, nil, runner.ReasonPullQuota, "toomanyrequests"},
		"registry":     {armtest.Image{}, &armtest.Fault{Method: "PUT", Status: 409, Code: "RegistryErrorResponse", Text: "An error response is received from the docker registry 'index.docker.io'. Please retry later."}, runner.ReasonPullQuota, "index.docker.io"},
		"no room":      {armtest.Image{}, &armtest.Fault{Method: "PUT", Status: 409, Code: "ServiceUnavailable", Text: "The requested resource is not available in the location 'westeurope' at this moment."}, runner.ReasonPullQuota, "westeurope"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := armtest.New(t)
			r := open(t, s, func(o *aci.Options) { o.Config.PullPatience = runner.Duration(300 * time.Millisecond) })
			s.SetImage(image, x.image)
			if x.fault != nil {
				s.Break(*x.fault)
			}
			sp := spec(t, "pull", "echo mended")
			_, err := r.Start(within(t), sp)
			p, ok := runner.AsPullError(err)
			if !ok || p.Reason != x.reason || p.Again() != waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), x.says) {
				t.Fatalf("start = %v, want a PullError for %s that says %q", err, x.reason, x.says)
			}
			if left := s.Names(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			s.Mend()
			s.SetImage(image, armtest.Image{})
			if e, err := r.Wait(within(t), start(t, r, sp)); err != nil || !e.OK() || text(t, sp.Log) != "mended\n" {
				t.Errorf("the same unit later: %+v, %v, log %q", e, err, text(t, sp.Log))
			}
		})
	}
}

// A quota that is used up is not the fault of the unit: it has the budget of pulls, and the
// message names the quota.
func TestQuota(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	s.SetQuota(0)
	_, err := r.Start(within(t), spec(t, "quota", "true"))
	p, ok := runner.AsPullError(err)
	if !ok || !p.Again() || !waybill.IsKind(err, waybill.KindUnavailable) || !strings.Contains(err.Error(), "quota 'ContainerGroups' exceeded in region 'westeurope'") {
		t.Errorf("start = %v", err)
	}
}

// The answer of the request that makes the group is lost; the group is found and not made
// again.
func TestLostAnswer(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	s.Break(armtest.Fault{Method: "PUT", Lost: true, Times: 1})
	sp := spec(t, "lost", "echo executed")
	if _, err := r.Start(within(t), sp); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("start = %v, want kind unavailable", err)
	}
	h := start(t, r, sp)
	if e, err := r.Wait(within(t), h); err != nil || !e.OK() || text(t, sp.Log) != "executed\n" {
		t.Errorf("exit = %+v, %v, log %q", e, err, text(t, sp.Log))
	}
	if n := s.Asked("PUT"); n != 1 {
		t.Errorf("asked %d times to make it, want once", n)
	}
}

func TestBadWeather(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	s.Slow(50 * time.Millisecond)
	s.Break(armtest.Fault{Method: "GET", Status: 429, Code: "TooManyRequests", Text: "slow down", RetryAfter: 1, Times: 1})
	const n = 200
	sp := spec(t, "weather", fmt.Sprintf("i=1; while [ $i -le %d ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 4", n))
	h := start(t, r, sp)
	for range 4 {
		s.Break(armtest.Fault{Method: "GET", Path: "/logs", Status: 500, Code: "InternalServerError", Times: 7})
		s.Break(armtest.Fault{Method: "GET", Status: 503, Code: "ServiceUnavailable", Times: 7})
		time.Sleep(100 * time.Millisecond) // the weather changes while it runs
	}
	e, err := r.Wait(within(t), h)
	if err != nil || e.Code != 4 {
		t.Errorf("exit = %+v, %v", e, err)
	}
	want := ""
	for i := 1; i <= n; i++ {
		want += fmt.Sprintf("line %d\n", i)
	}
	if got := text(t, sp.Log); got != want {
		t.Errorf("log of %d bytes, want %d", len(got), len(want))
	}
	s.Mend()
	s.Break(armtest.Fault{Method: "DELETE", Status: 409, Code: "ContainerGroupTransitioning", Times: 1})
	if err := r.Remove(within(t), h); err != nil && !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("remove = %v", err)
	}
	await(t, "it is removed", func() bool { return r.Remove(within(t), h) == nil })
	if err := r.Remove(within(t), h); err != nil {
		t.Errorf("remove of what is gone: %v", err)
	}
}

// What Azure does not keep of a log is said, in the place where it is missing.
func TestLogIsLongerThanAzureKeeps(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s, func(o *aci.Options) { o.Pace.First, o.Pace.Most = 2*time.Second, 2*time.Second })
	sp := spec(t, "long", "echo first; sleep 1; i=0; while [ $i -lt 60 ]; do head -c 100000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; echo last")
	if e, err := r.Wait(within(t), start(t, r, sp)); err != nil || !e.OK() {
		t.Errorf("exit = %+v, %v", e, err)
	}
	got := text(t, sp.Log)
	if !strings.Contains(got, "[waybill] Azure ") || !strings.HasSuffix(got, "last\n") {
		t.Errorf("the log has %d bytes, begins with %.60q and ends with %q", len(got), got, got[max(0, len(got)-60):])
	}
}

func TestTakenAway(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	sp := spec(t, "taken", "echo ready; sleep 1000")
	h := start(t, r, sp)
	s.Delete("taken")
	if e, err := r.Wait(within(t), h); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("wait = %+v, %v; want kind lost", e, err)
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s)
	s.Put("theirs", map[string]any{container.LabelInstance: "another", container.LabelUnit: "theirs"})
	for i := range 45 { // more than a page
		s.Put(fmt.Sprintf("web-%d", i), map[string]any{"app": "web"})
	}
	h := runner.Handle{Runner: "aci", Unit: "theirs"}
	if units, err := r.List(within(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v", units, err)
	}
	for what, err := range map[string]error{"stop": r.Stop(within(t), h, 0), "remove": r.Remove(within(t), h)} {
		if err != nil {
			t.Errorf("%s = %v", what, err)
		}
	}
	if _, err := r.Start(within(t), spec(t, "theirs", "true")); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("start = %v, want kind invalid: the name is taken", err)
	}
	if n := s.Asked("DELETE") + s.Asked("PUT") + s.Asked("PATCH") + s.Asked("POST"); n != 0 || len(s.Names()) != 46 {
		t.Errorf("%d requests changed something of others", n)
	}
	start(t, r, spec(t, "z-ours", "sleep 100"))
	if units, err := r.List(within(t)); err != nil || len(units) != 1 {
		t.Errorf("list = %v, %v; want ours, on the last page", units, err)
	}
}

func TestErrorsOfAzure(t *testing.T) {
	for name, x := range map[string]struct {
		fault armtest.Fault
		kind  waybill.Kind
		hint  string
	}{
		"no right":       {armtest.Fault{Method: "PUT", Status: 403, Code: "AuthorizationFailed", Text: "The client does not have authorization"}, waybill.KindInvalid, "Contributor"},
		"who are you":    {armtest.Fault{Status: 401, Code: "ExpiredAuthenticationToken", Text: "expired"}, waybill.KindUnavailable, "renew"},
		"not registered": {armtest.Fault{Method: "PUT", Status: 409, Code: "MissingSubscriptionRegistration", Text: "not registered"}, waybill.KindInvalid, "az provider register"},
		"in transition":  {armtest.Fault{Method: "PUT", Status: 409, Code: "ContainerGroupTransitioning", Text: "transitioning"}, waybill.KindUnavailable, ""},
		"bad request":    {armtest.Fault{Method: "PUT", Status: 400, Code: "InvalidContainerResourceRequests", Text: "cpu"}, waybill.KindInvalid, ""},
		"down":           {armtest.Fault{Status: 500, Code: "InternalServerError", Text: "oops"}, waybill.KindUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := armtest.New(t)
			r := open(t, s)
			s.Break(x.fault)
			_, err := r.Start(within(t), spec(t, "unit", "true"))
			var w *waybill.Error
			if !waybill.IsKind(err, x.kind) || !errors.As(err, &w) || !strings.Contains(w.Hint, x.hint) {
				t.Errorf("start = %v, want kind %s and the hint %q", err, x.kind, x.hint)
			}
			if strings.Contains(err.Error(), armtest.Token) {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
	s := armtest.New(t)
	r := open(t, s, func(o *aci.Options) { o.Config.ResourceGroup = "none" })
	if _, err := r.Start(within(t), spec(t, "unit", "true")); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "ResourceGroupNotFound") {
		t.Errorf("start in no resource group = %v", err)
	}
}

func TestCheck(t *testing.T) {
	r := &aci.Runner{}
	for with, want := range map[string]string{
		`{}`: "needs an image", `{"image":"x","network":"none"}`: "network", `{"image":"x","pids":5}`: "pids", `{"image":"x","workdir":"/x"}`: "working directory",
		`{"image":"x","pull":"never"}`: "pull", `{"image":"x","platform":"linux/arm64"}`: "linux/amd64", `{"image":"x","subnet":"y"}`: "subnet",
	} {
		if err := r.Check(nil, json.RawMessage(with)); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", with, err, want)
		}
	}
	for key, c := range map[string]aci.Config{
		"subscription": {}, "resource_group": {Subscription: armtest.Subscription}, "location": {Subscription: armtest.Subscription, ResourceGroup: "x"},
		"identity": {Subscription: armtest.Subscription, ResourceGroup: "x", Location: "y", Identity: "units"},
	} {
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

const template = `{
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {
    "name": {"type": "string"},
    "memory": {"type": "int", "defaultValue": 2},
    "registryPassword": {"type": "secureString"},
    "identityId": {"type": "string", "defaultValue": "[resourceId('99999999-2222-3333-4444-555555555555', 'management', 'Microsoft.ManagedIdentity/userAssignedIdentities', 'units')]"}
  },
  "variables": {"server": "[concat('acme', '.azurecr.io')]"},
  "resources": [{
    "type": "Microsoft.ContainerInstance/containerGroups", "apiVersion": "2019-12-01",
    "name": "[toLower(parameters('name'))]", "location": "[resourceGroup().location]",
    "identity": {"type": "UserAssigned", "userAssignedIdentities": {"[parameters('identityId')]": {}}},
    "properties": {
      "osType": "Linux", "restartPolicy": "Never",
      "imageRegistryCredentials": [{"server": "[variables('server')]", "username": "acme", "password": "[parameters('registryPassword')]"}],
      "containers": [{"name": "[toLower(parameters('name'))]", "properties": {
        "image": "[concat(variables('server'), '/shell:7')]",
        "environmentVariables": [{"name": "FROM_PROFILE", "value": "yes"}, {"name": "PATH", "value": "/none"}],
        "resources": {"requests": {"cpu": 1, "memoryInGB": "[parameters('memory')]"}}
      }}]
    }
  }]
}`

func TestProfile(t *testing.T) {
	s := armtest.New(t)
	r := open(t, s, func(o *aci.Options) {
		o.Profile = []byte(template)
		o.Config.Parameters = map[string]string{"Name": "Stage1", "registryPassword": "pa55-word"}
	})
	sp := spec(t, "profiled", `echo "$FROM_PROFILE"`)
	sp.With = nil
	if e, err := r.Wait(within(t), start(t, r, sp)); err != nil || !e.OK() || text(t, sp.Log) != "yes\n" {
		t.Errorf("exit = %+v, %v, log %q", e, err, text(t, sp.Log))
	}
	sent := s.Sent("profiled")
	for want, got := range map[string]any{
		"acme.azurecr.io/shell:7": at(sent, "properties", "containers", "properties", "image"), "2": at(sent, "properties", "containers", "properties", "resources", "requests", "memoryInGB"),
		"pa55-word": at(sent, "properties", "imageRegistryCredentials", "password"), "westeurope": at(sent, "location"), "UserAssigned": at(sent, "identity", "type"),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("found %v, want %s", got, want)
		}
	}
	if strings.Contains(s.Show(), "pa55-word") {
		t.Error("the password is shown")
	}
}

func TestProfileIsRefused(t *testing.T) {
	for name, x := range map[string]struct {
		change     func(string) string
		parameters map[string]string
		want       string
	}{
		"no value": {func(s string) string { return s }, nil, `parameter "`},
		"no such":  {func(s string) string { return s }, map[string]string{"colour": "red"}, `no parameter "colour"`},
		"restarts": {func(s string) string { return strings.Replace(s, `"Never"`, `"Always"`, 1) }, nil, "restartPolicy"},
		"ports": {func(s string) string {
			return strings.Replace(s, `"osType"`, `"ipAddress": {"type": "Public"}, "osType"`, 1)
		}, nil, "ipAddress"},
		"unknown function": {func(s string) string {
			return strings.Replace(s, "[toLower(parameters('name'))]\", \"properties", "[uniqueString('x')]\", \"properties", 1)
		}, nil, "uniqueString"},
		"windows":          {func(s string) string { return strings.Replace(s, `"Linux"`, `"Windows"`, 1) }, nil, "osType"},
		"garbage":          {func(string) string { return "resources: []" }, nil, "no JSON"},
		"another resource": {func(s string) string { return strings.Replace(s, "ContainerInstance/containerGroups", "Web/sites", 1) }, nil, "containerGroups"},
		"cut expression": {func(s string) string {
			return strings.Replace(s, "[variables('server')]", "[variables('server'", 1) + ""
		}, nil, ""},
		"itself": {func(s string) string {
			return strings.Replace(s, "[concat('acme', '.azurecr.io')]", "[variables('server')]", 1)
		}, nil, "refers to itself"},
	} {
		parameters := x.parameters
		if parameters == nil && name != "no value" {
			parameters = map[string]string{"name": "x", "registryPassword": "y"}
		}
		_, err := aci.New(aci.Options{
			Config:  aci.Config{Subscription: armtest.Subscription, ResourceGroup: "x", Location: "y", Parameters: parameters},
			Profile: []byte(x.change(template)), Credential: token("x"),
		})
		if x.want != "" && (!waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(template))
	f.Add([]byte(`{"properties":{"containers":[{"properties":{"image":"[concat('a',"}}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := aci.New(aci.Options{
			Config:  aci.Config{Subscription: armtest.Subscription, ResourceGroup: "x", Location: "y"},
			Profile: b, Credential: token("x"),
		})
		if err != nil && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("error = %v, want kind invalid", err)
		}
	})
}
