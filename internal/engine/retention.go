package engine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Sweep forgets runs that ended more than age ago, or longer ago than their pipelines
// say: their rows, timelines, logs and idempotency keys. It returns how many runs are
// gone. A run whose clean-up is not finished is kept.
func (e *Engine) Sweep(ctx context.Context, age time.Duration) (int, error) {
	now := e.now()
	limit := now.Add(-age).UnixMilli()
	gone, err := e.sweep(ctx, "finished", limit, store.Where{Column: "expires", Op: store.Eq, Value: int64(0)})
	if err != nil {
		return gone, err
	}
	own, err := e.sweep(ctx, "expires", now.UnixMilli())
	gone += own
	if err != nil {
		return gone, err
	}
	_, err = store.Forget(ctx, e.o.Store, store.Query{
		Table: tableIdem, Order: "at", Where: []store.Where{{Column: "at", Op: store.Lt, Value: limit}},
	})
	return gone, err
}

// sweep forgets the runs of which a column is over 0 and under a limit.
func (e *Engine) sweep(ctx context.Context, column string, limit int64, also ...store.Where) (int, error) {
	gone := 0
	for after := ""; ; {
		page, err := e.o.Store.Query(ctx, store.Query{
			Table: tableRun, Order: column, Limit: 200, After: after,
			Where: append([]store.Where{{Column: column, Op: store.Gt, Value: int64(0)}, {Column: column, Op: store.Lt, Value: limit}}, also...),
		})
		if err != nil {
			return gone, err
		}
		for _, row := range page.Rows {
			ok, err := e.forget(ctx, row)
			if err != nil {
				return gone, err
			}
			if ok {
				gone++
			}
		}
		if after = page.Next; after == "" {
			return gone, nil
		}
	}
}

func (e *Engine) forget(ctx context.Context, row store.Row) (bool, error) {
	id := row.Key
	c := &store.Commit{Tenant: row.Tenant, Puts: []store.Put{{Table: tableRun, Key: id, Rev: row.Rev}}}
	var run waybill.Run
	if err := json.Unmarshal(row.Val, &run); err != nil {
		return false, err
	}
	dropLinks(c, &run)
	for _, table := range []string{tableStep, tableAttempt} {
		rows, err := e.o.Store.Scan(ctx, row.Tenant, table, id+"/", 0)
		if err != nil {
			return false, err
		}
		for _, r := range rows {
			if table == tableAttempt {
				var a waybill.Attempt
				if json.Unmarshal(r.Val, &a) == nil && (a.Cleanup == waybill.CleanupPending || a.Cleanup == waybill.CleanupDeleting) {
					return false, nil
				}
			}
			c.Puts = append(c.Puts, store.Put{Table: table, Key: r.Key, Rev: r.Rev})
		}
	}
	// Logs first: without the row nobody would find them again.
	if err := e.o.Blobs.RemoveLogs(id); err != nil {
		return false, err
	}
	if err := e.o.Store.TrimEvents(ctx, row.Tenant, []string{subject(id)}); err != nil {
		return false, err
	}
	err := e.o.Store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// References calls each with the checksum of all stored content that a kept run,
// step or attempt refers to, so that the rest can be deleted.
func (e *Engine) References(ctx context.Context, each func(sha256 string)) error {
	for _, table := range []string{tableRun, tableStep, tableAttempt} {
		for after := ""; ; {
			page, err := e.o.Store.Query(ctx, store.Query{Table: table, Tenant: "*", Limit: 500, After: after})
			if err != nil {
				return err
			}
			for _, row := range page.Rows {
				refs(row.Val, each)
			}
			if after = page.Next; after == "" {
				break
			}
		}
	}
	return nil
}

// refs finds checksums in JSON without decoding it: every reference to content
// is written "sha256":"…".
func refs(val []byte, each func(string)) {
	const mark = `"sha256":"`
	s := string(val)
	for i := 0; i+len(mark)+64 <= len(s); i++ {
		if s[i] == '"' && s[i:i+len(mark)] == mark {
			each(s[i+len(mark) : i+len(mark)+64])
			i += len(mark) + 64
		}
	}
}
