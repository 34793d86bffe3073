// Package sourcetest is the suite that every source of messages passes, and a
// source in memory.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/source"
)

// Place is a queue under test and what others do to it.
type Place struct {
	Source source.Source
	// Send sends a message. An empty id leaves the naming to the queue, if it names
	// messages.
	Send func(t *testing.T, id string, body []byte, headers map[string]string)
	// Left counts the messages that are not acknowledged, once no connection holds any.
	Left func(t *testing.T) int
	// Cut ends the connections that are there. Nil: there is nothing to cut.
	Cut func(t *testing.T)
	// Missing has no queue, Denied has wrong credentials; nil: there is no such thing.
	Missing, Denied source.Source
	// Names says that the queue keeps the id and the headers that a sender gives.
	Names bool
	// Hidden is how long a message that was handed out and neither acknowledged nor
	// returned stays away.
	Hidden time.Duration
}

// Run tests the places that fresh makes, each of them empty.
func Run(t *testing.T, fresh func(t *testing.T) *Place) {
	for name, test := range map[string]func(*testing.T, *Place){
		"messages":  messages,
		"again":     again,
		"returned":  returned,
		"cut":       cut,
		"refused":   refused,
		"many":      many,
		"end":       end,
		"late acks": late,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

func connect(t *testing.T, p *Place) source.Conn {
	t.Helper()
	c, err := p.Source.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it may have been cut
	return c
}

// receive returns n messages.
func receive(t *testing.T, c source.Conn, n int) []*source.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var all []*source.Message
	for len(all) < n {
		got, err := c.Receive(ctx, n-len(all))
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(all), n, err)
		}
		if len(got) == 0 || len(got) > n-len(all) {
			t.Fatalf("%d messages at once, wanted 1 to %d", len(got), n-len(all))
		}
		all = append(all, got...)
	}
	return all
}

func ack(t *testing.T, c source.Conn, msgs ...*source.Message) {
	t.Helper()
	if err := c.Ack(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

// wantLeft waits until so many messages are left.
func wantLeft(t *testing.T, p *Place, want int) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		n := p.Left(t)
		if n == want {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d messages are left, want %d", n, want)
		}
	}
}

func messages(t *testing.T, p *Place) {
	bodies := [][]byte{[]byte(`{"order":1}`), []byte("text, ünïcode"), []byte("<a href=\"x\">&amp;</a>"), bytes.Repeat([]byte("long "), 5000)}
	if p.Names { // others carry text only
		bodies = append(bodies, []byte{0, 1, 2, 0xff}, nil)
	}
	for i, b := range bodies {
		p.Send(t, fmt.Sprintf("id-%d", i), b, map[string]string{"color": "blue"})
	}
	c := connect(t, p)
	got := receive(t, c, len(bodies))
	ids := map[string]bool{}
	for _, m := range got {
		if i := slices.IndexFunc(bodies, func(b []byte) bool { return bytes.Equal(b, m.Body) }); i < 0 {
			t.Errorf("nobody sent %.100q", m.Body)
		} else if p.Names && (m.ID != fmt.Sprintf("id-%d", i) || m.Headers["color"] != "blue") {
			t.Errorf("message %d has the id %q and the headers %v", i, m.ID, m.Headers)
		}
		if m.ID == "" || ids[m.ID] || m.Redelivered || m.Deliveries != 1 {
			t.Errorf("%q was delivered %d times, again %t", m.ID, m.Deliveries, m.Redelivered)
		}
		ids[m.ID] = true
	}
	ack(t, c, got...)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantLeft(t, p, 0)
}

// again: what is not acknowledged comes again and says so, under the same id.
func again(t *testing.T, p *Place) {
	p.Send(t, "a", []byte("x"), nil)
	c := connect(t, p)
	first := receive(t, c, 1)[0]
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c = connect(t, p)
	m := receive(t, c, 1)[0]
	if m.ID != first.ID || !bytes.Equal(m.Body, first.Body) || !m.Redelivered || m.Deliveries < 2 {
		t.Errorf("it came again as %+v", m)
	}
	ack(t, c, m)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantLeft(t, p, 0)
}

// returned: what is given back comes again at once, with all it holds.
func returned(t *testing.T, p *Place) {
	p.Send(t, "a", []byte("<x> & y"), nil)
	c := connect(t, p)
	first := receive(t, c, 1)
	began := time.Now()
	if err := c.Return(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	m := receive(t, c, 1)[0]
	if m.ID != first[0].ID || string(m.Body) != "<x> & y" || !m.Redelivered {
		t.Errorf("it came again as %+v %q", m, m.Body)
	}
	if took := time.Since(began); p.Hidden > 0 && took >= p.Hidden {
		t.Errorf("it came again after %v, as if it had not been returned", took)
	}
	ack(t, c, m)
}

// cut: a connection that is gone is an error, and nothing is lost with it.
func cut(t *testing.T, p *Place) {
	if p.Cut == nil {
		return
	}
	p.Send(t, "a", []byte("x"), nil)
	c := connect(t, p)
	first := receive(t, c, 1)
	p.Cut(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Receive(ctx, 1); err == nil || ctx.Err() != nil {
		t.Errorf("receiving by a connection that was cut: %v", err)
	}
	if err := c.Ack(ctx, first); err == nil {
		t.Error("acknowledged by a connection that was cut")
	}
	c = connect(t, p)
	ack(t, c, receive(t, c, 1)...)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantLeft(t, p, 0)
}

func refused(t *testing.T, p *Place) {
	for name, x := range map[string]struct {
		s     source.Source
		kinds []waybill.Kind
	}{
		"missing": {p.Missing, []waybill.Kind{waybill.KindNotFound}},
		"denied":  {p.Denied, []waybill.Kind{waybill.KindUnauthorized, waybill.KindForbidden}},
	} {
		if x.s == nil {
			continue
		}
		c, err := x.s.Connect(t.Context())
		if err == nil {
			_ = c.Close() // the test has failed
		}
		if err == nil || !slices.Contains(x.kinds, waybill.KindOf(err)) {
			t.Errorf("%s: %v, want an error of %v", name, err, x.kinds)
		}
	}
}

// many: each message comes once while it is in hand, in whatever portions.
func many(t *testing.T, p *Place) {
	const n = 200
	for i := range n {
		p.Send(t, fmt.Sprintf("id-%03d", i), fmt.Appendf(nil, "%03d", i), nil)
	}
	c := connect(t, p)
	seen := map[string]bool{}
	for len(seen) < n {
		got := receive(t, c, min(16, n-len(seen)))
		for _, m := range got {
			if seen[string(m.Body)] {
				t.Errorf("%s came twice", m.Body)
			}
			seen[string(m.Body)] = true
		}
		ack(t, c, got...)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wantLeft(t, p, 0)
}

// end: a wait for messages ends with its context.
func end(t *testing.T, p *Place) {
	c := connect(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if got, err := c.Receive(ctx, 1); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("received %d messages, %v", len(got), err)
	}
}

// late: acknowledging what somebody else was handed meanwhile does no harm.
func late(t *testing.T, p *Place) {
	if p.Hidden == 0 {
		return // messages are not taken away from a connection
	}
	p.Send(t, "a", []byte("x"), nil)
	slow, quick := connect(t, p), connect(t, p)
	first := receive(t, slow, 1)
	second := receive(t, quick, 1) // once it is visible again
	ack(t, slow, first...)
	ack(t, quick, second...)
	wantLeft(t, p, 0)
}
