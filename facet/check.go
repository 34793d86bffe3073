package facet

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// CheckBatch says whether a batch fits the schema and the limits. Every index
// calls it first, so that all refuse the same. The error names document and field.
func (s Schema) CheckBatch(b Batch, l Limits) error {
	if b.Seq == 0 {
		return &Error{Kind: ErrBadValue, Msg: "a batch has a sequence of 1 or more"}
	}
	if n := len(b.Put) + len(b.Del); n > l.Batch {
		return &Error{Kind: ErrTooMany, Msg: "documents and deletions in a batch", Got: n, Limit: l.Batch}
	}
	for _, id := range b.Del {
		if err := checkID(id, l); err != nil {
			return err
		}
	}
	return s.checkDocs(b.Put, l)
}

// checkDocs returns the error of the first document that has one. Many documents are checked by two goroutines.
func (s Schema) checkDocs(docs []Doc, l Limits) error {
	if half := len(docs) / 2; half >= 128 {
		rest := make(chan error, 1)
		go func() { rest <- s.checkSome(docs[half:], l) }()
		err := s.checkSome(docs[:half], l)
		if err2 := <-rest; err == nil {
			err = err2
		}
		return err
	}
	return s.checkSome(docs, l)
}

func (s Schema) checkSome(docs []Doc, l Limits) error {
	for i := range docs {
		if err := s.checkDoc(&docs[i], l); err != nil {
			return err
		}
	}
	return nil
}

func checkID(id string, l Limits) error {
	switch {
	case id == "":
		return &Error{Kind: ErrBadValue, Msg: "an empty id"}
	case len(id) > l.ID:
		return &Error{Kind: ErrBadValue, Doc: id[:32] + "…", Msg: "bytes of the id", Got: len(id), Limit: l.ID}
	case !utf8.ValidString(id) || strings.IndexByte(id, 0) >= 0:
		return &Error{Kind: ErrBadValue, Doc: id, Msg: "the id is not UTF-8, or has a NUL in it"}
	}
	return nil
}

func (s Schema) checkDoc(d *Doc, l Limits) error {
	if err := checkHead(d, l); err != nil {
		return err
	}
	known := 0
	for i := range s.Fields {
		f := &s.Fields[i]
		values, ok := d.Fields[f.Name]
		if !ok {
			continue
		}
		known++
		if err := f.checkNumber(d, values, l); err != nil {
			return err
		}
		for _, v := range values {
			if _, err := f.convert(v, l); err != nil {
				err.(*Error).Doc = d.ID
				return err
			}
		}
	}
	return s.checkNames(d, known)
}

// checkHead checks what is not in fields.
func checkHead(d *Doc, l Limits) error {
	if err := checkID(d.ID, l); err != nil {
		return err
	}
	if len(d.Source) > l.Source {
		return &Error{Kind: ErrBadValue, Doc: d.ID, Msg: "bytes of source", Got: len(d.Source), Limit: l.Source}
	}
	return nil
}

// checkNumber checks how many values the field of a document has.
func (f *Field) checkNumber(d *Doc, values []Value, l Limits) error {
	if len(values) > l.Values {
		return &Error{Kind: ErrTooMany, Doc: d.ID, Field: f.Name, Msg: "values", Got: len(values), Limit: l.Values}
	}
	if !f.Multi && len(values) > 1 {
		return &Error{Kind: ErrTooMany, Doc: d.ID, Field: f.Name, Msg: "values of a field without multi", Got: len(values), Limit: 1}
	}
	return nil
}

// checkNames looks for a field that is unknown, unless as many as there are were known.
func (s Schema) checkNames(d *Doc, known int) error {
	if known == len(d.Fields) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.Fields)) {
		if _, ok := s.Field(name); !ok {
			return &Error{Kind: ErrUnknownField, Doc: d.ID, Field: name}
		}
	}
	return nil
}

// Set returns the set that a document has in the field: its values in the field's kind, sorted,
// each once, null last; the set of null if there are none. The values have passed CheckBatch.
func (f Field) Set(values []Value) []Value {
	if len(values) == 0 {
		return []Value{{}}
	}
	set := make([]Value, len(values))
	for i, v := range values {
		if v.kind == KindInt && f.Kind == KindNumber {
			v = Number(float64(int64(v.n)))
		}
		set[i] = v
	}
	if len(set) > 1 {
		slices.SortFunc(set, Compare)
		set = slices.Compact(set)
	}
	return set
}

