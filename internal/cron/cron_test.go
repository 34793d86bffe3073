package cron

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adhocore/gronx"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func zone(tb testing.TB, name string) *time.Location {
	tb.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func parse(tb testing.TB, text string) *Expr {
	tb.Helper()
	e, err := Parse(text)
	if err != nil {
		tb.Fatalf("%s: %v", text, err)
	}
	return e
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "empty",
		"* * *":                  "found 3",
		"* * * * * * * *":        "found 8",
		"60 * * * *":             "minute \"60\": 60 is not from 0 to 59",
		"* 24 * * *":             "hour",
		"0 0 0 * *":              "day of month",
		"0 0 * 13 *":             "month",
		"0 0 * * 8":              "day of week",
		"0 0 * * MUN":            "day of week",
		"0 22-4 * * *":           "write 22-23,0-4",
		"*/0 * * * *":            "number from 1 after /",
		"*/ * * * *":             "number from 1 after /",
		"1,,2 * * * *":           "minute",
		"5- * * * *":             "minute",
		"@every 5m":              "use every",
		"@sometimes":             "unknown word",
		"@reboot":                "not a time",
		strings.Repeat("1", 300): "at most 200",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	const paris, howe, apia = "Europe/Paris", "Australia/Lord_Howe", "Pacific/Apia"
	for _, c := range []struct {
		expr, zone, after string
		want              []string
	}{
		{"0 2 * * *", "UTC", "2026-01-01T02:00:00Z", []string{"2026-01-02T02:00:00Z", "2026-01-03T02:00:00Z"}},
		{"0 2 * * *", "UTC", "2026-01-01T01:59:59.999Z", []string{"2026-01-01T02:00:00Z"}},
		{"*/20 * * * * *", "UTC", "2026-01-01T00:00:39Z", []string{"2026-01-01T00:00:40Z", "2026-01-01T00:01:00Z"}},
		{"30 5 0 1 1 * 2030", "UTC", "2026-01-01T00:00:00Z", []string{"2030-01-01T00:05:30Z"}},
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"0 0 L * *", "UTC", "2026-02-01T00:00:00Z", []string{"2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"}},
		// Left out: right after the gap. Twice: the first time.
		{"30 2 * * *", paris, "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"*/10 2 * * *", paris, "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}},
		{"30 2 * * *", paris, "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"30 2 * * *", paris, "2026-10-25T00:45:00Z", []string{"2026-10-26T01:30:00Z"}},
		// As time passes.
		{"0 * * * *", paris, "2026-10-24T23:30:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"}},
		{"*/30 * * * *", paris, "2026-03-29T00:10:00Z", []string{"2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"}},
		// Half an hour: 02:00 becomes 02:30 in October.
		{"15 2 * * *", howe, "2026-10-03T00:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},
		{"45 1 * * *", howe, "2026-04-04T00:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		// A whole day that never was.
		{"0 12 * * *", apia, "2011-12-29T23:00:00Z", []string{"2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"}},
	} {
		s := &Schedule{Expr: parse(t, c.expr), Zone: zone(t, c.zone)}
		at, err := time.Parse(time.RFC3339Nano, c.after)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for range c.want {
			at = s.Next(at)
			got = append(got, at.Format(time.RFC3339))
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s in %s after %s (-want +got):\n%s", c.expr, c.zone, c.after, d)
		}
	}
	if x := (&Schedule{Expr: parse(t, "0 0 30 2 *")}).Next(time.Unix(0, 0)); !x.IsZero() {
		t.Errorf("February 30 is %s", x)
	}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 10, 7, 0, 0, time.UTC)
	s := &Schedule{Every: 15 * time.Minute}
	if n := s.Next(at); !n.Equal(at.Add(8 * time.Minute)) {
		t.Errorf("next %s", n)
	}
	s.Start = at.Add(time.Hour)
	if n := s.Next(at); !n.Equal(s.Start) {
		t.Errorf("first %s, want the start", n)
	}
	s.End = s.Start.Add(30 * time.Minute)
	if n := s.Next(s.Start.Add(15 * time.Minute)); !n.IsZero() {
		t.Errorf("fires at its end: %s", n)
	}
}

