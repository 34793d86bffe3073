package delivery_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli"
)

const complete = "introspection:\n  azure:\n    account_name: harbour\n    key: abcdefgh\n    partition_key: crane\n    table_name: deployments\nazure_devops:\n  org: port\n  project: crane\n"

// config writes the file of settings.
func (b *bench) config(text string) string {
	b.Helper()
	file := filepath.Join(b.home, ".bedrock", "config.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// settings reads it.
func (b *bench) settings() string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(b.home, ".bedrock", "config.yaml"))
	if err != nil && !os.IsNotExist(err) {
		b.Fatal(err)
	}
	return string(text)
}

// token makes a token of a role.
func (b *bench) token(role waybill.Role) string {
	b.Helper()
	c, err := client.New(client.Options{Server: b.url})
	if err != nil {
		b.Fatal(err)
	}
	t, err := c.CreateToken(b.Context(), client.CreateToken{Name: string(role), Role: role}, "")
	if err != nil {
		b.Fatal(err)
	}
	return t.Secret
}

func TestF42_Validate(t *testing.T) {
	b := setup(t)
	b.env["WAYBILL_SERVER"] = ""
	without := func(lines ...string) string {
		text := complete
		for _, l := range lines {
			text = strings.Replace(text, "    "+l+"\n", "", 1)
		}
		return text
	}
	b.config(without("key: abcdefgh", "table_name: deployments"))
	b.fails([]string{"validate"}, "code: 1001", "introspection.azure.key", "introspection.azure.table_name")
	if _, _, errs := b.run("v"); strings.Contains(errs, "account_name") || strings.Count(errs, "code: 1001") != 1 {
		t.Errorf("what is there is told as missing: %s", errs)
	}
	b.config("azure_devops:\n  org: port\n")
	if _, _, errs := b.run("validate"); !strings.Contains(errs, "lack introspection\n") {
		t.Errorf("without introspection: %s", errs)
	}
	b.config(complete)
	if out := b.ok("validate"); !strings.Contains(out, "complete") {
		t.Errorf("complete settings: %q", out)
	}
	// The environment stands for what the file lacks.
	b.config(without("key: abcdefgh"))
	b.env["INTROSPECTION_ACCOUNT_KEY"] = "abcdefgh"
	b.ok("validate")
	b.env["INTROSPECTION_ACCOUNT_KEY"] = ""
	// With a server nothing of the older service is needed, and the server is asked.
	b.config("introspection:\n  server: " + b.url + "\n")
	if out := b.ok("validate"); !strings.Contains(out, "the server works") {
		t.Errorf("with a server: %q", out)
	}
	b.config("introspection:\n  server: http://127.0.0.1:1\n")
	if code, _, errs := b.run("validate"); code != 1 || !strings.Contains(errs, "code: 1002") {
		t.Errorf("with a server that is not there: %d %s", code, errs)
	}
}

func TestF43_SelfTest(t *testing.T) {
	stores(t, func(b *bench) {
		b.feed([]waybill.DeliveryReport{
			{Kind: waybill.ReportBuild, Run: "500", ImageTag: "v1.04", Service: "bedrock-self-test", Commit: "6nbe500"},
			{Kind: waybill.ReportConfig, Run: "501", ImageTag: "v1.04", Ring: "BEDROCK-TEST", ConfigCommit: "706685f"},
		})
		before := b.ok("get", "-o", "json", "-t", "")
		if out := b.ok("validate", "--self-test"); !strings.Contains(out, "self-test succeeded") {
			b.Errorf("it says %q", out)
		}
		if after := b.ok("get", "-o", "json", "-t", ""); after != before {
			b.Errorf("the rows were\n%s\nand are\n%s", before, after)
		}
		names, err := b.service.DeliveryPartitions(b.Context())
		if err != nil || len(names) != 1 {
			b.Errorf("partitions are %q, %v", names, err)
		}
		b.env["WAYBILL_API_TOKEN"] = b.token(waybill.RoleViewer)
		code, _, errs := b.run("validate", "-s")
		if code != 1 || !strings.Contains(errs, "code: 1002") || !strings.Contains(errs, "reporter") {
			b.Errorf("with a token that only reads: exit %d\n%s", code, errs)
		}
		b.env["WAYBILL_API_TOKEN"] = b.token(waybill.RoleReporter)
		b.ok("validate", "-s")
	})
}

