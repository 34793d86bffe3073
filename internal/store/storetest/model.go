package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill/internal/store"
)

// model is the queue as the contract describes it, for one topic.
type model struct {
	lanes map[string]*modelLane
	dead  int
}

type modelLane struct {
	msgs  []*modelMsg // the head first
	ready time.Time   // may be claimed from then on; the end of the lease while held
	// The rank a store gives a waiting lane: it may count from when the head
	// was sent, when the lane became free, or when the head became due.
	rankLo, rankHi time.Time
	prio           int
	token, owner   string
	held           int
}

type modelMsg struct {
	id             string
	due            time.Time
	sent           time.Time
	asHead, counts int // deliveries as head of the lane, and all of them
	fails          int
}

func (l *modelLane) rank(t time.Time) time.Time {
	return t.Add(-time.Duration(l.prio) * store.PriorityAge)
}

func (l *modelLane) free(now time.Time) {
	l.token, l.owner, l.held = "", "", 0
	l.ready, l.rankLo, l.rankHi = now, now, now
}

// next makes the lane wait for its new head.
func (l *modelLane) next(now time.Time) {
	l.free(now)
	head := l.msgs[0]
	l.rankLo = head.sent
	if head.due.After(now) {
		l.ready, l.rankHi = head.due, head.due
	}
}

// machine runs random steps on a store and the model side by side.
type machine struct {
	*rapid.T
	e       *env
	topic   string
	model   model
	n       int
	claimed []*store.Msg // everything ever claimed, newest last
}

func (s suite) model(t *testing.T) {
	t.Parallel()
	e := s.env(t)
	var topics atomic.Int32
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{T: rt, e: e, topic: fmt.Sprint("t", topics.Add(1)), model: model{lanes: map[string]*modelLane{}}}
		steps := rapid.IntRange(4, 24).Draw(rt, "steps")
		for range steps {
			m.step()
		}
		m.finish()
	})
}

func (m *machine) step() {
	switch rapid.SampledFrom([]string{"send", "send", "claim", "claim", "claim", "outcome", "outcome", "outcome", "outcome", "extend", "advance", "advance", "reclaim"}).Draw(m.T, "step") {
	case "send":
		m.send()
	case "claim":
		m.claim(false)
	case "reclaim":
		m.claim(true)
	case "outcome":
		m.outcome()
	case "extend":
		m.extend()
	case "advance":
		m.e.clock.Advance(time.Duration(rapid.IntRange(1, 15).Draw(m.T, "tenths")) * 100 * time.Millisecond)
	}
}

func (m *machine) send() {
	now := m.e.clock.Now()
	var c store.Commit
	for range rapid.IntRange(1, 3).Draw(m.T, "messages") {
		m.n++
		snd := store.Send{
			Topic:    m.topic,
			Key:      rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.T, "key"),
			Body:     fmt.Append(nil, m.n),
			Delay:    time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 7}).Draw(m.T, "delay")) * 100 * time.Millisecond,
			Priority: rapid.SampledFrom([]int{0, 0, 1}).Draw(m.T, "priority"),
		}
		c.Sends = append(c.Sends, snd)
		l := m.model.lanes[snd.Key]
		if l == nil {
			l = &modelLane{ready: now.Add(snd.Delay)}
			l.rankLo, l.rankHi = l.ready, l.ready
			m.model.lanes[snd.Key] = l
		}
		l.msgs = append(l.msgs, &modelMsg{id: string(snd.Body), due: now.Add(snd.Delay), sent: now})
		l.prio = max(l.prio, snd.Priority)
	}
	if err := m.e.Commit(m.e.ctx(), &c); err != nil {
		m.Fatalf("send: %v", err)
	}
}

