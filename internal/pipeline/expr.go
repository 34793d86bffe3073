package pipeline

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/expression"
)

// Limits of expressions: what a definition may ask of the server that reads and
// evaluates it.
const (
	maxExpr     = 4096            // characters
	maxExprs    = 50_000          // expressions of one file
	maxNesting  = 60              // parentheses, calls and operators inside each other
	maxExprTree = 2_000           // parts after macros are expanded
	maxCost     = 200_000         // units of CEL's own measure of an evaluation
	maxTime     = 2 * time.Second // of an evaluation; the cost limit ends nearly all before
)

// language returns the one CEL environment of the process. Making it takes
// milliseconds and memory, so it waits for the first expression; everything in
// it is dynamic, so that all plans can share it.
var language = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("event", cel.DynType),
		cel.Variable("matrix", cel.DynType),
		cel.Variable("params", cel.DynType),
		cel.Variable("run", cel.DynType),
		cel.Variable("steps", cel.DynType),
		cel.Variable("vars", cel.DynType),
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpr),
		cel.ParserRecursionLimit(maxNesting),
		cel.ExpressionNodeLimit(maxExprTree),
		cel.Function("format", cel.Overload("format_time_layout", []*cel.Type{cel.DynType, cel.StringType}, cel.StringType,
			cel.BinaryBinding(formatTime))),
		cel.Function("json", cel.Overload("json_any", []*cel.Type{cel.DynType}, cel.StringType,
			cel.UnaryBinding(toJSON))),
		expression.Default(),
	)
})

var (
	roots    = []string{"event", "matrix", "params", "run", "steps", "vars"}
	eventHas = []string{"id", "type", "source", "time", "subject", "data", "headers", "object"}
	objHas   = []string{"bucket", "key", "version", "size", "sha256"}
	runHas   = []string{"id", "pipeline", "version"}
	stepHas  = []string{"outputs", "status", "exit_code", "error"}
	// of a run that is about to end
	runEndHas = []string{"status", "error", "failed_step"}
)

func formatTime(at, layout ref.Val) ref.Val {
	var t time.Time
	switch v := at.(type) {
	case types.Timestamp:
		t = v.Time
	case types.String:
		p, err := time.Parse(time.RFC3339Nano, string(v))
		if err != nil {
			return types.NewErr("format: %q is not a time like 2006-01-02T15:04:05Z", clip(string(v)))
		}
		t = p
	default:
		return types.NewErr("format: expected a time, found %s", at.Type().TypeName())
	}
	return types.String(t.Format(string(layout.(types.String))))
}

func toJSON(v ref.Val) ref.Val {
	n, err := expression.Native(v)
	if err == nil {
		var b waybill.Value
		if b, err = waybill.ValueOf(n); err == nil && len(b) <= expression.MaxResult {
			return types.String(b)
		} else if err == nil {
			err = expression.ErrTooLong
		}
	}
	return types.NewErr("json: %v", err)
}

// expr is a compiled expression with its place.
type expr struct {
	src  string
	file string
	at   place
	what string // for messages: "step fetch: run[1]"
	code *code
}

// code is what expressions of the same text share. A plain path is checked
// without CEL, so its ast is nil until it is evaluated first.
type code struct {
	text string
	ast  *cel.Ast
	once sync.Once
	prog cel.Program
	err  error
}

func (c *code) program() (cel.Program, error) {
	c.once.Do(func() {
		env, err := language()
		if err != nil {
			c.err = err
			return
		}
		if c.ast == nil {
			ast, iss := env.Compile(dashes(c.text))
			if c.err = iss.Err(); c.err != nil {
				return
			}
			c.ast = ast
		}
		c.prog, c.err = env.Program(c.ast, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(200))
	})
	return c.prog, c.err
}

