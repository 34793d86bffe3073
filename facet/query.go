package facet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Query asks for documents, counts of terms, and sums, all of one state of the index.
//
// A document matches when it passes every filter of Access and of Filters.
type Query struct {
	// Access holds what may be seen at all, by field. It is applied to everything,
	// and left out by nothing except a facet that says so with NoAccess.
	Access map[string]Filter

	// Filters are what the reader chose, by field. A facet leaves out the filter on its own field.
	Filters map[string]Filter

	Facets []FacetReq
	Aggs   []Agg

	Sort   Sort
	After  *Key // the page begins behind this key
	Before *Key // the page ends before this key; at most one of the two
	Size   int  // hits of the page; 0 for none

	// Fields chooses what hits carry: nil for the whole source, otherwise the values of these fields
	// as they are indexed (sorted, each once) and no source; an empty list carries neither.
	Fields []string
}

// Filter is what one field has to satisfy. Everything that is set must hold.
type Filter struct {
	// Is holds when one of the document's values is one of these. Null is a value here, that of
	// documents without one. Nil asks nothing; an empty list is satisfied by nothing.
	// On a field of objects, an Object holds when one of the document's objects
	// has all its properties, each the same; it may have more.
	Is []Value

	// IsNot holds when Is with the same values would not. Nil and an empty list ask nothing.
	IsNot []Value

	// Within holds when, for each span, one of the document's values lies in it,
	// Contains when one contains the span, Intersects when one has a point in common with it.
	// A number or date is taken for the range from itself to itself. Null never holds.
	Within, Contains, Intersects []Span

	// Prefix holds when one of the document's values begins with one of these strings, byte by byte.
	// On a field with Words it holds when, for one of these strings, each of its words
	// is the beginning of some word of the document's values. A string without words is held by every document
	// that has a value, as is the empty prefix.
	Prefix []string
}

// Span is a closed range to compare with. Null leaves an end open. The ends are of
// the field's kind; those for a range are numbers.
type Span struct{ Lo, Hi Value }

// FacetReq asks how many matching documents have each value of a field.
type FacetReq struct {
	Name  string // of the answer; the field's name if empty
	Field string
	Size  int // terms to return, 0 for all

	Sub []Sub // what to add to each term, and to the documents without value

	// Filtered applies the filter on the facet's own field too.
	Filtered bool

	// NoAccess leaves out Access as well, wholly. It is for the one facet that
	// says what there would be to see.
	NoAccess bool
}

// Sub asks more about the documents of each term: the sum of a field, or the counts of the terms of one.
type Sub struct {
	Sum   string // field to add up
	Terms string // field to count; exactly one of the two is set
	Size  int    // of Terms, 0 for all
}

// Agg asks for one figure about all matching documents.
type Agg struct {
	Name  string
	Op    Op
	Field string            // what Sum and Cardinality are about
	Where map[string]Filter // further filters, for this figure only
}

// Op is what an Agg computes.
type Op string

// The operations.
const (
	OpCount       Op = "count"       // documents
	OpSum         Op = "sum"         // of all values of an integer or number field; null if there is none
	OpCardinality Op = "cardinality" // different values, exactly, without null
)

// Sort is the order of hits. A document with several values sorts by the least, in both directions;
// null beside values does not count. Ties go by id, in the same direction.
type Sort struct {
	Field string // empty or IDField: by id alone
	Desc  bool
	Nulls Nulls
}

// Nulls says where documents without value go.
type Nulls uint8

// The places.
const (
	NullsDefault Nulls = iota // last when ascending, first when descending
	NullsFirst
	NullsLast
)

// First reports whether documents without value come first.
func (s Sort) First() bool {
	return s.Nulls == NullsFirst || s.Nulls == NullsDefault && s.Desc
}

// Key is a place in an order: the sort value of a hit (null if it has none) and its id.
// The hit need not exist any more.
type Key struct {
	Value Value
	ID    string
}

