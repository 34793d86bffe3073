package opensearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/waybill-run/waybill/facet"
)

// search is a query that is being answered, at one point in time.
type search struct {
	x       *Index
	q       facet.Query
	pit     string
	out     facet.Result
	explain *facet.Explain // nil if nobody asks
}

// keepAlive is how long the cluster keeps the point in time between two requests.
const keepAlive = "2m"

// Search implements [facet.Index].
func (x *Index) Search(ctx context.Context, q facet.Query) (facet.Result, error) {
	return x.search(ctx, q, nil)
}

// Explain implements [facet.Index]. Its steps are the requests.
func (x *Index) Explain(ctx context.Context, q facet.Query) (facet.Explain, error) {
	e := facet.Explain{Engine: "opensearch"}
	start := time.Now()
	r, err := x.search(ctx, q, &e)
	if err != nil {
		return facet.Explain{}, err
	}
	e.Seq, e.Total, e.Took = r.Seq, r.Total, time.Since(start)
	return e, nil
}

func (x *Index) search(ctx context.Context, q facet.Query, e *facet.Explain) (facet.Result, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return facet.Result{}, err
	}
	defer done()
	if q, err = x.schema.CheckQuery(q, x.limits); err != nil {
		return facet.Result{}, err
	}
	s := search{x: x, q: q, explain: e}
	if err := s.run(ctx); err != nil {
		return facet.Result{}, x.failed(ctx, "search", err)
	}
	return s.out, nil
}

func (s *search) run(ctx context.Context) (err error) {
	var pit struct {
		ID string `json:"pit_id"`
	}
	if err := s.x.do(ctx, http.MethodPost, "/"+s.x.name+"/_search/point_in_time?keep_alive="+keepAlive, nil, &pit); err != nil {
		return err
	}
	s.pit = pit.ID
	defer func() {
		// It ends by itself if this fails. The search may have been cancelled, the end of it is not.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = s.x.do(ctx, http.MethodDelete, "/_search/point_in_time", object{"pit_id": []string{s.pit}}, nil)
	}()
	if err := s.counts(ctx); err != nil {
		return err
	}
	return s.page(ctx)
}

// answer is what the cluster says.
type answer struct {
	PIT      string `json:"pit_id"`
	TimedOut bool   `json:"timed_out"`
	Shards   struct {
		Failed int `json:"failed"`
	} `json:"_shards"`
	Hits struct {
		Hits []struct {
			Source json.RawMessage `json:"_source"`
			Sort   []any           `json:"sort"`
		} `json:"hits"`
	} `json:"hits"`
	Aggs map[string]agg `json:"aggregations"`
}

// agg is one aggregation's answer, of whatever kind.
type agg struct {
	Count   int            `json:"doc_count"`
	Value   *json.Number   `json:"value"`
	Buckets []bucket       `json:"buckets"`
	After   object         `json:"after_key"`
	Other   int            `json:"sum_other_doc_count"`
	Sub     map[string]agg `json:"-"`
}

type bucket struct {
	Key   any
	Count int
	Sub   map[string]agg
}

// UnmarshalJSON reads the sub-aggregations, which stand beside the rest, too. Their
// names are ours and begin with a colon.
func (a *agg) UnmarshalJSON(text []byte) error {
	type plain agg
	if err := number(text, (*plain)(a)); err != nil {
		return err
	}
	var err error
	a.Sub, err = below(text)
	return err
}

func (b *bucket) UnmarshalJSON(text []byte) error {
	var plain struct {
		Key   any `json:"key"`
		Count int `json:"doc_count"`
	}
	if err := number(text, &plain); err != nil {
		return err
	}
	b.Key, b.Count = plain.Key, plain.Count
	var err error
	b.Sub, err = below(text)
	return err
}

func below(text []byte) (map[string]agg, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	var subs map[string]agg
	for name, raw := range all {
		if name[:min(1, len(name))] != ":" {
			continue
		}
		var a agg
		if err := json.Unmarshal(raw, &a); err != nil {
			return nil, err
		}
		if subs == nil {
			subs = map[string]agg{}
		}
		subs[name] = a
	}
	return subs, nil
}

// ask sends one search request.
func (s *search) ask(ctx context.Context, stage, target string, body object) (answer, error) {
	var a answer
	body["pit"] = object{"id": s.pit, "keep_alive": keepAlive}
	start := time.Now()
	if err := s.x.do(ctx, http.MethodPost, "/_search", body, &a); err != nil {
		return a, err
	}
	if a.TimedOut || a.Shards.Failed > 0 {
		return a, fmt.Errorf("the cluster's answer is not whole: timed out: %t, failed shards: %d", a.TimedOut, a.Shards.Failed)
	}
	if a.PIT != "" {
		s.pit = a.PIT
	}
	if s.explain != nil {
		s.explain.Steps = append(s.explain.Steps, facet.Step{Stage: stage, Target: target, Part: s.x.name, Plan: "request", Why: "the cluster decides how", Took: time.Since(start)})
	}
	return a, nil
}

