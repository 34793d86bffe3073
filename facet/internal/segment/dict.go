package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"sort"
)

// blockKeys is how many keys of a front-coded dictionary lie between two that are whole.
const blockKeys = 16

// encodeDict writes sorted keys. Keys can be gone through more than once.
func encodeDict(kind DictKind, nd int, keys func(func([]byte) bool)) (DictKind, [][]byte) {
	switch kind {
	case Fixed8:
		b := make([]byte, 0, nd*8)
		for k := range keys {
			b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(k))
		}
		return kind, [][]byte{b}
	case Fixed16:
		b := make([]byte, 0, nd*16)
		for k := range keys {
			b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(k))
			b = binary.LittleEndian.AppendUint64(b, binary.BigEndian.Uint64(k[8:]))
		}
		return kind, [][]byte{b}
	}
	if b, ok := encodeUUIDs(nd, keys); ok {
		return uuids, [][]byte{b}
	}
	offsets := make([]uint32, 0, nd/blockKeys+2)
	var data, last []byte
	i := 0
	for k := range keys {
		if i%blockKeys == 0 {
			offsets = append(offsets, uint32(len(data)))
			last = last[:0]
		}
		shared := 0
		for shared < len(last) && shared < len(k) && last[shared] == k[shared] {
			shared++
		}
		if i%blockKeys != 0 {
			data = binary.AppendUvarint(data, uint64(shared))
		}
		data = binary.AppendUvarint(data, uint64(len(k)-shared))
		data = append(data, k[shared:]...)
		last = append(last[:0], k...)
		i++
	}
	offsets = append(offsets, uint32(len(data)))
	return Strings, [][]byte{bytesOf32(offsets), data}
}

func encodeUUIDs(nd int, keys func(func([]byte) bool)) ([]byte, bool) {
	if nd == 0 {
		return nil, false
	}
	var b []byte
	for k := range keys {
		u, ok := packUUID(k)
		if !ok {
			return nil, false
		}
		if b == nil {
			b = make([]byte, 0, nd*16)
		}
		b = append(b, u[:]...)
	}
	return b, true
}

// packUUID packs a UUID in lower case. The order of packed ones is that of the texts.
func packUUID(k []byte) (u [16]byte, ok bool) {
	if len(k) != 36 || k[8] != '-' || k[13] != '-' || k[18] != '-' || k[23] != '-' {
		return u, false
	}
	j := 0
	for i := 0; i < 36; i += 2 {
		if k[i] == '-' {
			i++
		}
		hi, lo := unhex(k[i]), unhex(k[i+1])
		if hi|lo > 15 {
			return u, false
		}
		u[j] = hi<<4 | lo
		j++
	}
	return u, true
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

func appendUUID(b, u []byte) []byte {
	b = hex.AppendEncode(b, u[:4])
	for _, p := range [...][2]int{{4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		b = append(b, '-')
		b = hex.AppendEncode(b, u[p[0]:p[1]])
	}
	return b
}

// Dict is the sorted keys of a field.
type Dict struct {
	kind    DictKind
	n       int
	raw     []byte   // uuids
	nums    []uint64 // fixed
	offsets []uint32 // front-coded
	data    []byte
}

func readDict(kind DictKind, n int, b []byte) (Dict, bool) {
	d := Dict{kind: kind, n: n}
	switch kind {
	case Fixed8:
		d.nums = u64s(b)
		return d, len(b) == n*8
	case Fixed16:
		d.nums = u64s(b)
		return d, len(b) == n*16
	case uuids:
		d.raw = b
		return d, len(b) == n*16
	}
	blocks := (n + blockKeys - 1) / blockKeys
	if len(b) < 4*(blocks+1) {
		return d, false
	}
	d.offsets = u32s(b[:4*(blocks+1)])
	d.data = b[4*(blocks+1):]
	return d, int(d.offsets[blocks]) == len(d.data)
}

// Len returns the number of keys.
func (d *Dict) Len() int { return d.n }

// U64 returns a fixed key.
func (d *Dict) U64(i int) uint64 { return d.nums[i] }

// Nums returns all fixed keys; two numbers each of Fixed16.
func (d *Dict) Nums() []uint64 { return d.nums }

// Append appends key i to b.
func (d *Dict) Append(b []byte, i int) []byte {
	switch d.kind {
	case Fixed8:
		return binary.BigEndian.AppendUint64(b, d.nums[i])
	case Fixed16:
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, d.nums[2*i]), d.nums[2*i+1])
	case uuids:
		return appendUUID(b, d.raw[16*i:16*i+16])
	}
	start := len(b)
	p := d.data[d.offsets[i/blockKeys]:]
	n, p := uvarint(p)
	b = append(b, p[:n]...)
	p = p[n:]
	for range i % blockKeys {
		var shared int
		shared, p = uvarint(p)
		n, p = uvarint(p)
		b = append(b[:start+shared], p[:n]...)
		p = p[n:]
	}
	return b
}

