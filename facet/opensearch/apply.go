package opensearch

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/waybill-run/waybill/facet"
)

// control is the id of the document that holds the sequence. No other has it, since
// theirs get a letter in front.
const control = "control"

// docID is the id of a document in the cluster.
func docID(id string) string { return "d" + id }

// bulkBytes is about how much is sent in one request.
const bulkBytes = 8 << 20

// Apply implements [facet.Index].
func (x *Index) Apply(ctx context.Context, b facet.Batch) (facet.Seq, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := x.schema.CheckBatch(b, x.limits); err != nil {
		return 0, err
	}
	if b.Seq > 1<<53 {
		return 0, &facet.Error{Kind: facet.ErrBadValue, Msg: "the sequence does not fit into a JSON number"}
	}
	x.writes.Lock()
	defer x.writes.Unlock()
	seq, err := x.apply(ctx, b)
	if err != nil {
		return 0, x.failed(ctx, "apply a batch", err)
	}
	return seq, nil
}

func (x *Index) apply(ctx context.Context, b facet.Batch) (facet.Seq, error) {
	at, err := x.sequence(ctx)
	if err != nil {
		return 0, err
	}
	if at.seq >= b.Seq {
		return at.seq, nil
	}
	// The last put of an id counts, and puts come after deletions.
	last := make(map[string]int, len(b.Put))
	for i, d := range b.Put {
		last[d.ID] = i
	}
	var out bulk
	for _, id := range b.Del {
		if _, put := last[id]; !put {
			out.add(len(id), object{"delete": object{"_id": docID(id)}})
		}
	}
	for i := range b.Put {
		d := &b.Put[i]
		if last[d.ID] != i {
			continue
		}
		out.add(len(d.Source)*4/3+500, object{"index": object{"_id": docID(d.ID)}}, x.document(d))
		if out.size >= bulkBytes {
			if err := x.send(ctx, &out); err != nil {
				return 0, err
			}
		}
	}
	if err := x.send(ctx, &out); err != nil {
		return 0, err
	}
	// The sequence comes last: a batch that was cut off is applied again as a whole.
	where := "?op_type=create"
	if at.found {
		where = fmt.Sprintf("?if_seq_no=%d&if_primary_term=%d", at.seqNo, at.term)
	}
	if err := x.do(ctx, http.MethodPut, "/"+x.name+"/_doc/"+control+where, object{seqField: uint64(b.Seq)}, nil); err != nil {
		if isStatus(err, http.StatusConflict) {
			return 0, fmt.Errorf("another process writes to the index: %w", err)
		}
		return 0, err
	}
	if err := x.do(ctx, http.MethodPost, "/"+x.name+"/_refresh", nil, nil); err != nil {
		return 0, err
	}
	return b.Seq, nil
}

// bulk is a request of many changes.
type bulk struct {
	lines lines
	size  int
}

func (b *bulk) add(size int, l ...any) {
	b.lines = append(b.lines, l...)
	b.size += size
}

func (x *Index) send(ctx context.Context, b *bulk) error {
	if len(b.lines) == 0 {
		return nil
	}
	var answer struct {
		Errors bool `json:"errors"`
		Items  []map[string]struct {
			ID     string `json:"_id"`
			Status int    `json:"status"`
			Error  any    `json:"error"`
		} `json:"items"`
	}
	err := x.do(ctx, http.MethodPost, "/"+x.name+"/_bulk", b.lines, &answer)
	*b = bulk{}
	if err != nil {
		return err
	}
	for _, item := range answer.Items {
		for op, r := range item {
			if r.Status/100 != 2 && !(op == "delete" && r.Status == http.StatusNotFound) {
				return fmt.Errorf("%s document %q: the cluster answered %d: %v", op, r.ID, r.Status, r.Error)
			}
		}
	}
	return nil
}

// applied is the sequence as the control document has it.
type applied struct {
	seq         facet.Seq
	found       bool
	seqNo, term int64
}

func (x *Index) sequence(ctx context.Context) (applied, error) {
	var answer struct {
		SeqNo  int64 `json:"_seq_no"`
		Term   int64 `json:"_primary_term"`
		Source struct {
			Seq uint64 `json:"seq"`
		} `json:"_source"`
	}
	err := x.do(ctx, http.MethodGet, "/"+x.name+"/_doc/"+control, nil, &answer)
	if isStatus(err, http.StatusNotFound) {
		return applied{}, nil
	}
	return applied{facet.Seq(answer.Source.Seq), true, answer.SeqNo, answer.Term}, err
}

// Applied implements [facet.Index].
func (x *Index) Applied(ctx context.Context) (facet.Seq, error) {
	done, err := x.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	at, err := x.sequence(ctx)
	if err != nil {
		return 0, x.failed(ctx, "read the applied sequence", err)
	}
	return at.seq, nil
}

// document is a document as the cluster has it.
func (x *Index) document(d *facet.Doc) object {
	source := d.Source
	if source == nil {
		source = []byte{}
	}
	out := object{idField: d.ID, versionField: d.Version, sourceField: source}
	nulls := []string{}
	for i := range x.cols {
		c := &x.cols[i]
		set := c.Set(d.Fields[c.Name])
		if set[len(set)-1].IsNull() {
			nulls = append(nulls, c.name)
			set = set[:len(set)-1]
		}
		if len(set) > 0 {
			c.put(out, set)
		}
	}
	out[nullsField] = nulls
	return out
}

// put adds a column's fields for these values, of which none is null.
func (c *column) put(out object, set []facet.Value) {
	keys := make([]any, len(set))
	for i, v := range set {
		keys[i] = c.key(v)
	}
	out[c.name] = keys
	switch c.Kind {
	case facet.KindInt:
		var of [3][]int64
		for _, v := range set {
			for k, p := range parts(v.Int64()) {
				of[k] = append(of[k], p)
			}
		}
		for k, name := range sumParts {
			out[c.side(name)] = of[k]
		}
	case facet.KindNumber:
		var finite []float64
		for _, v := range set {
			if f := v.Float64(); !math.IsInf(f, 0) {
				finite = append(finite, f)
			}
		}
		if len(finite) > 0 {
			out[c.side("s")] = finite
		}
	case facet.KindRange:
		ranges := make([]object, len(set))
		for i, v := range set {
			ranges[i] = bounds(v.Bounds())
		}
		out[c.name], out[c.side("e")] = ranges, keys
	case facet.KindObject:
		nested := make([]object, len(set))
		for i, v := range set {
			nested[i] = object{}
			for name, s := range v.Props() {
				nested[i][c.prop(name)] = s
			}
		}
		out[c.side("o")] = nested
	case facet.KindKeyword:
		if c.Words {
			words := []string{}
			for _, v := range set {
				words = append(words, facet.Words(v.Str())...)
			}
			slices.Sort(words)
			out[c.side("w")] = slices.Compact(words)
		}
	}
}

// bounds is a range. An end that is open is left out.
func bounds(lo, hi float64) object {
	out := object{}
	if !math.IsInf(lo, 0) {
		out["gte"] = lo
	}
	if !math.IsInf(hi, 0) {
		out["lte"] = hi
	}
	return out
}

// prop is the name of a property below the nested field.
func (c *column) prop(name string) string { return fmt.Sprintf("p%d", slices.Index(c.Props, name)) }
