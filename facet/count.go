package facet

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// job is the counting of some fields over a set in a part.
type job struct {
	part   int
	set    *docset
	fields []int
	cost   float64
}

// facets answers all facets. Counting is cut into jobs of about the same cost, which run on all
// processors; picking the terms is another round.
func (s *search) facets(sets []*docset) []Facet {
	if len(sets) == 0 {
		return nil
	}
	counts := make([][]tally, len(s.v.parts)) // by part and facet
	type need struct {
		part  int
		set   *docset
		field int
	}
	where := map[need]int{} // facets that ask for the same count share it
	var total float64
	costs := make([]float64, 0, len(s.v.parts)*len(sets))
	for k := range s.v.parts {
		for i, set := range sets {
			c := s.countCost(k, set, s.e.byName[s.q.Facets[i].Field])
			costs = append(costs, c)
			total += c
		}
	}
	// Fields that are counted together share the work of going through the set, but each processor wants its share.
	share := max(300e3, total/float64(3*s.e.opts.Workers))
	var jobs []job
	for k := range s.v.parts {
		counts[k] = make([]tally, len(sets))
		open := map[*docset]*job{}
		for i, set := range sets {
			n := need{k, set, s.e.byName[s.q.Facets[i].Field]}
			if _, ok := where[n]; ok {
				continue
			}
			where[n] = i
			j := open[set]
			if j == nil {
				j = &job{part: k, set: set}
				open[set] = j
			}
			j.fields = append(j.fields, i)
			if j.cost += costs[k*len(sets)+i]; j.cost > share {
				jobs = append(jobs, *j)
				delete(open, set)
			}
		}
		for _, j := range open {
			jobs = append(jobs, *j)
		}
	}
	slices.SortFunc(jobs, func(a, b job) int { return cmp.Compare(b.cost, a.cost) })
	s.e.each(len(jobs), total > 100e3, func(i int) {
		j := &jobs[i]
		p, ps := s.v.parts[j.part], &j.set.parts[j.part]
		fields := make([]int, len(j.fields))
		for n, f := range j.fields {
			fields[n] = s.e.byName[s.q.Facets[f].Field]
		}
		for n, c := range s.countFields(p, ps, fields) {
			counts[j.part][j.fields[n]] = c
		}
	})
	facets := make([]Facet, len(sets))
	s.e.each(len(sets), total > 100e3 || s.ids() > 1<<16, func(i int) {
		req := &s.q.Facets[i]
		field := s.e.byName[req.Field]
		parts := make([]tally, len(s.v.parts))
		for k := range s.v.parts {
			parts[k] = counts[k][where[need{k, sets[i], field}]]
		}
		all := s.merge(field, parts)
		f := Facet{Name: req.Name, Field: req.Field, Total: sets[i].total, Missing: all.missing()}
		var top []entry
		top, f.Distinct = s.top(field, all, req.Size)
		f.Terms = s.terms(field, top)
		if len(req.Sub) > 0 {
			s.subs(req, sets[i], field, top, &f)
		}
		facets[i] = f
		if len(parts) > 1 {
			all.free()
		}
	})
	for _, part := range counts {
		for i := range part {
			part[i].free()
		}
	}
	return facets
}

// ids is how many different values there are at most.
func (s *search) ids() int {
	n := 0
	for _, p := range s.v.parts {
		for i := range s.q.Facets {
			n += p.r.Field(s.e.byName[s.q.Facets[i].Field]).Dict().Len()
		}
	}
	return n
}

func (s *search) countCost(k int, set *docset, field int) float64 {
	p, ps := s.v.parts[k], &set.parts[k]
	n := min(ps.n, p.live-ps.n)
	col := p.r.Field(field).Column()
	if ps.n == 0 {
		return 200
	}
	cost := 500 + float64(min(p.r.Field(field).Dict().Len(), n*tallyGain))*0.5
	switch {
	case ps.n == p.live:
		return cost
	case col.Group() >= 0:
		return cost + min(float64(len(p.r.Runs(col.Group()))), float64(n))*costCount
	case col.Rows() == 0:
		return cost + float64(n)*(2+float64(col.Total())/float64(max(p.n, 1))*costCount)
	}
	return cost + float64(n)*costCount + float64(col.Rows())
}

