package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

// chunk is how many runs one commit starts when many are made up for.
const chunk = 50

// maxTold is how many nominal times a record of those left out names.
const maxTold = 100

// fire decides the nominal times of one schedule that have come, and reports whether
// the row has changed. It is no error when another server was faster.
func (s *Scheduler) fire(ctx context.Context, x store.Row, now time.Time) (bool, error) {
	var r row
	if err := json.Unmarshal(x.Val, &r); err != nil {
		return false, err
	}
	e := s.entry(x.Key)
	if e == nil || e.trigger.Spec() != r.Spec {
		// Another server has planned by a definition that this one has not seen yet, or
		// the other way round; the next look brings them together.
		s.mu.Lock()
		s.synced = false
		s.mu.Unlock()
		return false, nil
	}
	sched := &e.trigger.Schedule
	times, all, exact := sched.Due(r.Next, now, MaxCatchup)
	if len(times) == 0 {
		r.Next = sched.Next(later(now, r.Last)) // it was planned by other rules
		c, err := s.commit(&r, x.Rev, "", nil)
		if err != nil {
			return false, err
		}
		return s.write(ctx, c)
	}
	newest := times[len(times)-1]
	onTime := now.Sub(newest) <= Grace
	var fire []time.Time
	switch {
	case e.trigger.Catchup == pipeline.CatchupAll:
		fire = times
	case e.trigger.Catchup == pipeline.CatchupLast, onTime:
		fire = times[len(times)-1:]
	}
	skipped := all - len(fire)
	rev := x.Rev
	for first := true; first || len(fire) > 0; first = false {
		n := min(len(fire), chunk)
		c := &store.Commit{}
		if first && skipped > 0 {
			if err := s.skip(c, &r, e, now, newest, fire, skipped, exact); err != nil {
				return false, err
			}
		}
		for _, at := range fire[:n] {
			if err := s.start(c, &r, e, at, now, onTime && at.Equal(newest)); err != nil {
				return false, err
			}
		}
		r.Last = newest
		if n < len(fire) {
			r.Last = fire[n-1]
		}
		r.Next = sched.Next(r.Last)
		val, err := json.Marshal(r)
		if err != nil {
			return false, err
		}
		c.Puts = append(c.Puts, store.Put{Table: table, Key: x.Key, Rev: rev, Val: val})
		if ok, err := s.write(ctx, c); !ok || err != nil {
			return ok, err
		}
		rev++
		fire = fire[n:]
	}
	if onTime {
		s.o.Late(s.o.Now().Sub(newest))
	}
	return true, nil
}

// write makes a commit and reports whether nobody else was faster.
func (s *Scheduler) write(ctx context.Context, c *store.Commit) (bool, error) {
	err := s.o.Store.Commit(ctx, c)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// skip notes nominal times that are left out: those that have come and are not among
// the ones to fire.
func (s *Scheduler) skip(c *store.Commit, r *row, e *entry, now, newest time.Time, fire []time.Time, n int, exact bool) error {
	reason := "catchup: " + e.trigger.Catchup
	if e.trigger.Catchup == pipeline.CatchupAll {
		reason = fmt.Sprintf("catchup: all makes up for %d at most", MaxCatchup)
	}
	var told []time.Time
	last := newest
	for t := r.Next; !t.IsZero() && !t.After(newest) && len(told) < min(n, maxTold); t = e.trigger.Schedule.Next(t) {
		if len(fire) > 0 && !t.Before(fire[0]) {
			break
		}
		told = append(told, t)
		if len(told) == n {
			last = t
		}
	}
	data, err := json.Marshal(map[string]any{"count": n, "exact": exact, "times": told, "reason": reason})
	if err != nil {
		return err
	}
	c.Events = append(c.Events, store.Event{Subject: r.subject(), Kind: RecordSkipped, Data: data, At: now.UTC()})
	r.Skipped += int64(n)
	r.add(waybill.Firing{Nominal: last, At: now.UTC(), Reason: reason, Count: n})
	level := s.o.Logger.Info
	if e.trigger.Catchup == pipeline.CatchupAll {
		level = s.o.Logger.Warn
	}
	level("nominal times left out", "pipeline", r.Pipeline, "schedule", r.Number, "count", n, "reason", reason)
	return nil
}

// start adds the run of a nominal time to a commit.
func (s *Scheduler) start(c *store.Commit, r *row, e *entry, at, now time.Time, onTime bool) error {
	data, err := json.Marshal(map[string]any{
		"nominal": at.UTC(), "late": now.Sub(at).Seconds(), "catchup": !onTime, "schedule": r.Number, "timezone": e.trigger.Timezone,
	})
	if err != nil {
		return err
	}
	// The id follows from the nominal time, so that whoever gets the event twice knows.
	ev := waybill.Event{
		ID: at.UTC().Format(time.RFC3339), Type: "schedule", Source: fmt.Sprintf("/schedules/%s/%d", r.Pipeline, r.Number),
		Time: at.UTC(), Data: data,
	}
	res, err := s.o.Starter.Start(e.match, e.trigger.Ref(), "", ev, slots(r, e.trigger.Overlap, onTime)...)
	if err != nil {
		return err
	}
	res.Add(c)
	f := waybill.Firing{Nominal: at.UTC(), At: now.UTC(), Run: res.Run.ID, Catchup: !onTime, Reason: res.Reason}
	switch {
	case res.Run.ID != "":
		r.Fired++
	case res.Reason == "":
		f.Reason = "the filter did not take it"
	}
	r.add(f)
	return nil
}

// slots keep the runs of a schedule apart as its overlap says. Those that are made up
// for wait for each other where they would be skipped: they were asked for.
func slots(r *row, overlap string, onTime bool) []waybill.Slot {
	policy := map[string]waybill.SlotPolicy{
		pipeline.OverlapSkip: waybill.SlotSkip, pipeline.OverlapQueue: waybill.SlotQueue, pipeline.OverlapCancel: waybill.SlotCancel,
	}[overlap]
	if policy == "" {
		return nil
	}
	if !onTime && policy == waybill.SlotSkip {
		policy = waybill.SlotQueue
	}
	return []waybill.Slot{{Key: fmt.Sprintf("schedule/%s/%d", r.Pipeline, r.Number), Limit: 1, Policy: policy}}
}
