package queuetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// task is the body of a message in the model: what its handler does.
type task struct {
	ID    string        `json:"id"`
	Do    string        `json:"do"`
	Times int           `json:"times"` // how often it fails first
	Takes time.Duration `json:"takes"`
	Deaf  bool          `json:"deaf"` // does not look at its context
}

// dies says whether the message must end as a dead letter.
func (t task) dies() bool {
	return t.Do == "bury" || (t.Do == "fail" || t.Do == "panic") && t.Times >= modelFails
}

const (
	modelFails  = 3
	modelOwners = 3
)

// model lets several servers work on one store while they are killed, paused,
// stopped and started again and lose the answers of the store. In the end every
// message has had its effect once and in its turn, or is a dead letter.
func (s suite) model(t *testing.T) {
	t.Parallel()
	s.bubble(t, func(e *env) {
		runs := 0
		rapid.Check(noDeadline{e.T}, func(rt *rapid.T) {
			runs++
			m := &machine{T: rt, e: e, topic: fmt.Sprint("m", runs), book: newBook(), sent: map[string][]task{}}
			defer m.close()
			for range rapid.IntRange(5, 40).Draw(rt, "steps") {
				m.step()
			}
			m.finish()
		})
	})
}

type machine struct {
	*rapid.T
	e       *env
	topic   string
	book    *book
	servers [modelOwners]*server
	old     []*queue.Worker // of servers that were killed; they may still be running
	nodes   []*node
	n       int
	sent    map[string][]task // by key, in order
}

// server is a life of an owner.
type server struct {
	*node
	worker *queue.Worker
}

func (m *machine) step() {
	i := rapid.IntRange(0, modelOwners-1).Draw(m.T, "server")
	switch rapid.SampledFrom([]string{
		"send", "send", "send", "time", "time", "time", "start", "start", "start", "stop", "kill", "pause", "wake", "fault", "fault",
	}).Draw(m.T, "step") {
	case "send":
		m.send()
	case "time":
		m.e.pass(time.Duration(rapid.SampledFrom([]int{1, 300, 1000, 4000, 16000}).Draw(m.T, "ms")) * time.Millisecond)
	case "start":
		m.start(i)
	case "stop":
		if s := m.servers[i]; s != nil {
			s.worker.Stop()
			m.servers[i] = nil
		}
	case "kill": // its goroutines go on as a ghost's, cut off
		if s := m.servers[i]; s != nil {
			s.cut()
			m.old = append(m.old, s.worker)
			m.servers[i] = nil
		}
	case "pause":
		if s := m.servers[i]; s != nil {
			s.cut()
		}
	case "wake": // a paused server, or the ghost of a killed one
		if len(m.nodes) > 0 {
			rapid.SampledFrom(m.nodes).Draw(m.T, "node").heal()
		}
	case "fault":
		if s := m.servers[i]; s != nil {
			s.fail(rapid.SliceOfN(rapid.SampledFrom([]fault{sound, before, after, late}), 1, 4).Draw(m.T, "faults")...)
		}
	}
}

func (m *machine) send() {
	var c store.Commit
	for range rapid.IntRange(1, 4).Draw(m.T, "messages") {
		m.n++
		key := fmt.Sprint(m.topic, "-", rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.T, "key"))
		t := task{
			ID:    fmt.Sprint(m.topic, "-", m.n),
			Do:    rapid.SampledFrom([]string{"", "", "", "", "fail", "panic", "bury", "yield", "conflict"}).Draw(m.T, "do"),
			Times: rapid.IntRange(1, modelFails).Draw(m.T, "times"),
			Takes: time.Duration(rapid.SampledFrom([]int{0, 0, 0, 100, 2000, 20000}).Draw(m.T, "takes")) * time.Millisecond,
			Deaf:  rapid.Bool().Draw(m.T, "deaf"),
		}
		body, err := json.Marshal(t)
		if err != nil {
			m.Fatal(err)
		}
		m.sent[key] = append(m.sent[key], t)
		c.Sends = append(c.Sends, store.Send{Topic: m.topic, Key: key, Body: body, Priority: rapid.IntRange(0, 1).Draw(m.T, "priority")})
	}
	if err := m.e.Commit(m.e.ctx(), &c); err != nil {
		m.Fatalf("send: %v", err)
	}
}

func (m *machine) start(i int) {
	if m.servers[i] != nil {
		return
	}
	n := &node{Store: m.e.Store, book: m.book}
	o := m.e.options(fmt.Sprint("owner", i), m.handler(n))
	o.Store, o.Topic, o.MaxFails, o.MaxDeliveries = n, m.topic, modelFails, -1
	o.Slots = rapid.IntRange(1, 3).Draw(m.T, "slots")
	o.PerLane = rapid.IntRange(1, 3).Draw(m.T, "per lane")
	w, err := queue.Start(m.e.ctx(), o)
	if err != nil {
		m.Fatalf("start: %v", err)
	}
	m.servers[i] = &server{n, w}
	m.nodes = append(m.nodes, n)
}

