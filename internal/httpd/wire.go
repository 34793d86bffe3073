package httpd

import (
	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// The functions here turn the nouns of the program into those of the contract.
// What is not copied does not leave the server.

func convert[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}

func list(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}

func nextCursor(next string) openapi.NextCursor {
	if next == "" {
		return nil
	}
	return &next
}

func wireRun(r waybill.Run) openapi.Run {
	return openapi.Run{
		ID: r.ID, Pipeline: r.Pipeline, Version: r.Version, Status: r.Status, Error: r.Error,
		Event: wireEvent(r.Event), Params: r.Params, Vars: r.Vars, Priority: r.Priority,
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		CancelBy: r.CancelBy, RetryOf: r.Of, StepCount: r.StepCount, StepsDone: r.StepsDone,
		Outputs: r.Outputs, PausedBy: r.Paused, Parent: r.Parent, Slots: r.Slots, SlotsHeld: r.Held, FailedStep: r.Failed, Group: r.Group, Labels: r.Labels,
	}
}

func wireDetail(d waybill.RunDetail) openapi.RunDetail {
	r := wireRun(d.Run)
	return openapi.RunDetail{
		ID: r.ID, Pipeline: r.Pipeline, Version: r.Version, Status: r.Status, Error: r.Error,
		Event: r.Event, Params: r.Params, Vars: r.Vars, Priority: r.Priority,
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
		CancelBy: r.CancelBy, RetryOf: r.RetryOf, StepCount: r.StepCount, StepsDone: r.StepsDone,
		Outputs: r.Outputs, PausedBy: r.PausedBy, Parent: r.Parent, Slots: r.Slots, SlotsHeld: r.SlotsHeld, FailedStep: r.FailedStep, Group: r.Group, Labels: r.Labels,
		Steps: convert(d.Steps, wireStep), Attempts: convert(d.Attempts, wireAttempt),
	}
}

func wireStep(s waybill.Step) openapi.Step {
	return openapi.Step{
		Name: s.Name, Index: s.Index, Runner: s.Runner, Needs: list(s.Needs), Status: status(s.Status), Error: s.Error,
		ExitCode: s.ExitCode, Attempts: s.Attempts, Failures: s.Failures, Losses: s.Losses,
		Outputs: s.Outputs, Added: list(s.Added), StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		Group: s.Group, AllowFailure: s.Allowed, ReusedFrom: s.Reused, Cells: s.Cells, Cell: s.Cell,
	}
}

func wireAttempt(a waybill.Attempt) openapi.Attempt {
	out := openapi.Attempt{
		Step: a.Step, Number: a.Number, Unit: a.Unit, Runner: a.Runner, Phase: a.Phase, Status: status(a.Status),
		Reason: a.Reason, Error: a.Error, Node: a.Node, Image: a.Image, ExitCode: a.ExitCode, Signal: a.Signal, LogsLost: a.LogsLost,
		Cleanup: a.Cleanup, CleanupError: a.CleanupErr, Stop: a.Stop, Returned: a.Returned,
		LogTail: a.LogTail, LogBytes: a.LogBytes, LogTruncated: a.Truncated,
		QueuedAt: a.QueuedAt, StartedAt: a.StartedAt, HeartbeatAt: a.HeartbeatAt, Progress: a.Progress,
		FinishedAt: a.FinishedAt, Deadline: a.Deadline, Until: a.Until, Approval: a.Approval, Child: a.Child,
	}
	if out.Phase == "" {
		out.Phase = waybill.PhaseQueued
	}
	if c := a.Callback; c != nil {
		out.Callback = openapi.Callback{Status: status(c.Status), Error: c.Error, Message: c.Message, Variables: c.Variables, At: c.At}
	}
	return out
}

// status is queued for a thing that has none yet.
func status(s waybill.Status) waybill.Status {
	if s == "" {
		return waybill.StatusQueued
	}
	return s
}

func wireEvent(e waybill.Event) openapi.Event {
	out := openapi.Event{ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Time: e.Time, Data: waybill.Value(e.Data), Headers: e.Headers, Traceparent: e.Traceparent, Hops: e.Hops}
	if e.Object != nil {
		out.Object = wireObject(*e.Object)
	}
	return out
}

func wireObject(o waybill.Object) openapi.Object {
	return openapi.Object{
		Bucket: o.Bucket, Key: o.Key, Version: o.Version, Size: o.Size, Sha256: o.SHA256, ContentType: o.ContentType,
		CreatedAt: o.CreatedAt, CreatedBy: o.CreatedBy, Deleted: o.Deleted,
	}
}

func wireRecord(r waybill.Record) openapi.Record {
	return openapi.Record{Cursor: r.Cursor, Subject: r.Subject, Kind: r.Kind, At: r.At, Data: waybill.Value(r.Data)}
}

func wirePipeline(p waybill.Pipeline) openapi.Pipeline {
	return openapi.Pipeline{
		Name: p.Name, Version: p.Version, Hash: p.Hash, Origin: openapi.PipelineOrigin(p.Origin), File: p.File, Source: p.Source,
		CreatedAt: p.CreatedAt, CreatedBy: p.CreatedBy, Summary: p.Summary, Triggers: list(p.Triggers), Steps: list(p.Steps), Warnings: p.Warnings, Problem: p.Problem,
	}
}

func wireQueue(q waybill.QueueInfo) openapi.Queue {
	return openapi.Queue{Topic: q.Topic, Depth: q.Depth, Dead: q.Dead, Lanes: q.Lanes, Leased: q.Leased,
		OldestAgeSeconds: max(0, q.OldestAge), Paused: q.Paused}
}

func wireMessage(m waybill.QueueMessage) openapi.Message {
	return openapi.Message{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Seq: m.Seq, Body: m.Body, Attempt: m.Attempt, Fails: m.Fails, Priority: m.Priority,
		SentAt: m.SentAt, ReadyAt: m.ReadyAt, Leased: m.Leased, Owner: m.Owner, Reason: m.Reason, DeadAt: m.DeadAt,
	}
}

func wireToken(t waybill.Token) openapi.Token {
	return openapi.Token{ID: t.ID, Name: t.Name, Role: t.Role, CreatedAt: t.CreatedAt, CreatedBy: t.CreatedBy,
		ExpiresAt: t.ExpiresAt, RevokedAt: t.RevokedAt}
}

func wireHealth(h waybill.Health) openapi.Health {
	checks := h.Checks
	if checks == nil {
		checks = map[string]string{}
	}
	return openapi.Health{Status: openapi.HealthStatus(h.Status), Checks: checks, Node: h.Node, Store: h.Store, UptimeSeconds: h.Uptime}
}
