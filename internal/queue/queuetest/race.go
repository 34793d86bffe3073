//go:build race

package queuetest

// With the race detector a SQLite store is some ten times slower.
const raceEnabled = true
