package argocd_test

import (
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/argocd"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: argocd.Format{}, Samples: []inboundtest.Sample{
	{Name: "healthy", Body: `{"app":"web","namespace":"argocd","cluster":"west","ring":"prod","destination":{"name":"d"},"source":{"repoURL":"https://g/m"},"sync":{"revision":"40d6b21b888db0ca794876cf7bdd399e3da2137e"},"operation":{"phase":"Succeeded","finishedAt":"2026-11-20T09:00:00Z","revision":"40d6b21b888db0ca794876cf7bdd399e3da2137e"},"health":{"status":"Healthy"},"images":["r.example.com/web:1@sha256:12","busybox"]}`, Kinds: []waybill.ReportKind{"sync", "sync"}},
	{Name: "nothing", Body: `{"app":"new"}`},
	{Name: "the connector", Body: `{"commitid":"40d6b21b888db0ca794876cf7bdd399e3da2137e","phase":"Running","sync_status":"x","health":"Progressing","message":"m"}`, Kinds: []waybill.ReportKind{"sync"}, Source: inbound.Source{Cluster: "west"}},
	{Name: "several sources", Body: `{"app":"a","destination":{"server":"https://10.0.0.1:6443"},"sources":[{"repoURL":"x","chart":"c"},{"repoURL":"y"}],"operation":{"phase":"Failed","revisions":["1.2.3","40d6b21b888db0ca794876cf7bdd399e3da2137e"]}}`, Kinds: []waybill.ReportKind{"sync", "sync"}},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
