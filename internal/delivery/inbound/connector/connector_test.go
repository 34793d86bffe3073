package connector_test

import (
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/connector"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: connector.Format{}, Samples: []inboundtest.Sample{
	{Name: "flux", Body: `{"commit_id":"40d6b21b888db0ca794876cf7bdd399e3da2137e","status_name":"s","state":"ReconciliationSucceeded","message":"m","callback_url":"https://e/","gitops_operator":"Flux","genre":"Kustomization"}`, Kinds: []waybill.ReportKind{"sync"}, Source: inbound.Source{Cluster: "west"}},
	{Name: "argo", Body: `{"commit_id":"40d6b21b888db0ca794876cf7bdd399e3da2137e","status_name":"s","state":"Degraded","message":"m","callback_url":"https://e/","gitops_operator":"ArgoCD","genre":"x"}`, Kinds: []waybill.ReportKind{"sync"}, Source: inbound.Source{Cluster: "west"}},
	{Name: "camel", Body: `{"commitId":"40d6b21b888db0ca794876cf7bdd399e3da2137e","statusName":"s","state":"Progressing","gitOpsOperator":"Flux","genre":"Kustomization"}`, Kinds: []waybill.ReportKind{"sync"}, Source: inbound.Source{Cluster: "west"}},
	{Name: "a source", Body: `{"commit_id":"40d6b21b888db0ca794876cf7bdd399e3da2137e","status_name":"s","state":"NewArtifact","message":"m","callback_url":"https://e/","gitops_operator":"Flux","genre":"GitRepository"}`, Source: inbound.Source{Cluster: "west"}},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
