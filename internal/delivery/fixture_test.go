package delivery_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
	"github.com/waybill-run/waybill/internal/store"
)

// The set holds what it says.
func TestFixture(t *testing.T) {
	rows := deliverytest.Rows(deliverytest.Reports())
	for what, c := range map[string][2]int{
		"manual":  {deliverytest.Manual, deliverytest.Count(rows, func(r *deliverytest.Row) bool { return r.Kind == waybill.DeploymentManual })},
		"regular": {deliverytest.Regular, deliverytest.Count(rows, func(r *deliverytest.Row) bool { return r.Kind == waybill.DeploymentRegular })},
		"ferry":   {deliverytest.Ferry, deliverytest.Count(rows, func(r *deliverytest.Row) bool { return r.Display() == "ferry" })},
		"owner":   {deliverytest.Ferry, deliverytest.Count(rows, func(r *deliverytest.Row) bool { return r.Service == "quay/ferry" })},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d rows, want %d", what, c[1], c[0])
		}
	}
	for _, s := range waybill.DeploymentStatuses() {
		if deliverytest.Count(rows, func(r *deliverytest.Row) bool { return r.Status == s }) == 0 {
			t.Errorf("no row is %s", s)
		}
	}
}

// expected is a row as the calculation gives it, and as the service does.
func expected(d *waybill.Deployment) deliverytest.Row {
	run := func(s *waybill.DeploymentStage) string {
		if r := s.Last(); r != nil {
			return r.Run
		}
		return ""
	}
	r := deliverytest.Row{
		Kind: d.Kind, Service: d.Service, Ring: d.Ring, ImageTag: d.ImageTag, Commit: d.Commit, Build: run(d.Build), Config: run(d.Config), Manifest: run(d.Manifest),
		ConfigCommit: d.ConfigCommit, PullRequest: d.PullRequest, ManifestCommit: d.ManifestCommit, Status: d.Status, Unlinked: d.Unlinked != "",
		Updated: d.UpdatedAt, Duration: d.Duration(deliverytest.Now),
	}
	for _, c := range d.Clusters {
		if r.Clusters == nil {
			r.Clusters, r.Healthy, r.Failed = map[string]waybill.ClusterState{}, map[string]time.Time{}, map[string]time.Time{}
		}
		r.Clusters[c.Cluster] = c.State
		if !c.HealthyAt.IsZero() {
			r.Healthy[c.Cluster] = c.HealthyAt
		}
		if !c.FailedAt.IsZero() {
			r.Failed[c.Cluster] = c.FailedAt
		}
	}
	return r
}

// superseded changes the states of clusters in which a later deployment of the service and
// ring came after a row.
func superseded(rows []deliverytest.Row) {
	since := func(r *deliverytest.Row, c string) time.Time {
		t := r.Failed[c]
		if h, ok := r.Healthy[c]; ok && (t.IsZero() || h.Before(t)) {
			t = h
		}
		if t.IsZero() {
			t = r.Updated // pending or applied only: there is one such row of its place
		}
		return t
	}
	for i := range rows {
		for c := range rows[i].Clusters {
			for j := range rows {
				a, b := &rows[i], &rows[j]
				if _, there := b.Clusters[c]; there && a.Service == b.Service && a.Ring == b.Ring && since(b, c).After(since(a, c)) {
					a.Clusters[c] = waybill.ClusterSuperseded
				}
			}
		}
	}
}

func load(t testing.TB, s *delivery.Service, reports []report) {
	tell(t, s, reports...)
}

