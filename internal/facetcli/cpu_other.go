//go:build !unix

package facetcli

import (
	"os"
	"time"
)

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }

func childUsage(p *os.ProcessState) (cpu time.Duration, rss int64) {
	return p.UserTime() + p.SystemTime(), 0
}
