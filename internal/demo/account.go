package demo

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// account writes what happens, in columns. Colours are for terminals only.
type account struct {
	w     io.Writer
	begun time.Time
	color bool
}

func newAccount(w io.Writer) *account {
	f, ok := w.(*os.File)
	return &account{w: w, begun: time.Now(), color: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

const (
	bold = "1"
	dim  = "2"
	red  = "31"
)

func (a *account) paint(style, text string) string {
	if !a.color || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// line writes a line. That nobody reads any more is no reason to end the server.
func (a *account) line(format string, args ...any) { fmt.Fprintf(a.w, format+"\n", args...) }

func (a *account) title(format string, args ...any) {
	a.line("\n%s\n", a.paint(bold, fmt.Sprintf(format, args...)))
}

func (a *account) text(format string, args ...any) { a.line("\n"+format, args...) }

// facts writes pairs of a name and a value.
func (a *account) facts(pairs ...string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		a.line("  %s %s", a.paint(dim, fmt.Sprintf("%-8s", pairs[i])), pairs[i+1])
	}
}

// event writes what happened, to what, and a figure.
func (a *account) event(what, name, format string, args ...any) {
	a.line("  %s  %-8s %-17s %s", a.time(), what, name, fmt.Sprintf(format, args...))
}

func (a *account) failed(what, name, why string) {
	a.line("  %s  %s %-17s %s", a.time(), a.paint(red, fmt.Sprintf("%-8s", what)), name, a.paint(red, printable(why)))
}

// time is how long it was since the beginning.
func (a *account) time() string {
	return a.paint(dim, fmt.Sprintf("%5.1fs", time.Since(a.begun).Seconds()))
}

func (a *account) quote(text string) {
	a.line("%s", strings.TrimRight("  "+a.paint(dim, "|")+" "+printable(text), " "))
}

func (a *account) commands(all ...string) {
	for _, c := range all {
		a.line("  %s", c)
	}
}

// printable leaves out what a terminal would act upon.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// quote writes a word so that a shell reads it as one.
func quote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+,:@%=", r)
	}
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func count(n int64) string { return thousands(strconv.FormatInt(n, 10)) }

// thousands sets the thousands of a decimal number apart: 1203442.1 is
// 1,203,442.10. What is no number stays as it is.
func thousands(s string) string {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return s
	}
	text, sign := strconv.FormatFloat(f, 'f', 0, 64), ""
	if strings.ContainsAny(s, ".eE") {
		text = strconv.FormatFloat(f, 'f', 2, 64)
	}
	if rest, negative := strings.CutPrefix(text, "-"); negative {
		text, sign = rest, "-"
	}
	whole, rest, point := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + rest
	}
	return sign + whole
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", (n+512)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
