// Package metrics counts what a server does and serves the counts to Prometheus.
//
// Nothing calls it to count: it stands between the server and its store and
// runners, and learns from what is committed. A commit is counted once, by the
// server that made it, so counters and histograms are those of one server and may
// be added up over several. What the store knows, such as the depth of queues, is
// asked for when somebody scrapes, is the same on all servers of a store, and must
// not be added up. The guide docs/guides/operations.md says which is which, and a
// test holds it against this package.
package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options of Metrics.
type Options struct {
	Version   string
	Platform  string
	Go        string
	Pipelines int // most names in labels; the rest are "other"; 0 means 100
}

// Other is the label of all that are too many to have one each.
const Other = "other"

// Buckets of histograms, in seconds.
var (
	quick = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}
	lags  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800}
	longs = []float64{.05, .25, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600}
	sizes = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}
)

// Metrics is the registry of a server. Safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	known     []Definition
	pipelines *names
	words     *names // reasons, topics and the like
	triggers  *names // types of events, which anybody may make up
	elsewhere *elsewhere

	accepted, started, ended, stepsEnded, attempts, callbacks, cleanups, orphans *prometheus.CounterVec
	messages, expiries, commitErrors, unitErrors, spans                          *prometheus.CounterVec
	leasesLost                                                                   prometheus.Counter
	runTook, stepTook, triggerLag, unitCreate, unitRemove, requests              *prometheus.HistogramVec
	startLag, commitTook, flushTook, flushSize                                   prometheus.Histogram
}

// New returns a registry in which everything stands at zero.
func New(o Options) *Metrics {
	if o.Pipelines <= 0 {
		o.Pipelines = 100
	}
	m := &Metrics{elsewhere: newElsewhere(), registry: prometheus.NewRegistry(), pipelines: newNames(o.Pipelines), words: newNames(200), triggers: newNames(50)}
	define := func(name, kind string, labels ...string) {
		m.known = append(m.known, Definition{"waybill_" + name, kind, labels, false})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		define(name, "counter", labels...)
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "waybill_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		define(name, "histogram", labels...)
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "waybill_" + name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	single := func(name, help string, buckets []float64) prometheus.Histogram {
		define(name, "histogram")
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "waybill_" + name, Help: help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	m.accepted = counter("runs_accepted_total", "Runs accepted.", "pipeline", "trigger")
	m.started = counter("runs_started_total", "Runs whose first step began.", "pipeline")
	m.ended = counter("runs_ended_total", "Runs that ended.", "pipeline", "status")
	m.runTook = histogram("run_duration_seconds", "From the start of a run to its end.", longs, "pipeline")
	m.startLag = single("run_start_lag_seconds", "From the acceptance of a run to its start.", lags)
	m.triggerLag = histogram("trigger_lag_seconds", "From the time of the event to the acceptance of its run; of a schedule, from the nominal time.", lags, "trigger")
	m.stepsEnded = counter("steps_ended_total", "Steps that ended.", "pipeline", "status")
	m.stepTook = histogram("step_duration_seconds", "From the start of a step to its end, all attempts included.", longs, "pipeline")
	m.attempts = counter("attempts_ended_total", "Attempts that ended.", "runner", "status", "reason")
	m.callbacks = counter("callbacks_total", "Answers to callbacks of units: accepted, repeated, conflict, closed, refused, invalid, failed.", "result")
	m.cleanups = counter("cleanups_total", "Outcomes of clean-ups: gone, deleting (it failed and is tried again), failed (given up).", "result")
	m.orphans = counter("orphans_found_total", "Units found on a platform that belong to no attempt.", "runner")
	m.unitCreate = histogram("unit_create_seconds", "Calls that start a unit.", lags, "runner")
	m.unitRemove = histogram("unit_remove_seconds", "Calls that remove a unit.", lags, "runner")
	m.unitErrors = counter("unit_errors_total", "Calls to a runner that failed: start, stop, remove.", "runner", "operation")
	m.messages = counter("queue_messages_total", "Deliveries of queue messages by outcome: done, retried, yielded, buried.", "topic", "outcome")
	m.expiries = counter("lease_expiries_total", "Deliveries of messages whose delivery before ended without an outcome.", "topic")
	m.leasesLost = prometheus.NewCounter(prometheus.CounterOpts{Name: "waybill_leases_lost_total", Help: "Leases that this server found to be somebody else's."})
	m.registry.MustRegister(m.leasesLost)
	define("leases_lost_total", "counter")
	m.commitTook = single("store_commit_seconds", "From handing a commit to the store until it is durable.", quick)
	m.commitErrors = counter("store_commit_errors_total", "Commits that failed, by kind: conflict, lease_lost, unavailable, other.", "kind")
	m.flushTook = single("store_flush_seconds", "Time a group of operations took to become durable.", quick)
	m.flushSize = single("store_flush_operations", "Operations in a group that is flushed at once.", sizes)
	m.requests = histogram("http_request_duration_seconds", "Requests by operation of the API and class of status; streams are not among them.", quick, "operation", "code")
	m.spans = counter("trace_spans_total", "Spans of traces: exported, dropped (the exporter could not keep up or failed).", "result")

	define("build_info", "gauge", "version", "go", "platform")
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "waybill_build_info", Help: "1; the labels tell the version."}, []string{"version", "go", "platform"})
	build.WithLabelValues(o.Version, o.Go, o.Platform).Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	// What is asked for by alerts stands at zero before it happens: a counter that
	// appears with its first event shows no increase.
	for _, r := range []string{"accepted", "repeated", "conflict", "closed", "refused", "invalid", "failed"} {
		m.callbacks.WithLabelValues(r)
	}
	for _, r := range []string{"gone", "deleting", "failed"} {
		m.cleanups.WithLabelValues(r)
	}
	for _, r := range []string{"conflict", "lease_lost", "unavailable", Other} {
		m.commitErrors.WithLabelValues(r)
	}
	for _, r := range []string{"exported", "dropped"} {
		m.spans.WithLabelValues(r)
	}
	return m
}

