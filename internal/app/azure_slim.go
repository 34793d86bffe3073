//go:build slim

package app

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cli/delivery"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/source"
)

// What a slim program leaves out of the clouds of Google and Azure is refused by name.

var moreClouds map[string]cloud.Opener

func azureQueue(*project.Source, func(context.Context) (string, error)) source.Source { return nil }

func readLegacy(context.Context, delivery.LegacyTable, func(map[string]string) error) error {
	return missing("the tables of Azure Storage")
}

// leftOut says which settings need what this program lacks.
func leftOut(s project.Settings) error {
	for _, q := range s.Sources {
		if q.Kind == project.SourceAzureQueue {
			return missing("sources: " + q.Name + ": the queues of Azure Storage")
		}
	}
	return nil
}

func missing(what string) error {
	return waybill.E(waybill.KindUnsupported, "%s: this program was built without it", what).
		WithHint("use the full program (make build)")
}

// platformACI says what is missing, as platformKubernetes does.
var platformACI = platform{
	name:   "aci",
	config: map[string]any{},
	check:  func() runner.Runner { return absent{name: "aci"} },
	open: func(_ context.Context, s *Server, raw json.RawMessage) (runner.Runner, error) {
		if raw == nil {
			return nil, nil
		}
		return openACI(raw, "", "", s.log)
	},
}

func openACI(json.RawMessage, string, string, *slog.Logger) (runner.Runner, error) {
	return nil, missing("runners: aci")
}
