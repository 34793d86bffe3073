package loadtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill/client"
)

// starts starts n runs from so many clients at once, and returns the ids of those
// that were accepted and how long each request took, in order of their ends.
// told is called after each.
func (s *server) starts(ctx context.Context, pipeline string, n, clients int, told func(done int)) (ids []string, lats times, err error) {
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range clients {
		wg.Go(func() {
			for next.Add(1) <= int64(n) && ctx.Err() == nil {
				began := time.Now()
				run, err := s.StartRun(ctx, pipeline, client.StartRun{}, "")
				took := time.Since(began)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				ids, lats = append(ids, run.ID), append(lats, took)
				done := len(ids)
				mu.Unlock()
				if told != nil {
					told(done)
				}
			}
		})
	}
	wg.Wait()
	return ids, lats, context.Cause(ctx)
}

// loss starts many runs, kills the server while they come in and run, starts it
// again, and looks for each of them when all is over.
func loss(ctx context.Context, srv *server, s *sheet) error {
	n := 10_000
	if srv.o.quick {
		n = 1000
	}
	half := make(chan struct{})
	type result struct {
		ids []string
		err error
	}
	results := make(chan result, 1)
	began := time.Now()
	go func() {
		ids, _, err := srv.starts(ctx, "one", n, 32, func(done int) {
			if done == n/2 {
				close(half)
			}
		})
		results <- result{ids, err}
	}()
	var r result
	select {
	case r = <-results: // only when it failed
	case <-half:
		srv.kill()
		if err := srv.start(); err != nil {
			return errors.Join(err, ctx.Err())
		}
		r = <-results // requests that were cut off are repeated with their keys
	}
	if r.err != nil {
		return r.err
	}
	accepted := time.Since(began)
	if err := srv.drained(ctx, 10*time.Minute); err != nil {
		return err
	}
	whole := time.Since(began)
	known := map[string]client.Status{}
	for run, err := range srv.all(ctx) {
		if err != nil {
			return err
		}
		known[run.ID] = run.Status
	}
	mine := map[string]bool{}
	for _, id := range r.ids {
		mine[id] = true
	}
	var lost, other atomic.Int64
	work := make(chan string)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for id := range work {
				ends := 0
				page, err := srv.Events(ctx, id, client.GetRunEventsParams{Limit: 1000})
				if err != nil {
					errs[i] = errors.Join(errs[i], err)
				}
				for _, rec := range page.Items {
					if rec.Kind == "run.ended" {
						ends++
					}
				}
				if ends == 0 {
					lost.Add(1)
				} else if ends > 1 {
					other.Add(1)
				}
			}
		})
	}
	for id := range mine {
		if known[id] == "" {
			lost.Add(1)
			continue
		}
		if known[id] != "succeeded" {
			other.Add(1)
		}
		work <- id
	}
	close(work)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.add("accepted runs", float64(len(mine)), "runs", atLeast(float64(n)), "from 32 clients in %s s, all ended after %s s; the server was killed once, half way", number(accepted.Seconds()), number(whole.Seconds()))
	s.add("accepted and lost", float64(lost.Load()), "runs", atMost(0), "")
	s.add("ended twice or not well", float64(other.Load()), "runs", atMost(0), "")
	s.add("started without being asked for", float64(len(known)-len(mine)), "runs", atMost(0), "by requests that were repeated because of the kill")
	return nil
}