// Definition describes a metric.
type Definition struct {
	Name   string
	Type   string // counter, gauge, histogram
	Labels []string
	Global bool // of the whole store, the same on all its servers
}

// Definitions are all metrics of this package. The Go runtime's and the process's
// own, go_… and process_…, come besides.
func (m *Metrics) Definitions() []Definition {
	return slices.Concat(m.known, newGlobal(nil).known, m.elsewhere.known)
}

// Handler serves the metrics. src is asked for what the store knows.
func (m *Metrics) Handler(src Source) http.Handler {
	all := prometheus.NewRegistry()
	all.MustRegister(newGlobal(src), m.elsewhere)
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, all}, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, DisableCompression: false,
	})
}

// Request counts an answer of the API.
func (m *Metrics) Request(operation string, status int, took time.Duration) {
	if operation == "" {
		operation = "none"
	}
	m.requests.WithLabelValues(operation, strconv.Itoa(status/100)+"xx").Observe(took.Seconds())
	if operation != "completeAttempt" {
		return
	}
	result := "failed"
	switch {
	case status == http.StatusAccepted:
		result = "accepted"
	case status == http.StatusOK:
		result = "repeated"
	case status == http.StatusConflict:
		result = "conflict"
	case status == http.StatusGone:
		result = "closed"
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusTooManyRequests:
		result = "refused"
	case status >= 400 && status < 500:
		result = "invalid"
	}
	m.callbacks.WithLabelValues(result).Inc()
}

// Spans counts spans of traces.
func (m *Metrics) Spans(exported, dropped int) {
	m.spans.WithLabelValues("exported").Add(float64(exported))
	m.spans.WithLabelValues("dropped").Add(float64(dropped))
}

// Flushed counts a group of operations that a store made durable.
func (m *Metrics) Flushed(operations int, took time.Duration) {
	m.flushSize.Observe(float64(operations))
	m.flushTook.Observe(took.Seconds())
}

// names bounds how many different values a label gets.
type names struct {
	most int
	mu   sync.RWMutex
	seen map[string]bool
}

func newNames(most int) *names { return &names{most: most, seen: map[string]bool{}} }

// of returns the name, or Other when there are enough already.
func (n *names) of(name string) string {
	if name == "" {
		return Other
	}
	n.mu.RLock()
	ok := n.seen[name]
	n.mu.RUnlock()
	if ok {
		return name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.seen[name] && len(n.seen) >= n.most {
		return Other
	}
	n.seen[name] = true
	return name
}
