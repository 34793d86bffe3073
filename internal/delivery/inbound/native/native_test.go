package native_test

import (
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/inboundtest"
	"github.com/waybill-run/waybill/internal/delivery/inbound/native"
)

var suite = inboundtest.Case{Format: native.Format{}, Samples: []inboundtest.Sample{
	{Name: "one", Body: `{"kind":"build","image_tag":"a:1"}`, Kinds: []waybill.ReportKind{"build"}},
	{Name: "a list", Body: `[{"kind":"build","image_tag":"a:1"},{"kind":"config","image_tag":"a:1","config_commit":"abcdef1"}]`, Kinds: []waybill.ReportKind{"build", "config"}, Source: inbound.Source{Ring: "dev"}},
	{Name: "an empty list", Body: `[]`},
}}

func TestSuite(t *testing.T) {
	t.Parallel()
	inboundtest.Run(t, suite)
}

func FuzzParse(f *testing.F) { inboundtest.Fuzz(f, suite) }
