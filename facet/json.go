package facet

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// Value reads a value of a field from JSON, as Value.MarshalJSON writes it and a little more:
// a keyword is also read from a number, true or false, as it is written; a date also from "2006-01-02" alone; a range also
// from a number and from {"gte":1,"lte":2} with either left out. IDField is known.
// Errors wrap ErrUnknownField, ErrBadValue or ErrWrongKind.
func (s Schema) Value(field string, text []byte) (Value, error) {
	f, ok := s.FieldOrID(field)
	if !ok {
		return Value{}, &Error{Kind: ErrUnknownField, Field: field}
	}
	sc := scanner{b: text}
	v, err := sc.value(&f)
	if err == nil {
		if sc.space(); sc.i < len(sc.b) {
			err = sc.errorf("something after the value")
		}
	}
	if err != nil {
		return Value{}, err
	}
	return f.convert(v, DefaultLimits())
}

// Decoder makes documents of JSON objects. It is for one goroutine at a time.
type Decoder struct {
	id      string
	root    *node
	scanner scanner
}

// node is a name on the way to fields: "a.b" is found at {"a":{"b":…}} and at {"a.b":…}.
type node struct {
	field *Field
	id    bool
	below map[string]*node

	// Names that have come, in the order in which they first did: documents are alike, so the next one is
	// mostly known before it is looked up.
	seen  []named
	place map[string]int
	stamp uint64 // number of the document that has values of the field
}

type named struct {
	name string
	to   *node
}

// find returns what is below a name, or nil. at is where among the names that have come it is looked for first.
func (n *node) find(name []byte, at *int) *node {
	if i := *at; i < len(n.seen) && n.seen[i].name == string(name) {
		*at = i + 1
		return n.seen[i].to
	}
	i, ok := n.place[string(name)]
	if !ok {
		to := n.below[string(name)]
		if to == nil {
			return nil
		}
		if n.place == nil {
			n.place = map[string]int{}
		}
		i = len(n.seen)
		n.seen = append(n.seen, named{string(name), to})
		n.place[n.seen[i].name] = i
	}
	*at = i + 1
	return n.seen[i].to
}

// NewDecoder returns a decoder for a schema. A document's id is the string or number
// found under the name id. Names with dots are looked for inside objects, and in objects in lists, too.
func NewDecoder(s Schema, id string) *Decoder {
	d := &Decoder{id: id, root: &node{}}
	for i := range s.Fields {
		d.root.at(s.Fields[i].Name).field = &s.Fields[i]
	}
	d.root.at(id).id = true
	return d
}

func (n *node) at(name string) *node {
	// Both readings of a dotted name lead to one node.
	found := &node{}
	if old := n.below[name]; old != nil {
		found = old
	}
	n.put(name, found)
	return found
}

func (n *node) put(name string, to *node) {
	if n.below == nil {
		n.below = map[string]*node{}
	}
	n.below[name] = to
	for i := 0; i < len(name); i++ {
		if name[i] != '.' {
			continue
		}
		next := n.below[name[:i]]
		if next == nil {
			next = &node{}
			n.below[name[:i]] = next
		}
		next.put(name[i+1:], to)
	}
}

// Decode reads one object. Names that the schema does not have are passed over. The document's
// Source is line itself, not a copy. Errors wrap ErrBadValue, ErrWrongKind or ErrTooMany and say where.
func (d *Decoder) Decode(line []byte) (Doc, error) {
	sc := &d.scanner
	doc := Doc{Fields: make(map[string][]Value, max(16, sc.fields)), Source: line}
	sc.b, sc.i, sc.depth = line, 0, 0
	sc.serial++
	sc.values = make([]Value, 0, sc.last)
	sc.space()
	if sc.i >= len(sc.b) || sc.b[sc.i] != '{' {
		return Doc{}, sc.errorf("a document is a JSON object")
	}
	if err := sc.object(d.root, &doc); err != nil {
		return Doc{}, err
	}
	if sc.space(); sc.i < len(sc.b) {
		return Doc{}, sc.errorf("something after the document")
	}
	if doc.ID == "" {
		return Doc{}, &Error{Kind: ErrBadValue, Field: d.id, Msg: "a document without an id"}
	}
	sc.fields, sc.last, sc.values = len(doc.Fields), min(len(sc.values)+4, 1024), nil
	return doc, nil
}

