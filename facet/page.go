package facet

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// spot is a hit before it is looked up: a document and what orders it. Within one part, id and rank
// are enough to compare.
type spot struct {
	part int
	doc  uint32
	id   uint32 // of the least value, 0 for null
	rank uint32 // place of the document's id
	key  Key    // filled in when parts are merged
}

// pager finds the hits of a page in one part.
type pager struct {
	s     *search
	p     *part
	k     int
	set   *partset
	field int // -1: by id alone
	down  bool
	null  uint32 // what null counts as: 0 for least, more than all ids for greatest
	want  int
	from  *Key

	posts *segment.Posts
	col   *segment.Column
	ranks []uint32
	order []uint32
	ids   int // number of keys

	// Where the page begins: behind (fromID, fromRank). Both are half places: 2*i is place i itself, 2*i-1 the gap before it.
	started  bool
	fromID   int
	fromRank int
}

// page fills in the hits. Each part gives its first ones, which are then merged.
func (s *search) page(r *Result, main *docset) {
	q := &s.q
	if q.Size == 0 {
		return
	}
	field := -1
	if q.Sort.Field != IDField {
		field = s.e.byName[q.Sort.Field]
	}
	backwards := q.Before != nil
	down := q.Sort.Desc != backwards
	nullFirst := q.Sort.First() != backwards // in the order of going
	from := q.After
	if backwards {
		from = q.Before
	}
	found := make([][]spot, len(s.v.parts))
	s.e.each(len(found), main.total > 1<<15, func(k int) {
		p := s.v.parts[k]
		if main.parts[k].n == 0 {
			return
		}
		g := &pager{s: s, p: p, k: k, set: &main.parts[k], field: field, down: down, want: q.Size + 1, from: from, ranks: p.r.Ranks(), order: p.r.Order()}
		if field >= 0 {
			f := p.r.Field(field)
			g.ids = f.Dict().Len()
			g.col = f.Column()
			// Null sorts as the least or the greatest, whichever comes where it is wanted.
			if nullFirst == down {
				g.null = uint32(g.ids + 1)
			}
		}
		found[k] = g.find()
	})
	spots := s.mergeSpots(found, field, backwards)
	if len(spots) > q.Size {
		spots, r.More = spots[:q.Size], true
	}
	if backwards {
		slices.Reverse(spots)
	}
	r.Hits = s.hits(spots, field)
	if n := len(r.Hits); n > 0 {
		first, last := r.Hits[0].Key, r.Hits[n-1].Key
		r.First, r.Last = &first, &last
	}
}

// place turns an id into a number that sorts null where it belongs.
func (g *pager) place(id uint32) uint32 {
	if id == 0 {
		return g.null
	}
	return id
}

func (g *pager) compare(a, b *spot) int {
	c := cmp.Compare(g.place(a.id), g.place(b.id))
	if c == 0 {
		c = cmp.Compare(a.rank, b.rank)
	}
	if g.down {
		return -c
	}
	return c
}

func (g *pager) find() []spot {
	g.begin()
	if g.field < 0 {
		return g.byID()
	}
	// Along the values: a page needs about want/density documents, plus one list for each value on the way.
	n, m := float64(g.p.n), float64(g.set.n)
	perDoc := n / m
	lists := min(float64(g.ids+1), float64(g.want)*float64(g.ids+1)/m+1)
	along := lists*costID + float64(g.want)*perDoc*costPosting*2
	heap := m*costCount*2 + n/64*costWord
	if g.col.Group() >= 0 {
		heap *= 3
	}
	if along < heap {
		if g.s.explaining {
			g.s.explain(step{stage: "page", part: g.p, target: g.s.q.Sort.Field, plan: "order", why: fmt.Sprintf("along the values' documents from the key on; looking at all would cost %.0f µs", heap/1e3), docs: g.set.n, cost: along})
		}
		return g.alongValues()
	}
	if g.s.explaining {
		g.s.explain(step{stage: "page", part: g.p, target: g.s.q.Sort.Field, plan: "heap", why: fmt.Sprintf("few documents match; along the values would cost %.0f µs", along/1e3), docs: g.set.n, cost: heap})
	}
	return g.fromSet(g.set.bits, nil)
}