// eval evaluates the expression to JSON-like Go data.
func (e *expr) eval(sc *scope) (any, error) {
	p, err := e.code.program()
	if err != nil {
		return nil, e.fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	out, _, err := p.ContextEval(ctx, sc.activation())
	if err != nil {
		return nil, e.fail(err)
	}
	v, err := expression.Native(out)
	if err != nil {
		return nil, e.fail(err)
	}
	return v, nil
}

func (e *expr) fail(err error) error {
	msg := err.Error()
	switch {
	case strings.Contains(msg, "cost limit exceeded"), strings.Contains(msg, "operation interrupted"):
		msg = "the expression does too much work"
	case strings.Contains(msg, expression.NoSuchKey):
		msg = "there is no value " + strings.TrimPrefix(msg[strings.Index(msg, expression.NoSuchKey)+len(expression.NoSuchKey):], ": ") +
			"; default(value, other) stands in for a missing one"
	}
	return &waybill.Error{Kind: waybill.KindInvalid, Op: e.what,
		Msg: fmt.Sprintf("%s:%d:%d: ${{%s}}: %s", e.file, e.at.line, e.at.col, e.src, msg), Err: err}
}

// where says what an expression may refer to.
type where struct {
	what string
	step *Step // nil among the variables
	// event: nothing but the event is known, as in triggers.
	event bool
	// early: before the cells of a matrix are known. final: after all steps.
	early, final bool
	// secrets may stand there; where they may not, noSecrets says what to do instead.
	secrets   bool
	noSecrets string
}

// compile compiles an expression of a scalar, or returns nil after reporting
// every mistake in it.
func (d *document) compile(n *node, p part, w *where) *expr {
	if d.exprs++; d.exprs > maxExprs {
		if d.exprs == maxExprs+1 {
			d.add(p.at, "", "more than %d expressions in one file", maxExprs)
		}
		return nil
	}
	at := func(chars int) place {
		if d.full() {
			return p.at
		}
		off := 0
		for range max(0, chars) {
			if off >= len(p.text) {
				break
			}
			_, size := utf8.DecodeRuneInString(p.text[off:])
			off += size
		}
		return d.locate(n).at(p.off + off)
	}
	if strings.TrimSpace(p.text) == "" {
		d.add(p.at, "", "%s: an empty expression", w.what)
		return nil
	}
	if strings.Contains(p.text, "${env:") || strings.Contains(p.text, "${secret:") {
		d.add(p.at, "${env:…} can be given to a variable first, and both can stand beside ${{ }}", "%s: ${env:…} and ${secret:…} cannot stand inside ${{ }}", w.what)
		return nil
	}
	c := d.code[p.text]
	if root, off, segs := plainPath(p.text); root != "" {
		refs := &refs{d: d, w: w, at: at}
		if refs.check(root, off, segs); refs.bad {
			return nil
		}
		if c == nil {
			c = &code{text: p.text}
			d.code[p.text] = c
		}
		return &expr{src: p.text, file: d.file, at: p.at, what: w.what, code: c}
	}
	fresh := c == nil
	if fresh {
		env, err := language()
		if err != nil {
			d.add(p.at, "", "%s: %v", w.what, err)
			return nil
		}
		ast, iss := env.Parse(dashes(p.text))
		if iss.Err() != nil {
			d.celError(iss.Errors()[0], p, at, w)
			return nil
		}
		c = &code{text: p.text, ast: ast}
	}
	refs := &refs{d: d, w: w, at: at, info: c.ast.NativeRep().SourceInfo()}
	refs.walk(c.ast.NativeRep().Expr(), nil)
	if refs.bad {
		return nil
	}
	if fresh {
		env, _ := language()
		checked, iss := env.Check(c.ast)
		if iss.Err() != nil {
			for _, e := range iss.Errors() {
				d.celError(e, p, at, w)
			}
			return nil
		}
		c.ast = checked
		d.code[p.text] = c
	}
	return &expr{src: p.text, file: d.file, at: p.at, what: w.what, code: c}
}

// celError reports an error of the parser or checker at its place in the file.
func (d *document) celError(e *cel.Error, p part, at func(int) place, w *where) {
	msg := strings.TrimPrefix(e.Message, "Syntax error: ")
	if i := strings.Index(msg, " expecting {"); i >= 0 {
		msg = msg[:i]
	}
	msg = strings.ReplaceAll(msg, "'<EOF>'", "the end of the expression")
	msg = strings.TrimPrefix(msg, "mismatched input ")
	msg = strings.Replace(msg, "no viable alternative at input", "unexpected", 1)
	if msg != strings.TrimPrefix(e.Message, "Syntax error: ") && msg == "the end of the expression" {
		msg = "unexpected end of the expression"
	}
	off, line := 0, e.Location.Line()
	for ; line > 1; line-- {
		i := strings.IndexByte(p.text[off:], '\n')
		if i < 0 {
			break
		}
		off += i + 1
	}
	d.add(at(utf8.RuneCountInString(p.text[:off])+e.Location.Column()), "", "%s: expression: %s", w.what, clipTo(msg, 200))
}

// dashes rewrites steps.my-step to steps.my_step, of the same length, so that a
// step's name needs no brackets. It is safe because a step's name never holds _
// and nothing can be subtracted from a step.
func dashes(s string) string {
	const root = "steps."
	var out []byte
	for i := 0; i < len(s); {
		if s[i] == '\'' || s[i] == '"' {
			i = stringEnd(s, i)
			continue
		}
		if !strings.HasPrefix(s[i:], root) || i > 0 && (s[i-1] == '.' || isWord(s[i-1])) {
			i++
			continue
		}
		for i += len(root); i < len(s) && (isWord(s[i]) || s[i] == '-'); i++ {
			if s[i] == '-' && i+1 < len(s) && isWord(s[i+1]) {
				if out == nil {
					out = []byte(s)
				}
				out[i] = '_'
			}
		}
	}
	if out == nil {
		return s
	}
	return string(out)
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
