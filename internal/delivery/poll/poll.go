// Package poll asks providers for what deployments lack: the state of their runs, who
// wrote their commits, what became of their pull requests, and where clusters are by the
// tags of manifests.
//
// What it learns becomes reports, as if somebody had told, so that everything shown of
// deployments follows from events. It reports only what a deployment does not show yet,
// with the time at which it happened there, so that asking again makes no new event.
//
// One server polls. Which one says a lane of the queue (topic "delivery-poll"), held by a
// message that is never finished; a server that dies is replaced like any worker.
//
// # What is asked
//
// Each interval: the tags of every repository of manifests (one call, answered with "not
// modified" when nothing was moved), runs that have not ended or whose times are not
// known, authors that are not known, and pull requests that are not merged. Complete
// deployments need nothing but the tags; one call more at most looks whether runs that
// ended are still there. What belongs to deployments without news for a week is looked at
// once an hour.
//
// # Trouble
//
// A provider that does not answer, wants no calls or refuses the token is left alone, with
// growing pauses, and what it told before stays as it is. A part of a provider that fails
// (the commits, say) is passed over, and hinders nothing else.
package poll

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Topic of the lane that says which server polls.
const Topic = "delivery-poll"

// lane is the key of its only message.
const lane = "sources"

// tableSource holds how sources fare. Key: name; value: state.
const tableSource = "delivery_source"

// Tables are the descriptors of the package's tables.
func Tables() store.Schema { return store.Schema{{Name: tableSource, Version: 1}} }

// Source is a provider that is polled, as the settings have it.
type Source struct {
	Name  string
	Kind  string
	URL   *url.URL // its pages
	API   *url.URL // nil: found from URL
	Token string   // may be ${secret:NAME}
	// Project is organization/project of Azure DevOps, of runs whose repository does not tell.
	Project string
	// Repositories limits what it is asked for: addresses, of which the last part can be *.
	// Those that name another host are asked for here all the same. Empty: all of its host.
	Repositories []string
	Partitions   []string // whose deployments are looked at; empty: all
	// Stages whose runs are of this provider wherever the repository is.
	Stages []waybill.Stage
	// Where the code of deployments is that name no repository.
	SourceRepo, ConfigRepo, ManifestRepo string
	TagPrefix                            string // of the tags by which clusters tell where they are
	Status                               string // what is written back: "", "commit" or "deployment"
}

// equal reports whether two sources are the same.
func (s Source) equal(o Source) bool {
	a, errA := json.Marshal(s)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && string(a) == string(b)
}

// Config is what the settings say.
type Config struct {
	Interval time.Duration
	Rows     int // the newest deployments of a partition that are looked at
	Calls    int // most calls to a provider in one interval
	Sources  []Source
}

// Deliveries are what is polled for. internal/delivery has them.
type Deliveries interface {
	DeliveryPartitions(ctx context.Context) ([]string, error)
	LastEvent(ctx context.Context, partition string) (int64, error)
	Deployments(ctx context.Context, f waybill.DeploymentFilter) (waybill.Page[waybill.Deployment], error)
	Report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error)
}

// Options of a Poller.
type Options struct {
	Store      store.Store
	Deliveries Deliveries
	// New makes the provider of a source.
	New    func(Source) (provider.Provider, error)
	Config Config
	Node   string
	Lease  time.Duration
	Logger *slog.Logger
	Now    func() time.Time // the wall clock; nil is time.Now
}

// Poller polls. It implements waybill.DeliveryProviders; safe for concurrent use.
type Poller struct {
	o Options

	mu      sync.Mutex
	conf    Config
	changed chan struct{} // closed when conf changes
	made    map[string]*made
}

// made is a provider that was made of a source.
type made struct {
	src Source
	p   provider.Provider
	err error
}

var _ waybill.DeliveryProviders = (*Poller)(nil)

// New returns a poller.
func New(o Options) *Poller {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Poller{o: o, changed: make(chan struct{}), made: map[string]*made{}}
	p.conf = o.Config.clean()
	return p
}

