package app

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// freeBind lets a listener have an address before this machine has it.
func freeBind(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
	if err != nil {
		return err
	}
	return failed
}
