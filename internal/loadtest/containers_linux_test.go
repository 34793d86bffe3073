package loadtest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/waybill-run/waybill/internal/loadtest"
)

func TestContainersAreMeasured(t *testing.T) {
	if _, err := exec.LookPath("runc"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatal("runc is not installed, or this is not root")
		}
		t.Skip("runc is not installed, or this is not root")
	}
	_, out, errs := command(t.Context(), t, "loadtest", "containers", "--quick", "--only", "oci with runc", "-o", "json")
	var r loadtest.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, errs)
	}
	got := map[string]float64{}
	for _, f := range r.Figures {
		got[f.Name] = f.Value
	}
	// Whether the ratio is met is the machine's business; that none is lost is not.
	for _, want := range []string{"bare p50", "step p50", "ratio p50", "rate"} {
		if !(got["oci with runc: "+want] > 0) {
			t.Errorf("no figure %q in %v\n%s", want, got, errs)
		}
	}
	for _, none := range []string{"lost", "tried again", "left"} {
		if n, ok := got["oci with runc: "+none]; !ok || n != 0 {
			t.Errorf("%s: %v, %v", none, n, ok)
		}
	}
}
