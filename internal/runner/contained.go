package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Contained is implemented by runners whose units have a file system of their own:
// containers, here or elsewhere.
//
// The engine lays the unit's files out below Spec.Dir, its home on this machine, and
// writes paths into the environment as the unit finds them, below Home:
//
//	work/        the working directory, where inputs are and output files are looked for
//	event.json   the event; not to be changed
//	in/          copies of objects; not to be changed
//	out/         what WAYBILL_OUTPUT names is in here
//
// The runner sees to it that the unit finds them there, whatever user it runs as, and
// that what the unit wrote to work/ and out/ is below Spec.Dir when Wait returns. How: a
// mount, copies, or what the platform offers; a runner that cannot carry so much says so
// in Check or Start with the limit.
type Contained interface {
	Runner
	// Home is the path at which a unit finds its home, such as "/waybill".
	Home() string
	// Reach says from where its units call.
	Reach() Reach
	// Archive sees to it that the log of an ended unit is complete in s.Log, as Recover
	// says. It is called before Remove, perhaps by a server that never waited for the unit,
	// and does nothing when it has been done or when the unit is unknown. After an error
	// the caller tries again for a while before it gives the log up, at once after one of
	// KindLost: what is missing is nowhere any more.
	Archive(ctx context.Context, h Handle, s Spec) error
	// CopyOut writes a regular file of an ended unit that is not below its home, named
	// by its absolute path inside, until Remove. fs.ErrNotExist when there is none, an
	// error of kind unsupported where the platform has no such thing.
	CopyOut(ctx context.Context, h Handle, path string, w io.Writer) error
}

// Reach says from where the units of a runner call, and so which address of this server
// they are given.
type Reach int

// The places.
const (
	ReachHost   Reach = iota // from this machine: the address that the server listens at
	ReachBridge              // from the container network of this machine: the callback listener
	ReachPublic              // from elsewhere: the server's public URL
)

// Bridged is implemented by Contained runners whose Reach is ReachBridge.
type Bridged interface {
	// Gateway is the address of this machine in the network of the runner's containers, the
	// same for as long as the network is there, which is made if need be. KindUnavailable
	// when that cannot be said now. It is called before every Start and shall be quick.
	Gateway(ctx context.Context) (netip.Addr, error)
}

// Elsewhere reports whether the units of a runner live on a platform that all servers
// reach alike, so that any of them can take up and remove what another one started.
func Elsewhere(r Runner) bool {
	c, ok := r.(Contained)
	return ok && c.Reach() == ReachPublic
}

// Reasons for which an image cannot be had, in an Exit and in a PullError.
const (
	ReasonPullAuth     = "pull_auth"      // the registry does not let us: credentials are missing or wrong
	ReasonPullNotFound = "pull_not_found" // there is no such image, tag, digest or platform
	ReasonPullQuota    = "pull_quota"     // the registry's rate limit, or no room for it here
	ReasonPullNetwork  = "pull_network"   // the registry does not answer, or answers nonsense
	ReasonImage        = "image_invalid"  // it was pulled and is not what it says, or cannot be unpacked
)

// PullError is returned by Start when the image of a unit cannot be had. Nothing was
// started then, and the name of the unit is not taken. It is of kind unavailable if
// trying again may help, else invalid. Its text holds no credentials.
type PullError struct {
	Image      string
	Reason     string        // one of the reasons above
	RetryAfter time.Duration // what the registry asks for; 0 is nothing
	Err        error
}

// Error implements error.
func (e *PullError) Error() string { return fmt.Sprintf("pull %s: %v", e.Image, e.Err) }

// Unwrap returns the cause.
func (e *PullError) Unwrap() error { return e.Err }

// Again reports whether trying again may help: the fault is of the network, of a limit
// or of the room here, not of what was asked for.
func (e *PullError) Again() bool { return PullAgain(e.Reason) }

// PullAgain reports whether a pull that failed for a reason may succeed later.
func PullAgain(reason string) bool { return reason == ReasonPullQuota || reason == ReasonPullNetwork }

// AsPullError finds a PullError in an error.
func AsPullError(err error) (*PullError, bool) {
	var p *PullError
	ok := errors.As(err, &p)
	return p, ok
}