// idField is what filters and sorts see in place of the id.
var idField = Field{Name: IDField, Kind: KindKeyword}

// FieldOrID is Field, which also knows IDField, as a keyword.
func (s Schema) FieldOrID(name string) (Field, bool) {
	if name == IDField {
		return idField, true
	}
	return s.Field(name)
}

// CheckQuery says whether a query fits the schema and the limits, and returns it in the form that indexes
// work with: values in their fields' kinds, names of facets filled in, an empty sort field as IDField.
// Every index calls it first, so that all refuse the same. The query that is given stays as it is.
func (s Schema) CheckQuery(q Query, l Limits) (Query, error) {
	none := Query{}
	n := 0
	var err error
	if q.Access, err = s.checkFilters(q.Access, l, &n); err != nil {
		return none, err
	}
	if q.Filters, err = s.checkFilters(q.Filters, l, &n); err != nil {
		return none, err
	}
	if q.Facets, err = s.checkFacets(q.Facets); err != nil {
		return none, err
	}
	if q.Aggs, err = s.checkAggs(q.Aggs, l, &n); err != nil {
		return none, err
	}
	if n > l.FilterValues {
		return none, &Error{Kind: ErrTooMany, Msg: "values in filters", Got: n, Limit: l.FilterValues}
	}
	if n := len(q.Facets) + len(q.Aggs); n > l.Facets {
		return none, &Error{Kind: ErrTooMany, Msg: "facets and aggregations", Got: n, Limit: l.Facets}
	}
	if q.Size < 0 {
		return none, &Error{Kind: ErrBadQuery, Msg: fmt.Sprintf("a page of %d", q.Size)}
	}
	if q.Size > l.Page {
		return none, &Error{Kind: ErrPageTooLarge, Got: q.Size, Limit: l.Page}
	}
	if err := s.checkSort(&q, l); err != nil {
		return none, err
	}
	for _, name := range q.Fields {
		if _, ok := s.Field(name); !ok {
			return none, &Error{Kind: ErrUnknownField, Field: name, Msg: "chosen to be returned"}
		}
	}
	return q, nil
}

func (s Schema) checkSort(q *Query, l Limits) error {
	if q.Sort.Field == "" {
		q.Sort.Field = IDField
	}
	f, ok := s.FieldOrID(q.Sort.Field)
	switch {
	case !ok:
		return &Error{Kind: ErrUnknownField, Field: q.Sort.Field, Msg: "to sort by"}
	case !f.Sortable():
		return &Error{Kind: ErrWrongKind, Field: f.Name, Msg: "hits cannot be sorted by a " + f.Kind.String()}
	case q.Sort.Nulls > NullsLast:
		return &Error{Kind: ErrBadQuery, Field: f.Name, Msg: "nulls come first or last"}
	case q.After != nil && q.Before != nil:
		return &Error{Kind: ErrBadQuery, Msg: "a page begins after a key or ends before one, not both"}
	}
	for _, k := range []**Key{&q.After, &q.Before} {
		if *k == nil {
			continue
		}
		c := **k
		if f.Name == IDField {
			c.Value = String(c.ID)
		}
		v, err := f.convert(c.Value, l)
		if err != nil {
			return err
		}
		c.Value = v
		*k = &c
	}
	return nil
}

func (s Schema) checkFacets(reqs []FacetReq) ([]FacetReq, error) {
	reqs = slices.Clone(reqs)
	names := map[string]bool{}
	for i := range reqs {
		r := &reqs[i]
		if r.Name == "" {
			r.Name = r.Field
		}
		f, ok := s.Field(r.Field)
		switch {
		case !ok:
			return nil, &Error{Kind: ErrUnknownField, Field: r.Field, Msg: "as a facet"}
		case !f.Facetable():
			return nil, &Error{Kind: ErrWrongKind, Field: r.Field, Msg: "a " + f.Kind.String() + " is no facet"}
		case names[r.Name]:
			return nil, &Error{Kind: ErrBadQuery, Field: r.Name, Msg: "two facets of this name"}
		case r.Size < 0:
			return nil, &Error{Kind: ErrBadQuery, Field: r.Name, Msg: fmt.Sprintf("a facet of %d terms", r.Size)}
		}
		names[r.Name] = true
		for _, sub := range r.Sub {
			if err := s.checkSub(r.Name, sub); err != nil {
				return nil, err
			}
		}
	}
	return reqs, nil
}