// count counts the documents of each id over all parts.
func (s *search) count(set *docset, field int) tally {
	parts := make([]tally, len(s.v.parts))
	for k, p := range s.v.parts {
		parts[k] = s.countPart(p, &set.parts[k], field)
	}
	return s.merge(field, parts)
}

func (s *search) countPart(p *part, ps *partset, field int) tally {
	return s.countFields(p, ps, []int{field})[0]
}

// countFields counts the documents of each id of some fields in a part.
func (s *search) countFields(p *part, ps *partset, fields []int) []tally {
	counts := make([]tally, len(fields))
	if ps.n == 0 {
		return counts
	}
	if ps.n == p.live {
		for i, f := range fields {
			counts[i] = tally{docs: s.totals(p, f), kept: true}
			if s.explaining {
				s.explain(step{stage: "facet", part: p, target: s.e.schema.Fields[f].Name, plan: "totals", why: "every document matches", docs: ps.n, cost: 500})
			}
		}
		return counts
	}
	if ps.n*2 <= p.live {
		s.countSet(p, ps, fields, counts, "")
		return counts
	}
	rest := ps.rest(s, p)
	note := ""
	if s.explaining {
		note = fmt.Sprintf("; %d documents that do not match are subtracted from the totals", rest.n)
	}
	s.countSet(p, rest, fields, counts, note)
	for i, f := range fields {
		counts[i] = counts[i].from(s.totals(p, f))
	}
	return counts
}

// totals returns the counts of all documents that are not deleted; it is not to be changed.
func (s *search) totals(p *part, field int) []uint32 {
	p.mu.Lock()
	if p.totals == nil {
		p.totals = make([][]uint32, len(s.e.fields))
	}
	t := p.totals[field]
	p.mu.Unlock()
	if t != nil {
		return t
	}
	posts := p.r.Field(field).Posts()
	t = make([]uint32, posts.Len())
	for id := range t {
		t[id] = uint32(posts.Count(id))
	}
	if p.deleted != nil {
		gone := partset{bits: p.deleted, n: p.n - p.live}
		counts := make([]tally, 1)
		quiet := &search{e: s.e, v: s.v}
		quiet.countSet(p, &gone, []int{field}, counts, "")
		counts[0].each(func(id, n uint32) { t[id] -= n })
		counts[0].free()
	}
	p.mu.Lock()
	p.totals[field] = t
	p.mu.Unlock()
	return t
}

const chunk = 4096 // documents at a time, so that they stay in the first cache

// target is a field that is being counted. Rows are counted first, and then the ids in them.
type target struct {
	col *segment.Column
	i   int
	few bool // little will be counted: few* are what counts
	// Rows are ids where the column is of single values or of lists.
	rows, ids       []uint32
	fewRows, fewIDs *segment.Tally
}

// newTarget makes room for the counting of n documents or runs.
func newTarget(col *segment.Column, i, ids, n, docs int) target {
	t := target{col: col, i: i}
	tuples := !col.Single() && col.Rows() > 0
	size := ids
	if tuples {
		size += col.Rows()
	}
	t.few = float64(n)*float64(col.Total())/float64(max(docs, 1))*tallyGain < float64(size)
	if t.few {
		t.fewIDs = segment.NewTally(ids)
		if t.fewRows = t.fewIDs; tuples {
			t.fewRows = segment.NewTally(col.Rows())
		}
		return t
	}
	t.ids = segment.BorrowCounts(ids)
	if t.rows = t.ids; tuples {
		t.rows = segment.BorrowCounts(col.Rows())
	}
	return t
}

func (t *target) countDocs(docs []uint32) {
	lists := t.col.Rows() == 0
	switch {
	case t.few && lists:
		t.col.TallyLists(docs, t.fewRows)
	case t.few:
		t.col.TallyDocs(docs, t.fewRows)
	case lists:
		t.col.CountLists(docs, t.rows)
	default:
		t.col.CountDocs(docs, t.rows)
	}
}

func (t *target) countRuns(runs []segment.RunCount) {
	if t.few {
		t.col.TallyRuns(runs, t.fewRows)
	} else {
		t.col.CountRuns(runs, t.rows)
	}
}

// finish returns the counts of ids.
func (t *target) finish() tally {
	if t.few {
		if t.fewRows != t.fewIDs {
			t.col.TallyRows(t.fewRows, t.fewIDs)
			t.fewRows.Close()
		}
		some := t.fewIDs.Take()
		t.fewIDs.Close()
		return tally{some: some}
	}
	if t.col.Rows() > 0 && !t.col.Single() {
		t.col.IDsOfRows(t.rows, t.ids)
		segment.ReturnCounts(t.rows)
	}
	return tally{docs: t.ids}
}

