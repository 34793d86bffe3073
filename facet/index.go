package facet

import (
	"context"
	"io"
)

// Seq numbers changes. The caller chooses the numbers; they rise from batch to batch
// and may leave gaps. 0 is before the first.
type Seq uint64

// Index holds documents and answers queries about them.
//
// All methods may be called at the same time from any number of goroutines.
// Searches never wait for writers, nor writers for searches; each search sees one
// state, and a later one never an earlier state.
// After Close every method returns an error that wraps ErrClosed; Close waits
// for calls that are under way.
// Cancelling a context makes a call return its error soon; a cancelled Apply has been
// applied as a whole or not at all, and may be repeated.
type Index interface {
	// Schema returns what the index was made with. The caller does not change it.
	Schema() Schema

	// Apply makes all of the batch durable and visible, or none of it, and returns the last
	// applied sequence. A batch whose Seq is not greater than the last applied changes nothing
	// and is no error, so batches can be replayed.
	// The batch is the caller's again afterwards.
	Apply(ctx context.Context, b Batch) (Seq, error)

	// Search answers a query. Nothing of the result is shared with the index.
	Search(ctx context.Context, q Query) (Result, error)

	// Explain answers a query as Search does and says how, instead of with what.
	Explain(ctx context.Context, q Query) (Explain, error)

	// Applied returns the sequence of the last applied batch, from which a replay goes on.
	Applied(ctx context.Context) (Seq, error)

	// Snapshot gives the files of one state to dst, the one that makes them an index last.
	Snapshot(ctx context.Context, dst Sink) error

	// Caps returns what this index can do and its limits.
	Caps() Caps

	// Close ends the use of the index. Closing twice is no error.
	Close() error
}

// Batch is a change. Within one, Del is applied before Put, and the last Put of an id counts.
type Batch struct {
	Seq Seq
	Put []Doc    // replaces documents of the same ID
	Del []string // ids; those of no document are no error
}

// Doc is a document.
type Doc struct {
	ID      string             // 1 to Limits.ID bytes of UTF-8 without NUL
	Version int64              // the caller's; given back in hits and not looked at
	Fields  map[string][]Value // by the schema's names
	Source  []byte             // any bytes, given back in hits
}

// Caps says what an index can do.
type Caps struct {
	Engine         string // its name
	AtomicBatch    bool   // a batch is seen as a whole or not at all
	ReadYourWrites bool   // a search that begins after Apply returned sees the batch
	Durable        bool   // what Apply returned for survives the end of the process and power loss
	Snapshot       bool   // Snapshot works; otherwise it returns ErrUnsupported
	Limits         Limits
}

// Limits are the greatest sizes that an index takes. What is over one is refused with
// an *Error that names it; nothing is cut off.
type Limits struct {
	Page         int // hits of a page: ErrPageTooLarge
	FilterValues int // values, spans and prefixes of all filters of a query together: ErrTooMany
	Facets       int // facets and aggregations of a query: ErrTooMany
	Batch        int // documents and deletions of a batch: ErrTooMany
	Values       int // values of a field of a document: ErrTooMany
	Keyword      int // bytes of a keyword or an object: ErrBadValue
	ID           int // bytes of an id: ErrBadValue
	Source       int // bytes of a source: ErrBadValue
}

// DefaultLimits are the limits of an index for which nothing else was said.
func DefaultLimits() Limits {
	return Limits{Page: 1000, FilterValues: 65_536, Facets: 1024, Batch: 100_000, Values: 65_535, Keyword: 2048, ID: 512, Source: 64 << 20}
}

// Sink takes the files of a snapshot. Its methods are called by one goroutine at a time.
type Sink interface {
	// Put takes one file. A file that is Immutable has the same content wherever it has the same name and
	// size, so a sink that has it already need not take it again.
	Put(ctx context.Context, f File) error
}

// File is a file of a snapshot.
type File struct {
	Name      string // without folders
	Size      int64
	Immutable bool
	Path      string // where it lies if that is a local file, for hard links; good until Put returns
	Open      func() (io.ReadCloser, error)
}
