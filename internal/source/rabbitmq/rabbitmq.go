// Package rabbitmq takes messages from a queue of RabbitMQ, or of another broker
// that speaks AMQP 0-9-1. The queue must exist; nothing is declared.
//
// The broker does not confirm acknowledgments. One that is lost with its connection
// makes the message come again, marked as delivered before.
package rabbitmq

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/source"
)

// Options of a source.
type Options struct {
	// URL returns the address with its credentials, anew for each connection.
	URL      func(ctx context.Context) (string, error)
	Queue    string
	Prefetch int // messages that the broker hands out before they are acknowledged
}

// Source is a queue.
type Source struct{ o Options }

var _ source.Source = (*Source)(nil)

// New returns a source.
func New(o Options) *Source { return &Source{o} }

const (
	dialTimeout = 10 * time.Second
	heartbeat   = 10 * time.Second
)

// Connect implements source.Source.
func (s *Source) Connect(ctx context.Context) (source.Conn, error) {
	url, err := s.o.URL(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := amqp.ParseURI(url); err != nil {
		// What the parser says shows the URL, which holds credentials.
		return nil, waybill.E(waybill.KindInvalid, "its URL cannot be read, want amqp://USER:PASSWORD@HOST:PORT/VHOST")
	}
	conn, err := amqp.DialConfig(url, amqp.Config{
		Heartbeat: heartbeat, Dial: amqp.DefaultDial(dialTimeout),
		Properties: amqp.Table{"product": "waybill", "connection_name": "waybill " + s.o.Queue},
	})
	if err != nil {
		return nil, s.kind(err)
	}
	c := &connection{s: s, conn: conn}
	if err := c.open(); err != nil {
		return nil, errors.Join(s.kind(err), c.Close())
	}
	return c, nil
}

// kind gives an error of the broker its kind.
func (s *Source) kind(err error) error {
	if err == nil {
		return nil
	}
	var e *amqp.Error
	if errors.As(err, &e) {
		k := waybill.KindUnavailable
		switch e.Code {
		case amqp.NotFound:
			return waybill.E(waybill.KindNotFound, "the broker has no queue %s", s.o.Queue)
		case amqp.AccessRefused:
			k = waybill.KindForbidden
			if e.Reason == amqp.ErrCredentials.Reason {
				k = waybill.KindUnauthorized
			}
		case amqp.ErrVhost.Code, amqp.ResourceLocked:
			k = waybill.KindForbidden
		}
		return waybill.E(k, "RabbitMQ: %s", e.Reason)
	}
	return waybill.E(waybill.KindUnavailable, "RabbitMQ: %w", err)
}

type connection struct {
	s    *Source
	conn *amqp.Connection
	ch   *amqp.Channel
	in   <-chan amqp.Delivery

	mu  sync.Mutex
	end error // why the channel was closed
}

func (c *connection) open() error {
	var err error
	if c.ch, err = c.conn.Channel(); err != nil {
		return err
	}
	closed := c.ch.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		if e := <-closed; e != nil {
			c.mu.Lock()
			c.end = e
			c.mu.Unlock()
		}
	}()
	if err := c.ch.Qos(c.s.o.Prefetch, 0, false); err != nil {
		return err
	}
	c.in, err = c.ch.Consume(c.s.o.Queue, "", false, false, false, false, nil)
	return err
}

// lost is the error of a channel that was closed.
func (c *connection) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		return c.s.kind(c.end)
	}
	return waybill.E(waybill.KindUnavailable, "RabbitMQ: the connection is closed")
}

// Receive implements source.Conn.
func (c *connection) Receive(ctx context.Context, limit int) ([]*source.Message, error) {
	var out []*source.Message
	add := func(d amqp.Delivery, ok bool) error {
		if !ok {
			return c.lost()
		}
		out = append(out, message(d))
		return nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case d, ok := <-c.in:
		if err := add(d, ok); err != nil {
			return nil, err
		}
	}
	for len(out) < limit {
		select {
		case d, ok := <-c.in:
			if err := add(d, ok); err != nil {
				return nil, err
			}
			continue
		default:
		}
		break
	}
	return out, nil
}

func message(d amqp.Delivery) *source.Message {
	m := &source.Message{
		ID: d.MessageId, Body: d.Body, ContentType: d.ContentType, Subject: d.RoutingKey, Time: d.Timestamp,
		Deliveries: 1, Redelivered: d.Redelivered, Headers: map[string]string{}, Handle: d.DeliveryTag,
	}
	if d.Redelivered {
		m.Deliveries = 2
	}
	for k, v := range d.Headers {
		m.Headers[k] = text(v)
	}
	// Queues that keep a quorum count; the count is of those before this one.
	if n, err := strconv.Atoi(m.Headers["x-delivery-count"]); err == nil {
		m.Deliveries = n + 1
	}
	for k, v := range map[string]string{"correlation-id": d.CorrelationId, "reply-to": d.ReplyTo, "type": d.Type, "app-id": d.AppId} {
		if _, there := m.Headers[k]; v != "" && !there {
			m.Headers[k] = v
		}
	}
	return m
}

// text is a value of a header as text.
func text(v any) string {
	switch x := v.(type) {
	case string:
		return x
	case []byte:
		return base64.StdEncoding.EncodeToString(x)
	case time.Time:
		return x.UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// Ack implements source.Conn.
func (c *connection) Ack(_ context.Context, msgs []*source.Message) error {
	return c.each(msgs, func(tag uint64) error { return c.ch.Ack(tag, false) })
}

// Return implements source.Conn.
func (c *connection) Return(_ context.Context, msgs []*source.Message) error {
	return c.each(msgs, func(tag uint64) error { return c.ch.Nack(tag, false, true) })
}

func (c *connection) each(msgs []*source.Message, f func(uint64) error) error {
	for _, m := range msgs {
		tag, ok := m.Handle.(uint64)
		if !ok {
			return waybill.E(waybill.KindInternal, "a message of another connection")
		}
		if err := f(tag); err != nil {
			return c.s.kind(err)
		}
	}
	return nil
}

// Close implements source.Conn.
func (c *connection) Close() error {
	err := c.conn.CloseDeadline(time.Now().Add(5 * time.Second))
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}
