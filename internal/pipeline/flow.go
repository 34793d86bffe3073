package pipeline

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// The groups of steps. Those of GroupMain run first; those of GroupFailure when one of
// them has failed; those of GroupAlways at the end of every run that has begun.
const (
	GroupMain    = ""
	GroupFailure = "on_failure"
	GroupAlways  = "always"
)

// Groups lists the groups in the order in which they run.
func Groups() []string { return []string{GroupMain, GroupFailure, GroupAlways} }

// Runners that start no unit: the engine itself makes these steps.
const (
	RunnerWait     = "wait"     // until a time, or for a while
	RunnerApproval = "approval" // until somebody has decided
	RunnerPipeline = "pipeline" // until the run of another pipeline has ended
)

// Limits of a matrix.
const (
	DefaultParallel = 16     // cells at once, when max_parallel is not set
	MaxCells        = 10_000 // cells of one step
)

// Matrix is a step that runs once for every combination of values.
type Matrix struct {
	MaxParallel int
	FailFast    bool // the first cell that fails ends the others

	names   []string // of the dimensions, in the order of the file
	values  []*tree  // a list each, or an expression that gives one
	exclude []*tree  // objects; a cell that has all the values of one is left out
	step    *Step
}

// Concurrency bounds how many runs of a pipeline are open at once.
type Concurrency struct {
	Limit  int
	Policy waybill.SlotPolicy
	Global bool // the key is shared by all pipelines
	key    *template
}

// result is an output of a pipeline.
type result struct {
	name  string
	value *tree
}

// input is a file that a step finds in its folder.
type input struct {
	path  string
	value *tree
}

// Cells evaluates the matrix: the values of every cell, in the order of the file with the
// last dimension the fastest. An error is of KindInvalid. Safe for concurrent use.
func (m *Matrix) Cells(sc Scope) ([]waybill.Vars, error) {
	in := &scope{Scope: sc}
	lists := make([][]any, len(m.names))
	total := 1
	for i, t := range m.values {
		v, err := t.eval(in)
		if err != nil {
			return nil, err
		}
		l, ok := v.([]any)
		if !ok {
			return nil, m.step.fail("matrix.values.%s is not a list", m.names[i])
		}
		lists[i] = l
		if total *= len(l); total > MaxCells {
			return nil, m.step.fail("the matrix has more than %d cells", MaxCells)
		}
	}
	var leave []map[string]string // folded name to value
	for _, t := range m.exclude {
		v, err := t.eval(in)
		if err != nil {
			return nil, err
		}
		want := map[string]string{}
		obj, _ := v.(map[string]any)
		for k, x := range obj {
			val, err := waybill.ValueOf(x)
			if err != nil {
				return nil, err
			}
			want[strings.ToLower(k)] = string(val)
		}
		leave = append(leave, want)
	}
	cells := make([]waybill.Vars, 0, total)
	for i := range total {
		var cell waybill.Vars
		rest, size := i, total
		for d, l := range lists {
			size /= len(l)
			v, err := waybill.ValueOf(l[rest/size])
			if err != nil {
				return nil, err
			}
			rest %= size
			cell.Set(m.names[d], v)
		}
		if !slices.ContainsFunc(leave, func(want map[string]string) bool {
			for k, x := range want {
				if v, _ := cell.Get(k); string(v) != x {
					return false
				}
			}
			return len(want) > 0
		}) {
			cells = append(cells, cell)
		}
	}
	return cells, nil
}

// Slots evaluates what a run has to hold while it is open, if anything.
func (p *Plan) Slots(sc Scope) ([]waybill.Slot, error) {
	c := p.Concurrency
	if c == nil {
		return nil, nil
	}
	key := ""
	if c.key != nil {
		var err error
		if key, err = c.key.eval(&scope{Scope: sc}); err != nil {
			return nil, err
		}
	}
	if len(key) > 200 {
		return nil, &waybill.Error{Kind: waybill.KindInvalid, Op: "concurrency of pipeline", Subject: p.Name, Msg: "the key is longer than 200 bytes"}
	}
	if !c.Global {
		key = p.Name + "/" + key
	}
	return []waybill.Slot{{Key: key, Limit: c.Limit, Policy: c.Policy}}, nil
}

