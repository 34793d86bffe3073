package facet

import (
	"math/rand/v2"
	"testing"

	"github.com/waybill-run/waybill/facet/internal/disk"
	"github.com/waybill-run/waybill/facet/internal/segment"
)

// On returns options for another folder.
func (o Options) On(fs disk.FS) Options {
	o.fs = fs
	return o
}

// TakeEveryPlan makes the planner choose by chance what costs least, and small segments have
// the layout of large ones, until the test ends. No engine may be open.
func TakeEveryPlan(t testing.TB, rnd *rand.Rand) {
	tune, old := segment.Tune, [...]float64{costPosting, costID, costScan, costRun, costCount, costWord}
	segment.Tune.MinRun, segment.Tune.MaxRows, segment.Tune.SmallDocs, segment.Tune.MinBitmap, segment.Tune.Block = 1+rnd.IntN(3), rnd.IntN(20), rnd.IntN(10), 2+rnd.IntN(20), 20+rnd.IntN(2000)
	for _, c := range []*float64{&costPosting, &costID, &costScan, &costRun, &costCount, &costWord} {
		*c = []float64{0.001, 1, 1000}[rnd.IntN(3)]
	}
	t.Cleanup(func() {
		segment.Tune = tune
		costPosting, costID, costScan, costRun, costCount, costWord = old[0], old[1], old[2], old[3], old[4], old[5]
	})
}
