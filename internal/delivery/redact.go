package delivery

import (
	"net/url"
	"regexp"
	"strings"
)

// What is reported is shown to everybody who may read. So what looks like a credential
// is never stored: in URLs the user, and the values of parameters that are named like
// one; in text what follows such a name, and tokens whose makers have given them a form.

const hidden = "***"

var (
	secretName  = regexp.MustCompile(`(?i)(token|secret|passw(or)?d|pwd|apikey|api_key|access_?key|^key$|^sig$|signature|credential|^auth$|^code$)`)
	urlUser     = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s]+@`)
	afterName   = regexp.MustCompile(`(?i)\b((?:[a-z0-9]+[_-])*(?:token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key|account[_-]?key|sharedaccesskey|accountkey))("?\s*[=:]\s*"?)([^\s"&;,]+)`)
	afterScheme = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}`)
	formed      = regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{12,}|wbt_[A-Za-z0-9_-]{8,}|xox[a-z]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)`)
)

// plainText is text without credentials.
func plainText(s string) string {
	if s == "" {
		return s
	}
	s = urlUser.ReplaceAllString(s, "$1")
	s = afterScheme.ReplaceAllString(s, "$1 "+hidden)
	s = afterName.ReplaceAllString(s, "$1$2"+hidden)
	return formed.ReplaceAllString(s, hidden)
}

// plainURL is an address without credentials. What is no address is taken for text.
func plainURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return plainText(s)
	}
	if u.User != nil {
		u.User = nil
		s = u.String()
	}
	if u.RawQuery == "" {
		return s
	}
	// As it is written but for the values: others may be in an order that means something.
	parts := strings.Split(u.RawQuery, "&")
	changed := false
	for i, p := range parts {
		name, value, ok := strings.Cut(p, "=")
		if plain, err := url.QueryUnescape(name); err == nil && ok && value != "" && value != hidden && secretName.MatchString(plain) {
			parts[i], changed = name+"="+hidden, true
		}
	}
	if changed {
		u.RawQuery = strings.Join(parts, "&")
		return u.String()
	}
	return s
}
