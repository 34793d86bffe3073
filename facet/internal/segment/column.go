package segment

import (
	"math/bits"
	"sort"
)

// Column is what documents have in a field. Id 0 is null, i+1 is key number i.
type Column struct {
	n      int
	layout layout
	group  int
	nd, nt int
	total  int

	// Ids, or numbers of tuples: of documents, or of the runs of a group. Of lists: the ids.
	c8  []uint8
	c16 []uint16
	c32 []uint32

	runs        []uint32 // where they begin
	tupleStarts []uint32
	tupleIDs    []uint32
	starts      []uint32 // of lists
}

func (c *Column) set(width int, b []byte, n int) bool {
	switch width {
	case 1:
		c.c8 = b
	case 2:
		c.c16 = u16s(b)
	case 4:
		c.c32 = u32s(b)
	default:
		return false
	}
	return len(b) == n*width
}

// Rows returns the number of different rows that documents can have: ids, or tuples of them; 0 if each document has a list.
func (c *Column) Rows() int {
	switch c.layout {
	case single:
		return c.nd + 1
	case tuples:
		return c.nt
	}
	return 0
}

// Group returns the number of the group of runs that the column is in, or -1.
func (c *Column) Group() int { return c.group }

// Total returns the number of ids of all documents together.
func (c *Column) Total() int { return c.total }

// Tuple returns the ids of a row of a column with tuples.
func (c *Column) Tuple(row int) []uint32 {
	return c.tupleIDs[c.tupleStarts[row]:c.tupleStarts[row+1]]
}

// Single reports whether rows are ids.
func (c *Column) Single() bool { return c.layout == single }

func (c *Column) at(i int) uint32 {
	switch {
	case c.c8 != nil:
		return uint32(c.c8[i])
	case c.c16 != nil:
		return uint32(c.c16[i])
	}
	return c.c32[i]
}

// Row returns the row of a document.
func (c *Column) Row(doc uint32) uint32 {
	if c.group >= 0 {
		i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i] > doc }) - 1
		return c.at(i)
	}
	return c.at(int(doc))
}

// List appends the ids of a document to buf.
func (c *Column) List(buf []uint32, doc uint32) []uint32 {
	switch c.layout {
	case single:
		return append(buf, c.Row(doc))
	case tuples:
		return append(buf, c.Tuple(int(c.Row(doc)))...)
	}
	for i := c.starts[doc]; i < c.starts[doc+1]; i++ {
		buf = append(buf, c.at(int(i)))
	}
	return buf
}

// Least returns the least id of a document that is not null, or 0.
func (c *Column) Least(doc uint32) uint32 {
	switch c.layout {
	case single:
		return c.Row(doc)
	case tuples:
		return least(c.Tuple(int(c.Row(doc))))
	}
	i := c.starts[doc]
	id := c.at(int(i))
	if id == 0 && i+1 < c.starts[doc+1] {
		id = c.at(int(i + 1))
	}
	return id
}

func least(ids []uint32) uint32 {
	if ids[0] == 0 && len(ids) > 1 {
		return ids[1]
	}
	return ids[0]
}

// Least makes a table of the least id of each row, nil for lists.
func (c *Column) LeastOfRows() []uint32 {
	if c.layout != tuples {
		return nil
	}
	table := make([]uint32, c.nt)
	for i := range table {
		table[i] = least(c.Tuple(i))
	}
	return table
}

// CountDocs adds 1 to the row of each document. The column is in no group.
func (c *Column) CountDocs(docs []uint32, rows []uint32) {
	switch {
	case c.c8 != nil:
		countRows(c.c8, docs, rows)
	case c.c16 != nil:
		countRows(c.c16, docs, rows)
	default:
		countRows(c.c32, docs, rows)
	}
}

// seek returns the run of a document that is not before run number from.
func (c *Column) seek(from int, doc uint32) int { return seek(c.runs, from, doc) }

func seek(r []uint32, from int, doc uint32) int {
	if from+1 >= len(r) || r[from+1] > doc {
		return from
	}
	step := 1
	for from+step < len(r) && r[from+step] <= doc {
		from += step
		step *= 2
	}
	hi := min(from+step, len(r))
	for hi-from > 1 {
		mid := int(uint(from+hi) >> 1)
		if r[mid] <= doc {
			from = mid
		} else {
			hi = mid
		}
	}
	return from
}

