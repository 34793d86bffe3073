package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a file. They leave room for 10,000 steps and keep the work on a
// hostile file far below a second.
const (
	maxSource = 1 << 20 // bytes
	maxTokens = 600_000 // words and signs of YAML
	maxNodes  = 400_000 // values after anchors are expanded
	maxDepth  = 64      // lists and objects inside each other
	maxKeys   = 1_000   // keys of one object
)

// place is a position in a file, both from 1; columns count characters.
type place struct{ line, col int }

type nodeKind uint8

const (
	kindNull nodeKind = iota
	kindBool
	kindInt
	kindFloat
	kindString
	kindMap
	kindList
)

func (k nodeKind) String() string {
	return [...]string{"nothing", "true or false", "a whole number", "a number", "text", "an object", "a list"}[k]
}

// node is a YAML value with its place. Anchors, aliases and merges are resolved.
type node struct {
	kind   nodeKind
	quote  byte // of a string: 0 plain, ' or ", | for a block
	at     place
	text   string // of a string its value, of other scalars their source
	val    any    // of bool, int (int64 or uint64) and float
	list   []*node
	fields []field
}

// scopeOf is what expressions and references of a document are checked against.
type scopeOf struct {
	lookup     func(string) (string, bool) // ${env:…}
	env        map[string]string           // what lookup answered
	prefix     string
	params     map[string]string // folded name to name
	paramNames []string
	vars       map[string]string
	varNames   []string
	pending    map[string]bool // folded names of variables not set yet
	steps      map[string]*Step
	stepNames  []string
	badOutputs map[string]bool // steps whose outputs could not be read
	upstream   func(s, of *Step) bool
	code       map[string]*code // by the text of the expression
	exprs      int
}

type field struct {
	key string
	at  place
	val *node
}

func (n *node) get(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.val
		}
	}
	return nil
}

// document is one YAML document with what its texts may refer to.
type document struct {
	*report
	scopeOf
	src     string // with \n line ends and without byte order mark
	lines   []int  // offset of each line
	chars   []int  // characters before every block of blockSize bytes
	anchors map[string]ast.Node
	open    map[string]bool // anchors being expanded
	nodes   int
	spent   bool // the node limit was reported
}

// load returns the file's only document, or nil after reporting why there is
// none to go on with.
func load(src []byte, r *report) (*document, *node) {
	d := &document{report: r, anchors: map[string]ast.Node{}, open: map[string]bool{}}
	if len(src) > maxSource {
		r.add(place{}, "", "the file has %d bytes; at most %d (1 MiB) are allowed", len(src), maxSource)
		return d, nil
	}
	d.src = strings.ReplaceAll(strings.TrimPrefix(string(src), "\ufeff"), "\r\n", "\n")
	d.lines = append(d.lines, 0)
	for i := range len(d.src) {
		if d.src[i] == '\n' {
			d.lines = append(d.lines, i+1)
		}
	}
	d.countChars()
	if at, why := d.badText(); why != "" {
		r.add(at, "", "%s", why)
		return d, nil
	}
	if strings.TrimSpace(d.src) == "" {
		r.add(place{1, 1}, "", "the file is empty")
		return d, nil
	}
	file, ok := d.parse()
	if !ok {
		return d, nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			r.add(placeOf(doc.Body), "put each pipeline into a file of its own", "several documents in one file")
			return d, nil
		}
		body = doc.Body
	}
	if body == nil {
		r.add(place{1, 1}, "", "the file is empty")
		return d, nil
	}
	before := len(r.list)
	n := d.convert(body, 0)
	if len(r.list) > before && d.spent {
		return d, nil
	}
	return d, n
}

// badText finds the first byte that is not text.
func (d *document) badText() (place, string) {
	for i, c := range d.src {
		switch {
		case c == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(d.src[i:]); size == 1 {
				return d.placeAt(i), "the file is not UTF-8 text"
			}
		case c < ' ' && c != '\n' && c != '\t', c == 0x7f:
			return d.placeAt(i), fmt.Sprintf("the file holds the control character %U", c)
		}
	}
	return place{}, ""
}

