package waybill

import (
	"encoding/json"
	"strconv"
	"time"
)

// Run is one execution of a pipeline. It keeps the version of the definition it
// started with.
type Run struct {
	ID         string    `json:"id"`
	Tenant     string    `json:"tenant"`
	Pipeline   string    `json:"pipeline"`
	Version    int       `json:"version"`
	Status     Status    `json:"status"`
	Error      string    `json:"error,omitempty"` // why it did not succeed
	Event      Event     `json:"event"`           // what started it
	Params     Vars      `json:"params"`
	Given      Vars      `json:"given"` // variables given with the start
	Vars       Vars      `json:"vars"`
	Priority   int       `json:"priority,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	CancelBy   string    `json:"cancel_by,omitempty"` // who asked to cancel; set while and after canceling
	Of         string    `json:"retry_of,omitempty"`  // the run that this one repeats
	StepCount  int       `json:"step_count"`
	StepsDone  int       `json:"steps_done"`
}

// Step is one node of a run's graph.
type Step struct {
	Run        string    `json:"run"`
	Name       string    `json:"name"`
	Index      int       `json:"index"` // place in the definition
	Runner     string    `json:"runner"`
	Needs      []string  `json:"needs,omitempty"`
	Status     Status    `json:"status"`
	Error      string    `json:"error,omitempty"`
	ExitCode   *int      `json:"exit_code,omitempty"` // of the last attempt that ended by itself
	Attempts   int       `json:"attempts"`            // attempts made so far
	Failures   int       `json:"failures"`            // attempts that failed or timed out
	Losses     int       `json:"losses"`              // attempts whose unit was lost
	Outputs    Vars      `json:"outputs"`             // named results
	Added      []string  `json:"added,omitempty"`     // run variables that this step set
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Attempt is one try of a step, with its unit.
type Attempt struct {
	Tenant      string          `json:"tenant"`
	Run         string          `json:"run"`
	Step        string          `json:"step"`
	Number      int             `json:"number"` // from 1
	Unit        string          `json:"unit"`   // name of the unit, unique for ever
	Runner      string          `json:"runner"`
	Phase       Phase           `json:"phase"`
	Status      Status          `json:"status"`
	Reason      string          `json:"reason,omitempty"` // why it failed, as a word: no_callback, start_failed, …
	Error       string          `json:"error,omitempty"`  // why it failed, for people
	Node        string          `json:"node,omitempty"`   // server whose unit it is
	Handle      json.RawMessage `json:"handle,omitempty"`
	TokenHash   string          `json:"token_hash,omitempty"`
	ExitCode    *int            `json:"exit_code,omitempty"`
	Signal      string          `json:"signal,omitempty"`
	Cleanup     Cleanup         `json:"cleanup,omitempty"`
	CleanupErr  string          `json:"cleanup_error,omitempty"`
	Stop        string          `json:"stop,omitempty"` // the status it shall end with, asked for from outside
	Callback    *Callback       `json:"callback,omitempty"`
	Returned    Vars            `json:"returned"` // variables it returned, by file and callback
	LogTail     string          `json:"log_tail,omitempty"`
	LogBytes    int64           `json:"log_bytes,omitempty"`
	Truncated   bool            `json:"log_truncated,omitempty"`
	QueuedAt    time.Time       `json:"queued_at"`
	StartedAt   time.Time       `json:"started_at,omitzero"` // the unit began to run
	HeartbeatAt time.Time       `json:"heartbeat_at,omitzero"`
	Progress    string          `json:"progress,omitempty"`
	FinishedAt  time.Time       `json:"finished_at,omitzero"`
	Deadline    time.Time       `json:"deadline,omitzero"` // when its timeout passes, moved by time the server was down
}

// Callback is what a unit reported through its callback.
type Callback struct {
	Hash      string    `json:"hash"` // of the body, to tell a repetition from a contradiction
	Status    Status    `json:"status"`
	Error     string    `json:"error,omitempty"`
	Message   string    `json:"message,omitempty"`
	Variables Vars      `json:"variables"`
	At        time.Time `json:"at"`
}

// AttemptKey is the name of an attempt in the store, in URLs and in tokens.
func AttemptKey(run, step string, number int) string {
	return run + "/" + step + "/" + strconv.Itoa(number)
}

// Key returns the attempt's [AttemptKey].
func (a *Attempt) Key() string { return AttemptKey(a.Run, a.Step, a.Number) }

// RunDetail is a run with its steps and their attempts. Steps that have not
// begun are there as queued.
type RunDetail struct {
	Run
	Steps    []Step    `json:"steps"`
	Attempts []Attempt `json:"attempts"`
}

// Record is one line of a timeline: something that happened to a run, an object,
// a token. Data depends on Kind and is documented in docs/states.md.
type Record struct {
	Cursor  string          `json:"cursor"`
	Subject string          `json:"subject"`
	Kind    string          `json:"kind"`
	At      time.Time       `json:"at"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// Event is what arrived and started something. Its shape follows CloudEvents
// 1.0: id and source together are unique.
type Event struct {
	ID      string          `json:"id"`
	Type    string          `json:"type"`   // "http", "object"
	Source  string          `json:"source"` // "/pipelines/nightly-report", "/buckets/inbox"
	Subject string          `json:"subject,omitempty"`
	Time    time.Time       `json:"time"`
	Object  *Object         `json:"object,omitempty"` // with type "object"
	Data    json.RawMessage `json:"data,omitempty"`
}

// Object is one version of a named thing in a bucket.
type Object struct {
	Tenant      string    `json:"tenant,omitempty"`
	Bucket      string    `json:"bucket"`
	Key         string    `json:"key"`
	Version     string    `json:"version"` // a new id for every put
	Size        int64     `json:"size"`
	SHA256      string    `json:"sha256"`
	ContentType string    `json:"content_type,omitempty"`
	CreatedAt   time.Time `json:"created_at"`
	CreatedBy   string    `json:"created_by,omitempty"` // a person's token, or the attempt that made it
	Deleted     bool      `json:"deleted,omitempty"`    // this version says that the object was deleted
}

// Pipeline is one version of a definition.
type Pipeline struct {
	Tenant    string    `json:"tenant"`
	Name      string    `json:"name"`
	Version   int       `json:"version"` // counts from 1
	Hash      string    `json:"hash"`
	Origin    string    `json:"origin"` // "folder" (read-only in the API) or "api"
	File      string    `json:"file,omitempty"`
	Source    string    `json:"source"` // YAML
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	Summary   string    `json:"summary,omitempty"` // its description
	Triggers  []string  `json:"triggers"`          // "http", "object inbox/*.csv"
	Steps     []string  `json:"steps"`
}
