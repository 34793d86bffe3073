package container

import (
	"regexp"
	"sync"
)

// Pattern is a regular expression that is compiled when it is first asked: every start of
// the program would pay for those of platforms that it does not use, in time and memory.
type Pattern func() *regexp.Regexp

// NewPattern returns a pattern. A wrong expression panics when it is first asked.
func NewPattern(expr string) Pattern {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// MatchString is that of regexp.Regexp.
func (p Pattern) MatchString(s string) bool { return p().MatchString(s) }

// FindStringSubmatch is that of regexp.Regexp.
func (p Pattern) FindStringSubmatch(s string) []string { return p().FindStringSubmatch(s) }
