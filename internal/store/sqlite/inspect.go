package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/waybill-run/waybill"
)

// dsn names the file for SQLite.
func dsn(path, query string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query
}

// Hints of files that are refused.
const (
	hintBackup = "restore the file from a backup"
	hintLost   = "restore the file from a backup, or start with an empty data directory"
	hintLog    = "put the file %s back beside it, or restore both from a backup; " +
		"if you know that nothing is missing, make an empty file of that name"
)

// header is what counts of the first bytes of a database file
// (https://www.sqlite.org/fileformat.html §1.3).
type header struct {
	id     uint32
	logged bool  // commits go to a log
	size   int64 // that the file should have; 0 when it does not say
}

func readHeader(f io.Reader) (header, bool) {
	var b [100]byte
	if _, err := io.ReadFull(f, b[:]); err != nil || string(b[:16]) != "SQLite format 3\x00" {
		return header{}, false
	}
	h := header{id: binary.BigEndian.Uint32(b[68:]), logged: b[18] == 2}
	page := int64(binary.BigEndian.Uint16(b[16:]))
	if page == 1 {
		page = 65536
	}
	if binary.BigEndian.Uint32(b[24:]) == binary.BigEndian.Uint32(b[92:]) {
		h.size = page * int64(binary.BigEndian.Uint32(b[28:]))
	}
	return h, true
}

// inspect looks at the files before SQLite may change them: SQLite takes an empty
// file for a new database and an absent or damaged log for an empty one, finds out
// about missing pages only when it needs them, and tidies up whatever it has opened.
func (s *Store) inspect(ctx context.Context, mustExist bool) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0) // for writing, because it will be written
	if errors.Is(err, os.ErrNotExist) {
		if mustExist {
			return waybill.E(waybill.KindUnavailable, "the file is missing from a data directory that was in use").WithHint(hintLost)
		}
		if _, err := os.Stat(filepath.Dir(s.path)); err != nil {
			return err
		}
		return nil
	}
	st, serr := os.Stat(s.path)
	if serr == nil && !st.Mode().IsRegular() {
		if err == nil {
			f.Close()
		}
		return waybill.E(waybill.KindConflict, "not a regular file")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if serr != nil {
		return serr
	}
	if st.Size() == 0 {
		if mustExist {
			return waybill.E(waybill.KindUnavailable, "the file is empty though the data directory was in use").WithHint(hintLost)
		}
		return nil
	}
	h, ok := readHeader(f)
	if !ok {
		return waybill.E(waybill.KindConflict, "not a Waybill store: the file has another format")
	}
	if h.id != closedID && h.id != openID {
		return waybill.E(waybill.KindConflict, "not a Waybill store: the database belongs to another program")
	}
	l, err := readLog(s.path + "-wal")
	if err != nil {
		return err
	}
	// Without a log the file itself must be whole. With one, a checkpoint that was
	// cut off may have announced pages which are still in the log.
	if l.frames == 0 && st.Size() < h.size {
		return waybill.E(waybill.KindUnavailable, "the file is cut short: it has %d bytes of %d", st.Size(), h.size).WithHint(hintBackup)
	}
	if h.id == openID && h.logged {
		if err := s.inspectLog(l); err != nil {
			return err
		}
	}
	if _, err := os.Stat(s.path + "-journal"); err == nil {
		return nil // the very first write was cut off; SQLite undoes it
	}
	return s.examine(ctx, l)
}

// inspectLog decides about the log of a store that was not closed.
func (s *Store) inspectLog(l logState) error {
	name := filepath.Base(s.path) + "-wal"
	switch {
	case !l.exists:
		return waybill.E(waybill.KindUnavailable, "the store was not closed in order, and its log with the last commits (%s) is missing", name).
			WithHint(hintLog, name)
	case l.size == 0:
		s.log.Warn("the store was not closed in order, and its log is empty; commits may be missing", "file", name)
	case !l.readable:
		return waybill.E(waybill.KindUnavailable, "the store was not closed in order, and the beginning of its log (%s) is damaged", name).
			WithHint(hintLog, name)
	case l.lost > 0:
		return waybill.E(waybill.KindUnavailable, "its log (%s) is damaged at byte %d: at least %d later commits cannot be read", name, l.bad, l.lost).
			WithHint(hintLog, name)
	case l.torn > 0:
		s.log.Warn("the store was not closed in order; commits taken from its log, but for an unfinished one at its end",
			"commits", l.commits, "unfinished_bytes", l.torn, "file", name)
	default:
		s.log.Info("the store was not closed in order; commits taken from its log", "commits", l.commits, "file", name)
	}
	return nil
}

// checkLimit is the size up to which every page of the file is checked at start;
// a larger file would hold the start up for too long.
const checkLimit = 64 << 20

// examine reads the store, with its log, and changes nothing.
func (s *Store) examine(ctx context.Context, l logState) (err error) {
	mode := "mode=ro"
	if !l.exists {
		mode = "mode=ro&immutable=1" // otherwise SQLite would make a log
	}
	if _, serr := os.Stat(s.path + "-shm"); errors.Is(serr, os.ErrNotExist) {
		defer func() {
			if err != nil {
				err = errors.Join(err, ignoreAbsent(os.Remove(s.path+"-shm")))
			}
		}()
	}
	db, err := sql.Open("sqlite", dsn(s.path, fmt.Sprintf("%s&_pragma=busy_timeout(%d)", mode, busyTimeout)))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	db.SetMaxOpenConns(1)
	ask := func(pragma string, to any) {
		if err == nil {
			err = db.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(to)
		}
	}
	var version int
	var pages, size int64
	ask("user_version", &version)
	if err == nil {
		err = s.checkVersion(version)
	}
	ask("page_count", &pages)
	ask("page_size", &size)
	if err != nil || pages*size > checkLimit {
		return err
	}
	var result string
	ask("quick_check(1)", &result)
	if err == nil && result != "ok" {
		err = waybill.E(waybill.KindUnavailable, "the file is damaged: %s", result).WithHint(hintBackup)
	}
	return err
}

func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// openError says what is wrong with a file in words, once for all the ways in
// which opening can fail.
func openError(path string, err error) error {
	name := filepath.Base(path)
	var w *waybill.Error
	if errors.As(err, &w) {
		return w.WithOp("open store", name)
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return waybill.E(waybill.KindUnavailable, "the file is damaged: %w", err).WithOp("open store", name).WithHint(hintBackup)
		case sqlite3.SQLITE_FULL:
			return waybill.E(waybill.KindUnavailable, "the disk is full").WithOp("open store", name)
		}
	}
	return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open store", name)
}
