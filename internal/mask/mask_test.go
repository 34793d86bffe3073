package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

const password = `p4s$ w0rd/"<é>&'+~`

func TestForms(t *testing.T) {
	t.Parallel()
	m := New(password)
	j := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, text := range map[string]string{
		"plain":              "x " + password + " y",
		"base64":             base64.StdEncoding.EncodeToString([]byte(password)),
		"base64 of echo":     base64.StdEncoding.EncodeToString([]byte(password + "\n")),
		"base64 url":         base64.URLEncoding.EncodeToString([]byte(password)),
		"base64 raw":         base64.RawURLEncoding.EncodeToString([]byte(password)),
		"hex":                hex.EncodeToString([]byte(password)),
		"HEX":                strings.ToUpper(hex.EncodeToString([]byte(password))),
		"query":              url.QueryEscape(password),
		"path":               url.PathEscape(password),
		"query, lower":       strings.NewReplacer("%C3", "%c3", "%A9", "%a9", "%2F", "%2f", "%3C", "%3c", "%3E", "%3e", "%2B", "%2b").Replace(url.QueryEscape(password)),
		"encodeURIComponent": "p4s%24%20w0rd%2F%22%3C%C3%A9%3E%26'%2B~",
		"encodeURI":          "p4s$%20w0rd/%22%3C%C3%A9%3E&'+~",
		"json":               j(password),
		"json ascii":         `p4s$ w0rd/\"<\u00e9>&'+~`,
		"json twice":         j(j(password)),
		"json plain slash":   `p4s$ w0rd\/\"<é>&'+~`,
		"go":                 strconv.Quote(password),
		"go ascii":           strconv.QuoteToASCII(password),
		"shell":              `'p4s$ w0rd/"<é>&'\''+~'`,
		"bash %q":            `p4s\$\ w0rd/\"\<é\>\&\'+~`,
		"html":               html.EscapeString(password),
		"every byte":         percentAll(password, true),
	} {
		got := m.String("<<" + text + ">>")
		if !strings.Contains(got, Text) || strings.Contains(got, "w0rd") || strings.Contains(got, text) {
			t.Errorf("%s: %q becomes %q", name, text, got)
		}
	}
	// Inside of longer text that is encoded, at each place.
	for before := range 7 {
		for after := range 4 {
			for _, enc := range base64s {
				enc := enc.WithPadding(base64.NoPadding)
				text := enc.EncodeToString([]byte("user:###"[:before] + password + "@host"[:after]))
				got := m.String(text)
				others := enc.EncodedLen(before) + enc.EncodedLen(after)
				if left := len(got) - len(Text); !strings.Contains(got, Text) || left > others+2 {
					t.Errorf("base64 with %d before and %d after: %q becomes %q", before, after, text, got)
				}
			}
		}
	}
}

func TestLongBase64InLines(t *testing.T) {
	t.Parallel()
	value := strings.Repeat("0123456789abcdef-_!", 20)
	m := New(value)
	whole := base64.StdEncoding.EncodeToString([]byte(value))
	for _, width := range []int{64, 76} {
		var lines []string
		for l := range slices.Chunk([]byte(whole), width) {
			lines = append(lines, string(l))
		}
		got := m.String(strings.Join(lines, "\n") + "\n")
		for _, l := range lines[:len(lines)-1] {
			if strings.Contains(got, l) {
				t.Errorf("in lines of %d: %q is left", width, l)
			}
		}
	}
}

func TestSeveralLines(t *testing.T) {
	t.Parallel()
	value := "-----BEGIN KEY-----\nMIIBVAIBADANBgkq\r\n  hkiG9w0BAQEFAASC\nok\n-----END KEY-----\n"
	m := New(value)
	if got, want := m.String("a\nhkiG9w0BAQEFAASC\nb MIIBVAIBADANBgkq c\nok\n"), "a\n***\nb *** c\nok\n"; got != want {
		t.Errorf("lines become %q, want %q", got, want)
	}
	if got := m.String("key: " + value + "."); got != "key: ***." {
		t.Errorf("the whole becomes %q", got)
	}
	if got := m.String("key: " + strings.TrimSpace(value) + "."); got != "key: ***." {
		t.Errorf("the whole without its last newline becomes %q", got)
	}
}

func TestShortIsNotMasked(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"", "a", "abc", "  ab \n"} {
		if Maskable(v) || New(v) != nil {
			t.Errorf("%q is masked", v)
		}
	}
	var none *Masker
	if none.String("text") != "text" || none.Holds("text") || string(none.Stream().Next([]byte("abc"))) != "abc" {
		t.Error("nothing to mask changes text")
	}
	if New("abcd").String("xabcdx") != "x***x" {
		t.Error("four bytes are not masked")
	}
}

func TestOverlapsAreOneMask(t *testing.T) {
	t.Parallel()
	m := New("abcdefgh", "efghijkl", "ijklmnop")
	for text, want := range map[string]string{
		"-abcdefghijkl-":       "-***-",
		"-abcdefghijklmnop-":   "-***-",
		"-abcdefgh-ijklmnop-":  "-***-***-",
		"-abcdefghabcdefgh-":   "-******-",
		"-abcdefgabcdefgh-":    "-abcdefg***-",
		"-abcabcabcdefgh":      "-abcabc***",
		"-abcdefg":             "-abcdefg",
		"abcdefghefghijklabcd": "******abcd",
	} {
		for cut := range len(text) + 1 {
			for cut2 := cut; cut2 <= len(text); cut2++ {
				if got := pieces(m, text[:cut], text[cut:cut2], text[cut2:]); got != want {
					t.Fatalf("%q | %q | %q becomes %q, want %q", text[:cut], text[cut:cut2], text[cut2:], got, want)
				}
			}
		}
	}
}

