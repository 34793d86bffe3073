// Package mask replaces secret values by *** in text that leaves the program, in
// every form that [Forms] knows.
//
// A [Masker] is made from values and is immutable. A [Stream] masks text that comes
// in pieces, however it was cut: what it lets through does not depend on where. It
// holds back no more than the end of what it was given that may be the beginning of a
// secret, and that until the next piece or the end decides, not for a time: a unit that
// pauses in the middle of a secret is masked like any other, and a line that has
// ended is never held back but for a secret of several lines.
//
// # How it searches
//
// All forms together are looked for at once. A window as long as the shortest form, at
// most 16 bytes, is moved over the text. The three bytes at its end say how far it can
// be moved without missing the beginning of any form; as long as no form is near, that
// is nearly its whole length, so most of the text is never looked at. Where the window
// cannot be moved, the forms that begin with these four bytes are compared. The search
// is that of Wu and Manber (A Fast Algorithm for Multi-Pattern Searching, 1994).
// Memory is that of the forms and one table.
package mask

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"sort"
)

// Text stands where a secret was.
const Text = "***"

// maxWindow is the most bytes a window has.
const maxWindow = 16

// Masker knows the forms of some values. It is safe for concurrent use. Nil masks
// nothing.
type Masker struct {
	forms   [][]byte // sorted
	parent  []int32  // of each form the longest other one that it begins with, or -1
	longest int

	window int
	shift  []uint8 // by hash of three bytes: how far the window moves
	down   uint8   // 32 less the bits of the hash

	heads    []head // by hash of a form's first four bytes, open addressing
	headMask uint32
}

// head is the group of forms that begin with the same four bytes.
type head struct {
	key    uint32
	lo, hi int32 // in forms; hi is 0 where there is none
}

// New returns a masker of the values that are long enough, nil if there is none.
func New(values ...string) *Masker {
	var forms [][]byte
	for _, v := range values {
		for _, f := range Forms(v) {
			forms = append(forms, []byte(f))
		}
	}
	return build(forms)
}

// build makes a masker of forms of at least MinLength bytes.
func build(forms [][]byte) *Masker {
	if len(forms) == 0 {
		return nil
	}
	slices.SortFunc(forms, bytes.Compare)
	forms = slices.CompactFunc(forms, bytes.Equal)
	m := &Masker{forms: forms, parent: make([]int32, len(forms)), window: maxWindow}
	for i, f := range forms {
		m.window, m.longest = min(m.window, len(f)), max(m.longest, len(f))
		// In sorted order the forms that another begins with stand before it, and the
		// longest of them is the one before it or among that one's own.
		p := int32(i) - 1
		for p >= 0 && !bytes.HasPrefix(f, forms[p]) {
			p = m.parent[p]
		}
		m.parent[i] = p
	}
	m.buildShift()
	m.buildHeads()
	return m
}

func (m *Masker) buildShift() {
	// Sixteen places for each group of three keep accidental stops rare.
	n := 16 * len(m.forms) * (m.window - 2)
	size := min(max(bits.Len(uint(n-1)), 8), 18)
	m.down = uint8(32 - size)
	m.shift = make([]uint8, 1<<size)
	for i := range m.shift {
		m.shift[i] = uint8(m.window - 2)
	}
	for _, f := range m.forms {
		for end := 3; end <= m.window; end++ {
			x := uint32(f[end-3]) | uint32(f[end-2])<<8 | uint32(f[end-1])<<16
			s := &m.shift[hash(x)>>m.down]
			*s = min(*s, uint8(m.window-end))
		}
	}
}

func (m *Masker) buildHeads() {
	size := 1 << bits.Len(uint(2*len(m.forms)))
	m.heads, m.headMask = make([]head, size), uint32(size-1)
	for i := 0; i < len(m.forms); {
		key := binary.LittleEndian.Uint32(m.forms[i])
		j := i + 1
		for j < len(m.forms) && binary.LittleEndian.Uint32(m.forms[j]) == key {
			j++
		}
		at := hash(key) & m.headMask
		for m.heads[at].hi != 0 {
			at = (at + 1) & m.headMask
		}
		m.heads[at] = head{key, int32(i), int32(j)}
		i = j
	}
}

// hash spreads bytes; its upper bits are the good ones, so those of heads are taken
// after a turn.
func hash(x uint32) uint32 {
	x *= 0x9E3779B1
	return x ^ x>>15
}

// group returns the forms that begin with four bytes.
func (m *Masker) group(key uint32) (lo, hi int32) {
	for at := hash(key) & m.headMask; ; at = (at + 1) & m.headMask {
		h := &m.heads[at]
		if h.hi == 0 || h.key == key {
			return h.lo, h.hi
		}
	}
}

// next returns the first place at or after i where a form stands, and the end of the
// longest that begins there. start is -1 when there is none.
func (m *Masker) next(b []byte, i int) (start, end int) {
	shift, down, window := m.shift, m.down&31, m.window
	for j := i + window; j <= len(b); {
		x := binary.LittleEndian.Uint32(b[j-4:]) >> 8
		if d := shift[hash(x)>>down]; d != 0 {
			j += int(d)
			continue
		}
		if n := m.at(b[j-window:]); n > 0 {
			return j - window, j - window + n
		}
		j++
	}
	return -1, -1
}

// at returns the length of the longest form that a text of at least four bytes begins
// with, or 0.
func (m *Masker) at(b []byte) int {
	lo, hi := m.group(binary.LittleEndian.Uint32(b))
	if hi == 0 {
		return 0
	}
	// The last form that is not behind the text, or one that this one begins with.
	forms := m.forms[lo:hi]
	p := int32(0)
	if len(forms) > 1 {
		p = int32(sort.Search(len(forms), func(i int) bool { return bytes.Compare(forms[i], b) > 0 })) - 1
	}
	if p < 0 {
		return 0
	}
	for p += lo; p >= 0; p = m.parent[p] {
		if f := m.forms[p]; bytes.HasPrefix(b, f) {
			return len(f)
		}
	}
	return 0
}

// tail returns the first place from which on a text may be the beginning of a form,
// len(b) if there is none.
func (m *Masker) tail(b []byte) int {
	p := max(0, len(b)-m.longest+1)
	for ; p+4 <= len(b); p++ {
		if lo, hi := m.group(binary.LittleEndian.Uint32(b[p:])); hi != 0 && begins(m.forms[lo:hi], b[p:]) {
			return p
		}
	}
	for ; p < len(b); p++ {
		if begins(m.forms, b[p:]) {
			return p
		}
	}
	return p
}

// begins reports whether a form is longer than b and begins with it.
func begins(forms [][]byte, b []byte) bool {
	i := sort.Search(len(forms), func(i int) bool { return bytes.Compare(forms[i], b) > 0 })
	return i < len(forms) && bytes.HasPrefix(forms[i], b)
}

// Bytes returns b with every form masked, and how many masks that took. Without any
// it returns b itself. b is never changed.
func (m *Masker) Bytes(b []byte) ([]byte, int) {
	if m == nil {
		return b, 0
	}
	s := Stream{m: m}
	return s.push(b, true), s.masks
}

// String is Bytes for text.
func (m *Masker) String(s string) string {
	if m == nil || len(s) < m.window {
		return s
	}
	if b, n := m.Bytes([]byte(s)); n > 0 {
		return string(b)
	}
	return s
}

// Holds reports whether a text holds a form.
func (m *Masker) Holds(s string) bool {
	if m == nil || len(s) < m.window {
		return false
	}
	at, _ := m.next([]byte(s), 0)
	return at >= 0
}
