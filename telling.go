package waybill

import (
	"context"
	"strings"
	"time"
)

// RunStatsQuery asks for counts of runs by day.
type RunStatsQuery struct {
	Pipeline string // empty means all together
	Days     int    // the last so many days, today included; 0 means 30
	Timezone string // of the tz database, in which days begin and end; empty means UTC
}

// RunDay counts the runs of a day. A run is counted as started on the day on which
// it was accepted, and as ended on the one on which it ended.
type RunDay struct {
	Day     string           `json:"day"` // 2006-01-02
	Started int64            `json:"started"`
	Ended   map[Status]int64 `json:"ended"`
	P50     time.Duration    `json:"p50"` // of the durations of those that ended, within 5 %
	P95     time.Duration    `json:"p95"`
}

// RunStats counts runs.
type RunStats interface {
	// RunStats returns one item for each day, oldest first, days without runs
	// included. It lags some seconds behind. KindInvalid: too many days, or no such time zone.
	RunStats(ctx context.Context, q RunStatsQuery) ([]RunDay, error)
}

// NotifyEvent is what a rule of notifications listens to.
type NotifyEvent string

// The events of notifications.
const (
	NotifyFailed        NotifyEvent = "failed"         // a run failed
	NotifyTimedOut      NotifyEvent = "timed_out"      // a run timed out
	NotifyLost          NotifyEvent = "lost"           // a run's unit was lost
	NotifyCanceled      NotifyEvent = "canceled"       // a run was canceled
	NotifySucceeded     NotifyEvent = "succeeded"      // a run succeeded
	NotifyRecovered     NotifyEvent = "recovered"      // a run succeeded, and the one of its pipeline that ended before had not
	NotifyDeadLetter    NotifyEvent = "dead_letter"    // a message was given up
	NotifyDelivery      NotifyEvent = "delivery_alert" // something about deliveries is wrong
	NotifyCleanupFailed NotifyEvent = "cleanup_failed" // the clean-up of a unit was given up
)

// NotifyEvents lists every event of notifications once.
func NotifyEvents() []NotifyEvent {
	return []NotifyEvent{NotifyFailed, NotifyTimedOut, NotifyLost, NotifyCanceled, NotifySucceeded, NotifyRecovered, NotifyDeadLetter, NotifyCleanupFailed, NotifyDelivery}
}

// NotifyRule says who is told of what.
type NotifyRule struct {
	Name string        `json:"name,omitempty"`
	On   []NotifyEvent `json:"on"`
	// Pipeline is a glob that names of pipelines must match; empty matches all, also
	// what belongs to no pipeline. Rules of a pipeline have none.
	Pipeline string         `json:"pipeline,omitempty"`
	Webhook  *NotifyWebhook `json:"webhook,omitempty"`
	Email    *NotifyEmail   `json:"email,omitempty"`
}

// NotifyWebhook is a URL that is told by POST. Values may refer to secrets as
// ${secret:NAME}; they are looked up when a message is sent.
type NotifyWebhook struct {
	URL     string            `json:"url"`
	Secret  string            `json:"secret,omitempty"` // key of the signature; none without
	Headers map[string]string `json:"headers,omitempty"`
}

// NotifyEmail is a mailbox that is told. Values may refer to secrets, as those of
// NotifyWebhook.
type NotifyEmail struct {
	To       []string `json:"to"`
	From     string   `json:"from"`
	SMTP     string   `json:"smtp"` // host:port; the port is 587 when left out
	User     string   `json:"user,omitempty"`
	Password string   `json:"password,omitempty"`
	// StartTLS is whether the connection must be encrypted; nil means yes.
	StartTLS *bool `json:"starttls,omitempty"`
}

// Notification is a rule and where it comes from.
type Notification struct {
	NotifyRule
	Origin    string    `json:"origin"` // "folder", "pipeline" or "api"
	CreatedAt time.Time `json:"created_at,omitzero"`
	CreatedBy string    `json:"created_by,omitempty"`
}

// Notifications keeps rules of notifications and sends them.
type Notifications interface {
	// Notifications lists all rules by name: those of the project folder, of
	// pipelines (named pipeline:NAME:1, …) and of the API.
	Notifications(ctx context.Context) ([]Notification, error)
	// Notification returns one rule, or KindNotFound.
	Notification(ctx context.Context, name string) (Notification, error)
	// ApplyNotification stores a rule of the API. KindConflict: the name belongs to a
	// rule of the folder or of a pipeline. KindInvalid: the rule makes no sense.
	ApplyNotification(ctx context.Context, r NotifyRule, by Principal) (n Notification, fresh bool, err error)
	// DeleteNotification forgets a rule of the API. KindNotFound, or KindConflict as above.
	DeleteNotification(ctx context.Context, name string, by Principal) error
	// TestNotification sends a sample at once, without the queue, and returns what
	// went wrong.
	TestNotification(ctx context.Context, name string) error
}

// ValidTraceparent reports whether s is a traceparent of the W3C Trace Context
// recommendation, version 00 (https://www.w3.org/TR/trace-context/), with ids that
// are not zero.
func ValidTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	zero := func(part string) bool { return strings.Trim(part, "0") == "" }
	hex := func(part string) bool { return strings.Trim(part, "0123456789abcdef") == "" }
	return hex(s[3:35]) && hex(s[36:52]) && hex(s[53:]) && !zero(s[3:35]) && !zero(s[36:52])
}