func pieces(m *Masker, parts ...string) string {
	var out bytes.Buffer
	s := m.Stream()
	for _, p := range parts {
		out.Write(s.Next([]byte(p)))
	}
	out.Write(s.End())
	return out.String()
}

// What is not the beginning of a secret is let through at once, and no more than the
// beginning of one is ever held.
func TestHoldsBackOnlyBeginnings(t *testing.T) {
	t.Parallel()
	m := New("hunter2-hunter2")
	s := m.Stream()
	for _, step := range []struct{ in, out string }{
		{"a line\n", "a line\n"},
		{"progress: 10 ", "progress: 10 "},
		{"user hun", "user "},
		{"ter", ""},
		{"2-x", "hunter2-x"},
		{"hunter2-hunter", ""},
		{"2", "***"},
		{"!", "!"},
	} {
		if got := string(s.Next([]byte(step.in))); got != step.out {
			t.Errorf("after %q comes %q, want %q", step.in, got, step.out)
		}
	}
	if got := string(s.Next([]byte("hunter2-hunte"))) + string(s.End()); got != "hunter2-hunte" {
		t.Errorf("at the end comes %q", got)
	}
}

// slow is the same by definition: every occurrence of every form is covered, and
// what is covered without a gap by forms that overlap becomes one mask.
func slow(text string, forms []string) string {
	type span struct{ from, to int }
	var spans []span
	for i := range text {
		longest := 0
		for _, f := range forms {
			if strings.HasPrefix(text[i:], f) {
				longest = max(longest, len(f))
			}
		}
		switch {
		case longest == 0:
		case len(spans) > 0 && i < spans[len(spans)-1].to:
			last := &spans[len(spans)-1]
			last.to = max(last.to, i+longest)
		default:
			spans = append(spans, span{i, i + longest})
		}
	}
	var b strings.Builder
	at := 0
	for _, s := range spans {
		b.WriteString(text[at:s.from] + Text)
		at = s.to
	}
	return b.String() + text[at:]
}

// Whatever the secrets are, in whatever form and however the text is cut: no form is
// left, and all else is there byte for byte.
func TestMaskProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Few letters make secrets that overlap, begin with and contain each other.
		alphabet := rapid.SampledFrom([]string{"ab", "abc\n", "aA0-_. /+=\"'\\<&é\n", "0123456789abcdef", "=+/%u00"}).Draw(t, "alphabet")
		secret := rapid.StringOfN(rapid.RuneFrom([]rune(alphabet)), 4, 40, -1)
		values := rapid.SliceOfN(secret, 1, 6).Draw(t, "values")
		m := New(values...)
		var forms []string
		for _, v := range values {
			forms = append(forms, Forms(v)...)
		}
		if m == nil {
			if len(forms) > 0 {
				t.Fatal("there are forms and no masker")
			}
			return
		}
		var text strings.Builder
		for range rapid.IntRange(0, 12).Draw(t, "parts") {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				text.WriteString(rapid.SampledFrom(forms).Draw(t, "form"))
			case 1:
				f := rapid.SampledFrom(forms).Draw(t, "beginning of")
				text.WriteString(f[:rapid.IntRange(0, len(f)).Draw(t, "length")])
			case 2:
				text.WriteString(rapid.StringOf(rapid.RuneFrom([]rune(alphabet))).Draw(t, "alike"))
			default:
				text.Write(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
			}
		}
		whole := text.String()
		var parts []string
		for rest := whole; rest != ""; {
			n := rapid.IntRange(1, min(len(rest), 30)).Draw(t, "piece")
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		want := slow(whole, forms)
		if got := pieces(m, parts...); got != want {
			t.Fatalf("values %q\nin pieces %q\nbecome %q\n  want %q", values, parts, got, want)
		}
		if got := m.String(whole); got != want {
			t.Fatalf("values %q, at once: %q becomes %q, want %q", values, whole, got, want)
		}
		if m.Holds(whole) != (want != whole) {
			t.Fatalf("Holds(%q) = %v", whole, m.Holds(whole))
		}
		read, err := io.ReadAll(m.Reader(iotest.HalfReader(strings.NewReader(whole))))
		if err != nil || string(read) != want {
			t.Fatalf("read %q, %v, want %q", read, err, want)
		}
		for _, f := range forms {
			if strings.Contains(want, f) {
				t.Fatalf("%q is left in %q", f, want)
			}
		}
	})
}

func TestInputIsNotChanged(t *testing.T) {
	t.Parallel()
	m := New("hunter2-hunter2")
	in := []byte("a hunter2-hunter2 b hunter2-hun")
	before := slices.Clone(in)
	s := m.Stream()
	s.Next(in)
	s.Next([]byte("ter2"))
	if !bytes.Equal(in, before) {
		t.Errorf("the caller's bytes became %q", in)
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	var k Known
	var out bytes.Buffer
	w := k.Writer(&out)
	write := func() {
		if n, err := io.WriteString(w, "user=x password=hunter2-hunter2\n"); n != 32 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	write()
	k.Add("hunter2-hunter2", "no")
	write()
	if want := "user=x password=hunter2-hunter2\nuser=x password=***\n"; out.String() != want {
		t.Errorf("written %q, want %q", out.String(), want)
	}
	for i := range maxKnown + 10 {
		k.Add(fmt.Sprintf("value number %d", i))
	}
	if len(k.values) != maxKnown || k.String("value number 5") != "value number 5" || k.String("value number 2005") != Text {
		t.Errorf("%d values are known", len(k.values))
	}
}
