//go:build linux && !race

package faults

import "time"

// cpuLimit is what a hostile body may cost: 10 ms, and as much again for what the
// server does beside.
const cpuLimit = 20 * time.Millisecond
