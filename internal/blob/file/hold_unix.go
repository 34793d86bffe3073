//go:build unix

package file

import (
	"os"
	"syscall"
	"time"
)

// hold marks a file as being written by this process. The mark goes when the file
// is closed or the process ends, however it ends.
func hold(f *os.File) {
	// Without the mark the file is only in danger when it is tidied up after a
	// minute, by another process; then its Put fails.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// abandoned reports whether nobody writes a file.
func abandoned(path string, _ time.Time) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close() // it was only looked at
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}
