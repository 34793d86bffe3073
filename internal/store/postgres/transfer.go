package postgres

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// errStop ends an export whose reader wants no more.
var errStop = errors.New("stop")

// Export implements store.Transfer. It reads one snapshot on a connection of its
// own, for as long as its reader takes.
func (s *Store) Export(ctx context.Context) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		err := s.export(ctx, func(i store.Item) error {
			if !yield(i, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && err != errStop {
			yield(store.Item{}, s.failed(ctx, "export", err))
		}
	}
}

func (s *Store) export(ctx context.Context, yield func(store.Item) error) error {
	conn, err := pgx.ConnectConfig(ctx, s.read.Config().ConnConfig)
	if err != nil {
		return err
	}
	// Closing the connection ends the transaction, which has changed nothing.
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only read
	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return err
	}
	e := exporter{ctx: ctx, s: s, conn: conn, yield: yield}
	for _, part := range []func() error{e.head, e.topics, e.tables, e.lanes, e.events, e.applied} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

type exporter struct {
	ctx   context.Context
	s     *Store
	conn  *pgx.Conn
	yield func(store.Item) error
}

func (e *exporter) each(q string, dest []any, f func() error) error {
	rows, err := e.conn.Query(e.ctx, q)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, dest, f)
	return err
}

func (e *exporter) head() error {
	var pos, seq int64
	if err := e.conn.QueryRow(e.ctx, "SELECT greatest(coalesce(max(pos), 0), $1::bigint + pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1), coalesce(max(seq), 0) FROM event",
		e.s.base.Load()).Scan(&pos, &seq); err != nil {
		return err
	}
	return e.yield(store.Item{Head: &store.HeadItem{Cursor: cursor(pos, seq)}})
}

func (e *exporter) topics() error {
	var t store.TopicItem
	if err := e.each("SELECT DISTINCT tenant, name FROM counter WHERE tbl = '.depth' ORDER BY name, tenant", []any{&t.Tenant, &t.Topic}, func() error {
		c := t
		return e.yield(store.Item{Topic: &c})
	}); err != nil {
		return err
	}
	return e.each("SELECT topic FROM topic WHERE paused ORDER BY topic", []any{&t.Topic}, func() error {
		return e.yield(store.Item{Topic: &store.TopicItem{Topic: t.Topic, Paused: true}})
	})
}

func (e *exporter) tables() error {
	var names []string
	var name string
	if err := e.each("SELECT tbl FROM descriptor ORDER BY tbl", []any{&name}, func() error {
		names = append(names, name)
		return nil
	}); err != nil {
		return err
	}
	for _, name := range names {
		if e.s.tables[name] == nil {
			var n int64
			if err := e.conn.QueryRow(e.ctx, "SELECT count(*) FROM "+pgx.Identifier{"t_" + name}.Sanitize()).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return waybill.E(waybill.KindConflict, "the store holds %d rows of a table %s that this version does not know", n, name).
					WithHint("use the version of Waybill that wrote it")
			}
			continue
		}
		r := store.RowItem{Table: name}
		if err := e.each("SELECT tenant, key, rev, val FROM "+e.s.tables[name].sql, []any{&r.Tenant, &r.Key, &r.Rev, &r.Val}, func() error {
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
	var m store.MsgItem
	var extra int
	return e.each(`SELECT l.tenant, l.topic, l.key, l.rank IS NOT NULL, l.ready_at, l.prio, l.token, l.owner, l.attempt, l.fails, l.n, l.tail, l.held,
			m.seq, m.sent_at, m.due, m.extra, m.body
		FROM lane l JOIN msg m ON m.topic = l.topic AND m.tenant = l.tenant AND m.key = l.key WHERE l.n > 0
		ORDER BY l.topic, l.tenant, l.key, m.seq`,
		[]any{&l.Tenant, &l.Topic, &l.Key, &l.Ready, &l.ReadyAt, &l.Prio, &l.Token, &l.Owner, &l.Attempt, &l.Fails, &l.N, &l.Tail, &l.Held,
			&m.Seq, &m.SentAt, &m.Due, &extra, &m.Body}, func() error {
			if m.Seq == l.Tail-l.N+1 {
				c := l
				c.Attempt, c.SentAt, c.Body = l.Attempt+extra, m.SentAt, m.Body
				if !c.Ready && m.Due > c.ReadyAt && c.Token == "" {
					c.ReadyAt = m.Due
				}
				return e.yield(store.Item{Lane: &c})
			}
			c := m
			if c.Due <= c.SentAt {
				c.Due = 0
			}
			return e.yield(store.Item{Msg: &c})
		})
}

func (e *exporter) events() error {
	var x store.EventItem
	var pos, seq int64
	return e.each("SELECT pos, seq, tenant, subject, kind, at, data FROM event ORDER BY pos, seq",
		[]any{&pos, &seq, &x.Tenant, &x.Subject, &x.Kind, &x.At, &x.Data}, func() error {
			c := x
			c.Cursor = cursor(pos, seq)
			if len(c.Data) == 0 {
				c.Data = nil
			}
			return e.yield(store.Item{Event: &c})
		})
}

func (e *exporter) applied() error {
	var x store.AppliedItem
	return e.each("SELECT tenant, id, at FROM applied", []any{&x.Tenant, &x.ID, &x.At}, func() error {
		c := x
		return e.yield(store.Item{Applied: &c})
	})
}

// importBatch is how many items one statement of an import writes.
const importBatch = 1000

// Import implements store.Transfer, in one transaction.
func (s *Store) Import(ctx context.Context, items iter.Seq2[store.Item, error]) error {
	return s.failed(ctx, "import", s.importAll(ctx, items))
}

func (s *Store) importAll(ctx context.Context, items iter.Seq2[store.Item, error]) error {
	conf := s.read.Config().ConnConfig
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // after the commit nothing is left to do
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		names := []string{"lane", "msg", "event", "applied"}
		if _, err := tx.Exec(ctx, "LOCK TABLE "+strings.Join(append(names, s.tableNames()...), ", ")+" IN EXCLUSIVE MODE"); err != nil {
			return err
		}
		for _, t := range append(names, s.tableNames()...) {
			var found bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+t+")").Scan(&found); err != nil {
				return err
			}
			if found {
				return waybill.E(waybill.KindConflict, "the store is not empty: it has rows in %s", t).WithHint("give it an empty database or schema")
			}
		}
		im := importer{ctx: ctx, s: s, tx: tx, counts: counts{}, rows: map[*table]*rowSet{}}
		for i, err := range items {
			if err == nil {
				err = im.add(&i)
			}
			if err != nil {
				return err
			}
		}
		return im.end()
	})
}

