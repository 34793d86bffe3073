package pipeline

import (
	"bytes"
	"hash/maphash"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// jsonScan checks one JSON object in a single pass whose cost is a few
// nanoseconds a byte on any input: what units send is not trusted. It refuses
// keys that are there twice in any object, which other readers of the same
// bytes would resolve differently.
type jsonScan struct {
	b    []byte // UTF-8
	i    int
	top  []member // of the object
	vars []member // of the object's member "variables"

	objects int
	spaces  int
	scratch []byte

	// seen is an open hash table of the keys so far, each mixed with its object.
	// Equal hashes of 64 bits with a random seed are taken for equal keys.
	seen  []uint64
	count int
	seed  maphash.Seed
}

// fresh notes a key of an object and reports whether it is the first of its name.
func (j *jsonScan) fresh(object int, key []byte) bool {
	if j.seen == nil {
		j.seed, j.seen = maphash.MakeSeed(), make([]uint64, 256)
	}
	h := (maphash.Bytes(j.seed, key) ^ uint64(object)*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
	h = h ^ h>>32 | 1 // 0 marks a free slot
	if j.count*2 > len(j.seen) {
		old := j.seen
		j.seen = make([]uint64, 4*len(old))
		for _, x := range old {
			if x != 0 {
				j.insert(x)
			}
		}
	}
	j.count++
	return j.insert(h)
}

func (j *jsonScan) insert(h uint64) bool {
	mask := uint64(len(j.seen) - 1)
	i := h >> 1 & mask
	for ; j.seen[i] != 0; i = (i + 1) & mask {
		if j.seen[i] == h {
			return false
		}
	}
	j.seen[i] = h
	return true
}

func bad(format string, args ...any) error { return waybill.E(waybill.KindInvalid, format, args...) }

func (j *jsonScan) syntax() error {
	if j.i >= len(j.b) {
		return bad("not valid JSON: it ends too early")
	}
	return bad("not valid JSON at byte %d", j.i+1)
}

// object scans the whole input, which must be one object.
func (j *jsonScan) object() error {
	j.space()
	if j.i >= len(j.b) || j.b[j.i] != '{' {
		return bad("want a JSON object")
	}
	if err := j.value(1, &j.top); err != nil {
		return err
	}
	if j.space(); j.i < len(j.b) {
		return bad("not valid JSON: text after the object at byte %d", j.i+1)
	}
	return nil
}

func (j *jsonScan) space() {
	for j.i < len(j.b) {
		switch j.b[j.i] {
		case ' ', '\t', '\n', '\r':
			j.i++
			j.spaces++
		default:
			return
		}
	}
}

// value scans one value. The members of an object go to into if that is not nil.
func (j *jsonScan) value(depth int, into *[]member) error {
	if depth > maxJSONDepth {
		return bad("JSON nested deeper than %d", maxJSONDepth)
	}
	if j.i >= len(j.b) {
		return j.syntax()
	}
	switch c := j.b[j.i]; {
	case c == '{':
		return j.members(depth, into)
	case c == '[':
		return j.elements(depth)
	case c == '"':
		_, err := j.str()
		return err
	case c == 't':
		return j.literal("true")
	case c == 'f':
		return j.literal("false")
	case c == 'n':
		return j.literal("null")
	default:
		return j.number()
	}
}

func (j *jsonScan) literal(s string) error {
	if len(j.b)-j.i < len(s) || string(j.b[j.i:j.i+len(s)]) != s {
		return j.syntax()
	}
	j.i += len(s)
	return nil
}

func (j *jsonScan) digits() bool {
	start := j.i
	for j.i < len(j.b) && j.b[j.i] >= '0' && j.b[j.i] <= '9' {
		j.i++
	}
	return j.i > start
}

func (j *jsonScan) number() error {
	peek := func() byte {
		if j.i < len(j.b) {
			return j.b[j.i]
		}
		return 0
	}
	if peek() == '-' {
		j.i++
	}
	if peek() == '0' {
		j.i++
	} else if !j.digits() {
		return j.syntax()
	}
	if peek() == '.' {
		j.i++
		if !j.digits() {
			return j.syntax()
		}
	}
	if c := peek(); c == 'e' || c == 'E' {
		j.i++
		if c := peek(); c == '+' || c == '-' {
			j.i++
		}
		if !j.digits() {
			return j.syntax()
		}
	}
	return nil
}

// str scans a string and returns what is between its quotes.
func (j *jsonScan) str() ([]byte, error) {
	j.i++
	start := j.i
	for j.i < len(j.b) {
		switch c := j.b[j.i]; {
		case c == '"':
			j.i++
			return j.b[start : j.i-1], nil
		case c < ' ':
			return nil, j.syntax()
		case c == '\\':
			j.i++
			if j.i >= len(j.b) {
				return nil, j.syntax()
			}
			switch j.b[j.i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if _, ok := hex4(j.b[j.i+1:]); !ok {
					return nil, j.syntax()
				}
				j.i += 4
			default:
				return nil, j.syntax()
			}
		}
		j.i++
	}
	return nil, j.syntax()
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape returns the text of a scanned string, valid until the next call.
func (j *jsonScan) unescape(s []byte) []byte {
	if bytes.IndexByte(s, '\\') < 0 {
		return s
	}
	out := j.scratch[:0]
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					low, _ = hex4(s[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, s[i])
		}
	}
	j.scratch = out
	return out
}

func (j *jsonScan) members(depth int, into *[]member) error {
	j.objects++
	id := j.objects
	j.i++
	if j.space(); j.i < len(j.b) && j.b[j.i] == '}' {
		j.i++
		return nil
	}
	for {
		j.space()
		if j.i >= len(j.b) || j.b[j.i] != '"' {
			return j.syntax()
		}
		raw, err := j.str()
		if err != nil {
			return err
		}
		text := j.unescape(raw)
		if !j.fresh(id, text) {
			return bad("key %s is given twice", clip(string(text)))
		}
		key := ""
		if into != nil {
			key = string(text)
		}
		if j.space(); j.i >= len(j.b) || j.b[j.i] != ':' {
			return j.syntax()
		}
		j.i++
		j.space()
		start, spaces := j.i, j.spaces
		var inner *[]member
		if depth == 1 && into == &j.top && key == "variables" {
			inner = &j.vars
		}
		if err := j.value(depth+1, inner); err != nil {
			return err
		}
		if into != nil {
			if len(*into) == maxReturned {
				return bad("more than %d names", maxReturned)
			}
			*into = append(*into, member{key: key, raw: j.b[start:j.i], loose: j.spaces > spaces})
		}
		if j.space(); j.i >= len(j.b) {
			return j.syntax()
		}
		switch j.b[j.i] {
		case ',':
			j.i++
		case '}':
			j.i++
			return nil
		default:
			return j.syntax()
		}
	}
}

func (j *jsonScan) elements(depth int) error {
	j.i++
	if j.space(); j.i < len(j.b) && j.b[j.i] == ']' {
		j.i++
		return nil
	}
	for {
		j.space()
		if err := j.value(depth+1, nil); err != nil {
			return err
		}
		if j.space(); j.i >= len(j.b) {
			return j.syntax()
		}
		switch j.b[j.i] {
		case ',':
			j.i++
		case ']':
			j.i++
			return nil
		default:
			return j.syntax()
		}
	}
}
