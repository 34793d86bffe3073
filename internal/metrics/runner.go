package metrics

import (
	"context"
	"io"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// timed is a runner whose calls are counted.
type timed struct {
	runner.Runner
	m *Metrics
}

// Runner returns r with its calls counted.
func (m *Metrics) Runner(r runner.Runner) runner.Runner {
	m.unitErrors.WithLabelValues(r.Name(), "start")
	m.unitErrors.WithLabelValues(r.Name(), "remove")
	m.unitErrors.WithLabelValues(r.Name(), "stop")
	if _, ok := r.(runner.Contained); ok {
		m.unitErrors.WithLabelValues(r.Name(), "archive")
	}
	m.orphans.WithLabelValues(r.Name())
	t := &timed{r, m}
	if c, ok := r.(runner.Contained); ok {
		return &timedContained{t, c}
	}
	return t
}

// timedContained is a timed runner of containers.
type timedContained struct {
	*timed
	c runner.Contained
}

func (r *timedContained) Home() string        { return r.c.Home() }
func (r *timedContained) Reach() runner.Reach { return r.c.Reach() }

func (r *timedContained) CopyOut(ctx context.Context, h runner.Handle, path string, w io.Writer) error {
	return r.c.CopyOut(ctx, h, path, w)
}

func (r *timedContained) Archive(ctx context.Context, h runner.Handle, s runner.Spec) error {
	err := r.c.Archive(ctx, h, s)
	r.done(ctx, "archive", err)
	return err
}

// Unwrap returns the runner behind it.
func (r *timed) Unwrap() runner.Runner { return r.Runner }

func (r *timed) Start(ctx context.Context, s runner.Spec) (runner.Handle, error) {
	began := time.Now()
	h, err := r.Runner.Start(ctx, s)
	r.done(ctx, "start", err)
	r.m.unitCreate.WithLabelValues(r.Name()).Observe(time.Since(began).Seconds())
	return h, err
}

func (r *timed) Stop(ctx context.Context, h runner.Handle, grace time.Duration) error {
	err := r.Runner.Stop(ctx, h, grace)
	r.done(ctx, "stop", err)
	return err
}

func (r *timed) Remove(ctx context.Context, h runner.Handle) error {
	began := time.Now()
	err := r.Runner.Remove(ctx, h)
	r.done(ctx, "remove", err)
	r.m.unitRemove.WithLabelValues(r.Name()).Observe(time.Since(began).Seconds())
	return err
}

// done counts a failure, unless the caller had lost interest.
func (r *timed) done(ctx context.Context, operation string, err error) {
	if err != nil && ctx.Err() == nil {
		r.m.unitErrors.WithLabelValues(r.Name(), operation).Inc()
	}
}
