// Package telemetry tells traces of runs to an OpenTelemetry collector.
//
// A run is one trace. Nothing is kept while it runs: when it has ended, its spans
// are made from its rows in the store, so a run that lived through a restart, or
// on several servers, is still one trace. Ids follow from the run's id and are the
// same whoever makes them; a unit can thus be handed its parent (TRACEPARENT)
// before any span was sent. A run whose starting request came with a traceparent
// belongs to the trace of that request.
//
// A collector that is slow or away never holds up work: so many ended runs wait
// in memory, and further ones are dropped and counted.
package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Options of Traces.
type Options struct {
	// Endpoint is the base URL of a collector, to which /v1/traces is added when it
	// has no path. The environment's OTEL_EXPORTER_OTLP_ENDPOINT goes before it.
	Endpoint string
	Env      func(name string) (string, bool)
	Run      func(ctx context.Context, id string) (waybill.RunDetail, error)
	Count    func(exported, dropped int) // told of spans; of a run that never was looked at, one is dropped
	Logger   *slog.Logger

	Version  string
	Node     string
	Instance string
	Waiting  int           // most ended runs in memory; 0 means 4096
	Patience time.Duration // with one delivery; 0 means 30 s
}

// On reports whether traces are wanted: a collector is named in the settings or in the environment.
func On(endpoint string, env func(string) (string, bool)) bool {
	get := func(name string) string { v, _ := env(name); return strings.TrimSpace(v) }
	if strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") || strings.EqualFold(get("OTEL_TRACES_EXPORTER"), "none") {
		return false
	}
	return endpoint != "" || fromEnv(get)
}

func fromEnv(get func(string) string) bool {
	return get("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// Traces sends traces of ended runs. Safe for concurrent use.
type Traces struct {
	o        Options
	exporter sdk.SpanExporter
	tracer   trace.Tracer
	spans    *collector
	ended    chan string
	quit     chan struct{}
	cancel   context.CancelFunc
	done     chan struct{}

	mu     sync.Mutex
	warned time.Time
}

// Start begins to send, until Stop. It does not connect: a collector that is
// away is no error.
func Start(ctx context.Context, o Options) (*Traces, error) {
	if o.Waiting <= 0 {
		o.Waiting = 4096
	}
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Count == nil {
		o.Count = func(int, int) {}
	}
	// The library reads the standard variables (endpoint, headers, certificates,
	// compression, timeout) by itself; what the settings say is for when they do not.
	opts := []otlptracehttp.Option{otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 5 * time.Second, MaxElapsedTime: o.Patience,
	})}
	if !fromEnv(func(name string) string { v, _ := o.Env(name); return v }) {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, waybill.E(waybill.KindInvalid, "telemetry.otlp: %q is not a URL such as http://127.0.0.1:4318", o.Endpoint)
		}
		if u.Path == "" || u.Path == "/" {
			u.Path = "/v1/traces"
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.String()))
	}
	exporter, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	res, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "waybill"), attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Node), attribute.String("waybill.store", o.Instance),
	), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("traces: %w", err)
	}
	spans := &collector{}
	provider := sdk.NewTracerProvider(sdk.WithResource(res), sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(given{}), sdk.WithSpanProcessor(spans))
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &Traces{
		o: o, exporter: exporter, tracer: provider.Tracer("github.com/waybill-run/waybill"), spans: spans,
		ended: make(chan string, o.Waiting), quit: make(chan struct{}), cancel: cancel, done: make(chan struct{}),
	}
	go t.work(bg)
	return t, nil
}

// flushFor is how long Stop goes on sending what waits.
const flushFor = 3 * time.Second

// Stop sends what waits, for some seconds at most, and ends.
func (t *Traces) Stop() {
	close(t.quit)
	late := time.AfterFunc(flushFor, t.cancel)
	<-t.done
	late.Stop()
	t.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = t.exporter.Shutdown(ctx) // there is nothing left to lose
}

// Committed takes note of the runs that a commit ends. It never blocks.
func (t *Traces) Committed(c *store.Commit) {
	for i := range c.Events {
		if c.Events[i].Kind != "run.ended" {
			continue
		}
		id, ok := strings.CutPrefix(c.Events[i].Subject, "run/")
		if !ok {
			continue
		}
		select {
		case t.ended <- id:
		default:
			t.o.Count(0, 1)
			t.warn("the collector does not keep up: a trace was dropped", "run", id)
		}
	}
}

