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
	"github.com/waybill-run/waybill/internal/store"
)

func day(n int) time.Time { return noon.AddDate(0, 0, n) }

func TestF29_Filters(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		for i := range 12 {
			reports := flow([]string{"Owner/App", "api"}[i%2], fmt.Sprint(i), []string{"dev", "qa", "prod"}[i%3], fmt.Sprint("h", i), fmt.Sprint("m", i), day(i))
			reports[0].Commit = fmt.Sprintf("%07x%033d", i*7919+1, i)
			tell(t, s, reports[:1+i%3]...)
		}
		all := list(t, s, waybill.DeploymentFilter{})
		if len(all) != 12 {
			t.Fatalf("%d rows", len(all))
		}
		for name, c := range map[string]struct {
			f    waybill.DeploymentFilter
			want func(d waybill.Deployment) bool
		}{
			"id":        {waybill.DeploymentFilter{ID: strings.ToUpper(all[3].ID)}, func(d waybill.Deployment) bool { return d.ID == all[3].ID }},
			"build":     {waybill.DeploymentFilter{Build: "Bapi:7"}, func(d waybill.Deployment) bool { return d.ImageTag == "api:7" }},
			"commit":    {waybill.DeploymentFilter{Commit: strings.ToUpper(all[5].Commit[:7])}, func(d waybill.Deployment) bool { return d.Commit == all[5].Commit }},
			"long":      {waybill.DeploymentFilter{Commit: all[5].Commit[:30] + "ffffffffff"}, func(waybill.Deployment) bool { return false }},
			"tag":       {waybill.DeploymentFilter{ImageTag: "OWNER/APP:4"}, func(d waybill.Deployment) bool { return d.ImageTag == "Owner/App:4" }},
			"ring":      {waybill.DeploymentFilter{Ring: "QA"}, func(d waybill.Deployment) bool { return d.Ring == "qa" }},
			"stored":    {waybill.DeploymentFilter{Service: "owner/app"}, func(d waybill.Deployment) bool { return d.Service == "Owner/App" }},
			"displayed": {waybill.DeploymentFilter{Service: "APP"}, func(d waybill.Deployment) bool { return d.Service == "Owner/App" }},
			"status": {waybill.DeploymentFilter{Statuses: []waybill.DeploymentStatus{"complete"}},
				func(d waybill.Deployment) bool { return d.Status == waybill.DeploymentComplete }},
			"window": {waybill.DeploymentFilter{Since: day(3), Until: day(6)},
				func(d waybill.Deployment) bool { return !d.UpdatedAt.Before(day(3)) && d.UpdatedAt.Before(day(6)) }},
			"all": {waybill.DeploymentFilter{ID: all[0].ID, Build: all[0].Build.Last().Run, Commit: all[0].Commit, ImageTag: all[0].ImageTag, Ring: all[0].Ring, Service: all[0].Service},
				func(d waybill.Deployment) bool { return d.ID == all[0].ID }},
			"literally": {waybill.DeploymentFilter{ImageTag: `x' or '1'='1`}, func(waybill.Deployment) bool { return false }},
			"unlinked":  {waybill.DeploymentFilter{Unlinked: true}, func(d waybill.Deployment) bool { return d.Unlinked != "" }},
			"kind":      {waybill.DeploymentFilter{Kind: waybill.DeploymentManual}, func(d waybill.Deployment) bool { return d.Kind == waybill.DeploymentManual }},
		} {
			want := shape(slices.DeleteFunc(slices.Clone(all), func(d waybill.Deployment) bool { return !c.want(d) }))
			if d := diff.Diff(want, shape(list(t, s, c.f))); d != "" {
				t.Errorf("%s: -want +got\n%s", name, d)
			}
		}
		for _, f := range []waybill.DeploymentFilter{{Limit: -1}, {Limit: 1001}, {Sort: "size"}, {Statuses: []waybill.DeploymentStatus{"well"}}, {Cursor: "garbage"}} {
			if _, err := s.Deployments(t.Context(), f); !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("%+v: %v", f, err)
			}
		}
	})
}

