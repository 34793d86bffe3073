// Package httpd serves the HTTP API of api/openapi.yaml and the first page.
//
// The generated interface in internal/httpd/openapi names the operations; this
// package implements them over the service interfaces of package waybill. What
// is the same for every operation stands in one place each: router.go says who
// may call what, problem.go how an error becomes an answer, guard.go what is
// refused before anything else, access.go who is calling.
package httpd

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// Services are the parts of the program that answer requests. All must be set.
type Services struct {
	Runs          waybill.Runs
	Callbacks     waybill.Callbacks
	Pipelines     waybill.Pipelines
	Objects       waybill.Objects
	Lineages      waybill.Lineages
	Queues        waybill.Queues
	Units         waybill.Units
	Images        waybill.Images // nil where the runner that needs them is not available
	Tokens        waybill.Tokens
	Identities    waybill.Identities
	Operations    waybill.Operations
	Dumps         waybill.QueueDumps
	Secrets       waybill.Secrets
	Stats         waybill.RunStats
	Notifications waybill.Notifications
	Metrics       http.Handler
	Events        waybill.Events
	Schedules     waybill.Schedules
	Folder        waybill.Folder
	Watches       waybill.Watches
	Sources       waybill.Sources
	Deliveries    waybill.Deliveries
	Providers     waybill.DeliveryProviders // that are polled; nil when none can be
	Ingest        waybill.Ingest
	// DeliveryChecks looks at what deliveries need, and tells settings that may be known:
	// one error for each check that failed. Nil checks nothing more than Deliveries.
	DeliveryChecks func(context.Context) (failed []error, variables map[string]string)
	Schemas        func(kind string) ([]byte, error) // JSON Schema of a kind of file; KindNotFound
}

// Limits bound what one request may cost. The zero value of a field means its
// default.
type Limits struct {
	JSON         int64         // bytes of a JSON or YAML body; 1 MiB
	Object       int64         // bytes of an object; 5 GiB
	Read         time.Duration // to send a small body, and the longest silence in an object; 30 s
	Write        time.Duration // the longest time one write of an answer may be stuck; 30 s
	Heartbeat    time.Duration // between comments on a quiet event stream; 15 s
	AuthFailures int           // wrong tokens in a row from one address before it must wait; 20
	AuthRecovery time.Duration // after which one more is forgiven; 3 s
	Slow         time.Duration // a request that takes longer is logged; 1 s
}

func (l *Limits) defaults() {
	set(&l.JSON, 1<<20)
	set(&l.Object, 5<<30)
	set(&l.Read, 30*time.Second)
	set(&l.Write, 30*time.Second)
	set(&l.Heartbeat, 15*time.Second)
	set(&l.AuthFailures, 20)
	set(&l.AuthRecovery, 3*time.Second)
	set(&l.Slow, time.Second)
}

func set[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// SourceProblem is one thing wrong in a definition.
type SourceProblem = openapi.SourceProblem

// Version says which program this is.
type Version = openapi.Version

// Options configure a [Server].
type Options struct {
	// Health describes the server's state once it is ready. nil means always ok.
	Health  func(context.Context) waybill.Health
	Version Version
	Logger  *slog.Logger // required
	// Loopback says that the server listens on loopback addresses only: requests
	// without a token are then those of a local admin.
	Loopback bool
	// Hosts are further names and addresses, without port, by which clients may
	// call the server. Loopback names are always among them. A server that is not
	// on loopback and names no hosts takes any.
	Hosts []string
	// Problems returns what is wrong in a definition when err tells of that, for
	// the problems member of an answer. nil means never.
	Problems func(err error) []SourceProblem
	// Mask takes secrets out of the words of an error before they are told. nil changes
	// nothing.
	Mask func(string) string
	// Observe is told of each answer: the operation (empty when there is none), its
	// status and how long it took. Streams are left out. nil tells nobody.
	Observe func(operation string, status int, took time.Duration)
	Now     func() time.Time // nil means time.Now
	Limits  Limits
}

// Server answers requests. It is safe for concurrent use.
type Server struct {
	opt      Options
	log      *slog.Logger
	services atomic.Pointer[Services]
	handler  http.Handler
	hosts    map[string]bool
	failures *failures
	replays  *replays
	started  time.Time

	drain     chan struct{} // closed by Drain
	drainOnce sync.Once
}

// New returns a server that is starting: its handler answers /health and
// /version, and everything else with 503 until SetReady is called.
func New(o Options) *Server {
	o.Limits.defaults()
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		opt: o, log: o.Logger, drain: make(chan struct{}), started: o.Now(),
		hosts:    hostSet(o.Hosts),
		failures: newFailures(o.Limits.AuthFailures, o.Limits.AuthRecovery, o.Now),
		replays:  newReplays(o.Now),
	}
	s.handler = s.guard(s.routes())
	return s
}

// Handler returns the handler for all requests.
func (s *Server) Handler() http.Handler { return s.handler }

// UnitsHandler returns the handler for a listener that units call: it serves what the
// token of an attempt opens, to such tokens, and nothing else to anybody. It answers to any
// name, as units are given an address that only they know.
func (s *Server) UnitsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), unitsKey{}, true)))
	})
}

type unitsKey struct{}

// unitsOnly reports whether a request came to the listener for units.
func unitsOnly(r *http.Request) bool { return r.Context().Value(unitsKey{}) != nil }

// SetReady hands over the services and opens the server for work. It is called
// once.
func (s *Server) SetReady(v Services) { s.services.Store(&v) }

// Drain ends streams that are being followed, so that a shutdown does not wait
// for them; their clients take them up again elsewhere or later. /health says
// that the server is stopping. Drain may be called more than once.
func (s *Server) Drain() { s.drainOnce.Do(func() { close(s.drain) }) }

func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// HTTP returns a server for the handler, with limits that suit it: headers must
// arrive soon and idle connections end, but bodies and streams may take long as
// long as they move. Its Shutdown drains.
func (s *Server) HTTP() *http.Server {
	h := s.UnitsHTTP()
	h.Handler = s.handler
	h.RegisterOnShutdown(s.Drain)
	return h
}

// UnitsHTTP returns a server for UnitsHandler, with the same limits.
func (s *Server) UnitsHTTP() *http.Server {
	return &http.Server{
		Handler:           s.UnitsHandler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// health is the state that /health shows.
func (s *Server) health(ctx context.Context) waybill.Health {
	h := waybill.Health{Status: "starting"}
	if s.services.Load() != nil {
		h.Status = "ok"
		if s.opt.Health != nil {
			h = s.opt.Health(ctx)
		}
	}
	if s.draining() {
		h.Status = "stopping"
	}
	if h.Uptime == 0 {
		h.Uptime = max(0, s.opt.Now().Sub(s.started).Seconds())
	}
	return h
}

// Loopback reports whether a listen address, such as "127.0.0.1:4040", can be
// reached from this machine only.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		host = listen
	}
	return loopbackHost(host)
}
