// Package engine runs pipelines: a pure state machine (machine.go) and a thin,
// durable loop around it.
//
// A run has a lane of the topic "run": what happens to it (it starts, an attempt
// ended, somebody cancels it) are messages there, taken strictly one after
// another. Each is one commit that holds the end of the message, the changed
// rows of run and steps, the records of the timeline, and, as the outbox, the
// messages that make attempts.
//
// An attempt is a message of the topic "unit" (unit.go). The node that claims it
// writes itself into the attempt's row, starts the unit, waits, collects, and
// ends with one commit that closes the attempt, tells the run and orders the
// clean-up. Every write of an attempt's row names the revision it saw, so of two nodes that
// believe to own an attempt only one can go on.
//
// Clean-up is a message of the topic "cleanup" (cleanup.go), tried until the unit is gone.
package engine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/blob"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

// Plans finds definitions.
type Plans interface {
	// Plan returns a version of a pipeline, the newest when version is 0, and its
	// number. KindNotFound when there is none; KindGone when it no longer starts anything.
	Plan(ctx context.Context, name string, version int) (*pipeline.Plan, int, error)
}

// Options of an engine.
type Options struct {
	Store   store.Store
	Blobs   blob.Store
	Plans   Plans
	Runners map[string]runner.Runner
	Secrets Secrets                                       // nil has none
	Admit   func(ctx context.Context, topic string) error // nil admits everything
	Logger  *slog.Logger

	Node     string   // id of this server, the same after a restart
	Instance string   // id of the store, in the labels of units
	Secret   []byte   // of this node; attempts' tokens are made with it
	Dir      string   // where units get their folders
	Project  string   // folder in which relative program paths are looked up; may be empty
	BaseEnv  []string // what every unit's environment begins with
	HostEnv  []string // what that of units begins with that see the files of this machine
	// URL is the address by which units of a runner call back; empty when they have no way.
	URL func(ctx context.Context, runner string) string
	// Traceparent is what the unit of an attempt gets as TRACEPARENT (W3C Trace
	// Context), for a run, what started it and the attempt's key; empty for none. Nil
	// passes on what came with the event.
	Traceparent func(run string, ev waybill.Event, attempt string) string

	Units      int           // units at once on this node; 0 means 16
	Runs       int           // run messages in work at once; 0 means 32
	LogCap     int64         // bytes of log kept of a unit; 0 means 64 MiB
	Lease      time.Duration // of messages and of this node; 0 means 15 s
	StopGrace  time.Duration // between TERM and KILL; 0 means 10 s
	CallGrace  time.Duration // how long a required callback may come after the unit ended, and a unit may go on after its callback; 0 means 30 s
	RunningLag time.Duration // a unit that ends sooner is recorded as running and ended in one commit; 0 means 4 ms
	Shared     bool          // other servers use the same store

	OrphanSweep time.Duration // how often units without an owner are looked for; 0 means 5 min
	OrphanGrace time.Duration // how long one may be without; 0 means 15 min
}

// Engine runs pipelines. It implements waybill.Runs and waybill.Callbacks. Safe
// for concurrent use between Start and Stop.
type Engine struct {
	o    Options
	log  *slog.Logger
	up   time.Time     // when this node started
	down time.Duration // how long it was away before

	spares  *spares
	objects Objects
	known   memory
	fair    fairness
	workers []*queue.Worker
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	worked bool             // a unit was here since Active was asked
	live   map[string]*unit // attempts this node works on, by key
	kept   map[string]bool  // attempts whose deadline was moved by the time this node was down
}

var (
	_ waybill.Runs      = (*Engine)(nil)
	_ waybill.Callbacks = (*Engine)(nil)
	_ waybill.Units     = (*Engine)(nil)
)

// New returns an engine that does nothing until Start; it accepts runs before.
func New(o Options) *Engine {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Lease, 15*time.Second)
	def(&o.StopGrace, 10*time.Second)
	def(&o.CallGrace, 30*time.Second)
	def(&o.RunningLag, 4*time.Millisecond)
	def(&o.OrphanSweep, 5*time.Minute)
	def(&o.OrphanGrace, 15*time.Minute)
	if o.Units == 0 {
		o.Units = 16
	}
	if o.Runs == 0 {
		o.Runs = 32
	}
	if o.LogCap == 0 {
		o.LogCap = 64 << 20
	}
	if o.Traceparent == nil {
		o.Traceparent = func(_ string, ev waybill.Event, _ string) string { return ev.Traceparent }
	}
	if o.Admit == nil {
		o.Admit = func(context.Context, string) error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Engine{
		o: o, log: o.Logger, live: map[string]*unit{}, kept: map[string]bool{},
		known: memory{kept: map[string]*known{}, pending: map[string]*pending{}},
	}
}