// parse runs the YAML parser after checking that the tokens keep its work small:
// it recurses a few frames for every level and for every key of an object.
func (d *document) parse() (file *ast.File, ok bool) {
	defer func() {
		// A defect in the parser must not end a server that checks files of users.
		if p := recover(); p != nil {
			d.add(place{1, 1}, "", "not valid YAML")
			file, ok = nil, false
		}
	}()
	toks := lexer.Tokenize(d.src)
	if at, why := guard(toks); why != "" {
		d.add(at, "", "%s", why)
		return nil, false
	}
	file, err := parser.Parse(toks, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil, false
	}
	return file, true
}

// guard reports the first token that breaks a limit or a form we do not read.
func guard(toks token.Tokens) (place, string) {
	if len(toks) > maxTokens {
		return place{}, fmt.Sprintf("the file holds more than %d words and signs", maxTokens)
	}
	type level struct{ col, keys int }
	var block []level
	flow, run, line := 0, 0, 0
	for _, t := range toks {
		at := place{t.Position.Line, max(1, t.Position.Column)}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.TagType:
			return at, "tags (!) are not read here"
		case token.DirectiveType:
			return at, "directives (%) are not read here"
		case token.MappingKeyType:
			return at, "keys marked with ? are not read here"
		case token.SequenceEntryType, token.AnchorType:
			if at.line != line {
				line, run = at.line, 0
			}
			run++
		case token.MappingValueType:
			if flow > 0 || t.Prev == nil {
				break
			}
			col := t.Prev.Position.Column
			for len(block) > 0 && block[len(block)-1].col > col {
				block = block[:len(block)-1]
			}
			if len(block) == 0 || block[len(block)-1].col < col {
				block = append(block, level{col: col})
			}
			top := &block[len(block)-1]
			if top.keys++; top.keys > maxKeys {
				// Keys of different list entries share a column; only an entry's own count.
				return at, fmt.Sprintf("an object with more than %d keys", maxKeys)
			}
		}
		if t.Type == token.SequenceEntryType && flow == 0 {
			for len(block) > 0 && block[len(block)-1].col > at.col {
				block = block[:len(block)-1]
			}
		}
		if flow > maxDepth || run > maxDepth || len(block) > maxDepth {
			return at, fmt.Sprintf("lists and objects more than %d deep", maxDepth)
		}
	}
	return place{}, ""
}

// syntax reports a YAML syntax error, with a hint for the usual causes.
func (d *document) syntax(err error) {
	at, msg := place{1, 1}, err.Error()
	var ye yaml.Error
	if errors.As(err, &ye) {
		msg = ye.GetMessage()
		if t := ye.GetToken(); t != nil && t.Position != nil {
			at = place{t.Position.Line, max(1, t.Position.Column)}
		}
	}
	line := d.line(at.line)
	hint := ""
	switch {
	case strings.Contains(line[:len(line)-len(strings.TrimLeft(line, " \t"))], "\t"):
		d.add(at, "indent with spaces", "a tab is used for indentation")
		return
	case strings.Contains(line, "${{") || strings.Contains(line, "${env:") || strings.Contains(line, "${secret:"):
		hint = `write the text between quotes, for example "${{ vars.X }}"`
	}
	d.add(at, hint, "not valid YAML: %s", strings.SplitN(msg, "\n", 2)[0])
}

func (d *document) line(n int) string {
	if n < 1 || n > len(d.lines) {
		return ""
	}
	s := d.src[d.lines[n-1]:]
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[:i]
	}
	return s
}

