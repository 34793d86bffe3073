package backup

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncAll makes everything below a folder durable, in one go: of thousands of small
// files each would cost a flush.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
