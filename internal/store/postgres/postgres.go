// Package postgres keeps a store in PostgreSQL, which several servers may share.
//
// Commits of concurrent callers are written in groups: a few committers, each on
// a connection of its own, take what waits and write it set by set in two round
// trips, whatever the size of the group (see group.go). Texts, row locks and
// conditions are taken in one order everywhere, so that groups never deadlock.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Options tune a store. The zero value is good.
type Options struct {
	// Clock measures leases and delays. Nil means this machine's monotonic clock
	// set by the database's, so that several servers agree.
	Clock func() time.Time
	// Logger tells of lost connections; nil means silence.
	Logger *slog.Logger
	// Committers write groups of commits at the same time; 0 means 3.
	Committers int
	// Group is how many commits one group has at most; 0 means 256.
	Group int
	// NoListen does without LISTEN, as a pooler in between may need: bells of
	// other processes then ring within a second or so.
	NoListen bool
}

// Store implements store.Store.
type Store struct {
	flushed atomic.Pointer[func(int, time.Duration)]

	opts   Options
	log    *slog.Logger
	tables map[string]*table
	where  string
	schema string       // of the database, where our tables are
	base   atomic.Int64 // of event positions; see read.go
	lockID int32        // of this schema, among advisory locks
	clock  func() time.Time

	read *pgxpool.Pool // queries, planned for their values
	work *pgxpool.Pool // claims and the like, planned once: they run on short lists
	conf *pgx.ConnConfig

	queue  queue
	bells  bells
	cancel context.CancelFunc // ends background work but no commit
	wg     sync.WaitGroup
	once   sync.Once
	closed chan struct{}
}

var _ store.Store = (*Store)(nil)

// Open connects to the database of the DSN (a URL or keywords, see libpq), brings
// its tables up to date and derives again what another version of the schema
// left. Tables are made in the first schema of the search_path. A database that
// is newer than this program, or has tables of ours without our version row, is
// refused with waybill.KindConflict.
func Open(ctx context.Context, dsn string, schema store.Schema, opts Options) (*Store, error) {
	if _, ok := schema.Lookup(store.DeadTable); !ok {
		schema = append(append(store.Schema{}, schema...), store.Dead())
	}
	if err := schema.Validate(); err != nil {
		return nil, waybill.E(waybill.KindInvalid, "%w", err)
	}
	// The driver's errors may quote the DSN, so they are not passed on.
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "open PostgreSQL: the address of the database cannot be read").
			WithHint("it looks like postgres://user@host/database")
	}
	if opts.Committers <= 0 {
		opts.Committers = 3
	}
	if opts.Group <= 0 {
		opts.Group = 256
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if conf.ConnConfig.ConnectTimeout == 0 {
		conf.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	if !strings.Contains(dsn, "pool_max_conns") {
		conf.MaxConns = 8
	}
	if _, ok := conf.ConnConfig.RuntimeParams["application_name"]; !ok {
		conf.ConnConfig.RuntimeParams["application_name"] = "waybill"
	}
	s := &Store{
		opts:   opts,
		log:    opts.Logger,
		where:  where(conf.ConnConfig),
		conf:   conf.ConnConfig.Copy(),
		clock:  opts.Clock,
		closed: make(chan struct{}),
		tables: map[string]*table{},
	}
	s.conf.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	for _, off := range []string{"enable_hashjoin", "enable_mergejoin", "enable_seqscan", "enable_material"} {
		s.conf.RuntimeParams[off] = "off"
	}
	for i := range schema {
		s.tables[schema[i].Name] = newTable(&schema[i])
	}
	if err := s.open(ctx, schema, conf); err != nil {
		s.closePools()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, schema store.Schema, conf *pgxpool.Config) error {
	conn, err := pgx.ConnectConfig(ctx, conf.ConnConfig)
	if err != nil {
		return s.failed(ctx, "open PostgreSQL", err)
	}
	err = s.prepare(ctx, conn, schema)
	if s.clock == nil && err == nil {
		c := &clock{start: time.Now()}
		if err = c.sync(ctx, conn); err == nil {
			s.clock = c.Now
			s.background(func(ctx context.Context) { s.keepTime(ctx, c) })
		}
	}
	if cerr := conn.Close(ctx); err == nil {
		err = cerr
	}
	if err != nil {
		return s.failed(ctx, "open PostgreSQL", err)
	}
	if s.read, err = pgxpool.NewWithConfig(ctx, conf); err != nil {
		return s.fail("open PostgreSQL", err)
	}
	work := conf.Copy()
	work.ConnConfig = s.conf
	if s.work, err = pgxpool.NewWithConfig(ctx, work); err != nil {
		return s.fail("open PostgreSQL", err)
	}
	s.queue.wake = make(chan struct{}, s.opts.Committers)
	for range s.opts.Committers {
		s.queue.wg.Go(func() { (&committer{s: s}).run() })
	}
	s.bells.init()
	s.background(s.notify)
	s.background(s.settle)
	s.background(s.poll)
	if !s.opts.NoListen {
		s.background(s.listen)
	}
	return nil
}

// background runs f until the store is closed.
func (s *Store) background(f func(context.Context)) {
	if s.cancel == nil {
		s.bells.ctx, s.cancel = context.WithCancel(context.Background())
	}
	ctx := s.bells.ctx
	s.wg.Go(func() { f(ctx) })
}

// Close implements store.Store. Closing again does nothing.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.queue.close()
		s.queue.wg.Wait()
		close(s.closed)
		s.closePools()
	})
	return nil
}

