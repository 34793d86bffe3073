// Package store is the contract of Waybill's one source of truth: rows, queued
// messages and events in SQL, changed by nothing but a [Commit].
//
// Two packages implement it, internal/store/sqlite and internal/store/postgres,
// and both pass internal/store/storetest. Code above this contract never sees
// SQL, a dialect or a database error: implementations translate those into the
// errors of this package and the kinds of package waybill.
//
// # Lanes
//
// A message has a topic and a key. The messages of one (tenant, topic, key) form
// a lane: they are handed out strictly in the order in which they were
// committed, and only to one claimant at a time. One instant per lane, ready_at,
// is visibility, delay, backoff, lease and timer. Where no order is wanted, the
// key is unique to the message. A lane exists while it holds messages.
//
// # Fences
//
// A claim stamps the lane with a new random token. Finishing, retrying or
// extending a message succeeds only while the lane still carries the token of
// that claim, so an owner that was paused past its lease and replaced can change
// nothing: its Commit fails with [ErrLeaseLost] and none of its rows, messages
// or events are written.
//
// # Repeating
//
// An error other than [ErrConflict] and [ErrLeaseLost] leaves the outcome
// unknown (the connection may have broken after the database had committed).
// Repeating the same Commit is safe when it finishes a message, holds a Put with
// Rev ≥ 0, or has an ID.
//
// # Partitions
//
// All keys of a commit belong to one partition, which lets a store be spread
// over several databases later. There is one partition today.
package store

import (
	"context"
	"errors"
	"time"
)

// DefaultTenant is the tenant of every row that names none.
const DefaultTenant = "default"

// Errors of a commit that say for certain that nothing was written.
var (
	// ErrConflict: a Put expected another revision.
	ErrConflict = errors.New("store: revision conflict")
	// ErrLeaseLost: the message is no longer ours to finish.
	ErrLeaseLost = errors.New("store: lease lost")
	// ErrNotFound: there is no such row.
	ErrNotFound = errors.New("store: not found")
)

// AnyRev as Put.Rev writes whatever the stored revision is.
const AnyRev = -1

// Commit is the only write: all of it happens, durably, or none of it. It is a
// value, so a store may fold the commits of concurrent callers into one flush.
type Commit struct {
	// ID makes a commit without message and without expected revision safe to
	// repeat: a second commit of the same tenant and ID succeeds and does
	// nothing. Ids are remembered for at least a day. Optional.
	ID string
	// Tenant of all Puts, Sends and Events; empty means DefaultTenant. The
	// message that is finished keeps its own.
	Tenant string

	// At most one of the four; nil is none. The message must be the head of its
	// lane and carry the lane's current token, else ErrLeaseLost.
	Done  *Msg // finished: it leaves the queue
	Retry *Msg // goes back to the head of its lane after Delay; counts as a failure
	Yield *Msg // goes back to the head of its lane after Delay; counts as nothing
	Dead  *Msg // leaves the queue for table Dead, with Reason

	Delay  time.Duration // with Retry and Yield
	Reason string        // with Retry and Dead: why, for people

	Puts   []Put
	Sends  []Send
	Events []Event
}

// Put writes one row of a registered table. Val is JSON; nil deletes the row.
// Rev is the revision the stored row must have: 0 means that there must be no
// row, AnyRev writes unconditionally. The row's new revision is Rev+1 (with
// AnyRev: one more than the stored one). One commit puts a key at most once.
type Put struct {
	Table string
	Key   string
	Rev   int64
	Val   []byte
}

// Send queues a message. Key orders it (see Lanes). Delay counts from the commit;
// a message that is not due holds up those behind it in its lane, so a timer has
// a key of its own. Priority belongs to the lane: the highest of the messages sent to it
// since it was last empty. One step of priority is worth [PriorityAge] of
// waiting, so that no lane starves.
type Send struct {
	Topic    string
	Key      string
	Body     []byte
	Delay    time.Duration
	Priority int
	// Behind moves a lane that this message begins, and that is ready at once, behind
	// (or, negative, before) others of its topic as if it had become ready that much
	// later. It holds until the lane is first claimed. Nothing waits because of it.
	Behind time.Duration
}

