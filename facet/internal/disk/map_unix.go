//go:build unix

package disk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Map implements FS.
func (d Dir) Map(name string) (*Mapping, error) {
	f, err := os.Open(d.Path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return &Mapping{}, nil
	}
	if int64(int(info.Size())) != info.Size() {
		return nil, errors.New("the file is larger than memory can be addressed")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: d.Path(name), Err: err}
	}
	return &Mapping{Data: data, unmap: func() error { return unix.Munmap(data) }}, nil
}

// Prefetch tells the system that all of the mapping will be read soon.
func (m *Mapping) Prefetch() {
	if len(m.Data) > 0 {
		_ = unix.Madvise(m.Data, unix.MADV_WILLNEED) // advice; it may be refused
	}
}

// Lock implements FS.
func (d Dir) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(d.Path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
