package poll

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

const (
	// seldom is how often what belongs to old deployments is looked at, and what could not
	// be found.
	seldom = time.Hour
	// old is when a deployment without news is old.
	old = 7 * 24 * time.Hour
	// again is how often runs that ended are looked for: their providers delete them.
	again = 6 * time.Hour
	// young is how long a run that its provider does not know may be on its way there.
	young = 10 * time.Minute
	// longest pause after failures.
	longest = time.Minute
	// memory bounds what is remembered of things asked for.
	memory = 100_000
)

// session is the time for which this server polls. Sources are asked beside each other,
// each at its own pace: one that is slow holds up no other.
type session struct {
	p     *Poller
	now   func() time.Time
	begun time.Time

	reading sync.Mutex       // guards scans, and lets one of them be made at a time
	scans   map[string]*scan // by partition

	mu      sync.Mutex // guards what follows
	states  map[string]*state
	due     map[string]time.Time // of the next round, by source
	next    map[string]time.Time // what is not asked before, by key
	sent    map[string]string    // what was reported of a thing last
	hops    map[string]hop       // how far runs were looked for
	checked time.Time            // when a run that had ended was looked for
	cursor  int                  // of those runs
}

// hop is the place at which a run is looked for.
type hop struct {
	at     int
	unsure bool // a place before could not be asked: that it is nowhere else proves nothing
}

// scan are the deployments of a partition as they were read.
type scan struct {
	seq  int64
	most int
	rows []waybill.Deployment
}

func newSession(p *Poller) *session {
	return &session{
		p: p, now: p.o.Now, scans: map[string]*scan{}, states: map[string]*state{}, due: map[string]time.Time{},
		next: map[string]time.Time{}, sent: map[string]string{}, hops: map[string]hop{}, begun: p.o.Now(),
	}
}

