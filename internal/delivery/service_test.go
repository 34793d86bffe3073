package delivery_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/store"
	"github.com/waybill-run/waybill/internal/store/postgres"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
	"github.com/waybill-run/waybill/internal/store/sqlite"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func lite(t testing.TB) store.Store {
	s, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "store.db"), delivery.Tables(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// stores calls f with every store there is.
func stores(t *testing.T, f func(t *testing.T, s store.Store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, lite(t)) })
	t.Run("postgres", func(t *testing.T) {
		s, err := postgres.Open(t.Context(), pgtest.DSN(t), delivery.Tables(), postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		f(t, s)
	})
}

type report = waybill.DeliveryReport

// tell reports one after another, a minute apart where they name no time.
func tell(t testing.TB, s *delivery.Service, reports ...report) waybill.ReportResult {
	t.Helper()
	var res waybill.ReportResult
	for _, r := range reports {
		var err error
		if res, err = s.Report(context.Background(), r, waybill.Principal{Name: "ci"}); err != nil {
			t.Fatalf("%s: %v", r.Kind, err)
		}
	}
	return res
}

func list(t fataler, s *delivery.Service, f waybill.DeploymentFilter) []waybill.Deployment {
	t.Helper()
	var out []waybill.Deployment
	for {
		page, err := s.Deployments(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Items...)
		if f.Cursor = page.Next; f.Cursor == "" {
			return out
		}
	}
}

// world draws reports whose meaning is beyond doubt, with the rows that they stand for.
func world(t *rapid.T) (reports []report, want []string) {
	clock := noon
	at := func() time.Time { clock = clock.Add(time.Second); return clock }
	commit := func(n int) string { return fmt.Sprintf("%07x%033d", n*7919+1, n) }
	cut := func(c string) string { return c[:rapid.SampledFrom([]int{7, 8, 40}).Draw(t, "digits")] }
	number := 100
	next := func() int { number++; return number }
	for s := range rapid.IntRange(1, 3).Draw(t, "services") {
		service := fmt.Sprintf("owner/s%d", s)
		for b := range rapid.IntRange(1, 2).Draw(t, "builds") {
			tag, run, source := fmt.Sprintf("s%d:%d", s, b), next(), commit(next())
			reports = append(reports, report{Kind: "build", Run: fmt.Sprint(run), ImageTag: tag, Service: service, Commit: source, Time: at()})
			rings := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"dev", "qa", "prod"}), 0, 3, rapid.ID).Draw(t, "rings")
			if len(rings) == 0 {
				want = append(want, fmt.Sprint(service, " - ", tag, " ", source, " - -"))
			}
			for _, ring := range rings {
				direct := rapid.Bool().Draw(t, "direct")
				p2, p3, pr := next(), next(), fmt.Sprint(next())
				branch, merge, manifest := commit(next()), commit(next()), commit(next())
				if direct {
					reports = append(reports,
						report{Kind: "manifest", Run: fmt.Sprint(p3), ImageTag: tag, Ring: ring, Time: at()},
						report{Kind: "run", Stage: "manifest", Run: fmt.Sprint(p3), ManifestCommit: manifest, Time: at()})
					want = append(want, fmt.Sprint(service, " ", ring, " ", tag, " ", source, " - ", manifest))
				} else {
					reports = append(reports,
						report{Kind: "config", Run: fmt.Sprint(p2), ImageTag: tag, Ring: ring, ConfigCommit: cut(branch), PullRequest: pr, Time: at()},
						report{Kind: "manifest", Run: fmt.Sprint(p3), ConfigCommit: merge, PullRequest: pr, Time: at()},
						report{Kind: "run", Stage: "manifest", Run: fmt.Sprint(p3), ManifestCommit: manifest, Time: at()})
					if rapid.Bool().Draw(t, "again") { // another run of the same stage
						manifest = commit(next())
						reports = append(reports, report{Kind: "manifest", Run: fmt.Sprint(next()), ConfigCommit: cut(merge), ManifestCommit: manifest, Time: at()})
					}
					want = append(want, fmt.Sprint(service, " ", ring, " ", tag, " ", source, " ", merge, " ", manifest))
				}
				if rapid.Bool().Draw(t, "synced") {
					reports = append(reports, report{Kind: "sync", Cluster: "east", ManifestCommit: cut(manifest), ClusterState: "healthy", Time: at()})
					want[len(want)-1] += " east"
				}
			}
		}
	}
	slices.Sort(want)
	return reports, want
}

