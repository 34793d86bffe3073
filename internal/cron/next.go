package cron

import (
	"math"
	"time"
)

// Schedule is a sequence of nominal times: those of an expression in a zone, or an
// interval. Exactly one of Expr and Every is set. Safe for concurrent use.
type Schedule struct {
	Expr  *Expr
	Every time.Duration
	Zone  *time.Location // of Expr; nil is UTC
	Start time.Time      // the first nominal time is not before; zero: no bound
	End   time.Time      // all nominal times are before; zero: no bound
}

// Next returns the first nominal time after an instant, in UTC, or the zero time when
// there is none (any more).
func (s *Schedule) Next(after time.Time) time.Time {
	if !s.Start.IsZero() && after.Before(s.Start) {
		after = s.Start.Add(-1)
	}
	var t time.Time
	switch {
	case s.Every > 0:
		t = s.tick(after)
	case s.Expr.flows:
		t = s.flowing(after)
	default:
		t = s.fixed(after)
	}
	if !s.End.IsZero() && !t.Before(s.End) {
		return time.Time{}
	}
	return t.UTC()
}

// tick is the next end of an interval.
func (s *Schedule) tick(after time.Time) time.Time {
	origin := s.Start
	if origin.IsZero() {
		origin = time.Unix(0, 0)
	}
	since := after.Sub(origin)
	if since < 0 {
		return origin
	}
	return origin.Add(since - since%s.Every + s.Every)
}

func (s *Schedule) zone() *time.Location {
	if s.Zone == nil {
		return time.UTC
	}
	return s.Zone
}

// reading is what the wall clock shows at an instant, as a time in UTC.
func reading(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// flowing finds the next instant at which the wall shows a fitting time.
func (s *Schedule) flowing(after time.Time) time.Time {
	limit := after.AddDate(horizon, 0, 0)
	// From the first whole second after, segment by segment of constant offset.
	at := after.Truncate(time.Second).Add(time.Second).In(s.zone())
	for at.Before(limit) {
		w := s.Expr.wall(reading(at))
		if w.IsZero() {
			return w
		}
		_, offset := at.Zone()
		t := w.Add(-time.Duration(offset) * time.Second)
		_, end := at.ZoneBounds()
		if end.IsZero() || t.Before(end) {
			return t
		}
		at = end
	}
	return time.Time{}
}

// fixed finds the next instant that a fitting time on the wall stands for.
func (s *Schedule) fixed(after time.Time) time.Time {
	for w := reading(after.In(s.zone())); ; {
		w = s.Expr.wall(w.Truncate(time.Second).Add(time.Second))
		if w.IsZero() {
			return w
		}
		if t := instant(w, s.zone()); t.After(after) {
			return t
		}
	}
}

// instant is when a wall clock shows a time for the first time, or the end of the gap
// in which that time is left out.
func instant(w time.Time, zone *time.Location) time.Time {
	y, mo, d := w.Date()
	h, m, sec := w.Clock()
	near := time.Date(y, mo, d, h, m, sec, 0, zone)
	start, end := near.ZoneBounds()
	// The offsets before, in and after the period that near is in; what w stands for is
	// in one of them, as no zone changes twice within a few hours.
	periods := []time.Time{near}
	if !start.IsZero() {
		periods = []time.Time{start.Add(-1), near}
	}
	if !end.IsZero() {
		periods = append(periods, end)
	}
	var first time.Time
	for _, p := range periods {
		_, offset := p.Zone()
		t := w.Add(-time.Duration(offset) * time.Second)
		if _, o := t.In(zone).Zone(); o == offset && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	if !first.IsZero() {
		return first
	}
	for _, edge := range []time.Time{start, end} {
		if !edge.IsZero() && reading(edge.Add(-1)).Before(w) && reading(edge).After(w) {
			return edge
		}
	}
	return near // a change of zone that no rule of ours foresees
}

// maxCounted bounds how many nominal times are counted one by one.
const maxCounted = 10_000

// Due returns the nominal times from from to to, both included: the newest keep of
// them, oldest first, and how many there are in all. With more than 10,000 in all, exact
// is false and all is a lower bound.
func (s *Schedule) Due(from, to time.Time, keep int) (newest []time.Time, all int, exact bool) {
	collect := func(after time.Time, limit int) (list []time.Time, done bool) {
		for t := s.Next(after); !t.IsZero() && !t.After(to); t = s.Next(t) {
			if len(list) >= limit {
				return list, false
			}
			list = append(list, t)
		}
		return list, true
	}
	last := func(list []time.Time) []time.Time { return list[max(0, len(list)-keep):] }
	before := from.Add(-1)
	list, exact := collect(before, maxCounted)
	if exact {
		return last(list), len(list), true
	}
	for span := time.Minute; ; span *= 4 {
		after := to.Add(-span)
		if after.Before(before) {
			after = before
		}
		if near, _ := collect(after, math.MaxInt); len(near) >= keep || after.Equal(before) {
			return last(near), len(list), false
		}
	}
}
