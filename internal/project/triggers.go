package project

import (
	"context"
	"slices"
	"strings"

	"github.com/waybill-run/waybill/internal/pipeline"
)

// Active returns the newest versions of the pipelines that can start and that keep
// takes, in the order of their names, and a count that changes with every change of a
// pipeline. The count is as cheap as one read of a row in a second.
func (p *Project) Active(ctx context.Context, keep func(*pipeline.Plan) bool) ([]Match, int64, error) {
	if err := p.refresh(ctx); err != nil {
		return nil, 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Match
	for _, x := range p.newest {
		if !x.retired && x.err == nil && keep(x.Plan) {
			out = append(out, x.Match)
		}
	}
	slices.SortFunc(out, func(a, b Match) int { return strings.Compare(a.Plan.Name, b.Plan.Name) })
	return out, p.changes, nil
}

// Changes returns the count that Active returns.
func (p *Project) Changes(ctx context.Context) (int64, error) {
	if err := p.refresh(ctx); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changes, nil
}
