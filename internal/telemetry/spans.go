package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/waybill-run/waybill"
)

// make makes the spans of an ended run:
//
//	run PIPELINE
//	└─ step NAME
//	   └─ attempt NUMBER
func (t *Traces) make(ctx context.Context, id string) {
	d, err := t.o.Run(ctx, id)
	if err != nil {
		t.o.Count(0, 1)
		t.warn("a run cannot be read for its trace", "run", id, "err", err)
		return
	}
	tid, above, sampled := traceOf(id, d.Event)
	if !sampled {
		return
	}
	var links []trace.Link
	link := func(run, kind string) {
		other, _, _ := traceOf(run, waybill.Event{})
		if o, err := t.o.Run(ctx, run); err == nil {
			other, _, _ = traceOf(run, o.Event)
		}
		links = append(links, trace.Link{
			SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: other, SpanID: spanOf(run), TraceFlags: trace.FlagsSampled, Remote: true}),
			Attributes:  []attribute.KeyValue{attribute.String("waybill.link", kind), attribute.String("waybill.run", run)},
		})
	}
	if d.Of != "" {
		link(d.Of, "retry_of")
	}
	if d.Parent != nil {
		link(d.Parent.Run, "parent")
	}
	from, to := span{d.CreatedAt, d.FinishedAt}.bounds()
	root := trace.SpanContext{}
	if above.IsValid() {
		root = trace.NewSpanContext(trace.SpanContextConfig{TraceID: tid, SpanID: above, TraceFlags: trace.FlagsSampled, Remote: true})
	}
	kind := trace.SpanKindInternal
	if d.Event.Type == "http" || d.Event.Type == "webhook" {
		kind = trace.SpanKindServer
	} else if d.Event.Type != "" {
		kind = trace.SpanKindConsumer
	}
	run := t.begin(ctx, tid, root, spanOf(id), "run "+d.Pipeline, kind, from, links,
		attribute.String("waybill.run", id), attribute.String("waybill.pipeline", d.Pipeline), attribute.Int("waybill.version", d.Version),
		attribute.String("waybill.status", string(d.Status)), attribute.String("waybill.trigger", d.Event.Type),
		attribute.String("waybill.event", d.Event.ID), attribute.String("waybill.tenant", d.Tenant),
	)
	if !d.StartedAt.IsZero() {
		run.AddEvent("started", trace.WithTimestamp(d.StartedAt))
	}
	outcome(run, d.Status, d.Error)
	steps := map[string]trace.SpanContext{}
	for i := range d.Steps {
		st := &d.Steps[i]
		if st.StartedAt.IsZero() || st.StartedAt.Before(d.CreatedAt) {
			continue // it never began, or its result was taken over from another run
		}
		from, to := span{st.StartedAt, st.FinishedAt}.bounds()
		s := t.begin(ctx, tid, run.SpanContext(), spanOf(id+"/"+st.Name), "step "+st.Name, trace.SpanKindInternal, from, nil,
			attribute.String("waybill.run", id), attribute.String("waybill.pipeline", d.Pipeline), attribute.String("waybill.step", st.Name),
			attribute.String("waybill.runner", st.Runner), attribute.String("waybill.status", string(st.Status)), attribute.Int("waybill.attempts", st.Attempts),
		)
		if st.Group != "" {
			s.SetAttributes(attribute.String("waybill.group", st.Group))
		}
		outcome(s, st.Status, st.Error)
		s.End(trace.WithTimestamp(to))
		steps[st.Name] = s.SpanContext()
	}
	for i := range d.Attempts {
		a := &d.Attempts[i]
		parent, ok := steps[a.Step]
		if !ok || a.QueuedAt.IsZero() {
			continue
		}
		from, to := span{a.QueuedAt, a.FinishedAt}.bounds()
		links = nil
		if a.Child != "" {
			link(a.Child, "child")
		}
		s := t.begin(ctx, tid, parent, spanOf(a.Key()), "attempt "+a.Step, trace.SpanKindInternal, from, links,
			attribute.String("waybill.run", id), attribute.String("waybill.pipeline", d.Pipeline), attribute.String("waybill.step", a.Step),
			attribute.Int("waybill.attempt", a.Number), attribute.String("waybill.unit", a.Unit), attribute.String("waybill.runner", a.Runner),
			attribute.String("waybill.node", a.Node), attribute.String("waybill.status", string(a.Status)),
		)
		if a.Reason != "" {
			s.SetAttributes(attribute.String("waybill.reason", a.Reason))
		}
		if a.ExitCode != nil {
			s.SetAttributes(attribute.Int("process.exit.code", *a.ExitCode))
		}
		if !a.StartedAt.IsZero() {
			s.AddEvent("unit started", trace.WithTimestamp(a.StartedAt))
		}
		if a.Callback != nil {
			s.AddEvent("callback", trace.WithTimestamp(a.Callback.At), trace.WithAttributes(attribute.String("waybill.status", string(a.Callback.Status))))
		}
		outcome(s, a.Status, a.Error)
		s.End(trace.WithTimestamp(to))
	}
	run.End(trace.WithTimestamp(to))
}

// span is a stretch of time.
type span struct{ from, to time.Time }

// bounds are its ends; one that never ended is a moment.
func (s span) bounds() (time.Time, time.Time) {
	if s.to.Before(s.from) {
		s.to = s.from
	}
	return s.from, s.to
}

func (t *Traces) begin(ctx context.Context, tid trace.TraceID, parent trace.SpanContext, id trace.SpanID, name string, kind trace.SpanKind, at time.Time, links []trace.Link, attrs ...attribute.KeyValue) trace.Span {
	ctx = context.WithValue(ctx, givenKey{}, ids{tid, id})
	ctx = trace.ContextWithSpanContext(ctx, parent)
	_, s := t.tracer.Start(ctx, name, trace.WithTimestamp(at), trace.WithSpanKind(kind), trace.WithAttributes(attrs...), trace.WithLinks(links...))
	return s
}

// outcome marks a span that did not end well. Canceled and skipped are wishes
// fulfilled.
func outcome(s trace.Span, status waybill.Status, reason string) {
	switch status {
	case waybill.StatusFailed, waybill.StatusTimedOut, waybill.StatusLost:
		s.SetStatus(codes.Error, reason)
	case waybill.StatusSucceeded:
		s.SetStatus(codes.Ok, "")
	}
}
