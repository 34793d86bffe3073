package memory_test

import (
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/facettest"
	"github.com/waybill-run/waybill/facet/memory"
)

func TestIndex(t *testing.T) {
	facettest.Run(t, facettest.Config{New: func(t testing.TB, s facet.Schema) facet.Index {
		x, err := memory.New(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}})
}
