package object

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/store"
)

// Keep says what a sweep leaves.
type Keep struct {
	Versions time.Duration // age up to which versions that are not current are kept; 0 keeps all
	Current  time.Duration // age up to which current versions are kept; 0 keeps all
	// References calls each for all content that others than objects refer to.
	References func(ctx context.Context, each func(sha256 string)) error
}

// graceful is how long content without a row is left alone: its commit may be on
// its way.
const graceful = time.Hour

// Sweep forgets versions that are too old and then deletes content that nothing
// refers to.
func (x *Objects) Sweep(ctx context.Context, now time.Time, keep Keep) error {
	if keep.Versions > 0 {
		if err := x.sweepVersions(ctx, now, keep); err != nil {
			return err
		}
	}
	used := map[string]bool{}
	each := func(sha string) { used[sha] = true }
	start := time.Now()
	for after := ""; ; {
		page, err := x.store.Query(ctx, store.Query{Table: tableVersion, Tenant: "*", Limit: 1000, After: after})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			var o waybill.Object
			if err := json.Unmarshal(r.Val, &o); err != nil {
				return err
			}
			each(o.SHA256)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if keep.References != nil {
		if err := keep.References(ctx, each); err != nil {
			return err
		}
	}
	return x.blobs.Walk(ctx, func(ref blob.Ref, at time.Time) error {
		if used[ref.SHA256] || at.After(start.Add(-graceful)) {
			return nil
		}
		return x.blobs.Delete(ctx, ref.SHA256)
	})
}

func (x *Objects) sweepVersions(ctx context.Context, now time.Time, keep Keep) error {
	limit := now.Add(-keep.Versions).UnixMilli()
	for after := ""; ; {
		page, err := x.store.Query(ctx, store.Query{
			Table: tableVersion, Order: "created", Limit: 500, After: after,
			Where: []store.Where{{Column: "created", Op: store.Lt, Value: limit}},
		})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			if err := x.sweepVersion(ctx, r, now, keep); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	for after := ""; ; {
		page, err := x.store.Query(ctx, store.Query{
			Table: tableIdem, Order: "at", Limit: 500, After: after, Where: []store.Where{{Column: "at", Op: store.Lt, Value: limit}},
		})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			if err := x.store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableIdem, Key: r.Key, Rev: r.Rev}}}); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (x *Objects) sweepVersion(ctx context.Context, r store.Row, now time.Time, keep Keep) error {
	var o waybill.Object
	if err := json.Unmarshal(r.Val, &o); err != nil {
		return err
	}
	full := name(o.Bucket, o.Key)
	row, err := x.store.Get(ctx, "", tableObject, full)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	c := &store.Commit{Puts: []store.Put{{Table: tableVersion, Key: r.Key, Rev: r.Rev}}}
	var current waybill.Object
	if err == nil && json.Unmarshal(row.Val, &current) == nil && current.Version == o.Version {
		// A deletion is forgotten with the last version it hides; a current object
		// only when its bucket's owner wants that.
		if !o.Deleted && (keep.Current == 0 || o.CreatedAt.After(now.Add(-keep.Current))) {
			return nil
		}
		c.Puts = append(c.Puts, store.Put{Table: tableObject, Key: full, Rev: row.Rev})
	}
	err = x.store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	if err == nil && len(c.Puts) == 2 {
		err = x.store.TrimEvents(ctx, "", []string{"object/" + full})
	}
	return err
}
