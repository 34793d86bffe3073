// Package sqlite keeps a store in one SQLite file.
//
// There is one writer: a goroutine that folds every commit, claim and extension
// that waits into one transaction and one flush (WAL, synchronous=FULL), so the
// price of durability is shared by concurrent callers. Readers use connections
// of their own and see the last flushed group. The writer remembers the lanes and revisions it
// touched lately; only this process writes the file, so the memory is exact, and it is
// forgotten whenever a transaction fails.
//
// The file belongs to one process at a time and to a local disk; the data
// directory's lock (internal/app) sees to the first.
package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Options change how a store is opened. The zero value is for production.
type Options struct {
	// Clock replaces the store's clock, which otherwise starts at the wall clock
	// and follows the monotonic one.
	Clock func() time.Time
	// Logger receives notices such as migrations; nil discards them.
	Logger *slog.Logger
	// MustExist refuses to make a new database: the folder was in use before, so a
	// missing or empty file means that it was lost.
	MustExist bool
	// Group is the largest number of operations in one transaction; 0 means 512.
	Group int
}

// Store is a [store.Store] in a file.
type Store struct {
	path   string
	schema store.Schema
	tables map[string]*table
	clock  func() time.Time
	log    *slog.Logger
	group  int

	read  *sql.DB
	write *sql.DB
	wconn *sql.Conn

	readersMu sync.Mutex
	readers   map[string]*sql.Stmt // by their text

	bells *bells
	ops   chan *op
	quit  chan struct{} // closed by Close
	done  chan struct{} // closed by the writer when it has ended

	mu     sync.RWMutex // guards paused; the writer alone changes it
	paused map[string]bool

	closeOnce sync.Once
	closeErr  error
}

var _ store.Store = (*Store)(nil)

// applicationID marks a database file as one of ours ("WYBL").
const applicationID = 0x5759424c

// Open opens the database file at path, making it if it does not exist, and
// brings it to the current schema. Errors: waybill.KindConflict for a file that is not
// ours or was written by a newer version, waybill.KindUnavailable for one that is
// damaged or cannot be read. A file that is refused is left as it was.
func Open(ctx context.Context, path string, schema store.Schema, opts Options) (*Store, error) {
	schema = append(append(store.Schema{}, schema...), store.Dead())
	if err := schema.Validate(); err != nil {
		return nil, err
	}
	s := &Store{
		path: path, schema: schema, log: opts.Logger, clock: opts.Clock, group: opts.Group,
		bells: newBells(), ops: make(chan *op, 4096), quit: make(chan struct{}), done: make(chan struct{}),
		paused: map[string]bool{}, readers: map[string]*sql.Stmt{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.clock == nil {
		start := time.Now()
		s.clock = func() time.Time { return start.Round(0).Add(time.Since(start)) }
	}
	if s.group <= 0 {
		s.group = 512
	}
	if err := inspect(path, opts.MustExist); err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		s.closeDBs()
		return nil, openError(path, err)
	}
	go s.writer()
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	var err error
	dsn := func(extra string) string {
		return "file:" + (&url.URL{Path: s.path}).EscapedPath() +
			"?_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)&_pragma=foreign_keys(0)" + extra
	}
	if s.write, err = sql.Open("sqlite", dsn("&_pragma=cache_size(-16000)&_txlock=immediate")); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	s.write.SetMaxIdleConns(1)
	if s.wconn, err = s.write.Conn(ctx); err != nil {
		return err
	}
	if err = s.check(ctx); err != nil {
		return err
	}
	if err = s.mark(ctx); err != nil {
		return err
	}
	for _, pragma := range []string{
		"PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=4000",
		"PRAGMA journal_size_limit=67108864", "PRAGMA temp_store=MEMORY",
	} {
		if _, err = s.wconn.ExecContext(ctx, pragma); err != nil {
			return err
		}
	}
	if err = s.migrate(ctx); err != nil {
		return err
	}
	if s.tables, err = s.prepareTables(ctx); err != nil {
		return err
	}
	if err = s.loadPaused(ctx); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)&_pragma=cache_size(-4000)")); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(6)
	s.read.SetMaxIdleConns(3)
	s.read.SetConnMaxIdleTime(time.Minute)
	return s.read.PingContext(ctx)
}

