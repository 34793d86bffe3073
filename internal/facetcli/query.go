package facetcli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill/facet"
)

// query is what "query" is told.
type query struct {
	filters []string
	facets  string
	top     int
	sort    string
	size    int
	after   string
	before  string
	fields  []string
	sums    []string
	explain bool
	canvas  *canvas
}

func (d Deps) queryCommand() *cobra.Command {
	var q query
	cmd := &cobra.Command{
		Use:   "query INDEX",
		Short: "Find documents, and count the values of their fields",
		Long: `Find documents, and count the values of their fields. A facet leaves out the filter on its
own field, so it shows what else could be chosen; chosen values have a star.

` + filterHelp,
		Example: `  waybill facet query films --facets
  waybill facet query films --filter genre=drama --filter 'year>=1990' --facets=genre,country
  waybill facet query films --filter 'title^=bla' --sort year:desc --size 5 --fields title,year`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			x, err := open(cmd.Context(), args[0], facet.Schema{}, false)
			if err != nil {
				return err
			}
			defer closing(x, &err)
			q.canvas = d.canvas(cmd.OutOrStdout())
			return q.run(cmd, x)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&q.filters, "filter", nil, "what documents have to fulfil, see above; repeatable")
	f.StringVar(&q.facets, "facets", "", "fields to count, between commas; without any, all that few documents share no value of")
	f.Lookup("facets").NoOptDefVal = "all"
	f.IntVar(&q.top, "top", 10, "values of a facet to show, 0 for all")
	f.StringVar(&q.sort, "sort", "", "field to sort by; FIELD:desc for the other direction")
	f.IntVar(&q.size, "size", 10, "documents of a page (with --facets: 0)")
	f.StringVar(&q.after, "after", "", "`KEY` to go on after, as the page before says")
	f.StringVar(&q.before, "before", "", "`KEY` to end before")
	f.StringSliceVar(&q.fields, "fields", nil, "fields to show instead of whole documents")
	f.StringSliceVar(&q.sums, "sum", nil, "fields to add up; the first one for each value of a facet, too")
	f.BoolVar(&q.explain, "explain", false, "say how the query is answered instead")
	cmd.MarkFlagsMutuallyExclusive("after", "before")
	return cmd
}

// request makes the query for the index.
func (q *query) request(ctx context.Context, x facet.Index, paged bool) (r facet.Query, err error) {
	s := x.Schema()
	if r.Filters, err = parseFilters(s, q.filters); err != nil {
		return r, err
	}
	for _, name := range slices.Concat(q.fields, q.sums) {
		if _, ok := s.Field(name); !ok {
			return r, unknownField(s, name)
		}
	}
	var subs []facet.Sub
	if len(q.sums) > 0 {
		subs = []facet.Sub{{Sum: q.sums[0]}}
	}
	for _, name := range q.sums {
		r.Aggs = append(r.Aggs, facet.Agg{Name: name, Op: facet.OpSum, Field: name})
	}
	names, err := q.facetNames(ctx, x)
	if err != nil {
		return r, err
	}
	for _, name := range names {
		r.Facets = append(r.Facets, facet.FacetReq{Field: name, Size: q.top, Sub: subs})
	}
	r.Size, r.Fields = q.size, q.fields
	if q.facets != "" && !paged {
		r.Size = 0
	}
	name, desc := strings.CutSuffix(q.sort, ":desc")
	name, _ = strings.CutSuffix(name, ":asc")
	r.Sort = facet.Sort{Field: name, Desc: desc, Nulls: facet.NullsLast} // who asks for the largest wants to see them
	if name != "" {
		if _, ok := s.FieldOrID(name); !ok {
			return r, unknownField(s, name)
		}
	}
	for _, k := range []struct {
		text string
		to   **facet.Key
	}{{q.after, &r.After}, {q.before, &r.Before}} {
		if k.text == "" {
			continue
		}
		sort := r.Sort
		if sort.Field == "" {
			sort.Field = facet.IDField
		}
		key, err := s.ParseKey(sort, []byte(k.text))
		if err != nil {
			return r, err
		}
		*k.to = &key
	}
	return r, nil
}

// facetNames are the fields to count. All means those of which a value stands for
// several documents: ids and names are no help in choosing.
func (q *query) facetNames(ctx context.Context, x facet.Index) ([]string, error) {
	s := x.Schema()
	if q.facets != "all" {
		var names []string
		for name := range strings.SplitSeq(q.facets, ",") {
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if _, ok := s.Field(name); !ok {
				return nil, unknownField(s, name)
			}
			names = append(names, name)
		}
		return names, nil
	}
	var ask facet.Query
	for _, f := range s.Fields {
		if f.Facetable() {
			ask.Facets = append(ask.Facets, facet.FacetReq{Field: f.Name, Size: 1})
		}
	}
	r, err := x.Search(ctx, ask)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range r.Facets {
		field, _ := s.Field(f.Field)
		number := field.Summable() || field.Kind == facet.KindDate
		shared := f.Total - f.Missing // of documents with a value
		if f.Distinct > 0 && (f.Distinct <= 12 || !number && f.Distinct*2 <= shared) {
			names = append(names, f.Field)
		}
	}
	return names, nil
}