// Results evaluates the outputs of the pipeline when its steps have ended.
func (p *Plan) Results(sc Scope) (waybill.Vars, error) {
	var out waybill.Vars
	in := &scope{Scope: sc}
	for _, r := range p.results {
		raw, err := r.value.json(in)
		if err != nil {
			return waybill.Vars{}, err
		}
		out.Set(r.name, waybill.Value(raw))
	}
	return out, nil
}

// Wanted evaluates the step's condition. A step without one is wanted.
func (s *Step) Wanted(sc Scope) (bool, error) {
	if s.cond == nil {
		return true, nil
	}
	v, err := s.cond.value(&scope{Scope: sc})
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		text, _ := textOf(v)
		return false, s.fail("if: expected true or false, found %s", clip(text))
	}
	return b, nil
}

// Control reports whether the engine itself makes the step: no unit is started for it.
func (s *Step) Control() bool {
	return s.Runner == RunnerWait || s.Runner == RunnerApproval || s.Runner == RunnerPipeline
}

// Tries reports whether the step is tried again after so many failures, the last of
// which was of the given status, reason and exit code.
func (r Retry) Tries(failures int, status waybill.Status, reason string, code *int) bool {
	if failures > r.Max {
		return false
	}
	if len(r.On) == 0 {
		return true
	}
	return slices.ContainsFunc(r.On, func(on string) bool {
		if want, ok := strings.CutPrefix(on, "exit:"); ok {
			return code != nil && fmt.Sprint(*code) == want
		}
		return on == string(status) || on == reason
	})
}

var retryWord = regexp.MustCompile(`^([a-z][a-z0-9_]*|exit:[0-9]{1,3})$`)

func (d *definition) readRetryOn(what string, n *node, r *Retry) {
	if n.kind != kindList || len(n.list) == 0 {
		d.wrong(what, "a list such as [timed_out, exit:75]", n)
		return
	}
	for i, x := range n.list {
		if x.kind == kindInt { // an exit code
			x = &node{kind: kindString, at: x.at, text: "exit:" + x.text}
		}
		w, ok := d.str(fmt.Sprintf("%s[%d]", what, i), x)
		if !ok {
			continue
		}
		if !retryWord.MatchString(w) {
			d.add(x.at, "", "%s[%d]: expected failed, timed_out, exit:CODE or the reason of a failed attempt, found %s", what, i, clip(w))
			continue
		}
		r.On = append(r.On, w)
	}
}

func (d *definition) readConcurrency(n *node) {
	const what = "concurrency"
	if !d.object(what, n, concurrencyKeys) {
		return
	}
	c := &Concurrency{Limit: 1, Policy: waybill.SlotQueue}
	if x := n.get("limit"); x != nil {
		c.Limit, _ = d.integer(what+".limit", x, 1, 100_000)
	}
	if x := n.get("policy"); x != nil {
		c.Policy = waybill.SlotPolicy(d.oneOf(what+".policy", x, "queue", "skip", "cancel"))
	}
	if x := n.get("scope"); x != nil {
		c.Global = d.oneOf(what+".scope", x, "pipeline", "global") == "global"
	}
	if x := n.get("key"); x != nil {
		c.key = d.scalar(what+".key", x, nil)
	} else if c.Global {
		d.add(n.at, "", "%s: a global limit needs a key", what)
	}
	d.plan.Concurrency = c
}

// oneOf reads a word of a list.
func (d *document) oneOf(what string, n *node, words ...string) string {
	s, ok := d.str(what, n)
	if !ok {
		return words[0]
	}
	if !slices.Contains(words, s) {
		d.add(n.at, didYouMean(s, words), "%s: expected one of %s, found %s", what, strings.Join(words, ", "), clip(s))
		return words[0]
	}
	return s
}

func (d *definition) readResults(n *node) {
	if n.kind != kindMap {
		d.wrong("outputs", "an object", n)
		return
	}
	seen := caseless{}
	for _, f := range n.fields {
		if !d.varName("output", f) || !seen.check(d.document, "output", f) {
			continue
		}
		t, _ := d.tree(f.val, &where{what: "outputs." + f.key, final: true})
		d.plan.results = append(d.plan.results, result{f.key, t})
	}
}

