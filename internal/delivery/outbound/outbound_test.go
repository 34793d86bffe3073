package outbound_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound/outboundtest"
	"github.com/waybill-run/waybill/internal/queue"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// teller tells a receiver the status of each deployment.
type teller struct{ url, key string }

func (teller) Name() string { return "teller" }

func (s teller) Plan(_ context.Context, c outbound.Change) (out []outbound.Message, err error) {
	for _, d := range c.Deployments {
		b, err := json.Marshal(d.ID + " " + string(d.Status))
		if err != nil {
			return nil, err
		}
		out = append(out, outbound.Message{ID: string(b), Lane: d.ID, Body: b})
	}
	return out, nil
}

func (s teller) Send(ctx context.Context, m outbound.Message) error {
	return outbound.Post(ctx, http.DefaultClient, http.MethodPost, s.url, http.Header{"Authorization": {"Bearer " + s.key}}, m.Body)
}

func TestSuite(t *testing.T) {
	t.Parallel()
	outboundtest.Run(t, outboundtest.Case{
		New: func(_ *testing.T, url, secret string) outbound.Sink { return teller{url, secret} },
		Change: outbound.Change{Partition: "default", Event: waybill.DeliveryEvent{ID: "e", Seq: 1}, Action: waybill.ActionInserted,
			Deployments: []waybill.Deployment{{ID: "aaaaaaaaaaaa", Status: waybill.DeploymentComplete}}},
	})
}

type world struct {
	t     *testing.T
	store store.Store
	d     *delivery.Service
	r     *outboundtest.Receiver
	o     outbound.Options
}

func newWorld(t *testing.T) *world {
	t.Parallel()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"), slices.Concat(delivery.Tables(), outbound.Tables(), queue.Tables()), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, store: s, d: delivery.New(delivery.Options{Store: s}), r: outboundtest.NewReceiver(t)}
	w.o = outbound.Options{
		Store: s, Log: w.d, Sinks: []outbound.Sink{teller{w.r.URL, "k"}}, Owner: "n1", Pace: 5 * time.Millisecond,
		Backoff: func(int) time.Duration { return 5 * time.Millisecond },
	}
	return w
}

func (w *world) start() *outbound.Outbound {
	w.t.Helper()
	o, err := outbound.Start(w.t.Context(), w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(o.Stop)
	return o
}

func (w *world) report(r waybill.DeliveryReport) waybill.Deployment {
	w.t.Helper()
	res, err := w.d.Report(w.t.Context(), r, waybill.Principal{Name: "test"})
	if err != nil || len(res.Deployments) == 0 {
		w.t.Fatalf("%+v, %v", res, err)
	}
	return res.Deployments[0]
}

func (w *world) hears(want ...string) {
	w.t.Helper()
	var got []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		got = nil
		for _, q := range w.r.Got() {
			var s string
			if err := json.Unmarshal(q.Body, &s); err != nil {
				w.t.Fatal(err)
			}
			got = append(got, s)
		}
		if slices.Equal(got, want) {
			return
		}
	}
	w.t.Fatalf("told %q, want %q", got, want)
}

func build(tag string, status waybill.Outcome) waybill.DeliveryReport {
	return waybill.DeliveryReport{Kind: waybill.ReportBuild, Service: "app", ImageTag: tag, Run: "1" + tag, Status: status}
}

// What happened before a sink was there is not told; everything after it is, once, in the
// order of each deployment, whatever is reported twice.
func TestTells(t *testing.T) {
	w := newWorld(t)
	w.report(build("app:0", waybill.StatusSucceeded))
	w.start()
	d := w.report(build("app:1", waybill.StatusRunning))
	w.hears(d.ID + " in_progress")
	w.report(build("app:1", waybill.StatusFailed))
	w.hears(d.ID+" in_progress", d.ID+" failed")
	w.report(build("app:1", waybill.StatusFailed))
	r := build("app:1", "")
	r.URL = "http://ci/1" // news that are none for the receiver
	w.report(r)
	// A partition that begins later is told from its beginning.
	r = build("app:2", waybill.StatusRunning)
	r.Partition = "other/one"
	e := w.report(r)
	w.hears(d.ID+" in_progress", d.ID+" failed", e.ID+" in_progress")
}

// A receiver that is away hears it when it is back, and one that refuses for good makes a
// dead letter.
func TestAwayAndRefused(t *testing.T) {
	w := newWorld(t)
	w.r.Answer(outboundtest.Answer{Status: 500}, outboundtest.Answer{Status: 503}, outboundtest.Answer{Status: 200}, outboundtest.Answer{Status: 422, Body: "not that"})
	w.start()
	d := w.report(build("app:1", waybill.StatusRunning))
	told := d.ID + " in_progress"
	w.hears(told, told, told)
	e := w.report(build("app:2", waybill.StatusRunning))
	w.hears(told, told, told, e.ID+" in_progress")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		dead, err := queue.NewAdmin(w.store, 0).DeadLetters(t.Context(), outbound.Topic, 10, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(dead.Items) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dead letters: %+v", dead.Items)
		}
	}
}

// Reports that come in while no server runs, and while several do, are told once each.
func TestSeveralServers(t *testing.T) {
	w := newWorld(t)
	w.start().Stop()
	w.report(build("app:0", waybill.StatusRunning))
	w.start()
	w.o.Owner = "n2"
	w.start()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if _, err := w.d.Report(t.Context(), build(fmt.Sprint("app:x", i), waybill.StatusRunning), waybill.Principal{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]int{}
	for deadline := time.Now().Add(10 * time.Second); len(seen) < 31 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		clear(seen)
		for _, q := range w.r.Got() {
			seen[string(q.Body)]++
		}
	}
	if len(seen) != 31 {
		t.Errorf("told of %d deployments, want 31", len(seen))
	}
	for what, n := range seen {
		if n != 1 {
			t.Errorf("%s was told %d times", what, n)
		}
	}
}

// Two sinks of one name cannot be told apart.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.o.Sinks = append(w.o.Sinks, w.o.Sinks[0])
	if _, err := outbound.Start(t.Context(), w.o); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("%v", err)
	}
}
