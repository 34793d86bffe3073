package arrival

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Kinds of records about triggers. Their subject is "pipeline/NAME".
const (
	// RecordFilterFailed: a filter could not be evaluated, so its event started nothing.
	RecordFilterFailed = "trigger.filter_failed"
	// RecordStartFailed: an event could not start its run and is a dead letter now.
	RecordStartFailed = "trigger.start_failed"
)

// Counts are what the triggers of this server have done since it started.
type Counts struct {
	Started      int64 // runs
	Filtered     int64 // events that a filter did not take
	FilterFailed int64 // events whose filter could not be evaluated
	StartFailed  int64 // events that became dead letters
}

// Starter turns events into runs as triggers say: it asks the filter, takes values from
// the event and begins the run. Safe for concurrent use.
type Starter struct {
	begin Begin
	now   func() time.Time
	log   *slog.Logger

	started, filtered, filterFailed, startFailed atomic.Int64
}

// NewStarter returns a starter. now is the wall clock.
func NewStarter(begin Begin, now func() time.Time, log *slog.Logger) *Starter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Starter{begin: begin, now: now, log: log}
}

// Counts returns what was done so far.
func (s *Starter) Counts() Counts {
	return Counts{s.started.Load(), s.filtered.Load(), s.filterFailed.Load(), s.startFailed.Load()}
}

// Result is what becomes of one event for one trigger.
type Result struct {
	Run    waybill.Run   // without ID when nothing was started
	Commit *store.Commit // what is to be committed for it, never nil
	// Reason says why nothing was started; empty when a filter just did not want the event.
	Reason string
	Dead   bool // Commit makes a dead letter of it
}

// letter is the body of a message of the topic "event".
type letter struct {
	Event    waybill.Event  `json:"event"`
	Pipeline string         `json:"pipeline,omitempty"` // empty: all that have a trigger for it
	Trigger  string         `json:"trigger,omitempty"`  // see pipeline.On.Trigger
	Ledger   string         `json:"ledger,omitempty"`   // row that remembers what the event started
	Slots    []waybill.Slot `json:"slots,omitempty"`
}

// Start tries to start a run of a pipeline by one of its triggers. Nothing is written:
// that is left to the caller, with more. What can never succeed as things are is no
// error but a Result with a reason; ledger is then handed to the dead letter (empty:
// none). An error is a fault that may pass.
func (s *Starter) Start(m project.Match, ref, ledger string, ev waybill.Event, slots ...waybill.Slot) (Result, error) {
	res, err := s.try(m, ref, ev, slots)
	if err != nil || !res.Dead {
		return res, err
	}
	body, err := json.Marshal(letter{ev, m.Plan.Name, ref, ledger, slots})
	if err != nil {
		return Result{}, err
	}
	p, dead, err := queue.Letter(queue.TopicEvent, m.Plan.Name+"/"+ev.ID, body, res.Reason, s.now())
	if err != nil {
		return Result{}, err
	}
	rec, err := s.record(m.Plan.Name, RecordStartFailed, ref, ev, res.Reason)
	if err != nil {
		return Result{}, err
	}
	res.Commit = &store.Commit{Puts: []store.Put{p}, Events: []store.Event{dead, rec}}
	return res, nil
}

func (s *Starter) try(m project.Match, ref string, ev waybill.Event, slots []waybill.Slot) (Result, error) {
	res := Result{Commit: &store.Commit{}}
	t := m.Plan.On.Trigger(ref)
	if t == nil {
		res.Reason, res.Dead = "pipeline "+m.Plan.Name+" has no trigger "+ref+" any more", true
		return res, nil
	}
	return s.by(m, ref, t, ev, slots)
}

// by tries to start a run by a trigger.
func (s *Starter) by(m project.Match, ref string, t *pipeline.Trigger, ev waybill.Event, slots []waybill.Slot) (Result, error) {
	res := Result{Commit: &store.Commit{}}
	data := pipeline.EventData(ev)
	ok, err := t.Accepts(data)
	if err != nil {
		s.filterFailed.Add(1)
		s.log.Warn("filter failed", "pipeline", m.Plan.Name, "trigger", ref, "event", ev.ID, "err", err)
		res.Reason = "the filter failed: " + err.Error()
		rec, err := s.record(m.Plan.Name, RecordFilterFailed, ref, ev, res.Reason)
		res.Commit.Events = []store.Event{rec}
		return res, err
	}
	if !ok {
		s.filtered.Add(1)
		return res, nil
	}
	params, vars, err := t.Given(data)
	if err == nil {
		var c *store.Commit
		if res.Run, c, err = s.begin(m.Plan, m.Version, ev, params, vars, slots...); err == nil {
			s.started.Add(1)
			res.Commit = c
			return res, nil
		}
	}
	switch waybill.KindOf(err) {
	case waybill.KindInvalid, waybill.KindTooLarge, waybill.KindMalformed:
		s.startFailed.Add(1)
		s.log.Warn("pipeline cannot start", "pipeline", m.Plan.Name, "trigger", ref, "event", ev.ID, "err", err)
		res.Run, res.Reason, res.Dead = waybill.Run{}, "pipeline "+m.Plan.Name+" cannot start: "+err.Error(), true
		return res, nil
	}
	return Result{}, err
}

func (s *Starter) record(name, kind, ref string, ev waybill.Event, reason string) (store.Event, error) {
	data, err := json.Marshal(map[string]any{"trigger": ref, "event": ev.ID, "source": ev.Source, "type": ev.Type, "reason": reason})
	return store.Event{Subject: "pipeline/" + name, Kind: kind, Data: data, At: s.now().UTC()}, err
}

// Add puts what a result wants written into a commit.
func (r Result) Add(c *store.Commit) {
	c.Puts = append(c.Puts, r.Commit.Puts...)
	c.Sends = append(c.Sends, r.Commit.Sends...)
	c.Events = append(c.Events, r.Commit.Events...)
}

// Plans finds pipelines.
type Plans interface {
	// Plan returns a version, the newest with 0.
	Plan(ctx context.Context, name string, version int) (*pipeline.Plan, int, error)
	// Active returns those that can start and that keep takes.
	Active(ctx context.Context, keep func(*pipeline.Plan) bool) ([]project.Match, int64, error)
}