// readMatrix reads the shape of a matrix; its values are read with the other expressions.
func (d *definition) readMatrix(s *Step, what string, n *node) {
	if !d.object(what, n, matrixKeys) {
		return
	}
	m := &Matrix{MaxParallel: DefaultParallel, FailFast: true, step: s}
	if x := n.get("max_parallel"); x != nil {
		m.MaxParallel, _ = d.integer(what+".max_parallel", x, 1, MaxCells)
	}
	if x := n.get("fail_fast"); x != nil {
		m.FailFast = d.boolean(what+".fail_fast", x)
	}
	v := n.get("values")
	switch {
	case v == nil:
		d.add(n.at, "add values: {shard: [1, 2, 3]}", "%s has no values", what)
		return
	case v.kind != kindMap:
		d.wrong(what+".values", "an object of lists", v)
		return
	case len(v.fields) == 0:
		d.add(v.at, "", "%s.values is empty", what)
		return
	}
	seen := caseless{}
	for _, f := range v.fields {
		if !d.varName("matrix value", f) || !seen.check(d.document, "matrix value", f) {
			continue
		}
		if f.val.kind != kindList && (f.val.kind != kindString || !strings.HasPrefix(strings.TrimSpace(f.val.text), "${{")) {
			d.wrong(what+".values."+f.key, "a list, or an expression that gives one", f.val)
			continue
		}
		m.names = append(m.names, f.key)
	}
	s.Matrix = m
}

func (d *definition) fillMatrix(s *Step, what string, n *node) {
	m := s.Matrix
	values := n.get("values")
	cells := 1
	for _, name := range m.names {
		x := values.get(name)
		t, _ := d.tree(x, &where{what: what + ": matrix.values." + name, step: s, early: true})
		m.values = append(m.values, t)
		if x.kind == kindList {
			if cells *= len(x.list); cells > MaxCells {
				d.add(x.at, "", "%s: the matrix has more than %d cells", what, MaxCells)
				cells = 1
			}
		}
	}
	ex := n.get("exclude")
	if ex == nil {
		return
	}
	if ex.kind != kindList {
		d.wrong(what+".matrix.exclude", "a list of objects", ex)
		return
	}
	for i, x := range ex.list {
		at := fmt.Sprintf("%s.matrix.exclude[%d]", what, i)
		if x.kind != kindMap || len(x.fields) == 0 {
			d.wrong(at, "an object such as {shard: 1}", x)
			continue
		}
		for _, f := range x.fields {
			if !containsFold(m.names, f.key) {
				d.add(f.at, didYouMean(f.key, m.names), "%s: the matrix has no value %s", at, clip(f.key))
			}
		}
		t, _ := d.tree(x, &where{what: at, step: s, early: true})
		m.exclude = append(m.exclude, t)
	}
}

// condition reads an "if": an expression with or without ${{ }} around it.
func (d *definition) condition(s *Step, what string, n *node) {
	w := &where{what: what + ": if", step: s, early: true}
	switch {
	case n.kind != kindString && n.kind != kindBool:
		d.wrong(what+".if", "an expression", n)
	case !strings.Contains(n.text, "${"):
		if e := d.compile(n, part{kind: partExpr, text: n.text, at: n.at}, w); e != nil {
			s.cond = &template{parts: []tpart{{expr: e}}}
		}
	default:
		t := d.template(n, w)
		if t != nil && (len(t.parts) != 1 || t.parts[0].expr == nil) {
			d.add(n.at, "write one expression: ${{ a && b }}", "%s.if: expected one expression that is true or false", what)
			return
		}
		s.cond = t
	}
}

func (d *definition) readInputs(s *Step, what string, n *node) {
	if n.kind != kindMap {
		d.wrong(what+".inputs", "an object of paths and what they hold", n)
		return
	}
	seen := map[string]bool{}
	for _, f := range n.fields {
		if why := cleanPath(f.key); why != "" {
			d.add(f.at, "", "%s.inputs: %s, found %s", what, why, clip(f.key))
			continue
		}
		if seen[f.key] {
			continue // a duplicate key is reported by the reader of YAML
		}
		seen[f.key] = true
		t, _ := d.tree(f.val, &where{what: what + ": inputs." + f.key, step: s})
		s.inputs = append(s.inputs, input{f.key, t})
	}
}

func (d *definition) readInherit(s *Step, what string, n *node) {
	switch n.kind {
	case kindString:
		s.InheritAll = d.oneOf(what+".inherit", n, "all", "none") == "all"
	case kindList:
		s.InheritAll = false
		for i, x := range n.list {
			name, ok := d.str(fmt.Sprintf("%s.inherit[%d]", what, i), x)
			if ok && !hasPrefix(name, d.prefix) && d.vars[strings.ToLower(name)] == "" {
				d.add(x.at, didYouMean(name, d.varNames), "%s.inherit: variable %s is not declared under vars and does not begin with %s", what, clip(name), d.prefix)
			} else if ok {
				s.Inherit = append(s.Inherit, name)
			}
		}
	default:
		d.wrong(what+".inherit", "all, none or a list of variables", n)
	}
}

