// Package app puts the parts of a server together: it is the one place that sees
// all of them, and it knows in which order they start and stop.
package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/auth"
	"github.com/waybill-run/waybill/internal/auth/oidc"
	"github.com/waybill-run/waybill/internal/blob/file"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/poll"
	"github.com/waybill-run/waybill/internal/delivery/runs"
	"github.com/waybill-run/waybill/internal/engine"
	"github.com/waybill-run/waybill/internal/fault"
	"github.com/waybill-run/waybill/internal/footprint"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/lineage"
	"github.com/waybill-run/waybill/internal/mask"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	httprunner "github.com/waybill-run/waybill/internal/runner/http"
	"github.com/waybill-run/waybill/internal/runner/process"
	"github.com/waybill-run/waybill/internal/runner/sim"
	"github.com/waybill-run/waybill/internal/secret"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/sqlite"
	"github.com/waybill-run/waybill/internal/watch"
)

// Config is what a server is started with.
type Config struct {
	Data    string // data directory
	Project string // project folder; empty for none
	Listen  string // host:port; port 0 picks a free one
	Store   string // "sqlite", or a PostgreSQL URL
	Blobs   string // folder of objects and logs; empty means one in Data. Servers that share a store share it too
	TLSCert string
	TLSKey  string
	Hosts   []string // further names by which clients may call
	URL     string   // address by which units of this machine call back; empty means the listener's
	// CallbackListen is where containers of this machine call back: host:port, "auto" for
	// an address on their network, or "none". Empty is auto.
	CallbackListen string
	PublicURL      string        // address by which units elsewhere call back; empty when they cannot
	Units          int           // units at once; 0 leaves it to the project's settings
	Lease          time.Duration // of messages and of this server; 0 means 15 s
	// SecretKeyFile holds the key of the store's secrets; empty means WAYBILL_SECRET_KEY or
	// else a key of its own in Data.
	SecretKeyFile string
	// Known masks the secrets that this server has learned in what it says itself. The
	// Logger writes through it; nil means one of its own.
	Known *mask.Known

	Version httpd.Version
	Logger  *slog.Logger
	// Supervisor is the command that runs a supervisor for a folder, which is
	// added as its last argument.
	Supervisor []string
	// Ready is called once with the address when the server listens.
	Ready func(url string)
	// Opened is called once when the store is open and work goes on.
	Opened func()
}

// Server is a running server.
type Server struct {
	c      Config
	log    *slog.Logger
	data   *dataDir
	http   *httpd.Server
	web    *http.Server
	url    string
	store  store.Store
	blobs  *file.Store
	engine *engine.Engine
	begun  time.Time
	looks  *looks

	runners  map[string]runner.Runner
	arrivals *queue.Worker
	triggers *triggers
	elsewhere
	deliveries *delivery.Service
	ingest     *inbound.Inbound
	stages     *runs.Reporter
	told       *outbound.Outbound
	polling    polling
	project    *project.Project
	calls      *callbacks
	oidc       *oidc.Verifier // nil until the settings are read
	kept       *secret.Kept   // secrets of the store
	secrets    *secret.Chain  // what definitions and settings name as ${secret:NAME}

	observer *observer
	ops      *operations

	background sync.WaitGroup
	stop       context.CancelFunc
	served     chan error
}

// Run starts a server and stops it when ctx ends. It returns nil after an orderly
// stop.
func Run(ctx context.Context, c Config) error {
	s, err := Start(ctx, c)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		err = nil
	case err = <-s.served:
	}
	return errors.Join(err, s.Stop())
}

