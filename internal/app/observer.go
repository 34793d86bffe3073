package app

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/metrics"
	"github.com/waybill-run/waybill/internal/notify"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/stats"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/telemetry"
)

// observer holds the parts that look at what a server does and tell others.
type observer struct {
	metrics  *metrics.Metrics // made before the server listens
	traces   atomic.Pointer[telemetry.Traces]
	stats    *stats.Stats
	notifier *notify.Notifier
	handler  http.Handler
}

func observerTables() store.Schema {
	return append(append(feed.Tables(), stats.Tables()...), notify.Tables()...)
}

func newObserver(c Config) *observer {
	return &observer{metrics: metrics.New(metrics.Options{
		Version: c.Version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})}
}

// open lets a store, as it is and as the server sees it, count in the metrics.
func (o *observer) open(st, raw store.Store) store.Store {
	if x, ok := raw.(interface {
		OnFlush(func(int, time.Duration))
	}); ok {
		x.OnFlush(o.metrics.Flushed)
	}
	return o.metrics.Store(st, func(c *store.Commit) {
		if t := o.traces.Load(); t != nil {
			t.Committed(c)
		}
	})
}

// runners are those that the engine uses, counted.
func (o *observer) runners(all map[string]runner.Runner) map[string]runner.Runner {
	out := make(map[string]runner.Runner, len(all))
	for name, r := range all {
		out[name] = o.metrics.Runner(r)
	}
	return out
}

// prepare makes what tells others; it needs the engine to be there, not to run.
func (o *observer) prepare(ctx context.Context, s *Server, instance string, settings project.Settings) error {
	o.metrics.LimitPipelines(settings.Telemetry.Pipelines)
	o.handler = o.metrics.Handler(s.store)
	if telemetry.On(settings.Telemetry.OTLP, os.LookupEnv) {
		t, err := telemetry.Start(ctx, telemetry.Options{
			Endpoint: settings.Telemetry.OTLP, Env: os.LookupEnv, Run: s.engine.Run, Count: o.metrics.Spans, Logger: s.log,
			Version: s.c.Version.Version, Node: s.data.node, Instance: instance,
		})
		if err != nil {
			return err
		}
		o.traces.Store(t)
	}
	o.stats = stats.New(stats.Options{Store: s.store, Owner: s.data.node, Logger: s.log, Run: func(ctx context.Context, id string) (waybill.Run, error) {
		return s.engine.Summary(ctx, id)
	}})
	o.notifier = notify.New(notify.Options{
		Store: s.store, Runs: s.engine, Plans: s.project, Folder: settings.Notify, Secret: s.secrets.Secret, URL: s.callbackURL,
		Owner: s.data.node, Lease: s.c.Lease, Logger: s.log,
	})
	return nil
}

// traceparent is for the engine.
func (o *observer) traceparent(run string, ev waybill.Event, attempt string) string {
	return o.traces.Load().Traceparent(run, ev, attempt)
}

func (o *observer) start(ctx context.Context) error {
	o.stats.Start(ctx)
	return o.notifier.Start(ctx)
}

// stop ends what was begun. Traces are sent last, when nothing ends runs any more.
func (o *observer) stop() {
	if o.notifier != nil {
		o.notifier.Stop()
	}
	if o.stats != nil {
		o.stats.Stop()
	}
	if t := o.traces.Swap(nil); t != nil {
		t.Stop()
	}
}
