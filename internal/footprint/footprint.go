// Package footprint keeps an idle process small.
//
// The program is large, because it holds the libraries of three clouds, and most of it
// runs once, when it starts. The kernel keeps such pages in the memory of the process for
// as long as there is plenty; here they are given back. Nothing is lost: the code stays in
// the page cache as long as the kernel likes, and in the file, and a page that is needed
// again is mapped again.
package footprint

import "runtime/debug"

// Release gives back what an idle process does not need: memory that the collector holds
// in reserve, and pages of the program's own file. It takes some milliseconds. Safe for
// concurrent use.
func Release() {
	debug.FreeOSMemory()
	releaseFile()
}
