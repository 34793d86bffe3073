// Package lineage follows objects to the runs that they started and runs to the objects
// that they made, forward and backward.
//
// It keeps nothing of its own. What started what is read from the ledger of arrivals,
// who made what from the rows that are written with a version, sub-pipelines and
// repetitions from the links of runs; each is found along an index, so that a trace
// costs as much as it shows. A run or version that is no longer kept is still shown
// where something that is kept tells of it.
package lineage

import (
	"context"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/arrival"
	"github.com/waybill-run/waybill/internal/object"
)

// Runs tells of runs. engine.Engine is one.
type Runs interface {
	Summary(ctx context.Context, id string) (waybill.Run, error)
	Runs(ctx context.Context, f waybill.RunFilter) (waybill.Page[waybill.Run], error)
}

// Objects tells of versions and of who made them. object.Objects is one.
type Objects interface {
	Known(ctx context.Context, bucket, key, version string) (waybill.LineageObject, error)
	Made(ctx context.Context, run string, limit int, cursor string) (waybill.Page[object.Made], error)
	Maker(ctx context.Context, o waybill.LineageObject) (object.Made, bool, error)
}

// Ledger tells which versions started which runs. arrival.Arrivals is one.
type Ledger interface {
	Started(ctx context.Context, bucket, key, version string, limit int, cursor string) (waybill.Page[arrival.Started], error)
	StartedBy(ctx context.Context, run string) (arrival.Started, bool, error)
}

// Bounds of a query.
const (
	maxDepth     = 50
	defaultDepth = 10
	maxNodes     = 1000
	defaultNodes = 200
)

// Lineages implements waybill.Lineages. Safe for concurrent use.
type Lineages struct {
	runs    Runs
	objects Objects
	ledger  Ledger
}

var _ waybill.Lineages = (*Lineages)(nil)

// New returns what follows objects and runs.
func New(r Runs, o Objects, l Ledger) *Lineages { return &Lineages{r, o, l} }

func objectID(bucket, key, version string) string {
	return "object/" + bucket + "/" + key + "@" + version
}

func runID(id string) string { return "run/" + id }

// TraceObject implements waybill.Lineages.
func (l *Lineages) TraceObject(ctx context.Context, bucket, key, version string, q waybill.LineageQuery) (waybill.Lineage, error) {
	w, err := l.walk(q)
	if err != nil {
		return waybill.Lineage{}, err
	}
	o, err := l.objects.Known(ctx, bucket, key, version)
	if waybill.IsKind(err, waybill.KindNotFound) && version != "" {
		// The runs that it started may still be there.
		page, lerr := l.ledger.Started(ctx, bucket, key, version, 1, "")
		if lerr != nil {
			return waybill.Lineage{}, lerr
		}
		if len(page.Items) > 0 {
			err = nil
			o = waybill.LineageObject{Bucket: bucket, Key: key, Version: version, State: waybill.LineageGone}
		}
	}
	if err != nil {
		return waybill.Lineage{}, err
	}
	return w.from(ctx, objectNode(o))
}

// TraceRun implements waybill.Lineages.
func (l *Lineages) TraceRun(ctx context.Context, id string, q waybill.LineageQuery) (waybill.Lineage, error) {
	w, err := l.walk(q)
	if err != nil {
		return waybill.Lineage{}, err
	}
	n, err := w.run(ctx, id)
	if err != nil {
		return waybill.Lineage{}, err
	}
	if n.Gone && n.Run.Pipeline == "" {
		made, err := l.objects.Made(ctx, id, 1, "")
		if err != nil {
			return waybill.Lineage{}, err
		}
		if len(made.Items) == 0 {
			return waybill.Lineage{}, waybill.E(waybill.KindNotFound, "there is no run %s", id)
		}
	}
	return w.from(ctx, n)
}

// walk is one query: a search by breadth, first backward and then forward.
type walk struct {
	*Lineages
	q     waybill.LineageQuery
	out   waybill.Lineage
	at    map[string]int // nodes, by id
	edges map[waybill.LineageEdge]bool
	known map[string]waybill.Run // that were read
}

func (l *Lineages) walk(q waybill.LineageQuery) (*walk, error) {
	if !q.Up && !q.Down {
		q.Up, q.Down = true, true
	}
	switch {
	case q.Depth < 0 || q.Depth > maxDepth:
		return nil, waybill.E(waybill.KindInvalid, "depth %d is not from 1 to %d", q.Depth, maxDepth)
	case q.Limit < 0 || q.Limit > maxNodes:
		return nil, waybill.E(waybill.KindInvalid, "limit %d is not from 1 to %d", q.Limit, maxNodes)
	}
	if q.Depth == 0 {
		q.Depth = defaultDepth
	}
	if q.Limit == 0 {
		q.Limit = defaultNodes
	}
	return &walk{
		Lineages: l, q: q, at: map[string]int{}, edges: map[waybill.LineageEdge]bool{}, known: map[string]waybill.Run{},
		out: waybill.Lineage{Nodes: []waybill.LineageNode{}, Edges: []waybill.LineageEdge{}},
	}, nil
}

