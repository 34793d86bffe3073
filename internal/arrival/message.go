package arrival

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// TypeMessage is the type of the event of a message, whose source is
// MessageSource with the name of the queue's source.
const (
	TypeMessage   = "queue"
	MessageSource = "/sources/"
)

// tableOpen counts messages without an id that are accepted and perhaps not yet
// acknowledged. Key: see openKey.
const tableOpen = "message_open"

// open is a row of tableOpen.
type open struct {
	Count int       `json:"count"`
	At    time.Time `json:"at"`
}

func openTable() store.Table {
	return store.Table{
		Name: tableOpen, Version: 1, Columns: []store.Column{{Name: "at", Type: store.Int}}, Indexes: [][]string{{"at"}},
		Derive: store.JSON(func(_ string, o *open) store.Derived { return store.Derived{Columns: []any{store.Millis(o.At)}} }),
	}
}

// Message is a message of another system's queue.
type Message struct {
	Source string        // name of the queue's source
	ID     string        // empty when it has none
	Event  waybill.Event // its ID, Type and Source are filled in
	// Redelivered says that the message may have been taken before.
	Redelivered bool
	Attempt     string // key of the attempt that sent it, if it says so
	// Refuse says why the message is to become a dead letter unless it is known.
	Refuse string
}

// openKey is the row of messages with the same content and no id.
func (m *Message) openKey() string { return seenKey(m.Source, contentHash(m.Event)) }

// Message starts what a message starts, and remembers it, in one commit: it may be
// acknowledged when this returns without an error. A message that was taken before
// starts nothing; Fresh is false then. What can start nothing becomes a dead letter.
//
// A message with an id is known by that. One without is known by its content if it
// is delivered again and one like it was taken and is not Settled. An id that comes
// with another content is no repetition: such a message becomes a dead letter.
func (e *Events) Message(ctx context.Context, m Message) (waybill.Delivery, error) {
	if err := e.o.Admit(ctx, queue.TopicRun); err != nil {
		return waybill.Delivery{}, err
	}
	m.Event.Type, m.Event.Source, m.Event.ID = TypeMessage, MessageSource+m.Source, m.ID
	if m.Event.Time.IsZero() {
		m.Event.Time = e.o.Now().UTC()
	}
	if err := e.hops(ctx, &m); err != nil {
		return waybill.Delivery{}, err
	}
	for {
		d, err := e.message(ctx, m)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return d, err
		}
	}
}

// hops counts what led to a message. One that names a run nobody knows here was led
// to by nothing.
func (e *Events) hops(ctx context.Context, m *Message) error {
	m.Event.Hops = 1
	if m.Attempt == "" || e.o.Hops == nil {
		return nil
	}
	n, err := e.o.Hops(ctx, m.Attempt)
	if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
		return err
	}
	m.Event.Hops = n + 1
	return nil
}

func (e *Events) message(ctx context.Context, m Message) (waybill.Delivery, error) {
	c := &store.Commit{}
	var key string
	if m.ID != "" {
		key = seenKey("queue", m.Source, m.ID)
		d, known, err := e.remembered(ctx, m.Event, []string{key})
		switch {
		case known:
			return d, nil
		case waybill.IsKind(err, waybill.KindInvalid):
			key = seenKey("queue", m.Source, m.ID, contentHash(m.Event))
			if d, known, err := e.remembered(ctx, m.Event, []string{key}); known || err != nil {
				return d, err
			}
			m.Refuse = err.Error()
		case err != nil:
			return d, err
		}
	} else {
		var o open
		rev, err := e.open(ctx, m.openKey(), &o)
		if err != nil {
			return waybill.Delivery{}, err
		}
		if m.Redelivered && o.Count > 0 {
			return waybill.Delivery{Source: m.Event.Source, Type: m.Event.Type, Runs: []waybill.StartedRun{}}, nil
		}
		m.Event.ID = waybill.NewID(e.o.Now())
		key = seenKey("queue", m.Source, m.Event.ID)
		val, err := json.Marshal(open{o.Count + 1, e.o.Now().UTC()})
		if err != nil {
			return waybill.Delivery{}, err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableOpen, Key: m.openKey(), Rev: rev, Val: val})
	}
	if m.Refuse == "" && m.Event.Hops > MaxHops+1 {
		m.Refuse = loopReason(m.Event)
	}
	d := describe(m.Event)
	if m.Refuse != "" {
		if err := e.refuse(c, &d, m, key); err != nil {
			return d, err
		}
	} else if err := e.startAll(ctx, c, &d, m, key); err != nil {
		return d, err
	}
	// That nobody wants it is remembered as well.
	val, err := json.Marshal(seen{Delivery: d, Hash: contentHash(m.Event), At: e.o.Now().UTC()})
	if err != nil {
		return d, err
	}
	c.Puts = append(c.Puts, store.Put{Table: tableSeen, Key: key, Val: val})
	return d, e.o.Store.Commit(ctx, c)
}

