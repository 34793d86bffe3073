package pipeline

import (
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/waybill-run/waybill"
)

// Trigger is what all triggers share but the one by request: which events start a run,
// and what the run gets from its event. The zero value takes every event and gives
// nothing. Safe for concurrent use.
type Trigger struct {
	filter *expr
	params []given
	vars   []given
}

// given is one parameter or variable that a run gets from its event.
type given struct {
	name  string
	value *tree
}

// EventData is an event as expressions see it: id, type, source, subject, time, and
// data and object if it has them. Triggers and scopes take it, so that it is decoded
// once for all of them.
func EventData(e waybill.Event) map[string]any {
	m := map[string]any{"id": e.ID, "type": e.Type, "source": e.Source, "subject": e.Subject, "time": e.Time}
	if len(e.Data) > 0 {
		if data, err := waybill.Value(e.Data).Decode(); err == nil {
			m["data"] = data
		}
	}
	if len(e.Headers) > 0 {
		headers := make(map[string]any, len(e.Headers))
		for k, v := range e.Headers {
			headers[k] = v
		}
		m["headers"] = headers
	}
	if o := e.Object; o != nil {
		m["object"] = map[string]any{"bucket": o.Bucket, "key": o.Key, "version": o.Version, "size": o.Size, "sha256": o.SHA256}
	}
	return m
}

// Filtered reports whether the trigger looks at events before it takes them.
func (t *Trigger) Filtered() bool { return t.filter != nil }

// Accepts reports whether an event, as EventData made it, starts a run. An error of
// KindInvalid says that the filter could not be evaluated or that its result is not
// true or false; such an event starts nothing.
func (t *Trigger) Accepts(event map[string]any) (bool, error) {
	if t.filter == nil {
		return true, nil
	}
	v, err := t.filter.eval(&scope{Scope: Scope{Event: event}})
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, t.filter.fail(fmt.Errorf("the result is %s, not true or false", kindOf(v)))
	}
	return b, nil
}

// Given returns the parameters and variables that a run gets from its event, as
// EventData made it. A value that is null is left out, so that a default counts. The
// error is of KindInvalid.
func (t *Trigger) Given(event map[string]any) (params, vars waybill.Vars, err error) {
	sc := &scope{Scope: Scope{Event: event}}
	fill := func(list []given) (out waybill.Vars, err error) {
		for _, g := range list {
			v, err := g.value.eval(sc)
			if err != nil {
				return out, err
			}
			if v == nil {
				continue
			}
			x, err := waybill.ValueOf(v)
			if err != nil {
				return out, err
			}
			out.Set(g.name, x)
		}
		return out, nil
	}
	if params, err = fill(t.params); err == nil {
		vars, err = fill(t.vars)
	}
	return params, vars, err
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "text"
	case int64, uint64, float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}

// trigger reads what all triggers share.
func (d *definition) trigger(what string, n *node) Trigger {
	var t Trigger
	if f := n.get("filter"); f != nil {
		t.filter = d.filter(what+".filter", f)
	}
	if x := n.get("params"); x != nil {
		t.params = d.given(what+".params", x, func(f field) bool {
			if d.params[strings.ToLower(f.key)] == "" {
				d.add(f.at, cmpOr(didYouMean(f.key, d.paramNames), "declare it under params"), "%s: there is no parameter %s", what, clip(f.key))
				return false
			}
			return true
		})
	}
	if x := n.get("vars"); x != nil {
		t.vars = d.given(what+".vars", x, func(f field) bool {
			if !d.varName("variable", f) {
				return false
			}
			if !hasPrefix(f.key, d.prefix) && d.vars[strings.ToLower(f.key)] == "" {
				d.add(f.at, didYouMean(f.key, d.varNames), "%s: variable %s is not declared under vars and does not begin with %s", what, clip(f.key), d.prefix)
				return false
			}
			return true
		})
	}
	for _, p := range d.plan.Params {
		if p.Required && !containsGiven(t.params, p.Name) {
			d.warn(n.at, fmt.Sprintf("add params: {%s: …} to it, or give the parameter a default", p.Name),
				"%s gives no value for the required parameter %s, so it can start nothing", what, p.Name)
		}
	}
	return t
}

func containsGiven(list []given, name string) bool {
	for _, g := range list {
		if strings.EqualFold(g.name, name) {
			return true
		}
	}
	return false
}

func (d *definition) given(what string, n *node, check func(field) bool) []given {
	if n.kind != kindMap {
		d.wrong(what, "an object", n)
		return nil
	}
	var out []given
	seen := caseless{}
	for _, f := range n.fields {
		if !seen.check(d.document, what, f) || !check(f) {
			continue
		}
		v, _ := d.tree(f.val, &where{what: what + "." + f.key, event: true})
		out = append(out, given{f.key, v})
	}
	return out
}

// filter compiles a condition on the event: one expression, with or without ${{ }}.
func (d *definition) filter(what string, n *node) *expr {
	if n.kind != kindString {
		d.wrong(what, "an expression", n)
		return nil
	}
	p := part{kind: partExpr, text: n.text, at: n.at}
	if strings.Contains(n.text, "${{") {
		parts := d.split(n)
		if len(parts) != 1 || parts[0].kind != partExpr {
			if !hasBad(parts) {
				d.add(n.at, "write it without ${{ }} as a whole", "%s: expected one expression", what)
			}
			return nil
		}
		p = parts[0]
	}
	e := d.compile(n, p, &where{what: what, event: true})
	if e == nil || e.code.ast == nil {
		return e
	}
	if t := e.code.ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		d.add(p.at, "compare it with something", "%s: expected an expression that is true or false, found one of type %s", what, t)
		return nil
	}
	return e
}

func hasBad(parts []part) bool {
	for _, p := range parts {
		if p.kind == partBad {
			return true
		}
	}
	return false
}

// instant reads a moment: a date or RFC 3339; a date is midnight in the zone.
func (d *document) instant(what string, n *node, zone *time.Location) (time.Time, bool) {
	text := n.text
	if n.kind == kindString {
		t, ok := d.plain(what, n)
		if !ok {
			return time.Time{}, false
		}
		text = t
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, true
		}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		d.add(n.at, "write 2026-03-01 or 2026-03-01T08:00:00Z", "%s: %s is not a date or a time", what, clip(text))
		return time.Time{}, false
	}
	return t, true
}
