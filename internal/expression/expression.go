// Package expression is what the expressions of definitions have in common wherever they
// are evaluated: values of CEL as those of package json, and the function default. What an
// expression may refer to, and how much work it may do, is said where it is evaluated.
package expression

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/waybill-run/waybill"
)

// Limits of a result.
const (
	MaxResult = waybill.MaxInline << 5 // bytes of text
	maxValues = 100_000                // parts
	maxDepth  = 64                     // parts inside each other
)

// ErrTooLong says that a result holds more than MaxResult bytes of text.
var ErrTooLong = errors.New("the result is longer than 1 MiB")

// NoSuchKey is how CEL begins to say that a part of an object is missing.
const NoSuchKey = "no such key"

// Default is the function default(value, other): other when value is null or missing. Any
// other failure of value stays one.
func Default() cel.EnvOption {
	return cel.Function("default", cel.Overload("default_any_any", []*cel.Type{cel.DynType, cel.DynType}, cel.DynType,
		cel.OverloadIsNonStrict(), cel.BinaryBinding(orDefault)))
}

func orDefault(v, other ref.Val) ref.Val {
	if types.IsError(v) {
		if err, ok := v.Value().(error); ok && strings.Contains(err.Error(), NoSuchKey) {
			return other
		}
		return v
	}
	if v == types.NullValue {
		return other
	}
	return v
}

// Native turns a result into nil, bool, int64, uint64, float64, string, []any or
// map[string]any. Times and durations become text.
func Native(v ref.Val) (any, error) {
	r := reader{values: maxValues, bytes: MaxResult}
	return r.value(v, 0)
}

// reader counts what is left of the limits.
type reader struct{ values, bytes int }

func (r *reader) text(s string) (string, error) {
	if r.bytes -= len(s); r.bytes < 0 {
		return "", ErrTooLong
	}
	return s, nil
}

func (r *reader) value(v ref.Val, depth int) (any, error) {
	if r.values--; r.values < 0 || depth > maxDepth {
		return nil, errors.New("the result has too many parts")
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double:
		f := float64(v)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, errors.New("the result is not a finite number")
		}
		return f, nil
	case types.String:
		return r.text(string(v))
	case types.Bytes:
		if !utf8.Valid(v) {
			return nil, errors.New("the result is not UTF-8 text")
		}
		return r.text(string(v))
	case types.Timestamp:
		return r.text(v.UTC().Format(time.RFC3339Nano))
	case types.Duration:
		return r.text(v.Duration.String())
	case traits.Mapper:
		m := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			key, ok := k.(types.String)
			if !ok {
				return nil, fmt.Errorf("a key of an object must be text, found %s", k.Type().TypeName())
			}
			x, err := r.value(v.Get(k), depth+1)
			if err != nil {
				return nil, err
			}
			if _, err := r.text(string(key)); err != nil {
				return nil, err
			}
			m[string(key)] = x
		}
		return m, nil
	case traits.Lister:
		l := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			x, err := r.value(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, x)
		}
		return l, nil
	}
	if err, ok := v.Value().(error); ok && types.IsError(v) {
		return nil, err
	}
	return nil, fmt.Errorf("a result of type %s cannot be used", v.Type().TypeName())
}