// warn logs once in a while only.
func (t *Traces) warn(msg string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.warned) >= time.Minute {
		t.warned = now
		t.o.Logger.Warn(msg, args...)
	}
}

// most is how many spans are sent at once.
const most = 512

func (t *Traces) work(ctx context.Context) {
	defer close(t.done)
	for last := false; !last; {
		var id string
		select {
		case id = <-t.ended:
		case <-t.quit:
			last = true // and what waits goes with it
		}
		for id != "" || len(t.ended) > 0 {
			if id == "" {
				id = <-t.ended
			}
			if ctx.Err() != nil {
				t.o.Count(0, 1)
			} else {
				t.make(ctx, id)
			}
			if id = ""; len(t.spans.list) >= most {
				t.flush(ctx)
			}
		}
		t.flush(ctx)
	}
}

func (t *Traces) flush(ctx context.Context) {
	for list := t.spans.take(); len(list) > 0; {
		n := min(len(list), most)
		t.send(ctx, list[:n])
		list = list[n:]
	}
}

func (t *Traces) send(ctx context.Context, list []sdk.ReadOnlySpan) {
	ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
	defer cancel()
	if err := t.exporter.ExportSpans(ctx, list); err != nil {
		t.o.Count(0, len(list))
		t.warn("traces not delivered", "spans", len(list), "err", err)
		return
	}
	t.o.Count(len(list), 0)
}

// Traceparent is what a unit is handed as TRACEPARENT: the span of its attempt.
// On a nil Traces it is what came with the event, if anything, so that the caller's
// trace goes on in the unit all the same.
func (t *Traces) Traceparent(run string, ev waybill.Event, attempt string) string {
	if t == nil {
		if waybill.ValidTraceparent(ev.Traceparent) {
			return ev.Traceparent
		}
		return ""
	}
	id, _, sampled := traceOf(run, ev)
	flags := "00"
	if sampled {
		flags = "01"
	}
	return "00-" + id.String() + "-" + spanOf(attempt).String() + "-" + flags
}

// traceOf is the trace of a run, the span it hangs below (zero for none) and
// whether anybody wants to see it.
func traceOf(run string, ev waybill.Event) (trace.TraceID, trace.SpanID, bool) {
	var id trace.TraceID
	var parent trace.SpanID
	if tp := ev.Traceparent; waybill.ValidTraceparent(tp) {
		_, _ = hex.Decode(id[:], []byte(tp[3:35]))
		_, _ = hex.Decode(parent[:], []byte(tp[36:52]))
		return id, parent, strings.ContainsAny(tp[54:], "13579bdf")
	}
	// The id of a run is a UUID: 16 bytes, as a trace's.
	if n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(run, "-", ""))); err != nil || n != len(id) {
		sum := sha256.Sum256([]byte("trace\x00" + run))
		copy(id[:], sum[:])
	}
	return id, parent, true
}

// spanOf is the id of the span of a thing: a run, run/step or run/step/number.
func spanOf(key string) trace.SpanID {
	sum := sha256.Sum256([]byte("span\x00" + key))
	return trace.SpanID(sum[:8])
}

// given hands out the ids that the context holds.
type given struct{}

type givenKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

func (given) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	i, _ := ctx.Value(givenKey{}).(ids)
	return i.trace, i.span
}

func (given) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	i, _ := ctx.Value(givenKey{}).(ids)
	return i.span
}

// collector keeps ended spans until they are taken. One goroutine uses it.
type collector struct{ list []sdk.ReadOnlySpan }

func (c *collector) OnStart(context.Context, sdk.ReadWriteSpan) {}
func (c *collector) OnEnd(s sdk.ReadOnlySpan)                   { c.list = append(c.list, s) }
func (c *collector) Shutdown(context.Context) error             { return nil }
func (c *collector) ForceFlush(context.Context) error           { return nil }

func (c *collector) take() []sdk.ReadOnlySpan {
	list := c.list
	c.list = nil
	return list
}