// PriorityAge is how much longer a lane must have been ready to be claimed
// before one with a priority higher by one.
const PriorityAge = 10 * time.Second

// Event is one record of a timeline, written with the change it tells of.
// Subjects are paths such as "run/0193…". Events of one subject keep the order
// of their commits.
type Event struct {
	Subject string
	Kind    string
	Data    []byte // JSON
	At      time.Time
}

// StoredEvent is an event with its place in the log.
type StoredEvent struct {
	Event
	Tenant string
	Cursor Cursor
}

// Cursor is an opaque position in the event log. Empty is before the first
// event. Cursors of one store stay valid across restarts.
type Cursor string

// Msg is a claimed message.
type Msg struct {
	Tenant   string
	Topic    string
	Key      string
	Seq      int64 // place in the lane
	Body     []byte
	Token    string // fence of this claim
	Attempt  int    // deliveries as head of its lane, this one included
	Fails    int    // deliveries that ended in Retry
	Priority int
	SentAt   time.Time
}

// ClaimRequest asks for messages of one topic.
type ClaimRequest struct {
	Topic   string
	Owner   string        // node that will hold the lanes; see Reclaim
	Lanes   int           // at most so many lanes
	PerLane int           // and so many messages of each; 0 means 1
	Lease   time.Duration // how long the lanes stay ours unless extended
	// Reclaim takes exactly those lanes (all of them, whatever Lanes says) that Owner
	// holds already, whether or not
	// their lease has ended: a node that was killed takes up its own work when it
	// starts again, with new tokens and without waiting. It counts as a delivery, so
	// that a message which kills its worker is seen to.
	Reclaim bool
}

// Claimed is the answer to a claim: messages of one lane stand together and in
// order. A lane is held until its last claimed message is finished, one of them
// is retried or yielded, or the lease ends.
type Claimed struct {
	Msgs []*Msg
	// Next is when the topic's next lane becomes ready, if that is known and in
	// the future; a claimant that got nothing sleeps until then or until the bell.
	Next time.Time
	// Drained: nothing else was ready, and Next is known (zero: nothing waits). A
	// store that does not set it is asked again until it has nothing to give.
	Drained bool
	// Paused: the topic is paused; nothing will come until it is resumed.
	Paused bool
}

// Row is one row of a registered table.
type Row struct {
	Tenant string
	Key    string
	Rev    int64
	Val    []byte
}

// Op compares a column in a query.
type Op string

// The comparisons of a query.
const (
	Eq     Op = "="
	Ne     Op = "<>"
	Lt     Op = "<"
	Le     Op = "<="
	Gt     Op = ">"
	Ge     Op = ">="
	In     Op = "in"     // Value is a slice
	Prefix Op = "prefix" // text that begins with Value
)

// Where is one condition; conditions are joined by "and".
type Where struct {
	Column string // a declared column, or "key"
	Op     Op
	Value  any // string, int64 or bool as the column's type says; []string or []int64 with In
}

// Query lists rows of a table, sorted by one declared column (or the key) and
// then by key, page by page. It never counts and never skips.
type Query struct {
	Table  string
	Tenant string // empty means DefaultTenant, "*" every tenant
	Where  []Where
	Order  string // column; empty means "key"
	Desc   bool
	Limit  int    // 1 to 1000; 0 means 100
	After  string // Page.Next of the page before
}

// Page is one page of rows. Next is empty on the last one.
type Page struct {
	Rows []Row
	Next string
}

// TopicStat describes a topic of one tenant.
type TopicStat struct {
	Tenant string
	Topic  string
	Depth  int64     // messages, claimed ones included
	Dead   int64     // dead letters
	Lanes  int64     // lanes that hold messages
	Leased int64     // lanes held by a claim
	Oldest time.Time // when the oldest waiting message was sent; zero if none
	Paused bool
}

