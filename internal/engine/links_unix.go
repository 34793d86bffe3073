//go:build unix

package engine

import (
	"os"
	"syscall"
)

// links returns how many names a file has.
func links(st os.FileInfo) int {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(s.Nlink)
	}
	return 0
}
