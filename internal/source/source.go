// Package source is the contract of queues of other systems, from which Waybill
// takes messages. Implementations pass internal/source/sourcetest.
package source

import (
	"context"
	"time"
)

// Source is a queue of another system.
type Source interface {
	// Connect makes a connection. KindUnauthorized, KindForbidden, KindNotFound and
	// KindUnavailable say what is wrong.
	Connect(ctx context.Context) (Conn, error)
}

// Conn is one connection. Its methods are called by one goroutine at a time, but
// for Close. After an error a new connection is made; messages that were neither
// acknowledged nor returned come again by themselves.
type Conn interface {
	// Receive waits for messages and returns up to max of them, at least one.
	Receive(ctx context.Context, max int) ([]*Message, error)
	// Ack tells the queue that messages are dealt with. A message that was handed to
	// somebody else meanwhile is left out without an error: it comes again, and is
	// known then.
	Ack(ctx context.Context, msgs []*Message) error
	// Return gives messages back, so that they come again soon.
	Return(ctx context.Context, msgs []*Message) error
	// Close ends the connection. Messages in hand come again.
	Close() error
}

// Message is one delivery.
type Message struct {
	ID          string // as the sender or the queue names it; empty when nobody does
	Body        []byte
	ContentType string
	Subject     string // what the queue calls it: a routing key; may be empty
	Headers     map[string]string
	Time        time.Time // when it was sent, zero when unknown
	// Deliveries is how often it was delivered, this one included, as far as the
	// queue counts. Redelivered says that it was delivered before.
	Deliveries  int
	Redelivered bool
	// Handle is for the connection that the message came by.
	Handle any
}
