package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of what is looked for, in bytes. Anything shorter would mask text that only
// happens to look alike.
const (
	// MinLength is the least length of a value and of each of its forms.
	MinLength = 4
	// MinLine is the least length of a line of a value with several.
	MinLine = 8
)

// Maskable reports whether a value is long enough to be masked.
func Maskable(value string) bool { return len(strings.TrimSpace(value)) >= MinLength }

// Forms returns the texts in which a value shows itself, without repetitions and in
// no order:
//
//   - as it is, and without the blanks around it
//   - each of its lines, if it has several
//   - in base64, standard and URL alphabet, with and without padding, at each of the
//     three places it can have in longer text that is encoded, and broken into lines of
//     64 and 76 characters
//   - in hexadecimal
//   - percent-encoded as the usual libraries do it, with digits of either case and a
//     blank as + or %20
//   - escaped for JSON, once and twice, for a shell, for HTML, and as Go and Python
//     quote text
//
// In the middle of a longer base64 text the first and last character of the value also
// hold bits of its neighbours. They are left, which tells at most four bits of each of
// the value's ends.
func Forms(value string) []string {
	if !Maskable(value) {
		return nil
	}
	set := map[string]struct{}{}
	add := func(least int, forms ...string) {
		for _, f := range forms {
			if len(f) >= least {
				set[f] = struct{}{}
			}
		}
	}
	trimmed := strings.TrimSpace(value)
	values := []string{value}
	if trimmed != value {
		values = append(values, trimmed)
	}
	for _, v := range values {
		add(MinLength, v)
		add(MinLength, inBase64(v)...)
		add(MinLength, inHex(v)...)
		add(MinLength, escaped(v)...)
	}
	if strings.ContainsAny(trimmed, "\r\n") {
		for _, line := range strings.FieldsFunc(trimmed, func(r rune) bool { return r == '\r' || r == '\n' }) {
			if line = strings.TrimSpace(line); len(line) >= MinLine {
				add(MinLine, line)
				add(MinLine, escaped(line)...)
			}
		}
	}
	out := make([]string, 0, len(set))
	for f := range set {
		out = append(out, f)
	}
	return out
}

var base64s = []*base64.Encoding{base64.StdEncoding, base64.URLEncoding}

func inBase64(v string) []string {
	var out []string
	for _, enc := range base64s {
		raw := enc.WithPadding(base64.NoPadding)
		// Alone, and with the newline that echo adds.
		for _, whole := range []string{v, v + "\n"} {
			out = append(out, enc.EncodeToString([]byte(whole)), raw.EncodeToString([]byte(whole)))
		}
		// Behind so many bytes of a group of three: the characters that hold nothing else.
		for before := range 3 {
			text := raw.EncodeToString([]byte("\x00\x00"[:before] + v))
			first := (8*before + 5) / 6
			last := 8 * (before + len(v)) / 6
			out = append(out, text[first:last])
		}
		// In lines, as base64(1), MIME and PEM break it.
		for _, width := range []int{64, 76} {
			whole := raw.EncodeToString([]byte(v))
			if len(whole) <= width {
				continue
			}
			for line := range slices.Chunk([]byte(whole), width) {
				if len(line) >= MinLine {
					out = append(out, string(line))
				}
			}
		}
	}
	return out
}

func inHex(v string) []string {
	lower := hex.EncodeToString([]byte(v))
	return []string{lower, strings.ToUpper(lower)}
}

// escaped returns what others make of a text whose characters mean something to them.
func escaped(v string) []string {
	out := []string{percentAll(v, true), percentAll(v, false)}
	if !strings.ContainsFunc(v, func(r rune) bool { return r >= utf8.RuneSelf || strings.IndexByte(digits, byte(r)) < 0 }) {
		return append(out, v) // nothing in it means anything to anybody
	}
	// What is not encoded besides letters, digits and -_. differs.
	for _, keep := range []string{"~", "~!*'()", "~/", "~$&+=:@", "~;/?:@&=+$,#!*'()", "*"} {
		for _, upper := range []bool{true, false} {
			p := percent(v, keep, upper)
			out = append(out, p, strings.ReplaceAll(p, "%20", "+"))
		}
	}
	out = append(out, url.QueryEscape(v), url.PathEscape(v))

	once := []string{
		jsonText(v, false, false), jsonText(v, true, false), jsonText(v, false, true), jsonText(v, true, true),
		strings.ReplaceAll(jsonText(v, false, false), "/", `\/`), strings.ReplaceAll(jsonText(v, false, true), "/", `\/`),
	}
	out = append(out, once...)
	for _, o := range once[:3] {
		out = append(out, jsonText(o, false, false))
	}
	out = append(out,
		inner(strconv.Quote(v)), inner(strconv.QuoteToASCII(v)),
		python(v), strings.ReplaceAll(python(v), "'", `\'`),
		strings.ReplaceAll(v, "'", `'\''`), strings.ReplaceAll(v, "'", `'"'"'`), backslashed(v, shellSpecial), backslashed(v, shellSpecial+"#~=%"), backslashed(v, `"\$`+"`"),
		html.EscapeString(v), htmlNamed.Replace(v), strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(v),
	)
	return out
}

const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."

func percent(v, keep string, upper bool) string {
	var b strings.Builder
	for i := range len(v) {
		if c := v[i]; c < utf8.RuneSelf && (strings.IndexByte(digits, c) >= 0 || strings.IndexByte(keep, c) >= 0) {
			b.WriteByte(c)
		} else {
			writePercent(&b, c, upper)
		}
	}
	return b.String()
}

func percentAll(v string, upper bool) string {
	var b strings.Builder
	for i := range len(v) {
		writePercent(&b, v[i], upper)
	}
	return b.String()
}

func writePercent(b *strings.Builder, c byte, upper bool) {
	hex := "0123456789abcdef"
	if upper {
		hex = "0123456789ABCDEF"
	}
	b.WriteByte('%')
	b.WriteByte(hex[c>>4])
	b.WriteByte(hex[c&15])
}

func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// jsonText is the inside of a JSON string, optionally with <, > and & escaped as
// encoders for web pages do, or with nothing but ASCII.
func jsonText(v string, web, ascii bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(web)
	if enc.Encode(v) != nil {
		return v
	}
	s := strings.TrimSuffix(b.String(), "\n")
	s = s[1 : len(s)-1]
	if !ascii {
		// Go escapes these two always, others never.
		if !web && !strings.Contains(v, `\u202`) {
			s = strings.NewReplacer(`\u2028`, "\u2028", `\u2029`, "\u2029").Replace(s)
		}
		return s
	}
	b.Reset()
	for _, r := range s {
		switch {
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

var pythonEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

func python(v string) string { return pythonEscapes.Replace(v) }

const shellSpecial = " \t|&;<>()$`\\\"'*?[]!{}^,"

func backslashed(v, special string) string {
	var b strings.Builder
	for i := range len(v) {
		if strings.IndexByte(special, v[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(v[i])
	}
	return b.String()
}

var htmlNamed = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;")
