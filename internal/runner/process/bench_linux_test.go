package process_test

import (
	"fmt"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// BenchmarkStartWait is a whole life of a unit, eight at a time. Compare with
// BenchmarkExec, the same program run by this process.
func BenchmarkStartWait(b *testing.B) {
	for name, s := range map[string]setup{"Cgroups": {}, "NoCgroups": {noCgroup: true}} {
		b.Run(name, func(b *testing.B) {
			s.idle = time.Second
			r, _ := newRunner(b, s)
			base := sh(b, "warm-up", "true")
			base.Args = []string{"/bin/true"}
			mustWait(b, r, mustStart(b, r, base))
			var n atomic.Int64
			b.SetParallelism(4) // of 2 processors
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					sp := base
					sp.Unit = fmt.Sprintf("b-%d", n.Add(1))
					h, err := r.Start(b.Context(), sp)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := r.Wait(b.Context(), h); err != nil {
						b.Error(err)
						return
					}
					if err := r.Remove(b.Context(), runner.Handle{Unit: h.Unit}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
		})
	}
}

func BenchmarkExec(b *testing.B) {
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "units/s")
}
