package demo_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/app"
	"github.com/waybill-run/waybill/internal/cli"
)

// TestMain lets this program be waybill, under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "waybill" {
		os.Exit(cli.Run(context.Background(), app.CLI(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

// program is this program under the name waybill, which units call.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "waybill")
	if os.Link(self, path) == nil {
		return path
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// demo runs "waybill demo" to its end.
func demo(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), append([]string{"demo"}, args...)...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestOnceShowsTheWayOfEveryFile(t *testing.T) {
	t.Parallel()
	out, errs, code := demo(t, "--once", "--listen", "127.0.0.1:0")
	if code != 0 || errs != "" {
		t.Fatalf("exit code %d, told %q; it wrote\n%s", code, errs, out)
	}
	for _, want := range []string{
		`server +http://127\.0\.0\.1:[0-9]+`, `arrived +web-2026-03-02 +7,895 rows`, `started +web-2026-03-02 +run [0-9a-f-]{36}`,
		`check +web-2026-03-02 +7,886 good rows, 9 refused`, `split +porto-2026-03-02 +2,449 sales, 87 returns`,
		`sum +web-2026-03-02 +292,223\.20 EUR`, `publish +lyon-2026-03-02 +results/reports/lyon-2026-03-02\.txt`,
		`collect +sales-report +5 summaries`, `\| Sales report, region all, from 5 files`, `\| +all +21,938 +44,969 +805,851\.80`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("nothing like %q", want)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours without a terminal")
	}
	for line := range strings.Lines(out) {
		if len(line) > 81 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	project := regexp.MustCompile(`project +(\S+)/project`).FindStringSubmatch(out)
	if project == nil {
		t.Fatal("it does not say where the project is")
	}
	if _, err := os.Stat(project[1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder %s is still there (%v)", project[1], err)
	}
}

func TestFolderWithAProjectOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// What somebody changed in a folder from an earlier time counts.
	for name, text := range map[string]string{
		"waybill.yaml": "name: mine\n",
		"pipelines/ingest.yaml": `
name: ingest
on: {object: {bucket: inbox, match: "*.csv"}}
steps: [{name: check, run: ["sh", "-c", "exit 3"]}]
`,
		"pipelines/sales-report.yaml": `
name: sales-report
on: {http: {}}
steps: [{name: rank, run: ["true"]}]
`,
	} {
		path := filepath.Join(dir, "project", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, code := demo(t, "--once", "--listen", "127.0.0.1:0", "--data", dir)
	if code != 1 || !strings.Contains(errs, "5 of 6 runs did not succeed") {
		t.Errorf("with failing runs: exit code %d, told %q", code, errs)
	}
	if !regexp.MustCompile(`check +web-2026-03-02 +failed: exit code 3`).MatchString(out) {
		t.Errorf("it does not tell which step failed; it wrote\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "data", "store.db")); err != nil {
		t.Errorf("the data is not kept: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, errs, code := demo(t, "--once", "--listen", ln.Addr().String())
	if code != 1 || !strings.Contains(errs, ln.Addr().String()+" is in use") || !strings.Contains(errs, "--listen") {
		t.Errorf("exit code %d, told %q", code, errs)
	}
}
