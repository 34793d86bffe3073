package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// chunk is how many rows a rebuild writes at once.
const chunk = 500

// Rebuild makes everything that follows from the events of a partition again, and
// corrects what is stored where it differs. Reports go on meanwhile: when one is taken
// in, the rebuild begins anew, and gives up with KindUnavailable after some times. It
// holds the partition in memory.
func (s *Service) Rebuild(ctx context.Context, partition string) (waybill.Rebuilt, error) {
	if partition == "" {
		partition = DefaultPartition
	}
	for range 5 {
		out, err := s.rebuild(ctx, partition)
		if !errors.Is(err, store.ErrConflict) {
			return out, err
		}
	}
	return waybill.Rebuilt{}, waybill.E(waybill.KindUnavailable, "reports of partition %.40q come in faster than it can be rebuilt", partition)
}

func (s *Service) rebuild(ctx context.Context, partition string) (waybill.Rebuilt, error) {
	src := newStored(ctx, s.o.Store)
	var h head
	if _, err := src.get(tableHead, escape(partition), &h); err != nil {
		return waybill.Rebuilt{}, err
	}
	m := newMemory()
	var out waybill.Rebuilt
	for cursor := ""; ; {
		page, err := s.o.Store.Query(ctx, store.Query{
			Table: tableEvent, Order: "seq", Limit: 1000, After: cursor,
			Where: []store.Where{{Column: "part", Op: store.Eq, Value: escape(partition)}, {Column: "seq", Op: store.Le, Value: h.Seq}},
		})
		if err != nil {
			return out, err
		}
		for _, x := range page.Rows {
			var r record
			if err := json.Unmarshal(x.Val, &r); err != nil {
				return out, err
			}
			st := newState(m, partition)
			if _, err := st.apply(&r.DeliveryEvent); err != nil {
				return out, waybill.E(waybill.KindInternal, "event %d of partition %s cannot be applied: %w", r.Seq, partition, err)
			}
			m.keep(st)
			out.Events++
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if out.Events != h.Seq {
		return out, waybill.E(waybill.KindInternal, "partition %s has %d events, its last one is number %d", partition, out.Events, h.Seq).
			WithHint("restore the store from a backup; nothing was changed")
	}
	want, err := m.values(partition)
	if err != nil {
		return out, err
	}
	out.Rows = len(m.of(partition).rows)
	rev := src.revs[tableHead+" "+escape(partition)]
	for _, table := range slices.Sorted(maps.Keys(want)) {
		puts, err := s.difference(ctx, table, escape(partition)+"/", want[table])
		if err != nil {
			return out, err
		}
		for part := range slices.Chunk(puts, chunk) {
			val, err := json.Marshal(h)
			if err != nil {
				return out, err
			}
			part = append(slices.Clone(part), store.Put{Table: tableHead, Key: escape(partition), Rev: rev, Val: val})
			if err := s.o.Store.Commit(ctx, &store.Commit{Puts: part}); err != nil {
				return out, err
			}
			rev++
			out.Fixed += len(part) - 1
		}
	}
	return out, nil
}

// difference is what has to be written so that a table holds the values, and no others,
// under a prefix.
func (s *Service) difference(ctx context.Context, table, prefix string, want map[string][]byte) ([]store.Put, error) {
	rows, err := s.o.Store.Scan(ctx, "", table, prefix, 0)
	if err != nil {
		return nil, err
	}
	var out []store.Put
	there := map[string]bool{}
	for _, x := range rows {
		there[x.Key] = true
		val, ok := want[x.Key]
		if !ok {
			out = append(out, store.Put{Table: table, Key: x.Key, Rev: x.Rev})
		} else if same, err := sameJSON(val, x.Val); err != nil {
			return nil, err
		} else if !same {
			out = append(out, store.Put{Table: table, Key: x.Key, Rev: x.Rev, Val: val})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !there[k] {
			out = append(out, store.Put{Table: table, Key: k, Val: want[k]})
		}
	}
	return out, nil
}

// sameJSON compares values however a store may have written them.
func sameJSON(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		return false, err
	}
	if err := json.Unmarshal(b, &y); err != nil {
		return false, err
	}
	m, err := json.Marshal(x)
	if err != nil {
		return false, err
	}
	n, err := json.Marshal(y)
	return bytes.Equal(m, n), err
}

// values are the rows of every derived table, by table and key.
func (m *memory) values(partition string) (map[string]map[string][]byte, error) {
	p := m.of(partition)
	out := map[string]map[string][]byte{tablePart: {}, tableRef: {}, tableRow: {}, tableAlias: {}, tablePlace: {}}
	var fault error
	add := func(table, key string, v any) {
		val, err := json.Marshal(v)
		if err != nil {
			fault = err
		}
		out[table][rowKey(partition, key)] = val
	}
	for k, v := range p.parts {
		add(tablePart, k, v)
	}
	for ref, keys := range p.keys {
		if len(keys) > 0 {
			add(tableRef, refPath(ref), slices.Sorted(maps.Keys(keys)))
		}
	}
	for k, v := range p.rows {
		add(tableRow, escape(k), v)
	}
	for k, v := range p.aliases {
		add(tableAlias, escape(k), v)
	}
	for k, v := range p.places {
		add(tablePlace, k, v)
	}
	return out, fault
}
