package pipeline

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/expression"
)

// Scope is what the expressions of a run can see. It is read only.
type Scope struct {
	Event  map[string]any // id, type, source, time, subject, data, object
	Run    map[string]any // id, pipeline, version
	Params waybill.Vars
	Vars   waybill.Vars
	Steps  map[string]StepResult // by name; steps that have ended
	Matrix waybill.Vars          // of a cell
}

// StepResult is what later steps can see of a step.
type StepResult struct {
	Status   waybill.Status
	ExitCode int
	Outputs  waybill.Vars
	Error    string
}

// Built is a step with its expressions evaluated.
type Built struct {
	Args   []string        // program and arguments
	Env    []string        // NAME=value in the order of the file
	With   json.RawMessage // nil if the step has none
	Inputs []Input
	Puts   []Put
}

// scope makes the values of a Scope available to CEL, decoding only those that
// an expression asks for.
type scope struct {
	Scope
	act map[string]any
}

func (s *scope) activation() map[string]any {
	if s.act == nil {
		s.act = map[string]any{
			"event":  eventValue(s.Event),
			"run":    types.DefaultTypeAdapter.NativeToValue(s.Run),
			"params": varsValue(s.Params),
			"vars":   varsValue(s.Vars),
			"matrix": varsValue(s.Matrix),
			"steps":  stepsValue(s.Steps),
		}
	}
	return s.act
}

func eventValue(event map[string]any) ref.Val {
	m := make(map[string]any, len(event))
	for k, v := range event {
		switch x := v.(type) {
		case waybill.Value:
			v = decoded(x)
		case json.RawMessage:
			v = decoded(waybill.Value(x))
		case string:
			if k == "time" {
				if t, err := time.Parse(time.RFC3339Nano, x); err == nil {
					v = t
				}
			}
		}
		m[k] = v
	}
	return types.DefaultTypeAdapter.NativeToValue(m)
}

func decoded(v waybill.Value) ref.Val {
	x, err := v.Decode()
	if err != nil {
		return types.NewErr("the value is not JSON: %v", err)
	}
	return types.DefaultTypeAdapter.NativeToValue(x)
}

func varsValue(v waybill.Vars) ref.Val {
	return &lazyMap{names: v.Names, find: func(name string) (ref.Val, bool) {
		x, ok := v.Get(name)
		if !ok {
			return nil, false
		}
		return decoded(x), true
	}}
}

func stepsValue(steps map[string]StepResult) ref.Val {
	return &lazyMap{names: func() []string { return nil }, find: func(name string) (ref.Val, bool) {
		s, ok := steps[name]
		if !ok {
			// See dashes: a selected name is spelled with _ for -.
			if s, ok = steps[strings.ReplaceAll(name, "_", "-")]; !ok {
				return nil, false
			}
		}
		return types.DefaultTypeAdapter.NativeToValue(map[string]any{
			"outputs": varsValue(s.Outputs), "status": string(s.Status), "exit_code": int64(s.ExitCode), "error": s.Error,
		}), true
	}}
}

// lazyMap is a CEL map whose values are made when they are asked for. Everything
// but a look-up works on a complete copy.
type lazyMap struct {
	names func() []string
	find  func(string) (ref.Val, bool)
	full  traits.Mapper
}

func (m *lazyMap) all() traits.Mapper {
	if m.full == nil {
		vals := map[string]any{}
		for _, n := range m.names() {
			if v, ok := m.find(n); ok {
				vals[n] = v
			}
		}
		m.full = types.NewStringInterfaceMap(types.DefaultTypeAdapter, vals)
	}
	return m.full
}

// Find implements traits.Mapper.
func (m *lazyMap) Find(key ref.Val) (ref.Val, bool) {
	s, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	return m.find(string(s))
}

// Get implements traits.Indexer.
func (m *lazyMap) Get(key ref.Val) ref.Val {
	if v, ok := m.Find(key); ok {
		return v
	}
	return types.NewErr("%s: %v", expression.NoSuchKey, key.Value())
}

// Contains implements traits.Container.
func (m *lazyMap) Contains(key ref.Val) ref.Val {
	_, ok := m.Find(key)
	return types.Bool(ok)
}

// Iterator implements traits.Iterable.
func (m *lazyMap) Iterator() traits.Iterator { return m.all().Iterator() }

// Size implements traits.Sizer.
func (m *lazyMap) Size() ref.Val { return types.Int(len(m.names())) }

// Equal implements ref.Val.
func (m *lazyMap) Equal(other ref.Val) ref.Val { return m.all().Equal(other) }

// Type implements ref.Val.
func (m *lazyMap) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (m *lazyMap) Value() any { return m.all().Value() }

