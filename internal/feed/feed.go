// Package feed reads the event log and never forgets where it was: what follows
// from a stretch of events and the new place are one commit, so each event counts
// once, however often servers are killed and however many share the store.
//
// One server at a time reads a feed. The others look every few seconds whether it
// still does; that two read for a moment is harmless, because the place is changed
// by compare and swap and only one of them gets its commit.
package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybill-run/waybill/internal/store"
)

// tableFeed holds the place of each feed. Key: the feed's name.
const tableFeed = "feed"

// Tables are the descriptors of the package's tables.
func Tables() store.Schema { return store.Schema{{Name: tableFeed, Version: 1}} }

// place is the row of a feed.
type place struct {
	Cursor store.Cursor    `json:"cursor"`
	Owner  string          `json:"owner"` // server that reads it
	At     time.Time       `json:"at"`    // when it was written
	State  json.RawMessage `json:"state,omitempty"`
}

// Batch is what a handler is given.
type Batch struct {
	Events []store.StoredEvent
	// State is what the handler kept with the place before; nil at first.
	State json.RawMessage
}

// Effect is what follows from a batch. Its parts are committed together with the
// new place. The tenant of all is the default one.
type Effect struct {
	Puts  []store.Put
	Sends []store.Send
	// State replaces what is kept with the place; nil keeps it.
	State json.RawMessage
}

func (e Effect) empty() bool { return len(e.Puts) == 0 && len(e.Sends) == 0 && e.State == nil }

// Options of a feed. Zero durations mean their defaults.
type Options struct {
	Store  store.Store
	Name   string
	Owner  string // this server
	Logger *slog.Logger
	// Handle decides what follows from a batch. It must change nothing itself, as
	// its effect may be refused and asked for again. An error leaves the place as it
	// is; the batch is tried again after a pause that grows.
	Handle func(ctx context.Context, b Batch) (Effect, error)
	// Idle reports that nobody cares at present: events are skipped, unread. Nil
	// means never.
	Idle func(ctx context.Context) bool
	// Always calls Handle after every pace, also when there are no events.
	Always bool
	// Past makes a feed that has no place yet begin with the oldest event; otherwise
	// it begins with what happens from now on.
	Past bool

	Pace     time.Duration // shortest time between two looks at a log that moves; 0 means 1 s
	Batch    int           // most events at once; 0 means 1000
	Takeover time.Duration // silence after which another server reads on; 0 means 10 s
}

// Feed is a feed that is being read.
type Feed struct {
	o    Options
	stop context.CancelFunc
	done chan struct{}

	at    place
	rev   int64
	known bool         // at and rev are those of the row
	seen  store.Cursor // how far we have read; the row may be behind when nothing followed
	since time.Time    // when the row was last written by us
}

// saveEvery is how often a place is written that moved without effect.
const saveEvery = 30 * time.Second

