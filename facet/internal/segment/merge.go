package segment

import (
	"bytes"
	"io"
	"slices"
)

// Input is a segment to be merged, and which of its documents are not to be taken; nil is none.
type Input struct {
	R       *Reader
	Deleted Bits
}

func (in Input) live() int {
	if in.Deleted == nil {
		return in.R.n
	}
	return in.R.n - in.Deleted.Count()
}

// Merge writes the documents of several segments as one, in order. It panics as readers do.
// Errors are those of w.
func Merge(w io.Writer, fields []Field, inputs []Input, workers int) (Info, error) {
	n := 0
	for _, in := range inputs {
		n += in.live()
	}
	changes := make([]Bits, len(fields))
	parallel(workers, len(fields), func(i int) {
		b, base := NewBits(n), 0
		for _, in := range inputs {
			c := in.R.Field(i).Column()
			if c.layout == lists {
				return
			}
			c.changes(in.Deleted, base, b)
			base += in.live()
		}
		changes[i] = b
	})
	groups := groupRuns(n, changes)
	changes = nil
	versions := make([]int64, 0, n)
	for _, in := range inputs {
		for d := range uint32(in.R.n) {
			if in.Deleted == nil || !in.Deleted.Has(d) {
				versions = append(versions, in.R.Version(d))
			}
		}
	}
	return write(w, workers, len(fields), groups, n, func(i int) (DictKind, int, func(func([]byte) bool), column, func([]byte) []string) {
		nd, keys, col := mergeField(i, fields[i], inputs, n)
		return fields[i].Dict, nd, keys, col, fields[i].Words
	}, func(w *writer) { mergeIDs(w, inputs, n) }, versions, func(w *writer) { mergeSources(w, inputs) })
}

// mergeField merges dictionaries, leaving out keys that no document has any more, and puts columns behind each other.
func mergeField(i int, f Field, inputs []Input, n int) (int, func(func([]byte) bool), column) {
	cols := make([]column, len(inputs))
	remap := make([][]uint32, len(inputs))
	total := 0
	for k, in := range inputs {
		c := in.R.Field(i).Column()
		cols[k] = c.expand(in.Deleted, f.Multi)
		remap[k] = make([]uint32, c.nd+1)
		for _, id := range cols[k].all() {
			remap[k][id] = 1 // in use
		}
		total += len(cols[k].all())
	}
	used := make([]Bits, len(inputs))
	for k, m := range remap {
		used[k] = NewBits(len(m))
		for id, u := range m {
			if u != 0 {
				used[k].Set(uint32(id))
			}
		}
	}
	dicts := func(yield func(key []byte, at []*cursor) bool) {
		cursors := make([]*cursor, len(inputs))
		for k, in := range inputs {
			cursors[k] = newCursor(k, in.R.Field(i).Dict(), func(ord int) bool { return used[k].Has(uint32(ord + 1)) })
		}
		mergeCursors(cursors, yield)
	}
	nd := 0
	dicts(func(_ []byte, at []*cursor) bool {
		nd++
		for _, c := range at {
			remap[c.input][c.i+1] = uint32(nd)
		}
		return true
	})
	var col column
	if f.Multi {
		col.starts = make([]uint32, 1, n+1)
		col.flat = make([]uint32, 0, total)
	} else {
		col.ids = make([]uint32, 0, n)
	}
	for k, c := range cols {
		m := remap[k]
		m[0] = 0
		if !f.Multi {
			for _, id := range c.ids {
				col.ids = append(col.ids, m[id])
			}
			continue
		}
		base := uint32(len(col.flat))
		for _, id := range c.flat {
			col.flat = append(col.flat, m[id])
		}
		for _, s := range c.starts[1:] {
			col.starts = append(col.starts, base+s)
		}
	}
	keys := func(yield func([]byte) bool) {
		dicts(func(key []byte, _ []*cursor) bool { return yield(key) })
	}
	return nd, keys, col
}

func mergeIDs(w *writer, inputs []Input, n int) {
	merged := func(yield func(key []byte, at []*cursor) bool) {
		cursors := make([]*cursor, len(inputs))
		for k, in := range inputs {
			order := in.R.Order()
			cursors[k] = newCursor(k, in.R.IDs(), func(rank int) bool { return in.Deleted == nil || !in.Deleted.Has(order[rank]) })
		}
		mergeCursors(cursors, yield)
	}
	place := make([][]uint32, len(inputs)) // new numbers
	next := uint32(0)
	for k, in := range inputs {
		place[k] = make([]uint32, in.R.n)
		for d := range uint32(in.R.n) {
			if in.Deleted == nil || !in.Deleted.Has(d) {
				place[k][d] = next
				next++
			}
		}
	}
	order := make([]uint32, 0, n)
	merged(func(_ []byte, at []*cursor) bool {
		for _, c := range at {
			order = append(order, place[c.input][inputs[c.input].R.Order()[c.i]])
		}
		return true
	})
	if len(order) != n {
		panic(&Corrupt{File: inputs[0].R.Name, What: "an id occurs twice"})
	}
	writeOrder(w, order, func(yield func([]byte) bool) {
		merged(func(key []byte, _ []*cursor) bool { return yield(key) })
	})
}

