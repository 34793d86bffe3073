package segment

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// writer puts sections behind each other.
type writer struct {
	w        *bufio.Writer
	off      uint64
	sections []section
	cur      *section
	err      error
}

func newWriter(w io.Writer) *writer {
	x := &writer{w: bufio.NewWriterSize(w, 1<<18)}
	x.raw([]byte(Magic))
	return x
}

func (w *writer) raw(b []byte) {
	if w.err != nil {
		return
	}
	_, w.err = w.w.Write(b)
	w.off += uint64(len(b))
}

var zeros [8]byte

func (w *writer) begin(p part, field int) {
	w.raw(zeros[:(8-w.off&7)&7])
	w.sections = append(w.sections, section{part: p, field: uint16(field), off: w.off})
	w.cur = &w.sections[len(w.sections)-1]
}

func (w *writer) write(b []byte) {
	w.cur.crc = crc32.Update(w.cur.crc, castagnoli, b)
	w.cur.len += uint64(len(b))
	w.raw(b)
}

func (w *writer) put(o output, field int) {
	w.begin(o.part, field)
	for _, b := range o.data {
		w.write(b)
	}
}

// finish writes table and trailer and returns the length of the file and the checksum of its table.
func (w *writer) finish(docs int) (size int64, crc uint32, err error) {
	w.raw(zeros[:(8-w.off&7)&7])
	at := w.off
	table := make([]byte, 0, len(w.sections)*entryLen)
	for _, s := range w.sections {
		table = binary.LittleEndian.AppendUint16(table, uint16(s.part))
		table = binary.LittleEndian.AppendUint16(table, s.field)
		table = binary.LittleEndian.AppendUint32(table, s.crc)
		table = binary.LittleEndian.AppendUint64(table, s.off)
		table = binary.LittleEndian.AppendUint64(table, s.len)
	}
	w.raw(table)
	t := binary.LittleEndian.AppendUint64(nil, at)
	t = binary.LittleEndian.AppendUint32(t, uint32(len(table)))
	t = binary.LittleEndian.AppendUint32(t, uint32(docs))
	t = binary.LittleEndian.AppendUint32(t, version)
	crc = crc32.Checksum(table, castagnoli)
	t = binary.LittleEndian.AppendUint32(t, crc)
	t = binary.LittleEndian.AppendUint32(t, crc32.Checksum(t, castagnoli))
	t = append(t, zeros[:4]...)
	t = append(t, Magic...)
	w.raw(t)
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return int64(w.off), crc, w.err
}

// output is a section that waits to be written.
type output struct {
	part part
	data [][]byte
}

// column is what a field holds: one id a document, or a list of them. Id 0 is null and i+1 is
// key number i. Lists are sorted and never empty.
type column struct {
	ids    []uint32 // one a document, or
	starts []uint32 // n+1 places in
	flat   []uint32 // this
}

func (c column) n() int {
	if c.starts != nil {
		return len(c.starts) - 1
	}
	return len(c.ids)
}

func (c column) list(i int) []uint32 {
	if c.starts != nil {
		return c.flat[c.starts[i]:c.starts[i+1]]
	}
	return c.ids[i : i+1]
}

func (c column) all() []uint32 {
	if c.starts != nil {
		return c.flat
	}
	return c.ids
}

// same reports whether document i has the list of the one before.
func (c column) same(i int) bool {
	if c.starts == nil {
		return c.ids[i] == c.ids[i-1]
	}
	a, b := c.list(i), c.list(i-1)
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}

// changes returns the documents whose list is another than that of the one before, the first included.
func (c column) changes() Bits {
	n := c.n()
	b := NewBits(n)
	if n > 0 {
		b.Set(0)
	}
	for i := 1; i < n; i++ {
		if !c.same(i) {
			b.Set(uint32(i))
		}
	}
	return b
}

// group is a set of fields that change at the same documents, more or less.
type group struct {
	fields []int
	starts Bits
}

