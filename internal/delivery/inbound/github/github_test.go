package github_test

import (
	"net/http"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound/github"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: github.Format{}, Sign: func(secret, body string) http.Header {
	return inboundtest.SignHMAC("X-Hub-Signature-256", secret, body)
}, Samples: []inboundtest.Sample{
	{Name: "deployed", Body: `{"deployment":{"id":1,"sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e","environment":"prod","payload":"{\"image\":\"shop:1\"}"},"deployment_status":{"state":"success","updated_at":"2026-11-20T09:00:00Z"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Kinds: []waybill.ReportKind{"sync"}, Header: http.Header{"X-Github-Event": {"deployment_status"}}},
	{Name: "inactive", Body: `{"deployment":{"id":1,"sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e","environment":"prod"},"deployment_status":{"state":"inactive"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Header: http.Header{"X-Github-Event": {"deployment_status"}}},
	{Name: "run", Body: `{"workflow_run":{"id":7,"status":"in_progress"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Kinds: []waybill.ReportKind{"run"}, Header: http.Header{"X-Github-Event": {"workflow_run"}}},
	{Name: "merged", Body: `{"pull_request":{"number":7,"state":"closed","merged":true,"merge_commit_sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e","merged_by":{"login":"d"}},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Kinds: []waybill.ReportKind{"review"}, Header: http.Header{"X-Github-Event": {"pull_request"}}},
	{Name: "tag", Body: `{"ref":"refs/tags/flux-west","after":"9999999","head_commit":{"id":"40d6b21b888db0ca794876cf7bdd399e3da2137e"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Kinds: []waybill.ReportKind{"sync"}, Header: http.Header{"X-Github-Event": {"push"}}},
	{Name: "lightweight tag", Body: `{"ref":"refs/tags/flux-west","after":"40d6b21b888db0ca794876cf7bdd399e3da2137e","head_commit":{"id":"40d6b21b888db0ca794876cf7bdd399e3da2137e"},"repository":{"full_name":"team/shop","name":"shop","html_url":"https://github.com/team/shop"}}`, Header: http.Header{"X-Github-Event": {"push"}}},
	{Name: "ping", Body: `{"zen":"x"}`, Header: http.Header{"X-Github-Event": {"ping"}}},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