// countSet counts by looking at the documents, or at the runs they are in.
func (s *search) countSet(p *part, ps *partset, fields []int, counts []tally, note string) {
	start := time.Now()
	var byDoc []target
	for i, f := range fields {
		col := p.r.Field(f).Column()
		ids := p.r.Field(f).Dict().Len() + 1
		name := s.e.schema.Fields[f].Name
		g := col.Group()
		if g < 0 {
			if s.bitmapsCostLess(p, ps, ids) {
				counts[i].docs = s.byBitmap(p, ps, f, ids)
				if s.explaining {
					s.explain(step{stage: "facet", part: p, target: name, plan: "bitmaps", why: fmt.Sprintf("%d values only, each intersected%s", ids-1, note), docs: ps.n, cost: s.bitmapCost(p, ids)})
				}
				continue
			}
			byDoc = append(byDoc, newTarget(col, i, ids, ps.n, p.n))
			if s.explaining {
				plan, why := "column", "one look at each document's row costs less than intersecting postings"
				if col.Rows() == 0 {
					plan, why = "lists", "documents have lists that are too different for a table of rows"
				}
				s.explain(step{stage: "facet", part: p, target: name, plan: plan, why: why + note, docs: ps.n, cost: float64(ps.n) * costCount})
			}
			continue
		}
		runs := p.r.Runs(g)
		lr := &ps.runs[g]
		lr.once.Do(func() {
			if float64(ps.n)*costCount*4 < float64(len(runs))*costRun {
				lr.counts = segment.CountRunsOf(runs, ps.list())
			} else {
				lr.counts = segment.CountInRuns(runs, p.n, ps.bits)
			}
		})
		t := newTarget(col, i, ids, len(lr.counts), p.n)
		t.countRuns(lr.counts)
		counts[i] = t.finish()
		if s.explaining {
			s.explain(step{stage: "facet", part: p, target: name, plan: "runs", why: fmt.Sprintf("%d of %d runs of equal documents, counted once for all fields that change with them%s", len(lr.counts), len(runs), note), docs: ps.n, cost: float64(len(lr.counts)) * costCount})
		}
	}
	if len(byDoc) > 0 {
		if ps.n <= listed {
			docs := ps.list()
			for i := range byDoc {
				byDoc[i].countDocs(docs)
			}
		} else {
			var buf [chunk + 64]uint32
			for from := 0; from < len(ps.bits); {
				var docs []uint32
				docs, from = ps.bits.Decode(from, buf[:])
				for i := range byDoc {
					byDoc[i].countDocs(docs)
				}
			}
		}
		for i := range byDoc {
			counts[byDoc[i].i] = byDoc[i].finish()
		}
	}
	if s.explaining {
		s.explain(step{stage: "facet", part: p, target: fmt.Sprintf("%d fields", len(fields)), plan: "job", why: "fields counted by one goroutine", docs: ps.n, took: time.Since(start)})
	}
}

func (s *search) bitmapCost(p *part, ids int) float64 {
	return float64(ids) * float64(p.n) / 64 * costWord * 3
}

func (s *search) bitmapsCostLess(p *part, ps *partset, ids int) bool {
	return ids <= 16 && s.bitmapCost(p, ids) <= float64(ps.n)*costCount
}

// byBitmap counts a field of few values by intersecting the documents of each with the set.
func (s *search) byBitmap(p *part, ps *partset, field, ids int) []uint32 {
	counts := segment.BorrowCounts(ids)
	posts := p.r.Field(field).Posts()
	for id := range counts {
		counts[id] = uint32(posts.CountIn(ps.bits, id))
	}
	return counts
}

