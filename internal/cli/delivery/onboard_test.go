package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	cmd "github.com/waybill-run/waybill/internal/cli/delivery"
)

func TestF44_OnboardLocal(t *testing.T) {
	b := setup(t)
	b.config("# ours\nazure_devops:\n  org: port\n")
	b.fails([]string{"onboard", "--backend", "local", "-s", "#123"}, "code: 1001", "#123")
	b.fails([]string{"onboard", "--backend", "local", "-t", "# "}, "code: 1001", "table")
	b.fails([]string{"onboard", "--backend", "mars"}, "code: 1001", "local, azure")
	b.fails([]string{"onboard", "-p", "a/b"}, "code: 1001")
	out := b.ok("onboard", "--backend", "local", "-p", "harbour")
	first := b.settings()
	for _, want := range []string{"# ours", "org: port", "server: " + b.url, "partition: harbour", "report_token: wbt_"} {
		if !strings.Contains(first, want) {
			t.Errorf("the settings lack %q:\n%s", want, first)
		}
	}
	if !strings.Contains(out, "reports harbour") || strings.Contains(out, "wbt_") {
		t.Errorf("it says %q", out)
	}
	if out := b.ok("o", "-p", "harbour"); !strings.Contains(out, "nothing to do") || b.settings() != first {
		t.Errorf("the second time says %q:\n%s", out, b.settings())
	}
	c, err := client.New(client.Options{Server: b.url})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := c.Tokens(t.Context())
	if err != nil || len(tokens.Items) != 1 || tokens.Items[0].Role != waybill.RoleReporter {
		t.Fatalf("tokens are %+v, %v", tokens.Items, err)
	}
	// What was prepared is used: the settings are all that a report needs.
	b.env["WAYBILL_SERVER"] = ""
	b.ok("create", "--p1", "1", "--image-tag", "a:1", "--service", "a", "--commit-id", "c1aaaaa")
	p, err := b.service.Deployments(t.Context(), waybill.DeploymentFilter{Partition: "harbour"})
	if err != nil || len(p.Items) != 1 {
		t.Fatalf("%d rows, %v", len(p.Items), err)
	}
	if d, err := b.service.Deployment(t.Context(), "harbour", p.Items[0].ID); err != nil || d.Events[0].By != "reports harbour" {
		t.Errorf("the report is of %q, %v", d.Events[0].By, err)
	}
	b.ok("get") // which the token that only reports would not open
	// A token that was revoked is made again.
	if err := c.RevokeToken(t.Context(), tokens.Items[0].ID); err != nil {
		t.Fatal(err)
	}
	b.ok("onboard", "-p", "harbour")
	if b.settings() == first || strings.Count(b.settings(), "report_token") != 1 {
		t.Errorf("after the token was revoked the settings are\n%s", b.settings())
	}
	// Without the right to make tokens nothing is written.
	b.env["WAYBILL_API_TOKEN"] = b.token(waybill.RoleOperator)
	before := b.settings()
	b.fails([]string{"onboard", "-p", "pier"}, "code: 1002", "admin")
	if b.settings() != before {
		t.Error("the settings were changed")
	}
}

