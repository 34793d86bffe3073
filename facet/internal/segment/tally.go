package segment

import (
	"math/bits"
	"sync"
)

// pools keep slices of numbers by the power of two of their capacity, because searches need large ones for a short time.
type pools[T any] [33]sync.Pool

// get returns n numbers; what is in them is what was in what put was given.
func (p *pools[T]) get(n int) []T {
	c := bits.Len(uint(max(n, 64) - 1))
	if v, _ := p[c].Get().(*[]T); v != nil {
		return (*v)[:n]
	}
	return make([]T, n, 1<<c)
}

func (p *pools[T]) put(s []T) {
	if c := bits.Len(uint(cap(s)) - 1); cap(s) >= 64 && cap(s) == 1<<c {
		p[c].Put(&s)
	}
}

var (
	words    pools[uint64]
	counters pools[uint32]
	zeroed   pools[uint32] // all of their capacity is zero

	runCounts pools[RunCount]
)

// ReturnRuns gives back counts of runs that nobody uses any more.
func ReturnRuns(c []RunCount) { runCounts.put(c) }

// BorrowBits returns a set for n documents, with anything in it, that is to be given back.
func BorrowBits(n int) Bits { return words.get((n + 63) / 64) }

// ReturnBits gives back a set that nobody uses any more.
func ReturnBits(b Bits) { words.put(b) }

// BorrowCounts returns n zeros, to be given back.
func BorrowCounts(n int) []uint32 {
	c := counters.get(n)
	clear(c)
	return c
}

// ReturnCounts gives back numbers that nobody uses any more.
func ReturnCounts(c []uint32) { counters.put(c) }

// Entry is an id and how many documents have it.
type Entry struct{ ID, Docs uint32 }

// Tally counts ids of which few will occur: it remembers which, so that the others cost nothing. It
// is for one goroutine. One that is not closed is of no use to others, but does no harm.
type Tally struct {
	docs []uint32 // by id; zero but for those of ids
	ids  []uint32 // those that have occurred
}

var tallies sync.Pool

// NewTally returns a tally for ids less than n.
func NewTally(n int) *Tally {
	t, _ := tallies.Get().(*Tally)
	if t == nil {
		t = &Tally{}
	}
	t.docs = zeroed.get(n)
	return t
}

// Close gives back the tally's memory. Nothing may be in it, which is so after Take.
func (t *Tally) Close() {
	zeroed.put(t.docs)
	t.docs = nil
	tallies.Put(t)
}

// Add adds documents to an id.
func (t *Tally) Add(id, docs uint32) {
	if t.docs[id] == 0 {
		t.ids = append(t.ids, id)
	}
	t.docs[id] += docs
}

// Take returns what has been counted, in no order, and empties the tally.
func (t *Tally) Take() []Entry {
	list := make([]Entry, len(t.ids))
	for i, id := range t.ids {
		list[i] = Entry{id, t.docs[id]}
		t.docs[id] = 0
	}
	t.ids = t.ids[:0]
	return list
}

// TallyDocs adds 1 to the row of each document. The column is in no group.
func (c *Column) TallyDocs(docs []uint32, t *Tally) {
	switch {
	case c.c8 != nil:
		tallyRows(c.c8, docs, t)
	case c.c16 != nil:
		tallyRows(c.c16, docs, t)
	default:
		tallyRows(c.c32, docs, t)
	}
}

func tallyRows[T uint8 | uint16 | uint32](col []T, docs []uint32, t *Tally) {
	counts, ids := t.docs, t.ids
	for _, d := range docs {
		row := col[d]
		if counts[row] == 0 {
			ids = append(ids, uint32(row))
		}
		counts[row]++
	}
	t.ids = ids
}

// TallyRuns adds the number of documents of each run of the group to the run's row.
func (c *Column) TallyRuns(runs []RunCount, t *Tally) {
	switch {
	case c.c8 != nil:
		tallyRuns(c.c8, runs, t)
	case c.c16 != nil:
		tallyRuns(c.c16, runs, t)
	default:
		tallyRuns(c.c32, runs, t)
	}
}

func tallyRuns[T uint8 | uint16 | uint32](col []T, runs []RunCount, t *Tally) {
	counts, ids := t.docs, t.ids
	for _, r := range runs {
		row := col[r.Run]
		if counts[row] == 0 {
			ids = append(ids, uint32(row))
		}
		counts[row] += r.Docs
	}
	t.ids = ids
}

// TallyLists adds 1 to each id of each document of a column with lists.
func (c *Column) TallyLists(docs []uint32, t *Tally) {
	switch {
	case c.c8 != nil:
		tallyLists(c.starts, c.c8, docs, t)
	case c.c16 != nil:
		tallyLists(c.starts, c.c16, docs, t)
	default:
		tallyLists(c.starts, c.c32, docs, t)
	}
}

func tallyLists[T uint8 | uint16 | uint32](starts []uint32, vals []T, docs []uint32, t *Tally) {
	counts, ids := t.docs, t.ids
	for _, d := range docs {
		for _, v := range vals[starts[d]:starts[d+1]] {
			if counts[v] == 0 {
				ids = append(ids, uint32(v))
			}
			counts[v]++
		}
	}
	t.ids = ids
}

// TallyRows turns counts of rows of a column with tuples into counts of ids, and empties those of rows.
func (c *Column) TallyRows(rows, t *Tally) {
	for _, row := range rows.ids {
		n := rows.docs[row]
		rows.docs[row] = 0
		for _, id := range c.Tuple(int(row)) {
			t.Add(id, n)
		}
	}
	rows.ids = rows.ids[:0]
}

// Intersect puts what is in all of some sets into one, and returns how many that are.
func Intersect(into Bits, sets ...Bits) int {
	n := 0
	a := sets[0][:len(into)]
	switch len(sets) {
	case 1:
		for i, w := range a {
			into[i] = w
			n += bits.OnesCount64(w)
		}
	case 2:
		b := sets[1][:len(into)]
		for i, w := range a {
			w &= b[i]
			into[i] = w
			n += bits.OnesCount64(w)
		}
	case 3:
		b, c := sets[1][:len(into)], sets[2][:len(into)]
		for i, w := range a {
			w &= b[i] & c[i]
			into[i] = w
			n += bits.OnesCount64(w)
		}
	default:
		b, c := sets[1][:len(into)], sets[2][:len(into)]
		for i, w := range a {
			into[i] = w & b[i] & c[i]
		}
		for _, s := range sets[3 : len(sets)-1] {
			into.And(s)
		}
		last := sets[len(sets)-1][:len(into)]
		for i, w := range into {
			w &= last[i]
			into[i] = w
			n += bits.OnesCount64(w)
		}
	}
	return n
}
