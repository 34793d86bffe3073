package facet

import (
	"errors"
	"fmt"
	"strings"
)

// What can be wrong. Every error of an [Index] that a caller can do something
// about is an [*Error] that wraps one of these, so errors.Is tells them apart.
var (
	ErrSchema       = errors.New("bad schema")                         // the schema contradicts itself, or the one that the index was made with
	ErrUnknownField = errors.New("unknown field")                      // no such field in the schema
	ErrWrongKind    = errors.New("wrong kind")                         // the field is of a kind that cannot do this, or the value is not of the field's kind
	ErrBadValue     = errors.New("bad value")                          // a value that no field can hold: NaN, invalid UTF-8, too long, an empty id …
	ErrBadQuery     = errors.New("bad query")                          // a query that contradicts itself
	ErrTooMany      = errors.New("too many")                           // more filter values, facets, values of a field or documents of a batch than the limit
	ErrPageTooLarge = errors.New("page too large")                     // Size is over Limits.Page
	ErrCorrupt      = errors.New("corrupt")                            // a file is not what was written; Error.File names it
	ErrClosed       = errors.New("index is closed")                    // the index was closed
	ErrLocked       = errors.New("index is in use")                    // another process has the directory open
	ErrReadOnly     = errors.New("index is read-only")                 // it was opened to be read, or salvaged
	ErrUnsupported  = errors.New("not supported by this index")        // see Caps
	ErrFailed       = errors.New("index has failed and takes no more") // an earlier write failed half-way; open the index again
)

// Error says what is wrong, where, and what the limit is.
type Error struct {
	Kind  error  // one of the Err variables
	Field string // the field, facet or aggregation that it is about
	Doc   string // the document
	File  string // the file
	Limit int    // the limit that was exceeded, if one was
	Got   int    // by what
	Msg   string // the rest of the sentence
	Err   error  // the cause, such as one of the operating system
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("facet: ")
	b.WriteString(e.Kind.Error())
	if e.File != "" {
		fmt.Fprintf(&b, ": file %s", e.File)
	}
	if e.Doc != "" {
		fmt.Fprintf(&b, ": document %q", e.Doc)
	}
	if e.Field != "" {
		fmt.Fprintf(&b, ": field %q", e.Field)
	}
	if e.Msg != "" {
		b.WriteString(": ")
		b.WriteString(e.Msg)
	}
	if e.Limit > 0 {
		fmt.Fprintf(&b, " (%d, the limit is %d)", e.Got, e.Limit)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap makes errors.Is and errors.As see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
