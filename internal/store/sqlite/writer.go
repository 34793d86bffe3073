package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	sqlite "modernc.org/sqlite"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// op is one operation for the writer. run is called inside a transaction that it
// shares with others. An error marked by refuse concerns this operation only and
// must be returned before anything was written; any other error rolls the
// transaction back, and then run may be called again.
type op struct {
	run  func(*writer) error
	late bool // wants to see the rows of what came before: claims
	err  error
	done chan struct{}
}

// refusal is an error of one operation that leaves its transaction intact.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(err error) error { return refusal{err} }

// submit hands an operation to the writer and waits until it is durable. When
// ctx ends first the operation may still happen.
func (s *Store) submit(ctx context.Context, late bool, run func(*writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{run: run, late: late, done: make(chan struct{})}
	select {
	case <-s.quit:
		return errClosed
	default:
	}
	select {
	case s.ops <- o:
	case <-s.quit:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		select {
		case <-o.done: // it was among the last
			return o.err
		default:
			return errClosed
		}
	}
}

// writer is the state of the one goroutine that writes.
type writer struct {
	s     *Store
	conn  driver.Conn
	stmts map[string]driver.Stmt
	args  []driver.NamedValue
	now   int64 // microseconds, one value for a whole transaction

	// What is known of the stored state; exact, and dropped when a transaction fails.
	queues    map[string][]*queue // by topic
	lanes     map[laneKey]*lane
	byID      map[int64]*lane
	laneBytes int // about what lanes take in memory
	revs      map[rowKey]rowState
	due       map[int64]int64 // by queue: no waiting lane becomes ready before this instant

	// What the transaction has to write at its end, and to announce after it.
	dirty    []*lane
	events   []any // values of rows of table event, eventColumns each
	counts   map[counterKey]int64
	rings    map[string]bool
	paused   map[string]bool
	prunedAt int64

	snapshots map[*sqlite.Backup]bool // that are being made

	transactions int
	patience     int64 // size of the log from which readers must let go of it
}

type rowKey struct{ table, tenant, key string }

type rowState struct {
	id       int64 // row number
	rev      int64 // 0: there is no such row
	counters string
	columns  []any // derived ones; nil when they are not known
}

type counterKey struct{ table, tenant, name string }

// Memory bounds of the writer: it forgets everything when one is passed.
const (
	maxLaneBytes = 32 << 20
	maxRevs      = 40000
)

func (s *Store) writer() {
	defer close(s.done)
	err := s.raw(func(c driver.Conn) error {
		w := &writer{
			s: s, conn: c, stmts: map[string]driver.Stmt{}, args: make([]driver.NamedValue, 0, 64),
			counts: map[counterKey]int64{}, rings: map[string]bool{}, paused: map[string]bool{}, snapshots: map[*sqlite.Backup]bool{},
		}
		w.forget()
		if err := w.loadQueues(); err != nil {
			return err
		}
		w.loop()
		for b := range w.snapshots {
			b.Finish() //nolint:errcheck // nobody gets it any more
		}
		for _, st := range w.stmts {
			st.Close()
		}
		return nil
	})
	if err != nil {
		s.log.Error("store writer ended", "err", err)
	}
}

func (w *writer) loop() {
	group := make([]*op, 0, w.s.group)
	quiet := time.NewTicker(quietCheck)
	defer quiet.Stop()
	written, rested := 0, true
	for {
		group = group[:0]
		select {
		case o := <-w.s.ops:
			group = append(group, o)
		case <-quiet.C:
			if written < quietBelow && !rested {
				w.rest()
			}
			rested = written < quietBelow
			written = 0
			continue
		case o := <-w.s.asides:
			o.err = o.run(w)
			close(o.done)
			continue
		case <-w.s.quit:
			// Whoever got an operation in before Close still gets its answer.
			for {
				select {
				case o := <-w.s.ops:
					w.process(append(group[:0], o))
				case o := <-w.s.asides: // the end of a snapshot, which must not outlive the connection
					o.err = o.run(w)
					close(o.done)
				default:
					return
				}
			}
		}
		for len(group) < w.s.group {
			select {
			case o := <-w.s.ops:
				group = append(group, o)
				continue
			default:
			}
			break
		}
		written += len(group)
		w.process(group)
	}
}

// Memory is given back when less than quietBelow was written between two checks:
// an idle server still says every few seconds that it lives.
const (
	quietCheck = 5 * time.Second
	quietBelow = 100
)

// rest gives back what is kept for speed.
func (w *writer) rest() {
	w.forget()
	w.s.shrink()
	if _, err := w.exec("PRAGMA shrink_memory"); err != nil {
		w.s.log.Warn("store memory not given back", "err", err)
	}
}

// process runs a group in one transaction. When the engine refuses the group,
// each operation is tried by itself so that one that can never work does not
// harm the others.
func (w *writer) process(group []*op) {
	err := w.transact(group)
	if isFull(err) && w.reuseLog() {
		err = w.transact(group)
	}
	if err != nil && len(group) > 1 {
		for i := range group {
			group[i].err = unavailable(w.transact(group[i : i+1]))
			close(group[i].done)
		}
		return
	}
	for _, o := range group {
		if err != nil {
			o.err = unavailable(err)
		}
		close(o.done)
	}
}

// reuseLog moves the log into the file long before it is time, so that the log
// need not grow: on a full disk that makes room when the log holds old versions of
// the same pages. It does not wait for readers, who may keep parts of it in use.
func (w *writer) reuseLog() bool {
	_, err := w.exec("PRAGMA wal_checkpoint(PASSIVE)")
	return err == nil
}

// Sizes of the log, which usually begins anew after 16 MB. It cannot while somebody
// reads from it, and under a steady load somebody always does: then the writer
// stands still until today's readers are done; new ones do without the log. One
// that takes its time is not waited for.
const (
	logKept     = 24 << 20 // a longer one is cut back when it begins anew
	logPatience = 40 << 20
	logWait     = 200 // milliseconds
)

// limitLog keeps the log from growing. It runs after a commit.
func (w *writer) limitLog() {
	if w.transactions++; w.transactions%8 != 0 {
		return
	}
	st, err := os.Stat(w.s.path + "-wal")
	if err != nil || st.Size() < logPatience {
		w.patience = logPatience
		return
	}
	if st.Size() < w.patience {
		return
	}
	w.patience = st.Size() + 16<<20
	for _, q := range []string{
		fmt.Sprintf("PRAGMA busy_timeout=%d", logWait), "PRAGMA wal_checkpoint(RESTART)",
		fmt.Sprintf("PRAGMA busy_timeout=%d", busyTimeout),
	} {
		if err := w.query(q, nil, func([]driver.Value) error { return nil }); err != nil {
			w.s.log.Warn("store log not limited", "bytes", st.Size(), "err", err)
		}
	}
}

func (w *writer) transact(group []*op) (err error) {
	w.now = w.s.clock().UnixMicro()
	began := time.Now()
	defer func() {
		if err == nil {
			return
		}
		for _, o := range group {
			o.err = nil
		}
		w.forget()
		clear(w.counts)
		clear(w.rings)
		clear(w.paused)
		// The engine ends the transaction by itself on some errors; then this one
		// fails and says nothing new.
		_, _ = w.exec("ROLLBACK")
		if qerr := w.loadQueues(); qerr != nil {
			w.s.log.Error("store topics not read", "err", qerr)
		}
	}()
	if _, err = w.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	late := false
	for _, o := range group {
		if o.late {
			late = true
			continue
		}
		if err = w.one(o); err != nil {
			return err
		}
	}
	if err = w.flushLanes(); err != nil {
		return err
	}
	if late {
		for _, o := range group {
			if !o.late {
				continue
			}
			if err = w.one(o); err != nil {
				return err
			}
		}
		if err = w.flushLanes(); err != nil {
			return err
		}
	}
	if err = w.flushEvents(); err != nil {
		return err
	}
	if err = w.flushCounts(); err != nil {
		return err
	}
	if err = w.prune(); err != nil {
		return err
	}
	if _, err = w.exec("COMMIT"); err != nil {
		return err
	}
	if f := w.s.flushed.Load(); f != nil {
		(*f)(len(group), time.Since(began))
	}
	w.announce()
	w.limitLog()
	if w.laneBytes > maxLaneBytes || len(w.revs) > maxRevs {
		w.forget()
	}
	return nil
}

func (w *writer) one(o *op) error {
	err := o.run(w)
	var r refusal
	if errors.As(err, &r) {
		o.err = r.error
		return nil
	}
	o.err = nil
	return err
}

func (w *writer) forget() {
	w.lanes = map[laneKey]*lane{}
	for _, qs := range w.queues {
		for _, q := range qs {
			q.cached = 0
		}
	}
	w.revs = map[rowKey]rowState{}
	w.byID = map[int64]*lane{}
	w.due = map[int64]int64{}
	w.laneBytes = 0
	w.dirty = w.dirty[:0]
	w.events = w.events[:0]
}

// announce rings the bells of what was committed. It runs after the commit: a claimant
// that is woken must find what it was woken for.
func (w *writer) announce() {
	if len(w.paused) > 0 {
		w.s.mu.Lock()
		for topic, p := range w.paused {
			w.s.paused[topic] = p
			w.rings[topic] = true
		}
		w.s.mu.Unlock()
		clear(w.paused)
	}
	for topic := range w.rings {
		w.s.bells.ring(topic)
	}
	clear(w.rings)
}

func (w *writer) count(table, tenant, name string, delta int64) {
	w.counts[counterKey{table, tenant, name}] += delta
}

const eventColumns = 5

// eventInserts are the statements that add events, the largest number of rows first.
var eventInserts = []struct {
	rows int
	text string
}{{4, eventInsert(4)}, {1, eventInsert(1)}}

func eventInsert(rows int) string {
	return `INSERT INTO event (tenant, subject, kind, at, data) VALUES ` + strings.TrimSuffix(strings.Repeat("(?,?,?,?,?),", rows), ",")
}

// flushEvents adds the events of all commits in their order.
func (w *writer) flushEvents() error {
	rest := w.events
	for _, ins := range eventInserts {
		for n := ins.rows * eventColumns; len(rest) >= n; rest = rest[n:] {
			if _, err := w.exec(ins.text, rest[:n]...); err != nil {
				return err
			}
		}
	}
	clear(w.events)
	w.events = w.events[:0]
	return nil
}

func (w *writer) flushCounts() error {
	for k, d := range w.counts {
		if d == 0 {
			continue
		}
		if _, err := w.exec(`INSERT INTO counter (tbl, tenant, name, n) VALUES (?,?,?,?)
			ON CONFLICT (tbl, tenant, name) DO UPDATE SET n = n + excluded.n`, k.table, k.tenant, k.name, d); err != nil {
			return err
		}
	}
	clear(w.counts)
	return nil
}

// rememberApplied is how long the ids of commits are kept.
const rememberApplied = 48 * time.Hour

func (w *writer) prune() error {
	if w.now-w.prunedAt < time.Hour.Microseconds() {
		return nil
	}
	w.prunedAt = w.now
	_, err := w.exec(`DELETE FROM applied WHERE at < ?`, w.now-rememberApplied.Microseconds())
	return err
}

func (w *writer) stmt(q string) (driver.Stmt, error) {
	if st, ok := w.stmts[q]; ok {
		return st, nil
	}
	st, err := w.conn.(driver.ConnPrepareContext).PrepareContext(context.Background(), q)
	if err != nil {
		return nil, err
	}
	w.stmts[q] = st
	return st, nil
}

func (w *writer) bind(args []any) []driver.NamedValue {
	nv := w.args[:0]
	for i, a := range args {
		if n, ok := a.(int); ok {
			a = int64(n)
		}
		nv = append(nv, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return nv
}

// exec runs a statement, prepared once by its text, and returns how many rows it changed.
func (w *writer) exec(q string, args ...any) (int64, error) {
	st, err := w.stmt(q)
	if err != nil {
		return 0, err
	}
	res, err := st.(driver.StmtExecContext).ExecContext(context.Background(), w.bind(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// errEnough from the function given to query ends it without an error. The
// writer's statements have no LIMIT of their own: SQLite plans a statement anew for
// every value bound to one, which costs more than running it.
var errEnough = errors.New("enough rows")

// insert is exec for a statement that adds a row, whose number it returns.
func (w *writer) insert(q string, args ...any) (int64, error) {
	st, err := w.stmt(q)
	if err != nil {
		return 0, err
	}
	res, err := st.(driver.StmtExecContext).ExecContext(context.Background(), w.bind(args))
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

// query calls each with the values of every row; they are valid during the call.
func (w *writer) query(q string, args []any, each func([]driver.Value) error) error {
	st, err := w.stmt(q)
	if err != nil {
		return err
	}
	rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), w.bind(args))
	if err != nil {
		return err
	}
	vals := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(vals)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = each(vals)
		}
		if err == errEnough {
			break
		}
		if err != nil {
			rows.Close()
			return err
		}
	}
	return rows.Close()
}

// tenantOf is the tenant a commit writes to.
func tenantOf(name string) string {
	if name == "" {
		return store.DefaultTenant
	}
	return name
}

func (s *Store) table(name string) (*table, error) {
	if t, ok := s.tables[name]; ok {
		return t, nil
	}
	return nil, waybill.E(waybill.KindInvalid, "store: unknown table %q", name)
}