// groupRuns finds fields whose values stay the same for many documents in a row, and puts together those that change at
// about the same places. A group is worth it if its runs are long: at least Tune.MinRun documents.
func groupRuns(n int, changes []Bits) []group {
	const maxGroups = 4
	type candidate struct{ field, runs int }
	var cs []candidate
	for f, b := range changes {
		if b == nil {
			continue
		}
		if runs := b.Count(); runs*Tune.MinRun <= n {
			cs = append(cs, candidate{f, runs})
		}
	}
	// Those that change most come first: their runs are the group's, and the others add little.
	for i := 1; i < len(cs); i++ {
		for k := i; k > 0 && cs[k].runs > cs[k-1].runs; k-- {
			cs[k], cs[k-1] = cs[k-1], cs[k]
		}
	}
	var groups []group
next:
	for _, c := range cs {
		for g := range groups {
			union := groups[g].starts.Clone()
			union.Or(changes[c.field])
			old := groups[g].starts.Count()
			if now := union.Count(); now*Tune.MinRun <= n && (now-old)*4 <= max(c.runs, old) {
				groups[g].starts = union
				groups[g].fields = append(groups[g].fields, c.field)
				continue next
			}
		}
		if len(groups) < maxGroups {
			groups = append(groups, group{fields: []int{c.field}, starts: changes[c.field].Clone()})
		}
	}
	return groups
}

// encodeField makes the sections of a field. runs, if not nil, are the starts of the group's runs.
func encodeField(kind DictKind, nd int, keys func(func([]byte) bool), col column, runs Bits, groupNo int) []output {
	m := fieldMeta{nd: uint32(nd), total: uint32(len(col.all())), nposts: uint32(nd + 1)}
	outs := make([]output, 1, 5)
	dictKind, dict := encodeDict(kind, nd, keys)
	m.dict = dictKind
	outs = append(outs, output{partDict, dict})
	outs = append(outs, encodeColumn(&m, col, runs, groupNo)...)
	outs = append(outs, output{partPost, encodePosts(&m, col)})
	outs[0] = output{partMeta, [][]byte{m.append(nil)}}
	return outs
}

func encodeColumn(m *fieldMeta, col column, runs Bits, groupNo int) []output {
	n := col.n()
	if col.starts != nil && len(col.flat) == n {
		col = column{ids: col.flat} // every list is of one
	}
	if col.starts == nil {
		m.layout = single
		return []output{encodeIDs(m, col.ids, runs, groupNo)}
	}
	limit := n
	if runs == nil {
		limit = max(Tune.MaxRows, n/8)
	}
	ids := make([]uint32, n)
	known := map[string]uint32{}
	starts := []uint32{0}
	var flat []uint32
	for i := range n {
		if i > 0 && col.same(i) {
			ids[i] = ids[i-1]
			continue
		}
		list := col.list(i)
		id, ok := known[string(bytesOf32(list))]
		if !ok {
			if len(known) >= limit {
				return encodeLists(m, col)
			}
			id = uint32(len(known))
			known[string(bytesOf32(list))] = id
			flat = append(flat, list...)
			starts = append(starts, uint32(len(flat)))
		}
		ids[i] = id
	}
	m.layout, m.nt = tuples, uint32(len(known))
	return []output{encodeIDs(m, ids, runs, groupNo), {partTuples, [][]byte{bytesOf32(starts), bytesOf32(flat)}}}
}

func encodeLists(m *fieldMeta, col column) []output {
	m.layout, m.width = lists, 4
	m.nt = uint32(widthOf(col.flat))
	return []output{{partCol, [][]byte{bytesOf32(col.starts)}}, {partVals, [][]byte{narrow(col.flat, int(m.nt))}}}
}

func encodeIDs(m *fieldMeta, ids []uint32, runs Bits, groupNo int) output {
	if runs != nil {
		m.group = uint32(groupNo + 1)
		short := make([]uint32, 0, runs.Count())
		for _, i := range runs.Append(nil) {
			short = append(short, ids[i])
		}
		ids = short
	}
	w := widthOf(ids)
	m.width = uint8(w)
	return output{partCol, [][]byte{narrow(ids, w)}}
}

func widthOf(ids []uint32) int {
	top := uint32(0)
	for _, id := range ids {
		top = max(top, id)
	}
	switch {
	case top < 1<<8:
		return 1
	case top < 1<<16:
		return 2
	}
	return 4
}

func narrow(ids []uint32, width int) []byte {
	switch width {
	case 1:
		b := make([]byte, len(ids))
		for i, id := range ids {
			b[i] = byte(id)
		}
		return b
	case 2:
		b := make([]byte, 2*len(ids))
		for i, id := range ids {
			binary.LittleEndian.PutUint16(b[2*i:], uint16(id))
		}
		return b
	}
	return bytesOf32(ids)
}
