package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

// many are deliveries through all stages, of 50 services for 5 rings.
func many(n int) []report {
	var out []report
	for i := range n {
		service, ring := i%50, []string{"dev", "test", "qa", "stage", "prod"}[i/50%5]
		build := i / 250
		at := noon.Add(time.Duration(i) * time.Minute)
		tag := fmt.Sprintf("s%d:%d", service, build)
		if ring == "dev" {
			out = append(out, report{Kind: "build", Run: "b" + tag, ImageTag: tag, Service: fmt.Sprintf("o/s%d", service), Commit: fmt.Sprintf("%07x%033d", service*1000+build, 1), Status: "succeeded", Time: noon.Add(time.Duration(build) * time.Hour)})
		}
		commit := fmt.Sprintf("%08x%032d", uint32(i)*2654435761, i)
		out = append(out,
			report{Kind: "config", Run: fmt.Sprint("c", i), ImageTag: tag, Ring: ring, ConfigCommit: commit, PullRequest: fmt.Sprint(i), Status: "succeeded", Time: at},
			report{Kind: "manifest", Run: fmt.Sprint("m", i), ConfigCommit: commit[:8], Status: "running", Time: at.Add(time.Second)},
			report{Kind: "run", Stage: "manifest", Run: fmt.Sprint("m", i), Status: "succeeded", ManifestCommit: "d" + commit[:39], Time: at.Add(2 * time.Second)},
			report{Kind: "sync", Cluster: ring, ManifestCommit: "d" + commit[:39], ClusterState: "healthy", Time: at.Add(3 * time.Second)})
	}
	return out
}

func report64(b testing.TB, s *delivery.Service, reports []report) {
	b.Helper()
	next := make(chan report)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for r := range next {
				if _, err := s.Report(context.Background(), r, waybill.Principal{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for _, r := range reports {
		next <- r
	}
	close(next)
	wg.Wait()
}

func BenchmarkReports(b *testing.B) {
	for name, open := range map[string]func(b *testing.B) store.Store{
		"sqlite": func(b *testing.B) store.Store { return lite(b) },
		"postgres": func(b *testing.B) store.Store {
			s, err := postgres.Open(b.Context(), pgtest.DSN(b), delivery.Tables(), postgres.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			return s
		},
	} {
		b.Run(name, func(b *testing.B) {
			s := delivery.New(delivery.Options{Store: open(b)})
			reports := many(b.N/4 + 1)[:b.N]
			b.ResetTimer()
			report64(b, s, reports)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reports/s")
		})
	}
}

func BenchmarkRebuild(b *testing.B) {
	s := delivery.New(delivery.Options{Store: lite(b)})
	reports := many(6000)
	report64(b, s, reports)
	for b.Loop() {
		if r, err := s.Rebuild(b.Context(), ""); err != nil || r.Fixed != 0 {
			b.Fatal(r, err)
		}
	}
	b.ReportMetric(float64(len(reports))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
