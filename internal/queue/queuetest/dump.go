package queuetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
)

func (s suite) dump(t *testing.T) {
	by := waybill.Principal{}
	dump := func(e *env, a *queue.Admin) string {
		e.Helper()
		var b bytes.Buffer
		if err := a.Dump(e.ctx(), topic, &b); err != nil {
			e.Fatalf("Dump: %v", err)
		}
		return b.String()
	}
	feed := func(e *env, a *queue.Admin, text string, want waybill.FeedResult) {
		e.Helper()
		got, err := a.Feed(e.ctx(), topic, strings.NewReader(text), false, by)
		if err != nil || got != want {
			e.Fatalf("Feed: %+v, %v; want %+v", got, err, want)
		}
	}
	s.group(t, map[string]func(*env){
		"dump, purge, edit, feed": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("poison")
			e.send("b", "b1", "b2", "b3")
			e.send("a", "a1", "a2", "<a3>\x00\xff")
			e.commit(store.Commit{Sends: []store.Send{{Topic: topic, Key: "later", Body: []byte("l"), Delay: time.Hour, Priority: 3}}})
			text := dump(e, a)
			if n := strings.Count(text, "\n"); n != 8 {
				e.Fatalf("%d lines, want 7 messages and a dead letter:\n%s", n, text)
			}
			// What is there already is not put there once more.
			feed(e, a, text, waybill.FeedResult{Skipped: 8})
			if _, err := a.Purge(e.ctx(), topic, false, by); err != nil {
				e.Fatal(err)
			}
			if _, err := a.Purge(e.ctx(), topic, true, by); err != nil {
				e.Fatal(err)
			}
			edited := strings.Replace(text, `"body":"a2"`, `"body":"a2 repaired"`, 1)
			if res, err := a.Feed(e.ctx(), topic, strings.NewReader(edited), true, by); err != nil || res.Sent != 7 || res.Buried != 1 || e.stat().Depth != 0 {
				e.Fatalf("a dry feed: %+v, %v, depth %d", res, err, e.stat().Depth)
			}
			feed(e, a, edited, waybill.FeedResult{Sent: 7, Buried: 1})
			feed(e, a, edited, waybill.FeedResult{Skipped: 8})
			got, err := e.Claim(e.ctx(), store.ClaimRequest{Topic: topic, Owner: "x", Lanes: 10, PerLane: 10, Lease: time.Minute})
			if err != nil {
				e.Fatal(err)
			}
			lanes := map[string]string{}
			for _, m := range got.Msgs {
				lanes[m.Key] += string(m.Body) + " "
			}
			if fmt.Sprint(lanes) != fmt.Sprint(map[string]string{"a": "a1 a2 repaired <a3>\x00\xff ", "b": "b1 b2 b3 "}) {
				e.Errorf("lanes after the feed: %q", lanes)
			}
			e.pass(time.Hour)
			got, err = e.Claim(e.ctx(), store.ClaimRequest{Topic: topic, Owner: "y", Lanes: 10, Lease: time.Minute})
			if err != nil {
				e.Fatal(err)
			}
			found := false
			for _, m := range got.Msgs {
				found = found || m.Key == "later" && m.Priority == 3
			}
			if !found {
				e.Errorf("the delayed message did not come when it was due: %v", got.Msgs)
			}
			if d := pages(e, 10, a.DeadLetters); len(d) != 1 || d[0].Body != "poison" || d[0].Reason == "" {
				e.Errorf("dead letters: %+v", d)
			}
		},
		"to another server and no second time": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.send("a", "1", "2")
			text := dump(e, a)
			other := &env{T: e.T, Store: s.open(e.T, Schema(), time.Now)}
			b := queue.NewAdmin(other.Store, 0)
			if _, err := b.Feed(e.ctx(), topic, strings.NewReader(text), false, by); !waybill.IsKind(err, waybill.KindNotFound) {
				e.Errorf("a topic that the other server does not know: %v", err)
			}
			other.send("x", "theirs")
			feed(e, b, text, waybill.FeedResult{Sent: 2})
			msgs, err := other.Claim(e.ctx(), store.ClaimRequest{Topic: topic, Owner: "n", Lanes: 10, PerLane: 10, Lease: time.Minute})
			if err != nil || len(msgs.Msgs) != 3 {
				e.Fatalf("the other server has %v, %v", msgs.Msgs, err)
			}
			for _, m := range msgs.Msgs {
				other.commit(store.Commit{Done: m})
			}
			// Also when all of it was dealt with.
			feed(e, b, text, waybill.FeedResult{Skipped: 2})
		},
		"an edited dead letter is sent again": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.bury("bad")
			text := dump(e, a)
			changed := strings.Replace(text, `"body":"bad"`, `"body":"less bad"`, 1)
			feed(e, a, changed, waybill.FeedResult{Changed: 1})
			if d := pages(e, 10, a.DeadLetters); len(d) != 1 || d[0].Body != "less bad" {
				e.Errorf("dead letters: %+v", d)
			}
			again := strings.Replace(changed, `"kind":"dead"`, `"kind":"message"`, 1)
			feed(e, a, again, waybill.FeedResult{Sent: 1})
			if st := e.stat(); st.Dead != 0 || st.Depth != 1 {
				e.Errorf("after it was sent: %+v", st)
			}
			feed(e, a, again, waybill.FeedResult{Skipped: 1})
			feed(e, a, changed, waybill.FeedResult{Skipped: 1})
		},
		"garbage does nothing": func(e *env) {
			a := queue.NewAdmin(e.Store, 0)
			e.send("a", "1")
			good := dump(e, a)
			if _, err := a.Purge(e.ctx(), topic, false, by); err != nil {
				e.Fatal(err)
			}
			var l waybill.QueueLine
			if err := json.Unmarshal([]byte(good), &l); err != nil {
				e.Fatal(err)
			}
			with := func(f func(*waybill.QueueLine)) string {
				c := l
				f(&c)
				b, err := json.Marshal(c)
				if err != nil {
					e.Fatal(err)
				}
				return string(b)
			}
			for _, bad := range []string{
				"not JSON", "{}", "[]", `"x"`, "null", good[:20], strings.TrimSpace(good) + " {}", `{"kind":"message","surprise":1}`,
				with(func(l *waybill.QueueLine) { l.Kind = "letter" }), with(func(l *waybill.QueueLine) { l.Topic = "other" }),
				with(func(l *waybill.QueueLine) { l.ID = "" }), with(func(l *waybill.QueueLine) { l.ID = "a/b" }), with(func(l *waybill.QueueLine) { l.Key = "" }),
				with(func(l *waybill.QueueLine) { l.Base64 = "eA==" }), with(func(l *waybill.QueueLine) { l.Body, l.Base64 = "", "%" }),
				with(func(l *waybill.QueueLine) { l.Priority = 1e6 }), strings.TrimSpace(good), // the same id once more
			} {
				_, err := a.Feed(e.ctx(), topic, strings.NewReader(good+"\n"+bad+"\n"), false, by)
				if !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "line 3") {
					e.Errorf("%q: %v; want an error that names line 3", bad, err)
				}
			}
			if st := e.stat(); st.Depth != 0 || st.Dead != 0 {
				e.Errorf("something was done: %+v", st)
			}
			feed(e, a, good, waybill.FeedResult{Sent: 1})
		},
	})
}