const maxDepth = 200

// scanner reads JSON without making values of what nobody asked for.
type scanner struct {
	b      []byte
	i      int
	depth  int
	intern []string // strings that came lately, by their hash

	serial uint64  // of the document
	values []Value // of all fields of the document, one behind the other
	// How many fields and values the last one had: the next one will have about as many.
	fields, last int
}

func (s *scanner) errorf(format string, args ...any) error {
	return &Error{Kind: ErrBadValue, Msg: fmt.Sprintf("byte %d: ", s.i) + fmt.Sprintf(format, args...)}
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\t' || s.b[s.i] == '\r') {
		s.i++
	}
}

// next passes over white space and returns the byte there, or 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) members(each func(name []byte) error) error {
	if s.depth++; s.depth > maxDepth {
		return s.errorf("nested more than %d deep", maxDepth)
	}
	defer func() { s.depth-- }()
	s.i++ // {
	if s.next() == '}' {
		s.i++
		return nil
	}
	for {
		if s.next() != '"' {
			return s.errorf("expected the name of a member")
		}
		name, err := s.bytes()
		if err != nil {
			return err
		}
		if s.next() != ':' {
			return s.errorf("expected a colon")
		}
		s.i++
		if err := each(name); err != nil {
			return err
		}
		switch s.next() {
		case ',':
			s.i++
		case '}':
			s.i++
			return nil
		default:
			return s.errorf("expected a comma or the end of the object")
		}
	}
}

func (s *scanner) elements(each func() error) error {
	if s.depth++; s.depth > maxDepth {
		return s.errorf("nested more than %d deep", maxDepth)
	}
	defer func() { s.depth-- }()
	s.i++ // [
	if s.next() == ']' {
		s.i++
		return nil
	}
	for {
		s.space()
		if err := each(); err != nil {
			return err
		}
		switch s.next() {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.errorf("expected a comma or the end of the list")
		}
	}
}

func (s *scanner) object(n *node, doc *Doc) error {
	at := 0
	return s.members(func(name []byte) error {
		below := n.find(name, &at)
		if below == nil {
			return s.skip()
		}
		return s.member(below, doc)
	})
}

func (s *scanner) member(n *node, doc *Doc) error {
	start := s.i
	if n.id {
		switch c := s.next(); {
		case c == '"':
			b, err := s.bytes()
			if err != nil {
				return err
			}
			doc.ID = string(b)
		case c == '-' || c >= '0' && c <= '9':
			lit, err := s.literal()
			if err != nil {
				return err
			}
			doc.ID = string(lit)
		default:
			return s.errorf("an id is a string or a number")
		}
	}
	if n.field != nil {
		if n.id {
			s.i = start
		}
		err := s.field(n.field, doc, n.stamp == s.serial)
		n.stamp = s.serial
		return err
	}
	if n.id {
		return nil
	}
	switch s.next() {
	case '{':
		return s.object(n, doc)
	case '[':
		return s.elements(func() error {
			if s.next() == '{' {
				return s.object(n, doc)
			}
			return s.skip()
		})
	}
	return s.skip()
}

// field reads the values of a field. again says that the document may have some already.
func (s *scanner) field(f *Field, doc *Doc, again bool) error {
	first := len(s.values)
	if s.next() != '[' || f.Kind == KindRange && s.isPair() {
		v, err := s.value(f)
		if err != nil {
			return s.at(err, f, doc)
		}
		s.values = append(s.values, v)
	} else {
		err := s.elements(func() error {
			v, err := s.value(f)
			if err == nil {
				s.values = append(s.values, v)
			}
			return err
		})
		if err != nil {
			return s.at(err, f, doc)
		}
	}
	values := s.values[first:len(s.values):len(s.values)]
	if again {
		values = append(doc.Fields[f.Name], values...)
	}
	if len(values) > 0 {
		doc.Fields[f.Name] = values
	} else if !again {
		doc.Fields[f.Name] = nil
	}
	return nil
}

