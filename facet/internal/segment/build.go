package segment

import (
	"encoding/binary"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Field says how a field is built.
type Field struct {
	Dict  DictKind
	Multi bool
	// Words, if not nil, returns the words of a key; the segment can then find keys by the beginnings of their words.
	Words func(key []byte) []string
}

// Info is what a manifest keeps of a segment.
type Info struct {
	Size int64  // of the file
	CRC  uint32 // of its table, which has the checksums of everything else
	Docs int
}

// Builder collects documents and writes them as a segment. It is for one goroutine at a time.
//
// A document is given by its values, each with one of Null, Key, U64 and U128, and then Doc.
type Builder struct {
	fields   []Field
	cols     []colBuilder
	ids      []string
	versions []int64
	sources  sourceWriter
	bytes    int
	aside    chan []byte   // sources on their way to a goroutine that compresses them
	done     chan struct{} // closed when it has ended
}

type colBuilder struct {
	strs   map[string]uint32
	nums   map[uint64]uint32
	pairs  map[[2]uint64]uint32
	keys   []string
	nkeys  []uint64
	pkeys  [][2]uint64
	starts []uint32
	flat   []uint32 // 0 is null, i+1 the i-th key that came
	single bool
	seen   bool // the document has a value
}

// NewBuilder returns an empty builder.
func NewBuilder(fields []Field) *Builder {
	b := &Builder{fields: fields, cols: make([]colBuilder, len(fields))}
	for i := range b.cols {
		b.cols[i].single = !fields[i].Multi
	}
	return b
}

// Aside makes the builder compress sources on a goroutine of its own, and fast rather than well. Sources that Doc is given must then
// not change until Write or Stop, one of which has to be called.
func (b *Builder) Aside() {
	aside, done := make(chan []byte, 64), make(chan struct{})
	b.aside, b.done = aside, done
	b.sources.fast = true
	go func() {
		defer close(done)
		for s := range aside {
			b.sources.add(s)
		}
	}()
}

// Stop ends the goroutine of Aside, if there is one. No more documents can be added.
func (b *Builder) Stop() {
	if b.aside != nil {
		close(b.aside)
		b.aside = nil
	}
}

// Len returns the number of documents.
func (b *Builder) Len() int { return len(b.ids) }

// Bytes returns about how much memory the builder holds.
func (b *Builder) Bytes() int { return b.bytes + b.sources.size() }

func (c *colBuilder) add(id uint32) {
	if c.seen && slices.Contains(c.flat[c.starts[len(c.starts)-1]:], id) {
		return
	}
	if !c.seen {
		c.seen = true
		if !c.single {
			c.starts = append(c.starts, uint32(len(c.flat)))
		}
	}
	c.flat = append(c.flat, id)
}

// Null adds null to the document's values.
func (b *Builder) Null(field int) { b.cols[field].add(0) }

// before returns what the last document has where the next value will be, 0 if nothing or null.
func (c *colBuilder) before() uint32 {
	n := len(c.flat)
	switch {
	case n == 0:
		return 0
	case c.single:
		return c.flat[n-1]
	case !c.seen:
		return c.flat[c.starts[len(c.starts)-1]]
	case len(c.starts) < 2:
		return 0
	}
	cur := c.starts[len(c.starts)-1]
	if i := c.starts[len(c.starts)-2] + uint32(n) - cur; i < cur {
		return c.flat[i]
	}
	return 0
}

// Again adds a string if it is what the last document has in its place, and reports whether it is. Documents that
// follow each other are alike, and comparing costs less than looking up.
func (b *Builder) Again(field int, s string) bool {
	c := &b.cols[field]
	if id := c.before(); id > 0 && c.keys[id-1] == s {
		c.add(id)
		return true
	}
	return false
}

// Key adds a string.
func (b *Builder) Key(field int, s string) {
	if b.Again(field, s) {
		return
	}
	c := &b.cols[field]
	id, ok := c.strs[s]
	if !ok {
		if c.strs == nil {
			c.strs = map[string]uint32{}
		}
		s = strings.Clone(s)
		c.keys = append(c.keys, s)
		id = uint32(len(c.keys))
		c.strs[s] = id
		b.bytes += len(s) + 64
	}
	c.add(id)
}

// U64 adds a fixed key of 8 bytes.
func (b *Builder) U64(field int, x uint64) {
	c := &b.cols[field]
	id, ok := c.nums[x]
	if !ok {
		if c.nums == nil {
			c.nums = map[uint64]uint32{}
		}
		c.nkeys = append(c.nkeys, x)
		id = uint32(len(c.nkeys))
		c.nums[x] = id
		b.bytes += 40
	}
	c.add(id)
}

// U128 adds a fixed key of 16 bytes.
func (b *Builder) U128(field int, x, y uint64) {
	c := &b.cols[field]
	k := [2]uint64{x, y}
	id, ok := c.pairs[k]
	if !ok {
		if c.pairs == nil {
			c.pairs = map[[2]uint64]uint32{}
		}
		c.pkeys = append(c.pkeys, k)
		id = uint32(len(c.pkeys))
		c.pairs[k] = id
		b.bytes += 60
	}
	c.add(id)
}

// Doc ends a document. Fields without value have null. The source is copied, unless Aside was called.
func (b *Builder) Doc(id string, version int64, source []byte) {
	for i := range b.cols {
		c := &b.cols[i]
		if !c.seen {
			c.add(0)
		}
		c.seen = false
	}
	b.ids = append(b.ids, strings.Clone(id))
	b.versions = append(b.versions, version)
	if b.aside != nil {
		b.aside <- source
	} else {
		b.sources.add(source)
	}
	b.bytes += len(id) + 24 + 4*len(b.cols)
}

// IDs returns the ids in the order of documents.
func (b *Builder) IDs() []string { return b.ids }

// Write writes the segment. The builder is of no use afterwards.
func (b *Builder) Write(w io.Writer, workers int) (Info, error) {
	n := len(b.ids)
	b.Stop()
	changes := make([]Bits, len(b.cols))
	cols := make([]column, len(b.cols))
	if n > Tune.SmallDocs {
		parallel(workers, len(cols), func(i int) {
			c := &b.cols[i]
			changes[i] = c.column().changes() // ids that are not sorted yet change at the same places
		})
	}
	groups := groupRuns(n, changes)
	return write(w, workers, len(cols), groups, n, func(i int) (DictKind, int, func(func([]byte) bool), column, func([]byte) []string) {
		nd, keys := b.cols[i].sort(b.fields[i].Dict)
		cols[i] = b.cols[i].column()
		b.cols[i] = colBuilder{}
		return b.fields[i].Dict, nd, keys, cols[i], b.fields[i].Words
	}, func(w *writer) { writeIDs(w, b.ids) }, b.versions, func(w *writer) {
		if b.done != nil {
			<-b.done
		}
		b.sources.close()
		b.sources.write(w)
	})
}

func (c *colBuilder) column() column {
	if c.single {
		return column{ids: c.flat}
	}
	return column{starts: append(c.starts, uint32(len(c.flat))), flat: c.flat}
}

// sort puts the keys in order and gives the documents their places in it.
func (c *colBuilder) sort(kind DictKind) (int, func(func([]byte) bool)) {
	var order []uint32
	var n int
	var keys func(func([]byte) bool)
	switch kind {
	case Fixed8:
		n = len(c.nkeys)
		order = sorted(n, func(a, b uint32) int { return compareU64(c.nkeys[a], c.nkeys[b]) })
		nums := c.nkeys
		keys = func(yield func([]byte) bool) {
			var k [8]byte
			for _, i := range order {
				binary.BigEndian.PutUint64(k[:], nums[i])
				if !yield(k[:]) {
					return
				}
			}
		}
	case Fixed16:
		n = len(c.pkeys)
		order = sorted(n, func(a, b uint32) int {
			if d := compareU64(c.pkeys[a][0], c.pkeys[b][0]); d != 0 {
				return d
			}
			return compareU64(c.pkeys[a][1], c.pkeys[b][1])
		})
		pairs := c.pkeys
		keys = func(yield func([]byte) bool) {
			var k [16]byte
			for _, i := range order {
				binary.BigEndian.PutUint64(k[:8], pairs[i][0])
				binary.BigEndian.PutUint64(k[8:], pairs[i][1])
				if !yield(k[:]) {
					return
				}
			}
		}
	default:
		n = len(c.keys)
		order = sorted(n, func(a, b uint32) int { return strings.Compare(c.keys[a], c.keys[b]) })
		strs := c.keys
		keys = func(yield func([]byte) bool) {
			var k []byte
			for _, i := range order {
				k = append(k[:0], strs[i]...)
				if !yield(k) {
					return
				}
			}
		}
	}
	place := make([]uint32, n+1)
	for i, k := range order {
		place[k+1] = uint32(i + 1)
	}
	for i, id := range c.flat {
		c.flat[i] = place[id]
	}
	if !c.single {
		for i, s := range c.starts {
			end := uint32(len(c.flat))
			if i+1 < len(c.starts) {
				end = c.starts[i+1]
			}
			if end-s > 1 {
				slices.Sort(c.flat[s:end])
			}
		}
	}
	return n, keys
}

func sorted(n int, cmp func(a, b uint32) int) []uint32 {
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, cmp)
	return order
}

