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

	once  sync.Once
	other *partset // of the documents that are not in it
}

// rest returns the set of the part's other documents.
func (ps *partset) rest(p *part) *partset {
	ps.once.Do(func() {
		o := &partset{bits: p.all().Clone(), n: p.live - ps.n}
		o.bits.AndNot(ps.bits)
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
		own := false
		for c := range conds {
			if !d.takes(&conds[c]) {
				continue
			}
			if !own {
				d.parts[k].bits, own = d.parts[k].bits.Clone(), true
			}
			d.parts[k].bits.And(found[k*len(conds)+c])
		}
		if own {
			d.parts[k].n = d.parts[k].bits.Count()
		}
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
		for id, c := range counts {
			if id > 0 && c > 0 {
				n++
			}
		}
		return Int(int64(n))
	default:
		return Int(int64(set.total))
	}
}

// narrow is a set with further filters.
func (s *search) narrow(main *docset, where map[string]Filter) *docset {
	d := &docset{skip: -1, parts: make([]partset, len(s.v.parts))}
	for k, p := range s.v.parts {
		bits := main.parts[k].bits.Clone()
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
	for i, n := range counts[1:] {
		if n > 0 {
			sum.Add(fixedValue(kind, nums[i], 0), int(n))
		}
	}
}
