package queuetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

// bury makes dead letters of messages with keys of their own.
func (e *env) bury(bodies ...string) {
	e.Helper()
	for _, b := range bodies {
		e.send(b, b)
	}
	w := e.start(e.options("undertaker", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
		return nil, queue.Bury("no %s", m.Body)
	}))
	e.drained()
	w.Stop()
	e.pass(time.Second)
}

func (e *env) wantKind(what string, err error, kind waybill.Kind) {
	e.Helper()
	if !waybill.IsKind(err, kind) {
		e.Errorf("%s: got %v, want kind %s", what, err, kind)
	}
}

// pages reads a list to its end.
func pages(e *env, limit int, list func(ctx context.Context, topic string, limit int, cursor string) (waybill.Page[waybill.QueueMessage], error)) []waybill.QueueMessage {
	e.Helper()
	var all []waybill.QueueMessage
	for cursor, n := "", 0; ; n++ {
		p, err := list(e.ctx(), topic, limit, cursor)
		if err != nil || len(p.Items) > limit || n > 100 {
			e.Fatalf("page %d has %d items: %v", n, len(p.Items), err)
		}
		all = append(all, p.Items...)
		if cursor = p.Next; cursor == "" {
			return all
		}
	}
}

func (s suite) admin(t *testing.T) {
	by := waybill.Principal{}
	s.group(t, map[string]func(*env){
		"queues": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("x", "y")
			e.start(e.options("n", leave))
			e.send("a", "a1", "a2")
			e.settle()
			e.commit(store.Commit{Sends: []store.Send{{Topic: "other", Key: "k"}, {Topic: "other", Key: "l"}}})
			e.commit(store.Commit{Tenant: "foreign", Sends: []store.Send{{Topic: "theirs", Key: "k"}}})
			e.pass(3 * time.Second)
			if err := a.PauseQueue(e.ctx(), "other", true, by); err != nil {
				e.Fatal(err)
			}
			got, err := a.Queues(e.ctx())
			if err != nil {
				e.Fatal(err)
			}
			seen := map[string]waybill.QueueInfo{}
			for _, q := range got {
				seen[q.Topic] = q
			}
			if q := seen[topic]; q.Depth != 2 || q.Dead != 2 || q.Lanes != 1 || q.Leased != 1 || q.Paused {
				e.Errorf("topic in work: %+v", q)
			}
			want := waybill.QueueInfo{Topic: "other", Depth: 2, Lanes: 2, OldestAge: 3, Paused: true}
			if q := seen["other"]; q != want {
				e.Errorf("topic that waits: got %+v, want %+v", q, want)
			}
			if _, ok := seen["theirs"]; ok || len(got) != 2+len(queue.Topics()) {
				e.Errorf("queues: %+v, want ours and those of the program", got)
			}
		},
		"messages": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			if _, err := a.Messages(e.ctx(), "nothing", 0, ""); true {
				e.wantKind("Messages of an unknown topic", err, waybill.KindNotFound)
			}
			for _, t := range queue.Topics() { // they exist before their first message
				if p, err := a.Messages(e.ctx(), t, 0, ""); err != nil || len(p.Items) != 0 || p.Items == nil {
					e.Errorf("topic %s: %v, %v", t, p, err)
				}
			}
			e.start(e.options("n", leave))
			e.send("a", "a1", "a2")
			e.settle()
			at := time.Now()
			e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: "b", Body: []byte("b1"), Delay: time.Hour, Priority: 3}}})
			var got log
			for _, m := range pages(e, 1, a.Messages) {
				got.add("%s/%s#%d+%d:%t:%s", m.Topic, m.Key, m.Seq, m.Priority, m.Leased, m.Owner)
				switch m.Body {
				case "a1":
					if m.Attempt != 1 || !m.ReadyAt.Equal(at.Add(lease)) {
						e.Errorf("a1: attempt %d, held until %s", m.Attempt, m.ReadyAt)
					}
				case "b1":
					if !m.SentAt.Equal(at) || !m.ReadyAt.Equal(at.Add(time.Hour)) {
						e.Errorf("b1: sent at %s, ready at %s", m.SentAt, m.ReadyAt)
					}
				}
			}
			e.want("messages", got.String(), "job/a#1+0:true:n job/a#2+0:true:n job/b#1+3:false:")
			if _, err := a.Messages(e.ctx(), topic, 10, "rubbish"); err == nil {
				e.Error("a bad cursor was accepted")
			}
		},
		"dead letters": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("1")
			e.bury("2")
			e.bury("3")
			var got log
			for _, m := range pages(e, 2, a.DeadLetters) {
				got.add("%s:%s", m.Body, strings.ReplaceAll(m.Reason, " ", "_"))
				if m.ID == "" || m.Key != m.Body || m.DeadAt.IsZero() || m.Attempt != 1 {
					e.Errorf("dead letter %+v", m)
				}
			}
			e.want("the newest first", got.String(), "3:no_3 2:no_2 1:no_1")
			_, err := a.DeadLetters(e.ctx(), "nothing", 0, "")
			e.wantKind("an unknown topic", err, waybill.KindNotFound)
		},
		"redrive": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("1", "2", "3")
			letters := pages(e, 10, a.DeadLetters)
			ids := map[string]string{}
			for _, l := range letters {
				ids[l.Body] = l.ID
			}
			n, err := a.Redrive(e.ctx(), topic, []string{ids["2"], "0000", ids["3"]}, by)
			e.wantKind("an unknown id", err, waybill.KindNotFound)
			if n != 1 {
				e.Errorf("%d were sent before the unknown one, want 1", n)
			}
			n, err = a.Redrive(e.ctx(), topic, []string{ids["2"]}, by)
			e.wantKind("one that was sent again", err, waybill.KindNotFound)
			if n != 0 {
				e.Errorf("%d were sent", n)
			}
			_, err = a.Redrive(e.ctx(), "nothing", nil, by)
			e.wantKind("an unknown topic", err, waybill.KindNotFound)
			e.start(e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				if m.Attempt != 1 || m.Fails != 0 || m.Key != string(m.Body) {
					e.Errorf("message %s/%s: attempt %d, fails %d", m.Key, m.Body, m.Attempt, m.Fails)
				}
				return done(m)
			}))
			e.settle()
			e.wantEffects("2")
			if n, err := a.Redrive(e.ctx(), topic, nil, by); n != 2 || err != nil {
				e.Errorf("the rest: %d, %v", n, err)
			}
			e.settle()
			e.wantEffects("1", "2", "3")
			if n, err := a.Redrive(e.ctx(), topic, nil, by); n != 0 || err != nil {
				e.Errorf("nothing: %d, %v", n, err)
			}
		},
		"redrive one id twice": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("1", "2")
			l := pages(e, 10, a.DeadLetters)
			if n, err := a.Redrive(e.ctx(), topic, []string{l[0].ID, l[0].ID, l[1].ID}, by); n != 2 || err != nil {
				e.Errorf("got %d, %v, want 2 letters sent", n, err)
			}
		},
		"redrive by two at once": func(e *env) {
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprint(i))
			}
			e.bury(want...)
			var sent atomic.Int64
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					n, err := queue.NewAdmin(e.Store, 0).Redrive(e.ctx(), topic, nil, by)
					if err != nil {
						e.Errorf("Redrive: %v", err)
					}
					sent.Add(int64(n))
				})
			}
			wg.Wait()
			if d := e.stat(); sent.Load() != 20 || d.Depth != 20 || d.Dead != 0 {
				e.Errorf("%d were sent, %d wait, %d are dead; want 20, 20 and none", sent.Load(), d.Depth, d.Dead)
			}
			e.start(e.options("n", done2))
			e.drained()
			e.wantEffects(want...)
		},
		"letters that die again are not sent for ever": func(e *env) {
			e.bury("1", "2", "3")
			var calls atomic.Int32
			e.start(e.options("n", func(_ context.Context, m *store.Msg) (*store.Commit, error) {
				calls.Add(1)
				return nil, queue.Bury("again")
			}))
			// Each letter is dead again before the next one is sent.
			slow := &pacing{Store: e.Store}
			n, err := queue.NewAdmin(slow, 0).Redrive(e.ctx(), topic, nil, by)
			if n != 3 || err != nil {
				e.Errorf("got %d, %v, want 3", n, err)
			}
			e.settle()
			if got := e.letters(); len(got) != 3 || calls.Load() != 3 {
				e.Errorf("%d dead letters after %d calls, want 3 after 3: %s", len(got), calls.Load(), show(got))
			}
		},
		"redrive keeps what it could not send": func(e *env) {
			e.bury("1", "2", "3")
			n := e.node()
			n.fail(sound, before)
			sent, err := queue.NewAdmin(n, 0).Redrive(e.ctx(), topic, nil, by)
			if sent != 1 || !errors.Is(err, errCut) {
				e.Errorf("got %d, %v", sent, err)
			}
			if st := e.stat(); st.Depth != 1 || st.Dead != 2 {
				e.Errorf("%d wait and %d are dead", st.Depth, st.Dead)
			}
		},
		"purge": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("1", "2", "3")
			e.start(e.options("n", leave))
			e.send("held", "h1", "h2")
			e.settle()
			if err := a.PauseQueue(e.ctx(), topic, true, by); err != nil {
				e.Fatal(err)
			}
			e.send("a", "a1", "a2")
			e.send("b", "b1")
			if n, err := a.Purge(e.ctx(), topic, false, by); n != 3 || err != nil {
				e.Errorf("Purge: %d, %v, want 3", n, err)
			}
			if st := e.stat(); st.Depth != 2 || st.Dead != 3 {
				e.Errorf("%d wait and %d are dead, want what is in work and the dead", st.Depth, st.Dead)
			}
			if n, err := a.Purge(e.ctx(), topic, true, by); n != 3 || err != nil {
				e.Errorf("Purge of the dead: %d, %v, want 3", n, err)
			}
			if st := e.stat(); st.Depth != 2 || st.Dead != 0 {
				e.Errorf("%d wait and %d are dead, want what is in work", st.Depth, st.Dead)
			}
			_, err := a.Purge(e.ctx(), "nothing", true, by)
			e.wantKind("an unknown topic", err, waybill.KindNotFound)
		},
		"pause": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.wantKind("an unknown topic", a.PauseQueue(e.ctx(), "nothing", true, by), waybill.KindNotFound)
			e.send("a", "a1")
			if err := a.PauseQueue(e.ctx(), topic, true, by); err != nil {
				e.Fatal(err)
			}
			e.start(e.options("n", done2))
			e.pass(time.Minute)
			e.wantEffects()
			if err := a.PauseQueue(e.ctx(), topic, false, by); err != nil {
				e.Fatal(err)
			}
			e.pass(poll)
			e.wantEffects("a1")
		},
		"work is refused above the mark": func(e *env) {
			a := queue.NewAdmin(e.Store, 3)
			admit := func() error { e.pass(time.Second); return a.Admit(e.ctx(), topic) }
			e.send("a", "1", "2")
			if err := admit(); err != nil {
				e.Errorf("below the mark: %v", err)
			}
			e.send("b", "3")
			err := admit()
			e.wantKind("at the mark", err, waybill.KindExhausted)
			var w *waybill.Error
			if !errors.As(err, &w) || w.RetryAfter <= 0 || !strings.Contains(err.Error(), topic) {
				e.Errorf("the refusal %q must name the topic and when to try again", err)
			}
			if err := a.Admit(e.ctx(), "other"); err != nil {
				e.Errorf("another topic: %v", err)
			}
			e.start(e.options("n", done2)) // what was accepted is worked on all the same
			e.drained()
			if err := admit(); err != nil {
				e.Errorf("when it was worked off: %v", err)
			}
		},
	})
}

// pacing makes time for the workers after each commit.
type pacing struct{ store.Store }

func (p *pacing) Commit(ctx context.Context, c *store.Commit) error {
	err := p.Store.Commit(ctx, c)
	time.Sleep(5 * time.Millisecond)
	return err
}