func shape(rows []waybill.Deployment) []string {
	var out []string
	for _, d := range rows {
		or := func(s string) string { return cmp.Or(s, "-") }
		x := fmt.Sprint(d.Service, " ", or(d.Ring), " ", d.ImageTag, " ", d.Commit, " ", or(d.ConfigCommit), " ", or(d.ManifestCommit))
		for _, c := range d.Clusters {
			x += " " + c.Cluster
		}
		out = append(out, x)
	}
	slices.Sort(out)
	return out
}

// Whatever the order and however often: the rows are those that were meant, and the
// events make the same rows again.
func TestF20_R1RowsFollowFromEvents(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		n := atomic.Int64{}
		rapid.Check(t, func(t *rapid.T) {
			s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return noon }})
			partition := fmt.Sprintf("p %d/%%", n.Add(1))
			reports, want := world(t)
			order := rapid.Permutation(append(slices.Clone(reports), rapid.SliceOfN(rapid.SampledFrom(reports), 0, 5).Draw(t, "twice")...)).Draw(t, "order")
			for _, r := range order {
				r.Partition = partition
				if _, err := s.Report(context.Background(), r, waybill.Principal{}); err != nil {
					t.Fatal(err)
				}
			}
			rows := list(t, s, waybill.DeploymentFilter{Partition: partition})
			if d := diff.Diff(want, shape(rows)); d != "" {
				t.Fatalf("-want +got\n%s", d)
			}
			got, err := s.Rebuild(context.Background(), partition)
			if err != nil || got.Fixed != 0 || got.Rows != len(rows) || got.Events != int64(len(reports)) {
				t.Fatalf("rebuilt %+v of %d events and %d rows: %v", got, len(reports), len(rows), err)
			}
		})
	})
}