// Start starts a server. The listener comes up first, so that health can be
// asked for while the store opens; everything else waits for the store. Its
// parts live until Stop, whatever becomes of ctx.
func Start(ctx context.Context, c Config) (_ *Server, err error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Known == nil {
		c.Known = &mask.Known{}
	}
	s := &Server{c: c, log: c.Logger, begun: time.Now(), served: make(chan error, 1), looks: newLooks(), runners: map[string]runner.Runner{}, observer: newObserver(c)}
	s.ops = &operations{s: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if s.data, err = openDataDir(c.Data); err != nil {
		return s, err
	}
	loopback := httpd.Loopback(c.Listen)
	// Whether a token exists can be told only by the store, which must not be
	// reachable before that is known; so the check comes before the listener when
	// the address is not loopback.
	if !loopback {
		if err := s.openStore(ctx); err != nil {
			return s, err
		}
		any, err := auth.New(s.store, nil).Any(ctx)
		if err != nil {
			return s, err
		}
		if !any {
			if any, err = hasIssuers(c.Project); err != nil {
				return s, err
			}
		}
		if !any {
			return s, waybill.E(waybill.KindInvalid, "%s is not a loopback address and there is no API token", c.Listen).
				WithOp("start server", "").
				WithHint("make the first token with: waybill token create --role admin --data %s; or name an identity provider in auth.oidc of waybill.yaml", c.Data)
		}
	}
	if err := s.listen(loopback); err != nil {
		return s, err
	}
	s.calls = newCallbacks(c, s.data.path)
	if err := s.calls.start(s.http); err != nil {
		return s, err
	}
	if s.store == nil {
		if err := s.openStore(ctx); err != nil {
			return s, err
		}
	}
	if err := s.work(ctx); err != nil {
		return s, err
	}
	s.log.Info("server ready", "url", s.url, "node", s.data.node, "store", s.store.Info().Engine, "took", time.Since(s.begun).Round(time.Millisecond))
	if c.Opened != nil {
		c.Opened()
	}
	return s, nil
}

// URL is the address of the server.
func (s *Server) URL() string { return s.url }

// Schema is every table of the program.
func Schema() store.Schema {
	var all store.Schema
	for _, part := range []store.Schema{engine.Tables(), object.Tables(), project.Tables(), arrival.Tables(), auth.Tables(), observerTables(), secret.Tables(), watch.Tables(), delivery.Tables(), inbound.Tables(), outbound.Tables(), poll.Tables(), queue.Tables(), triggerTables(), tables()} {
		all = append(all, part...)
	}
	return all
}

// tableMeta holds what belongs to the store itself: its instance id.
const tableMeta = "meta"

func tables() store.Schema { return store.Schema{{Name: tableMeta, Version: 1}} }

func (s *Server) listen(loopback bool) error {
	var certificates []tls.Certificate
	if s.c.TLSCert != "" {
		c, err := tls.LoadX509KeyPair(s.c.TLSCert, s.c.TLSKey)
		if err != nil {
			return waybill.E(waybill.KindInvalid, "%w", err).WithOp("read certificate", s.c.TLSCert)
		}
		certificates = []tls.Certificate{c}
	}
	ln, err := net.Listen("tcp", s.c.Listen)
	if err != nil {
		return waybill.E(waybill.KindUnavailable, "%w", err).WithOp("listen", s.c.Listen).
			WithHint("is another server running? choose another address with --listen")
	}
	s.http = httpd.New(httpd.Options{
		Health: s.health, Version: s.c.Version, Logger: s.log, Loopback: loopback, Hosts: s.c.Hosts, Problems: Problems, Observe: s.observer.metrics.Request, Mask: s.c.Known.String,
	})
	s.web = s.http.HTTP()
	scheme := "http"
	if certificates != nil {
		scheme = "https"
		s.web.TLSConfig = &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12}
	}
	s.url = scheme + "://" + callable(ln.Addr().(*net.TCPAddr))
	go func() {
		var err error
		if certificates != nil {
			err = s.web.ServeTLS(ln, "", "")
		} else {
			err = s.web.Serve(ln)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			s.served <- fmt.Errorf("serve: %w", err)
		}
	}()
	if s.c.Ready != nil {
		s.c.Ready(s.url)
	}
	return nil
}