func (m *machine) claim(reclaim bool) {
	now := m.e.clock.Now()
	r := store.ClaimRequest{
		Topic:   m.topic,
		Owner:   rapid.SampledFrom([]string{"x", "y"}).Draw(m.T, "owner"),
		Lanes:   rapid.IntRange(1, 3).Draw(m.T, "lanes"),
		PerLane: rapid.IntRange(0, 3).Draw(m.T, "per lane"),
		Lease:   time.Second,
		Reclaim: reclaim,
	}
	if reclaim {
		r.Lanes = 10
	}
	got, err := m.e.Claim(m.e.ctx(), r)
	if err != nil {
		m.Fatalf("claim: %v", err)
	}
	may := map[string]bool{}
	for key, l := range m.model.lanes {
		if reclaim && l.owner == r.Owner && l.token != "" || !reclaim && !l.ready.After(now) {
			may[key] = true
		}
	}
	want := min(r.Lanes, len(may))
	var keys []string
	for i := 0; i < len(got.Msgs); {
		key := got.Msgs[i].Key
		if !may[key] || slices.Contains(keys, key) {
			m.Fatalf("lane %s was handed out: allowed %t, twice %t", key, may[key], slices.Contains(keys, key))
		}
		l := m.model.lanes[key]
		n := 0
		for ; i < len(got.Msgs) && got.Msgs[i].Key == key; i++ {
			m.delivered(l, n, got.Msgs[i])
			n++
		}
		full := 0
		for full < len(l.msgs) && full < max(1, r.PerLane) && !l.msgs[full].due.After(now) {
			full++
		}
		if n != full {
			m.Fatalf("%d messages of lane %s, want %d", n, key, full)
		}
		if got.Msgs[i-1].Token == l.token {
			m.Fatalf("lane %s kept its token", key)
		}
		l.token, l.owner, l.held = got.Msgs[i-1].Token, r.Owner, n
		keys = append(keys, key)
	}
	if len(keys) != want {
		m.Fatalf("%d lanes, want %d of %v", len(keys), want, may)
	}
	for i, key := range keys {
		l := m.model.lanes[key]
		if !reclaim {
			for other := range may {
				// A lane that was passed over or comes later must not rank before.
				o := m.model.lanes[other]
				if !slices.Contains(keys[:i+1], other) && o.rank(o.rankHi).Before(l.rank(l.rankLo)) {
					m.Fatalf("lane %s was handed out before %s, which ranks higher", key, other)
				}
			}
		}
	}
	for _, key := range keys {
		l := m.model.lanes[key]
		l.ready = now.Add(r.Lease)
		l.rankLo, l.rankHi = l.ready, l.ready
	}
	if !got.Next.IsZero() && !got.Next.After(now) {
		m.Fatalf("next %s is not in the future of %s", got.Next, now)
	}
	m.claimed = append(m.claimed, got.Msgs...)
}

// delivered checks the i-th message of a lane and counts its delivery.
func (m *machine) delivered(l *modelLane, i int, msg *store.Msg) {
	if i >= len(l.msgs) || l.msgs[i].id != string(msg.Body) {
		m.Fatalf("message %s of lane %s is not number %d", msg.Body, msg.Key, i)
	}
	mm := l.msgs[i]
	mm.counts++
	if i == 0 {
		mm.asHead++
	}
	if msg.Fails != mm.fails || msg.Attempt < max(1, mm.asHead) || msg.Attempt > max(1, mm.counts) {
		m.Fatalf("message %s: attempt %d, fails %d; want %d to %d, and %d",
			msg.Body, msg.Attempt, msg.Fails, max(1, mm.asHead), max(1, mm.counts), mm.fails)
	}
	if !msg.SentAt.Equal(mm.sent) || msg.Priority != l.prio {
		m.Fatalf("message %s: sent %s, priority %d; want %s, %d", msg.Body, msg.SentAt, msg.Priority, mm.sent, l.prio)
	}
}

