package pipeline

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// maxPreviewCells is how many cells of a matrix a preview shows.
const maxPreviewCells = 100

// Preview says what a run would do whose parameters and first variables are in sc.
// What steps return is not known: expressions over it stay as they are written. Nothing
// is stored or started. Safe for concurrent use.
func (p *Plan) Preview(sc Scope) []waybill.PlannedStep {
	out := []waybill.PlannedStep{}
	for level, steps := range p.levels() {
		for _, s := range steps {
			v := &preview{scope: sc, unknown: map[string]bool{}, set: p.setBefore(s)}
			x := waybill.PlannedStep{
				Name: s.Name, Group: s.Group, Level: level, Runner: s.Runner, Needs: s.Needs, Runs: waybill.PlannedYes,
				Timeout: s.Timeout.String(), Retries: s.Retry.Max,
			}
			v.condition(s, &x)
			v.step(s, &x)
			for e := range v.unknown {
				x.Unknown = append(x.Unknown, e)
			}
			slices.Sort(x.Unknown)
			x.Problem = v.problem
			out = append(out, x)
		}
	}
	// The groups run one after the other; within each, level after level.
	groups := Groups()
	slices.SortStableFunc(out, func(a, b waybill.PlannedStep) int {
		return slices.Index(groups, a.Group) - slices.Index(groups, b.Group)
	})
	return out
}

// setBefore are the variables, in small letters, that steps before s may set: their
// values are not known.
func (p *Plan) setBefore(s *Step) map[string]bool {
	set := map[string]bool{}
	for _, other := range p.Steps {
		if other == s || other.Group == s.Group && other.Index > s.Index {
			continue
		}
		for _, o := range other.Outputs {
			if hasPrefix(o.Name, p.Prefix) {
				set[strings.ToLower(o.Name)] = true
			}
		}
	}
	return set
}

// preview evaluates what can be.
type preview struct {
	scope   Scope
	set     map[string]bool
	unknown map[string]bool
	problem string
}

// onlyLater are expressions that nobody can evaluate before the run.
var (
	onlyLater = regexp.MustCompile(`(^|[^.\w])(steps\s*[.\[]|run\s*\.\s*(id|status|error|failed_step)\b)`)
	varUsed   = regexp.MustCompile(`(^|[^.\w])vars\s*(?:\.\s*([A-Za-z_][A-Za-z0-9_]*)|\[)`)
	quoted    = regexp.MustCompile(`'[^']*'|"[^"]*"`)
)

// waits reports whether an expression needs what only the run will know.
func (v *preview) waits(src string) bool {
	bare := quoted.ReplaceAllString(src, "''")
	if onlyLater.MatchString(bare) {
		return true
	}
	for _, m := range varUsed.FindAllStringSubmatch(bare, -1) {
		if m[2] == "" && len(v.set) > 0 || v.set[strings.ToLower(m[2])] {
			return true
		}
		if _, ok := v.scope.Vars.Get(m[2]); m[2] != "" && !ok {
			return true // a step may set it without having said so
		}
	}
	return false
}

// expr evaluates an expression, or reports that it cannot be yet.
func (v *preview) expr(e *expr, sc Scope) (any, bool) {
	if v.waits(e.src) {
		v.unknown[strings.TrimSpace(e.src)] = true
		return "${{" + e.src + "}}", false
	}
	x, err := e.eval(&scope{Scope: sc})
	if err != nil {
		if v.problem == "" {
			v.problem = err.Error()
		}
		return "${{" + e.src + "}}", false
	}
	return x, true
}

// template evaluates a text.
func (v *preview) template(t *template, sc Scope) (any, bool) {
	if len(t.parts) == 1 && t.parts[0].expr != nil {
		return v.expr(t.parts[0].expr, sc)
	}
	var b strings.Builder
	known := true
	for _, p := range t.parts {
		switch {
		case p.expr != nil:
			x, ok := v.expr(p.expr, sc)
			known = known && ok
			text, err := textOf(x)
			if err != nil && v.problem == "" {
				v.problem = err.Error()
			}
			b.WriteString(text)
		case p.secret != "":
			b.WriteString("${secret:" + p.secret + "}")
		default:
			b.WriteString(p.text)
		}
	}
	return b.String(), known
}

func (v *preview) text(t *template, sc Scope) string {
	x, _ := v.template(t, sc)
	text, err := textOf(x)
	if err != nil && v.problem == "" {
		v.problem = err.Error()
	}
	return text
}

func (v *preview) tree(t *tree, sc Scope) any {
	switch {
	case t.text != nil:
		x, _ := v.template(t.text, sc)
		return x
	case t.obj:
		m := make(map[string]any, len(t.keys))
		for i, k := range t.keys {
			m[k] = v.tree(t.list[i], sc)
		}
		return m
	case t.list != nil:
		l := make([]any, len(t.list))
		for i, c := range t.list {
			l[i] = v.tree(c, sc)
		}
		return l
	}
	return t.raw
}

func (v *preview) condition(s *Step, x *waybill.PlannedStep) {
	if s.Group == GroupFailure {
		x.Runs = waybill.PlannedUnknown
	}
	if s.cond == nil {
		return
	}
	x.If = strings.TrimSpace(s.cond.parts[0].expr.src)
	val, known := v.expr(s.cond.parts[0].expr, v.scope)
	switch b, isBool := val.(bool); {
	case !known || !isBool:
		x.Runs = waybill.PlannedUnknown
	case !b:
		x.Runs = waybill.PlannedNo
	}
}

// built is what a unit would be started with.
func (v *preview) built(s *Step, sc Scope) (args []string, env map[string]string, with json.RawMessage) {
	for _, t := range s.args {
		args = append(args, v.text(t, sc))
	}
	for _, e := range s.env {
		if env == nil {
			env = map[string]string{}
		}
		env[e.name] = v.text(e.value, sc)
	}
	if s.with != nil {
		b, err := waybill.ValueOf(v.tree(s.with, sc))
		if err != nil && v.problem == "" {
			v.problem = err.Error()
		}
		with = json.RawMessage(b)
	}
	return args, env, with
}

func (v *preview) step(s *Step, x *waybill.PlannedStep) {
	if s.Matrix == nil {
		x.Args, x.Env, x.With = v.built(s, v.scope)
		for _, in := range s.inputs {
			if x.Inputs == nil {
				x.Inputs = map[string]any{}
			}
			x.Inputs[in.path] = v.tree(in.value, v.scope)
		}
		return
	}
	x.Parallel = s.Matrix.MaxParallel
	for _, t := range append(slices.Clone(s.Matrix.values), s.Matrix.exclude...) {
		if v.pending(t) {
			x.CellsOf = waybill.PlannedUnknown
			v.tree(t, v.scope) // notes what it waits for
			return
		}
	}
	cells, err := s.Matrix.Cells(v.scope)
	if err != nil {
		v.problem = err.Error()
		return
	}
	for i, values := range cells[:min(len(cells), maxPreviewCells)] {
		sc := v.scope
		sc.Matrix = values
		c := waybill.PlannedCell{Index: i, Values: values}
		c.Args, c.Env, c.With = v.built(s, sc)
		x.Cells = append(x.Cells, c)
	}
}

// pending reports whether a value waits for the run.
func (v *preview) pending(t *tree) bool {
	if t.text != nil {
		return slices.ContainsFunc(t.text.parts, func(p tpart) bool { return p.expr != nil && v.waits(p.expr.src) })
	}
	return slices.ContainsFunc(t.list, v.pending)
}
