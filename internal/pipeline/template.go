package pipeline

import (
	"encoding/json"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/expression"
)

// A text of a definition may hold references:
//
//	${{ expression }}   evaluated when an attempt starts
//	${env:NAME}         replaced when the file is read
//	${secret:NAME}      resolved when an attempt starts
//
// A $ more in front makes them ordinary text: $${{ is the text ${{, and $${env:
// and $${secret: likewise. What ${env:NAME} inserts is text and is not looked
// into for further references.

type partKind uint8

const (
	partText partKind = iota
	partExpr
	partSecret
	partBad // reported already
)

// part is a piece of a text.
type part struct {
	kind partKind
	text string // of partText the text, of partExpr the expression, of partSecret the name
	off  int    // of partExpr: where text begins in the value
	at   place
}

var openers = []string{"${{", "${env:", "${secret:"}

func opener(s string) string {
	for _, o := range openers {
		if strings.HasPrefix(s, o) {
			return o
		}
	}
	return ""
}

// split cuts the text of a scalar at its references, replaces ${env:…} and
// reports what is wrong with them. Secrets are refused: the value is needed earlier
// than they are looked up.
func (d *document) split(n *node) []part {
	parts := d.pieces(n)
	for i, p := range parts {
		if p.kind == partSecret {
			d.add(p.at, secretHint, "${secret:%s} cannot be used here: its value would be stored", p.text)
			parts[i].kind = partBad
		}
	}
	return parts
}