// Start reads a feed until Stop, whatever becomes of ctx.
func Start(ctx context.Context, o Options) *Feed {
	if o.Pace <= 0 {
		o.Pace = time.Second
	}
	if o.Batch <= 0 {
		o.Batch = 1000
	}
	if o.Takeover <= 0 {
		o.Takeover = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &Feed{o: o, stop: cancel, done: make(chan struct{})}
	go f.run(bg)
	return f
}

// Stop ends the reading. What was read and not committed is read again by
// whoever comes next.
func (f *Feed) Stop() {
	f.stop()
	<-f.done
}

func (f *Feed) run(ctx context.Context) {
	defer close(f.done)
	bell, silence := f.o.Store.Watch()
	defer silence()
	fails := 0
	for ctx.Err() == nil {
		ours, err := f.pass(ctx)
		if err != nil && ctx.Err() == nil {
			fails++
			f.known = false
			f.o.Logger.Warn("events not dealt with, trying again", "feed", f.o.Name, "err", err)
			if !sleep(ctx, min(time.Duration(fails)*f.o.Pace, time.Minute)) {
				return
			}
			continue
		}
		fails = 0
		if !sleep(ctx, f.o.Pace) {
			return
		}
		if !ours {
			if !sleep(ctx, f.o.Takeover/2) {
				return
			}
			continue
		}
		// A quiet log is looked at when the bell rings; now and then without, because
		// the bell is a hint only.
		wait := 5 * time.Second
		if f.o.Always {
			wait = f.o.Pace
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-bell:
		case <-t.C:
		}
		t.Stop()
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pass deals with everything that is there. It reports whether the feed is ours.
func (f *Feed) pass(ctx context.Context) (bool, error) {
	if !f.known || f.at.Owner != f.o.Owner {
		if err := f.load(ctx); err != nil {
			return false, err
		}
		if f.at.Owner != f.o.Owner && f.o.Store.Now().Sub(f.at.At) < f.o.Takeover {
			return false, nil
		}
	}
	for first := true; ; first = false {
		if f.o.Idle != nil && f.o.Idle(ctx) {
			head, err := f.o.Store.Head(ctx)
			if err != nil {
				return true, err
			}
			f.seen = head
			return true, f.save(ctx, Effect{})
		}
		events, err := f.o.Store.Tail(ctx, f.seen, f.o.Batch)
		if err != nil {
			return true, err
		}
		if len(events) == 0 && (!first || !f.o.Always) {
			return true, f.save(ctx, Effect{})
		}
		effect, err := f.o.Handle(ctx, Batch{events, f.at.State})
		if err != nil {
			return true, err
		}
		if len(events) > 0 {
			f.seen = events[len(events)-1].Cursor
		}
		if err := f.save(ctx, effect); err != nil || !f.known {
			return f.known, err
		}
		if len(events) < f.o.Batch {
			return true, nil
		}
	}
}

// load reads the place, and makes it if there is none.
func (f *Feed) load(ctx context.Context) error {
	for {
		row, err := f.o.Store.Get(ctx, "", tableFeed, f.o.Name)
		if err == nil {
			f.at = place{}
			if err := json.Unmarshal(row.Val, &f.at); err != nil {
				return fmt.Errorf("place of feed %s: %w", f.o.Name, err)
			}
			f.rev, f.seen, f.known, f.since = row.Rev, f.at.Cursor, true, f.at.At
			return nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		p := place{Owner: f.o.Owner, At: f.o.Store.Now().UTC()}
		if !f.o.Past {
			if p.Cursor, err = f.o.Store.Head(ctx); err != nil {
				return err
			}
		}
		if err := f.write(ctx, p, 0, Effect{}); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// save commits an effect with the place we have come to. A place that moved
// without effect is written seldom: reading the same events again has none, either.
func (f *Feed) save(ctx context.Context, e Effect) error {
	now := f.o.Store.Now().UTC()
	if e.empty() && (f.seen == f.at.Cursor || f.at.Owner == f.o.Owner && now.Sub(f.since) < min(saveEvery, f.o.Takeover/2)) {
		return nil
	}
	p := place{Cursor: f.seen, Owner: f.o.Owner, At: now, State: f.at.State}
	if e.State != nil {
		p.State = e.State
	}
	err := f.write(ctx, p, f.rev, e)
	if errors.Is(err, store.ErrConflict) {
		// Somebody else was faster with these events, or changed a row that the effect
		// was made from: look again.
		f.known = false
		return nil
	}
	if err == nil {
		f.at, f.since, f.rev = p, now, f.rev+1
	}
	return err
}

func (f *Feed) write(ctx context.Context, p place, rev int64, e Effect) error {
	val, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return f.o.Store.Commit(ctx, &store.Commit{
		Puts:  append([]store.Put{{Table: tableFeed, Key: f.o.Name, Rev: rev, Val: val}}, e.Puts...),
		Sends: e.Sends,
	})
}