// callable is an address that a unit of this machine can call.
func callable(a *net.TCPAddr) string {
	if a.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(a.Port))
	}
	return a.String()
}

func (s *Server) openStore(ctx context.Context) error {
	st, err := openStore(ctx, s.c.Store, s.data, s.log)
	if err == nil {
		s.store = s.observer.open(fault.Store(st), st)
		s.ops.store = st
	}
	return err
}

// openStore opens the store that a server of this data directory uses.
func openStore(ctx context.Context, where string, d *dataDir, log *slog.Logger) (store.Store, error) {
	switch {
	case where == "" || where == "sqlite":
		path := d.join("store.db")
		marked := d.join("store.used")
		_, err := os.Stat(marked)
		st, err := sqlite.Open(ctx, path, Schema(), sqlite.Options{Logger: log, MustExist: err == nil})
		if err != nil {
			return nil, err
		}
		// The folder is closed to others already; the files shall be, too, should
		// somebody open it.
		for _, end := range []string{"", "-wal", "-shm"} {
			if err := os.Chmod(path+end, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
				st.Close()
				return nil, err
			}
		}
		// From now on an absent file means a lost one.
		if _, _, err := d.once("store.used", func() string { return "sqlite" }); err != nil {
			st.Close()
			return nil, err
		}
		return st, nil
	case strings.HasPrefix(where, "postgres://"), strings.HasPrefix(where, "postgresql://"):
		st, err := postgres.Open(ctx, where, Schema(), postgres.Options{Logger: log})
		if err != nil {
			return nil, err
		}
		return st, nil
	}
	return nil, waybill.E(waybill.KindInvalid, "the store must be sqlite or a postgres:// URL")
}

// instance is the id of the store, the same for all its servers.
func (s *Server) instance(ctx context.Context) (string, error) {
	for {
		row, err := s.store.Get(ctx, "", tableMeta, "instance")
		if err == nil {
			var id string
			return id, json.Unmarshal(row.Val, &id)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return "", err
		}
		val, err := json.Marshal(waybill.NewID(time.Now()))
		if err != nil {
			return "", err
		}
		err = s.store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableMeta, Key: "instance", Val: val}}})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return "", err
		}
	}
}

