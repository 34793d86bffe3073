package loadtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Figure is one measured value.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// AtMost and AtLeast are the bar; at most one of them is set.
	AtMost  *float64 `json:"at_most,omitempty"`
	AtLeast *float64 `json:"at_least,omitempty"`
	OK      *bool    `json:"ok,omitempty"` // nil without a bar
	Note    string   `json:"note,omitempty"`
	// Rounds are the values of each round when there was more than one; Value is their median.
	Rounds []float64 `json:"rounds,omitempty"`
}

func (f *Figure) judge() {
	switch {
	case f.AtMost != nil:
		ok := f.Value <= *f.AtMost
		f.OK = &ok
	case f.AtLeast != nil:
		ok := f.Value >= *f.AtLeast
		f.OK = &ok
	}
}

// bar is what a figure has to meet; the zero value is none.
type bar struct{ most, least *float64 }

func atMost(v float64) bar  { return bar{most: &v} }
func atLeast(v float64) bar { return bar{least: &v} }

// sheet takes the figures of one round, in the order in which they are shown.
type sheet struct{ figures []Figure }

func (s *sheet) add(name string, value float64, unit string, b bar, note string, args ...any) {
	s.figures = append(s.figures, Figure{
		Name: name, Value: value, Unit: unit, AtMost: b.most, AtLeast: b.least, Note: fmt.Sprintf(note, args...),
	})
}

// Report is what was measured where.
type Report struct {
	Version string    `json:"version"`
	Go      string    `json:"go"`
	System  string    `json:"system"`
	CPU     string    `json:"cpu,omitempty"`
	CPUs    int       `json:"cpus"`
	Store   string    `json:"store"`
	At      time.Time `json:"at"`
	Took    float64   `json:"took_seconds"`
	// Load is the load average of the machine over a minute before and after.
	LoadBefore float64  `json:"load_before"`
	LoadAfter  float64  `json:"load_after"`
	Rounds     int      `json:"rounds"`
	Figures    []Figure `json:"figures"`
}

func newReport(o *options) *Report {
	r := &Report{
		Version: o.Version, Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(),
		Store: "sqlite", At: time.Now().UTC().Truncate(time.Second), LoadBefore: loadAverage(),
	}
	if isPostgres(o.where) {
		r.Store = "postgres" // not the URL: it may hold a password
	}
	return r
}

// finish joins the rounds, by the names of their figures.
func (r *Report) finish(sheets []*sheet) {
	r.Took, r.LoadAfter, r.Rounds = time.Since(r.At).Seconds(), loadAverage(), len(sheets)
	for _, f := range sheets[0].figures {
		var same []Figure
		for _, s := range sheets {
			if i := slices.IndexFunc(s.figures, func(g Figure) bool { return g.Name == f.Name }); i >= 0 {
				same = append(same, s.figures[i])
				f.Rounds = append(f.Rounds, s.figures[i].Value)
			}
		}
		f.Value = median(f.Rounds)
		// What the note tells belongs to one round: the one nearest to the median.
		f.Note = slices.MinFunc(same, func(a, b Figure) int {
			return cmp.Compare(math.Abs(a.Value-f.Value), math.Abs(b.Value-f.Value))
		}).Note
		if len(sheets) == 1 {
			f.Rounds = nil
		}
		f.judge()
		r.Figures = append(r.Figures, f)
	}
}

func (r *Report) missed() []string {
	var names []string
	for _, f := range r.Figures {
		if f.OK != nil && !*f.OK {
			names = append(names, f.Name)
		}
	}
	return names
}

func (r *Report) bars() int {
	n := 0
	for _, f := range r.Figures {
		if f.OK != nil {
			n++
		}
	}
	return n
}

func (r *Report) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "waybill %s, %s, %s, %d × %s, store %s, load average %.1f before and %.1f after, took %.0f s\n\n",
		r.Version, r.Go, r.System, r.CPUs, or(r.CPU, "processor"), r.Store, r.LoadBefore, r.LoadAfter, r.Took)
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tVALUE\tBAR\tOK\tNOTE")
	for _, f := range r.Figures {
		limit, verdict := "-", "-"
		switch {
		case f.AtMost != nil:
			limit = "≤ " + number(*f.AtMost)
		case f.AtLeast != nil:
			limit = "≥ " + number(*f.AtLeast)
		}
		if f.OK != nil {
			verdict = "ok"
			if !*f.OK {
				verdict = "MISSED"
			}
		}
		note := f.Note
		if len(f.Rounds) > 0 {
			note = strings.TrimSpace(fmt.Sprintf("%s–%s %s", number(slices.Min(f.Rounds)), number(slices.Max(f.Rounds)), note))
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, limit, verdict, note)
	}
	_ = t.Flush() // a Builder takes everything
	_, err := io.WriteString(w, b.String())
	return err
}

// number shows three digits that count, and all of a larger number.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func or(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// times are durations measured one by one.
type times []time.Duration

// at returns the q-th quantile in milliseconds: the smallest value that at least
// that share of the values does not exceed.
func (t times) at(q float64) float64 {
	if len(t) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(t))
	i := int(math.Ceil(q*float64(len(s)))) - 1
	return ms(s[min(max(i, 0), len(s)-1)])
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// loadAverage is that of the last minute, 0 where it is not known.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return v
}

// cpuModel is the name of the processor, empty where it is not known.
func cpuModel() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
