package facet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind is the kind of a value and of the field that holds it.
type Kind uint8

// The kinds. The zero Kind is that of null.
const (
	KindNull    Kind = iota
	KindKeyword      // a string, compared byte by byte
	KindInt          // int64
	KindNumber       // float64, never NaN
	KindBool         // false sorts before true
	KindDate         // an instant in UTC, to the microsecond
	KindRange        // a closed range of float64; an end may be infinite
	KindObject       // named strings that belong together: {namespace: geo, accession: GSE1}
)

var kindNames = [...]string{"null", "keyword", "int", "number", "bool", "date", "range", "object"}

// String returns the name that schemas in JSON use.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind(" + strconv.Itoa(int(k)) + ")"
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kindNames[:], string(text))
	if i <= 0 {
		return &Error{Kind: ErrSchema, Msg: fmt.Sprintf("there is no kind %q; kinds are %s", text, strings.Join(kindNames[1:], ", "))}
	}
	*k = Kind(i)
	return nil
}

// Value is one value of a field, or null. Values are immutable, can be compared
// with == and used as map keys; equal values are the same value. The zero Value is null.
type Value struct {
	kind Kind
	n    uint64 // int, bool, date; bits of a number; bits of a range's lower end
	m    uint64 // bits of a range's upper end
	s    string // keyword; an object's canonical form
}

// Null returns the value of a field that has none.
func Null() Value { return Value{} }

// String returns a keyword.
func String(s string) Value { return Value{kind: KindKeyword, s: s} }

// Int returns an integer.
func Int(i int64) Value { return Value{kind: KindInt, n: uint64(i)} }

// Number returns a floating-point number. Negative zero becomes zero; NaN is
// refused where the value is used.
func Number(f float64) Value { return Value{kind: KindNumber, n: floatBits(f)} }

// Bool returns a truth value.
func Bool(b bool) Value {
	v := Value{kind: KindBool}
	if b {
		v.n = 1
	}
	return v
}

// Date returns an instant, cut to the microsecond.
func Date(t time.Time) Value { return DateMicros(t.UnixMicro()) }

// DateMicros returns the instant that many microseconds after 1970 in UTC.
func DateMicros(us int64) Value { return Value{kind: KindDate, n: uint64(us)} }

// Between returns the closed range from lo to hi, as a field of KindRange holds.
// Infinite ends are allowed. A range with lo > hi is refused where it is used.
func Between(lo, hi float64) Value {
	return Value{kind: KindRange, n: floatBits(lo), m: floatBits(hi)}
}

// Object returns named strings that belong together. The order of names does not matter.
// Names and strings hold neither U+001E nor U+001F nor NUL, else the value is refused where it is used.
func Object(props map[string]string) Value {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(props)) {
		b.WriteString(name)
		b.WriteByte(0x1f)
		b.WriteString(props[name])
		b.WriteByte(0x1e)
	}
	return Value{kind: KindObject, s: b.String()}
}

func floatBits(f float64) uint64 {
	if f == 0 {
		f = 0 // negative zero
	}
	return math.Float64bits(f)
}

// Kind returns the kind of the value.
func (v Value) Kind() Kind { return v.kind }

// IsNull reports whether this is null.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Str returns a keyword, and the canonical form of an object: name, U+001F, string, U+001E
// for each property in order of names. Objects sort by it.
func (v Value) Str() string { return v.s }

// Int64 returns an integer, a date in microseconds since 1970, or 1 for true.
func (v Value) Int64() int64 { return int64(v.n) }

// Float64 returns a number; an integer is converted.
func (v Value) Float64() float64 {
	if v.kind == KindInt {
		return float64(int64(v.n))
	}
	return math.Float64frombits(v.n)
}

// IsTrue returns a truth value.
func (v Value) IsTrue() bool { return v.kind == KindBool && v.n == 1 }

// Time returns a date, in UTC.
func (v Value) Time() time.Time { return time.UnixMicro(int64(v.n)).UTC() }

// Bounds returns the ends of a range; those of a number, an integer or a date are both itself.
func (v Value) Bounds() (lo, hi float64) {
	switch v.kind {
	case KindRange:
		return math.Float64frombits(v.n), math.Float64frombits(v.m)
	case KindInt, KindDate:
		return float64(int64(v.n)), float64(int64(v.n))
	default:
		return math.Float64frombits(v.n), math.Float64frombits(v.n)
	}
}

// Props returns the properties of an object, in a map of the caller's.
func (v Value) Props() map[string]string {
	props := map[string]string{}
	for part := range strings.SplitSeq(v.s, "\x1e") {
		if name, s, ok := strings.Cut(part, "\x1f"); ok {
			props[name] = s
		}
	}
	return props
}

