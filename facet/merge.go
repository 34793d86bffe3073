package facet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"time"

	"github.com/waybill-run/waybill/facet/internal/segment"
)

const (
	mergeTier  = 8  // so many segments of about the same size become one
	maxParts   = 10 // more than these are merged whatever their sizes
	stallParts = 40 // with so many, writers wait
)

func (e *Engine) wakeMerger() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// waitForMerges holds up writers that are faster than merging, until a merge has ended, well or not.
func (e *Engine) waitForMerges(ctx context.Context) error {
	e.mu.Lock()
	n, merged := len(e.cur.parts), e.merged
	e.mu.Unlock()
	if n < stallParts {
		return nil
	}
	e.wakeMerger()
	select {
	case <-merged:
	case <-ctx.Done():
		return ctx.Err()
	case <-e.background.Done():
	}
	return nil
}

func (e *Engine) mergeLoop() {
	for {
		select {
		case <-e.wake:
		case <-e.background.Done():
			return
		}
		for {
			again, err := e.mergeOnce(e.background, chooseMerge, e.opts.MergeRate)
			if err != nil && e.background.Err() == nil {
				e.report(fmt.Errorf("facet: merging: %w", err))
			}
			e.mu.Lock()
			close(e.merged)
			e.merged = make(chan struct{})
			e.mu.Unlock()
			if err != nil || !again {
				break
			}
		}
	}
}

// chooseMerge picks the parts that are to become one: neighbours in order of size, or one
// of which more than a fifth is deleted.
func chooseMerge(parts []*part) []*part {
	bySize := slices.Clone(parts)
	slices.SortFunc(bySize, func(a, b *part) int { return a.live - b.live })
	tier := func(p *part) int { return bits.Len(uint(max(p.live, 1000)/1000)) / 3 } // factors of 8
	for from := 0; from < len(bySize); {
		to := from + 1
		for to < len(bySize) && tier(bySize[to]) == tier(bySize[from]) {
			to++
		}
		if to-from >= mergeTier {
			return bySize[:to] // what is smaller comes along
		}
		from = to
	}
	if len(bySize) > maxParts {
		return bySize[:len(bySize)-maxParts+mergeTier]
	}
	for _, p := range bySize {
		if dead := p.n - p.live; dead*5 > p.n && dead > 100 {
			return []*part{p}
		}
	}
	return nil
}

// Compact merges all segments into one and removes what is deleted from it. Searches and writes go on meanwhile.
func (e *Engine) Compact(ctx context.Context) error {
	if e.opts.ReadOnly {
		return &Error{Kind: ErrReadOnly}
	}
	_, err := e.mergeOnce(ctx, func(parts []*part) []*part {
		if len(parts) == 1 && parts[0].deleted == nil {
			return nil
		}
		return parts
	}, -1)
	return err
}

