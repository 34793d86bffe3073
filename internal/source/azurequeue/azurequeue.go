// Package azurequeue takes messages from a queue of Azure Storage.
//
//	https://ACCOUNT:KEY@ACCOUNT.queue.core.windows.net     an account key, percent-encoded
//	https://ACCOUNT.queue.core.windows.net?SAS             a shared access signature
//	https://ACCOUNT.queue.core.windows.net                 the identity of the machine
package azurequeue

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	azqueue "github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/source"
)

// Options of a source.
type Options struct {
	// URL returns the address of the account with its credentials, anew for each
	// connection.
	URL        func(ctx context.Context) (string, error)
	Queue      string
	Visibility time.Duration // how long a message is hidden from others while it is in hand
	// Encoding of texts: "text", "base64", or "auto", which takes a text for base64 if
	// it stands for JSON.
	Encoding string
	// Poll is the longest pause between two looks at an empty queue; 0 means 5 s.
	Poll time.Duration
}

// Source is a queue.
type Source struct{ o Options }

var _ source.Source = (*Source)(nil)

// New returns a source.
func New(o Options) *Source {
	if o.Poll <= 0 {
		o.Poll = 5 * time.Second
	}
	return &Source{o}
}

// Connect implements source.Source.
func (s *Source) Connect(ctx context.Context) (source.Conn, error) {
	text, err := s.o.URL(ctx)
	if err != nil {
		return nil, err
	}
	q, err := s.client(text)
	if err != nil {
		return nil, err
	}
	if _, err := q.GetProperties(ctx, nil); err != nil {
		return nil, s.kind(err)
	}
	return &connection{s: s, q: q, pause: firstPause}, nil
}

func (s *Source) client(text string) (*azqueue.QueueClient, error) {
	bad := waybill.E(waybill.KindInvalid, "its URL cannot be read, want https://ACCOUNT:KEY@ACCOUNT.queue.core.windows.net")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, bad
	}
	user := u.User
	u.User = nil
	u = u.JoinPath(s.o.Queue)
	// A transport that fails is told at once: the loop around it waits and tries again.
	o := &azqueue.ClientOptions{ClientOptions: policy.ClientOptions{Retry: policy.RetryOptions{MaxRetries: 1, TryTimeout: 30 * time.Second}}}
	switch {
	case user != nil:
		key, _ := user.Password()
		credential, err := azqueue.NewSharedKeyCredential(user.Username(), key)
		if err != nil {
			return nil, waybill.E(waybill.KindInvalid, "the account key in its URL is not base64")
		}
		return ok(azqueue.NewQueueClientWithSharedKeyCredential(u.String(), credential, o))
	case u.RawQuery != "":
		return ok(azqueue.NewQueueClientWithNoCredential(u.String(), o))
	}
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, waybill.E(waybill.KindUnauthorized, "this machine has no Azure identity: %v", err)
	}
	return ok(azqueue.NewQueueClient(u.String(), credential, o))
}

func ok(q *azqueue.QueueClient, err error) (*azqueue.QueueClient, error) {
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "its URL is not accepted")
	}
	return q, nil
}

// kind gives an error of the service its kind.
func (s *Source) kind(err error) error {
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		var u *url.Error
		if errors.As(err, &u) { // its text shows the URL, in which a signature may stand
			err = u.Err
		}
		return waybill.E(waybill.KindUnavailable, "Azure queue: %w", err)
	}
	switch e.StatusCode {
	case http.StatusNotFound:
		return waybill.E(waybill.KindNotFound, "the account has no queue %s", s.o.Queue)
	case http.StatusUnauthorized:
		return waybill.E(waybill.KindUnauthorized, "Azure queue: %s", e.ErrorCode)
	case http.StatusForbidden:
		return waybill.E(waybill.KindForbidden, "Azure queue: %s", e.ErrorCode)
	}
	return waybill.E(waybill.KindUnavailable, "Azure queue: %d %s", e.StatusCode, e.ErrorCode)
}

