package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// call asks the engine something, with a limit of its own beside the caller's.
func call[T any](ctx context.Context, r *Runner, ask func(context.Context) (T, error)) (T, error) {
	bound, cancel := context.WithTimeout(ctx, r.o.Patience)
	defer cancel()
	v, err := ask(bound)
	if err != nil && ctx.Err() != nil {
		return v, ctx.Err()
	}
	if err == nil || !unanswered(err) {
		r.heard()
	}
	return v, err
}

// unanswered reports whether an error says that the engine did not answer.
func unanswered(err error) bool {
	var n net.Error
	return client.IsErrConnectionFailed(err) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "EOF")
}

// fault says in our words what the engine said. It returns errors of contexts as they
// are.
func (r *Runner) fault(ctx context.Context, op, unit string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := container.Clean(err)
	if unanswered(err) {
		return waybill.E(waybill.KindUnavailable, "the container engine does not answer: %s", text).WithOp(op, unit).
			WithHint("is it running, and may this server use its socket %s?", r.api.DaemonHost())
	}
	kind := waybill.KindUnavailable
	switch {
	case cerrdefs.IsInvalidArgument(err):
		kind = waybill.KindInvalid
	case cerrdefs.IsPermissionDenied(err):
		kind = waybill.KindForbidden
	}
	return waybill.E(kind, "the container engine says: %s", text).WithOp(op, unit)
}

func lost(op, unit string) error {
	return waybill.E(waybill.KindLost, "the unit is unknown or has vanished").WithOp(op, unit)
}

// atStart reports whether the engine could not start a container because of what it was
// asked for, so that trying again is of no use. Engines have no codes for that.
func atStart(text string) bool {
	text = strings.ToLower(text)
	for _, part := range []string{
		"unable to find user", "unable to find group", "no matching entries in passwd", "no matching entries in group",
		"no such user", "executable file not found", "exec format error", "chdir to cwd", "not a directory",
		"permission denied: unknown", "no such file or directory: unknown", "invalid argument: unknown",
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
