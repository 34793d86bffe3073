package loadtest_test

import (
	"slices"
	"strings"
	"testing"
)

// The sizes are flags: a small fleet is measured in a moment. Whether bars are met says
// nothing on a machine that runs tests.
func TestDeliveries(t *testing.T) {
	args := []string{"loadtest", "deliveries", "--deployments", "120", "--events", "600", "--services", "5", "--rings", "3", "--clusters", "3", "--asks", "90", "-o", "json"}
	_, out, errs := command(t.Context(), t, args...)
	got := names(t, out)
	for _, want := range []string{"reports", "report p99", "list p99", "slowest list p99", "matrix p50", "rebuild"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s was not measured: %v\n%s", want, got, errs)
		}
	}
	for _, wrong := range [][]string{{"--deployments", "3"}, {"--events", "100"}, {"--services", "0"}, {"--store", "mysql://x"}} {
		if code, _, errs := command(t.Context(), t, append(slices.Clone(args), wrong...)...); code != 1 || !strings.Contains(errs, "error") {
			t.Errorf("%v: exit %d: %s", wrong, code, errs)
		}
	}
}
