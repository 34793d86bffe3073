package queue

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// HighWater is the number of messages in a topic above which new work is refused.
const HighWater = 1_000_000

// Admin shows and repairs the topics of one tenant; it implements waybill.Queues.
// Safe for concurrent use.
type Admin struct {
	store store.Store
	limit int64

	mu    sync.Mutex
	depth map[string]depth
}

type depth struct {
	n  int64
	at time.Time
}

var _ waybill.Queues = (*Admin)(nil)

// NewAdmin returns the admin of a store. highWater 0 means HighWater.
func NewAdmin(s store.Store, highWater int64) *Admin {
	if highWater <= 0 {
		highWater = HighWater
	}
	return &Admin{store: s, limit: highWater, depth: map[string]depth{}}
}

// Admit returns waybill.KindExhausted when a topic is over its high-water mark.
// It is asked before work is taken in from outside; work that was accepted is never
// refused. The depth is read at most once in 200 ms.
func (a *Admin) Admit(ctx context.Context, topic string) error {
	now := a.store.Now()
	a.mu.Lock()
	d, ok := a.depth[topic]
	a.mu.Unlock()
	if !ok || now.Sub(d.at) > 200*time.Millisecond || now.Before(d.at) {
		n, err := a.store.Depth(ctx, topic)
		if err != nil {
			return err
		}
		d = depth{n, now}
		a.mu.Lock()
		a.depth[topic] = d
		a.mu.Unlock()
	}
	if d.n < a.limit {
		return nil
	}
	err := waybill.E(waybill.KindExhausted, "the queue %s holds %d messages, its limit is %d", topic, d.n, a.limit)
	err.RetryAfter = 5 * time.Second
	return err
}

// Queues implements waybill.Queues.
func (a *Admin) Queues(ctx context.Context) ([]waybill.QueueInfo, error) {
	stats, err := a.store.Topics(ctx, "")
	if err != nil {
		return nil, err
	}
	out := make([]waybill.QueueInfo, 0, len(stats))
	for _, s := range stats {
		q := waybill.QueueInfo{Topic: s.Topic, Depth: s.Depth, Dead: s.Dead, Lanes: s.Lanes, Leased: s.Leased, Paused: s.Paused}
		if !s.Oldest.IsZero() {
			q.OldestAge = max(a.store.Now().Sub(s.Oldest).Seconds(), 0)
		}
		out = append(out, q)
	}
	// Topics of the program are there before their first message.
	for _, topic := range Topics() {
		if !slices.ContainsFunc(out, func(q waybill.QueueInfo) bool { return q.Topic == topic }) {
			out = append(out, waybill.QueueInfo{Topic: topic})
		}
	}
	slices.SortFunc(out, func(a, b waybill.QueueInfo) int { return strings.Compare(a.Topic, b.Topic) })
	return out, nil
}

// Messages implements waybill.Queues.
func (a *Admin) Messages(ctx context.Context, topic string, limit int, cursor string) (waybill.Page[waybill.QueueMessage], error) {
	if err := a.known(ctx, topic); err != nil {
		return waybill.Page[waybill.QueueMessage]{}, err
	}
	msgs, next, err := a.store.Peek(ctx, "", topic, cursor, clamp(limit))
	page := waybill.Page[waybill.QueueMessage]{Items: make([]waybill.QueueMessage, 0, len(msgs)), Next: next}
	for _, m := range msgs {
		page.Items = append(page.Items, waybill.QueueMessage{
			Topic: topic, Key: m.Key, Seq: m.Seq, Body: string(m.Body), Attempt: m.Attempt, Fails: m.Fails,
			Priority: m.Priority, SentAt: m.SentAt, ReadyAt: m.ReadyAt, Leased: m.Leased, Owner: m.Owner,
		})
	}
	return page, err
}

// DeadLetters implements waybill.Queues.
func (a *Admin) DeadLetters(ctx context.Context, topic string, limit int, cursor string) (waybill.Page[waybill.QueueMessage], error) {
	if err := a.known(ctx, topic); err != nil {
		return waybill.Page[waybill.QueueMessage]{}, err
	}
	page, err := a.store.Query(ctx, store.Query{
		Table: store.DeadTable, Where: []store.Where{{Column: "topic", Op: store.Eq, Value: topic}},
		Order: "dead_at", Desc: true, Limit: clamp(limit), After: cursor,
	})
	if err != nil {
		return waybill.Page[waybill.QueueMessage]{}, err
	}
	out := waybill.Page[waybill.QueueMessage]{Items: make([]waybill.QueueMessage, 0, len(page.Rows)), Next: page.Next}
	for _, r := range page.Rows {
		var d store.DeadLetter
		if err := json.Unmarshal(r.Val, &d); err != nil {
			return out, err
		}
		out.Items = append(out.Items, waybill.QueueMessage{
			ID: strings.TrimPrefix(r.Key, topic+"/"), Topic: d.Topic, Key: d.Key, Body: string(d.Body), Attempt: d.Attempt,
			Fails: d.Fails, Priority: d.Priority, SentAt: d.SentAt, Reason: d.Reason, DeadAt: d.DeadAt,
		})
	}
	return out, nil
}

