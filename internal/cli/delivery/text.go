package delivery

import (
	"strconv"
	"strings"
	"unicode"
)

// clean makes text safe to show: control characters and what would reorder the line are
// written as escapes.
func clean(s string) string {
	if !strings.ContainsFunc(s, unsafe) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafe(r) {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unsafe(r rune) bool { return !unicode.IsPrint(r) && r != ' ' || r == unicode.ReplacementChar }
