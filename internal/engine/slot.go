package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// A slot is a thing with a lane of its own (topic "slot"): who asks for a place and who
// gives one back are messages there, taken strictly one after another, so that nobody
// races for the last place and no lock is held. A run gives its places back in the commit
// that ends it, whatever ended it: a place cannot be lost.

// slotMsg is a message in the lane of a slot.
type slotMsg struct {
	Kind     string             `json:"kind"` // acquire, release
	Run      string             `json:"run"`
	Limit    int                `json:"limit,omitempty"`
	Policy   waybill.SlotPolicy `json:"policy,omitempty"`
	Priority int                `json:"priority,omitempty"`
}

// slotRow is who holds the places of a slot.
type slotRow struct {
	Key     string   `json:"key"`
	Limit   int      `json:"limit"` // as of the newest run that asked
	Holders []holder `json:"holders"`
	Waiting int      `json:"waiting"` // rows of tableWait
}

type holder struct {
	Run   string    `json:"run"`
	Since time.Time `json:"since"`
	Asked bool      `json:"asked,omitempty"` // it was asked to make place
}

// waitRow is a run that waits for a place.
type waitRow struct {
	Run   string    `json:"run"`
	Since time.Time `json:"since"`
}

// waitKey sorts the waiting runs of a slot: a higher priority first, then those that were
// accepted first, which the id says.
func waitKey(slot string, priority int, run string) string {
	return fmt.Sprintf("%s\x01%05d\x01%s", slot, 50_000-max(min(priority, 40_000), -40_000), run)
}

// slot is the handler of the topic "slot".
func (e *Engine) slot(ctx context.Context, m *store.Msg) (*store.Commit, error) {
	var msg slotMsg
	if err := json.Unmarshal(m.Body, &msg); err != nil {
		return nil, queue.Bury("unreadable message: %v", err)
	}
	row := slotRow{Key: m.Key}
	at, err := e.o.Store.Get(ctx, m.Tenant, tableSlot, m.Key)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(at.Val, &row); err != nil {
			return nil, queue.Bury("slot %s cannot be read: %v", m.Key, err)
		}
	}
	c := &store.Commit{Tenant: m.Tenant}
	switch msg.Kind {
	case "acquire":
		err = e.acquire(ctx, m, msg, &row, c)
	case "release":
		err = e.release(ctx, m, msg, &row, c)
	default:
		return nil, queue.Bury("unknown message %q", msg.Kind)
	}
	if err != nil {
		return nil, err
	}
	if len(row.Holders) == 0 && row.Waiting == 0 {
		if at.Rev > 0 {
			c.Puts = append(c.Puts, store.Put{Table: tableSlot, Key: m.Key, Rev: at.Rev})
		}
		return c, nil
	}
	p, err := put(tableSlot, m.Key, at.Rev, row)
	c.Puts = append(c.Puts, p)
	return c, err
}

func (e *Engine) acquire(ctx context.Context, m *store.Msg, msg slotMsg, row *slotRow, c *store.Commit) error {
	row.Limit = max(msg.Limit, 1)
	now := e.now()
	switch {
	case slices.ContainsFunc(row.Holders, func(h holder) bool { return h.Run == msg.Run }):
		return send(c, queue.TopicRun, msg.Run, 0, runMsg{Kind: "granted", Slot: m.Key})
	case len(row.Holders) < row.Limit && row.Waiting == 0:
		row.Holders = append(row.Holders, holder{Run: msg.Run, Since: now})
		return send(c, queue.TopicRun, msg.Run, msg.Priority, runMsg{Kind: "granted", Slot: m.Key})
	case msg.Policy == waybill.SlotSkip:
		return send(c, queue.TopicRun, msg.Run, 0, runMsg{
			Kind: "skipped", Reason: fmt.Sprintf("skipped: %s held by run %s", m.Key, row.Holders[0].Run),
		})
	}
	p, err := put(tableWait, waitKey(m.Key, msg.Priority, msg.Run), store.AnyRev, waitRow{msg.Run, now})
	if err != nil {
		return err
	}
	c.Puts = append(c.Puts, p)
	row.Waiting++
	if msg.Policy != waybill.SlotCancel {
		return nil
	}
	// The newest counts: the oldest holder goes, or, when all are going, whoever waited
	// before.
	gone := runMsg{Kind: "cancel", By: "concurrency", Reason: "run " + msg.Run + " took its place (" + m.Key + ")"}
	for i := range row.Holders {
		if h := &row.Holders[i]; !h.Asked {
			h.Asked = true
			return send(c, queue.TopicRun, h.Run, 1, gone)
		}
	}
	rows, err := e.o.Store.Scan(ctx, m.Tenant, tableWait, m.Key+"\x01", 100)
	if err != nil {
		return err
	}
	for _, r := range rows {
		var w waitRow
		if err := json.Unmarshal(r.Val, &w); err != nil {
			return queue.Bury("slot %s cannot be read: %v", m.Key, err)
		}
		if w.Run != msg.Run {
			if err := send(c, queue.TopicRun, w.Run, 1, gone); err != nil {
				return err
			}
		}
	}
	return nil
}

