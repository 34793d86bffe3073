package facetbench

import (
	"slices"
	"sync"
	"testing"
)

// planned is the plan, made once for all tests.
var planned = sync.OnceValue(NewPlan)

// Sets that are much smaller or larger than what is promised would measure
// something else.
func TestQueriesFindWhatTheyAreMeantToFind(t *testing.T) {
	t.Parallel()
	const n = PlanDocuments
	// Pages have the filters of others.
	plan := slices.DeleteFunc(slices.Clone(planned()), func(q Query) bool { return q.Page != nil })
	o := NewOracle(plan)
	for d := range Documents(n) {
		o.See(d)
	}
	totals := map[Class][]int{}
	for i := range plan {
		_, total := o.Digest(i)
		totals[plan[i].Class] = append(totals[plan[i].Class], total)
	}
	for _, c := range Classes {
		if len(totals[c]) == 0 {
			continue
		}
		slices.Sort(totals[c])
		ts := totals[c]
		t.Logf("%-12s %3d queries, hits %d to %d, p50 %d", c, len(ts), ts[0], ts[len(ts)-1], ts[len(ts)/2])
	}
	if got := len(totals[Filtered]); got != 100 {
		t.Errorf("%d filtered queries", got)
	}
	if got := len(totals[Wide]); got != 30 {
		t.Errorf("%d wide queries", got)
	}
	if totals[Filtered][0] == 0 {
		t.Error("a query taken from a document does not find it")
	}
	within := func(what string, got int, from, to float64) {
		if p := float64(got) / n; p < from || p > to {
			t.Errorf("%s: %.4f of all documents, want %g to %g", what, p, from, to)
		}
	}
	within("half", totals[Worst][0], 0.49, 0.51)
	within("a hundredth", totals[Narrow][0], 0.009, 0.011)
	within("the median of the wide", totals[Wide][15], 0.03, 0.2)
	within("the median of the filtered", totals[Filtered][50], 0.0002, 0.02)
	within("the smallest prefix", totals[Prefixes][0], 1.0/n, 1)
}

func TestPagesOfTheOracle(t *testing.T) {
	t.Parallel()
	plan := slices.DeleteFunc(slices.Clone(planned()), func(q Query) bool { return q.Class != Pages })
	o := NewOracle(plan)
	for d := range Documents(3000) {
		o.See(d)
	}
	for i, q := range plan {
		p := o.answers[i].page
		if !slices.IsSortedFunc(p, q.Page.compare) {
			t.Errorf("%s: not in order", q.Name)
		}
		if q.Page.After == nil && len(p) != Top {
			t.Errorf("%s: %d documents on the first page", q.Name, len(p))
		}
	}
}