func (m *machine) outcome() {
	if len(m.claimed) == 0 {
		return
	}
	// Mostly one of the newest, now and then one of long ago.
	back := rapid.SampledFrom([]int{1, 1, 1, 2, 2, 3, 4, 5, 9}).Draw(m.T, "back")
	msg := m.claimed[max(0, len(m.claimed)-back)]
	kind := rapid.SampledFrom([]string{"done", "done", "done", "retry", "yield", "dead"}).Draw(m.T, "outcome")
	c := store.Commit{Reason: "why"}
	if kind == "retry" || kind == "yield" {
		c.Delay = time.Duration(rapid.SampledFrom([]int{0, 3}).Draw(m.T, "delay")) * 100 * time.Millisecond
	}
	switch kind {
	case "done":
		c.Done = msg
	case "retry":
		c.Retry = msg
	case "yield":
		c.Yield = msg
	case "dead":
		c.Dead = msg
	}
	now := m.e.clock.Now()
	l := m.model.lanes[msg.Key]
	ours := l != nil && l.token == msg.Token && l.msgs[0].id == string(msg.Body)
	err := m.e.Commit(m.e.ctx(), &c)
	if ours && err != nil || !ours && !errors.Is(err, store.ErrLeaseLost) {
		m.Fatalf("%s of message %s: got %v, ours %t", kind, msg.Body, err, ours)
	}
	if !ours {
		return
	}
	switch head := l.msgs[0]; kind {
	case "dead", "done":
		if kind == "dead" {
			m.model.dead++
		}
		l.msgs = l.msgs[1:]
		l.held--
		if len(l.msgs) == 0 {
			delete(m.model.lanes, msg.Key)
		} else if l.held == 0 {
			l.next(now)
		}
	case "retry":
		head.fails++
		l.free(now.Add(c.Delay))
	case "yield":
		head.asHead--
		head.counts--
		l.free(now.Add(c.Delay))
	}
}

func (m *machine) extend() {
	now := m.e.clock.Now()
	var msgs, want []*store.Msg
	for _, msg := range m.claimed[max(0, len(m.claimed)-4):] {
		l := m.model.lanes[msg.Key]
		switch {
		case l == nil || l.token != msg.Token:
			want = append(want, msg)
		case !slices.ContainsFunc(l.msgs, func(mm *modelMsg) bool { return mm.id == string(msg.Body) }):
			continue // finished, in a session that goes on
		default:
			l.ready = now.Add(2 * time.Second)
			l.rankLo, l.rankHi = l.ready, l.ready
		}
		msgs = append(msgs, msg)
	}
	lost, err := m.e.Extend(m.e.ctx(), msgs, 2*time.Second)
	if err != nil {
		m.Fatalf("extend: %v", err)
	}
	if !slices.Equal(lost, want) {
		m.Fatalf("extend: lost %s, want %s", bodies(lost), bodies(want))
	}
}

// finish compares the numbers and then works everything that is left.
func (m *machine) finish() {
	all, err := m.e.Topics(m.e.ctx(), "")
	if err != nil {
		m.Fatalf("topics: %v", err)
	}
	var st store.TopicStat
	for _, x := range all {
		if x.Topic == m.topic {
			st = x
		}
	}
	var left int64
	for _, l := range m.model.lanes {
		left += int64(len(l.msgs))
	}
	if st.Depth != left || st.Lanes != int64(len(m.model.lanes)) || st.Dead != int64(m.model.dead) {
		m.Fatalf("depth %d, lanes %d, dead %d; want %d, %d, %d", st.Depth, st.Lanes, st.Dead, left, len(m.model.lanes), m.model.dead)
	}
	m.e.clock.Advance(time.Minute)
	for left > 0 {
		got, err := m.e.Claim(m.e.ctx(), store.ClaimRequest{Topic: m.topic, Owner: "z", Lanes: 2, PerLane: 100, Lease: time.Second})
		if err != nil || len(got.Msgs) == 0 {
			m.Fatalf("%d messages are stuck: %v", left, err)
		}
		for _, msg := range got.Msgs {
			if l := m.model.lanes[msg.Key]; l == nil || len(l.msgs) == 0 || l.msgs[0].id != string(msg.Body) {
				m.Fatalf("message %s of lane %s came out of turn", msg.Body, msg.Key)
			} else {
				l.msgs = l.msgs[1:]
			}
			if err := m.e.Commit(m.e.ctx(), &store.Commit{Done: msg}); err != nil {
				m.Fatalf("done: %v", err)
			}
			left--
		}
	}
}
