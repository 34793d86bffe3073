package arrival

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// tableSeen remembers events that were delivered. Key: see seenKey.
const tableSeen = "event_seen"

// Remember is how long a delivered event is known: a repetition within that time
// starts nothing.
const Remember = 30 * 24 * time.Hour

// MaxEvent is the size in bytes of the largest event taken.
const MaxEvent = 256 << 10

// seen is a row of tableSeen.
type seen struct {
	waybill.Delivery
	Hash string    `json:"hash"`           // of what was delivered
	Same string    `json:"same,omitempty"` // the row that tells the rest
	At   time.Time `json:"at"`
}

func seenTable() store.Table {
	return store.Table{
		Name: tableSeen, Version: 1, Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
		Derive: store.JSON(func(_ string, e *seen) store.Derived { return store.Derived{Columns: []any{store.Millis(e.At)}} }),
	}
}

// seenKey is the row of an event. scope keeps the ids of different senders apart.
func seenKey(scope string, id ...string) string {
	h := sha256.New()
	for _, x := range id {
		fmt.Fprintf(h, "%d:%s", len(x), x)
	}
	return scope + "/" + hex.EncodeToString(h.Sum(nil))
}

// Secrets resolves the secrets of webhooks.
type Secrets interface {
	// Secret returns the value of ${secret:name}. KindNotFound: there is none.
	Secret(ctx context.Context, name string) (string, error)
}

// EventOptions of Events.
type EventOptions struct {
	Store   store.Store
	Plans   Plans
	Starter *Starter
	Secrets Secrets                                                // nil: there are none
	Env     func(name string) (string, bool)                       // for ${env:NAME}; nil: there are none
	Hops    func(ctx context.Context, attempt string) (int, error) // see engine.Hops
	Admit   func(ctx context.Context, topic string) error          // nil admits all
	Now     func() time.Time                                       // the wall clock
	Logger  *slog.Logger
}

// Events implements waybill.Events, and handles the topic "event". Safe for concurrent
// use.
type Events struct{ o EventOptions }

var _ waybill.Events = (*Events)(nil)

// NewEvents returns the events of a server.
func NewEvents(o EventOptions) *Events {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Admit == nil {
		o.Admit = func(context.Context, string) error { return nil }
	}
	return &Events{o}
}

// target is a trigger that takes an event.
type target struct {
	project.Match
	ref string
}

