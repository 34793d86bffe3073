package segment

import (
	"encoding/binary"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
)

// How the documents of one id are encoded.
const (
	blobDeltas  byte = iota // distances
	blobRuns                // distances and lengths of runs
	blobRoaring             // a roaring bitmap
)

// encodePosts writes the documents of each id of a column.
func encodePosts(m *fieldMeta, col column) [][]byte {
	nd, n := int(m.nd), col.n()
	starts := make([]uint32, nd+2)
	for _, id := range col.all() {
		starts[id+1]++
	}
	for i := 1; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	docs := make([]uint32, len(col.all()))
	next := append([]uint32(nil), starts[:nd+1]...)
	if col.starts == nil {
		for d, id := range col.ids {
			docs[next[id]] = uint32(d)
			next[id]++
		}
	} else {
		for d := range n {
			for _, id := range col.list(d) {
				docs[next[id]] = uint32(d)
				next[id]++
			}
		}
	}
	if n <= Tune.SmallDocs || nd > n/4 {
		m.post = postFlat
		return [][]byte{bytesOf32(starts), bytesOf32(docs)}
	}
	m.post = postBlob
	counts := make([]uint32, nd+1)
	offsets := make([]uint32, nd+2)
	var blobs []byte
	for id := range nd + 1 {
		list := docs[starts[id]:starts[id+1]]
		counts[id] = uint32(len(list))
		offsets[id] = uint32(len(blobs))
		blobs = appendBlob(blobs, list)
	}
	offsets[nd+1] = uint32(len(blobs))
	return [][]byte{bytesOf32(counts), bytesOf32(offsets), blobs}
}

func appendBlob(b []byte, docs []uint32) []byte {
	if len(docs) == 0 {
		return b
	}
	runs := 1
	for i := 1; i < len(docs); i++ {
		if docs[i] != docs[i-1]+1 {
			runs++
		}
	}
	switch {
	case runs*3 <= len(docs):
		b = append(b, blobRuns)
		last := uint32(0)
		for i := 0; i < len(docs); {
			k := i + 1
			for k < len(docs) && docs[k] == docs[k-1]+1 {
				k++
			}
			b = binary.AppendUvarint(b, uint64(docs[i]-last))
			b = binary.AppendUvarint(b, uint64(k-i))
			last = docs[k-1] + 1
			i = k
		}
	case len(docs) < Tune.MinBitmap:
		b = append(b, blobDeltas)
		last := uint32(0)
		for _, d := range docs {
			b = binary.AppendUvarint(b, uint64(d-last))
			last = d + 1
		}
	default:
		bm := roaring.BitmapOf(docs...)
		bm.RunOptimize()
		raw, err := bm.ToBytes()
		if err != nil {
			panic(err) // writing to memory
		}
		b = append(b, blobRoaring)
		b = append(b, raw...)
	}
	return b
}

// Posts are the documents of each id of a field.
type Posts struct {
	n       int // documents
	counts  []uint32
	offsets []uint32
	blobs   []byte
	starts  []uint32 // flat
	docs    []uint32
}

func readPosts(m fieldMeta, n int, b []byte) (Posts, bool) {
	p := Posts{n: n}
	np := int(m.nposts)
	if m.post == postFlat {
		if len(b) < 4*(np+1) {
			return p, false
		}
		p.starts = u32s(b[:4*(np+1)])
		p.docs = u32s(b[4*(np+1):])
		return p, int(p.starts[np]) == len(p.docs)
	}
	if len(b) < 4*(2*np+1) {
		return p, false
	}
	p.counts = u32s(b[:4*np])
	p.offsets = u32s(b[4*np : 4*(2*np+1)])
	p.blobs = b[4*(2*np+1):]
	return p, int(p.offsets[np]) == len(p.blobs)
}

// Len returns the number of ids.
func (p *Posts) Len() int {
	if p.starts != nil {
		return len(p.starts) - 1
	}
	return len(p.counts)
}

// Count returns the number of documents of an id.
func (p *Posts) Count(id int) int {
	if p.starts != nil {
		return int(p.starts[id+1] - p.starts[id])
	}
	return int(p.counts[id])
}

// Flat returns the documents of the ids from lo up to hi, without hi, if they lie
// one behind the other.
func (p *Posts) Flat(lo, hi int) ([]uint32, bool) {
	if p.starts == nil {
		return nil, false
	}
	return p.docs[p.starts[lo]:p.starts[hi]], true
}

