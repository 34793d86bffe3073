package loadtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-run/waybill/client"
)

// chainSteps is how many steps the long pipeline has.
const chainSteps = 100

// part is what is measured on one server.
type part struct {
	name    string
	measure func(context.Context, *server, *sheet) error
}

// parts are in the order in which they are shown. Those that share a server are
// measured one after another on it.
var parts = [][]part{
	{{"idle", idleMemory}, {"latency", latency}, {"chain", chain}, {"matrix", matrix}, {"sustained", sustained}},
	{{"loss", loss}},
	{{"recovery", recovery}},
	{{"backlog", backlog}},
}

func partNames() []string {
	var names []string
	for _, group := range parts {
		for _, p := range group {
			names = append(names, p.name)
		}
	}
	return names
}

func runs(ctx context.Context, o *options, s *sheet) error {
	if len(o.only) == 0 {
		if err := binarySize(s); err != nil {
			return err
		}
	}
	for _, group := range parts {
		group = slices.DeleteFunc(slices.Clone(group), func(p part) bool { return len(o.only) > 0 && !slices.Contains(o.only, p.name) })
		if len(group) == 0 {
			continue
		}
		if err := onServer(ctx, o, func(srv *server) error {
			for _, p := range group {
				o.note("%s", p.name)
				if err := p.measure(ctx, srv, s); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// onServer does something with a server of its own.
func onServer(ctx context.Context, o *options, f func(*server) error) (err error) {
	srv, err := newServer(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.remove()) }()
	if err := f(srv); err != nil {
		if log := srv.logTail(); ctx.Err() == nil && log != "" {
			o.note("the server's log ends with:\n%s", log)
		}
		return err
	}
	return nil
}

func binarySize(s *sheet) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	st, err := os.Stat(exe)
	if err != nil {
		return err
	}
	s.add("binary", float64(st.Size())/1e6, "MB", atMost(110), "release builds are stripped, this one may not be")
	return nil
}

// single runs one run and follows it to its end.
type single struct {
	start, done, seen time.Duration // all since the request was sent
}

func (s *server) single(ctx context.Context) (one single, err error) {
	began := time.Now()
	run, err := s.StartRun(ctx, "one", client.StartRun{}, "")
	if err != nil {
		return one, err
	}
	if err := s.FollowEvents(ctx, run.ID, "", func(r client.Record) error {
		if r.Kind == "run.ended" {
			one.done, one.seen = r.At.Sub(began), time.Since(began)
		}
		return nil
	}); err != nil {
		return one, err
	}
	var log bytes.Buffer
	if err := s.Log(ctx, run.ID, client.GetRunLogsParams{Step: "only", Attempt: 1}, &log); err != nil {
		return one, err
	}
	at, err := stamp(&log)
	if err != nil {
		return one, fmt.Errorf("run %s: %w", run.ID, err)
	}
	one.start = at.Sub(began)
	return one, nil
}

func idleMemory(ctx context.Context, srv *server, s *sheet) error {
	if _, err := srv.single(ctx); err != nil {
		return err
	}
	return srv.addIdle(ctx, s, "after one run")
}

func (s *server) addIdle(ctx context.Context, out *sheet, when string) error {
	main, supervisor, err := s.idle(ctx)
	if err != nil {
		return err
	}
	out.add("idle RSS "+when, main.rss+supervisor.rss, "MiB", atMost(60), "server %s + supervisor %s", number(main.rss), number(supervisor.rss))
	out.add("idle PSS "+when, main.pss+supervisor.pss, "MiB", atMost(60), "the same, shared pages counted once")
	return nil
}

// latency measures one run at a time. Before each, the same program is run
// directly, so that both see the same machine.
func latency(ctx context.Context, srv *server, s *sheet) error {
	n := 300
	if srv.o.quick {
		n = 60
	}
	var start, done, seen, bareStart, bareWhole times
	for i := range n + 5 {
		bs, bw, err := bare(ctx)
		if err != nil {
			return err
		}
		one, err := srv.single(ctx)
		if err != nil {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil { // clean-up, and a machine that is not busy
			return err
		}
		if i < 5 {
			continue // the first ones fill caches
		}
		start, done, seen = append(start, one.start), append(done, one.done), append(seen, one.seen)
		bareStart, bareWhole = append(bareStart, bs), append(bareWhole, bw)
	}
	s.add("bare process: start p50", bareStart.at(.5), "ms", bar{}, "%q run directly, until it runs", program[2])
	s.add("bare process: done p50", bareWhole.at(.5), "ms", bar{}, "until its end is known")
	s.add("run: start p50", start.at(.5), "ms", atMost(10), "from the request until the program runs; %s × bare", number(start.at(.5)/bareStart.at(.5)))
	s.add("run: start p99", start.at(.99), "ms", atMost(10), "bare: %s", number(bareStart.at(.99)))
	s.add("run: done p50", done.at(.5), "ms", atMost(20), "from the request until the run has ended; %s × bare", number(done.at(.5)/bareWhole.at(.5)))
	s.add("run: done p99", done.at(.99), "ms", bar{}, "bare: %s", number(bareWhole.at(.99)))
	s.add("run: seen p50", seen.at(.5), "ms", atMost(20), "until a client that follows the run is told, which is at most every 15 ms")
	return nil
}

func chain(ctx context.Context, srv *server, s *sheet) error {
	n := 5
	if srv.o.quick {
		n = 3
	}
	var walls, bares times
	for range n {
		began := time.Now()
		for range chainSteps {
			if _, _, err := bare(ctx); err != nil {
				return err
			}
		}
		bares = append(bares, time.Since(began))
		began = time.Now()
		run, err := srv.StartRun(ctx, "chain", client.StartRun{}, "")
		if err != nil {
			return err
		}
		var d client.RunDetail
		for d.FinishedAt.IsZero() {
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			if d, err = srv.Run(ctx, run.ID); err != nil {
				return err
			}
		}
		if d.Status != "succeeded" {
			return fmt.Errorf("run %s has %s: %s", run.ID, d.Status, d.Error)
		}
		walls = append(walls, d.FinishedAt.Sub(began))
	}
	s.add("chain of 100 steps", walls.at(.5)/1000, "s", atMost(1.5), "median of %d; 100 bare processes in a row: %s s", n, number(bares.at(.5)/1000))
	return nil
}

// matrixCells is how many cells the wide pipeline has.
const matrixCells = 1000

// matrix compares the steps of a matrix, eight at once, with as many runs of one step.
// Overhead is what is left when the bare program's share is taken away.
func matrix(ctx context.Context, srv *server, s *sheet) error {
	n := 3
	if srv.o.quick {
		n = 1
	}
	var steps, singles, bares []float64
	for range n {
		rate, err := bareRate(ctx, 8, 2*time.Second)
		if err != nil {
			return err
		}
		bares = append(bares, 1000/rate)
		run, err := srv.StartRun(ctx, "wide", client.StartRun{}, "")
		if err != nil {
			return err
		}
		var d client.Run
		for d.FinishedAt.IsZero() {
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			if err := srv.FollowEvents(ctx, run.ID, "", func(client.Record) error { return nil }); err != nil {
				return err
			}
			full, err := srv.Run(ctx, run.ID)
			if err != nil {
				return err
			}
			d = client.Run{Status: full.Status, Error: full.Error, StartedAt: full.StartedAt, FinishedAt: full.FinishedAt}
		}
		if d.Status != "succeeded" {
			return fmt.Errorf("run %s has %s: %s", run.ID, d.Status, d.Error)
		}
		steps = append(steps, ms(d.FinishedAt.Sub(d.StartedAt))/matrixCells)
		began := time.Now()
		if _, _, err := srv.starts(ctx, "one", matrixCells, 8, nil); err != nil {
			return err
		}
		if err := srv.drained(ctx, 2*time.Minute); err != nil {
			return err
		}
		singles = append(singles, ms(time.Since(began))/matrixCells)
	}
	step, single, bare := median(steps), median(singles), median(bares)
	s.add("matrix, per step", step, "ms", bar{}, "%d cells, 8 at once, median of %d; a one-step run takes %s ms, the bare program %s ms", matrixCells, n, number(single), number(bare))
	s.add("matrix, overhead against one-step runs", (step-bare)/(single-bare), "×", atMost(2), "without the bare program's share of each")
	return nil
}

// bareRate runs the program directly, so many at once.
func bareRate(ctx context.Context, workers int, span time.Duration) (float64, error) {
	var n atomic.Int64
	errs := make([]error, workers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for time.Since(began) < span && errs[i] == nil {
				_, _, errs[i] = bare(ctx)
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

// sustained measures how many runs a second end while clients start as many as
// are taken: they stop for a moment whenever a few hundred wait.
func sustained(ctx context.Context, srv *server, s *sheet) error {
	span, warm := srv.o.span(), 2*time.Second
	if srv.o.quick {
		warm = time.Second
	}
	before, err := bareRate(ctx, 8, 2*time.Second)
	if err != nil {
		return err
	}
	began := time.Now()
	ctx2, cancel := context.WithCancel(ctx)
	defer cancel()
	var gate atomic.Bool
	errs := make([]error, srv.o.callers+1)
	var wg sync.WaitGroup
	for i := range srv.o.callers {
		wg.Go(func() {
			for ctx2.Err() == nil {
				if gate.Load() {
					if pause(ctx2, 2*time.Millisecond) != nil {
						return
					}
					continue
				}
				if _, err := srv.StartRun(ctx2, "one", client.StartRun{}, ""); err != nil && ctx2.Err() == nil {
					errs[i] = err
					cancel()
				}
			}
		})
	}
	wg.Go(func() {
		for pause(ctx2, 50*time.Millisecond) == nil {
			n, err := srv.waiting(ctx2)
			if err != nil && ctx2.Err() == nil {
				errs[srv.o.callers] = err
				cancel()
			}
			gate.Store(n > 200)
		}
	})
	_ = pause(ctx2, warm) // an early end is told below
	main, supervisor := srv.own()
	from, cpuMain, cpuSupervisor, cpuSelf := time.Now(), cpu(main), cpu(supervisor), cpu(os.Getpid())
	_ = pause(ctx2, span)
	to := time.Now()
	cpuMain, cpuSupervisor, cpuSelf = cpu(main)-cpuMain, cpu(supervisor)-cpuSupervisor, cpu(os.Getpid())-cpuSelf
	cancel()
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return err
	}
	if err := srv.drained(ctx, 2*time.Minute); err != nil {
		return err
	}
	after, err := bareRate(ctx, 8, 2*time.Second)
	if err != nil {
		return err
	}
	ended := 0
	for r, err := range srv.all(ctx) {
		if err != nil {
			return err
		}
		if r.CreatedAt.Before(began) {
			break // newest first
		}
		if r.Status != "succeeded" {
			return fmt.Errorf("run %s has %s: %s", r.ID, r.Status, r.Error)
		}
		if r.FinishedAt.After(from) && r.FinishedAt.Before(to) {
			ended++
		}
	}
	rate, spawn := float64(ended)/to.Sub(from).Seconds(), (before+after)/2
	per := func(d time.Duration) string { return number(ms(d) / max(float64(ended), 1)) }
	s.add("bare processes, 8 at once", spawn, "/s", bar{}, "right before %s, right after %s", number(before), number(after))
	s.add("runs sustained", rate, "/s", atLeast(250), "%d clients for %s; ms of processor a run: server %s, supervisor %s, clients %s",
		srv.o.callers, span, per(cpuMain), per(cpuSupervisor), per(cpuSelf))
	s.add("runs sustained, of bare", 100*rate/spawn, "%", atLeast(40), "")
	return srv.addIdle(ctx, s, "after load")
}

// waiting is how many messages of runs and units wait or are in work.
func (s *server) waiting(ctx context.Context) (int64, error) {
	queues, err := s.Queues(ctx)
	var n int64
	for _, q := range queues.Items {
		if q.Topic == "run" || q.Topic == "unit" {
			n += q.Depth
		}
	}
	return n, err
}

// all lists all runs, newest first.
func (s *server) all(ctx context.Context) func(func(client.Run, error) bool) {
	return client.Each(func(cursor string) ([]client.Run, client.NextCursor, error) {
		page, err := s.Runs(ctx, client.ListRunsParams{Limit: 1000, Cursor: cursor})
		return page.Items, page.NextCursor, err
	})
}

// drained waits until every run has ended.
func (s *server) drained(ctx context.Context, limit time.Duration) error {
	for began := time.Now(); ; {
		open := 0
		for _, status := range []client.Status{"queued", "running", "waiting"} {
			page, err := s.Runs(ctx, client.ListRunsParams{Status: []client.Status{status}, Limit: 1})
			if err != nil {
				return err
			}
			open += len(page.Items)
		}
		if open == 0 {
			return nil
		}
		if time.Since(began) > limit {
			return fmt.Errorf("there are still open runs after %s", limit)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}
