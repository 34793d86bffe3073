//go:build linux && race

package faults

import "time"

// cpuLimit is what a hostile body may cost, in a program that is about ten times
// slower than the one that is built without the race detector.
const cpuLimit = 200 * time.Millisecond