// Redrive implements waybill.Queues. Each letter leaves the dead letters in the
// commit that sends it, so none is sent twice.
func (a *Admin) Redrive(ctx context.Context, topic string, ids []string, _ waybill.Principal) (int, error) {
	if err := a.known(ctx, topic); err != nil {
		return 0, err
	}
	n := 0
	redrive := func(r store.Row) error {
		var d store.DeadLetter
		if err := json.Unmarshal(r.Val, &d); err != nil {
			return err
		}
		err := a.store.Commit(ctx, &store.Commit{
			Tenant: r.Tenant,
			Puts:   []store.Put{{Table: store.DeadTable, Key: r.Key, Rev: r.Rev}},
			Sends:  []store.Send{{Topic: d.Topic, Key: d.Key, Body: d.Body, Priority: d.Priority}},
		})
		if errors.Is(err, store.ErrConflict) {
			return nil // somebody else was faster
		}
		if err == nil {
			n++
		}
		return err
	}
	if len(ids) > 0 {
		for i, id := range ids {
			if slices.Contains(ids[:i], id) {
				continue
			}
			r, err := a.store.Get(ctx, "", store.DeadTable, topic+"/"+id)
			if errors.Is(err, store.ErrNotFound) {
				return n, waybill.E(waybill.KindNotFound, "no dead letter %s in %s", id, topic)
			}
			if err != nil {
				return n, err
			}
			if err := redrive(r); err != nil {
				return n, err
			}
		}
		return n, nil
	}
	return n, a.eachDead(ctx, topic, redrive)
}

// eachDead calls f for the dead letters of a topic, oldest first, that were there
// when it was called.
func (a *Admin) eachDead(ctx context.Context, topic string, f func(store.Row) error) error {
	after, now := "", a.store.Now().UnixMilli()
	for {
		page, err := a.store.Query(ctx, store.Query{
			Table: store.DeadTable,
			Where: []store.Where{{Column: "topic", Op: store.Eq, Value: topic}, {Column: "dead_at", Op: store.Le, Value: now}},
			Order: "dead_at", Limit: 500, After: after,
		})
		if err != nil {
			return err
		}
		for _, r := range page.Rows {
			if err := f(r); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// Purge implements waybill.Queues.
func (a *Admin) Purge(ctx context.Context, topic string, dead bool, _ waybill.Principal) (int64, error) {
	if err := a.known(ctx, topic); err != nil {
		return 0, err
	}
	if !dead {
		return a.store.Purge(ctx, "", topic)
	}
	var n int64
	err := a.eachDead(ctx, topic, func(r store.Row) error {
		err := a.store.Commit(ctx, &store.Commit{Tenant: r.Tenant, Puts: []store.Put{{Table: store.DeadTable, Key: r.Key, Rev: r.Rev}}})
		if errors.Is(err, store.ErrConflict) {
			return nil
		}
		if err == nil {
			n++
		}
		return err
	})
	return n, err
}

// PauseQueue implements waybill.Queues.
func (a *Admin) PauseQueue(ctx context.Context, topic string, paused bool, _ waybill.Principal) error {
	if err := a.known(ctx, topic); err != nil {
		return err
	}
	return a.store.Pause(ctx, topic, paused)
}

// Topics of the program, which exist before their first message.
const (
	TopicRun     = "run"     // what happened to a run; key: the run
	TopicUnit    = "unit"    // attempts to make; key: the attempt
	TopicCleanup = "cleanup" // units to remove; key: the attempt
	TopicArrival = "arrival" // objects that arrived; key: bucket and object key
	TopicWatch   = "watch"   // buckets that lie elsewhere, each watched by whoever holds its lane; key: bucket
	TopicEvent   = "event"   // runs that events of all other kinds could not start; key: the event
	TopicTimer   = "timer"   // what shall happen to a run later; key: what waits
	TopicSlot    = "slot"    // who asks for a place and gives it back; key: the slot
)

// Topics lists them.
func Topics() []string {
	return []string{TopicRun, TopicUnit, TopicCleanup, TopicArrival, TopicEvent, TopicWatch, TopicTimer, TopicSlot}
}

func (a *Admin) known(ctx context.Context, topic string) error {
	if slices.Contains(Topics(), topic) {
		return nil
	}
	stats, err := a.store.Topics(ctx, "*")
	if err != nil {
		return err
	}
	for _, s := range stats {
		if s.Topic == topic {
			return nil
		}
	}
	return waybill.E(waybill.KindNotFound, "no queue has the topic %q", topic)
}

func clamp(limit int) int {
	if limit <= 0 {
		return 50
	}
	return min(limit, 1000)
}

// permanent reports whether repeating can never help: the commit itself is wrong.
func permanent(err error) bool {
	switch waybill.KindOf(err) {
	case waybill.KindInvalid, waybill.KindTooLarge, waybill.KindMalformed:
		return true
	}
	return false
}
