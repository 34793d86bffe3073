package metrics

import (
	"context"
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
	m.orphans.WithLabelValues(r.Name())
	return &timed{r, m}
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
