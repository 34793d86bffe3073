package project

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// Telemetry says who is told what the server does.
type Telemetry struct {
	OTLP      string // base URL of an OpenTelemetry collector that is sent traces; empty sends none
	Pipelines int    // most names of pipelines in the labels of metrics
}

func (t Telemetry) check(add func(path, format string, args ...any)) {
	if t.OTLP != "" {
		if u, err := url.Parse(t.OTLP); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			add("telemetry.otlp", "expected a URL such as http://127.0.0.1:4318")
		}
	}
	if t.Pipelines < 1 || t.Pipelines > 10_000 {
		add("telemetry.pipelines", "expected a number from 1 to 10000")
	}
}

// notifyReader reads the list notify into rules.
func notifyReader(to *[]waybill.NotifyRule) func(*settingsReader, string, ast.Node) {
	return func(r *settingsReader, name string, n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			r.add(placeOf(n), "", "%s: expected a list of rules", name)
			return
		}
		names := map[string]bool{}
		for i, x := range seq.Values {
			what := name + "[" + strconv.Itoa(i) + "]"
			v, ok := r.tree(what, x)
			if !ok {
				continue
			}
			rule, err := pipeline.DecodeNotifyRule(v)
			if err == nil {
				err = rule.Check()
			}
			if err != nil {
				r.add(placeOf(x), "", "%s: %v", what, err)
				continue
			}
			if rule.Name != "" && names[rule.Name] {
				r.add(placeOf(x), "", "%s: the name %s is there twice", what, rule.Name)
				continue
			}
			names[rule.Name] = true
			*to = append(*to, rule)
		}
	}
}

// tree returns a value as JSON would have it, with ${env:NAME} replaced. Texts that
// refer to secrets keep those references.
func (r *settingsReader) tree(what string, n ast.Node) (any, bool) {
	switch x := n.(type) {
	case *ast.NullNode:
		return nil, true
	case *ast.SequenceNode:
		l, ok := make([]any, len(x.Values)), true
		for i, v := range x.Values {
			y, good := r.tree(what+"["+strconv.Itoa(i)+"]", v)
			l[i], ok = y, ok && good
		}
		return l, ok
	case ast.MapNode:
		m, ok := map[string]any{}, true
		for it := x.MapRange(); it.Next(); {
			key := it.Key().GetToken().Value
			if _, twice := m[key]; twice {
				r.add(placeOf(it.Key()), "", "%s.%.80s is there twice", what, key)
				ok = false
			}
			y, good := r.tree(what+"."+key, it.Value())
			m[key], ok = y, ok && good
		}
		return m, ok
	case *ast.BoolNode:
		return x.Value, true
	case *ast.IntegerNode:
		return x.Value, true
	}
	text, ok := r.text(what, n)
	// What a variable of the environment holds may be a truth where one is wanted.
	if strings.HasSuffix(what, ".starttls") && (text == "true" || text == "false") {
		return text == "true", ok
	}
	return text, ok
}

// Notifying returns the rules of notifications of one version of a pipeline, of the
// newest when version is 0.
func (p *Project) Notifying(ctx context.Context, name string, version int) ([]waybill.NotifyRule, error) {
	plan, _, err := p.Plan(ctx, name, version)
	if err != nil {
		return nil, err
	}
	return plan.Notify, nil
}

// AllNotifying returns the rules of the newest versions of all pipelines that have
// some, by the pipelines' names.
func (p *Project) AllNotifying(ctx context.Context) (map[string][]waybill.NotifyRule, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string][]waybill.NotifyRule{}
	for name, x := range p.newest {
		if x.Plan != nil && !x.retired && len(x.Plan.Notify) > 0 {
			out[name] = x.Plan.Notify
		}
	}
	return out, nil
}
