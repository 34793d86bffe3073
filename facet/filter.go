package facet

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// What reading costs, in nanoseconds of one core, as measured on the machine of docs/performance.md. Only
// their ratios matter. Tests change them, so that every plan is taken.
var (
	costPosting = 1.2  // a document of a posting list
	costID      = 60.0 // a posting list
	costScan    = 0.7  // a document of a column, looked at
	costRun     = 2.0  // a run of a column
	costCount   = 1.3  // a document of a column, counted
	costWord    = 0.7  // 64 documents of a set
)

// condition is one filter of the query.
type condition struct {
	name   string
	field  int // -1 for ids
	filter Filter
	access bool
}

// eval returns the documents of a part that pass a filter; the result is the caller's. Deleted ones may be among them.
func (s *search) eval(p *part, c *condition) segment.Bits {
	var set segment.Bits
	and := func(b segment.Bits) {
		if set == nil {
			set = b
		} else {
			set.And(b)
		}
	}
	f := &c.filter
	if f.Is != nil {
		and(s.isOneOf(p, c, f.Is))
	}
	if len(f.IsNot) > 0 {
		b := s.isOneOf(p, c, f.IsNot)
		b.Not(p.n)
		and(b)
	}
	for _, span := range f.Within {
		and(s.inSpan(p, c, span, Span.Holds, true))
	}
	for _, span := range f.Contains {
		and(s.inSpan(p, c, span, Span.HeldBy, false))
	}
	for _, span := range f.Intersects {
		and(s.inSpan(p, c, span, Span.Touches, true))
	}
	if len(f.Prefix) > 0 {
		and(s.hasPrefix(p, c, f.Prefix))
	}
	if set == nil {
		set = s.none(p)
		set.SetRange(0, p.n)
	}
	return set
}

func (s *search) isOneOf(p *part, c *condition, values []Value) segment.Bits {
	set := s.none(p)
	if c.field < 0 {
		for _, v := range values {
			if v.IsNull() {
				continue
			}
			if d, ok := p.r.Lookup([]byte(v.s)); ok {
				set.Set(d)
			}
		}
		if s.explaining {
			s.explain(step{stage: "filter", part: p, target: c.name, plan: "lookup", why: fmt.Sprintf("%d ids, each found by binary search", len(values)), cost: float64(len(values)) * 1000})
		}
		return set
	}
	kind := s.e.schema.Fields[c.field].Kind
	dict := p.r.Field(c.field).Dict()
	ids := make([]uint32, 0, len(values))
	var key []byte
	for _, v := range values {
		if v.IsNull() {
			ids = append(ids, 0)
			continue
		}
		if kind == KindObject {
			dict.Range(0, dict.Len(), func(i int, key []byte) bool {
				if (Value{kind: KindObject, s: string(key)}).HasProps(v) {
					ids = append(ids, uint32(i+1))
				}
				return true
			})
			continue
		}
		key = v.appendKey(key[:0])
		if i, ok := dict.Search(key); ok {
			ids = append(ids, uint32(i+1))
		}
	}
	slices.Sort(ids)
	s.anyOf(p, c, slices.Compact(ids), set)
	return set
}

// anyOf adds the documents that have one of some ids, which are in order.
func (s *search) anyOf(p *part, c *condition, ids []uint32, set segment.Bits) {
	if len(ids) == 0 {
		if s.explaining {
			s.explain(step{stage: "filter", part: p, target: c.name, plan: "nothing", why: "the segment has none of the values"})
		}
		return
	}
	posts := p.r.Field(c.field).Posts()
	n := 0
	for _, id := range ids {
		n += posts.Count(int(id))
	}
	col := p.r.Field(c.field).Column()
	list, scan := float64(n)*costPosting+float64(len(ids))*costID, s.scanCost(p, col)
	if list <= scan {
		if len(ids) > 8 && int(ids[len(ids)-1]-ids[0]) == len(ids)-1 {
			if docs, ok := posts.Flat(int(ids[0]), int(ids[len(ids)-1])+1); ok {
				for _, d := range docs {
					set.Set(d)
				}
				if s.explaining {
					s.explain(step{stage: "filter", part: p, target: c.name, plan: "order", why: fmt.Sprintf("%d neighbouring values, their documents lie together; scanning would cost %.0f µs", len(ids), scan/1e3), docs: n, cost: list})
				}
				return
			}
		}
		for _, id := range ids {
			posts.Or(set, int(id))
		}
		if s.explaining {
			s.explain(step{stage: "filter", part: p, target: c.name, plan: "postings", why: fmt.Sprintf("%d values with %d documents; scanning would cost %.0f µs", len(ids), n, scan/1e3), docs: n, cost: list})
		}
		return
	}
	marked := make([]bool, p.r.Field(c.field).Dict().Len()+1)
	for _, id := range ids {
		marked[id] = true
	}
	col.Select(col.MarkRows(marked), set)
	if s.explaining {
		s.explain(step{stage: "filter", part: p, target: c.name, plan: "column", why: fmt.Sprintf("%d values with %d documents; their postings would cost %.0f µs", len(ids), n, list/1e3), docs: n, cost: scan})
	}
}

func (s *search) scanCost(p *part, col *segment.Column) float64 {
	switch {
	case col.Group() >= 0:
		return float64(len(p.r.Runs(col.Group()))) * costRun
	case col.Rows() == 0:
		return float64(col.Total()) * costScan * 2
	}
	return float64(p.n)*costScan + float64(col.Rows())
}

