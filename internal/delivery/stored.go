package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// stored is a source over the store. It remembers what it read, and the revisions, so
// that a commit can be made on condition of them. After a commit it can be kept for the
// next one, as long as nobody else has written into the partition meanwhile.
type stored struct {
	ctx  context.Context
	st   store.Store
	revs map[string]int64 // by table and key

	refsOf  map[string][]string // what was read; what is not there is empty
	parts   map[string]*part
	rows    map[string]*waybill.Deployment
	aliases map[string]string
	places  map[string]*place
	tops    map[string]*summary
	head    int64                      // revision of the partition's head that this is as of
	peek    bool                       // what was not read yet counts as not there, and is noted:
	missed  map[string]map[string]bool // by table
}

func newStored(ctx context.Context, st store.Store) *stored {
	return &stored{
		ctx: ctx, st: st, revs: map[string]int64{}, refsOf: map[string][]string{}, parts: map[string]*part{},
		rows: map[string]*waybill.Deployment{}, aliases: map[string]string{}, places: map[string]*place{}, tops: map[string]*summary{},
	}
}

// size is about how many values it remembers.
func (s *stored) size() int {
	return len(s.refsOf) + len(s.parts) + len(s.rows) + len(s.aliases) + len(s.places) + len(s.tops)
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

// remembered returns a value that was read, or reads it.
func remembered[T any](s *stored, known map[string]T, table, key string) (v T, err error) {
	if v, ok := known[key]; ok {
		return v, nil
	}
	if s.peek {
		if s.missed[table] == nil {
			s.missed[table] = map[string]bool{}
		}
		s.missed[table][key] = true
		return v, nil
	}
	if _, err = s.get(table, key, &v); err == nil {
		known[key] = v
	}
	return v, err
}

// fetch reads everything that was missed, with few requests.
func (s *stored) fetch() error {
	for table, keys := range s.missed {
		list := make([]string, 0, len(keys))
		for k := range keys {
			list = append(list, k)
		}
		for part := range slices.Chunk(list, 500) {
			page, err := s.st.Query(s.ctx, store.Query{Table: table, Limit: 1000, Where: []store.Where{{Column: "key", Op: store.In, Value: part}}})
			if err != nil {
				return err
			}
			there := make(map[string][]byte, len(page.Rows))
			for _, r := range page.Rows {
				there[r.Key] = r.Val
				s.revs[table+" "+r.Key] = r.Rev
			}
			for _, k := range part {
				if err := s.learn(table, k, there[k]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// learn remembers a value of a table, nil for none.
func (s *stored) learn(table, key string, val []byte) error {
	switch table {
	case tableRef:
		return decode(s.refsOf, key, val)
	case tablePart:
		return decode(s.parts, key, val)
	case tableRow:
		return decode(s.rows, key, val)
	case tableAlias:
		return decode(s.aliases, key, val)
	case tablePlace:
		return decode(s.places, key, val)
	case tableSummary:
		return decode(s.tops, key, val)
	}
	return nil
}

func decode[T any](m map[string]T, key string, val []byte) error {
	var v T
	if val != nil {
		if err := json.Unmarshal(val, &v); err != nil {
			return err
		}
	}
	m[key] = v
	return nil
}

func (s *stored) refs(partition, ref string) ([]string, error) {
	keys, err := remembered(s, s.refsOf, tableRef, rowKey(partition, refPath(ref)))
	if err != nil {
		return nil, err
	}
	if len(keys) > crowd {
		return nil, waybill.E(waybill.KindExhausted, "reference %.100q is of more than %d things, so it tells nothing apart", ref, crowd).
			WithHint("give every build an image tag of its own").WithOp(opCrowded, "")
	}
	return keys, nil
}

func (s *stored) part(partition, key string) (*part, error) {
	p, err := remembered(s, s.parts, tablePart, rowKey(partition, key))
	return p.clone(), err
}

func (s *stored) row(partition, id string) (*waybill.Deployment, error) {
	return remembered(s, s.rows, tableRow, rowKey(partition, escape(id)))
}

func (s *stored) alias(partition, id string) (string, error) {
	return remembered(s, s.aliases, tableAlias, rowKey(partition, escape(id)))
}

func (s *stored) place(partition, key string) (*place, error) {
	p, err := remembered(s, s.places, tablePlace, rowKey(partition, key))
	return p.clone(), err
}

func (s *stored) summary(partition, home string) (*summary, error) {
	m, err := remembered(s, s.tops, tableSummary, rowKey(partition, home))
	return m.clone(), err
}

// puts are the writes that make the store as the state is.
func (s *stored) puts(x *state) ([]store.Put, error) {
	var out []store.Put
	var fault error
	add := func(table, key string, v any, there bool) {
		put := store.Put{Table: table, Key: key, Rev: s.revs[table+" "+key]}
		if table == tableRef {
			put.Rev = store.AnyRev // the number of the last event guards these
		}
		if there {
			val, err := json.Marshal(v)
			if err != nil {
				fault = err
			}
			put.Val = val
		} else if put.Rev == 0 {
			return // it came and went
		}
		out = append(out, put)
	}
	for k := range x.dirty.parts {
		add(tablePart, rowKey(x.partition, k), x.loaded[k], x.loaded[k] != nil)
	}
	for ref := range x.dirty.refs {
		add(tableRef, rowKey(x.partition, refPath(ref)), x.keys[ref], len(x.keys[ref]) > 0)
	}
	for id := range x.dirty.rows {
		add(tableRow, rowKey(x.partition, escape(id)), x.rows[id], x.rows[id] != nil)
	}
	for id := range x.dirty.aliases {
		add(tableAlias, rowKey(x.partition, escape(id)), x.aliases[id], x.aliases[id] != "")
	}
	for k := range x.dirty.places {
		add(tablePlace, rowKey(x.partition, k), x.places[k], x.places[k] != nil)
	}
	for k := range x.dirty.summaries {
		add(tableSummary, rowKey(x.partition, k), x.summaries[k], x.summaries[k] != nil)
	}
	return out, fault
}

// wrote remembers what a commit of these puts made of the state.
func (s *stored) wrote(x *state, puts []store.Put) {
	for _, p := range puts {
		switch name := p.Table + " " + p.Key; {
		case p.Rev == store.AnyRev:
		case p.Val == nil:
			delete(s.revs, name)
		default:
			s.revs[name] = p.Rev + 1
		}
	}
	for k := range x.dirty.parts {
		s.parts[rowKey(x.partition, k)] = x.loaded[k]
	}
	for ref := range x.dirty.refs {
		s.refsOf[rowKey(x.partition, refPath(ref))] = x.keys[ref]
	}
	for id := range x.dirty.rows {
		s.rows[rowKey(x.partition, escape(id))] = x.rows[id]
	}
	for id := range x.dirty.aliases {
		s.aliases[rowKey(x.partition, escape(id))] = x.aliases[id]
	}
	for k := range x.dirty.places {
		s.places[rowKey(x.partition, k)] = x.places[k]
	}
	for k := range x.dirty.summaries {
		s.tops[rowKey(x.partition, k)] = x.summaries[k]
	}
}
