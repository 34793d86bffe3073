package engine

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// This file lists runs. Every list is read along an index, newest first, and one
// request looks at a bounded number of rows: when few of them fit, its page is
// short or even empty, and has a cursor to go on from.

// tableLink finds runs by what few of them have: labels, the run they repeat, the
// run whose step started them. Key: what, its value and the run, see linkKey.
const tableLink = "run_link"

// The links of runs.
const (
	linkLabel  = "label"
	linkParent = "parent"
	linkRetry  = "retry"
)

func linkKey(what, value, run string) string { return what + "\x01" + value + "\x01" + run }

// links are the rows by which a run is found, to be put with it and deleted with it.
func runLinks(r *waybill.Run) []string {
	var out []string
	for name, value := range r.Labels {
		out = append(out, linkKey(linkLabel, name+"="+value, r.ID))
	}
	if r.Parent != nil {
		out = append(out, linkKey(linkParent, r.Parent.Run, r.ID))
	}
	if r.Of != "" {
		out = append(out, linkKey(linkRetry, r.Of, r.ID))
	}
	slices.Sort(out)
	return out
}

// putLinks adds the links of a new run to the commit that makes it.
func putLinks(c *store.Commit, r *waybill.Run) {
	for _, key := range runLinks(r) {
		c.Puts = append(c.Puts, store.Put{Table: tableLink, Key: key, Val: []byte(`true`)})
	}
}

// dropLinks adds the deletion of a run's links to the commit that forgets it.
func dropLinks(c *store.Commit, r *waybill.Run) {
	for _, key := range runLinks(r) {
		c.Puts = append(c.Puts, store.Put{Table: tableLink, Key: key, Rev: store.AnyRev})
	}
}

// listBudget is how many rows one request looks at beyond those it returns.
const listBudget = 2000

// after is where a page ended.
type after struct {
	At  int64  `json:"c,omitempty"` // created, in milliseconds
	Run string `json:"r"`
}