// Every row of the set, field by field, whatever the order of its reports.
func TestF29_Fixture(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return deliverytest.Now }})
		reports := deliverytest.Reports()
		want := deliverytest.Rows(reports)
		superseded(want)
		backwards := slices.Clone(reports)
		slices.Reverse(backwards)
		for i := range backwards {
			backwards[i].Partition = "backwards"
		}
		load(t, s, reports)
		load(t, s, backwards)
		for _, partition := range []string{"", "backwards"} {
			all := list(t, s, waybill.DeploymentFilter{Partition: partition})
			var got []deliverytest.Row
			for i := range all {
				got = append(got, expected(&all[i]))
			}
			order := func(a, b deliverytest.Row) int {
				return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(a.Ring+a.ImageTag+a.ConfigCommit, b.Ring+b.ImageTag+b.ConfigCommit))
			}
			slices.SortFunc(got, order)
			w := slices.SortedFunc(slices.Values(want), order)
			for i := range w {
				// A merge commit may be cut short in the report of one run.
				for j := range got {
					if got[j].Config == w[i].Config && got[j].Config != "" && strings.HasPrefix(got[j].ConfigCommit, w[i].ConfigCommit) {
						w[i].ConfigCommit = got[j].ConfigCommit
					}
				}
				if len(w[i].Clusters) == 0 {
					w[i].Clusters, w[i].Healthy, w[i].Failed = nil, nil, nil
				}
			}
			if d := diff.Diff(w, got); d != "" {
				t.Errorf("partition %q (-want +got)\n%s", partition, d)
			}
			if r, err := s.Rebuild(t.Context(), partition); err != nil || r.Fixed != 0 || r.Rows != len(want) {
				t.Errorf("rebuild: %+v %v", r, err)
			}
		}
	})
}

// Each filter alone, and all of them together, for every value there is.
func TestF29_FiltersOfTheFixture(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t), Now: func() time.Time { return deliverytest.Now }})
	reports := deliverytest.Reports()
	want := deliverytest.Rows(reports)
	load(t, s, reports)
	filters := map[string]struct {
		set func(*waybill.DeploymentFilter, string)
		of  func(*deliverytest.Row) string
	}{
		"build":   {func(f *waybill.DeploymentFilter, v string) { f.Build = v }, func(r *deliverytest.Row) string { return r.Build }},
		"commit":  {func(f *waybill.DeploymentFilter, v string) { f.Commit = strings.ToUpper(v) }, func(r *deliverytest.Row) string { return r.Commit }},
		"tag":     {func(f *waybill.DeploymentFilter, v string) { f.ImageTag = strings.ToUpper(v) }, func(r *deliverytest.Row) string { return r.ImageTag }},
		"ring":    {func(f *waybill.DeploymentFilter, v string) { f.Ring = strings.ToUpper(v) }, func(r *deliverytest.Row) string { return r.Ring }},
		"service": {func(f *waybill.DeploymentFilter, v string) { f.Service = strings.ToUpper(v) }, func(r *deliverytest.Row) string { return r.Service }},
		"display": {func(f *waybill.DeploymentFilter, v string) { f.Service = v }, (*deliverytest.Row).Display},
		"kind":    {func(f *waybill.DeploymentFilter, v string) { f.Kind = v }, func(r *deliverytest.Row) string { return r.Kind }},
		"status": {func(f *waybill.DeploymentFilter, v string) {
			f.Statuses = []waybill.DeploymentStatus{waybill.DeploymentStatus(v)}
		},
			func(r *deliverytest.Row) string { return string(r.Status) }},
	}
	for name, x := range filters {
		counts := map[string]int{}
		for i := range want {
			counts[x.of(&want[i])]++
		}
		delete(counts, "")
		if len(counts) < 2 {
			t.Fatalf("%s tells nothing apart", name)
		}
		for v, n := range counts {
			var f waybill.DeploymentFilter
			x.set(&f, v)
			if got := list(t, s, f); len(got) != n {
				t.Errorf("%s %s: %d rows, want %d", name, v, len(got), n)
			}
		}
	}
	for _, d := range list(t, s, waybill.DeploymentFilter{}) {
		r := expected(&d)
		f := waybill.DeploymentFilter{ID: d.ID}
		for _, name := range slices.Sorted(maps.Keys(filters)) {
			filters[name].set(&f, filters[name].of(&r))
		}
		if got := list(t, s, f); len(got) != 1 || got[0].ID != d.ID {
			t.Errorf("all filters of %s: %d rows", fmt.Sprint(d.ID), len(got))
		}
	}
}
