//go:build linux && race

package harness

const race = true
