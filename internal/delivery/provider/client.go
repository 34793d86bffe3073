package provider

import (
	"bytes"
	"container/list"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/netguard"
)

// Limits of what a provider answers.
const (
	// MaxBody is how many bytes an answer may have.
	MaxBody = 16 << 20
	// MaxPages is how many pages of a list are read.
	MaxPages = 50
	// callFor bounds one call.
	callFor = 20 * time.Second
	// keptBytes bounds the answers that are kept for If-None-Match.
	keptBytes = 16 << 20
	// longestPause is the longest that a provider can ask to be left alone.
	longestPause = time.Hour
)

// Options of a Client.
type Options struct {
	Kind string // of the provider
	// Name is how the settings call the provider; messages name deliveries.providers.NAME.
	Name string
	// API is what the paths of calls are relative to.
	API *url.URL
	// Token returns the secret that calls are made with, "" for none. It is asked before
	// every call, so that a new one counts at once.
	Token func(ctx context.Context) (string, error)
	// Authorize puts a token that is not empty into a request.
	Authorize func(r *http.Request, token string)
	// Header is sent with every call.
	Header http.Header
	Guard  func() netguard.Guard // nil allows every address
	Now    func() time.Time      // nil is time.Now
	Agent  string
	// Timeout of a call; 0 is 20 s.
	Timeout time.Duration
	Roots   *x509.CertPool // nil is the system's
}

// Client makes calls for a provider: with its token, within its limits, and with
// If-None-Match for what it has answered before. Safe for concurrent use.
type Client struct {
	o     Options
	http  *http.Client
	calls atomic.Int64
	spare atomic.Int64 // answers that had not changed

	mu     sync.Mutex
	until  time.Time // no calls before
	why    string
	left   int // X-RateLimit-Remaining; -1: not told
	kept   map[string]*list.Element
	order  *list.List // of answers, the one used last in front
	weight int
}

type answer struct {
	key, etag string
	body      []byte
	header    http.Header
}

// NewClient returns a client.
func NewClient(o Options) *Client {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = callFor
	}
	c := &Client{o: o, left: -1, kept: map[string]*list.Element{}, order: list.New()}
	dialer := &net.Dialer{Timeout: o.Timeout, KeepAlive: 30 * time.Second}
	if o.Guard != nil {
		dialer.ControlContext = func(_ context.Context, network, address string, raw rawConn) error {
			return o.Guard().Control(network, address, raw)
		}
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = dialer.DialContext
	t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 4, 8
	t.ResponseHeaderTimeout = o.Timeout
	if o.Roots != nil {
		t.TLSClientConfig = tlsWith(o.Roots)
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		// Elsewhere they would be asked without the token, and what they say is not the
		// provider's word.
		if r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 4 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return c
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Name is how the settings call the provider.
func (c *Client) Name() string { return c.o.Name }

// Calls is how many calls were made, those that were answered "not modified" included.
func (c *Client) Calls() int64 { return c.calls.Load() }

// Unchanged is how many of them were answered so.
func (c *Client) Unchanged() int64 { return c.spare.Load() }

// Limit tells until when the provider wants no calls (zero: it takes them), and how many
// it still takes, -1 when it does not tell.
func (c *Client) Limit() (until time.Time, left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.After(c.o.Now()) {
		return time.Time{}, c.left
	}
	return c.until, c.left
}

// Get asks for path, relative to the API, and decodes the answer into v.
func (c *Client) Get(ctx context.Context, path string, query url.Values, v any) (http.Header, error) {
	return c.GetURL(ctx, c.URL(path, query), v)
}

// URL is the address of a path of the API. Parts of the path are escaped by the caller.
func (c *Client) URL(path string, query url.Values) string {
	out := strings.TrimSuffix(c.o.API.String(), "/") + "/" + strings.TrimPrefix(path, "/")
	if len(query) > 0 && !strings.Contains(path, "?") {
		out += "?" + query.Encode()
	}
	return out
}

// GetURL is Get with an address, which must be of the host of the API or of a host that
// the caller trusts with the token.
func (c *Client) GetURL(ctx context.Context, address string, v any) (http.Header, error) {
	body, header, err := c.do(ctx, http.MethodGet, address, nil)
	if err != nil {
		return header, err
	}
	return header, c.decode(body, v)
}

// Send makes a call with a body of JSON; v may be nil.
func (c *Client) Send(ctx context.Context, method, path string, in, v any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	body, _, err := c.do(ctx, method, c.URL(path, nil), text)
	if err != nil || v == nil {
		return err
	}
	return c.decode(body, v)
}

func (c *Client) decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return c.fail(waybill.KindMalformed, "%s answers what cannot be understood (%s)", c.who(), brief(err.Error()))
	}
	return nil
}

// who names the provider for people.
func (c *Client) who() string {
	return map[string]string{AzureDevOps: "Azure DevOps", GitHub: "GitHub", GitLab: "GitLab"}[c.o.Kind] + " at " + c.o.API.Host
}

