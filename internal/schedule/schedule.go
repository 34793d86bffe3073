// Package schedule fires the schedules of pipelines: each nominal time once, whatever
// becomes of servers and clocks.
//
// # Planning
//
// Every schedule has a row with the next nominal time and the newest one that was
// decided (fired or left out). Whoever sees that the next one has come commits the run,
// the newest decided time and the next one together, on condition that the row is as it
// was read. So of several servers, and of one that dies at any instant, exactly one
// commit decides a nominal time, and no time before the newest decided one is ever
// decided again.
//
// # Clocks
//
// Nominal times are those of the wall clock. Servers look at it whenever the next
// nominal time should have come and at least once a second, so a clock that is put
// forward is noticed within a second; what it jumped over is made up for as the
// schedule's catchup says. A clock that is put back makes schedules wait until it has
// passed the newest decided time again.
package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Grace is how late a nominal time can be decided and still count as on time: it fires
// whatever catchup says.
const Grace = time.Minute

// MaxCatchup is how many nominal times catchup "all" makes up for at most.
const MaxCatchup = 1000

// Kinds of records. Their subject is "schedule/PIPELINE/NUMBER".
const (
	RecordPlanned = "schedule.planned" // it is new, or its definition has changed
	RecordSkipped = "schedule.skipped" // nominal times were left out
	RecordPaused  = "schedule.paused"
	RecordResumed = "schedule.resumed"
	RecordStopped = "schedule.stopped" // its definition is gone
)

// table holds the schedules. Key: pipeline/NUMBER with three digits.
const table = "schedule"

// row is a schedule as the store knows it.
type row struct {
	Pipeline string           `json:"pipeline"`
	Number   int              `json:"number"`
	Spec     string           `json:"spec"`             // what Next was planned by
	Next     time.Time        `json:"next,omitzero"`    // to be decided; zero: none
	Last     time.Time        `json:"last,omitzero"`    // newest decided
	Paused   string           `json:"paused,omitempty"` // who paused it
	Stopped  bool             `json:"stopped,omitempty"`
	Fired    int64            `json:"fired"`
	Skipped  int64            `json:"skipped"`
	Recent   []waybill.Firing `json:"recent,omitempty"`
}

const maxRecent = 20

func (r *row) key() string     { return key(r.Pipeline, r.Number) }
func (r *row) subject() string { return fmt.Sprintf("schedule/%s/%d", r.Pipeline, r.Number) }

func key(pipeline string, number int) string { return fmt.Sprintf("%s/%03d", pipeline, number) }

// add notes what became of a nominal time.
func (r *row) add(f waybill.Firing) {
	r.Recent = append([]waybill.Firing{f}, r.Recent...)
	r.Recent = r.Recent[:min(len(r.Recent), maxRecent)]
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	return store.Schema{{
		Name: table, Version: 1,
		Columns: []store.Column{{Name: "due", Type: store.Int}, {Name: "stopped", Type: store.Int}}, Indexes: [][]string{{"due"}, {"stopped"}},
		Derive: store.JSON(func(_ string, r *row) store.Derived {
			d := store.Derived{Columns: []any{nil, int64(0)}}
			switch {
			case r.Stopped:
				d.Columns[1] = int64(1)
			case r.Paused != "":
				d.Counters = []string{"paused"}
			default:
				d.Columns[0], d.Counters = store.Millis(r.Next), []string{"active"}
			}
			return d
		}),
	}}
}

// Plans finds pipelines.
type Plans interface {
	Active(ctx context.Context, keep func(*pipeline.Plan) bool) ([]project.Match, int64, error)
	Changes(ctx context.Context) (int64, error)
}

// Options of a Scheduler.
type Options struct {
	Store   store.Store
	Plans   Plans
	Starter *arrival.Starter
	Admit   func(ctx context.Context, topic string) error // nil admits all
	Now     func() time.Time                              // the wall clock; nil is time.Now
	Logger  *slog.Logger
	// Late is called with how late each nominal time was decided that fired on time.
	Late func(time.Duration)
}

// Scheduler fires schedules; it implements waybill.Schedules. Safe for concurrent use.
type Scheduler struct {
	o Options

	mu      sync.Mutex
	known   map[string]*entry // by key; as of changes
	changes int64
	synced  bool

	wake chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// entry is a schedule of an active pipeline.
type entry struct {
	match   project.Match
	trigger *pipeline.ScheduleTrigger
}

var _ waybill.Schedules = (*Scheduler)(nil)

// New returns a scheduler that does nothing yet: see Start and Tick.
func New(o Options) *Scheduler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Admit == nil {
		o.Admit = func(context.Context, string) error { return nil }
	}
	if o.Late == nil {
		o.Late = func(time.Duration) {}
	}
	return &Scheduler{o: o, known: map[string]*entry{}, wake: make(chan struct{}, 1), stop: func() {}}
}

// look is how long the scheduler sleeps at most.
const look = time.Second

// Start fires schedules until Stop.
func (s *Scheduler) Start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.done.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			case <-s.wake:
			}
			next, err := s.Tick(ctx)
			if ctx.Err() != nil {
				return
			}
			wait := look
			switch {
			case err != nil:
				s.o.Logger.Warn("schedules cannot be looked at", "err", err)
			case !next.IsZero():
				wait = max(0, min(wait, next.Sub(s.o.Now())))
			}
			timer.Reset(wait)
		}
	})
}

// Stop ends what Start began and waits for it.
func (s *Scheduler) Stop() {
	s.stop()
	s.done.Wait()
}

// batch is how many schedules are decided between two looks at the clock.
const batch = 256