func countRows[T uint8 | uint16 | uint32](col []T, docs, rows []uint32) {
	for len(docs) >= 4 {
		a, b, c, d := col[docs[0]], col[docs[1]], col[docs[2]], col[docs[3]]
		rows[a]++
		rows[b]++
		rows[c]++
		rows[d]++
		docs = docs[4:]
	}
	for _, d := range docs {
		rows[col[d]]++
	}
}

// CountRuns adds the number of documents of each run of the group to the run's row.
func (c *Column) CountRuns(runs []RunCount, rows []uint32) {
	switch {
	case c.c8 != nil:
		countRuns(c.c8, runs, rows)
	case c.c16 != nil:
		countRuns(c.c16, runs, rows)
	default:
		countRuns(c.c32, runs, rows)
	}
}

// RunCount is a run and how many of its documents are in a set.
type RunCount struct{ Run, Docs uint32 }

func countRuns[T uint8 | uint16 | uint32](col []T, runs []RunCount, rows []uint32) {
	for _, r := range runs {
		rows[col[r.Run]] += r.Docs
	}
}

// CountLists adds 1 to each id of each document of a column with lists.
func (c *Column) CountLists(docs []uint32, ids []uint32) {
	switch {
	case c.c8 != nil:
		countLists(c.starts, c.c8, docs, ids)
	case c.c16 != nil:
		countLists(c.starts, c.c16, docs, ids)
	default:
		countLists(c.starts, c.c32, docs, ids)
	}
}

func countLists[T uint8 | uint16 | uint32](starts []uint32, vals []T, docs, ids []uint32) {
	for _, d := range docs {
		for _, v := range vals[starts[d]:starts[d+1]] {
			ids[v]++
		}
	}
}

// IDsOfRows turns counts of rows into counts of ids.
func (c *Column) IDsOfRows(rows, ids []uint32) {
	if c.layout != tuples {
		copy(ids, rows)
		return
	}
	for row, n := range rows {
		if n > 0 {
			for _, id := range c.Tuple(row) {
				ids[id] += n
			}
		}
	}
}

// CountInRuns counts the documents of a set in each run of a group; runs without are left out. The result is to be given
// to ReturnRuns.
func CountInRuns(runs []uint32, n int, set Bits) []RunCount {
	counts := runCounts.get(len(runs))
	found, last := 0, 0
	// before is how many documents of the set come before a word: counted word by word, once.
	word, before := 0, 0
	for i := 1; i < len(runs); i++ {
		end := runs[i]
		for w := int(end >> 6); word < w; word++ {
			before += bits.OnesCount64(set[word])
		}
		at := before + bits.OnesCount64(set[word]<<(64-end&63)) // of none if the run ends with the word before
		counts[found] = RunCount{uint32(i - 1), uint32(at - last)}
		if at > last {
			found++
		}
		last = at
	}
	for ; word < len(set); word++ {
		before += bits.OnesCount64(set[word])
	}
	if before > last && len(runs) > 0 {
		counts[found] = RunCount{uint32(len(runs) - 1), uint32(before - last)}
		found++
	}
	return counts[:found]
}

// CountRunsOf is CountInRuns for a set of few documents, which are in order.
func CountRunsOf(runs []uint32, docs []uint32) []RunCount {
	counts := runCounts.get(min(len(docs), len(runs)))[:0]
	run := 0
	for i := 0; i < len(docs); {
		run = seek(runs, run, docs[i])
		first := i
		for i++; i < len(docs) && (run+1 == len(runs) || docs[i] < runs[run+1]); i++ {
		}
		counts = append(counts, RunCount{uint32(run), uint32(i - first)})
	}
	return counts
}

// Select adds the documents whose row is marked to a set. Columns of lists are matched id by id.
func (c *Column) Select(marked []bool, set Bits) {
	if c.group >= 0 {
		switch {
		case c.c8 != nil:
			selectRuns(c.c8, c.runs, c.n, marked, set)
		case c.c16 != nil:
			selectRuns(c.c16, c.runs, c.n, marked, set)
		default:
			selectRuns(c.c32, c.runs, c.n, marked, set)
		}
		return
	}
	switch {
	case c.layout == lists:
		for d := range c.n {
			for i := c.starts[d]; i < c.starts[d+1]; i++ {
				if marked[c.at(int(i))] {
					set.Set(uint32(d))
					break
				}
			}
		}
	case c.c8 != nil:
		selectRows(c.c8, marked, set)
	case c.c16 != nil:
		selectRows(c.c16, marked, set)
	default:
		selectRows(c.c32, marked, set)
	}
}

