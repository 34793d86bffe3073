package waybill

import (
	"context"
	"io"
	"time"
)

// Role is what a token may do. Of viewer, operator and admin each may do all that the
// one before it may; the others stand beside them.
type Role string

// The roles.
const (
	RoleViewer   Role = "viewer"   // read everything but secrets
	RoleOperator Role = "operator" // start, cancel and retry; put and delete objects; work on queues
	RoleAdmin    Role = "admin"    // change definitions, tokens and settings
	RoleReporter Role = "reporter" // tell of deliveries, and nothing else
	RoleUnit     Role = "unit"     // of one attempt: its callback, objects and reports of deliveries
)

// Allows reports whether a caller of role r may do what needs the other role.
func (r Role) Allows(need Role) bool {
	if need == RoleReporter {
		return r == RoleReporter || r.Allows(RoleOperator)
	}
	rank := map[Role]int{RoleViewer: 1, RoleOperator: 2, RoleAdmin: 3}
	return rank[r] >= rank[need] && rank[need] > 0
}

// Principal is who makes a request.
type Principal struct {
	Name    string // token name, "local" on a loopback server, "attempt <key>", or "oidc:<name>"
	Tenant  string
	Role    Role
	Attempt string // key of the attempt, with RoleUnit
}

// Token describes an API token. The secret itself is shown once, when it is made.
type Token struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      Role      `json:"role"`
	Hash      string    `json:"hash,omitempty"` // never leaves the server
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
}

// StartRequest asks for a run.
type StartRequest struct {
	Pipeline       string
	Vars           Vars
	Params         Vars
	IdempotencyKey string
	Traceparent    string        // W3C Trace Context of the request, if it has one
	Delay          time.Duration // how long it waits before its first step; 0 does not
	Priority       *int          // nil is that of the pipeline
	By             Principal
}

// Answer is the answer to an approval.
type Answer struct {
	Decision Decision
	Comment  string
	Values   Vars // what was filled into the form, when approved
}

// SlotInfo describes a slot that is held.
type SlotInfo struct {
	Key     string   `json:"key"`
	Limit   int      `json:"limit"`
	Holders []string `json:"holders"` // runs
	Waiting int      `json:"waiting"`
}

// RunFilter selects runs. Empty fields select all; those that are given must all
// be met.
type RunFilter struct {
	Pipeline string
	Statuses []Status          // one of these
	Since    time.Time         // created at or after
	Until    time.Time         // created before
	Trigger  string            // type of the event that started it: "http", "schedule", "object", …
	Parent   string            // runs of sub-pipelines that this run started
	RetryOf  string            // runs that repeat this one
	Labels   map[string]string // all of these
	Limit    int               // 1 to 1000; 0 means 50
	Cursor   string
}

// Page is one page of a list, newest first unless said otherwise. Next is the cursor of the
// next page, empty on the last.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next_cursor"`
}

// Runs starts runs and tells of them.
type Runs interface {
	// StartRun accepts a run and returns once it is durable. With an idempotency
	// key seen before it returns the run started then and fresh=false, or
	// KindInvalid when the request differs. KindNotFound: no such pipeline.
	// KindInvalid: bad params or vars. KindExhausted: the queue is full.
	StartRun(ctx context.Context, r StartRequest) (run Run, fresh bool, err error)
	// PlanRun says what StartRun would do, and does nothing. Errors are as there.
	PlanRun(ctx context.Context, r StartRequest) (RunPlan, error)
	Run(ctx context.Context, id string) (RunDetail, error)
	Runs(ctx context.Context, f RunFilter) (Page[Run], error)
	// CancelRun asks a run to end; units are stopped, then the steps of always run.
	// Canceling a run that has ended is KindConflict, canceling twice is no error. With
	// force the steps of always end too, or do not begin.
	CancelRun(ctx context.Context, id, reason string, force bool, by Principal) (Run, error)
	// PauseRun keeps new steps of a run from beginning, or lets them begin again. What
	// runs goes on. Pausing twice is no error; KindConflict: the run has ended.
	PauseRun(ctx context.Context, id string, pause bool, by Principal) (Run, error)
	// Answer answers an approval. The first answer counts; the same one told again is no
	// error. KindForbidden: by may not. KindConflict: it was answered otherwise.
	// KindGone: it expired or ended. KindInvalid: the form is not filled in as it asks.
	Answer(ctx context.Context, run, step string, a Answer, by Principal) (Attempt, error)
	// Slots lists the slots that are held, by key.
	Slots(ctx context.Context, limit int, cursor string) (Page[SlotInfo], error)
	// RetryRun starts a new run like an ended one: same definition version, event,
	// params and variables. With from, steps before it keep their results and are
	// not run again.
	RetryRun(ctx context.Context, id, from string, by Principal) (Run, error)
	// Records returns up to n lines of a run's timeline after the cursor, oldest first.
	Records(ctx context.Context, run, after string, n int) ([]Record, error)
	// Follow calls f for each record of a run after the cursor, as they are
	// written, until the run has ended and all was told, f fails or ctx ends.
	Follow(ctx context.Context, run, after string, f func(Record) error) error
	// Log copies the log of a step (its last attempt when attempt is 0; all steps
	// in order when step is empty) to w. With follow it goes on until the run, or
	// the step that was named, has ended. The bytes are the units' own; a line
	// "==> step (attempt n) <==" stands before each part when several are written.
	Log(ctx context.Context, q LogQuery, w io.Writer) error
	// OutputFile opens a file that an attempt of a step returned, the last one when attempt
	// is 0; one that failed may have some. KindNotFound: there is none.
	OutputFile(ctx context.Context, run, step, output string, attempt int) (FileRef, io.ReadSeekCloser, error)
}

