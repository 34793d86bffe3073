package cron

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Explanation is what there is to know about a schedule.
type Explanation struct {
	Words    string // "at 02:00 every day"
	PerDay   int    // how often it fires on a day on which it fires
	Shortest time.Duration
	Longest  time.Duration // between two firings of days that both fire
	Next     []time.Time   // in the schedule's zone
	Warnings []Warning
}

// Warning is something that is allowed and probably not meant.
type Warning struct {
	Msg  string
	Hint string // what to write instead, if that is known
}

// Explain tells what a schedule does, with its next n nominal times after now.
func (s *Schedule) Explain(now time.Time, n int) Explanation {
	var x Explanation
	if s.Every > 0 {
		x.Words = "every " + Spell(s.Every)
		x.PerDay = int(24 * time.Hour / s.Every)
		x.Shortest, x.Longest = s.Every, s.Every
	} else {
		x.Words = s.Expr.words()
		x.PerDay, x.Shortest, x.Longest = s.Expr.day()
	}
	for t := s.Next(now); !t.IsZero() && len(x.Next) < n; t = s.Next(t) {
		x.Next = append(x.Next, t.In(s.zone()))
	}
	x.Warnings = s.Doubts(now)
	return x
}

// day says how often a day fires, and the shortest and longest time between firings
// if the next day fires as well.
func (e *Expr) day() (n int, shortest, longest time.Duration) {
	n = bits.OnesCount64(e.hour) * bits.OnesCount64(e.minute) * bits.OnesCount64(e.second)
	first, last := -1, -1
	see := func(at int) {
		if last >= 0 {
			gap := time.Duration(at-last) * time.Second
			if shortest == 0 || gap < shortest {
				shortest = gap
			}
			longest = max(longest, gap)
		}
		last = at
	}
	for h, m, s, ok := e.clock(0, 0, 0); ok; {
		at := h*3600 + m*60 + s
		if first < 0 {
			first = at
		}
		see(at)
		if at++; at >= 86400 {
			break
		}
		h, m, s, ok = e.clock(at/3600, at/60%60, at%60)
	}
	see(first + 86400)
	return n, shortest, longest
}

// Doubts returns what is probably not meant. now is where the search for changes of
// the clock begins.
func (s *Schedule) Doubts(now time.Time) []Warning {
	var out []Warning
	add := func(hint, format string, args ...any) { out = append(out, Warning{fmt.Sprintf(format, args...), hint}) }
	if s.Next(now).IsZero() {
		add("", "it never fires")
	}
	if s.Expr == nil {
		if day := 24 * time.Hour; s.Every < day && day%s.Every != 0 {
			add("", "%s does not divide a day, so it fires at other times every day", Spell(s.Every))
		}
		return out
	}
	e := s.Expr
	n, shortest, longest := e.day()
	gaps := fmt.Sprintf("gaps up to %s", Spell(longest))
	if longest%time.Minute == 0 && longest > time.Minute {
		gaps = fmt.Sprintf("gaps up to %d minutes", longest/time.Minute)
	}
	hours, minutes := bits.OnesCount64(e.hour), bits.OnesCount64(e.minute)
	stepped := func(pos int) (int, bool) {
		var step int
		_, err := fmt.Sscanf(e.fields[pos], "*/%d", &step)
		return step, err == nil && !strings.Contains(e.fields[pos], ",")
	}
	rest := strings.Join(e.fields[fieldDay:6], " ")

	switch step, ok := stepped(fieldHour); {
	case minutes == 60 && ok && step > 1:
		add(fmt.Sprintf("for once in %d minutes write */%d * %s; for once in %d hours 0 */%d %s", step, step, rest, step, step, rest),
			"it fires %d times a day, with %s: every minute of the hours %s", n, gaps, list(e.hour, "%d"))
	case minutes == 60 && hours == 1:
		h, _ := from(e.hour, 0)
		add(fmt.Sprintf("for once a day write 0 %d %s", h, rest), "it fires %d times a day, with %s: every minute of the hour %d", n, gaps, h)
	}
	if bits.OnesCount64(e.second) > 1 && e.Seconds() {
		add("with six fields the first is the second; for once a minute write 0 there, or leave it out",
			"it fires %d times in each of its minutes, %s apart", bits.OnesCount64(e.second), Spell(shortest))
	}
	for _, f := range []struct{ pos, of int }{{fieldSecond, 60}, {fieldMinute, 60}, {fieldHour, 24}} {
		step, ok := stepped(f.pos)
		unit := fieldNames[f.pos]
		switch {
		case !ok || f.of%step == 0:
		case step >= f.of:
			add("", "%s */%d: the step is longer than the field, so it stands for 0 alone", unit, step)
		default:
			last := (f.of - 1) / step * step
			add("every: with a duration keeps the same distance", "%s */%d does not divide %d: after %s %d comes 0 again, only %d %ss later",
				unit, step, f.of, unit, last, f.of-last, unit)
		}
	}
	if step, ok := stepped(fieldDay); ok && step > 1 {
		last := 30/step*step + 1
		add("every: with a duration keeps the same distance", "day of month */%d begins anew on the 1st, which comes soon after day %d of a month that has it", step, last)
	}
	day, weekday := e.fields[fieldDay], e.fields[fieldWeekday]
	open := func(f string) bool { return f == "*" || f == "?" }
	if !open(day) && !open(weekday) {
		if strings.HasPrefix(day, "*") || strings.HasPrefix(weekday, "*/") {
			add("", "day of month and day of week are both given, and one begins with *: it fires on days that fit both")
		} else {
			add("leave one of them *", "day of month and day of week are both given: it fires on days that fit either")
		}
	}
	out = append(out, e.short()...)
	if !e.flows {
		out = append(out, s.changes(now)...)
	}
	return out
}