func TestF46_Init(t *testing.T) {
	b := setup(t)
	b.fails([]string{"init"}, "code: 1001")
	b.fails([]string{"init", "-i", "-f", "x"}, "code: 1001")
	b.fails([]string{"init", "-f", "nowhere.yaml"}, "code: 1011", "nowhere.yaml")
	const text = "# ours\nintrospection:\n  server: ${env:W_SERVER} # where\n  azure: {key: \"${env:W_KEY}${env:W_KEY}\"}\n"
	if err := os.WriteFile("given.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.fails([]string{"init", "-f", "given.yaml"}, "code: 1010", "W_SERVER", "W_KEY")
	if b.settings() != "" {
		t.Fatal("settings that cannot be used were copied")
	}
	b.env["W_SERVER"], b.env["W_KEY"] = b.url, "k"
	b.ok("init", "-f", "given.yaml")
	if got := b.settings(); got != text {
		t.Errorf("the settings are\n%s\nwant them as given", got)
	}
	info, err := os.Stat(filepath.Join(b.home, ".bedrock", "config.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the settings: %v, %v", info.Mode(), err)
	}
	// Answers change what they are about; references and the key stay as they are.
	b.config("# ours\nazure_devops:\n  org: harbour\n  access_token: ${env:W_PAT}\nintrospection:\n  azure:\n    account_name: crane\n    key: the-key # do not lose\n")
	b.env["W_PAT"] = ""
	b.stdin = "port\ntug\n\nn\n"
	b.ok("init", "-i")
	got := b.settings()
	for _, want := range []string{"# ours", "org: port", "project: tug", "access_token: ${env:W_PAT}", "key: the-key # do not lose", "account_name: crane"} {
		if !strings.Contains(got, want) {
			t.Errorf("the settings lack %q:\n%s", want, got)
		}
	}
	b.stdin = "\n\n\ny\nnot a url\n" + b.url + "\n\n\ndeployments\na/b\npier\n\n"
	code, _, errs := b.run("init", "--interactive")
	got = b.settings()
	for _, want := range []string{"server: " + b.url, "table_name: deployments", "partition_key: pier", "key: the-key # do not lose", "access_token: ${env:W_PAT}"} {
		if code != 0 || !strings.Contains(got, want) {
			t.Errorf("exit %d, the settings lack %q:\n%s\n%s", code, want, got, errs)
		}
	}
	if strings.Contains(errs, "the-key") || !strings.Contains(errs, "[set]") || !strings.Contains(errs, "${env:W_PAT}") || !strings.Contains(errs, "https://waybill.example.org") {
		t.Errorf("the questions were\n%s", errs)
	}
	b.stdin = "harbour\n"
	before := b.settings()
	b.fails([]string{"init", "-i"}, "code: 1002", "no answer")
	if b.settings() != before {
		t.Error("answers that broke off were written")
	}
}

func TestF51_VersionFlag(t *testing.T) {
	b := setup(t)
	var out bytes.Buffer
	if code := cli.Run(t.Context(), cli.Deps{Version: client.Version{Version: "v1"}, Stdout: &out}, []string{"--version"}); code != 0 {
		t.Fatalf("exit %d", code)
	}
	res, err := http.Get(b.url + "/spektate/api/version")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var v struct{ Version string }
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil || v.Version+"\n" != out.String() {
		t.Errorf("--version says %q, the server %q, %v", out.String(), v.Version, err)
	}
}

// The project is looked for with what was answered; that it is not there loses nothing.
func TestF46_InitLooksForTheProject(t *testing.T) {
	b := setup(t)
	b.http = nil
	var asked []string
	status := http.StatusOK
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		w.WriteHeader(status)
	}))
	defer ts.Close()
	b.stdin = "port\ntug\nthe-pat\nn\n"
	code, _, errs := b.run("init", "-i", "--azure-devops-url", ts.URL)
	if want := "GET /port/_apis/projects/tug Basic OnRoZS1wYXQ="; code != 0 || len(asked) != 1 || asked[0] != want || !strings.Contains(errs, "opens project tug") {
		t.Errorf("exit %d, asked %q, want %s\n%s", code, asked, want, errs)
	}
	status = http.StatusUnauthorized
	b.stdin = "\nbarge\n\n\n"
	code, _, errs = b.run("init", "-i", "--azure-devops-url", ts.URL)
	if code != 0 || !strings.Contains(errs, "401") || strings.Contains(errs, "the-pat") || !strings.Contains(b.settings(), "project: barge") || !strings.Contains(b.settings(), "access_token: the-pat") {
		t.Errorf("exit %d\n%s\n%s", code, errs, b.settings())
	}
	if old, err := os.ReadFile(filepath.Join(b.home, ".bedrock", "config.yaml.old")); err != nil || !strings.Contains(string(old), "project: tug") {
		t.Errorf("what was there before is %q, %v", old, err)
	}
}
