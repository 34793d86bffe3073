//go:build !amd64

package oci

// initCode is not written for this processor: the program of a unit is the first process
// of its container.
var initCode []byte

const initMachine = 0