// release takes a run out of a slot, whether it holds a place or waits, and gives free
// places to those who wait.
func (e *Engine) release(ctx context.Context, m *store.Msg, msg slotMsg, row *slotRow, c *store.Commit) error {
	row.Holders = slices.DeleteFunc(row.Holders, func(h holder) bool { return h.Run == msg.Run })
	own := waitKey(m.Key, msg.Priority, msg.Run)
	if _, err := e.o.Store.Get(ctx, m.Tenant, tableWait, own); err == nil {
		c.Puts = append(c.Puts, store.Put{Table: tableWait, Key: own, Rev: store.AnyRev})
		row.Waiting--
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	free := row.Limit - len(row.Holders)
	if free <= 0 || row.Waiting <= 0 {
		return nil
	}
	rows, err := e.o.Store.Scan(ctx, m.Tenant, tableWait, m.Key+"\x01", free+1)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Key == own || free == 0 {
			continue
		}
		var w waitRow
		if err := json.Unmarshal(r.Val, &w); err != nil {
			return queue.Bury("slot %s cannot be read: %v", m.Key, err)
		}
		free--
		row.Waiting--
		row.Holders = append(row.Holders, holder{Run: w.Run, Since: e.now()})
		c.Puts = append(c.Puts, store.Put{Table: tableWait, Key: r.Key, Rev: r.Rev})
		if err := send(c, queue.TopicRun, w.Run, 0, runMsg{Kind: "granted", Slot: m.Key}); err != nil {
			return err
		}
	}
	return nil
}

// slotBuried ends the run whose wish for a place cannot be worked on.
func (e *Engine) slotBuried(_ context.Context, m *store.Msg, reason string) (*store.Commit, error) {
	var msg slotMsg
	if json.Unmarshal(m.Body, &msg) != nil || msg.Kind != "acquire" {
		return nil, nil
	}
	c := &store.Commit{Tenant: m.Tenant}
	return c, send(c, queue.TopicRun, msg.Run, 0, runMsg{Kind: "cancel", By: "concurrency", Reason: "no place in " + m.Key + ": " + reason})
}

// Slots implements waybill.Runs.
func (e *Engine) Slots(ctx context.Context, limit int, cursor string) (waybill.Page[waybill.SlotInfo], error) {
	page, err := e.o.Store.Query(ctx, store.Query{Table: tableSlot, Limit: limit, After: cursor})
	out := waybill.Page[waybill.SlotInfo]{Items: []waybill.SlotInfo{}, Next: page.Next}
	if err != nil {
		return out, err
	}
	for _, r := range page.Rows {
		var row slotRow
		if err := json.Unmarshal(r.Val, &row); err != nil {
			return out, err
		}
		info := waybill.SlotInfo{Key: row.Key, Limit: row.Limit, Waiting: row.Waiting, Holders: []string{}}
		for _, h := range row.Holders {
			info.Holders = append(info.Holders, h.Run)
		}
		out.Items = append(out.Items, info)
	}
	return out, nil
}

// send adds a message to a commit.
func send(c *store.Commit, topic, key string, priority int, msg any) error {
	body, err := json.Marshal(msg)
	c.Sends = append(c.Sends, store.Send{Topic: topic, Key: key, Body: body, Priority: priority})
	return err
}
