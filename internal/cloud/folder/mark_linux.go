package folder

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill/internal/cloud"
)

// attempt reads which attempt has written a file, if the file says so.
func attempt(f *os.File) string {
	buf := make([]byte, 300)
	n, err := unix.Fgetxattr(int(f.Fd()), "user."+cloud.AttemptMark, buf)
	if err != nil || n <= 0 {
		return ""
	}
	return string(buf[:n])
}
