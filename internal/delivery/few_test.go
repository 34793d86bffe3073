package delivery_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/store"
)

// Filters and orders together give what sorting all rows gives, page by page, in both
// stores.
func TestF29_FiltersInEveryOrder(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		for i := range 60 {
			r := report{Kind: "config", Run: fmt.Sprint("c", i), ImageTag: fmt.Sprint("app:", i/3), Service: []string{"o/b", "a", "C"}[i%3], Ring: []string{"qa", "dev"}[i%2],
				ConfigCommit: fmt.Sprint("h", i), Time: noon.Add(time.Duration(i*7%60) * time.Minute)}
			tell(t, s, r)
		}
		all := list(t, s, waybill.DeploymentFilter{})
		for _, sort := range []waybill.DeploymentSort{waybill.SortUpdated, waybill.SortCreated, waybill.SortService, waybill.SortRing} {
			for _, asc := range []bool{true, false} {
				for name, f := range map[string]waybill.DeploymentFilter{
					"ring": {Ring: "DEV"}, "service": {Service: "b"}, "both": {Service: "c", Ring: "qa"}, "none": {Service: "z"}, "status": {Statuses: []waybill.DeploymentStatus{"incomplete"}},
				} {
					want := slices.DeleteFunc(slices.Clone(all), func(d waybill.Deployment) bool {
						return f.Ring != "" && !strings.EqualFold(d.Ring, f.Ring) || f.Service != "" && !strings.EqualFold(d.DisplayService(), f.Service)
					})
					slices.SortFunc(want, func(a, b waybill.Deployment) int {
						x := 0
						switch sort {
						case waybill.SortUpdated:
							x = a.UpdatedAt.Compare(b.UpdatedAt)
						case waybill.SortCreated:
							x = a.CreatedAt.Compare(b.CreatedAt)
						case waybill.SortService:
							x = strings.Compare(strings.ToLower(a.DisplayService()), strings.ToLower(b.DisplayService()))
						case waybill.SortRing:
							x = strings.Compare(a.Ring, b.Ring)
						}
						if x = cmp.Or(x, strings.Compare(a.ID, b.ID)); !asc {
							x = -x
						}
						return x
					})
					f.Sort, f.Asc, f.Limit = sort, asc, 7
					got := list(t, s, f)
					id := func(list []waybill.Deployment) (out []string) {
						for _, d := range list {
							out = append(out, d.ID)
						}
						return out
					}
					if d := diff.Diff(id(want), id(got)); d != "" {
						t.Errorf("%s by %s, ascending %v (-want +got)\n%s", name, sort, asc, d)
					}
				}
			}
		}
		for _, cursor := range []string{"few.", "few.garbage", "few.e30"} {
			if _, err := s.Deployments(t.Context(), waybill.DeploymentFilter{Ring: "dev", Sort: waybill.SortRing, Cursor: cursor}); !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("cursor %s: %v", cursor, err)
			}
		}
	})
}

// counting counts what is asked of a store.
type counting struct {
	store.Store
	asks, rows atomic.Int64
}

func (c *counting) Get(ctx context.Context, tenant, table, key string) (store.Row, error) {
	c.asks.Add(1)
	c.rows.Add(1)
	return c.Store.Get(ctx, tenant, table, key)
}

func (c *counting) Scan(ctx context.Context, tenant, table, prefix string, limit int) ([]store.Row, error) {
	rows, err := c.Store.Scan(ctx, tenant, table, prefix, limit)
	c.asks.Add(1)
	c.rows.Add(int64(len(rows)))
	return rows, err
}

func (c *counting) Query(ctx context.Context, q store.Query) (store.Page, error) {
	p, err := c.Store.Query(ctx, q)
	c.asks.Add(1)
	c.rows.Add(int64(len(p.Rows)))
	return p, err
}

func (c *counting) during(f func()) (asks, rows int64) {
	a, r := c.asks.Load(), c.rows.Load()
	f()
	return c.asks.Load() - a, c.rows.Load() - r
}

// What a report and an answer read does not grow with what is stored, and a batch of reports
// asks the store a few times, not once for each reference.
func TestNothingIsReadInFull(t *testing.T) {
	c := &counting{Store: lite(t)}
	s := delivery.New(delivery.Options{Store: c, Now: func() time.Time { return day(30) }})
	report64(t, s, many(200))
	measure := func() map[string][2]int64 {
		fresh := delivery.New(delivery.Options{Store: c, Now: func() time.Time { return day(30) }}) // it remembers nothing
		out := map[string][2]int64{}
		do := func(name string, f func() error) {
			a, r := c.during(func() {
				if err := f(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			})
			out[name] = [2]int64{a, r}
		}
		deployments := func(f waybill.DeploymentFilter) func() error {
			return func() error { f.Limit = 10; _, err := fresh.Deployments(t.Context(), f); return err }
		}
		do("list", deployments(waybill.DeploymentFilter{}))
		do("tag by ring", deployments(waybill.DeploymentFilter{ImageTag: "s3:0", Sort: waybill.SortRing}))
		do("commit by service", deployments(waybill.DeploymentFilter{Commit: fmt.Sprintf("%07x", 3000), Sort: waybill.SortService}))
		do("build by created", deployments(waybill.DeploymentFilter{Build: "bs3:0", Sort: waybill.SortCreated}))
		do("none by created", deployments(waybill.DeploymentFilter{Kind: waybill.DeploymentManual, Sort: waybill.SortCreated}))
		do("trace", func() error { _, err := fresh.Trace(t.Context(), "", "s3:0"); return err })
		do("report", func() error {
			_, err := fresh.Report(t.Context(), report{Kind: "config", Run: fmt.Sprint("x", c.asks.Load()), ImageTag: "s3:0", Ring: "dev", ConfigCommit: "hh", Time: day(29)}, waybill.Principal{})
			return err
		})
		return out
	}
	measure()
	before := measure()
	report64(t, s, many(1500))
	after := measure()
	for name, b := range before {
		if a := after[name]; a[1] > b[1]+12 || a[0] > b[0]+4 || a[0] > 40 {
			t.Errorf("%s: %d requests and %d rows, %d and %d with seven times as much", name, b[0], b[1], a[0], a[1])
		}
	}
	if before["report"][0] > 12 {
		t.Errorf("a report took %d requests", before["report"][0])
	}
	// Many at once.
	reports := many(1600)[len(many(1500)):]
	asks, _ := c.during(func() { report64(t, s, reports) })
	if asks > int64(4*len(reports)) {
		t.Errorf("%d reports took %d requests", len(reports), asks)
	}
}
