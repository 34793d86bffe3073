package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// The tables. Every key begins with the partition.
const (
	tableHead  = "delivery_head"       // partition: the number of its last event
	tableEvent = "delivery_event"      // partition/event
	tablePart  = "delivery_part"       // partition/kind/part
	tableRef   = "delivery_ref"        // partition/reference/kind/part: the index by every reference
	tableRow   = "delivery_deployment" // partition/id
	tableAlias = "delivery_alias"      // partition/former id: the id
	tablePlace = "delivery_place"      // partition/service/ring
)

// head is the row of a partition.
type head struct {
	Seq int64 `json:"seq"`
}

// record is an event with what it did.
type record struct {
	waybill.DeliveryEvent
	Action  waybill.ReportAction `json:"action"`
	Rows    []string             `json:"rows,omitempty"`
	Warning string               `json:"warning,omitempty"`
}

// Tables are the descriptors of the package's tables.
func Tables() store.Schema {
	text := func(names ...string) (out []store.Column) {
		for _, n := range names {
			out = append(out, store.Column{Name: n, Type: store.Text})
		}
		return out
	}
	num := func(names ...string) (out []store.Column) {
		for _, n := range names {
			out = append(out, store.Column{Name: n, Type: store.Int})
		}
		return out
	}
	return store.Schema{
		{Name: tableHead, Version: 1},
		{
			Name: tableEvent, Version: 1,
			Columns: append(text("part"), num("seq")...), Indexes: [][]string{{"part", "seq"}},
			Derive: store.JSON(func(key string, r *record) store.Derived {
				return store.Derived{Columns: []any{partitionOf(key), r.Seq}, Counters: []string{"events"}}
			}),
		},
		{
			Name: tablePart, Version: 1,
			Columns: append(text("inbox"), num("since")...), Indexes: [][]string{{"inbox", "since"}},
			Derive: store.JSON(func(key string, p *part) store.Derived {
				if p.Unlinked == "" {
					return store.Derived{Columns: []any{nil, nil}}
				}
				return store.Derived{Columns: []any{partitionOf(key), store.Millis(p.First)}, Counters: []string{"unlinked"}}
			}),
		},
		{Name: tableRef, Version: 1},
		{
			Name: tableRow, Version: 1,
			Columns: append(text("part", "service", "shown", "ring", "tag", "source", "build", "kind", "status", "inbox"), num("updated", "created")...),
			Indexes: [][]string{
				{"part", "updated"}, {"part", "created"}, {"part", "service", "updated"}, {"part", "shown", "updated"}, {"part", "ring", "updated"},
				{"part", "tag", "updated"}, {"part", "source", "updated"}, {"part", "build", "updated"}, {"part", "status", "updated"},
				{"part", "kind", "updated"}, {"inbox", "updated"},
			},
			Derive: store.JSON(func(key string, d *waybill.Deployment) store.Derived {
				build := ""
				if r := d.Build.Last(); r != nil {
					build = r.Run
				}
				var inbox any
				counters := []string{"status:" + string(d.Status)}
				if d.Unlinked != "" {
					inbox = partitionOf(key)
				}
				return store.Derived{
					Columns: []any{
						partitionOf(key), bounded(fold(d.Service)), bounded(fold(d.DisplayService())), bounded(d.Ring), bounded(fold(d.ImageTag)),
						short(d.Commit), bounded(build), d.Kind, string(d.Status), inbox, store.Millis(d.UpdatedAt), store.Millis(d.CreatedAt),
					},
					Counters: counters,
				}
			}),
		},
		{Name: tableAlias, Version: 1},
		{Name: tablePlace, Version: 1},
	}
}

// bounded keeps what is compared in an index from being longer than an index takes.
func bounded(s string) string {
	const most = 160
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:most], "") + "~" + hex.EncodeToString(sum[:8])
}

func partitionOf(key string) string {
	p, _, _ := strings.Cut(key, "/")
	return p
}

func rowKey(partition, rest string) string { return escape(partition) + "/" + rest }

func refPath(ref string) string { return escape(bounded(ref)) }