// begin finds where the key lies among the part's values and ids.
func (g *pager) begin() {
	if g.from == nil {
		return
	}
	g.started = true
	i, ok := g.p.r.IDs().Search([]byte(g.from.ID))
	g.fromRank = 2*i - 1
	if ok {
		g.fromRank = 2 * i
	}
	if g.field < 0 {
		return
	}
	if g.from.Value.IsNull() {
		g.fromID = 2 * int(g.null)
		return
	}
	i, ok = g.p.r.Field(g.field).Dict().Search(g.from.Value.appendKey(nil))
	g.fromID = 2*(i+1) - 1
	if ok {
		g.fromID = 2 * (i + 1)
	}
}

// behind reports whether a place comes after the key.
func (g *pager) behind(place, rank uint32) bool {
	if !g.started {
		return true
	}
	c := 2*int(place) - g.fromID
	if c == 0 {
		c = 2*int(rank) - g.fromRank
	}
	if g.down {
		return c < 0
	}
	return c > 0
}

// byID goes along the ids.
func (g *pager) byID() []spot {
	if g.s.explaining {
		g.s.explain(step{stage: "page", part: g.p, target: IDField, plan: "order", why: "along the ids from the key on", docs: g.set.n, cost: float64(g.want) * float64(g.p.n) / float64(max(g.set.n, 1)) * 3})
	}
	var spots []spot
	step, at := 1, 0
	if g.down {
		step, at = -1, len(g.order)-1
	}
	if g.started {
		at = (g.fromRank + 2) / 2 // first rank behind, going up
		if g.fromRank < 0 {
			at = 0
		}
		if g.down {
			at = (g.fromRank+1)/2 - 1
		}
	}
	for ; at >= 0 && at < len(g.order) && len(spots) < g.want; at += step {
		if d := g.order[at]; g.set.bits.Has(d) {
			spots = append(spots, spot{part: g.k, doc: d, rank: uint32(at)})
		}
	}
	return spots
}

// alongValues goes from value to value, and takes the documents of each in order of their ids.
func (g *pager) alongValues() []spot {
	g.posts = g.p.r.Field(g.field).Posts()
	var spots []spot
	var docs []uint32
	lo, hi := uint32(0), uint32(g.ids) // places that there are
	if g.null > 0 {
		lo, hi = 1, g.null
	}
	at, end, step := lo, hi+1, uint32(1)
	if g.down {
		at, end, step = hi, lo-1, ^uint32(0)
	}
	if g.started {
		first := uint32((g.fromID + 1) / 2)
		if g.down {
			first = uint32(g.fromID / 2)
		}
		if !g.down {
			at = max(at, first)
		} else {
			at = min(at, first)
			if first < lo {
				return nil
			}
		}
	}
	for ; at != end && len(spots) < g.want; at += step {
		if !g.down && at > hi {
			break
		}
		id := at
		if at == g.null {
			id = 0
		}
		n := g.posts.Count(int(id))
		if n == 0 {
			continue
		}
		need := g.want - len(spots)
		// A value of many documents: going along the ids finds enough of them sooner than looking at all.
		if walk := float64(need) * float64(g.p.n) / float64(n) * float64(g.p.n) / float64(g.set.n) * 3; n > 4*need && walk < float64(n)*costCount*2 {
			spots = g.walk(spots, id)
			continue
		}
		docs = g.posts.Append(docs[:0], int(id))
		from := len(spots)
		for _, d := range docs {
			if !g.set.bits.Has(d) || g.col.Least(d) != id || !g.behind(at, g.ranks[d]) {
				continue
			}
			spots = append(spots, spot{part: g.k, doc: d, id: id, rank: g.ranks[d]})
		}
		slices.SortFunc(spots[from:], func(a, b spot) int { return g.compare(&a, &b) })
	}
	return spots[:min(len(spots), g.want)]
}

// walk goes along the ids and takes the documents of one value.
func (g *pager) walk(spots []spot, id uint32) []spot {
	step, at := 1, 0
	if g.down {
		step, at = -1, len(g.order)-1
	}
	place := g.place(id)
	if g.started && 2*int(place) == g.fromID {
		at = (g.fromRank + 2) / 2
		if g.fromRank < 0 {
			at = 0
		}
		if g.down {
			at = (g.fromRank+1)/2 - 1
		}
	}
	for ; at >= 0 && at < len(g.order) && len(spots) < g.want; at += step {
		if d := g.order[at]; g.set.bits.Has(d) && g.col.Least(d) == id {
			spots = append(spots, spot{part: g.k, doc: d, id: id, rank: uint32(at)})
		}
	}
	return spots
}