// short warns of days that not all months have.
func (e *Expr) short() []Warning {
	day := e.fields[fieldDay]
	if e.fields[fieldWeekday] != "*" && e.fields[fieldWeekday] != "?" || strings.ContainsAny(day, "*?LW,-/") {
		return nil
	}
	var d, without int
	if _, err := fmt.Sscanf(day, "%d", &d); err != nil {
		return nil
	}
	lengths := []int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
	named := 0
	for i, n := range lengths {
		if e.month>>(i+1)&1 == 0 {
			continue
		}
		if named++; n < d {
			without++
		}
	}
	switch {
	case without == named: // it never fires, which is told already
	case without > 0:
		return []Warning{{fmt.Sprintf("day %d is left out in the %d months that are shorter", d, without), "L is the last day of a month"}}
	case d == 29 && e.month == 1<<2:
		return []Warning{{"February 29 comes once in four years", ""}}
	case d == 29 && e.month>>2&1 == 1:
		return []Warning{{"day 29 is left out in most Februaries", "L is the last day of a month"}}
	}
	return nil
}

// changes warns of the next times that the zone's clock leaves out or repeats.
func (s *Schedule) changes(now time.Time) []Warning {
	var out []Warning
	gap, twice := false, false
	at := now.In(s.zone())
	for range 4 {
		_, end := at.ZoneBounds()
		if end.IsZero() || end.Sub(now) > 800*24*time.Hour {
			break
		}
		was, is := reading(end.Add(-1)).Add(1), reading(end)
		w := s.Expr.wall(minTime(was, is))
		if !w.IsZero() && w.Before(maxTime(was, is)) {
			switch date := end.Format(time.DateOnly); {
			case is.After(was) && !gap:
				gap = true
				out = append(out, Warning{fmt.Sprintf("on %s the clock of %s leaves out %s: it fires at %s instead", date, s.zone(), w.Format("15:04"), is.Format("15:04")), ""})
			case is.Before(was) && !twice:
				twice = true
				out = append(out, Warning{fmt.Sprintf("on %s the clock of %s shows %s twice: it fires the first time only", date, s.zone(), w.Format("15:04")), ""})
			}
		}
		at = end
	}
	return out
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Spell writes a duration as people say it.
func Spell(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d >= u.d && d%u.d == 0 {
			if d == u.d {
				return "1 " + u.name
			}
			return fmt.Sprintf("%d %ss", d/u.d, u.name)
		}
	}
	return d.String()
}

// list writes the members of a set.
func list(set uint64, format string) string {
	var words []string
	for ; set != 0; set &= set - 1 {
		words = append(words, fmt.Sprintf(format, bits.TrailingZeros64(set)))
	}
	return join(words, "and")
}

