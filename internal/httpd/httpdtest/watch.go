package httpdtest

import (
	"context"
	"time"

	"github.com/waybill-run/waybill"
)

// watches has the watched bucket inbox.
type watches struct{ *World }

func (w watches) WatchedBuckets(ctx context.Context) ([]waybill.WatchedBucket, error) {
	b, err := w.WatchedBucket(ctx, "inbox")
	b.Problems = nil
	return []waybill.WatchedBucket{b}, err
}

func (w watches) WatchedBucket(_ context.Context, name string) (waybill.WatchedBucket, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.WatchedBucket{}, err
	}
	defer unlock()
	if name != "inbox" {
		return waybill.WatchedBucket{}, waybill.E(waybill.KindNotFound, "bucket %q is not watched", name)
	}
	return waybill.WatchedBucket{
		Name: "inbox", URL: "file:///srv/inbox", Status: "ok", Told: true, Node: "node", ScannedAt: w.Now(), Listed: 3,
		Asked: w.asked, Answered: w.asked, Taken: 2, Skipped: 1,
		Problems: []waybill.WatchProblem{{Key: "a.csv", State: "skipped", Reason: "empty", Error: "it has no bytes", At: w.Now().Add(-time.Minute)}},
	}, nil
}

func (w watches) ScanBucket(ctx context.Context, name string, _ waybill.Principal) (waybill.WatchedBucket, error) {
	if name == "inbox" {
		w.Do(func() { w.asked++ })
	}
	return w.WatchedBucket(ctx, name)
}

// sources has the source orders.
type sources struct{ *World }

func (w sources) Sources(context.Context) ([]waybill.Source, error) {
	unlock, err := w.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return []waybill.Source{{
		Name: "orders", Kind: "rabbitmq", URL: "amqp://broker.example.org", Queue: "orders", Status: "failing", Error: "the broker has no queue orders",
		ErrorAt: w.Now(), Received: 3, Accepted: 2, Duplicates: 1,
	}}, nil
}