// Start takes up what this node was doing when it last ended, and works until
// Stop.
func (e *Engine) Start(ctx context.Context) error {
	var err error
	if e.spares, err = newSpares(filepath.Join(e.o.Dir, "spare")); err != nil {
		return err
	}
	if err := e.rejoin(ctx); err != nil {
		return err
	}
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = cancel
	for _, o := range []queue.Options{
		{Topic: queue.TopicRun, Patient: true, Handler: e.advance, Buried: e.runBuried, Committed: e.advanced, Slots: e.o.Runs, PerLane: 16},
		{Topic: queue.TopicTimer, Patient: true, Handler: e.timer, Slots: 4},
		{Topic: queue.TopicSlot, Patient: true, Handler: e.slot, Buried: e.slotBuried, Slots: 4},
		{Topic: queue.TopicUnit, Patient: true, Handler: e.work, Buried: e.unitBuried, Slots: e.o.Units, MaxDeliveries: -1},
		{
			Topic: queue.TopicCleanup, Handler: e.cleanup, Buried: e.cleanupBuried, Slots: 8,
			MaxFails: cleanupTries, MaxDeliveries: -1, Backoff: cleanupBackoff,
		},
	} {
		o.Store, o.Owner, o.Logger, o.Lease = e.o.Store, e.o.Node, e.log, e.o.Lease
		w, err := queue.Start(bg, o)
		if err != nil {
			e.Stop()
			return err
		}
		e.workers = append(e.workers, w)
	}
	e.wg.Add(2)
	go e.heartbeat(bg)
	go e.sweepOrphans(bg)
	if e.o.Shared {
		e.wg.Add(1)
		go e.listen(bg)
	}
	return nil
}

// Stop ends the work of this node. Units go on; they are taken up at the next
// start. Stop returns when nothing of the engine runs any more.
func (e *Engine) Stop() {
	var wg sync.WaitGroup
	for _, w := range e.workers {
		wg.Go(w.Stop)
	}
	wg.Wait()
	if e.stop != nil {
		e.stop()
	}
	e.wg.Wait()
}

// Active reports whether this node has had work since it was last asked.
func (e *Engine) Active() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	worked := e.worked
	e.worked = false
	return worked || len(e.live) > 0
}

func (e *Engine) now() time.Time { return e.o.Store.Now().UTC() }

// Names of the engine's tables.
const (
	tableRun     = "run"     // key: run id; value: waybill.Run
	tableStep    = "step"    // key: run/step; value: waybill.Step
	tableAttempt = "attempt" // key: run/step/number; value: waybill.Attempt
	tableIdem    = "idem"    // key: scope/idempotency key; value: idem
	tableNode    = "node"    // key: node id; value: node
	tableSlot    = "slot"    // key: slot; value: slotRow
	tableWait    = "wait"    // key: waitKey; value: waitRow
)

// Tables are the descriptors of the engine's tables.
func Tables() store.Schema {
	return store.Schema{
		{
			Name: tableRun, Version: 2,
			Columns: []store.Column{
				{Name: "pipeline", Type: store.Text}, {Name: "status", Type: store.Text}, {Name: "trigger", Type: store.Text},
				{Name: "created", Type: store.Int}, {Name: "finished", Type: store.Int},
				{Name: "expires", Type: store.Int}, // 0 for runs that are kept as the server does
			},
			Indexes: [][]string{
				{"created"}, {"pipeline", "created"}, {"status", "created"}, {"pipeline", "status", "created"}, {"trigger", "created"}, {"finished"}, {"expires"},
			},
			Derive: store.JSON(func(_ string, r *struct {
				Pipeline string         `json:"pipeline"`
				Status   waybill.Status `json:"status"`
				Event    struct {
					Type string `json:"type"`
				} `json:"event"`
				CreatedAt  time.Time `json:"created_at"`
				FinishedAt time.Time `json:"finished_at"`
				Keep       int64     `json:"keep_seconds"`
			}) store.Derived {
				expires := int64(0)
				if r.Keep > 0 && !r.FinishedAt.IsZero() {
					expires = r.FinishedAt.UnixMilli() + 1000*r.Keep
				}
				return store.Derived{
					Columns:  []any{r.Pipeline, string(r.Status), r.Event.Type, store.Millis(r.CreatedAt), store.Millis(r.FinishedAt), expires},
					Counters: []string{"status:" + string(r.Status), "pipeline:" + r.Pipeline + ":" + string(r.Status)},
				}
			}),
		},
		{Name: tableLink, Version: 1},
		{Name: tableStep, Version: 1},
		{Name: tableAttempt, Version: 1},
		{
			Name: tableIdem, Version: 1,
			Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
			Derive: store.JSON(func(_ string, i *idem) store.Derived {
				return store.Derived{Columns: []any{store.Millis(i.At)}}
			}),
		},
		{Name: tableNode, Version: 1},
		{Name: tableSlot, Version: 1},
		{Name: tableWait, Version: 1},
	}
}

