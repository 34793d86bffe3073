// Package cloud is the contract of buckets that lie elsewhere: folders that
// others write to, and buckets of object stores. Waybill reads them; what it
// finds there becomes an object of its own.
//
// Implementations are made by an [Opener] for the scheme of a URL and pass
// internal/cloud/cloudtest.
package cloud

import (
	"context"
	"io"
	"iter"
	"net/url"
	"time"
)

// Bucket is a folder or a bucket. All methods are safe for concurrent use.
//
// Errors are of these kinds of package waybill: KindNotFound (no such bucket or
// object), KindConflict (the object has another version than was asked for),
// KindForbidden and KindUnauthorized (the credentials do not open it),
// KindUnavailable (try again later).
type Bucket interface {
	// Pages lists the objects whose key begins with prefix. Keys come in the order
	// of their bytes where the bucket can do that. from is the Next of a page seen
	// before, also by another process; empty begins at the beginning. A listing that
	// fails yields the error as its last.
	Pages(ctx context.Context, prefix, from string) iter.Seq2[Page, error]
	// Stat describes the current version of an object.
	Stat(ctx context.Context, key string) (Entry, error)
	// Open reads the given version of an object and no other. A Read that comes upon
	// a change of the object fails with KindConflict, at the latest at the end of
	// the content; one that is cut short fails with KindUnavailable.
	Open(ctx context.Context, key, version string) (Entry, io.ReadCloser, error)
	// Delete removes an object if that is its version. One that is not there is no
	// error.
	Delete(ctx context.Context, key, version string) error
	// Move gives an object another key in the same bucket, if that is its version;
	// an object that is there already is replaced. If the object is not there and
	// its new key is, that is no error.
	Move(ctx context.Context, key, version, to string) error
	io.Closer
}

// Page is a part of a listing. Next is where the part after it begins, empty on
// the last page.
type Page struct {
	Entries []Entry
	Next    string
}

// Entry describes a version of an object.
type Entry struct {
	Key string
	// Version is another one whenever the content may be another one: a generation,
	// an entity tag with a time, or what a file system tells. It means nothing else.
	Version     string
	Size        int64
	Modified    time.Time
	ContentType string // known from Open only
	// Attempt is the key of the attempt that wrote the object, if the object says
	// so: see AttemptMark. Known from Open only.
	Attempt string
	// Err says why this cannot be read, when the listing knows: a link, a device, a
	// folder that may not be entered.
	Err error
}

// AttemptMark is the name of the metadata (of an object store) or, with "user."
// before it, of the extended attribute (of a file) by which whatever writes an
// object tells which attempt of a run it is. Stores that do not allow the dash get
// an underscore for it.
const AttemptMark = "waybill-attempt"

// Changes tells of changes as they happen. It is a hint: changes may be told
// twice, late or never.
type Changes interface {
	// Wait returns keys that may have changed since it was last called, and whether
	// there may be more than those.
	Wait(ctx context.Context) (keys []string, more bool, err error)
	io.Closer
}

// Notifier is a bucket that can tell of changes.
type Notifier interface {
	Notify(ctx context.Context, prefix string) (Changes, error)
}

// Opener opens the bucket that a URL of its scheme names. KindInvalid: the URL
// says something that is not understood. Whether the bucket can be reached is not
// asked.
type Opener func(ctx context.Context, u *url.URL) (Bucket, error)