func TestF18_Pages(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		done := make(chan error)
		const n = 2500
		slots := make(chan struct{}, 64)
		for i := range n {
			// Three of every time: the id decides among them.
			r := report{Kind: "build", ImageTag: fmt.Sprint("app:", i), Service: fmt.Sprint("s", i%7), Commit: fmt.Sprint("c", i), Time: noon.Add(time.Duration(i/3) * time.Second)}
			go func() {
				slots <- struct{}{}
				_, err := s.Report(t.Context(), r, waybill.Principal{})
				<-slots
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []waybill.DeploymentFilter{{Limit: 7}, {Limit: 100, Asc: true}, {Limit: 33, Sort: waybill.SortService}, {Limit: 9, Sort: waybill.SortRing}, {Limit: 9, Sort: waybill.SortCreated}} {
			rows := list(t, s, f)
			ids := map[string]bool{}
			sorted := slices.IsSortedFunc(rows, func(a, b waybill.Deployment) int {
				x := a.UpdatedAt.Compare(b.UpdatedAt)
				if f.Sort == waybill.SortService {
					x = strings.Compare(a.Service, b.Service)
				}
				if f.Sort == waybill.SortRing {
					x = 0
				}
				if x == 0 {
					x = strings.Compare(a.ID, b.ID)
				}
				if !f.Asc {
					x = -x
				}
				return x
			})
			for _, d := range rows {
				ids[d.ID] = true
			}
			if len(rows) != n || len(ids) != n || !sorted {
				t.Errorf("%+v: %d rows, %d ids, sorted %v", f, len(rows), len(ids), sorted)
			}
		}
		page, err := s.Deployments(t.Context(), waybill.DeploymentFilter{Limit: 3})
		if err != nil || len(page.Items) != 3 || !page.Items[2].UpdatedAt.Equal(noon.Add((n/3-1)*time.Second)) {
			t.Errorf("the newest: %v %v", shape(page.Items), err)
		}
	})
}

// week is a story: app goes 1, 2, 3 to dev and 1, 2 to prod, where 2 fails and 1 comes
// back; api is in dev only, web is the same in both.
func week(t testing.TB, s *delivery.Service) {
	tell(t, s, flow("app", "1", "dev", "d1", "md1", day(0))...)
	tell(t, s, flow("app", "2", "dev", "d2", "md2", day(1))...)
	tell(t, s, flow("app", "3", "dev", "d3", "md3", day(2))...)
	tell(t, s, flow("api", "1", "dev", "d4", "md4", day(2))...)
	tell(t, s, flow("web", "1", "dev", "d5", "md5", day(2))...)
	prod := func(tag, config, manifest string, at time.Time) {
		tell(t, s,
			report{Kind: "config", Run: "c" + config, ImageTag: tag, Ring: "prod", ConfigCommit: config, Time: at},
			report{Kind: "manifest", Run: "m" + config, ConfigCommit: config, ManifestCommit: manifest, Time: at.Add(time.Minute)})
	}
	prod("web:1", "p0", "mp0", day(2).Add(time.Hour))
	prod("app:1", "p1", "mp1", day(1))
	tell(t, s, synced("east", "mp1", "applied", day(1).Add(time.Hour)), synced("east", "mp1", "healthy", day(1).Add(2*time.Hour)), synced("west", "mp1", "healthy", day(1).Add(3*time.Hour)))
	prod("app:2", "p2", "mp2", day(3))
	tell(t, s, synced("east", "mp2", "failed", day(3).Add(time.Hour)))
}

func TestF80_Matrix(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return day(4) }})
		week(t, s)
		m, err := s.Matrix(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range m.Cells {
			got = append(got, fmt.Sprintf("%s %s %q %s %s %s", c.Service, c.Ring, c.Cluster, c.ImageTag, c.State, m.At.Sub(c.Since)))
		}
		want := []string{
			`api dev "" api:1  47h58m0s`, `app dev "" app:3  47h58m0s`,
			`app prod "" app:2  23h59m0s`, `app prod "east" app:2 failed 23h0m0s`, `app prod "west" app:1 healthy 69h0m0s`,
			`web dev "" web:1  47h58m0s`, `web prod "" web:1  46h59m0s`,
		}
		if d := diff.Diff(want, got); d != "" {
			t.Error(d)
		}
		for _, d := range list(t, s, waybill.DeploymentFilter{Ring: "prod", ImageTag: "app:1"}) {
			if len(d.Clusters) != 2 || d.Clusters[0].State != waybill.ClusterSuperseded || d.Clusters[1].State != waybill.ClusterHealthy {
				t.Errorf("clusters of app:1: %+v", d.Clusters)
			}
		}
	})
}