// LogQuery selects log text.
type LogQuery struct {
	Run     string
	Step    string
	Attempt int
	Follow  bool
	Offset  int64 // bytes to leave out, with a step named
}

// Callbacks is the protocol between a unit and its attempt. The token has been
// checked against the attempt before these are called.
type Callbacks interface {
	// Authenticate returns the principal of an attempt's token, KindUnauthorized
	// when there is none such, KindGone when the attempt is closed.
	Authenticate(ctx context.Context, token string) (Principal, error)
	// Complete reports variables and an outcome. first is true for the call that
	// counted, false for a repetition of it. KindConflict: another body was
	// accepted before. KindGone: the attempt is closed. KindInvalid, KindTooLarge:
	// the variables break a rule.
	Complete(ctx context.Context, attempt string, body []byte, contentType string) (first bool, err error)
	// SetVariables adds variables without completing; a later value wins.
	SetVariables(ctx context.Context, attempt string, vars Vars) error
	// Heartbeat says that the unit lives. stop is true when it should end itself.
	Heartbeat(ctx context.Context, attempt, progress string) (stop bool, err error)
}

// Pipelines keeps definitions.
type Pipelines interface {
	Pipelines(ctx context.Context, limit int, cursor string) (Page[Pipeline], error)
	// Pipeline returns one version, the newest when version is 0.
	Pipeline(ctx context.Context, name string, version int) (Pipeline, error)
	// ApplyPipeline checks and stores a definition; an unchanged one makes no new
	// version (fresh=false). KindConflict: it comes from the project folder.
	ApplyPipeline(ctx context.Context, source []byte, by Principal) (p Pipeline, fresh bool, err error)
	// ValidatePipeline returns what ApplyPipeline would refuse, as an error.
	ValidatePipeline(ctx context.Context, source []byte) (Pipeline, error)
	// PipelineGraph draws the newest version: "text", "dot" or "mermaid".
	PipelineGraph(ctx context.Context, name, format string) (string, error)
}

// Objects keeps named content in buckets. Buckets are made on the first put.
type Objects interface {
	// PutObject streams r into a new version of bucket/key. It returns when content, row
	// and arrival are durable. size is -1 when unknown. With an idempotency key a
	// repetition returns the version made then.
	PutObject(ctx context.Context, o Object, r io.Reader, idempotencyKey string, by Principal) (Object, error)
	// Object returns a version (the current one when version is empty). KindNotFound
	// also when the current version is a deletion.
	Object(ctx context.Context, bucket, key, version string) (Object, error)
	// OpenObject returns its content as well.
	OpenObject(ctx context.Context, bucket, key, version string) (Object, io.ReadSeekCloser, error)
	// ObjectList lists current versions in key order.
	ObjectList(ctx context.Context, bucket, prefix string, limit int, cursor string) (Page[Object], error)
	Buckets(ctx context.Context) ([]string, error)
	// DeleteObject adds a version that says it is deleted. KindNotFound when there is none.
	DeleteObject(ctx context.Context, bucket, key string, by Principal) error
}

// QueueInfo describes a topic.
type QueueInfo struct {
	Topic     string  `json:"topic"`
	Depth     int64   `json:"depth"`
	Dead      int64   `json:"dead"`
	Lanes     int64   `json:"lanes"`
	Leased    int64   `json:"leased"`
	OldestAge float64 `json:"oldest_age_seconds"`
	Paused    bool    `json:"paused"`
}

// QueueMessage is a message, or a dead letter, as seen from outside.
type QueueMessage struct {
	ID       string    `json:"id"` // of a dead letter
	Topic    string    `json:"topic"`
	Key      string    `json:"key"`
	Seq      int64     `json:"seq,omitempty"`
	Body     string    `json:"body"`
	Attempt  int       `json:"attempt"`
	Fails    int       `json:"fails"`
	Priority int       `json:"priority,omitempty"`
	SentAt   time.Time `json:"sent_at"`
	ReadyAt  time.Time `json:"ready_at,omitzero"`
	Leased   bool      `json:"leased,omitempty"`
	Owner    string    `json:"owner,omitempty"`
	Reason   string    `json:"reason,omitempty"` // of a dead letter
	DeadAt   time.Time `json:"dead_at,omitzero"`
}

