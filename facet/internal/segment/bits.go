package segment

import "math/bits"

// Bits is a set of documents, one bit each.
type Bits []uint64

// NewBits returns an empty set for n documents.
func NewBits(n int) Bits { return make(Bits, (n+63)/64) }

// Full returns the set of all of n documents.
func Full(n int) Bits {
	b := NewBits(n)
	b.SetRange(0, n)
	return b
}

// Set adds a document.
func (b Bits) Set(i uint32) { b[i>>6] |= 1 << (i & 63) }

// Has reports whether a document is in the set.
func (b Bits) Has(i uint32) bool { return b[i>>6]&(1<<(i&63)) != 0 }

// SetRange adds the documents from lo up to hi, without hi.
func (b Bits) SetRange(lo, hi int) {
	if lo >= hi {
		return
	}
	first, last := lo>>6, (hi-1)>>6
	low := ^uint64(0) << (uint(lo) & 63)
	high := ^uint64(0) >> (63 - uint(hi-1)&63)
	if first == last {
		b[first] |= low & high
		return
	}
	b[first] |= low
	for i := first + 1; i < last; i++ {
		b[i] = ^uint64(0)
	}
	b[last] |= high
}

// Count returns the number of documents.
func (b Bits) Count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// CountRange returns the number of documents from lo up to hi, without hi.
func (b Bits) CountRange(lo, hi int) int {
	if lo >= hi {
		return 0
	}
	first, last := lo>>6, (hi-1)>>6
	low := ^uint64(0) << (uint(lo) & 63)
	high := ^uint64(0) >> (63 - uint(hi-1)&63)
	if first == last {
		return bits.OnesCount64(b[first] & low & high)
	}
	n := bits.OnesCount64(b[first]&low) + bits.OnesCount64(b[last]&high)
	for i := first + 1; i < last; i++ {
		n += bits.OnesCount64(b[i])
	}
	return n
}

// And keeps what is in both.
func (b Bits) And(c Bits) {
	c = c[:len(b)]
	for i := range b {
		b[i] &= c[i]
	}
}

// AndNot keeps what is not in c.
func (b Bits) AndNot(c Bits) {
	c = c[:len(b)]
	for i := range b {
		b[i] &^= c[i]
	}
}

// Or adds what is in c.
func (b Bits) Or(c Bits) {
	c = c[:len(b)]
	for i := range b {
		b[i] |= c[i]
	}
}

// Not turns the set of n documents around.
func (b Bits) Not(n int) {
	for i := range b {
		b[i] = ^b[i]
	}
	if r := uint(n) & 63; r != 0 && len(b) > 0 {
		b[len(b)-1] &= 1<<r - 1
	}
}

// AndCount returns how many documents are in both.
func (b Bits) AndCount(c Bits) int {
	c = c[:len(b)]
	n := 0
	for i := range b {
		n += bits.OnesCount64(b[i] & c[i])
	}
	return n
}

// Append appends the documents to list, in order.
func (b Bits) Append(list []uint32) []uint32 {
	for i, w := range b {
		base := uint32(i) << 6
		for w != 0 {
			list = append(list, base+uint32(bits.TrailingZeros64(w)))
			w &= w - 1
		}
	}
	return list
}

// Clone returns a copy.
func (b Bits) Clone() Bits { return append(Bits(nil), b...) }

// Decode puts documents, in order, into buf, beginning with those of word from, until buf has no
// room for those of another word. It returns them, and the word to go on with. buf has room for at least 64.
func (b Bits) Decode(from int, buf []uint32) ([]uint32, int) {
	n := 0
	for from < len(b) {
		w := b[from]
		k := bits.OnesCount64(w)
		if n+k > len(buf) {
			break
		}
		base := uint32(from) << 6
		out := buf[n : n+k]
		for i := range out {
			out[i] = base + uint32(bits.TrailingZeros64(w))
			w &= w - 1
		}
		n += k
		from++
	}
	return buf[:n], from
}
