//go:build unix

package facetcli

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// cpuTime is what this process has used of all processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// childUsage is what a process that has ended used.
func childUsage(p *os.ProcessState) (cpu time.Duration, rss int64) {
	u, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, 0
	}
	rss = int64(u.Maxrss)
	if runtime.GOOS == "linux" {
		rss <<= 10
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), rss
}
