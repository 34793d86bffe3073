package metrics

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// Source is the part of a store that is asked when somebody scrapes. All of it
// reads counters and the heads of indexes, none of it lists.
type Source interface {
	Topics(ctx context.Context, tenant string) ([]store.TopicStat, error)
	Counts(ctx context.Context, tenant, table string) (map[string]int64, error)
	Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error)
	Now() time.Time
}

const (
	askAtMost = 2 * time.Second // apart; scrapes in between get the figures of the last
	askFor    = 5 * time.Second // and then give up
	maxNodes  = 100
)

// global collects what the store knows.
type global struct {
	src   Source
	known []Definition

	depth, oldest, leased, paused, dead, pending, failed, runs, nodes, up *prometheus.Desc

	mu   sync.Mutex
	at   time.Time
	last []prometheus.Metric
}

func newGlobal(src Source) *global {
	var known []Definition
	d := func(name, help string, labels ...string) *prometheus.Desc {
		known = append(known, Definition{"waybill_" + name, "gauge", labels, true})
		return prometheus.NewDesc("waybill_"+name, help, labels, nil)
	}
	g := &global{
		src:     src,
		depth:   d("queue_depth", "Messages in a topic, those in work included.", "topic"),
		oldest:  d("queue_oldest_seconds", "Age of the message that has waited longest.", "topic"),
		leased:  d("queue_leased", "Lanes of a topic that are in work.", "topic"),
		paused:  d("queue_paused", "1 when a topic is paused.", "topic"),
		dead:    d("dead_letters", "Dead letters of a topic.", "topic"),
		pending: d("cleanup_pending", "Units whose clean-up is not done."),
		failed:  d("cleanup_failed", "Units whose clean-up was given up."),
		runs:    d("runs", "Runs that are kept, by status.", "status"),
		nodes:   d("node_up", "1 when a server of this store has said lately that it lives.", "node"),
		up:      d("store_up", "1 when the store answered when it was asked for these figures."),
	}
	g.known = known
	return g
}

// Describe implements prometheus.Collector.
func (g *global) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.depth, g.oldest, g.leased, g.paused, g.dead, g.pending, g.failed, g.runs, g.nodes, g.up} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. However many scrape, the store is
// asked once in a while only.
func (g *global) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.at.IsZero() || time.Since(g.at) >= askAtMost {
		ctx, cancel := context.WithTimeout(context.Background(), askFor)
		g.last = g.ask(ctx)
		cancel()
		g.at = time.Now()
	}
	for _, m := range g.last {
		ch <- m
	}
}

func (g *global) ask(ctx context.Context) []prometheus.Metric {
	var out []prometheus.Metric
	up := 1.0
	add := func(d *prometheus.Desc, v float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	now := g.src.Now()
	if topics, err := g.src.Topics(ctx, "*"); err != nil {
		up = 0
	} else {
		sums := map[string]*store.TopicStat{}
		var order []string
		for _, t := range topics {
			s := sums[t.Topic]
			if s == nil {
				s = &store.TopicStat{Topic: t.Topic}
				sums[t.Topic] = s
				order = append(order, t.Topic)
			}
			s.Depth, s.Dead, s.Leased, s.Paused = s.Depth+t.Depth, s.Dead+t.Dead, s.Leased+t.Leased, s.Paused || t.Paused
			if !t.Oldest.IsZero() && (s.Oldest.IsZero() || t.Oldest.Before(s.Oldest)) {
				s.Oldest = t.Oldest
			}
		}
		cleanup := store.TopicStat{}
		for _, name := range order {
			s := sums[name]
			age, paused := 0.0, 0.0
			if !s.Oldest.IsZero() {
				age = max(0, now.Sub(s.Oldest).Seconds())
			}
			if s.Paused {
				paused = 1
			}
			add(g.depth, float64(s.Depth), name)
			add(g.oldest, age, name)
			add(g.leased, float64(s.Leased), name)
			add(g.paused, paused, name)
			add(g.dead, float64(s.Dead), name)
			if name == queue.TopicCleanup {
				cleanup = *s
			}
		}
		add(g.pending, float64(cleanup.Depth))
		add(g.failed, float64(cleanup.Dead))
	}
	if counts, err := g.src.Counts(ctx, "", "run"); err != nil {
		up = 0
	} else {
		for name, n := range counts {
			if status, ok := strings.CutPrefix(name, "status:"); ok {
				add(g.runs, float64(n), status)
			}
		}
	}
	if rows, err := g.src.Scan(ctx, "", "node", "", maxNodes); err != nil {
		up = 0
	} else {
		for _, r := range rows {
			var n struct {
				At    time.Time `json:"at"`
				Lease string    `json:"lease"`
			}
			if json.Unmarshal(r.Val, &n) != nil {
				continue
			}
			lease, err := time.ParseDuration(n.Lease)
			if err != nil {
				lease = 15 * time.Second
			}
			alive := 0.0
			if now.Sub(n.At) < 2*lease {
				alive = 1
			}
			add(g.nodes, alive, r.Key)
		}
	}
	add(g.up, up)
	return out
}
