package postgres

import (
	"github.com/jackc/pgx/v5"
)

// save is the second round trip: it writes what decide changed, and commits.
func (g *group) save(slot int) *pgx.Batch {
	b := &pgx.Batch{}
	g.saveIDs(b)
	g.saveLanes(b)
	g.saveMsgs(b)
	g.saveRows(b)
	g.saveEvents(b)
	for k, l := range g.lanes {
		was := int64(0)
		if l.existed {
			was = 1
		}
		is := min(1, l.n)
		if was != is {
			g.counts.add(".lanes", k.tenant, k.topic, is-was)
		}
	}
	if sql, args := g.counts.write(slot); sql != "" {
		b.Queue(sql, args...)
	}
	b.Queue("COMMIT")
	return b
}

// saveIDs gives back the ids of commits that were refused.
func (g *group) saveIDs(b *pgx.Batch) {
	var tenants, ids []string
	for k, st := range g.ids {
		if st == idOurs {
			tenants, ids = append(tenants, k.tenant), append(ids, k.id)
		}
	}
	if len(ids) > 0 {
		b.Queue(`DELETE FROM applied a USING unnest($1::text[], $2::text[]) AS u(tenant, id) WHERE a.tenant = u.tenant AND a.id = u.id`, tenants, ids)
	}
}

func (g *group) saveLanes(b *pgx.Batch) {
	var gone, changed laneSet
	for _, l := range g.laneOrder {
		switch {
		case l.n == 0:
			gone.add(l)
		case l.laneState != l.stored:
			changed.add(l)
		}
	}
	if len(gone.keys) > 0 {
		b.Queue(`DELETE FROM lane l USING unnest($1::text[], $2::text[], $3::text[]) AS u(topic, tenant, key)
			WHERE l.topic = u.topic AND l.tenant = u.tenant AND l.key = u.key`, gone.topics, gone.tenants, gone.keys)
	}
	if len(changed.keys) > 0 {
		b.Queue(`UPDATE lane l SET ready_at = u.ready_at, rank = u.rank, prio = u.prio, token = u.token, owner = u.owner,
			attempt = u.attempt, fails = u.fails, n = u.n, tail = u.tail, held = u.held, due = u.due
			FROM `+laneUnnest+` WHERE l.topic = u.topic AND l.tenant = u.tenant AND l.key = u.key`, changed.args()...)
	}
}

func (g *group) saveMsgs(b *pgx.Batch) {
	if len(g.goneMsgs) > 0 {
		topics, tenants, keys, seqs := msgArrays(g.goneMsgs)
		b.Queue(`DELETE FROM msg m USING `+msgUnnest+` WHERE m.topic = u.topic AND m.tenant = u.tenant AND m.key = u.key AND m.seq = u.seq`,
			topics, tenants, keys, seqs)
	}
	if len(g.newMsgs) > 0 {
		keys := make([]msgKey, len(g.newMsgs))
		due, bodies := make([]int64, len(keys)), make([][]byte, len(keys))
		for i := range g.newMsgs {
			m := &g.newMsgs[i]
			keys[i], due[i], bodies[i] = m.msgKey, m.due, notNil(m.body)
		}
		topics, tenants, names, seqs := msgArrays(keys)
		b.Queue(`INSERT INTO msg (topic, tenant, key, seq, sent_at, due, body) SELECT topic, tenant, key, seq, $7, due, body
			FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[]) AS u(topic, tenant, key, seq, due, body)`,
			topics, tenants, names, seqs, due, bodies, g.now)
	}
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (g *group) saveRows(b *pgx.Batch) {
	type sets struct{ gone, changed, made rowSet }
	all := map[*table]*sets{}
	var order []*table
	for _, r := range g.rowOrder {
		if !r.dirty {
			continue
		}
		s := all[r.table]
		if s == nil {
			cols := func() rowSet { return rowSet{cols: make([][]any, len(r.table.Columns))} }
			s = &sets{rowSet{}, cols(), cols()}
			all[r.table] = s
			order = append(order, r.table)
		}
		switch {
		case r.exists && r.stored:
			s.changed.add(r.tenant, r.key, r.rev, r.val, r.Derived)
		case r.exists:
			s.made.add(r.tenant, r.key, r.rev, r.val, r.Derived)
		case r.stored:
			s.gone.add(r.tenant, r.key, 0, nil, r.Derived)
		}
	}
	for _, t := range order {
		s := all[t]
		if len(s.gone.keys) > 0 {
			b.Queue(t.delete, s.gone.tenants, s.gone.keys)
		}
		if len(s.changed.keys) > 0 {
			b.Queue(t.update, s.changed.args(t)...)
		}
	}
	// New rows may wait for those of others, so they come last and in order.
	for _, t := range order {
		if s := all[t]; len(s.made.keys) > 0 {
			b.Queue(t.insert, s.made.args(t)...)
		}
	}
}

func (g *group) saveEvents(b *pgx.Batch) {
	if len(g.events) == 0 {
		return
	}
	var tenants, subjects, kinds []string
	var ats []int64
	var datas [][]byte
	for _, e := range g.events {
		at := g.now
		if !e.At.IsZero() {
			at = e.At.UnixMicro()
		}
		tenants, subjects, kinds = append(tenants, e.tenant), append(subjects, e.Subject), append(kinds, e.Kind)
		ats, datas = append(ats, at), append(datas, notNil(e.Data))
	}
	b.Queue(insertEvents, g.s.base.Load(), tenants, subjects, kinds, ats, datas)
}
