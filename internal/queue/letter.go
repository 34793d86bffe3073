package queue

import (
	"encoding/json"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// EventDead is the kind of the event that tells of a new dead letter. Its subject
// is "queue/TOPIC", its data a [DeadEvent].
const EventDead = "letter.dead"

// DeadEvent says which message was buried and why.
type DeadEvent struct {
	Topic  string `json:"topic"`
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// maxReason bounds the reason in an event; the letter has all of it.
const maxReason = 2000

func buriedEvent(m *store.Msg, reason string, at time.Time) store.Event {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	b, err := json.Marshal(DeadEvent{m.Topic, m.Key, reason})
	if err != nil {
		b = nil // three strings; this cannot happen
	}
	return store.Event{Subject: "queue/" + m.Topic, Kind: EventDead, Data: b, At: at}
}

// Letter is a message that is a dead letter from the beginning: it was accepted, and it
// is known that its handler could do nothing with it. Sent again, it goes to that
// handler. The put and the event belong into the commit that accepts it.
func Letter(topic, key string, body []byte, reason string, at time.Time) (store.Put, store.Event, error) {
	at = at.UTC()
	val, err := json.Marshal(store.DeadLetter{Topic: topic, Key: key, Body: body, Reason: reason, SentAt: at, DeadAt: at})
	if err != nil {
		return store.Put{}, store.Event{}, err
	}
	return store.Put{Table: store.DeadTable, Key: topic + "/" + waybill.NewID(at), Val: val},
		buriedEvent(&store.Msg{Topic: topic, Key: key}, reason, at), nil
}
