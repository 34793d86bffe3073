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
}

// Service takes in reports and answers questions; it implements waybill.Deliveries.
// Safe for concurrent use, also by several servers over one store. Reports of one
// partition that come in together are written together.
type Service struct {
	o Options

	mu    sync.Mutex
	lanes map[string]*lane
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
	return &Service{o: o, lanes: map[string]*lane{}}
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
		c, err := s.prepare(ctx, partition, batch)
		if err != nil || c == nil {
			return err
		}
		if err = s.o.Store.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return waybill.E(waybill.KindUnavailable, "other servers write into partition %.40q without a pause", partition).
		WithHint("report again; nothing was changed")
}

// prepare applies the batch to the partition as it is and returns what has to be
// committed, nil when nothing has.
func (s *Service) prepare(ctx context.Context, partition string, batch []*request) (*store.Commit, error) {
	src := newStored(ctx, s.o.Store)
	var h head
	if _, err := src.get(tableHead, escape(partition), &h); err != nil {
		return nil, err
	}
	known, err := s.known(ctx, partition, batch)
	if err != nil {
		return nil, err
	}
	st := newState(src, partition)
	c := &store.Commit{}
	results := make([]effect, len(batch))
	for i, q := range batch {
		q.res, q.err = waybill.ReportResult{}, nil
		if was, ok := known[q.event.ID]; ok {
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
			return nil, st.err
		}
		if err != nil {
			q.err = err
			continue
		}
		h.Seq++
		results[i] = ef
		r := record{DeliveryEvent: q.event, Action: ef.action, Rows: ef.rows, Warning: ef.warning}
		known[q.event.ID] = r
		val, err := json.Marshal(r)
		if err != nil {
			return nil, err
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
		return nil, st.err
	}
	if len(c.Puts) == 0 {
		return nil, nil
	}
	puts, err := src.puts(st)
	if err != nil {
		return nil, err
	}
	val, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	c.Puts = append(append(c.Puts, puts...), store.Put{Table: tableHead, Key: escape(partition), Rev: src.revs[tableHead+" "+escape(partition)], Val: val})
	return c, nil
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
