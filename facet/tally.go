package facet

import (
	"cmp"
	"slices"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

// tallyGain is how many ids can be cleared and looked through in the time that counting one takes that has to be remembered.
const tallyGain = 3

// tally is how many documents have each id: of all ids, or of those that occur. The zero tally is of no documents.
type tally struct {
	docs []uint32        // by id
	some []segment.Entry // in no order
	kept bool            // docs are the part's
}

// missing is the count of null.
func (t *tally) missing() int {
	if len(t.docs) > 0 {
		return int(t.docs[0])
	}
	for _, x := range t.some {
		if x.ID == 0 {
			return int(x.Docs)
		}
	}
	return 0
}

// each calls f with the ids that occur.
func (t *tally) each(f func(id, docs uint32)) {
	for id, n := range t.docs {
		if n > 0 {
			f(uint32(id), n)
		}
	}
	for _, x := range t.some {
		f(x.ID, x.Docs)
	}
}

// inOrder is each in the order of ids.
func (t *tally) inOrder(f func(id, docs uint32)) {
	slices.SortFunc(t.some, func(a, b segment.Entry) int { return cmp.Compare(a.ID, b.ID) })
	t.each(f)
}

// from returns the totals less what was counted, which is used up.
func (t *tally) from(totals []uint32) tally {
	if t.docs != nil {
		left := t.docs[:len(totals)]
		for id, n := range totals {
			left[id] = n - left[id]
		}
		return tally{docs: left}
	}
	docs := segment.BorrowCounts(len(totals))
	copy(docs, totals)
	for _, x := range t.some {
		docs[x.ID] -= x.Docs
	}
	return tally{docs: docs}
}

// free gives back the tally's memory.
func (t *tally) free() {
	if !t.kept && t.docs != nil {
		segment.ReturnCounts(t.docs)
	}
	*t = tally{}
}
