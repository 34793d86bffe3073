//go:build !linux

package pgtest

import (
	"errors"
	"syscall"
)

func unprivileged() (*syscall.SysProcAttr, int, int, error) {
	return nil, 0, 0, errors.New("a private server is started on Linux only; set WAYBILL_TEST_POSTGRES")
}
