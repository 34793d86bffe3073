package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
)

// Limits of what a unit returns.
const (
	MaxReturned  = 1 << 20 // bytes of an output file or a callback
	maxReturned  = 10_000  // names
	maxJSONDepth = 64
)

// readReturned reads at most MaxReturned bytes of UTF-8.
func readReturned(r io.Reader, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxReturned+1))
	switch {
	case err != nil:
		return nil, waybill.E(waybill.KindMalformed, "%s cannot be read: %w", what, err)
	case len(b) > MaxReturned:
		return nil, waybill.E(waybill.KindTooLarge, "%s is larger than %d bytes (1 MiB)", what, MaxReturned)
	}
	if i := invalidUTF8(b); i >= 0 {
		return nil, waybill.E(waybill.KindInvalid, "%s is not UTF-8 text (line %d)", what, 1+bytes.Count(b[:i], []byte("\n")))
	}
	return b, nil
}

func invalidUTF8(b []byte) int {
	if utf8.Valid(b) {
		return -1
	}
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// ParseOutputs reads the file a unit leaves its variables in: lines NAME=value,
// whose value is text up to the end of the line, or lines with a JSON object,
// whose values keep their types. A later line wins. Errors name the line; they
// are of KindTooLarge over 1 MiB, KindMalformed when r fails, else KindInvalid.
func ParseOutputs(r io.Reader) (waybill.Vars, error) {
	var out waybill.Vars
	b, err := readReturned(r, "the output file")
	if err != nil {
		return out, err
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	for n := 1; len(b) > 0; n++ {
		line, rest, _ := bytes.Cut(b, []byte("\n"))
		b = rest
		line = bytes.TrimSuffix(line, []byte("\r"))
		trimmed := bytes.TrimSpace(line)
		if len(trimmed) == 0 {
			continue
		}
		fail := func(format string, args ...any) (waybill.Vars, error) {
			e := waybill.E(waybill.KindInvalid, format, args...)
			return waybill.Vars{}, e.WithOp("the output file", fmt.Sprintf("line %d", n))
		}
		if trimmed[0] == '{' {
			j := jsonScan{b: trimmed}
			if err := j.object(); err != nil {
				return fail("%w", err)
			}
			// No prefix: every name is one. Names of one object that differ only in case
			// contradict each other.
			vars, err := collect(j.top, "")
			if err != nil {
				return fail("%w", err)
			}
			out.Merge(vars)
		} else {
			name, value, ok := strings.Cut(string(line), "=")
			if !ok {
				return fail("want NAME=value or a JSON object, found %s", clip(string(line)))
			}
			if err := waybill.CheckName(name); err != nil {
				return fail("%w", err)
			}
			out.Set(name, waybill.StringValue(value))
		}
		if out.Len() > maxReturned {
			return fail("more than %d names", maxReturned)
		}
	}
	return out, nil
}

// Callback is what a unit reports about its end.
type Callback struct {
	Status    string // "succeeded", "failed", or "" for succeeded
	Variables waybill.Vars
	Error     string // short code of a failure
	Message   string // for people
}

// DecodeCallback reads the body of a callback for a pipeline with the default
// prefix, see [Plan.DecodeCallback].
func DecodeCallback(r io.Reader, contentType string) (Callback, error) {
	return decodeCallback(r, contentType, DefaultPrefix)
}

// DecodeCallback reads the body of a callback: a JSON object with status,
// variables, error and message, or the classic form, a JSON object of which any
// key begins with the prefix; then those keys are the variables and all others
// are ignored. A form works like the classic one, with text values. No content
// type means JSON, an empty body a success without variables. It takes a few
// milliseconds whatever the body is. Errors are of KindTooLarge over 1 MiB,
// KindMalformed when r fails, else KindInvalid.
func (p *Plan) DecodeCallback(r io.Reader, contentType string) (Callback, error) {
	return decodeCallback(r, contentType, p.Prefix)
}

func decodeCallback(r io.Reader, contentType, prefix string) (Callback, error) {
	c, err := callback(r, contentType, prefix)
	if e, ok := err.(*waybill.Error); ok {
		return Callback{}, e.WithOp("callback", "")
	}
	return c, err
}

func callback(r io.Reader, contentType, prefix string) (Callback, error) {
	b, err := readReturned(r, "the body")
	if err != nil {
		return Callback{}, err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return Callback{}, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		media = strings.ToLower(strings.TrimSpace(strings.SplitN(contentType, ";", 2)[0]))
	}
	var members []member
	j := jsonScan{b: b}
	switch {
	case media == "application/x-www-form-urlencoded" && b[0] != '{':
		// curl -d calls everything a form, so an object is read as JSON.
		members, err = form(string(b))
	case media == "", media == "application/json", strings.HasSuffix(media, "+json"), media == "text/json",
		media == "text/plain", media == "application/octet-stream", media == "application/x-www-form-urlencoded":
		err = j.object()
		members = j.top
	default:
		err = waybill.E(waybill.KindInvalid, "content type %s: want application/json or application/x-www-form-urlencoded", clip(media))
	}
	if err != nil {
		return Callback{}, err
	}
	var c Callback
	for _, m := range members {
		if hasPrefix(m.key, prefix) {
			c.Variables, err = collect(members, prefix)
			return c, err
		}
	}
	for _, m := range members {
		switch m.key {
		case "status":
			c.Status, err = m.text()
		case "error":
			c.Error, err = m.text()
		case "message":
			c.Message, err = m.text()
		case "variables":
			switch {
			case string(m.raw) == "null":
			case m.raw[0] != '{':
				err = waybill.E(waybill.KindInvalid, "variables: want an object")
			default:
				c.Variables, err = collect(j.vars, "")
			}
		default:
			e := waybill.E(waybill.KindInvalid, "unknown key %s: want status, variables, error, message, or names that begin with %s", clip(m.key), prefix)
			err = e
		}
		if err != nil {
			return Callback{}, err
		}
	}
	ends := []string{string(waybill.StatusSucceeded), string(waybill.StatusFailed)}
	if c.Status != "" && !slices.Contains(ends, c.Status) {
		return Callback{}, waybill.E(waybill.KindInvalid, "status %s: want succeeded or failed", clip(c.Status))
	}
	return c, nil
}

// collect returns the members that begin with the prefix.
func collect(members []member, prefix string) (waybill.Vars, error) {
	var v waybill.Vars
	for _, m := range members {
		if !hasPrefix(m.key, prefix) {
			continue
		}
		if err := waybill.CheckName(m.key); err != nil {
			return waybill.Vars{}, err
		}
		if _, dup := v.Get(m.key); dup {
			return waybill.Vars{}, waybill.E(waybill.KindInvalid, "variable %s is given twice, in different case", m.key)
		}
		v.Set(m.key, m.value())
	}
	return v, nil
}

func form(s string) ([]member, error) {
	if n := strings.Count(s, "&"); n > maxReturned {
		return nil, waybill.E(waybill.KindInvalid, "more than %d names", maxReturned)
	}
	seen := map[string]bool{}
	var out []member
	for _, pair := range strings.Split(s, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(k)
		if err == nil {
			v, err = url.QueryUnescape(v)
		}
		if err != nil || !utf8.ValidString(key) || !utf8.ValidString(v) {
			return nil, waybill.E(waybill.KindInvalid, "not a well-formed form")
		}
		if seen[key] {
			return nil, waybill.E(waybill.KindInvalid, "key %s is given twice", clip(key))
		}
		seen[key] = true
		out = append(out, member{key: key, raw: waybill.StringValue(v)})
	}
	return out, nil
}

// member is a key of a JSON object with its value.
type member struct {
	key   string
	raw   []byte
	loose bool // raw may hold white space between its parts
}

// value returns a copy of the member's value without white space.
func (m member) value() waybill.Value {
	if !m.loose {
		return waybill.Value(bytes.Clone(m.raw))
	}
	var b bytes.Buffer
	b.Grow(len(m.raw))
	if json.Compact(&b, m.raw) != nil {
		return waybill.Value(bytes.Clone(m.raw))
	}
	return b.Bytes()
}

func (m member) text() (string, error) {
	if string(m.raw) == "null" {
		return "", nil
	}
	if m.raw[0] != '"' {
		return "", waybill.E(waybill.KindInvalid, "%s: want text", m.key)
	}
	return waybill.Value(m.raw).Text(), nil
}
