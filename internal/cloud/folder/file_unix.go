//go:build unix

package folder

import (
	"io/fs"
	"syscall"
)

// openFlags keep an open from waiting for the other end of a pipe that has taken
// the place of a file.
const openFlags = syscall.O_NONBLOCK

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino) //nolint:unconvert // it has other types elsewhere
	}
	return 0
}