type importer struct {
	ctx    context.Context
	s      *Store
	tx     pgx.Tx
	order  store.Order
	counts counts

	rows   map[*table]*rowSet
	n      int // rows in rows
	lanes  laneSet
	last   laneKey
	msgs   msgSet
	events eventSet
	ids    appliedSet
	head   int64 // least position of later events
}

type msgSet struct {
	topics, tenants, keys []string
	seqs, sent, due       []int64
	bodies                [][]byte
}

type eventSet struct {
	pos, seq                 []int64
	tenants, subjects, kinds []string
	at                       []int64
	data                     [][]byte
	lastPos, lastSeq         int64
}

type appliedSet struct {
	tenants, ids []string
	at           []int64
}

func (im *importer) add(i *store.Item) error {
	if err := im.order.Next(i); err != nil {
		return err
	}
	switch {
	case i.Head != nil:
		// A cursor of another engine is one number.
		first, _, _ := strings.Cut(string(i.Head.Cursor), ".")
		im.head, _ = strconv.ParseInt(first, 10, 64) // one that says nothing is as good as none
	case i.Topic != nil && i.Topic.Paused:
		_, err := im.tx.Exec(im.ctx, "INSERT INTO topic (topic, paused) VALUES ($1, true) ON CONFLICT (topic) DO UPDATE SET paused = true", i.Topic.Topic)
		return err
	case i.Topic != nil:
		im.counts.add(".depth", i.Topic.Tenant, i.Topic.Topic, 0)
	case i.Row != nil:
		return im.row(i.Row)
	case i.Lane != nil:
		return im.addLane(i.Lane)
	case i.Msg != nil:
		m := i.Msg
		im.lanes.due[len(im.lanes.due)-1] = max(im.lanes.due[len(im.lanes.due)-1], m.Due)
		return im.msg(m.Seq, m.SentAt, m.Due, m.Body)
	case i.Event != nil:
		return im.event(i.Event)
	case i.Applied != nil:
		x := &im.ids
		x.tenants, x.ids, x.at = append(x.tenants, i.Applied.Tenant), append(x.ids, i.Applied.ID), append(x.at, i.Applied.At)
		if len(x.at) == importBatch {
			return im.flushApplied()
		}
	}
	return nil
}

func (im *importer) row(r *store.RowItem) error {
	t, err := im.s.table(r.Table)
	if err != nil {
		return err
	}
	if !plain(r.Key) || !plain(r.Tenant) {
		return waybill.E(waybill.KindInvalid, "a row of table %s with a bad key", r.Table)
	}
	d, err := t.derived(r.Key, r.Val)
	if err != nil {
		return waybill.E(waybill.KindInvalid, "derive %s of table %s: %w", r.Key, r.Table, err)
	}
	set := im.rows[t]
	if set == nil {
		set = &rowSet{cols: make([][]any, len(t.Columns))}
		im.rows[t] = set
	}
	set.add(r.Tenant, r.Key, r.Rev, r.Val, d)
	for _, c := range d.Counters {
		im.counts.add(t.Name, r.Tenant, c, 1)
	}
	if im.n++; im.n == importBatch {
		return im.flushRows()
	}
	return nil
}

func (im *importer) flushRows() error {
	for t, set := range im.rows {
		if _, err := im.tx.Exec(im.ctx, t.insert, set.args(t)...); err != nil {
			return err
		}
	}
	clear(im.rows)
	im.n = 0
	return nil
}