func (c *Client) setting(key string) string { return "deliveries.providers." + c.o.Name + "." + key }

func (c *Client) fail(kind waybill.Kind, format string, args ...any) *waybill.Error {
	return waybill.E(kind, format, args...)
}

func (c *Client) do(ctx context.Context, method, address string, send []byte) ([]byte, http.Header, error) {
	now := c.o.Now()
	c.mu.Lock()
	until, why := c.until, c.why
	c.mu.Unlock()
	if until.After(now) {
		e := c.fail(waybill.KindExhausted, "%s", why)
		e.RetryAfter = until.Sub(now)
		return nil, nil, e
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(send))
	if err != nil {
		return nil, nil, c.fail(waybill.KindInvalid, "no call can be made for it")
	}
	for k, v := range c.o.Header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", cmpOr(req.Header.Get("Accept"), "application/json"))
	req.Header.Set("User-Agent", cmpOr(c.o.Agent, "waybill"))
	if send != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	token := ""
	if c.o.Token != nil {
		if token, err = c.o.Token(ctx); err != nil {
			e := c.fail(waybill.KindUnauthorized, "the token of %s cannot be had: %s", c.setting("token"), brief(err.Error()))
			return nil, nil, e.WithHint("waybill secret list shows which secrets there are")
		}
		if token != "" {
			c.o.Authorize(req, token)
		}
	}
	old := (*answer)(nil)
	if method == http.MethodGet {
		if old = c.known(address); old != nil {
			req.Header.Set("If-None-Match", old.etag)
		}
	}
	c.calls.Add(1)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, c.broken(ctx, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxBody+1))
	if err != nil {
		return nil, res.Header, c.broken(ctx, err)
	}
	if len(body) > MaxBody {
		return nil, res.Header, c.fail(waybill.KindTooLarge, "%s answers with more than %d bytes", c.who(), MaxBody)
	}
	if err := c.judge(res, body, method); err != nil {
		if len(token) > 3 { // whoever repeats what was sent does not make us write it down
			err.Msg = strings.ReplaceAll(err.Msg, token, "***")
		}
		return nil, res.Header, err
	}
	if res.StatusCode == http.StatusNotModified {
		if old == nil {
			return nil, res.Header, c.fail(waybill.KindMalformed, "%s answers that what was never asked has not changed", c.who())
		}
		c.spare.Add(1)
		return old.body, old.header, nil
	}
	if etag := res.Header.Get("ETag"); etag != "" && method == http.MethodGet {
		c.keep(&answer{key: address, etag: etag, body: body, header: res.Header})
	}
	return body, res.Header, nil
}

// judge turns an answer that is no success into an error, and takes limits to heart.
func (c *Client) judge(res *http.Response, body []byte, method string) *waybill.Error {
	now := c.o.Now()
	after := retryAfter(res.Header, now)
	c.mu.Lock()
	if n, err := strconv.Atoi(res.Header.Get("X-RateLimit-Remaining")); err == nil {
		c.left = n
	} else if n, err := strconv.Atoi(res.Header.Get("RateLimit-Remaining")); err == nil {
		c.left = n
	}
	left := c.left
	c.mu.Unlock()
	code := res.StatusCode
	limited := code == http.StatusTooManyRequests || (code == http.StatusForbidden && (left == 0 || after > 0)) ||
		code == http.StatusForbidden && strings.Contains(strings.ToLower(said(body)), "rate limit")
	switch {
	case limited:
		if after == 0 {
			after = reset(res.Header, now)
		}
		if after == 0 {
			after = time.Minute
		}
		e := c.fail(waybill.KindExhausted, "%s takes no more calls for a while (%s)", c.who(), res.Status)
		e.RetryAfter = c.pause(after, e.Msg)
		return e
	case code == http.StatusServiceUnavailable && after > 0:
		e := c.fail(waybill.KindUnavailable, "%s is not available (%s)", c.who(), res.Status)
		e.RetryAfter = c.pause(after, e.Msg)
		return e
	}
	if after > 0 && code < 300 { // Azure DevOps asks to slow down in answers that are good
		c.pause(after, c.who()+" asks to be left alone for a while")
	}
	html := strings.Contains(res.Header.Get("Content-Type"), "text/html")
	switch {
	case code == http.StatusNotModified:
		return nil
	case code == http.StatusUnauthorized,
		// Azure DevOps shows a page for people to log in.
		c.o.Kind == AzureDevOps && (code == http.StatusNonAuthoritativeInfo && html || code == http.StatusFound && method == http.MethodGet):
		return c.fail(waybill.KindUnauthorized, "%s does not take the token of %s: it is wrong, has expired or was withdrawn (%s)", c.who(), c.setting("token"), res.Status).
			WithHint("make a new token there and put it where the setting says, such as: waybill secret set NAME")
	case code == http.StatusForbidden:
		return c.fail(waybill.KindForbidden, "the token of %s may not do this at %s (%s): %s", c.setting("token"), c.who(), res.Status, said(body)).
			WithHint("it needs to read code, pipelines and pull requests")
	case code == http.StatusNotFound || code == http.StatusGone:
		return c.fail(waybill.KindNotFound, "%s has no such thing: %s", c.who(), said(body))
	case code == http.StatusConflict:
		return c.fail(waybill.KindConflict, "%s refuses: %s", c.who(), said(body))
	case code >= 500:
		return c.fail(waybill.KindUnavailable, "%s answers %s", c.who(), res.Status)
	case code >= 300 && code < 400:
		return c.fail(waybill.KindUnavailable, "%s leads elsewhere (%s)", c.who(), res.Status).WithHint("is %s its address?", c.setting("url"))
	case code >= 400:
		return c.fail(waybill.KindInvalid, "%s refuses the call (%s): %s", c.who(), res.Status, said(body))
	case html:
		return c.fail(waybill.KindMalformed, "%s answers with a page for people", c.who()).WithHint("is %s its address, and does it need a token?", c.setting("url"))
	}
	return nil
}

