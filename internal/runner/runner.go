// Package runner is the contract of everything that starts units: the process,
// container or machine task made for one attempt.
//
// A unit has a name that is unique for ever. Starting is idempotent by that
// name, and a unit outlives the server that started it wherever the platform
// allows it: after a restart the engine asks Recover and goes on waiting, or
// declares the attempt lost. Every implementation passes
// internal/runner/runnertest. Those whose units are containers implement [Contained]
// besides, and share package container.
package runner

import (
	"context"
	"encoding/json"
	"time"
)

// Spec says what to run. It is complete: a runner reads nothing else.
type Spec struct {
	Unit string            // name of the unit, at most 63 of [a-z0-9-]; unique for ever
	Args []string          // program and arguments; never given to a shell
	Env  []string          // complete environment as NAME=value; nothing is added but what the platform needs
	Dir  string            // fresh working directory of the unit, which exists; of a Contained runner its home
	Log  string            // file that receives stdout and stderr, appended in the order of writing
	With json.RawMessage   // settings of this kind of runner (the step's "with")
	Meta map[string]string // instance, run, step, attempt: for labels and logs

	LogCap   int64     // bytes of log kept; what follows is counted and dropped; 0 means no cap
	HardStop time.Time // the unit is killed then even if no server is there to ask for it; zero means never

	// Mask are the secret values that the unit was given. The log holds none of them, in
	// any form of package mask, for as long as the unit writes, whatever becomes of the
	// server. A runner keeps them in memory only and shows them nowhere; neither does it
	// store Env or With, which hold them.
	Mask [][]byte
}

// Handle names a started unit. It is small, serialisable, and all that Recover
// needs after a restart.
type Handle struct {
	Runner string          `json:"runner"`
	Unit   string          `json:"unit"`
	Image  string          `json:"image,omitempty"` // what a container was made of, with its digest: "host/name:tag@sha256:…"
	Data   json.RawMessage `json:"data,omitempty"`  // the runner's own, such as a container id
}

// Exit is how a unit ended.
type Exit struct {
	Code      int       `json:"code"`                // exit code; -1 when ended by a signal
	Signal    string    `json:"signal,omitempty"`    // such as "SIGKILL"
	Reason    string    `json:"reason,omitempty"`    // when the runner knows more: "start_failed", "oom_killed", "hard_stop", …
	Message   string    `json:"message,omitempty"`   // for people
	StartedAt time.Time `json:"started_at"`          // when the unit began to run
	EndedAt   time.Time `json:"ended_at"`            //
	LogBytes  int64     `json:"log_bytes,omitempty"` // bytes the unit wrote, kept or not, before masking
	Truncated bool      `json:"truncated,omitempty"` // the log was longer than its cap
	LogFault  string    `json:"log_fault,omitempty"` // why the log lacks something else that the unit wrote
}

// OK reports whether the unit ended as a success.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == "" && e.Reason == "" }

// Reasons of an Exit that every runner spells alike.
const (
	ReasonStartFailed = "start_failed" // it never ran: no such program, not executable, bad image
	ReasonHardStop    = "hard_stop"    // killed at Spec.HardStop
	ReasonOOM         = "oom_killed"   // killed for its memory
)

// Runner starts and follows units. All methods are safe for concurrent use.
// Errors are of package waybill's kinds: KindLost when the unit is unknown or
// its outcome can no longer be known, KindUnavailable when the platform does not
// answer (the caller tries again), KindInvalid when the Spec can never work.
type Runner interface {
	// Name is the runner's name in definitions: "process", "sim", "docker".
	Name() string
	// Check says what is wrong with the parts of a step this runner reads,
	// without starting anything; it is used when a definition is validated. A text
	// may hold expressions (${{ … }}, ${secret:…}) whose values are not known yet.
	Check(args []string, with json.RawMessage) error
	// Start starts the unit and returns when it runs or has failed to. Repeated
	// for a unit that was started before, whatever became of it, it starts
	// nothing and returns the same handle. A program that cannot be started is not an
	// error of Start: its unit ends at once with ReasonStartFailed. An image that cannot
	// be had is an error: see PullError.
	Start(ctx context.Context, s Spec) (Handle, error)
	// Recover reports whether the unit of a handle is still known here, running
	// or ended: nil, or KindLost. It may be called for a unit whose Start was
	// never answered. Of s it reads Unit, Dir, Log, LogCap, Mask and HardStop, for
	// runners whose platform keeps the log: what such a runner writes goes on where
	// the file ends, neither twice nor with a gap. Unless s names a log, nothing is
	// written to one.
	Recover(ctx context.Context, h Handle, s Spec) error
	// Wait blocks until the unit has ended and returns how, as often as it is
	// asked until Remove. It returns KindLost when that cannot be known any more, and ctx's
	// error when ctx ends first, which changes nothing for the unit.
	Wait(ctx context.Context, h Handle) (Exit, error)
	// Stop asks the unit to end, and ends it and everything it started when it
	// has not done so within grace. It returns when the request is recorded; Wait
	// tells when the unit is gone. Stopping a unit that has ended or is unknown
	// is no error.
	Stop(ctx context.Context, h Handle, grace time.Duration) error
	// Remove forgets an ended unit and removes what the platform keeps of it
	// (not its log file nor its directory, which are the engine's; but what only the
	// platform may delete in there, such as files of other users, goes too). A unit that
	// still runs is killed first. Removing an unknown unit is no error.
	Remove(ctx context.Context, h Handle) error
	// List returns the handles of all units of this instance that the platform
	// still knows, ended ones included.
	List(ctx context.Context) ([]Handle, error)
	// Close releases the runner's own resources; units go on.
	Close() error
}