// page fetches the page.
func (s *search) page(ctx context.Context) error {
	if s.q.Size == 0 {
		return nil
	}
	// Backwards is forwards in the other direction, turned round.
	back := s.q.Before != nil
	from, desc, first := s.q.After, s.q.Sort.Desc, s.q.Sort.First()
	if back {
		from, desc, first = s.q.Before, !desc, !first
	}
	want := s.q.Size + 1
	var hits []facet.Hit
	for _, p := range s.stretches(from, desc, first) {
		if len(hits) == want {
			break
		}
		more, err := s.fetch(ctx, p, want-len(hits))
		if err != nil {
			return err
		}
		hits = append(hits, more...)
	}
	if len(hits) == want {
		s.out.More = true
		hits = hits[:s.q.Size]
	}
	if back {
		slices.Reverse(hits)
	}
	if len(hits) > 0 {
		first, last := hits[0].Key, hits[len(hits)-1].Key
		s.out.Hits, s.out.First, s.out.Last = hits, &first, &last
	}
	return nil
}

// stretch is a part of the order in which all documents have a value, or none has. A
// cluster's idea of where null stands in search_after depends on the field's type, so
// it is not asked.
type stretch struct {
	nulls bool
	desc  bool
	after *facet.Key
}

// stretches are the parts of the order that come after the key.
func (s *search) stretches(from *facet.Key, desc, nullsFirst bool) []stretch {
	if s.q.Sort.Field == facet.IDField {
		return []stretch{{desc: desc, after: from}}
	}
	nulls, values := stretch{nulls: true, desc: desc}, stretch{desc: desc}
	order := []*stretch{&values, &nulls}
	if nullsFirst {
		slices.Reverse(order)
	}
	if from != nil {
		at := &values
		if from.Value.IsNull() {
			at = &nulls
		}
		at.after = from
		if order[1] == at {
			order = order[1:]
		}
	}
	var out []stretch
	for _, p := range order {
		out = append(out, *p)
	}
	return out
}

// fetch reads the first documents of a stretch.
func (s *search) fetch(ctx context.Context, p stretch, limit int) ([]facet.Hit, error) {
	all := append([]object{documents}, s.x.where("", s.q.Access, s.q.Filters)...)
	dir := map[bool]string{false: "asc", true: "desc"}[p.desc]
	sort := []object{{idField: object{"order": dir}}}
	c := s.x.column(s.q.Sort.Field)
	switch {
	case c == nil:
	case p.nulls:
		all = append(all, not(exists(c.name)))
	default:
		all = append(all, exists(c.name))
		sort = append([]object{{c.name: object{"order": dir, "mode": "min"}}}, sort...)
	}
	includes := []string{idField, versionField}
	if s.q.Fields == nil {
		includes = append(includes, sourceField)
	}
	for _, name := range s.q.Fields {
		f := s.x.column(name)
		if f.Kind == facet.KindRange {
			includes = append(includes, f.side("e"))
		} else {
			includes = append(includes, f.name)
		}
	}
	body := object{"query": allOf(all), "sort": sort, "size": limit, "_source": object{"includes": includes}, "track_total_hits": false}
	if k := p.after; k != nil {
		after := []any{k.ID}
		if c != nil && !p.nulls {
			after = []any{c.key(k.Value), k.ID}
		}
		body["search_after"] = after
	}
	a, err := s.ask(ctx, "page", s.q.Sort.Field, body)
	if err != nil {
		return nil, err
	}
	var hits []facet.Hit
	for _, h := range a.Hits.Hits {
		hit, err := s.hit(h.Source)
		if err != nil {
			return nil, err
		}
		hit.Key.ID = hit.ID
		switch {
		case c == nil:
			hit.Key.Value = facet.String(hit.ID)
		case !p.nulls:
			if len(h.Sort) != 2 {
				return nil, fmt.Errorf("a hit was sorted by %v", h.Sort)
			}
			if hit.Key.Value, err = c.value(h.Sort[0]); err != nil {
				return nil, err
			}
		}
		hits = append(hits, hit)
	}
	return hits, nil
}

// hit reads what the cluster has of a document.
func (s *search) hit(text []byte) (facet.Hit, error) {
	var raw map[string]json.RawMessage
	var plain struct {
		ID      string `json:"id"`
		Version int64  `json:"version"`
		Source  []byte `json:"source"`
	}
	if err := json.Unmarshal(text, &plain); err != nil {
		return facet.Hit{}, err
	}
	h := facet.Hit{ID: plain.ID, Version: plain.Version, Source: plain.Source}
	if len(s.q.Fields) == 0 {
		return h, nil
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return h, err
	}
	h.Fields = map[string][]facet.Value{}
	for _, name := range s.q.Fields {
		c := s.x.column(name)
		field := c.name
		if c.Kind == facet.KindRange {
			field = c.side("e")
		}
		if raw[field] == nil {
			continue
		}
		var keys []any
		if err := number(raw[field], &keys); err != nil {
			return h, err
		}
		values := make([]facet.Value, len(keys))
		for i, k := range keys {
			v, err := c.value(k)
			if err != nil {
				return h, err
			}
			values[i] = v
		}
		h.Fields[name] = values
	}
	return h, nil
}