func compareU64(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// write writes a segment whose fields are made by field, some at the same time. Making does not run far ahead of
// writing, which may be slowed down, so that few fields are in memory; and it ends when writing fails.
func write(to io.Writer, workers, fields int, groups []group, n int,
	field func(i int) (DictKind, int, func(func([]byte) bool), column, func([]byte) []string),
	ids func(*writer), versions []int64, sources func(*writer)) (Info, error) {
	w := newWriter(to)
	inGroup := make([]int, fields)
	for i := range inGroup {
		inGroup[i] = -1
	}
	for g, group := range groups {
		w.begin(partRuns, g)
		w.write(bytesOf32(group.starts.Append(nil)))
		for _, f := range group.fields {
			inGroup[f] = g
		}
	}
	made := make([][]output, 2*fields)
	ready, written := make([]chan struct{}, fields), make([]chan struct{}, fields)
	for i := range ready {
		ready[i], written[i] = make(chan struct{}), make(chan struct{})
	}
	var failing atomic.Bool
	var working sync.WaitGroup
	var failed any
	working.Go(func() {
		defer func() { failed = recover() }()
		parallel(workers, fields, func(i int) {
			defer close(ready[i])
			// Fields are begun in order, so the one that is waited for has been begun.
			if before := i - workers - 1; before >= 0 {
				<-written[before]
			}
			if failing.Load() {
				return
			}
			kind, nd, keys, col, words := field(i)
			var runs Bits
			if g := inGroup[i]; g >= 0 {
				runs = groups[g].starts
			}
			made[i] = encodeField(kind, nd, keys, col, runs, inGroup[i])
			if words != nil {
				made[fields+i] = encodeWords(nd, keys, words)
			}
		})
	})
	done := make(chan struct{})
	go func() {
		working.Wait()
		close(done)
	}()
	for i := range fields {
		select {
		case <-ready[i]:
		case <-done:
		}
		for _, o := range made[i] {
			w.put(o, i)
		}
		for _, o := range made[fields+i] {
			w.put(o, fields+i)
		}
		made[i], made[fields+i] = nil, nil
		if w.err != nil {
			failing.Store(true)
		}
		close(written[i])
	}
	<-done
	if failed != nil {
		panic(failed)
	}
	ids(w)
	w.begin(partVersions, idField)
	w.write(encodeVersions(versions))
	sources(w)
	size, crc, err := w.finish(n)
	return Info{Size: size, CRC: crc, Docs: n}, err
}

// writeIDs writes ids as a dictionary and two permutations.
func writeIDs(w *writer, ids []string) {
	order := sorted(len(ids), func(a, b uint32) int { return strings.Compare(ids[a], ids[b]) })
	writeOrder(w, order, func(yield func([]byte) bool) {
		var k []byte
		for _, i := range order {
			k = append(k[:0], ids[i]...)
			if !yield(k) {
				return
			}
		}
	})
}

// writeOrder writes ids in order, and which document has each.
func writeOrder(w *writer, order []uint32, keys func(func([]byte) bool)) {
	kind, dict := encodeDict(Strings, len(order), keys)
	rank := make([]uint32, len(order))
	for r, d := range order {
		rank[d] = uint32(r)
	}
	m := fieldMeta{dict: kind, layout: none, width: 4, nd: uint32(len(order))}
	w.put(output{partMeta, [][]byte{m.append(nil)}}, idField)
	w.put(output{partDict, dict}, idField)
	w.put(output{partRank, [][]byte{bytesOf32(rank)}}, idField)
	w.put(output{partPerm, [][]byte{bytesOf32(order)}}, idField)
}

// encodeWords makes the field of a field's words: a dictionary of words, and for each the keys that have it.
func encodeWords(nd int, keys func(func([]byte) bool), words func([]byte) []string) []output {
	known := map[string]uint32{}
	var names []string
	starts := make([]uint32, 1, nd+1)
	var flat []uint32
	for k := range keys {
		from := len(flat)
		for _, w := range words(k) {
			id, ok := known[w]
			if !ok {
				names = append(names, w)
				id = uint32(len(names))
				known[w] = id
			}
			if !slices.Contains(flat[from:], id) {
				flat = append(flat, id)
			}
		}
		starts = append(starts, uint32(len(flat)))
	}
	order := sorted(len(names), func(a, b uint32) int { return strings.Compare(names[a], names[b]) })
	place := make([]uint32, len(names)+1)
	for i, k := range order {
		place[k+1] = uint32(i + 1)
	}
	for i, id := range flat {
		flat[i] = place[id]
	}
	for i := range nd {
		slices.Sort(flat[starts[i]:starts[i+1]])
	}
	m := fieldMeta{layout: none, width: 4, nd: uint32(len(names)), nposts: uint32(len(names) + 1), total: uint32(len(flat))}
	kind, dict := encodeDict(Strings, len(names), func(yield func([]byte) bool) {
		var k []byte
		for _, i := range order {
			k = append(k[:0], names[i]...)
			if !yield(k) {
				return
			}
		}
	})
	m.dict = kind
	posts := encodePosts(&m, column{starts: starts, flat: flat})
	return []output{{partMeta, [][]byte{m.append(nil)}}, {partDict, dict}, {partPost, posts}}
}

// encodeVersions writes versions as distances from the least, in as few bytes as they need.
func encodeVersions(versions []int64) []byte {
	if len(versions) == 0 {
		return nil
	}
	lo, hi := slices.Min(versions), slices.Max(versions)
	width := 0
	for span := uint64(hi) - uint64(lo); span>>(8*width) != 0; width++ {
		if width == 7 {
			width = 8
			break
		}
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(lo))
	b = append(b, byte(width))
	for _, v := range versions {
		var x [8]byte
		binary.LittleEndian.PutUint64(x[:], uint64(v)-uint64(lo))
		b = append(b, x[:width]...)
	}
	return b
}

// parallel calls f for 0 to n-1, several at a time, beginning in order. If one panics, parallel does.
func parallel(workers, n int, f func(int)) {
	if workers <= 1 || n <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var at atomic.Int64
	var failed atomic.Pointer[any]
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					failed.Store(&p)
				}
			}()
			debug.SetPanicOnFault(true)
			for {
				i := int(at.Add(1) - 1)
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
	if p := failed.Load(); p != nil {
		panic(*p)
	}
}

// LastOfEach returns the documents whose id comes again later, in order.
func (b *Builder) LastOfEach() []uint32 {
	last := make(map[string]uint32, len(b.ids))
	var gone []uint32
	for i, id := range b.ids {
		if old, ok := last[id]; ok {
			gone = append(gone, old)
		}
		last[id] = uint32(i)
	}
	slices.Sort(gone)
	return gone
}