// merge adds the counts of parts, by the ids of all.
func (s *search) merge(field int, parts []tally) tally {
	switch {
	case len(parts) == 0:
		return tally{}
	case len(parts) == 1 && s.v.base.r == s.v.parts[0].r:
		return parts[0]
	}
	touched, whole := 0, -1 // whole is the base's part if all of its ids were counted
	ids := make([][]uint32, len(parts))
	for k := range parts {
		if s.v.parts[k].r == s.v.base.r {
			touched += len(parts[k].some)
			if parts[k].docs != nil {
				whole = k
			}
			continue
		}
		if n := len(parts[k].some) + len(parts[k].docs); n > 0 {
			touched += n
			ids[k] = s.v.base.ids(s.v.parts[k].r, field)
		}
	}
	size := s.v.base.size(field)
	if whole < 0 && touched*tallyGain < size {
		t := segment.NewTally(size)
		for k := range parts {
			parts[k].each(func(id, n uint32) {
				if ids[k] != nil {
					id = ids[k][id]
				}
				t.Add(id, n)
			})
		}
		some := t.Take()
		t.Close()
		return tally{some: some}
	}
	all := segment.BorrowCounts(size)
	for k := range parts {
		switch {
		case k == whole:
			for id, n := range parts[k].docs {
				all[id] += n
			}
		case ids[k] == nil:
			for _, x := range parts[k].some {
				all[x.ID] += x.Docs
			}
		default:
			parts[k].each(func(id, n uint32) { all[ids[k][id]] += n })
		}
	}
	return tally{docs: all}
}

// entry is an id and its count.
type entry = segment.Entry

// less orders entries as facets list them, by count and then by value.
func (s *search) less(field int) func(a, b entry) int {
	own := uint32(s.v.base.r.Field(field).Dict().Len())
	return func(a, b entry) int {
		if a.Docs != b.Docs {
			return cmp.Compare(b.Docs, a.Docs)
		}
		if a.ID <= own && b.ID <= own {
			return cmp.Compare(a.ID, b.ID) // only ids behind own are not in the order of values
		}
		return bytes.Compare(s.v.base.key(nil, field, a.ID), s.v.base.key(nil, field, b.ID))
	}
}

// top returns the size greatest counts, all if size is 0, by count and then by value; and how many there are.
func (s *search) top(field int, counts tally, size int) ([]entry, int) {
	keep := len(counts.docs) + len(counts.some)
	if keep == 0 {
		return nil, 0
	}
	if size > 0 {
		keep = min(keep, 2*size+64)
	}
	if s.v.base.size(field) == s.v.base.r.Field(field).Dict().Len()+1 {
		return topOwn(counts, size, keep)
	}
	less, distinct := s.less(field), 0
	list := make([]entry, 0, keep)
	var worst entry // the last of those that are kept, once there are enough
	counts.each(func(id, n uint32) {
		if id == 0 {
			return
		}
		distinct++
		x := entry{ID: id, Docs: n}
		if n < worst.Docs || n == worst.Docs && less(worst, x) < 0 {
			return
		}
		list = append(list, x)
		// Twice as many as are wanted: drop the lesser half.
		if size > 0 && len(list) >= 2*size+64 {
			slices.SortFunc(list, less)
			list = list[:size]
			worst = list[size-1]
		}
	})
	slices.SortFunc(list, less)
	if size > 0 && len(list) > size {
		list = list[:size]
	}
	return list, distinct
}

// topOwn is top where ids are in the order of values. Count and id then make one number to sort by.
func topOwn(counts tally, size, keep int) ([]entry, int) {
	list := make([]uint64, 0, keep)
	worst, distinct := ^uint64(0), 0
	prune := func() {
		slices.Sort(list)
		list = list[:size]
		worst = list[size-1]
	}
	most := 2*size + 64
	if size == 0 {
		most = math.MaxInt
	}
	if counts.docs != nil {
		for id, n := range counts.docs[1:] {
			if n == 0 {
				continue
			}
			distinct++
			if x := uint64(^n)<<32 | uint64(id+1); x < worst {
				if list = append(list, x); len(list) >= most {
					prune()
				}
			}
		}
	} else {
		for _, e := range counts.some {
			if e.ID == 0 {
				continue
			}
			distinct++
			if x := uint64(^e.Docs)<<32 | uint64(e.ID); x < worst {
				if list = append(list, x); len(list) >= most {
					prune()
				}
			}
		}
	}
	slices.Sort(list)
	if size > 0 && len(list) > size {
		list = list[:size]
	}
	top := make([]entry, len(list))
	for i, x := range list {
		top[i] = entry{ID: uint32(x), Docs: ^uint32(x >> 32)}
	}
	return top, distinct
}