// Publish implements waybill.Events.
func (e *Events) Publish(ctx context.Context, r waybill.EventRequest) ([]waybill.Delivery, error) {
	if err := e.o.Admit(ctx, queue.TopicRun); err != nil {
		return nil, err
	}
	list, err := ParseCloudEvents(r.Header, r.Body, e.o.Now())
	if err != nil {
		return nil, err
	}
	hops := 0
	if r.By.Attempt != "" {
		if hops, err = e.o.Hops(ctx, r.By.Attempt); err != nil {
			return nil, err
		}
	}
	out := make([]waybill.Delivery, 0, len(list))
	for _, ev := range list {
		ev.Hops = hops + 1
		d, err := e.publish(ctx, ev)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func (e *Events) publish(ctx context.Context, ev waybill.Event) (waybill.Delivery, error) {
	key := seenKey("event", ev.Source, ev.ID)
	if ev.Hops > MaxHops+1 {
		return e.loop(ctx, ev, key)
	}
	targets, err := e.targets(ctx, ev)
	if err != nil {
		return waybill.Delivery{}, err
	}
	return e.deliver(ctx, ev, targets, key)
}

// targets are the triggers that an event's type and source fit, one for a pipeline: the
// first that also takes it, or else the first.
func (e *Events) targets(ctx context.Context, ev waybill.Event) ([]target, error) {
	matches, _, err := e.o.Plans.Active(ctx, func(p *pipeline.Plan) bool { return len(p.On.Events) > 0 })
	if err != nil {
		return nil, err
	}
	var out []target
	data := pipeline.EventData(ev)
	for _, m := range matches {
		best := -1
		for i := range m.Plan.On.Events {
			t := &m.Plan.On.Events[i]
			if !t.Matches(ev.Type, ev.Source) {
				continue
			}
			if ok, err := t.Accepts(data); ok && err == nil {
				best = i
				break
			} else if best < 0 {
				best = i
			}
		}
		if best >= 0 {
			out = append(out, target{m, pipeline.EventRef(best)})
		}
	}
	return out, nil
}

// loop keeps an event that our own runs have caused over and over as a dead letter.
func (e *Events) loop(ctx context.Context, ev waybill.Event, key string) (waybill.Delivery, error) {
	reason := loopReason(ev)
	body, err := json.Marshal(letter{Event: ev, Ledger: key})
	if err != nil {
		return waybill.Delivery{}, err
	}
	p, rec, err := queue.Letter(queue.TopicEvent, key, body, reason, e.o.Now())
	if err != nil {
		return waybill.Delivery{}, err
	}
	d := describe(ev)
	d.Refused = []waybill.Refusal{{Reason: reason, Dead: true}}
	return e.once(ctx, ev, d, &store.Commit{Puts: []store.Put{p}, Events: []store.Event{rec}}, key)
}

func loopReason(ev waybill.Event) string {
	return fmt.Sprintf("loop: %d arrivals led to this one", ev.Hops-1)
}

func describe(ev waybill.Event) waybill.Delivery {
	return waybill.Delivery{ID: ev.ID, Source: ev.Source, Type: ev.Type, Fresh: true, Runs: []waybill.StartedRun{}}
}

// deliver starts runs for an event and remembers it under all keys, in one commit. If
// one of the keys is known, nothing is started. The first key has the row that tells all.
func (e *Events) deliver(ctx context.Context, ev waybill.Event, targets []target, keys ...string) (waybill.Delivery, error) {
	if d, ok, err := e.remembered(ctx, ev, keys); ok || err != nil {
		return d, err
	}
	c := &store.Commit{}
	d := describe(ev)
	for _, t := range targets {
		res, err := e.o.Starter.Start(t.Match, t.ref, keys[0], ev)
		if err != nil {
			return waybill.Delivery{}, err
		}
		res.Add(c)
		switch {
		case res.Run.ID != "":
			d.Runs = append(d.Runs, waybill.StartedRun{Pipeline: t.Plan.Name, Run: res.Run.ID})
		case res.Reason != "":
			d.Refused = append(d.Refused, waybill.Refusal{Pipeline: t.Plan.Name, Reason: res.Reason, Dead: res.Dead})
		}
	}
	if len(c.Puts) == 0 && len(c.Events) == 0 {
		return d, nil // nobody wants it, so nothing is to be remembered
	}
	return e.once(ctx, ev, d, c, keys...)
}

// once commits what an event leads to, unless another request was faster.
func (e *Events) once(ctx context.Context, ev waybill.Event, d waybill.Delivery, c *store.Commit, keys ...string) (waybill.Delivery, error) {
	now := e.o.Now().UTC()
	for i, k := range keys {
		x := seen{Delivery: d, Hash: contentHash(ev), At: now}
		if i > 0 {
			x = seen{Hash: x.Hash, At: now, Same: keys[0]}
		}
		val, err := json.Marshal(x)
		if err != nil {
			return waybill.Delivery{}, err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableSeen, Key: k, Val: val})
	}
	err := e.o.Store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) {
		first, ok, err := e.remembered(ctx, ev, keys)
		if err == nil && !ok {
			err = waybill.E(waybill.KindConflict, "event %s is being delivered", ev.ID)
		}
		return first, err
	}
	return d, err
}

