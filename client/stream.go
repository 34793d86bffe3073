package client

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

// FollowEvents calls f for each record of a run after the cursor, as they are
// written, until the run has ended and all was told, f fails or ctx ends. A
// connection that breaks is taken up again where it broke, as long as the server
// comes back within the time for repetitions.
func (c *Client) FollowEvents(ctx context.Context, run, after string, f func(Record) error) error {
	lost := time.Time{} // since when nothing was heard
	for {
		heard := false
		ended, err := c.eventStream(ctx, run, &after, func(r Record) error { heard = true; return f(r) })
		if ended || err == nil || ctx.Err() != nil || !errors.As(err, new(*brokenStream)) {
			return err
		}
		if heard || lost.IsZero() {
			lost = time.Now()
		}
		if c.retryFor < 0 || time.Since(lost) > c.retryFor {
			return &Error{Kind: waybill.KindUnavailable, Detail: "the events broke off: " + err.Error(), Err: err}
		}
		if err := c.sleep(ctx, time.Second/4); err != nil {
			return err
		}
	}
}

// brokenStream is an end that the server did not announce.
type brokenStream struct{ err error }

func (e *brokenStream) Error() string { return e.err.Error() }
func (e *brokenStream) Unwrap() error { return e.err }

// eventStream reads one stream. after is the cursor of the last record that f took.
func (c *Client) eventStream(ctx context.Context, run string, after *string, f func(Record) error) (ended bool, err error) {
	q := c.get(path("/api/v1/runs/%s/events", run), nil)
	q.header.Set("Accept", "text/event-stream")
	if *after != "" {
		q.header.Set("Last-Event-ID", *after)
	}
	res, err := c.open(ctx, q, nil)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	var name, data string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return false, &brokenStream{err}
		}
		field, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data += value
		case "":
			if value != "" || data == "" { // a comment, or nothing to tell
				continue
			}
			if name == "end" {
				return true, nil
			}
			var rec Record
			if err := json.Unmarshal([]byte(data), &rec); err != nil {
				return false, &Error{Kind: waybill.KindInternal, Detail: "an event cannot be read: " + err.Error(), Err: err}
			}
			if err := f(rec); err != nil {
				return true, err
			}
			*after = rec.Cursor
			name, data = "", ""
		}
	}
}

// Log copies the log of a run, or of one step or attempt, to w. A connection
// that breaks while a numbered attempt is read is taken up again; otherwise the
// error is of kind unavailable. Errors of w are returned as they are.
func (c *Client) Log(ctx context.Context, run string, p GetRunLogsParams, w io.Writer) error {
	out := &counter{w: w}
	first := p.Offset
	lost := time.Time{}
	for {
		before := out.n
		p.Offset = first + out.n
		err := c.logStream(ctx, run, p, out)
		var broken *brokenStream
		if out.err != nil {
			return out.err
		}
		if err == nil || ctx.Err() != nil || !errors.As(err, &broken) {
			return err
		}
		if out.n > before || lost.IsZero() {
			lost = time.Now()
		}
		if (out.n > 0 && p.Attempt == 0) || c.retryFor < 0 || time.Since(lost) > c.retryFor {
			return &Error{Kind: waybill.KindUnavailable, Detail: "the log broke off: " + broken.Error(), Err: broken}
		}
		if err := c.sleep(ctx, time.Second/4); err != nil {
			return err
		}
	}
}

func (c *Client) logStream(ctx context.Context, run string, p GetRunLogsParams, w io.Writer) error {
	q := values("step", p.Step, "attempt", strconv.Itoa(p.Attempt), "offset", strconv.FormatInt(p.Offset, 10))
	if p.Follow {
		q.Set("follow", "true")
	}
	res, err := c.open(ctx, c.get(path("/api/v1/runs/%s/logs", run), q), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &brokenStream{err}
	}
	return nil
}

// counter counts what w took and remembers its error.
type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

func objectPath(bucket, key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	// Two slashes in a row would be one for the server.
	return path("/api/v1/buckets/%s/objects", bucket) + strings.ReplaceAll("/"+strings.Join(parts, "/"), "//", "/%2F")
}