func (s *scanner) at(err error, f *Field, doc *Doc) error {
	if e, ok := err.(*Error); ok {
		e.Field, e.Doc = f.Name, doc.ID
	}
	return err
}

// isPair reports whether the list here is one range rather than a list of them.
func (s *scanner) isPair() bool {
	p := scanner{b: s.b, i: s.i + 1}
	for range 2 {
		c := p.next()
		if c != '-' && c != 'n' && (c < '0' || c > '9') {
			return false
		}
		if _, err := p.literal(); err != nil {
			return false
		}
		if c = p.next(); c != ',' {
			return c == ']'
		}
		p.i++
	}
	return false
}

func (s *scanner) value(f *Field) (Value, error) {
	c := s.next()
	if c == 'n' {
		_, err := s.literal()
		return Value{}, err
	}
	wrong := func() (Value, error) {
		return Value{}, &Error{Kind: ErrWrongKind, Field: f.Name, Msg: fmt.Sprintf("byte %d: what stands here is no %s", s.i, f.Kind)}
	}
	switch f.Kind {
	case KindKeyword:
		switch {
		case c == '"':
			str, err := s.str()
			return Value{kind: KindKeyword, s: str}, err
		case c == '{' || c == '[':
			return wrong()
		}
		lit, err := s.literal()
		return Value{kind: KindKeyword, s: string(lit)}, err
	case KindInt:
		lit, err := s.number(c)
		if err != nil {
			return wrong()
		}
		i, err := strconv.ParseInt(string(lit), 10, 64)
		if err != nil {
			x, ferr := strconv.ParseFloat(string(lit), 64)
			if ferr != nil || x != math.Trunc(x) || math.Abs(x) >= 1<<63 {
				return wrong()
			}
			i = int64(x)
		}
		return Int(i), nil
	case KindNumber:
		x, err := s.float(c)
		if err != nil {
			return wrong()
		}
		return Number(x), nil
	case KindBool:
		if c != 't' && c != 'f' {
			return wrong()
		}
		_, err := s.literal()
		return Bool(c == 't'), err
	case KindDate:
		if c != '"' {
			return wrong()
		}
		str, err := s.bytes()
		if err != nil {
			return Value{}, err
		}
		return parseDate(f, string(str))
	case KindRange:
		return s.rangeValue(f, c)
	default:
		if c != '{' {
			return wrong()
		}
		return s.objectValue(f)
	}
}

func parseDate(f *Field, s string) (Value, error) {
	layout := time.RFC3339
	if len(s) == len("2006-01-02") {
		layout = "2006-01-02"
	}
	t, err := time.Parse(layout, s)
	if err != nil {
		return Value{}, &Error{Kind: ErrBadValue, Field: f.Name, Msg: fmt.Sprintf("%q is no date in RFC 3339", s)}
	}
	return Date(t), nil
}

func (s *scanner) rangeValue(f *Field, c byte) (Value, error) {
	lo, hi := math.Inf(-1), math.Inf(1)
	end := func(to *float64) error {
		c := s.next()
		if c == 'n' {
			_, err := s.literal()
			return err
		}
		x, err := s.float(c)
		*to = x
		return err
	}
	var err error
	switch c {
	case '[':
		n := 0
		err = s.elements(func() error {
			n++
			switch n {
			case 1:
				return end(&lo)
			case 2:
				return end(&hi)
			}
			return s.errorf("a range has two ends")
		})
		if err == nil && n != 2 {
			err = s.errorf("a range has two ends")
		}
	case '{':
		err = s.members(func(name []byte) error {
			switch string(name) {
			case "gte":
				return end(&lo)
			case "lte":
				return end(&hi)
			}
			return s.errorf("a range is made of gte and lte")
		})
	default:
		var x float64
		x, err = s.float(c)
		lo, hi = x, x
	}
	if err != nil {
		return Value{}, &Error{Kind: ErrBadValue, Field: f.Name, Msg: "no range", Err: err}
	}
	return Between(lo, hi), nil
}

