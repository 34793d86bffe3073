package delivery_test

import (
	"fmt"
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

// What is forgotten, calculated apart: older, and beyond the newest of its service and
// ring, and not what is somewhere now.
func forgotten(rows []waybill.Deployment, before time.Time, keep int) (out []string) {
	seen := map[string]int{}
	for _, d := range rows { // the newest first
		k := d.Service + " " + d.Ring
		seen[k]++
		live := slices.ContainsFunc(d.Clusters, func(c waybill.DeploymentCluster) bool { return c.State != waybill.ClusterSuperseded })
		if d.Status == waybill.DeploymentComplete && d.Service != "" && d.Ring != "" {
			newest := true
			for _, o := range rows {
				newest = newest && (o.Service != d.Service || o.Ring != d.Ring || o.Status != d.Status || !o.UpdatedAt.After(d.UpdatedAt))
			}
			live = live || newest
		}
		if seen[k] > keep && d.UpdatedAt.Before(before) && !live {
			out = append(out, d.ID)
		}
	}
	slices.Sort(out)
	return out
}

func ids(p waybill.Pruned) (out []string) {
	for _, d := range p.Deployments {
		out = append(out, d.ID)
	}
	slices.Sort(out)
	return out
}

func TestF24_Prune(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		for _, keep := range []int{0, 1, 2, 5} {
			partition := fmt.Sprint("keep", keep)
			s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return deliverytest.Now }})
			for _, r := range deliverytest.Reports() {
				r.Partition = partition
				tell(t, s, r)
			}
			all := list(t, s, waybill.DeploymentFilter{Partition: partition})
			q := waybill.PruneQuery{Partition: partition, OlderThan: 60 * 24 * time.Hour, Keep: keep, DryRun: true}
			want := forgotten(all, deliverytest.Now.Add(-q.OlderThan), keep)
			dry, err := s.Prune(t.Context(), q, waybill.Principal{})
			if err != nil {
				t.Fatal(err)
			}
			if d := diff.Diff(want, ids(dry)); d != "" {
				t.Fatalf("keeping %d (-want +got)\n%s", keep, d)
			}
			if n := len(list(t, s, waybill.DeploymentFilter{Partition: partition})); n != len(all) {
				t.Fatalf("%d of %d rows are left when nothing should be done", n, len(all))
			}
			q.DryRun = false
			got, err := s.Prune(t.Context(), q, waybill.Principal{Name: "op"})
			if err != nil || !slices.Equal(ids(got), want) {
				t.Fatalf("%v %v", ids(got), err)
			}
			left := slices.DeleteFunc(slices.Clone(all), func(d waybill.Deployment) bool { return slices.Contains(want, d.ID) })
			if d := diff.Diff(left, list(t, s, waybill.DeploymentFilter{Partition: partition})); d != "" {
				t.Errorf("keeping %d, what is left (-want +got)\n%s", keep, d)
			}
			if r, err := s.Rebuild(t.Context(), partition); err != nil || r.Fixed != 0 || r.Rows != len(left) {
				t.Errorf("making the rows again: %+v %v", r, err)
			}
			for _, id := range want[:min(3, len(want))] {
				if _, err := s.Deployment(t.Context(), partition, id); !waybill.IsKind(err, waybill.KindNotFound) {
					t.Errorf("%s is there still: %v", id, err)
				}
			}
			if again, err := s.Prune(t.Context(), q, waybill.Principal{}); err != nil || len(again.Deployments) != 0 {
				t.Errorf("the second time: %v %v", again, err)
			}
			// Told again, it does not come back.
			for _, r := range deliverytest.Reports() {
				r.Partition = partition
				tell(t, s, r)
			}
			if n := len(list(t, s, waybill.DeploymentFilter{Partition: partition})); n != len(left) {
				t.Errorf("%d rows after the same reports, %d before", n, len(left))
			}
		}
		s := delivery.New(delivery.Options{Store: st})
		for _, q := range []waybill.PruneQuery{{}, {OlderThan: -1}, {OlderThan: 1, Keep: -1}} {
			if _, err := s.Prune(t.Context(), q, waybill.Principal{}); !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("%+v: %v", q, err)
			}
		}
	})
}

// Forgetting does not tie what was in doubt.
func TestF24_PruneTiesNothing(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t), Now: func() time.Time { return day(100) }})
	tell(t, s,
		report{Kind: "build", Run: "1", ImageTag: "1.0", Service: "a", Commit: "c1", Time: noon},
		report{Kind: "build", Run: "2", ImageTag: "1.0", Service: "b", Commit: "c2", Time: day(99)},
		report{Kind: "config", Run: "3", ImageTag: "1.0", Ring: "dev", ConfigCommit: "h", Time: day(99)})
	before := list(t, s, waybill.DeploymentFilter{})
	if _, err := s.Prune(t.Context(), waybill.PruneQuery{OlderThan: time.Hour * 24}, waybill.Principal{}); err != nil {
		t.Fatal(err)
	}
	if d := diff.Diff(before, list(t, s, waybill.DeploymentFilter{})); d != "" {
		t.Error(d)
	}
}

