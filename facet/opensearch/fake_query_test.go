package opensearch_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// one reads an object with exactly one member.
func one(text []byte) (name string, value json.RawMessage, err error) {
	var m map[string]json.RawMessage
	if err := strict(text, &m); err != nil {
		return "", nil, err
	}
	if len(m) != 1 {
		return "", nil, refuse("%s, which has not one member", text)
	}
	for name, value = range m {
	}
	return name, value, nil
}

// matches evaluates a query.
func matches(d *fakeDoc, query []byte) (bool, error) {
	clause, body, err := one(query)
	if err != nil {
		return false, err
	}
	if len(d.index.types) == 0 {
		return true, nil
	}
	switch clause {
	case "match_all", "match_none":
		return clause == "match_all", strict(body, &struct{}{})
	case "bool":
		return matchesBool(d, body)
	case "exists":
		var b struct{ Field string }
		if err := strict(body, &b); err != nil {
			return false, err
		}
		if err := d.index.searchable(b.Field, "keyword", "long", "double_range"); err != nil {
			return false, err
		}
		return len(list(d.source[b.Field])) > 0, nil
	case "nested":
		var b struct {
			Path  string
			Query json.RawMessage
		}
		if err := strict(body, &b); err != nil {
			return false, err
		}
		if d.index.types[b.Path] != "nested" {
			return false, refuse("nested documents in %s", b.Path)
		}
		for _, o := range list(d.source[b.Path]) {
			inner := &fakeDoc{index: d.index, source: map[string]any{}}
			for name, v := range o.(map[string]any) {
				inner.source[b.Path+"."+name] = v
			}
			if ok, err := matches(inner, b.Query); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	case "term", "terms", "prefix", "range":
		field, body, err := one(body)
		if err != nil {
			return false, err
		}
		return d.matchesField(clause, field, body)
	}
	return false, refuse("the query %s", clause)
}

// searchable refuses fields that are not there, or of a type that the clause does not
// suit.
func (x *fakeIndex) searchable(field string, types ...string) error {
	if !slices.Contains(types, x.types[field]) {
		return refuse("this clause on the field %q of type %q", field, x.types[field])
	}
	return nil
}

func matchesBool(d *fakeDoc, body []byte) (bool, error) {
	var b struct {
		Filter  []json.RawMessage `json:"filter"`
		MustNot []json.RawMessage `json:"must_not"`
		Should  []json.RawMessage `json:"should"`
		Minimum int               `json:"minimum_should_match"`
	}
	if err := strict(body, &b); err != nil {
		return false, err
	}
	if len(b.Filter)+len(b.MustNot)+len(b.Should) == 0 || len(b.Should) > 0 && b.Minimum != 1 || len(b.Should) > 1024 {
		return false, refuse("the bool query %s", body)
	}
	ok := true
	count := func(qs []json.RawMessage) (n int, err error) {
		for _, q := range qs {
			m, err := matches(d, q)
			if err != nil {
				return 0, err
			}
			if m {
				n++
			}
		}
		return n, nil
	}
	n, err := count(b.Filter)
	if err != nil {
		return false, err
	}
	ok = ok && n == len(b.Filter)
	if n, err = count(b.MustNot); err != nil {
		return false, err
	}
	ok = ok && n == 0
	if n, err = count(b.Should); err != nil {
		return false, err
	}
	return ok && (n > 0 || len(b.Should) == 0), nil
}

func (d *fakeDoc) matchesField(clause, field string, body []byte) (bool, error) {
	values := list(d.source[field])
	same := func(want any) bool {
		return slices.ContainsFunc(values, func(v any) bool { return compare(v, want) == 0 })
	}
	switch clause {
	case "term", "terms":
		if err := d.index.searchable(field, "keyword", "long"); err != nil {
			return false, err
		}
		var want any
		if err := strict(body, &want); err != nil {
			return false, err
		}
		if _, isList := want.([]any); isList != (clause == "terms") || len(list(want)) > 65_536 {
			return false, refuse("%s with %s", clause, body)
		}
		for _, w := range list(want) {
			if _, text := w.(string); text != (d.index.types[field] == "keyword") {
				return false, refuse("%v as a value of %s", w, field)
			}
		}
		return slices.ContainsFunc(list(want), same), nil
	case "prefix":
		if err := d.index.searchable(field, "keyword"); err != nil {
			return false, err
		}
		var b struct{ Value string }
		if err := strict(body, &b); err != nil {
			return false, err
		}
		return slices.ContainsFunc(values, func(v any) bool { return strings.HasPrefix(v.(string), b.Value) }), nil
	}
	var b struct {
		Gte      *json.Number `json:"gte"`
		Lte      *json.Number `json:"lte"`
		Relation string       `json:"relation"`
	}
	if err := strict(body, &b); err != nil {
		return false, err
	}
	if d.index.types[field] == "double_range" {
		lo, hi := ends(b.Gte, b.Lte)
		for _, v := range values {
			v := v.(map[string]any)
			from, to := ends(numberOf(v["gte"]), numberOf(v["lte"]))
			var ok bool
			switch b.Relation {
			case "within":
				ok = lo <= from && to <= hi
			case "contains":
				ok = from <= lo && hi <= to
			case "intersects":
				ok = from <= hi && lo <= to
			default:
				return false, refuse("the relation %q", b.Relation)
			}
			if ok {
				return true, nil
			}
		}
		return false, nil
	}
	if err := d.index.searchable(field, "long"); err != nil {
		return false, err
	}
	if b.Relation != "" {
		return false, refuse("a relation on a number")
	}
	return slices.ContainsFunc(values, func(v any) bool {
		return (b.Gte == nil || compare(v, *b.Gte) >= 0) && (b.Lte == nil || compare(v, *b.Lte) <= 0)
	}), nil
}

func numberOf(v any) *json.Number {
	if n, ok := v.(json.Number); ok {
		return &n
	}
	return nil
}

func ends(gte, lte *json.Number) (lo, hi float64) {
	lo, hi = math.Inf(-1), math.Inf(1)
	if gte != nil {
		lo = float(*gte)
	}
	if lte != nil {
		hi = float(*lte)
	}
	return lo, hi
}

// aggregate evaluates aggregations over the documents found.
func aggregate(found, all []*fakeDoc, aggs map[string]json.RawMessage, buckets *int) (map[string]any, error) {
	out := map[string]any{}
	for name, text := range aggs {
		var m map[string]json.RawMessage
		if err := strict(text, &m); err != nil {
			return nil, err
		}
		var sub map[string]json.RawMessage
		if m["aggs"] != nil {
			if err := strict(m["aggs"], &sub); err != nil {
				return nil, err
			}
			delete(m, "aggs")
		}
		if len(m) != 1 {
			return nil, refuse("the aggregation %s", text)
		}
		for kind, body := range m {
			a, err := aggregateOne(kind, body, sub, found, all, buckets)
			if err != nil {
				return nil, err
			}
			out[name] = a
		}
	}
	return out, nil
}

func aggregateOne(kind string, body []byte, sub map[string]json.RawMessage, found, all []*fakeDoc, buckets *int) (map[string]any, error) {
	with := func(docs []*fakeDoc, a map[string]any) (map[string]any, error) {
		*buckets++
		a["doc_count"] = len(docs)
		below, err := aggregate(docs, all, sub, buckets)
		for name, b := range below {
			a[name] = b
		}
		return a, err
	}
	switch kind {
	case "filter":
		var docs []*fakeDoc
		for _, d := range found {
			ok, err := matches(d, body)
			if err != nil {
				return nil, err
			}
			if ok {
				docs = append(docs, d)
			}
		}
		return with(docs, map[string]any{})
	case "global":
		if err := strict(body, &struct{}{}); err != nil {
			return nil, err
		}
		return with(all, map[string]any{})
	case "max", "sum", "value_count":
		if sub != nil {
			return nil, refuse("an aggregation below %s", kind)
		}
		return metric(kind, body, found)
	case "terms":
		return termsOf(body, found, with)
	case "composite":
		return composite(body, found, with)
	}
	return nil, refuse("the aggregation %s", kind)
}

func metric(kind string, body []byte, docs []*fakeDoc) (map[string]any, error) {
	var b struct{ Field string }
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	var sum float64
	var most any
	n := 0
	for _, d := range docs {
		if typ := strings.TrimSuffix(d.index.types[b.Field], " unindexed"); typ != "long" && typ != "double" {
			return nil, refuse("%s of the field %q", kind, b.Field)
		}
		for _, v := range list(d.source[b.Field]) {
			n++
			sum += float(v)
			if most == nil || float(v) > most.(float64) {
				most = float(v)
			}
		}
	}
	switch kind {
	case "max":
		return map[string]any{"value": most}, nil
	case "sum":
		return map[string]any{"value": sum}, nil
	}
	return map[string]any{"value": n}, nil
}

type withSub func([]*fakeDoc, map[string]any) (map[string]any, error)

func termsOf(body []byte, docs []*fakeDoc, with withSub) (map[string]any, error) {
	var b struct {
		Field string
		Size  int
		Order []map[string]string
	}
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	if b.Size <= 0 || fmt.Sprint(b.Order) != "[map[_count:desc] map[_key:asc]]" {
		return nil, refuse("terms with %s", body)
	}
	keys, groups, err := group(docs, []string{b.Field})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(keys, func(x, y []any) int {
		return cmp.Compare(len(groups[fmt.Sprint(y)]), len(groups[fmt.Sprint(x)]))
	})
	other := 0
	list := []any{}
	for i, k := range keys {
		in := groups[fmt.Sprint(k)]
		if i >= b.Size {
			other += len(in)
			continue
		}
		bucket, err := with(in, map[string]any{"key": k[0]})
		if err != nil {
			return nil, err
		}
		list = append(list, bucket)
	}
	return map[string]any{"buckets": list, "sum_other_doc_count": other, "doc_count_error_upper_bound": 0}, nil
}

// group sorts documents by their values in the fields. Those that lack one are left out.
func group(docs []*fakeDoc, fields []string) (keys [][]any, groups map[string][]*fakeDoc, err error) {
	groups = map[string][]*fakeDoc{}
	for _, d := range docs {
		combos := [][]any{nil}
		for _, f := range fields {
			if err := d.index.searchable(f, "keyword", "long"); err != nil {
				return nil, nil, err
			}
			var next [][]any
			for _, c := range combos {
				for _, v := range list(d.source[f]) {
					next = append(next, append(slices.Clip(c), v))
				}
			}
			combos = next
		}
		for _, c := range combos {
			name := fmt.Sprint(c)
			if groups[name] == nil {
				keys = append(keys, c)
			}
			groups[name] = append(groups[name], d)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys, groups, nil
}

func compareKeys(a, b []any) int {
	for i := range a {
		if c := compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

func composite(body []byte, docs []*fakeDoc, with withSub) (map[string]any, error) {
	var b struct {
		Size    int
		Sources []map[string]struct {
			Terms struct{ Field string }
		}
		After map[string]any
	}
	if err := strict(body, &b); err != nil {
		return nil, err
	}
	var names, fields []string
	for _, s := range b.Sources {
		for name, src := range s {
			names, fields = append(names, name), append(fields, src.Terms.Field)
		}
	}
	keys, groups, err := group(docs, fields)
	if err != nil {
		return nil, err
	}
	var after []any
	if b.After != nil {
		for _, n := range names {
			after = append(after, b.After[n])
		}
	}
	out := map[string]any{}
	list := []any{}
	for _, k := range keys {
		if after != nil && compareKeys(k, after) <= 0 || len(list) == b.Size {
			continue
		}
		key := map[string]any{}
		for i, n := range names {
			key[n] = k[i]
		}
		bucket, err := with(groups[fmt.Sprint(k)], map[string]any{"key": key})
		if err != nil {
			return nil, err
		}
		list = append(list, bucket)
		out["after_key"] = key
	}
	out["buckets"] = list
	return out, nil
}
