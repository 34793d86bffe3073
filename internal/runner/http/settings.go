package http

import (
	"encoding/json"
	"fmt"
	"mime"
	nethttp "net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/schema"
)

// Settings are the keys of a step's "with". Only url is required.
type Settings struct {
	Method  string            `json:"method" doc:"the method; GET if not set, POST if there is a body" enum:"GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"`
	URL     string            `json:"url" doc:"where the request goes: an http or https URL" example:"https://api.example.com/v1/jobs"`
	Query   map[string]Scalar `json:"query" doc:"added to the URL's query, encoded"`
	Headers map[string]Scalar `json:"headers" doc:"headers of the request; Content-Type follows from the body if not set"`
	Basic   *Basic            `json:"basic" doc:"user and password sent as HTTP basic authentication"`

	Body json.RawMessage   `json:"body" doc:"body of the request: a text is sent as it is, everything else as JSON"`
	Form map[string]Scalar `json:"form" doc:"body of the request as form fields, instead of body"`
	File string            `json:"file" doc:"body of the request from a file in the step's folder, such as one of its inputs, instead of body"`

	Expect  Expect            `json:"expect" doc:"what the answer must be; without it any status from 200 to 299"`
	Outputs map[string]string `json:"outputs" doc:"variables that the step returns: a CEL expression over status, headers and body for each"`
	Save    *Save             `json:"save" doc:"writes the answer's body to a file in the step's folder, which can be a file output"`
	Poll    *Poll             `json:"poll" doc:"asks again until an operation that the request began is done"`

	Timeout         Duration `json:"timeout" doc:"of one request with its answer, besides the step's timeout" default:"30s"`
	MaxAnswer       Size     `json:"max_answer" doc:"an answer with a longer body is refused, counted after decompression" default:"10MiB"`
	FollowRedirects *bool    `json:"follow_redirects" doc:"redirects are followed, at most ten; false takes a redirect as the answer" default:"true"`
	RetryAfter      *bool    `json:"retry_after" doc:"an answer 429 or 503 with Retry-After is waited for and the request repeated, within the step's timeout" default:"true"`
	IdempotencyKey  *string  `json:"idempotency_key" doc:"value of the Idempotency-Key header; made of run and step if not set, none if empty"`
	TLS             TLS      `json:"tls" doc:"how the server's certificate is checked, and ours"`
}

// Duration and Scalar are as in every runner's settings.
type Duration = runner.Duration

// Basic is HTTP basic authentication.
type Basic struct {
	User     string `json:"user" doc:"user name"`
	Password string `json:"password" doc:"password, as a rule ${secret:NAME}"`
}

// Expect says which answers are a success.
type Expect struct {
	Status      Statuses `json:"status" doc:"a status or a list of them: 200, or 2xx for a hundred" example:"[200, 202]"`
	ContentType string   `json:"content_type" doc:"media type of the answer; text/* takes every one of a kind" example:"application/json"`
	Filter      string   `json:"filter" doc:"CEL expression over status, headers and body that must be true" example:"body.state == 'ok'"`
}

// Save says where an answer's body goes.
type Save struct {
	File string `json:"file" doc:"path in the step's folder; folders on the way are made"`
	Max  Size   `json:"max" doc:"a longer body is refused" default:"10MiB"`
}

// Poll says how to wait for an operation.
type Poll struct {
	Until string   `json:"until" doc:"CEL expression over status, headers and body of an answer that is true when the operation has ended" example:"body.state in ['done', 'failed']"`
	Every Duration `json:"every" doc:"pause between two requests; Retry-After of an answer wins" default:"2s"`
	URL   string   `json:"url" doc:"what to ask; if not set, what Operation-Location or Location of the first answer names, or the step's own URL if it was asked by GET"`
}

// TLS says whom to believe.
type TLS struct {
	CAFile   string `json:"ca_file" doc:"PEM file with the authorities to believe, instead of the system's; a relative path is of the project folder"`
	CertFile string `json:"cert_file" doc:"PEM file with our certificate"`
	KeyFile  string `json:"key_file" doc:"PEM file with the key of our certificate"`
	Insecure bool   `json:"insecure" doc:"any certificate is believed; for tests, as others can then read and answer"`
}

// Scalar is a text that may be written as a number or a truth.
type Scalar string

// UnmarshalJSON implements json.Unmarshaler.
func (s *Scalar) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case '"':
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
		*s = Scalar(text)
		return nil
	case '{', '[':
		return fmt.Errorf("expected text, found %.40s", b)
	}
	*s = Scalar(b)
	return nil
}

// Size is a number of bytes, written 65536, "64KiB" or "10MiB".
type Size int64

