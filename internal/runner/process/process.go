// Package process runs units as processes of this machine.
//
// Units are children of a supervisor, a second process of the same program that
// the runner starts when none is there. It has a session of its own and outlives
// the server: a server that is killed and started again finds its units running,
// or their exits recorded. The supervisor leaves when no server is connected, no
// unit runs and a few seconds have passed.
//
// Everything the supervisor knows is in an append-only journal in its folder.
// What is about to be started is written there before it is started, so a unit is
// executed at most once whatever is killed and whenever. Units do not survive
// the supervisor: the kernel kills them with it, and the next supervisor sweeps
// up what is left and reports them lost. The journal is not synced to the disk:
// it is exact across the death of any process, while a machine that loses power
// may forget the units of its last seconds, which it also ended.
//
// A unit is more than its main process. Everything it started is killed when the
// main process ends, by a control group where one can be made (cgroup v2), else
// by its process group, its descendants and the marker WAYBILL_UNIT in the
// environment. In the second case a process that left its session, lost its
// parent and also cleared its environment cannot be told from one of another
// unit; it is killed as soon as no other unit runs.
//
// The package needs Linux. Elsewhere [New] returns an error of kind unsupported.
package process

import (
	"log/slog"
	"time"
)

// Name is the name of this runner in definitions.
const Name = "process"

// Marker is the variable added to the environment of every unit. Its value is
// the instance of the supervisor's folder, a slash, and the name of the unit.
const Marker = "WAYBILL_UNIT"

// Options are the settings of a [Runner].
type Options struct {
	// Dir is the folder of the supervisor: its lock, socket, journal and own log.
	// It is made with mode 0700. One folder is one instance.
	Dir string
	// Command starts a supervisor for Dir: a program by its absolute path that
	// calls [Supervise], and its arguments.
	Command []string
	// Env is the environment of the supervisor, not of units. Nil means the
	// environment of this process.
	Env []string
	// Logger receives what an operator should know. Nil means nothing is logged.
	Logger *slog.Logger
	// StartTimeout is how long a supervisor may take to answer. Default 10 s.
	StartTimeout time.Duration
	// Handover lets units have a With, which is a [Handover]. For runners whose units are
	// processes that another program starts for them.
	Handover bool
}

// Handover is the With of a unit whose program starts the process that counts, and ends:
// a container runtime that detaches. When the program has ended with code 0 the unit goes
// on as the process whose pid is in the file, which must be a child that the program left
// behind: its end is that of the unit. A request to stop reaches that process alone; one
// that is the first of its pid namespace and does not handle it is killed instead of being
// waited for, because the kernel would drop the request. A program that ends otherwise
// ends the unit with ReasonStartFailed, unless a signal ended it.
type Handover struct {
	PIDFile string   `json:"pid_file"`
	Remove  []string `json:"remove,omitempty"` // files that go when the program has ended, because nothing needs them then
	// Status is a file that is made and that the program has as its descriptor 3. A program
	// passes it on to a process that writes there how what it started has ended, and that
	// takes requests to stop for it.
	Status string `json:"status,omitempty"`
}

// SupervisorOptions are the settings of [Supervise].
type SupervisorOptions struct {
	// IdleExit is how long a supervisor without clients and running units stays.
	// Default 5 s.
	IdleExit time.Duration
	// NoCgroup makes it do without control groups even where they can be made.
	NoCgroup bool
	// Logger receives what an operator should know. Nil means nothing is logged.
	Logger *slog.Logger
}
