package facet

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// view is one state of the index. It does not change.
type view struct {
	seq      Seq
	parts    []*part
	files    []*file
	manifest []byte
	refs     int // guarded by Engine.mu
	base     *base
}

// part is a segment in a state: its documents without those deleted.
type part struct {
	file    *file
	r       *segment.Reader
	man     manifestPart
	n       int
	live    int
	deleted segment.Bits // nil without deletions; does not change
	delFile *file

	mu     sync.Mutex
	alive  segment.Bits
	totals [][]uint32 // by field, of all that are alive
}

func newPart(f *file, r *segment.Reader, man *manifestPart, deleted segment.Bits) *part {
	p := &part{file: f, r: r, man: *man, n: r.Len(), live: r.Len(), deleted: deleted}
	if deleted != nil {
		p.live -= deleted.Count()
	}
	if man.Deleted != nil {
		p.delFile = &file{name: man.Deleted.Name}
	}
	return p
}

// without returns the part without some more documents.
func (p *part) without(docs []uint32) *part {
	q := &part{file: p.file, r: p.r, man: p.man, n: p.n, live: p.live, delFile: p.delFile}
	if p.deleted != nil {
		q.deleted = p.deleted.Clone()
	} else {
		q.deleted = segment.NewBits(p.n)
	}
	for _, d := range docs {
		if !q.deleted.Has(d) {
			q.deleted.Set(d)
			q.live--
		}
	}
	return q
}

// all returns the set of documents that are not deleted; it is not to be changed.
func (p *part) all() segment.Bits {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive == nil {
		p.alive = segment.Full(p.n)
		if p.deleted != nil {
			p.alive.AndNot(p.deleted)
		}
	}
	return p.alive
}

func (e *Engine) newView(parts []*part, seq Seq, raw []byte) *view {
	v := &view{seq: seq, parts: parts, manifest: raw}
	for _, p := range parts {
		v.files = append(v.files, p.file)
		if p.delFile != nil {
			v.files = append(v.files, p.delFile)
		}
	}
	e.mu.Lock()
	old := e.cur
	e.mu.Unlock()
	if old != nil && old.base != nil && slices.ContainsFunc(parts, func(p *part) bool { return p.r == old.base.r }) {
		v.base = old.base
	} else if len(parts) > 0 {
		big := slices.MaxFunc(parts, func(a, b *part) int { return a.n - b.n })
		v.base = &base{r: big.r, fields: make([]baseField, len(e.fields))}
	}
	return v
}

// base numbers the values of a field across segments: those of the largest segment have their places
// there, others get the numbers behind them as they are met.
type base struct {
	r      *segment.Reader
	fields []baseField
	kept   atomic.Int64 // bytes of the values that are kept
}

// keptBytes bounds the memory of values that are kept, keptValues their number in a field.
const (
	keptBytes  = 8 << 20
	keptValues = 4096
)

type baseField struct {
	mu    sync.Mutex
	known map[string]uint32 // values that the largest segment does not have
	keys  []string
	maps  map[*segment.Reader][]uint32

	once sync.Once
	all  []Value // of the largest segment, if they are few
}

// values returns the values of the base's own ids but null, in order, if they are few: those are looked up
// again and again.
func (b *base) values(field int, kind Kind) []Value {
	d, f := b.r.Field(field).Dict(), &b.fields[field]
	if d.Len() > keptValues {
		return nil
	}
	f.once.Do(func() {
		values := make([]Value, 0, d.Len())
		n := int64(cap(values)) * 40
		d.Range(0, d.Len(), func(_ int, key []byte) bool {
			values = append(values, keyValue(kind, key))
			n += int64(len(key))
			return true
		})
		if b.kept.Add(n) > keptBytes {
			b.kept.Add(-n)
			return
		}
		f.all = values
	})
	return f.all
}

// ids returns, for each id of a segment, the id among all.
func (b *base) ids(r *segment.Reader, field int) []uint32 {
	f := &b.fields[field]
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.maps[r]; ok {
		return m
	}
	own := b.r.Field(field).Dict()
	d := r.Field(field).Dict()
	m := make([]uint32, d.Len()+1)
	add := func(i int, key []byte) {
		id, ok := f.known[string(key)]
		if !ok {
			if f.known == nil {
				f.known = map[string]uint32{}
			}
			s := string(key)
			f.keys = append(f.keys, s)
			id = uint32(own.Len() + len(f.keys))
			f.known[s] = id
		}
		m[i+1] = id
	}
	if d.Len() > own.Len()/16 {
		segment.Join(d, own, func(i, k int, key []byte) {
			if k < 0 {
				add(i, key)
				return
			}
			m[i+1] = uint32(k + 1)
		})
	} else {
		d.Range(0, d.Len(), func(i int, key []byte) bool {
			if k, ok := own.Search(key); ok {
				m[i+1] = uint32(k + 1)
			} else {
				add(i, key)
			}
			return true
		})
	}
	if f.maps == nil {
		f.maps = map[*segment.Reader][]uint32{}
	}
	f.maps[r] = m
	return m
}

// forget drops what is known of segments that are no more.
func (b *base) forget(v *view) {
	for i := range b.fields {
		f := &b.fields[i]
		f.mu.Lock()
		for r := range f.maps {
			if !slices.ContainsFunc(v.parts, func(p *part) bool { return p.r == r }) {
				delete(f.maps, r)
			}
		}
		f.mu.Unlock()
	}
}

// size returns how many ids there are, that of null included.
func (b *base) size(field int) int {
	f := &b.fields[field]
	f.mu.Lock()
	defer f.mu.Unlock()
	return b.r.Field(field).Dict().Len() + 1 + len(f.keys)
}

// key appends the key of an id.
func (b *base) key(buf []byte, field int, id uint32) []byte {
	own := b.r.Field(field).Dict()
	if int(id) <= own.Len() {
		return own.Append(buf, int(id)-1)
	}
	f := &b.fields[field]
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(buf, f.keys[int(id)-own.Len()-1]...)
}
