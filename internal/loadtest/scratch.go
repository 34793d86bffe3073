package loadtest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
)

func isPostgres(where string) bool {
	return strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
}

// scratchSchema makes a schema and returns the URL by which it is the only one
// seen, and what removes it.
func scratchSchema(ctx context.Context, where, name string) (string, func(), error) {
	u, err := url.Parse(where)
	if err != nil {
		return "", nil, waybill.E(waybill.KindInvalid, "the store is not a URL") // the cause would tell the password
	}
	exec := func(ctx context.Context, sql string) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, where)
		if err != nil {
			return waybill.E(waybill.KindUnavailable, "cannot reach PostgreSQL: %w", err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		return nil
	}
	if err := exec(ctx, "CREATE SCHEMA "+name); err != nil {
		return "", nil, err
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	drop := func() {
		// Dropped also after an interruption; what cannot be dropped is only a leftover.
		_ = exec(context.WithoutCancel(ctx), "DROP SCHEMA "+name+" CASCADE")
	}
	return u.String(), drop, nil
}
