// Package cron tells when schedules fire. It reads cron expressions and intervals,
// finds their nominal times in a time zone, and explains and doubts them. It is pure:
// it has no clock and keeps nothing.
//
// # Expressions
//
// An expression has five fields (minute, hour, day of month, month, day of week), six
// with a second in front (or with a year of four digits behind), or seven with both; or
// it is one of @yearly, @monthly, @weekly, @daily, @midnight, @hourly. The syntax is
// that of github.com/adhocore/gronx, which decides what matches: lists, ranges, steps,
// names of months and days, L (last), W (nearest weekday) and # (nth weekday). When day
// of month and day of week are both given, a day that fits either fires, unless one of
// the two begins with *.
//
// # Time zones
//
// The wall clock of a zone leaves out times when it is put forward and repeats some
// when it is put back. What happens then follows the cron of Vixie:
//
//   - An expression whose hour field begins with * follows time as it passes: a time
//     that is left out does not fire, one that comes twice fires twice. So */15 * * * *
//     is always 15 minutes apart.
//   - Any other expression means the time on the wall: one that is left out fires right
//     after the gap, once however many of them are left out, and one that comes twice
//     fires the first time only. So 30 2 * * * fires once every day.
//
// An interval (every) counts from its start, or from 1970-01-01T00:00:00Z, and no zone
// has any effect on it.
package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on machines that have no files of them

	"github.com/adhocore/gronx"
)

// Expr is a cron expression. It is immutable and safe for concurrent use.
type Expr struct {
	text   string
	fields [7]string // second, minute, hour, day of month, month, day of week, year; * where none was given
	given  int       // fields that were written
	second uint64    // bit n: fires in second n
	minute uint64
	hour   uint64
	month  uint64 // bits 1 to 12
	flows  bool   // the hour begins with *: see the package
}

const (
	fieldSecond = iota
	fieldMinute
	fieldHour
	fieldDay
	fieldMonth
	fieldWeekday
	fieldYear
)

var fieldNames = [7]string{"second", "minute", "hour", "day of month", "month", "day of week", "year"}

// ranges are the lowest and highest values of fields.
var ranges = [7][2]int{{0, 59}, {0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 7}, {1970, 9999}}

// Parse reads an expression. The error says which field is wrong.
func Parse(text string) (*Expr, error) {
	clean := strings.Join(strings.Fields(text), " ")
	if clean == "" {
		return nil, fmt.Errorf("the expression is empty")
	}
	if len(clean) > 200 {
		return nil, fmt.Errorf("the expression has %d bytes, at most 200 are allowed", len(clean))
	}
	switch word := strings.ToLower(clean); {
	case word == "@midnight":
		clean = "@daily"
	case strings.HasPrefix(word, "@every"):
		return nil, fmt.Errorf("@every is no cron expression: use every with a duration")
	case word == "@reboot":
		return nil, fmt.Errorf("@reboot is not a time")
	case strings.HasPrefix(word, "@"):
		if _, err := gronx.Segments(word); err != nil {
			return nil, fmt.Errorf("unknown word %s: it can be @yearly, @monthly, @weekly, @daily or @hourly", clean)
		}
	}
	segs, err := gronx.Segments(clean)
	if err != nil || len(segs) < 6 {
		n := len(strings.Fields(clean))
		return nil, fmt.Errorf("expected 5 fields (minute hour day month weekday), 6 with a second in front or 7 with a year behind, found %d", n)
	}
	e := &Expr{text: clean, given: len(strings.Fields(clean))}
	if strings.HasPrefix(clean, "@") {
		e.given = 5
		if segs[0] != "0" {
			e.given = 6
		}
	}
	copy(e.fields[:], segs)
	if len(segs) < 7 {
		e.fields[fieldYear] = "*"
	}
	for pos, s := range e.fields {
		if err := e.read(pos, s); err != nil {
			return nil, err
		}
	}
	if !gronx.IsValid(clean) {
		return nil, fmt.Errorf("%q is not a cron expression", clean)
	}
	e.flows = strings.HasPrefix(e.fields[fieldHour], "*")
	return e, nil
}

