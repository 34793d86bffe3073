//go:build slim

package app

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// platformKubernetes says what is missing in a slim program. Its steps are not checked: a
// server that is not slim may run them.
var platformKubernetes = platform{
	name:   "kubernetes",
	config: map[string]any{},
	check:  func() runner.Runner { return leftOut{} },
	open: func(_ context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		if raw == nil {
			return nil, nil
		}
		return openKubernetes(raw, "", "", s.log)
	},
}

func openKubernetes(json.RawMessage, string, string, *slog.Logger) (runner.Runner, error) {
	return nil, waybill.E(waybill.KindUnsupported, "runners: kubernetes: this program was built without it").
		WithHint("use the full program (make build) for a server with this runner")
}

// leftOut stands for a runner that a slim program does not have.
type leftOut struct{ runner.Contained }

// Name implements runner.Runner.
func (leftOut) Name() string { return "kubernetes" }

// Check implements runner.Runner.
func (leftOut) Check([]string, json.RawMessage) error { return nil }

// LosesFiles is what the runner itself says.
func (leftOut) LosesFiles() string { return "have the unit put its files where they belong" }

// Close implements runner.Runner.
func (leftOut) Close() error { return nil }
