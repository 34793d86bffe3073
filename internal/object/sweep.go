package object

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/store"
)

// Keep says what a sweep leaves.
type Keep struct {
	Versions time.Duration // how long a version is kept after another took its place; 0 keeps all
	Current  time.Duration // age up to which current versions are kept; 0 keeps all
	// References calls each for all content that others than objects refer to.
	References func(ctx context.Context, each func(sha256 string)) error
	// Run reports whether a run is kept. With it, who made versions is forgotten when
	// both they and the run are; nil keeps it.
	Run func(ctx context.Context, id string) (bool, error)
}

const (
	// graceful is how long content without a row is left alone: its commit may be
	// on its way.
	graceful = time.Hour
	// remembered is how long the answer to an idempotency key is kept.
	remembered = 7 * 24 * time.Hour
	// batch is how many rows one commit of a sweep deletes.
	batch = 100
)

// Sweep forgets versions and idempotency keys that are too old, and then deletes
// content that nothing refers to and that is older than an hour. now is the
// store's clock.
func (x *Objects) Sweep(ctx context.Context, now time.Time, keep Keep) error {
	if keep.Versions > 0 {
		if err := x.sweepReplaced(ctx, now.Add(-keep.Versions)); err != nil {
			return err
		}
		// A deletion is forgotten with the last version it hides.
		if err := x.sweepObjects(ctx, 0, now.Add(-keep.Versions)); err != nil {
			return err
		}
	}
	if keep.Current > 0 {
		if err := x.sweepObjects(ctx, 1, now.Add(-keep.Current)); err != nil {
			return err
		}
	}
	if err := x.sweepKeys(ctx, now.Add(-remembered)); err != nil {
		return err
	}
	if age := max(keep.Versions, keep.Current); age > 0 && keep.Run != nil {
		if err := x.sweepMade(ctx, now.Add(-age), keep.Run); err != nil {
			return err
		}
	}
	return x.sweepContent(ctx, keep)
}

// sweepRows deletes what del makes of each row a query finds. The first put that
// del returns names the row itself.
func (x *Objects) sweepRows(ctx context.Context, q store.Query, del func(store.Row) ([]store.Put, error)) error {
	q.Limit = batch
	for {
		page, err := x.store.Query(ctx, q)
		if err != nil {
			return err
		}
		each := make([][]store.Put, len(page.Rows))
		all := &store.Commit{}
		for i, r := range page.Rows {
			if each[i], err = del(r); err != nil {
				return err
			}
			all.Puts = append(all.Puts, each[i]...)
		}
		if len(all.Puts) > 0 {
			err = x.store.Commit(ctx, all)
		}
		if errors.Is(err, store.ErrConflict) {
			// One of them was changed meanwhile: it stays, the others go.
			for _, puts := range each {
				if err = x.store.Commit(ctx, &store.Commit{Puts: puts}); err != nil && !errors.Is(err, store.ErrConflict) {
					return err
				}
			}
			err = nil
		}
		if err != nil {
			return err
		}
		if q.After = page.Next; q.After == "" {
			return nil
		}
	}
}

func (x *Objects) sweepReplaced(ctx context.Context, before time.Time) error {
	return x.sweepRows(ctx, store.Query{
		Table: tableVersion, Order: "replaced", Where: []store.Where{{Column: "replaced", Op: store.Lt, Value: before.UnixMilli()}},
	}, func(r store.Row) ([]store.Put, error) {
		return []store.Put{{Table: tableVersion, Key: r.Key, Rev: r.Rev}}, nil
	})
}

// sweepObjects forgets current versions that are present, or those that are
// deletions, with the timeline of their object.
func (x *Objects) sweepObjects(ctx context.Context, present int64, before time.Time) error {
	var gone []string
	err := x.sweepRows(ctx, store.Query{
		Table: tableObject, Order: "created", Where: []store.Where{
			{Column: "present", Op: store.Eq, Value: present}, {Column: "created", Op: store.Lt, Value: before.UnixMilli()},
		},
	}, func(r store.Row) ([]store.Put, error) {
		var o waybill.Object
		if err := json.Unmarshal(r.Val, &o); err != nil {
			return nil, err
		}
		gone = append(gone, r.Key)
		return []store.Put{
			{Table: tableObject, Key: r.Key, Rev: r.Rev},
			{Table: tableVersion, Key: versionKey(o.Bucket, o.Key, o.Version), Rev: madeRev},
		}, nil
	})
	if err != nil {
		return err
	}
	var subjects []string
	for _, key := range gone {
		// One that was put again meanwhile keeps its timeline.
		if _, err := x.store.Get(ctx, "", tableObject, key); errors.Is(err, store.ErrNotFound) {
			subjects = append(subjects, "object/"+key)
		} else if err != nil {
			return err
		}
	}
	for len(subjects) > 0 {
		n := min(len(subjects), batch)
		if err := x.store.TrimEvents(ctx, "", subjects[:n]); err != nil {
			return err
		}
		subjects = subjects[n:]
	}
	return nil
}

func (x *Objects) sweepKeys(ctx context.Context, before time.Time) error {
	return x.sweepRows(ctx, store.Query{
		Table: tableIdem, Order: "at", Where: []store.Where{{Column: "at", Op: store.Lt, Value: before.UnixMilli()}},
	}, func(r store.Row) ([]store.Put, error) {
		return []store.Put{{Table: tableIdem, Key: r.Key, Rev: r.Rev}}, nil
	})
}

// sweepContent deletes content that no version and nobody else refers to.
func (x *Objects) sweepContent(ctx context.Context, keep Keep) error {
	// What is old enough is chosen by the clock of the content. A reference made
	// after this moment is to content that was put, and so renewed, after it, or to
	// content that is referred to already.
	before := time.Now().Add(-graceful)
	used := map[[32]byte]struct{}{}
	each := func(sha string) {
		if len(sha) != 64 {
			return
		}
		var sum [32]byte
		if _, err := hex.Decode(sum[:], []byte(sha)); err == nil {
			used[sum] = struct{}{}
		}
	}
	for after := ""; ; {
		page, err := x.store.Query(ctx, store.Query{Table: tableVersion, Tenant: "*", Limit: 1000, After: after})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			var o struct {
				SHA256 string `json:"sha256"`
			}
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
	// A store that can tell whether content was put again at the last moment is
	// asked to.
	remove := x.blobs.Delete
	if s, ok := x.blobs.(interface {
		DeleteOlder(ctx context.Context, sha256 string, than time.Time) error
	}); ok {
		remove = func(ctx context.Context, sha string) error { return s.DeleteOlder(ctx, sha, before) }
	}
	return x.blobs.Walk(ctx, func(ref blob.Ref, at time.Time) error {
		var sum [32]byte
		if _, err := hex.Decode(sum[:], []byte(ref.SHA256)); err != nil {
			return err
		}
		if _, ok := used[sum]; ok || !at.Before(before) {
			return nil
		}
		return remove(ctx, ref.SHA256)
	})
}