// Inherits reports whether the step's unit gets a variable of the run in its environment.
func (s *Step) Inherits(name, prefix string) bool {
	if s.InheritAll {
		return hasPrefix(name, prefix)
	}
	return containsFold(s.Inherit, name)
}

// Put is an output file that becomes an object as well.
type Put struct {
	Output string `json:"output"`
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
}

// Input is a file that a unit finds in its folder.
type Input struct {
	Path  string        `json:"path"`
	Value waybill.Value `json:"value"` // a file reference, {bucket, key, version}, text, or any JSON
}

// buildFiles evaluates what the step reads and writes as files.
func (s *Step) buildFiles(in *scope, b *Built) error {
	for _, x := range s.inputs {
		raw, err := x.value.json(in)
		if err != nil {
			return err
		}
		b.Inputs = append(b.Inputs, Input{x.path, waybill.Value(raw)})
	}
	for _, o := range s.Outputs {
		if o.Bucket == "" {
			continue
		}
		p := Put{Output: o.Name, Bucket: o.Bucket}
		var err error
		if p.Key, err = o.key.eval(in); err != nil {
			return err
		}
		if p.Key == "" {
			return s.fail("outputs.%s.key is empty", o.Name)
		}
		b.Puts = append(b.Puts, p)
	}
	return nil
}

// The settings of the runners that the engine is itself. They are read from "with".
type (
	// WaitFor is what a step with the runner "wait" waits for. Exactly one is set.
	WaitFor struct {
		For   string    `json:"for,omitempty"`  // a duration
		Until time.Time `json:"until,omitzero"` // an instant; one that is over is no wait
	}
	// Ask is the question of a step with the runner "approval".
	Ask struct {
		Message   string                     `json:"message,omitempty"`
		Role      waybill.Role               `json:"role,omitempty"`
		Approvers []string                   `json:"approvers,omitempty"`
		Form      map[string]json.RawMessage `json:"form,omitempty"`
		Expires   string                     `json:"expires,omitempty"`
		OnReject  string                     `json:"on_reject,omitempty"` // fail or continue
		OnExpiry  string                     `json:"on_expiry,omitempty"` // fail or continue
	}
	// Call is the start of a step with the runner "pipeline".
	Call struct {
		Pipeline string                   `json:"pipeline"`
		Params   map[string]waybill.Value `json:"params,omitempty"`
		Vars     map[string]waybill.Value `json:"vars,omitempty"`
	}
)

