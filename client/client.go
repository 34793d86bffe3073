// Package client talks to a Waybill server over its HTTP API.
//
//	c, err := client.New(client.Options{})
//	run, err := c.StartRun(ctx, "nightly-report", client.StartRun{}, "")
//	err = c.FollowEvents(ctx, run.ID, "", func(r client.Record) error { … })
//
// The types come from api/openapi.yaml. Members that a newer server adds are
// left out when an answer is read.
//
// Every failure is an [*Error] with a kind to act on, but for those of a context
// and of readers and writers of the caller. Requests that may be repeated
// without harm are repeated, with growing pauses, when the server cannot be
// reached, is starting or asks to come back later.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// DefaultServer is where a server listens unless told otherwise.
const DefaultServer = "http://127.0.0.1:4040"

// Options configure a [Client]. The zero value talks to [DefaultServer].
type Options struct {
	Server string // URL of the server
	Token  string // API token, token of an identity provider, or the token of an attempt
	// TokenSource is asked for the token before each request when Token is empty; an empty
	// answer sends none. Its errors end the request as they are.
	TokenSource func(context.Context) (string, error)
	HTTP        *http.Client
	// RetryFor is how long requests that may be repeated are repeated; 0 means
	// 10 seconds, a negative value never.
	RetryFor time.Duration
	// Sleep waits between repetitions. It is for tests; nil waits as usual.
	Sleep func(context.Context, time.Duration) error
}

// Client is a client of one server. It is safe for concurrent use.
type Client struct {
	base     string
	token    func(context.Context) (string, error)
	http     *http.Client
	retryFor time.Duration
	sleep    func(context.Context, time.Duration) error
}

// New returns a client. It does not connect yet.
func New(o Options) (*Client, error) {
	if o.Server == "" {
		o.Server = DefaultServer
	}
	u, err := url.Parse(o.Server)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return nil, &Error{Kind: waybill.KindInvalid, Detail: fmt.Sprintf("server %q is not a URL such as %s", o.Server, DefaultServer)}
	}
	c := &Client{base: strings.TrimSuffix(o.Server, "/"), token: o.TokenSource, http: o.HTTP, retryFor: o.RetryFor, sleep: o.Sleep}
	if o.Token != "" || c.token == nil {
		c.token = func(context.Context) (string, error) { return o.Token, nil }
	}
	if c.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 2 * time.Minute
		c.http = &http.Client{Transport: t}
	}
	// A redirect would lead a token elsewhere, and the API has none.
	plain := *c.http
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &plain
	if c.retryFor == 0 {
		c.retryFor = 10 * time.Second
	}
	if c.sleep == nil {
		c.sleep = sleep
	}
	return c, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Error is a failure: a problem that the server answered, or that it could not
// be asked (with status 0 and kind unavailable).
type Error struct {
	Kind       Kind
	Status     int // of HTTP
	Detail     string
	Hint       string
	RequestID  string
	Problems   []SourceProblem // of a definition
	RetryAfter time.Duration
	Err        error // the cause, when the server could not be asked
}

// Error returns the detail, or the kind when there is none.
func (e *Error) Error() string {
	switch {
	case e.Detail != "":
		return e.Detail
	case e.Err != nil:
		return e.Err.Error()
	}
	return strings.ReplaceAll(string(e.Kind), "_", " ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of a failure, empty when err is no [*Error].
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// request is one question to the server.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	header http.Header
	body   io.Reader // nil, or rewound before each repetition if it can seek
	size   int64     // of the body; -1 if unknown
	// again: it may be repeated although its method does not say so.
	again bool
}

func (c *Client) get(path string, query url.Values) *request {
	return &request{method: http.MethodGet, path: path, query: query, header: http.Header{}}
}

// post is a request with a JSON body. It is repeated when it has a key.
func (c *Client) post(path string, body any, key string) (*request, error) {
	q := &request{method: http.MethodPost, path: path, header: http.Header{}}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, &Error{Kind: waybill.KindInvalid, Err: err}
		}
		q.body, q.size = bytes.NewReader(b), int64(len(b))
		q.header.Set("Content-Type", "application/json")
	}
	if key != "" {
		q.header.Set("Idempotency-Key", key)
		q.again = true
	}
	return q, nil
}

// open sends a request, again if need be, and returns the first answer that is
// no problem and that read, unless it is nil, has taken. Without read the caller
// closes the body.
func (c *Client) open(ctx context.Context, q *request, read func(*http.Response) error) (*http.Response, error) {
	again := q.again || q.method == http.MethodGet || q.method == http.MethodHead || q.method == http.MethodDelete
	seeker, canSeek := q.body.(io.Seeker)
	if q.body != nil && !canSeek {
		again = false
	}
	var start int64
	if canSeek && q.body != nil {
		var err error
		if start, err = seeker.Seek(0, io.SeekCurrent); err != nil {
			again = false // a pipe, for example, is a file that cannot seek
		}
	}
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		res, err := c.once(ctx, q)
		if err == nil && read != nil {
			err = read(res)
			_ = res.Body.Close() // it was read, or there is an error already
		}
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var e *Error
		if !again || !errors.As(err, &e) || !passing(e) || c.retryFor < 0 {
			return nil, err
		}
		wait := max(e.RetryAfter, pause/2+rand.N(pause)) // spread, so that many clients do not come back at once
		if time.Since(began)+wait > c.retryFor {
			return nil, err
		}
		if err := c.sleep(ctx, wait); err != nil {
			return nil, err
		}
		if canSeek && q.body != nil {
			if _, err := seeker.Seek(start, io.SeekStart); err != nil {
				return nil, err
			}
		}
	}
}

