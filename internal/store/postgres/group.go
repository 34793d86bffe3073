package postgres

import (
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// group is a transaction that writes many commits. look locks and reads all that
// they touch, decide applies them one after another in memory, and save writes
// what came out. Locks are taken in one order by everybody: ids, lanes, rows by
// table, each sorted; then new rows, then counters. Locking a lane that does not
// exist makes it.
type group struct {
	s       *Store
	calls   []*call
	now     int64
	outcome []error
	written bool // save was sent

	ids    map[idKey]idState
	lanes  map[laneKey]*lane
	rows   map[rowKey]*row
	dead   map[msgKey]*deadMsg
	counts counts
	rings  map[string]bool

	laneOrder []*lane
	rowOrder  []*row
	goneMsgs  []msgKey
	newMsgs   []newMsg
	events    []event
}

type idKey struct{ tenant, id string }

type idState int

const (
	idOurs    idState = iota + 1 // taken by this group
	idApplied                    // by a commit that stands
)

type laneKey struct{ topic, tenant, key string }

func (k laneKey) compare(o laneKey) int {
	return cmp.Or(cmp.Compare(k.topic, o.topic), cmp.Compare(k.tenant, o.tenant), cmp.Compare(k.key, o.key))
}

// laneState is what a row of table lane says.
type laneState struct {
	readyAt, rank      int64
	ready              bool // rank counts
	prio               int32
	token, owner       string
	attempt, fails     int32
	n, tail, held, due int64
}

type lane struct {
	laneKey
	laneState
	stored  laneState // the row as it is in the database
	guess   laneState // the row that look makes if there is none
	made    bool      // look made it
	existed bool
}

func (l *lane) head() int64 { return l.tail - l.n + 1 }

// wait makes the lane claimable after a delay.
func (l *lane) wait(now int64, delay time.Duration) {
	l.readyAt = now + max(delay, 0).Microseconds()
	l.ready = delay <= 0
	l.setRank()
}

func (l *lane) setRank() {
	l.rank = 0
	if l.ready {
		l.rank = l.readyAt - int64(l.prio)*store.PriorityAge.Microseconds()
	}
}

func (l *lane) release(now int64, delay time.Duration) {
	l.token, l.owner, l.held = "", "", 0
	l.wait(now, delay)
}

// send adds a message and returns its place and when it is due, if it has to
// wait for that behind others.
func (l *lane) send(now int64, x *store.Send) (seq, due int64) {
	prio := int32(max(math.MinInt32, min(math.MaxInt32, x.Priority)))
	if l.n == 0 {
		l.laneState = laneState{prio: prio}
		l.wait(now, x.Delay)
		if l.ready {
			l.rank += x.Behind.Microseconds()
		}
	} else {
		if x.Delay > 0 {
			due = now + x.Delay.Microseconds()
			l.due = max(l.due, due)
		}
		if prio > l.prio {
			l.prio = prio
			l.setRank()
		}
	}
	l.n++
	l.tail++
	return l.tail, due
}

// finish takes the head away.
func (l *lane) finish(now int64) {
	l.n--
	l.held--
	l.attempt, l.fails = 0, 0
	if l.n == 0 {
		l.laneState = laneState{}
	} else if l.held <= 0 {
		l.release(now, 0)
	}
}

type rowKey struct {
	table       *table
	tenant, key string
}

type row struct {
	rowKey
	stored, exists, dirty bool
	rev                   int64
	val                   []byte
	store.Derived
}

type msgKey struct {
	laneKey
	seq int64
}

type newMsg struct {
	msgKey
	due  int64
	body []byte
}

type deadMsg struct {
	sentAt int64
	extra  int
	body   []byte
}

type event struct {
	tenant string
	*store.Event
}

func newGroup(s *Store, calls []*call) *group {
	return &group{
		s: s, calls: calls, now: s.now(), outcome: make([]error, len(calls)),
		ids: map[idKey]idState{}, lanes: map[laneKey]*lane{}, rows: map[rowKey]*row{}, dead: map[msgKey]*deadMsg{},
		counts: counts{}, rings: map[string]bool{},
	}
}

func (g *group) lane(k laneKey) *lane {
	l := g.lanes[k]
	if l == nil {
		l = &lane{laneKey: k}
		g.lanes[k] = l
		g.laneOrder = append(g.laneOrder, l)
	}
	return l
}

func (g *group) row(k rowKey) *row {
	r := g.rows[k]
	if r == nil {
		r = &row{rowKey: k}
		g.rows[k] = r
		g.rowOrder = append(g.rowOrder, r)
	}
	return r
}

func keyOf(m *store.Msg) laneKey { return laneKey{m.Topic, tenantOf(m.Tenant), m.Key} }

// look is the first round trip.
func (g *group) look() *pgx.Batch {
	var ids []idKey
	var dead []msgKey
	for _, k := range g.calls {
		if k.ID != "" {
			ids = append(ids, idKey{k.tenant, k.ID})
		}
		if k.msg != nil {
			g.lane(keyOf(k.msg))
		}
		if k.Dead != nil {
			dead = append(dead, msgKey{keyOf(k.Dead), k.Dead.Seq})
		}
		for i := range k.Sends {
			x := &k.Sends[i]
			// Mostly the lane is new and every commit stands: then this is its row.
			l := g.lane(laneKey{x.Topic, k.tenant, x.Key})
			l.send(g.now, x)
		}
		for i := range k.puts {
			g.row(rowKey{k.puts[i].table, k.tenant, k.puts[i].key})
		}
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	g.lookIDs(b, ids)
	g.lookLanes(b)
	g.lookDead(b, dead)
	g.lookRows(b)
	return b
}

func (g *group) lookIDs(b *pgx.Batch, ids []idKey) {
	if len(ids) == 0 {
		return
	}
	slices.SortFunc(ids, func(a, b idKey) int { return cmp.Or(cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.id, b.id)) })
	var tenants, names []string
	for _, k := range slices.Compact(ids) {
		g.ids[k] = idApplied
		tenants, names = append(tenants, k.tenant), append(names, k.id)
	}
	b.Queue(`INSERT INTO applied (tenant, id, at) SELECT tenant, id, $3 FROM unnest($1::text[], $2::text[]) AS u(tenant, id)
		ON CONFLICT DO NOTHING RETURNING tenant, id`, tenants, names, g.now).Query(func(rows pgx.Rows) error {
		var k idKey
		_, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.id}, func() error {
			g.ids[k] = idOurs
			return nil
		})
		return err
	})
}