// refuse adds a dead letter, which starts what it can when it is sent again.
func (e *Events) refuse(c *store.Commit, d *waybill.Delivery, m Message, key string) error {
	body, err := json.Marshal(letter{Event: m.Event, Ledger: key})
	if err != nil {
		return err
	}
	p, rec, err := queue.Letter(queue.TopicEvent, m.Source+"/"+m.Event.ID, body, m.Refuse, e.o.Now())
	c.Puts, c.Events = append(c.Puts, p), append(c.Events, rec)
	d.Refused = []waybill.Refusal{{Reason: m.Refuse, Dead: true}}
	return err
}

// startAll adds the runs of every pipeline that wants a message.
func (e *Events) startAll(ctx context.Context, c *store.Commit, d *waybill.Delivery, m Message, key string) error {
	targets, err := e.messageTargets(ctx, m.Event)
	if err != nil {
		return err
	}
	for _, t := range targets {
		res, err := e.o.Starter.Start(t.Match, t.ref, key, m.Event)
		if err != nil {
			return err
		}
		res.Add(c)
		switch {
		case res.Run.ID != "":
			d.Runs = append(d.Runs, waybill.StartedRun{Pipeline: t.Plan.Name, Run: res.Run.ID})
		case res.Reason != "":
			d.Refused = append(d.Refused, waybill.Refusal{Pipeline: t.Plan.Name, Reason: res.Reason, Dead: res.Dead})
		}
	}
	return nil
}

// messageTargets are the triggers for a message, one for a pipeline: the first that
// takes it, or else the first.
func (e *Events) messageTargets(ctx context.Context, ev waybill.Event) ([]target, error) {
	name := strings.TrimPrefix(ev.Source, MessageSource)
	matches, _, err := e.o.Plans.Active(ctx, func(p *pipeline.Plan) bool { return len(p.On.Queues) > 0 })
	if err != nil {
		return nil, err
	}
	var out []target
	data := pipeline.EventData(ev)
	for _, m := range matches {
		best := -1
		for i := range m.Plan.On.Queues {
			t := &m.Plan.On.Queues[i]
			if t.Source != name {
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
			out = append(out, target{m, pipeline.QueueRef(best)})
		}
	}
	return out, nil
}

func (e *Events) open(ctx context.Context, key string, o *open) (rev int64, err error) {
	row, err := e.o.Store.Get(ctx, "", tableOpen, key)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		err = json.Unmarshal(row.Val, o)
	}
	return row.Rev, err
}

// Settled says that a message was acknowledged. It matters for one without an id
// only: the next with the same content is another one then, even if it is delivered
// twice.
func (e *Events) Settled(ctx context.Context, m Message) error {
	if m.ID != "" {
		return nil
	}
	m.Event.Type, m.Event.Source = TypeMessage, MessageSource+m.Source
	for {
		var o open
		rev, err := e.open(ctx, m.openKey(), &o)
		if err != nil || rev == 0 {
			return err
		}
		p := store.Put{Table: tableOpen, Key: m.openKey(), Rev: rev}
		if o.Count > 1 {
			o.Count--
			if p.Val, err = json.Marshal(o); err != nil {
				return err
			}
		}
		if err := e.o.Store.Commit(ctx, &store.Commit{Puts: []store.Put{p}}); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// SweepMessages forgets messages without an id that were never settled.
func (e *Events) SweepMessages(ctx context.Context, now time.Time) error {
	_, err := store.Forget(ctx, e.o.Store, store.Query{
		Table: tableOpen, Order: "at", Where: []store.Where{{Column: "at", Op: store.Lt, Value: now.Add(-Remember).UnixMilli()}},
	})
	return err
}