func TestRebuildCorrectsWhatIsWrong(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		tell(t, s, flow("app", "1", "dev", "h1000000", "m1000000", noon)...)
		tell(t, s, flow("app", "2", "dev", "h2000000", "m2000000", noon.Add(time.Hour))...)
		before := list(t, s, waybill.DeploymentFilter{})
		for _, table := range delivery.Tables() {
			if table.Name == "delivery_event" || table.Name == "delivery_head" {
				continue
			}
			rows, err := st.Scan(t.Context(), "", table.Name, "", 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range rows {
				if err := st.Commit(t.Context(), &store.Commit{Puts: []store.Put{{Table: table.Name, Key: x.Key, Rev: x.Rev}}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got, err := s.Rebuild(t.Context(), ""); err != nil || got.Fixed == 0 || got.Rows != 2 {
			t.Fatalf("%+v %v", got, err)
		}
		if d := diff.Diff(before, list(t, s, waybill.DeploymentFilter{})); d != "" {
			t.Error(d)
		}
		if got, err := s.Rebuild(t.Context(), ""); err != nil || got.Fixed != 0 {
			t.Errorf("the second time: %+v %v", got, err)
		}
	})
}

// flow is a delivery through all stages, a minute each.
func flow(service, build, ring, config, manifest string, at time.Time) []report {
	tag := service + ":" + build
	return []report{
		{
			Kind: "build", Run: "b" + tag, ImageTag: tag, Service: service, Commit: "c" + build, SourceRepo: "https://github.com/o/" + service,
			CommittedAt: at.Add(-time.Hour), Status: "succeeded", Time: at,
		},
		{Kind: "config", Run: "c" + tag + ring, ImageTag: tag, Ring: ring, ConfigCommit: config, Status: "succeeded", Time: at.Add(time.Minute)},
		{Kind: "manifest", Run: "m" + config, ConfigCommit: config, ManifestCommit: manifest, Status: "succeeded", Time: at.Add(2 * time.Minute)},
	}
}

func synced(cluster, manifest string, state waybill.ClusterState, at time.Time) report {
	return report{Kind: "sync", Cluster: cluster, ManifestCommit: manifest, ClusterState: state, Time: at}
}

func TestF17_ManyAtOnce(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		// Two servers over one store.
		servers := []*delivery.Service{delivery.New(delivery.Options{Store: st}), delivery.New(delivery.Options{Store: st})}
		rounds := 100
		if st.Info().Engine != "sqlite" || testing.Short() {
			rounds = 10
		}
		for round := range rounds {
			partition := fmt.Sprint("round", round)
			var wg sync.WaitGroup
			for i := range 10 {
				id := fmt.Sprintf("%d", i)
				reports := flow("app", id, "dev", "h"+id, "m"+id, noon)
				reports = append(reports, reports[0], synced("east", "m"+id, "healthy", noon.Add(time.Hour)))
				for j, r := range reports {
					r.Partition = partition
					wg.Go(func() {
						if _, err := servers[(i+j)%2].Report(context.Background(), r, waybill.Principal{}); err != nil {
							t.Error(err)
						}
					})
				}
			}
			wg.Wait()
			rows := list(t, servers[0], waybill.DeploymentFilter{Partition: partition})
			if len(rows) != 10 {
				t.Fatalf("%d rows, want 10", len(rows))
			}
			for _, d := range rows {
				if d.Service != "app" || d.Ring != "dev" || d.Config == nil || d.ManifestCommit == "" || len(d.Clusters) != 1 {
					t.Errorf("a field was lost: %+v", d)
				}
			}
			if got, err := servers[1].Rebuild(t.Context(), partition); err != nil || got.Fixed != 0 {
				t.Errorf("%+v %v", got, err)
			}
		}
	})
}

// broken is a store whose next commits may be made without saying so.
type broken struct {
	store.Store
	after atomic.Bool
}

var errCut = errors.New("the connection was cut")

func (b *broken) Commit(ctx context.Context, c *store.Commit) error {
	err := b.Store.Commit(ctx, c)
	if err == nil && b.after.Swap(false) {
		return errCut
	}
	return err
}

func TestReportAgainAfterACut(t *testing.T) {
	st := &broken{Store: lite(t)}
	s := delivery.New(delivery.Options{Store: st})
	r := flow("app", "1", "dev", "h1", "m1", noon)[0]
	st.after.Store(true)
	if _, err := s.Report(t.Context(), r, waybill.Principal{}); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if res := tell(t, s, r); res.Action != waybill.ActionRepeated || len(res.Deployments) != 1 {
		t.Errorf("%+v", res)
	}
}

func TestReportsThatAreRefused(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t)})
	tell(t, s, report{ID: "1", Kind: "build", ImageTag: "app:1"})
	for name, c := range map[string]struct {
		r    report
		kind waybill.Kind
	}{
		"no kind":      {report{}, waybill.KindInvalid},
		"no image":     {report{Kind: "build", Run: "1"}, waybill.KindInvalid},
		"no ring":      {report{Kind: "config", ImageTag: "a:1", ConfigCommit: "h"}, waybill.KindInvalid},
		"no run":       {report{Kind: "run", Stage: "build", Status: "failed"}, waybill.KindInvalid},
		"status":       {report{Kind: "build", ImageTag: "a:1", Status: "splendid"}, waybill.KindInvalid},
		"other id":     {report{ID: "1", Kind: "build", ImageTag: "app:2"}, waybill.KindInvalid},
		"long":         {report{Kind: "build", ImageTag: string(make([]byte, 600))}, waybill.KindTooLarge},
		"nul":          {report{Kind: "build", ImageTag: "a\x00b"}, waybill.KindInvalid},
		"no such row":  {report{Kind: "manifest", ConfigCommit: "h", Deployment: "ffffffffffff"}, waybill.KindNotFound},
		"attach":       {report{Kind: "attach", Deployment: "a", Target: "b"}, waybill.KindNotFound},
		"year":         {report{Kind: "build", ImageTag: "a:1", Time: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}, waybill.KindInvalid},
		"both of them": {report{Kind: "manifest", ConfigCommit: "h", ImageTag: "a:1", Ring: "dev", Run: "1"}, waybill.KindInvalid},
	} {
		if _, err := s.Report(t.Context(), c.r, waybill.Principal{}); !waybill.IsKind(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if rows := list(t, s, waybill.DeploymentFilter{}); len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
	if parts, err := s.DeliveryPartitions(t.Context()); err != nil || !slices.Equal(parts, []string{"default"}) {
		t.Errorf("partitions %v %v", parts, err)
	}
}

func TestF16_Partitions(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		for i, p := range []string{"a", "a/b", "a' or 1 eq 1"} {
			for _, r := range flow("app", fmt.Sprint(i), "dev", "h1", "m1", noon) {
				r.Partition = p
				tell(t, s, r)
			}
		}
		for i, p := range []string{"a", "a/b", "a' or 1 eq 1"} {
			rows := list(t, s, waybill.DeploymentFilter{Partition: p})
			if len(rows) != 1 || rows[0].ImageTag != fmt.Sprint("app:", i) {
				t.Errorf("%q: %v", p, shape(rows))
			}
		}
		if rows := list(t, s, waybill.DeploymentFilter{Partition: "' or '1'='1"}); len(rows) != 0 {
			t.Errorf("%d rows of a partition that is none", len(rows))
		}
	})
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

