package footprint

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

var bulk struct {
	sync.Mutex
	open    int
	percent int
	limit   int64
}

// Bulk lets the collector rest while something large is made in memory: garbage may take
// four times what lives, as long as all of it fits into half of the memory that the
// machine has left. It returns what ends that; several may be open at once. Where the
// memory that is left cannot be told, nothing changes.
func Bulk() (end func()) {
	free := available()
	if free == 0 {
		return func() {}
	}
	bulk.Lock()
	defer bulk.Unlock()
	if bulk.open++; bulk.open == 1 {
		bulk.percent = debug.SetGCPercent(400)
		bulk.limit = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(bulk.limit, max(free/2, 256<<20)))
	}
	return sync.OnceFunc(func() {
		bulk.Lock()
		defer bulk.Unlock()
		if bulk.open--; bulk.open == 0 {
			debug.SetGCPercent(bulk.percent)
			debug.SetMemoryLimit(bulk.limit)
		}
	})
}

// available is how much memory the machine has left, in bytes; 0 when that is not known.
func available() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil || kib > math.MaxInt64/1024 {
				return 0
			}
			return kib * 1024
		}
	}
	return 0
}
