package facet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// search is one query being answered.
type search struct {
	e     *Engine
	v     *view
	q     Query
	conds []condition
	sets  []*docset // different sets of documents that were asked for
	start time.Time

	explaining bool
	mu         sync.Mutex
	steps      []step
	borrowed   []segment.Bits // given back when the query has been answered
}

// borrow returns a set for the documents of a part, with anything in it.
func (s *search) borrow(p *part) segment.Bits {
	b := segment.BorrowBits(p.n)
	s.mu.Lock()
	s.borrowed = append(s.borrowed, b)
	s.mu.Unlock()
	return b
}

// none returns an empty set for the documents of a part.
func (s *search) none(p *part) segment.Bits {
	b := s.borrow(p)
	clear(b)
	return b
}

// docset is the documents that pass all filters but some, in each part.
type docset struct {
	skip     int  // field whose filter is left out, -1 for none
	noAccess bool // access is left out as well
	parts    []partset
	total    int
}

// partset is a set in a part, without deleted documents.
type partset struct {
	bits segment.Bits
	n    int
	runs [16]lazyRuns

	once   sync.Once
	other  *partset // of the documents that are not in it
	listed sync.Once
	docs   []uint32
}

// release gives back what the counting borrowed.
func (ps *partset) release() {
	for g := range ps.runs {
		if lr := &ps.runs[g]; lr.counts != nil {
			segment.ReturnRuns(lr.counts)
			lr.counts = nil
		}
	}
	if ps.other != nil {
		ps.other.release()
	}
}

// listed is how many documents a set has at most that are counted from a list of them.
const listed = 1 << 14

// list returns the documents, in order.
func (ps *partset) list() []uint32 {
	ps.listed.Do(func() { ps.docs = ps.bits.Append(make([]uint32, 0, ps.n)) })
	return ps.docs
}

// rest returns the set of the part's other documents.
func (ps *partset) rest(s *search, p *part) *partset {
	ps.once.Do(func() {
		o := &partset{bits: s.borrow(p), n: p.live - ps.n}
		for i, w := range p.all() {
			o.bits[i] = w &^ ps.bits[i]
		}
		ps.other = o
	})
	return ps.other
}

type lazyRuns struct {
	once   sync.Once
	counts []segment.RunCount
}

// step is a Step before it is written down.
type step struct {
	stage, target, plan, why string
	part                     *part
	docs                     int
	cost                     float64
	took                     time.Duration
}

func (s *search) explain(x step) {
	if !s.explaining {
		return
	}
	s.mu.Lock()
	s.steps = append(s.steps, x)
	s.mu.Unlock()
}

// Search implements Index.
func (e *Engine) Search(ctx context.Context, q Query) (Result, error) {
	r, _, err := e.search(ctx, q, false)
	return r, err
}

// Explain implements Index. The plans are: for filters, lookup (ids), postings (lists of documents of each value),
// order (lists that lie together), column (a look at every document or run); for facets, totals (kept
// counts), complement (those minus the documents that do not match), runs, column, lists, bitmaps;
// for pages, order (along the ids or values) and heap (a look at every matching document).
func (e *Engine) Explain(ctx context.Context, q Query) (Explain, error) {
	start := time.Now()
	r, s, err := e.search(ctx, q, true)
	if err != nil {
		return Explain{}, err
	}
	x := Explain{Engine: "facet", Seq: r.Seq, Total: r.Total, Took: time.Since(start)}
	for _, st := range s.steps {
		name := ""
		if st.part != nil {
			name = st.part.file.name
		}
		x.Steps = append(x.Steps, Step{Stage: st.stage, Part: name, Target: st.target, Plan: st.plan, Why: st.why, Docs: st.docs, Cost: st.cost, Took: st.took})
	}
	return x, nil
}

func (e *Engine) search(ctx context.Context, q Query, explain bool) (Result, *search, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, nil, err
	}
	q, err := e.schema.CheckQuery(q, e.limits)
	if err != nil {
		return Result{}, nil, err
	}
	v, err := e.acquire()
	if err != nil {
		return Result{}, nil, err
	}
	defer e.done(v)
	s := &search{e: e, v: v, q: q, explaining: explain, start: time.Now()}
	var r Result
	err = e.guarded(v, func() { err = s.run(ctx, &r) })
	if err != nil {
		return Result{}, nil, err
	}
	for _, b := range s.borrowed {
		segment.ReturnBits(b)
	}
	for _, d := range s.sets {
		for k := range d.parts {
			d.parts[k].release()
		}
	}
	return r, s, ctx.Err()
}

func (s *search) run(ctx context.Context, r *Result) error {
	s.compile()
	main := s.want(-1, false)
	facets := make([]*docset, len(s.q.Facets))
	for i, req := range s.q.Facets {
		skip := s.e.byName[req.Field]
		if req.Filtered {
			skip = -1
		}
		facets[i] = s.want(skip, req.NoAccess)
	}
	s.intersect()
	if err := ctx.Err(); err != nil {
		return err
	}
	r.Seq, r.Total, r.Aggs = s.v.seq, main.total, map[string]Value{}
	s.page(r, main)
	if err := ctx.Err(); err != nil {
		return err
	}
	r.Facets = s.facets(facets)
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range s.q.Aggs {
		r.Aggs[s.q.Aggs[i].Name] = s.agg(&s.q.Aggs[i], main)
	}
	return nil
}