// pause lets no calls through for a while, and says how long.
func (c *Client) pause(d time.Duration, why string) time.Duration {
	d = min(max(d, time.Second), longestPause)
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := c.o.Now().Add(d); until.After(c.until) {
		c.until, c.why = until, why
	}
	return d
}

// broken says why there is no answer, without the address, which may be long.
func (c *Client) broken(ctx context.Context, err error) error {
	var denied *netguard.DeniedError
	switch {
	case errors.As(err, &denied):
		return c.fail(waybill.KindUnavailable, "%s cannot be called: %v", c.who(), denied)
	case errors.Is(err, context.Canceled):
		return c.fail(waybill.KindCanceled, "the call was canceled: %w", err)
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || timedOut(err):
		return away(c.fail(waybill.KindUnavailable, "%s does not answer within %s", c.who(), c.o.Timeout))
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return away(c.fail(waybill.KindUnavailable, "%s cannot be reached: %s", c.who(), brief(err.Error())))
}

// ErrAway is in the chain of errors that say that a provider cannot be reached or does
// not answer at all: nothing else that it is asked now will be answered.
var ErrAway = errors.New("the provider is away")

func away(e *waybill.Error) *waybill.Error {
	e.Err = ErrAway
	return e
}

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// known is the answer to an address that is kept, nil when none is.
func (c *Client) known(key string) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.kept[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*answer)
}

func (c *Client) keep(a *answer) {
	if len(a.body) > keptBytes/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.kept[a.key]; e != nil {
		c.drop(e)
	}
	c.kept[a.key] = c.order.PushFront(a)
	c.weight += len(a.body)
	for c.weight > keptBytes {
		c.drop(c.order.Back())
	}
}

func (c *Client) drop(e *list.Element) {
	a := c.order.Remove(e).(*answer)
	delete(c.kept, a.key)
	c.weight -= len(a.body)
}

// retryAfter is how long an answer asks to wait.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseFloat(v, 64); err == nil && n > 0 && n < 1e6 {
		return time.Duration(n * float64(time.Second))
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// reset is when a limit is lifted: X-RateLimit-Reset in seconds since 1970.
func reset(h http.Header, now time.Time) time.Duration {
	for _, k := range []string{"X-RateLimit-Reset", "RateLimit-Reset"} {
		if n, err := strconv.ParseInt(h.Get(k), 10, 64); err == nil {
			if d := time.Unix(n, 0).Sub(now); d > 0 {
				return d
			}
		}
	}
	return 0
}

// said is the message in an answer of JSON, for people.
func said(body []byte) string {
	var m struct {
		Message any `json:"message"`
		Error   any `json:"error"`
	}
	if json.Unmarshal(body, &m) != nil {
		return "no reason given"
	}
	for _, v := range []any{m.Message, m.Error} {
		if s, ok := v.(string); ok && s != "" {
			return brief(s)
		}
		if v != nil {
			return brief(fmt.Sprint(v))
		}
	}
	return "no reason given"
}

// brief is a text of others as one short line.
func brief(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Next is the address of the next page by a Link header, "" when there is none. It is of
// the host of the page before, or none.
func Next(page string, h http.Header) string {
	for _, v := range h.Values("Link") {
		for part := range strings.SplitSeq(v, ",") {
			target, params, ok := strings.Cut(strings.TrimSpace(part), ">")
			if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(params, `rel="next"`) {
				continue
			}
			a, err := url.Parse(page)
			if err != nil {
				return ""
			}
			b, err := a.Parse(target[1:])
			if err == nil && b.Host == a.Host && b.Scheme == a.Scheme {
				return b.String()
			}
		}
	}
	return ""
}

// Now is the time by the client's clock.
func (c *Client) Now() time.Time { return c.o.Now() }

// API is what the paths of calls are relative to.
func (c *Client) API() *url.URL { return c.o.API }