// inSpan finds documents by the values of the dictionary. If those that fit lie together (ordered), they are found
// by binary search.
func (s *search) inSpan(p *part, c *condition, span Span, fits func(Span, Value) bool, ordered bool) segment.Bits {
	set := s.none(p)
	kind := s.e.schema.Fields[c.field].Kind
	dict := p.r.Field(c.field).Dict()
	nums := dict.Nums()
	var ids []uint32
	if kind == KindRange || !ordered {
		for i := range dict.Len() {
			var v Value
			if kind == KindRange {
				v = fixedValue(kind, nums[2*i], nums[2*i+1])
			} else {
				v = fixedValue(kind, nums[i], 0)
			}
			if fits(span, v) {
				ids = append(ids, uint32(i+1))
			}
		}
	} else {
		lo, hi := 0, dict.Len()
		if !span.Lo.IsNull() {
			x, _ := span.Lo.fixed()
			lo = sort.Search(hi, func(i int) bool { return nums[i] >= x })
		}
		if !span.Hi.IsNull() {
			x, _ := span.Hi.fixed()
			hi = sort.Search(hi, func(i int) bool { return nums[i] > x })
		}
		s.between(p, c, lo+1, hi+1, set)
		return set
	}
	s.anyOf(p, c, ids, set)
	return set
}

// between adds the documents that have one of the ids from lo up to hi, without hi. 0 is not among them.
func (s *search) between(p *part, c *condition, lo, hi int, set segment.Bits) {
	col := p.r.Field(c.field).Column()
	if col.Rows() == 0 || lo >= hi || hi-lo <= 8 {
		ids := make([]uint32, 0, max(hi-lo, 0))
		for id := lo; id < hi; id++ {
			ids = append(ids, uint32(id))
		}
		s.anyOf(p, c, ids, set)
		return
	}
	posts := p.r.Field(c.field).Posts()
	docs, flat := posts.Flat(lo, hi)
	n, list := len(docs), float64(len(docs))*costPosting
	if !flat {
		for id := lo; id < hi; id++ {
			n += posts.Count(id)
		}
		list = float64(n)*costPosting + float64(hi-lo)*costID
	}
	scan := s.scanCost(p, col)
	plan, cost := "order", list
	switch {
	case list > scan:
		plan, cost = "column", scan
		col.SelectBetween(uint32(lo), uint32(hi), set)
	case flat:
		for _, d := range docs {
			set.Set(d)
		}
	default:
		for id := lo; id < hi; id++ {
			posts.Or(set, id)
		}
	}
	if s.explaining {
		s.explain(step{stage: "filter", part: p, target: c.name, plan: plan, why: fmt.Sprintf("%d neighbouring values with %d documents; their documents would cost %.0f µs, scanning %.0f µs", hi-lo, n, list/1e3, scan/1e3), docs: n, cost: cost})
	}
}

func (s *search) hasPrefix(p *part, c *condition, prefixes []string) segment.Bits {
	set := s.none(p)
	if c.field < 0 {
		ids, order := p.r.IDs(), p.r.Order()
		for _, prefix := range prefixes {
			lo, hi := prefixRange(ids, prefix)
			for _, d := range order[lo:hi] {
				set.Set(d)
			}
		}
		return set
	}
	dict := p.r.Field(c.field).Dict()
	if !s.e.schema.Fields[c.field].Words {
		var ids []uint32
		for _, prefix := range prefixes {
			lo, hi := prefixRange(dict, prefix)
			for i := lo; i < hi; i++ {
				ids = append(ids, uint32(i+1))
			}
		}
		slices.Sort(ids)
		s.anyOf(p, c, slices.Compact(ids), set)
		return set
	}
	words := p.r.Words(c.field)
	for _, prefix := range prefixes {
		some := s.none(p)
		wanted := Words(prefix)
		if len(wanted) == 0 {
			some = s.valued(p, c)
		}
		for i, w := range wanted {
			lo, hi := prefixRange(words.Dict(), w)
			keys := segment.NewBits(dict.Len())
			for k := lo; k < hi; k++ {
				words.Posts().Or(keys, k+1)
			}
			ids := keys.Append(nil)
			for k := range ids {
				ids[k]++
			}
			docs := s.none(p)
			s.anyOf(p, c, ids, docs)
			if i == 0 {
				some = docs
			} else {
				some.And(docs)
			}
		}
		set.Or(some)
	}
	return set
}

// valued returns the documents that have a value, with null beside it or without.
func (s *search) valued(p *part, c *condition) segment.Bits {
	col := p.r.Field(c.field).Column()
	marked := make([]bool, p.r.Field(c.field).Dict().Len()+1)
	for i := range marked[1:] {
		marked[i+1] = true
	}
	set := s.none(p)
	col.Select(col.MarkRows(marked), set)
	return set
}

// prefixRange returns the places of the keys that begin with a prefix.
func prefixRange(d *segment.Dict, prefix string) (lo, hi int) {
	if prefix == "" {
		return 0, d.Len()
	}
	lo, _ = d.Search([]byte(prefix))
	end := []byte(prefix)
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) == 0 {
		return lo, d.Len()
	}
	end = bytes.Clone(end)
	end[len(end)-1]++
	hi, _ = d.Search(end)
	return lo, hi
}
