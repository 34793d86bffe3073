package waybill

import (
	"context"
	"time"
)

// States of a provider that is polled.
const (
	ProviderWaiting = "waiting" // it was not asked yet
	ProviderOK      = "ok"
	ProviderPartly  = "partly" // it answers, but not all that it is asked: see Notes
	ProviderFailing = "failing"
	ProviderLimited = "limited" // it wants no calls before LimitedUntil
)

// DeliveryProvider tells how a provider fares that is polled for what deployments lack.
type DeliveryProvider struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	URL    string `json:"url"`
	Status string `json:"status"`
	// Stale: what deployments show of it may be older than two intervals, as it could not
	// be asked. Age is how old, in seconds; -1 when it never answered.
	Stale bool    `json:"stale"`
	Age   float64 `json:"age"`

	PolledAt time.Time `json:"polled_at,omitzero"` // begin of the last round
	FreshAt  time.Time `json:"fresh_at,omitzero"`  // begin of the last round in which it answered (see Notes)
	NextAt   time.Time `json:"next_at,omitzero"`
	Took     float64   `json:"took"`     // seconds, of the last round
	Interval float64   `json:"interval"` // seconds between rounds

	Calls        int64     `json:"calls"`       // in the last round
	CallsTotal   int64     `json:"calls_total"` // since the server that polls began
	Unchanged    int64     `json:"unchanged"`   // of CallsTotal: answered with "not modified"
	Left         int       `json:"left"`        // calls that the provider still takes, -1 where it does not tell
	LimitedUntil time.Time `json:"limited_until,omitzero"`

	Rows    int `json:"rows"`    // deployments that it is asked about
	Wanted  int `json:"wanted"`  // what the last round found to ask, lists of tags apart
	Reports int `json:"reports"` // that the last round made
	Tags    int `json:"tags"`    // clusters that its repositories tell of

	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Notes say what could not be looked up although the provider answers.
	Notes []string `json:"notes"`
	Node  string   `json:"node,omitempty"` // server that polls
}

// DeliveryProviders are the providers that are polled.
type DeliveryProviders interface {
	// DeliveryProviders lists them by name.
	DeliveryProviders(ctx context.Context) ([]DeliveryProvider, error)
}
