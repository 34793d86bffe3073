package httpdtest

import (
	"context"

	"github.com/waybill-run/waybill"
)

// lineages knows that every object started every run, and no run made any.
type lineages struct{ *World }

func (w lineages) TraceObject(_ context.Context, bucket, key, version string, q waybill.LineageQuery) (waybill.Lineage, error) {
	var out waybill.Lineage
	unlock, err := w.lock()
	if err != nil {
		return out, err
	}
	defer unlock()
	if q.Depth > 50 || q.Limit > 1000 {
		return out, waybill.E(waybill.KindInvalid, "depth %d and limit %d are at most 50 and 1000", q.Depth, q.Limit)
	}
	o, err := objects(w).find(bucket, key, version)
	if err != nil {
		return out, err
	}
	out = waybill.Lineage{Root: "object/" + bucket + "/" + key + "@" + o.Version, Edges: []waybill.LineageEdge{}}
	out.Nodes = []waybill.LineageNode{{ID: out.Root, Object: &waybill.LineageObject{
		Bucket: bucket, Key: key, Version: o.Version, State: waybill.LineageCurrent, Size: o.Size, CreatedAt: o.CreatedAt, CreatedBy: o.CreatedBy,
	}}}
	for _, id := range w.order {
		if !q.Down {
			break
		}
		if len(out.Nodes) == q.Limit {
			out.Truncated, out.Nodes[0].MoreDown = true, true
			break
		}
		out.Nodes = append(out.Nodes, w.node(id))
		out.Edges = append(out.Edges, waybill.LineageEdge{From: out.Root, To: "run/" + id, Kind: waybill.LineageStarted})
	}
	return out, nil
}

func (w lineages) node(id string) waybill.LineageNode {
	r := w.Details[id]
	return waybill.LineageNode{ID: "run/" + id, Run: &waybill.LineageRun{
		ID: id, Pipeline: r.Pipeline, Status: r.Status, CreatedAt: r.CreatedAt,
		Event: waybill.LineageEvent{Type: r.Event.Type, Source: r.Event.Source},
	}}
}

func (w lineages) TraceRun(_ context.Context, id string, q waybill.LineageQuery) (waybill.Lineage, error) {
	unlock, err := w.lock()
	if err != nil {
		return waybill.Lineage{}, err
	}
	defer unlock()
	if _, err := runs(w).get(id); err != nil {
		return waybill.Lineage{}, err
	}
	return waybill.Lineage{Root: "run/" + id, Nodes: []waybill.LineageNode{w.node(id)}, Edges: []waybill.LineageEdge{}}, nil
}
