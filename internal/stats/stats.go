// Package stats counts runs by day: how many were accepted, how they ended and how
// long they took. The counts are made from the event log as it is written, not by
// looking at runs, so asking for them is cheap and they outlive the runs.
package stats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/feed"
	"github.com/waybill-run/waybill/internal/store"
)

// Keep is how long counts are kept.
const Keep = 400 * 24 * time.Hour

// tableDay holds the counts of a day (UTC) and a pipeline. Key: day/pipeline; an
// empty name stands for all pipelines together.
const tableDay = "run_day"

// Tables are the descriptors of the package's tables.
func Tables() store.Schema { return store.Schema{{Name: tableDay, Version: 1}} }

const dayLayout = "2006-01-02"

func dayKey(day, pipeline string) string { return day + "/" + pipeline }

// day is a row. Days of other time zones are put together from its quarters of
// an hour: all offsets in use are multiples of that.
type day struct {
	Quarters map[int]*cell `json:"q"` // 0 to 95
}

// cell counts what happened in a quarter of an hour.
type cell struct {
	Accepted int64                    `json:"a,omitempty"`
	Ended    map[waybill.Status]int64 `json:"e,omitempty"`
	Took     map[int]int64            `json:"t,omitempty"` // runs by class of duration, see class
}

// Durations are kept in classes, each a tenth longer than the one before, so that
// a percentile is right within 5 %.
const growth = 1.1

// class of a duration: 0 holds everything up to a millisecond.
func class(d time.Duration) int {
	ms := float64(d) / float64(time.Millisecond)
	if ms <= 1 {
		return 0
	}
	return int(math.Ceil(math.Log(ms)/math.Log(growth) - 1e-9))
}

// middle is the duration that stands for a class.
func middle(class int) time.Duration {
	if class == 0 {
		return time.Millisecond / 2
	}
	return time.Duration(math.Pow(growth, float64(class)-0.5) * float64(time.Millisecond))
}

// Options of Stats.
type Options struct {
	Store  store.Store
	Run    func(ctx context.Context, id string) (waybill.Run, error) // KindNotFound when it is forgotten
	Owner  string                                                    // this server
	Logger *slog.Logger
	Pace   time.Duration // how far counts may lag behind; 0 means 2 s
}

// Stats keeps and tells the counts. It implements waybill.RunStats. Safe for
// concurrent use.
type Stats struct {
	o    Options
	feed *feed.Feed
}

var _ waybill.RunStats = (*Stats)(nil)

// New returns the counts of a store, which go on once Start is called.
func New(o Options) *Stats { return &Stats{o: o} }

// Start counts until Stop. The first time it begins with the oldest event.
func (s *Stats) Start(ctx context.Context) {
	pace := s.o.Pace
	if pace == 0 {
		pace = 2 * time.Second
	}
	s.feed = feed.Start(ctx, feed.Options{
		Store: s.o.Store, Name: "stats", Owner: s.o.Owner, Logger: s.o.Logger, Pace: pace, Past: true, Handle: s.count,
	})
}

// Stop ends the counting.
func (s *Stats) Stop() {
	if s.feed != nil {
		s.feed.Stop()
	}
}

// tally is rows being added to.
type tally struct {
	rows map[string]*day
	revs map[string]int64
}

// count is the handler of the feed.
func (s *Stats) count(ctx context.Context, b feed.Batch) (feed.Effect, error) {
	t := tally{map[string]*day{}, map[string]int64{}}
	names := map[string]string{} // run → pipeline, of those accepted in this batch
	for _, e := range b.Events {
		id, ok := strings.CutPrefix(e.Subject, "run/")
		if !ok || e.Kind != "run.accepted" && e.Kind != "run.ended" || e.Tenant != store.DefaultTenant {
			continue
		}
		var data struct {
			Pipeline string         `json:"pipeline"`
			Status   waybill.Status `json:"status"`
		}
		if err := json.Unmarshal(e.Data, &data); err != nil {
			continue // not written by us
		}
		if e.Kind == "run.accepted" {
			names[id] = data.Pipeline
			for _, name := range []string{"", data.Pipeline} {
				c, err := s.cell(ctx, &t, e.At, name)
				if err != nil {
					return feed.Effect{}, err
				}
				c.Accepted++
			}
			continue
		}
		r, err := s.o.Run(ctx, id)
		if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
			return feed.Effect{}, err
		}
		name := r.Pipeline
		if name == "" {
			name = names[id]
		}
		targets := []string{""}
		if name != "" {
			targets = append(targets, name)
		}
		for _, name := range targets {
			c, err := s.cell(ctx, &t, e.At, name)
			if err != nil {
				return feed.Effect{}, err
			}
			if c.Ended == nil {
				c.Ended = map[waybill.Status]int64{}
			}
			c.Ended[data.Status]++
			if !r.StartedAt.IsZero() && !r.FinishedAt.IsZero() {
				if c.Took == nil {
					c.Took = map[int]int64{}
				}
				c.Took[class(r.FinishedAt.Sub(r.StartedAt))]++
			}
		}
	}
	var e feed.Effect
	for key, d := range t.rows {
		val, err := json.Marshal(d)
		if err != nil {
			return e, err
		}
		e.Puts = append(e.Puts, store.Put{Table: tableDay, Key: key, Rev: t.revs[key], Val: val})
	}
	return e, nil
}