func TestF81_Diff(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t)})
	week(t, s)
	got, err := s.Diff(t.Context(), "", "DEV", "prod")
	if err != nil {
		t.Fatal(err)
	}
	want := []waybill.RingDifference{
		{Service: "api", From: "api:1", FromCommit: "c1", SourceRepo: "https://github.com/o/api", Behind: -1},
		{Service: "app", From: "app:3", To: "app:2", FromCommit: "c3", ToCommit: "c2", SourceRepo: "https://github.com/o/app",
			Compare: "https://github.com/o/app/compare/c2...c3", Behind: 1},
	}
	if d := diff.Diff(want, got); d != "" {
		t.Error(d)
	}
	if same, err := s.Diff(t.Context(), "", "dev", "dev"); err != nil || len(same) != 0 {
		t.Errorf("a ring differs from itself: %v %v", same, err)
	}
	if _, err := s.Diff(t.Context(), "", "dev", "moon"); !waybill.IsKind(err, waybill.KindNotFound) || !strings.Contains(err.Error(), "there are dev, prod") {
		t.Error(err)
	}
}

func TestF82_Lag(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t), Now: func() time.Time { return day(4) }})
	week(t, s)
	got, err := s.Lag(t.Context(), "", "dev", "prod")
	if err != nil {
		t.Fatal(err)
	}
	late := (48*time.Hour - 2*time.Minute).Seconds() // since the manifests of the third day
	want := []waybill.Lag{
		{Service: "api", Behind: -1, Seconds: late, From: "api:1"}, {Service: "app", Behind: 1, Seconds: late, From: "app:3", To: "app:2"},
		{Service: "web", From: "web:1", To: "web:1"},
	}
	if d := diff.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestF83_Rollback(t *testing.T) {
	s := delivery.New(delivery.Options{Store: lite(t)})
	week(t, s)
	got, err := s.Rollbacks(t.Context(), "", "prod", "app")
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	if r := got[0]; r.Cluster != "east" || r.ImageTag != "app:1" || r.ManifestCommit != "mp1" || r.RolledBack || !r.HealthyAt.Equal(day(1).Add(2*time.Hour)) {
		t.Errorf("%+v", r)
	}
	if r := got[1]; r.Cluster != "west" || r.Deployment != "" {
		t.Errorf("nothing was before: %+v", r)
	}
	tell(t, s,
		report{Kind: "config", Run: "c", ImageTag: "app:1", Ring: "prod", ConfigCommit: "p3", Time: day(4)},
		report{Kind: "manifest", Run: "m", ConfigCommit: "p3", ManifestCommit: "mp3", Time: day(4)}, synced("east", "mp3", "healthy", day(4).Add(time.Hour)))
	if got, err = s.Rollbacks(t.Context(), "", "prod", "app"); err != nil || !got[0].RolledBack || got[0].Deployment != "" {
		t.Errorf("after a rollback to the only healthy one: %+v %v", got, err)
	}
}

func TestF84_DORA(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		week(t, s)
		// 2 was bad: 1 comes back, and then 3 is good.
		for i, x := range []string{"app:1", "app:3"} {
			at := day(3).Add(time.Duration(4+20*i) * time.Hour)
			c := fmt.Sprint("q", i)
			tell(t, s, report{Kind: "config", Run: c, ImageTag: x, Ring: "prod", ConfigCommit: c, Time: at},
				report{Kind: "manifest", Run: "m" + c, ConfigCommit: c, ManifestCommit: "m" + c, Time: at}, synced("east", "m"+c, "healthy", at.Add(time.Hour)))
		}
		got, err := s.DORA(t.Context(), waybill.DORAQuery{Ring: "Prod", Service: "app", From: day(0), Until: day(10)})
		if err != nil {
			t.Fatal(err)
		}
		// Landings of app: 1 healthy d1+2h; 2 failed d3+1h; 1 healthy d3+5h; 3 healthy d4+1h. web is another
		// service and told of by no cluster. Lead times: 1: d0-1h → d1+2h = 27h; 3: d2-1h → d4+1h = 50h; the
		// return of 1 is not new. Recovery: d3+1h → d3+5h.
		want := waybill.DORA{
			Ring: "prod", Service: "app", From: day(0), Until: day(10), Deployments: 4, LeadTime: 27 * 3600, LeadTimeP90: 50 * 3600, Timed: 2,
			Frequency: 0.4, FailRate: 0.25, Failed: 1, Recovery: 4 * 3600, Recovered: 1, ReworkRate: 0.25, Rework: 1,
			Approximate: []string{"failures are those that clusters told of, and deployments that were taken back; incidents are not known"},
		}
		if d := diff.Diff(want, got); d != "" {
			t.Error(d)
		}
		// No cluster tells of dev; an hour and two minutes each.
		got, err = s.DORA(t.Context(), waybill.DORAQuery{Ring: "dev", From: day(0), Until: day(10)})
		if err != nil || got.Deployments != 5 || got.LeadTime != 3720 || got.Failed != 0 || len(got.Approximate) != 2 {
			t.Errorf("%+v %v", got, err)
		}
		// What is before the window counts only as what was there.
		if got, err = s.DORA(t.Context(), waybill.DORAQuery{Ring: "prod", Service: "app", From: day(3).Add(2 * time.Hour), Until: day(10)}); err != nil ||
			got.Deployments != 2 || got.Rework != 1 || got.Timed != 1 || got.Failed != 0 {
			t.Errorf("%+v %v", got, err)
		}
		if _, err = s.DORA(t.Context(), waybill.DORAQuery{Ring: "prod", From: day(1), Until: day(1)}); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Error(err)
		}
	})
}

