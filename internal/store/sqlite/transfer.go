package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"iter"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// errStop ends an export whose reader wants no more.
var errStop = errors.New("stop")

// Export implements store.Transfer. It reads one snapshot, and the log cannot begin
// anew until it is done.
func (s *Store) Export(ctx context.Context) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err == nil {
			e := exporter{ctx: ctx, tx: tx, yield: func(i store.Item) error {
				if !yield(i, nil) {
					return errStop
				}
				return nil
			}}
			err = e.all(s)
			tx.Rollback() //nolint:errcheck // it was only read
		}
		if err != nil && err != errStop {
			yield(store.Item{}, unavailable(err))
		}
	}
}

type exporter struct {
	ctx   context.Context
	tx    *sql.Tx
	yield func(store.Item) error
}

func (e *exporter) each(q string, dest []any, f func() error) error {
	rows, err := e.tx.QueryContext(e.ctx, q)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err = rows.Scan(dest...); err == nil {
			err = f()
		}
		if err != nil {
			rows.Close()
			return err
		}
	}
	return errorsOf(rows)
}

func (e *exporter) all(s *Store) error {
	for _, part := range []func() error{e.head, e.topics, func() error { return e.tables(s) }, e.lanes, e.events, e.applied} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) head() error {
	var seq int64
	if err := e.tx.QueryRowContext(e.ctx, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name='event'").Scan(&seq); err != nil {
		return err
	}
	return e.yield(store.Item{Head: &store.HeadItem{Cursor: store.Cursor(strconv.FormatInt(seq, 10))}})
}

func (e *exporter) topics() error {
	var t store.TopicItem
	err := e.each("SELECT tenant, topic FROM topic ORDER BY topic, tenant", []any{&t.Tenant, &t.Topic}, func() error {
		c := t
		return e.yield(store.Item{Topic: &c})
	})
	if err != nil {
		return err
	}
	return e.each("SELECT topic FROM paused ORDER BY topic", []any{&t.Topic}, func() error {
		return e.yield(store.Item{Topic: &store.TopicItem{Topic: t.Topic, Paused: true}})
	})
}