// UnmarshalJSON implements json.Unmarshaler.
func (s *Size) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	unit := int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = strings.TrimSpace(number), n
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)/unit {
		return fmt.Errorf("expected a number of bytes such as 65536, 64KiB or 10MiB, found %.40s", b)
	}
	*s = Size(n * unit)
	return nil
}

// Statuses are those that are expected: 200 is one, 2 stands for 200 to 299.
type Statuses []int

// UnmarshalJSON implements json.Unmarshaler.
func (s *Statuses) UnmarshalJSON(b []byte) error {
	list := []json.RawMessage{b}
	if b[0] == '[' {
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
	}
	for _, x := range list {
		text := strings.Trim(string(x), `"`)
		n, err := strconv.Atoi(text)
		if c, ok := strings.CutSuffix(strings.ToLower(text), "xx"); ok && len(c) == 1 && c[0] >= '1' && c[0] <= '5' {
			n, err = int(c[0]-'0'), nil
		} else if err == nil && (n < 100 || n > 599) {
			err = strconv.ErrRange
		}
		if err != nil {
			return fmt.Errorf("expected a status such as 200 or 2xx, found %.40s", x)
		}
		*s = append(*s, n)
	}
	return nil
}

// JSONSchema implements schema.Described.
func (Scalar) JSONSchema() map[string]any { return schema.Scalar() }

// JSONSchema implements schema.Described.
func (Size) JSONSchema() map[string]any { return schema.Size() }

// JSONSchema implements schema.Described.
func (Statuses) JSONSchema() map[string]any {
	one := schema.Either(schema.Schema{"type": "integer", "minimum": 100, "maximum": 599}, schema.Schema{"type": "string", "pattern": `^([1-5][0-9]{2}|[1-5][xX]{2})$|\$\{`})
	return schema.OneOrList(one)
}

// has reports whether a status is one of these; of none, whether it is a success.
func (s Statuses) has(status int) bool {
	if len(s) == 0 {
		return status/100 == 2
	}
	return slices.Contains(s, status) || slices.Contains(s, status/100)
}

func (s Statuses) String() string {
	if len(s) == 0 {
		return "2xx"
	}
	out := make([]string, len(s))
	for i, n := range s {
		if out[i] = strconv.Itoa(n); n < 10 {
			out[i] += "xx"
		}
	}
	return strings.Join(out, " or ")
}

// Limits of a request and its answer.
const (
	defaultTimeout   = 30 * time.Second
	defaultMaxAnswer = 10 << 20
	defaultEvery     = 2 * time.Second
	shortestEvery    = 10 * time.Millisecond
	maxRedirects     = 10
	maxHeader        = 256 << 10 // bytes of an answer's header
	maxOutputs       = 1000
)

// step is a step whose settings were read: what they stand for, and the programs of
// its expressions.
type step struct {
	Settings
	filter, until *program
	outputs       []output
}

type output struct {
	name string
	*program
}

// read reads and checks settings. An open one may hold expressions whose values are
// not known yet. Errors are of kind invalid and name the key.
func read(with json.RawMessage, open bool) (*step, error) {
	s := &step{}
	decode := runner.Decode
	if open {
		decode = runner.DecodeOpen
	}
	if err := decode(with, &s.Settings); err != nil {
		return nil, err
	}
	c := checker{open: open}
	c.check(s)
	return s, c.err
}

type checker struct {
	open bool
	err  error
}

// bad notes the first mistake.
func (c *checker) bad(key, format string, args ...any) {
	if c.err == nil {
		c.err = waybill.E(waybill.KindInvalid, "with: "+key+": "+format, args...)
	}
}

