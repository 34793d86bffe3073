package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/facet"
)

// statement is a statement under construction.
type statement struct {
	x    *Index
	args []any
}

// arg adds a parameter of the type.
func (s *statement) arg(v any, typ string) string {
	s.args = append(s.args, v)
	return fmt.Sprintf("$%d::%s", len(s.args), typ)
}

// resolved knows the numbers of the terms that the filters of a query name.
type resolved map[termKey]int32

// resolve looks up the terms of all filters.
func (x *Index) resolve(ctx context.Context, tx pgx.Tx, sets ...map[string]facet.Filter) (resolved, error) {
	var keys []termKey
	for _, set := range sets {
		for name, f := range set {
			c := x.column(name)
			if c == nil || !c.term || c.Kind == facet.KindObject {
				continue
			}
			for _, v := range slices.Concat(f.Is, f.IsNot) {
				if !v.IsNull() {
					keys = append(keys, termKey{c.no, text(v)})
				}
			}
		}
	}
	return x.find(ctx, tx, keys)
}

// column returns the field's, or nil for the id.
func (x *Index) column(name string) *column {
	for i := range x.cols {
		if x.cols[i].Name == name {
			return &x.cols[i]
		}
	}
	return nil
}

// where writes the condition that all filters but the one on without hold, for the row
// d of the documents. It is never null.
func (s *statement) where(r resolved, without string, sets ...map[string]facet.Filter) string {
	var parts []string
	for _, set := range sets {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if name != without {
				parts = s.filter(parts, r, name, set[name])
			}
		}
	}
	if len(parts) == 0 {
		return "true"
	}
	return strings.Join(parts, " AND ")
}

// filter adds the conditions of one filter.
func (s *statement) filter(parts []string, r resolved, name string, f facet.Filter) []string {
	c := s.x.column(name)
	is := func(values []facet.Value) string {
		switch {
		case len(values) == 0:
			return "false"
		case c == nil:
			return s.idIs(values)
		case c.Kind == facet.KindObject:
			return s.objectIs(c, values)
		case c.term:
			return s.termIs(c, r, values)
		default:
			return s.numberIs(c, values)
		}
	}
	if f.Is != nil {
		parts = append(parts, is(f.Is))
	}
	if len(f.IsNot) > 0 {
		parts = append(parts, "NOT "+is(f.IsNot))
	}
	for _, span := range f.Within {
		parts = append(parts, s.span(c, within, span))
	}
	for _, span := range f.Contains {
		parts = append(parts, s.span(c, contains, span))
	}
	for _, span := range f.Intersects {
		parts = append(parts, s.span(c, intersects, span))
	}
	if len(f.Prefix) > 0 {
		var any []string
		for _, p := range f.Prefix {
			any = append(any, s.prefix(c, p))
		}
		parts = append(parts, "("+strings.Join(any, " OR ")+")")
	}
	return parts
}

func (s *statement) idIs(values []facet.Value) string {
	var ids []string
	for _, v := range values {
		if !v.IsNull() {
			ids = append(ids, v.Str())
		}
	}
	return "(d.id = ANY(" + s.arg(ids, "text[]") + "))"
}

// tagged holds when the row has one of the terms. The operator is named with its schema
// because the extension intarray has one of the same name that the index does not know.
func (s *statement) tagged(ids []int32) string {
	return "(d.tags OPERATOR(pg_catalog.&&) " + s.arg(ids, "int[]") + ")"
}

// taggedBy is tagged with the terms that a query finds.
func taggedBy(query string) string {
	return "(d.tags OPERATOR(pg_catalog.&&) coalesce((SELECT array_agg(DISTINCT id) FROM (" + query + ") q(id)), '{}'))"
}

func (s *statement) termIs(c *column, r resolved, values []facet.Value) string {
	ids := make([]int32, 0, len(values))
	for _, v := range values {
		if v.IsNull() {
			ids = append(ids, c.null)
		} else if id, ok := r[termKey{c.no, text(v)}]; ok {
			ids = append(ids, id)
		}
	}
	return s.tagged(ids)
}

// objectIs looks for objects that have all properties of one of the values.
func (s *statement) objectIs(c *column, values []facet.Value) string {
	var or []string
	null := false
	for _, v := range values {
		if v.IsNull() {
			null = true
			continue
		}
		var and []string
		for part := range strings.SplitSeq(strings.TrimSuffix(v.Str(), "\x1e"), "\x1e") {
			and = append(and, "strpos(E'\\x1e' || t.value, "+s.arg("\x1e"+part+"\x1e", "text")+") > 0")
		}
		or = append(or, strings.Join(and, " AND "))
	}
	var alternatives []string
	if len(or) > 0 {
		alternatives = append(alternatives, taggedBy(s.x.sql("SELECT t.id FROM {term} t WHERE t.field = "+s.arg(c.no, "int")+" AND ("+strings.Join(or, " OR ")+")")))
	}
	if null {
		alternatives = append(alternatives, s.tagged([]int32{c.null}))
	}
	return "(" + strings.Join(alternatives, " OR ") + ")"
}