// TestNextAgainstMinutes compares Next with a walk over every minute, in zones that
// change their clocks by an hour, by half an hour, at midnight, and by a day.
func TestNextAgainstMinutes(t *testing.T) {
	t.Parallel()
	changes := []struct {
		zone string
		at   time.Time
	}{
		{"Europe/Paris", time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)}, {"Europe/Paris", time.Date(2026, 10, 25, 1, 0, 0, 0, time.UTC)},
		{"America/Sao_Paulo", time.Date(2018, 11, 4, 3, 0, 0, 0, time.UTC)}, {"America/Sao_Paulo", time.Date(2018, 2, 18, 2, 0, 0, 0, time.UTC)},
		{"Australia/Lord_Howe", time.Date(2026, 4, 4, 15, 0, 0, 0, time.UTC)}, {"Australia/Lord_Howe", time.Date(2026, 10, 3, 15, 30, 0, 0, time.UTC)},
		{"Pacific/Apia", time.Date(2011, 12, 30, 10, 0, 0, 0, time.UTC)}, {"Asia/Kolkata", time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)},
		{"America/New_York", time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)}, {"UTC", time.Date(2028, 2, 28, 12, 0, 0, 0, time.UTC)},
	}
	field := func(low, high int) *rapid.Generator[string] {
		n := rapid.IntRange(low, high)
		return rapid.OneOf(
			rapid.Just("*"),
			rapid.Map(n, func(a int) string { return fmt.Sprint(a) }),
			rapid.Map(rapid.IntRange(1, high), func(a int) string { return fmt.Sprintf("*/%d", a) }),
			rapid.Custom(func(t *rapid.T) string {
				a, b := n.Draw(t, "a"), n.Draw(t, "b")
				return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
			}),
			rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("%d,%d", n.Draw(t, "a"), n.Draw(t, "b")) }),
		)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join([]string{
			field(0, 59).Draw(t, "minute"), field(0, 23).Draw(t, "hour"),
			rapid.OneOf(rapid.Just("*"), field(1, 31), rapid.Just("L")).Draw(t, "day"), rapid.OneOf(rapid.Just("*"), field(1, 12)).Draw(t, "month"),
			rapid.OneOf(rapid.Just("*"), field(0, 6)).Draw(t, "weekday"),
		}, " ")
		c := rapid.SampledFrom(changes).Draw(t, "change")
		loc, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		begin, end := c.at.Add(-13*time.Hour), c.at.Add(26*time.Hour)
		segs, err := gronx.Segments(text)
		if err != nil {
			t.Fatal(err)
		}
		g := gronx.New()
		matches := func(w time.Time) bool {
			g.C.SetRef(w)
			due, err := g.SegmentsDue(segs)
			if err != nil {
				t.Fatal(err)
			}
			return due
		}
		flows := strings.HasPrefix(strings.Fields(text)[1], "*")
		var want []time.Time
		seen := map[time.Time]bool{}
		for at := begin.Add(-3 * time.Hour); !at.After(end); at = at.Add(time.Minute) {
			w, before := reading(at.In(loc)), reading(at.Add(-time.Minute).In(loc))
			fires := matches(w) && (flows || !seen[w])
			for x := before.Add(time.Minute); !flows && x.Before(w); x = x.Add(time.Minute) {
				fires = fires || matches(x)
			}
			seen[w] = true
			if fires && at.After(begin) {
				want = append(want, at)
			}
		}
		s := &Schedule{Expr: e, Zone: loc}
		var got []time.Time
		for at := s.Next(begin); !at.IsZero() && !at.After(end); at = s.Next(at) {
			got = append(got, at)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s in %s (-minutes +next):\n%s", text, c.zone, d)
		}

		// Due is the same seen from behind.
		keep := rapid.IntRange(1, 50).Draw(t, "keep")
		newest, all, exact := s.Due(begin.Add(1), end, keep)
		if !exact || all != len(want) {
			t.Fatalf("%d are due (exact %v), want %d", all, exact, len(want))
		}
		if d := cmp.Diff(want[max(0, len(want)-keep):], newest); d != "" && len(want) > 0 {
			t.Fatalf("newest (-want +got):\n%s", d)
		}
	})
}

