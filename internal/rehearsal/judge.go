package rehearsal

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// contains is what a text must hold.
type contains string

// judge holds a run that has ended against what is expected.
func (s *stage) judge(d waybill.RunDetail) []Diff {
	var out []Diff
	e := s.c.Expect
	status := e.Status
	if status == "" {
		status = "succeeded"
	}
	compare(&out, "expect.status", status, string(d.Status))
	if e.Error != "" {
		compare(&out, "expect.error", contains(e.Error), d.Error)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Steps)) {
		s.judgeStep(&out, name, e.Steps[name], d)
	}
	among(&out, "expect.vars", e.Vars, asMap(d.Vars), true)
	if e.Outputs != nil {
		among(&out, "expect.outputs", e.Outputs, asMap(d.Outputs), true)
		for _, name := range d.Outputs.Names() {
			if _, ok := fold(e.Outputs, name); !ok {
				v, _ := d.Outputs.Get(name)
				out = append(out, Diff{"expect.outputs." + name, "none", string(v)})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Calls)) {
		at, want := "expect.calls."+name, e.Calls[name]
		s.mu.Lock()
		got := s.calls[name]
		s.mu.Unlock()
		if s.plan.Step(name) == nil {
			out = append(out, Diff{at, "calls of a step", "the pipeline has no step " + name})
			continue
		}
		compare(&out, at+" (number)", want.Count, len(got))
		for i, c := range want.List[:min(len(want.List), len(got))] {
			at := fmt.Sprintf("%s[%d]", at, i)
			if c.Args != nil {
				compare(&out, at+".args", c.Args, got[i].Args)
			}
			env := map[string]any{}
			for k, v := range c.Env {
				env[k] = v
			}
			have := map[string]any{}
			for k, v := range got[i].Env {
				have[k] = v
			}
			among(&out, at+".env", env, have, false)
			among(&out, at+".with", c.With, got[i].With, false)
		}
	}
	return out
}

func (s *stage) judgeStep(out *[]Diff, name string, want ExpectStep, d waybill.RunDetail) {
	at := "expect.steps." + name
	i := slices.IndexFunc(d.Steps, func(x waybill.Step) bool { return x.Name == name })
	if i < 0 {
		*out = append(*out, Diff{at, "a step", "the run has no step " + name})
		return
	}
	got := d.Steps[i]
	if want.Status != "" {
		compare(out, at+".status", want.Status, string(got.Status))
	}
	if want.Attempts != nil {
		compare(out, at+".attempts", *want.Attempts, got.Attempts)
	}
	if want.Error != "" {
		compare(out, at+".error", contains(want.Error), got.Error)
	}
	if want.Reason != "" {
		reason := ""
		for _, a := range d.Attempts {
			if a.Step == name {
				reason = a.Reason
			}
		}
		compare(out, at+".reason", want.Reason, reason)
	}
	among(out, at+".outputs", want.Outputs, asMap(got.Outputs), true)
}

// among holds wanted values against those there are; null wants none.
func among(out *[]Diff, at string, want, got map[string]any, caseless bool) {
	for _, k := range slices.Sorted(maps.Keys(want)) {
		have, ok := got[k]
		if !ok && caseless {
			have, ok = fold(got, k)
		}
		switch w := want[k].(type) {
		case nil:
			if ok && have != nil {
				*out = append(*out, Diff{at + "." + k, "none", show(have)})
			}
		case map[string]any:
			if h, isMap := plain(have).(map[string]any); isMap {
				among(out, at+"."+k, w, h, false)
				continue
			}
			compare(out, at+"."+k, w, have)
		default:
			if !ok {
				*out = append(*out, Diff{at + "." + k, show(w), "none"})
				continue
			}
			compare(out, at+"."+k, w, have)
		}
	}
}

func fold(m map[string]any, name string) (any, bool) {
	for k, v := range m {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return nil, false
}

// compare notes a difference.
func compare(out *[]Diff, at string, want, got any) {
	if c, ok := want.(contains); ok {
		text, _ := got.(string)
		if !strings.Contains(text, string(c)) {
			*out = append(*out, Diff{at, "a text with " + show(string(c)), show(text)})
		}
		return
	}
	if w, g := plain(want), plain(got); !reflect.DeepEqual(w, g) && !sameNumber(w, g) {
		*out = append(*out, Diff{at, show(want), show(got)})
	}
}

func sameNumber(a, b any) bool {
	number := func(v any) (float64, bool) {
		switch x := v.(type) {
		case int64:
			return float64(x), true
		case float64:
			return x, true
		}
		return 0, false
	}
	x, ok := number(a)
	y, also := number(b)
	return ok && also && x == y
}

func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 500 {
		return string(b[:500]) + "…"
	}
	return string(b)
}

// asMap is a set of variables as values of JSON.
func asMap(v waybill.Vars) map[string]any {
	m := map[string]any{}
	for _, n := range v.Names() {
		x, _ := v.Get(n)
		d, err := x.Decode()
		if err != nil {
			d = string(x)
		}
		m[n] = d
	}
	return m
}