func (s *statement) numberIs(c *column, values []facet.Value) string {
	var real []facet.Value
	null := false
	for _, v := range values {
		if v.IsNull() {
			null = true
		} else {
			real = append(real, v)
		}
	}
	var or []string
	switch {
	case len(real) == 0:
	case c.Kind == facet.KindRange:
		for _, v := range real {
			lo, hi := v.Bounds()
			or = append(or, s.eachRange(c, fmt.Sprintf("lo = %s AND hi = %s", s.arg(lo, c.typ), s.arg(hi, c.typ))))
		}
	case c.Multi:
		or = append(or, fmt.Sprintf("coalesce(d.%s OPERATOR(pg_catalog.&&) %s, false)", c.value, s.arg(c.natives(real), c.typ+"[]")))
	default:
		or = append(or, fmt.Sprintf("coalesce(d.%s = ANY(%s), false)", c.value, s.arg(c.natives(real), c.typ+"[]")))
	}
	if null {
		or = append(or, s.tagged([]int32{c.null}))
	}
	return "(" + strings.Join(or, " OR ") + ")"
}

// eachRange holds when the condition holds for one of the field's ranges, lo to hi.
func (s *statement) eachRange(c *column, cond string) string {
	if !c.Multi {
		return fmt.Sprintf("coalesce(%s, false)", strings.NewReplacer("lo", "d."+c.lo, "hi", "d."+c.hi).Replace(cond))
	}
	return fmt.Sprintf("EXISTS (SELECT FROM unnest(d.%s, d.%s) r(lo, hi) WHERE %s)", c.lo, c.hi, cond)
}

type relation int

const (
	within relation = iota
	contains
	intersects
)

// span holds when one of the field's values is so related to the span.
func (s *statement) span(c *column, rel relation, span facet.Span) string {
	end := func(v facet.Value) string { // of the column's type
		if c.Kind == facet.KindRange {
			return s.arg(v.Float64(), c.typ)
		}
		return s.arg(c.native(v), c.typ)
	}
	lo, hi := "lo", "hi"
	if c.Kind != facet.KindRange {
		lo, hi = "v", "v"
	}
	cond := []string{lo + " IS NOT NULL"}
	switch rel {
	case within:
		if !span.Lo.IsNull() {
			cond = append(cond, lo+" >= "+end(span.Lo))
		}
		if !span.Hi.IsNull() {
			cond = append(cond, hi+" <= "+end(span.Hi))
		}
	case contains:
		// An open end lies only in a range that is open there too.
		if c.Kind != facet.KindRange && (span.Lo.IsNull() || span.Hi.IsNull()) {
			return "false"
		}
		if span.Lo.IsNull() {
			cond = append(cond, lo+" = '-Infinity'")
		} else {
			cond = append(cond, lo+" <= "+end(span.Lo))
		}
		if span.Hi.IsNull() {
			cond = append(cond, hi+" = 'Infinity'")
		} else {
			cond = append(cond, hi+" >= "+end(span.Hi))
		}
	case intersects:
		if !span.Hi.IsNull() {
			cond = append(cond, lo+" <= "+end(span.Hi))
		}
		if !span.Lo.IsNull() {
			cond = append(cond, hi+" >= "+end(span.Lo))
		}
	}
	all := strings.Join(cond, " AND ")
	switch {
	case c.Kind == facet.KindRange:
		return s.eachRange(c, all)
	case c.Multi:
		return fmt.Sprintf("EXISTS (SELECT FROM unnest(d.%s) r(v) WHERE %s)", c.value, all)
	default: // what an index on the column understands; null is not true, and never negated
		for i := range cond {
			cond[i] = "d." + c.value + strings.TrimPrefix(cond[i], "v")
		}
		return "(" + strings.Join(cond, " AND ") + ")"
	}
}

// prefix holds when a value, or its words, begin so.
func (s *statement) prefix(c *column, p string) string {
	if c == nil {
		return "(" + s.begins("d.id", p) + ")"
	}
	if !c.Words {
		if p == "" {
			return "(d." + c.sort + " IS NOT NULL)"
		}
		return taggedBy(s.x.sql("SELECT t.id FROM {term} t WHERE t.field = " + s.arg(c.no, "int") + " AND " + s.begins("t.value", p)))
	}
	words := facet.Words(p)
	if len(words) == 0 {
		return "(d." + c.sort + " IS NOT NULL)"
	}
	var all []string
	for _, w := range words {
		all = append(all, taggedBy(s.x.sql("SELECT w.term FROM {word} w WHERE w.field = "+s.arg(c.no, "int")+" AND "+s.begins("w.word", w))))
	}
	return "(" + strings.Join(all, " AND ") + ")"
}

// begins holds when a text, which is ordered by bytes, begins with p.
func (s *statement) begins(text, p string) string {
	cond := text + " >= " + s.arg(p, "text")
	if end := behind(p); end != "" {
		return cond + " AND " + text + " < " + s.arg(end, "text")
	}
	return cond + " AND starts_with(" + text + ", " + s.arg(p, "text") + ")"
}

// behind returns the least string greater than all that begin with p, or "" if there
// is none.
func behind(p string) string {
	for p != "" {
		r, n := utf8.DecodeLastRuneInString(p)
		p = p[:len(p)-n]
		if r == utf8.MaxRune {
			continue
		}
		if r++; r == 0xd800 {
			r = 0xe000 // what lies between is no character
		}
		return p + string(r)
	}
	return ""
}
