package enginetest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// watch stands right before the store, behind all faults, and sees everything that
// happens to it in the order in which it happens. It holds each commit against the
// invariants of runs, steps, attempts, slots and leases, and remembers what was broken.
type watch struct {
	store.Store
	now func() time.Time

	mu       lock // one change of the store at a time
	rows     map[string]row
	ids      map[string]bool // of commits
	leases   map[string]held
	open     map[string]int // attempts that have not ended, by run/step
	ended    map[string]int // records of the end, by run
	kinds    map[string]int // records, by kind
	secrets  [][]byte
	wrong    []string
	dead     []store.DeadLetter
	parallel func(run *waybill.Run, step string) int // cells at once
	commits  int
}

// lock is a mutex that time goes on behind: who waits for it in a bubble of synctest waits
// as for a channel.
type lock chan struct{}

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }

type row struct {
	rev int64
	val []byte
}

// held is a lane in the hands of a claim.
type held struct {
	token, owner string
	last         int64 // the lane is held until this message is done
	until        time.Time
}

func newWatch(st store.Store) *watch {
	return &watch{
		Store: st, now: st.Now, mu: make(lock, 1), rows: map[string]row{}, ids: map[string]bool{}, leases: map[string]held{},
		open: map[string]int{}, ended: map[string]int{}, kinds: map[string]int{},
	}
}

// bad notes that an invariant is broken. The first few are enough to find out why.
func (w *watch) bad(format string, args ...any) {
	if len(w.wrong) < 20 {
		w.wrong = append(w.wrong, w.now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// secret tells the watch a value that nothing stored may hold.
func (w *watch) secret(v string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, []byte(v))
}

func (w *watch) holds(b []byte) string {
	for _, s := range w.secrets {
		if bytes.Contains(b, s) {
			return string(s)
		}
	}
	return ""
}

// Commit implements store.Store. It is not ended by its context: whose context ends
// must not know whether it happened, and the watch must.
func (w *watch) Commit(ctx context.Context, c *store.Commit) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.Store.Commit(context.WithoutCancel(ctx), c)
	if err != nil {
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrLeaseLost) {
			w.bad("the store refused a commit: %v (%s)", err, sketch(c))
		}
		return err
	}
	if c.ID != "" {
		if w.ids[c.ID] {
			return nil // it was made before, and did nothing now
		}
		w.ids[c.ID] = true
	}
	w.commits++
	for _, m := range []*store.Msg{c.Done, c.Retry, c.Yield, c.Dead} {
		if m == nil {
			continue
		}
		lane := m.Topic + "/" + m.Key
		if l, ok := w.leases[lane]; ok && l.token == m.Token && (m.Seq == l.last || m == c.Retry || m == c.Yield) {
			delete(w.leases, lane)
		}
	}
	if m := c.Dead; m != nil {
		w.dead = append(w.dead, store.DeadLetter{Topic: m.Topic, Key: m.Key, Body: m.Body, Reason: c.Reason, Attempt: m.Attempt, Fails: m.Fails})
	}
	if s := w.holds([]byte(c.Reason)); s != "" {
		w.bad("the reason of a message holds the secret %s: %s", s, c.Reason)
	}
	for _, s := range c.Sends {
		if v := w.holds(s.Body); v != "" {
			w.bad("a message of the topic %s holds the secret %s: %s", s.Topic, v, s.Body)
		}
	}
	was := map[string]row{}
	for _, p := range c.Puts {
		name := p.Table + ":" + p.Key
		was[name] = w.rows[name]
		if p.Val == nil {
			delete(w.rows, name)
			continue
		}
		w.rows[name] = row{was[name].rev + 1, p.Val}
	}
	for _, p := range c.Puts {
		w.put(c, p, was[p.Table+":"+p.Key].val)
	}
	for _, e := range c.Events {
		w.event(c, e)
	}
	return nil
}

func read[T any](w *watch, b []byte) *T {
	v := new(T)
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, v); err != nil {
		w.bad("a row cannot be read: %v: %s", err, b)
	}
	return v
}

// get reads a row as of the last commit.
func get[T any](w *watch, table, key string) *T { return read[T](w, w.rows[table+":"+key].val) }

type slotRow struct {
	Limit   int
	Holders []struct{ Run string }
	Waiting int
}

