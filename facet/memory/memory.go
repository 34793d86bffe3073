// Package memory is the facet index as its definition: a map, a mutex, and a look at every document
// for every question. It is meant for tests and small data, and it is what other indexes are compared with.
package memory

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill/facet"
)

// Index is a facet.Index in memory.
type Index struct {
	schema facet.Schema
	limits facet.Limits

	mu     sync.RWMutex
	closed bool
	seq    facet.Seq
	docs   map[string]*doc
}

// doc is a document with its sets in order of the schema's fields. It does not change.
type doc struct {
	id      string
	version int64
	source  []byte
	sets    map[string][]facet.Value
}

var _ facet.Index = (*Index)(nil)

// New returns an empty index. The error wraps facet.ErrSchema.
func New(s facet.Schema) (*Index, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	s.Fields = slices.Clone(s.Fields)
	return &Index{schema: s, limits: facet.DefaultLimits(), docs: map[string]*doc{}}, nil
}

// Schema implements facet.Index.
func (x *Index) Schema() facet.Schema { return x.schema }

// Caps implements facet.Index.
func (x *Index) Caps() facet.Caps {
	return facet.Caps{Engine: "memory", AtomicBatch: true, ReadYourWrites: true, Limits: x.limits}
}

// Apply implements facet.Index.
func (x *Index) Apply(ctx context.Context, b facet.Batch) (facet.Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := x.schema.CheckBatch(b, x.limits); err != nil {
		return 0, err
	}
	puts := make([]*doc, len(b.Put))
	for i, d := range b.Put {
		puts[i] = &doc{id: d.ID, version: d.Version, source: slices.Clone(d.Source), sets: map[string][]facet.Value{}}
		for _, f := range x.schema.Fields {
			puts[i].sets[f.Name] = f.Set(d.Fields[f.Name])
		}
		puts[i].sets[facet.IDField] = []facet.Value{facet.String(d.ID)}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return 0, &facet.Error{Kind: facet.ErrClosed}
	}
	if b.Seq <= x.seq {
		return x.seq, nil
	}
	for _, id := range b.Del {
		delete(x.docs, id)
	}
	for _, d := range puts {
		x.docs[d.id] = d
	}
	x.seq = b.Seq
	return x.seq, nil
}

// Applied implements facet.Index.
func (x *Index) Applied(context.Context) (facet.Seq, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return 0, &facet.Error{Kind: facet.ErrClosed}
	}
	return x.seq, nil
}

// Snapshot implements facet.Index; it is not supported.
func (x *Index) Snapshot(context.Context, facet.Sink) error {
	return &facet.Error{Kind: facet.ErrUnsupported, Msg: "an index in memory has no files"}
}

// Close implements facet.Index.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed, x.docs = true, nil
	return nil
}

