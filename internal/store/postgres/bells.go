package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-run/waybill/internal/store"
)

const (
	notifyEvery = 10 * time.Millisecond // at most so often does one process notify the others
	pollEvery   = time.Second
	payloadMost = 7000 // bytes; a notification holds less than 8000
)

// bells wakes those who wait for messages and events. This process hears of its
// own commits at once; the others are notified outside of the commit, because a
// NOTIFY in a transaction makes all commits of the server wait in line. A slow
// poll finds what no notification told.
type bells struct {
	ctx  context.Context // ends with the store
	self string          // names this store in notifications

	mu     sync.Mutex
	topics map[string]map[chan struct{}]bool
	watch  map[chan struct{}]bool
	tell   map[string]bool // topics that others should hear of
	events bool            // and whether there were events

	telling  chan struct{} // tell or events were set
	settling chan struct{} // events were written that Tail may not show yet
}

func (b *bells) init() {
	b.self = rand.Text()
	b.topics = map[string]map[chan struct{}]bool{}
	b.watch = map[chan struct{}]bool{}
	b.tell = map[string]bool{}
	b.telling = make(chan struct{}, 1)
	b.settling = make(chan struct{}, 1)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Bell implements store.Store.
func (s *Store) Bell(topic string) (<-chan struct{}, func()) {
	b := &s.bells
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.topics[topic] == nil {
		b.topics[topic] = map[chan struct{}]bool{}
	}
	b.topics[topic][c] = true
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if delete(b.topics[topic], c); len(b.topics[topic]) == 0 {
			delete(b.topics, topic)
		}
	}
}

// Watch implements store.Store.
func (s *Store) Watch() (<-chan struct{}, func()) {
	b := &s.bells
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watch[c] = true
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watch, c)
	}
}

// ring rings in this process and has the others notified.
func (b *bells) ring(topics []string, events bool) {
	b.hear(topics, events)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range topics {
		b.tell[t] = true
	}
	b.events = b.events || events
	poke(b.telling)
}

// hear rings in this process.
func (b *bells) hear(topics []string, events bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range topics {
		for c := range b.topics[t] {
			poke(c)
		}
	}
	if events && len(b.watch) > 0 {
		for c := range b.watch {
			poke(c)
		}
		poke(b.settling)
	}
}

// rang rings for a group that stands.
func (s *Store) rang(g *group) {
	if len(g.rings) > 0 || len(g.events) > 0 {
		s.bells.ring(slices.Collect(maps.Keys(g.rings)), len(g.events) > 0)
	}
}

func (s *Store) channel() string { return fmt.Sprintf("waybill_%08x", uint32(s.lockID)) }

// notify tells the other processes what rang here.
func (s *Store) notify(ctx context.Context) {
	b := &s.bells
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.telling:
		}
		b.mu.Lock()
		topics := slices.Sorted(maps.Keys(b.tell))
		text := b.self + "\n" + fmt.Sprint(b.events)
		clear(b.tell)
		b.events = false
		b.mu.Unlock()
		var payloads []string
		for _, t := range topics {
			if len(text)+1+len(t) > payloadMost {
				payloads, text = append(payloads, text), b.self+"\nfalse"
			}
			if len(t) < payloadMost/2 && !strings.Contains(t, "\n") { // the poll finds the others
				text += "\n" + t
			}
		}
		_, err := s.work.Exec(ctx, "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p", s.channel(), append(payloads, text))
		if err != nil && ctx.Err() == nil {
			s.log.Debug("other processes were not notified", "error", err)
		}
		wait(ctx, notifyEvery)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// listen hears the notifications of other processes.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.hear(ctx)
		if ctx.Err() == nil {
			s.log.Warn("notifications of other processes are interrupted", "error", s.fail("listen", err))
			wait(ctx, pollEvery)
		}
	}
}

func (s *Store) hear(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, s.conf)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // nothing is lost with it
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+s.channel()); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		parts := strings.Split(n.Payload, "\n")
		if len(parts) >= 2 && parts[0] != s.bells.self {
			s.bells.hear(parts[2:], parts[1] == "true")
		}
	}
}

// settle rings Watch again when transactions have ended that kept Tail from
// showing the newest events.
func (s *Store) settle(ctx context.Context) {
	b := &s.bells
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.settling:
		}
		goal, seen := int64(0), int64(0)
		for pause := time.Millisecond; ctx.Err() == nil && pause < pollEvery; pause = pause * 3 / 2 {
			var xmin, xmax int64
			if err := s.work.QueryRow(ctx, `SELECT pg_snapshot_xmin(x)::text::bigint, pg_snapshot_xmax(x)::text::bigint FROM pg_current_snapshot() x`).Scan(&xmin, &xmax); err != nil {
				break // the poll rings
			}
			if goal == 0 {
				goal = xmax
			}
			if xmin > seen {
				seen = xmin
				b.mu.Lock()
				for c := range b.watch {
					poke(c)
				}
				b.mu.Unlock()
			}
			if xmin >= goal {
				break
			}
			wait(ctx, pause)
		}
	}
}

// poll looks for what no notification told: once a second, only for those who
// wait in this process. It also forgets old ids of commits.
func (s *Store) poll(ctx context.Context) {
	b := &s.bells
	last := map[string]int64{} // when each topic's next lane becomes ready
	var head store.Cursor
	var cleaned time.Time
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.mu.Lock()
		topics, watched := slices.Collect(maps.Keys(b.topics)), len(b.watch) > 0
		b.mu.Unlock()
		if len(topics) > 0 {
			s.pollTopics(ctx, topics, last)
		}
		if watched {
			if c, err := s.Head(ctx); err == nil && c != head {
				head = c
				b.hear(nil, true)
			}
		}
		if time.Since(cleaned) > time.Hour {
			cleaned = time.Now()
			if _, err := s.work.Exec(ctx, "DELETE FROM applied WHERE at < $1", s.clock().Add(-48*time.Hour).UnixMicro()); err != nil && ctx.Err() == nil {
				s.log.Warn("old ids of commits were not deleted", "error", s.fail("clean", err))
			}
		}
	}
}

func (s *Store) pollTopics(ctx context.Context, topics []string, last map[string]int64) {
	now := s.now()
	rows, err := s.work.Query(ctx, `SELECT u.topic,
			EXISTS (SELECT FROM lane l WHERE l.topic = u.topic AND l.rank IS NOT NULL),
			coalesce((SELECT l.ready_at FROM lane l WHERE l.topic = u.topic AND l.rank IS NULL ORDER BY l.ready_at LIMIT 1), $2)
		FROM unnest($1::text[]) AS u(topic)`, topics, int64(1<<62))
	if err != nil {
		return // the next poll tries again
	}
	var topic string
	var ready bool
	var next int64
	var rings []string
	_, err = pgx.ForEachRow(rows, []any{&topic, &ready, &next}, func() error {
		if before, ok := last[topic]; ready || next <= now || ok && next < before {
			rings = append(rings, topic)
		}
		last[topic] = next
		return nil
	})
	if err == nil {
		s.bells.hear(rings, false)
	}
}
