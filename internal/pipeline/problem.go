package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// Problem is one mistake in a definition.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0 when the mistake has no place
	Column int    `json:"column"` // from 1, in characters
	Msg    string `json:"message"`
	Hint   string `json:"hint,omitempty"` // what to do about it, if that is known
}

// String returns "file:line:col: message (hint)", without what is not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(p.Msg)
	if p.Hint != "" {
		fmt.Fprintf(&b, " (%s)", p.Hint)
	}
	return b.String()
}

// Problems are the mistakes of one or more definitions, in the order of file,
// line and column. It is an error of [waybill.KindInvalid]: errors.As finds the
// *waybill.Error in it.
type Problems []Problem

// Error lists the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// Invalid returns the problems as the error that crosses package borders.
func (p Problems) Invalid() *waybill.Error {
	return &waybill.Error{Kind: waybill.KindInvalid, Msg: p.Error()}
}

// As lets errors.As take the problems for a *waybill.Error.
func (p Problems) As(target any) bool {
	t, ok := target.(**waybill.Error)
	if ok {
		*t = p.Invalid()
	}
	return ok
}

// maxProblems is how many problems of one file are kept: enough to work from,
// and a bound on what a hostile file costs.
const maxProblems = 200

// report collects the problems of one file.
type report struct {
	file    string
	list    Problems
	dropped int
	// warnings are what is allowed and probably not meant.
	warnings Problems
}

// full reports that further problems are only counted, so that the work to say
// more about them can be saved.
func (r *report) full() bool { return len(r.list) >= maxProblems }

func (r *report) add(at place, hint, format string, args ...any) {
	if r.full() {
		r.dropped++
		return
	}
	r.list = append(r.list, Problem{File: r.file, Line: at.line, Column: at.col, Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// warn notes what is allowed and probably not meant.
func (r *report) warn(at place, hint, format string, args ...any) {
	if len(r.warnings) < maxProblems {
		r.warnings = append(r.warnings, Problem{File: r.file, Line: at.line, Column: at.col, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
}

// err returns the sorted problems, or nil when there are none.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	slices.SortStableFunc(r.list, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	r.list = slices.Compact(r.list)
	if r.dropped > 0 {
		r.list = append(r.list, Problem{File: r.file, Msg: fmt.Sprintf("%d more problems are not shown", r.dropped)})
	}
	return r.list
}

// nearest returns the name most like the wrong one, if any is near enough to be
// what was meant. Case does not count.
func nearest(wrong string, names []string) string {
	if len(wrong) > 64 {
		return ""
	}
	w := strings.ToLower(wrong)
	best, bestDist := "", max(1, len(w)/3)+1
	for _, n := range names {
		if len(n) > 64 {
			continue
		}
		if d := distance(w, strings.ToLower(n)); d < bestDist {
			best, bestDist = n, d
		}
	}
	return best
}

// didYouMean is the hint for a wrong name.
func didYouMean(wrong string, names []string) string {
	if n := nearest(wrong, names); n != "" {
		return "did you mean " + n + "?"
	}
	return ""
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