// Result answers a query.
type Result struct {
	Total  int // matching documents, exactly
	Hits   []Hit
	Facets []Facet // as asked for, in that order
	Aggs   map[string]Value
	Seq    Seq // everything up to here, and nothing behind it, is in the answer

	First, Last *Key // of the first and last hit, nil without hits
	More        bool // there are more hits: behind the page, or before it if Before was given
}

// Hit is a document of a page.
type Hit struct {
	ID      string
	Version int64
	Key     Key
	Source  []byte             // the caller's
	Fields  map[string][]Value // if Query.Fields chose some; nulls are not listed, fields without value are absent
}

// Facet is the answer to a FacetReq.
type Facet struct {
	Name, Field string
	Terms       []Term // by count, greatest first, then by value; null is not among them
	Total       int    // documents that match the facet's filters
	Missing     int    // those of them with null, alone or beside values
	Distinct    int    // terms that Size 0 would return
	MissingSub  []SubResult
}

// Term is a value and the number of documents that have it.
type Term struct {
	Value Value
	Count int
	Sub   []SubResult // as asked for, in that order
}

// SubResult is the answer to a Sub: Sum of the field's kind (null if there is nothing to add), or Terms.
//
// Sums of integers are exact; one that does not fit into an int64 is given as the nearest
// Number. Numbers are added in no particular order.
type SubResult struct {
	Sum     Value
	Terms   []Term
	Missing int // documents with null in the field of Terms
}

// Explain is how a query was answered.
type Explain struct {
	Engine string        `json:"engine"`
	Seq    Seq           `json:"seq"`
	Total  int           `json:"total"`
	Took   time.Duration `json:"took_ns"`
	Steps  []Step        `json:"steps"`
}

// Step is one decision of the planner, in the order in which they were made.
type Step struct {
	Stage  string        `json:"stage"`             // filter, set, facet, page, aggregate; or an engine's own
	Part   string        `json:"part,omitempty"`    // the segment, shard or statement
	Target string        `json:"target,omitempty"`  // the field or facet
	Plan   string        `json:"plan"`              // what was done
	Why    string        `json:"why"`               // instead of what
	Docs   int           `json:"docs"`              // documents that it was about
	Cost   float64       `json:"cost_ns,omitempty"` // estimated, in nanoseconds of one core
	Took   time.Duration `json:"took_ns,omitempty"` // measured
}

// String returns the steps as a table.
func (e Explain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %d: %d documents in %s\n", e.Engine, e.Seq, e.Total, e.Took.Round(time.Microsecond))
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "%-9s %-10s %-24s %-10s docs %-9d cost %-8s took %-8s %s\n", s.Stage, s.Part, s.Target, s.Plan, s.Docs,
			time.Duration(s.Cost).Round(time.Microsecond), s.Took.Round(time.Microsecond), s.Why)
	}
	return b.String()
}

// MarshalJSON writes a key as [value, id], as it is put into a page's address.
func (k Key) MarshalJSON() ([]byte, error) { return json.Marshal([2]any{k.Value, k.ID}) }

// ParseKey reads a key that MarshalJSON wrote for this order. The error wraps ErrBadQuery.
func (s Schema) ParseKey(sort Sort, text []byte) (Key, error) {
	bad := func(msg string) (Key, error) {
		return Key{}, &Error{Kind: ErrBadQuery, Field: sort.Field, Msg: "a key is [value, id]: " + msg}
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil || len(parts) != 2 {
		return bad("this is no list of two")
	}
	var k Key
	if err := json.Unmarshal(parts[1], &k.ID); err != nil {
		return bad("the id is no string")
	}
	if bytes.Equal(bytes.TrimSpace(parts[0]), []byte("null")) {
		return k, nil
	}
	v, err := s.Value(sort.Field, parts[0])
	if err != nil {
		return bad(err.Error())
	}
	k.Value = v
	return k, nil
}