// Append appends the documents of an id, in order.
func (p *Posts) Append(list []uint32, id int) []uint32 {
	if p.starts != nil {
		return append(list, p.docs[p.starts[id]:p.starts[id+1]]...)
	}
	b := p.blobs[p.offsets[id]:p.offsets[id+1]]
	if len(b) == 0 {
		return list
	}
	kind, b := b[0], b[1:]
	switch kind {
	case blobDeltas:
		next := uint32(0)
		for len(b) > 0 {
			var d int
			d, b = uvarint(b)
			next += uint32(d)
			list = append(list, next)
			next++
		}
	case blobRuns:
		next := uint32(0)
		for len(b) > 0 {
			var gap, n int
			gap, b = uvarint(b)
			n, b = uvarint(b)
			next += uint32(gap)
			p.check(next, n)
			for range n {
				list = append(list, next)
				next++
			}
		}
	default:
		at, n := len(list), p.Count(id)
		list = slices.Grow(list, n)[:at+n]
		it := p.roaring(b).ManyIterator()
		for at < len(list) {
			got := it.NextMany(list[at:])
			if got == 0 {
				panic(&Corrupt{What: "fewer documents than counted"})
			}
			at += got
		}
	}
	return list
}

// Or adds the documents of an id to a set.
func (p *Posts) Or(set Bits, id int) {
	if p.starts != nil {
		for _, d := range p.docs[p.starts[id]:p.starts[id+1]] {
			set.Set(d)
		}
		return
	}
	b := p.blobs[p.offsets[id]:p.offsets[id+1]]
	if len(b) == 0 {
		return
	}
	kind, b := b[0], b[1:]
	switch kind {
	case blobDeltas:
		next := uint32(0)
		for len(b) > 0 {
			var d int
			d, b = uvarint(b)
			next += uint32(d)
			set.Set(next)
			next++
		}
	case blobRuns:
		next := uint32(0)
		for len(b) > 0 {
			var gap, n int
			gap, b = uvarint(b)
			n, b = uvarint(b)
			next += uint32(gap)
			p.check(next, n)
			set.SetRange(int(next), int(next)+n)
			next += uint32(n)
		}
	default:
		bm := p.roaring(b)
		if bm.Maximum() >= uint32(p.n) {
			panic(&Corrupt{What: "a document that is none"})
		}
		// Dense parts are copied over what is there, so they go through a set of their own.
		tmp := BorrowBits(p.n)
		clear(tmp)
		bm.WriteDenseTo(tmp)
		set.Or(tmp)
		ReturnBits(tmp)
	}
}

// CountIn returns how many documents of an id are in a set.
func (p *Posts) CountIn(set Bits, id int) int {
	n := 0
	if p.starts != nil {
		for _, d := range p.docs[p.starts[id]:p.starts[id+1]] {
			if set.Has(d) {
				n++
			}
		}
		return n
	}
	b := p.blobs[p.offsets[id]:p.offsets[id+1]]
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case blobDeltas:
		next := uint32(0)
		for b = b[1:]; len(b) > 0; {
			var d int
			d, b = uvarint(b)
			next += uint32(d)
			if set.Has(next) {
				n++
			}
			next++
		}
	case blobRuns:
		next := uint32(0)
		for b = b[1:]; len(b) > 0; {
			var gap, k int
			gap, b = uvarint(b)
			k, b = uvarint(b)
			next += uint32(gap)
			p.check(next, k)
			n += set.CountRange(int(next), int(next)+k)
			next += uint32(k)
		}
	default:
		bm := p.roaring(b[1:])
		if bm.Maximum() >= uint32(p.n) {
			panic(&Corrupt{What: "a document that is none"})
		}
		tmp := BorrowBits(p.n)
		clear(tmp)
		bm.WriteDenseTo(tmp)
		n = tmp.AndCount(set)
		ReturnBits(tmp)
	}
	return n
}

func (p *Posts) check(next uint32, n int) {
	if int(next)+n > p.n {
		panic(&Corrupt{What: "a document that is none"})
	}
}

func (p *Posts) roaring(b []byte) *roaring.Bitmap {
	bm := roaring.New()
	if _, err := bm.FromBuffer(b); err != nil {
		panic(&Corrupt{What: "no bitmap: " + err.Error()})
	}
	return bm
}
