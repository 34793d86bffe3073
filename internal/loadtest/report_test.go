package loadtest

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func TestQuantilesAreMeasuredValues(t *testing.T) {
	t.Parallel()
	var v times
	for i := 100; i > 0; i-- {
		v = append(v, time.Duration(i)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0: 1, .5: 50, .99: 99, 1: 100} {
		if got := v.at(q); got != want {
			t.Errorf("quantile %v of 1 to 100 ms is %v ms, want %v", q, got, want)
		}
	}
	if got := (times{3 * time.Millisecond}).at(.99); got != 3 {
		t.Errorf("p99 of one value is %v, want the value", got)
	}
	if got := (times)(nil).at(.5); !math.IsNaN(got) {
		t.Errorf("p50 of nothing is %v, want none", got)
	}
}

// A bar is held against the median of all rounds, not against a lucky one.
func TestRoundsAreJudgedByTheirMedian(t *testing.T) {
	t.Parallel()
	r := newReport(&options{where: "postgres://somebody:password@db/x"})
	var sheets []*sheet
	for _, v := range []float64{12, 8, 11} {
		s := &sheet{}
		s.add("start", v, "ms", atMost(10), "")
		s.add("rate", 300+v, "/s", atLeast(250), "with %d clients", 8)
		s.add("bare", v, "ms", bar{}, "")
		sheets = append(sheets, s)
	}
	r.finish(sheets)
	if got := strings.Join(r.missed(), " "); got != "start" {
		t.Errorf("missed %q, want only the start", got)
	}
	if r.bars() != 2 {
		t.Errorf("%d bars, want 2", r.bars())
	}
	var text, raw strings.Builder
	if err := r.print(&text, "text"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"11 ms ≤ 10 MISSED 8–12", "311 /s ≥ 250 ok 308–312 with 8 clients", "store postgres"} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), want) {
			t.Errorf("the report lacks %q:\n%s", want, text.String())
		}
	}
	if err := r.print(&raw, "json"); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal([]byte(raw.String()), &back); err != nil {
		t.Fatal(err)
	}
	if f := back.Figures[0]; f.Value != 11 || f.OK == nil || *f.OK || len(f.Rounds) != 3 || back.Figures[2].OK != nil {
		t.Errorf("the JSON report says %+v", back.Figures)
	}
	if strings.Contains(text.String()+raw.String(), "password") {
		t.Error("the report tells the store's password")
	}
}
