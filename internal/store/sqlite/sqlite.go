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
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// busyTimeout is how long a connection waits for another, in milliseconds.
const busyTimeout = 10000

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

	synchronous string   // for tests; "" means FULL
	later       []string // for tests: migrations after those there are
}

// Store is a [store.Store] in a file.
type Store struct {
	path   string
	schema store.Schema
	tables map[string]*table
	clock  func() time.Time
	log    *slog.Logger
	group  int

	synchronous string
	later       []string

	read  *sql.DB
	write *sql.DB
	wconn *sql.Conn

	readersMu sync.Mutex
	readers   map[string]*sql.Stmt // by their text

	bells  *bells
	ops    chan *op
	asides chan *op      // run between transactions
	quit   chan struct{} // closed by Close
	done   chan struct{} // closed by the writer when it has ended

	mu     sync.RWMutex // guards paused; the writer alone changes it
	paused map[string]bool

	flushed atomic.Pointer[func(int, time.Duration)]

	closeOnce sync.Once
	closeErr  error
}

var _ store.Store = (*Store)(nil)

// A database file of ours says so in its header, and whether it is open: while it
// is, commits stand in the log (store.db-wal) and not in the file.
const (
	closedID = 0x5759424c // "WYBL"
	openID   = 0x5759424f // "WYBO"
)

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
		path: path, schema: schema, log: opts.Logger, clock: opts.Clock, group: opts.Group, synchronous: opts.synchronous, later: opts.later,
		bells: newBells(), ops: make(chan *op, 4096), asides: make(chan *op), quit: make(chan struct{}), done: make(chan struct{}),
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
	if err := s.inspect(ctx, opts.MustExist); err != nil {
		return nil, openError(path, err)
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
	synchronous := cmp.Or(s.synchronous, "FULL")
	pragmas := fmt.Sprintf("_pragma=busy_timeout(%d)&_pragma=synchronous(%s)&_pragma=foreign_keys(0)", busyTimeout, synchronous)
	if s.write, err = sql.Open("sqlite", dsn(s.path, pragmas+"&_pragma=cache_size(-16000)&_txlock=immediate")); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	s.write.SetMaxIdleConns(1)
	if s.wconn, err = s.write.Conn(ctx); err != nil {
		return err
	}
	if err = s.mark(ctx); err != nil {
		return err
	}
	for _, pragma := range []string{
		"PRAGMA journal_mode=WAL", "PRAGMA wal_autocheckpoint=4000",
		fmt.Sprintf("PRAGMA journal_size_limit=%d", logKept), "PRAGMA temp_store=MEMORY",
	} {
		if _, err = s.wconn.ExecContext(ctx, pragma); err != nil {
			return err
		}
	}
	// What a server that was killed left in the log goes to the file, and the log
	// begins anew: behind a torn end of it nothing may be written, see log.go.
	if err = s.checkpoint(ctx); err != nil {
		return err
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
	if err = s.markOpen(ctx); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn(s.path, pragmas+"&_pragma=query_only(1)&_pragma=cache_size(-4000)")); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(6)
	s.read.SetMaxIdleConns(maxIdleReaders)
	s.read.SetConnMaxIdleTime(time.Minute)
	return s.read.PingContext(ctx)
}

// mark marks a new file as ours. That is done before the write-ahead log is there,
// so that the mark stands in the file itself, where inspect looks for it, even if
// the first checkpoint never comes.
func (s *Store) mark(ctx context.Context) error {
	var id int64
	if err := s.wconn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil || id == closedID || id == openID {
		return err
	}
	return s.setID(ctx, closedID)
}

func (s *Store) setID(ctx context.Context, id int) error {
	_, err := s.wconn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id=%d", id))
	return err
}

// markOpen writes into the file itself that it is open, before the first commit is
// acknowledged.
func (s *Store) markOpen(ctx context.Context) error {
	if err := s.setID(ctx, openID); err != nil {
		return err
	}
	return s.checkpoint(ctx)
}

// markClosed takes that back. The last connection then moves the log into the file
// and deletes it.
func (s *Store) markClosed(ctx context.Context) error {
	var id int64
	err := s.wconn.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id)
	if err != nil || id != openID {
		return err
	}
	if err = s.setID(ctx, closedID); err == nil {
		return nil
	}
	// A full disk has no room for a longer log, but may have for the same one.
	if cerr := s.checkpoint(ctx); cerr != nil {
		return errors.Join(err, cerr)
	}
	return s.setID(ctx, closedID)
}

// keepLog lets the log outlive the last connection: a file that says it is open
// without one is taken for a lost log.
func (s *Store) keepLog() error {
	if _, err := s.wconn.ExecContext(context.Background(), "PRAGMA journal_size_limit=-1"); err != nil {
		return err
	}
	return s.raw(func(c driver.Conn) error {
		_, err := c.(sqlite.FileControl).FileControlPersistWAL("main", 1)
		return err
	})
}

// checkpoint moves the whole log into the file. The next commit begins the log anew.
func (s *Store) checkpoint(ctx context.Context) error {
	var busy, frames, moved int
	err := s.wconn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(RESTART)").Scan(&busy, &frames, &moved)
	if err == nil && (busy != 0 || frames != moved) {
		err = waybill.E(waybill.KindUnavailable, "another program uses the file")
	}
	return err
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

func isFull(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_FULL
}

var errClosed = &waybill.Error{Kind: waybill.KindUnavailable, Op: "store", Msg: "the store is closed"}

// Now implements store.Store.
func (s *Store) Now() time.Time { return s.clock() }

// Info implements store.Store.
func (s *Store) Info() store.Info {
	return store.Info{Engine: "sqlite", Schema: s.schemaVersion(), Where: s.path}
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
		if err := s.markClosed(context.Background()); err != nil {
			s.log.Warn("store not marked as closed", "err", err)
			errs = append(errs, s.keepLog())
		}
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
