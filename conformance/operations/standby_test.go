//go:build linux

package operations

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

// The primary dies under load and its synchronous standby is promoted: the server
// finds it by itself, every start that was answered 202 has its run, and none has two.
func TestStandbyPromoted(t *testing.T) {
	t.Parallel()
	p := pgtest.NewPair(t, true)
	s := harness.New(t, harness.Options{Store: p.DSN(), Project: project})
	c := s.Client()
	l := start(t, s.NewClient(client.Options{RetryFor: 2 * time.Minute}), 4, "sim")
	harness.Until(t, soon, "there is load", func() error { return atLeast(l, 40) })
	out, err := try(s.Command("doctor"))
	if !strings.Contains(out, "1 standbys") || !strings.Contains(out, " sync") {
		t.Errorf("doctor does not tell of the standby: %v\n%s", err, out)
	}
	p.KillPrimary()
	died := time.Now()
	p.Promote()
	promoted := time.Now()
	before := count(l)
	harness.Until(t, soon, "starts are accepted again", func() error { return atLeast(l, before+40) })
	t.Logf("promoted %v after the death of the primary, 40 more starts %v after that", promoted.Sub(died).Round(time.Millisecond), time.Since(promoted).Round(time.Millisecond))
	ids := l.end()
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] {
			t.Errorf("run %s was given to two starts", id)
		}
		seen[id] = true
	}
	finish(t, c, ids...)
	was := finished(t, c)
	same(t, c, was)
	// No start made two runs: there are no more than were asked for. A start whose
	// answer was lost when the load ended may have one that nobody was told of.
	if n := len(was); n > len(ids)+4 {
		t.Errorf("%d runs for %d starts", n, len(ids))
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

// With a standby that nobody waits for the latest work can be lost: the doctor says so.
func TestDoctorWarnsOfAsynchronousStandby(t *testing.T) {
	t.Parallel()
	p := pgtest.NewPair(t, false)
	s := harness.New(t, harness.Options{Store: p.DSN(), Project: project})
	harness.Until(t, soon, "the doctor sees the standby", func() error {
		l, err := s.Client().Doctor(context.Background(), true)
		if err != nil {
			return err
		}
		for _, f := range l.Items {
			if f.Check == "store.standby" && f.Status == client.FindingStatusWarn && strings.Contains(f.Detail, "lost") && f.Hint != "" {
				return nil
			}
		}
		return &waybill.Error{Msg: "no warning"}
	})
}

func count(l *load) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ids)
}

func atLeast(l *load, n int) error {
	if have := count(l); have < n {
		return waybill.E(waybill.KindInternal, "%d starts of %d", have, n)
	}
	return nil
}