func TestDueOfVeryMany(t *testing.T) {
	t.Parallel()
	to := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range []*Schedule{{Every: time.Second}, {Expr: parse(t, "* * * * * *")}} {
		newest, all, exact := s.Due(to.AddDate(-1, 0, 0), to, 1000)
		if exact || all != maxCounted || len(newest) != 1000 || !newest[999].Equal(to) || !newest[0].Equal(to.Add(-999*time.Second)) {
			t.Errorf("%d of %d (exact %v)", len(newest), all, exact)
		}
	}
}

// TestFB32 holds the expression of a published function against what it says.
func TestFB32(t *testing.T) {
	t.Parallel()
	s := &Schedule{Expr: parse(t, "0 * */10 * * *")}
	x := s.Explain(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 10)
	if x.PerDay != 180 || x.Longest != 541*time.Minute || len(x.Next) != 10 {
		t.Errorf("%d a day, gaps up to %s, %d next", x.PerDay, x.Longest, len(x.Next))
	}
	if len(x.Warnings) == 0 || !strings.Contains(x.Warnings[0].Msg, "180 times a day, with gaps up to 541 minutes") || !strings.Contains(x.Warnings[0].Hint, "*/10 * * * *") {
		t.Errorf("warnings %+v", x.Warnings)
	}
}

func TestDoubts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		expr, zone string
		want       []string
	}{
		{"0 2 * * *", "UTC", nil},
		{"*/15 9-17 * * 1-5", "Europe/Paris", nil},
		{"0 12 * * *", "Europe/Paris", nil},
		{"0 12 L * *", "Europe/Paris", nil},
		{"* 2 * * *", "UTC", []string{"60 times a day"}},
		{"*/7 * * * *", "UTC", []string{"after minute 56 comes 0 again, only 4 minutes later"}},
		{"*/90 * * * *", "UTC", []string{"stands for 0 alone"}},
		{"0 0 1 * 1", "UTC", []string{"either"}},
		{"0 0 */2 * 1", "UTC", []string{"begins anew", "both"}},
		{"0 0 30 2 *", "UTC", []string{"never fires"}},
		{"0 0 31 * *", "UTC", []string{"left out in the 5 months"}},
		{"0 0 29 2 *", "UTC", []string{"four years"}},
		{"*/10 * * * * *", "UTC", []string{"6 times in each of its minutes"}},
		{"30 2 * * *", "Europe/Paris", []string{"2026-03-29 the clock of Europe/Paris leaves out 02:30: it fires at 03:00", "2026-10-25 the clock of Europe/Paris shows 02:30 twice"}},
	} {
		s := &Schedule{Expr: parse(t, c.expr), Zone: zone(t, c.zone)}
		got := s.Doubts(now)
		ok := len(got) == len(c.want)
		for i := range c.want {
			ok = ok && strings.Contains(got[i].Msg, c.want[i])
		}
		if !ok {
			t.Errorf("%s in %s: %+v, want %q", c.expr, c.zone, got, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"0 2 * * *":          "at 02:00 every day",
		"0 * */10 * * *":     "every minute of the hours 0, 10 and 20 every day",
		"*/15 * * * *":       "every 15 minutes",
		"5 * * * *":          "at minute 5 of every hour",
		"0 0 1,15 * 5":       "at 00:00 on day 1 and day 15 of the month and also on Friday",
		"0 8 * 3 1-5":        "at 08:00 on Monday to Friday in March",
		"0 0 * * 5#2":        "at 00:00 on Friday number 2 of the month",
		"0 12 */2 * *":       "at 12:00 on every 2 days of the month",
		"10 0 12 * * 1 2027": "at 12:00:10 on Monday in 2027",
		"* * * * * *":        "every second",
	} {
		if got := parse(t, expr).words(); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 2 * * *", "0 * */10 * * *", "@daily", "0 0 L * 5#2", "1-5/2,7 * 15W JAN MON 2030"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			return
		}
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		x := &Schedule{Expr: e}
		n := x.Next(at)
		if !n.IsZero() && !n.After(at) {
			t.Errorf("%q: next %s is not after %s", s, n, at)
		}
		x.Explain(at, 2)
	})
}

func BenchmarkNext(b *testing.B) {
	s := &Schedule{Expr: parse(b, "17 * * * *"), Zone: zone(b, "Europe/Paris")}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b.ReportAllocs()
	for b.Loop() {
		at = s.Next(at)
	}
}
