package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// A look at the store costs a flush, and probes may come as often as they like.
const (
	lookEvery   = 2 * time.Second
	lookTimeout = 5 * time.Second
)

// looks remembers what the last look found.
type looks struct {
	turn chan struct{} // holds one while somebody looks
	at   time.Time
	err  error
}

func newLooks() *looks { return &looks{turn: make(chan struct{}, 1)} }

// ask returns what look finds, or found a moment ago. Whoever asks while another
// one looks waits for that.
func (l *looks) ask(ctx context.Context, look func(context.Context) error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	if !l.at.IsZero() && time.Since(l.at) < lookEvery {
		return l.err
	}
	// The answer is for others, too, who do not go when this caller goes.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	l.err = look(ctx)
	if errors.Is(l.err, context.DeadlineExceeded) {
		l.err = waybill.E(waybill.KindUnavailable, "no answer in %v", lookTimeout)
	}
	l.at = time.Now()
	return l.err
}

// health is what /health tells once the server is ready.
func (s *Server) health(ctx context.Context) waybill.Health {
	h := waybill.Health{Status: "ok", Checks: map[string]string{"store": "ok"}, Node: s.data.node, Uptime: time.Since(s.begun).Seconds()}
	h.Store = s.store.Info().Engine
	if err := s.looks.ask(ctx, s.tryStore); err != nil {
		h.Checks["store"], h.Status = err.Error(), "degraded"
	} else {
		s.elsewhere.check(ctx, h.Checks)
		s.polling.check(ctx, h.Checks)
	}
	s.checkOIDC(h.Checks)
	// A mistake in a file is not the server's: what the file held before goes on.
	if s.c.Project != "" {
		h.Checks["project"] = "ok"
		if problems, restart := s.project.Trouble(); len(problems) > 0 {
			h.Checks["project"] = fmt.Sprintf("%d problems in its files, the first in %s line %d: %s", len(problems), problems[0].File, problems[0].Line, problems[0].Msg)
		} else if len(restart) > 0 {
			h.Checks["project"] = "changed settings need a restart: " + strings.Join(restart, ", ")
		}
	}
	return h
}

// tryStore writes to the store, because a full disk still lets us read.
func (s *Server) tryStore(ctx context.Context) error {
	return s.store.Commit(ctx, &store.Commit{Puts: []store.Put{{Table: tableMeta, Key: "health", Rev: store.AnyRev, Val: []byte(`true`)}}})
}