// mergeOnce merges what choose picks, and reports whether it picked something.
func (e *Engine) mergeOnce(ctx context.Context, choose func([]*part) []*part, rate int) (again bool, err error) {
	for !e.merging.CompareAndSwap(false, true) { // one at a time
		e.mu.Lock()
		merged := e.merged
		e.mu.Unlock()
		select {
		case <-merged:
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	defer e.merging.Store(false)
	v, err := e.acquire()
	if err != nil {
		return false, err
	}
	defer e.done(v)
	chosen := choose(v.parts)
	if len(chosen) == 0 {
		return false, nil
	}
	inputs := make([]segment.Input, 0, len(chosen))
	var from []*part
	for _, p := range v.parts { // in the order of the view, so that documents stay in theirs
		if slices.Contains(chosen, p) {
			from = append(from, p)
			inputs = append(inputs, segment.Input{R: p.r, Deleted: p.deleted})
		}
	}
	e.writing.Lock()
	if e.failed != nil {
		e.writing.Unlock()
		return false, &Error{Kind: ErrFailed, Err: e.failed}
	}
	name := segmentName(e.man.Next)
	e.man.Next++
	e.writing.Unlock()

	var added *part
	err = e.guarded(v, func() {
		added, err = e.writePart(name, func(w io.Writer) (segment.Info, error) {
			return segment.Merge(&throttle{ctx: ctx, w: w, rate: rate}, e.fields, inputs, e.opts.Workers)
		})
		if err != nil {
			added = nil
		}
	})
	if err != nil {
		return false, err
	}
	if added == nil {
		return false, errors.New("merging wrote nothing")
	}
	if err := e.swap(from, added); err != nil {
		return false, err
	}
	return true, nil
}

// swap puts a merged part in the place of those it was made of. What was deleted
// from them meanwhile is deleted from it.
func (e *Engine) swap(from []*part, added *part) (err error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.mu.Lock()
	cur := e.cur
	e.mu.Unlock()
	var parts []*part
	var gone []uint32
	base := uint32(0)
	placed := false
	byReader := map[*segment.Reader]*part{}
	for _, p := range cur.parts {
		byReader[p.r] = p
	}
	for _, old := range from {
		now := byReader[old.r]
		for d := range uint32(old.n) {
			if old.deleted != nil && old.deleted.Has(d) {
				continue
			}
			if now == nil || now.deleted != nil && now.deleted.Has(d) {
				gone = append(gone, base)
			}
			base++
		}
	}
	man := e.man
	if len(gone) > 0 {
		p, err := e.deleteFrom(&man, added, gone)
		if err != nil {
			return errors.Join(err, added.r.Close(), e.fs.Remove(added.file.name))
		}
		added = p
	}
	for _, p := range cur.parts {
		if !slices.ContainsFunc(from, func(old *part) bool { return old.r == p.r }) {
			parts = append(parts, p)
			continue
		}
		if !placed {
			parts = append(parts, added)
			placed = true
		}
	}
	if !placed && added.live > 0 {
		parts = append(parts, added)
	}
	if !placed && added.live == 0 {
		return errors.Join(added.r.Close(), e.fs.Remove(added.file.name))
	}
	return e.commit(man, parts)
}

// throttle writes no faster than rate bytes a second, and not at all after ctx.
type throttle struct {
	ctx   context.Context
	w     io.Writer
	rate  int
	ahead time.Duration
	last  time.Time
}

func (t *throttle) Write(b []byte) (int, error) {
	if err := t.pause(t.ctx, len(b)); err != nil {
		return 0, err
	}
	return t.w.Write(b)
}

// pause waits until so many more bytes are within the rate.
func (t *throttle) pause(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.rate <= 0 {
		return nil
	}
	now := time.Now()
	if !t.last.IsZero() {
		t.ahead = max(0, t.ahead-now.Sub(t.last))
	}
	t.last = now
	t.ahead += time.Duration(float64(n) / float64(t.rate) * float64(time.Second))
	if t.ahead < 20*time.Millisecond {
		return nil
	}
	timer := time.NewTimer(t.ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const scrubRate = 32 << 20 // bytes a second

func (e *Engine) scrubLoop() {
	timer := time.NewTimer(min(time.Minute, e.opts.ScrubEvery))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-e.background.Done():
			return
		}
		err := e.scrub(e.background, scrubRate)
		if e.background.Err() != nil {
			return
		}
		e.report(err)
		timer.Reset(e.opts.ScrubEvery)
	}
}

// Verify compares all files with their checksums now, at full speed. The error wraps ErrCorrupt
// and names the file; several are joined.
func (e *Engine) Verify(ctx context.Context) error { return e.scrub(ctx, 0) }

func (e *Engine) scrub(ctx context.Context, rate int) error {
	v, err := e.acquire()
	if err != nil {
		return err
	}
	defer e.done(v)
	var errs []error
	t := &throttle{rate: rate}
	for _, p := range v.parts {
		err := e.guarded(v, func() {
			if err := p.r.Scrub(ctx, t.pause); err != nil {
				var c *segment.Corrupt
				if errors.As(err, &c) {
					panic(c)
				}
				errs = append(errs, err)
			}
		})
		errs = append(errs, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := p.man.readDeleted(e.fs); err != nil {
			errs = append(errs, err)
		}
	}
	err = errors.Join(errs...)
	e.scrubbed.Store(&err)
	return err
}