func selectRuns[T uint8 | uint16 | uint32](col []T, runs []uint32, n int, marked []bool, set Bits) {
	runs = runs[:len(col)]
	for i := 0; i < len(col); i++ {
		if !marked[col[i]] {
			continue
		}
		start := int(runs[i])
		for i++; i < len(col) && marked[col[i]]; i++ { // neighbours are added together
		}
		end := n
		if i < len(col) {
			end = int(runs[i])
		}
		set.SetRange(start, end)
	}
}

func selectRows[T uint8 | uint16 | uint32](col []T, marked []bool, set Bits) {
	for w := range set {
		part := col[w*64 : min(w*64+64, len(col))]
		var word uint64
		for i, row := range part {
			var b uint64
			if marked[row] {
				b = 1
			}
			word |= b << (uint(i) & 63)
		}
		set[w] |= word
	}
}

// SelectBetween adds the documents that have an id from lo up to hi, without hi, to a set. The column is not of lists.
func (c *Column) SelectBetween(lo, hi uint32, set Bits) {
	if c.group < 0 && c.layout == single {
		switch {
		case c.c8 != nil:
			selectBetween(c.c8, lo, hi, set)
		case c.c16 != nil:
			selectBetween(c.c16, lo, hi, set)
		default:
			selectBetween(c.c32, lo, hi, set)
		}
		return
	}
	marked := make([]bool, c.nd+1)
	for id := lo; id < hi; id++ {
		marked[id] = true
	}
	c.Select(c.MarkRows(marked), set)
}

func selectBetween[T uint8 | uint16 | uint32](col []T, lo, hi uint32, set Bits) {
	span := uint64(hi - lo)
	for w := range set {
		part := col[w*64 : min(w*64+64, len(col))]
		var word uint64
		for i, id := range part {
			// The highest bit is set if the distance is less than span.
			word |= (uint64(uint32(id)-lo) - span) >> 63 << (uint(i) & 63)
		}
		set[w] |= word
	}
}

// MarkRows marks the rows that have a marked id.
func (c *Column) MarkRows(ids []bool) []bool {
	if c.layout != tuples {
		return ids
	}
	rows := make([]bool, c.nt)
	for row := range rows {
		for _, id := range c.Tuple(row) {
			if ids[id] {
				rows[row] = true
				break
			}
		}
	}
	return rows
}

// expand returns the ids of the documents that are not deleted, as a builder has them.
func (c *Column) expand(deleted Bits, multi bool) column {
	var out column
	if !multi {
		out.ids = make([]uint32, 0, c.n)
	} else {
		out.starts = make([]uint32, 1, c.n+1)
		out.flat = make([]uint32, 0, c.total)
	}
	run := 0
	for d := uint32(0); d < uint32(c.n); d++ {
		if deleted != nil && deleted.Has(d) {
			continue
		}
		row := int(d)
		if c.group >= 0 {
			run = c.seek(run, d)
			row = run
		}
		switch {
		case !multi:
			out.ids = append(out.ids, c.at(row))
			continue
		case c.layout == single:
			out.flat = append(out.flat, c.at(row))
		case c.layout == tuples:
			out.flat = append(out.flat, c.Tuple(int(c.at(row)))...)
		default:
			for i := c.starts[d]; i < c.starts[d+1]; i++ {
				out.flat = append(out.flat, c.at(int(i)))
			}
		}
		out.starts = append(out.starts, uint32(len(out.flat)))
	}
	return out
}

// changes marks, among the documents that are not deleted and numbered from base on,
// those whose row is another than that of the one before.
func (c *Column) changes(deleted Bits, base int, into Bits) {
	run, last := 0, ^uint32(0)
	for d := uint32(0); d < uint32(c.n); d++ {
		if deleted != nil && deleted.Has(d) {
			continue
		}
		i := int(d)
		if c.group >= 0 {
			run = c.seek(run, d)
			i = run
		}
		if row := c.at(i); row != last {
			into.Set(uint32(base))
			last = row
		}
		base++
	}
}
