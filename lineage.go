package waybill

import (
	"context"
	"time"
)

// Lineage says what came of something, and what it came of: objects and runs as nodes,
// and edges from what was there first to what followed. Root is the node that was asked
// about and the first of Nodes; the others stand in the order in which they were met,
// nearest first. No node and no edge is there twice, also when things led to each other
// in a circle.
type Lineage struct {
	Root  string        `json:"root"`
	Nodes []LineageNode `json:"nodes"`
	Edges []LineageEdge `json:"edges"`
	// Truncated: there is more than the limits of the query let through. The nodes where
	// it was cut say so; each can be asked about on its own.
	Truncated bool `json:"truncated"`
}

// LineageNode is an object or a run.
type LineageNode struct {
	ID     string         `json:"id"` // "run/ID" or "object/BUCKET/KEY@VERSION"
	Object *LineageObject `json:"object,omitempty"`
	Run    *LineageRun    `json:"run,omitempty"`
	// Gone: it was there and is no longer kept. What is known of it is what others say.
	Gone     bool `json:"gone,omitempty"`
	MoreUp   bool `json:"more_up,omitempty"`   // more led to it than is shown
	MoreDown bool `json:"more_down,omitempty"` // more followed from it than is shown
}

// LineageState is what became of a version of an object.
type LineageState string

// The states.
const (
	LineageCurrent  LineageState = "current"
	LineageReplaced LineageState = "replaced" // another version took its place
	LineageDeleted  LineageState = "deleted"  // the object was deleted; the version can be read
	LineageGone     LineageState = "gone"     // the version is no longer kept
)

// LineageObject is a version of an object.
type LineageObject struct {
	Bucket     string       `json:"bucket"`
	Key        string       `json:"key"`
	Version    string       `json:"version"`
	State      LineageState `json:"state"`
	Size       int64        `json:"size"`
	CreatedAt  time.Time    `json:"created_at,omitzero"`
	CreatedBy  string       `json:"created_by,omitempty"`
	ReplacedAt time.Time    `json:"replaced_at,omitzero"` // by another version or a deletion
}

// LineageRun is a run in brief.
type LineageRun struct {
	ID         string       `json:"id"`
	Pipeline   string       `json:"pipeline,omitempty"` // empty of one that is gone when nothing tells
	Status     Status       `json:"status,omitempty"`   // empty of one that is gone
	Error      string       `json:"error,omitempty"`
	CreatedAt  time.Time    `json:"created_at,omitzero"`
	FinishedAt time.Time    `json:"finished_at,omitzero"`
	Event      LineageEvent `json:"event"`
}

// LineageEvent is what started a run, without its data.
type LineageEvent struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type,omitempty"`
	Source  string `json:"source,omitempty"`
	Subject string `json:"subject,omitempty"`
}

// LineageKind is how one thing followed from another.
type LineageKind string

// The kinds.
const (
	LineageStarted LineageKind = "started" // the arrival of an object started a run
	LineageMade    LineageKind = "made"    // an attempt of a run made an object
	LineageCalled  LineageKind = "called"  // a step of a run started one of a sub-pipeline
	LineageRetried LineageKind = "retried" // a run was repeated as another
)

// LineageEdge says that To followed from From.
type LineageEdge struct {
	From    string      `json:"from"`
	To      string      `json:"to"`
	Kind    LineageKind `json:"kind"`
	Step    string      `json:"step,omitempty"`    // with made and called
	Attempt int         `json:"attempt,omitempty"` // with made and called
}

// LineageQuery bounds a lineage.
type LineageQuery struct {
	Up, Down bool // neither is both
	Depth    int  // edges from the root, 1 to 50; 0 means 10
	Limit    int  // nodes, 1 to 1000; 0 means 200
}

// Lineages follows objects and runs.
type Lineages interface {
	// TraceObject follows a version of an object, the current one when version is empty:
	// of a deleted object, the newest one that has content. KindNotFound: nothing is
	// known of it. KindInvalid: the query is out of bounds.
	TraceObject(ctx context.Context, bucket, key, version string, q LineageQuery) (Lineage, error)
	// TraceRun follows a run. KindNotFound: nothing is known of it.
	TraceRun(ctx context.Context, id string, q LineageQuery) (Lineage, error)
}
