package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/pipeline"
	"github.com/waybill-run/waybill/internal/store"
)

func (e *Engine) run(ctx context.Context, id string) (waybill.Run, error) {
	row, err := e.o.Store.Get(ctx, "", tableRun, id)
	if errors.Is(err, store.ErrNotFound) {
		return waybill.Run{}, waybill.E(waybill.KindNotFound, "there is no run %s", id)
	}
	if err != nil {
		return waybill.Run{}, err
	}
	var r waybill.Run
	return r, json.Unmarshal(row.Val, &r)
}

// Run implements waybill.Runs.
func (e *Engine) Run(ctx context.Context, id string) (waybill.RunDetail, error) {
	run, err := e.run(ctx, id)
	if err != nil {
		return waybill.RunDetail{}, err
	}
	d := waybill.RunDetail{Run: run, Steps: []waybill.Step{}, Attempts: []waybill.Attempt{}}
	begun := map[string]waybill.Step{}
	if err := scan(ctx, e.o.Store, run.Tenant, tableStep, id+"/", func(st waybill.Step) { begun[st.Name] = st }); err != nil {
		return d, err
	}
	if err := scan(ctx, e.o.Store, run.Tenant, tableAttempt, id+"/", func(a waybill.Attempt) {
		a.TokenHash, a.Handle = "", nil
		d.Attempts = append(d.Attempts, a)
	}); err != nil {
		return d, err
	}
	plan, _, err := e.o.Plans.Plan(ctx, run.Pipeline, run.Version)
	if err != nil {
		return d, err
	}
	for _, p := range plan.Steps {
		st, ok := begun[p.Name]
		if !ok {
			st = waybill.Step{Run: id, Name: p.Name, Index: p.Index, Runner: p.Runner, Needs: p.Needs, Group: p.Group, Status: waybill.StatusQueued}
			switch {
			case !run.Status.Terminal():
			case p.Group == pipeline.GroupFailure && (run.Failed == "" || begun[run.Failed].Group != pipeline.GroupMain):
				st.Status, st.Error = waybill.StatusSkipped, "nothing failed"
			default:
				st.Status, st.Error = waybill.StatusCanceled, "not started: the run had ended"
			}
		}
		d.Steps = append(d.Steps, st)
		if st.Cells != nil {
			for i := range st.Cells.Total {
				if cell, ok := begun[fmt.Sprintf("%s.%d", p.Name, i)]; ok {
					d.Steps = append(d.Steps, cell)
				}
			}
		}
	}
	slices.SortStableFunc(d.Attempts, func(a, b waybill.Attempt) int {
		x, y := begun[a.Step], begun[b.Step]
		return cmp.Or(cmp.Compare(x.Index, y.Index), cmp.Compare(cellIndex(x), cellIndex(y)), cmp.Compare(a.Number, b.Number))
	})
	return d, nil
}

func cellIndex(st waybill.Step) int {
	if st.Cell == nil {
		return -1
	}
	return st.Cell.Index
}

func scan[T any](ctx context.Context, s store.Store, tenant, table, prefix string, f func(T)) error {
	rows, err := s.Scan(ctx, tenant, table, prefix, 0)
	if err != nil {
		return err
	}
	for _, r := range rows {
		var v T
		if err := json.Unmarshal(r.Val, &v); err != nil {
			return fmt.Errorf("%s %s: %w", table, r.Key, err)
		}
		f(v)
	}
	return nil
}

// OutputFile implements waybill.Runs.
func (e *Engine) OutputFile(ctx context.Context, run, step, output string, attempt int) (waybill.FileRef, io.ReadSeekCloser, error) {
	none := func(format string, args ...any) (waybill.FileRef, io.ReadSeekCloser, error) {
		return waybill.FileRef{}, nil, waybill.E(waybill.KindNotFound, format, args...)
	}
	d, err := e.Run(ctx, run)
	if err != nil {
		return waybill.FileRef{}, nil, err
	}
	var of *waybill.Attempt
	for i := range d.Attempts {
		if a := &d.Attempts[i]; a.Step == step && (attempt == 0 || a.Number == attempt) && (of == nil || a.Number > of.Number) {
			of = a
		}
	}
	if of == nil {
		return none("run %s has no such attempt of step %s", run, step)
	}
	v, ok := of.Returned.Get(output)
	if !ok {
		return none("attempt %d of step %s returned no %s", of.Number, step, output)
	}
	f, ok := v.File()
	if !ok {
		return none("output %s of step %s is no file", output, step)
	}
	content, err := e.o.Blobs.Open(ctx, f.SHA256)
	return f, content, err
}

// Records implements waybill.Runs.
func (e *Engine) Records(ctx context.Context, run, after string, n int) ([]waybill.Record, error) {
	if _, err := e.run(ctx, run); err != nil {
		return nil, err
	}
	return e.records(ctx, run, after, n)
}

