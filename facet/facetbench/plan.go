package facetbench

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Class is a kind of queries that are measured together.
type Class string

// The classes of queries.
const (
	Unfiltered    Class = "unfiltered"  // all facets of everything
	Filtered      Class = "filtered"    // all facets, three filters of some document
	Wide          Class = "wide"        // all facets, three filters by the commonest values
	Worst         Class = "worst"       // all facets of half of all documents, taken at random
	Narrow        Class = "narrow"      // all facets of one document in a hundred, taken at random
	Ages          Class = "ages"        // how many documents fit a range of ages
	Dates         Class = "dates"       // how many documents are of thirty days
	Prefixes      Class = "prefixes"    // how many documents have a word that begins so
	Pages         Class = "pages"       // a page of 100, anywhere in the order of all documents
	FilteredPages Class = "pages, wide" // a page of 100, anywhere in the order of a wide set
)

// Classes lists the classes in the order of reports.
var Classes = []Class{Unfiltered, Filtered, Wide, Worst, Narrow, Ages, Dates, Prefixes, Pages, FilteredPages}

// PlanDocuments is from how many documents queries are taken.
const PlanDocuments = 100_000

// Top is how many terms of a facet are asked for, and the number of documents of a
// page.
const Top = 100

// A Query is one question to the collection. Exactly what is set counts: filters
// are ANDed.
type Query struct {
	Class Class
	Name  string // says what it asks for
	Terms []TermFilter
	Range *RangeFilter
	// Prefix is what a word begins with.
	Prefix string
	// Facets asks for all of [Fields], each without its own filter, with its [Top]
	// terms.
	Facets bool
	// Page asks for documents.
	Page *Page
}

// TermFilter keeps documents in which a keyword field has the value.
type TermFilter struct {
	Field int
	Value uint32
}

// RangeFilter keeps documents of which a number or the age lies in a range. Both
// ends belong to it.
type RangeFilter struct {
	Field    string
	Relation Relation
	From, To int64
}

// Relation is what a range of a document has to do with that of a filter.
type Relation string

// The relations.
const (
	Within     Relation = "within"     // the document's is part of the filter's
	Contains   Relation = "contains"   // the filter's is part of the document's
	Intersects Relation = "intersects" // they have something in common
)

// Page is a place in an order of the documents. Documents of which the sorted field
// is the same are ordered by their id, in the same direction.
type Page struct {
	Sort  string
	Desc  bool
	After *Key // nil is the first page
}

// Key is a document's place in an order: the value it is sorted by, of which one is
// set, and its id.
type Key struct {
	Text   string
	Number int64
	ID     string
}

// NewPlan makes the queries. They depend on nothing but the first [PlanDocuments]
// documents.
func NewPlan() []Query {
	rnd := rand.New(rand.NewPCG(42, 1))
	p := planner{rnd: rnd}
	p.look()

	plan := []Query{{Class: Unfiltered, Name: "all facets", Facets: true}}
	for range 100 {
		plan = append(plan, p.filtered())
	}
	for _, fs := range p.wide(30) {
		plan = append(plan, Query{Class: Wide, Name: filterNames(fs), Terms: fs, Facets: true})
	}
	half, some := SizeBelow(0.5), SizeBelow(0.01)
	plan = append(plan,
		Query{Class: Worst, Name: "size below the median", Range: &RangeFilter{"size", Within, 0, half}, Facets: true},
		Query{Class: Narrow, Name: "size in the lowest hundredth", Range: &RangeFilter{"size", Within, 0, some}, Facets: true})
	const year = 365 * 86400
	for _, r := range []RangeFilter{{AgeField, Contains, 30 * year, 32 * year}, {AgeField, Within, 20 * year, 40 * year}, {AgeField, Intersects, 60 * year, 65 * year}} {
		plan = append(plan, Query{Class: Ages, Name: fmt.Sprintf("age %s %d to %d years", r.Relation, r.From/year, r.To/year), Range: &r})
	}
	for i := range 3 {
		from := firstDay + int64(600+500*i)*day
		plan = append(plan, Query{Class: Dates, Name: fmt.Sprintf("updated in 30 days, %d", i), Range: &RangeFilter{"updated", Within, from, from + 30*day}})
	}
	for i := range 20 {
		w := p.sample().words[i%4]
		w = w[:max(2, len(w)-1-i%4)]
		plan = append(plan, Query{Class: Prefixes, Name: w + "*", Prefix: w})
	}
	orders := []Page{{Sort: NameField}, {Sort: "size", Desc: true}, {Sort: "updated"}, {Sort: NameField, Desc: true}}
	for _, o := range orders {
		keys := p.order(o)
		for _, q := range append([]Query{{Class: Pages, Name: "all"}}, plan[101:104]...) {
			if q.Class == Wide {
				q.Class = FilteredPages
			}
			q.Facets = false
			for _, depth := range []float64{0, 0.001, 0.5, 0.99} {
				q := q
				q.Page = &Page{Sort: o.Sort, Desc: o.Desc}
				if depth > 0 {
					q.Page.After = &keys[int(depth*float64(len(keys)))]
				}
				q.Name = fmt.Sprintf("%s by %s%s after %g", q.Name, o.Sort, map[bool]string{true: " desc"}[o.Desc], depth)
				plan = append(plan, q)
			}
		}
	}
	return plan
}

