package engine

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// known is a run as it stands in the store: its rows and their revisions.
type known struct {
	state *state
	revs  map[string]int64 // by step, "" is the run
}

// memory keeps runs between the messages of their lanes, so that a run of a thousand
// steps is not read again for each of them. What is kept is what the last commit of this
// node wrote. Every change of a run or a step changes the revision of the run's row, so
// comparing that says whether another node has been at it since.
type memory struct {
	mu      sync.Mutex
	kept    map[string]*known   // by run
	pending map[string]*pending // by run: of a commit that is being made
}

type pending struct {
	seq  int64
	done bool
	k    *known
}

// maxKnown bounds how many runs are kept, and maxKnownSteps how large one may be.
const maxKnown = 512

// take removes and returns what is known of a run. Who takes it changes it, so it is
// kept again only when the change was committed.
func (x *memory) take(run string) *known {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := x.kept[run]
	delete(x.kept, run)
	delete(x.pending, run)
	return k
}

// keep is called when the commit of a message was made.
func (x *memory) keep(m *store.Msg) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pending[m.Key]
	if p == nil || p.seq != m.Seq {
		return
	}
	delete(x.pending, m.Key)
	if p.done {
		return
	}
	if len(x.kept) >= maxKnown {
		for id := range x.kept { // any: what is forgotten is read again
			delete(x.kept, id)
			break
		}
	}
	x.kept[m.Key] = p.k
}

// remember notes what will be known of a run when the commit has been made.
func (e *Engine) remember(m *store.Msg, k *known, _ *store.Commit) {
	e.known.mu.Lock()
	defer e.known.mu.Unlock()
	e.known.pending[m.Key] = &pending{m.Seq, k.state.run.Status.Terminal(), k}
}

// load returns a run, its steps and their revisions, from memory or the store.
func (e *Engine) load(ctx context.Context, tenant, id string) (*known, error) {
	k := e.known.take(id)
	if k != nil && !e.o.Shared {
		return k, nil // no other node writes
	}
	row, err := e.o.Store.Get(ctx, tenant, tableRun, id)
	if err != nil {
		return nil, err
	}
	if k != nil && k.revs[""] == row.Rev {
		return k, nil
	}
	s := &state{run: &waybill.Run{}, steps: map[string]*waybill.Step{}, cells: map[string][]*waybill.Step{}}
	if err := json.Unmarshal(row.Val, s.run); err != nil {
		return nil, queue.Bury("run %s cannot be read: %v", id, err)
	}
	k = &known{state: s, revs: map[string]int64{"": row.Rev}}
	if s.plan, _, err = e.o.Plans.Plan(ctx, s.run.Pipeline, s.run.Version); err != nil {
		return nil, err
	}
	if !s.begun() && s.run.Of == "" {
		return k, nil
	}
	rows, err := e.o.Store.Scan(ctx, tenant, tableStep, id+"/", 0)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		st := &waybill.Step{}
		if err := json.Unmarshal(r.Val, st); err != nil {
			return nil, queue.Bury("step %s cannot be read: %v", r.Key, err)
		}
		k.revs[st.Name] = r.Rev
		c := st.Cell
		if c == nil {
			s.steps[st.Name] = st
			continue
		}
		for len(s.cells[c.Of]) <= c.Index { // rows come in the order of their names
			s.cells[c.Of] = append(s.cells[c.Of], nil)
		}
		s.cells[c.Of][c.Index] = st
	}
	return k, nil
}
