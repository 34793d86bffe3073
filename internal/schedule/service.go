package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Schedules implements waybill.Schedules.
func (s *Scheduler) Schedules(ctx context.Context, limit int, cursor string) (waybill.Page[waybill.Schedule], error) {
	out := waybill.Page[waybill.Schedule]{Items: []waybill.Schedule{}}
	if err := s.sync(ctx); err != nil {
		return out, err
	}
	page, err := s.o.Store.Query(ctx, store.Query{
		Table: table, Limit: limit, After: cursor, Where: []store.Where{{Column: "stopped", Op: store.Eq, Value: int64(0)}},
	})
	if err != nil {
		return out, err
	}
	for _, x := range page.Rows {
		var r row
		if err := json.Unmarshal(x.Val, &r); err != nil {
			return out, err
		}
		if e := s.entry(x.Key); e != nil {
			out.Items = append(out.Items, s.describe(&r, e))
		}
	}
	out.Next = page.Next
	return out, nil
}

// Schedule implements waybill.Schedules.
func (s *Scheduler) Schedule(ctx context.Context, pipeline string, number int) (waybill.Schedule, error) {
	r, e, _, err := s.find(ctx, pipeline, number)
	if err != nil {
		return waybill.Schedule{}, err
	}
	return s.describe(r, e), nil
}

func (s *Scheduler) find(ctx context.Context, pipeline string, number int) (*row, *entry, int64, error) {
	if err := s.sync(ctx); err != nil {
		return nil, nil, 0, err
	}
	k := key(pipeline, number)
	e := s.entry(k)
	x, err := s.o.Store.Get(ctx, "", table, k)
	if e == nil || errors.Is(err, store.ErrNotFound) {
		return nil, nil, 0, waybill.E(waybill.KindNotFound, "pipeline %.100q has no schedule %d", pipeline, number).
			WithHint("waybill schedule list shows those there are")
	}
	if err != nil {
		return nil, nil, 0, err
	}
	r := &row{}
	return r, e, x.Rev, json.Unmarshal(x.Val, r)
}

// PauseSchedule implements waybill.Schedules.
func (s *Scheduler) PauseSchedule(ctx context.Context, pipeline string, number int, paused bool, by waybill.Principal) (waybill.Schedule, error) {
	for {
		r, e, rev, err := s.find(ctx, pipeline, number)
		if err != nil {
			return waybill.Schedule{}, err
		}
		if paused == (r.Paused != "") {
			return s.describe(r, e), nil
		}
		kind := RecordPaused
		if r.Paused = by.Name; by.Name == "" {
			r.Paused = "unknown"
		}
		if !paused {
			kind, r.Paused = RecordResumed, ""
			r.Next = e.trigger.Schedule.Next(later(s.o.Now(), r.Last))
		}
		c, err := s.commit(r, rev, kind, map[string]any{"by": by.Name, "next": r.Next})
		if err != nil {
			return waybill.Schedule{}, err
		}
		if ok, err := s.write(ctx, c); err != nil {
			return waybill.Schedule{}, err
		} else if !ok {
			continue
		}
		select { // the next nominal time may be another now
		case s.wake <- struct{}{}:
		default:
		}
		return s.describe(r, e), nil
	}
}

func (s *Scheduler) describe(r *row, e *entry) waybill.Schedule {
	t := e.trigger
	x := waybill.Schedule{
		Pipeline: r.Pipeline, Number: r.Number, Text: t.String(), Timezone: t.Timezone, Catchup: t.Catchup, Overlap: t.Overlap,
		Next: r.Next, Last: r.Last, Paused: r.Paused != "", PausedBy: r.Paused, Fired: r.Fired, Skipped: r.Skipped, Recent: r.Recent,
	}
	if x.Recent == nil {
		x.Recent = []waybill.Firing{}
	}
	if x.Paused {
		x.Next = time.Time{}
	}
	explained := t.Schedule.Explain(s.o.Now(), 0)
	x.Words = explained.Words
	for _, w := range explained.Warnings {
		text := w.Msg
		if w.Hint != "" {
			text += " (" + w.Hint + ")"
		}
		x.Warnings = append(x.Warnings, text)
	}
	return x
}
