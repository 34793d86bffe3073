//go:build !linux

package process

import (
	"context"
	"encoding/json"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// Runner is the runner of processes, which needs Linux.
type Runner struct{}

func unsupported() error {
	return waybill.E(waybill.KindUnsupported, "processes are run on Linux only")
}

// New returns an error of kind unsupported.
func New(Options) (*Runner, error) { return nil, unsupported() }

// Supervise returns an error of kind unsupported.
func Supervise(context.Context, string, SupervisorOptions) error { return unsupported() }

// Name returns [Name].
func (*Runner) Name() string { return Name }

// Check returns an error of kind unsupported, as do all other methods.
func (*Runner) Check([]string, json.RawMessage) error { return unsupported() }

func (*Runner) Start(context.Context, runner.Spec) (runner.Handle, error) {
	return runner.Handle{}, unsupported()
}

func (*Runner) Recover(context.Context, runner.Handle, runner.Spec) error { return unsupported() }

func (*Runner) Wait(context.Context, runner.Handle) (runner.Exit, error) {
	return runner.Exit{}, unsupported()
}

func (*Runner) Stop(context.Context, runner.Handle, time.Duration) error { return unsupported() }

func (*Runner) Remove(context.Context, runner.Handle) error { return unsupported() }

func (*Runner) List(context.Context) ([]runner.Handle, error) { return nil, unsupported() }

func (*Runner) Close() error { return nil }
