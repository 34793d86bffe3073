package waybill

import (
	"context"
	"time"
)

// HookRequest is a request to the webhook of a pipeline. Who sends it is shown by its
// signature alone.
type HookRequest struct {
	Pipeline string
	Name     string              // of the webhook; empty for the one without
	Header   map[string][]string // with names in canonical form
	Body     []byte
}

// EventRequest publishes one or more events: CloudEvents 1.0 in one of the modes of its
// HTTP binding (binary, structured, batched).
type EventRequest struct {
	Header map[string][]string // with names in canonical form
	Body   []byte
	By     Principal
}

// Delivery says what became of an event that was delivered.
type Delivery struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Type   string `json:"type"`
	// Fresh: it was delivered for the first time. Otherwise Runs and Refused are those
	// of the first time.
	Fresh   bool         `json:"fresh"`
	Runs    []StartedRun `json:"runs"`
	Refused []Refusal    `json:"refused,omitempty"`
}

// StartedRun is a run that an event started.
type StartedRun struct {
	Pipeline string `json:"pipeline"`
	Run      string `json:"run"`
}

// Refusal says why an event started no run of a pipeline.
type Refusal struct {
	Pipeline string `json:"pipeline,omitempty"`
	Reason   string `json:"reason"`
	Dead     bool   `json:"dead_letter,omitempty"` // it waits as a dead letter of the topic "event"
}

// Events takes in what other systems tell.
type Events interface {
	// Deliver checks the signature of a request and starts the pipeline's run. A
	// delivery that was made before starts nothing and returns the run started then.
	// KindNotFound: there is no such webhook. KindUnauthorized: the signature is
	// missing, wrong or too old. KindMalformed, KindTooLarge: the body. KindInvalid: the
	// delivery's id was used with another body. KindExhausted: the queue is full.
	// Nothing is changed when an error is returned.
	Deliver(ctx context.Context, r HookRequest) ([]Delivery, error)
	// Publish starts every pipeline that has a trigger for an event, each once for
	// every (source, id).
	Publish(ctx context.Context, r EventRequest) ([]Delivery, error)
}

// Schedule is a schedule of a pipeline.
type Schedule struct {
	Pipeline string    `json:"pipeline"`
	Number   int       `json:"number"` // among those of the pipeline, from 1
	Text     string    `json:"text"`   // "0 2 * * * Europe/Paris", "every 15 minutes"
	Words    string    `json:"words"`  // "at 02:00 every day"
	Timezone string    `json:"timezone"`
	Catchup  string    `json:"catchup"`
	Overlap  string    `json:"overlap"`
	Next     time.Time `json:"next,omitzero"` // nominal; zero when paused, or when none is to come
	Last     time.Time `json:"last,omitzero"` // the newest nominal time that fired or was left out
	Paused   bool      `json:"paused,omitempty"`
	PausedBy string    `json:"paused_by,omitempty"`
	Fired    int64     `json:"fired"`   // nominal times that started a run
	Skipped  int64     `json:"skipped"` // nominal times that were left out
	Recent   []Firing  `json:"recent"`  // the newest, newest first
	Warnings []string  `json:"warnings,omitempty"`
}

// Firing is a nominal time and what became of it.
type Firing struct {
	Nominal time.Time `json:"nominal"`
	At      time.Time `json:"at"`
	Run     string    `json:"run,omitempty"`
	Catchup bool      `json:"catchup,omitempty"` // it was made up for
	Reason  string    `json:"reason,omitempty"`  // why it started no run
	Count   int       `json:"count,omitempty"`   // nominal times that were left out together, up to this one
}

// Schedules tells of schedules and pauses them.
type Schedules interface {
	// Schedules lists those of active pipelines in the order of their names.
	Schedules(ctx context.Context, limit int, cursor string) (Page[Schedule], error)
	Schedule(ctx context.Context, pipeline string, number int) (Schedule, error)
	// PauseSchedule stops or resumes a schedule. What passes while it is paused is not
	// made up for.
	PauseSchedule(ctx context.Context, pipeline string, number int, paused bool, by Principal) (Schedule, error)
}