func (e *exporter) tables(s *Store) error {
	var unknown []string
	var name string
	if err := e.each("SELECT tbl FROM descriptor ORDER BY tbl", []any{&name}, func() error {
		if s.tables[name] == nil {
			unknown = append(unknown, name)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, name := range unknown {
		var n int64
		if err := e.tx.QueryRowContext(e.ctx, "SELECT count(*) FROM t_"+name).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return waybill.E(waybill.KindConflict, "the store holds %d rows of a table %s that this version does not know", n, name).
				WithHint("use the version of Waybill that wrote it")
		}
	}
	for i := range s.schema {
		t := s.tables[s.schema[i].Name]
		r := store.RowItem{Table: t.Name}
		if err := e.each("SELECT tenant, key, rev, val FROM "+t.sqlName()+" ORDER BY key, tenant", []any{&r.Tenant, &r.Key, &r.Rev, &r.Val}, func() error {
			c := r
			return e.yield(store.Item{Row: &c})
		}); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) lanes() error {
	var l store.LaneItem
	var id, last int64
	var seq, due, sent sql.NullInt64
	var body []byte
	return e.each(`SELECT l.id, t.tenant, t.topic, l.key, l.rank IS NOT NULL, l.ready_at, l.prio, l.token, l.owner, l.attempt, l.fails, l.n, l.tail, l.held,
			l.sent_at, l.body, m.seq, m.ready_at, m.sent_at, m.body
		FROM lane l JOIN topic t ON t.id=l.topic LEFT JOIN msg m ON m.lane=l.id ORDER BY l.id, m.seq`,
		[]any{&id, &l.Tenant, &l.Topic, &l.Key, &l.Ready, &l.ReadyAt, &l.Prio, &l.Token, &l.Owner, &l.Attempt, &l.Fails, &l.N, &l.Tail, &l.Held,
			&l.SentAt, &l.Body, &seq, &due, &sent, &body},
		func() error {
			if id != last {
				last = id
				c := l
				if err := e.yield(store.Item{Lane: &c}); err != nil {
					return err
				}
			}
			if !seq.Valid {
				return nil
			}
			m := &store.MsgItem{Seq: seq.Int64, SentAt: sent.Int64, Body: append([]byte{}, body...)}
			if due.Int64 > sent.Int64 {
				m.Due = due.Int64
			}
			return e.yield(store.Item{Msg: m})
		})
}

func (e *exporter) events() error {
	var x store.EventItem
	var seq int64
	return e.each("SELECT seq, tenant, subject, kind, at, data FROM event ORDER BY seq", []any{&seq, &x.Tenant, &x.Subject, &x.Kind, &x.At, &x.Data}, func() error {
		c := x
		c.Cursor = store.Cursor(strconv.FormatInt(seq, 10))
		return e.yield(store.Item{Event: &c})
	})
}

func (e *exporter) applied() error {
	var x store.AppliedItem
	return e.each("SELECT tenant, id, at FROM applied ORDER BY tenant, id", []any{&x.Tenant, &x.ID, &x.At}, func() error {
		c := x
		return e.yield(store.Item{Applied: &c})
	})
}

// Import implements store.Transfer, in one transaction of the writer.
func (s *Store) Import(ctx context.Context, items iter.Seq2[store.Item, error]) error {
	begun := false
	err := s.submit(ctx, true, func(w *writer) error {
		if begun { // the transaction failed, and items yields only once
			return refuse(waybill.E(waybill.KindUnavailable, "the import was broken off"))
		}
		begun = true
		if err := w.empty(); err != nil {
			return err
		}
		im := importer{s: s, w: w}
		for i, err := range items {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = im.add(&i)
			}
			if err != nil {
				return err
			}
		}
		return im.end()
	})
	return unavailable(err)
}

// empty refuses to import into a store that holds something.
func (w *writer) empty() error {
	for _, t := range append([]string{"lane", "event", "applied", "topic"}, w.s.tableNames()...) {
		found := false
		if err := w.query("SELECT 1 FROM "+t+" LIMIT 1", nil, func([]driver.Value) error { found = true; return nil }); err != nil {
			return err
		}
		if found {
			return refuse(waybill.E(waybill.KindConflict, "the store is not empty: it has rows in %s", t).WithHint("give it an empty one"))
		}
	}
	return nil
}

func (s *Store) tableNames() []string {
	var names []string
	for i := range s.schema {
		names = append(names, "t_"+s.schema[i].Name)
	}
	return names
}

type importer struct {
	s     *Store
	w     *writer
	order store.Order
	lane  int64 // row of the last lane
	q     *queue
	head  int64 // cursor that the log had
	seq   int64 // of the last event
}

func (im *importer) add(i *store.Item) error {
	if err := im.order.Next(i); err != nil {
		return err
	}
	w := im.w
	var err error
	switch {
	case i.Head != nil:
		im.head, _ = strconv.ParseInt(string(i.Head.Cursor), 10, 64) // that of another engine says nothing here
	case i.Topic != nil && i.Topic.Paused:
		w.paused[i.Topic.Topic] = true
		_, err = w.exec(`INSERT INTO paused (topic) VALUES (?) ON CONFLICT DO NOTHING`, i.Topic.Topic)
	case i.Topic != nil:
		_, err = w.queue(i.Topic.Topic, i.Topic.Tenant)
	case i.Row != nil:
		err = im.row(i.Row)
	case i.Lane != nil:
		l := i.Lane
		if im.q, err = w.queue(l.Topic, l.Tenant); err != nil {
			return err
		}
		var order any
		if l.Ready {
			order = rank(l.ReadyAt, l.Prio)
		}
		im.lane, err = w.insert(`INSERT INTO lane (topic, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, sent_at, body)
			VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`, im.q.id, l.Key, l.ReadyAt, order, l.Prio, l.Token, l.Owner, l.Attempt, l.Fails, l.N, l.Tail, l.Held, l.SentAt, orEmpty(l.Body))
		w.count(".lanes", l.Tenant, l.Topic, 1)
		w.count(".depth", l.Tenant, l.Topic, l.N)
		w.rings[l.Topic] = true
	case i.Msg != nil:
		m := i.Msg
		_, err = w.exec(`INSERT INTO msg (lane, seq, ready_at, sent_at, body) VALUES (?,?,?,?,?)`, im.lane, m.Seq, max(m.Due, m.SentAt), m.SentAt, orEmpty(m.Body))
	case i.Event != nil:
		err = im.event(i.Event)
	case i.Applied != nil:
		_, err = w.exec(`INSERT INTO applied (tenant, id, at) VALUES (?,?,?)`, i.Applied.Tenant, i.Applied.ID, i.Applied.At)
	}
	return err
}

func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (im *importer) row(r *store.RowItem) error {
	t, err := im.s.table(r.Table)
	if err != nil {
		return err
	}
	if !utf8.ValidString(r.Key) || strings.IndexByte(r.Key, 0) >= 0 {
		return waybill.E(waybill.KindInvalid, "a row of table %s with a bad key", r.Table)
	}
	d, err := derive(t.Table, r.Key, r.Val)
	if err != nil {
		return err
	}
	if _, err := im.w.insert(t.insert, append(t.values(r.Rev, r.Val, d), r.Tenant, r.Key)...); err != nil {
		return err
	}
	for _, name := range d.Counters {
		im.w.count(t.Name, r.Tenant, name, 1)
	}
	return nil
}

func (im *importer) event(x *store.EventItem) error {
	seq, err := strconv.ParseInt(string(x.Cursor), 10, 64)
	if err != nil || seq <= im.seq {
		seq = im.seq + 1
	}
	im.seq = seq
	var data any
	if x.Data != nil {
		data = x.Data
	}
	_, err = im.w.exec(`INSERT INTO event (seq, tenant, subject, kind, at, data) VALUES (?,?,?,?,?,?)`, seq, x.Tenant, x.Subject, x.Kind, x.At, data)
	im.w.rings[eventBell] = true
	return err
}

func (im *importer) end() error {
	if err := im.order.End(); err != nil {
		return err
	}
	w := im.w
	if im.head > im.seq {
		// Later events come after what a reader of the old log has seen.
		if _, err := w.exec(`DELETE FROM sqlite_sequence WHERE name='event'`); err != nil {
			return err
		}
		if _, err := w.exec(`INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)`, im.head); err != nil {
			return err
		}
	}
	// What the writer remembers of queues was true before.
	w.lanes, w.byID, w.laneBytes = map[laneKey]*lane{}, map[int64]*lane{}, 0
	w.revs, w.due = map[rowKey]rowState{}, map[int64]int64{}
	return w.loadQueues()
}
