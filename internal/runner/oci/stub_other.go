//go:build !linux

package oci

import (
	"context"
	"io"
	"net/netip"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// Runner exists on Linux only.
type Runner struct{ runner.Runner }

// New returns an error of kind unsupported.
func New(Options) (*Runner, error) {
	return nil, waybill.E(waybill.KindUnsupported, "containers without a daemon need Linux")
}

// Home implements [runner.Contained].
func (*Runner) Home() string { return container.Home }

// Reach implements [runner.Contained].
func (*Runner) Reach() runner.Reach { return runner.ReachHost }

// CopyOut implements [runner.Contained].
func (*Runner) CopyOut(context.Context, runner.Handle, string, io.Writer) error {
	return waybill.E(waybill.KindUnsupported, "containers without a daemon need Linux")
}

// Archive implements [runner.Contained].
func (*Runner) Archive(context.Context, runner.Handle, runner.Spec) error { return nil }

// Gateway returns an error of kind unsupported.
func (*Runner) Gateway(context.Context) (netip.Addr, error) {
	return netip.Addr{}, waybill.E(waybill.KindUnsupported, "containers without a daemon need Linux")
}