func (s Schema) checkSub(facet string, sub Sub) error {
	if (sub.Sum == "") == (sub.Terms == "") || sub.Size < 0 {
		return &Error{Kind: ErrBadQuery, Field: facet, Msg: "a sub-aggregation is either the sum of a field or the terms of one"}
	}
	name := sub.Sum + sub.Terms
	f, ok := s.Field(name)
	switch {
	case !ok:
		return &Error{Kind: ErrUnknownField, Field: name, Msg: fmt.Sprintf("below facet %q", facet)}
	case sub.Sum != "" && !f.Summable():
		return &Error{Kind: ErrWrongKind, Field: name, Msg: "a " + f.Kind.String() + " has no sum"}
	case sub.Terms != "" && !f.Facetable():
		return &Error{Kind: ErrWrongKind, Field: name, Msg: "a " + f.Kind.String() + " is no facet"}
	}
	return nil
}

func (s Schema) checkAggs(aggs []Agg, l Limits, n *int) ([]Agg, error) {
	aggs = slices.Clone(aggs)
	names := map[string]bool{}
	for i := range aggs {
		a := &aggs[i]
		if a.Name == "" || names[a.Name] {
			return nil, &Error{Kind: ErrBadQuery, Field: a.Name, Msg: "an aggregation has a name of its own"}
		}
		names[a.Name] = true
		f, ok := s.Field(a.Field)
		switch {
		case a.Op != OpCount && a.Op != OpSum && a.Op != OpCardinality:
			return nil, &Error{Kind: ErrBadQuery, Field: a.Name, Msg: fmt.Sprintf("there is no aggregation %q", a.Op)}
		case a.Op == OpCount && a.Field != "":
			return nil, &Error{Kind: ErrBadQuery, Field: a.Name, Msg: "a count of documents is of no field"}
		case a.Op != OpCount && !ok:
			return nil, &Error{Kind: ErrUnknownField, Field: a.Field, Msg: fmt.Sprintf("in aggregation %q", a.Name)}
		case a.Op == OpSum && !f.Summable():
			return nil, &Error{Kind: ErrWrongKind, Field: a.Field, Msg: "a " + f.Kind.String() + " has no sum"}
		case a.Op == OpCardinality && !f.Facetable():
			return nil, &Error{Kind: ErrWrongKind, Field: a.Field, Msg: "a " + f.Kind.String() + " is no facet"}
		}
		var err error
		if a.Where, err = s.checkFilters(a.Where, l, n); err != nil {
			return nil, err
		}
	}
	return aggs, nil
}

func (s Schema) checkFilters(filters map[string]Filter, l Limits, n *int) (map[string]Filter, error) {
	if len(filters) == 0 {
		return nil, nil
	}
	out := make(map[string]Filter, len(filters))
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		f, ok := s.FieldOrID(name)
		if !ok {
			return nil, &Error{Kind: ErrUnknownField, Field: name, Msg: "in a filter"}
		}
		filter, err := f.checkFilter(filters[name], l)
		if err != nil {
			return nil, err
		}
		*n += len(filter.Is) + len(filter.IsNot) + len(filter.Within) + len(filter.Contains) + len(filter.Intersects) + len(filter.Prefix)
		out[name] = filter
	}
	return out, nil
}

func (f Field) checkFilter(filter Filter, l Limits) (Filter, error) {
	wrong := func(what string) error {
		return &Error{Kind: ErrWrongKind, Field: f.Name, Msg: fmt.Sprintf("%s does not go with a field of kind %s", what, f.Kind)}
	}
	for _, values := range []*[]Value{&filter.Is, &filter.IsNot} {
		*values = slices.Clone(*values)
		for i, v := range *values {
			c, err := f.convert(v, l)
			if err != nil {
				return filter, err
			}
			(*values)[i] = c
		}
	}
	for _, spans := range []*[]Span{&filter.Within, &filter.Contains, &filter.Intersects} {
		if len(*spans) > 0 && !f.Spans() {
			return filter, wrong("a span")
		}
		*spans = slices.Clone(*spans)
		for i, span := range *spans {
			c, err := f.checkSpan(span, l)
			if err != nil {
				return filter, err
			}
			(*spans)[i] = c
		}
	}
	if len(filter.Prefix) > 0 && f.Kind != KindKeyword {
		return filter, wrong("a prefix")
	}
	for _, p := range filter.Prefix {
		if why := String(p).check(l.Keyword); why != "" {
			return filter, &Error{Kind: ErrBadValue, Field: f.Name, Msg: "prefix: " + why}
		}
	}
	return filter, nil
}

