// Package fault lets tests kill the program at named points of its code.
//
// WAYBILL_KILL_AT=point:n makes a server end itself with SIGKILL when it passes
// the point for the n-th time. The points are:
//
//	queue.commit        a handler has decided; nothing is written yet, and no message sent
//	queue.committed     that is durable, and nobody here knows it yet
//	run.commit          like queue.commit, for what happens to runs only
//	unit.start          an attempt is this node's and its unit does not exist
//	unit.started        its unit exists and that is recorded nowhere
//	unit.running        that was recorded
//	callback.committed  a callback is durable and was not answered
//	cleanup.remove      an ended unit is about to be removed
//	cleanup.removed     it was removed and that is recorded nowhere
//	watch.put           an object found elsewhere is ours, and not yet known as taken
//	watch.finish        its source is about to be deleted or moved
//	source.committed    messages of another system were taken and are not acknowledged
//	source.acked        they are acknowledged and not yet settled
//
// Without the variable a point costs one atomic load.
package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// Variable is the name of the environment variable.
const Variable = "WAYBILL_KILL_AT"

type trap struct {
	point string
	left  atomic.Int64
	kill  func()
}

// The traps are the process's, as its death will be. There is one at most.
var armed atomic.Pointer[trap]

// Arm sets a trap from the text of the variable; an empty one disarms. It is
// called once, before anything starts.
func Arm(text string) error {
	return arm(text, func() {
		if p, err := os.FindProcess(os.Getpid()); err == nil {
			_ = p.Kill()
		}
		select {} // the signal is on its way; nothing after the point happens
	})
}

func arm(text string, kill func()) error {
	if text == "" {
		armed.Store(nil)
		return nil
	}
	point, count, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if point == "" || err != nil || n < 1 {
		return fmt.Errorf("%s=%q: want point:n with n from 1", Variable, text)
	}
	t := &trap{point: point, kill: kill}
	t.left.Store(n)
	armed.Store(t)
	return nil
}

// At marks a point. It is safe for concurrent use.
func At(point string) {
	if t := armed.Load(); t != nil {
		t.pass(point)
	}
}

func (t *trap) pass(point string) {
	if point == t.point && t.left.Add(-1) == 0 {
		t.kill()
	}
}
