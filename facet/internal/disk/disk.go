// Package disk is what the facet engine asks of a file system: a folder of files that are written once,
// made durable, renamed and mapped into memory. Tests put one in its place that loses what was not synced.
package disk

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// FS is one folder. Names are without separators.
type FS interface {
	// Create makes a file that must not exist.
	Create(name string) (File, error)
	// Rename puts a file in the place of another.
	Rename(from, to string) error
	// Remove deletes a file.
	Remove(name string) error
	// Sync makes the folder's entries durable: files created, renamed and removed before.
	Sync() error
	// List returns the names of the files.
	List() ([]string, error)
	// ReadFile returns a whole file.
	ReadFile(name string) ([]byte, error)
	// Map maps a file into memory to be read.
	Map(name string) (*Mapping, error)
	// Lock takes the folder for this process, until the result is closed. ErrLocked if another has it.
	Lock(name string) (io.Closer, error)
	// Path is where the file is for other programs.
	Path(name string) string
}

// File is a file being written.
type File interface {
	io.Writer
	// Sync makes what was written durable.
	Sync() error
	Close() error
}

// ErrLocked is returned for a folder that another process uses.
var ErrLocked = errors.New("locked by another process")

// Mapping is the content of a file. It is readable until Close.
//
// If the file is cut short or cannot be read behind the program's back, reading Data faults.
// Readers call debug.SetPanicOnFault and recover.
type Mapping struct {
	Data  []byte
	unmap func() error
}

// Close gives the memory back.
func (m *Mapping) Close() error {
	if m.unmap == nil {
		return nil
	}
	unmap := m.unmap
	m.unmap, m.Data = nil, nil
	return unmap()
}

// Dir is a folder of the operating system.
type Dir string

// Open makes the folder if it is not there.
func Open(path string) (Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	return Dir(path), nil
}

// Path implements FS.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// Create implements FS.
func (d Dir) Create(name string) (File, error) {
	return os.OpenFile(d.Path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Rename implements FS.
func (d Dir) Rename(from, to string) error { return os.Rename(d.Path(from), d.Path(to)) }

// Remove implements FS.
func (d Dir) Remove(name string) error { return os.Remove(d.Path(name)) }

// Sync implements FS.
func (d Dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

// List implements FS.
func (d Dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ReadFile implements FS.
func (d Dir) ReadFile(name string) ([]byte, error) { return os.ReadFile(d.Path(name)) }