func mergeSources(w *writer, inputs []Input) {
	w.begin(partSource, idField)
	s := sourceWriter{emit: w.write}
	for _, in := range inputs {
		for i := range in.R.blockCount() {
			k, data := in.R.block(i)
			gone := 0
			if in.Deleted != nil {
				gone = in.Deleted.CountRange(int(k.first), int(k.first+k.count))
			}
			switch {
			case gone == int(k.count):
			case gone == 0 && len(data) >= Tune.Block/32:
				s.copy(data, int(k.count))
			default:
				in.R.Block(i, func(doc uint32, source []byte) {
					if in.Deleted == nil || !in.Deleted.Has(doc) {
						s.add(source)
					}
				})
			}
		}
	}
	s.close()
	s.writeBlocks(w)
}

// cursor goes through the keys of a dictionary that are wanted.
type cursor struct {
	input int
	d     *Dict
	want  func(int) bool
	i     int
	key   []byte
	p     []byte // what of the block is to come
}

func newCursor(input int, d *Dict, want func(int) bool) *cursor {
	c := &cursor{input: input, d: d, want: want, i: -1}
	c.next()
	return c
}

func (c *cursor) next() {
	for {
		c.i++
		if c.i >= c.d.n {
			return
		}
		if c.d.kind == Strings {
			if c.i%blockKeys == 0 {
				c.p = c.d.data[c.d.offsets[c.i/blockKeys]:]
				c.key = c.key[:0]
			} else {
				var shared int
				shared, c.p = uvarint(c.p)
				c.key = c.key[:shared]
			}
			var n int
			n, c.p = uvarint(c.p)
			c.key = append(c.key, c.p[:n]...)
			c.p = c.p[n:]
		}
		if c.want(c.i) {
			if c.d.kind != Strings {
				c.key = c.d.Append(c.key[:0], c.i)
			}
			return
		}
	}
}

// mergeCursors calls yield with each key in order and the cursors that stand at it.
func mergeCursors(cursors []*cursor, yield func(key []byte, at []*cursor) bool) {
	cursors = slices.DeleteFunc(cursors, func(c *cursor) bool { return c.i >= c.d.n })
	var at []*cursor
	for len(cursors) > 0 {
		at = append(at[:0], cursors[0])
		for _, c := range cursors[1:] {
			switch d := bytes.Compare(c.key, at[0].key); {
			case d < 0:
				at = append(at[:0], c)
			case d == 0:
				at = append(at, c)
			}
		}
		if !yield(at[0].key, at) {
			return
		}
		done := false
		for _, c := range at {
			c.next()
			done = done || c.i >= c.d.n
		}
		if done {
			cursors = slices.DeleteFunc(cursors, func(c *cursor) bool { return c.i >= c.d.n })
		}
	}
}

// Join calls f with each key of a, its number, and its number in b or -1.
func Join(a, b *Dict, f func(i, k int, key []byte)) {
	all := func(int) bool { return true }
	x, y := newCursor(0, a, all), newCursor(1, b, all)
	for ; x.i < a.n; x.next() {
		for y.i < b.n && bytes.Compare(y.key, x.key) < 0 {
			y.next()
		}
		if y.i < b.n && bytes.Equal(x.key, y.key) {
			f(x.i, y.i, x.key)
		} else {
			f(x.i, -1, x.key)
		}
	}
}

// SameIDs calls f with the segments that have the same id, and their documents, for each id that several have. Documents
// that are deleted do not count.
func SameIDs(inputs []Input, f func(at []int, docs []uint32)) {
	cursors := make([]*cursor, len(inputs))
	for k, in := range inputs {
		order := in.R.Order()
		cursors[k] = newCursor(k, in.R.IDs(), func(rank int) bool { return in.Deleted == nil || !in.Deleted.Has(order[rank]) })
	}
	var at []int
	var docs []uint32
	mergeCursors(cursors, func(_ []byte, same []*cursor) bool {
		if len(same) > 1 {
			at, docs = at[:0], docs[:0]
			for _, c := range same {
				at = append(at, c.input)
				docs = append(docs, inputs[c.input].R.Order()[c.i])
			}
			f(at, docs)
		}
		return true
	})
}