// handler works through a node, so that a server that was cut off sees nothing.
func (m *machine) handler(n *node) queue.Handler {
	view := &env{T: m.e.T, Store: n}
	return func(ctx context.Context, msg *store.Msg) (*store.Commit, error) {
		var t task
		if err := json.Unmarshal(msg.Body, &t); err != nil {
			return nil, err
		}
		if t.Takes > 0 {
			timer := time.NewTimer(t.Takes)
			defer timer.Stop()
			if t.Deaf {
				<-timer.C
			} else {
				select {
				case <-timer.C:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
		}
		switch {
		case t.Do == "fail" && msg.Fails < t.Times:
			return nil, errors.New("it fails")
		case t.Do == "panic" && msg.Fails < t.Times:
			panic("it panics")
		case t.Do == "bury":
			return nil, queue.Bury("never")
		case t.Do == "yield" && msg.Attempt == 1 && time.Since(msg.SentAt) < time.Minute:
			return nil, queue.Yield(3*time.Second, "later")
		}
		one := *msg
		one.Body = []byte(t.ID)
		put, err := view.line(ctx, &one)
		if err != nil {
			return nil, err
		}
		if t.Do == "conflict" && put.Rev%2 == 1 {
			// Somebody else changes the row in between, once.
			same := put
			same.Val, _ = json.Marshal(m.lineOf(msg.Key))
			if err := m.e.Commit(ctx, &store.Commit{Puts: []store.Put{same}}); err != nil && !errors.Is(err, store.ErrConflict) {
				return nil, err
			}
		}
		return &store.Commit{Puts: []store.Put{effect(&one), put}}, nil
	}
}

func (m *machine) lineOf(key string) []string {
	bodies, _, err := m.e.readLine(m.e.ctx(), key)
	if err != nil {
		m.e.Errorf("line %s: %v", key, err)
	}
	return bodies
}

func (m *machine) depth() int64 {
	all, err := m.e.Topics(m.e.ctx(), "")
	if err != nil {
		m.Fatalf("topics: %v", err)
	}
	for _, s := range all {
		if s.Topic == m.topic {
			return s.Depth
		}
	}
	return 0
}

// finish heals everything, has what is left worked off, and looks at the result.
func (m *machine) finish() {
	for _, n := range m.nodes {
		n.heal()
	}
	for i := range m.servers {
		m.start(i)
	}
	for i := 0; m.depth() > 0; i++ {
		if i == 1000 {
			m.Fatalf("%d messages are stuck", m.depth())
		}
		m.e.pass(10 * time.Second)
	}
	m.close()
	if err := m.book.err(); err != nil {
		m.Fatalf("leases: %v", err)
	}
	dead := map[string]int{}
	for _, l := range m.deadOfTopic() {
		dead[l]++
	}
	for key, tasks := range m.sent {
		var want []string
		for _, t := range tasks {
			row, err := m.e.Get(m.e.ctx(), "", "effect", t.ID)
			switch {
			case t.dies() && (dead[t.ID] != 1 || !errors.Is(err, store.ErrNotFound)):
				m.Fatalf("message %+v: %d dead letters, effect %v", t, dead[t.ID], err)
			case !t.dies() && (dead[t.ID] != 0 || err != nil || row.Rev != 1):
				m.Fatalf("message %+v: %d dead letters, effect written %d times, %v", t, dead[t.ID], row.Rev, err)
			case !t.dies():
				want = append(want, t.ID)
			}
		}
		if got := m.lineOf(key); !slices.Equal(got, want) {
			m.Fatalf("lane %s: worked on %v, sent %v", key, got, want)
		}
	}
}

func (m *machine) deadOfTopic() []string {
	rows, err := m.e.Scan(m.e.ctx(), "", store.DeadTable, m.topic+"/", 0)
	if err != nil {
		m.Fatalf("dead letters: %v", err)
	}
	var out []string
	for _, r := range rows {
		var l store.DeadLetter
		var t task
		if err := errors.Join(json.Unmarshal(r.Val, &l), json.Unmarshal(l.Body, &t)); err != nil {
			m.Fatalf("dead letter %s: %v", r.Val, err)
		}
		if !strings.Contains(l.Reason, "never") && !strings.Contains(l.Reason, "failed") {
			m.Fatalf("dead letter %s: reason %q", t.ID, l.Reason)
		}
		out = append(out, t.ID)
	}
	return out
}

// close ends every worker, ghosts too.
func (m *machine) close() {
	for _, n := range m.nodes {
		n.heal()
	}
	for i, s := range m.servers {
		if s != nil {
			s.worker.Stop()
			m.servers[i] = nil
		}
	}
	for _, w := range m.old {
		w.Stop()
	}
	m.old = nil
	synctest.Wait()
}

// noDeadline hides the deadline of the test binary, which has no meaning in the
// time of a bubble.
type noDeadline struct{ *testing.T }
