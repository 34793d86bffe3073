package waybill

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// ValueType is the type of a variable, parameter or output.
type ValueType string

// The value types of definitions. An empty type means any.
const (
	TypeString ValueType = "string"
	TypeInt    ValueType = "int"
	TypeNumber ValueType = "number"
	TypeBool   ValueType = "bool"
	TypeJSON   ValueType = "json" // any JSON
	TypeFile   ValueType = "file" // a reference to stored content
)

// MaxInline is the size in bytes of the largest value kept inside a run; a
// larger one is stored as content and replaced by a reference.
const MaxInline = 32 << 10

// Value is the value of a variable: JSON, or a reference to stored content,
// which is the JSON object {"$file": {…}}. Values are immutable.
type Value json.RawMessage

// FileRef is a reference to stored content.
type FileRef struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	Name   string `json:"name,omitempty"` // base name for the local copy a unit gets
	Text   bool   `json:"text,omitempty"` // the content is a string value that was too large to keep inline
}

// StringValue returns the value of a string.
func StringValue(s string) Value {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return b
}

// ValueOf returns the value of anything that marshals to JSON.
func ValueOf(v any) (Value, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// FileValue returns a reference.
func FileValue(f FileRef) Value {
	b, err := json.Marshal(map[string]FileRef{"$file": f})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) {
	if len(v) == 0 {
		return []byte("null"), nil
	}
	return v, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Value) UnmarshalJSON(b []byte) error {
	*v = append((*v)[:0:0], b...)
	return nil
}

// File returns the reference if the value is one.
func (v Value) File() (FileRef, bool) {
	if !bytes.HasPrefix(v, []byte(`{"$file"`)) {
		return FileRef{}, false
	}
	var f map[string]FileRef
	if json.Unmarshal(v, &f) != nil || len(f) != 1 {
		return FileRef{}, false
	}
	ref, ok := f["$file"]
	return ref, ok && ref.valid()
}

// valid reports whether the reference can be one of ours. Units return values too,
// and what they write must not lead anywhere else.
func (f FileRef) valid() bool {
	if len(f.SHA256) != 64 || f.Size < 0 {
		return false
	}
	for _, c := range []byte(f.SHA256) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Text is the value as a unit sees it in its environment: a string without
// quotes, anything else as JSON.
func (v Value) Text() string {
	var s string
	if len(v) > 0 && v[0] == '"' && json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}

// Decode returns the value as Go data: numbers that are integers as int64, other
// numbers as float64.
func (v Value) Decode() (any, error) {
	if len(v) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	return denumber(x), nil
}

func denumber(x any) any {
	switch x := x.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(string(x), 10, 64); err == nil {
			return i
		}
		f, _ := x.Float64()
		return f
	case []any:
		for i := range x {
			x[i] = denumber(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = denumber(x[k])
		}
	}
	return x
}

// Coerce returns the value as the type, reading a string such as "12" or "true"
// as the number or truth it spells, or an error of KindInvalid. Strings are read
// because NAME=value lines and the environment know nothing else.
func (v Value) Coerce(t ValueType) (Value, error) {
	bad := func() (Value, error) {
		s := string(v)
		if len(s) > 60 {
			s = s[:60] + "…"
		}
		return nil, E(KindInvalid, "%s is not of type %s", s, t)
	}
	text, isText := "", len(v) > 0 && v[0] == '"'
	if isText {
		text = v.Text()
	}
	switch t {
	case "", TypeJSON:
		if isText && t == TypeJSON && json.Valid([]byte(text)) {
			return Value(text), nil
		}
		return v, nil
	case TypeString:
		if isText {
			return v, nil
		}
		if _, file := v.File(); file {
			return v, nil
		}
		return StringValue(string(v)), nil
	case TypeFile:
		if _, file := v.File(); file {
			return v, nil
		}
		return bad()
	}
	raw := string(v)
	if isText {
		raw = strings.TrimSpace(text)
	}
	switch t {
	case TypeInt:
		if i, err := strconv.ParseInt(raw, 10, 64); err == nil {
			return Value(strconv.FormatInt(i, 10)), nil
		}
	case TypeNumber:
		var n json.Number
		if json.Unmarshal([]byte(raw), &n) == nil && n != "" {
			return Value(raw), nil
		}
	case TypeBool:
		if raw == "true" || raw == "false" {
			return Value(raw), nil
		}
	default:
		return nil, E(KindInvalid, "unknown type %s", t)
	}
	return bad()
}

// Vars is a set of named values. Names are compared without case and keep the
// spelling in which they were first set. The zero value is an empty set; copies
// share their content, see Clone. Not safe for concurrent writing.
type Vars struct {
	m map[string]namedValue
}

type namedValue struct {
	name  string
	value Value
}

// Get returns the value of a name, whatever its case.
func (v Vars) Get(name string) (Value, bool) {
	x, ok := v.m[fold(name)]
	return x.value, ok
}

// Set stores a value. A name that is there already keeps its spelling.
func (v *Vars) Set(name string, val Value) {
	if v.m == nil {
		v.m = map[string]namedValue{}
	}
	k := fold(name)
	if old, ok := v.m[k]; ok {
		name = old.name
	}
	v.m[k] = namedValue{name, val}
}

// Len returns the number of names.
func (v Vars) Len() int { return len(v.m) }

// Names returns the names as they were first spelled, sorted without case.
func (v Vars) Names() []string {
	keys := make([]string, 0, len(v.m))
	for k := range v.m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for i, k := range keys {
		keys[i] = v.m[k].name
	}
	return keys
}

// Clone returns a set that can be changed by itself.
func (v Vars) Clone() Vars {
	c := Vars{m: make(map[string]namedValue, len(v.m))}
	for k, x := range v.m {
		c.m[k] = x
	}
	return c
}

// Merge sets every value of w.
func (v *Vars) Merge(w Vars) {
	for _, n := range w.Names() {
		x, _ := w.Get(n)
		v.Set(n, x)
	}
}

// Size is about how many bytes the set takes in JSON.
func (v Vars) Size() int {
	n := 2
	for _, x := range v.m {
		n += len(x.name) + len(x.value) + 4
	}
	return n
}

// MarshalJSON writes an object with the names in order.
func (v Vars) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, n := range v.Names() {
		if i > 0 {
			b = append(b, ',')
		}
		x, _ := v.Get(n)
		q, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		b = append(b, q...)
		b = append(b, ':')
		if len(x) == 0 {
			b = append(b, "null"...)
		} else {
			b = append(b, x...)
		}
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads an object. Two names that differ only in case are an error
// of KindInvalid.
func (v *Vars) UnmarshalJSON(b []byte) error {
	var m map[string]Value
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	*v = Vars{}
	for _, n := range names {
		if _, dup := v.Get(n); dup {
			return E(KindInvalid, "variable %s is given twice, in different case", n)
		}
		v.Set(n, m[n])
	}
	return nil
}

func fold(name string) string { return strings.ToLower(name) }

// CheckName reports why a name cannot be that of a variable: names become
// environment variables, so they begin with a letter or _ and hold letters, digits and _.
func CheckName(name string) error {
	if name == "" {
		return E(KindInvalid, "a variable has an empty name")
	}
	if len(name) > 128 {
		return E(KindInvalid, "variable name %.20s… is longer than 128 characters", name)
	}
	for i, r := range name {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return E(KindInvalid, "variable name %s: want letters, digits and _, not starting with a digit", fmt.Sprintf("%q", name))
		}
	}
	return nil
}
