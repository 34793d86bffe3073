package facet

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// IDField is the name under which filters and sorts know a document's id.
// It takes Is, IsNot and Prefix, is never null, and is no facet.
const IDField = "_id"

// Schema says which fields documents have. It is fixed when an index is made.
type Schema struct {
	Fields []Field `json:"fields"`
}

// Field is one field. A document's field is a set of values: duplicates are one,
// and a document without the field, or with an empty list, has the set of null alone.
// Null may also stand beside values ("some of it is unknown").
type Field struct {
	Name  string `json:"name"`
	Kind  Kind   `json:"kind"`
	Multi bool   `json:"multi,omitempty"` // more than one value in a document

	// Words makes Prefix filters on a keyword look at the beginnings of its words,
	// whatever their case, instead of the beginning of the value. A word is a longest run of
	// letters and digits, see Words.
	Words bool `json:"words,omitempty"`

	// Props are the names that objects of this field may have. Each is optional in each object.
	Props []string `json:"props,omitempty"`
}

// Limits of names and of the number of fields.
const (
	MaxFields    = 1024
	MaxFieldName = 128
)

// Field returns the field of that name.
func (s Schema) Field(name string) (Field, bool) {
	for i := range s.Fields {
		if s.Fields[i].Name == name {
			return s.Fields[i], true
		}
	}
	return Field{}, false
}

// Check says whether the schema can be used; the error wraps ErrSchema.
func (s Schema) Check() error {
	bad := func(field, format string, args ...any) error {
		return &Error{Kind: ErrSchema, Field: field, Msg: fmt.Sprintf(format, args...)}
	}
	if len(s.Fields) == 0 {
		return bad("", "no fields")
	}
	if len(s.Fields) > MaxFields {
		return &Error{Kind: ErrSchema, Msg: "too many fields", Got: len(s.Fields), Limit: MaxFields}
	}
	seen := map[string]bool{IDField: true}
	for _, f := range s.Fields {
		switch {
		case f.Name == "" || len(f.Name) > MaxFieldName || !utf8.ValidString(f.Name) || strings.IndexByte(f.Name, 0) >= 0:
			return bad(f.Name, "a field's name is UTF-8 of 1 to %d bytes without NUL", MaxFieldName)
		case f.Name == IDField:
			return bad(f.Name, "the name is that of the document's id")
		case seen[f.Name]:
			return bad(f.Name, "the name is used twice")
		case f.Kind <= KindNull || f.Kind > KindObject:
			return bad(f.Name, "a field has a kind: %s", strings.Join(kindNames[1:], ", "))
		case f.Words && f.Kind != KindKeyword:
			return bad(f.Name, "only keywords have words, this is of kind %s", f.Kind)
		case f.Kind == KindObject && len(f.Props) == 0:
			return bad(f.Name, "an object names its props")
		case f.Kind != KindObject && len(f.Props) > 0:
			return bad(f.Name, "only objects have props, this is of kind %s", f.Kind)
		}
		props := map[string]bool{}
		for _, p := range f.Props {
			if p == "" || len(p) > MaxFieldName || !utf8.ValidString(p) || strings.ContainsAny(p, "\x00\x1e\x1f") || props[p] {
				return bad(f.Name, "property %q is empty, too long, used twice or has a control character", p)
			}
			props[p] = true
		}
		seen[f.Name] = true
	}
	return nil
}

// Equal reports whether two schemas say the same.
func (s Schema) Equal(t Schema) bool {
	return slices.EqualFunc(s.Fields, t.Fields, func(a, b Field) bool {
		return a.Name == b.Name && a.Kind == b.Kind && a.Multi == b.Multi && a.Words == b.Words && slices.Equal(a.Props, b.Props)
	})
}

// Sortable reports whether hits can be sorted by the field: all but ranges.
func (f Field) Sortable() bool { return f.Kind != KindRange }

// Facetable reports whether the field can be counted: all but ranges.
func (f Field) Facetable() bool { return f.Kind != KindRange }

// Summable reports whether the field can be added up: integers and numbers.
func (f Field) Summable() bool { return f.Kind == KindInt || f.Kind == KindNumber }

// Spans reports whether the field takes Within, Contains and Intersects.
func (f Field) Spans() bool {
	switch f.Kind {
	case KindInt, KindNumber, KindDate, KindRange:
		return true
	}
	return false
}

// convert returns the value as one of the field's kind, or says why not.
func (f Field) convert(v Value, l Limits) (Value, error) {
	if v.kind == KindInt && f.Kind == KindNumber {
		v = Number(float64(int64(v.n)))
	}
	if v.IsNull() {
		return v, nil
	}
	if v.kind != f.Kind {
		return v, &Error{Kind: ErrWrongKind, Field: f.Name, Msg: fmt.Sprintf("%s is of kind %s, the field of kind %s", brief(v), v.kind, f.Kind)}
	}
	if why := v.check(l.Keyword); why != "" {
		return v, &Error{Kind: ErrBadValue, Field: f.Name, Msg: why}
	}
	if f.Kind == KindObject {
		for name := range v.Props() {
			if !slices.Contains(f.Props, name) {
				return v, &Error{Kind: ErrBadValue, Field: f.Name, Msg: fmt.Sprintf("objects have no property %q; they may have %s", name, strings.Join(f.Props, ", "))}
			}
		}
	}
	return v, nil
}

// brief is a value as errors show it.
func brief(v Value) string {
	s := v.String()
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:57], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
