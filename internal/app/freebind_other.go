//go:build !linux

package app

import "syscall"

// freeBind does nothing where containers do not run.
func freeBind(string, string, syscall.RawConn) error { return nil }
