package facetcli

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/waybill-run/waybill/facet"
)

const filterHelp = `A filter is one of

  FIELD=VALUE        the field has the value; several of one field are alternatives
  FIELD!=VALUE       it does not
  FIELD=null         the field has no value (FIELD="null" is the word)
  FIELD>=N FIELD<=N  of numbers and dates; both together are a span
  FIELD^=TEXT        a value, or a word of a text, begins so
  FIELD within LO..HI, FIELD contains LO..HI, FIELD intersects LO..HI
                     of ranges; either end may be left out

All filters have to hold. The document's id is the field ` + facet.IDField + `.`

// operators, the longer ones first.
var operators = []string{"!=", ">=", "<=", "^=", "=", " within ", " contains ", " intersects "}

// parseFilters reads the filters of a command line.
func parseFilters(s facet.Schema, texts []string) (map[string]facet.Filter, error) {
	filters := map[string]facet.Filter{}
	spans := map[string]*facet.Span{}
	for _, text := range texts {
		name, op, value, err := split(s, text)
		if err != nil {
			return nil, err
		}
		field, _ := s.FieldOrID(name)
		f := filters[name]
		switch op {
		case "^=":
			f.Prefix = append(f.Prefix, value)
		case "=", "!=":
			v, err := parseValue(s, field, value)
			if err != nil {
				return nil, err
			}
			if op == "=" {
				f.Is = append(f.Is, v)
			} else {
				f.IsNot = append(f.IsNot, v)
			}
		case ">=", "<=":
			v, err := parseEnd(s, field, value)
			if err != nil {
				return nil, err
			}
			if spans[name] == nil {
				spans[name] = &facet.Span{}
			}
			if op == ">=" {
				spans[name].Lo = v
			} else {
				spans[name].Hi = v
			}
		default:
			span, err := parseSpan(s, field, value)
			if err != nil {
				return nil, err
			}
			switch strings.TrimSpace(op) {
			case "within":
				f.Within = append(f.Within, span)
			case "contains":
				f.Contains = append(f.Contains, span)
			case "intersects":
				f.Intersects = append(f.Intersects, span)
			}
		}
		filters[name] = f
	}
	for name, span := range spans {
		f := filters[name]
		f.Within = append(f.Within, *span)
		filters[name] = f
	}
	return filters, nil
}

// split takes a filter apart, by the operator that comes first.
func split(s facet.Schema, text string) (name, op, value string, err error) {
	at := -1
	for _, o := range operators {
		if i := strings.Index(text, o); i > 0 && (at < 0 || i < at) {
			at, op = i, o
		}
	}
	if at < 0 {
		return "", "", "", invalid("filter %q is not understood", text).WithHint("write FIELD=VALUE; waybill facet query --help lists the others")
	}
	name, value = strings.TrimSpace(text[:at]), text[at+len(op):]
	if _, ok := s.FieldOrID(name); !ok {
		return "", "", "", unknownField(s, name)
	}
	return name, op, value, nil
}

// unknownField says which fields there are.
func unknownField(s facet.Schema, name string) error {
	names := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		names[i] = f.Name
	}
	slices.Sort(names)
	const most = 60
	more := ""
	if len(names) > most {
		names, more = names[:most], ", …"
	}
	return invalid("there is no field %q", name).WithHint("fields are %s%s", strings.Join(names, ", "), more)
}

// parseValue reads what is written behind the sign.
func parseValue(s facet.Schema, f facet.Field, text string) (facet.Value, error) {
	if text == "null" {
		return facet.Null(), nil
	}
	raw := []byte(text)
	if f.Kind == facet.KindKeyword || f.Kind == facet.KindDate {
		var quoted string
		if len(text) < 2 || text[0] != '"' || json.Unmarshal(raw, &quoted) != nil {
			var err error
			if raw, err = json.Marshal(text); err != nil {
				return facet.Value{}, err
			}
		}
	}
	v, err := s.Value(f.Name, raw)
	if err != nil {
		return v, invalid("filter on %s: %q is no value of kind %s", f.Name, text, f.Kind).WithHint("%s", examples[f.Kind])
	}
	return v, nil
}

// parseEnd reads an end of a span. Those of ranges are numbers.
func parseEnd(s facet.Schema, f facet.Field, text string) (facet.Value, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return facet.Null(), nil
	}
	if f.Kind != facet.KindRange {
		return parseValue(s, f, text)
	}
	number := facet.Schema{Fields: []facet.Field{{Name: f.Name, Kind: facet.KindNumber}}}
	return parseValue(number, number.Fields[0], text)
}

func parseSpan(s facet.Schema, f facet.Field, text string) (span facet.Span, err error) {
	lo, hi, ok := strings.Cut(text, "..")
	if !ok {
		lo, hi = text, text
	}
	if span.Lo, err = parseEnd(s, f, lo); err != nil {
		return span, err
	}
	span.Hi, err = parseEnd(s, f, hi)
	return span, err
}

// examples are values as filters have them.
var examples = map[facet.Kind]string{
	facet.KindInt:    "an int is written 12",
	facet.KindNumber: "a number is written 12.5",
	facet.KindBool:   "a bool is true or false",
	facet.KindDate:   "a date is written 2026-01-31 or 2026-01-31T12:00:00Z",
	facet.KindRange:  "a range is written [1,2]; see FIELD within LO..HI",
	facet.KindObject: `an object is written {"name":"value"}`,
}
