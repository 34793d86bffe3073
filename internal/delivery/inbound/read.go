package inbound

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// Decode reads JSON of which only some fields are known. The error is of KindMalformed.
func Decode(body []byte, to any) error {
	if len(strings.TrimSpace(string(body))) == 0 {
		return waybill.E(waybill.KindMalformed, "the request has no body, want JSON")
	}
	err := json.Unmarshal(body, to)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return waybill.E(waybill.KindMalformed, "%s: a JSON %s is not what is expected there", or(wrong.Field, "the body"), wrong.Value)
	}
	return waybill.E(waybill.KindMalformed, "the body is not JSON: %w", err)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// First returns the first text that is not empty.
func First(all ...string) string {
	for _, s := range all {
		if s = strings.TrimSpace(s); s != "" {
			return s
		}
	}
	return ""
}

// Clip cuts a text for people at n bytes.
func Clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Time reads a time of RFC 3339, or one with a zone as "2006-01-02 15:04:05 UTC" or
// "2006-01-02 15:04:05 +0000". It is zero for anything else, also for one that no clock
// of ours shows.
func Time(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05 MST", "2006-01-02 15:04:05 -0700", "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, strings.TrimSpace(s)); err == nil && t.Year() > 1970 && t.Year() < 9999 {
			return t.UTC()
		}
	}
	return time.Time{}
}

// Cluster is the one that a request speaks of. A source that is set up for one cluster
// speaks for no other.
func Cluster(s Source, said, how string) (string, error) {
	said = strings.TrimSpace(said)
	switch {
	case said == "" && s.Cluster == "":
		return "", waybill.E(waybill.KindInvalid, "it does not say of which cluster it tells").WithHint("%s; or give the source %s of waybill.yaml a cluster", how, s.Name)
	case said == "":
		return s.Cluster, nil
	case s.Cluster != "" && !strings.EqualFold(said, s.Cluster):
		return "", waybill.E(waybill.KindInvalid, "it tells of cluster %.80q, but source %s is that of cluster %s", said, s.Name, s.Cluster)
	}
	return said, nil
}

// Hex reports whether a text is a commit: 7 to 64 hexadecimal digits.
func Hex(s string) bool {
	if len(s) < 7 || len(s) > 64 {
		return false
	}
	return strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}
