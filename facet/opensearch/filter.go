package opensearch

import (
	"maps"
	"slices"

	"github.com/waybill-run/waybill/facet"
)

func term(field string, value any) object   { return object{"term": object{field: value}} }
func terms(field string, values any) object { return object{"terms": object{field: values}} }
func exists(field string) object            { return object{"exists": object{"field": field}} }
func isNull(c *column) object               { return term(nullsField, c.name) }
func not(q object) object                   { return object{"bool": object{"must_not": []object{q}}} }

var nothing = object{"match_none": object{}}

func prefix(field, p string) object {
	return object{"prefix": object{field: object{"value": p}}}
}

func anyOf(qs []object) object {
	switch len(qs) {
	case 0:
		return nothing
	case 1:
		return qs[0]
	}
	return object{"bool": object{"should": qs, "minimum_should_match": 1}}
}

func allOf(qs []object) object {
	if len(qs) == 0 {
		return object{"match_all": object{}}
	}
	return object{"bool": object{"filter": qs}}
}

// documents leaves out what is none.
var documents = not(exists(seqField))

// where is what documents match that pass all filters but the one on without.
func (x *Index) where(without string, sets ...map[string]facet.Filter) []object {
	var all []object
	for _, set := range sets {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if name != without {
				all = x.filter(all, name, set[name])
			}
		}
	}
	return all
}

func (x *Index) filter(all []object, name string, f facet.Filter) []object {
	c := x.column(name)
	is := func(values []facet.Value) object { return x.is(c, values) }
	if f.Is != nil {
		all = append(all, is(f.Is))
	}
	if len(f.IsNot) > 0 {
		all = append(all, not(is(f.IsNot)))
	}
	for _, s := range f.Within {
		all = append(all, c.span("within", s))
	}
	for _, s := range f.Contains {
		all = append(all, c.span("contains", s))
	}
	for _, s := range f.Intersects {
		all = append(all, c.span("intersects", s))
	}
	if len(f.Prefix) > 0 {
		var some []object
		for _, p := range f.Prefix {
			some = append(some, c.begins(p))
		}
		all = append(all, anyOf(some))
	}
	return all
}

// is holds when one of the values is there. A nil column is the id.
func (x *Index) is(c *column, values []facet.Value) object {
	var some []object
	keys := []any{}
	for _, v := range values {
		switch {
		case v.IsNull() && c != nil:
			some = append(some, isNull(c))
		case v.IsNull():
		case c == nil:
			keys = append(keys, v.Str())
		case c.Kind == facet.KindObject:
			var props []object
			p := v.Props()
			for _, name := range slices.Sorted(maps.Keys(p)) {
				props = append(props, term(c.side("o")+"."+c.prop(name), p[name]))
			}
			some = append(some, object{"nested": object{"path": c.side("o"), "query": allOf(props)}})
		default:
			keys = append(keys, c.key(v))
		}
	}
	if len(keys) > 0 {
		field := idField
		if c != nil {
			field = c.name
			if c.Kind == facet.KindRange {
				field = c.side("e")
			}
		}
		some = append(some, terms(field, keys))
	}
	return anyOf(some)
}

// span holds when a value is so related to the span.
func (c *column) span(relation string, s facet.Span) object {
	ends := object{}
	if c.Kind == facet.KindRange {
		if !s.Lo.IsNull() {
			ends = bounds(s.Lo.Float64(), posInf)
		}
		if !s.Hi.IsNull() {
			maps.Copy(ends, bounds(negInf, s.Hi.Float64()))
		}
		ends["relation"] = relation
		return object{"range": object{c.name: ends}}
	}
	if relation == "contains" { // a single value contains nothing but itself
		if s.Lo.IsNull() || s.Lo != s.Hi {
			return nothing
		}
		return term(c.name, c.key(s.Lo))
	}
	if !s.Lo.IsNull() {
		ends["gte"] = c.key(s.Lo)
	}
	if !s.Hi.IsNull() {
		ends["lte"] = c.key(s.Hi)
	}
	if len(ends) == 0 {
		return exists(c.name)
	}
	return object{"range": object{c.name: ends}}
}

// begins holds when a value, or its words, begin so. A nil column is the id.
func (c *column) begins(p string) object {
	if c == nil {
		return prefix(idField, p)
	}
	if !c.Words {
		if p == "" {
			return exists(c.name)
		}
		return prefix(c.name, p)
	}
	var all []object
	for _, w := range facet.Words(p) {
		all = append(all, prefix(c.side("w"), w))
	}
	if len(all) == 0 {
		return exists(c.name)
	}
	return allOf(all)
}