func (w *walk) from(ctx context.Context, root waybill.LineageNode) (waybill.Lineage, error) {
	w.out.Root = root.ID
	w.add(root)
	if w.q.Up {
		if err := w.search(ctx, true); err != nil {
			return w.out, err
		}
	}
	if w.q.Down {
		if err := w.search(ctx, false); err != nil {
			return w.out, err
		}
	}
	return w.out, nil
}

func (w *walk) add(n waybill.LineageNode) {
	w.at[n.ID] = len(w.out.Nodes)
	w.out.Nodes = append(w.out.Nodes, n)
}

// next is a neighbor of a node. Its node is made when it is wanted.
type next struct {
	edge waybill.LineageEdge
	id   string
	node func(ctx context.Context) (waybill.LineageNode, error)
}

// search follows edges in one direction.
func (w *walk) search(ctx context.Context, up bool) error {
	type place struct {
		id    string
		depth int
	}
	queue := []place{{w.out.Root, 0}}
	seen := map[string]bool{w.out.Root: true}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		n := w.out.Nodes[w.at[p.id]]
		neighbors, more, err := w.neighbors(ctx, n, up)
		if err != nil {
			return err
		}
		for _, x := range neighbors {
			if _, there := w.at[x.id]; !there {
				if p.depth == w.q.Depth || len(w.out.Nodes) == w.q.Limit {
					more = true
					continue
				}
				node, err := x.node(ctx)
				if err != nil {
					return err
				}
				w.add(node)
			}
			if !w.edges[x.edge] {
				w.edges[x.edge] = true
				w.out.Edges = append(w.out.Edges, x.edge)
			}
			if !seen[x.id] && p.depth < w.q.Depth {
				seen[x.id] = true
				queue = append(queue, place{x.id, p.depth + 1})
			}
		}
		if more {
			w.out.Truncated = true
			if n := &w.out.Nodes[w.at[p.id]]; up {
				n.MoreUp = true
			} else {
				n.MoreDown = true
			}
		}
	}
	return nil
}

func (w *walk) neighbors(ctx context.Context, n waybill.LineageNode, up bool) ([]next, bool, error) {
	if up {
		return w.up(ctx, n)
	}
	return w.down(ctx, n)
}

// page is how many neighbors of one kind are read: one more than could be shown.
func (w *walk) page() int { return min(w.q.Limit+1, maxNodes) }

// down returns what followed from a node, and whether there is more of it.
func (w *walk) down(ctx context.Context, n waybill.LineageNode) (out []next, more bool, err error) {
	if o := n.Object; o != nil {
		page, err := w.ledger.Started(ctx, o.Bucket, o.Key, o.Version, w.page(), "")
		if err != nil {
			return nil, false, err
		}
		for _, s := range page.Items {
			out = append(out, w.toRun(waybill.LineageEdge{From: n.ID, To: runID(s.Run), Kind: waybill.LineageStarted}, s.Run))
		}
		return out, page.Next != "", nil
	}
	id := n.Run.ID
	made, err := w.objects.Made(ctx, id, w.page(), "")
	if err != nil {
		return nil, false, err
	}
	more = made.Next != ""
	for _, m := range made.Items {
		out = append(out, w.toObject(waybill.LineageEdge{
			From: n.ID, To: objectID(m.Bucket, m.Key, m.Version), Kind: waybill.LineageMade, Step: m.Step, Attempt: m.Attempt,
		}, m.Bucket, m.Key, m.Version))
	}
	for _, f := range []waybill.RunFilter{{Parent: id, Limit: w.page()}, {RetryOf: id, Limit: w.page()}} {
		page, err := w.runs.Runs(ctx, f)
		if err != nil {
			return nil, false, err
		}
		more = more || page.Next != ""
		slices.SortFunc(page.Items, func(a, b waybill.Run) int { return strings.Compare(a.ID, b.ID) })
		for _, r := range page.Items {
			w.known[r.ID] = r
			out = append(out, w.toRun(link(r), r.ID))
		}
	}
	return out, more, nil
}

