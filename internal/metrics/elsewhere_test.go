package metrics_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/metrics"
)

type inbox struct{ waybill.Watches }

func (inbox) WatchedBuckets(context.Context) ([]waybill.WatchedBucket, error) {
	return []waybill.WatchedBucket{
		{Name: "inbox", Status: "ok", Lag: 7, Pending: 3, Skipped: 1, Taken: 9, Duplicates: 2, ScannedAt: time.Unix(1000, 0)},
		{Name: "far", Status: "failing"},
	}, nil
}

type orders struct{}

func (orders) Sources(context.Context) ([]waybill.Source, error) {
	return []waybill.Source{{Name: "orders", Status: "ok", Accepted: 5, Duplicates: 1}}, nil
}

func TestElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, metrics.Options{})
	w.m.Elsewhere(inbox{}, orders{})
	lines := w.scrape()
	for _, want := range []string{
		`waybill_bucket_lag_seconds{bucket="inbox"} 7`, `waybill_bucket_objects{bucket="inbox",state="pending"} 3`, `waybill_bucket_taken_total{bucket="inbox"} 9`,
		`waybill_bucket_duplicates_total{bucket="inbox"} 2`, `waybill_bucket_up{bucket="inbox"} 1`, `waybill_bucket_up{bucket="far"} 0`,
		`waybill_bucket_scanned_timestamp_seconds{bucket="inbox"} 1000`, `waybill_source_messages_total{outcome="accepted",source="orders"} 5`, `waybill_source_up{source="orders"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("there is no %s", want)
		}
	}
}
