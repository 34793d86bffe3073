package delivery

import (
	"net/url"
	"strings"
)

// minPrefix is how many digits two commits must share at least to be the same when one
// of them is cut short.
const minPrefix = 7

// fold is the form in which references are compared.
func fold(s string) string {
	return strings.ToLower(strings.TrimSpace(strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")))
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// short is the part of a commit that all its spellings share: its first seven digits,
// or all of it where it is no digest.
func short(commit string) string {
	c := fold(commit)
	if len(c) > minPrefix && isHex(c) {
		return c[:minPrefix]
	}
	return c
}

// sameCommit reports whether two spellings can be of one commit.
func sameCommit(a, b string) bool {
	a, b = fold(a), fold(b)
	if a == b {
		return a != ""
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	return len(a) >= minPrefix && isHex(a) && isHex(b) && strings.HasPrefix(b, a)
}

// foldRepo is the form in which repositories are compared: host and path without
// scheme, credentials, port, ".git" and the address form of SSH.
func foldRepo(s string) string {
	s = fold(s)
	if s == "" {
		return ""
	}
	if !strings.Contains(s, "://") {
		// user@host:path
		if at, colon := strings.Index(s, "@"), strings.Index(s, ":"); at >= 0 && colon > at && !strings.Contains(s[:colon], "/") {
			s = s[:colon] + "/" + s[colon+1:]
		}
		s = "ssh://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	p := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	return strings.Trim(u.Hostname()+"/"+p, "/")
}

// plainRepo is a repository as it is shown: without credentials.
func plainRepo(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.Index(s, "://"); i >= 0 {
		rest := s[i+3:]
		host, path, _ := strings.Cut(rest, "/")
		if at := strings.LastIndex(host, "@"); at >= 0 {
			s = s[:i+3] + host[at+1:]
			if path != "" || strings.HasSuffix(rest, "/") {
				s += "/" + path
			}
		}
	}
	return s
}

// fits reports whether two values can be of one thing: equal, or one is not known.
func fits(a, b string) bool { return a == "" || b == "" || a == b }