// Unit is what was made for an attempt, as long as something of it may be there.
type Unit struct {
	Unit         string    `json:"unit"`
	Runner       string    `json:"runner"`
	Node         string    `json:"node,omitempty"` // server that started it
	Key          string    `json:"key,omitempty"`  // of the attempt
	Run          string    `json:"run,omitempty"`
	Step         string    `json:"step,omitempty"`
	Attempt      int       `json:"attempt,omitempty"`
	Image        string    `json:"image,omitempty"`
	Phase        Phase     `json:"phase,omitempty"`
	Status       Status    `json:"status,omitempty"`
	Cleanup      Cleanup   `json:"cleanup,omitempty"` // empty while the attempt has not ended
	CleanupError string    `json:"cleanup_error,omitempty"`
	Tries        int       `json:"tries,omitempty"`     // of the clean-up, that failed
	NextTry      time.Time `json:"next_try,omitzero"`   // when the clean-up is tried next
	Known        bool      `json:"known"`               // the runner lists it now
	Orphan       bool      `json:"orphan"`              // no attempt owns it: it is removed by the next sweeps
	StartedAt    time.Time `json:"started_at,omitzero"` //
	FinishedAt   time.Time `json:"finished_at,omitzero"`
}

// UnitList are the units that there are.
type UnitList struct {
	At    time.Time `json:"at"`
	Items []Unit    `json:"items"`
	More  bool      `json:"more,omitempty"` // there are more than can be shown
	// Silent are runners that did not say what they know, with the reason.
	Silent map[string]string `json:"silent,omitempty"`
}

// Units shows what runs and what waits for its clean-up.
type Units interface {
	Units(ctx context.Context) (UnitList, error)
}

// Queues shows and repairs queues.
type Queues interface {
	Queues(ctx context.Context) ([]QueueInfo, error)
	Messages(ctx context.Context, topic string, limit int, cursor string) (Page[QueueMessage], error)
	DeadLetters(ctx context.Context, topic string, limit int, cursor string) (Page[QueueMessage], error)
	// Redrive sends dead letters again, all of the topic when ids is empty, and
	// returns how many.
	Redrive(ctx context.Context, topic string, ids []string, by Principal) (int, error)
	// Purge deletes waiting messages, or dead letters, and returns how many.
	Purge(ctx context.Context, topic string, dead bool, by Principal) (int64, error)
	// PauseQueue stops or resumes a topic. KindNotFound for a topic that does not exist.
	PauseQueue(ctx context.Context, topic string, paused bool, by Principal) error
}

// Tokens keeps API tokens and the audit log.
type Tokens interface {
	CreateToken(ctx context.Context, name string, role Role, ttl time.Duration, by Principal) (Token, string, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, id string, by Principal) error
	// AuthenticateToken returns the principal of an API token, or KindUnauthorized.
	AuthenticateToken(ctx context.Context, secret string) (Principal, error)
	// Any reports whether a usable token exists.
	Any(ctx context.Context) (bool, error)
	// Audit writes an audit record: a refused token or a change.
	Audit(ctx context.Context, a AuditRecord) error
	AuditLog(ctx context.Context, limit int, cursor string) (Page[Record], error)
}

// AuditRecord tells who did, or tried, what.
type AuditRecord struct {
	Who     string `json:"who"`
	Remote  string `json:"remote,omitempty"`
	Action  string `json:"action"` // "pipeline.apply", "run.cancel", "auth.refused"
	Subject string `json:"subject,omitempty"`
	Result  string `json:"result"` // "ok", or a Kind
}

// Secret describes a secret of the store. Its value never leaves the server.
type Secret struct {
	Name      string    `json:"name"`
	Version   int       `json:"version"` // counts from 1 with every value
	Masked    bool      `json:"masked"`  // its value is long enough to be masked wherever text leaves
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	UpdatedBy string    `json:"updated_by,omitempty"`
}

// Secrets keeps the secrets of the store. There is no way to read a value back.
type Secrets interface {
	// SetSecret stores a value under a name, as a new version of it (fresh=false) or
	// the first. KindInvalid, KindTooLarge: name or value break a rule. KindConflict:
	// the server's key does not fit the secrets that are there.
	SetSecret(ctx context.Context, name, value string, by Principal) (s Secret, fresh bool, err error)
	// Secrets lists all of them by name.
	Secrets(ctx context.Context) ([]Secret, error)
	// DeleteSecret forgets a secret with all its versions. KindNotFound: there is none.
	DeleteSecret(ctx context.Context, name string, by Principal) error
	// RekeySecrets encrypts all of them with a new key and returns how many.
	RekeySecrets(ctx context.Context, by Principal) (int, error)
}

// Health is the state of a server.
type Health struct {
	Status string            `json:"status"` // "starting", "ok", "degraded", "stopping"
	Checks map[string]string `json:"checks"` // part → "ok" or what is wrong
	Node   string            `json:"node,omitempty"`
	Store  string            `json:"store,omitempty"`
	Uptime float64           `json:"uptime_seconds"`
}
