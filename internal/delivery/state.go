package delivery

import (
	"maps"
	"slices"

	"github.com/waybill-run/waybill"
)

// source is what a state is read from: the store, or a memory in which a rebuild takes
// place. A thing that is not there is nil or empty, without error. What it returns
// belongs to the caller.
type source interface {
	refs(partition, ref string) ([]string, error) // keys of parts
	part(partition, key string) (*part, error)
	row(partition, id string) (*waybill.Deployment, error)
	alias(partition, id string) (string, error)
	place(partition, key string) (*place, error)
	summary(partition, home string) (*summary, error)
}

// state is a partition as a report meets it: what is read of a source, with the changes
// of this and earlier reports over it. It is used by one goroutine.
//
// An error of the source stays in err: what follows from a state with an error means
// nothing and must not be written.
type state struct {
	src       source
	partition string
	err       error

	loaded  map[string]*part    // nil: there is none
	keys    map[string][]string // by reference
	rows    map[string]*waybill.Deployment
	aliases map[string]string
	places  map[string]*place

	summaries map[string]*summary

	edited map[string]bool // parts of the history that are copies of this state
	before []string        // keys of parts that the event being applied may take something from
	dirty  changes
}

// changes are what has to be written after reports were applied.
type changes struct {
	parts   map[string]bool
	refs    map[string]bool
	rows    map[string]bool
	aliases map[string]bool
	places  map[string]bool

	summaries map[string]bool
}

func newState(src source, partition string) *state {
	return &state{
		src: src, partition: partition,
		loaded: map[string]*part{}, keys: map[string][]string{}, rows: map[string]*waybill.Deployment{},
		aliases: map[string]string{}, places: map[string]*place{}, edited: map[string]bool{}, summaries: map[string]*summary{},
		dirty: changes{
			parts: map[string]bool{}, refs: map[string]bool{}, rows: map[string]bool{},
			aliases: map[string]bool{}, places: map[string]bool{}, summaries: map[string]bool{},
		},
	}
}

func (s *state) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// part returns a part, nil when there is none. All callers share it; only apply changes it.
func (s *state) part(key string) *part {
	if p, ok := s.loaded[key]; ok {
		return p
	}
	p, err := s.src.part(s.partition, key)
	if err != nil {
		s.fail(err)
	}
	s.loaded[key] = p
	return p
}

func (s *state) byRef(ref string) []*part {
	keys, ok := s.keys[ref]
	if !ok {
		var err error
		if keys, err = s.src.refs(s.partition, ref); err != nil {
			s.fail(err)
		}
		s.keys[ref] = keys
	}
	out := make([]*part, 0, len(keys))
	for _, k := range keys {
		if p := s.part(k); p != nil {
			out = append(out, p)
		}
	}
	return out
}

// put stores a part that has changed, and its references. Before are those it had.
func (s *state) put(p *part, before []string) {
	s.loaded[p.Key] = p
	s.dirty.parts[p.Key] = true
	after := p.refs()
	for _, ref := range after {
		if !slices.Contains(before, ref) {
			s.byRef(ref) // loads what is there already
			s.keys[ref] = append(slices.Clone(s.keys[ref]), p.Key)
			slices.Sort(s.keys[ref])
			s.dirty.refs[ref] = true
		}
	}
	for _, ref := range before {
		if !slices.Contains(after, ref) {
			s.byRef(ref)
			s.keys[ref] = slices.DeleteFunc(slices.Clone(s.keys[ref]), func(k string) bool { return k == p.Key })
			s.dirty.refs[ref] = true
		}
	}
}

func (s *state) row(id string) *waybill.Deployment {
	if d, ok := s.rows[id]; ok {
		return d
	}
	d, err := s.src.row(s.partition, id)
	if err != nil {
		s.fail(err)
	}
	s.rows[id] = d
	return d
}

// putRow stores a row; nil deletes it.
func (s *state) putRow(id string, d *waybill.Deployment) {
	s.rows[id] = d
	s.dirty.rows[id] = true
}

func (s *state) alias(id string) string {
	if a, ok := s.aliases[id]; ok {
		return a
	}
	a, err := s.src.alias(s.partition, id)
	if err != nil {
		s.fail(err)
	}
	s.aliases[id] = a
	return a
}