// work starts everything behind the listener.
func (s *Server) work(ctx context.Context) error {
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = cancel
	instance, err := s.instance(ctx)
	if err != nil {
		return err
	}
	blobDir := s.c.Blobs
	if blobDir == "" {
		blobDir = s.data.join("blobs")
	}
	if s.blobs, err = file.Open(blobDir); err != nil {
		return err
	}
	if runtime.GOOS == "linux" && len(s.c.Supervisor) > 0 {
		dir := s.data.join("supervisor")
		p, err := process.New(process.Options{Dir: dir, Command: append(append([]string{}, s.c.Supervisor...), dir), Env: supervisorEnv(), Logger: s.log})
		if err != nil {
			return err
		}
		s.runners[p.Name()] = p
	}
	simulated := sim.New(sim.Options{Logger: s.log})
	s.runners[simulated.Name()] = simulated
	requests := httprunner.New(httprunner.Options{UserAgent: "waybill/" + s.c.Version.Version})
	s.runners[requests.Name()] = requests

	if err := s.openRunners(ctx); err != nil {
		return err
	}
	if s.project, err = project.Open(ctx, s.store, s.c.Project, project.Options{
		Parse: s.parseOptions(ctx), Logger: s.log, HasSecret: s.hasSecret,
	}); err != nil {
		return err
	}
	settings := s.project.Settings()
	if err := leftOut(settings); err != nil {
		return err
	}
	requests.SetGuard(settings.HTTP.Guard())
	if err := s.openOIDC(bg, settings.Auth.OIDC); err != nil {
		return err
	}
	if s.kept, s.secrets, err = openSecrets(ctx, s.store, s.data, s.c.SecretKeyFile, settings.Secrets, s.c.Known.Add, s.log); err != nil {
		return err
	}
	s.project.WarnSecrets(ctx)
	admin := queue.NewAdmin(s.store, settings.Queue.HighWater)
	units := s.c.Units
	if units == 0 {
		units = settings.Units.Max
	}
	s.engine = engine.New(engine.Options{
		Store: s.store, Blobs: s.blobs, Plans: s.project, Runners: s.observer.runners(s.runners), Traceparent: s.observer.traceparent, Admit: admin.Admit, Logger: s.log, Secrets: s.secrets,
		Node: s.data.node, Instance: instance, Secret: s.data.secret, Dir: s.data.join("units"), Project: s.c.Project,
		BaseEnv: s.baseEnv(settings), HostEnv: s.hostEnv(), URL: s.unitURL, Units: units, LogCap: settings.Units.LogCap,
		Lease:       s.c.Lease,
		OrphanSweep: time.Duration(settings.Units.OrphanSweep), OrphanGrace: time.Duration(settings.Units.OrphanGrace),
		CallGrace: time.Duration(settings.Callback.Grace), Shared: s.store.Info().Engine != "sqlite",
	})
	objects := object.New(s.store, s.blobs, object.Options{Admit: admin.Admit, Hops: s.engine.Hops, Guard: s.engine.Guard, Logger: s.log})
	s.engine.UseObjects(objects)
	tokens := auth.New(s.store, nil)
	s.deliveries = delivery.New(delivery.Options{Store: s.store, Bulk: footprint.Bulk})
	s.ingest = s.openIngest()
	s.newPoller(settings)
	if err := s.observer.prepare(ctx, s, instance, settings); err != nil {
		return err
	}
	if err := s.engine.Start(bg); err != nil {
		return err
	}
	arrivals := arrival.New(s.store, s.project, objects, s.engine.Begin, arrival.Options{Logger: s.log})
	if s.arrivals, err = queue.Start(bg, queue.Options{
		Store: s.store, Topic: queue.TopicArrival, Owner: s.data.node, Logger: s.log,
		Handler: arrivals.Handle, Lease: s.c.Lease,
	}); err != nil {
		return err
	}
	if err := s.watchBuckets(bg, objects, settings); err != nil {
		return err
	}
	if err := s.observer.start(bg); err != nil {
		return err
	}
	if err := s.reportRuns(bg); err != nil {
		return err
	}
	if err := s.tellDeliveries(bg, settings); err != nil {
		return err
	}
	if err := s.pollDeliveries(bg); err != nil {
		return err
	}
	if err := s.followHistory(bg, settings); err != nil {
		return err
	}
	s.watchAlerts(bg)
	if err := s.startTriggers(bg, admin.Admit); err != nil {
		return err
	}
	s.takeIn(bg, s.triggers.events, admin.Admit, settings)
	s.background.Go(func() { s.sweep(bg, objects, arrivals, settings) })
	s.background.Go(func() { s.release(bg) })
	s.background.Go(func() { s.watchFolder(bg) })
	s.http.SetReady(httpd.Services{
		Runs: s.engine, Callbacks: s.engine, Units: s.engine, Images: s.images(), Pipelines: s.project, Objects: objects, Lineages: lineage.New(s.engine, objects, arrivals), Queues: admin, Tokens: tokens, Identities: s.oidc, Secrets: s.kept,
		Watches: s.watches, Sources: s.intake, Deliveries: s.deliveries, Providers: s.polling.poller, Ingest: s.ingest, DeliveryChecks: s.deliveryChecks,
		Events: s.triggers.events, Schedules: s.triggers.schedules, Folder: projectFolder{s}, Schemas: FileSchema,
		Operations: s.ops, Dumps: admin,
		Stats: s.observer.stats, Notifications: s.observer.notifier, Metrics: s.observer.handler,
	})
	return nil
}

