package queue

import (
	"errors"
	"fmt"
	"time"
)

// verdict is an error by which a handler says what becomes of its message.
type verdict struct {
	kind  int
	after time.Duration
	err   error
}

const (
	verdictRetry = iota
	verdictYield
	verdictBury
	verdictLeave
)

func (v *verdict) Error() string { return v.err.Error() }
func (v *verdict) Unwrap() error { return v.err }

// Retry says that the message failed for the reason err and is to be tried again
// after a delay; it counts as a failure. Any other error means the same with the
// worker's backoff.
func Retry(after time.Duration, err error) error { return &verdict{verdictRetry, after, err} }

// Yield says that now is not the time: the message comes again after a delay, and
// nothing is counted.
func Yield(after time.Duration, format string, args ...any) error {
	return &verdict{verdictYield, after, fmt.Errorf(format, args...)}
}

// Bury says that the message can never succeed: it goes to the dead letters with
// the reason.
func Bury(format string, args ...any) error {
	return &verdict{verdictBury, 0, fmt.Errorf(format, args...)}
}

// ErrLeave says that the message stays ours, unfinished: this node stops and will
// take it up again when it starts.
var ErrLeave error = &verdict{verdictLeave, 0, errors.New("left for the next start")}

// ErrStopping is the cause with which a handler's context ends when its worker is
// told to stop; a lost lease ends it with store.ErrLeaseLost.
var ErrStopping = errors.New("queue: the worker is stopping")