// QueuedMsg is a message as seen from outside, without the right to finish it.
type QueuedMsg struct {
	Msg
	ReadyAt time.Time // of its lane: when it may be claimed, or until when it is leased
	Leased  bool
	Owner   string
}

// Store is the port. Every method is safe for concurrent use, and every one
// returns promptly with the context's error when ctx ends; a Commit whose
// context ended may still happen.
//
// Kinds of error: waybill.KindUnavailable when the database cannot be reached
// or its disk is full (nothing was changed, or see Repeating above);
// waybill.KindInvalid for an unregistered table or column and for a bad cursor.
type Store interface {
	// Commit applies c and returns when it is durable and visible to every
	// reader of the store.
	Commit(ctx context.Context, c *Commit) error

	// Claim hands out messages that are ready, lanes of higher rank first.
	Claim(ctx context.Context, r ClaimRequest) (Claimed, error)
	// Extend renews the leases of the messages' lanes, counted from now, and
	// returns those messages whose lane is no longer theirs.
	Extend(ctx context.Context, msgs []*Msg, lease time.Duration) (lost []*Msg, err error)
	// Bell returns a channel that receives after a message of the topic may have
	// become claimable because of this process, or of another one when the store
	// can tell. It is a hint: it may ring for nothing, and rings once for many.
	// Each call makes a new bell; cancel removes it.
	Bell(topic string) (bell <-chan struct{}, cancel func())

	// Get returns one row or ErrNotFound.
	Get(ctx context.Context, tenant, table, key string) (Row, error)
	// Scan returns the rows whose key begins with prefix, in key order, at most
	// limit (0 means all). It is for the parts of one thing, not for lists.
	Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]Row, error)
	// Query returns a page of a list.
	Query(ctx context.Context, q Query) (Page, error)
	// Counts returns the table's counters (see Table.Counters) of one tenant,
	// exact as of some commit. Counters that stand at zero may be left out.
	Counts(ctx context.Context, tenant, table string) (map[string]int64, error)

	// Tail returns up to n events of all tenants after the cursor, in an order in
	// which no event is ever inserted before one that was returned.
	Tail(ctx context.Context, after Cursor, n int) ([]StoredEvent, error)
	// Head returns the cursor after the newest event that Tail would return.
	Head(ctx context.Context) (Cursor, error)
	// Watch returns a channel that receives after new events may be readable by
	// Tail; like Bell, a hint.
	Watch() (bell <-chan struct{}, cancel func())
	// Events returns up to n events of one subject after the cursor.
	Events(ctx context.Context, tenant, subject string, after Cursor, n int) ([]StoredEvent, error)
	// TrimEvents deletes events of the given subjects.
	TrimEvents(ctx context.Context, tenant string, subjects []string) error

	// Topics describes every topic that holds or has held messages.
	// Tenant "*" means all.
	Topics(ctx context.Context, tenant string) ([]TopicStat, error)
	// Depth is the number of messages in a topic over all tenants, cheaply; it
	// may lag behind by a second.
	Depth(ctx context.Context, topic string) (int64, error)
	// Peek lists messages in (key, seq) order from after the cursor returned by
	// the page before; an empty cursor ends the list.
	Peek(ctx context.Context, tenant, topic, after string, n int) (msgs []QueuedMsg, next string, err error)
	// Purge deletes the messages of a topic whose lanes are not held by a claim,
	// and returns how many.
	Purge(ctx context.Context, tenant, topic string) (int64, error)
	// Pause stops (or resumes) claims of a topic, for every tenant and until
	// told otherwise; a restart changes nothing. Sends go on.
	Pause(ctx context.Context, topic string, paused bool) error

	// Now is the store's clock, which leases and delays are measured by. It does
	// not jump when the wall clock of this machine is set.
	Now() time.Time
	// Info describes the store for health pages.
	Info() Info
	Transfer
	// Close waits for commits in flight and releases the database.
	Close() error
}

// Info describes an open store.
type Info struct {
	Engine string // "sqlite" or "postgres"
	Schema int    // version of the embedded migrations
	Where  string // file or server, without credentials
}