// One tag for everything: the report that cannot be placed is refused, those that came
// in with it are not.
func TestReferenceOfTooMany(t *testing.T) {
	st := lite(t)
	s := delivery.New(delivery.Options{Store: st})
	tell(t, s, report{Kind: "build", ImageTag: "app:latest", Service: "app", Commit: "c1"})
	var keys []string
	for i := range 4097 {
		keys = append(keys, fmt.Sprintf("config/%04d", i))
	}
	val, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Commit(t.Context(), &store.Commit{Puts: []store.Put{{Table: "delivery_ref", Key: "default/config:tag:app:latest", Val: val}}}); err != nil {
		t.Fatal(err)
	}
	s = delivery.New(delivery.Options{Store: st}) // one that remembers nothing
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, err := s.Report(context.Background(), report{Kind: "config", ImageTag: "app:latest", Ring: "dev", ConfigCommit: fmt.Sprint("h", i)}, waybill.Principal{}); !waybill.IsKind(err, waybill.KindExhausted) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := s.Report(context.Background(), report{Kind: "build", ImageTag: fmt.Sprint("app:", i)}, waybill.Principal{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if rows := list(t, s, waybill.DeploymentFilter{}); len(rows) != 11 {
		t.Errorf("%d rows", len(rows))
	}
}

func TestDurationOfRuns(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t)})
	run := func(r report, from, to int) report {
		r.QueuedAt, r.FinishedAt = noon.Add(time.Duration(from)*time.Second), noon.Add(time.Duration(to)*time.Second)
		return r
	}
	tell(t, s,
		run(report{Kind: "build", Run: "1", ImageTag: "app:1"}, 0, 100), run(report{Kind: "config", Run: "1", ImageTag: "app:1", Ring: "dev", ConfigCommit: "h"}, 0, 100),
		run(report{Kind: "manifest", Run: "1", ConfigCommit: "h"}, 500, 530))
	tell(t, s, report{Kind: "build", Run: "2", ImageTag: "app:2", QueuedAt: noon})
	for _, d := range list(t, s, waybill.DeploymentFilter{}) {
		if got, want := d.Duration(noon.Add(time.Minute)), map[string]time.Duration{"app:1": 130 * time.Second, "app:2": time.Minute}[d.ImageTag]; got != want {
			t.Errorf("%s took %s, want %s", d.ImageTag, got, want)
		}
	}
}