// passing reports whether a failure may go away by itself.
func passing(e *Error) bool {
	return e.Kind == waybill.KindUnavailable || e.Kind == waybill.KindExhausted
}

// once sends a request and returns an answer that is no problem.
func (c *Client) once(ctx context.Context, q *request) (*http.Response, error) {
	res, err := c.send(ctx, q)
	if err != nil || res.StatusCode < 300 {
		return res, err
	}
	defer res.Body.Close()
	return nil, problem(res)
}

// send sends a request and returns the answer, whatever it is.
func (c *Client) send(ctx context.Context, q *request) (*http.Response, error) {
	target := c.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	var body io.Reader
	if q.body != nil {
		body = io.NopCloser(q.body) // it is rewound or its owner closes it
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, &Error{Kind: waybill.KindInvalid, Err: err}
	}
	if q.body != nil {
		r.ContentLength = q.size
		if q.size == 0 {
			r.Body = http.NoBody
		}
	}
	if q.header != nil {
		r.Header = q.header.Clone()
	}
	r.Header.Set("User-Agent", "waybill")
	token, err := c.token(ctx)
	if err != nil {
		return nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, unreachable(c.base, err)
	}
	return res, nil
}

func unreachable(server string, err error) error {
	e := &Error{Kind: waybill.KindUnavailable, Err: err}
	var op *net.OpError
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	e.Detail = fmt.Sprintf("cannot reach the server at %s: %v", server, err)
	if errors.As(err, &op) && op.Op == "dial" {
		e.Hint = "is it running? start one with: waybill up"
	}
	return e
}

// problem reads a failure out of an answer, also out of one that is not ours.
func problem(res *http.Response) *Error {
	e := &Error{Kind: waybill.KindInternal, Status: res.StatusCode, RequestID: res.Header.Get("X-Request-Id")}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var p Problem
	if err == nil && json.Unmarshal(b, &p) == nil && p.Kind != "" {
		e.Kind, e.Detail, e.Hint, e.Problems = p.Kind, p.Detail, p.Hint, p.Problems
		return e
	}
	// HEAD has no body, and a proxy has its own words.
	for kind, status := range map[Kind]int{
		waybill.KindMalformed: 400, waybill.KindUnauthorized: 401, waybill.KindForbidden: 403, waybill.KindNotFound: 404, waybill.KindConflict: 409,
		waybill.KindGone: 410, waybill.KindTooLarge: 413, waybill.KindInvalid: 422, waybill.KindExhausted: 429, waybill.KindUnavailable: 503,
	} {
		if status == res.StatusCode {
			e.Kind = kind
		}
	}
	if res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusGatewayTimeout {
		e.Kind = waybill.KindUnavailable
	}
	e.Detail = "the server answered " + res.Status
	return e
}

// ask sends a request and reads a JSON answer into out, if that is not nil.
func (c *Client) ask(ctx context.Context, q *request, out any) error {
	_, err := c.open(ctx, q, func(res *http.Response) error {
		if out == nil || res.StatusCode == http.StatusNoContent {
			return nil
		}
		if err := json.NewDecoder(res.Body).Decode(out); err != nil {
			return &Error{Kind: waybill.KindUnavailable, Status: res.StatusCode, Detail: "the answer cannot be read: " + err.Error(), Err: err}
		}
		return nil
	})
	return err
}

// ask is [Client.ask] for an answer of type T.
func ask[T any](ctx context.Context, c *Client, q *request) (T, error) {
	var out T
	err := c.ask(ctx, q, &out)
	return out, err
}

// path joins escaped segments: literal ones and, after each, one given part.
func path(format string, parts ...string) string {
	args := make([]any, len(parts))
	for i, p := range parts {
		args[i] = escape(p)
	}
	return fmt.Sprintf(format, args...)
}

// escape makes a segment of a path that arrives as it is, also if it is one that
// servers would resolve.
func escape(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// values are the query parameters that are not empty.
func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" && pairs[i+1] != "0" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

// Each goes through a list page by page. next asks for the page after a cursor.
func Each[T any](next func(cursor string) ([]T, NextCursor, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			items, after, err := next(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, x := range items {
				if !yield(x, nil) {
					return
				}
			}
			if after == nil || *after == "" {
				return
			}
			cursor = *after
		}
	}
}
