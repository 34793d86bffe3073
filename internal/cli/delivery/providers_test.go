package delivery_test

import (
	"strings"
	"testing"
)

// How providers fare is shown; one that cannot be asked makes the command fail and get go on.
func TestF60_Providers(t *testing.T) {
	b := setup(t)
	code, out, _ := b.run("providers")
	if code != 0 || !strings.Contains(out, "hub") || !strings.Contains(out, "4990") {
		t.Errorf("%d: %s", code, out)
	}
	b.world.Do(func() { b.world.Away = true })
	code, out, _ = b.run("providers")
	if code != 1 || !strings.Contains(out, "lab: GitLab at gitlab.com answers 502") || !strings.Contains(out, "1m") {
		t.Errorf("%d: %s", code, out)
	}
	code, out, _ = b.run("sources", "-o", "json")
	if code != 1 || !strings.Contains(out, `"stale": true`) {
		t.Errorf("%d: %s", code, out)
	}
	if code, _, stderr := b.run("get", "-o", "wide"); code != 0 {
		t.Errorf("%d: %s", code, stderr)
	}
}
