package waybill

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind classifies an error by what the caller can do about it. Kinds cross the
// wire (as the "kind" member of a problem document), so the list is append-only.
type Kind string

// The kinds of error.
const (
	KindMalformed    Kind = "malformed"    // the request cannot be read at all (bad JSON, bad header)
	KindInvalid      Kind = "invalid"      // it can be read but breaks a rule; names the field or the line
	KindNotFound     Kind = "not_found"    // no such thing, or not visible to this caller
	KindConflict     Kind = "conflict"     // it exists already, is read-only, or was changed meanwhile
	KindGone         Kind = "gone"         // it was there and is closed for good
	KindUnauthorized Kind = "unauthorized" // no valid credentials
	KindForbidden    Kind = "forbidden"    // valid credentials without the right
	KindTooLarge     Kind = "too_large"    // over a size limit; the text names the limit
	KindExhausted    Kind = "exhausted"    // a queue or rate limit is full; try again after RetryAfter
	KindUnavailable  Kind = "unavailable"  // a part we depend on is down or full; nothing was changed
	KindLost         Kind = "lost"         // the thing asked about no longer exists and its outcome is unknown
	KindCanceled     Kind = "canceled"     // the caller went away or asked to stop
	KindUnsupported  Kind = "unsupported"  // known, but not by this implementation
	KindInternal     Kind = "internal"     // a defect of ours; the text stays in the server log
)

// Kinds lists every kind once, for tables that must be complete.
func Kinds() []Kind {
	return []Kind{
		KindMalformed, KindInvalid, KindNotFound, KindConflict, KindGone, KindUnauthorized, KindForbidden,
		KindTooLarge, KindExhausted, KindUnavailable, KindLost, KindCanceled, KindUnsupported, KindInternal,
	}
}

// Error is the one error type that crosses package borders. It reads
// "what failed: why". Msg is shown to users; the text of Err is shown only when
// Msg is empty and the kind is not KindInternal.
type Error struct {
	Kind       Kind
	Op         string        // what failed, for example "start pipeline"
	Subject    string        // what it was done to, for example a run id or file name
	Msg        string        // why, in words a user understands
	Hint       string        // what to do about it, if that is known
	RetryAfter time.Duration // with KindExhausted and KindUnavailable: when to try again
	Err        error         // the cause, for errors.Is, errors.As and the log
}

// Error returns "op subject: msg", leaving out the parts that are empty.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Subject)
	}
	why := e.Msg
	if why == "" && e.Err != nil {
		why = e.Err.Error()
	}
	if why == "" {
		why = strings.ReplaceAll(string(e.Kind), "_", " ")
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(why)
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// E makes an error of a kind with a formatted reason. A %w verb in the format
// becomes its cause.
func E(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Msg: err.Error(), Err: errors.Unwrap(err)}
}

// WithOp returns a copy of the error that says what failed.
func (e *Error) WithOp(op, subject string) *Error {
	c := *e
	c.Op, c.Subject = op, subject
	return &c
}

// WithHint returns a copy of the error that says what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// KindOf returns the kind of the first [*Error] in err's chain, KindInternal when
// there is none, and the empty kind for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// IsKind reports whether err is of the kind.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
