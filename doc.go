// Package waybill holds the nouns of Waybill, the contracts between its parts
// and the kinds of error they exchange.
//
// Waybill runs work on compute that exists only while it is needed and
// remembers everything. An [Event] arrives; a [Run] of a [Pipeline] starts; each
// of its steps makes one or more attempts, and each [Attempt] has one unit (a
// process, a container, a machine task) started by a runner. Variables are
// carried from step to step, every change leaves a [Record] on the run's
// timeline, and what a unit made stays as objects and logs.
//
// The package imports the standard library only, does no I/O and starts no
// goroutine, so every other package may depend on it. The contracts that have
// several implementations live beside those: internal/store, internal/runner
// and internal/blob. The interfaces in service.go are what the HTTP server needs
// from the rest of the program; internal/app connects the two.
package waybill
