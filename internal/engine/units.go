package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/store"
)

const (
	maxUnits   = 2000             // shown at once
	askRunners = 10 * time.Second // how long runners may take to say what they know
)

// Units implements waybill.Units. What runs and what waits for its clean-up is read from
// the queue, which is small when all is well; what runners know beside that are units that
// nobody owns.
func (e *Engine) Units(ctx context.Context) (waybill.UnitList, error) {
	out := waybill.UnitList{At: e.now(), Items: []waybill.Unit{}, Silent: map[string]string{}}
	at := map[string]int{} // by unit
	put := func(u waybill.Unit) *waybill.Unit {
		i, ok := at[u.Unit]
		if !ok {
			i = len(out.Items)
			at[u.Unit] = i
			out.Items = append(out.Items, u)
		}
		return &out.Items[i]
	}
	if err := e.queued(ctx, queue.TopicUnit, func(m store.QueuedMsg) {
		var msg unitMsg
		if json.Unmarshal(m.Body, &msg) != nil || !m.Leased && m.Attempt == 0 {
			return // it waits for its turn and has no unit yet
		}
		put(unitRow(&msg.Attempt))
	}); err != nil {
		return out, err
	}
	if err := e.queued(ctx, queue.TopicCleanup, func(m store.QueuedMsg) {
		var msg cleanupMsg
		if json.Unmarshal(m.Body, &msg) != nil {
			return
		}
		u := put(waybill.Unit{Unit: msg.Unit, Runner: msg.Runner, Node: msg.Node, Key: msg.Attempt})
		u.Tries, u.NextTry, u.Cleanup = m.Fails, m.ReadyAt, waybill.CleanupPending
		if m.Leased {
			u.Cleanup, u.NextTry = waybill.CleanupDeleting, time.Time{}
		}
	}); err != nil {
		return out, err
	}
	if err := e.givenUp(ctx, func(msg cleanupMsg, d store.DeadLetter) {
		u := put(waybill.Unit{Unit: msg.Unit, Runner: msg.Runner, Node: msg.Node, Key: msg.Attempt})
		u.Tries, u.Cleanup, u.CleanupError = d.Fails, waybill.CleanupFailed, d.Reason
	}); err != nil {
		return out, err
	}
	for name, found := range e.askUnits(ctx, &out) {
		for _, h := range found {
			u := put(waybill.Unit{Unit: h.Unit, Runner: name, Image: h.Image})
			u.Known = true
		}
	}
	for i := range out.Items {
		if err := e.complete(ctx, &out.Items[i]); err != nil {
			return out, err
		}
	}
	slices.SortFunc(out.Items, func(a, b waybill.Unit) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.Unit, b.Unit))
	})
	if len(out.Items) > maxUnits {
		out.Items, out.More = out.Items[:maxUnits], true
	}
	return out, nil
}

func unitRow(a *waybill.Attempt) waybill.Unit {
	return waybill.Unit{
		Unit: a.Unit, Runner: a.Runner, Node: a.Node, Key: a.Key(), Run: a.Run, Step: a.Step, Attempt: a.Number, Image: a.Image,
		Phase: a.Phase, Status: a.Status, StartedAt: a.StartedAt, FinishedAt: a.FinishedAt,
	}
}

// complete fills in what the attempt's row says. A unit without one is nobody's.
func (e *Engine) complete(ctx context.Context, u *waybill.Unit) error {
	var a *waybill.Attempt
	var err error
	if u.Key != "" {
		a, _, err = e.attempt(ctx, store.DefaultTenant, u.Key)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
	} else {
		a, _, err = e.owner(ctx, u.Unit)
	}
	if err != nil {
		return err
	}
	if a == nil {
		u.Orphan = true
		return nil
	}
	row := unitRow(a)
	row.Known, row.Tries, row.NextTry = u.Known, u.Tries, u.NextTry
	row.Image = cmp.Or(row.Image, u.Image)
	row.Cleanup, row.CleanupError = cmp.Or(u.Cleanup, a.Cleanup), cmp.Or(u.CleanupError, a.CleanupErr)
	if a.Phase != waybill.PhaseTerminal {
		row.Cleanup = ""
	}
	// Cleaned up, and still there.
	row.Orphan = a.Cleanup == waybill.CleanupGone && u.Known
	*u = row
	return nil
}

// queued calls f for the messages of a topic.
func (e *Engine) queued(ctx context.Context, topic string, f func(store.QueuedMsg)) error {
	for cursor, n := "", 0; n < maxUnits; {
		msgs, next, err := e.o.Store.Peek(ctx, "", topic, cursor, 500)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			f(m)
		}
		if n += len(msgs); next == "" {
			return nil
		}
		cursor = next
	}
	return nil
}

// givenUp calls f for clean-ups that were tried for long enough.
func (e *Engine) givenUp(ctx context.Context, f func(cleanupMsg, store.DeadLetter)) error {
	page, err := e.o.Store.Query(ctx, store.Query{
		Table: store.DeadTable, Where: []store.Where{{Column: "topic", Op: store.Eq, Value: queue.TopicCleanup}},
		Order: "dead_at", Desc: true, Limit: 500,
	})
	if err != nil {
		return err
	}
	for _, r := range page.Rows {
		var d store.DeadLetter
		var msg cleanupMsg
		if json.Unmarshal(r.Val, &d) == nil && json.Unmarshal(d.Body, &msg) == nil {
			f(msg, d)
		}
	}
	return nil
}

// askUnits asks all runners at once what they know. One that does not answer is named.
func (e *Engine) askUnits(ctx context.Context, out *waybill.UnitList) map[string][]runner.Handle {
	ctx, cancel := context.WithTimeout(ctx, askRunners)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := map[string][]runner.Handle{}
	for name, r := range e.o.Runners {
		wg.Go(func() {
			hs, err := r.List(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Silent[name] = err.Error()
				return
			}
			all[name] = hs
		})
	}
	wg.Wait()
	return all
}