// compile turns the filters into conditions.
func (s *search) compile() {
	add := func(filters map[string]Filter, access bool) {
		for _, name := range slices.Sorted(maps.Keys(filters)) {
			field, ok := s.e.byName[name]
			if !ok {
				field = -1
			}
			s.conds = append(s.conds, condition{name: name, field: field, filter: filters[name], access: access})
		}
	}
	add(s.q.Access, true)
	add(s.q.Filters, false)
}

// want returns the set without the filter on one field; one that leaves out nothing is the main one.
func (s *search) want(skip int, noAccess bool) *docset {
	if !slices.ContainsFunc(s.conds, func(c condition) bool { return !c.access && c.field == skip }) {
		skip = -1
	}
	noAccess = noAccess && len(s.q.Access) > 0
	for _, d := range s.sets {
		if d.skip == skip && d.noAccess == noAccess {
			return d
		}
	}
	d := &docset{skip: skip, noAccess: noAccess, parts: make([]partset, len(s.v.parts))}
	s.sets = append(s.sets, d)
	return d
}

func (d *docset) takes(c *condition) bool {
	if c.access {
		return !d.noAccess
	}
	return d.skip < 0 || c.field != d.skip
}

// intersect evaluates each condition once in each part, and makes the sets of them.
func (s *search) intersect() {
	parts, conds := s.v.parts, s.conds
	found := make([]segment.Bits, len(parts)*len(conds))
	s.e.each(len(found), s.size() > 1<<15, func(i int) {
		p, c := parts[i/len(conds)], &conds[i%len(conds)]
		found[i] = s.eval(p, c)
	})
	s.e.each(len(parts)*len(s.sets), s.size() > 1<<20, func(i int) {
		k, d := i/len(s.sets), s.sets[i%len(s.sets)]
		p := parts[k]
		d.parts[k].bits, d.parts[k].n = p.all(), p.live
		var in []segment.Bits
		for c := range conds {
			if d.takes(&conds[c]) {
				in = append(in, found[k*len(conds)+c])
			}
		}
		if len(in) == 0 {
			return
		}
		if p.deleted != nil {
			in = append(in, p.all())
		}
		d.parts[k].bits = s.borrow(p)
		d.parts[k].n = segment.Intersect(d.parts[k].bits, in...)
	})
	for _, d := range s.sets {
		for k := range d.parts {
			d.total += d.parts[k].n
		}
		if s.explaining {
			name := "all filters"
			if d.skip >= 0 {
				name = "without " + s.e.schema.Fields[d.skip].Name
			}
			if d.noAccess {
				name += ", without access"
			}
			s.explain(step{stage: "set", target: name, plan: "and", why: fmt.Sprintf("%d filters in %d segments, each evaluated once for all sets", len(conds), len(parts)), docs: d.total, cost: float64(s.size()/64*len(conds)) * costWord})
		}
	}
}

// size is the number of documents of all parts, deleted ones included.
func (s *search) size() int {
	n := 0
	for _, p := range s.v.parts {
		n += p.n
	}
	return n
}

// agg computes one figure.
func (s *search) agg(a *Agg, main *docset) Value {
	set := main
	if len(a.Where) > 0 {
		set = s.narrow(main, a.Where)
	}
	switch a.Op {
	case OpSum:
		var sum Sum
		field := s.e.byName[a.Field]
		for k, p := range s.v.parts {
			s.sumPart(p, &set.parts[k], field, &sum)
		}
		s.explain(step{stage: "aggregate", target: a.Name, plan: "counts", why: "each different value is multiplied with its documents", docs: set.total})
		return sum.Value()
	case OpCardinality:
		counts := s.count(set, s.e.byName[a.Field])
		n := 0
		counts.each(func(id, _ uint32) {
			if id > 0 {
				n++
			}
		})
		return Int(int64(n))
	default:
		return Int(int64(set.total))
	}
}

// narrow is a set with further filters.
func (s *search) narrow(main *docset, where map[string]Filter) *docset {
	d := &docset{skip: -1, parts: make([]partset, len(s.v.parts))}
	for k, p := range s.v.parts {
		bits := s.borrow(p)
		copy(bits, main.parts[k].bits)
		for _, name := range slices.Sorted(maps.Keys(where)) {
			field, ok := s.e.byName[name]
			if !ok {
				field = -1
			}
			bits.And(s.eval(p, &condition{name: name, field: field, filter: where[name]}))
		}
		d.parts[k].bits, d.parts[k].n = bits, bits.Count()
		d.total += d.parts[k].n
	}
	return d
}

// sumPart adds the values of a field of a set. Counting first costs less than adding, because a column is small and
// its dictionary is read once, in order.
func (s *search) sumPart(p *part, set *partset, field int, sum *Sum) {
	if set.n == 0 {
		return
	}
	counts := s.countPart(p, set, field)
	nums := p.r.Field(field).Dict().Nums()
	kind := s.e.schema.Fields[field].Kind
	counts.inOrder(func(id, n uint32) { // adding numbers in one order gives one sum
		if id > 0 {
			sum.Add(fixedValue(kind, nums[id-1], 0), int(n))
		}
	})
	counts.free()
}
