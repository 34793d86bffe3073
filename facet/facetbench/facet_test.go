package facetbench

import (
	"context"
	"testing"

	"github.com/waybill-run/waybill/facet"
	"github.com/waybill-run/waybill/facet/memory"
)

// The definition of an index and the oracle know nothing of each other, and agree.
func TestAnIndexAnswersAsTheOracleDoes(t *testing.T) {
	t.Parallel()
	const n = 2000
	x, err := memory.New(Schema())
	if err != nil {
		t.Fatal(err)
	}
	dec := facet.NewDecoder(Schema(), "id")
	b := facet.Batch{Seq: 1}
	for d := range Documents(n) {
		doc, err := dec.Decode(d.AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		b.Put = append(b.Put, doc)
	}
	if _, err := x.Apply(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	plan := planned()
	want := Answers(plan, n, 2)
	for i := range plan {
		if i%5 != 0 && plan[i].Class == Filtered {
			continue
		}
		r, err := x.Search(context.Background(), plan[i].Facet())
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(&plan[i], want[i], ResultDigest(r)); err != nil {
			t.Error(err)
		}
	}
}