// recovery kills a server with many open runs and measures until it works again.
// Its units stand before a gate, which is opened when the server is started again.
func recovery(ctx context.Context, srv *server, s *sheet) error {
	const n = 1000
	if _, _, err := srv.starts(ctx, "gate", n, 16, nil); err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "units run", func() (bool, error) {
		queues, err := srv.Queues(ctx)
		for _, q := range queues.Items {
			if q.Topic == "unit" && q.Leased > 0 && q.Depth >= n {
				return true, err
			}
		}
		return false, err
	}); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	srv.kill()
	began := time.Now()
	if err := srv.start(); err != nil {
		return err
	}
	opened := make(chan error, 1)
	go func() { opened <- srv.open(ctx) }()
	err := srv.healthy(ctx)
	healthy := time.Since(began)
	if err := errors.Join(err, <-opened); err != nil {
		return err
	}
	if err := srv.drained(ctx, 5*time.Minute); err != nil {
		return err
	}
	whole := time.Since(began)
	var ended, started time.Time // the first ones of the new life
	good := 0
	for run, err := range srv.all(ctx) {
		if err != nil {
			return err
		}
		if run.Status == "succeeded" {
			good++
		}
		if t := run.FinishedAt; t.After(began) && (ended.IsZero() || t.Before(ended)) {
			ended = t
		}
	}
	// A unit that is new and not taken up: its attempt began after the restart.
	for run, err := range srv.all(ctx) {
		if err != nil {
			return err
		}
		d, err := srv.Run(ctx, run.ID)
		if err != nil {
			return err
		}
		for _, a := range d.Attempts {
			if t := a.StartedAt; t.After(began) && (started.IsZero() || t.Before(started)) {
				started = t
			}
		}
	}
	s.add("recovery: healthy", healthy.Seconds(), "s", atMost(2), "from the start of a killed server with %d open runs", n)
	s.add("recovery: first run ended", ended.Sub(began).Seconds(), "s", atMost(2), "of those that ran when it was killed")
	s.add("recovery: first unit started", started.Sub(began).Seconds(), "s", atMost(2), "of those that waited")
	s.add("recovery: runs that ended well", float64(good), "runs", atLeast(n), "all %d after %s s", n, number(whole.Seconds()))
	return nil
}

// backlog queues many runs while their topic is paused, and measures what
// clients feel of it.
func backlog(ctx context.Context, srv *server, s *sheet) error {
	n := 100_000
	if srv.o.quick {
		n = 5000
	}
	if _, err := srv.single(ctx); err != nil { // the topic exists with its first message
		return err
	}
	if err := srv.Pause(ctx, "run", true); err != nil {
		return err
	}
	began := time.Now()
	_, lats, err := srv.starts(ctx, "one", n, 8, nil)
	if err != nil {
		return err
	}
	took := time.Since(began)
	depth, err := srv.waiting(ctx)
	if err != nil {
		return err
	}
	if depth < int64(n) {
		return fmt.Errorf("only %d of %d messages wait", depth, n)
	}
	s.add("backlog", float64(depth), "runs", atLeast(float64(n)), "8 clients, %s/s", number(float64(n)/took.Seconds()))
	s.add("backlog: start p50", lats.at(.5), "ms", bar{}, "of the request, answered when it is durable")
	s.add("backlog: start p99", lats.at(.99), "ms", atMost(20), "of the last tenth: %s", number(times(lats[len(lats)*9/10:]).at(.99)))
	pages := 200
	if srv.o.quick {
		pages = 50
	}
	var runsLats, messageLats times
	for _, status := range []client.Status{"", "queued"} {
		cursor := ""
		for range pages {
			t := time.Now()
			page, err := srv.Runs(ctx, client.ListRunsParams{Status: []client.Status{status}, Limit: 50, Cursor: cursor})
			if err != nil {
				return err
			}
			runsLats = append(runsLats, time.Since(t))
			if cursor = ""; page.NextCursor != nil {
				cursor = *page.NextCursor
			}
		}
	}
	cursor := ""
	for range pages {
		t := time.Now()
		page, err := srv.Messages(ctx, "run", client.ListMessagesParams{Limit: 50, Cursor: cursor})
		if err != nil {
			return err
		}
		messageLats = append(messageLats, time.Since(t))
		if cursor = ""; page.NextCursor != nil {
			cursor = *page.NextCursor
		}
	}
	s.add("backlog: page of runs p99", runsLats.at(.99), "ms", atMost(100), "50 runs, all and queued ones, page by page; p50 %s", number(runsLats.at(.5)))
	s.add("backlog: page of messages p99", messageLats.at(.99), "ms", atMost(100), "50 messages, page by page; p50 %s", number(messageLats.at(.5)))
	return nil
}
