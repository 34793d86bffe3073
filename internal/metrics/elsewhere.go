package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-run/waybill"
)

// elsewhere tells of watched buckets and of queues of other systems.
type elsewhere struct {
	from  atomic.Pointer[origins]
	known []Definition

	lag, objects, taken, duplicates, up, scanned, messages, connected *prometheus.Desc
}

type origins struct {
	buckets waybill.Watches
	sources waybill.Sources
}

// Elsewhere lets the metrics tell of what comes from other systems. It is called
// once.
func (m *Metrics) Elsewhere(buckets waybill.Watches, sources waybill.Sources) {
	m.elsewhere.from.Store(&origins{buckets, sources})
}

func newElsewhere() *elsewhere {
	e := &elsewhere{}
	d := func(kind string, global bool, name, help string, labels ...string) *prometheus.Desc {
		e.known = append(e.known, Definition{"waybill_" + name, kind, labels, global})
		return prometheus.NewDesc("waybill_"+name, help, labels, nil)
	}
	e.lag = d("gauge", true, "bucket_lag_seconds", "How long the oldest object of a watched bucket that could be taken has waited.", "bucket")
	e.objects = d("gauge", true, "bucket_objects", "Objects of a watched bucket that are not taken, or not finished, by state.", "bucket", "state")
	e.taken = d("counter", true, "bucket_taken_total", "Versions of a watched bucket that became objects.", "bucket")
	e.duplicates = d("counter", true, "bucket_duplicates_total", "Changes told of versions that were known.", "bucket")
	e.up = d("gauge", true, "bucket_up", "1 when the last look at a watched bucket succeeded.", "bucket")
	e.scanned = d("gauge", true, "bucket_scanned_timestamp_seconds", "When the last whole listing of a watched bucket ended.", "bucket")
	e.messages = d("counter", false, "source_messages_total", "Deliveries of a source of messages by outcome: accepted, duplicate, dead.", "source", "outcome")
	e.connected = d("gauge", false, "source_up", "1 when the last connection to a source of messages succeeded.", "source")
	return e
}

// Describe implements prometheus.Collector.
func (e *elsewhere) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{e.lag, e.objects, e.taken, e.duplicates, e.up, e.scanned, e.messages, e.connected} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (e *elsewhere) Collect(ch chan<- prometheus.Metric) {
	from := e.from.Load()
	if from == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	add := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	truth := map[bool]float64{true: 1}
	if list, err := from.buckets.WatchedBuckets(ctx); err == nil { // else waybill_store_up tells
		for _, b := range list {
			add(e.lag, prometheus.GaugeValue, b.Lag, b.Name)
			for state, n := range map[string]int64{"pending": b.Pending, "failed": b.Failed, "skipped": b.Skipped, "finishing": b.Finishing} {
				add(e.objects, prometheus.GaugeValue, float64(n), b.Name, state)
			}
			add(e.taken, prometheus.CounterValue, float64(b.Taken), b.Name)
			add(e.duplicates, prometheus.CounterValue, float64(b.Duplicates), b.Name)
			add(e.up, prometheus.GaugeValue, truth[b.Status == "ok"], b.Name)
			if !b.ScannedAt.IsZero() {
				add(e.scanned, prometheus.GaugeValue, float64(b.ScannedAt.UnixMilli())/float64(time.Second/time.Millisecond), b.Name)
			}
		}
	}
	if list, err := from.sources.Sources(ctx); err == nil {
		for _, q := range list {
			for outcome, n := range map[string]int64{"accepted": q.Accepted, "duplicate": q.Duplicates, "dead": q.Dead} {
				add(e.messages, prometheus.CounterValue, float64(n), q.Name, outcome)
			}
			add(e.connected, prometheus.GaugeValue, truth[q.Status == "ok"], q.Name)
		}
	}
}
