//go:build linux

package examples

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/dockertest"
)

// dockerHost names the engine that tests use.
const dockerHost = "WAYBILL_TEST_DOCKER_HOST"

// engine starts an engine of Docker for the tests of a package, unless there is one.
func engine() (func() error, error) {
	if os.Getenv(dockerHost) != "" || dockertest.Missing() != "" {
		return nil, nil // there is one, or the test that needs it says why there is none
	}
	d, err := dockertest.Start()
	if err != nil {
		return nil, err
	}
	return d.Stop, os.Setenv(dockerHost, d.Host())
}

// need skips a test without what it needs, or fails it where everything must be there.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("WAYBILL_REQUIRE_ALL") == "1":
		t.Fatal(what)
	default:
		t.Skip(what)
	}
}

// The commands of the README, with the image that the example builds itself.
func TestContainers(t *testing.T) {
	t.Parallel()
	need(t, os.Geteuid() == 0, "limits of containers need root")
	tar := filepath.Join(t.TempDir(), "crunch.tar")
	build := func(to string) {
		t.Helper()
		// A copy, as the folder of the example is not the test's to write to.
		src := t.TempDir()
		if err := os.CopyFS(src, os.DirFS(filepath.Join("..", "..", "examples", "containers"))); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, "go.mod"), []byte("module example\n\ngo 1.26\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", filepath.Join(src, "build.sh"), to)
		cmd.Env = append(os.Environ(), "WAYBILL="+harness.Binary(t, harness.Plain), "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build.sh: %v\n%s", err, out)
		}
	}
	build(tar)
	again := filepath.Join(t.TempDir(), "again.tar")
	build(again)
	first, err1 := os.ReadFile(tar)
	second, err2 := os.ReadFile(again)
	if err1 != nil || err2 != nil || !bytes.Equal(first, second) {
		t.Errorf("built again it is another image: %v, %v", err1, err2)
	}

	for _, runner := range []string{"oci", "docker"} {
		t.Run(runner, func(t *testing.T) {
			var env []string
			if runner == "docker" {
				host := os.Getenv(dockerHost)
				need(t, host != "", "there is no engine of Docker: "+dockertest.Missing())
				env = append(env, "DOCKER_HOST="+host)
				cmd := exec.Command("docker", "load", "-i", tar)
				cmd.Env = append(os.Environ(), env...)
				if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "demo/crunch:v1") {
					t.Fatalf("docker load: %v\n%s", err, out)
				}
			} else {
				_, err := exec.LookPath("runc")
				need(t, err == nil, "runc is not installed")
			}
			e := serveWith(t, "containers", harness.Options{Tags: []string{harness.Plain}, Env: env})
			if runner == "oci" {
				e.holds("image load", e.must("image", "load", tar), "demo/crunch:v1", "sha256:")
			}
			if out, code := e.run("swordfish\n", "secret", "set", "REPORT_KEY"); code != 0 {
				t.Fatalf("secret set: %s", out)
			}
			e.must("object", "put", "sales", "today.csv", filepath.Join(e.ProjectDir(), "sales.csv"))
			e.must("start", "sales-"+runner, "--wait")
			r := e.newest("sales-"+runner, waybill.StatusSucceeded)
			if v, _ := r.Outputs.Get("total"); v.Text() != "75" {
				t.Errorf("the total is %s, want 75", v)
			}
			log := e.must("run", "logs", r.ID)
			e.holds("the log", log, "signing the report of north with ***", "told the total of all regions: 75")
			if strings.Contains(log, "swordfish") {
				t.Errorf("the log holds the secret:\n%s", log)
			}
			e.holds("the report", e.must("object", "get", "reports", "north.txt"), "apples 12", "pears 30", "total 42")

			if _, code := e.run("apples,north,12\npears,north,many\nplums,west,5\n", "object", "put", "sales", "today.csv", "-"); code != 0 {
				t.Fatal("the bad list cannot be put")
			}
			if _, code := e.run("", "start", "sales-"+runner, "--wait"); code != 1 {
				t.Errorf("a bad line: exit code %d, want 1", code)
			}
			e.holds("the note", e.must("object", "get", "reports", "note.txt"), "not all regions have a report")
			kept := false
			for _, a := range e.newest("sales-"+runner, waybill.StatusFailed).Attempts {
				v, _ := a.Returned.Get("report")
				f, ok := v.File()
				kept = kept || a.Status == waybill.StatusFailed && ok && f.Size == int64(len("apples 12\n"))
			}
			if !kept {
				t.Error("what the failed region had written is not kept")
			}

			if _, code := e.run("", "start", "glutton-"+runner, "--wait"); code != 1 {
				t.Errorf("too much memory: exit code %d, want 1", code)
			}
			g := e.newest("glutton-"+runner, waybill.StatusFailed)
			for _, a := range g.Attempts {
				if a.Step == "eat" && a.Reason != "oom_killed" {
					t.Errorf("the glutton ended for %q (%s), want oom_killed", a.Reason, a.Error)
				}
			}
			e.holds("the log", e.must("run", "logs", g.ID, "--step", "tell"), "it took too much")

			if runner == "oci" {
				e.holds("image list", e.must("image", "list"), "demo/crunch:v1", "linux/")
				harness.Until(t, soon, "the image is not used any more", func() error {
					if out, code := e.run("", "image", "remove", "demo/crunch:v1"); code != 0 {
						return errors.New(out)
					}
					return nil
				})
			}
			// The bridge goes with the server.
			e.Stop()
		})
	}
}
