package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/object"
	"github.com/waybill-run/waybill/internal/store"
)

// resumable is how old a listing that broke off may be to be continued.
const resumable = 10 * time.Minute

// scan lists the whole bucket and writes down what is new. A listing that broke
// off with its server goes on where it was.
func (s *session) scan(ctx context.Context, asked int64) error {
	if s.st.ScanBegan.IsZero() || s.st.ScanFrom == "" || s.now().Sub(s.st.ScanBegan) > resumable || asked > s.st.ScanAsk {
		s.st.ScanBegan, s.st.ScanAsk = s.now().UTC(), asked
		s.st.ScanFrom, s.st.ScanLast, s.st.ScanMixed, s.st.ScanCount = "", "", false, 0
	}
	from := s.st.ScanFrom
	var failed error
	for page, err := range s.b.Pages(ctx, s.conf.Prefix, from) {
		wrote := false
		if err == nil {
			wrote, err = s.page(ctx, page)
		}
		if err != nil {
			failed = err
			break
		}
		// What has settled need not wait for the end of a long listing.
		if wrote && page.Next != "" {
			if err := s.take(ctx); err != nil {
				failed = err
				break
			}
		}
	}
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		if from != "" && ctx.Err() == nil {
			s.st.ScanFrom = "" // the place to go on may be what is wrong
		}
		return failed
	}
	s.st.ScannedAt = s.now().UTC()
	s.st.ScanTook, s.st.Listed, s.st.Asked = s.st.ScannedAt.Sub(s.st.ScanBegan), s.st.ScanCount, s.st.ScanAsk
	s.st.ScanBegan, s.st.ScanFrom, s.st.ScanLast = time.Time{}, "", ""
	return s.save(ctx)
}

// quiet is after how many pages without anything new the place in the listing is
// written down.
const quiet = 20

// page compares a page of the listing with what was seen before. wrote says that it
// was written down how far the listing is.
func (s *session) page(ctx context.Context, p cloud.Page) (wrote bool, err error) {
	entries := slices.DeleteFunc(p.Entries, func(e cloud.Entry) bool { return s.conf.ignored(e.Key) })
	named := slices.DeleteFunc(slices.Clone(entries), func(e cloud.Entry) bool { return object.CheckKey(e.Key) != nil })
	last := s.st.ScanLast
	for _, e := range named {
		s.st.ScanMixed = s.st.ScanMixed || e.Key <= last && last != ""
		last = e.Key
	}
	rows := map[string]*seen{}
	if s.st.ScanMixed {
		// Keys out of order: what is missing cannot be told from what comes later.
		rows, err = s.rows(ctx, entries)
	} else {
		rows, err = s.between(ctx, last, p.Next == "")
		if err == nil && len(named) < len(entries) {
			var odd map[string]*seen
			odd, err = s.rows(ctx, slices.DeleteFunc(slices.Clone(entries), func(e cloud.Entry) bool { return object.CheckKey(e.Key) == nil }))
			for k, r := range odd {
				rows[k] = r
			}
		}
	}
	if err != nil {
		return false, err
	}
	c := &store.Commit{}
	for _, e := range entries {
		k := seenKey(s.conf.Name, e.Key)
		if _, err := s.observe(ctx, c, rows[k], e); err != nil {
			return false, err
		}
		delete(rows, k)
	}
	for _, r := range rows {
		if s.st.ScanMixed {
			break
		}
		if err := s.vanished(c, r); err != nil {
			return false, err
		}
	}
	s.st.ScanCount += int64(len(entries))
	s.st.ScanFrom, s.st.ScanLast = p.Next, last
	if s.unwritten++; len(c.Puts) == 0 && s.unwritten < quiet {
		return false, nil
	}
	s.unwritten = 0
	return true, s.commit(ctx, c)
}

// commit writes what was observed, with the state of the bucket.
func (s *session) commit(ctx context.Context, c *store.Commit) error {
	val, err := json.Marshal(s.st)
	if err != nil {
		return err
	}
	c.Puts = append(c.Puts, store.Put{Table: tableWatch, Key: s.conf.Name, Rev: s.rev, Val: val})
	if err := s.w.o.Store.Commit(ctx, c); err != nil {
		s.loaded = false
		return fmt.Errorf("what was seen in bucket %s: %w", s.conf.Name, err)
	}
	s.rev++
	return nil
}

