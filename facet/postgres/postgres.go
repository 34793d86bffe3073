// Package postgres keeps a facet index in PostgreSQL: for several servers that share
// one index, at the price of tens to hundreds of milliseconds for what the engine of
// package facet answers in one.
//
// # Layout
//
// An index NAME has five tables in the schema that the connection's search path names
// first:
//
//	NAME_meta   one row: the schema as JSON, the last applied sequence
//	NAME_block  a block of 65,536 term numbers and the field that it belongs to
//	NAME_term   a number for each value of a keyword, boolean or object field
//	NAME_word   the words of values, for fields with Words
//	NAME_doc    a row for each document
//
// A document's row has the numbers of all its terms in one array with a GIN index,
// which filters use, and which one pass over the matching rows unnests and counts for
// all facets. Null is a term too, number 0 of a field's first block. Numbers,
// dates and ranges have columns of their own: one each for a field with a single
// value, which has an index, and an array with the least value beside it for others.
// No extension is needed.
//
// Numbers of terms are not used again. An index of which most values have changed is
// best made anew.
//
// # Promises
//
// A batch is one transaction; batches of several writers wait for each other. A search
// is one read-only transaction that sees one state, whatever is written meanwhile. An
// answer is durable as the server's synchronous_commit says. Index is safe for use by
// any number of goroutines and processes.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybill-run/waybill/facet"
)

// format is written into the meta row. An index of another format is refused.
const format = 1

// Index is an index in PostgreSQL.
type Index struct {
	pool   *pgxpool.Pool
	name   string
	schema facet.Schema
	limits facet.Limits
	cols   []column // of schema.Fields

	use    sync.RWMutex // held by calls, and by Close to wait for them
	closed bool

	terms termCache
}

var _ facet.Index = (*Index)(nil)

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

// Open opens the index of that name in the database of the URL, and makes it if it is
// not there. A schema without fields stands for that of the index, which has to be
// there then. The name consists of lower-case letters, digits and
// underscores, at most 40. An index that was made with another schema is refused with
// an error that wraps [facet.ErrSchema].
func Open(ctx context.Context, url, name string, schema facet.Schema) (*Index, error) {
	if !validName.MatchString(name) {
		return nil, &facet.Error{Kind: facet.ErrBadValue, Msg: fmt.Sprintf("the name of an index has up to 40 letters a-z, digits and underscores, %q does not", name)}
	}
	if len(schema.Fields) > 0 {
		if err := schema.Check(); err != nil {
			return nil, err
		}
	}
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("facet: open index %s: %w", name, err)
	}
	cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		// What a filter keeps differs by orders of magnitude from value to value, so a
		// plan for one is wrong for the other; compiling takes longer than most queries.
		_, err := c.Exec(ctx, "SET plan_cache_mode = force_custom_plan; SET jit = off")
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("facet: open index %s: %w", name, err)
	}
	x := &Index{pool: pool, name: name, limits: facet.DefaultLimits()}
	if err := x.open(ctx, schema); err != nil {
		pool.Close()
		return nil, fmt.Errorf("facet: open index %s: %w", name, err)
	}
	return x, nil
}

func (x *Index) open(ctx context.Context, schema facet.Schema) error {
	stored, err := x.stored(ctx)
	if errors.Is(err, errNoIndex) && len(schema.Fields) > 0 {
		if err = x.create(ctx, schema); err == nil {
			stored, err = x.stored(ctx)
		}
	}
	if err != nil {
		return err
	}
	if len(schema.Fields) > 0 && !stored.Equal(schema) {
		return &facet.Error{Kind: facet.ErrSchema, Msg: "the index was made with another schema; make one of another name"}
	}
	x.schema = stored
	x.cols = columns(stored)
	return nil
}

var errNoIndex = errors.New("there is no such index, and no schema to make one")

// stored reads the schema that the index was made with.
func (x *Index) stored(ctx context.Context) (s facet.Schema, err error) {
	var text []byte
	var version int
	err = x.pool.QueryRow(ctx, x.sql("SELECT format, schema FROM {meta}")).Scan(&version, &text)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42P01": // undefined_table
		return s, errNoIndex
	case err != nil:
		return s, err
	case version != format:
		return s, fmt.Errorf("the index has format %d, this program knows %d; make it anew", version, format)
	}
	return s, json.Unmarshal(text, &s)
}

// sql puts the names of the tables into a statement.
func (x *Index) sql(text string) string {
	return strings.NewReplacer("{meta}", x.name+"_meta", "{block}", x.name+"_block", "{term}", x.name+"_term",
		"{word}", x.name+"_word", "{doc}", x.name+"_doc", "{name}", x.name).Replace(text)
}

// Drop removes the index of that name, if it is there.
func Drop(ctx context.Context, url, name string) error {
	if !validName.MatchString(name) {
		return &facet.Error{Kind: facet.ErrBadValue, Msg: fmt.Sprintf("no index can be called %q", name)}
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("facet: drop index %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	x := Index{name: name}
	_, err = conn.Exec(ctx, x.sql("DROP TABLE IF EXISTS {meta}, {block}, {term}, {word}, {doc}"))
	return err
}

// Schema implements [facet.Index].
func (x *Index) Schema() facet.Schema { return x.schema }

// Caps implements [facet.Index].
func (x *Index) Caps() facet.Caps {
	return facet.Caps{Engine: "postgres", AtomicBatch: true, ReadYourWrites: true, Durable: true, Limits: x.limits}
}

// Applied implements [facet.Index].
func (x *Index) Applied(ctx context.Context) (facet.Seq, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	var seq int64
	if err := x.pool.QueryRow(ctx, x.sql("SELECT seq FROM {meta}")).Scan(&seq); err != nil {
		return 0, x.failed(ctx, "read the applied sequence", err)
	}
	return facet.Seq(seq), nil
}

// Snapshot is not supported: back up the database.
func (x *Index) Snapshot(ctx context.Context, _ facet.Sink) error {
	done, err := x.begin(ctx)
	if err != nil {
		return err
	}
	done()
	return &facet.Error{Kind: facet.ErrUnsupported, Msg: "snapshots; back up the database"}
}

// Close implements [facet.Index].
func (x *Index) Close() error {
	x.use.Lock()
	defer x.use.Unlock()
	if !x.closed {
		x.closed = true
		x.pool.Close()
	}
	return nil
}

// begin notes that a call is under way.
func (x *Index) begin(ctx context.Context) (done func(), err error) {
	x.use.RLock()
	if x.closed {
		x.use.RUnlock()
		return nil, &facet.Error{Kind: facet.ErrClosed}
	}
	if err := ctx.Err(); err != nil {
		x.use.RUnlock()
		return nil, err
	}
	return x.use.RUnlock, nil
}

// failed says what could not be done. What the engine's contract knows stays as it is.
func (x *Index) failed(ctx context.Context, doing string, err error) error {
	if e := ctx.Err(); e != nil {
		return fmt.Errorf("facet: index %s: %s: %w", x.name, doing, e)
	}
	var known *facet.Error
	if errors.As(err, &known) {
		return err
	}
	return fmt.Errorf("facet: index %s: %s: %w", x.name, doing, err)
}