func (e *Engine) records(ctx context.Context, run, after string, n int) ([]waybill.Record, error) {
	if n <= 0 {
		n = 1000
	}
	evs, err := e.o.Store.Events(ctx, "", subject(run), store.Cursor(after), n)
	out := make([]waybill.Record, len(evs))
	for i, ev := range evs {
		out[i] = waybill.Record{Cursor: string(ev.Cursor), Subject: ev.Subject, Kind: ev.Kind, At: ev.At, Data: ev.Data}
	}
	return out, err
}

// followPace is how often a follower reads at most: a busy server writes far
// more records than anybody can look at.
const followPace = 15 * time.Millisecond

// Follow implements waybill.Runs.
func (e *Engine) Follow(ctx context.Context, run, after string, f func(waybill.Record) error) error {
	bell, silence := e.o.Store.Watch()
	defer silence()
	for {
		read := time.Now()
		r, err := e.run(ctx, run)
		if err != nil {
			return err
		}
		for {
			recs, err := e.records(ctx, run, after, 200)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if err := f(rec); err != nil {
					return err
				}
				after = rec.Cursor
			}
			if len(recs) < 200 {
				break
			}
		}
		// The row was read before the records: had it ended then, they are complete.
		if r.Status.Terminal() {
			return nil
		}
		poll := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-bell:
		case <-poll.C:
		}
		poll.Stop()
		// The first bell after a quiet time is answered at once.
		if err := pause(ctx, followPace-time.Since(read)); err != nil {
			return err
		}
	}
}

// logPace is how often a followed log file is looked at.
const logPace = 100 * time.Millisecond

// Log implements waybill.Runs.
func (e *Engine) Log(ctx context.Context, q waybill.LogQuery, w io.Writer) error {
	d, err := e.Run(ctx, q.Run)
	if err != nil {
		return err
	}
	if q.Step != "" {
		var a *waybill.Attempt
		found := false
		for i := range d.Steps {
			found = found || d.Steps[i].Name == q.Step
		}
		if !found {
			return waybill.E(waybill.KindNotFound, "run %s has no step %q", q.Run, q.Step)
		}
		for a == nil {
			for i := range d.Attempts {
				if x := &d.Attempts[i]; x.Step == q.Step && (x.Number == q.Attempt || q.Attempt == 0 && (a == nil || x.Number > a.Number)) {
					a = x
				}
			}
			if a != nil || !q.Follow || d.Status.Terminal() {
				break
			}
			if err := pause(ctx, logPace); err != nil {
				return err
			}
			if d, err = e.Run(ctx, q.Run); err != nil {
				return err
			}
		}
		if a == nil {
			if q.Attempt != 0 {
				return waybill.E(waybill.KindNotFound, "step %s of run %s has no attempt %d", q.Step, q.Run, q.Attempt)
			}
			return nil // it has not begun
		}
		return e.copyLog(ctx, a, q.Offset, q.Follow, w)
	}
	told := map[string]bool{}
	for {
		for i := range d.Attempts {
			a := &d.Attempts[i]
			if told[a.Key()] || a.Phase == waybill.PhaseQueued || (&pipeline.Step{Runner: a.Runner}).Control() {
				continue
			}
			told[a.Key()] = true
			if _, err := fmt.Fprintf(w, "==> %s (attempt %d) <==\n", a.Step, a.Number); err != nil {
				return err
			}
			if err := e.copyLog(ctx, a, 0, q.Follow, w); err != nil {
				return err
			}
		}
		if !q.Follow || d.Status.Terminal() {
			return nil
		}
		if err := pause(ctx, logPace); err != nil {
			return err
		}
		if d, err = e.Run(ctx, q.Run); err != nil {
			return err
		}
	}
}

// copyLog copies a log file from an offset, and with follow what is added until
// the attempt has ended.
func (e *Engine) copyLog(ctx context.Context, a *waybill.Attempt, offset int64, follow bool, w io.Writer) error {
	path, err := e.o.Blobs.LogFile(a.Run, a.Unit)
	if err != nil {
		return err
	}
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	ended := a.Phase == waybill.PhaseTerminal
	for {
		if f == nil {
			f, err = os.Open(path)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if f != nil {
				if _, err := f.Seek(offset, io.SeekStart); err != nil {
					return err
				}
			}
		}
		if f != nil {
			if _, err := io.Copy(w, f); err != nil {
				return err
			}
			if fl, ok := w.(interface{ Flush() }); ok {
				fl.Flush()
			}
		}
		// Ended is seen before the last copy, so nothing is missed.
		if ended || !follow {
			return nil
		}
		if err := pause(ctx, logPace); err != nil {
			return err
		}
		now, _, err := e.attempt(ctx, a.Tenant, a.Key())
		if err != nil {
			return err
		}
		ended = now.Phase == waybill.PhaseTerminal
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
