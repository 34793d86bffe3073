package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
			r, dir := newRunner(b, s)
			base := sh(b, "warm-up", "true")
			base.Args = []string{"/bin/true"}
			mustWait(b, r, mustStart(b, r, base))
			var n atomic.Int64
			supervisor := supervisorPID(b, dir)
			spent, own := cpu(b, supervisor), cpu(b, os.Getpid())
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
			b.ReportMetric(float64(cpu(b, supervisor)-spent)/float64(b.N)/1e6, "supervisor-cpu-ms/op")
			b.ReportMetric(float64(cpu(b, os.Getpid())-own)/float64(b.N)/1e6, "runner-cpu-ms/op")
		})
	}
}

// cpu is the processor time a process has used, its children not counted.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func BenchmarkExec(b *testing.B) {
	own := cpu(b, os.Getpid())
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
	b.ReportMetric(float64(cpu(b, os.Getpid())-own)/float64(b.N)/1e6, "runner-cpu-ms/op")
}
