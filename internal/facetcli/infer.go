package facetcli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill/facet"
)

// guess is what has been seen of a field.
type guess struct {
	docs, values         int
	texts, ints, floats  int
	bools, dates, ranges int
	words, longest       int
	multi                bool
	other                bool // something that no field can hold, such as a list of lists
	distinct             map[string]bool
	lastDoc              int
}

// inference guesses a schema from documents.
type inference struct {
	id     string
	docs   int
	names  []string // in the order in which they came
	fields map[string]*guess
}

func newInference(id string) *inference { return &inference{id: id, fields: map[string]*guess{}} }

// see takes a line into account.
func (n *inference) see(line []byte) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("it is no JSON object")
	}
	n.docs++
	return n.object(dec, "")
}

// object reads the rest of an object. Members keep their order, so that the schema is
// that of the documents.
func (n *inference) object(dec *json.Decoder, path string) error {
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return fmt.Errorf("a member without a name")
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if err := n.value(path+name, raw, false); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

func (n *inference) value(path string, raw []byte, listed bool) error {
	if path == n.id {
		return nil
	}
	switch raw[0] {
	case '{':
		if isRange(raw) {
			n.note(path).ranges++
			return nil
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if _, err := dec.Token(); err != nil {
			return err
		}
		return n.object(dec, path+".")
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		if listed {
			n.note(path).other = true
			return nil
		}
		if len(list) > 1 && list[0][0] != '{' {
			n.note(path).multi = true
		}
		for _, v := range list {
			if err := n.value(path, v, true); err != nil {
				return err
			}
			if len(list) > 1 && v[0] == '{' && !isRange(v) {
				n.spread(path + ".")
			}
		}
	case 'n':
		n.note(path)
	case 't', 'f':
		g := n.note(path)
		g.values, g.bools = g.values+1, g.bools+1
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		n.note(path).text(s)
	default:
		g := n.note(path)
		g.values++
		if _, err := json.Number(raw).Int64(); err == nil {
			g.ints++
		} else {
			g.floats++
		}
	}
	return nil
}

// spread makes the fields below a list of objects multi-valued.
func (n *inference) spread(prefix string) {
	for name, g := range n.fields {
		if strings.HasPrefix(name, prefix) {
			g.multi = true
		}
	}
}

func isRange(raw []byte) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil || len(m) == 0 {
		return false
	}
	for name, v := range m {
		if name != "gte" && name != "lte" || v[0] != '-' && v[0] != 'n' && (v[0] < '0' || v[0] > '9') {
			return false
		}
	}
	return true
}

// note finds the field of a value that comes now.
func (n *inference) note(path string) *guess {
	g := n.fields[path]
	if g == nil {
		g = &guess{distinct: map[string]bool{}}
		n.fields[path] = g
		n.names = append(n.names, path)
	}
	if g.lastDoc != n.docs {
		g.lastDoc = n.docs
		g.docs++
	}
	return g
}

func (g *guess) text(s string) {
	g.values, g.texts = g.values+1, g.texts+1
	g.longest = max(g.longest, len(s))
	g.words += len(strings.Fields(s))
	if len(g.distinct) < 5000 {
		g.distinct[s] = true
	}
	layout := time.RFC3339
	if len(s) == len(time.DateOnly) {
		layout = time.DateOnly
	}
	if _, err := time.Parse(layout, s); err == nil {
		g.dates++
	}
}

// schema says what the fields are taken for, and which could not be taken for
// anything.
func (n *inference) schema() (s facet.Schema, left []string) {
	limit := facet.DefaultLimits().Keyword
	for _, name := range n.names {
		g := n.fields[name]
		f := facet.Field{Name: name, Kind: facet.KindKeyword, Multi: g.multi}
		numbers := g.ints + g.floats
		switch {
		case g.other, name == facet.IDField, len(name) > facet.MaxFieldName:
			left = append(left, name)
			continue
		case g.ranges > 0 && g.values == 0:
			f.Kind = facet.KindRange
		case g.ranges > 0:
			left = append(left, name)
			continue
		case g.values == 0: // nothing but null
			left = append(left, name)
			continue
		case g.bools == g.values:
			f.Kind = facet.KindBool
		case numbers == g.values && g.floats > 0:
			f.Kind = facet.KindNumber
		case numbers == g.values:
			f.Kind = facet.KindInt
		case g.dates == g.values:
			f.Kind = facet.KindDate
		case g.longest > limit:
			left = append(left, name)
			continue
		default:
			// Sentences are found by their words.
			f.Words = g.texts > 0 && g.words >= 3*g.texts && 2*len(g.distinct) > min(g.texts, 5000)
		}
		s.Fields = append(s.Fields, f)
	}
	if len(s.Fields) > facet.MaxFields {
		for _, f := range s.Fields[facet.MaxFields:] {
			left = append(left, f.Name)
		}
		s.Fields = s.Fields[:facet.MaxFields]
	}
	slices.Sort(left)
	return s, left
}