// fromSet looks at every document of a set and keeps the first ones.
func (g *pager) fromSet(set segment.Bits, _ []uint32) []spot {
	least := g.col.LeastOfRows()
	single := g.col.Single()
	var kept []spot
	full := false
	var worst spot
	for w, word := range set {
		for word != 0 {
			d := uint32(w)<<6 + uint32(bits.TrailingZeros64(word))
			word &= word - 1
			var id uint32
			switch {
			case single:
				id = g.col.Row(d)
			case least != nil:
				id = least[g.col.Row(d)]
			default:
				id = g.col.Least(d)
			}
			if full {
				a, b := g.place(id), g.place(worst.id)
				if g.down && a < b || !g.down && a > b {
					continue
				}
			}
			x := spot{part: g.k, doc: d, id: id, rank: g.ranks[d]}
			if !g.behind(g.place(id), x.rank) || full && g.compare(&x, &worst) > 0 {
				continue
			}
			if kept = append(kept, x); len(kept) >= 2*g.want+64 {
				slices.SortFunc(kept, func(a, b spot) int { return g.compare(&a, &b) })
				kept = kept[:g.want]
				full, worst = true, kept[g.want-1]
			}
		}
	}
	slices.SortFunc(kept, func(a, b spot) int { return g.compare(&a, &b) })
	return kept[:min(len(kept), g.want)]
}

// mergeSpots puts the hits of all parts in order.
func (s *search) mergeSpots(found [][]spot, field int, backwards bool) []spot {
	var all []spot
	parts := 0
	for _, spots := range found {
		if len(spots) > 0 {
			parts++
		}
		all = append(all, spots...)
	}
	var buf []byte
	for i := range all {
		x := &all[i]
		p := s.v.parts[x.part]
		buf = p.r.IDs().Append(buf[:0], int(x.rank))
		x.key.ID = string(buf)
		switch {
		case field < 0:
			x.key.Value = String(x.key.ID)
		case x.id > 0:
			buf = p.r.Field(field).Dict().Append(buf[:0], int(x.id)-1)
			x.key.Value = keyValue(s.e.schema.Fields[field].Kind, buf)
		}
	}
	if parts > 1 {
		slices.SortFunc(all, func(a, b spot) int {
			if backwards {
				a, b = b, a
			}
			return s.q.Sort.Compare(a.key, b.key)
		})
	}
	return all
}

// hits looks up what hits carry. Sources that lie in one block are decompressed together.
func (s *search) hits(spots []spot, field int) []Hit {
	if len(spots) == 0 {
		return nil
	}
	hits := make([]Hit, len(spots))
	type place struct{ part, block int }
	blocks := map[place][]int{}
	var order []place
	for i, x := range spots {
		p := s.v.parts[x.part]
		hits[i] = Hit{ID: x.key.ID, Key: x.key, Version: p.r.Version(x.doc)}
		if s.q.Fields != nil {
			hits[i].Fields = s.chosen(p, x.doc)
			continue
		}
		at := place{x.part, p.r.BlockOf(x.doc)}
		if blocks[at] == nil {
			order = append(order, at)
		}
		blocks[at] = append(blocks[at], i)
	}
	s.e.each(len(order), len(order) > 4, func(n int) {
		at := order[n]
		s.v.parts[at.part].r.Block(at.block, func(doc uint32, source []byte) {
			for _, i := range blocks[at] {
				if spots[i].doc == doc {
					hits[i].Source = bytes.Clone(source)
				}
			}
		})
	})
	return hits
}

// chosen returns the values of the fields that were chosen.
func (s *search) chosen(p *part, doc uint32) map[string][]Value {
	fields := make(map[string][]Value, len(s.q.Fields))
	var ids []uint32
	var key []byte
	for _, name := range s.q.Fields {
		i := s.e.byName[name]
		ids = p.r.Field(i).Column().List(ids[:0], doc)
		var values []Value
		for _, id := range ids {
			if id > 0 {
				key = p.r.Field(i).Dict().Append(key[:0], int(id)-1)
				values = append(values, keyValue(s.e.schema.Fields[i].Kind, key))
			}
		}
		if len(values) > 0 {
			fields[name] = values
		}
	}
	return fields
}