// workers is how many commits are made at once: the store folds them.
const workers = 32

// Tick decides all nominal times that have come and returns when the next one does
// (zero: none is to come). It is safe to call it on several servers at once.
func (s *Scheduler) Tick(ctx context.Context) (time.Time, error) {
	if err := s.sync(ctx); err != nil {
		return time.Time{}, err
	}
	for {
		now := s.o.Now()
		head, err := s.o.Store.Query(ctx, store.Query{
			Table: table, Order: "due", Limit: 1, Where: []store.Where{{Column: "due", Op: store.Gt, Value: int64(0)}},
		})
		if err != nil || len(head.Rows) == 0 {
			return time.Time{}, err
		}
		var first row
		if err := json.Unmarshal(head.Rows[0].Val, &first); err != nil {
			return time.Time{}, err
		}
		if first.Next.After(now) {
			return first.Next, nil
		}
		page, err := s.o.Store.Query(ctx, store.Query{
			Table: table, Order: "due", Limit: batch, Where: []store.Where{{Column: "due", Op: store.Le, Value: now.UnixMilli()}},
		})
		if err != nil {
			return time.Time{}, err
		}
		if err := s.o.Admit(ctx, queue.TopicRun); err != nil {
			return time.Time{}, err // they stay due
		}
		progress, err := s.decide(ctx, page.Rows, now)
		if err != nil {
			return time.Time{}, err
		}
		if !progress {
			return now.Add(look), nil // whoever was faster, or a later look, has the rest
		}
	}
}

// decide works on rows that are due, and reports whether any of them is not any more.
func (s *Scheduler) decide(ctx context.Context, due []store.Row, now time.Time) (progress bool, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, workers)
	for _, x := range due {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			moved, fault := s.fire(ctx, x, now)
			mu.Lock()
			defer mu.Unlock()
			progress = progress || moved
			if fault != nil {
				err = errors.Join(err, fault)
			}
		})
	}
	wg.Wait()
	return progress, err
}

// sync brings the rows in line with the definitions, if these have changed.
func (s *Scheduler) sync(ctx context.Context) error {
	n, err := s.o.Plans.Changes(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced && n == s.changes {
		return nil
	}
	active, n, err := s.o.Plans.Active(ctx, func(p *pipeline.Plan) bool { return len(p.On.Schedules) > 0 })
	if err != nil {
		return err
	}
	known := map[string]*entry{}
	for _, m := range active {
		for i := range m.Plan.On.Schedules {
			t := &m.Plan.On.Schedules[i]
			known[key(m.Plan.Name, t.Number)] = &entry{m, t}
		}
	}
	if err := s.plan(ctx, known); err != nil {
		return err
	}
	s.known, s.changes, s.synced = known, n, true
	return nil
}

// plan writes the rows that differ from the definitions.
func (s *Scheduler) plan(ctx context.Context, known map[string]*entry) error {
	rows, err := s.o.Store.Scan(ctx, "", table, "", 0)
	if err != nil {
		return err
	}
	now := s.o.Now()
	var commits []*store.Commit
	there := map[string]bool{}
	for _, x := range rows {
		var r row
		if err := json.Unmarshal(x.Val, &r); err != nil {
			return err
		}
		there[x.Key] = true
		e := known[x.Key]
		kind := RecordPlanned
		switch {
		case e == nil && r.Stopped, e != nil && !r.Stopped && r.Spec == e.trigger.Spec():
			continue
		case e == nil:
			kind, r.Stopped, r.Next = RecordStopped, true, time.Time{}
		default:
			// What the old definition left undecided is not made up for by the new one, and
			// what was decided is not decided again.
			r.Stopped, r.Spec = false, e.trigger.Spec()
			r.Next = e.trigger.Schedule.Next(later(now, r.Last))
		}
		c, err := s.commit(&r, x.Rev, kind, map[string]any{"spec": r.Spec, "next": r.Next})
		if err != nil {
			return err
		}
		commits = append(commits, c)
	}
	for k, e := range known {
		if there[k] {
			continue
		}
		r := row{Pipeline: e.match.Plan.Name, Number: e.trigger.Number, Spec: e.trigger.Spec(), Next: e.trigger.Schedule.Next(now)}
		c, err := s.commit(&r, 0, RecordPlanned, map[string]any{"spec": r.Spec, "next": r.Next})
		if err != nil {
			return err
		}
		commits = append(commits, c)
	}
	// Many at once are few commits; when another server was faster with one of them, they
	// are written one by one.
	for len(commits) > 0 {
		n := min(len(commits), 500)
		all := &store.Commit{}
		for _, c := range commits[:n] {
			all.Puts, all.Events = append(all.Puts, c.Puts...), append(all.Events, c.Events...)
		}
		err := s.o.Store.Commit(ctx, all)
		if errors.Is(err, store.ErrConflict) {
			for _, c := range commits[:n] {
				if err = s.o.Store.Commit(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
					return err
				}
			}
			err = nil
		}
		if err != nil {
			return err
		}
		commits = commits[n:]
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// commit writes a row and a record about it.
func (s *Scheduler) commit(r *row, rev int64, kind string, data map[string]any) (*store.Commit, error) {
	val, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c := &store.Commit{Puts: []store.Put{{Table: table, Key: r.key(), Rev: rev, Val: val}}}
	if kind != "" {
		text, err := json.Marshal(data)
		if err != nil {
			return nil, err
		}
		c.Events = []store.Event{{Subject: r.subject(), Kind: kind, Data: text, At: s.o.Now().UTC()}}
	}
	return c, nil
}

func (s *Scheduler) entry(key string) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key]
}
