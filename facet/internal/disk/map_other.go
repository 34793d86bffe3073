//go:build !unix

package disk

import (
	"io"
	"os"
)

// Map implements FS by reading the file.
func (d Dir) Map(name string) (*Mapping, error) {
	data, err := os.ReadFile(d.Path(name))
	return &Mapping{Data: data}, err
}

// Prefetch does nothing: the content is in memory.
func (m *Mapping) Prefetch() {}

// Lock implements FS. Where files cannot be locked, nothing keeps a second process away.
func (d Dir) Lock(name string) (io.Closer, error) {
	return os.OpenFile(d.Path(name), os.O_RDWR|os.O_CREATE, 0o600)
}
