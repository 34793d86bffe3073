package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// Parse reads a definition. file names it in messages. The error is of type
// [Problems] and holds every mistake that was found.
func Parse(file string, src []byte, opts Options) (*Plan, error) {
	p, _, err := parse(file, src, opts)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// parse is Parse that returns a plan with mistakes too, if it got that far, and
// the place of its name.
func parse(file string, src []byte, opts Options) (*Plan, place, error) {
	r := &report{file: file}
	doc, root := load(src, r)
	if root == nil {
		return nil, place{}, r.err()
	}
	d := &definition{document: doc, opts: opts, plan: &Plan{File: file, Source: bytes.Clone(src), Prefix: DefaultPrefix, byName: map[string]*Step{}}}
	doc.scopeOf = scopeOf{
		lookup: opts.Env, env: map[string]string{}, code: map[string]*code{}, steps: d.plan.byName,
		params: map[string]string{}, vars: map[string]string{}, pending: map[string]bool{}, badOutputs: map[string]bool{},
	}
	if len(opts.Runners) == 0 {
		d.opts.Runners = []string{"process", "sim", "http"}
	}
	d.opts.Runners = append(slices.Clone(d.opts.Runners), RunnerWait, RunnerApproval, RunnerPipeline)
	given := d.opts.Check
	d.opts.Check = func(runner string, args []string, with json.RawMessage) error {
		if (&Step{Runner: runner}).Control() {
			return checkControl(runner, args, with)
		}
		if given == nil {
			return nil
		}
		return given(runner, args, with)
	}
	d.pipeline(root)
	if len(doc.env) > 0 {
		d.plan.Env = doc.env
	}
	d.plan.Warnings = d.warnings
	d.plan.hash()
	at := root.at
	if n := root.get("name"); n != nil {
		at = n.at
	}
	return d.plan, at, r.err()
}

// definition is a document being turned into a plan. The structure of all steps
// is read before any expression, because expressions refer to steps.
type definition struct {
	*document
	opts     Options
	plan     *Plan
	defaults struct {
		step  Step
		retry Retry
	}
	stepNodes []*node         // of plan.Steps
	graphs    map[string]bool // groups in which a step has needs
}

func (d *definition) pipeline(root *node) {
	p := d.plan
	if !d.object("the pipeline", root, pipelineKeys) {
		return
	}
	if n := root.get("name"); n != nil {
		p.Name, _ = d.name("name", n, maxPipelineName)
	} else {
		d.add(root.at, "add name: my-pipeline", "the pipeline has no name")
	}
	if n := root.get("description"); n != nil {
		p.Description, _ = d.str("description", n)
	}
	if n := root.get("priority"); n != nil {
		p.Priority, _ = d.integer("priority", n, -1000, 1000)
	}
	if n := root.get("retention"); n != nil {
		p.Retention, _ = d.duration("retention", n)
	}
	if n := root.get("env_case"); n != nil {
		p.EnvUpper = d.oneOf("env_case", n, "keep", "upper") == "upper"
	}
	if n := root.get("prefix"); n != nil {
		d.readPrefix(n)
	}
	if n := root.get("labels"); n != nil {
		d.readLabels(n)
	}
	if n := root.get("notify"); n != nil {
		d.readNotify(n)
	}
	d.prefix = p.Prefix
	d.readDefaults(root.get("defaults"))
	d.readParams(root.get("params"))
	d.declareVars(root.get("vars"))
	d.on(root.get("on"))
	steps := root.get("steps")
	switch {
	case steps == nil:
		d.add(root.at, "add steps: with at least one step", "the pipeline has no steps")
	case steps.kind != kindList:
		d.wrong("steps", "a list", steps)
	case len(steps.list) == 0:
		d.add(steps.at, "", "steps is empty: a pipeline has at least one step")
	default:
		d.readSteps(root)
	}
	d.setVars(root.get("vars"))
	if n := root.get("concurrency"); n != nil {
		d.readConcurrency(n)
	}
	for i, s := range p.Steps {
		d.fill(s, d.stepNodes[i])
	}
	if n := root.get("outputs"); n != nil {
		d.readResults(n)
	}
	if n := root.get("delivery"); n != nil {
		d.readDelivery(n)
	}
}

func (d *definition) readPrefix(n *node) {
	s, ok := d.str("prefix", n)
	if !ok {
		return
	}
	if err := waybill.CheckName(s); err != nil || len(s) > 32 {
		d.add(n.at, "", "prefix %q: expected up to 32 letters, digits and _, not starting with a digit", clip(s))
		return
	}
	if u := strings.ToUpper(s); strings.HasPrefix(u, "WAYBILL_") || strings.HasPrefix("WAYBILL_", u) {
		d.add(n.at, "", "prefix %q: names that begin with WAYBILL_ are set by the server", s)
		return
	}
	d.plan.Prefix = s
}

func (d *definition) readDefaults(n *node) {
	s := &d.defaults.step
	s.Runner, s.Timeout, s.Retry = DefaultRunner, DefaultTimeout, Retry{Backoff: DefaultBackoff, MaxBackoff: DefaultMaxBackoff}
	if n == nil || !d.object("defaults", n, defaultsKeys) {
		return
	}
	d.common("defaults", n, s)
}

// common reads what defaults and steps share.
func (d *definition) common(what string, n *node, s *Step) {
	if r := n.get("runner"); r != nil {
		d.runner(what+".runner", r, s)
	}
	if t := n.get("timeout"); t != nil {
		if v, ok := d.duration(what+".timeout", t); ok {
			s.Timeout = v
		}
	}
	if r := n.get("retry"); r != nil && d.object(what+".retry", r, retryKeys) {
		if m := r.get("max"); m != nil {
			s.Retry.Max, _ = d.integer(what+".retry.max", m, 0, 1000)
		}
		if o := r.get("on"); o != nil {
			s.Retry.On = nil
			d.readRetryOn(what+".retry.on", o, &s.Retry)
		}
		b, m := r.get("backoff"), r.get("max_backoff")
		if b != nil {
			if v, ok := d.duration(what+".retry.backoff", b); ok {
				s.Retry.Backoff = v
			}
		}
		if m != nil {
			if v, ok := d.duration(what+".retry.max_backoff", m); ok {
				s.Retry.MaxBackoff = v
			}
		}
		if s.Retry.Backoff > s.Retry.MaxBackoff {
			switch {
			case m != nil:
				d.add(m.at, "", "%s.retry.max_backoff is shorter than backoff", what)
			case b != nil:
				s.Retry.MaxBackoff = s.Retry.Backoff
			}
		}
	}
}

func (d *definition) runner(what string, n *node, s *Step) {
	name, ok := d.str(what, n)
	if !ok {
		return
	}
	// A refused runner is kept too, so that the step is not judged as another's.
	s.Runner = name
	switch {
	case slices.Contains(d.opts.Runners, name):
	case slices.Contains(knownRunners, name):
		d.add(n.at, "", "runner %s %s", name, notYet)
	default:
		d.add(n.at, didYouMean(name, knownRunners), "%s: unknown runner %s", what, clip(name))
	}
}

func (d *definition) readParams(n *node) {
	if n == nil {
		return
	}
	if n.kind != kindMap {
		d.wrong("params", "an object", n)
		return
	}
	seen := caseless{}
	for _, f := range n.fields {
		if !d.varName("parameter", f) || !seen.check(d.document, "parameter", f) {
			continue
		}
		q := Param{Name: f.key}
		d.readParam("params."+f.key, f.val, &q)
		d.plan.Params = append(d.plan.Params, q)
		d.params[strings.ToLower(f.key)] = f.key
		d.paramNames = append(d.paramNames, f.key)
	}
}

func (d *definition) readParam(what string, n *node, q *Param) {
	types := valueTypes[:len(valueTypes)-1] // a file cannot be given with a start yet
	if n.kind == kindString {
		q.Type = d.valueType(what, n, types)
		return
	}
	if !d.object(what, n, paramKeys) {
		return
	}
	q.Type = waybill.TypeString
	if t := n.get("type"); t != nil {
		q.Type = d.valueType(what+".type", t, types)
	}
	if x := n.get("description"); x != nil {
		q.Description, _ = d.str(what+".description", x)
	}
	if x := n.get("required"); x != nil {
		q.Required = d.boolean(what+".required", x)
	}
	if x := n.get("enum"); x != nil {
		switch {
		case x.kind != kindList:
			d.wrong(what+".enum", "a list of values", x)
		case len(x.list) == 0:
			d.add(x.at, "", "%s.enum is empty", what)
		default:
			for i, y := range x.list {
				if v := d.constant(fmt.Sprintf("%s.enum[%d]", what, i), y, q.Type); v != nil {
					q.Enum = append(q.Enum, v)
				}
			}
		}
	}
	if x := n.get("default"); x != nil {
		if q.Required {
			d.add(x.at, "leave out one of the two", "%s is required, so its default is never used", what)
		}
		v := d.constant(what+".default", x, q.Type)
		if v != nil {
			if _, err := (Param{Type: q.Type, Enum: q.Enum}).bind(v); err != nil {
				d.add(x.at, "", "%s.default: %v", what, err)
			}
		}
		q.Default = v
	}
}

// constant reads a value without expressions that has the type already: a number
// between quotes is text.
func (d *definition) constant(what string, n *node, t waybill.ValueType) waybill.Value {
	fits := true
	switch t {
	case waybill.TypeString:
		fits = n.kind == kindString
	case waybill.TypeInt:
		fits = n.kind == kindInt
	case waybill.TypeNumber:
		fits = n.kind == kindInt || n.kind == kindFloat
	case waybill.TypeBool:
		fits = n.kind == kindBool
	}
	env := n.kind == kindString && strings.Contains(n.text, "${env:")
	if !fits && !env {
		d.wrong(what, map[waybill.ValueType]string{waybill.TypeString: "text", waybill.TypeInt: "a whole number",
			waybill.TypeNumber: "a number", waybill.TypeBool: "true or false"}[t], n)
		return nil
	}
	raw, ok := d.raw(what, n)
	if !ok {
		return nil
	}
	v, err := waybill.ValueOf(raw)
	if err == nil && (env || t == waybill.TypeInt) {
		v, err = v.Coerce(t)
	}
	if err != nil {
		d.add(n.at, "", "%s: %v", what, err)
		return nil
	}
	return v
}

// raw returns a value that holds no expressions.
func (d *definition) raw(what string, n *node) (any, bool) {
	ok := true
	switch n.kind {
	case kindString:
		return d.plain(what, n)
	case kindList:
		l := make([]any, len(n.list))
		for i, x := range n.list {
			v, good := d.raw(what, x)
			l[i], ok = v, ok && good
		}
		return l, ok
	case kindMap:
		m := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			v, good := d.raw(what, f.val)
			m[f.key], ok = v, ok && good
		}
		return m, ok
	}
	return n.val, true
}

