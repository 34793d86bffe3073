package loadtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-run/waybill/client"
)

// The schedules that are measured: pipelines with so many schedules each.
const (
	schedulePipelines = 100
	schedulesOfEach   = 100
)

// schedules measures how late nominal times fire when very many schedules wait, and
// what it costs to wait.
func schedules(ctx context.Context, o *options, s *sheet) error {
	count := schedulePipelines * schedulesOfEach
	// Waiting: none of them fires while it is measured.
	if err := onServer(ctx, o, func(srv *server) error {
		o.note("%d schedules wait", count)
		now := time.Now().UTC()
		far := now.AddDate(0, 0, 2)
		if err := srv.schedule(ctx, "", func(i int) string {
			return fmt.Sprintf("%d %d %d %d %d *", i%60, i/60%60, i/3600, far.Day(), far.Month())
		}); err != nil {
			return err
		}
		load, err := srv.load(ctx, o.span())
		if err != nil {
			return err
		}
		s.add("idle CPU", load, "%", atMost(1), "of one processor, while %d schedules wait and none fires", count)
		m, err := memoryOf(srv.cmd.Process.Pid)
		if err != nil {
			return err
		}
		s.add("memory with schedules", m.rss, "MiB", bar{}, "resident, with %d schedules of %d pipelines", count, schedulePipelines)
		return nil
	}); err != nil {
		return err
	}
	// Firing: spread evenly over the hour, so that one is due about three times a second.
	for _, kind := range []struct{ name, filter, what string }{
		{"deciding", "filter: \"false\", ", "a filter takes none of them, so that only the ticks cost something"},
		{"firing", "", "each starts a run of one simulated step"},
	} {
		if err := onServer(ctx, o, func(srv *server) error {
			o.note("%d hourly schedules, %s", count, kind.name)
			if err := srv.schedule(ctx, kind.filter, func(i int) string {
				second := i * 3600 / count
				return fmt.Sprintf("%d %d * * * *", second%60, second/60)
			}); err != nil {
				return err
			}
			if err := pause(ctx, 2*time.Second); err != nil { // the first that were planned have fired
				return err
			}
			began := time.Now()
			load, err := srv.load(ctx, o.span())
			if err != nil {
				return err
			}
			var late times
			for l, err := range srv.allSchedules(ctx) {
				if err != nil {
					return err
				}
				for _, f := range l.Recent {
					if f.At.After(began) {
						late = append(late, f.At.Sub(f.Nominal))
					}
				}
			}
			if len(late) == 0 {
				return fmt.Errorf("no schedule fired within %s", o.span())
			}
			s.add(kind.name+": late p50", late.at(.5), "ms", bar{}, "%d nominal times within %s", len(late), o.span())
			s.add(kind.name+": late p99", late.at(.99), "ms", atMost(100), "of %d hourly schedules, spread evenly", count)
			s.add(kind.name+": late max", late.at(1), "ms", bar{}, "")
			s.add(kind.name+": CPU", load, "%", bar{}, "of one processor; %s", kind.what)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// schedule applies the pipelines and waits until all their schedules are planned.
func (s *server) schedule(ctx context.Context, more string, expr func(i int) string) error {
	for p := range schedulePipelines {
		var b strings.Builder
		fmt.Fprintf(&b, "name: timed-%03d\non:\n  schedule:\n", p)
		for n := range schedulesOfEach {
			// Neighbours in time belong to different pipelines.
			fmt.Fprintf(&b, "    - {%scron: %q}\n", more, expr(n*schedulePipelines+p))
		}
		fmt.Fprint(&b, "steps: [{name: only, runner: sim, with: {run_for: 1ms}}]\n")
		if _, err := s.ApplyPipeline(ctx, []byte(b.String())); err != nil {
			return err
		}
	}
	for began := time.Now(); ; {
		n := 0
		for _, err := range s.allSchedules(ctx) {
			if err != nil {
				return err
			}
			n++
		}
		if n == schedulePipelines*schedulesOfEach {
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d schedules are planned after a minute", n)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *server) allSchedules(ctx context.Context) func(func(client.Schedule, error) bool) {
	return client.Each(func(cursor string) ([]client.Schedule, client.NextCursor, error) {
		page, err := s.Schedules(ctx, client.ListSchedulesParams{Limit: 1000, Cursor: cursor})
		return page.Items, page.NextCursor, err
	})
}

// load is the share of one processor that the server uses, in percent.
func (s *server) load(ctx context.Context, span time.Duration) (float64, error) {
	// What was just asked of it is over first.
	if err := pause(ctx, 3*time.Second); err != nil {
		return 0, err
	}
	pid, began := s.cmd.Process.Pid, time.Now()
	before := cpu(pid)
	if err := pause(ctx, span); err != nil {
		return 0, err
	}
	return 100 * float64(cpu(pid)-before) / float64(time.Since(began)), nil
}