// uvarint reads a length. Bytes that hold none make the reader panic, as other broken files do.
func uvarint(p []byte) (int, []byte) {
	if p[0] < 0x80 {
		return int(p[0]), p[1:]
	}
	x, n := binary.Uvarint(p)
	if n <= 0 || x > 1<<31 {
		panic(&Corrupt{What: "a length that is none"})
	}
	return int(x), p[n:]
}

// head is the first key of a block.
func (d *Dict) head(block int) []byte {
	n, p := uvarint(d.data[d.offsets[block]:])
	return p[:n]
}

// Search returns the place of the first key that is not less than k, and whether it is k.
func (d *Dict) Search(k []byte) (int, bool) {
	switch d.kind {
	case Fixed8:
		x := binary.BigEndian.Uint64(k)
		i := sort.Search(d.n, func(i int) bool { return d.nums[i] >= x })
		return i, i < d.n && d.nums[i] == x
	case Fixed16:
		x, y := binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(k[8:])
		i := sort.Search(d.n, func(i int) bool {
			return d.nums[2*i] > x || d.nums[2*i] == x && d.nums[2*i+1] >= y
		})
		return i, i < d.n && d.nums[2*i] == x && d.nums[2*i+1] == y
	case uuids:
		if u, ok := packUUID(k); ok {
			i := sort.Search(d.n, func(i int) bool { return bytes.Compare(d.raw[16*i:16*i+16], u[:]) >= 0 })
			return i, i < d.n && bytes.Equal(d.raw[16*i:16*i+16], u[:])
		}
		var buf [36]byte
		return sort.Search(d.n, func(i int) bool { return bytes.Compare(d.Append(buf[:0], i), k) >= 0 }), false
	}
	blocks := len(d.offsets) - 1
	b := sort.Search(blocks, func(b int) bool { return bytes.Compare(d.head(b), k) > 0 }) - 1
	if b < 0 {
		return 0, false
	}
	end := min(d.n, (b+1)*blockKeys)
	p := d.data[d.offsets[b]:]
	n, p := uvarint(p)
	var arr [64]byte
	cur := append(arr[:0], p[:n]...)
	p = p[n:]
	for i := b * blockKeys; ; {
		if c := bytes.Compare(cur, k); c >= 0 {
			return i, c == 0
		}
		if i++; i == end {
			return end, false
		}
		var shared int
		shared, p = uvarint(p)
		n, p = uvarint(p)
		cur = append(cur[:shared], p[:n]...)
		p = p[n:]
	}
}

// Range calls f with the keys from lo up to hi, without hi, until it returns false. The key is good during the call.
func (d *Dict) Range(lo, hi int, f func(i int, key []byte) bool) {
	if d.kind != Strings {
		var buf [36]byte
		for i := lo; i < hi; i++ {
			if !f(i, d.Append(buf[:0], i)) {
				return
			}
		}
		return
	}
	var cur []byte
	for i := lo - lo%blockKeys; i < hi; {
		p := d.data[d.offsets[i/blockKeys]:]
		for k := 0; k < blockKeys && i < hi; k, i = k+1, i+1 {
			shared, n := 0, 0
			if k > 0 {
				shared, p = uvarint(p)
			}
			n, p = uvarint(p)
			cur = append(cur[:shared], p[:n]...)
			p = p[n:]
			if i >= lo && !f(i, cur) {
				return
			}
		}
	}
}