// strict decodes settings and names what is not known.
func strict(with json.RawMessage, into any) error {
	if len(with) == 0 {
		with = json.RawMessage("{}")
	}
	dec := json.NewDecoder(strings.NewReader(string(with)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return waybill.E(waybill.KindInvalid, "with: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// ReadWait reads and checks the settings of a wait, and returns when it is over.
func ReadWait(with json.RawMessage, now time.Time) (time.Time, error) {
	var w WaitFor
	if err := strict(with, &w); err != nil {
		return time.Time{}, err
	}
	switch {
	case (w.For == "") == w.Until.IsZero():
		return time.Time{}, waybill.E(waybill.KindInvalid, "a wait has either for or until").WithHint("with: {for: 10m}")
	case w.For != "":
		d, err := parseDuration(w.For)
		if err != nil {
			return time.Time{}, waybill.E(waybill.KindInvalid, "with.for: %v", err).WithHint(durationRule)
		}
		return now.Add(d), nil
	}
	return w.Until.UTC(), nil
}

// ReadAsk reads and checks the settings of an approval.
func ReadAsk(with json.RawMessage, now time.Time) (Ask, *waybill.Approval, error) {
	a := Ask{Role: waybill.RoleOperator, OnReject: "fail", OnExpiry: "fail"}
	if err := strict(with, &a); err != nil {
		return a, nil, err
	}
	q := &waybill.Approval{Message: a.Message, Role: a.Role, Approvers: a.Approvers}
	switch a.Role {
	case waybill.RoleOperator, waybill.RoleAdmin:
	default:
		return a, nil, waybill.E(waybill.KindInvalid, "with.role: expected operator or admin, found %s", clip(string(a.Role)))
	}
	for _, x := range [][2]string{{"on_reject", a.OnReject}, {"on_expiry", a.OnExpiry}} {
		if x[1] != "fail" && x[1] != "continue" {
			return a, nil, waybill.E(waybill.KindInvalid, "with.%s: expected fail or continue, found %s", x[0], clip(x[1]))
		}
	}
	if a.Expires != "" {
		d, err := parseDuration(a.Expires)
		if err != nil {
			return a, nil, waybill.E(waybill.KindInvalid, "with.expires: %v", err).WithHint(durationRule)
		}
		q.ExpiresAt = now.Add(d)
	}
	names := make([]string, 0, len(a.Form))
	for n := range a.Form {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f, err := readField(n, a.Form[n])
		if err != nil {
			return a, nil, err
		}
		q.Form = append(q.Form, f)
	}
	return a, q, nil
}

func readField(name string, raw json.RawMessage) (waybill.Field, error) {
	f := waybill.Field{Name: name, Type: waybill.TypeString}
	if err := waybill.CheckName(name); err != nil {
		return f, waybill.E(waybill.KindInvalid, "with.form: %v", err)
	}
	var x struct {
		Type        waybill.ValueType `json:"type"`
		Description string            `json:"description"`
		Required    bool              `json:"required"`
		Default     waybill.Value     `json:"default"`
		Enum        []waybill.Value   `json:"enum"`
	}
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &x.Type); err != nil {
			return f, err
		}
	} else if err := strict(raw, &x); err != nil {
		return f, waybill.E(waybill.KindInvalid, "with.form.%s: %v", name, err)
	}
	if x.Type == "" {
		x.Type = waybill.TypeString
	}
	if x.Type == waybill.TypeFile || !slices.Contains(valueTypes, string(x.Type)) {
		return f, waybill.E(waybill.KindInvalid, "with.form.%s: expected one of %s, found %s", name, strings.Join(valueTypes[:len(valueTypes)-1], ", "), clip(string(x.Type)))
	}
	return waybill.Field{Name: name, Type: x.Type, Description: x.Description, Required: x.Required, Default: x.Default, Enum: x.Enum}, nil
}

// approvalHas are the outputs of every approval; the fields of its form come besides.
var approvalHas = []string{"decision", "by", "comment"}

// asks reports whether the form of an approval has a field.
func (s *Step) asks(name string) bool {
	if s.with == nil {
		return false
	}
	for i, k := range s.with.keys {
		if k == "form" {
			return containsFold(s.with.list[i].keys, name)
		}
	}
	return true
}

// BindForm checks what was filled into a form, and completes it with defaults.
func BindForm(form []waybill.Field, given waybill.Vars) (waybill.Vars, error) {
	p := Plan{Name: "form"}
	for _, f := range form {
		p.Params = append(p.Params, Param{Name: f.Name, Type: f.Type, Default: f.Default, Required: f.Required, Enum: f.Enum})
	}
	in := map[string]waybill.Value{}
	for _, n := range given.Names() {
		in[n], _ = given.Get(n)
	}
	out, err := p.BindParams(in)
	if err != nil {
		msg := err.Error()
		if we, ok := err.(*waybill.Error); ok {
			msg = strings.ReplaceAll(we.Msg, "parameter", "field")
		}
		return out, waybill.E(waybill.KindInvalid, "%s", msg)
	}
	return out, nil
}

// ReadCall reads and checks the settings of a sub-pipeline.
func ReadCall(with json.RawMessage) (Call, error) {
	var c Call
	if err := strict(with, &c); err != nil {
		return c, err
	}
	if !nameRule.MatchString(c.Pipeline) {
		return c, waybill.E(waybill.KindInvalid, "with.pipeline: expected the name of a pipeline, found %q", clip(c.Pipeline)).
			WithHint("with: {pipeline: my-pipeline, params: {…}}")
	}
	return c, nil
}

// checkControl checks the settings of a step that the engine makes itself.
func checkControl(runner string, args []string, with json.RawMessage) error {
	if len(args) > 0 {
		return waybill.E(waybill.KindInvalid, "a step with the runner %s has no run", runner)
	}
	var err error
	switch runner {
	case RunnerWait:
		_, err = ReadWait(with, time.Time{})
	case RunnerApproval:
		_, _, err = ReadAsk(with, time.Time{})
	case RunnerPipeline:
		_, err = ReadCall(with)
	}
	return err
}