func (c Config) clean() Config {
	if c.Interval <= 0 {
		c.Interval = 30 * time.Second
	}
	if c.Rows <= 0 {
		c.Rows = 1000
	}
	if c.Calls <= 0 {
		c.Calls = 200
	}
	c.Sources = slices.Clone(c.Sources)
	slices.SortFunc(c.Sources, func(a, b Source) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return c
}

// Set changes what is polled, from now on. Sources that stay as they are keep what they
// remember.
func (p *Poller) Set(c Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = c.clean()
	if c.Interval == p.conf.Interval && c.Rows == p.conf.Rows && c.Calls == p.conf.Calls && slices.EqualFunc(c.Sources, p.conf.Sources, Source.equal) {
		return // other settings have changed
	}
	p.conf = c
	close(p.changed)
	p.changed = make(chan struct{})
	for name, m := range p.made {
		if i := slices.IndexFunc(p.conf.Sources, func(s Source) bool { return s.Name == name }); i < 0 || !m.src.equal(p.conf.Sources[i]) {
			if m.p != nil {
				m.p.Client().Close()
			}
			delete(p.made, name)
		}
	}
}

// config returns the settings, and a channel that is closed when they change.
func (p *Poller) config() (Config, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conf, p.changed
}

// Provider is the provider of a source. The caller shares it.
func (p *Poller) Provider(name string) (provider.Provider, Source, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.conf.Sources, func(s Source) bool { return s.Name == name })
	if i < 0 {
		return nil, Source{}, waybill.E(waybill.KindNotFound, "there is no deliveries.providers.%.80s", name)
	}
	m := p.made[name]
	if m == nil {
		m = &made{src: p.conf.Sources[i]}
		m.p, m.err = p.o.New(m.src)
		p.made[name] = m
	}
	return m.p, m.src, m.err
}

// Worker returns the options of the worker that lets this server poll.
func (p *Poller) Worker() queue.Options {
	return queue.Options{
		Store: p.o.Store, Topic: Topic, Owner: p.o.Node, Logger: p.o.Logger, Handler: p.Handle, Slots: 1, Lease: p.o.Lease,
		// The lane is held for as long as its server lives: that is no failure.
		MaxFails: 1 << 30, MaxDeliveries: -1,
	}
}

// Handle polls until its context ends.
func (p *Poller) Handle(ctx context.Context, _ *store.Msg) (*store.Commit, error) {
	newSession(p).run(ctx)
	if cause := context.Cause(ctx); !errors.Is(cause, queue.ErrStopping) {
		return nil, cause
	}
	return nil, queue.Yield(0, "the server stops")
}

// keepEvery is how often it is made sure that the lane has its message.
const keepEvery = 10 * time.Second

// Keep sees to it that there is a message to hold, until ctx ends.
func (p *Poller) Keep(ctx context.Context) {
	for {
		conf, changed := p.config()
		if len(conf.Sources) > 0 {
			if err := p.Ensure(ctx); err != nil && ctx.Err() == nil {
				p.o.Logger.Warn("sources of deliveries not looked after", "err", err)
			}
		}
		t := time.NewTimer(keepEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-changed:
			t.Stop()
		case <-t.C:
		}
	}
}

// Ensure sends the message if there is none.
func (p *Poller) Ensure(ctx context.Context) error {
	// The row is read before the messages: a server that was faster has changed it then, or
	// its message is seen.
	row, err := p.o.Store.Get(ctx, "", tableSource, laneKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	msgs, _, err := p.o.Store.Peek(ctx, "", Topic, "", 1)
	if err != nil || len(msgs) > 0 {
		return err
	}
	err = p.o.Store.Commit(ctx, &store.Commit{
		Puts:  []store.Put{{Table: tableSource, Key: laneKey, Rev: row.Rev, Val: []byte(`{}`)}},
		Sends: []store.Send{{Topic: Topic, Key: lane, Body: []byte(`{}`)}},
	})
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}
