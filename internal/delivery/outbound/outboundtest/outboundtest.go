// Package outboundtest is the suite that every sink of deliveries passes.
package outboundtest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
)

// Receiver is a server that takes down what it is sent.
type Receiver struct {
	*httptest.Server

	mu      sync.Mutex
	got     []Request
	answers []Answer
}

// Request is one that a receiver was sent.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         []byte
}

// Answer is what a receiver says.
type Answer struct {
	Status     int
	RetryAfter string
	Body       string
}

// NewReceiver starts a receiver that answers 200 with an empty object unless told
// otherwise, and ends with the test.
func NewReceiver(t testing.TB) *Receiver {
	r := &Receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.got = append(r.got, Request{q.Method, q.URL.RequestURI(), q.Header.Clone(), b})
		a := Answer{Status: http.StatusOK, Body: "{}"}
		if len(r.answers) > 0 {
			a, r.answers = r.answers[0], r.answers[1:]
		}
		r.mu.Unlock()
		if a.RetryAfter != "" {
			w.Header().Set("Retry-After", a.RetryAfter)
		}
		w.WriteHeader(a.Status)
		_, _ = io.WriteString(w, a.Body) // the sink may be gone
	}))
	t.Cleanup(r.Close)
	return r
}

// Answer sets what the next requests are answered; later ones are answered 200.
func (r *Receiver) Answer(list ...Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = list
}

// Got is what was received, in order.
func (r *Receiver) Got() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Request(nil), r.got...)
}

// Case is a sink to be tried.
type Case struct {
	// New makes a sink that calls a receiver and holds Secret.
	New func(t *testing.T, url, secret string) outbound.Sink
	// Change is one that the sink tells of, with at least one message.
	Change outbound.Change
}

const secret = "kept-to-itself-4711"

// Run holds a sink against the contract.
func Run(t *testing.T, c Case) {
	begin := func(t *testing.T) (*Receiver, outbound.Sink, []outbound.Message) {
		t.Helper()
		r := NewReceiver(t)
		s := c.New(t, r.URL, secret)
		list, err := s.Plan(t.Context(), c.Change)
		if err != nil || len(list) == 0 {
			t.Fatalf("planned %v, %v", list, err)
		}
		return r, s, list
	}
	t.Run("PlansTheSame", func(t *testing.T) {
		r, s, list := begin(t)
		again, err := s.Plan(t.Context(), c.Change)
		if err != nil || !reflect.DeepEqual(list, again) {
			t.Errorf("asked again, it plans %v, %v instead of %v", again, err, list)
		}
		if len(r.Got()) > 0 {
			t.Error("planning sent something")
		}
		seen := map[string]bool{}
		for _, m := range list {
			switch {
			case m.ID == "", seen[m.ID]:
				t.Errorf("id %q is empty or there twice", m.ID)
			case !json.Valid(m.Body):
				t.Errorf("body of %s is no JSON: %s", m.ID, m.Body)
			case strings.Contains(string(m.Body), secret):
				t.Errorf("body of %s holds a secret", m.ID)
			}
			seen[m.ID] = true
		}
		if n := s.Name(); n == "" || n != c.New(t, r.URL, secret).Name() {
			t.Errorf("its name is %q", n)
		}
	})
	t.Run("LeavesOutWhatIsNotItsBusiness", func(t *testing.T) {
		_, s, _ := begin(t)
		list, err := s.Plan(t.Context(), outbound.Change{Partition: "default", Event: waybill.DeliveryEvent{ID: "e", Seq: 1}, Action: waybill.ActionNone})
		if err != nil || len(list) > 0 {
			t.Errorf("of nothing it tells %v, %v", list, err)
		}
	})
	t.Run("Sends", func(t *testing.T) {
		r, s, list := begin(t)
		if err := s.Send(t.Context(), list[0]); err != nil {
			t.Fatal(err)
		}
		first := r.Got()
		if len(first) == 0 {
			t.Fatal("nothing arrived")
		}
		if err := s.Send(t.Context(), list[0]); err != nil {
			t.Fatalf("sent again: %v", err)
		}
	})
	final := func(err error) bool {
		k := waybill.KindOf(err)
		return k == waybill.KindInvalid || k == waybill.KindMalformed || k == waybill.KindTooLarge
	}
	t.Run("TriesAgain", func(t *testing.T) {
		for _, status := range []int{401, 403, 404, 429, 500, 502, 503} {
			r, s, list := begin(t)
			a := Answer{Status: status, RetryAfter: "7"}
			r.Answer(a, a, a, a)
			err := s.Send(t.Context(), list[0])
			if err == nil || final(err) {
				t.Errorf("after %d it says %v, and the message is lost", status, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds a secret: %v", err)
			}
		}
	})
	t.Run("GivesUp", func(t *testing.T) {
		r, s, list := begin(t)
		a := Answer{Status: http.StatusUnprocessableEntity, Body: "no such field"}
		r.Answer(a, a, a)
		if err := s.Send(t.Context(), list[0]); !final(err) {
			t.Errorf("after 422 it says %v, and tries again for a day", err)
		}
	})
	t.Run("IsAway", func(t *testing.T) {
		r, s, list := begin(t)
		r.Close()
		if err := s.Send(t.Context(), list[0]); err == nil || final(err) {
			t.Errorf("a receiver that is away gives %v", err)
		}
	})
	t.Run("Ends", func(t *testing.T) {
		_, s, list := begin(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Send(ctx, list[0]); err == nil {
			t.Error("it sent although its time was over")
		}
	})
}
