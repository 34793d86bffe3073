package sourcetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/source"
)

// Fake is a queue in memory that hands out messages until they are acknowledged.
type Fake struct {
	mu      sync.Mutex
	waiting []*source.Message
	held    map[*fakeConn]map[int]*source.Message
	next    int
	bell    chan struct{}
	Down    error // of everything; guarded by Do
}

// NewFake returns an empty queue.
func NewFake() *Fake {
	return &Fake{held: map[*fakeConn]map[int]*source.Message{}, bell: make(chan struct{})}
}

// Do runs f while nobody else uses the queue.
func (f *Fake) Do(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.ring()
}

func (f *Fake) ring() {
	close(f.bell)
	f.bell = make(chan struct{})
}

// Send adds a message.
func (f *Fake) Send(_ *testing.T, id string, body []byte, headers map[string]string) {
	f.Do(func() {
		f.next++
		f.waiting = append(f.waiting, &source.Message{ID: id, Body: body, Headers: headers, Handle: f.next})
	})
}

// Cut ends all connections.
func (f *Fake) Cut(*testing.T) {
	f.Do(func() {
		for c := range f.held {
			f.drop(c)
		}
	})
}

// drop gives back what a connection holds.
func (f *Fake) drop(c *fakeConn) {
	for _, m := range f.held[c] {
		m.Redelivered = true
		f.waiting = append(f.waiting, m)
	}
	delete(f.held, c)
}

// Left counts the messages that are not acknowledged.
func (f *Fake) Left(*testing.T) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.waiting)
	for _, h := range f.held {
		n += len(h)
	}
	return n
}

type fakeConn struct{ f *Fake }

// Connect implements source.Source.
func (f *Fake) Connect(context.Context) (source.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Down != nil {
		return nil, f.Down
	}
	c := &fakeConn{f}
	f.held[c] = map[int]*source.Message{}
	return c, nil
}

var errCut = waybill.E(waybill.KindUnavailable, "the connection is cut")

func (c *fakeConn) Receive(ctx context.Context, limit int) ([]*source.Message, error) {
	f := c.f
	for {
		f.mu.Lock()
		held, ok := f.held[c]
		bell := f.bell
		n := min(limit, len(f.waiting))
		if ok && f.Down == nil && n > 0 {
			out := make([]*source.Message, 0, n)
			for _, m := range f.waiting[:n] {
				m.Deliveries++
				held[m.Handle.(int)] = m
				copied := *m
				out = append(out, &copied)
			}
			f.waiting = f.waiting[n:]
			f.mu.Unlock()
			return out, nil
		}
		down := f.Down
		f.mu.Unlock()
		switch {
		case down != nil:
			return nil, down
		case !ok:
			return nil, errCut
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-bell:
		}
	}
}

func (c *fakeConn) Ack(_ context.Context, msgs []*source.Message) error {
	return c.each(msgs, func(*source.Message) {})
}

func (c *fakeConn) Return(_ context.Context, msgs []*source.Message) error {
	return c.each(msgs, func(m *source.Message) {
		m.Redelivered = true
		c.f.waiting = append(c.f.waiting, m)
	})
}

func (c *fakeConn) each(msgs []*source.Message, do func(*source.Message)) error {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	held, ok := f.held[c]
	if !ok {
		return errCut
	}
	for _, m := range msgs {
		h, ok := held[m.Handle.(int)]
		if !ok {
			return fmt.Errorf("message %v is not in hand", m.Handle)
		}
		delete(held, m.Handle.(int))
		do(h)
	}
	f.ring()
	return nil
}

func (c *fakeConn) Close() error {
	c.f.Do(func() { c.f.drop(c) })
	return nil
}
