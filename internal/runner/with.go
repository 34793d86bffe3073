package runner

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/schema"
)

// Described is implemented by runners that read a step's "with". What they return
// describes the keys: a struct whose fields have the tags json, doc (what the key
// means, for people) and, where there is more to say, enum, default and example.
type Described interface {
	// Settings returns the zero value of the struct that "with" is read into.
	Settings() any
}

// Duration is a length of time in the settings of a step, written as Go does, with
// days in front: "90s", "1m30s", "2d".
type Duration time.Duration

// UnmarshalText reads a length of time that is not negative.
func (d *Duration) UnmarshalText(b []byte) error {
	text, days := string(b), time.Duration(0)
	if n, rest, ok := strings.Cut(text, "d"); ok && n != "" && strings.Trim(n, "0123456789") == "" && len(n) < 6 {
		for _, c := range n {
			days = 10*days + time.Duration(c-'0')
		}
		if text, days = rest, days*24*time.Hour; text == "" {
			text = "0s"
		}
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if v += days; v < 0 {
		return errors.New("a length of time cannot be negative")
	}
	*d = Duration(v)
	return nil
}

// JSONSchema implements schema.Described.
func (Duration) JSONSchema() map[string]any { return schema.Duration() }

// Decode reads the settings of a step into a struct. Unknown keys are refused, null
// leaves a field as it is. Errors are of kind invalid and name the key.
func Decode(with json.RawMessage, into any) error { return decoder{}.read("with", with, into) }

// DecodeAs is Decode for settings that stand elsewhere; errors begin with that place.
func DecodeAs(at string, settings json.RawMessage, into any) error {
	return decoder{}.read(at, settings, into)
}

// DecodeOpen is Decode for a definition that is only looked at: a text with an
// expression in it may stand where its result will be of another type, and leaves
// the field as it is.
func DecodeOpen(with json.RawMessage, into any) error {
	return decoder{open: true}.read("with", with, into)
}

// HasExpression reports whether a text of a definition that is only looked at holds
// a reference whose value is not known yet.
func HasExpression(text string) bool {
	return strings.Contains(text, "${{") || strings.Contains(text, "${secret:")
}

type decoder struct{ open bool }

func (d decoder) read(at string, with json.RawMessage, into any) error {
	with = bytes.TrimSpace(with)
	if len(with) == 0 {
		return nil
	}
	return d.fill(with, at, reflect.ValueOf(into).Elem())
}

// fill decodes an object field by field, so that an error names its key.
func (d decoder) fill(b json.RawMessage, at string, into reflect.Value) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return waybill.E(waybill.KindInvalid, "%s: not an object: %w", at, err)
	}
	fields := map[string]reflect.Value{}
	names := []string{}
	collect(into, func(key string, f reflect.Value) { fields[key], names = f, append(names, key) })
	keys := make([]string, 0, len(raw))
	for key := range raw {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		f, ok := fields[key]
		if !ok {
			if near := nearest(key, names); near != "" {
				return waybill.E(waybill.KindInvalid, "%s: unknown key %q; did you mean %q?", at, key, near)
			}
			return waybill.E(waybill.KindInvalid, "%s: unknown key %q; the keys are %s", at, key, strings.Join(names, ", "))
		}
		if err := d.value(raw[key], at+": "+key, f); err != nil {
			return err
		}
	}
	return nil
}

// collect calls add for every key of a struct, those of embedded structs included.
func collect(into reflect.Value, add func(key string, f reflect.Value)) {
	for i := range into.NumField() {
		f := into.Type().Field(i)
		key := f.Tag.Get("json")
		switch {
		case key != "":
			add(key, into.Field(i))
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			collect(into.Field(i), add)
		}
	}
}

func (d decoder) value(b json.RawMessage, at string, f reflect.Value) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if text := ""; d.open && json.Unmarshal(b, &text) == nil && HasExpression(text) && f.Kind() != reflect.String {
		return nil
	}
	if p := f.Addr().Interface(); !isUnmarshaler(p) {
		switch {
		case f.Kind() == reflect.Struct:
			return d.fill(b, at, f)
		case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct && !isUnmarshaler(reflect.New(f.Type().Elem()).Interface()):
			f.Set(reflect.New(f.Type().Elem()))
			return d.fill(b, at, f.Elem())
		}
	}
	if err := json.Unmarshal(b, f.Addr().Interface()); err != nil {
		return waybill.E(waybill.KindInvalid, "%s: %w", at, plain(err))
	}
	return nil
}

// plain says in words of a definition what package json says in those of Go.
func plain(err error) error {
	if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) {
		want := map[reflect.Kind]string{
			reflect.String: "text", reflect.Bool: "true or false", reflect.Map: "an object", reflect.Struct: "an object", reflect.Slice: "a list",
			reflect.Int: "a whole number", reflect.Int64: "a whole number", reflect.Float64: "a number",
		}[t.Type.Kind()]
		if want != "" {
			return waybill.E(waybill.KindInvalid, "expected %s, found %s", want, found(t.Value))
		}
	}
	return err
}

func found(value string) string {
	switch {
	case value == "string":
		return "text"
	case value == "array":
		return "a list"
	case value == "object":
		return "an object"
	case value == "bool":
		return "true or false"
	}
	return "a " + value
}

func isUnmarshaler(p any) bool {
	switch p.(type) {
	case json.Unmarshaler, encoding.TextUnmarshaler:
		return true
	}
	return false
}

// nearest returns the known key that needs the fewest changes, if that is few.
func nearest(key string, known []string) string {
	best, least := "", 1+max(1, len(key)/3)
	for _, k := range known {
		if d := distance(strings.ToLower(key), k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, remove or replace between a and b.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