// link is the edge to a run that another one called or that repeats another one.
func link(r waybill.Run) waybill.LineageEdge {
	if r.Of != "" {
		return waybill.LineageEdge{From: runID(r.Of), To: runID(r.ID), Kind: waybill.LineageRetried}
	}
	return waybill.LineageEdge{From: runID(r.Parent.Run), To: runID(r.ID), Kind: waybill.LineageCalled, Step: r.Parent.Step, Attempt: r.Parent.Attempt}
}

// up returns what a node followed from, and whether there is more of it.
func (w *walk) up(ctx context.Context, n waybill.LineageNode) ([]next, bool, error) {
	if n.Object != nil {
		m, ok, err := w.objects.Maker(ctx, *n.Object)
		if err != nil || !ok {
			return nil, false, err
		}
		return []next{w.toRun(waybill.LineageEdge{
			From: runID(m.Run), To: n.ID, Kind: waybill.LineageMade, Step: m.Step, Attempt: m.Attempt,
		}, m.Run)}, false, nil
	}
	started := func(bucket, key, version string) next {
		return w.toObject(waybill.LineageEdge{From: objectID(bucket, key, version), To: n.ID, Kind: waybill.LineageStarted}, bucket, key, version)
	}
	if n.Gone {
		s, ok, err := w.ledger.StartedBy(ctx, n.Run.ID)
		if err != nil || !ok {
			return nil, false, err
		}
		return []next{started(s.Bucket, s.Key, s.Version)}, false, nil
	}
	r, err := w.summary(ctx, n.Run.ID)
	if err != nil {
		return nil, false, err
	}
	var out []next
	before := r.Of
	if r.Parent != nil && before == "" {
		before = r.Parent.Run
	}
	if before != "" {
		out = append(out, w.toRun(link(r), before))
		// Of a run that is there, what started it is its own matter.
		if _, err := w.summary(ctx, before); err == nil {
			return out, false, nil
		} else if !waybill.IsKind(err, waybill.KindNotFound) {
			return nil, false, err
		}
		if _, ok, err := w.ledger.StartedBy(ctx, before); ok || err != nil {
			return out, false, err
		}
	}
	if o := r.Event.Object; o != nil {
		out = append(out, started(o.Bucket, o.Key, o.Version))
	}
	return out, false, nil
}

func (w *walk) summary(ctx context.Context, id string) (waybill.Run, error) {
	if r, ok := w.known[id]; ok {
		return r, nil
	}
	r, err := w.runs.Summary(ctx, id)
	if err == nil {
		w.known[id] = r
	}
	return r, err
}

func (w *walk) toRun(e waybill.LineageEdge, id string) next {
	return next{e, runID(id), func(ctx context.Context) (waybill.LineageNode, error) { return w.run(ctx, id) }}
}

func (w *walk) toObject(e waybill.LineageEdge, bucket, key, version string) next {
	return next{e, objectID(bucket, key, version), func(ctx context.Context) (waybill.LineageNode, error) {
		o, err := w.objects.Known(ctx, bucket, key, version)
		if waybill.IsKind(err, waybill.KindNotFound) {
			o, err = waybill.LineageObject{Bucket: bucket, Key: key, Version: version, State: waybill.LineageGone}, nil
		}
		return objectNode(o), err
	}}
}

func objectNode(o waybill.LineageObject) waybill.LineageNode {
	return waybill.LineageNode{ID: objectID(o.Bucket, o.Key, o.Version), Object: &o, Gone: o.State == waybill.LineageGone}
}

// run is the node of a run, of one that is no longer kept with what the ledger tells.
func (w *walk) run(ctx context.Context, id string) (waybill.LineageNode, error) {
	n := waybill.LineageNode{ID: runID(id), Run: &waybill.LineageRun{ID: id}}
	r, err := w.summary(ctx, id)
	if waybill.IsKind(err, waybill.KindNotFound) {
		n.Gone = true
		s, ok, err := w.ledger.StartedBy(ctx, id)
		if err != nil || !ok {
			return n, err
		}
		n.Run.Pipeline, n.Run.CreatedAt = s.Pipeline, s.At
		n.Run.Event = waybill.LineageEvent{ID: s.Version, Type: "object", Source: "/buckets/" + s.Bucket, Subject: s.Key}
		return n, nil
	}
	if err != nil {
		return n, err
	}
	*n.Run = waybill.LineageRun{
		ID: id, Pipeline: r.Pipeline, Status: r.Status, Error: r.Error, CreatedAt: r.CreatedAt, FinishedAt: r.FinishedAt,
		Event: waybill.LineageEvent{ID: r.Event.ID, Type: r.Event.Type, Source: r.Event.Source, Subject: r.Event.Subject},
	}
	return n, nil
}