type connection struct {
	s     *Source
	q     *azqueue.QueueClient
	pause time.Duration
}

const (
	firstPause = 100 * time.Millisecond
	most       = 32 // messages that the service hands out at once
)

// handle also keeps the text: what is updated gets a text anew.
type handle struct{ id, receipt, text string }

// Receive implements source.Conn. An empty queue is looked at again after a pause
// that grows: the service has no way to wait.
func (c *connection) Receive(ctx context.Context, limit int) ([]*source.Message, error) {
	n, hidden := int32(min(limit, most)), int32(max(c.s.o.Visibility/time.Second, 1))
	for {
		res, err := c.q.DequeueMessages(ctx, &azqueue.DequeueMessagesOptions{NumberOfMessages: &n, VisibilityTimeout: &hidden})
		if err != nil {
			return nil, c.s.kind(err)
		}
		if len(res.Messages) > 0 {
			c.pause = firstPause
			out := make([]*source.Message, 0, len(res.Messages))
			for _, m := range res.Messages {
				out = append(out, c.message(m))
			}
			return out, nil
		}
		t := time.NewTimer(c.pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
		c.pause = min(2*c.pause, c.s.o.Poll)
	}
}

func (c *connection) message(m *azqueue.DequeuedMessage) *source.Message {
	out := &source.Message{Headers: map[string]string{}, Deliveries: 1}
	var h handle
	if m.MessageID != nil {
		out.ID, h.id = *m.MessageID, *m.MessageID
	}
	if m.PopReceipt != nil {
		h.receipt = *m.PopReceipt
	}
	if m.InsertionTime != nil {
		out.Time = m.InsertionTime.UTC()
	}
	if m.DequeueCount != nil {
		out.Deliveries = int(*m.DequeueCount)
	}
	out.Redelivered = out.Deliveries > 1
	if m.MessageText != nil {
		h.text = *m.MessageText
		out.Body = c.body(h.text)
	}
	out.Handle = h
	return out
}

// body is the text of a message without its encoding. What is not encoded as it
// should be is handed on as it is.
func (c *connection) body(text string) []byte {
	raw, err := base64.StdEncoding.DecodeString(text)
	switch {
	case c.s.o.Encoding == "text", err != nil:
		return []byte(text)
	case c.s.o.Encoding == "base64":
		return raw
	}
	// A number or a word may look like base64; JSON that does stands in brackets.
	if len(raw) > 1 && (raw[0] == '{' || raw[0] == '[') && json.Valid(raw) {
		return raw
	}
	return []byte(text)
}

// Ack implements source.Conn.
func (c *connection) Ack(ctx context.Context, msgs []*source.Message) error {
	return c.each(ctx, msgs, func(h handle) error {
		_, err := c.q.DeleteMessage(ctx, h.id, h.receipt, nil)
		return err
	})
}

// Return implements source.Conn.
func (c *connection) Return(ctx context.Context, msgs []*source.Message) error {
	now := int32(0)
	return c.each(ctx, msgs, func(h handle) error {
		_, err := c.q.UpdateMessage(ctx, h.id, h.receipt, h.text, &azqueue.UpdateMessageOptions{VisibilityTimeout: &now})
		return err
	})
}

func (c *connection) each(_ context.Context, msgs []*source.Message, f func(handle) error) error {
	for _, m := range msgs {
		h, good := m.Handle.(handle)
		if !good {
			return waybill.E(waybill.KindInternal, "a message of another connection")
		}
		err := f(h)
		var e *azcore.ResponseError
		if errors.As(err, &e) && (e.StatusCode == http.StatusNotFound || e.StatusCode == http.StatusBadRequest) {
			continue // somebody else has it by now
		}
		if err != nil {
			return c.s.kind(err)
		}
	}
	return nil
}

// Close implements source.Conn.
func (c *connection) Close() error { return nil }
