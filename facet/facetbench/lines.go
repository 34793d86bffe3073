package facetbench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// AppendLine appends the document as a line for programs that have no JSON at hand:
// columns between tabs for id, name, words between spaces, six numbers (empty where
// there is none), both ends of the age, and the forty keyword fields with their
// values between bars. It ends with a line feed.
func (d *Document) AppendLine(b []byte) []byte {
	b = append(b, d.ID...)
	b = append(b, '\t')
	b = append(b, d.Name...)
	b = append(b, '\t')
	for i, w := range d.Words {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, w...)
	}
	for i := range d.Numbers {
		b = append(b, '\t')
		if d.Has[i] {
			b = strconv.AppendInt(b, d.Numbers[i], 10)
		}
	}
	b = append(b, '\t')
	if d.HasAge {
		b = strconv.AppendInt(b, d.AgeFrom, 10)
	}
	b = append(b, '\t')
	if d.HasAge {
		b = strconv.AppendInt(b, d.AgeTo, 10)
	}
	for f := range Fields {
		b = append(b, '\t')
		for i, v := range d.Values[f] {
			if i > 0 {
				b = append(b, '|')
			}
			b = append(b, Term(f, v)...)
		}
	}
	return append(b, '\n')
}

// WritePlan writes the queries for programs that have no JSON at hand: a line with
// the names of [Fields], then for each query a line that says whether it asks for
// facets or only counts, and one for each filter and the page.
func WritePlan(w io.Writer, plan []Query) error {
	var b strings.Builder
	b.WriteString("fields")
	for f := range Fields {
		b.WriteString("\t" + Fields[f].Name)
	}
	b.WriteByte('\n')
	for _, q := range plan {
		fmt.Fprintf(&b, "query\t%s\n", map[bool]string{true: "facets", false: "count"}[q.Facets])
		for _, f := range q.Terms {
			fmt.Fprintf(&b, "term\t%s\t%s\n", Fields[f.Field].Name, Term(f.Field, f.Value))
		}
		if r := q.Range; r != nil {
			fmt.Fprintf(&b, "range\t%s\t%s\t%d\t%d\n", r.Field, r.Relation, r.From, r.To)
		}
		if q.Prefix != "" {
			fmt.Fprintf(&b, "prefix\t%s\n", q.Prefix)
		}
		if p := q.Page; p != nil {
			fmt.Fprintf(&b, "page\t%s\t%s", p.Sort, map[bool]string{true: "desc", false: "asc"}[p.Desc])
			if k := p.After; k != nil {
				if p.Sort == NameField {
					fmt.Fprintf(&b, "\t%s\t%s", k.Text, k.ID)
				} else {
					fmt.Fprintf(&b, "\t%d\t%s", k.Number, k.ID)
				}
			}
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
