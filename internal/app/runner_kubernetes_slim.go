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
	check:  func() runner.Runner { return absent{name: "kubernetes"} },
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

// absent stands for a runner that a slim program does not have.
type absent struct {
	runner.Contained
	name string
}

// Name implements runner.Runner.
func (a absent) Name() string { return a.name }

// Check implements runner.Runner.
func (absent) Check([]string, json.RawMessage) error { return nil }

// LosesFiles is what the runner itself says.
func (absent) LosesFiles() string { return "have the unit put its files where they belong" }

// Close implements runner.Runner.
func (absent) Close() error { return nil }
