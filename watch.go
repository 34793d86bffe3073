package waybill

import (
	"context"
	"time"
)

// WatchedBucket is a bucket whose objects come from elsewhere: a folder that others
// write to, or a bucket of an object store.
type WatchedBucket struct {
	Name   string `json:"name"`
	URL    string `json:"url"` // without credentials
	Prefix string `json:"prefix,omitempty"`
	// Status is "ok", "failing" (see Error), or "waiting" when nobody has looked yet.
	Status  string    `json:"status"`
	Error   string    `json:"error,omitempty"` // why the last look failed
	ErrorAt time.Time `json:"error_at,omitzero"`
	Node    string    `json:"node,omitempty"` // server that watches it
	Told    bool      `json:"told"`           // changes are told as they happen; else only listings find them

	ScanBegan time.Time `json:"scan_began,omitzero"` // of a listing that goes on
	ScannedAt time.Time `json:"scanned_at,omitzero"` // end of the last whole listing
	ScanTook  float64   `json:"scan_seconds"`
	Listed    int64     `json:"listed"` // objects in it
	// Asked counts the scans that were asked for, Answered those that are done.
	Asked    int64 `json:"asked"`
	Answered int64 `json:"answered"`

	Taken      int64   `json:"taken"`       // versions that became objects, ever
	Duplicates int64   `json:"duplicates"`  // changes told of versions that were known
	Pending    int64   `json:"pending"`     // not settled, or not read yet
	Failed     int64   `json:"failed"`      // could not be read and are tried again
	Skipped    int64   `json:"skipped"`     // not taken, for a reason
	Finishing  int64   `json:"finishing"`   // taken, still to be deleted or moved at their source
	Lag        float64 `json:"lag_seconds"` // how long the oldest that could be taken has waited

	Problems []WatchProblem `json:"problems,omitempty"` // up to 100; only of one bucket
}

// WatchProblem is an object of a watched bucket that was not taken, or whose source
// could not be dealt with.
type WatchProblem struct {
	Key    string    `json:"key"`
	State  string    `json:"state"`  // "failed", "skipped" or "finishing"
	Reason string    `json:"reason"` // object_gone, empty, too_large, bad_name, unreadable, …
	Error  string    `json:"error,omitempty"`
	At     time.Time `json:"at"`
	Next   time.Time `json:"next,omitzero"` // when it is tried again
}

// Watches tells of watched buckets.
type Watches interface {
	WatchedBuckets(ctx context.Context) ([]WatchedBucket, error)
	// WatchedBucket returns one with its problems. KindNotFound: it is not watched.
	WatchedBucket(ctx context.Context, name string) (WatchedBucket, error)
	// ScanBucket asks for a listing now and returns at once. It is done when Answered
	// has reached the Asked of what is returned.
	ScanBucket(ctx context.Context, name string, by Principal) (WatchedBucket, error)
}

// Source is a queue of another system from which messages are taken.
type Source struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	URL   string `json:"url"` // without credentials
	Queue string `json:"queue"`
	// Status of this server's connection: "ok", "failing" (see Error), "full" (our own
	// queue has no room, so nothing is taken) or "waiting".
	Status     string    `json:"status"`
	Error      string    `json:"error,omitempty"`
	ErrorAt    time.Time `json:"error_at,omitzero"`
	Received   int64     `json:"received"`   // deliveries, since this server started
	Accepted   int64     `json:"accepted"`   // new messages
	Duplicates int64     `json:"duplicates"` // deliveries of messages that were known
	Dead       int64     `json:"dead"`       // refused into the dead letters
	LastAt     time.Time `json:"last_at,omitzero"`
}

// Sources tells of the queues of other systems.
type Sources interface {
	Sources(ctx context.Context) ([]Source, error)
}
