package waybill

// Status is the state of a run or a step. One spelling serves the API, the CLI,
// the store and the pages.
type Status string

// The statuses of runs and steps.
const (
	StatusQueued    Status = "queued"    // accepted, not started
	StatusRunning   Status = "running"   // at least one unit was asked for
	StatusWaiting   Status = "waiting"   // held by something outside: an approval, a slot, a delay
	StatusSucceeded Status = "succeeded" // ended as wished
	StatusFailed    Status = "failed"    // ended otherwise
	StatusTimedOut  Status = "timed_out" // its timeout or heartbeat limit passed
	StatusCanceled  Status = "canceled"  // somebody canceled it
	StatusLost      Status = "lost"      // its unit disappeared and its outcome is unknown
	StatusSkipped   Status = "skipped"   // its condition did not hold, or (a run) there was no place for it
)

// Statuses lists every status once, in the order of a life.
func Statuses() []Status {
	return []Status{StatusQueued, StatusRunning, StatusWaiting, StatusSucceeded, StatusFailed, StatusTimedOut, StatusCanceled, StatusLost, StatusSkipped}
}

// Terminal reports whether a thing in this status will never change again.
func (s Status) Terminal() bool {
	switch s {
	case StatusSucceeded, StatusFailed, StatusTimedOut, StatusCanceled, StatusLost, StatusSkipped:
		return true
	}
	return false
}

// Phase is the finer state of an attempt on its way to a terminal status.
type Phase string

// The phases of an attempt, in order. Clean-up of its unit is a separate state,
// see [Cleanup].
const (
	PhaseQueued       Phase = "queued"       // its message waits in the unit queue
	PhaseLeased       Phase = "leased"       // a node holds the message
	PhaseProvisioning Phase = "provisioning" // the node was recorded; the unit is being started
	PhaseRunning      Phase = "running"      // the unit runs
	PhaseCollecting   Phase = "collecting"   // it ended; logs, outputs and files are being read
	PhaseTerminal     Phase = "terminal"     // the attempt has a terminal status
)

// Cleanup is the state of an attempt's unit after the attempt ended. A run can
// be finished while clean-up is still open; it stays visible until it is gone.
type Cleanup string

// The states of clean-up.
const (
	CleanupNone     Cleanup = ""         // nothing was started
	CleanupPending  Cleanup = "pending"  // waits for its turn
	CleanupDeleting Cleanup = "deleting" // was tried, will be tried again
	CleanupGone     Cleanup = "gone"     // nothing of the unit is left
	CleanupFailed   Cleanup = "failed"   // given up after its schedule; needs a person
)
