package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/waybill-run/waybill"
)

// Limits of labels.
const (
	maxLabels     = 20
	maxLabelValue = 200
)

var labelName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)

// readLabels reads what every run of the pipeline is labelled with.
func (d *definition) readLabels(n *node) {
	if n.kind != kindMap {
		d.wrong("labels", "an object", n)
		return
	}
	if len(n.fields) > maxLabels {
		d.add(n.at, "", "%d labels; a pipeline has at most %d", len(n.fields), maxLabels)
		return
	}
	for _, f := range n.fields {
		if !labelName.MatchString(f.key) {
			d.add(f.at, "", "label %q: expected up to 63 letters, digits, ., _, / and -, beginning and ending with a letter or digit", clip(f.key))
			continue
		}
		v, ok := d.str("labels."+f.key, f.val)
		if !ok {
			continue
		}
		if len(v) > maxLabelValue || strings.ContainsFunc(v, unicode.IsControl) {
			d.add(f.val.at, "", "labels.%s: expected one line of up to %d bytes", f.key, maxLabelValue)
			continue
		}
		if d.plan.Labels == nil {
			d.plan.Labels = map[string]string{}
		}
		d.plan.Labels[f.key] = v
	}
}

// readNotify reads the rules by which somebody is told of the pipeline's runs. A
// single rule need not be in a list.
func (d *definition) readNotify(n *node) {
	list := []*node{n}
	if n.kind == kindList {
		list = n.list
	}
	for i, x := range list {
		what := fmt.Sprintf("notify[%d]", i)
		if x.kind != kindMap {
			d.wrong(what, "an object", x)
			continue
		}
		if p := x.get("pipeline"); p != nil {
			d.add(p.at, "", "%s.pipeline: a rule here is about this pipeline", what)
			continue
		}
		if p := x.get("name"); p != nil {
			d.add(p.at, "", "%s.name: rules of a pipeline are named after it", what)
			continue
		}
		v, ok := d.rule(what, x)
		if !ok {
			continue
		}
		r, err := DecodeNotifyRule(v)
		if err == nil {
			err = r.Check()
		}
		if err != nil {
			d.add(x.at, "", "%s: %v", what, err)
			continue
		}
		d.plan.Notify = append(d.plan.Notify, r)
	}
}

// DecodeNotifyRule makes a rule of the values of its keys, as YAML or JSON has
// them. The error names an unknown key or a value of the wrong type.
func DecodeNotifyRule(v any) (waybill.NotifyRule, error) {
	var r waybill.NotifyRule
	if m, ok := v.(map[string]any); ok {
		oneOrMany(m, "on")
		if mail, ok := m["email"].(map[string]any); ok {
			oneOrMany(mail, "to")
		}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return r, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, waybill.E(waybill.KindInvalid, "%s", plainJSON(err))
	}
	return r, nil
}

// oneOrMany lets a list of one be written without brackets.
func oneOrMany(m map[string]any, key string) {
	if s, ok := m[key].(string); ok {
		m[key] = []any{s}
	}
}

// plainJSON tells an error of decoding in the words of the file.
func plainJSON(err error) string {
	if t, ok := err.(*json.UnmarshalTypeError); ok {
		return fmt.Sprintf("%s: found %s where it does not fit", t.Field, t.Value)
	}
	return strings.TrimPrefix(strings.Replace(err.Error(), "json: unknown field", "unknown key", 1), "json: ")
}

// rule returns the values of a rule. References to secrets stay as they are: they
// are looked up when something is sent.
func (d *definition) rule(what string, n *node) (any, bool) {
	switch n.kind {
	case kindString:
		if strings.Contains(n.text, "${secret:") && !strings.Contains(n.text, "${{") && !strings.Contains(n.text, "${env:") {
			return n.text, true
		}
		return d.plain(what, n)
	case kindList:
		l, ok := make([]any, len(n.list)), true
		for i, x := range n.list {
			v, good := d.rule(what, x)
			l[i], ok = v, ok && good
		}
		return l, ok
	case kindMap:
		m, ok := make(map[string]any, len(n.fields)), true
		for _, f := range n.fields {
			v, good := d.rule(what+"."+f.key, f.val)
			m[f.key], ok = v, ok && good
		}
		return m, ok
	}
	return n.val, true
}
