//go:build unix

package app

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/waybill-run/waybill"
)

// lock takes a file as a lock that the system gives back when the process ends,
// however it ends. The file says who holds it.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who := make([]byte, 64)
		n, _ := f.ReadAt(who, 0)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, waybill.E(waybill.KindConflict, "a server already uses it (process %s)", strings.TrimSpace(string(who[:n]))).
				WithHint("stop that server, or give this one another --data directory")
		}
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
