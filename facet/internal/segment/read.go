package segment

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/waybill-run/waybill/facet/internal/disk"
)

// Reader reads a segment. Any number of goroutines may use it.
//
// Open checks the table. Every section is compared with its checksum when it is used for the
// first time, and every block of sources each time. What does not fit makes the methods panic with *Corrupt;
// a file that changes behind the program's back makes them panic with a runtime error, provided
// debug.SetPanicOnFault is on. Callers recover both.
type Reader struct {
	Name string
	m    *disk.Mapping
	data []byte
	n    int

	sections []section
	checked  []atomic.Bool
	index    map[uint32]int

	fields []*FieldReader
	id     *FieldReader
	blocks lazy[[]byte]
	groups [16]lazy[[]uint32]
}

// Open maps a segment and checks its table. fields is the number of fields that it was built with.
func Open(fs disk.FS, name string, want Info, fields int) (*Reader, error) {
	if !littleEndian() {
		return nil, fmt.Errorf("segments are read on little-endian machines only")
	}
	m, err := fs.Map(name)
	if err != nil {
		return nil, err
	}
	r := &Reader{Name: name, m: m, data: m.Data}
	if err := r.open(want, fields); err != nil {
		_ = m.Close() // the file is bad; that is what is reported
		return nil, err
	}
	return r, nil
}

func (r *Reader) bad(format string, args ...any) *Corrupt {
	return &Corrupt{File: r.Name, What: fmt.Sprintf(format, args...)}
}

func (r *Reader) open(want Info, fields int) error {
	d := r.data
	if int64(len(d)) != want.Size {
		return r.bad("%d bytes long, %d were written", len(d), want.Size)
	}
	if len(d) < len(Magic)+trailerLen || string(d[:8]) != Magic || string(d[len(d)-8:]) != Magic {
		return r.bad("no segment")
	}
	t := d[len(d)-trailerLen:]
	u := binary.LittleEndian.Uint32
	if crc32.Checksum(t[:24], castagnoli) != u(t[24:]) {
		return r.bad("the trailer does not fit its checksum")
	}
	if v := u(t[16:]); v != version {
		return r.bad("version %d of the format; this program knows %d", v, version)
	}
	at, length := binary.LittleEndian.Uint64(t), uint64(u(t[8:]))
	r.n = int(u(t[12:]))
	if at+length+trailerLen != uint64(len(d)) || length%entryLen != 0 {
		return r.bad("the table is not where it should be")
	}
	table := d[at : at+length]
	if crc := crc32.Checksum(table, castagnoli); crc != u(t[20:]) || crc != want.CRC || r.n != want.Docs {
		return r.bad("the table does not fit its checksum")
	}
	r.index = make(map[uint32]int, length/entryLen)
	for i := 0; i < len(table); i += entryLen {
		e := table[i:]
		s := section{part: part(binary.LittleEndian.Uint16(e)), field: binary.LittleEndian.Uint16(e[2:]), crc: u(e[4:]), off: binary.LittleEndian.Uint64(e[8:]), len: binary.LittleEndian.Uint64(e[16:])}
		if s.off%8 != 0 || s.off > at || s.len > at-s.off {
			return r.bad("section %d lies outside of the file", i/entryLen)
		}
		r.index[uint32(s.part)<<16|uint32(s.field)] = len(r.sections)
		r.sections = append(r.sections, s)
	}
	r.checked = make([]atomic.Bool, len(r.sections))
	r.fields = make([]*FieldReader, 2*fields)
	for i := range r.fields {
		r.fields[i] = &FieldReader{r: r, no: i}
	}
	r.id = &FieldReader{r: r, no: idField}
	return nil
}

// Close unmaps the file.
func (r *Reader) Close() error { return r.m.Close() }

// Prefetch tells the system that the file will be used.
func (r *Reader) Prefetch() { r.m.Prefetch() }

// Len returns the number of documents.
func (r *Reader) Len() int { return r.n }

// Size returns the length of the file.
func (r *Reader) Size() int64 { return int64(len(r.data)) }

// Parts returns how many bytes the sections of each kind take.
func (r *Reader) Parts() map[string]int64 {
	parts := map[string]int64{}
	for _, s := range r.sections {
		parts[partNames[s.part]] += int64(s.len)
	}
	return parts
}

// FieldBytes returns how many bytes the sections of a field take, with those of its words.
func (r *Reader) FieldBytes(field int) int64 {
	var n int64
	for _, s := range r.sections {
		if s.part != partRuns && (int(s.field) == field || int(s.field) == field+len(r.fields)/2) {
			n += int64(s.len)
		}
	}
	return n
}