// String returns the value as people read it: a date in RFC 3339, a range as "[1,2]", null as "null".
func (v Value) String() string {
	switch v.kind {
	case KindKeyword:
		return v.s
	case KindInt:
		return strconv.FormatInt(int64(v.n), 10)
	case KindNumber:
		return strconv.FormatFloat(v.Float64(), 'g', -1, 64)
	case KindBool:
		return strconv.FormatBool(v.n == 1)
	case KindDate:
		return v.Time().Format("2006-01-02T15:04:05.999999Z07:00")
	case KindRange:
		lo, hi := v.Bounds()
		return fmt.Sprintf("[%g,%g]", lo, hi)
	case KindObject:
		b, _ := json.Marshal(v.Props())
		return string(b)
	default:
		return "null"
	}
}

// MarshalJSON writes null, a string, a number, true or false, a date in RFC 3339,
// a range as [lo,hi] with null for an infinite end, and an object. [Schema.Value] reads it.
func (v Value) MarshalJSON() ([]byte, error) {
	switch v.kind {
	case KindKeyword, KindDate:
		return json.Marshal(v.String())
	case KindInt, KindBool, KindNull:
		return []byte(v.String()), nil
	case KindNumber:
		return marshalFloat(nil, v.Float64())
	case KindRange:
		lo, hi := v.Bounds()
		b, err := marshalFloat([]byte{'['}, lo)
		if err != nil {
			return nil, err
		}
		if b, err = marshalFloat(append(b, ','), hi); err != nil {
			return nil, err
		}
		return append(b, ']'), nil
	default:
		return json.Marshal(v.Props())
	}
}

func marshalFloat(b []byte, f float64) ([]byte, error) {
	if math.IsInf(f, 0) {
		return append(b, "null"...), nil
	}
	j, err := json.Marshal(f)
	return append(b, j...), err
}

// Compare orders values of one kind as sorting and ties between terms do; null comes last.
// Values of different kinds are ordered by kind.
func Compare(a, b Value) int {
	if a.kind != b.kind {
		switch {
		case a.IsNull():
			return 1
		case b.IsNull():
			return -1
		}
		return cmp.Compare(a.kind, b.kind)
	}
	switch a.kind {
	case KindKeyword, KindObject:
		return strings.Compare(a.s, b.s)
	case KindInt, KindDate:
		return cmp.Compare(int64(a.n), int64(b.n))
	case KindBool:
		return cmp.Compare(a.n, b.n)
	case KindNumber:
		return cmp.Compare(math.Float64frombits(a.n), math.Float64frombits(b.n))
	case KindRange:
		return cmp.Or(cmp.Compare(math.Float64frombits(a.n), math.Float64frombits(b.n)),
			cmp.Compare(math.Float64frombits(a.m), math.Float64frombits(b.m)))
	default:
		return 0
	}
}

// check says why no field can hold the value, or nothing.
func (v Value) check(maxLen int) string {
	switch v.kind {
	case KindNumber:
		if math.IsNaN(v.Float64()) {
			return "not a number"
		}
	case KindRange:
		lo, hi := v.Bounds()
		if math.IsNaN(lo) || math.IsNaN(hi) || lo > hi {
			return fmt.Sprintf("[%g,%g] is no range", lo, hi)
		}
	case KindDate:
		// What RFC 3339 can write, so that every date can be read back.
		if us := int64(v.n); us < minDate || us > maxDate {
			return "a date before the year 0 or after 9999"
		}
	case KindKeyword, KindObject:
		switch {
		case len(v.s) > maxLen:
			return fmt.Sprintf("%d bytes long, the limit is %d", len(v.s), maxLen)
		case !utf8.ValidString(v.s):
			return "not UTF-8"
		case strings.IndexByte(v.s, 0) >= 0:
			return "a NUL in it"
		}
		if v.kind == KindObject {
			return checkObject(v.s)
		}
	}
	return ""
}

var (
	minDate = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxDate = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC).UnixMicro()
)

func checkObject(s string) string {
	if s == "" {
		return "an object without properties"
	}
	if strings.Count(s, "\x1e") != strings.Count(s, "\x1f") {
		return "a separator (U+001E, U+001F) in an object"
	}
	last := ""
	for part := range strings.SplitSeq(strings.TrimSuffix(s, "\x1e"), "\x1e") {
		name, rest, ok := strings.Cut(part, "\x1f")
		if !ok || name <= last || strings.IndexByte(rest, 0x1f) >= 0 {
			return "a separator (U+001E, U+001F) or an empty name in an object"
		}
		last = name
	}
	return ""
}
