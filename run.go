package waybill

import (
	"encoding/json"
	"strconv"
	"time"
)

// Run is one execution of a pipeline. It keeps the version of the definition it
// started with.
type Run struct {
	ID       string `json:"id"`
	Tenant   string `json:"tenant"`
	Pipeline string `json:"pipeline"`
	Version  int    `json:"version"`
	Status   Status `json:"status"`
	Error    string `json:"error,omitempty"` // why it did not succeed
	Event    Event  `json:"event"`           // what started it
	// Labels are those of its definition, by which runs can be found.
	Labels map[string]string `json:"labels,omitempty"`

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
	Outputs    Vars      `json:"outputs"`             // what the pipeline declares as its results
	Paused     string    `json:"paused_by,omitempty"` // who paused it: no new step begins
	Parent     *Parent   `json:"parent,omitempty"`    // the step that started it, of a sub-pipeline
	Slots      []Slot    `json:"slots,omitempty"`     // places it needs, in the order in which they are taken
	Held       int       `json:"slots_held,omitempty"`
	// Failed is the step whose failure the run has; those of on_failure and always that
	// fail later do not change it.
	Failed string `json:"failed_step,omitempty"`
	Group  string `json:"group,omitempty"` // the steps it is at: "", on_failure, always
	// Forced: it was canceled again, so that the steps of always end too. HandlerFailed: a
	// step of on_failure has failed.
	Forced        bool `json:"forced,omitempty"`
	Keep          int  `json:"keep_seconds,omitempty"` // how long it is kept after its end; 0 is as the server does
	HandlerFailed bool `json:"handler_failed,omitempty"`
}

// Parent is the step that started a run.
type Parent struct {
	Run     string `json:"run"`
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
	Depth   int    `json:"depth"` // 1 for the run of a sub-pipeline, 2 for one started by that, …
}

// Slot is a place that a run takes from its start to its end. At most Limit runs hold
// the slot of a key at once, over all servers.
type Slot struct {
	Key    string     `json:"key"`
	Limit  int        `json:"limit"`
	Policy SlotPolicy `json:"policy"`
}

// SlotPolicy says what happens to a run that finds no place.
type SlotPolicy string

// The policies.
const (
	SlotQueue  SlotPolicy = "queue"  // it waits, in the order of priority and then of arrival
	SlotSkip   SlotPolicy = "skip"   // it ends as skipped
	SlotCancel SlotPolicy = "cancel" // the oldest run that holds a place is canceled and it waits for that
)

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
	Group      string    `json:"group,omitempty"`         // "on_failure" or "always"; empty for the others
	Allowed    bool      `json:"allow_failure,omitempty"` // its failure is not the run's
	Reused     string    `json:"reused_from,omitempty"`   // the run whose result it is, in a run that repeats another
	Cells      *Cells    `json:"cells,omitempty"`         // of a step with a matrix: its cells
	Cell       *Cell     `json:"cell,omitempty"`          // of a cell
	Set        Vars      `json:"set"`                     // of a cell: variables that the run takes when all cells have ended
}

// Cells sums up the cells of a step with a matrix. Each cell is a step of its own, named
// after the step and its number from 0: "crunch.7".
type Cells struct {
	Total     int `json:"total"`
	Next      int `json:"next"` // cells before it have begun
	Running   int `json:"running"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"` // ended otherwise, canceled ones left out
	Canceled  int `json:"canceled"`

	First      string `json:"first_failed,omitempty"` // the cell that failed first
	FirstIndex int    `json:"first_failed_index,omitempty"`
}

// Cell is the place of a cell in its matrix.
type Cell struct {
	Of     string `json:"of"`    // the step with the matrix
	Index  int    `json:"index"` // from 0
	Values Vars   `json:"values"`
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
	Image       string          `json:"image,omitempty"` // of a container, with its digest
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
	LogsLost    string          `json:"logs_lost,omitempty"` // why the log is not complete
	Truncated   bool            `json:"log_truncated,omitempty"`
	QueuedAt    time.Time       `json:"queued_at"`
	StartedAt   time.Time       `json:"started_at,omitzero"` // the unit began to run
	HeartbeatAt time.Time       `json:"heartbeat_at,omitzero"`
	Progress    string          `json:"progress,omitempty"`
	FinishedAt  time.Time       `json:"finished_at,omitzero"`
	Deadline    time.Time       `json:"deadline,omitzero"` // when its timeout passes, moved by time the server was down
	Until       time.Time       `json:"until,omitzero"`    // of a wait: when it is over
	Approval    *Approval       `json:"approval,omitempty"`
	Child       string          `json:"child,omitempty"` // the run of a sub-pipeline
}

// Approval is the question of an approval step, and its answer.
type Approval struct {
	Message   string    `json:"message,omitempty"`
	Role      Role      `json:"role"`                // who may answer, at least
	Approvers []string  `json:"approvers,omitempty"` // names of tokens that may answer; empty for all with the role
	Form      []Field   `json:"form,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Decision  Decision  `json:"decision,omitempty"` // empty while it is open
	By        string    `json:"by,omitempty"`
	Comment   string    `json:"comment,omitempty"`
	Values    Vars      `json:"values"` // what was filled into the form
	At        time.Time `json:"at,omitzero"`
}

// Decision is the answer to an approval.
type Decision string

// The decisions.
const (
	Approved Decision = "approved"
	Rejected Decision = "rejected"
	Expired  Decision = "expired" // nobody answered in time
)

// Field is a field of an approval's form.
type Field struct {
	Name        string    `json:"name"`
	Type        ValueType `json:"type"`
	Description string    `json:"description,omitempty"`
	Required    bool      `json:"required,omitempty"`
	Default     Value     `json:"default,omitempty"`
	Enum        []Value   `json:"enum,omitempty"`
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
	Type    string          `json:"type"`   // "http", "object", "schedule", or as its sender says
	Source  string          `json:"source"` // "/pipelines/nightly-report", "/buckets/inbox"
	Subject string          `json:"subject,omitempty"`
	Time    time.Time       `json:"time"`
	Object  *Object         `json:"object,omitempty"` // with type "object"
	Data    json.RawMessage `json:"data,omitempty"`
	// Headers came with a message of another system's queue.
	Headers map[string]string `json:"headers,omitempty"`
	// Traceparent is that of whoever made the event, if it gave one (W3C Trace Context,
	// an extension of CloudEvents).
	Traceparent string `json:"traceparent,omitempty"`
	// Hops counts the arrivals that led to this one, itself included; 0 of an event that
	// is none, such as a start by request.
	Hops int `json:"hops,omitempty"`
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
	Problem   string    `json:"problem,omitempty"`  // its file has a mistake now; this is the version before
	Warnings  []string  `json:"warnings,omitempty"` // what is allowed and probably not meant, with its place
}