func (w *watch) put(c *store.Commit, p store.Put, old []byte) {
	if s := w.holds(append([]byte(p.Key+" "), p.Val...)); s != "" {
		w.bad("the row %s %s holds the secret %s: %s", p.Table, p.Key, s, p.Val)
	}
	if p.Val == nil {
		return
	}
	switch p.Table {
	case "run":
		w.run(read[waybill.Run](w, old), read[waybill.Run](w, p.Val), p, old)
	case "step":
		was, now := read[waybill.Step](w, old), read[waybill.Step](w, p.Val)
		switch {
		case was != nil && was.Status.Terminal():
			w.bad("the ended step %s was written again: %s became %s", p.Key, old, p.Val)
		case was != nil && now.Attempts > was.Attempts+1, was != nil && now.Attempts < was.Attempts:
			w.bad("the step %s had %d attempts and has %d", p.Key, was.Attempts, now.Attempts)
		}
		if run := get[waybill.Run](w, "run", now.Run); run != nil && run.Status.Terminal() && !now.Status.Terminal() {
			w.bad("the step %s is %s in a run that has ended", p.Key, now.Status)
		}
		if now.Status.Terminal() && now.Reused == "" && now.Cells == nil && w.open[p.Key] > 0 {
			w.bad("the step %s has ended as %s and an attempt of it has not", p.Key, now.Status)
		}
		if now.Cells != nil && now.Reused == "" { // what is reused has no cells of its own
			w.cells(now)
		}
	case "attempt":
		w.attempt(c, read[waybill.Attempt](w, old), read[waybill.Attempt](w, p.Val), p)
	case "slot":
		now := read[slotRow](w, p.Val)
		seen := map[string]bool{}
		for _, h := range now.Holders {
			if seen[h.Run] {
				w.bad("run %s holds the slot %s twice", h.Run, p.Key)
			}
			seen[h.Run] = true
		}
		if len(now.Holders) > now.Limit {
			w.bad("%d runs hold the slot %s, its limit is %d", len(now.Holders), p.Key, now.Limit)
		}
		waiting := 0
		for k := range w.rows {
			if strings.HasPrefix(k, "wait:"+p.Key+"\x01") {
				waiting++
			}
		}
		if waiting != now.Waiting {
			w.bad("the slot %s says that %d runs wait, and %d do", p.Key, now.Waiting, waiting)
		}
	case store.DeadTable:
		if c.Dead == nil {
			w.dead = append(w.dead, *read[store.DeadLetter](w, p.Val))
		}
	}
}

func (w *watch) run(was, now *waybill.Run, p store.Put, old []byte) {
	if was != nil && was.Status.Terminal() {
		w.bad("the ended run %s was written again: %s became %s", p.Key, old, p.Val)
		return
	}
	if now.StepsDone > now.StepCount {
		w.bad("run %s has done %d of %d steps", p.Key, now.StepsDone, now.StepCount)
	}
	if !now.Status.Terminal() && !now.StartedAt.IsZero() {
		w.places(now)
	}
	if !now.Status.Terminal() {
		return
	}
	done := 0
	for k, r := range w.rows {
		if !strings.HasPrefix(k, "step:"+p.Key+"/") {
			continue
		}
		st := read[waybill.Step](w, r.val)
		if !st.Status.Terminal() {
			w.bad("run %s has ended as %s (%s) and its step %s is %s", p.Key, now.Status, now.Error, st.Name, st.Status)
		}
		if st.Cell == nil {
			done++
		}
		if n := w.open[k[len("step:"):]]; n > 0 {
			w.bad("run %s has ended as %s and %d attempts of step %s have not", p.Key, now.Status, n, st.Name)
		}
	}
	if done != now.StepsDone {
		w.bad("run %s says that %d steps are done, and %d are", p.Key, now.StepsDone, done)
	}
}

// places checks that a run that has begun holds all its slots, and that no slot has more
// such runs than its limit.
func (w *watch) places(now *waybill.Run) {
	for _, s := range now.Slots {
		at := get[slotRow](w, "slot", s.Key)
		held := false
		for i := 0; at != nil && i < len(at.Holders); i++ {
			held = held || at.Holders[i].Run == now.ID
		}
		if !held {
			w.bad("run %s has begun and does not hold the slot %s", now.ID, s.Key)
		}
	}
}

func (w *watch) cells(st *waybill.Step) {
	running, ended := 0, 0
	for k, r := range w.rows {
		if !strings.HasPrefix(k, "step:"+st.Run+"/"+st.Name+".") {
			continue
		}
		switch c := read[waybill.Step](w, r.val); {
		case c.Status.Terminal():
			ended++
		case c.Status != waybill.StatusQueued:
			running++
		}
	}
	c := st.Cells
	if running != c.Running || ended != c.Succeeded+c.Failed+c.Canceled {
		w.bad("step %s/%s counts %+v, and %d cells run and %d have ended", st.Run, st.Name, *c, running, ended)
	}
	run := get[waybill.Run](w, "run", st.Run)
	if limit := w.parallel(run, st.Name); running > limit {
		w.bad("%d cells of %s/%s run at once, the limit is %d", running, st.Run, st.Name, limit)
	}
	if st.Status.Terminal() && ended != c.Total {
		w.bad("step %s/%s has ended and %d of its %d cells have", st.Run, st.Name, ended, c.Total)
	}
}