func join(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

var (
	monthNames = []string{"", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	dayNames   = []string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
)

// words describes the expression.
func (e *Expr) words() string {
	parts := []string{e.timeWords()}
	open := func(f string) bool { return f == "*" || f == "?" }
	day, weekday := e.fields[fieldDay], e.fields[fieldWeekday]
	days := func() string { return "on " + spellItems(day, "day ", "days ", nil) + " of the month" }
	week := func() string { return "on " + spellItems(weekday, "", "", dayNames) }
	switch {
	case open(day) && open(weekday):
		if bits.OnesCount64(e.hour) < 24 {
			parts = append(parts, "every day")
		}
	case open(weekday):
		parts = append(parts, days())
	case open(day):
		parts = append(parts, week())
	case strings.HasPrefix(day, "*") || strings.HasPrefix(weekday, "*/"):
		parts = append(parts, days(), "if it is also", strings.TrimPrefix(week(), "on "))
	default:
		parts = append(parts, days(), "and also", week())
	}
	if bits.OnesCount64(e.month) < 12 {
		parts = append(parts, "in "+spellItems(e.fields[fieldMonth], "", "", monthNames))
	}
	if y := e.fields[fieldYear]; !open(y) {
		parts = append(parts, "in "+spellItems(y, "", "", nil))
	}
	return strings.Join(parts, " ")
}

func (e *Expr) timeWords() string {
	hours, minutes, seconds := bits.OnesCount64(e.hour), bits.OnesCount64(e.minute), bits.OnesCount64(e.second)
	if hours*minutes <= 6 && seconds == 1 && hours < 24 {
		sec, _ := from(e.second, 0)
		var at []string
		for h := range 24 {
			for m := range 60 {
				if e.hour>>h&1 == 0 || e.minute>>m&1 == 0 {
					continue
				}
				t := fmt.Sprintf("%02d:%02d", h, m)
				if sec != 0 {
					t += fmt.Sprintf(":%02d", sec)
				}
				at = append(at, t)
			}
		}
		return "at " + join(at, "and")
	}
	field := func(pos int, set uint64, of int) string {
		name := fieldNames[pos]
		n := bits.OnesCount64(set)
		var step int
		_, err := fmt.Sscanf(e.fields[pos], "*/%d", &step)
		switch {
		case n == of:
			return "every " + name
		case err == nil && step > 1 && of%step == 0 && step < of:
			return fmt.Sprintf("every %d %ss", step, name)
		case n == 1:
			return "at " + name + " " + list(set, "%d")
		case n > 10:
			return "at " + name + "s " + spellItems(e.fields[pos], "", "", nil)
		}
		return "at " + name + "s " + list(set, "%d")
	}
	var parts []string
	if e.second != 1 {
		parts = append(parts, field(fieldSecond, e.second, 60))
	}
	if minutes < 60 || e.second == 1 {
		parts = append(parts, field(fieldMinute, e.minute, 60))
	}
	if hours < 24 {
		names := "hour "
		if hours > 1 {
			names = "hours "
		}
		parts = append(parts, "of the "+names+list(e.hour, "%d"))
	} else if minutes == 1 {
		parts = append(parts, "of every hour")
	}
	return strings.Join(parts, " ")
}

// spellItems writes the items of a field.
func spellItems(f, one, many string, names []string) string {
	name := func(s string) string {
		var n int
		if _, err := fmt.Sscanf(s, "%d", &n); err == nil && names != nil && n < len(names) {
			return names[n]
		}
		return s
	}
	var out []string
	for item := range strings.SplitSeq(f, ",") {
		span, step, stepped := strings.Cut(item, "/")
		var w string
		switch a, b, ranged := strings.Cut(span, "-"); {
		case item == "L":
			w = "the last day"
		case strings.HasSuffix(item, "W"):
			w = "the weekday nearest to day " + strings.TrimSuffix(item, "W")
		case strings.HasSuffix(item, "L"):
			w = "the last " + name(strings.TrimSuffix(item, "L")) + " of the month"
		case strings.Contains(item, "#"):
			d, nth, _ := strings.Cut(item, "#")
			w = name(d) + " number " + nth + " of the month"
		case span == "*":
			unit := "days"
			if names != nil && len(names) == len(monthNames) {
				unit = "months"
			}
			w, stepped = "every "+step+" "+unit, false
		case ranged:
			w = many + name(a) + " to " + name(b)
		default:
			w = one + name(a)
		}
		if stepped {
			w += ", every " + step
		}
		out = append(out, w)
	}
	return join(out, "and")
}