// pieces is split for places that may hold secrets.
func (d *document) pieces(n *node) []part {
	s := n.text
	if !strings.Contains(s, "${") {
		return []part{{text: s, at: n.at}}
	}
	loc := d.locate(n)
	var parts []part
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			parts = append(parts, part{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(s); {
		j := strings.IndexByte(s[i:], '$')
		if j < 0 {
			text.WriteString(s[i:])
			break
		}
		text.WriteString(s[i : i+j])
		i += j
		if o := opener(s[i+1:]); o != "" {
			text.WriteString(o)
			i += 1 + len(o)
			continue
		}
		o := opener(s[i:])
		if o == "" {
			text.WriteByte('$')
			i++
			continue
		}
		at := loc.at(i)
		end, closer := -1, "}"
		if o == "${{" {
			end, closer = exprEnd(s, i+len(o)), "}}"
		} else if k := strings.IndexByte(s[i:], '}'); k >= 0 {
			end = i + k
		}
		if end < 0 {
			d.add(at, "for the text "+o+" itself write $"+o, "%s has no closing %s", o, closer)
			flush()
			return append(parts, part{kind: partBad, at: at})
		}
		inner := s[i+len(o) : end]
		flush()
		switch o {
		case "${{":
			parts = append(parts, part{kind: partExpr, text: inner, off: i + len(o), at: at})
		case "${env:":
			if v, ok := d.environment(at, inner); ok {
				text.WriteString(v)
			} else {
				parts = append(parts, part{kind: partBad, at: at})
			}
		case "${secret:":
			kind := partSecret
			if why := badSecretName(inner); why != "" {
				d.add(at, "", "${secret:%s}: %s", clip(inner), why)
				kind = partBad
			}
			parts = append(parts, part{kind: kind, text: inner, at: at})
		}
		i = end + len(closer)
	}
	flush()
	if len(parts) == 0 {
		parts = append(parts, part{at: n.at})
	}
	return parts
}

func (d *document) environment(at place, name string) (string, bool) {
	if err := waybill.CheckName(name); err != nil {
		d.add(at, "", "${env:%s}: not the name of an environment variable", clip(name))
		return "", false
	}
	if d.lookup == nil {
		d.add(at, "pass the value as a parameter, or keep the definition in the project folder",
			"${env:%s} can only be used in files of the project folder", name)
		return "", false
	}
	v, ok := d.lookup(name)
	if !ok {
		d.add(at, "", "${env:%s}: the server's environment has no variable %s", name, name)
		return "", false
	}
	d.env[name] = v
	return v, true
}

// exprEnd returns the offset of the }} that closes the expression which begins
// at offset i, or -1. Braces of maps and the content of strings do not close it.
func exprEnd(s string, i int) int {
	depth := 0
	for i < len(s) {
		switch c := s[i]; c {
		case '{':
			depth++
		case '}':
			if depth > 0 {
				depth--
			} else if i+1 < len(s) && s[i+1] == '}' {
				return i
			}
		case '\'', '"':
			i = stringEnd(s, i)
			continue
		}
		i++
	}
	return -1
}

// stringEnd returns the offset after the CEL string that begins at s[i].
func stringEnd(s string, i int) int {
	raw := i > 0 && (s[i-1] == 'r' || s[i-1] == 'R')
	quote := s[i : i+1]
	if strings.HasPrefix(s[i:], strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	for i += len(quote); i < len(s); i++ {
		if s[i] == '\\' && !raw {
			i++
		} else if strings.HasPrefix(s[i:], quote) {
			return i + len(quote)
		}
	}
	return len(s)
}

// template is a text whose expressions are compiled.
type template struct {
	parts []tpart
}

type tpart struct {
	text   string
	expr   *expr  // nil for text
	secret string // name of a secret; its value is never here
}

// template compiles the text of a scalar. It returns nil after reporting a
// mistake.
func (d *document) template(n *node, w *where) *template {
	t := &template{}
	ok := true
	for _, p := range d.pieces(n) {
		switch p.kind {
		case partSecret:
			ok = d.secret(p, n, w) && ok
			t.parts = append(t.parts, tpart{secret: p.text})
		case partText:
			t.parts = append(t.parts, tpart{text: p.text})
		case partExpr:
			e := d.compile(n, p, w)
			ok = ok && e != nil
			t.parts = append(t.parts, tpart{expr: e})
		case partBad:
			ok = false
		}
	}
	if !ok {
		return nil
	}
	return t
}

// static returns the text of a template without expressions and secrets.
func (t *template) static() (string, bool) {
	switch {
	case len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].expr == nil && t.parts[0].secret == "":
		return t.parts[0].text, true
	}
	for _, p := range t.parts {
		if p.expr != nil || p.secret != "" {
			return "", false
		}
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
	}
	return b.String(), true
}

// source returns the template as it was written, nearly.
func (t *template) source() string {
	var b strings.Builder
	for _, p := range t.parts {
		switch {
		case p.expr != nil:
			b.WriteString("${{" + p.expr.src + "}}")
		case p.secret != "":
			b.WriteString("${secret:" + p.secret + "}")
		default:
			b.WriteString(p.text)
		}
	}
	return b.String()
}

// value evaluates the template: one expression alone keeps its type, anything
// else is text.
func (t *template) value(sc *scope) (any, error) {
	if len(t.parts) == 1 && t.parts[0].expr != nil {
		return t.parts[0].expr.eval(sc)
	}
	return t.eval(sc)
}

// eval evaluates the template to text.
func (t *template) eval(sc *scope) (string, error) {
	if s, ok := t.static(); ok {
		return s, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.secret != "" {
			b.WriteString(marker(p.secret))
			continue
		}
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		v, err := p.expr.eval(sc)
		if err != nil {
			return "", err
		}
		s, err := textOf(v)
		if err != nil {
			return "", p.expr.fail(err)
		}
		if strings.ContainsRune(s, 0) && t.secrets() {
			return "", p.expr.fail(errNulBesideSecret)
		}
		if b.Len()+len(s) > expression.MaxResult {
			return "", p.expr.fail(expression.ErrTooLong)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// textOf is a value as arguments and the environment show it; nothing is "".
func textOf(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	j, err := waybill.ValueOf(v)
	return string(j), err
}

// tree is a YAML value whose texts are templates.
type tree struct {
	raw  any // what is fixed when the file is read
	text *template
	list []*tree
	keys []string // of an object, with list
	obj  bool
}

// tree compiles a value for use as JSON. A mistake is reported and leaves a
// value that must not be used.
func (d *document) tree(n *node, w *where) (t *tree, fixed bool) {
	t, fixed = &tree{}, true
	switch n.kind {
	case kindString:
		tpl := d.template(n, w)
		if tpl == nil {
			return t, false
		}
		if s, ok := tpl.static(); ok {
			t.raw = s
			return t, true
		}
		t.text = tpl
		return t, tpl.fixed()
	case kindList:
		t.list = []*tree{}
		for _, x := range n.list {
			c, f := d.tree(x, w)
			t.list, fixed = append(t.list, c), fixed && f
		}
	case kindMap:
		t.obj = true
		for _, x := range n.fields {
			c, f := d.tree(x.val, w)
			t.keys, t.list, fixed = append(t.keys, x.key), append(t.list, c), fixed && f
		}
	default:
		t.raw = n.val
	}
	return t, fixed
}

func (t *tree) eval(sc *scope) (any, error) {
	switch {
	case t.text != nil:
		return t.text.value(sc)
	case t.obj:
		m := make(map[string]any, len(t.keys))
		for i, k := range t.keys {
			v, err := t.list[i].eval(sc)
			if err != nil {
				return nil, err
			}
			m[k] = v
		}
		return m, nil
	case t.list != nil:
		l := make([]any, len(t.list))
		for i, c := range t.list {
			v, err := c.eval(sc)
			if err != nil {
				return nil, err
			}
			l[i] = v
		}
		return l, nil
	}
	return t.raw, nil
}

// written returns the value as JSON with its expressions as they are written.
func (t *tree) written() (json.RawMessage, error) {
	b, err := waybill.ValueOf(t.plain())
	return json.RawMessage(b), err
}

func (t *tree) plain() any {
	switch {
	case t.text != nil:
		return t.text.source()
	case t.obj:
		m := make(map[string]any, len(t.keys))
		for i, k := range t.keys {
			m[k] = t.list[i].plain()
		}
		return m
	case t.list != nil:
		l := make([]any, len(t.list))
		for i, c := range t.list {
			l[i] = c.plain()
		}
		return l
	}
	return t.raw
}

func (t *tree) json(sc *scope) (json.RawMessage, error) {
	v, err := t.eval(sc)
	if err != nil {
		return nil, err
	}
	b, err := waybill.ValueOf(v)
	return json.RawMessage(b), err
}