func (im *importer) addLane(x *store.LaneItem) error {
	if len(im.lanes.keys) == importBatch {
		if err := im.flushLanes(); err != nil {
			return err
		}
	}
	im.last = laneKey{x.Topic, x.Tenant, x.Key}
	l := lane{laneKey: im.last, laneState: laneState{
		readyAt: x.ReadyAt, ready: x.Ready, prio: int32(x.Prio), token: x.Token, owner: x.Owner, attempt: int32(x.Attempt), fails: int32(x.Fails),
		n: x.N, tail: x.Tail, held: x.Held,
	}}
	l.setRank()
	im.lanes.add(&l)
	im.counts.add(".lanes", x.Tenant, x.Topic, 1)
	im.counts.add(".depth", x.Tenant, x.Topic, x.N)
	return im.msg(x.Tail-x.N+1, x.SentAt, 0, x.Body)
}

// flushLanes writes the lanes whose messages are all known.
func (im *importer) flushLanes() error {
	if len(im.lanes.keys) == 0 {
		return nil
	}
	_, err := im.tx.Exec(im.ctx, `INSERT INTO lane (topic, tenant, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, due)
		SELECT * FROM `+laneUnnest, im.lanes.args()...)
	im.lanes = laneSet{}
	return err
}

func (im *importer) msg(seq, sent, due int64, body []byte) error {
	m := &im.msgs
	m.topics, m.tenants, m.keys = append(m.topics, im.last.topic), append(m.tenants, im.last.tenant), append(m.keys, im.last.key)
	m.seqs, m.sent, m.due, m.bodies = append(m.seqs, seq), append(m.sent, sent), append(m.due, due), append(m.bodies, notNil(body))
	if len(m.seqs) == importBatch {
		return im.flushMsgs()
	}
	return nil
}

func (im *importer) flushMsgs() error {
	m := im.msgs
	im.msgs = msgSet{}
	if len(m.seqs) == 0 {
		return nil
	}
	_, err := im.tx.Exec(im.ctx, `INSERT INTO msg (topic, tenant, key, seq, sent_at, due, body)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[])`,
		m.topics, m.tenants, m.keys, m.seqs, m.sent, m.due, m.bodies)
	return err
}

func (im *importer) event(x *store.EventItem) error {
	e := &im.events
	pos, seq, err := parseCursor(x.Cursor)
	if x.Cursor == "" || err != nil || pos < e.lastPos || pos == e.lastPos && seq <= e.lastSeq {
		pos, seq = e.lastPos+1, e.lastSeq+1
	}
	e.lastPos, e.lastSeq = pos, seq
	e.pos, e.seq = append(e.pos, pos), append(e.seq, seq)
	e.tenants, e.subjects, e.kinds = append(e.tenants, x.Tenant), append(e.subjects, x.Subject), append(e.kinds, x.Kind)
	e.at, e.data = append(e.at, x.At), append(e.data, notNil(x.Data))
	if len(e.pos) == importBatch {
		return im.flushEvents()
	}
	return nil
}

func (im *importer) flushEvents() error {
	e := &im.events
	if len(e.pos) == 0 {
		return nil
	}
	_, err := im.tx.Exec(im.ctx, `INSERT INTO event (pos, seq, tenant, subject, kind, at, data) OVERRIDING SYSTEM VALUE
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bytea[])`,
		e.pos, e.seq, e.tenants, e.subjects, e.kinds, e.at, e.data)
	*e = eventSet{lastPos: e.lastPos, lastSeq: e.lastSeq}
	return err
}

func (im *importer) flushApplied() error {
	x := im.ids
	im.ids = appliedSet{}
	if len(x.at) == 0 {
		return nil
	}
	_, err := im.tx.Exec(im.ctx, `INSERT INTO applied (tenant, id, at) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])`, x.tenants, x.ids, x.at)
	return err
}

func (im *importer) end() error {
	if err := im.order.End(); err != nil {
		return err
	}
	for _, flush := range []func() error{im.flushRows, im.flushLanes, im.flushMsgs, im.flushEvents, im.flushApplied} {
		if err := flush(); err != nil {
			return err
		}
	}
	if sql, args := im.counts.write(0); sql != "" {
		if _, err := im.tx.Exec(im.ctx, sql, args...); err != nil {
			return err
		}
	}
	// Later events come after these, and after what a reader of the old log has seen.
	last := max(im.head, im.events.lastPos)
	var base int64
	if err := im.tx.QueryRow(im.ctx, "UPDATE waybill SET base = greatest(base, $1) RETURNING base", last+1).Scan(&base); err != nil {
		return err
	}
	// The greatest number need not be that of the last event.
	if _, err := im.tx.Exec(im.ctx, "SELECT setval(pg_get_serial_sequence('event', 'seq'), (SELECT coalesce(max(seq), 0) FROM event) + 1)"); err != nil {
		return err
	}
	im.s.base.Store(base) // should the commit fail, a greater one does no harm
	return nil
}