func (f Field) checkSpan(span Span, l Limits) (Span, error) {
	end := f
	if f.Kind == KindRange {
		end.Kind = KindNumber
	}
	var err error
	if span.Lo, err = end.convert(span.Lo, l); err != nil {
		return span, err
	}
	if span.Hi, err = end.convert(span.Hi, l); err != nil {
		return span, err
	}
	if !span.Lo.IsNull() && !span.Hi.IsNull() && Compare(span.Lo, span.Hi) > 0 {
		return span, &Error{Kind: ErrBadQuery, Field: f.Name, Msg: fmt.Sprintf("the span from %s to %s is empty", span.Lo, span.Hi)}
	}
	return span, nil
}

// Matches reports whether a document with this set (see Set) passes a filter that CheckQuery
// returned. It defines what filters mean; indexes may find out otherwise.
func (f Field) Matches(filter Filter, set []Value) bool {
	if filter.Is != nil && !f.isOneOf(filter.Is, set) {
		return false
	}
	if len(filter.IsNot) > 0 && f.isOneOf(filter.IsNot, set) {
		return false
	}
	for _, span := range filter.Within {
		if !slices.ContainsFunc(set, func(v Value) bool { return span.Holds(v) }) {
			return false
		}
	}
	for _, span := range filter.Contains {
		if !slices.ContainsFunc(set, func(v Value) bool { return span.HeldBy(v) }) {
			return false
		}
	}
	for _, span := range filter.Intersects {
		if !slices.ContainsFunc(set, func(v Value) bool { return span.Touches(v) }) {
			return false
		}
	}
	if len(filter.Prefix) > 0 && !slices.ContainsFunc(filter.Prefix, func(p string) bool { return f.hasPrefix(p, set) }) {
		return false
	}
	return true
}

func (f Field) isOneOf(values, set []Value) bool {
	for _, have := range set {
		for _, v := range values {
			if have == v || f.Kind == KindObject && !v.IsNull() && have.HasProps(v) {
				return true
			}
		}
	}
	return false
}

// HasProps reports whether an object has all properties of another, each the same.
func (v Value) HasProps(some Value) bool {
	if v.kind != KindObject || some.kind != KindObject {
		return false
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(some.s, "\x1e"), "\x1e") {
		i := strings.Index("\x1e"+v.s, "\x1e"+part+"\x1e")
		if i < 0 {
			return false
		}
	}
	return true
}

func (f Field) hasPrefix(prefix string, set []Value) bool {
	if !f.Words {
		return slices.ContainsFunc(set, func(v Value) bool { return !v.IsNull() && strings.HasPrefix(v.s, prefix) })
	}
	if set[0].IsNull() {
		return false
	}
	for _, want := range Words(prefix) {
		if !slices.ContainsFunc(set, func(v Value) bool {
			return slices.ContainsFunc(Words(v.s), func(w string) bool { return strings.HasPrefix(w, want) })
		}) {
			return false
		}
	}
	return true
}

// Holds reports whether the value lies in the span.
func (s Span) Holds(v Value) bool {
	lo, hi, ok := ends(v)
	return ok && (s.Lo.IsNull() || Compare(s.Lo, lo) <= 0) && (s.Hi.IsNull() || Compare(hi, s.Hi) <= 0)
}

// HeldBy reports whether the span lies in the value.
func (s Span) HeldBy(v Value) bool {
	lo, hi, ok := ends(v)
	if !ok {
		return false
	}
	// An open end lies only in a range that is open there too.
	if s.Lo.IsNull() {
		if v.kind != KindRange || !math.IsInf(lo.Float64(), -1) {
			return false
		}
	} else if Compare(lo, s.Lo) > 0 {
		return false
	}
	if s.Hi.IsNull() {
		return v.kind == KindRange && math.IsInf(hi.Float64(), 1)
	}
	return Compare(s.Hi, hi) <= 0
}

// Touches reports whether the value and the span have a point in common.
func (s Span) Touches(v Value) bool {
	lo, hi, ok := ends(v)
	return ok && (s.Hi.IsNull() || Compare(lo, s.Hi) <= 0) && (s.Lo.IsNull() || Compare(s.Lo, hi) <= 0)
}

func ends(v Value) (lo, hi Value, ok bool) {
	switch v.kind {
	case KindNull:
		return v, v, false
	case KindRange:
		return Value{kind: KindNumber, n: v.n}, Value{kind: KindNumber, n: v.m}, true
	}
	return v, v, true
}
