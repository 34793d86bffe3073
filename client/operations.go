package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/waybill-run/waybill"
)

// BackupOptions say what a backup holds.
type BackupOptions struct {
	Keys    string   // none (also when empty), plain, or a recipient of age to encrypt them for
	Project bool     // the files of the project folder
	Has     []string // SHA-256 of content that the caller has, which is left out
}

// Backup makes a backup of the running server. The archive is whole only when its
// last file is the manifest; close it.
func (c *Client) Backup(ctx context.Context, o BackupOptions) (io.ReadCloser, error) {
	text := strings.Join(o.Has, "\n")
	q := &request{method: http.MethodPost, path: "/api/v1/backup", query: url.Values{}, header: http.Header{}}
	if o.Keys != "" {
		q.query.Set("keys", o.Keys)
	}
	if o.Project {
		q.query.Set("project", "true")
	}
	if text != "" {
		q.header.Set("Content-Type", "text/plain")
		q.body, q.size = strings.NewReader(text), int64(len(text))
	}
	res, err := c.openSlowly(ctx, q)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// openSlowly is open for requests whose answer begins late: nothing but ctx limits
// the time until then.
func (c *Client) openSlowly(ctx context.Context, q *request) (*http.Response, error) {
	slow := *c
	h := *c.http
	if t, ok := h.Transport.(*http.Transport); ok {
		t = t.Clone()
		t.ResponseHeaderTimeout = 0
		t.DisableKeepAlives = true // the copy's connections are used once
		h.Transport = t
	}
	slow.http = &h
	return slow.open(ctx, q, nil)
}

// Doctor looks at all parts of the server; with deep it reads everything that is
// stored.
func (c *Client) Doctor(ctx context.Context, deep bool) (FindingList, error) {
	q := c.get("/api/v1/doctor", url.Values{})
	if deep {
		q.query.Set("deep", "true")
	}
	var l FindingList
	res, err := c.openSlowly(ctx, q)
	if err != nil {
		return l, err
	}
	defer res.Body.Close()
	if err := decode(res.Body, &l); err != nil {
		return l, &Error{Kind: waybill.KindUnavailable, Status: res.StatusCode, Detail: "the answer broke off: " + err.Error(), Err: err}
	}
	return l, nil
}

// DumpQueue copies the messages and dead letters of a topic to w, as lines of JSON.
func (c *Client) DumpQueue(ctx context.Context, topic string, w io.Writer) error {
	res, err := c.openSlowly(ctx, c.get(path("/api/v1/queues/%s/dump", topic), nil))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	out := &counter{w: w}
	if _, err := io.Copy(out, res.Body); err != nil {
		switch {
		case out.err != nil:
			return out.err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		return &Error{Kind: waybill.KindUnavailable, Detail: "the dump broke off after " + strconv.FormatInt(out.n, 10) + " bytes and is not whole: " + err.Error(), Err: err}
	}
	return nil
}

// FeedQueue puts lines of a dump into a topic. Feeding them again does nothing, so
// it is repeated when the server was not ready.
func (c *Client) FeedQueue(ctx context.Context, topic string, lines []byte, dry bool) (FeedResult, error) {
	q := &request{method: http.MethodPost, path: path("/api/v1/queues/%s/feed", topic), query: url.Values{}, again: true,
		header: http.Header{"Content-Type": {"application/x-ndjson"}}, body: bytes.NewReader(lines), size: int64(len(lines))}
	if dry {
		q.query.Set("dry", "true")
	}
	return ask[FeedResult](ctx, c, q)
}