// inspect looks at the file before SQLite does: SQLite takes an empty file for a
// new database, and finds out about missing pages only when it needs them.
func inspect(path string, mustExist bool) error {
	refuse := func(kind waybill.Kind, format string, args ...any) error {
		return waybill.E(kind, format, args...).WithOp("open store", filepath.Base(path))
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		if mustExist {
			return refuse(waybill.KindUnavailable, "the file is missing from a data directory that was in use").(*waybill.Error).
				WithHint("restore the file from a backup, or start with an empty data directory")
		}
		return nil
	}
	if err != nil {
		return refuse(waybill.KindUnavailable, "%w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return refuse(waybill.KindUnavailable, "%w", err)
	}
	if !st.Mode().IsRegular() {
		return refuse(waybill.KindConflict, "not a regular file")
	}
	if st.Size() == 0 {
		if mustExist {
			return refuse(waybill.KindUnavailable, "the file is empty though the data directory was in use").(*waybill.Error).
				WithHint("restore the file from a backup, or start with an empty data directory")
		}
		return nil
	}
	var h [100]byte
	if _, err := io.ReadFull(f, h[:]); err != nil || string(h[:16]) != "SQLite format 3\x00" {
		return refuse(waybill.KindConflict, "not a Waybill store: the file has another format")
	}
	// Offsets from https://www.sqlite.org/fileformat.html §1.3.
	if id := binary.BigEndian.Uint32(h[68:]); id != applicationID {
		return refuse(waybill.KindConflict, "not a Waybill store: the database belongs to another program")
	}
	if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
		return nil // a checkpoint that was cut off has announced pages which are still in the log
	}
	size := int64(binary.BigEndian.Uint16(h[16:]))
	if size == 1 {
		size = 65536
	}
	pages := int64(binary.BigEndian.Uint32(h[28:]))
	if counted := binary.BigEndian.Uint32(h[24:]) == binary.BigEndian.Uint32(h[92:]); counted && st.Size() < pages*size {
		return refuse(waybill.KindUnavailable, "the file is cut short: it has %d bytes of %d", st.Size(), pages*size).(*waybill.Error).
			WithHint("restore the file from a backup")
	}
	return nil
}

// mark marks a new file as ours. That is done before the write-ahead log is there,
// so that the mark stands in the file itself, where inspect looks for it, even if
// the first checkpoint never comes.
func (s *Store) mark(ctx context.Context) error {
	var id int64
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil || id == applicationID {
		return err
	}
	_, err := s.wconn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id=%d", applicationID))
	return err
}

// checkLimit is the size up to which every page of the file is checked at start;
// a larger file would hold the start up for too long.
const checkLimit = 64 << 20

func (s *Store) check(ctx context.Context) error {
	var pages, size int64
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA page_size").Scan(&size); err != nil {
		return err
	}
	if pages*size > checkLimit {
		return nil
	}
	var result string
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return waybill.E(waybill.KindUnavailable, "the file is damaged: %s", result)
	}
	return nil
}

// openError says what is wrong with a file in words, once for all the ways in
// which opening can fail.
func openError(path string, err error) error {
	var w *waybill.Error
	if errors.As(err, &w) {
		return w.WithOp("open store", filepath.Base(path))
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return waybill.E(waybill.KindUnavailable, "the file is damaged: %w", err).
				WithOp("open store", filepath.Base(path)).WithHint("restore the file from a backup")
		}
	}
	return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("open store", filepath.Base(path))
}

// unavailable translates an error of the engine.
func unavailable(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var w *waybill.Error
	if errors.As(err, &w) {
		return err
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		switch se.Code() & 0xff {
		case sqlite3.SQLITE_FULL:
			e := waybill.E(waybill.KindUnavailable, "the disk is full")
			e.Op, e.Err, e.RetryAfter = "store", err, 5*time.Second
			return e
		case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
			e := waybill.E(waybill.KindUnavailable, "the disk or the file cannot be used")
			e.Op, e.Err, e.RetryAfter = "store", err, 5*time.Second
			return e
		}
	}
	return fmt.Errorf("store: %w", err)
}

var errClosed = &waybill.Error{Kind: waybill.KindUnavailable, Op: "store", Msg: "the store is closed"}

// Now implements store.Store.
func (s *Store) Now() time.Time { return s.clock() }

// Info implements store.Store.
func (s *Store) Info() store.Info {
	return store.Info{Engine: "sqlite", Schema: schemaVersion(), Where: s.path}
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.quit)
		<-s.done
		s.closeErr = s.closeDBs()
	})
	return s.closeErr
}

func (s *Store) closeDBs() error {
	var errs []error
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.wconn != nil {
		errs = append(errs, s.wconn.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	return errors.Join(errs...)
}

// raw gives the writer the driver's connection: going through database/sql for
// each of its statements would cost as much again as the statements themselves.
func (s *Store) raw(f func(driver.Conn) error) error {
	return s.wconn.Raw(func(c any) error { return f(c.(driver.Conn)) })
}