func placeOf(n ast.Node) place {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return placeOf(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return placeOf(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return place{t.Position.Line, max(1, t.Position.Column)}
	}
	return place{1, 1}
}

// convert turns the parser's tree into ours.
func (d *document) convert(n ast.Node, depth int) *node {
	at := placeOf(n)
	out := &node{at: at}
	d.nodes++
	if d.nodes > maxNodes || depth > maxDepth {
		if !d.spent {
			d.add(at, "", "the file grows too large or too deep when its anchors (&) and aliases (*) are expanded")
		}
		d.spent = true
		return out
	}
	switch n := n.(type) {
	case *ast.NullNode:
	case *ast.BoolNode:
		out.kind, out.val, out.text = kindBool, n.Value, n.Token.Value
	case *ast.IntegerNode:
		out.kind, out.val, out.text = kindInt, n.Value, n.Token.Value
	case *ast.FloatNode:
		out.kind, out.val, out.text = kindFloat, n.Value, n.Token.Value
	case *ast.InfinityNode, *ast.NanNode:
		d.add(at, "", "infinity and not-a-number cannot be used")
		out.kind, out.val = kindFloat, float64(0)
	case *ast.StringNode:
		out.kind, out.text = kindString, n.Value
		switch n.Token.Type {
		case token.SingleQuoteType:
			out.quote = '\''
		case token.DoubleQuoteType:
			out.quote = '"'
		}
	case *ast.LiteralNode:
		out.kind, out.quote, out.text = kindString, '|', n.Value.Value
	case *ast.SequenceNode:
		out.kind = kindList
		for _, v := range n.Values {
			out.list = append(out.list, d.convert(v, depth+1))
			if d.spent {
				break
			}
		}
	case *ast.MappingNode:
		out.kind = kindMap
		d.mapping(out, n.Values, depth)
	case *ast.MappingValueNode:
		out.kind = kindMap
		d.mapping(out, []*ast.MappingValueNode{n}, depth)
	case *ast.AnchorNode:
		v := d.convert(n.Value, depth)
		d.anchors[n.Name.GetToken().Value] = n.Value
		return v
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := d.anchors[name]
		if !ok {
			d.add(at, "", "alias *%s: there is no anchor &%s above", name, name)
			return out
		}
		if d.open[name] {
			d.add(at, "", "alias *%s contains itself", name)
			return out
		}
		d.open[name] = true
		v := d.convert(target, depth+1)
		delete(d.open, name)
		return v
	default:
		d.add(at, "", "not valid YAML here")
	}
	return out
}

// mapping fills an object, reporting keys that are there twice.
func (d *document) mapping(out *node, values []*ast.MappingValueNode, depth int) {
	seen := make(map[string]place, len(values))
	var merged []*node
	for _, kv := range values {
		if d.spent {
			return
		}
		at := placeOf(kv.Key)
		if kv.Key.IsMergeKey() {
			v := d.convert(kv.Value, depth+1)
			switch v.kind {
			case kindMap:
				merged = append(merged, v)
			case kindList:
				merged = append(merged, v.list...)
			default:
				d.add(at, "", "<< wants an object to merge, found %s", v.kind)
			}
			continue
		}
		if _, ok := kv.Key.(ast.ScalarNode); !ok {
			d.add(at, "", "a key must be text")
			continue
		}
		key := kv.Key.GetToken().Value
		val := d.convert(kv.Value, depth+1)
		if val.kind == kindNull {
			// The parser gives an absent value the place of the colon.
			val.at = at
		}
		if first, dup := seen[key]; dup {
			d.add(at, "", "key %s is given twice; the first is at line %d", clip(key), first.line)
			continue
		}
		seen[key] = at
		out.fields = append(out.fields, field{key, at, val})
	}
	for _, m := range merged {
		if m.kind != kindMap {
			d.add(m.at, "", "<< wants objects to merge, found %s", m.kind)
			continue
		}
		for _, f := range m.fields {
			if d.nodes++; d.nodes > maxNodes || len(out.fields) > maxKeys {
				d.spent = true
				d.add(f.at, "", "the file grows too large when its anchors (&) and aliases (*) are expanded")
				return
			}
			if _, have := seen[f.key]; !have {
				seen[f.key] = f.at
				out.fields = append(out.fields, f)
			}
		}
	}
}

// blockSize is a compromise between the size of the table and the work to find
// a place. Without a table a file of one long line would cost its square.
const blockSize = 256

func (d *document) countChars() {
	n := 0
	for i := range len(d.src) {
		if i%blockSize == 0 {
			d.chars = append(d.chars, n)
		}
		if utf8.RuneStart(d.src[i]) {
			n++
		}
	}
	d.chars = append(d.chars, n)
}

// char returns how many characters are before a byte.
func (d *document) char(off int) int {
	n := d.chars[off/blockSize]
	for i := off / blockSize * blockSize; i < off; i++ {
		if utf8.RuneStart(d.src[i]) {
			n++
		}
	}
	return n
}

func (d *document) placeAt(off int) place {
	i, found := slices.BinarySearch(d.lines, off)
	if !found {
		i--
	}
	return place{i + 1, d.char(off) - d.char(d.lines[i]) + 1}
}

// offset is the inverse of placeAt.
func (d *document) offset(p place) int {
	if p.line < 1 || p.line > len(d.lines) {
		return len(d.src)
	}
	want := d.char(d.lines[p.line-1]) + p.col - 1
	block, found := slices.BinarySearch(d.chars, want)
	if !found {
		block--
	}
	n := d.chars[block]
	for i := block * blockSize; i < len(d.src); i++ {
		if utf8.RuneStart(d.src[i]) {
			if n == want {
				return i
			}
			n++
		}
	}
	return len(d.src)
}

// locator finds the places of bytes of a scalar's value in the file, which
// differ from the value by quotes, escapes and folded lines. It walks both side
// by side and must be asked in rising order.
type locator struct {
	d     *document
	n     *node
	raw   int // offset in the file
	value int // offset in n.text
}

func (d *document) locate(n *node) *locator {
	l := &locator{d: d, n: n, raw: d.offset(n.at)}
	switch n.quote {
	case '\'', '"':
		l.raw++
	case '|':
		if i := strings.IndexByte(d.src[l.raw:], '\n'); i >= 0 {
			l.raw += i + 1
		}
		l.skipSpace()
	}
	return l
}

func (l *locator) skipSpace() {
	for l.raw < len(l.d.src) && strings.IndexByte(" \t\n", l.d.src[l.raw]) >= 0 {
		l.raw++
	}
}

// at returns the place of the byte at offset off of the value.
func (l *locator) at(off int) place {
	src, text := l.d.src, l.n.text
	for l.raw < len(src) && l.value < min(off, len(text)) {
		l.step(src, text)
	}
	if l.value < len(text) && text[l.value] != ' ' && text[l.value] != '\n' && l.raw < len(src) && (src[l.raw] == ' ' || src[l.raw] == '\n') {
		l.skipSpace()
	}
	return l.d.placeAt(min(l.raw, len(src)))
}

func (l *locator) step(src, text string) {
	r, rn := utf8.DecodeRuneInString(src[l.raw:])
	v, vn := utf8.DecodeRuneInString(text[l.value:])
	space := func(c rune) bool { return c == ' ' || c == '\n' || c == '\t' }
	switch {
	case l.n.quote == '"' && r == '\\':
		// One escape makes one character; \x, \u and \U carry digits.
		n := 2
		if l.raw+1 < len(src) {
			switch src[l.raw+1] {
			case 'x':
				n = 4
			case 'u':
				n = 6
			case 'U':
				n = 10
			case '\n':
				l.raw += 2
				l.skipSpace()
				return
			}
		}
		l.raw += n
		l.value += vn
	case l.n.quote == '\'' && r == '\'':
		l.raw += 2
		l.value += vn
	case r == v && r != '\n':
		l.raw += rn
		l.value += vn
	case space(v):
		// A line end in the file stands for one space or line end of the value.
		l.value += vn
		if r == '\n' {
			l.raw++
			for l.raw < len(src) && src[l.raw] == ' ' {
				l.raw++
			}
		}
	case space(r):
		l.raw += rn
	default:
		l.raw += rn
		l.value += vn
	}
}

// clip shortens a text of a user for a message.
func clip(s string) string { return clipTo(s, 60) }

func clipTo(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= limit {
		return s
	}
	cut := limit
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