func (g *group) lookLanes(b *pgx.Batch) {
	if len(g.laneOrder) == 0 {
		return
	}
	slices.SortFunc(g.laneOrder, func(a, b *lane) int { return a.compare(b.laneKey) })
	var w laneSet
	for _, l := range g.laneOrder {
		w.add(l)
		l.guess, l.laneState = l.laneState, laneState{}
	}
	// WHERE false locks a row that is there without writing it.
	b.Queue(`INSERT INTO lane AS l (topic, tenant, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, due)
		SELECT * FROM `+laneUnnest+` ON CONFLICT (topic, tenant, key) DO UPDATE SET n = l.n WHERE false
		RETURNING topic, tenant, key`, w.args()...).Query(func(rows pgx.Rows) error {
		var k laneKey
		_, err := pgx.ForEachRow(rows, []any{&k.topic, &k.tenant, &k.key}, func() error {
			l := g.lanes[k]
			l.made, l.stored = true, l.guess
			return nil
		})
		return err
	})
	b.Queue(`SELECT l.topic, l.tenant, l.key, l.ready_at, l.rank, l.prio, l.token, l.owner, l.attempt, l.fails, l.n, l.tail, l.held, l.due
		FROM unnest($1::text[], $2::text[], $3::text[]) AS u(topic, tenant, key)
		JOIN lane l ON l.topic = u.topic AND l.tenant = u.tenant AND l.key = u.key`, w.topics, w.tenants, w.keys).Query(func(rows pgx.Rows) error {
		var k laneKey
		var st laneState
		var rank *int64
		_, err := pgx.ForEachRow(rows, []any{&k.topic, &k.tenant, &k.key, &st.readyAt, &rank, &st.prio, &st.token, &st.owner,
			&st.attempt, &st.fails, &st.n, &st.tail, &st.held, &st.due}, func() error {
			l := g.lanes[k]
			if st.ready, st.rank = rank != nil, 0; rank != nil {
				st.rank = *rank
			}
			if !l.made { // what we made counts as empty until a commit stands
				l.existed, l.stored, l.laneState = true, st, st
			}
			return nil
		})
		return err
	})
}

func (g *group) lookDead(b *pgx.Batch, dead []msgKey) {
	if len(dead) == 0 {
		return
	}
	topics, tenants, keys, seqs := msgArrays(dead)
	b.Queue(`SELECT m.topic, m.tenant, m.key, m.seq, m.sent_at, m.extra, m.body FROM `+msgUnnest+`
		JOIN msg m ON m.topic = u.topic AND m.tenant = u.tenant AND m.key = u.key AND m.seq = u.seq`,
		topics, tenants, keys, seqs).Query(func(rows pgx.Rows) error {
		var k msgKey
		var m deadMsg
		_, err := pgx.ForEachRow(rows, []any{&k.topic, &k.tenant, &k.key, &k.seq, &m.sentAt, &m.extra, &m.body}, func() error {
			c := m
			g.dead[k] = &c
			return nil
		})
		return err
	})
}