func TestF85_Trace(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		const source, branch, merge, manifest = "aaaaaaa1111111111111111111111111111111aa", "bbbbbbb1", "ccccccc1", "ddddddd1"
		tell(t, s,
			report{Kind: "build", Run: "100", ImageTag: "app:1", ImageDigest: "sha256:EE", Service: "o/app", Commit: source, SourceRepo: "https://u:p@gitlab.com/o/App.git", URL: "https://ci/100"},
			report{Kind: "config", Run: "101", ImageTag: "app:1", Ring: "dev", ConfigCommit: branch, PullRequest: "7", ConfigRepo: "https://gitlab.com/o/conf"},
			report{Kind: "review", PullRequest: "7", ConfigRepo: "https://gitlab.com/o/conf", Review: "merged", ApprovedBy: "ann", MergeCommit: merge},
			report{Kind: "manifest", Run: "200", ConfigCommit: merge, PullRequest: "7"},
			report{Kind: "run", Stage: "manifest", Run: "200", ManifestCommit: manifest},
			synced("east", manifest, "healthy", time.Time{}))
		d := list(t, s, waybill.DeploymentFilter{})[0]
		for ref, found := range map[string]string{
			source: "commit", strings.ToUpper(source[:7]): "commit", "APP:1": "image_tag", "sha256:ee": "image_digest", branch: "config_commit",
			merge + "99": "config_commit", "#7": "pull_request", manifest: "manifest_commit", "100": "build_run", "101": "config_run", "200": "manifest_run", d.ID: "id",
		} {
			got, err := s.Trace(t.Context(), "", ref)
			if err != nil || len(got) != 1 || got[0].Deployment.ID != d.ID || got[0].Found != found {
				t.Errorf("%s: %+v %v", ref, got, err)
				continue
			}
			var hops []string
			for _, h := range got[0].Hops {
				hops = append(hops, h.What)
			}
			if d := diff.Diff([]string{
				"commit " + source, "image app:1", "config commit " + merge + " for dev", "pull request 7 by ann", "manifest commit " + manifest, "cluster east",
			}, hops); d != "" {
				t.Error(d)
			}
			if got[0].Hops[0].URL != "https://gitlab.com/o/App/-/commit/"+source || got[0].Hops[1].URL != "https://ci/100" {
				t.Errorf("links: %+v", got[0].Hops[:2])
			}
		}
		for _, ref := range []string{"", "nothing", source[:6]} {
			if _, err := s.Trace(t.Context(), "", ref); !waybill.IsKind(err, waybill.KindNotFound) {
				t.Errorf("%q: %v", ref, err)
			}
		}
		detail, err := s.Deployment(t.Context(), "", d.ID)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, e := range detail.Events {
			kinds = append(kinds, string(e.Report.Kind))
		}
		if d := diff.Diff([]string{"build", "config", "review", "manifest", "run", "sync"}, kinds); d != "" || detail.Events[0].By != "ci" {
			t.Errorf("events (%+v)\n%s", detail.Events[0], d)
		}
		if text := fmt.Sprintf("%+v", detail); strings.Contains(text, "u:p@") {
			t.Error("credentials were kept")
		}
	})
}

