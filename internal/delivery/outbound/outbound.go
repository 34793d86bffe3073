package outbound

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Topic is that of messages to be sent. Their key is sink, partition and lane.
const Topic = "delivery-out"

const (
	tablePlace = "delivery_out"  // partition: how far its events were read; a blank says that reading has begun
	tableTold  = "delivery_told" // sink/hash of an id: when it was planned

	keyBegun = " " // no partition has this key, as they are escaped
)

// keepTold is how long it is known what was told.
const keepTold = 90 * 24 * time.Hour

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{
		{Name: tablePlace, Version: 1},
		{
			Name: tableTold, Version: 1,
			Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
			Derive: store.JSON(func(_ string, t *told) store.Derived { return store.Derived{Columns: []any{store.Millis(t.At)}} }),
		},
	}
}

type place struct {
	Seq int64 `json:"seq"`
}

type told struct {
	At time.Time `json:"at"`
}

// Log is where events are read. internal/delivery has it.
type Log interface {
	DeliveryPartitions(ctx context.Context) ([]string, error)
	LastEvent(ctx context.Context, partition string) (int64, error)
	EventsAfter(ctx context.Context, partition string, seq int64, n int) ([]delivery.Taken, error)
	Deployment(ctx context.Context, partition, id string) (waybill.DeploymentDetail, error)
}

// Options of Outbound.
type Options struct {
	Store  store.Store
	Log    Log
	Sinks  []Sink
	Owner  string // this server
	Lease  time.Duration
	Logger *slog.Logger
	Pace   time.Duration // how soon an event is seen; 0 means 1 s
	// Backoff is the pause after so many failures; nil doubles from 1 s to half an hour.
	Backoff func(fails int) time.Duration
}

// Outbound plans and sends. Safe for concurrent use.
type Outbound struct {
	o      Options
	sinks  map[string]Sink
	stop   context.CancelFunc
	done   sync.WaitGroup
	worker *queue.Worker
}

// Messages are tried for about a day.
const tries = 55

func backoff(fails int) time.Duration {
	return min(time.Second<<min(max(fails-1, 0), 11), 30*time.Minute)
}

// batch is how many events are read at once.
const batch = 100

// sendFor bounds one Send.
const sendFor = 30 * time.Second

