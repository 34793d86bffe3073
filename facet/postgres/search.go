package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/facet"
)

// search is a query that is being answered, in one transaction.
type search struct {
	x       *Index
	tx      pgx.Tx
	q       facet.Query
	terms   resolved
	out     facet.Result
	explain *facet.Explain // nil if nobody asks
}

// Search implements [facet.Index].
func (x *Index) Search(ctx context.Context, q facet.Query) (facet.Result, error) {
	return x.search(ctx, q, nil)
}

// Explain implements [facet.Index]. Its steps are the statements, with the plan that
// the server says it would take now; costs are the server's units in place of
// nanoseconds.
func (x *Index) Explain(ctx context.Context, q facet.Query) (facet.Explain, error) {
	e := facet.Explain{Engine: "postgres"}
	start := time.Now()
	r, err := x.search(ctx, q, &e)
	if err != nil {
		return facet.Explain{}, err
	}
	e.Seq, e.Total, e.Took = r.Seq, r.Total, time.Since(start)
	return e, nil
}

func (x *Index) search(ctx context.Context, q facet.Query, e *facet.Explain) (facet.Result, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return facet.Result{}, err
	}
	defer done()
	if q, err = x.schema.CheckQuery(q, x.limits); err != nil {
		return facet.Result{}, err
	}
	s := search{x: x, q: q, explain: e}
	err = pgx.BeginTxFunc(ctx, x.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		s.tx = tx
		return s.run(ctx)
	})
	if err != nil {
		return facet.Result{}, x.failed(ctx, "search", err)
	}
	return s.out, nil
}

func (s *search) run(ctx context.Context) error {
	var seq int64
	if err := s.tx.QueryRow(ctx, s.x.sql("SELECT seq FROM {meta}")).Scan(&seq); err != nil {
		return err
	}
	s.out.Seq = facet.Seq(seq)
	sets := []map[string]facet.Filter{s.q.Access, s.q.Filters}
	for _, a := range s.q.Aggs {
		sets = append(sets, a.Where)
	}
	var err error
	if s.terms, err = s.x.resolve(ctx, s.tx, sets...); err != nil {
		return err
	}
	if err := s.facets(ctx); err != nil {
		return err
	}
	if err := s.aggs(ctx); err != nil {
		return err
	}
	return s.page(ctx)
}

// statement begins a statement.
func (s *search) statement() *statement { return &statement{x: s.x} }

// matching is the condition of documents that match the query.
func (s *search) matching(st *statement) string {
	return st.where(s.terms, "", s.q.Access, s.q.Filters)
}

// query runs a statement and gives every row to each.
func (s *search) query(ctx context.Context, stage, target string, st *statement, text string, into []any, each func() error) error {
	text = s.x.sql(text)
	step := facet.Step{Stage: stage, Target: target}
	if s.explain != nil {
		if err := s.planOf(ctx, &step, text, st.args); err != nil {
			return err
		}
	}
	start := time.Now()
	rows, err := s.tx.Query(ctx, text, st.args...)
	if err != nil {
		return err
	}
	if _, err := pgx.ForEachRow(rows, into, each); err != nil {
		return err
	}
	if s.explain != nil {
		step.Took = time.Since(start)
		s.explain.Steps = append(s.explain.Steps, step)
	}
	return nil
}

// aggs computes the figures about all matching documents.
func (s *search) aggs(ctx context.Context) error {
	if len(s.q.Aggs) > 0 {
		s.out.Aggs = make(map[string]facet.Value, len(s.q.Aggs))
	}
	for _, a := range s.q.Aggs {
		st := s.statement()
		where := st.where(s.terms, "", s.q.Access, s.q.Filters, a.Where)
		var err error
		switch a.Op {
		case facet.OpSum:
			err = s.sum(ctx, a, st, where)
		default:
			what, from := "*", "{doc} d"
			if a.Op == facet.OpCardinality {
				c := s.x.column(a.Field)
				from += ", " + st.values(c, "x")
				where += " AND " + notNull(c, "x")
				what = "DISTINCT x.v"
			}
			var n int64
			err = s.query(ctx, "aggregate", a.Name, st, "SELECT count("+what+") FROM "+from+" WHERE "+where, []any{&n}, func() error {
				s.out.Aggs[a.Name] = facet.Int(n)
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sum adds up. Integers are added in the server, as numbers of any length.
func (s *search) sum(ctx context.Context, a facet.Agg, st *statement, where string) error {
	c := s.x.column(a.Field)
	var sum *string
	return s.query(ctx, "aggregate", a.Name, st, "SELECT sum(x.v)::text FROM {doc} d, "+st.values(c, "x")+" WHERE "+where, []any{&sum}, func() error {
		v, err := sumValue(c, sum)
		s.out.Aggs[a.Name] = v
		return err
	})
}