// rows returns the rows of entries by their keys.
func (s *session) rows(ctx context.Context, entries []cloud.Entry) (map[string]*seen, error) {
	out := map[string]*seen{}
	for part := range slices.Chunk(entries, 500) {
		keys := make([]string, len(part))
		for i, e := range part {
			keys[i] = seenKey(s.conf.Name, e.Key)
		}
		if err := s.query(ctx, out, store.Where{Column: "key", Op: store.In, Value: keys}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// between returns the rows after the last key of the page before, up to the last key
// of this one, or up to the end.
func (s *session) between(ctx context.Context, last string, end bool) (map[string]*seen, error) {
	out := map[string]*seen{}
	if last == "" && !end {
		return out, nil
	}
	lo := store.Where{Column: "key", Op: store.Ge, Value: s.conf.Name + "\x01" + s.conf.Prefix}
	if s.st.ScanLast != "" {
		lo = store.Where{Column: "key", Op: store.Gt, Value: s.conf.Name + "\x01" + s.st.ScanLast}
	}
	hi := store.Where{Column: "key", Op: store.Le, Value: s.conf.Name + "\x01" + last}
	if end {
		hi.Value = s.conf.Name + "\x01" + s.conf.Prefix + "\U0010FFFF"
	}
	return out, s.query(ctx, out, lo, hi)
}

func (s *session) query(ctx context.Context, out map[string]*seen, where ...store.Where) error {
	for after := ""; ; {
		page, err := s.w.o.Store.Query(ctx, store.Query{Table: tableSeen, Where: where, Limit: 1000, After: after})
		if err != nil {
			return err
		}
		for _, row := range page.Rows {
			if out[row.Key], err = decode(s.conf.Name, row); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// look compares single objects, which a change was told of, with what was seen.
func (s *session) look(ctx context.Context, keys map[string]bool) error {
	if len(keys) == 0 {
		return nil
	}
	var entries []cloud.Entry
	for k := range keys {
		if s.conf.ignored(k) {
			continue
		}
		e, err := s.b.Stat(ctx, k)
		switch {
		case waybill.IsKind(err, waybill.KindNotFound):
			continue // the listing says what is gone; a pending one is found gone when it is due
		case err != nil && passing(err):
			return err
		case err != nil:
			e = cloud.Entry{Key: k, Err: err}
		}
		entries = append(entries, e)
	}
	rows, err := s.rows(ctx, entries)
	if err != nil {
		return err
	}
	c := &store.Commit{}
	before := s.st.Duplicates
	for _, e := range entries {
		known, err := s.observe(ctx, c, rows[seenKey(s.conf.Name, e.Key)], e)
		if err != nil {
			return err
		}
		if known {
			s.st.Duplicates++
		}
	}
	if len(c.Puts) == 0 && s.st.Duplicates == before {
		return nil
	}
	return s.commit(ctx, c)
}

// observe decides what an entry means, and adds what is to be written. known says
// that its version had been dealt with, or is going to be.
func (s *session) observe(ctx context.Context, c *store.Commit, r *seen, e cloud.Entry) (known bool, err error) {
	now := s.now().UTC()
	if r != nil && r.Version == e.Version && r.State == stateGone && r.Took == e.Version {
		// It was away for a while, as a folder is that was not mounted.
		r.State, r.At, r.Due = stateTaken, now, time.Time{}
		return true, s.write(c, r)
	}
	reason, why := s.unfit(e)
	if r != nil && r.Version == e.Version && r.State != stateGone && (r.State != stateSkipped || r.Reason == reason) &&
		(r.State == stateSkipped || reason == "") {
		if odd := !r.Due.IsZero() && r.Reason == reason && reason != "" && r.Due.Sub(now) < rememberOdd/2; odd {
			r.Due = now.Add(rememberOdd)
			return true, s.write(c, r)
		}
		return true, nil
	}
	if r == nil {
		r = &seen{Key: e.Key, row: seenKey(s.conf.Name, e.Key), bucket: s.conf.Name}
	}
	r.Version, r.Size, r.At, r.Fails, r.Reason, r.Error, r.Due = e.Version, e.Size, now, 0, "", "", time.Time{}
	if reason != "" {
		r.State, r.Reason, r.Error = stateSkipped, reason, why
		ev, err := r.skipped(now)
		if err != nil {
			return false, err
		}
		c.Events = append(c.Events, ev)
		if object.CheckKey(e.Key) != nil {
			r.Due = now.Add(rememberOdd)
		}
		return false, s.write(c, r)
	}
	settle := s.conf.Settle
	if s.w.o.Settle != nil {
		more, err := s.w.o.Settle(ctx, s.conf.Name, e.Key)
		if err != nil {
			return false, err
		}
		settle = max(settle, more)
	}
	r.State, r.Due = statePending, now.Add(settle)
	return false, s.write(c, r)
}

// unfit says why an entry cannot become an object.
func (s *session) unfit(e cloud.Entry) (reason, why string) {
	if err := object.CheckKey(e.Key); err != nil && e.Err == nil {
		return reasonName, err.Error()
	}
	switch {
	case e.Err != nil:
		return reasonRead, e.Err.Error()
	case e.Size == 0 && !s.conf.TakeEmpty:
		return reasonEmpty, "it has no bytes"
	case s.conf.MaxSize > 0 && e.Size > s.conf.MaxSize:
		return reasonTooLarge, fmt.Sprintf("it has %d bytes, the limit is %d", e.Size, s.conf.MaxSize)
	}
	return "", ""
}

func (s *session) write(c *store.Commit, r *seen) error {
	p, err := r.put()
	c.Puts = append(c.Puts, p)
	return err
}

// vanished deals with the row of an object that a listing does not show.
func (s *session) vanished(c *store.Commit, r *seen) error {
	now := s.now().UTC()
	switch r.State {
	case stateGone, stateFinishing: // what is being finished is expected to go
		return nil
	case statePending, stateFailed:
		r.State, r.Reason, r.Error = stateSkipped, reasonGone, "it was deleted before it was read"
		ev, err := r.skipped(now)
		if err != nil {
			return err
		}
		c.Events = append(c.Events, ev)
	case stateSkipped:
		if r.Reason == reasonGone {
			return nil
		}
		r.State = stateGone
	default:
		r.State = stateGone
	}
	r.At, r.Due = now, now.Add(remember)
	return s.write(c, r)
}