// unknown reports whether a text cannot be judged yet.
func (c *checker) unknown(text string) bool { return c.open && runner.HasExpression(text) }

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (c *checker) check(s *step) {
	bodies := 0
	for _, there := range []bool{s.Body != nil, s.Form != nil, s.File != ""} {
		if there {
			bodies++
		}
	}
	if bodies > 1 {
		c.bad("body", "body, form and file exclude each other")
	}
	if s.Method == "" {
		if s.Method = nethttp.MethodGet; bodies > 0 {
			s.Method = nethttp.MethodPost
		}
	} else if !c.unknown(s.Method) && !slices.Contains(methods, s.Method) {
		if up := strings.ToUpper(s.Method); slices.Contains(methods, up) {
			c.bad("method", "%q is written %s", s.Method, up)
		} else {
			c.bad("method", "expected one of %s, found %.40q", strings.Join(methods, ", "), s.Method)
		}
	}
	if bodies > 0 && s.Method == nethttp.MethodHead {
		c.bad("body", "a HEAD request has none")
	}
	if s.URL == "" {
		c.bad("url", "it is missing; write where the request goes, such as https://api.example.com/v1/jobs")
	}
	c.url("url", s.URL)
	c.headers(s)
	for name := range s.Query {
		if name == "" {
			c.bad("query", "a name is empty")
		}
	}
	if s.File != "" && !c.unknown(s.File) && !filepath.IsLocal(s.File) {
		c.bad("file", "expected a path in the step's folder, found %.80q", s.File)
	}
	if t := s.Expect.ContentType; t != "" && !c.unknown(t) {
		if m, _, err := mime.ParseMediaType(t); err != nil || !strings.Contains(m, "/") {
			c.bad("expect: content_type", "expected a media type such as application/json, found %.80q", t)
		}
	}
	s.filter = c.program("expect: filter", s.Expect.Filter)
	c.outputs(s)
	if v := s.Save; v != nil {
		switch {
		case v.File == "":
			c.bad("save: file", "it is missing; write where the body goes, such as out/answer.json")
		case !c.unknown(v.File) && (!filepath.IsLocal(v.File) || filepath.Clean(v.File) == "."):
			c.bad("save: file", "expected a path in the step's folder, found %.80q", v.File)
		}
		if v.Max == 0 {
			v.Max = defaultMaxAnswer
		}
	}
	c.poll(s)
	if s.Timeout == 0 {
		s.Timeout = Duration(defaultTimeout)
	}
	if s.MaxAnswer == 0 {
		s.MaxAnswer = defaultMaxAnswer
	}
	if (s.TLS.CertFile == "") != (s.TLS.KeyFile == "") {
		c.bad("tls", "cert_file and key_file go together")
	}
	if k := s.IdempotencyKey; k != nil && !c.unknown(*k) && !headerValue(*k) {
		c.bad("idempotency_key", "it holds a character that no header can")
	}
}

func (c *checker) url(key, text string) {
	if text == "" || c.unknown(text) {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The error of package url repeats the text, which may hold a secret.
		c.bad(key, "it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		c.bad(key, "expected a URL that begins with http:// or https://")
	case u.Hostname() == "":
		c.bad(key, "it names no host")
	case u.Fragment != "":
		c.bad(key, "the part after # is never sent; leave it out")
	}
}

// ours are headers that follow from the request itself.
var ours = []string{"Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Trailer", "Te", "Proxy-Authorization"}

func (c *checker) headers(s *step) {
	for name, value := range s.Headers {
		canonical := nethttp.CanonicalHeaderKey(name)
		switch {
		case name == "" || strings.Trim(name, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "":
			c.bad("headers", "%.80q is no name of a header", name)
		case slices.Contains(ours, canonical):
			c.bad("headers", "%s is set by Waybill", canonical)
		case canonical == "Authorization" && s.Basic != nil:
			c.bad("headers", "Authorization and basic exclude each other")
		case !c.unknown(string(value)) && !headerValue(string(value)):
			c.bad("headers", "the value of %s holds a character that no header can, such as a line's end", canonical)
		}
	}
	if s.Basic != nil && strings.Contains(s.Basic.User, ":") && !c.unknown(s.Basic.User) {
		c.bad("basic: user", "a user name cannot hold a colon")
	}
}

func headerValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func (c *checker) outputs(s *step) {
	if len(s.Outputs) > maxOutputs {
		c.bad("outputs", "at most %d are allowed", maxOutputs)
		return
	}
	names := make([]string, 0, len(s.Outputs))
	for n := range s.Outputs {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := waybill.CheckName(n); err != nil {
			c.bad("outputs", "%v", err)
		}
		if s.Outputs[n] == "" {
			c.bad("outputs: "+n, "an expression is missing, such as body.id")
		}
		s.outputs = append(s.outputs, output{n, c.program("outputs: "+n, s.Outputs[n])})
	}
}

func (c *checker) poll(s *step) {
	p := s.Poll
	if p == nil {
		return
	}
	if p.Until == "" {
		c.bad("poll: until", "it is missing; write when the operation is over, such as body.state == 'done'")
	}
	s.until = c.program("poll: until", p.Until)
	if p.Every == 0 {
		p.Every = Duration(defaultEvery)
	}
	if time.Duration(p.Every) < shortestEvery {
		c.bad("poll: every", "expected at least %s", shortestEvery)
	}
	c.url("poll: url", p.URL)
}

// program compiles an expression, if there is one that is known already.
func (c *checker) program(key, text string) *program {
	if text == "" || c.unknown(text) {
		return nil
	}
	p, err := compile(key, text)
	if err != nil && c.err == nil {
		c.err = err
	}
	return p
}
