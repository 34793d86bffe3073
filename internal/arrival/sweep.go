package arrival

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Sweep forgets which pipelines were started by versions of objects that are
// themselves forgotten, once the arrival is older than age. A version that is
// kept keeps its rows: it must not start anything again.
func (a *Arrivals) Sweep(ctx context.Context, now time.Time, age time.Duration) error {
	limit := now.Add(-age).UnixMilli()
	for after := ""; ; {
		page, err := a.store.Query(ctx, store.Query{
			Table: tableLedger, Tenant: "*", Order: "at", Limit: 500, After: after,
			Where: []store.Where{{Column: "at", Op: store.Lt, Value: limit}},
		})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			if err := a.forget(ctx, r); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (a *Arrivals) forget(ctx context.Context, r store.Row) error {
	_, rest, _ := strings.Cut(r.Key, "\x01")
	name, version, _ := strings.Cut(rest, "\x01")
	bucket, key, _ := strings.Cut(name, "/")
	kept, err := a.kept(ctx, bucket, key, version)
	if err != nil || kept {
		return err
	}
	err = a.store.Commit(ctx, &store.Commit{Tenant: r.Tenant, Puts: []store.Put{{Table: tableLedger, Key: r.Key, Rev: r.Rev}}})
	if errors.Is(err, store.ErrConflict) {
		return nil // another server swept it
	}
	return err
}

// kept reports whether a version of an object is still there.
func (a *Arrivals) kept(ctx context.Context, bucket, key, version string) (bool, error) {
	_, err := a.objects.Object(ctx, bucket, key, version)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}
