package waybill

import (
	"context"
	"io"
	"time"
)

// FindingStatus says how bad a finding is.
type FindingStatus string

// The statuses of a finding.
const (
	FindingOK   FindingStatus = "ok"
	FindingWarn FindingStatus = "warn" // works, but not as it should, or not for long
	FindingFail FindingStatus = "fail" // does not work, or what is stored is in danger
)

// Finding is what a look at one part of a server told.
type Finding struct {
	Check  string        `json:"check"` // part and subject, such as "store.integrity"
	Status FindingStatus `json:"status"`
	Detail string        `json:"detail"`
	Hint   string        `json:"hint,omitempty"` // what to do
}

// BackupOptions say what a backup holds besides store, objects and logs.
type BackupOptions struct {
	// Keys is "none", "plain", or a recipient of age ("age1…") that the node's
	// identity and the keys of secrets are encrypted for.
	Keys    string
	Project bool // the files of the project folder
	// Has reports content that the receiver has already; it is not sent. Nil means
	// none.
	Has func(sha256 string) bool
	By  Principal
}

// Operations look after a server.
type Operations interface {
	// Backup writes a backup of the running server to w as an archive, see
	// internal/backup. All that was finished before it was called is in it. An
	// archive that is cut off is no backup. KindConflict: another one is being made.
	Backup(ctx context.Context, o BackupOptions, w io.Writer) error
	// Doctor looks at all parts of the server. With deep it reads everything that is
	// stored.
	Doctor(ctx context.Context, deep bool) ([]Finding, error)
}

// QueueLine is a message or a dead letter as a queue is dumped and fed: one line of
// JSON each.
type QueueLine struct {
	Kind  string `json:"kind"` // "message" or "dead"
	ID    string `json:"id"`
	Topic string `json:"topic"`
	Key   string `json:"key"`
	// Body is text; bytes that are no text stand in Base64 instead.
	Body     string    `json:"body,omitempty"`
	Base64   string    `json:"body_base64,omitempty"`
	Priority int       `json:"priority,omitempty"`
	Attempt  int       `json:"attempt,omitempty"`
	Fails    int       `json:"fails,omitempty"`
	SentAt   time.Time `json:"sent_at,omitzero"`
	ReadyAt  time.Time `json:"ready_at,omitzero"` // of a message that is not due yet
	Leased   bool      `json:"leased,omitempty"`  // somebody worked on it
	Reason   string    `json:"reason,omitempty"`  // of a dead letter
	DeadAt   time.Time `json:"dead_at,omitzero"`
}

// FeedResult says what became of the lines of a feed.
type FeedResult struct {
	Sent    int `json:"sent"`    // messages
	Buried  int `json:"buried"`  // dead letters that are new
	Changed int `json:"changed"` // dead letters that were there with other content
	Skipped int `json:"skipped"` // lines that had been fed before, or are there
}

// QueueDumps take queues out as text and put them back.
type QueueDumps interface {
	// Dump writes the messages of a topic in the order of their lanes, and then its
	// dead letters, as lines of JSON. What moves meanwhile may be missing or there
	// twice; pause the topic before.
	Dump(ctx context.Context, topic string, w io.Writer) error
	// Feed reads such lines and puts messages and dead letters into a topic, in their
	// order within each lane. It reads and checks all of them first: an error of kind
	// invalid tells the lines that are wrong, and nothing was done. A line whose id
	// was fed before, or is still there, is skipped, so a feed can be repeated. A
	// message with the id of a dead letter takes its place: an edited one that is
	// sent again. With dry nothing is done.
	Feed(ctx context.Context, topic string, r io.Reader, dry bool, by Principal) (FeedResult, error)
}
