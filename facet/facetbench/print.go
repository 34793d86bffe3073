package facetbench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Print writes reports as tables and returns how many bars were missed. Recorded ones
// of the same numbers of documents are compared with, if there are any.
func Print(w io.Writer, reports, recorded []Report) (missed int) {
	p := printer{w: w}
	for _, r := range reports {
		var old *Report
		if i := slices.IndexFunc(recorded, func(o Report) bool { return o.Docs == r.Docs }); i >= 0 {
			old = &recorded[i]
		}
		p.report(&r, old)
	}
	p.growth(reports)
	return p.missed
}

type printer struct {
	w      io.Writer
	missed int
}

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

// bar marks a figure that is over its bar.
func (p *printer) bar(got, most time.Duration) string {
	if most == 0 {
		return ""
	}
	if got > most {
		p.missed++
		return fmt.Sprintf("≤ %s MISSED", short(most))
	}
	return "≤ " + short(most)
}

func (p *printer) report(r, old *Report) {
	p.printf("\n%d documents; %d answers checked\n\n", r.Docs, r.Checked)
	p.printf("%-14s %5s %9s %9s %9s %9s  %-18s %-18s %9s %9s\n", "class", "n", "p50", "p99", "CPU p50", "CPU p99", "bar p50", "bar p99", "Lucene", "recorded")
	for _, c := range Classes {
		f := r.Classes[c]
		b := Bars(c, r.Docs)
		lucene, was := "-", "-"
		if r.Lucene != nil && f.CPUMean > 0 {
			ratio := float64(r.Lucene.Classes[c].CPUMean) / float64(f.CPUMean)
			lucene = fmt.Sprintf("%.1f×", ratio)
			if ratio < LuceneBar(c) {
				p.missed++
				lucene += " MISSED"
			}
		}
		if old != nil && old.Classes[c].CPUMean > 0 {
			was = fmt.Sprintf("%.2f×", float64(f.CPUMean)/float64(old.Classes[c].CPUMean))
		}
		p.printf("%-14s %5d %9s %9s %9s %9s  %-18s %-18s %9s %9s\n", c, f.N, short(f.P50), short(f.P99), short(f.CPUP50), short(f.CPUP99),
			p.bar(f.P50, b.P50), p.bar(f.P99, b.P99), lucene, was)
	}
	million := r.Docs == 1_000_000
	bars := func(p50, p99 time.Duration) Bar {
		if !million {
			return Bar{}
		}
		return Bar{p50, p99}
	}
	line := func(name string, f Figures, b Bar, lucene *Figures, was *Figures) {
		l, o := "-", "-"
		if lucene != nil && f.CPUMean > 0 {
			l = fmt.Sprintf("%.1f×", float64(lucene.CPUMean)/float64(f.CPUMean))
		}
		if was != nil && was.CPUMean > 0 {
			o = fmt.Sprintf("%.2f×", float64(f.CPUMean)/float64(was.CPUMean))
		}
		p.printf("%-14s %5d %9s %9s %9s %9s  %-18s %-18s %9s %9s\n", name, f.N, short(f.P50), short(f.P99), short(f.CPUP50), short(f.CPUP99),
			p.bar(f.P50, b.P50), p.bar(f.P99, b.P99), l, o)
	}
	var lu, ou, oa, oo *Figures
	if r.Lucene != nil {
		lu = &r.Lucene.Update
	}
	if old != nil {
		ou, oa, oo = &old.Update, &old.Apply, &old.Open
	}
	line("1,000 updates", r.Apply, bars(15*time.Millisecond, 50*time.Millisecond), nil, oa)
	line("- from JSON", r.Update, Bar{}, lu, ou)
	line("open, warm", r.Open, bars(50*time.Millisecond, 0), nil, oo)
	p.printf("\nindex %.0f B a document%s, documents %.0f B", r.IndexBytes, p.over(r.IndexBytes, 280, million), r.DocBytes)
	if r.Lucene != nil {
		p.printf("; Lucene's index %.0f B", r.Lucene.Bytes)
	}
	if b := r.Build; b.Wall > 0 {
		p.printf("\nbuilt from JSON in %s%s, CPU %s, memory %s MiB%s (%s MiB with mapped files)", short(b.Wall), p.over(b.Wall.Seconds(), 40, million), short(b.CPU),
			mib(b.Memory), p.over(float64(b.Memory)/(1<<30), 1.5, million), mib(b.RSS))
	}
	if r.Lucene != nil {
		p.printf("\nLucene built in %s, CPU %s", short(r.Lucene.Build.Wall), short(r.Lucene.Build.CPU))
	}
	p.printf("\nLucene: CPU of Lucene's mean query over ours, %s×3 or more; recorded: CPU of ours now over then\nupdates: until they are durable and visible, of documents as Apply takes them; the bar is on these\n", "of keyword facets and pages ")
}

