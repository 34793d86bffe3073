package facetbench

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// An Oracle answers queries by looking at every document, one after the other. Use
// it from one goroutine.
type Oracle struct {
	plan    []Query
	answers []answer
}

// answer is what is known of the answer to one query.
type answer struct {
	total int
	// Of queries for facets: documents that match all other filters, those of them
	// without a value, and those with each value.
	totals, missing []int
	counts          [][]int32
	page            []Key
}

// NewOracle makes an oracle that has seen no document yet.
func NewOracle(plan []Query) *Oracle {
	o := &Oracle{plan: plan, answers: make([]answer, len(plan))}
	for i := range plan {
		if plan[i].Facets {
			a := &o.answers[i]
			a.totals, a.missing = make([]int, len(Fields)), make([]int, len(Fields))
			a.counts = make([][]int32, len(Fields))
			for f := range Fields {
				a.counts[f] = make([]int32, Fields[f].Values)
			}
		}
	}
	return o
}

// See takes a document into account.
func (o *Oracle) See(d *Document) {
	for i := range o.plan {
		q := &o.plan[i]
		// A facet counts documents that its own filter alone keeps out.
		failed, by := 0, -1
		for _, f := range q.Terms {
			if !slices.Contains(d.Values[f.Field], f.Value) {
				failed, by = failed+1, f.Field
			}
		}
		if q.Range != nil && !q.Range.keeps(d) {
			failed, by = failed+1, -1
		}
		if q.Prefix != "" && !slices.ContainsFunc(d.Words, func(w string) bool { return strings.HasPrefix(w, q.Prefix) }) {
			failed, by = failed+1, -1
		}
		a := &o.answers[i]
		switch {
		case failed == 0:
			a.total++
			if q.Facets {
				for f := range Fields {
					a.count(d, f)
				}
			}
			if q.Page != nil {
				a.turn(q.Page, d)
			}
		case failed == 1 && by >= 0 && q.Facets:
			a.count(d, by)
		}
	}
}

func (a *answer) count(d *Document, f int) {
	a.totals[f]++
	if len(d.Values[f]) == 0 {
		a.missing[f]++
	}
	for _, v := range d.Values[f] {
		a.counts[f][v]++
	}
}

// turn puts the document on the page if it belongs there so far.
func (a *answer) turn(p *Page, d *Document) {
	k := d.key(p.Sort)
	if p.After != nil && p.compare(k, *p.After) <= 0 {
		return
	}
	if len(a.page) == Top && p.compare(k, a.page[Top-1]) > 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(a.page, k, p.compare)
	a.page = slices.Insert(a.page, i, k)
	a.page = a.page[:min(len(a.page), Top)]
}

func (d *Document) key(sort string) Key {
	k := Key{ID: d.ID}
	switch sort {
	case NameField:
		k.Text = d.Name
	default:
		k.Number = d.Numbers[slices.Index(NumberFields[:], sort)]
	}
	return k
}

func (r *RangeFilter) keeps(d *Document) bool {
	from, to, has := d.AgeFrom, d.AgeTo, d.HasAge
	if r.Field != AgeField {
		i := slices.Index(NumberFields[:], r.Field)
		from, to, has = d.Numbers[i], d.Numbers[i], d.Has[i]
	}
	if !has {
		return false
	}
	switch r.Relation {
	case Within:
		return from >= r.From && to <= r.To
	case Contains:
		return from <= r.From && to >= r.To
	case Intersects:
		return from <= r.To && to >= r.From
	}
	panic("no relation is called " + string(r.Relation))
}

// Digest returns the digest of the answer to query i of the plan, and how many
// documents match it.
func (o *Oracle) Digest(i int) (digest string, total int) {
	q, a := &o.plan[i], &o.answers[i]
	d := NewDigest(a.total)
	if q.Facets {
		for f := range Fields {
			var ts []TermCount
			for v, n := range a.counts[f] {
				if n > 0 {
					ts = append(ts, TermCount{Term(f, uint32(v)), int(n)})
				}
			}
			slices.SortFunc(ts, func(a, b TermCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Term, b.Term)) })
			d.Facet(Fields[f].Name, a.totals[f], a.missing[f], ts[:min(len(ts), Top)])
		}
	}
	for _, k := range a.page {
		d.Hit(k.ID)
	}
	return d.Sum(), a.total
}

// TermCount is a term of a facet.
type TermCount struct {
	Term  string
	Count int
}

// A Digest stands for a whole answer: what an engine says is right when its digest
// is that of the [Oracle]. Facets come in the order of [Fields], their terms by
// descending count and ascending value, hits in that of the page.
type Digest struct{ h hash.Hash }

// NewDigest begins with the number of documents that match.
func NewDigest(total int) Digest {
	d := Digest{sha256.New()}
	fmt.Fprintf(d.h, "total %d\n", total)
	return d
}

// Facet adds a facet: how many documents it counts, how many of them have no value,
// and its first terms.
func (d Digest) Facet(name string, total, missing int, terms []TermCount) {
	fmt.Fprintf(d.h, "facet %s %d %d\n", name, total, missing)
	for _, t := range terms {
		fmt.Fprintf(d.h, "%d %s\n", t.Count, t.Term)
	}
}

// Hit adds a document of the page.
func (d Digest) Hit(id string) { fmt.Fprintf(d.h, "hit %s\n", id) }

// Sum returns the digest.
func (d Digest) Sum() string { return hex.EncodeToString(d.h.Sum(nil))[:16] }