func TestF88_Inbox(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		tell(t, s, flow("app", "1", "dev", "h1", "m1", noon)...)
		tell(t, s,
			report{Kind: "config", Run: "5", ImageTag: "mirror/app:1", Ring: "prod", ConfigCommit: "h2", Time: noon.Add(time.Hour)},
			report{Kind: "run", Stage: "manifest", Run: "lost", ManifestCommit: "m2", Time: noon.Add(2 * time.Hour)})
		inbox := func() waybill.Page[waybill.UnlinkedItem] {
			page, err := s.Unlinked(t.Context(), "", 10, "")
			if err != nil {
				t.Fatal(err)
			}
			return page
		}
		got := inbox().Items
		if len(got) != 2 || got[0].What != "run lost" || got[1].What != "image mirror/app:1 for prod" || got[1].Reason != "no build of image mirror/app:1 was reported" {
			t.Fatalf("%+v", got)
		}
		target := list(t, s, waybill.DeploymentFilter{Ring: "dev"})[0]
		tell(t, s, report{Kind: "attach", Deployment: got[1].ID, Target: target.ID})
		prod := list(t, s, waybill.DeploymentFilter{Ring: "prod"})[0]
		if prod.Service != "app" || prod.Unlinked != "" {
			t.Errorf("%+v", prod)
		}
		tell(t, s, report{Kind: "manifest", ConfigCommit: "h2", Time: noon.Add(3 * time.Hour)}, report{Kind: "attach", Deployment: got[0].ID, Target: prod.ID})
		if prod = list(t, s, waybill.DeploymentFilter{Ring: "prod"})[0]; prod.ManifestCommit != "m2" || len(inbox().Items) != 0 {
			t.Errorf("%+v, inbox %+v", prod, inbox().Items)
		}
		if r, err := s.Rebuild(t.Context(), ""); err != nil || r.Fixed != 0 {
			t.Errorf("a replay does not keep it: %+v %v", r, err)
		}
	})
}

// What looks like SQL, or like a filter of the older service, is a name like any other.
func TestF19_NamesMatchLiterally(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		s := delivery.New(delivery.Options{Store: st})
		odd := []string{"it's", `" or 1 eq 1`, "a' or '1'='1", "100%", "a_b", `back\slash`, "--", "/etc/../x", "ünïcödé", "a/b c?d#e"}
		for i, name := range odd {
			for _, p := range []string{"", "p " + name} {
				tell(t, s,
					report{Kind: "build", Partition: p, Run: "run " + name, ImageTag: name, Service: "svc " + name, Commit: fmt.Sprint("c", i), Time: noon},
					report{Kind: "config", Partition: p, Run: "c" + name, ImageTag: name, Ring: "ring " + name, ConfigCommit: "h " + name, Time: noon},
					report{Kind: "manifest", Partition: p, Run: "m" + name, ConfigCommit: "h " + name, ManifestCommit: "m " + name, Time: noon},
					report{Kind: "sync", Partition: p, Cluster: "cl " + name, ManifestCommit: "m " + name, ClusterState: "healthy", Time: noon})
			}
		}
		for _, name := range odd {
			for what, f := range map[string]waybill.DeploymentFilter{
				"tag": {ImageTag: name}, "ring": {Ring: "ring " + name}, "build": {Build: "run " + name}, "partition": {Partition: "p " + name},
				"tag by ring": {ImageTag: name, Sort: waybill.SortRing}, "service": {Service: "svc " + name},
			} {
				rows := list(t, s, f)
				if len(rows) != 1 || rows[0].ImageTag != name || len(rows[0].Clusters) != 1 || rows[0].Clusters[0].State != "healthy" {
					t.Errorf("%s %q: %d rows", what, name, len(rows))
				}
			}
			if got, err := s.Trace(t.Context(), "", name); err != nil || len(got) != 1 {
				t.Errorf("trace of %q: %d %v", name, len(got), err)
			}
			m, err := s.Matrix(t.Context(), "p "+name)
			if err != nil || len(m.Cells) != 2 || m.Cells[1].Cluster != "cl "+name {
				t.Errorf("matrix of %q: %+v %v", name, m.Cells, err)
			}
			if r, err := s.Rebuild(t.Context(), "p "+name); err != nil || r.Fixed != 0 || r.Rows != 1 {
				t.Errorf("rebuild of %q: %+v %v", name, r, err)
			}
		}
	})
}