func (q *query) run(cmd *cobra.Command, x facet.Index) error {
	ctx := cmd.Context()
	r, err := q.request(ctx, x, cmd.Flags().Changed("size"))
	if err != nil {
		return err
	}
	if q.explain {
		e, err := x.Explain(ctx, r)
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			return printJSON(cmd.OutOrStdout(), e)
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), e)
		return err
	}
	start := time.Now()
	a, err := x.Search(ctx, r)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if a.Total == 0 {
		if err := nobody(cmd, x, r); err != nil {
			return err
		}
	}
	if asJSON(cmd) {
		return printJSON(cmd.OutOrStdout(), resultJSON(a))
	}
	q.draw(cmd, r, a, took)
	return q.canvas.err
}

// nobody says of values that no document has which ones might have been meant.
func nobody(cmd *cobra.Command, x facet.Index, r facet.Query) error {
	s := x.Schema()
	for name, f := range r.Filters {
		field, _ := s.FieldOrID(name)
		for _, v := range f.Is {
			if field.Kind != facet.KindKeyword || v.IsNull() || name == facet.IDField {
				continue
			}
			all, err := x.Search(cmd.Context(), facet.Query{Facets: []facet.FacetReq{{Field: name}}})
			if err != nil {
				return err
			}
			var like []string
			known := false
			for _, t := range all.Facets[0].Terms {
				known = known || t.Value == v
				if len(like) < 5 && alike(t.Value.Str(), v.Str()) {
					like = append(like, clean(t.Value.Str()))
				}
			}
			switch {
			case known:
			case len(like) > 0:
				note(cmd, "no document has %s=%s; there is %s", name, clean(v.Str()), strings.Join(like, ", "))
			default:
				note(cmd, "no document has %s=%s", name, clean(v.Str()))
			}
		}
	}
	return nil
}

// alike reports whether one value may have been meant for the other: one contains the
// other, or the last word of it, in whatever case.
func alike(there, asked string) bool {
	there, asked = strings.ToLower(there), strings.ToLower(asked)
	words := facet.Words(asked)
	return asked != "" && (strings.Contains(there, asked) || len(there) > 2 && strings.Contains(asked, there)) ||
		len(words) > 1 && slices.Contains(facet.Words(there), words[len(words)-1])
}

// draw writes the answer for people.
func (q *query) draw(cmd *cobra.Command, r facet.Query, a facet.Result, took time.Duration) {
	c := q.canvas
	c.printf("%s  %s\n", c.paint(bold, plural(a.Total, "document", "documents")), c.paint(dim, "in "+took.Round(10*time.Microsecond).String()))
	for _, name := range q.sums {
		c.printf("%s  %s\n", sumText(a.Aggs[name]), c.paint(dim, "sum of "+clean(name)))
	}
	if len(a.Hits) > 0 {
		c.printf("\n")
		c.hits(a.Hits, r.Fields)
	}
	for _, f := range a.Facets {
		is := r.Filters[f.Field].Is
		sum := ""
		if len(q.sums) > 0 {
			sum = clean(q.sums[0])
		}
		c.facet(f, sum, func(v facet.Value) bool { return slices.Contains(is, v) })
	}
	if a.More && c.err == nil {
		key, flag := a.Last, "after"
		if r.Before != nil {
			key, flag = a.First, "before"
		}
		if text, err := json.Marshal(key); err == nil {
			note(cmd, "there is more, see it with --%s %s", flag, shellQuote(string(text)))
		}
	}
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// The shapes of JSON.
type (
	jsonResult struct {
		Total  int                    `json:"total"`
		Seq    facet.Seq              `json:"seq"`
		Hits   []jsonHit              `json:"hits"`
		First  *facet.Key             `json:"first,omitempty"`
		Last   *facet.Key             `json:"last,omitempty"`
		More   bool                   `json:"more"`
		Facets []jsonFacet            `json:"facets,omitempty"`
		Sums   map[string]facet.Value `json:"sums,omitempty"`
	}
	jsonHit struct {
		ID     string                   `json:"id"`
		Source any                      `json:"source,omitempty"`
		Fields map[string][]facet.Value `json:"fields,omitempty"`
	}
	jsonFacet struct {
		Field    string       `json:"field"`
		Terms    []jsonTerm   `json:"terms"`
		Total    int          `json:"total"`
		Missing  int          `json:"missing"`
		Distinct int          `json:"distinct"`
		Sum      *facet.Value `json:"missing_sum,omitempty"`
	}
	jsonTerm struct {
		Term  facet.Value  `json:"term"`
		Count int          `json:"count"`
		Sum   *facet.Value `json:"sum,omitempty"`
	}
)

func resultJSON(a facet.Result) jsonResult {
	out := jsonResult{Total: a.Total, Seq: a.Seq, First: a.First, Last: a.Last, More: a.More, Sums: a.Aggs, Hits: []jsonHit{}}
	for _, h := range a.Hits {
		j := jsonHit{ID: h.ID, Fields: h.Fields}
		if len(h.Source) > 0 {
			j.Source = json.RawMessage(h.Source)
			if !json.Valid(h.Source) {
				j.Source = string(h.Source)
			}
		}
		out.Hits = append(out.Hits, j)
	}
	sum := func(subs []facet.SubResult) *facet.Value {
		if len(subs) == 0 {
			return nil
		}
		return &subs[0].Sum
	}
	for _, f := range a.Facets {
		j := jsonFacet{Field: f.Field, Total: f.Total, Missing: f.Missing, Distinct: f.Distinct, Terms: []jsonTerm{}, Sum: sum(f.MissingSub)}
		for _, t := range f.Terms {
			j.Terms = append(j.Terms, jsonTerm{t.Value, t.Count, sum(t.Sub)})
		}
		out.Facets = append(out.Facets, j)
	}
	return out
}
