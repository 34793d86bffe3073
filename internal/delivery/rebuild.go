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
	if s.o.Bulk != nil {
		defer s.o.Bulk()()
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
	read, stop := context.WithCancel(ctx)
	defer stop()
	for page := range s.readEvents(read, partition, h.Seq) {
		if page.err != nil {
			return out, page.err
		}
		for _, e := range page.events {
			st := newState(m, partition)
			if _, err := st.apply(&e); err != nil {
				return out, waybill.E(waybill.KindInternal, "event %d of partition %s cannot be applied: %w", e.Seq, partition, err)
			}
			m.keep(st)
			out.Events++
		}
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	if out.Events != h.Seq {
		return out, waybill.E(waybill.KindInternal, "partition %s has %d events, its last one is number %d", partition, out.Events, h.Seq).
			WithHint("restore the store from a backup; nothing was changed")
	}
	out.Rows = len(m.of(partition).rows)
	rev := src.revs[tableHead+" "+escape(partition)]
	// The tables are compared side by side, and corrected one after another.
	want := m.values(partition)
	tables := slices.Sorted(maps.Keys(want))
	found := make([]chan difference, len(tables))
	for i, table := range tables {
		found[i] = make(chan difference, 1)
		go func() { found[i] <- s.difference(read, table, escape(partition)+"/", want[table]) }()
	}
	for i := range tables {
		d := <-found[i]
		if d.err != nil {
			return out, d.err
		}
		for part := range slices.Chunk(d.puts, chunk) {
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

// eventPage is some events in order, or why there are no more.
type eventPage struct {
	events []waybill.DeliveryEvent
	err    error
}

// readEvents reads the events of a partition up to a number, ahead of who takes them.
func (s *Service) readEvents(ctx context.Context, partition string, last int64) <-chan eventPage {
	out := make(chan eventPage, 4)
	go func() {
		defer close(out)
		send := func(p eventPage) bool {
			select {
			case out <- p:
				return p.err == nil
			case <-ctx.Done():
				return false
			}
		}
		for cursor := ""; ; {
			page, err := s.o.Store.Query(ctx, store.Query{
				Table: tableEvent, Order: "seq", Limit: 1000, After: cursor,
				Where: []store.Where{{Column: "part", Op: store.Eq, Value: escape(partition)}, {Column: "seq", Op: store.Le, Value: last}},
			})
			if err != nil {
				send(eventPage{err: err})
				return
			}
			p := eventPage{events: make([]waybill.DeliveryEvent, len(page.Rows))}
			for i, x := range page.Rows {
				var r record
				if p.err = json.Unmarshal(x.Val, &r); p.err != nil {
					break
				}
				p.events[i] = r.DeliveryEvent
			}
			if cursor = page.Next; !send(p) || cursor == "" {
				return
			}
		}
	}()
	return out
}

// difference is what has to be written so that a table is as it should be.
type difference struct {
	puts []store.Put
	err  error
}

// difference compares a table with the values that it should hold, and no others, under a
// prefix.
func (s *Service) difference(ctx context.Context, table, prefix string, want map[string]any) difference {
	var out difference
	seen := 0
	there := make(map[string]bool, len(want))
	rows, err := s.o.Store.Scan(ctx, "", table, prefix, 0)
	if err != nil {
		return difference{err: err}
	}
	for _, x := range rows {
		v, ok := want[x.Key]
		if !ok {
			out.puts = append(out.puts, store.Put{Table: table, Key: x.Key, Rev: x.Rev})
			continue
		}
		there[x.Key] = true
		seen++
		val, err := json.Marshal(v)
		if err != nil {
			return difference{err: err}
		}
		if same, err := sameJSON(val, x.Val); err != nil {
			return difference{err: err}
		} else if !same {
			out.puts = append(out.puts, store.Put{Table: table, Key: x.Key, Rev: x.Rev, Val: val})
		}
	}
	if seen == len(want) {
		return out
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if !there[k] {
			val, err := json.Marshal(want[k])
			if err != nil {
				return difference{err: err}
			}
			out.puts = append(out.puts, store.Put{Table: table, Key: k, Val: val})
		}
	}
	return out
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

// values are those of every derived table, by table and key.
func (m *memory) values(partition string) map[string]map[string]any {
	p := m.of(partition)
	out := map[string]map[string]any{
		tablePart: make(map[string]any, len(p.parts)), tableRef: make(map[string]any, len(p.keys)), tableRow: make(map[string]any, len(p.rows)),
		tableAlias: make(map[string]any, len(p.aliases)), tablePlace: make(map[string]any, len(p.places)), tableSummary: make(map[string]any, len(p.summaries)),
	}
	add := func(table, key string, v any) { out[table][rowKey(partition, key)] = v }
	for k, v := range p.parts {
		add(tablePart, k, v)
	}
	for ref, keys := range p.keys {
		if len(keys) > 0 {
			add(tableRef, refPath(ref), keys)
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
	for k, v := range p.summaries {
		add(tableSummary, k, v)
	}
	return out
}
