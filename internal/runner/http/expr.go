package http

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"

	"github.com/waybill-run/waybill"
)

// Limits of expressions over an answer.
const (
	maxExpr   = 4096            // characters
	maxCost   = 2_000_000       // units of CEL's own measure of an evaluation
	maxTime   = 2 * time.Second // of an evaluation
	maxDepth  = 64              // of a result
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
		cel.Function("default", cel.Overload("default_any_any", []*cel.Type{cel.DynType, cel.DynType}, cel.DynType,
			cel.OverloadIsNonStrict(), cel.BinaryBinding(orDefault))),
	)
})

const noSuchKey = "no such key"

// orDefault returns its second argument when the first is null or is missing, as the
// function of the same name in pipelines does.
func orDefault(v, other ref.Val) ref.Val {
	if types.IsError(v) {
		if err, ok := v.Value().(error); ok && strings.Contains(err.Error(), noSuchKey) {
			return other
		}
		return v
	}
	if v == types.NullValue {
		return other
	}
	return v
}

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
		case strings.Contains(msg, noSuchKey):
			msg = "the answer has no " + strings.TrimPrefix(msg[strings.Index(msg, noSuchKey)+len(noSuchKey):], ": ") +
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
	n, err := native(v, 0)
	var b []byte
	if err == nil {
		b, err = json.Marshal(n)
	}
	if err == nil && len(b) > maxResult {
		err = fmt.Errorf("the result is longer than %d bytes; save the body as a file", maxResult)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", p.key, p.text, err)
	}
	return b, nil
}

// native turns a result into what package json writes.
func native(v ref.Val, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("the result is nested too deeply")
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, errors.New("the result is not a finite number")
		}
		return float64(v), nil
	case types.String:
		return string(v), nil
	case types.Bytes:
		if !utf8.Valid(v) {
			return nil, errors.New("the result is not UTF-8 text")
		}
		return string(v), nil
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return v.Duration.String(), nil
	case traits.Mapper:
		m := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			x, err := native(v.Get(k), depth+1)
			if err != nil {
				return nil, err
			}
			m[fmt.Sprint(k.Value())] = x
		}
		return m, nil
	case traits.Lister:
		l := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			x, err := native(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, x)
		}
		return l, nil
	}
	return nil, fmt.Errorf("a result of type %s cannot be used", v.Type().TypeName())
}