// run polls until ctx ends. When the settings change it begins anew, and keeps what it
// remembers.
func (s *session) run(ctx context.Context) {
	for ctx.Err() == nil {
		conf, changed := s.p.config()
		res := newResolver(conf)
		inner, cancel := context.WithCancel(ctx)
		var loops sync.WaitGroup
		for _, src := range res.sources {
			loops.Go(func() { s.loop(inner, conf, res, src) })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
		cancel()
		loops.Wait()
	}
}

// loop makes rounds of a source.
func (s *session) loop(ctx context.Context, conf Config, res *resolver, src *Source) {
	for ctx.Err() == nil {
		wait := conf.Interval
		if err := s.one(ctx, conf, res, src); err != nil {
			if ctx.Err() == nil {
				s.p.o.Logger.Warn("deliveries not polled, trying again", "source", src.Name, "err", err)
			}
		} else {
			s.mu.Lock()
			wait = s.due[src.Name].Sub(s.now())
			s.mu.Unlock()
		}
		t := time.NewTimer(max(wait, min(conf.Interval, time.Second)))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// round asks every source whose time has come, beside each other.
func (s *session) round(ctx context.Context, conf Config) error {
	res := newResolver(conf)
	var all sync.WaitGroup
	errs := make([]error, len(res.sources))
	for i, src := range res.sources {
		s.mu.Lock()
		early := s.due[src.Name].After(s.now())
		s.mu.Unlock()
		if !early {
			all.Go(func() { errs[i] = s.one(ctx, conf, res, src) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// one is a round of one source.
func (s *session) one(ctx context.Context, conf Config, res *resolver, src *Source) error {
	rows, err := s.scan(ctx, conf)
	if err != nil {
		return err
	}
	s.forget()
	st, err := s.state(ctx, src.Name)
	if err != nil {
		return err
	}
	now := s.now()
	r := &round{s: s, src: src, conf: conf, st: st, fails: map[string]int{}}
	p, _, err := s.p.Provider(src.Name)
	if err != nil {
		r.stop = err
	} else {
		r.p, r.before, r.kept = p, p.Client().Calls(), p.Client().Unchanged()
	}
	st.PolledAt, st.Node, st.Rows, st.Wanted, st.Reports, st.Notes = now.UTC(), s.p.o.Node, 0, 0, 0, nil
	if r.stop == nil {
		r.ask(ctx, res, rows)
	}
	if ctx.Err() != nil {
		return nil
	}
	s.end(r, now)
	return s.p.save(ctx, map[string]*state{src.Name: st})
}

// state is how a source fares. It belongs to its round.
func (s *session) state(ctx context.Context, name string) (*state, error) {
	s.mu.Lock()
	st := s.states[name]
	s.mu.Unlock()
	if st != nil {
		return st, nil
	}
	got, err := s.p.state(ctx, name)
	if err != nil {
		return nil, err
	}
	got.Total, got.Unchanged, got.Fails = 0, 0, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[name] = &got
	return &got, nil
}

// end notes how a round went, and when the next is to be.
func (s *session) end(r *round, began time.Time) {
	st, now := r.st, s.now()
	st.Took = now.Sub(began).Seconds()
	st.Until, st.Left = time.Time{}, -1
	if r.p != nil {
		c := r.p.Client()
		st.Calls, st.Total, st.Unchanged = c.Calls()-r.before, c.Calls(), c.Unchanged()
		st.Until, st.Left = c.Limit()
	}
	slices.Sort(st.Notes)
	st.Notes = slices.Compact(st.Notes)
	log := s.p.o.Logger.With("source", r.src.Name)
	limited := waybill.IsKind(r.stop, waybill.KindExhausted)
	switch {
	case r.stop == nil || limited:
		if st.Error != "" && !limited {
			log.Info("source of deliveries answers again")
		}
		if r.stop == nil {
			st.Error, st.ErrorAt, st.Fails = "", time.Time{}, 0
			st.FreshAt = began.UTC()
		}
	default:
		if st.Error != r.stop.Error() {
			log.Warn("source of deliveries does not answer", "err", r.stop)
			st.Error, st.ErrorAt = r.stop.Error(), now.UTC()
		}
		st.Fails++
	}
	wait := r.conf.Interval
	if r.stop != nil {
		wait = min(r.conf.Interval<<min(max(st.Fails-1, 0), 10), max(longest, r.conf.Interval))
		var e *waybill.Error
		if errors.As(r.stop, &e) && e.RetryAfter > 0 {
			wait = max(e.RetryAfter, time.Second)
		}
	}
	// A little early, so that a round is not missed by a hair.
	s.mu.Lock()
	s.due[r.src.Name] = began.Add(wait - min(wait/10, time.Second))
	s.mu.Unlock()
	st.NextAt = began.Add(wait).UTC()
}

// scan reads the deployments that are looked at, of partitions in which something has
// changed since.
func (s *session) scan(ctx context.Context, conf Config) ([]waybill.Deployment, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	parts, err := s.p.o.Deliveries.DeliveryPartitions(ctx)
	if err != nil {
		return nil, err
	}
	var all []waybill.Deployment
	for _, name := range parts {
		if !slices.ContainsFunc(conf.Sources, func(x Source) bool { return x.serves(name) }) {
			delete(s.scans, name)
			continue
		}
		seq, err := s.p.o.Deliveries.LastEvent(ctx, name)
		if err != nil {
			return nil, err
		}
		have := s.scans[name]
		if have == nil || have.seq != seq || have.most != conf.Rows {
			have = &scan{seq: seq, most: conf.Rows}
			f := waybill.DeploymentFilter{Partition: name}
			for len(have.rows) < conf.Rows {
				f.Limit = min(1000, conf.Rows-len(have.rows))
				page, err := s.p.o.Deliveries.Deployments(ctx, f)
				if err != nil {
					return nil, err
				}
				have.rows = append(have.rows, page.Items...)
				if f.Cursor = page.Next; f.Cursor == "" {
					break
				}
			}
			s.scans[name] = have
		}
		all = append(all, have.rows[:min(len(have.rows), conf.Rows)]...)
	}
	return all, nil
}

// forget keeps the memory of a session within bounds.
func (s *session) forget() {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, t := range s.next {
		if t.Before(now) {
			delete(s.next, k)
		}
	}
	if len(s.next) > memory {
		clear(s.next)
	}
	if len(s.sent) > memory {
		clear(s.sent)
	}
	if len(s.hops) > memory {
		clear(s.hops)
	}
}

// open reports whether something may be asked now.
func (s *session) open(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.next[key].After(s.now())
}

// later lets something not be asked before a while.
func (s *session) later(key string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next[key] = s.now().Add(d)
}

// round is a round of one source. Its questions are asked one after the other.
type round struct {
	s    *session
	src  *Source
	conf Config
	p    provider.Provider
	st   *state

	before, kept int64
	stop         error          // why nothing more is asked
	waiting      []telling      // reports that are to be made
	fails        map[string]int // failures in a row, by what was asked for
}

// goes reports whether something of a kind may be asked.
func (r *round) goes(ctx context.Context, what string) bool {
	switch {
	case ctx.Err() != nil || r.stop != nil || r.fails[what] >= 2:
		return false
	case r.p.Client().Calls()-r.before >= int64(r.conf.Calls):
		return false // the rest is for the next round
	}
	return true
}

// failed takes an error to heart, nil included. It reports whether it was none, or one
// that says that there is no such thing.
func (r *round) failed(what string, err error) (missing bool) {
	kind := waybill.KindOf(err)
	switch {
	case err == nil:
		r.fails[what] = 0
	case kind == waybill.KindCanceled:
	case kind == waybill.KindNotFound || kind == waybill.KindGone:
		return true
	case errors.Is(err, provider.ErrAway), kind == waybill.KindExhausted, kind == waybill.KindUnauthorized:
		r.stop = err
	default:
		r.fails[what]++
		if note := what + ": " + err.Error(); len(r.st.Notes) < 10 && !slices.Contains(r.st.Notes, note) {
			r.st.Notes = append(r.st.Notes, note)
		}
	}
	return false
}

// slowly is how often a thing is asked that could change.
func slowly(d *waybill.Deployment, now time.Time) bool { return now.Sub(d.UpdatedAt) > old }

// telling is a report that waits to be made.
type telling struct {
	key string
	rep waybill.DeliveryReport
}

// atATime is how many reports are made beside each other: the store writes them together.
const atATime = 16

// tellLater makes a report with the next flush.
func (r *round) tellLater(key string, rep waybill.DeliveryReport) {
	r.waiting = append(r.waiting, telling{key, rep})
}

// flush makes the reports that wait. Their order means nothing.
func (r *round) flush(ctx context.Context) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for _, x := range r.waiting {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r.report(ctx, x.key, x.rep)
		})
	}
	wg.Wait()
	r.waiting = nil
}

// report makes a report, unless the same was made of the thing last. It reports whether
// it was taken, or never will be.
func (r *round) report(ctx context.Context, key string, rep waybill.DeliveryReport) bool {
	content := fingerprint(rep)
	r.s.mu.Lock()
	same := r.s.sent[key] == content
	r.s.mu.Unlock()
	if same {
		return true
	}
	rep.Provider = r.src.Kind
	res, err := r.s.p.o.Deliveries.Report(ctx, rep, waybill.Principal{Name: "source " + r.src.Name})
	if err != nil {
		if ctx.Err() == nil {
			r.s.p.o.Logger.Warn("what a source of deliveries tells was not taken", "source", r.src.Name, "kind", rep.Kind, "err", err)
			if waybill.IsKind(err, waybill.KindInvalid) || waybill.IsKind(err, waybill.KindTooLarge) {
				r.remember(key, content) // it will not be taken the next time either
				return true
			}
		}
		return false
	}
	r.remember(key, content)
	if res.Action != waybill.ActionRepeated {
		r.s.mu.Lock()
		r.st.Reports++
		r.s.mu.Unlock()
	}
	return true
}

func (r *round) remember(key, content string) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.sent[key] = content
}

// byNews sorts deployments, those with the newest news first.
func byNews(rows []waybill.Deployment) {
	slices.SortStableFunc(rows, func(a, b waybill.Deployment) int {
		return cmp.Or(b.UpdatedAt.Compare(a.UpdatedAt), cmp.Compare(a.ID, b.ID))
	})
}