func TestF86_Alerts(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return deliverytest.Now }})
		tell(t, s, deliverytest.Reports()...)
		alerts := func(q waybill.AlertQuery, kind waybill.AlertKind) (out []string) {
			t.Helper()
			all, err := s.Alerts(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, a := range all {
				if seen[a.ID] || a.Text == "" || a.Since.IsZero() {
					t.Errorf("alert %+v", a)
				}
				seen[a.ID] = true
				if a.Kind == kind {
					out = append(out, strings.TrimSpace(fmt.Sprint(a.Service, " ", a.Ring, " ", a.Cluster, a.Revision)))
				}
			}
			slices.Sort(out)
			return out
		}
		// Of the set: tariff 34 went nowhere, ferry 15 waits for its pull request, beacon 10 makes
		// manifests still, ferry 16 is being built, and of two images no manifests were told of
		// where no later ones were.
		if d := diff.Diff([]string{"quay/beacon dev", "quay/ferry", "quay/ferry qa", "tariff prod"}, alerts(waybill.AlertQuery{}, waybill.AlertStuck)); d != "" {
			t.Errorf("stuck\n%s", d)
		}
		if got := alerts(waybill.AlertQuery{Stuck: 90 * 24 * time.Hour}, waybill.AlertStuck); len(got) != 0 {
			t.Errorf("stuck for three months: %v", got)
		}
		// East and west went back with ferry, and have the newest; nothing else is behind but
		// where the newest manifests did not come.
		if d := diff.Diff([]string(nil), alerts(waybill.AlertQuery{}, waybill.AlertDrift)); d != "" {
			t.Errorf("drift\n%s", d)
		}
		quiet := alerts(waybill.AlertQuery{Silent: 20 * 24 * time.Hour}, waybill.AlertSilent)
		if d := diff.Diff([]string{"north", "stage", "west"}, dedup(quiet)); d != "" {
			t.Errorf("silent\n%s", d)
		}
		tell(t, s, synced("moon", "fff0000", "healthy", deliverytest.Now.Add(-2*time.Hour)))
		if d := diff.Diff([]string{"moonfff0000"}, alerts(waybill.AlertQuery{}, waybill.AlertDrift)); d != "" {
			t.Errorf("drift\n%s", d)
		}
		// Its history says that it has what is known of.
		var known string
		for _, d := range list(t, s, waybill.DeploymentFilter{Ring: "prod"}) {
			known = d.ManifestCommit
			if known != "" {
				break
			}
		}
		tell(t, s, report{Kind: "history", Time: deliverytest.Now, History: []waybill.CommitParents{{Commit: "fff0000", Parents: []string{"fff0001"}}, {Commit: "fff0001", Parents: []string{known}}}})
		if got := alerts(waybill.AlertQuery{}, waybill.AlertDrift); len(got) != 0 {
			t.Errorf("drift: %v", got)
		}
		if _, err := s.Alerts(t.Context(), waybill.AlertQuery{Stuck: -1}); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Error(err)
		}
	})
}

func dedup(list []string) []string { slices.Sort(list); return slices.Compact(list) }

// A cluster that does not take the newest manifests is seen.
func TestF86_Unsynced(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t), Now: func() time.Time { return day(4) }})
	week(t, s)
	got, err := s.Alerts(t.Context(), waybill.AlertQuery{Silent: 1000 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, a := range got {
		texts = append(texts, string(a.Kind)+": "+a.Text)
	}
	if d := diff.Diff([]string{"unsynced: cluster west has app:1 of app for prod, the newest manifests are of app:2"}, texts); d != "" {
		t.Error(d)
	}
}

// An alert is told of when it begins, once, however many servers look; and again when it
// begins again.
func TestF86_AlertsAreToldOnce(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		now := deliverytest.Now
		servers := []*delivery.Service{
			delivery.New(delivery.Options{Store: st, Now: func() time.Time { return now }}), delivery.New(delivery.Options{Store: st, Now: func() time.Time { return now }}),
		}
		tell(t, servers[0], report{Kind: "config", Run: "1", ImageTag: "app:1", Ring: "prod", ConfigCommit: "h1", Service: "app", Time: now.Add(-2 * time.Hour)})
		told := func(want int) {
			t.Helper()
			for _, s := range servers {
				if err := s.TellAlerts(t.Context(), 0, 0); err != nil {
					t.Fatal(err)
				}
			}
			events, err := st.Events(t.Context(), "", "delivery/default", "", 100)
			if err != nil || len(events) != want {
				t.Fatalf("%d events, want %d: %v", len(events), want, err)
			}
			for _, e := range events {
				if e.Kind != "delivery.alert" || !strings.Contains(string(e.Data), `"kind":"stuck"`) {
					t.Errorf("%s %s", e.Kind, e.Data)
				}
			}
		}
		told(1)
		told(1)
		// It goes on, and gets stuck again.
		tell(t, servers[0], report{Kind: "manifest", Run: "2", ConfigCommit: "h1", Status: "running", Time: now})
		told(1)
		now = now.Add(2 * time.Hour)
		told(2)
		if r, err := servers[1].Rebuild(t.Context(), ""); err != nil || r.Fixed != 0 {
			t.Errorf("%+v %v", r, err)
		}
	})
}