func (w *watch) attempt(c *store.Commit, was, now *waybill.Attempt, p store.Put) {
	name := now.Run + "/" + now.Step
	switch {
	case was == nil:
		if now.Phase == waybill.PhaseTerminal {
			return
		}
		if w.open[name]++; w.open[name] > 1 {
			w.bad("attempt %s was made while another attempt of its step is open", p.Key)
		}
		if run := get[waybill.Run](w, "run", now.Run); run != nil && run.Status.Terminal() {
			w.bad("attempt %s was made in a run that has ended", p.Key)
		}
		return
	case was.Phase != waybill.PhaseTerminal:
		if was.Node != "" && was.Node != now.Node {
			w.bad("attempt %s was of node %s and became one of %s", p.Key, was.Node, now.Node)
		}
		if cb := was.Callback; cb != nil && (now.Callback == nil || now.Callback.Hash != cb.Hash) {
			w.bad("attempt %s lost the callback that was accepted", p.Key)
		}
		if was.Stop != "" && now.Stop != was.Stop {
			w.bad("attempt %s was to end as %s and is now to end as %q (%s)", p.Key, was.Stop, now.Stop, sketch(c))
		}
		if now.Phase == waybill.PhaseTerminal {
			w.open[name]--
			if !now.Status.Terminal() {
				w.bad("attempt %s has ended as %s", p.Key, now.Status)
			}
		}
		return
	}
	if was.Cleanup == waybill.CleanupGone && now.Cleanup != waybill.CleanupGone {
		w.bad("attempt %s was cleaned up and its clean-up is now %s", p.Key, now.Cleanup)
	}
	// Only its clean-up goes on after its end.
	was.Cleanup, was.CleanupErr = now.Cleanup, now.CleanupErr
	a, aerr := json.Marshal(was)
	b, berr := json.Marshal(now)
	if aerr != nil || berr != nil || string(a) != string(b) {
		w.bad("the ended attempt %s changed from %s to %s", p.Key, a, b)
	}
}

// after are the kinds of records that a run may get after its end: of its clean-up, and
// of those who called too late.
var after = map[string]bool{
	"cleanup.gone": true, "cleanup.deleting": true, "cleanup.failed": true,
	"attempt.late_callback": true, "attempt.callback_refused": true, "run.cancel_asked": true,
	"orphan.found": true,
}

func (w *watch) event(c *store.Commit, e store.Event) {
	w.kinds[e.Kind]++
	if s := w.holds(e.Data); s != "" {
		w.bad("a record %s holds the secret %s: %s", e.Kind, s, e.Data)
	}
	id, ok := strings.CutPrefix(e.Subject, "run/")
	if !ok {
		return
	}
	if w.ended[id] > 0 && !after[e.Kind] {
		w.bad("run %s has ended and gets the record %s %s (%s)", id, e.Kind, e.Data, sketch(c))
	}
	if e.Kind == "run.ended" {
		w.ended[id]++
	}
}

func sketch(c *store.Commit) string {
	var b strings.Builder
	for _, m := range []*store.Msg{c.Done, c.Retry, c.Yield, c.Dead} {
		if m != nil {
			fmt.Fprintf(&b, "message %s/%s %s; ", m.Topic, m.Key, m.Body)
		}
	}
	for _, p := range c.Puts {
		fmt.Fprintf(&b, "%s:%s@%d ", p.Table, p.Key, p.Rev)
	}
	for _, e := range c.Events {
		fmt.Fprintf(&b, "%s ", e.Kind)
	}
	return b.String()
}

// Claim implements store.Store.
func (w *watch) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	got, err := w.Store.Claim(context.WithoutCancel(ctx), r)
	for i, m := range got.Msgs {
		lane := m.Topic + "/" + m.Key
		l, ok := w.leases[lane]
		if ok && l.token != m.Token && now.Before(l.until.Add(-time.Millisecond)) && !(r.Reclaim && l.owner == r.Owner) {
			w.bad("%s claims %s, which %s holds until %s", r.Owner, lane, l.owner, l.until.Format("15:04:05.000"))
		}
		if i > 0 && got.Msgs[i-1].Key == m.Key && got.Msgs[i-1].Seq >= m.Seq {
			w.bad("messages of %s are claimed out of order", lane)
		}
		w.leases[lane] = held{m.Token, r.Owner, m.Seq, now.Add(r.Lease)}
	}
	return got, err
}

// Extend implements store.Store.
func (w *watch) Extend(ctx context.Context, msgs []*store.Msg, d time.Duration) ([]*store.Msg, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	lost, err := w.Store.Extend(context.WithoutCancel(ctx), msgs, d)
	if err != nil {
		return lost, err
	}
	gone := map[*store.Msg]bool{}
	for _, m := range lost {
		gone[m] = true
	}
	for _, m := range msgs {
		lane := m.Topic + "/" + m.Key
		if l, ok := w.leases[lane]; ok && l.token == m.Token && !gone[m] {
			l.until = now.Add(d)
			w.leases[lane] = l
		}
	}
	return lost, err
}
