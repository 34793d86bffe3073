// Package outbound tells other systems what becomes of deliveries.
//
// [Outbound] reads the events of every partition in their order and asks each [Sink] what
// it has to tell of them. The messages, and how far the events were read, are one commit;
// then the queue sends them. So every change is told at least once, however often servers
// are killed and whoever is away meanwhile, and with the same id each time. What a sink
// has named by one id it tells once, unless a server dies between the sending and the
// note of it.
//
// Without a sink nothing is read. What was taken in more than [MaxAge] before it is read
// is not told: a sink that is configured today does not tell of last month.
package outbound

import (
	"context"
	"encoding/json"
	"time"

	"github.com/waybill-run/waybill"
)

// MaxAge is how old an event may be when sinks are asked what to tell of it.
const MaxAge = 24 * time.Hour

// Change is an event that was taken in and the deployments that it began or changed.
type Change struct {
	Partition string
	Event     waybill.DeliveryEvent
	Action    waybill.ReportAction
	// Deployments are as they are now, which may be later than the event.
	Deployments []waybill.Deployment
}

// Message is one thing that a sink tells.
type Message struct {
	// ID names what is told, within the sink, for all time: the same thing (this run of
	// this stage of this deployment has succeeded) has the same id, whichever event it
	// was learned from. What was told is not planned again.
	ID string `json:"id"`
	// Lane: messages of one lane are sent one after the other, in the order in which they
	// were planned. Empty means that the order does not matter.
	Lane string `json:"lane,omitempty"`
	// Body is what Send needs, JSON. It is stored, so it holds no secrets.
	Body json.RawMessage `json:"body"`
}

// Sink is a system that is told. Its methods must be safe for concurrent use.
type Sink interface {
	// Name tells sinks apart. It is part of what is stored, so it must stay the same.
	Name() string
	// Plan says what to tell of a change. It sends nothing, and must say the same
	// whenever it is asked the same. What is none of the sink's business gives none. An
	// error of KindInvalid leaves the change out; any other is asked again, and holds up
	// what comes after it.
	Plan(ctx context.Context, c Change) ([]Message, error)
	// Send tells it, within the time of ctx. A message may be sent more than once. An
	// error of KindInvalid, KindMalformed or KindTooLarge is final: the message becomes a
	// dead letter. Any other is tried again, for about a day: after RetryAfter, when it
	// is a *waybill.Error that has one.
	Send(ctx context.Context, m Message) error
}
