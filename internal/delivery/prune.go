package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Prune implements waybill.Deliveries. What is forgotten is said in reports, so that making
// the rows again from the events forgets the same ones.
func (s *Service) Prune(ctx context.Context, q waybill.PruneQuery, by waybill.Principal) (waybill.Pruned, error) {
	out := waybill.Pruned{Deployments: []waybill.PrunedDeployment{}, DryRun: q.DryRun}
	if q.OlderThan <= 0 || q.Keep < 0 {
		return out, waybill.E(waybill.KindInvalid, "rows are forgotten that are older than some time; %s, and keeping %d, is not that", q.OlderThan, q.Keep)
	}
	partition := orDefault(q.Partition)
	out.Before = s.o.Now().UTC().Add(-q.OlderThan).Truncate(time.Millisecond)
	live, err := s.live(ctx, partition)
	if err != nil {
		return out, err
	}
	kept := map[string]int{}
	for cursor := ""; ; {
		page, err := s.o.Store.Query(ctx, store.Query{
			Table: tableRow, Order: "updated", Desc: true, Limit: 1000, After: cursor,
			Where: []store.Where{{Column: "part", Op: store.Eq, Value: escape(partition)}},
		})
		if err != nil {
			return out, err
		}
		for _, x := range page.Rows {
			var d waybill.Deployment
			if err := json.Unmarshal(x.Val, &d); err != nil {
				return out, err
			}
			group := fold(d.Service) + "\x00" + d.Ring
			if kept[group]++; kept[group] <= q.Keep || !d.UpdatedAt.Before(out.Before) {
				continue
			}
			if live[d.ID] {
				out.Live++
				continue
			}
			out.Deployments = append(out.Deployments, waybill.PrunedDeployment{
				ID: d.ID, Service: d.Service, Ring: d.Ring, ImageTag: d.ImageTag, UpdatedAt: d.UpdatedAt,
			})
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if q.DryRun {
		return out, nil
	}
	for part := range slices.Chunk(out.Deployments, MaxPruned) {
		r := waybill.DeliveryReport{Kind: waybill.ReportPrune, Partition: partition, Provider: "native", Time: s.o.Now()}
		for _, d := range part {
			r.Deployments = append(r.Deployments, d.ID)
		}
		r.Message = fmt.Sprintf("older than %s, beyond the newest %d of their service and ring", out.Before.Format(time.RFC3339), q.Keep)
		if _, err := s.Report(ctx, r, by); err != nil {
			return out, err
		}
	}
	return out, nil
}

// live are the rows that are in a cluster now.
func (s *Service) live(ctx context.Context, partition string) (map[string]bool, error) {
	all, err := s.summaries(ctx, partition)
	if err != nil {
		return nil, err
	}
	st := s.read(ctx, partition)
	out := map[string]bool{}
	for _, m := range all {
		for c := range m.Now {
			if now, ok := st.now(m.home, m.summary, c); ok {
				out[now.Deployment] = true
			}
		}
	}
	return out, st.err
}

// prune forgets rows, and the parts that no other row shows. Of clusters, pull requests
// and the history of manifests nothing is forgotten: others stand on it.
func (s *state) prune(r *folded, e *waybill.DeliveryEvent) effect {
	gone := map[string]*part{} // by row
	rows := map[string]*waybill.Deployment{}
	for _, id := range r.Deployments {
		d := s.rowOf(id)
		if d == nil || gone[d.ID] != nil {
			continue
		}
		anchor, _ := s.anchors(d.ID)
		if anchor == nil {
			continue
		}
		gone[d.ID], rows[d.ID] = anchor, d
	}
	for again := true; again; {
		again = false
		for id, p := range gone { // whatever the order: what stays makes only more stay
			v, _ := s.view(p)
			if s.doubted(p, gone) || v != nil && slices.ContainsFunc(v.parts, func(x *part) bool { return s.doubted(x, gone) }) {
				delete(gone, id)
				delete(rows, id)
				again = true
			}
		}
	}
	var parts []*part
	for _, p := range gone {
		if v, _ := s.view(p); v != nil {
			parts = union(parts, v.parts)
		}
	}
	s.before = nil
	var doomed []*part
	for _, p := range parts {
		near := s.affected(p)
		used := p.Kind == waybill.ReportSync && s.commitPart(p.ManifestCommit) != nil || p.Kind == waybill.ReportReview
		for _, x := range near {
			if x.Row != "" && gone[x.Row] == nil {
				if v, _ := s.view(x); v != nil && holds(v, p) {
					used = true
				}
			}
		}
		for _, x := range near {
			s.before = append(s.before, x.Key)
		}
		if !used {
			doomed = append(doomed, p)
		}
	}
	ef := effect{}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		d := rows[id]
		s.putRow(d.ID, nil)
		s.settle(d.ID, d, nil)
		for _, f := range d.Former {
			s.aliases[f] = ""
			s.dirty.aliases[f] = true
		}
		ef.gone = append(ef.gone, d.ID)
		ref := "row:" + d.ID
		s.byRef(ref)
		s.keys[ref] = nil
		s.dirty.refs[ref] = true
	}
	for _, p := range doomed {
		s.drop(p)
	}
	for id, p := range gone {
		if x := s.part(p.Key); x != nil && x.Row == id { // it is of other rows as well
			x = x.clone()
			x.Row = ""
			s.loaded[x.Key] = x
			s.dirty.parts[x.Key] = true
		}
	}
	rest := s.refresh(nil, e)
	ef.rows, ef.gone, ef.action = rest.rows, append(ef.gone, rest.gone...), waybill.ActionNone
	if len(ef.gone) > 0 {
		ef.action = waybill.ActionUpdated
	}
	return ef
}

// doubted reports whether a row that stays cannot be told because of a part: were it
// gone, the other would be tied to what is left.
func (s *state) doubted(p *part, gone map[string]*part) bool {
	stays := func(x *part) bool { return x.Row != "" && gone[x.Row] == nil }
	switch p.Kind {
	case waybill.ReportBuild:
		return slices.ContainsFunc(s.configs(p), func(c *part) bool {
			_, _, doubt := s.resolve(c)
			return stays(c) && slices.Contains(doubt, p)
		})
	case waybill.ReportConfig:
		if b, _, _ := s.resolve(p); b == nil && slices.ContainsFunc(s.builds(p), stays) {
			return true // a build is flagged because of it
		}
		return slices.ContainsFunc(s.nearManifests(p), func(m *part) bool {
			linked, near := s.targets(m)
			return stays(m) && !slices.Contains(linked, p) ||
				slices.ContainsFunc(near, func(c *part) bool { return stays(c) && !slices.Contains(linked, c) })
		})
	}
	return false
}

// drop removes a part and its references.
func (s *state) drop(p *part) {
	for _, ref := range p.refs() {
		s.byRef(ref)
		s.keys[ref] = slices.DeleteFunc(slices.Clone(s.keys[ref]), func(k string) bool { return k == p.Key })
		s.dirty.refs[ref] = true
	}
	s.loaded[p.Key] = nil
	s.dirty.parts[p.Key] = true
}
