package pipeline

import (
	"slices"
	"strings"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// reserved words of CEL cannot be names after a dot.
var reserved = []string{"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in",
	"let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while"}

// plainPath takes apart an expression that is nothing but a path such as
// steps.fetch.outputs.rows. Most expressions are, and reading them here instead
// of with the CEL parser makes validating a large file several times faster.
func plainPath(text string) (root string, off int, segs []seg) {
	s := dashes(text)
	start := 0
	for start < len(s) && s[start] == ' ' {
		start++
	}
	s = strings.TrimRight(s, " ")
	for i := start; ; {
		j := i
		for j < len(s) && isWord(s[j]) {
			j++
		}
		word := s[i:j]
		if word == "" || word[0] >= '0' && word[0] <= '9' || slices.Contains(reserved, word) || len(segs) > 8 {
			return "", 0, nil
		}
		if i == start {
			root, off = word, i
		} else {
			segs = append(segs, seg{word, i, true, true})
		}
		switch {
		case j == len(s):
			if !slices.Contains(roots, root) {
				return "", 0, nil
			}
			return root, off, segs
		case s[j] != '.':
			return "", 0, nil
		}
		i = j + 1
	}
}

// refs checks the references of one expression.
type refs struct {
	d    *document
	w    *where
	at   func(int) place
	info *celast.SourceInfo
	bad  bool
}

func (r *refs) problem(off int, hint, format string, args ...any) {
	r.bad = true
	r.d.add(r.at(off), hint, "%s: "+format, append([]any{r.w.what}, args...)...)
}

// seg is one step of a path such as steps.fetch.outputs["rows"].
type seg struct {
	name  string
	off   int
	known bool // false for an index that is computed
	dot   bool
}

func (r *refs) start(e celast.Expr) int {
	o, _ := r.info.GetOffsetRange(e.ID())
	return int(o.Start)
}

// path takes e apart into its root and the segments after it. Computed indexes
// are returned in rest.
func (r *refs) path(e celast.Expr) (root celast.Expr, segs []seg, rest []celast.Expr) {
	for {
		switch {
		case e.Kind() == celast.SelectKind:
			s := e.AsSelect()
			off := r.start(e) + 1
			if s.IsTestOnly() {
				o, _ := r.info.GetOffsetRange(s.Operand().ID())
				off = int(o.Stop) + 1
			}
			segs = append(segs, seg{s.FieldName(), off, true, true})
			e = s.Operand()
		case e.Kind() == celast.CallKind && e.AsCall().FunctionName() == operators.Index:
			args := e.AsCall().Args()
			g := seg{off: r.start(args[1])}
			if args[1].Kind() == celast.LiteralKind {
				if s, ok := args[1].AsLiteral().(types.String); ok {
					g.name, g.known = string(s), true
				}
			} else {
				rest = append(rest, args[1])
			}
			segs = append(segs, g)
			e = args[0]
		default:
			slices.Reverse(segs)
			return e, segs, rest
		}
	}
}

func (r *refs) walk(e celast.Expr, locals []string) {
	switch e.Kind() {
	case celast.IdentKind, celast.SelectKind, celast.CallKind:
		root, segs, rest := r.path(e)
		for _, x := range rest {
			r.walk(x, locals)
		}
		switch {
		case root.Kind() == celast.IdentKind:
			if name := root.AsIdent(); !slices.Contains(locals, name) {
				r.check(name, r.start(root), segs)
			}
		case root.Kind() == celast.CallKind:
			c := root.AsCall()
			if c.IsMemberFunction() {
				r.walk(c.Target(), locals)
			}
			for _, a := range c.Args() {
				r.walk(a, locals)
			}
		default:
			r.walk(root, locals)
		}
	case celast.ListKind:
		for _, x := range e.AsList().Elements() {
			r.walk(x, locals)
		}
	case celast.MapKind:
		for _, x := range e.AsMap().Entries() {
			r.walk(x.AsMapEntry().Key(), locals)
			r.walk(x.AsMapEntry().Value(), locals)
		}
	case celast.StructKind:
		for _, x := range e.AsStruct().Fields() {
			r.walk(x.AsStructField().Value(), locals)
		}
	case celast.ComprehensionKind:
		c := e.AsComprehension()
		r.walk(c.IterRange(), locals)
		r.walk(c.AccuInit(), locals)
		inner := append(slices.Clone(locals), c.IterVar(), c.AccuVar())
		if c.HasIterVar2() {
			inner = append(inner, c.IterVar2())
		}
		r.walk(c.LoopCondition(), inner)
		r.walk(c.LoopStep(), inner)
		r.walk(c.Result(), inner)
	}
}

var typeNames = []string{"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint", "dyn", "google"}

func (r *refs) check(root string, off int, segs []seg) {
	first := func(i int) (seg, bool) {
		if i < len(segs) && segs[i].known {
			return segs[i], true
		}
		return seg{}, false
	}
	oneOf := func(i int, what string, have []string) {
		if s, ok := first(i); ok && !slices.Contains(have, s.name) {
			r.problem(s.off, cmpOr(didYouMean(s.name, have), what+" has "+strings.Join(have, ", ")), "%s has no %s", what, clip(s.name))
		}
	}
	if r.w.event && root != "event" && slices.Contains(roots, root) {
		r.problem(off, "", "%s cannot be used here: only event is known before a run starts", root)
		return
	}
	switch root {
	case "event":
		oneOf(0, "event", eventHas)
		if s, ok := first(0); ok && s.name == "object" {
			oneOf(1, "event.object", objHas)
		}
	case "run":
		have := runHas
		if r.w.step != nil && r.w.step.Group != GroupMain || r.w.final {
			have = append(slices.Clone(runHas), runEndHas...)
		}
		if s, ok := first(0); ok && len(have) == len(runHas) && slices.Contains(runEndHas, s.name) {
			r.problem(s.off, "", "run.%s is known only in on_failure and always", s.name)
			return
		}
		oneOf(0, "run", have)
	case "params":
		if s, ok := first(0); ok && r.d.params[strings.ToLower(s.name)] == "" {
			r.problem(s.off, didYouMean(s.name, r.d.paramNames), "there is no parameter %s", clip(s.name))
		}
	case "vars":
		if s, ok := first(0); ok {
			r.variable(s)
		}
	case "matrix":
		r.matrix(off, segs)
	case "steps":
		r.step(off, segs)
	default:
		if !slices.Contains(typeNames, root) {
			r.problem(off, cmpOr(didYouMean(root, roots), "expressions know "+strings.Join(roots, ", ")), "unknown name %s", clip(root))
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (r *refs) variable(s seg) {
	k := strings.ToLower(s.name)
	switch {
	case r.w.step != nil || !r.d.pending[k]:
	case strings.EqualFold(r.w.what, "vars."+s.name):
		r.problem(s.off, "", "a variable cannot use itself")
		return
	default:
		r.problem(s.off, "variables are set from top to bottom", "variable %s is set below", clip(s.name))
		return
	}
	if r.d.vars[k] != "" || strings.HasPrefix(k, strings.ToLower(r.d.prefix)) {
		return
	}
	r.problem(s.off, didYouMean(s.name, r.d.varNames),
		"variable %s is not declared under vars and does not begin with %s", clip(s.name), r.d.prefix)
}

func (r *refs) matrix(off int, segs []seg) {
	switch {
	case r.w.step == nil || r.w.step.Matrix == nil:
		r.problem(off, "", "matrix is known only in a step with a matrix")
	case r.w.early:
		r.problem(off, "", "matrix cannot be used here: this is evaluated once, before there are cells")
	case len(segs) > 0 && segs[0].known && !containsFold(r.w.step.Matrix.names, segs[0].name):
		have := r.w.step.Matrix.names
		r.problem(segs[0].off, cmpOr(didYouMean(segs[0].name, have), "it has "+strings.Join(have, ", ")), "the matrix has no value %s", clip(segs[0].name))
	}
}

func (r *refs) step(off int, segs []seg) {
	if r.w.step == nil && !r.w.final {
		r.problem(off, "", "steps cannot be used here: variables are set before the first step")
		return
	}
	if len(segs) == 0 || !segs[0].known {
		r.problem(off, "write steps.NAME.outputs.NAME", "steps wants the name of a step")
		return
	}
	name := segs[0].name
	if segs[0].dot {
		name = strings.ReplaceAll(name, "_", "-")
	}
	s := r.d.steps[name]
	if s == nil {
		r.problem(segs[0].off, didYouMean(name, r.d.stepNames), "there is no step %s", clip(name))
		return
	}
	if s == r.w.step {
		r.problem(segs[0].off, "", "a step cannot use its own results")
		return
	}
	if !r.w.final && !r.d.upstream(r.w.step, s) {
		r.problem(segs[0].off, "add it to needs", "step %s does not need step %s, so its results may not be there", r.w.step.Name, name)
		return
	}
	if len(segs) < 2 {
		r.problem(segs[0].off, "a step has "+strings.Join(stepHas, ", "), "steps.%s cannot be used as a whole", name)
		return
	}
	if !segs[1].known || !slices.Contains(stepHas, segs[1].name) {
		r.problem(segs[1].off, cmpOr(didYouMean(segs[1].name, stepHas), "a step has "+strings.Join(stepHas, ", ")), "a step has no %s", clip(segs[1].name))
		return
	}
	if segs[1].name != "outputs" || len(segs) < 3 || !segs[2].known || s.Runner == RunnerPipeline {
		return
	}
	if s.Runner == RunnerApproval && (slices.Contains(approvalHas, segs[2].name) || s.asks(segs[2].name)) {
		return
	}
	if s.output(segs[2].name) == nil && !r.d.badOutputs[s.Name] {
		var have []string
		for _, o := range s.Outputs {
			have = append(have, o.Name)
		}
		r.problem(segs[2].off, cmpOr(didYouMean(segs[2].name, have), "declare it under outputs of that step"), "step %s declares no output %s", name, clip(segs[2].name))
	}
}