// read checks a field against every value that it can have.
func (e *Expr) read(pos int, s string) error {
	low, high := ranges[pos][0], ranges[pos][1]
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s %q: %s", fieldNames[pos], s, fmt.Sprintf(format, args...))
	}
	for item := range strings.SplitSeq(s, ",") {
		span, step, stepped := strings.Cut(item, "/")
		if stepped {
			if n, err := strconv.Atoi(step); err != nil || n < 1 {
				return wrong("expected a number from 1 after /")
			}
		}
		if pos == fieldDay && (item == "L" || strings.HasSuffix(item, "W")) || pos == fieldWeekday && strings.ContainsAny(item, "L#") {
			continue // only a date tells whether they fit
		}
		if span == "*" || span == "?" && !stepped {
			continue
		}
		from, to, ranged := strings.Cut(span, "-")
		ends := []string{from}
		if ranged {
			ends = append(ends, to)
		}
		var nums []int
		for _, x := range ends {
			n, err := strconv.Atoi(x)
			if err != nil {
				return wrong("expected a number from %d to %d, found %q", low, high, x)
			}
			if n < low || n > high {
				return wrong("%d is not from %d to %d", n, low, high)
			}
			nums = append(nums, n)
		}
		if ranged && nums[0] > nums[1] && (pos != fieldWeekday || nums[0] != 7) {
			return wrong("the range %s begins after its end; write %d-%d,%d-%d", span, nums[0], high, low, nums[1])
		}
	}
	var set *uint64
	switch pos {
	case fieldSecond:
		set = &e.second
	case fieldMinute:
		set = &e.minute
	case fieldHour:
		set = &e.hour
	case fieldMonth:
		set = &e.month
	default:
		c := &gronx.SegmentChecker{}
		c.SetRef(time.Date(2024, 2, 15, 0, 0, 0, 0, time.UTC))
		if _, err := c.CheckDue(s, pos); err != nil {
			return wrong("it cannot be read")
		}
		return nil
	}
	c := &gronx.SegmentChecker{}
	for v := low; v <= high; v++ {
		switch pos {
		case fieldSecond:
			c.SetRef(time.Date(2024, 1, 1, 0, 0, v, 0, time.UTC))
		case fieldMinute:
			c.SetRef(time.Date(2024, 1, 1, 0, v, 0, 0, time.UTC))
		case fieldHour:
			c.SetRef(time.Date(2024, 1, 1, v, 0, 0, 0, time.UTC))
		case fieldMonth:
			c.SetRef(time.Date(2024, time.Month(v), 1, 0, 0, 0, 0, time.UTC))
		}
		due, err := c.CheckDue(s, pos)
		if err != nil {
			return wrong("it cannot be read")
		}
		if due {
			*set |= 1 << v
		}
	}
	if *set == 0 {
		return wrong("it names no value")
	}
	return nil
}

// String returns the expression as it was written, with single spaces.
func (e *Expr) String() string { return e.text }

// Seconds reports whether the expression has a field for seconds.
func (e *Expr) Seconds() bool { return e.given == 7 || e.given == 6 && e.fields[fieldYear] == "*" }

// on reports whether a day fires.
func (e *Expr) on(day time.Time) bool {
	g := gronx.New()
	g.C.SetRef(day)
	due, err := g.SegmentsDue([]string{"*", "*", "*", e.fields[fieldDay], "*", e.fields[fieldWeekday], e.fields[fieldYear]})
	return err == nil && due
}

// horizon is how many years are searched: February 29 on one day of the week can be 40
// years away.
const horizon = 41

// wall returns the first reading of a wall clock from at on that fits, or the zero time.
// Readings are times in UTC.
func (e *Expr) wall(at time.Time) time.Time {
	if at.Nanosecond() > 0 {
		at = at.Truncate(time.Second).Add(time.Second)
	}
	y, mo, d := at.Date()
	h, m, s := at.Clock()
	if h, m, s, ok := e.clock(h, m, s); ok {
		day := time.Date(y, mo, d, 0, 0, 0, 0, time.UTC)
		if e.month>>mo&1 == 1 && e.on(day) {
			return time.Date(y, mo, d, h, m, s, 0, time.UTC)
		}
	}
	h, m, s, _ = e.clock(0, 0, 0)
	for day := time.Date(y, mo, d+1, 0, 0, 0, 0, time.UTC); day.Year() <= y+horizon; {
		if e.month>>day.Month()&1 == 0 {
			day = time.Date(day.Year(), day.Month()+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		}
		if e.on(day) {
			return time.Date(day.Year(), day.Month(), day.Day(), h, m, s, 0, time.UTC)
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}
}

// clock returns the first time of day that fits, from the given one on.
func (e *Expr) clock(h, m, s int) (int, int, int, bool) {
	if e.hour>>h&1 == 0 {
		m, s = 0, 0
	} else if e.minute>>m&1 == 0 {
		s = 0
	}
	if x, ok := from(e.second, s); ok && e.hour>>h&1 == 1 && e.minute>>m&1 == 1 {
		return h, m, x, true
	}
	first, _ := from(e.second, 0)
	if e.hour>>h&1 == 1 {
		after := m + 1
		if e.minute>>m&1 == 0 {
			after = m
		}
		if x, ok := from(e.minute, after); ok {
			return h, x, first, true
		}
	}
	x, ok := from(e.hour, h+1)
	low, _ := from(e.minute, 0)
	return x, low, first, ok
}

// from returns the lowest bit from n on.
func from(set uint64, n int) (int, bool) {
	if n > 63 {
		return 0, false
	}
	rest := set >> n << n
	return bits.TrailingZeros64(rest), rest != 0
}
