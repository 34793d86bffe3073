// Package blob is the contract of bulk data: the content of objects and the
// text of logs. Content is immutable and addressed by its checksum; what it is
// called, and which version is current, is a row in the store. Implementations
// pass internal/blob/blobtest.
package blob

import (
	"context"
	"io"
	"time"
)

// Ref addresses content.
type Ref struct {
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Size   int64  `json:"size"`
}

// Store keeps content. All methods are safe for concurrent use.
type Store interface {
	// Put streams r to the end and returns the content's address once it is
	// durable. Nothing is visible before; an error leaves nothing behind. More
	// than limit bytes is waybill.KindTooLarge; 0 means no limit. Storing content that is
	// there already is no error, and renews its time.
	Put(ctx context.Context, r io.Reader, limit int64) (Ref, error)
	// Open returns the content for reading, seekable, or waybill.KindNotFound.
	Open(ctx context.Context, sha256 string) (io.ReadSeekCloser, error)
	// Delete removes content; removing what is not there is no error.
	Delete(ctx context.Context, sha256 string) error
	// Walk calls f for all content until it returns an error, which Walk returns.
	// The time is that of the last Put of the content.
	Walk(ctx context.Context, f func(Ref, time.Time) error) error
	// LogFile returns the path of the append-only log of a unit of a run, making
	// its folder.
	LogFile(run, unit string) (string, error)
	// RemoveLogs deletes all logs of a run.
	RemoveLogs(run string) error
}