// Contains reports whether an address lies in the mapped file.
func (r *Reader) Contains(addr uintptr) bool {
	base := addressOf(r.data)
	return addr >= base && addr < base+uintptr(len(r.data))
}

func (r *Reader) find(p part, field int) (int, bool) {
	i, ok := r.index[uint32(p)<<16|uint32(uint16(field))]
	return i, ok
}

// section returns a section that fits its checksum.
func (r *Reader) section(p part, field int) []byte {
	i, ok := r.find(p, field)
	if !ok {
		panic(r.bad("no %s of field %d", partNames[p], field))
	}
	if !r.checked[i].Load() {
		if err := r.check(i); err != nil {
			panic(err)
		}
		r.checked[i].Store(true)
	}
	s := r.sections[i]
	return r.data[s.off : s.off+s.len]
}

func (r *Reader) check(i int) *Corrupt {
	s := r.sections[i]
	if crc32.Checksum(r.data[s.off:s.off+s.len], castagnoli) != s.crc {
		return r.bad("the %s of field %d at byte %d does not fit its checksum", partNames[s.part], s.field, s.off)
	}
	return nil
}

// Scrub compares the whole file with its checksums. pause is called between pieces with their length
// and ends the work with an error. It returns *Corrupt if something does not fit.
func (r *Reader) Scrub(ctx context.Context, pause func(ctx context.Context, bytes int) error) error {
	const piece = 1 << 20
	for i, s := range r.sections {
		crc := uint32(0)
		for off := s.off; off < s.off+s.len; off += piece {
			end := min(off+piece, s.off+s.len)
			crc = crc32.Update(crc, castagnoli, r.data[off:end])
			if err := pause(ctx, int(end-off)); err != nil {
				return err
			}
		}
		if crc != s.crc {
			return r.bad("the %s of field %d at byte %d does not fit its checksum", partNames[s.part], s.field, s.off)
		}
		r.checked[i].Store(true)
	}
	return nil
}

// lazy is made when it is first asked for. If that panics, the next one tries again.
type lazy[T any] struct {
	done atomic.Bool
	mu   sync.Mutex
	v    T
}

