package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
)

// The part of the machine that moves the cells of a step with a matrix. It is as pure as
// the rest of it, see machine.go.

// nextCells begins cells up to the limit, and ends the step when all have ended.
func (s *state) nextCells(d *decision, p *pipeline.Step, st *waybill.Step, now time.Time) {
	c := st.Cells
	for c.Running < p.Matrix.MaxParallel && c.Next < c.Total && !s.stopping(p, st) && s.run.Paused == "" {
		cell := s.cells[p.Name][c.Next]
		c.Next++
		c.Running++
		cell.Status, cell.StartedAt = waybill.StatusRunning, now
		d.note(now, "step.started", map[string]any{"step": cell.Name})
		d.touch(st)
		if c.Next > 1 { // the first ones are in the list already
			d.touch(cell)
		}
		s.attempt(d, p, cell, 0, now)
	}
	if c.Running > 0 || c.Next < c.Total && !s.stopping(p, st) || st.Status.Terminal() {
		return
	}
	d.touch(st)
	for _, cell := range s.cells[p.Name][c.Next:] {
		cell.Status, cell.Error, cell.FinishedAt = waybill.StatusCanceled, "not started: its step had ended", now
		c.Canceled++
		d.steps = append(d.steps, cell)
	}
	s.gather(d, p, st, now)
}

// stopping reports whether no new cell of a step begins.
func (s *state) stopping(p *pipeline.Step, st *waybill.Step) bool {
	return st.Cells.First != "" && p.Matrix.FailFast || s.closed(p.Group) && !(p.Group == pipeline.GroupMain && s.run.CancelBy == "")
}

// gather ends a step whose cells have ended. Its outputs are lists, in the order of the
// cells; variables of the run that cells set are taken in that order too, whichever
// ended first.
func (s *state) gather(d *decision, p *pipeline.Step, st *waybill.Step, now time.Time) {
	cells := s.cells[p.Name]
	lists := map[string][]waybill.Value{}
	var names []string
	for _, o := range p.Outputs {
		names = append(names, o.Name)
	}
	for _, cell := range cells {
		for _, n := range cell.Outputs.Names() {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	for _, n := range names {
		lists[n] = make([]waybill.Value, len(cells))
		for i, cell := range cells {
			v, ok := cell.Outputs.Get(n)
			if !ok {
				v = waybill.Value("null")
			}
			lists[n][i] = v
		}
		v, err := waybill.ValueOf(lists[n])
		if err != nil {
			st.Error = err.Error()
			s.endStep(d, p, st, waybill.StatusFailed, now)
			return
		}
		st.Outputs.Set(n, v)
	}
	status := waybill.StatusSucceeded
	switch c := st.Cells; {
	case c.First != "":
		first := cells[c.FirstIndex]
		status, st.ExitCode = first.Status, first.ExitCode
		st.Error = fmt.Sprintf("%d of %d cells failed; the first was %s: %s", c.Failed, c.Total, first.Name, first.Error)
	case c.Canceled > 0:
		status, st.Error = waybill.StatusCanceled, fmt.Sprintf("%d of %d cells were canceled", c.Canceled, c.Total)
	default:
		var vars waybill.Vars
		for _, cell := range cells {
			vars.Merge(cell.Set)
		}
		if err := s.merge(st, vars, st.Outputs.Size()); err != nil {
			st.Error = err.Error()
			status = waybill.StatusFailed
		}
	}
	s.endStep(d, p, st, status, now)
}

func (s *state) endCell(d *decision, p *pipeline.Step, cell *waybill.Step, now time.Time) {
	st := s.steps[p.Name]
	c := st.Cells
	c.Running--
	d.touch(st)
	switch cell.Status {
	case waybill.StatusSucceeded:
		c.Succeeded++
	case waybill.StatusCanceled:
		c.Canceled++
	default:
		c.Failed++
		if c.First == "" {
			c.First, c.FirstIndex = cell.Name, cell.Cell.Index
			if p.Matrix.FailFast {
				for _, other := range s.cells[p.Name][:c.Next] {
					if other != cell && !other.Status.Terminal() && other.Attempts > 0 {
						d.stop = append(d.stop, waybill.AttemptKey(other.Run, other.Name, other.Attempts))
					}
				}
			}
		}
	}
	s.nextCells(d, p, st, now)
}
