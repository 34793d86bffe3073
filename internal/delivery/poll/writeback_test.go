package poll

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/outbound"
	"github.com/waybill-run/waybill/internal/delivery/outbound/outboundtest"
	"github.com/waybill-run/waybill/internal/delivery/provider"
	"github.com/waybill-run/waybill/internal/delivery/provider/providertest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

// until waits for something that another goroutine does.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: it did not happen", what)
		case <-tick.C:
		}
	}
}

// The sink keeps what the contract of sinks promises.
func TestF78_Sink(t *testing.T) {
	outboundtest.Run(t, outboundtest.Case{
		New: func(t *testing.T, address, secret string) outbound.Sink {
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			b.conf.Sources = []Source{{Name: "it", Kind: provider.GitHub, URL: u, Token: secret, Status: "commit", Repositories: []string{"https://github.com/acme/*"}}}
			return b.start().p.Writeback()
		},
		Change: outbound.Change{Partition: "default", Deployments: []waybill.Deployment{{
			ID: "0123456789ab", Partition: "default", Ring: "dev", Commit: digest("c"), SourceRepo: "https://github.com/acme/app", Status: waybill.DeploymentComplete, Reason: "the manifests were made",
		}}},
	})
}

func TestF78_StatusWrittenBack(t *testing.T) {
	for _, c := range []struct{ kind, mode, repo string }{
		{provider.GitHub, "commit", "acme/app"}, {provider.GitHub, "deployment", "acme/app"}, {provider.GitLab, "commit", "group/app"}, {provider.GitLab, "deployment", "group/app"},
		{provider.GitHub, "", "acme/app"},
	} {
		t.Run(c.kind+" "+c.mode, func(t *testing.T) {
			b := newBench(t)
			var err error
			schema := append(append(delivery.Tables(), Tables()...), outbound.Tables()...)
			path := t.TempDir() + "/store.db"
			if b.st, err = sqlite.Open(t.Context(), path, schema, sqlite.Options{}); err != nil {
				t.Fatal(err)
			}
			b.d = delivery.New(delivery.Options{Store: b.st})
			w := providertest.NewWorld(c.repo)
			w.Token = "t0ken"
			b.source("it", c.kind, w, func(s *Source) { s.Status = c.mode })
			b.now = time.Now()
			b.start()
			begin := func() *outbound.Outbound {
				o, err := outbound.Start(t.Context(), outbound.Options{
					Store: b.st, Log: b.d, Sinks: []outbound.Sink{b.p.Writeback()}, Owner: "test", Pace: 5 * time.Millisecond,
					Backoff: func(int) time.Duration { return 10 * time.Millisecond },
				})
				if err != nil {
					t.Fatal(err)
				}
				return o
			}
			out := begin()
			w.Break("", providertest.Fault{Status: 502}) // what is told waits until it can be
			b.deliver(b.hosts["it"], w, 1, "complete")
			b.tell(report{Kind: waybill.ReportRun, Time: time.Now(), Stage: waybill.StageManifest, Run: "3001", Status: waybill.StatusSucceeded})
			if c.mode == "" {
				until(t, "the event is read", func() bool {
					var at int64
					row, err := b.st.Get(t.Context(), "", "delivery_out", delivery.DefaultPartition)
					if err == nil && len(row.Val) > 8 {
						at = int64(row.Val[7] - '0')
					}
					return at == b.events()
				})
				if n := len(w.Written()); n != 0 || len(w.Calls()) != 0 {
					t.Errorf("%d written although nobody asked for it, calls %q", n, w.Calls())
				}
				out.Stop()
				return
			}
			until(t, "a try", func() bool { return len(w.Calls()) > 0 })
			out.Stop() // what waits is in the queue
			w.Break("", providertest.Fault{})
			out = begin()
			defer out.Stop()
			success := func() bool {
				for _, x := range w.Written() {
					if x.Body["state"] == "success" || x.Body["status"] == "success" {
						return true
					}
				}
				return false
			}
			until(t, "a status", success)
			for _, x := range w.Written() {
				if c.mode == "commit" && (x.Path != "/statuses/"+digest("c1") || x.Body["context"] != "waybill/dev" && x.Body["name"] != "waybill/dev") {
					t.Errorf("%+v", x)
				}
			}
			n := len(w.Written())
			b.tell(report{Kind: waybill.ReportRun, Time: time.Now(), Stage: waybill.StageManifest, Run: "3001", Status: waybill.StatusSucceeded, URL: "https://ci.example.com/3001"})
			b.deliver(b.hosts["it"], w, 2, "complete") // what comes after it
			until(t, "the next", func() bool {
				for _, x := range w.Written()[n:] {
					if x.Path == "/statuses/"+digest("c2") || c.mode == "deployment" {
						return true
					}
				}
				return false
			})
		})
	}
}