// The token that nobody could note is revoked.
func TestF44_OnboardCannotWrite(t *testing.T) {
	b := setup(t)
	if err := os.WriteFile(filepath.Join(b.home, ".bedrock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.fails([]string{"onboard", "-p", "harbour", "--config", filepath.Join(b.home, ".bedrock", "config.yaml")}, "code: 1011")
	b.fails([]string{"onboard", "-p", "harbour"}, "code: 1011")
	c, err := client.New(client.Options{Server: b.url})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := c.Tokens(t.Context())
	for _, x := range tokens.Items {
		if x.RevokedAt.IsZero() {
			t.Errorf("token %s is left, %v", x.Name, err)
		}
	}
}

func TestF44_OnboardAzure(t *testing.T) {
	b := setup(t)
	// Rows as the older writers left them, in the order of their random keys.
	table := []map[string]string{
		{"PartitionKey": "harbour", "RowKey": "0a1b2c3d4e5f", "Timestamp": "2020-03-01T08:00:00.123Z", "commitId": "c626394", "imageTag": "crane:main-100", "service": "port/crane", "p1": "100", "sourceRepo": "https://github.com/port/crane",
			"p2": "101", "env": "dev", "hldCommitId": "706685f", "pr": "7", "hldRepo": "https://github.com/port/config", "p3": "102", "manifestCommitId": "b3a3345", "manifestRepo": "https://github.com/port/manifests", "isMultiStage": "false"},
		{"PartitionKey": "harbour", "RowKey": "1a1b2c3d4e5f", "Timestamp": "2020-03-01T09:00:00Z", "commitId": "c626394", "imageTag": "crane:main-100", "service": "port/crane", "p1": "100", "p2": "103", "env": "prod", "hldCommitId": "806685f"},
		{"PartitionKey": "harbour", "RowKey": "2a1b2c3d4e5f", "Timestamp": "2020-03-01T10:00:00Z", "hldCommitId": "906685f", "p3": "104", "manifestCommitId": "e9fb7d4"},
		{"PartitionKey": "harbour", "RowKey": "3a1b2c3d4e5f", "Timestamp": "2020-03-01T11:00:00Z", "commitId": "a626394", "imageTag": "tug:1", "service": "tug", "p1": "105"},
		{"PartitionKey": "harbour", "RowKey": "4a1b2c3d4e5f", "Timestamp": "2020-03-01T12:00:00Z", "imageTag": "lost:1", "p2": "106", "env": "dev", "hldCommitId": "a06685f", "service": "", "p1": "undefined"},
		{"PartitionKey": "harbour", "RowKey": "5a1b2c3d4e5f", "Timestamp": "2020-03-01T12:00:00Z"},
	}
	var asked cmd.LegacyTable
	fail := errors.New("")
	b.legacy = func(_ context.Context, o cmd.LegacyTable, f func(map[string]string) error) error {
		asked = o
		for i, row := range table {
			if i == 2 && fail.Error() != "" {
				return fail
			}
			if err := f(row); err != nil {
				return err
			}
		}
		return nil
	}
	for name, args := range map[string][]string{"account": {"-s", "#123"}, "table": {"-t", "# "}, "lacks": {"-s", "harbour", "-t", "deployments"}} {
		b.fails(append([]string{"onboard", "--backend", "azure"}, args...), "code: 1001")
		if asked.Table != "" {
			t.Errorf("%s: the table was asked all the same", name)
		}
	}
	flags := []string{"onboard", "--backend", "azure", "-s", "harbour", "-t", "deployments", "-p", "harbour", "-k", "c2VjcmV0", "-r", "group", "--tenant-id", "t", "-l", "west"}
	fail = errors.New("the connection broke")
	b.fails(flags, "code: 1002", "code: 2000", "row 2", "the connection broke")
	fail = errors.New("")
	out := b.ok(flags...)
	if out != "6 rows read, 8 reports: 3 new, 5 known; 1 row without a deployment\n" {
		t.Errorf("it says %q", out)
	}
	if asked.Account != "harbour" || asked.Key != "c2VjcmV0" || asked.Partition != "harbour" {
		t.Errorf("asked %+v", asked)
	}
	before := b.ok("get", "-o", "json", "-p", "harbour")
	if out := b.ok(flags...); !strings.Contains(out, "0 new, 8 known") {
		t.Errorf("the second time says %q", out)
	}
	if after := b.ok("get", "-o", "json", "-p", "harbour"); after != before {
		t.Errorf("the second time changed\n%s\nto\n%s", before, after)
	}
	rows := b.list("-p", "harbour")
	if len(rows) != 5 {
		t.Fatalf("%d rows, want 5", len(rows))
	}
	by := map[string]map[string]any{}
	for _, r := range rows {
		by[fmt.Sprint(r["imageTag"], " ", r["environment"])] = r
	}
	for key, want := range map[string]map[string]any{
		"crane:main-100 dev":  {"status": "Complete", "service": "port/crane", "pr": "7", "manifestCommitId": "b3a3345", "hldCommitId": "706685f", "commitId": "c626394", "endTime": "2020-03-01T08:00:00.123Z", "manifestRepo": "https://github.com/port/manifests"},
		"crane:main-100 prod": {"status": "Incomplete", "commitId": "c626394", "hldCommitId": "806685f"},
		"<nil> <nil>":         {"status": "Complete", "manifestCommitId": "e9fb7d4", "hldCommitId": "906685f"},
		"tug:1 <nil>":         {"status": "Incomplete", "service": "tug"},
		"lost:1 dev":          {"status": "Incomplete", "hldCommitId": "a06685f"},
	} {
		for name, value := range want {
			if by[key] == nil || by[key][name] != value {
				t.Errorf("%s: %s is %v, want %v", key, name, by[key][name], value)
			}
		}
	}
}

func TestF47_CIVars(t *testing.T) {
	type call struct {
		method, path, auth string
		body               map[string]any
	}
	b := setup(t)
	var calls []call
	exists := false
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := call{method: r.Method, path: r.URL.RequestURI(), auth: r.Header.Get("Authorization") + r.Header.Get("Private-Token")}
		_ = json.NewDecoder(r.Body).Decode(&c.body)
		calls = append(calls, c)
		switch {
		case strings.Contains(c.auth, "wrong") || strings.Contains(c.auth, "OndyaW5n"): // ":wring"
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"message":"bad credentials wrong"}`)
		case strings.HasSuffix(r.URL.Path, "/public-key"):
			fmt.Fprint(w, `{"key_id":"k1","key":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}`)
		case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/actions/variables") && exists:
			w.WriteHeader(http.StatusConflict)
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/variables/") && !exists:
			w.WriteHeader(http.StatusNotFound)
		default:
			fmt.Fprint(w, `{"id":17}`)
		}
	}))
	defer ts.Close()
	b.http = nil
	b.env["W_SECRET"] = "s3cr3t-s3cr3t"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile("vars.yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const vsts = "name: introspection-vg\ndescription: where\ntype: Vsts\nvariables:\n  A_NAME:\n    value: 5\n  A_KEY:\n    value: ${env:W_SECRET}\n    isSecret: true\n"
	write(vsts)
	out := b.ok("ci-vars", "create", "-f", "vars.yaml", "-o", "port", "-d", "crane", "-a", "pat", "--url", ts.URL)
	if out != "secret A_KEY\nvariable A_NAME\n" || len(calls) != 2 {
		t.Fatalf("it says %q and called %+v", out, calls)
	}
	made, allowed := calls[0], calls[1]
	vars, _ := made.body["variables"].(map[string]any)
	key, _ := vars["A_KEY"].(map[string]any)
	name, _ := vars["A_NAME"].(map[string]any)
	if made.method != "POST" || made.path != "/port/_apis/distributedtask/variablegroups?api-version=7.1" || made.body["name"] != "introspection-vg" || made.body["type"] != "Vsts" ||
		key["isSecret"] != true || key["value"] != "s3cr3t-s3cr3t" || name["isSecret"] != nil || name["value"] != "5" || made.auth != "Basic OnBhdA==" {
		t.Errorf("the group is made by %+v", made)
	}
	if pipelines, _ := allowed.body["allPipelines"].(map[string]any); allowed.method != "PATCH" || !strings.Contains(allowed.path, "/variablegroup/17") || pipelines["authorized"] != true {
		t.Errorf("pipelines are let in by %+v", allowed)
	}
	calls = nil
	write(strings.Replace(vsts, "Vsts", "Foo", 1))
	b.fails([]string{"ci-vars", "create", "-f", "vars.yaml", "-o", "port", "-d", "crane", "-a", "pat", "--url", ts.URL}, "code: 2600", "Foo")
	write(strings.Replace(vsts, "W_SECRET", "W_NONE", 1))
	b.fails([]string{"ci-vars", "create", "-f", "vars.yaml", "-o", "port", "-d", "crane", "-a", "pat", "--url", ts.URL}, "code: 1010", "W_NONE", "variables.A_KEY.value")
	write(vsts)
	b.fails([]string{"ci-vars", "create", "-f", "vars.yaml", "-d", "crane", "--url", ts.URL}, "code: 1001", "--org-name", "--personal-access-token")
	b.fails([]string{"ci-vars", "create", "-f", "nope.yaml"}, "code: 1011")
	if len(calls) != 0 {
		t.Errorf("calls were made: %+v", calls)
	}
	b.fails([]string{"ci-vars", "create", "--provider", "github", "-f", "vars.yaml", "-d", "port/crane", "-a", "wrong", "--url", ts.URL}, "code: 1002", "code: 2600", "401", "bad credentials ***")
	for _, there := range []bool{false, true} {
		exists, calls = there, nil
		b.ok("ci-vars", "create", "--provider", "github", "-f", "vars.yaml", "-d", "port/crane", "-a", "pat", "--url", ts.URL)
		var did []string
		for _, c := range calls {
			did = append(did, c.method+" "+c.path)
			if text, _ := json.Marshal(c.body); strings.Contains(string(text), "s3cr3t") {
				t.Errorf("the secret is sent in the clear: %s", text)
			}
		}
		want := "GET /repos/port/crane/actions/secrets/public-key PUT /repos/port/crane/actions/secrets/A_KEY POST /repos/port/crane/actions/variables"
		if there {
			want += " PATCH /repos/port/crane/actions/variables/A_NAME"
		}
		if got := strings.Join(did, " "); got != want {
			t.Errorf("GitHub: %s, want %s", got, want)
		}
		calls = nil
		b.ok("ci-vars", "create", "--provider", "gitlab", "-f", "vars.yaml", "-d", "port/crane", "-a", "pat", "--url", ts.URL)
		last := calls[1]
		method := map[bool]string{false: "POST /api/v4/projects/port%2Fcrane/variables", true: "PUT /api/v4/projects/port%2Fcrane/variables/A_KEY"}[there]
		if last.method+" "+last.path != method || last.body["masked"] != true || last.body["value"] != "s3cr3t-s3cr3t" || last.auth != "pat" {
			t.Errorf("GitLab: %+v, want %s", last, method)
		}
	}
	// Without a file they are what the settings say.
	calls = nil
	b.config("introspection:\n  report_token: wbt_report\n  partition: harbour\n")
	out = b.ok("ci-vars", "create", "--provider", "gitlab", "-d", "7", "-a", "pat", "--url", ts.URL)
	if !strings.Contains(out, "secret INTROSPECTION_TOKEN\n") || !strings.Contains(out, "variable INTROSPECTION_SERVER\n") || !strings.Contains(out, "secret INTROSPECTION_ACCOUNT_KEY\n") {
		t.Errorf("out of the settings: %q", out)
	}
}