// rowOf finds a row by its id or one that it had before.
func (s *state) rowOf(id string) *waybill.Deployment {
	id = fold(id)
	if d := s.row(id); d != nil {
		return d
	}
	if a := s.alias(id); a != "" {
		return s.row(a)
	}
	return nil
}

func (s *state) place(key string) *place {
	if p, ok := s.places[key]; ok {
		return p
	}
	p, err := s.src.place(s.partition, key)
	if err != nil {
		s.fail(err)
	}
	s.places[key] = p
	return p
}

// summary is what is of a service in a ring now.
func (s *state) summary(home string) *summary {
	if m, ok := s.summaries[home]; ok {
		return m
	}
	m, err := s.src.summary(s.partition, home)
	if err != nil {
		s.fail(err)
	}
	s.summaries[home] = m
	return m
}

// memory is a source that remembers what was changed: rebuilding and testing need no
// store.
type memory struct {
	m map[string]*memoryPartition
}

type memoryPartition struct {
	parts   map[string]*part
	keys    map[string][]string
	rows    map[string]*waybill.Deployment
	aliases map[string]string
	places  map[string]*place

	summaries map[string]*summary
}

func newMemory() *memory { return &memory{m: map[string]*memoryPartition{}} }

func (m *memory) of(partition string) *memoryPartition {
	p := m.m[partition]
	if p == nil {
		p = &memoryPartition{
			parts: map[string]*part{}, keys: map[string][]string{}, rows: map[string]*waybill.Deployment{},
			aliases: map[string]string{}, places: map[string]*place{}, summaries: map[string]*summary{},
		}
		m.m[partition] = p
	}
	return p
}

func (m *memory) refs(partition, ref string) ([]string, error) {
	return m.of(partition).keys[ref], nil
}

func (m *memory) part(partition, key string) (*part, error) {
	return m.of(partition).parts[key].clone(), nil
}

func (m *memory) row(partition, id string) (*waybill.Deployment, error) {
	return m.of(partition).rows[id], nil
}

func (m *memory) alias(partition, id string) (string, error) {
	return m.of(partition).aliases[id], nil
}

func (m *memory) place(partition, key string) (*place, error) {
	return m.of(partition).places[key].clone(), nil
}

func (m *memory) summary(partition, home string) (*summary, error) {
	return m.of(partition).summaries[home].clone(), nil
}

// keep takes over the changes of a state.
func (m *memory) keep(s *state) {
	p := m.of(s.partition)
	for k := range s.dirty.parts {
		if x := s.loaded[k]; x != nil {
			p.parts[k] = x
		} else {
			delete(p.parts, k)
		}
	}
	for ref := range s.dirty.refs {
		if keys := s.keys[ref]; len(keys) > 0 {
			p.keys[ref] = keys
		} else {
			delete(p.keys, ref)
		}
	}
	for id := range s.dirty.rows {
		if d := s.rows[id]; d != nil {
			p.rows[id] = d
		} else {
			delete(p.rows, id)
		}
	}
	for id := range s.dirty.aliases {
		if a := s.aliases[id]; a != "" {
			p.aliases[id] = a
		} else {
			delete(p.aliases, id)
		}
	}
	for k := range s.dirty.places {
		if x := s.places[k]; x != nil {
			p.places[k] = x
		} else {
			delete(p.places, k)
		}
	}
	for k := range s.dirty.summaries {
		if x := s.summaries[k]; x != nil {
			p.summaries[k] = x
		} else {
			delete(p.summaries, k)
		}
	}
}

// clone is a copy that can be changed.
func (p *part) clone() *part {
	if p == nil {
		return nil
	}
	c := *p
	c.Digests, c.Runs, c.Tied, c.Events = slices.Clone(p.Digests), slices.Clone(p.Runs), slices.Clone(p.Tied), slices.Clone(p.Events)
	c.Parents, c.Marks = slices.Clone(p.Parents), maps.Clone(p.Marks)
	if p.Review != nil {
		r := *p.Review
		c.Review = &r
	}
	return &c
}