// planner knows what queries are taken from.
type planner struct {
	rnd    *rand.Rand
	docs   []sampled
	common [len(Fields)]struct {
		value uint32
		docs  int
	}
}

// sampled is what is remembered of a document.
type sampled struct {
	id, name      string
	words         []string
	size, updated int64
	values        [len(Fields)][]uint32 // of few documents only
}

// withValues is how many documents are remembered whole.
const withValues = 5000

func (p *planner) look() {
	var counts [len(Fields)][]int
	for f := range counts {
		counts[f] = make([]int, Fields[f].Values)
	}
	for d := range Documents(PlanDocuments) {
		s := sampled{id: d.ID, name: d.Name, size: d.Numbers[Size], updated: d.Numbers[Updated]}
		if d.Number%(PlanDocuments/withValues) == 0 {
			s.words = slices.Clone(d.Words)
			for f := range Fields {
				s.values[f] = slices.Clone(d.Values[f])
			}
		}
		for f := range Fields {
			for _, v := range d.Values[f] {
				counts[f][v]++
			}
		}
		p.docs = append(p.docs, s)
	}
	for f := range counts {
		for v, n := range counts[f] {
			if n > p.common[f].docs {
				p.common[f].value, p.common[f].docs = uint32(v), n
			}
		}
	}
}

// sample returns one of the documents remembered whole.
func (p *planner) sample() *sampled {
	return &p.docs[p.rnd.IntN(withValues)*(PlanDocuments/withValues)]
}

// filtered takes three filters on different fields from one document.
func (p *planner) filtered() Query {
	d := p.sample()
	q := Query{Class: Filtered, Facets: true}
	for _, f := range p.rnd.Perm(len(Fields)) {
		if vs := d.values[f]; len(vs) > 0 && len(q.Terms) < 3 {
			q.Terms = append(q.Terms, TermFilter{f, vs[p.rnd.IntN(len(vs))]})
		}
	}
	q.Name = filterNames(q.Terms)
	return q
}

// wide combines the commonest values of fields in which a fifth to two thirds of all
// documents have one.
func (p *planner) wide(n int) [][]TermFilter {
	var out [][]TermFilter
	var fields []int
	for f := range Fields {
		if n := p.common[f].docs; n >= PlanDocuments/5 && n <= PlanDocuments*2/3 {
			fields = append(fields, f)
		}
	}
	for range n {
		var fs []TermFilter
		for _, i := range p.rnd.Perm(len(fields))[:3] {
			fs = append(fs, TermFilter{fields[i], p.common[fields[i]].value})
		}
		out = append(out, fs)
	}
	return out
}

// order returns the keys of all documents, in order.
func (p *planner) order(o Page) []Key {
	keys := make([]Key, len(p.docs))
	for i, d := range p.docs {
		keys[i].ID = d.id
		switch o.Sort {
		case NameField:
			keys[i].Text = d.name
		case "size":
			keys[i].Number = d.size
		case "updated":
			keys[i].Number = d.updated
		default:
			panic("no document is sorted by " + o.Sort)
		}
	}
	slices.SortFunc(keys, o.compare)
	return keys
}

// compare orders keys as the page wants them.
func (o *Page) compare(a, b Key) int {
	c := cmp.Or(cmp.Compare(a.Text, b.Text), cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID))
	if o.Desc {
		return -c
	}
	return c
}

func filterNames(fs []TermFilter) string {
	var names []string
	for _, f := range fs {
		names = append(names, Fields[f.Field].Name)
	}
	return strings.Join(names, ", ")
}
