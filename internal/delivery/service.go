package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// Options of a Service.
type Options struct {
	Store store.Store
	Now   func() time.Time // the wall clock; nil is time.Now
	// Bulk is called when something large is about to be held in memory, and what it returns
	// when that is over. Nil is for nobody.
	Bulk func() (end func())
}

// Service takes in reports and answers questions; it implements waybill.Deliveries.
// Safe for concurrent use, also by several servers over one store. Reports of one
// partition that come in together are written together.
type Service struct {
	o Options

	mu    sync.Mutex
	lanes map[string]*lane
	kept  map[string]*stored            // what is remembered of partitions between batches
	seen  map[string]map[string]sighted // summaries as they were read last, by partition and key
}

// lane is the reports of a partition that wait to be written.
type lane struct {
	waiting []*request
	busy    bool
}

type request struct {
	event waybill.DeliveryEvent
	done  chan struct{}
	res   waybill.ReportResult
	err   error
}

var _ waybill.Deliveries = (*Service)(nil)

// New returns a service over a store whose schema holds Tables.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{o: o, lanes: map[string]*lane{}, kept: map[string]*stored{}, seen: map[string]map[string]sighted{}}
}

const (
	// most is how many reports one commit holds at most.
	most = 128
	// patience is how long reports that wait for each other may take; whoever sent one may
	// stop waiting earlier, and its report is still written.
	patience = 30 * time.Second
	// tries is how often a commit is made again after another server was faster.
	tries = 50
)

// Report implements waybill.Deliveries.
func (s *Service) Report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error) {
	if strings.HasPrefix(strings.TrimSpace(r.Partition), selfTests) {
		return waybill.ReportResult{}, waybill.E(waybill.KindInvalid, "partition %.40q: names that begin with %s are of self-tests", r.Partition, selfTests)
	}
	return s.report(ctx, r, by)
}

// report takes in a report for any partition.
func (s *Service) report(ctx context.Context, r waybill.DeliveryReport, by waybill.Principal) (waybill.ReportResult, error) {
	r, err := check(r)
	if err != nil {
		return waybill.ReportResult{}, err
	}
	// Times are kept as the store can give them back.
	for _, t := range []*time.Time{&r.Time, &r.QueuedAt, &r.StartedAt, &r.FinishedAt, &r.CommittedAt} {
		if *t = t.UTC().Truncate(time.Millisecond); t.Year() < 1 || t.Year() > 9999 {
			return waybill.ReportResult{}, waybill.E(waybill.KindInvalid, "a time of the report is in the year %d", t.Year())
		}
	}
	q := &request{done: make(chan struct{}), event: waybill.DeliveryEvent{
		ID: eventID(&r), ReceivedAt: s.o.Now().UTC().Truncate(time.Millisecond), By: by.Name, Report: r,
	}}
	s.mu.Lock()
	l := s.lanes[r.Partition]
	if l == nil {
		l = &lane{}
		s.lanes[r.Partition] = l
	}
	l.waiting = append(l.waiting, q)
	if !l.busy {
		l.busy = true
		go s.drain(context.WithoutCancel(ctx), r.Partition, l)
	}
	s.mu.Unlock()
	select {
	case <-q.done:
		return q.res, q.err
	case <-ctx.Done():
		return waybill.ReportResult{}, ctx.Err()
	}
}

// drain writes what waits in a lane until nothing does.
func (s *Service) drain(ctx context.Context, partition string, l *lane) {
	for {
		s.mu.Lock()
		n := min(len(l.waiting), most)
		batch := l.waiting[:n:n]
		l.waiting = l.waiting[n:]
		if n == 0 {
			delete(s.lanes, partition)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, patience)
		err := s.write(limited, partition, batch)
		for _, q := range batch {
			fault := err
			if isCrowded(err) && len(batch) > 1 {
				// One of them is to blame, and only that one is refused.
				fault = s.write(limited, partition, []*request{q})
			}
			if fault != nil {
				q.res, q.err = waybill.ReportResult{}, fault
			}
			close(q.done)
		}
		cancel()
	}
}