func (l *lazy[T]) get(f func() T) *T {
	if l.done.Load() {
		return &l.v
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done.Load() {
		l.v = f()
		l.done.Store(true)
	}
	return &l.v
}

// FieldReader reads a field.
type FieldReader struct {
	r     *Reader
	no    int
	meta  lazy[fieldMeta]
	dict  lazy[Dict]
	posts lazy[Posts]
	col   lazy[Column]
	rank  lazy[[]uint32]
	perm  lazy[[]uint32]
}

// Field returns field i.
func (r *Reader) Field(i int) *FieldReader { return r.fields[i] }

// Words returns the words of field i: keys are words, documents the numbers of the field's keys.
func (r *Reader) Words(i int) *FieldReader { return r.fields[len(r.fields)/2+i] }

func (f *FieldReader) getMeta() *fieldMeta {
	return f.meta.get(func() fieldMeta {
		m, ok := readMeta(f.r.section(partMeta, f.no))
		if !ok {
			panic(f.r.bad("field %d is of no known kind", f.no))
		}
		return m
	})
}

// Dict returns the keys.
func (f *FieldReader) Dict() *Dict {
	return f.dict.get(func() Dict {
		m := f.getMeta()
		d, ok := readDict(m.dict, int(m.nd), f.r.section(partDict, f.no))
		if !ok {
			panic(f.r.bad("the dictionary of field %d has another length", f.no))
		}
		return d
	})
}

// Posts returns the documents of each id.
func (f *FieldReader) Posts() *Posts {
	return f.posts.get(func() Posts {
		n := f.r.n
		if half := len(f.r.fields) / 2; f.no >= half {
			n = f.r.fields[f.no-half].Dict().Len()
		}
		p, ok := readPosts(*f.getMeta(), n, f.r.section(partPost, f.no))
		if !ok {
			panic(f.r.bad("the postings of field %d have another length", f.no))
		}
		return p
	})
}

// Column returns the ids of each document.
func (f *FieldReader) Column() *Column {
	return f.col.get(func() Column {
		m := f.getMeta()
		c := Column{n: f.r.n, layout: m.layout, group: int(m.group) - 1, nd: int(m.nd), nt: int(m.nt), total: int(m.total)}
		rows := c.n
		if c.group >= 0 {
			c.runs = f.r.Runs(c.group)
			rows = len(c.runs)
		}
		b := f.r.section(partCol, f.no)
		ok := c.set(int(m.width), b, rows)
		switch m.layout {
		case tuples:
			t := f.r.section(partTuples, f.no)
			at := 4 * (c.nt + 1)
			if ok = ok && len(t) >= at; ok {
				c.tupleStarts, c.tupleIDs = u32s(t[:at]), u32s(t[at:])
				ok = int(c.tupleStarts[c.nt]) == len(c.tupleIDs)
			}
		case lists:
			ok = len(b) == 4*(c.n+1)
			c.starts = u32s(b)
			c.c8, c.c16, c.c32 = nil, nil, nil
			ok = ok && c.set(int(m.nt), f.r.section(partVals, f.no), c.total)
		case none:
			ok = false
		}
		if !ok {
			panic(f.r.bad("the column of field %d has another length", f.no))
		}
		return c
	})
}

// Runs returns where the runs of a group begin.
func (r *Reader) Runs(group int) []uint32 {
	if group >= len(r.groups) {
		panic(r.bad("runs of group %d", group))
	}
	return *r.groups[group].get(func() []uint32 { return u32s(r.section(partRuns, group)) })
}

// IDs returns the ids of documents, in order.
func (r *Reader) IDs() *Dict { return r.id.Dict() }

// Ranks returns the place of each document's id among all.
func (r *Reader) Ranks() []uint32 {
	return *r.id.rank.get(func() []uint32 { return r.numbers(partRank) })
}

// Order returns the documents in order of their ids.
func (r *Reader) Order() []uint32 {
	return *r.id.perm.get(func() []uint32 { return r.numbers(partPerm) })
}

func (r *Reader) numbers(p part) []uint32 {
	s := u32s(r.section(p, idField))
	if len(s) != r.n {
		panic(r.bad("the %s have another length", partNames[p]))
	}
	return s
}

// ID returns the id of a document.
func (r *Reader) ID(doc uint32) string {
	var buf [64]byte
	return string(r.IDs().Append(buf[:0], int(r.Ranks()[doc])))
}

// Lookup returns the document with an id.
func (r *Reader) Lookup(id []byte) (uint32, bool) {
	i, ok := r.IDs().Search(id)
	if !ok {
		return 0, false
	}
	return r.Order()[i], true
}

// Version returns the version of a document.
func (r *Reader) Version(doc uint32) int64 {
	b := r.section(partVersions, idField)
	w := int(b[8])
	var x [8]byte
	copy(x[:w], b[9+int(doc)*w:])
	return int64(binary.LittleEndian.Uint64(b) + binary.LittleEndian.Uint64(x[:]))
}

func (r *Reader) blockCount() int { return len(*r.blockTable()) / 24 }

func (r *Reader) blockTable() *[]byte {
	return r.blocks.get(func() []byte { return r.section(partBlocks, idField) })
}

func (r *Reader) block(i int) (block, []byte) {
	k := readBlock((*r.blockTable())[24*i:])
	at, ok := r.find(partSource, idField)
	if !ok || k.off+uint64(k.len) > r.sections[at].len {
		panic(r.bad("block %d of the sources lies outside of them", i))
	}
	data := r.data[r.sections[at].off+k.off:][:k.len]
	if crc32.Checksum(data, castagnoli) != k.crc {
		panic(r.bad("block %d of the sources does not fit its checksum", i))
	}
	return k, data
}

// BlockOf returns the number of the block in which a document's source lies.
func (r *Reader) BlockOf(doc uint32) int {
	table := *r.blockTable()
	lo, hi := 0, len(table)/24
	for hi-lo > 1 {
		mid := int(uint(lo+hi) >> 1)
		if binary.LittleEndian.Uint32(table[24*mid:]) <= doc {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// Block decodes a block and calls f with each of its documents and its source, which is good during the call.
func (r *Reader) Block(i int, f func(doc uint32, source []byte)) {
	k, data := r.block(i)
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	buf, _ := buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer buffers.Put(buf)
	raw, err := d.DecodeAll(data, (*buf)[:0])
	if err != nil {
		panic(r.bad("block %d of the sources: %v", i, err))
	}
	*buf = raw
	for n := range k.count {
		var size int
		size, raw = uvarint(raw)
		f(k.first+n, raw[:size:size])
		raw = raw[size:]
	}
}

var buffers sync.Pool
