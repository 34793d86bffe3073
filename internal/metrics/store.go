package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// counted is a store whose commits are counted.
type counted struct {
	store.Store
	m    *Metrics
	also []func(*store.Commit)
}

// Store returns s with everything that goes through it counted. Each of also is
// called after a commit that changed something, in the goroutine that made it, and must
// neither block nor keep the commit.
func (m *Metrics) Store(s store.Store, also ...func(*store.Commit)) store.Store {
	return &counted{s, m, also}
}

// Unwrap returns the store behind it.
func (s *counted) Unwrap() store.Store { return s.Store }

func (s *counted) Commit(ctx context.Context, c *store.Commit) error {
	began := time.Now()
	err := s.Store.Commit(ctx, c)
	s.m.commitTook.Observe(time.Since(began).Seconds())
	if err != nil {
		kind := Other
		switch {
		case errors.Is(err, store.ErrConflict):
			kind = "conflict"
		case errors.Is(err, store.ErrLeaseLost):
			kind = "lease_lost"
			s.m.leasesLost.Inc()
		case waybill.IsKind(err, waybill.KindUnavailable):
			kind = "unavailable"
		}
		s.m.commitErrors.WithLabelValues(kind).Inc()
		return err
	}
	s.m.committed(c)
	for _, f := range s.also {
		f(c)
	}
	return nil
}

func (s *counted) Claim(ctx context.Context, r store.ClaimRequest) (store.Claimed, error) {
	got, err := s.Store.Claim(ctx, r)
	if r.Reclaim {
		return got, err
	}
	for _, m := range got.Msgs {
		// A delivery is one more than the failures before it, unless one ended with
		// neither success nor failure.
		if m.Attempt-m.Fails > 1 {
			s.m.expiries.WithLabelValues(s.m.words.of(m.Topic)).Inc()
		}
	}
	return got, err
}

func (s *counted) Extend(ctx context.Context, msgs []*store.Msg, lease time.Duration) ([]*store.Msg, error) {
	lost, err := s.Store.Extend(ctx, msgs, lease)
	s.m.leasesLost.Add(float64(len(lost)))
	return lost, err
}

// Parts of rows that are looked at.
type (
	runRow struct {
		Pipeline string         `json:"pipeline"`
		Status   waybill.Status `json:"status"`
		Event    struct {
			Type string    `json:"type"`
			Time time.Time `json:"time"`
		} `json:"event"`
		Of         string    `json:"retry_of"`
		CreatedAt  time.Time `json:"created_at"`
		StartedAt  time.Time `json:"started_at"`
		FinishedAt time.Time `json:"finished_at"`
	}
	stepRow struct {
		StartedAt  time.Time `json:"started_at"`
		FinishedAt time.Time `json:"finished_at"`
	}
	attemptRow struct {
		Runner string `json:"runner"`
	}
)

// committed learns from a commit that stands.
func (m *Metrics) committed(c *store.Commit) {
	for _, x := range []struct {
		msg     *store.Msg
		outcome string
	}{{c.Done, "done"}, {c.Retry, "retried"}, {c.Yield, "yielded"}, {c.Dead, "buried"}} {
		if x.msg != nil {
			m.messages.WithLabelValues(m.words.of(x.msg.Topic), x.outcome).Inc()
		}
	}
	for i := range c.Events {
		e := &c.Events[i]
		run, ok := strings.CutPrefix(e.Subject, "run/")
		if !ok {
			if e.Kind == "orphan.found" {
				m.orphan(e)
			}
			continue
		}
		switch e.Kind {
		case "run.accepted":
			var r runRow
			if !row(c, "run", run, &r) {
				continue
			}
			trigger := m.triggers.of(r.Event.Type)
			m.accepted.WithLabelValues(m.pipelines.of(r.Pipeline), trigger).Inc()
			if r.Of == "" && !r.Event.Time.IsZero() { // a repeated run has the event of the first
				m.triggerLag.WithLabelValues(trigger).Observe(max(0, r.CreatedAt.Sub(r.Event.Time).Seconds()))
			}
		case "run.started":
			var r runRow
			if row(c, "run", run, &r) {
				m.started.WithLabelValues(m.pipelines.of(r.Pipeline)).Inc()
				m.startLag.Observe(max(0, r.StartedAt.Sub(r.CreatedAt).Seconds()))
			}
		case "run.ended":
			var r runRow
			if row(c, "run", run, &r) {
				name := m.pipelines.of(r.Pipeline)
				m.ended.WithLabelValues(name, string(r.Status)).Inc()
				if !r.StartedAt.IsZero() {
					m.runTook.WithLabelValues(name).Observe(max(0, r.FinishedAt.Sub(r.StartedAt).Seconds()))
				}
			}
		case "step.ended":
			var d struct {
				Step   string         `json:"step"`
				Status waybill.Status `json:"status"`
			}
			var r runRow
			var st stepRow
			if json.Unmarshal(e.Data, &d) != nil || !row(c, "run", run, &r) {
				continue
			}
			name := m.pipelines.of(r.Pipeline)
			m.stepsEnded.WithLabelValues(name, string(d.Status)).Inc()
			if row(c, "step", run+"/"+d.Step, &st) && !st.StartedAt.IsZero() && !st.FinishedAt.IsZero() {
				m.stepTook.WithLabelValues(name).Observe(max(0, st.FinishedAt.Sub(st.StartedAt).Seconds()))
			}
		case "attempt.ended":
			var d struct {
				Attempt string         `json:"attempt"`
				Status  waybill.Status `json:"status"`
				Reason  string         `json:"reason"`
			}
			var a attemptRow
			if json.Unmarshal(e.Data, &d) != nil {
				continue
			}
			row(c, "attempt", d.Attempt, &a)
			reason := ""
			if d.Reason != "" {
				reason = m.words.of(d.Reason)
			}
			m.attempts.WithLabelValues(m.words.of(a.Runner), string(d.Status), reason).Inc()
		case "cleanup.gone", "cleanup.deleting", "cleanup.failed":
			m.cleanups.WithLabelValues(strings.TrimPrefix(e.Kind, "cleanup.")).Inc()
		case "orphan.found":
			m.orphan(e)
		}
	}
}

func (m *Metrics) orphan(e *store.Event) {
	var d struct {
		Runner string `json:"runner"`
	}
	_ = json.Unmarshal(e.Data, &d) // without data the runner is not known
	m.orphans.WithLabelValues(m.words.of(d.Runner)).Inc()
}

// row decodes the row that a commit puts under a key, if it does.
func row(c *store.Commit, table, key string, to any) bool {
	for i := range c.Puts {
		if p := &c.Puts[i]; p.Table == table && p.Key == key {
			return p.Val != nil && json.Unmarshal(p.Val, to) == nil
		}
	}
	return false
}
