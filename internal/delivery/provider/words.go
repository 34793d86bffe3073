package provider

import (
	"errors"
	"strings"

	"github.com/waybill-run/waybill"
)

// Cut is a text of at most n bytes.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// NoCommit reports whether a provider says with an error that a commit does not exist:
// some call the question invalid.
func NoCommit(err error) bool {
	var e *waybill.Error
	return errors.As(err, &e) && e.Kind == waybill.KindInvalid && strings.Contains(e.Msg, "(422")
}

// CheckNumber refuses what is no number of a pull request: whoever reports writes these,
// and they become part of a path.
func CheckNumber(id string) error {
	if !number(id) {
		return waybill.E(waybill.KindNotFound, "%.60q is no number of a pull request", id)
	}
	return nil
}

// IsCommit reports whether a text is the id of a commit, whole or cut to seven digits or
// more.
func IsCommit(s string) bool {
	if len(s) < 7 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
