package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, c *store.Commit) error {
	p, err := s.prepare(c)
	if err != nil {
		return err
	}
	return s.submit(ctx, false, p.run)
}

// prepared is a commit with everything derived that does not need the database,
// so that callers share that work and the writer does not.
type prepared struct {
	*store.Commit
	tenant string
	puts   []put
	msg    *store.Msg // the one it finishes, retries, yields or buries
}

type put struct {
	*store.Put
	table *table
	store.Derived
	counters string
}

func (s *Store) prepare(c *store.Commit) (*prepared, error) {
	p := &prepared{Commit: c, tenant: tenantOf(c.Tenant), puts: make([]put, 0, len(c.Puts)+1)}
	for _, m := range []*store.Msg{c.Done, c.Retry, c.Yield, c.Dead} {
		if m == nil {
			continue
		}
		if p.msg != nil {
			return nil, waybill.E(waybill.KindInvalid, "commit: finishes two messages")
		}
		p.msg = m
	}
	for i := range c.Puts {
		if err := p.add(s, &c.Puts[i]); err != nil {
			return nil, err
		}
	}
	for _, x := range c.Sends {
		if x.Topic == "" || x.Key == "" || !utf8.ValidString(x.Key) || strings.IndexByte(x.Key, 0) >= 0 {
			return nil, waybill.E(waybill.KindInvalid, "commit: a message with a bad topic or key")
		}
	}
	if m := c.Dead; m != nil {
		now := s.clock()
		val, err := json.Marshal(store.DeadLetter{
			Topic: m.Topic, Key: m.Key, Body: m.Body, Reason: c.Reason, Attempt: m.Attempt, Fails: m.Fails,
			Priority: m.Priority, SentAt: m.SentAt, DeadAt: now,
		})
		if err != nil {
			return nil, err
		}
		if m.Tenant != p.tenant && len(c.Puts)+len(c.Sends)+len(c.Events) > 0 {
			return nil, waybill.E(waybill.KindInvalid, "commit: buries a message of another tenant")
		}
		p.tenant = m.Tenant
		if err := p.add(s, &store.Put{Table: store.DeadTable, Key: m.Topic + "/" + waybill.NewID(now), Val: val}); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *prepared) add(s *Store, x *store.Put) error {
	t, err := s.table(x.Table)
	if err != nil {
		return err
	}
	if x.Key == "" || !utf8.ValidString(x.Key) || strings.IndexByte(x.Key, 0) >= 0 || x.Rev < store.AnyRev {
		return waybill.E(waybill.KindInvalid, "commit: a row of table %s with a bad key or revision", x.Table)
	}
	for _, y := range p.puts {
		if y.Key == x.Key && y.Table == x.Table {
			return waybill.E(waybill.KindInvalid, "commit: puts %s %s twice", x.Table, x.Key)
		}
	}
	q := put{Put: x, table: t}
	if x.Val != nil {
		if q.Derived, err = derive(t.Table, x.Key, x.Val); err != nil {
			return err
		}
		q.counters = strings.Join(q.Counters, "\n")
	}
	p.puts = append(p.puts, q)
	return nil
}

// run does the commit. Every check comes before the first change, so a refused
// commit leaves the transaction as it was.
func (p *prepared) run(w *writer) error {
	if p.ID != "" {
		seen := false
		if err := w.query(`SELECT 1 FROM applied WHERE tenant=? AND id=?`, []any{p.tenant, p.ID}, func([]driver.Value) error {
			seen = true
			return nil
		}); err != nil || seen {
			return err
		}
	}
	var head *lane
	if m := p.msg; m != nil {
		var err error
		if head, err = w.lane(m.Topic, m.Tenant, m.Key); err != nil {
			return err
		}
		if head.n == 0 || head.token == "" || head.token != m.Token || head.head() != m.Seq {
			return refuse(store.ErrLeaseLost)
		}
	}
	for i := range p.puts {
		x := &p.puts[i]
		have, err := w.revision(x.table, p.tenant, x.Key)
		if err != nil {
			return err
		}
		if x.Rev != store.AnyRev && x.Rev != have.rev {
			return refuse(store.ErrConflict)
		}
	}

	if p.ID != "" {
		if _, err := w.exec(`INSERT INTO applied (tenant, id, at) VALUES (?,?,?)`, p.tenant, p.ID, w.now); err != nil {
			return err
		}
	}
	for i := range p.puts {
		if err := w.put(p.tenant, &p.puts[i]); err != nil {
			return err
		}
	}
	switch {
	case p.Done != nil, p.Dead != nil:
		if err := w.finish(head); err != nil {
			return err
		}
	case p.Retry != nil:
		head.fails++
		w.release(head, w.after(p.Delay))
	case p.Yield != nil:
		head.attempt--
		w.release(head, w.after(p.Delay))
	}
	for i := range p.Sends {
		if err := w.send(p.tenant, &p.Sends[i]); err != nil {
			return err
		}
	}
	for i := range p.Events {
		e := &p.Events[i]
		at := w.now
		if !e.At.IsZero() {
			at = e.At.UnixMicro()
		}
		var data any
		if e.Data != nil {
			data = e.Data
		}
		w.events = append(w.events, p.tenant, e.Subject, e.Kind, at, data)
		w.rings[eventBell] = true
	}
	return nil
}

func (w *writer) revision(t *table, tenant, key string) (rowState, error) {
	k := rowKey{t.Name, tenant, key}
	if st, ok := w.revs[k]; ok {
		return st, nil
	}
	var st rowState
	err := w.query(t.revision, []any{tenant, key}, func(v []driver.Value) error {
		st = rowState{id: v[0].(int64), rev: v[1].(int64), counters: text(v[2])}
		return nil
	})
	if err == nil {
		w.revs[k] = st
	}
	return st, err
}

func (w *writer) put(tenant string, x *put) error {
	k := rowKey{x.table.Name, tenant, x.Key}
	have := w.revs[k] // put there by the check
	var err error
	switch {
	case x.Val == nil && have.rev == 0:
		return nil
	case x.Val == nil:
		_, err = w.exec(x.table.remove, have.id)
		w.revs[k] = rowState{}
	case have.rev == 0:
		have.id, err = w.insert(x.table.insert, append(x.table.values(1, x.Val, x.Derived), tenant, x.Key)...)
		w.revs[k] = rowState{have.id, 1, x.counters, x.Columns}
	default:
		q, args := x.table.update(have.rev+1, x.Val, x.Derived, have.columns)
		_, err = w.exec(q, append(args, have.id)...)
		w.revs[k] = rowState{have.id, have.rev + 1, x.counters, x.Columns}
	}
	if have.counters != x.counters {
		for _, name := range split(have.counters) {
			w.count(x.table.Name, tenant, name, -1)
		}
		for _, name := range split(x.counters) {
			w.count(x.table.Name, tenant, name, 1)
		}
	}
	return err
}

func split(counters string) []string {
	if counters == "" {
		return nil
	}
	return strings.Split(counters, "\n")
}

func text(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func blob(v driver.Value) []byte {
	b, _ := v.([]byte)
	return append([]byte{}, b...) // never nil: nil would be stored as NULL
}

func micros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
