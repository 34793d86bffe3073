package app

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/backup"
)

// dataDir is the locked data directory of a running server.
//
//	node        id of this server; it owns units and leases under it
//	secret      256 bits from which attempts' tokens are made
//	store.db    the SQLite store
//	blobs/      content of objects, and logs
//	units/      folders of units
//	supervisor/ socket, journal and log of the process supervisor
//	server.lock held while a server runs
type dataDir struct {
	path   string
	node   string
	secret []byte
	used   bool // a server ran here before
	lock   *os.File
}

// openDataDir makes and locks a data directory. KindConflict: another server
// holds it.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*dataDir, error) {
		var w *waybill.Error
		if errors.As(err, &w) {
			return nil, w.WithOp("open data directory", path)
		}
		return nil, waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open data directory", path)
	}
	if _, err := os.Lstat(filepath.Join(path, backup.Unfinished)); err == nil {
		return fail(waybill.E(waybill.KindConflict, "a restore into it has not ended").WithHint("do it again: waybill restore BACKUP --data %s", path))
	}
	for _, dir := range []string{path, filepath.Join(path, "units")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fail(err)
		}
	}
	d := &dataDir{path: path}
	if d.lock, err = lock(filepath.Join(path, "server.lock")); err != nil {
		return fail(err)
	}
	node, fresh, err := d.once("node", func() string {
		b := make([]byte, 6)
		_, _ = rand.Read(b) // never fails
		host, err := os.Hostname()
		if err != nil || host == "" {
			host = "node"
		}
		return host + "-" + hex.EncodeToString(b)
	})
	if err != nil {
		d.Close()
		return fail(err)
	}
	d.node, d.used = node, !fresh
	secret, _, err := d.once("secret", func() string {
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails
		return hex.EncodeToString(b)
	})
	if err == nil {
		d.secret, err = hex.DecodeString(secret)
	}
	if err != nil {
		d.Close()
		return fail(err)
	}
	return d, nil
}

// once reads a small file, writing it durably the first time.
func (d *dataDir) once(name string, value func() string) (text string, fresh bool, err error) {
	path := filepath.Join(d.path, name)
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", false, err
	}
	text = value()
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", false, err
	}
	_, err = f.WriteString(text + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return text, true, err
}

func (d *dataDir) join(name string) string { return filepath.Join(d.path, name) }

// Close gives the lock back.
func (d *dataDir) Close() error {
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}
