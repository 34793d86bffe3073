package app

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/waybill-run/waybill/internal/footprint"
)

// tuneMemory makes the collector keep less in reserve: a server is idle most of
// the time, and its peaks are short.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(75)
	}
}

// quietAfter is how long nothing must have run before memory is given back.
const quietAfter = 5 * time.Second

// release gives the memory of a peak back to the system once the peak is over,
// instead of minutes later as the runtime would.
func (s *Server) release(ctx context.Context) {
	tick := time.NewTicker(quietAfter)
	defer tick.Stop()
	quiet := 0 // ticks without work; starting is a peak, too
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if quiet++; s.engine.Active() {
			quiet = 0
		}
		// Once at first, and once more when the store has let go of its caches.
		if quiet == 1 || quiet == 4 {
			footprint.Release()
		}
	}
}