// node is the row of a server.
type node struct {
	At    time.Time `json:"at"`    // when it last said that it lives
	Lease string    `json:"lease"` // for how long that holds, as a duration
}

// rejoin says that this node lives, and finds out for how long it did not.
func (e *Engine) rejoin(ctx context.Context) error {
	row, err := e.o.Store.Get(ctx, "", tableNode, e.o.Node)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	default:
		var n node
		if json.Unmarshal(row.Val, &n) == nil {
			e.down = max(e.now().Sub(n.At), 0)
		}
	}
	e.up = e.now()
	return e.beat(ctx)
}

func (e *Engine) beat(ctx context.Context) error {
	val, err := json.Marshal(node{e.now(), e.o.Lease.String()})
	if err != nil {
		return err
	}
	return e.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableNode, Key: e.o.Node, Rev: store.AnyRev, Val: val}}})
}

func (e *Engine) heartbeat(ctx context.Context) {
	defer e.wg.Done()
	tick := time.NewTicker(e.o.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := e.beat(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("node heartbeat failed", "err", err)
			}
		}
	}
}

// listen pokes the units whose attempts were changed by other servers.
func (e *Engine) listen(ctx context.Context) {
	defer e.wg.Done()
	bell, silence := e.o.Store.Watch()
	defer silence()
	at, err := e.o.Store.Head(ctx)
	for ctx.Err() == nil {
		var events []store.StoredEvent
		if err == nil {
			events, err = e.o.Store.Tail(ctx, at, 1000)
		}
		for _, ev := range events {
			at = ev.Cursor
			if ev.Kind != "attempt.stopping" && ev.Kind != "attempt.callback" {
				continue
			}
			var d struct{ Attempt string }
			if json.Unmarshal(ev.Data, &d) == nil {
				e.poke(d.Attempt)
			}
		}
		if len(events) == 1000 {
			continue
		}
		wait := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-bell:
		case <-wait.C:
			if err != nil {
				e.log.Warn("engine cannot read events", "err", err)
				at, err = e.o.Store.Head(ctx)
				e.pokeAll() // something may have been missed
			}
		}
		wait.Stop()
	}
}

// poke makes the unit of an attempt look at its row, if it is here.
func (e *Engine) poke(attempt string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if u := e.live[attempt]; u != nil {
		u.poke()
	}
}

func (e *Engine) pokeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, u := range e.live {
		u.poke()
	}
}

// unitName is unique for ever because the run's id is, and legal everywhere: at
// most 63 of [a-z0-9-], beginning with a letter or digit.
func unitName(r *waybill.Run, step, cell, number int) string {
	slug := r.Pipeline
	limit, place := 16, fmt.Sprint(step)
	if cell >= 0 {
		limit, place = 10, fmt.Sprintf("%d-%d", step, cell)
	}
	if len(slug) > limit {
		slug = strings.TrimRight(slug[:limit], "-")
	}
	return fmt.Sprintf("%s-%s-%s-%d", slug, strings.ReplaceAll(r.ID, "-", ""), place, number)
}

// token returns the token of an attempt. It is made from the node's secret, so
// that a node that takes up its own attempt after a crash knows it again though
// only its hash is stored.
func (e *Engine) token(attempt string) string {
	mac := hmac.New(sha256.New, e.o.Secret)
	mac.Write([]byte("attempt\x00" + attempt))
	return "wba_" + base64.RawURLEncoding.EncodeToString([]byte(attempt)) + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func subject(run string) string { return "run/" + run }

// events are the records of a run as the store wants them.
func events(run string, records []record) []store.Event {
	out := make([]store.Event, len(records))
	for i, r := range records {
		out[i] = store.Event{Subject: subject(run), Kind: r.kind, At: r.at}
		if r.data != nil {
			b, err := json.Marshal(r.data)
			if err != nil {
				b = []byte(`{"error":"record lost"}`) // data are strings and numbers; this cannot happen
			}
			out[i].Data = b
		}
	}
	return out
}

func put(table, key string, rev int64, val any) (store.Put, error) {
	b, err := json.Marshal(val)
	return store.Put{Table: table, Key: key, Rev: rev, Val: b}, err
}
