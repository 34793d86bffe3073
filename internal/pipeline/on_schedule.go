package pipeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/waybill-run/waybill/internal/cron"
)

// What becomes of nominal times that passed while nobody looked.
const (
	CatchupNone = "none" // they are left out
	CatchupLast = "last" // the newest fires, the others are left out
	CatchupAll  = "all"  // every one fires, oldest first
)

// What becomes of a run of a schedule while the one before has not ended.
const (
	OverlapSkip   = "skip"   // it ends as skipped
	OverlapQueue  = "queue"  // it waits for the end of the other
	OverlapCancel = "cancel" // the other is canceled
	OverlapAllow  = "allow"  // both run
)

// Defaults of schedules. A nightly job whose hour passed while the server was down is
// still wanted, once; two of them at the same time hardly ever are.
const (
	DefaultCatchup = CatchupLast
	DefaultOverlap = OverlapSkip
)

// ScheduleTrigger starts a run at every nominal time of a schedule.
type ScheduleTrigger struct {
	Trigger
	Number   int           // among the schedules of the pipeline, from 1
	Schedule cron.Schedule // when it fires
	Cron     string        // as it was written; empty with an interval
	Timezone string        // "UTC" unless set
	Catchup  string
	Overlap  string
}

// Spec is what the nominal times depend on, as text: when it changes, the schedule is
// planned anew.
func (t *ScheduleTrigger) Spec() string {
	s := t.Cron + " " + t.Timezone
	if t.Schedule.Every > 0 {
		s = "every " + t.Schedule.Every.String()
	}
	for _, b := range []struct {
		name string
		at   time.Time
	}{{" from ", t.Schedule.Start}, {" until ", t.Schedule.End}} {
		if !b.at.IsZero() {
			s += b.name + b.at.UTC().Format(time.RFC3339)
		}
	}
	return s
}

// Ref is the reference of the trigger: see On.Trigger.
func (t *ScheduleTrigger) Ref() string { return fmt.Sprintf("schedule/%d", t.Number) }

// String says in short when it fires.
func (t *ScheduleTrigger) String() string {
	if t.Schedule.Every > 0 {
		return "every " + cron.Spell(t.Schedule.Every)
	}
	if t.Timezone == "UTC" {
		return t.Cron
	}
	return t.Cron + " " + t.Timezone
}

// maxSchedules bounds the schedules of one pipeline.
const maxSchedules = 100

func (d *definition) scheduleTrigger(what string, n *node) {
	if n.kind == kindString { // schedule: "0 2 * * *"
		n = &node{kind: kindMap, at: n.at, fields: []field{{key: "cron", at: n.at, val: n}}}
	}
	if !d.object(what, n, scheduleKeys) {
		return
	}
	t := ScheduleTrigger{Trigger: d.trigger(what, n), Number: len(d.plan.On.Schedules) + 1,
		Timezone: "UTC", Catchup: DefaultCatchup, Overlap: DefaultOverlap}
	if t.Number > maxSchedules {
		d.add(n.at, "", "a pipeline has at most %d schedules", maxSchedules)
		return
	}
	zone := time.UTC
	if z := n.get("timezone"); z != nil {
		if s, ok := d.str(what+".timezone", z); ok {
			l, err := time.LoadLocation(s)
			if err != nil || s == "" || s == "Local" {
				d.add(z.at, "names look like Europe/Paris or UTC", "%s.timezone: there is no time zone %s", what, clip(s))
			} else {
				zone, t.Timezone = l, s
			}
		}
	}
	t.Schedule.Zone = zone
	expr, every := n.get("cron"), n.get("every")
	switch {
	case expr == nil && every == nil:
		d.add(n.at, `write cron: "0 2 * * *" or every: 15m`, "%s says neither cron nor every", what)
	case expr != nil && every != nil:
		d.add(every.at, "leave out one of the two", "%s says both cron and every", what)
	case expr != nil:
		text, ok := d.str(what+".cron", expr)
		if !ok {
			break
		}
		e, err := cron.Parse(text)
		if err != nil {
			d.add(expr.at, "waybill schedule explain tells what an expression means", "%s.cron: %v", what, err)
			break
		}
		t.Schedule.Expr, t.Cron = e, e.String()
	default:
		v, ok := d.duration(what+".every", every)
		if ok && (v < time.Second || v%time.Second != 0) {
			d.add(every.at, "", "%s.every: expected whole seconds, at least one", what)
		}
		t.Schedule.Every = v.Truncate(time.Second)
		if z := n.get("timezone"); z != nil && n.get("start") == nil {
			d.warn(z.at, "", "%s: a time zone has no effect on an interval without start", what)
		}
	}
	if x := n.get("start"); x != nil {
		t.Schedule.Start, _ = d.instant(what+".start", x, zone)
	}
	if x := n.get("end"); x != nil {
		t.Schedule.End, _ = d.instant(what+".end", x, zone)
		if !t.Schedule.End.After(t.Schedule.Start) {
			d.add(x.at, "", "%s.end is not after its start", what)
		}
	}
	t.Catchup = d.word(what+".catchup", n.get("catchup"), t.Catchup, CatchupNone, CatchupLast, CatchupAll)
	t.Overlap = d.word(what+".overlap", n.get("overlap"), t.Overlap, OverlapSkip, OverlapQueue, OverlapCancel, OverlapAllow)
	if t.Schedule.Expr != nil {
		for _, w := range t.Schedule.Doubts(d.now()) {
			d.warn(expr.at, w.Hint, "%s %q: %s", what, t.Cron, w.Msg)
		}
	}
	if t.Schedule.Expr != nil || t.Schedule.Every > 0 {
		d.plan.On.Schedules = append(d.plan.On.Schedules, t)
	}
}

// now is the instant from which doubts about schedules look ahead.
func (d *definition) now() time.Time {
	if d.opts.Now != nil {
		return d.opts.Now()
	}
	return time.Now()
}

// word reads one of the known words.
func (d *document) word(what string, n *node, def string, known ...string) string {
	if n == nil {
		return def
	}
	s, ok := d.str(what, n)
	if !ok {
		return def
	}
	for _, k := range known {
		if s == k {
			return s
		}
	}
	d.add(n.at, didYouMean(s, known), "%s: expected one of %s, found %s", what, strings.Join(known, ", "), clip(s))
	return def
}
