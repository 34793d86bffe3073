package store

import (
	"context"
	"errors"
)

// Forget deletes the rows that a query selects, some hundreds in a commit, and returns how
// many. Rows that others change meanwhile stay until it is called again. The query's
// limit and place are Forget's own.
func Forget(ctx context.Context, s Store, q Query) (int, error) {
	gone := 0
	for {
		q.Limit, q.After = 500, ""
		page, err := s.Query(ctx, q)
		if err != nil || len(page.Rows) == 0 {
			return gone, err
		}
		tenants := map[string]*Commit{}
		for _, r := range page.Rows {
			c := tenants[r.Tenant]
			if c == nil {
				c = &Commit{Tenant: r.Tenant}
				tenants[r.Tenant] = c
			}
			c.Puts = append(c.Puts, Put{Table: q.Table, Key: r.Key, Rev: r.Rev})
		}
		for _, c := range tenants {
			if err := s.Commit(ctx, c); err != nil {
				if errors.Is(err, ErrConflict) {
					return gone, nil // another server does the same
				}
				return gone, err
			}
			gone += len(c.Puts)
		}
	}
}
