package cdevents_test

import (
	"net/http"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound/cdevents"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
)

var suite = inboundtest.Case{Format: cdevents.Format{}, Samples: []inboundtest.Sample{
	{Name: "packaged", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.artifact.packaged.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"pkg:oci/app@sha256%3A12?tag=1","content":{"change":{"id":"c0ffee1","source":"s"}}}}`, Kinds: []waybill.ReportKind{"build"}},
	{Name: "build", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.build.finished.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"1","content":{"outcome":"failure"}}}`, Kinds: []waybill.ReportKind{"run"}},
	{Name: "structured", Body: `{"specversion":"1.0","id":"i","source":"/s","type":"dev.cdevents.pipelinerun.started.0.3.0","data":{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.pipelinerun.started.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"1","content":{"pipelineName":"config"}}}}`, Kinds: []waybill.ReportKind{"run"}},
	{Name: "binary", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.change.merged.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"7","content":{"repository":{"id":"r","source":"https://g"}}}}`, Kinds: []waybill.ReportKind{"review"}, Header: http.Header{"Ce-Specversion": {"1.0"}, "Ce-Type": {"dev.cdevents.change.merged.0.3.0"}, "Ce-Id": {"i"}, "Ce-Source": {"/s"}}},
	{Name: "deployed", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.service.deployed.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"s","content":{"environment":{"id":"prod"},"artifactId":"pkg:oci/app@sha256%3A12?tag=1"}}}`, Kinds: []waybill.ReportKind{"sync"}},
	{Name: "incident", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.incident.resolved.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"s","content":{"environment":{"id":"prod"},"artifactId":"pkg:oci/app@sha256%3A12?tag=1"}}}`, Kinds: []waybill.ReportKind{"sync"}},
	{Name: "newer", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.build.started.0.9.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"s","content":{}}}`},
	{Name: "other", Body: `{"context":{"specversion":"0.5.1","id":"i","source":"/s","type":"dev.cdevents.testcaserun.started.0.3.0","timestamp":"2026-11-20T09:00:00Z"},"subject":{"id":"s","content":{}}}`},
	{Name: "no CDEvent", Body: `{"specversion":"1.0","id":"i","source":"/s","type":"com.example.x","data":{}}`},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