func (g *group) lookRows(b *pgx.Batch) {
	slices.SortFunc(g.rowOrder, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.table.Name, b.table.Name), cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.key, b.key))
	})
	for rest := g.rowOrder; len(rest) > 0; {
		t := rest[0].table
		var tenants, keys []string
		for len(rest) > 0 && rest[0].table == t {
			tenants, keys, rest = append(tenants, rest[0].tenant), append(keys, rest[0].key), rest[1:]
		}
		b.Queue(t.lock, tenants, keys).Query(func(rows pgx.Rows) error {
			k := rowKey{table: t}
			var rev int64
			var counters []string
			_, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.key, &rev, &counters}, func() error {
				r := g.rows[k]
				r.stored, r.exists, r.rev = true, true, rev
				r.Counters = counters
				return nil
			})
			return err
		})
	}
}

// decide applies the commits in the order in which they came. Every check of a
// commit comes before its first change.
func (g *group) decide() error {
	for i, k := range g.calls {
		outcome, err := g.check(k)
		if err != nil {
			return err
		}
		id := idKey{k.tenant, k.ID}
		if g.outcome[i] = outcome; outcome != nil || k.ID != "" && g.ids[id] == idApplied {
			continue
		}
		if k.ID != "" {
			g.ids[id] = idApplied
		}
		if err := g.apply(k); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) check(k *call) (outcome, err error) {
	if k.ID != "" && g.ids[idKey{k.tenant, k.ID}] == idApplied {
		return nil, nil
	}
	if m := k.msg; m != nil {
		l := g.lanes[keyOf(m)]
		if l.n == 0 || l.token == "" || l.token != m.Token || l.head() != m.Seq {
			return store.ErrLeaseLost, nil
		}
	}
	for i := range k.puts {
		p := &k.puts[i]
		if r := g.rows[rowKey{p.table, k.tenant, p.key}]; p.rev != store.AnyRev && p.rev != r.rev {
			return store.ErrConflict, nil
		}
	}
	return nil, nil
}

func (g *group) apply(k *call) error {
	if m := k.msg; m != nil {
		l := g.lanes[keyOf(m)]
		switch {
		case k.Retry != nil:
			l.fails++
			l.release(g.now, k.Delay)
		case k.Yield != nil:
			l.attempt--
			l.release(g.now, k.Delay)
		default:
			if k.Dead != nil {
				if err := g.bury(k, l); err != nil {
					return err
				}
			}
			g.goneMsgs = append(g.goneMsgs, msgKey{l.laneKey, m.Seq})
			g.counts.add(".depth", l.tenant, l.topic, -1)
			l.finish(g.now)
		}
		if l.n > 0 {
			g.rings[l.topic] = true
		}
	}
	for i := range k.puts {
		g.put(k.tenant, &k.puts[i])
	}
	for i := range k.Sends {
		x := &k.Sends[i]
		l := g.lanes[laneKey{x.Topic, k.tenant, x.Key}]
		seq, due := l.send(g.now, x)
		g.newMsgs = append(g.newMsgs, newMsg{msgKey{l.laneKey, seq}, due, x.Body})
		g.counts.add(".depth", k.tenant, x.Topic, 1)
		g.rings[x.Topic] = true
	}
	for i := range k.Events {
		g.events = append(g.events, event{k.tenant, &k.Events[i]})
	}
	return nil
}

func (g *group) put(tenant string, p *put) {
	r := g.row(rowKey{p.table, tenant, p.key})
	for _, c := range r.Counters {
		g.counts.add(p.table.Name, tenant, c, -1)
	}
	r.dirty = true
	if r.exists = p.val != nil; r.exists {
		r.rev++ // a Put with a revision has been checked against this one
	} else {
		r.rev = 0
	}
	r.val, r.Derived = p.val, p.Derived
	for _, c := range r.Counters {
		g.counts.add(p.table.Name, tenant, c, 1)
	}
}

// bury makes a dead letter of the head of a lane.
func (g *group) bury(k *call, l *lane) error {
	m := g.dead[msgKey{l.laneKey, l.head()}]
	if m == nil {
		return waybill.E(waybill.KindInternal, "message %d of lane %s/%s is missing", l.head(), l.topic, l.key)
	}
	val, err := json.Marshal(store.DeadLetter{
		Topic: l.topic, Key: l.key, Body: m.body, Reason: k.Reason, Attempt: max(1, int(l.attempt)+m.extra), Fails: int(l.fails),
		Priority: int(l.prio), SentAt: micros(m.sentAt), DeadAt: micros(g.now),
	})
	if err != nil {
		return err
	}
	t, err := g.s.table(store.DeadTable)
	if err != nil {
		return err
	}
	p := put{table: t, key: l.topic + "/" + waybill.NewID(micros(g.now)), val: val}
	if p.Derived, err = t.derived(p.key, val); err != nil {
		return err
	}
	g.put(l.tenant, &p)
	return nil
}

const (
	laneUnnest = `unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::text[],
		$9::int[], $10::int[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])
		AS u(topic, tenant, key, ready_at, rank, prio, token, owner, attempt, fails, n, tail, held, due)`
	msgUnnest = `unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u(topic, tenant, key, seq)`
)

// laneSet is rows of table lane, column by column.
type laneSet struct {
	topics, tenants, keys, tokens, owners []string
	ready, n, tail, held, due             []int64
	rank                                  []*int64
	prio, attempt, fails                  []int32
}

func (s *laneSet) add(l *lane) {
	var rank *int64
	if l.ready {
		r := l.rank
		rank = &r
	}
	s.topics, s.tenants, s.keys = append(s.topics, l.topic), append(s.tenants, l.tenant), append(s.keys, l.key)
	s.ready, s.rank, s.prio = append(s.ready, l.readyAt), append(s.rank, rank), append(s.prio, l.prio)
	s.tokens, s.owners = append(s.tokens, l.token), append(s.owners, l.owner)
	s.attempt, s.fails = append(s.attempt, l.attempt), append(s.fails, l.fails)
	s.n, s.tail, s.held, s.due = append(s.n, l.n), append(s.tail, l.tail), append(s.held, l.held), append(s.due, l.due)
}

func (s *laneSet) args() []any {
	return []any{s.topics, s.tenants, s.keys, s.ready, s.rank, s.prio, s.tokens, s.owners, s.attempt, s.fails, s.n, s.tail, s.held, s.due}
}

func msgArrays(keys []msgKey) (topics, tenants, names []string, seqs []int64) {
	for _, k := range keys {
		topics, tenants, names, seqs = append(topics, k.topic), append(tenants, k.tenant), append(names, k.key), append(seqs, k.seq)
	}
	return topics, tenants, names, seqs
}

// rowSet is rows of a registered table, column by column.
type rowSet struct {
	tenants, keys, counters []string
	revs                    []int64
	vals                    [][]byte
	cols                    [][]any
}

func (s *rowSet) add(tenant, key string, rev int64, val []byte, d store.Derived) {
	s.tenants, s.keys, s.revs, s.vals = append(s.tenants, tenant), append(s.keys, key), append(s.revs, rev), append(s.vals, val)
	s.counters = append(s.counters, strings.Join(d.Counters, "\x1f"))
	for i := range s.cols {
		s.cols[i] = append(s.cols[i], d.Columns[i])
	}
}

func (s *rowSet) args(t *table) []any {
	args := []any{s.tenants, s.keys, s.revs, s.vals, s.counters}
	for i, c := range t.Columns {
		if c.Type == store.Int {
			args = append(args, nullable[int64](s.cols[i]))
		} else {
			args = append(args, nullable[string](s.cols[i]))
		}
	}
	return args
}

func nullable[T any](col []any) []*T {
	out := make([]*T, len(col))
	for i, v := range col {
		if x, ok := v.(T); ok {
			out[i] = &x
		}
	}
	return out
}

// counts are changes of counters.
type counts map[counterKey]int64

type counterKey struct{ table, tenant, name string }

func (c counts) add(table, tenant, name string, n int64) { c[counterKey{table, tenant, name}] += n }

// write is the statement that adds the changes to a slot, or nothing. A counter
// of the store itself is written even when nothing changes, for its name.
func (c counts) write(slot int) (string, []any) {
	keys := slices.SortedFunc(maps.Keys(c), func(a, b counterKey) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.tenant, b.tenant), cmp.Compare(a.name, b.name))
	})
	var tables, tenants, names []string
	var ns []int64
	for _, k := range keys {
		if n := c[k]; n != 0 || k.table[0] == '.' {
			tables, tenants, names, ns = append(tables, k.table), append(tenants, k.tenant), append(names, k.name), append(ns, n)
		}
	}
	if len(ns) == 0 {
		return "", nil
	}
	return `INSERT INTO counter AS c (tbl, tenant, name, slot, n)
		SELECT tbl, tenant, name, $5::int, n FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u(tbl, tenant, name, n)
		ON CONFLICT (tbl, tenant, name, slot) DO UPDATE SET n = c.n + excluded.n`, []any{tables, tenants, names, ns, slot}
}
