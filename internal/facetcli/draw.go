package facetcli

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/waybill-run/waybill/facet"
)

// canvas draws in columns. Colour is for terminals.
type canvas struct {
	w     io.Writer
	width int
	color bool
	tty   bool // what is longer than the screen is wide is cut off
	err   error
}

func (d Deps) canvas(w io.Writer) *canvas {
	c := &canvas{w: w, width: d.Width(w)}
	c.tty = c.width > 0
	c.color = c.width > 0 && d.Getenv("NO_COLOR") == "" && d.Getenv("TERM") != "dumb"
	if c.width == 0 {
		c.width = 80
	}
	c.width = min(max(c.width, 40), 160)
	return c
}

func (c *canvas) printf(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.w, format, args...)
	}
}

func (c *canvas) paint(style, text string) string {
	if !c.color || text == "" || style == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// Styles.
const (
	bold  = "1"
	dim   = "2"
	green = "32"
)

// facet draws a facet as bars.
func (c *canvas) facet(f facet.Facet, sum string, chosen func(facet.Value) bool) {
	shown := len(f.Terms)
	c.printf("\n%s", c.paint(bold, clean(f.Name)))
	c.printf("  %s\n", c.paint(dim, about(f)))
	type line struct {
		label, count, sum string
		n                 int
		mark, dim         bool
	}
	var lines []line
	for _, t := range f.Terms {
		l := line{label: clean(t.Value.String()), count: thousands(t.Count), n: t.Count, mark: chosen(t.Value)}
		if len(t.Sub) > 0 {
			l.sum = sumText(t.Sub[0].Sum)
		}
		lines = append(lines, l)
	}
	if f.Missing > 0 {
		l := line{label: "(none)", count: thousands(f.Missing), n: f.Missing, mark: chosen(facet.Null()), dim: true}
		if len(f.MissingSub) > 0 {
			l.sum = sumText(f.MissingSub[0].Sum)
		}
		lines = append(lines, l)
	}
	var label, count, sums, most int
	for _, l := range lines {
		label, count, sums, most = max(label, cells(l.label)), max(count, len(l.count)), max(sums, len(l.sum)), max(most, l.n)
	}
	if sum != "" && len(lines) > 0 {
		sums = max(sums, len(sum))
		if c.tty {
			label = min(label, max(12, c.width-count-sums-8))
		}
		c.printf("  %s  %s  %s\n", strings.Repeat(" ", label), strings.Repeat(" ", count), c.paint(dim, fmt.Sprintf("%*s", sums, sum)))
	}
	if c.tty {
		label = min(label, max(12, c.width/2))
	}
	room := c.width - label - count - 8
	if sums > 0 {
		room -= sums + 2
	}
	for _, l := range lines {
		mark := " "
		if l.mark {
			mark = "*"
		}
		text := pad(cut(l.label, label), label)
		if l.dim {
			text = c.paint(dim, text)
		}
		c.printf("%s %s  %*s", mark, text, count, l.count)
		if sums > 0 {
			c.printf("  %*s", sums, l.sum)
		}
		if room >= 4 {
			c.printf("  %s", c.paint(green, bar(l.n, most, min(room, 40))))
		}
		c.printf("\n")
	}
	if more := f.Distinct - shown; more > 0 {
		c.printf("  %s\n", c.paint(dim, "… and "+thousands(more)+" more"))
	}
}

// hits writes whole documents a line each, or a table of the chosen fields.
func (c *canvas) hits(hits []facet.Hit, fields []string) {
	if fields == nil {
		for _, h := range hits {
			text := clean(string(h.Source))
			if text == "" {
				text = clean(h.ID)
			}
			c.printf("%s\n", text)
		}
		return
	}
	rows := [][]string{append([]string{facet.IDField}, fields...)}
	for _, h := range hits {
		row := []string{clean(h.ID)}
		for _, name := range fields {
			values := make([]string, len(h.Fields[name]))
			for i, v := range h.Fields[name] {
				values[i] = clean(v.String())
			}
			row = append(row, strings.Join(values, ", "))
		}
		rows = append(rows, row)
	}
	for i, row := range rows {
		var b strings.Builder
		for k, text := range row {
			wide := 0
			for _, r := range rows {
				wide = max(wide, cells(r[k]))
			}
			if most := max(12, c.width/2); c.tty && wide > most {
				wide = most
			}
			if k == len(row)-1 {
				b.WriteString(text)
				break
			}
			b.WriteString(pad(cut(text, wide), wide) + "  ")
		}
		style := ""
		if i == 0 {
			style = dim
		}
		c.printf("%s\n", c.paint(style, strings.TrimRight(b.String(), " ")))
	}
}

func about(f facet.Facet) string {
	s := plural(f.Distinct, "value", "values") + " in " + plural(f.Total, "document", "documents")
	if f.Total == 0 {
		s = "no documents"
	}
	return s
}

func sumText(v facet.Value) string {
	switch v.Kind() {
	case facet.KindInt:
		return thousands(v.Int64())
	case facet.KindNull:
		return "-"
	}
	return v.String()
}

// bar draws n of most as a bar of at most room columns, to an eighth of one. What is
// not zero can be seen.
func bar(n, most, room int) string {
	if n == 0 || most == 0 {
		return ""
	}
	eighths := max(1, n*room*8/most)
	s := strings.Repeat("█", eighths/8)
	if r := eighths % 8; r > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[r-1])
	}
	return s
}

// clean makes text safe to show.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '·'
		}
		return r
	}, s)
}

// cells is about how many columns a text takes.
func cells(s string) int {
	n := 0
	for _, r := range s {
		n += cell(r)
	}
	return n
}

func cell(r rune) int {
	switch {
	case unicode.Is(unicode.Mn, r):
		return 0
	case r >= 0x1100 && (r <= 0x115f || r >= 0x2e80 && r <= 0xa4cf || r >= 0xac00 && r <= 0xd7a3 || r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f || r >= 0xff00 && r <= 0xff60 || r >= 0x1f300 && r <= 0x1faff):
		return 2
	}
	return 1
}

func cut(s string, width int) string {
	if cells(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += cell(r); n > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-cells(s))) }
