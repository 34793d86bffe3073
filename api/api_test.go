package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What is generated is what the contract says: making it again changes nothing.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	t.Parallel()
	for config, output := range map[string]string{
		"server.cfg.yaml": "../internal/httpd/openapi/openapi.gen.go",
		"client.cfg.yaml": "../client/types.gen.go",
	} {
		fresh := filepath.Join(t.TempDir(), "out.go")
		cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../tools/go.mod", "oapi-codegen", "-config", config, "-o", fresh, "openapi.yaml")
		if out, err := cmd.CombinedOutput(); err != nil {
			if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
				t.Fatalf("the generator does not run: %v\n%s", err, out)
			}
			t.Skipf("the generator does not run, perhaps its modules are not here: %v\n%s", err, out)
		}
		want, err := os.ReadFile(fresh)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what openapi.yaml says, run: go generate ./api", output)
		}
	}
}