// InitialVars returns the variables a run starts with: those given in s.Vars,
// and every declared one that was not given, evaluated from top to bottom. A
// given name must be declared or begin with the prefix. The error is of
// KindInvalid.
func (p *Plan) InitialVars(s Scope) (waybill.Vars, error) {
	declared := make([]string, len(p.Vars))
	for i, v := range p.Vars {
		declared[i] = v.Name
	}
	var wrong []string
	for _, n := range s.Vars.Names() {
		switch {
		case waybill.CheckName(n) != nil:
			wrong = append(wrong, waybill.CheckName(n).Error())
		case !hasPrefix(n, p.Prefix) && !containsFold(declared, n):
			msg := fmt.Sprintf("variable %s is not declared and does not begin with %s", n, p.Prefix)
			if h := didYouMean(n, declared); h != "" {
				msg += " (" + h + ")"
			}
			wrong = append(wrong, msg)
		}
	}
	if len(wrong) > 0 {
		return waybill.Vars{}, &waybill.Error{Kind: waybill.KindInvalid, Op: "variables of pipeline", Subject: p.Name, Msg: strings.Join(wrong, "; ")}
	}
	var out waybill.Vars
	for _, v := range p.Vars {
		// A given variable keeps the spelling of its declaration.
		if x, given := s.Vars.Get(v.Name); given {
			out.Set(v.Name, x)
			continue
		}
		cur := s
		cur.Vars, cur.Steps = s.Vars.Clone(), nil
		cur.Vars.Merge(out)
		raw, err := v.value.json(&scope{Scope: cur})
		if err != nil {
			return waybill.Vars{}, err
		}
		out.Set(v.Name, waybill.Value(raw))
	}
	out.Merge(s.Vars)
	return out, nil
}

func containsFold(names []string, name string) bool {
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func hasPrefix(name, prefix string) bool {
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// Build evaluates the step's expressions. An error of KindInvalid names the
// step, the place and the expression; it will not go away by trying again with
// the same scope. Safe for concurrent use.
func (s *Step) Build(sc Scope) (Built, error) {
	in := &scope{Scope: sc}
	b := Built{Args: make([]string, len(s.args))}
	for i, t := range s.args {
		v, err := t.eval(in)
		if err != nil {
			return Built{}, err
		}
		if strings.ContainsRune(v, 0) {
			return Built{}, s.fail("run[%d] holds a NUL character", i)
		}
		b.Args[i] = v
	}
	if len(b.Args) > 0 && b.Args[0] == "" {
		return Built{}, s.fail("run[0], the program, is empty")
	}
	for _, e := range s.env {
		v, err := e.value.eval(in)
		if err != nil {
			return Built{}, err
		}
		if strings.ContainsRune(v, 0) && !e.value.secrets() {
			return Built{}, s.fail("env.%s holds a NUL character", e.name)
		}
		b.Env = append(b.Env, e.name+"="+v)
	}
	if s.with != nil {
		raw, err := s.with.json(in)
		if err != nil {
			return Built{}, err
		}
		b.With = raw
	}
	if err := s.buildFiles(in, &b); err != nil {
		return Built{}, err
	}
	if s.dynamic && s.check != nil {
		if err := s.check(s.Runner, b.Args, s.readable(b.With)); err != nil {
			return Built{}, s.fail("%w", err)
		}
	}
	return b, nil
}

func (s *Step) fail(format string, args ...any) error {
	return waybill.E(waybill.KindInvalid, format, args...).WithOp("step "+s.Name, fmt.Sprintf("(%s:%d:%d)", s.file, s.Line, s.Column))
}

// BindOutputs sorts what a unit returned: names that begin with the prefix are
// variables of the run, all others outputs of the step, and a declared output is
// both if it has the prefix. Declared outputs get their type. An error of
// KindInvalid lists every output that is missing or of another type. A file
// output is bound when vars hold its reference, and never missing here: its
// content is collected by the engine.
func (s *Step) BindOutputs(vars waybill.Vars, prefix string) (outputs, runVars waybill.Vars, err error) {
	var wrong []string
	for _, n := range vars.Names() {
		v, _ := vars.Get(n)
		o := s.output(n)
		if o != nil {
			n = o.Name
			c, err := v.Coerce(o.Type)
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("output %s: %v", n, err))
				continue
			}
			v = c
			outputs.Set(n, v)
		}
		if hasPrefix(n, prefix) {
			runVars.Set(n, v)
		} else if o == nil {
			outputs.Set(n, v)
		}
	}
	for _, o := range s.Outputs {
		if _, ok := vars.Get(o.Name); !ok && !o.Optional && o.Type != waybill.TypeFile {
			wrong = append(wrong, fmt.Sprintf("output %s of type %s was not returned", o.Name, o.Type))
		}
	}
	if len(wrong) > 0 {
		return waybill.Vars{}, waybill.Vars{}, &waybill.Error{Kind: waybill.KindInvalid, Op: "step", Subject: s.Name, Msg: strings.Join(wrong, "; ")}
	}
	return outputs, runVars, nil
}

// ConvertToNative implements ref.Val.
func (m *lazyMap) ConvertToNative(t reflect.Type) (any, error) { return m.all().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (m *lazyMap) ConvertToType(t ref.Type) ref.Val { return m.all().ConvertToType(t) }
