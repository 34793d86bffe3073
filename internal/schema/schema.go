// Package schema makes JSON Schemas (draft 2020-12) of the files of a project, for
// editors that complete and check while somebody types. What the files may hold is
// said where they are read; this package holds the pieces the schemas are made of.
package schema

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Dialect is the one that schemas are written in.
const Dialect = "https://json-schema.org/draft/2020-12/schema"

// Schema is a JSON Schema. The functions of this package return new ones; With and
// Doc change the one they are called on and return it.
type Schema map[string]any

// Doc says what a value means, for people.
func (s Schema) Doc(text string) Schema {
	if text != "" {
		s["description"] = text
	}
	return s
}

// With sets a keyword.
func (s Schema) With(keyword string, value any) Schema {
	s[keyword] = value
	return s
}

// Reference patterns: ${env:…} is replaced when a file is read, the others later.
const (
	envPattern = `\$\{env:[A-Za-z_][A-Za-z0-9_]*\}`
	anyPattern = `\$\{(\{|env:|secret:)`
)

// Any takes everything.
func Any() Schema { return Schema{} }

// Text is a text.
func Text() Schema { return Schema{"type": "string"} }

// Scalar is a text that may be written as a number or a truth.
func Scalar() Schema { return Schema{"type": []string{"string", "number", "boolean"}} }

// Pattern is a text of a form, or one that holds ${env:…}.
func Pattern(pattern string) Schema {
	return Schema{"type": "string", "pattern": "^(" + pattern + ")$|" + envPattern}
}

// Name is a name of things: small letters, digits and -.
func Name(limit int) Schema {
	return Pattern("[a-z0-9]([a-z0-9-]*[a-z0-9])?").With("maxLength", limit)
}

// Duration is a length of time such as 90s, 1h30m or 7d.
func Duration() Schema {
	return Pattern(`[0-9]+d([0-9.]+(ns|us|µs|ms|s|m|h))*|([0-9.]+(ns|us|µs|ms|s|m|h))+`).With("examples", []any{"90s", "10m", "2h", "7d"})
}

// Size is a number of bytes.
func Size() Schema {
	return Schema{"anyOf": []Schema{{"type": "integer", "minimum": 1}, Pattern(`[0-9]+( ?(KiB|MiB|GiB))?`)}}.With("examples", []any{65536, "64KiB", "10MiB"})
}

// Int is a whole number from low to high.
func Int(low, high int) Schema {
	return orReference(Schema{"type": "integer", "minimum": low, "maximum": high}, envPattern)
}

// Number is a number.
func Number() Schema { return orReference(Schema{"type": "number"}, envPattern) }

// Bool is true or false.
func Bool() Schema { return orReference(Schema{"type": "boolean"}, envPattern) }

func orReference(s Schema, pattern string) Schema {
	return Schema{"anyOf": []Schema{s, {"type": "string", "pattern": pattern}}}
}

// Words is one of some words.
func Words(words ...string) Schema {
	return Schema{"anyOf": []Schema{{"enum": words}, {"type": "string", "pattern": envPattern}}}
}

// Strings is a list of texts.
func Strings() Schema { return List(Text()) }

// List is a list of at least one.
func List(of Schema) Schema { return Schema{"type": "array", "items": of} }

// OneOrList is one of a thing, or a list of them.
func OneOrList(of Schema) Schema {
	return Schema{"anyOf": []Schema{of, List(of).With("minItems", 1)}}
}

// Map is an object with any keys.
func Map(of Schema) Schema {
	return Schema{"type": "object", "additionalProperties": of}
}

// Object is an object with these keys and no others.
func Object(keys map[string]Schema, required ...string) Schema {
	s := Schema{"type": "object", "properties": keys, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// Either takes what one of the schemas takes.
func Either(some ...Schema) Schema { return Schema{"anyOf": some} }

// Ref refers to a definition of the same file.
func Ref(name string) Schema { return Schema{"$ref": "#/$defs/" + name} }

// Of describes the settings that a runner reads, by the tags of a struct's fields:
// json or yaml is the key, doc what it means, and enum (words with commas), default and
// example what else there is to say. A value may be an expression everywhere, as it
// is replaced before the settings are read.
func Of(v any) Schema {
	t, ok := v.(reflect.Type)
	if !ok {
		t = reflect.TypeOf(v)
	}
	return object(t)
}

func object(t reflect.Type) Schema {
	keys := map[string]Schema{}
	describe(t, keys)
	return Object(keys)
}

func describe(t reflect.Type, keys map[string]Schema) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag == "" {
			describe(f.Type, keys)
			continue
		}
		tag := f.Tag.Get("yaml")
		if tag == "" {
			tag = f.Tag.Get("json")
		}
		name, _, _ := strings.Cut(tag, ",")
		if name == "" || name == "-" {
			continue
		}
		s := orReference(of(f.Type), anyPattern)
		if text := f.Type.Kind() == reflect.String || f.Type == reflect.TypeFor[json.RawMessage]() || f.Type.Kind() == reflect.Interface; text {
			s = of(f.Type)
		}
		if words := f.Tag.Get("enum"); words != "" {
			s = orReference(Schema{"enum": strings.Split(words, ",")}, anyPattern)
		}
		s.Doc(f.Tag.Get("doc"))
		if d := f.Tag.Get("default"); d != "" {
			s["default"] = value(d)
		}
		if e := f.Tag.Get("example"); e != "" {
			s["examples"] = []any{value(e)}
		}
		keys[name] = s
	}
}

// value is a tag as JSON, or the text that it is.
func value(tag string) any {
	var v any
	if json.Unmarshal([]byte(tag), &v) == nil {
		return v
	}
	return tag
}

// Described is implemented by types of settings that are not written as what they are
// in Go.
type Described interface{ JSONSchema() map[string]any }

func of(t reflect.Type) Schema {
	if t.Implements(reflect.TypeFor[Described]()) {
		return maps.Clone(reflect.Zero(t).Interface().(Described).JSONSchema())
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		return Any()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return of(t.Elem())
	case reflect.String:
		return Text()
	case reflect.Bool:
		return Schema{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return Schema{"type": "integer"}
	case reflect.Float64:
		return Schema{"type": "number"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return Any()
		}
		return List(of(t.Elem()))
	case reflect.Map:
		return Map(of(t.Elem()))
	case reflect.Struct:
		return object(t)
	}
	return Any()
}

// Undescribed returns the paths of the keys of a schema that have no description, for
// tests: what an editor shows nothing for.
func Undescribed(s any) []string {
	var out []string
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch x := v.(type) {
		case map[string]any:
			if props, ok := x["properties"].(map[string]any); ok {
				for key, p := range props {
					if d, _ := p.(map[string]any); d["description"] == nil {
						out = append(out, at+"."+key)
					}
				}
			}
			for key, y := range x {
				if key != "if" && key != "then" { // they speak of keys that are described elsewhere
					walk(at+"."+key, y)
				}
			}
		case []any:
			for _, y := range x {
				walk(at, y)
			}
		}
	}
	walk("", Plain(s))
	slices.Sort(out)
	return slices.Compact(out)
}

// Plain is a schema as package json reads it.
func Plain(s any) any {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // schemas are made of maps, lists and texts
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return v
}
