//go:build faults

package fault

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

// Store takes away promises of s, as the words in WAYBILL_FAULT say:
//
//	leases   leases are short and are never renewed, so that work in hand is
//	         claimed again all the time
//	nofence  a commit that is refused because the message is somebody else's by now,
//	         or a row has changed, is written all the same
//
// Programs built without the tag "faults" cannot do this.
func Store(s store.Store) store.Store {
	words := strings.Fields(os.Getenv("WAYBILL_FAULT"))
	for _, w := range words {
		switch w {
		case "leases":
			s = shortLeases{s}
		case "nofence":
			s = noFence{s}
		default:
			panic("WAYBILL_FAULT: unknown word " + w)
		}
	}
	return s
}

const shortLease = 50 * time.Millisecond

type shortLeases struct{ store.Store }

func (s shortLeases) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	r.Lease = shortLease
	return s.Store.Claim(ctx, r)
}

func (s shortLeases) Extend(context.Context, []*store.Msg, time.Duration) ([]*store.Msg, error) {
	return nil, nil
}

type noFence struct{ store.Store }

func (s noFence) Commit(ctx context.Context, c *store.Commit) error {
	err := s.Store.Commit(ctx, c)
	if !errors.Is(err, store.ErrLeaseLost) && !errors.Is(err, store.ErrConflict) {
		return err
	}
	forced := *c
	if errors.Is(err, store.ErrLeaseLost) {
		forced.Done, forced.Retry, forced.Yield, forced.Dead = nil, nil, nil, nil
	}
	forced.Puts = append([]store.Put(nil), c.Puts...)
	for i := range forced.Puts {
		forced.Puts[i].Rev = store.AnyRev
	}
	if err := s.Store.Commit(ctx, &forced); !errors.Is(err, store.ErrLeaseLost) {
		return err
	}
	return s.Commit(ctx, &forced) // both: the row was refused first
}