// declareVars makes the names known before any expression is read.
func (d *definition) declareVars(n *node) {
	if n == nil {
		return
	}
	if n.kind != kindMap {
		d.wrong("vars", "an object", n)
		return
	}
	seen := caseless{}
	for _, f := range n.fields {
		if !d.varName("variable", f) || !seen.check(d.document, "variable", f) {
			continue
		}
		d.plan.Vars = append(d.plan.Vars, Var{Name: f.key})
		d.vars[strings.ToLower(f.key)] = f.key
		d.varNames = append(d.varNames, f.key)
		d.pending[strings.ToLower(f.key)] = true
	}
}

func (d *definition) setVars(n *node) {
	for i := range d.plan.Vars {
		v := &d.plan.Vars[i]
		v.value, _ = d.tree(n.get(v.Name), &where{what: "vars." + v.Name})
		delete(d.pending, strings.ToLower(v.Name))
	}
}

// cleanPath returns the reason why a path may not be used for a file of a step.
func cleanPath(s string) string {
	switch {
	case s == "" || strings.HasSuffix(s, "/"):
		return "expected the path of a file"
	case path.IsAbs(s), s != path.Clean(s) && "./"+path.Clean(s) != s, strings.HasPrefix(path.Clean(s), ".."):
		return "expected a path inside the step's folder, without .."
	case len(s) > 1024 || strings.ContainsAny(s, "\x00\n"):
		return "not a usable path"
	}
	return ""
}