// crowd is how many parts may share a reference. All of them are looked at when one
// changes, so there must be an end; references are meant to be of few things.
const crowd = 4096

// opCrowded marks the error of a reference that too many share.
const opCrowded = "find what belongs together"

func isCrowded(err error) bool {
	var e *waybill.Error
	return errors.As(err, &e) && e.Op == opCrowded
}

// stored is a source over the store. It remembers the revisions of what it read, so that
// a commit can be made on condition of them.
type stored struct {
	ctx  context.Context
	st   store.Store
	revs map[string]int64 // by table and key
}

func newStored(ctx context.Context, st store.Store) *stored {
	return &stored{ctx: ctx, st: st, revs: map[string]int64{}}
}

// get reads a row into v; false when there is none.
func (s *stored) get(table, key string, v any) (bool, error) {
	row, err := s.st.Get(s.ctx, "", table, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.revs[table+" "+key] = row.Rev
	return true, json.Unmarshal(row.Val, v)
}

func load[T any](s *stored, table, key string) (*T, error) {
	v := new(T)
	if ok, err := s.get(table, key, v); err != nil || !ok {
		return nil, err
	}
	return v, nil
}

func (s *stored) refs(partition, ref string) ([]string, error) {
	prefix := rowKey(partition, refPath(ref)) + "/"
	rows, err := s.st.Scan(s.ctx, "", tableRef, prefix, crowd+1)
	if err != nil {
		return nil, err
	}
	if len(rows) > crowd {
		return nil, waybill.E(waybill.KindExhausted, "reference %.100q is of more than %d things, so it tells nothing apart", ref, crowd).
			WithHint("give every build an image tag of its own").WithOp(opCrowded, "")
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = strings.TrimPrefix(r.Key, prefix)
	}
	return out, nil
}

func (s *stored) part(partition, key string) (*part, error) {
	return load[part](s, tablePart, rowKey(partition, key))
}

func (s *stored) row(partition, id string) (*waybill.Deployment, error) {
	return load[waybill.Deployment](s, tableRow, rowKey(partition, escape(id)))
}

func (s *stored) alias(partition, id string) (string, error) {
	a, err := load[string](s, tableAlias, rowKey(partition, escape(id)))
	if a == nil {
		return "", err
	}
	return *a, err
}

func (s *stored) place(partition, key string) (*place, error) {
	return load[place](s, tablePlace, rowKey(partition, key))
}

// puts are the writes that make the store as the state is.
func (s *stored) puts(x *state) ([]store.Put, error) {
	var out []store.Put
	add := func(table, key string, v any) error {
		put := store.Put{Table: table, Key: key, Rev: s.revs[table+" "+key]}
		if v != nil {
			val, err := json.Marshal(v)
			if err != nil {
				return err
			}
			put.Val = val
		} else if put.Rev == 0 {
			return nil // it came and went
		}
		out = append(out, put)
		return nil
	}
	for k := range x.dirty.parts {
		var v any
		if p := x.loaded[k]; p != nil {
			v = p
		}
		if err := add(tablePart, rowKey(x.partition, k), v); err != nil {
			return nil, err
		}
	}
	for ref, keys := range x.dirty.refs {
		for k, there := range keys {
			// The number of the last event guards these.
			put := store.Put{Table: tableRef, Key: rowKey(x.partition, refPath(ref)) + "/" + k, Rev: store.AnyRev}
			if there {
				put.Val = []byte("1")
			}
			out = append(out, put)
		}
	}
	for id := range x.dirty.rows {
		var v any
		if d := x.rows[id]; d != nil {
			v = d
		}
		if err := add(tableRow, rowKey(x.partition, escape(id)), v); err != nil {
			return nil, err
		}
	}
	for id := range x.dirty.aliases {
		var v any
		if a := x.aliases[id]; a != "" {
			v = a
		}
		if err := add(tableAlias, rowKey(x.partition, escape(id)), v); err != nil {
			return nil, err
		}
	}
	for k := range x.dirty.places {
		if err := add(tablePlace, rowKey(x.partition, k), x.places[k]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func unescape(s string) string {
	if u, err := url.PathUnescape(s); err == nil {
		return u
	}
	return s
}
