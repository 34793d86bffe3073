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

// watch holds the parts that look at what a server does and tell others.
type watch struct {
	metrics  *metrics.Metrics
	traces   atomic.Pointer[telemetry.Traces]
	stats    *stats.Stats
	notifier *notify.Notifier
	handler  http.Handler
}

func watchTables() store.Schema {
	return append(append(feed.Tables(), stats.Tables()...), notify.Tables()...)
}

// open makes the metrics and lets a store count in them.
func (w *watch) open(c Config, st, raw store.Store) store.Store {
	w.metrics = metrics.New(metrics.Options{Version: c.Version.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH})
	if x, ok := raw.(interface{ OnFlush(func(int, time.Duration)) }); ok {
		x.OnFlush(w.metrics.Flushed)
	}
	return w.metrics.Store(st, func(c *store.Commit) {
		if t := w.traces.Load(); t != nil {
			t.Committed(c)
		}
	})
}

// runners are those that the engine uses, counted.
func (w *watch) runners(all map[string]runner.Runner) map[string]runner.Runner {
	out := make(map[string]runner.Runner, len(all))
	for name, r := range all {
		out[name] = w.metrics.Runner(r)
	}
	return out
}

// observe is told of every answer of the API, also before the store is open.
func (w *watch) observe(operation string, status int, took time.Duration) {
	if w.metrics != nil {
		w.metrics.Request(operation, status, took)
	}
}

// prepare makes what tells others; it needs the engine to be there, not to run.
func (w *watch) prepare(ctx context.Context, s *Server, instance string, settings project.Settings) error {
	w.metrics.LimitPipelines(settings.Telemetry.Pipelines)
	w.handler = w.metrics.Handler(s.store)
	if telemetry.On(settings.Telemetry.OTLP, os.LookupEnv) {
		t, err := telemetry.Start(ctx, telemetry.Options{
			Endpoint: settings.Telemetry.OTLP, Env: os.LookupEnv, Run: s.engine.Run, Count: w.metrics.Spans, Logger: s.log,
			Version: s.c.Version.Version, Node: s.data.node, Instance: instance,
		})
		if err != nil {
			return err
		}
		w.traces.Store(t)
	}
	w.stats = stats.New(stats.Options{Store: s.store, Owner: s.data.node, Logger: s.log, Run: func(ctx context.Context, id string) (waybill.Run, error) {
		return s.engine.Summary(ctx, id)
	}})
	w.notifier = notify.New(notify.Options{
		Store: s.store, Runs: s.engine, Plans: s.project, Folder: settings.Notify, Secret: s.secrets.Secret, URL: s.callbackURL,
		Owner: s.data.node, Lease: s.c.Lease, Logger: s.log,
	})
	return nil
}

// traceparent is for the engine.
func (w *watch) traceparent(run string, ev waybill.Event, attempt string) string {
	return w.traces.Load().Traceparent(run, ev, attempt)
}

func (w *watch) start(ctx context.Context) error {
	w.stats.Start(ctx)
	return w.notifier.Start(ctx)
}

// stop ends what was begun. Traces are sent last, when nothing ends runs any more.
func (w *watch) stop() {
	if w.notifier != nil {
		w.notifier.Stop()
	}
	if w.stats != nil {
		w.stats.Stop()
	}
	if t := w.traces.Swap(nil); t != nil {
		t.Stop()
	}
}