func (s *Server) callbackURL() string {
	if s.c.URL != "" {
		return strings.TrimRight(s.c.URL, "/")
	}
	return s.url
}

// hostEnv is what the environment of units begins with that see this machine's files. The
// program's own folder is in the path, so that units can call waybill.
func (s *Server) hostEnv() []string {
	path := "/usr/local/bin:/usr/bin:/bin"
	if exe, err := os.Executable(); err == nil {
		path = filepath.Dir(exe) + ":" + path
	}
	env := []string{"PATH=" + path, "LANG=C.UTF-8"}
	if s.c.Project != "" {
		env = append(env, "WAYBILL_PROJECT="+s.c.Project)
	}
	return env
}

// baseEnv are the variables of the server that every unit is given.
func (s *Server) baseEnv(settings project.Settings) []string {
	var env []string
	for _, name := range settings.Units.BaseEnv {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// ParseOptions are those by which definitions are read where these runners are.
func ParseOptions(runners map[string]runner.Runner) pipeline.Options {
	o := pipeline.Options{
		Env: os.LookupEnv, Runners: slices.Sorted(maps.Keys(runners)), NoFiles: map[string]string{},
		Check: func(name string, args []string, with json.RawMessage) error {
			if r := runners[name]; r != nil {
				return r.Check(args, with)
			}
			return nil
		},
	}
	for _, name := range o.Runners {
		c, ok := runners[name].(runner.Contained)
		if !ok {
			continue
		}
		o.Images = append(o.Images, name)
		// Those whose files are lost are elsewhere, and used by who names them.
		if x, ok := c.(interface{ LosesFiles() string }); ok {
			o.NoFiles[name] = x.LosesFiles()
		} else if o.ImageRunner == "" {
			o.ImageRunner = name // a server asks which one answers
		}
	}
	return o
}

// Problems turns what is wrong in a definition into what the API tells.
func Problems(err error) []httpd.SourceProblem {
	var ps pipeline.Problems
	if !errors.As(err, &ps) {
		return nil
	}
	out := make([]httpd.SourceProblem, len(ps))
	for i, p := range ps {
		out[i] = httpd.SourceProblem{Msg: p.Msg, File: p.File, Line: p.Line, Column: p.Column, Hint: p.Hint}
	}
	return out
}

// Stop ends the server in the reverse order of its start: nothing new comes in,
// what is being answered is answered, the engine lets go of its units, which go
// on, and the store is closed last.
func (s *Server) Stop() error {
	var errs []error
	if s.http != nil {
		s.http.Drain()
	}
	if s.web != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := s.web.Shutdown(ctx); err != nil {
			errs = append(errs, s.web.Close())
		}
		if s.calls != nil {
			s.calls.stop(ctx)
		}
		cancel()
	}
	s.elsewhere.stop()
	s.triggers.stop()
	if s.arrivals != nil {
		s.arrivals.Stop()
	}
	if s.engine != nil {
		s.engine.Stop()
	}
	s.polling.stop()
	s.stages.Stop()
	s.told.Stop()
	s.observer.stop()
	if s.stop != nil {
		s.stop()
	}
	s.background.Wait()
	for _, r := range s.runners {
		errs = append(errs, r.Close())
	}
	if s.project != nil {
		errs = append(errs, s.project.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.data != nil {
		errs = append(errs, s.data.Close())
	}
	return errors.Join(errs...)
}

// OpenTokens opens the tokens of a server that is stopped.
func OpenTokens(ctx context.Context, data, where string) (*auth.Tokens, func() error, error) {
	d, err := openDataDir(data)
	if err != nil {
		return nil, nil, err
	}
	st, err := openStore(ctx, where, d, slog.New(slog.DiscardHandler))
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	return auth.New(st, nil), func() error { return errors.Join(st.Close(), d.Close()) }, nil
}