// terms gives entries their values.
func (s *search) terms(field int, top []entry) []Term {
	if len(top) == 0 {
		return nil
	}
	kind := s.e.schema.Fields[field].Kind
	terms := make([]Term, len(top))
	values := s.v.base.values(field, kind)
	var key []byte
	for i, x := range top {
		terms[i].Count = int(x.Docs)
		if int(x.ID) <= len(values) {
			terms[i].Value = values[x.ID-1]
			continue
		}
		key = s.v.base.key(key[:0], field, x.ID)
		terms[i].Value = keyValue(kind, key)
	}
	return terms
}

// subs adds what was asked for below the terms. Slot 0 is that of documents with null, slot i+1 that of term i.
func (s *search) subs(req *FacetReq, set *docset, field int, top []entry, f *Facet) {
	slots := map[uint32]int{0: 0}
	for i, x := range top {
		slots[x.ID] = i + 1
	}
	results := make([][]SubResult, len(top)+1)
	for i := range results {
		results[i] = make([]SubResult, len(req.Sub))
	}
	for n, sub := range req.Sub {
		if sub.Sum != "" {
			for slot, sum := range s.subSums(set, field, s.e.byName[sub.Sum], slots) {
				results[slot][n].Sum = sum.Value()
			}
			continue
		}
		other := s.e.byName[sub.Terms]
		for slot, counts := range s.subTerms(set, field, other, slots) {
			missing := counts[0]
			delete(counts, 0)
			list := make([]entry, 0, len(counts))
			for id, n := range counts {
				list = append(list, entry{ID: id, Docs: n})
			}
			list = s.order(other, list, sub.Size)
			results[slot][n] = SubResult{Terms: s.terms(other, list), Missing: int(missing)}
		}
	}
	f.MissingSub = results[0]
	for i := range f.Terms {
		f.Terms[i].Sub = results[i+1]
	}
}

func (s *search) order(field int, list []entry, size int) []entry {
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, s.less(field))
	if size > 0 && len(list) > size {
		list = list[:size]
	}
	return list
}

// visit calls f with the slots and the ids of another field of each document of a set.
func (s *search) visit(set *docset, field, other int, slots map[uint32]int, f func(p *part, slots []int, ids []uint32)) {
	for k, p := range s.v.parts {
		if set.parts[k].n == 0 {
			continue
		}
		of := make([]int, p.r.Field(field).Dict().Len()+1) // slot+1 of each id
		if p.r == s.v.base.r {
			for id, slot := range slots {
				if int(id) < len(of) {
					of[id] = slot + 1
				}
			}
		} else {
			for id, all := range s.v.base.ids(p.r, field) {
				if slot, ok := slots[all]; ok {
					of[id] = slot + 1
				}
			}
		}
		a, b := p.r.Field(field).Column(), p.r.Field(other).Column()
		var ids, others []uint32
		var hit []int
		var buf [chunk + 64]uint32
		bits := set.parts[k].bits
		for from := 0; from < len(bits); {
			var docs []uint32
			docs, from = bits.Decode(from, buf[:])
			for _, d := range docs {
				ids = a.List(ids[:0], d)
				hit = hit[:0]
				for _, id := range ids {
					if of[id] > 0 {
						hit = append(hit, of[id]-1)
					}
				}
				if len(hit) > 0 {
					others = b.List(others[:0], d)
					f(p, hit, others)
				}
			}
		}
	}
}

func (s *search) subSums(set *docset, field, other int, slots map[uint32]int) []Sum {
	sums := make([]Sum, len(slots))
	kind := s.e.schema.Fields[other].Kind
	s.visit(set, field, other, slots, func(p *part, slots []int, ids []uint32) {
		nums := p.r.Field(other).Dict().Nums()
		for _, id := range ids {
			if id == 0 {
				continue
			}
			v := fixedValue(kind, nums[id-1], 0)
			for _, slot := range slots {
				sums[slot].Add(v, 1)
			}
		}
	})
	return sums
}

func (s *search) subTerms(set *docset, field, other int, slots map[uint32]int) []map[uint32]uint32 {
	counts := make([]map[uint32]uint32, len(slots))
	for i := range counts {
		counts[i] = map[uint32]uint32{}
	}
	s.visit(set, field, other, slots, func(p *part, slots []int, ids []uint32) {
		var all []uint32
		if p.r != s.v.base.r {
			all = s.v.base.ids(p.r, other)
		}
		for _, id := range ids {
			if all != nil {
				id = all[id]
			}
			for _, slot := range slots {
				counts[slot][id]++
			}
		}
	})
	return counts
}
