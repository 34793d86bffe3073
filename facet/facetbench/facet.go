package facetbench

import (
	"fmt"

	"github.com/waybill-run/waybill/facet"
)

// Schema is that of the documents as an index of package facet has them. Their id is
// the member "id".
func Schema() facet.Schema {
	var s facet.Schema
	for _, f := range Fields {
		s.Fields = append(s.Fields, facet.Field{Name: f.Name, Kind: facet.KindKeyword, Multi: f.Multi()})
	}
	kinds := [numbers]facet.Kind{facet.KindInt, facet.KindInt, facet.KindInt, facet.KindNumber, facet.KindDate, facet.KindDate}
	for i, name := range NumberFields {
		s.Fields = append(s.Fields, facet.Field{Name: name, Kind: kinds[i]})
	}
	s.Fields = append(s.Fields, facet.Field{Name: AgeField, Kind: facet.KindRange}, facet.Field{Name: NameField, Kind: facet.KindKeyword},
		facet.Field{Name: WordsField, Kind: facet.KindKeyword, Multi: true})
	return s
}

// numberValue is a value of one of NumberFields, which a range and a key have as an
// integer.
func numberValue(field string, n int64) facet.Value {
	switch field {
	case "submitted", "updated":
		return facet.DateMicros(n)
	case "score":
		return facet.Number(float64(n) / 1e6)
	case AgeField:
		return facet.Number(float64(n))
	}
	return facet.Int(n)
}

// Facet is the query as an index of package facet takes it.
func (q *Query) Facet() facet.Query {
	out := facet.Query{Filters: map[string]facet.Filter{}}
	for _, t := range q.Terms {
		out.Filters[Fields[t.Field].Name] = facet.Filter{Is: []facet.Value{facet.String(Term(t.Field, t.Value))}}
	}
	if r := q.Range; r != nil {
		span := []facet.Span{{Lo: numberValue(r.Field, r.From), Hi: numberValue(r.Field, r.To)}}
		switch r.Relation {
		case Within:
			out.Filters[r.Field] = facet.Filter{Within: span}
		case Contains:
			out.Filters[r.Field] = facet.Filter{Contains: span}
		default:
			out.Filters[r.Field] = facet.Filter{Intersects: span}
		}
	}
	if q.Prefix != "" {
		out.Filters[WordsField] = facet.Filter{Prefix: []string{q.Prefix}}
	}
	if q.Facets {
		for _, f := range Fields {
			out.Facets = append(out.Facets, facet.FacetReq{Field: f.Name, Size: Top})
		}
	}
	if p := q.Page; p != nil {
		out.Size, out.Fields = Top, []string{} // the ids, as others are asked for
		out.Sort = facet.Sort{Field: p.Sort, Desc: p.Desc}
		if k := p.After; k != nil {
			key := facet.Key{ID: k.ID, Value: facet.String(k.Text)}
			if p.Sort != NameField {
				key.Value = numberValue(p.Sort, k.Number)
			}
			out.After = &key
		}
	}
	return out
}

// ResultDigest is the digest of what an index of package facet answered.
func ResultDigest(r facet.Result) string {
	d := NewDigest(r.Total)
	for _, f := range r.Facets {
		ts := make([]TermCount, len(f.Terms))
		for i, t := range f.Terms {
			ts[i] = TermCount{t.Value.Str(), t.Count}
		}
		d.Facet(f.Name, f.Total, f.Missing, ts)
	}
	for _, h := range r.Hits {
		d.Hit(h.ID)
	}
	return d.Sum()
}

// Answers asks an oracle about n documents, in as many goroutines as are given, and
// returns the digests of its answers.
func Answers(plan []Query, n, goroutines int) []string {
	digests := make([]string, len(plan))
	done := make(chan struct{})
	for g := range goroutines {
		go func() {
			defer func() { done <- struct{}{} }()
			var own []Query
			for i := g; i < len(plan); i += goroutines {
				own = append(own, plan[i])
			}
			o := NewOracle(own)
			for d := range Documents(n) {
				o.See(d)
			}
			for i := range own {
				digests[g+i*goroutines], _ = o.Digest(i)
			}
		}()
	}
	for range goroutines {
		<-done
	}
	return digests
}

// Check says how an answer differs from the right one.
func Check(q *Query, want, got string) error {
	if want != got {
		return fmt.Errorf("%s, %s: the answer is wrong: digest %s, want %s", q.Class, q.Name, got, want)
	}
	return nil
}
