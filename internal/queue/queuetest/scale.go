package queuetest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// slower is how much more a claim may cost on a full store than on an empty one.
// What is looked for are costs that grow with the number of lanes or messages,
// which would be a factor of hundreds here.
const slower = 8

// scale is whether claims stay quick when there is much that does not concern
// them. It runs in real time.
func (s suite) scale(t *testing.T) {
	idle, messages := 50_000, 100_000
	switch {
	case os.Getenv("WAYBILL_CAMPAIGN") == "full":
		idle = 1_000_000
	case raceEnabled:
		idle, messages = 5_000, 10_000
	}
	t.Run("idle lanes", func(t *testing.T) {
		e := &env{T: t, Store: s.open(t, Schema(), nil)}
		few := e.claimTime(topic, "few")
		e.fill(topic, idle, idle, 24*time.Hour)
		e.compare("with idle lanes", few, e.claimTime(topic, "many"))
		st := e.stat()
		if st.Depth != int64(idle) || st.Lanes != int64(idle) || st.Leased != 0 {
			t.Errorf("topic: %+v, want %d lanes of one message", st, idle)
		}
	})
	t.Run("deep queue", func(t *testing.T) {
		e := &env{T: t, Store: s.open(t, Schema(), nil)}
		a := queue.NewAdmin(e.Store, int64(messages))
		few := e.claimTime(topic, "few")
		e.fill(topic, messages, 1000, 0)
		e.compare("with many messages ready", few, e.claimTime(topic, "many"))
		e.wantKind("Admit", a.Admit(e.ctx(), topic), waybill.KindExhausted)
		page, err := a.Messages(e.ctx(), topic, 1000, "")
		if err != nil || len(page.Items) != 1000 || page.Next == "" {
			t.Errorf("a page of the list has %d messages, %v", len(page.Items), err)
		}
		n, err := a.Purge(e.ctx(), topic, false, waybill.Principal{})
		if err != nil || n != int64(messages) {
			t.Errorf("Purge: %d, %v, want %d", n, err, messages)
		}
		if st := e.stat(); st.Depth != 0 || st.Lanes != 0 {
			t.Errorf("topic after the purge: %+v", st)
		}
	})
}

// fill sends many messages to some lanes.
func (e *env) fill(topic string, messages, lanes int, delay time.Duration) {
	e.Helper()
	const each = 1000
	for i := 0; i < messages; i += each {
		c := store.Commit{Sends: make([]store.Send, each)}
		for j := range c.Sends {
			c.Sends[j] = store.Send{Topic: topic, Key: fmt.Sprint("idle", (i+j)%lanes), Body: []byte("x"), Delay: delay, Priority: -1_000_000}
		}
		e.commit(c)
	}
}

// claimTime is how long it takes to send, claim and finish a message, at best: a
// busy machine makes some rounds slower, none faster.
func (e *env) claimTime(topic, name string) time.Duration {
	e.Helper()
	best := time.Hour
	for round := range 15 {
		start := time.Now()
		for i := range 10 {
			key := fmt.Sprint(name, "-", round, "-", i)
			e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: key, Body: []byte(key)}}})
			got, err := e.Claim(e.ctx(), store.ClaimRequest{Topic: topic, Owner: "n", Lanes: 1, Lease: time.Minute})
			if err != nil || len(got.Msgs) != 1 || got.Msgs[0].Key != key { // the others rank lower
				e.Fatalf("claim: %d messages, %v, want that of %s", len(got.Msgs), err, key)
			}
			e.commit(store.Commit{Done: got.Msgs[0]})
		}
		best = min(best, time.Since(start)/10)
	}
	return best
}

func (e *env) compare(what string, few, many time.Duration) {
	e.Helper()
	e.Logf("send, claim and finish: %v on an empty topic, %v %s", few, many, what)
	if many > slower*few+5*time.Millisecond {
		e.Errorf("%s a message takes %v, without %v", what, many, few)
	}
}