// cell returns the cell of an instant, from the store when it is the day's first.
func (s *Stats) cell(ctx context.Context, t *tally, at time.Time, pipeline string) (*cell, error) {
	at = at.UTC()
	key := dayKey(at.Format(dayLayout), pipeline)
	d := t.rows[key]
	if d == nil {
		var err error
		if d, t.revs[key], err = s.day(ctx, key); err != nil {
			return nil, err
		}
		t.rows[key] = d
	}
	q := (at.Hour()*60 + at.Minute()) / 15
	if d.Quarters[q] == nil {
		d.Quarters[q] = &cell{}
	}
	return d.Quarters[q], nil
}

// day reads a row; one that is not there is empty.
func (s *Stats) day(ctx context.Context, key string) (*day, int64, error) {
	d := &day{Quarters: map[int]*cell{}}
	row, err := s.o.Store.Get(ctx, "", tableDay, key)
	if errors.Is(err, store.ErrNotFound) {
		return d, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if err := json.Unmarshal(row.Val, d); err != nil {
		return nil, 0, fmt.Errorf("counts of %s: %w", key, err)
	}
	if d.Quarters == nil {
		d.Quarters = map[int]*cell{}
	}
	return d, row.Rev, nil
}

// RunStats implements waybill.RunStats.
func (s *Stats) RunStats(ctx context.Context, q waybill.RunStatsQuery) ([]waybill.RunDay, error) {
	if q.Days == 0 {
		q.Days = 30
	}
	if most := int(Keep / (24 * time.Hour)); q.Days < 1 || q.Days > most {
		return nil, waybill.E(waybill.KindInvalid, "%d days; counts are kept for %d", q.Days, most)
	}
	zone := time.UTC
	if q.Timezone != "" {
		var err error
		if zone, err = time.LoadLocation(q.Timezone); err != nil || q.Timezone == "Local" {
			return nil, waybill.E(waybill.KindInvalid, "there is no time zone %.60q", q.Timezone).WithHint("names are those of the tz database, such as Europe/Paris")
		}
	}
	now := s.o.Store.Now().In(zone)
	cache := map[string]*day{}
	out := make([]waybill.RunDay, 0, q.Days)
	for i := q.Days - 1; i >= 0; i-- {
		// Midnight may not exist or exist twice; Date takes care of that, and days may
		// have 23 or 25 hours.
		from := time.Date(now.Year(), now.Month(), now.Day()-i, 0, 0, 0, 0, zone)
		to := time.Date(now.Year(), now.Month(), now.Day()-i+1, 0, 0, 0, 0, zone)
		d := waybill.RunDay{Day: from.Format(dayLayout), Ended: map[waybill.Status]int64{}}
		took := map[int]int64{}
		for at := from.UTC().Truncate(15 * time.Minute); at.Before(to); at = at.Add(15 * time.Minute) {
			key := dayKey(at.Format(dayLayout), q.Pipeline)
			row, ok := cache[key]
			if !ok {
				var err error
				if row, _, err = s.day(ctx, key); err != nil {
					return nil, err
				}
				cache[key] = row
			}
			c := row.Quarters[(at.Hour()*60+at.Minute())/15]
			if c == nil {
				continue
			}
			d.Started += c.Accepted
			for status, n := range c.Ended {
				d.Ended[status] += n
			}
			for k, n := range c.Took {
				took[k] += n
			}
		}
		d.P50, d.P95 = percentile(took, 0.50), percentile(took, 0.95)
		out = append(out, d)
	}
	return out, nil
}

// percentile is the duration that the share of runs did not exceed (nearest
// rank), 0 when there are none.
func percentile(took map[int]int64, share float64) time.Duration {
	var total int64
	classes := make([]int, 0, len(took))
	for k, n := range took {
		total += n
		classes = append(classes, k)
	}
	if total == 0 {
		return 0
	}
	slices.Sort(classes)
	rank := int64(math.Ceil(share * float64(total)))
	for _, k := range classes {
		if rank -= took[k]; rank <= 0 {
			return middle(k)
		}
	}
	return middle(classes[len(classes)-1])
}

// Sweep forgets counts older than Keep.
func (s *Stats) Sweep(ctx context.Context) error {
	oldest := s.o.Store.Now().UTC().Add(-Keep).Format(dayLayout)
	_, err := store.Forget(ctx, s.o.Store, store.Query{
		Table: tableDay, Where: []store.Where{{Column: "key", Op: store.Lt, Value: oldest}},
	})
	return err
}