// Start begins to plan and to send, until Stop. Without sinks it does neither, and what
// waits for a sink that is no longer there is dropped when there is one again.
func Start(ctx context.Context, o Options) (*Outbound, error) {
	if o.Pace <= 0 {
		o.Pace = time.Second
	}
	if o.Backoff == nil {
		o.Backoff = backoff
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	out := &Outbound{o: o, sinks: map[string]Sink{}}
	for _, s := range o.Sinks {
		if _, twice := out.sinks[s.Name()]; twice || s.Name() == "" {
			return nil, waybill.E(waybill.KindInvalid, "two sinks of deliveries are called %q", s.Name())
		}
		out.sinks[s.Name()] = s
	}
	if len(o.Sinks) == 0 {
		return out, nil
	}
	if err := out.begin(ctx); err != nil {
		return nil, err
	}
	var err error
	if out.worker, err = queue.Start(ctx, queue.Options{
		Store: o.Store, Topic: Topic, Owner: o.Owner, Handler: out.send, Logger: o.Logger, Lease: o.Lease,
		Slots: 8, MaxFails: tries, Backoff: o.Backoff,
	}); err != nil {
		return nil, err
	}
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out.stop = cancel
	out.done.Go(func() { out.run(bg) })
	return out, nil
}

// Stop ends both. What waits is sent when a server starts again.
func (o *Outbound) Stop() {
	if o == nil || o.stop == nil {
		return
	}
	o.stop()
	o.done.Wait()
	o.worker.Stop()
}

// begin notes where the partitions are when sinks are there for the first time: nothing is
// told of what happened before. A partition that begins later is read from its beginning.
func (o *Outbound) begin(ctx context.Context) error {
	if _, err := o.o.Store.Get(ctx, "", tablePlace, keyBegun); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	parts, err := o.o.Log.DeliveryPartitions(ctx)
	if err != nil {
		return err
	}
	c := &store.Commit{Puts: []store.Put{{Table: tablePlace, Key: keyBegun, Val: []byte(`{"seq":0}`)}}}
	for _, p := range parts {
		n, err := o.o.Log.LastEvent(ctx, p)
		if err != nil {
			return err
		}
		val, err := json.Marshal(place{n})
		if err != nil {
			return err
		}
		c.Puts = append(c.Puts, store.Put{Table: tablePlace, Key: placeKey(p), Val: val})
	}
	if err := o.o.Store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil // another server was faster
}

func placeKey(partition string) string { return url.PathEscape(partition) }

func (o *Outbound) run(ctx context.Context) {
	fails, swept := 0, time.Time{}
	for ctx.Err() == nil {
		err := o.pass(ctx)
		if now := o.o.Store.Now(); err == nil && now.Sub(swept) > time.Hour {
			err, swept = o.sweep(ctx, now), now
		}
		wait := o.o.Pace
		if err != nil && ctx.Err() == nil {
			fails++
			o.o.Logger.Warn("deliveries are not told to others, trying again", "err", err)
			wait = min(time.Duration(fails)*o.o.Pace, time.Minute)
		} else {
			fails = 0
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (o *Outbound) pass(ctx context.Context) error {
	parts, err := o.o.Log.DeliveryPartitions(ctx)
	if err != nil {
		return err
	}
	var first error
	for _, p := range parts {
		// One partition that cannot be told of holds up no other.
		if err := o.partition(ctx, p); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// partition deals with what is new in a partition.
func (o *Outbound) partition(ctx context.Context, name string) error {
	for {
		var at place
		row, err := o.o.Store.Get(ctx, "", tablePlace, placeKey(name))
		switch {
		case err == nil:
			if err := json.Unmarshal(row.Val, &at); err != nil {
				return err
			}
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		events, err := o.o.Log.EventsAfter(ctx, name, at.Seq, batch)
		if err != nil || len(events) == 0 {
			return err
		}
		c, err := o.plan(ctx, name, events)
		if err != nil {
			return err
		}
		val, err := json.Marshal(place{events[len(events)-1].Seq})
		if err != nil {
			return err
		}
		c.Puts = append(c.Puts, store.Put{Table: tablePlace, Key: placeKey(name), Rev: row.Rev, Val: val})
		err = o.o.Store.Commit(ctx, c)
		switch {
		case errors.Is(err, store.ErrConflict): // another server reads as well
		case err != nil:
			return err
		case len(events) < batch:
			return nil
		}
	}
}

// body is a message in the queue.
type body struct {
	Sink    string  `json:"sink"`
	Message Message `json:"message"`
}

// plan is what follows from events.
func (o *Outbound) plan(ctx context.Context, partition string, events []delivery.Taken) (*store.Commit, error) {
	now := o.o.Store.Now().UTC()
	c := &store.Commit{}
	rows := map[string]*waybill.Deployment{}
	planned := map[string]bool{}
	for i := range events {
		e := &events[i]
		if now.Sub(e.ReceivedAt) > MaxAge {
			continue
		}
		change := Change{Partition: partition, Event: e.DeliveryEvent, Action: e.Action}
		for _, id := range e.Rows {
			d, known := rows[id]
			if !known {
				detail, err := o.o.Log.Deployment(ctx, partition, id)
				switch {
				case err == nil:
					d = &detail.Deployment
				case !waybill.IsKind(err, waybill.KindNotFound): // pruned since
					return nil, err
				}
				rows[id] = d
			}
			if d != nil {
				change.Deployments = append(change.Deployments, *d)
			}
		}
		for _, sink := range o.o.Sinks {
			list, err := sink.Plan(ctx, change)
			if waybill.IsKind(err, waybill.KindInvalid) {
				o.o.Logger.Warn("a change of deliveries cannot be told", "sink", sink.Name(), "event", e.ID, "err", err)
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, m := range list {
				key := toldKey(sink.Name(), partition, m.ID)
				if planned[key] {
					continue
				}
				planned[key] = true
				if _, err := o.o.Store.Get(ctx, "", tableTold, key); err == nil {
					continue
				} else if !errors.Is(err, store.ErrNotFound) {
					return nil, err
				}
				if err := add(c, key, partition, sink.Name(), m, now); err != nil {
					return nil, err
				}
			}
		}
	}
	return c, nil
}

func add(c *store.Commit, key, partition, sink string, m Message, now time.Time) error {
	b, err := json.Marshal(body{Sink: sink, Message: m})
	if err != nil {
		return err
	}
	val, err := json.Marshal(told{now})
	if err != nil {
		return err
	}
	lane := m.Lane
	if lane == "" {
		lane = key
	}
	c.Puts = append(c.Puts, store.Put{Table: tableTold, Key: key, Val: val})
	c.Sends = append(c.Sends, store.Send{Topic: Topic, Key: sink + "/" + hashed(partition, lane), Body: b})
	return nil
}

func toldKey(sink, partition, id string) string { return sink + "/" + hashed(partition, id) }

func hashed(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// send is the handler of the topic.
func (o *Outbound) send(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var b body
	if err := json.Unmarshal(m.Body, &b); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	sink := o.sinks[b.Sink]
	if sink == nil {
		o.o.Logger.Info("a message about deliveries was dropped: its sink is gone", "sink", b.Sink, "message", b.Message.ID)
		return nil, nil
	}
	limited, cancel := context.WithTimeout(ctx, sendFor)
	defer cancel()
	err := sink.Send(limited, b.Message)
	if err == nil {
		return nil, nil
	}
	switch waybill.KindOf(err) {
	case waybill.KindInvalid, waybill.KindMalformed, waybill.KindTooLarge:
		return nil, queue.Bury("%s: %v", b.Sink, err)
	}
	var w *waybill.Error
	if errors.As(err, &w) && w.RetryAfter > 0 {
		return nil, queue.Retry(max(w.RetryAfter, o.o.Backoff(m.Fails+1)), err)
	}
	return nil, queue.Retry(o.o.Backoff(m.Fails+1), err)
}

// sweep forgets what was told long ago.
func (o *Outbound) sweep(ctx context.Context, now time.Time) error {
	for {
		page, err := o.o.Store.Query(ctx, store.Query{
			Table: tableTold, Order: "at", Limit: 500,
			Where: []store.Where{{Column: "at", Op: store.Lt, Value: store.Millis(now.Add(-keepTold))}},
		})
		if err != nil || len(page.Rows) == 0 {
			return err
		}
		c := &store.Commit{}
		for _, r := range page.Rows {
			c.Puts = append(c.Puts, store.Put{Table: tableTold, Key: r.Key, Rev: store.AnyRev})
		}
		if err := o.o.Store.Commit(ctx, c); err != nil {
			return err
		}
	}
}