// PutObject stores the content of r as a new version and checks that what
// arrived is what was sent. Content that can seek is sent again when the server
// was not ready; anything else is read once.
func (c *Client) PutObject(ctx context.Context, bucket, key, contentType string, r io.Reader) (Object, error) {
	q := &request{method: http.MethodPut, path: objectPath(bucket, key), header: http.Header{}, size: -1}
	if contentType != "" {
		q.header.Set("Content-Type", contentType)
	}
	h := sha256.New()
	if s, ok := r.(io.ReadSeeker); ok {
		size, err := remaining(s)
		if err == nil {
			q.body, q.size, q.again = &hashingSeeker{s, h}, size, true
			q.header.Set("Idempotency-Key", waybill.NewSecret())
		}
	}
	if q.body == nil {
		q.body = io.TeeReader(r, h)
	}
	o, err := ask[Object](ctx, c, q)
	if err != nil {
		return o, err
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != o.Sha256 {
		return o, &Error{Kind: waybill.KindInternal, Detail: "the server stored other content than was sent: SHA-256 " + o.Sha256 + ", want " + sum}
	}
	return o, nil
}

// remaining is how many bytes are left to read, an error if that is not known.
func remaining(s io.Seeker) (int64, error) {
	if f, ok := s.(*os.File); ok {
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return 0, errors.New("not a regular file")
		}
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	end, err := s.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	_, err = s.Seek(at, io.SeekStart)
	return end - at, err
}

// hashingSeeker hashes what is read since it was last rewound.
type hashingSeeker struct {
	s io.ReadSeeker
	h hash.Hash
}

func (h *hashingSeeker) Read(b []byte) (int, error) {
	n, err := h.s.Read(b)
	h.h.Write(b[:n])
	return n, err
}

func (h *hashingSeeker) Seek(offset int64, whence int) (int64, error) {
	h.h.Reset()
	return h.s.Seek(offset, whence)
}

// Content is an object that is being read. Reading to its end checks it: content
// that is cut short or differs from its SHA-256 is an error. Close it.
type Content struct {
	Version     string
	SHA256      string // in hex
	Size        int64
	ContentType string

	body io.ReadCloser
	h    hash.Hash
	n    int64
}

// Object opens a version of an object, the current one when version is empty.
func (c *Client) Object(ctx context.Context, bucket, key, version string) (*Content, error) {
	q := c.get(objectPath(bucket, key), url.Values{})
	if version != "" {
		q.query.Set("version", version)
	}
	return c.content(ctx, q)
}

// OutputFile opens a file that an attempt of a step returned, the last one when attempt is
// 0. One that failed may have returned some.
func (c *Client) OutputFile(ctx context.Context, run, step, output string, attempt int) (*Content, error) {
	q := c.get(path("/api/v1/runs/%s/steps/%s/files/%s", run, step, output), url.Values{})
	if attempt > 0 {
		q.query.Set("attempt", strconv.Itoa(attempt))
	}
	return c.content(ctx, q)
}

func (c *Client) content(ctx context.Context, q *request) (*Content, error) {
	q.header.Set("Accept-Encoding", "identity") // compressed in between, it would have another length
	res, err := c.open(ctx, q, nil)
	if err != nil {
		return nil, err
	}
	o := &Content{Version: res.Header.Get("Waybill-Version"), Size: res.ContentLength, ContentType: res.Header.Get("Content-Type"), body: res.Body, h: sha256.New()}
	if v, ok := strings.CutPrefix(res.Header.Get("Repr-Digest"), "sha-256=:"); ok {
		if sum, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(v, ":")); err == nil {
			o.SHA256 = hex.EncodeToString(sum)
		}
	}
	return o, nil
}

// Read implements io.Reader.
func (o *Content) Read(b []byte) (int, error) {
	n, err := o.body.Read(b)
	o.h.Write(b[:n])
	o.n += int64(n)
	switch {
	case err == io.EOF:
		if sum := hex.EncodeToString(o.h.Sum(nil)); o.SHA256 != "" && sum != o.SHA256 {
			return n, &Error{Kind: waybill.KindInternal, Detail: "the content differs from its SHA-256 " + o.SHA256}
		}
	case err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		err = &Error{Kind: waybill.KindUnavailable, Detail: "the content broke off after " + strconv.FormatInt(o.n, 10) + " bytes: " + err.Error(), Err: err}
	}
	return n, err
}

// Close implements io.Closer.
func (o *Content) Close() error { return o.body.Close() }