// Explain implements facet.Index.
func (x *Index) Explain(ctx context.Context, q facet.Query) (facet.Explain, error) {
	start := time.Now()
	r, err := x.Search(ctx, q)
	if err != nil {
		return facet.Explain{}, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	took := time.Since(start)
	return facet.Explain{Engine: "memory", Seq: r.Seq, Total: r.Total, Took: took, Steps: []facet.Step{
		{Stage: "set", Plan: "scan", Why: "there is no other", Docs: len(x.docs), Took: took},
	}}, nil
}

// Search implements facet.Index.
func (x *Index) Search(ctx context.Context, q facet.Query) (facet.Result, error) {
	if err := ctx.Err(); err != nil {
		return facet.Result{}, err
	}
	q, err := x.schema.CheckQuery(q, x.limits)
	if err != nil {
		return facet.Result{}, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return facet.Result{}, &facet.Error{Kind: facet.ErrClosed}
	}
	hits := x.matching(q.Access, q.Filters)
	r := facet.Result{Total: len(hits), Seq: x.seq, Aggs: map[string]facet.Value{}}
	for _, req := range q.Facets {
		r.Facets = append(r.Facets, x.facet(q, req))
	}
	for _, agg := range q.Aggs {
		r.Aggs[agg.Name] = x.agg(agg, x.pass(hits, agg.Where))
	}
	x.page(&r, q, hits)
	return r, nil
}

func (x *Index) matching(filters ...map[string]facet.Filter) []*doc {
	docs := slices.Collect(maps.Values(x.docs))
	for _, f := range filters {
		docs = x.pass(docs, f)
	}
	return docs
}

func (x *Index) pass(docs []*doc, filters map[string]facet.Filter) []*doc {
	var passed []*doc
	for _, d := range docs {
		ok := true
		for name, filter := range filters {
			f, _ := x.schema.FieldOrID(name)
			ok = ok && f.Matches(filter, d.sets[name])
		}
		if ok {
			passed = append(passed, d)
		}
	}
	return passed
}

func (x *Index) facet(q facet.Query, req facet.FacetReq) facet.Facet {
	filters := maps.Clone(q.Filters)
	if !req.Filtered {
		delete(filters, req.Field)
	}
	access := q.Access
	if req.NoAccess {
		access = nil
	}
	docs := x.matching(access, filters)
	terms, missing := count(docs, req.Field)
	f := facet.Facet{Name: req.Name, Field: req.Field, Total: len(docs), Missing: len(missing), Distinct: len(terms), Terms: top(terms, req.Size)}
	if len(req.Sub) > 0 {
		by := map[facet.Value][]*doc{}
		for _, d := range docs {
			for _, v := range d.sets[req.Field] {
				by[v] = append(by[v], d)
			}
		}
		for i := range f.Terms {
			f.Terms[i].Sub = x.subs(req.Sub, by[f.Terms[i].Value])
		}
		f.MissingSub = x.subs(req.Sub, missing)
	}
	return f
}

func (x *Index) subs(subs []facet.Sub, docs []*doc) []facet.SubResult {
	results := make([]facet.SubResult, len(subs))
	for i, sub := range subs {
		if sub.Sum != "" {
			results[i].Sum = x.sum(sub.Sum, docs)
			continue
		}
		terms, missing := count(docs, sub.Terms)
		results[i].Terms, results[i].Missing = top(terms, sub.Size), len(missing)
	}
	return results
}

func count(docs []*doc, field string) (terms []facet.Term, missing []*doc) {
	counts := map[facet.Value]int{}
	for _, d := range docs {
		for _, v := range d.sets[field] {
			if v.IsNull() {
				missing = append(missing, d)
				continue
			}
			counts[v]++
		}
	}
	for v, n := range counts {
		terms = append(terms, facet.Term{Value: v, Count: n})
	}
	slices.SortFunc(terms, func(a, b facet.Term) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return facet.Compare(a.Value, b.Value)
	})
	return terms, missing
}

func top(terms []facet.Term, size int) []facet.Term {
	if size > 0 && len(terms) > size {
		return terms[:size]
	}
	return terms
}

func (x *Index) sum(field string, docs []*doc) facet.Value {
	var total facet.Sum
	for _, d := range docs {
		for _, v := range d.sets[field] {
			total.Add(v, 1)
		}
	}
	return total.Value()
}

func (x *Index) agg(agg facet.Agg, docs []*doc) facet.Value {
	switch agg.Op {
	case facet.OpSum:
		return x.sum(agg.Field, docs)
	case facet.OpCardinality:
		terms, _ := count(docs, agg.Field)
		return facet.Int(int64(len(terms)))
	default:
		return facet.Int(int64(len(docs)))
	}
}

func (x *Index) page(r *facet.Result, q facet.Query, docs []*doc) {
	if q.Size == 0 {
		return
	}
	keys := make([]facet.Hit, len(docs))
	for i, d := range docs {
		keys[i] = facet.Hit{ID: d.id, Key: facet.Key{Value: d.sets[q.Sort.Field][0], ID: d.id}}
	}
	backwards := q.Before != nil
	order := func(a, b facet.Key) int { return q.Sort.Compare(a, b) }
	if backwards {
		order = func(a, b facet.Key) int { return q.Sort.Compare(b, a) }
	}
	from := q.After
	if backwards {
		from = q.Before
	}
	if from != nil {
		keys = slices.DeleteFunc(keys, func(h facet.Hit) bool { return order(h.Key, *from) <= 0 })
	}
	slices.SortFunc(keys, func(a, b facet.Hit) int { return order(a.Key, b.Key) })
	if len(keys) > q.Size {
		keys, r.More = keys[:q.Size], true
	}
	if backwards {
		slices.Reverse(keys)
	}
	for i := range keys {
		h := &keys[i]
		d := x.docs[h.ID]
		h.Version = d.version
		if q.Fields == nil {
			h.Source = slices.Clone(d.source)
			continue
		}
		h.Fields = map[string][]facet.Value{}
		for _, name := range q.Fields {
			values := slices.Clone(d.sets[name])
			if values[len(values)-1].IsNull() {
				values = values[:len(values)-1]
			}
			if len(values) > 0 {
				h.Fields[name] = values
			}
		}
	}
	if len(keys) > 0 {
		first, last := keys[0].Key, keys[len(keys)-1].Key
		r.Hits, r.First, r.Last = keys, &first, &last
	}
}