func (s *scanner) objectValue(f *Field) (Value, error) {
	props := make(map[string]string, len(f.Props))
	err := s.members(func(name []byte) error {
		key := string(name)
		switch c := s.next(); c {
		case '"':
			str, err := s.str()
			props[key] = str
			return err
		case 'n':
			_, err := s.literal()
			return err
		case '{', '[':
			return s.errorf("property %q is no string", key)
		}
		lit, err := s.literal()
		props[key] = string(lit)
		return err
	})
	if err != nil {
		return Value{}, err
	}
	if len(props) == 0 {
		return Value{}, nil
	}
	return Object(props), nil
}

// number reads the text of a number.
func (s *scanner) number(c byte) ([]byte, error) {
	if c != '-' && (c < '0' || c > '9') {
		return nil, s.errorf("no number")
	}
	return s.literal()
}

func (s *scanner) float(c byte) (float64, error) {
	lit, err := s.number(c)
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(string(lit), 64)
	if err != nil {
		return 0, s.errorf("%q is no number that fits", lit)
	}
	return x, nil
}

// literal reads a number, true, false or null.
func (s *scanner) literal() ([]byte, error) {
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			s.i++
			continue
		}
		break
	}
	lit := s.b[start:s.i]
	switch string(lit) {
	case "true", "false", "null":
		return lit, nil
	}
	if len(lit) == 0 || !validNumber(lit) {
		s.i = start
		return nil, s.errorf("expected a value")
	}
	return lit, nil
}

func validNumber(b []byte) bool {
	i := 0
	digits := func() bool {
		start := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	start := i
	if !digits() || b[start] == '0' && i > start+1 {
		return false
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return false
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(b)
}

// bytes reads a string; the result is good until the text is.
func (s *scanner) bytes() ([]byte, error) {
	start := s.i + 1
	ascii := true
	for i := start; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.i = i + 1
			if !ascii && !utf8.Valid(s.b[start:i]) {
				return nil, s.errorf("not UTF-8")
			}
			return s.b[start:i], nil
		case c == '\\':
			return s.escaped(start - 1)
		case c < ' ':
			s.i = i
			return nil, s.errorf("a control character in a string")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s.i = len(s.b)
	return nil, s.errorf("the string does not end")
}

func (s *scanner) escaped(start int) ([]byte, error) {
	for i := start + 1; i < len(s.b); i++ {
		if s.b[i] == '\\' {
			i++
			continue
		}
		if s.b[i] == '"' {
			var str string
			if !utf8.Valid(s.b[start : i+1]) {
				return nil, s.errorf("not UTF-8")
			}
			if err := json.Unmarshal(s.b[start:i+1], &str); err != nil {
				return nil, s.errorf("not a string: %v", err)
			}
			s.i = i + 1
			return []byte(str), nil
		}
	}
	s.i = len(s.b)
	return nil, s.errorf("the string does not end")
}

// str reads a string. Short ones that come again share their memory.
func (s *scanner) str() (string, error) {
	b, err := s.bytes()
	if err != nil {
		return "", err
	}
	if len(b) > 64 {
		return string(b), nil
	}
	if s.intern == nil {
		s.intern = make([]string, interned)
	}
	known := &s.intern[internHash(b)]
	if *known != string(b) {
		*known = string(b)
	}
	return *known, nil
}

// interned is how many strings share their memory; each has one place, which the next one takes.
const interned = 1 << 13

func internHash(b []byte) int {
	h := uint64(len(b)) * 0x9e3779b97f4a7c15
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	h *= 0x9e3779b97f4a7c15
	return int(h >> (64 - 13))
}

// skip passes over a value.
func (s *scanner) skip() error {
	switch s.next() {
	case '"':
		_, err := s.bytes()
		return err
	case '{':
		return s.members(func([]byte) error { return s.skip() })
	case '[':
		return s.elements(s.skip)
	default:
		_, err := s.literal()
		return err
	}
}
