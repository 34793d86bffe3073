package facet

import (
	"strings"
	"unicode"
)

// Words returns the words of s as Prefix filters on a field with Words see them:
// its longest runs of letters, marks and digits, each in lower case, in order, with repetitions.
func Words(s string) []string {
	words := strings.FieldsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
	for i, w := range words {
		words[i] = strings.ToLower(w)
	}
	return words
}
