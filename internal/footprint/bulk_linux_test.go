package footprint_test

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/waybill-run/waybill/internal/footprint"
)

// However many are open and in whatever order they end, the collector is as before when the
// last one has ended.
func TestBulkEnds(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	a, b := footprint.Bulk(), footprint.Bulk()
	a()
	a()
	if got := debug.SetMemoryLimit(-1); got == math.MaxInt64 {
		t.Error("the one that is open still has ended with the other")
	}
	b()
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the collector's percentage is %d afterwards, want 77", got)
	}
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the memory limit is %d afterwards, want none", got)
	}
}
