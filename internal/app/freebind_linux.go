package app

import "syscall"

// freeBind lets a listener have an address before this machine has it.
func freeBind(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_FREEBIND, 1) })
	if err != nil {
		return err
	}
	return failed
}
