package delivery

import (
	"context"
	"encoding/json"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Taken is an event as it was taken in, and what it did then.
type Taken struct {
	waybill.DeliveryEvent
	Action waybill.ReportAction
	Rows   []string // ids of the deployments that it began or changed; they may be others' former ids by now
}

// LastEvent is the number of a partition's last event, 0 when it has none.
func (s *Service) LastEvent(ctx context.Context, partition string) (int64, error) {
	var h head
	_, err := newStored(ctx, s.o.Store).get(tableHead, escape(partition), &h)
	return h.Seq, err
}

// EventsAfter returns up to n events (at most 1000) of a partition whose numbers are
// larger than seq, in their order.
func (s *Service) EventsAfter(ctx context.Context, partition string, seq int64, n int) ([]Taken, error) {
	page, err := s.o.Store.Query(ctx, store.Query{
		Table: tableEvent, Order: "seq", Limit: min(max(n, 1), 1000),
		Where: []store.Where{{Column: "part", Op: store.Eq, Value: escape(partition)}, {Column: "seq", Op: store.Gt, Value: seq}},
	})
	if err != nil {
		return nil, err
	}
	out := make([]Taken, 0, len(page.Rows))
	for _, x := range page.Rows {
		var r record
		if err := json.Unmarshal(x.Val, &r); err != nil {
			return nil, err
		}
		out = append(out, Taken{DeliveryEvent: r.DeliveryEvent, Action: r.Action, Rows: r.Rows})
	}
	return out, nil
}
