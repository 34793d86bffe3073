package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/expression"
)

// Limits of expressions over an answer.
const (
	maxExpr   = 4096            // characters
	maxCost   = 2_000_000       // units of CEL's own measure of an evaluation
	maxTime   = 2 * time.Second // of an evaluation
	maxResult = 1 << 20         // bytes of a result, as much as a unit may return
)

var language = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("status", cel.IntType),
		cel.Variable("headers", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("body", cel.DynType),
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpr),
		cel.ParserRecursionLimit(60),
		expression.Default(),
	)
})

// program is a compiled expression.
type program struct {
	key, text string
	code      cel.Program
	uses      map[string]bool // the variables it reads
}

// asks reports whether an expression, if there is one, reads a variable.
func (p *program) asks(name string) bool { return p != nil && p.uses[name] }

// compile checks an expression. Errors are of kind invalid and show the place.
func compile(key, text string) (*program, error) {
	env, err := language()
	if err != nil {
		return nil, err
	}
	checked, iss := env.Compile(text)
	if iss.Err() != nil {
		e := iss.Errors()[0]
		msg := strings.TrimPrefix(e.Message, "Syntax error: ")
		if i := strings.Index(msg, " expecting {"); i >= 0 {
			msg = msg[:i]
		}
		msg = strings.ReplaceAll(msg, "'<EOF>'", "the end of the expression")
		if strings.Contains(msg, "undeclared reference") {
			msg += "; an expression knows status, headers and body"
		}
		return nil, waybill.E(waybill.KindInvalid, "with: %s: character %d: %.300s", key, e.Location.Column()+1, msg)
	}
	code, err := env.Program(checked, cel.CostLimit(maxCost), cel.InterruptCheckFrequency(200))
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "with: %s: %w", key, err)
	}
	p := &program{key, text, code, map[string]bool{}}
	ast.PostOrderVisit(checked.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind {
			p.uses[e.AsIdent()] = true
		}
	}))
	return p, nil
}

// eval evaluates the expression over an answer.
func (p *program) eval(a *answer) (ref.Val, error) {
	body, err := a.value()
	if err != nil && p.asks("body") {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	v, _, err := p.code.ContextEval(ctx, map[string]any{"status": int64(a.status), "headers": a.headers(), "body": body})
	if err != nil {
		msg := err.Error()
		switch {
		case strings.Contains(msg, "cost limit exceeded"), strings.Contains(msg, "interrupted"):
			msg = "the expression does too much work"
		case strings.Contains(msg, expression.NoSuchKey):
			msg = "the answer has no " + strings.TrimPrefix(msg[strings.Index(msg, expression.NoSuchKey)+len(expression.NoSuchKey):], ": ") +
				"; default(value, other) stands in for a missing one"
		}
		return nil, fmt.Errorf("%s: %s: %s", p.key, p.text, msg)
	}
	return v, nil
}

// truth evaluates a condition.
func (p *program) truth(a *answer) (bool, error) {
	v, err := p.eval(a)
	if err != nil {
		return false, err
	}
	if b, ok := v.(types.Bool); ok {
		return bool(b), nil
	}
	return false, fmt.Errorf("%s: %s: expected true or false, found %s", p.key, p.text, v.Type().TypeName())
}

// json evaluates to a value of the step's output file.
func (p *program) json(a *answer) (json.RawMessage, error) {
	v, err := p.eval(a)
	if err != nil {
		return nil, err
	}
	n, err := expression.Native(v)
	var b []byte
	if err == nil {
		b, err = json.Marshal(n)
	}
	if err == nil && len(b) > maxResult {
		err = expression.ErrTooLong
	}
	if errors.Is(err, expression.ErrTooLong) {
		err = fmt.Errorf("%w; save the body as a file", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", p.key, p.text, err)
	}
	return b, nil
}