// write takes in a batch of reports with one commit. The error is that of all of them;
// what is wrong with one of them is in its request.
func (s *Service) write(ctx context.Context, partition string, batch []*request) error {
	for range tries {
		w, err := s.prepare(ctx, partition, batch)
		if err != nil || w.commit == nil {
			return err
		}
		if err = s.o.Store.Commit(ctx, w.commit); err == nil {
			w.src.wrote(w.state, w.commit.Puts)
			w.src.head++
			s.keep(partition, w.src)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return waybill.E(waybill.KindUnavailable, "other servers write into partition %.40q without a pause", partition).
		WithHint("report again; nothing was changed")
}

// written is a batch that was applied to the partition as it is, and what has to be
// committed: nothing when commit is nil.
type written struct {
	src    *stored
	state  *state
	commit *store.Commit
}

// passes is how often a batch is applied before what is missing is read one by one.
const passes = 6

// prepare applies the batch to the partition as it is. It does so on what is remembered
// first; what turns out to be missing is read with a few requests, until nothing is.
func (s *Service) prepare(ctx context.Context, partition string, batch []*request) (written, error) {
	src := s.warm(ctx, partition)
	var h head
	there, err := src.get(tableHead, escape(partition), &h)
	if err != nil {
		return written{}, err
	}
	rev := src.revs[tableHead+" "+escape(partition)]
	if !there {
		rev = 0
	}
	if src.head != rev { // somebody else has written
		src = newStored(ctx, s.o.Store)
		src.head, src.revs[tableHead+" "+escape(partition)] = rev, rev
	}
	known, err := s.known(ctx, partition, batch)
	if err != nil {
		return written{}, err
	}
	for n := range passes {
		src.peek, src.missed = n < passes-1, map[string]map[string]bool{}
		w, err := s.pass(src, partition, batch, known, h)
		src.peek = false
		if len(src.missed) == 0 {
			return w, err
		}
		if err := src.fetch(); err != nil {
			return written{}, err
		}
	}
	return written{}, waybill.E(waybill.KindInternal, "a batch of reports was not applied") // the last pass misses nothing
}

// pass applies the batch once.
func (s *Service) pass(src *stored, partition string, batch []*request, known map[string]record, h head) (written, error) {
	st := newState(src, partition)
	c := &store.Commit{}
	results := make([]effect, len(batch))
	fresh := map[string]record{}
	for i, q := range batch {
		q.res, q.err = waybill.ReportResult{}, nil
		was, ok := known[q.event.ID]
		if !ok {
			was, ok = fresh[q.event.ID]
		}
		if ok {
			if q.event.Report.ID != "" && !bytes.Equal(content(&was.Report), content(&q.event.Report)) {
				q.err = waybill.E(waybill.KindInvalid, "report %.100q was made before with another content", q.event.Report.ID).
					WithHint("an id names one report; leave it out, or take another one")
				continue
			}
			results[i] = effect{action: waybill.ActionRepeated, rows: was.Rows, warning: was.Warning}
			continue
		}
		q.event.Seq = h.Seq + 1
		ef, err := st.apply(&q.event)
		if st.err != nil {
			return written{}, st.err
		}
		if err != nil {
			q.err = err
			continue
		}
		h.Seq++
		results[i] = ef
		r := record{DeliveryEvent: q.event, Action: ef.action, Rows: ef.rows, Warning: ef.warning}
		fresh[q.event.ID] = r
		if src.peek && len(src.missed) > 0 {
			continue // there will be another pass
		}
		val, err := json.Marshal(r)
		if err != nil {
			return written{}, err
		}
		c.Puts = append(c.Puts, store.Put{Table: tableEvent, Key: rowKey(partition, q.event.ID), Val: val})
	}
	for i, q := range batch {
		if q.err != nil {
			continue
		}
		q.res = waybill.ReportResult{Event: q.event.ID, Action: results[i].action, Warning: results[i].warning, Deployments: []waybill.Deployment{}}
		for _, id := range results[i].rows {
			if d := st.rowOf(id); d != nil && !slices.ContainsFunc(q.res.Deployments, func(x waybill.Deployment) bool { return x.ID == d.ID }) {
				q.res.Deployments = append(q.res.Deployments, *d)
			}
		}
	}
	if st.err != nil {
		return written{}, st.err
	}
	if len(c.Puts) == 0 || len(src.missed) > 0 {
		return written{}, nil
	}
	puts, err := src.puts(st)
	if err != nil {
		return written{}, err
	}
	val, err := json.Marshal(h)
	if err != nil {
		return written{}, err
	}
	c.Puts = append(append(c.Puts, puts...), store.Put{Table: tableHead, Key: escape(partition), Rev: src.revs[tableHead+" "+escape(partition)], Val: val})
	return written{src: src, state: st, commit: c}, nil
}

// Limits of what is remembered between batches.
const (
	warmPartitions = 16
	warmValues     = 30_000 // of each
)

// warm is what is remembered of a partition, and taken out: only one batch of it is
// written at a time.
func (s *Service) warm(ctx context.Context, partition string) *stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.kept[partition]
	delete(s.kept, partition)
	if src == nil {
		src = newStored(ctx, s.o.Store)
	}
	src.ctx = ctx
	return src
}

// keep remembers what a commit has left.
func (s *Service) keep(partition string, src *stored) {
	if src.size() > warmValues {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.kept {
		if len(s.kept) < warmPartitions {
			break
		}
		delete(s.kept, name)
	}
	s.kept[partition] = src
}

// known are the events of a batch that were taken in before.
func (s *Service) known(ctx context.Context, partition string, batch []*request) (map[string]record, error) {
	keys := make([]string, len(batch))
	for i, q := range batch {
		keys[i] = rowKey(partition, q.event.ID)
	}
	return s.records(ctx, keys)
}

// records reads events by their keys.
func (s *Service) records(ctx context.Context, keys []string) (map[string]record, error) {
	out := map[string]record{}
	for part := range slices.Chunk(keys, 500) {
		page, err := s.o.Store.Query(ctx, store.Query{Table: tableEvent, Limit: 1000, Where: []store.Where{{Column: "key", Op: store.In, Value: part}}})
		if err != nil {
			return nil, err
		}
		for _, x := range page.Rows {
			var r record
			if err := json.Unmarshal(x.Val, &r); err != nil {
				return nil, err
			}
			out[r.ID] = r
		}
	}
	return out, nil
}

// DeliveryPartitions implements waybill.Deliveries.
func (s *Service) DeliveryPartitions(ctx context.Context) ([]string, error) {
	rows, err := s.o.Store.Scan(ctx, "", tableHead, "", 0)
	out := make([]string, 0, len(rows))
	for _, r := range rows {
		if name := unescape(r.Key); !strings.HasPrefix(name, selfTests) {
			out = append(out, name)
		}
	}
	return out, err
}