func (p *printer) over(got, most float64, matters bool) string {
	if !matters || got <= most {
		return ""
	}
	p.missed++
	return fmt.Sprintf(" (≤ %g MISSED)", most)
}

// growth compares the costs at different numbers of documents.
func (p *printer) growth(reports []Report) {
	for i := 1; i < len(reports); i++ {
		a, b := &reports[i-1], &reports[i]
		by := float64(b.Docs) / float64(a.Docs)
		p.printf("\nfrom %d to %d documents (%.3g×), CPU of the mean query grows by", a.Docs, b.Docs, by)
		for _, c := range Classes {
			if a.Classes[c].CPUMean > 0 {
				p.printf("  %s %.1f×", c, float64(b.Classes[c].CPUMean)/float64(a.Classes[c].CPUMean))
			}
		}
		p.printf("\n")
	}
}

func mib(n int64) string { return fmt.Sprintf("%.0f", float64(n)/(1<<20)) }

// short writes a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.3gs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3gms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%dµs", d.Microseconds())
}

// Plot draws the CPU time of the mean query of each class over the number of
// documents, both logarithmic, as SVG. A line of the slope of the grid's diagonal is
// linear growth.
func Plot(reports []Report) []byte {
	const left, top, width, height = 70, 30, 560, 420
	var b strings.Builder
	least, most := math.Inf(1), math.Inf(-1)
	x0, x1 := math.Inf(1), math.Inf(-1)
	for _, r := range reports {
		x0, x1 = min(x0, math.Log10(float64(r.Docs))), max(x1, math.Log10(float64(r.Docs)))
		for _, f := range r.Classes {
			if f.CPUMean > 0 {
				v := math.Log10(float64(f.CPUMean) / 1e6)
				least, most = min(least, v), max(most, v)
			}
		}
	}
	least, most = math.Floor(least), math.Ceil(most)
	if x1 <= x0 {
		x1 = x0 + 1
	}
	px := func(docs int) float64 { return left + (math.Log10(float64(docs))-x0)/(x1-x0)*width }
	py := func(v float64) float64 { return top + height - (v-least)/max(most-least, 1)*height }
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", left+width+130, top+height+50)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for v := least; v <= most; v++ {
		fmt.Fprintf(&b, `<path d="M%d %.1fh%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g ms</text>`+"\n", left, py(v), width, left-6, py(v)+4, math.Pow(10, v))
	}
	for _, r := range reports {
		fmt.Fprintf(&b, `<path d="M%.1f %dv%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", px(r.Docs), top, height, px(r.Docs), top+height+18, r.Docs)
	}
	colors := []string{"#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#c77d0a", "#444444", "#00a0a0", "#b5179e", "#7a9e00", "#a05a2c"}
	ends := []float64{}
	for i, c := range Classes {
		var points []string
		y := 0.0
		for _, r := range reports {
			if f := r.Classes[c]; f.CPUMean > 0 {
				y = py(math.Log10(float64(f.CPUMean) / 1e6))
				points = append(points, fmt.Sprintf("%.1f,%.1f", px(r.Docs), y))
			}
		}
		if len(points) == 0 {
			continue
		}
		for slices.ContainsFunc(ends, func(e float64) bool { return math.Abs(e-y) < 13 }) {
			y += 2
		}
		ends = append(ends, y)
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%d" y="%.1f" fill="%s">%s</text>`+"\n", strings.Join(points, " "), colors[i%len(colors)], left+width+8, y+4, colors[i%len(colors)], c)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">documents</text><text x="%d" y="18">processor time of the mean query</text>`+"\n</svg>\n", left+width/2, top+height+40, left)
	return []byte(b.String())
}
