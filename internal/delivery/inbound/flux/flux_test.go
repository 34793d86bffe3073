package flux_test

import (
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/flux"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: flux.Format{}, Samples: []inboundtest.Sample{
	{Name: "applied", Body: `{"involvedObject":{"kind":"Kustomization","namespace":"flux-system","name":"apps"},"severity":"info","timestamp":"2026-11-20T09:00:00Z","reason":"ReconciliationSucceeded","message":"done","metadata":{"revision":"main@sha1:40d6b21b888db0ca794876cf7bdd399e3da2137e","cluster":"west"}}`, Kinds: []waybill.ReportKind{"sync"}},
	{Name: "of a cluster of its own", Body: `{"involvedObject":{"kind":"HelmRelease","namespace":"flux-system","name":"apps"},"severity":"error","timestamp":"2026-11-20T09:00:00Z","reason":"UpgradeFailed","message":"no","metadata":{"helm.toolkit.fluxcd.io/revision":"6.5.0"}}`, Kinds: []waybill.ReportKind{"sync"}, Source: inbound.Source{Cluster: "east"}},
	{Name: "a source", Body: `{"involvedObject":{"kind":"GitRepository","namespace":"flux-system","name":"apps"},"severity":"info","timestamp":"2026-11-20T09:00:00Z","reason":"NewArtifact","message":"x","metadata":{}}`},
	{Name: "without revision", Body: `{"involvedObject":{"kind":"Kustomization","namespace":"flux-system","name":"apps"},"severity":"error","timestamp":"2026-11-20T09:00:00Z","reason":"ReconciliationFailed","message":"x","metadata":{"cluster":"west"}}`},
	{Name: "unknown reason", Body: `{"involvedObject":{"kind":"Kustomization","namespace":"flux-system","name":"apps"},"severity":"info","timestamp":"2026-11-20T09:00:00Z","reason":"Odd","message":"x","metadata":{"revision":"main@sha1:40d6b21b888db0ca794876cf7bdd399e3da2137e","cluster":"west"}}`},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
