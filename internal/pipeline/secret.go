package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/waybill-run/waybill"
)

// A secret is never evaluated with the expressions of a step. It stays a reference, in
// the plan, in what Build returns and so in the message of an attempt, until the node
// that starts the attempt calls Resolve with the values, in memory.
//
// In built text a reference is its name between NUL characters. Nothing else can put
// one there: NUL is refused in the texts and in the results of expressions that stand
// beside a secret, and Resolve looks at nothing but those texts.

const secretHint = "secrets can be used in the env and with of steps that start units"

var errNulBesideSecret = errors.New("the result holds a NUL character and stands beside a secret")

func marker(name string) string { return "\x00secret:" + name + "\x00" }

// SecretUse is a place that names a secret.
type SecretUse struct {
	Name   string
	Step   string
	File   string
	Line   int
	Column int
}

// String returns "file:line:col".
func (r SecretUse) String() string { return fmt.Sprintf("%s:%d:%d", r.File, r.Line, r.Column) }

// badSecretName says what is wrong with the name of a secret; the rule is that of
// package secret.
func badSecretName(name string) string {
	ok := name != "" && len(name) <= 100
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		ok = ok && (letter || i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '.'))
	}
	if ok {
		return ""
	}
	return "not the name of a secret: up to 100 letters, digits, '.', '-' and '_', beginning with a letter or '_'"
}

// secret takes a reference into a template, or reports why it cannot stand there.
func (d *document) secret(p part, n *node, w *where) bool {
	if !w.secrets || w.step == nil {
		hint := w.noSecrets
		if hint == "" {
			hint = secretHint
		}
		d.add(p.at, hint, "%s: ${secret:%s} cannot be used here", w.what, p.text)
		return false
	}
	if strings.ContainsRune(n.text, 0) {
		d.add(p.at, "", "%s: a NUL character cannot stand beside a secret", w.what)
		return false
	}
	w.step.secrets = append(w.step.secrets, SecretUse{Name: p.text, Step: w.step.Name, File: w.step.file, Line: p.at.line, Column: p.at.col})
	return true
}

// secrets reports whether a template holds a secret.
func (t *template) secrets() bool {
	for _, p := range t.parts {
		if p.secret != "" {
			return true
		}
	}
	return false
}

// fixed reports whether a template holds no expression.
func (t *template) fixed() bool {
	for _, p := range t.parts {
		if p.expr != nil {
			return false
		}
	}
	return true
}

// Secrets are the places of a step that name a secret, in the order of the file.
func (s *Step) Secrets() []SecretUse { return s.secrets }

// Secrets are the places of all steps that name a secret.
func (p *Plan) Secrets() []SecretUse {
	var out []SecretUse
	for _, s := range p.Steps {
		out = append(out, s.secrets...)
	}
	return out
}

// UnknownSecrets returns a problem for each place that names a secret which is not
// known. An error of known ends it.
func (p *Plan) UnknownSecrets(known func(name string) (bool, error)) (Problems, error) {
	var out Problems
	seen := map[string]bool{}
	for _, r := range p.Secrets() {
		ok, asked := seen[r.Name]
		if !asked {
			var err error
			if ok, err = known(r.Name); err != nil {
				return nil, err
			}
			seen[r.Name] = ok
		}
		if !ok {
			out = append(out, Problem{
				File: r.File, Line: r.Line, Column: r.Column, Msg: fmt.Sprintf("step %s: there is no secret %s", r.Step, r.Name),
				Hint: "set it with: waybill secret set " + r.Name,
			})
		}
	}
	return out, nil
}

// Resolve returns b, which the step has built, with the values of its secrets. The
// result must not be stored. An error of value is returned with the place that asked,
// with its kind. Safe for concurrent use.
func (s *Step) Resolve(b Built, value func(name string) (string, error)) (Built, error) {
	if len(s.secrets) == 0 {
		return b, nil
	}
	values := map[string]string{}
	for _, r := range s.secrets {
		if _, ok := values[r.Name]; ok {
			continue
		}
		v, err := value(r.Name)
		if err != nil {
			return Built{}, fmt.Errorf("%s: %w", r, err)
		}
		values[r.Name] = v
	}
	fill := func(text string) string {
		for name, v := range values {
			text = strings.ReplaceAll(text, marker(name), v)
		}
		return text
	}
	env := append([]string(nil), b.Env...)
	for i, x := range env {
		name, text, _ := strings.Cut(x, "=")
		for _, e := range s.env {
			if e.name == name && e.value.secrets() {
				env[i] = name + "=" + fill(text)
			}
		}
	}
	b.Env = env
	if s.with == nil || !s.with.secrets() || len(b.With) == 0 {
		return b, nil
	}
	dec := json.NewDecoder(bytes.NewReader(b.With))
	dec.UseNumber()
	var with any
	if err := dec.Decode(&with); err != nil {
		return Built{}, waybill.E(waybill.KindInternal, "the settings of step %s cannot be read", s.Name)
	}
	raw, err := json.Marshal(s.with.resolve(with, fill))
	if err != nil {
		return Built{}, waybill.E(waybill.KindInternal, "the settings of step %s cannot be written", s.Name)
	}
	b.With = raw
	return b, nil
}

// secrets reports whether a text in the value holds a secret.
func (t *tree) secrets() bool {
	if t.text != nil {
		return t.text.secrets()
	}
	for _, c := range t.list {
		if c.secrets() {
			return true
		}
	}
	return false
}

// resolve fills in the texts of an evaluated value that hold secrets, and no others.
func (t *tree) resolve(v any, fill func(string) string) any {
	switch {
	case t.text != nil:
		if s, ok := v.(string); ok && t.text.secrets() {
			return fill(s)
		}
	case t.obj:
		m, ok := v.(map[string]any)
		for i, k := range t.keys {
			if x, there := m[k]; ok && there {
				m[k] = t.list[i].resolve(x, fill)
			}
		}
	case t.list != nil:
		if l, ok := v.([]any); ok && len(l) == len(t.list) {
			for i, c := range t.list {
				l[i] = c.resolve(l[i], fill)
			}
		}
	}
	return v
}

var builtMarker = regexp.MustCompile(`\\u0000secret:([A-Za-z0-9_.-]+)\\u0000`)

// readable shows the references in built settings as they are written in the file.
func (s *Step) readable(with json.RawMessage) json.RawMessage {
	if len(s.secrets) == 0 || len(with) == 0 {
		return with
	}
	return builtMarker.ReplaceAll(with, []byte("$${secret:$1}"))
}