// contentHash is that of what a sender said, without what we added to it.
func contentHash(ev waybill.Event) string {
	h := sha256.New()
	for _, x := range []string{ev.Type, ev.Source, ev.Subject, string(ev.Data)} {
		fmt.Fprintf(h, "%d:%s", len(x), x)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// remembered returns what became of an event that was delivered before.
func (e *Events) remembered(ctx context.Context, ev waybill.Event, keys []string) (waybill.Delivery, bool, error) {
	for _, k := range keys {
		x, _, err := e.seen(ctx, k)
		if err == nil && x.Same != "" {
			hash := x.Hash
			x, _, err = e.seen(ctx, x.Same)
			x.Hash = hash
		}
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return waybill.Delivery{}, false, err
		}
		if x.Hash != contentHash(ev) {
			return waybill.Delivery{}, false, waybill.E(waybill.KindInvalid, "the id %.100q was delivered before with another content", ev.ID).
				WithHint("an event keeps its content; a new one gets a new id")
		}
		x.Fresh = false
		return x.Delivery, true, nil
	}
	return waybill.Delivery{}, false, nil
}

func (e *Events) seen(ctx context.Context, key string) (seen, int64, error) {
	var x seen
	row, err := e.o.Store.Get(ctx, "", tableSeen, key)
	if err != nil {
		return x, 0, err
	}
	return x, row.Rev, json.Unmarshal(row.Val, &x)
}

// Handle works on a dead letter that was sent again: it starts what could not be started
// when the event arrived. What the event has started already stays started once.
func (e *Events) Handle(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var in letter
	if err := json.Unmarshal(m.Body, &in); err != nil {
		return nil, queue.Bury("unreadable event: %v", err)
	}
	if in.Event.Hops > MaxHops+1 {
		return nil, queue.Bury("%s", loopReason(in.Event))
	}
	var targets []target
	if in.Pipeline == "" {
		find := e.targets
		if in.Event.Type == TypeMessage && strings.HasPrefix(in.Event.Source, MessageSource) {
			find = e.messageTargets
		}
		var err error
		if targets, err = find(ctx, in.Event); err != nil {
			return nil, err
		}
	} else {
		plan, version, err := e.o.Plans.Plan(ctx, in.Pipeline, 0)
		switch waybill.KindOf(err) {
		case "":
		case waybill.KindNotFound, waybill.KindGone, waybill.KindInvalid:
			return nil, queue.Bury("pipeline %s cannot start: %v", in.Pipeline, err)
		default:
			return nil, err
		}
		targets = []target{{project.Match{Plan: plan, Version: version}, in.Trigger}}
	}
	var known seen
	var rev int64
	if in.Ledger != "" {
		var err error
		if known, rev, err = e.seen(ctx, in.Ledger); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	c := &store.Commit{Tenant: m.Tenant}
	for _, t := range targets {
		if started(known.Runs, t.Plan.Name) {
			continue
		}
		res, err := e.o.Starter.try(t.Match, t.ref, in.Event, in.Slots)
		switch {
		case err != nil:
			return nil, err
		case res.Reason != "":
			return nil, queue.Bury("%s", res.Reason)
		case res.Run.ID == "":
			continue
		}
		res.Add(c)
		known.Runs = append(known.Runs, waybill.StartedRun{Pipeline: t.Plan.Name, Run: res.Run.ID})
		var rest []waybill.Refusal
		for _, r := range known.Refused {
			if r.Pipeline != t.Plan.Name {
				rest = append(rest, r)
			}
		}
		known.Refused = rest
	}
	if rev > 0 && len(c.Puts) > 0 {
		val, err := json.Marshal(known)
		if err != nil {
			return nil, err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableSeen, Key: in.Ledger, Rev: rev, Val: val})
	}
	return c, nil
}

func started(runs []waybill.StartedRun, name string) bool {
	for _, r := range runs {
		if r.Pipeline == name {
			return true
		}
	}
	return false
}

// Sweep forgets events that were delivered longer ago than Remember.
func (e *Events) Sweep(ctx context.Context, now time.Time) error {
	_, err := store.Forget(ctx, e.o.Store, store.Query{
		Table: tableSeen, Order: "at", Where: []store.Where{{Column: "at", Op: store.Lt, Value: now.Add(-Remember).UnixMilli()}},
	})
	return err
}
