package gitlab_test

import (
	"net/http"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound/gitlab"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: gitlab.Format{}, Sign: func(secret, _ string) http.Header { return http.Header{"X-Gitlab-Token": {secret}} }, Samples: []inboundtest.Sample{
	{Name: "deployed", Body: `{"object_kind":"deployment","status":"success","deployment_id":5,"environment":"prod","short_sha":"40d6b21b","commit_url":"https://g/-/commit/40d6b21b888db0ca794876cf7bdd399e3da2137e","project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"}}`, Kinds: []waybill.ReportKind{"sync"}},
	{Name: "pipeline", Body: `{"object_kind":"pipeline","object_attributes":{"id":31,"status":"success"},"project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"}}`, Kinds: []waybill.ReportKind{"run"}},
	{Name: "merged", Body: `{"object_kind":"merge_request","object_attributes":{"iid":5,"state":"merged","merge_commit_sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e"},"user":{"username":"d"},"project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"}}`, Kinds: []waybill.ReportKind{"review"}},
	{Name: "tag", Body: `{"object_kind":"tag_push","ref":"refs/tags/flux-west","after":"9999999","checkout_sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e","project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"}}`, Kinds: []waybill.ReportKind{"sync"}},
	{Name: "lightweight tag", Body: `{"object_kind":"tag_push","ref":"refs/tags/flux-west","after":"40d6b21b888db0ca794876cf7bdd399e3da2137e","checkout_sha":"40d6b21b888db0ca794876cf7bdd399e3da2137e","project":{"name":"shop","path_with_namespace":"team/shop","web_url":"https://gitlab.com/team/shop"}}`},
	{Name: "note", Body: `{"object_kind":"note"}`},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