func (a after) encode() string {
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // a number and a string always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Runs implements waybill.Runs.
func (e *Engine) Runs(ctx context.Context, f waybill.RunFilter) (waybill.Page[waybill.Run], error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	f.Limit = min(f.Limit, 1000)
	f.Statuses = slices.Compact(slices.Sorted(slices.Values(f.Statuses)))
	var from after
	if f.Cursor != "" {
		b, err := base64.RawURLEncoding.DecodeString(f.Cursor)
		if err != nil || json.Unmarshal(b, &from) != nil || from.Run == "" {
			return waybill.Page[waybill.Run]{}, waybill.E(waybill.KindInvalid, "the cursor is not one of this list")
		}
	}
	if len(f.Labels) > 0 || f.Parent != "" || f.RetryOf != "" {
		return e.linked(ctx, f, from)
	}
	return e.listed(ctx, f, from)
}

// fits reports whether a run is one of those that are asked for.
func fits(r *waybill.Run, f *waybill.RunFilter) bool {
	switch {
	case f.Pipeline != "" && r.Pipeline != f.Pipeline,
		len(f.Statuses) > 0 && !slices.Contains(f.Statuses, r.Status),
		!f.Since.IsZero() && r.CreatedAt.Before(f.Since),
		!f.Until.IsZero() && !r.CreatedAt.Before(f.Until),
		f.Trigger != "" && r.Event.Type != f.Trigger,
		f.Parent != "" && (r.Parent == nil || r.Parent.Run != f.Parent),
		f.RetryOf != "" && r.Of != f.RetryOf:
		return false
	}
	for name, value := range f.Labels {
		if r.Labels[name] != value {
			return false
		}
	}
	return true
}

// listed reads along the indexes of the table: one list for each status that is
// asked for, merged.
func (e *Engine) listed(ctx context.Context, f waybill.RunFilter, from after) (waybill.Page[waybill.Run], error) {
	base := store.Query{Table: tableRun, Order: "created", Desc: true, Limit: f.Limit + 1}
	where := func(column string, op store.Op, value any) {
		base.Where = append(base.Where, store.Where{Column: column, Op: op, Value: value})
	}
	if f.Pipeline != "" {
		where("pipeline", store.Eq, f.Pipeline)
	}
	if !f.Since.IsZero() {
		where("created", store.Ge, f.Since.UnixMilli())
	}
	if !f.Until.IsZero() {
		where("created", store.Le, f.Until.UnixMilli()) // the rest of the millisecond is looked at in fits
	}
	if from.Run != "" {
		where("created", store.Le, from.At)
	}
	if f.Trigger != "" && f.Pipeline == "" && len(f.Statuses) == 0 {
		where("trigger", store.Eq, f.Trigger)
	}
	heads := []*stream{}
	for _, s := range f.Statuses {
		q := base
		q.Where = append(slices.Clip(q.Where), store.Where{Column: "status", Op: store.Eq, Value: string(s)})
		heads = append(heads, &stream{e: e, q: q})
	}
	if len(heads) == 0 {
		heads = append(heads, &stream{e: e, q: base})
	}
	out := waybill.Page[waybill.Run]{Items: []waybill.Run{}}
	last := from
	for looked := 0; ; looked++ {
		var best *stream
		for _, s := range heads {
			if err := s.fill(ctx); err != nil {
				return out, err
			}
			if len(s.rows) > 0 && (best == nil || newer(&s.rows[0], &best.rows[0])) {
				best = s
			}
		}
		if best == nil {
			return out, nil
		}
		if len(out.Items) == f.Limit || looked >= f.Limit+listBudget {
			out.Next = last.encode()
			return out, nil
		}
		r := best.rows[0]
		best.rows = best.rows[1:]
		at := after{r.CreatedAt.UnixMilli(), r.ID}
		if from.Run != "" && (at.At > from.At || at.At == from.At && at.Run >= from.Run) {
			looked-- // on the page before
			continue
		}
		last = at
		if fits(&r, &f) {
			out.Items = append(out.Items, r)
			looked--
		}
	}
}

// newer reports whether a stands before b in the order of lists.
func newer(a, b *waybill.Run) bool {
	return cmp.Or(cmp.Compare(a.CreatedAt.UnixMilli(), b.CreatedAt.UnixMilli()), cmp.Compare(a.ID, b.ID)) > 0
}

// stream reads one list page by page.
type stream struct {
	e    *Engine
	q    store.Query
	rows []waybill.Run
	done bool
}

func (s *stream) fill(ctx context.Context) error {
	for len(s.rows) == 0 && !s.done {
		page, err := s.e.o.Store.Query(ctx, s.q)
		if err != nil {
			return err
		}
		for _, row := range page.Rows {
			var r waybill.Run
			if err := json.Unmarshal(row.Val, &r); err != nil {
				return err
			}
			s.rows = append(s.rows, r)
		}
		s.q.After, s.done = page.Next, page.Next == ""
	}
	return nil
}

// linked reads along the links of what fewest runs have, in the order of their
// ids, which is that of their creation.
func (e *Engine) linked(ctx context.Context, f waybill.RunFilter, from after) (waybill.Page[waybill.Run], error) {
	var prefix string
	switch {
	case f.RetryOf != "":
		prefix = linkKey(linkRetry, f.RetryOf, "")
	case f.Parent != "":
		prefix = linkKey(linkParent, f.Parent, "")
	default:
		// Nothing tells which label is the rarest; the first by name is as good as any.
		names := make([]string, 0, len(f.Labels))
		for n := range f.Labels {
			names = append(names, n)
		}
		slices.Sort(names)
		prefix = linkKey(linkLabel, names[0]+"="+f.Labels[names[0]], "")
	}
	q := store.Query{Table: tableLink, Desc: true, Limit: 200, Where: []store.Where{{Column: "key", Op: store.Prefix, Value: prefix}}}
	if from.Run != "" {
		q.Where = append(q.Where, store.Where{Column: "key", Op: store.Lt, Value: prefix + from.Run})
	}
	out := waybill.Page[waybill.Run]{Items: []waybill.Run{}}
	last, looked := from, 0
	for {
		page, err := e.o.Store.Query(ctx, q)
		if err != nil {
			return out, err
		}
		for _, row := range page.Rows {
			if len(out.Items) == f.Limit || looked >= listBudget {
				out.Next = last.encode()
				return out, nil
			}
			id := row.Key[strings.LastIndexByte(row.Key, 1)+1:]
			last = after{Run: id}
			looked++
			r, err := e.run(ctx, id)
			if waybill.IsKind(err, waybill.KindNotFound) {
				continue // forgotten at this moment
			}
			if err != nil {
				return out, err
			}
			// Ids of several servers may be out of order by the difference of their clocks.
			if !f.Since.IsZero() && r.CreatedAt.Before(f.Since.Add(-time.Minute)) {
				return out, nil
			}
			if fits(&r, &f) {
				out.Items = append(out.Items, r)
			}
		}
		if q.After = page.Next; q.After == "" {
			return out, nil
		}
	}
}

// Summary returns a run without its steps. KindNotFound when there is none.
func (e *Engine) Summary(ctx context.Context, id string) (waybill.Run, error) { return e.run(ctx, id) }

// Kept reports whether a run is still there.
func (e *Engine) Kept(ctx context.Context, id string) (bool, error) {
	_, err := e.run(ctx, id)
	if waybill.IsKind(err, waybill.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}