func (s *Store) closePools() {
	if s.cancel != nil {
		s.cancel()
	}
	s.wg.Wait()
	if s.read != nil {
		s.read.Close()
	}
	if s.work != nil {
		s.work.Close()
	}
}

// Now implements store.Store.
func (s *Store) Now() time.Time { return s.clock() }

func (s *Store) now() int64 { return s.clock().UnixMicro() }

// Info implements store.Store.
func (s *Store) Info() store.Info {
	return store.Info{Engine: "postgres", Schema: schemaVersion, Where: s.where}
}

func where(c *pgx.ConnConfig) string {
	host := c.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(host, fmt.Sprint(c.Port))
	}
	return host + " database " + c.Database
}

func (s *Store) table(name string) (*table, error) {
	if t, ok := s.tables[name]; ok {
		return t, nil
	}
	return nil, waybill.E(waybill.KindInvalid, "store: no table %q is registered", name)
}

func tenantOf(tenant string) string {
	if tenant == "" {
		return store.DefaultTenant
	}
	return tenant
}

func micros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// fail translates an error of the driver; errors of ours stay as they are.
func (s *Store) fail(op string, err error) error {
	var own *waybill.Error
	var pg *pgconn.PgError
	switch {
	case err == nil || errors.As(err, &own) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrLeaseLost):
		return err
	case errors.As(err, &pg):
		kind, msg := waybill.KindInternal, ""
		switch class := pg.Code[:2]; {
		case pg.Code == "53100":
			kind, msg = waybill.KindUnavailable, "the disk of the database is full"
		case class == "08", class == "53", class == "57", class == "28", class == "3D", class == "40", pg.Code == "25006", pg.Code == "55P03":
			kind, msg = waybill.KindUnavailable, "the database refused: "+pg.Message
		case class == "54":
			kind, msg = waybill.KindTooLarge, "a key or column is too large for the database"
		case class == "22":
			kind, msg = waybill.KindInvalid, "the database cannot hold the value: "+pg.Message
		}
		return &waybill.Error{Kind: kind, Op: op, Msg: msg, Err: err}
	}
	// The text of the driver's error may name the user: it is kept as the cause only.
	return &waybill.Error{Kind: waybill.KindUnavailable, Op: op, Msg: "the database at " + s.where + " cannot be reached", Err: err}
}

// failed is fail for a call of a user, whose context's own error wins.
func (s *Store) failed(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	select {
	case <-s.closed:
		return waybill.E(waybill.KindUnavailable, "%s: the store is closed", op)
	default:
		return s.fail(op, err)
	}
}

// clock is the database's time carried on by this machine's monotonic clock. It
// never goes back.
type clock struct {
	start  time.Time
	offset atomic.Int64 // microseconds since 1970 at start
	last   atomic.Int64
}

func (c *clock) Now() time.Time {
	now := c.offset.Load() + time.Since(c.start).Microseconds()
	for {
		last := c.last.Load()
		if now <= last {
			return micros(last)
		}
		if c.last.CompareAndSwap(last, now) {
			return micros(now)
		}
	}
}

// sync takes the quickest of a few answers, whose error is at most half of the
// time it took.
func (c *clock) sync(ctx context.Context, q querier) error {
	best := time.Duration(1 << 62)
	var offset int64
	for range 3 {
		before := time.Now()
		var db int64
		if err := q.QueryRow(ctx, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").Scan(&db); err != nil {
			return err
		}
		if took := time.Since(before); took < best {
			best, offset = took, db-(before.Sub(c.start)+took/2).Microseconds()
		}
	}
	c.offset.Store(offset)
	return nil
}

func (s *Store) keepTime(ctx context.Context, c *clock) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := c.sync(ctx, s.read); err != nil && ctx.Err() == nil {
				s.log.Warn("the clock of the database cannot be read", "error", err)
			}
		}
	}
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}
