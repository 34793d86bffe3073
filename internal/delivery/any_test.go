package delivery

import (
	"slices"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
)

// draw makes any report from few words, so that reports meet, contradict each other and
// are in doubt.
func draw(t *rapid.T) report {
	pick := func(name string, words ...string) string { return rapid.SampledFrom(words).Draw(t, name) }
	r := report{
		Kind:     rapid.SampledFrom([]waybill.ReportKind{"build", "config", "manifest", "run", "review", "sync", "commit", "history"}).Draw(t, "kind"),
		ImageTag: pick("tag", "t1", "t2"), Service: pick("service", "", "a", "b"), Commit: pick("commit", "aaaaaaa", "aaaaaaa1", "c2"),
		Run: pick("run", "1", "2"), Ring: pick("ring", "dev", "prod"), ConfigCommit: pick("config", "bbbbbbb1", "bbbbbbb", "h2"),
		PullRequest: pick("pr", "", "7"), ConfigRepo: pick("repo", "", "one/x", "two/x"), ManifestCommit: pick("manifest", "", "m1", "m2"),
		Time: noon.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "minute")) * time.Minute),
	}
	switch r.Kind {
	case "build":
		r.Ring, r.ConfigCommit, r.ManifestCommit, r.PullRequest, r.ConfigRepo = "", "", "", "", ""
		r.ImageDigest = pick("digest", "", "sha256:1", "sha256:2")
	case "config":
		r.ManifestCommit = ""
		r.ImageDigest, r.BuildRun = pick("digest", "", "sha256:1"), pick("of", "", "1")
	case "manifest":
		if rapid.Bool().Draw(t, "direct") {
			r.ConfigCommit, r.PullRequest = "", ""
		} else {
			r.ImageTag = ""
		}
	case "run":
		r = report{Kind: r.Kind, Time: r.Time, Run: r.Run, ManifestCommit: r.ManifestCommit, Stage: rapid.SampledFrom([]waybill.Stage{"build", "config", "manifest"}).Draw(t, "stage"),
			Status: rapid.SampledFrom([]waybill.Outcome{running, failed, succeeded}).Draw(t, "status")}
	case "review":
		r.PullRequest, r.Review, r.MergeCommit = "7", waybill.ReviewMerged, pick("merge", "", "h2")
	case "commit":
		r = report{Kind: r.Kind, Time: r.Time, Commit: pick("of", "aaaaaaa", "aaaaaaa1", "bbbbbbb1", "c2"), SourceRepo: pick("in", "", "one/x", "two/x"), Author: &waybill.Person{Name: pick("who", "ada", "bob")}}
	case "history":
		commits := []string{"m1", "m2", "m3", "m4"}
		n := rapid.IntRange(1, 3).Draw(t, "child")
		r = report{Kind: r.Kind, Time: r.Time, History: []waybill.CommitParents{{Commit: commits[n], Parents: commits[n-1 : n]}}}
	case "sync":
		r.ManifestCommit = pick("revision", "", "m1", "m2", "m3", "m4")
		r.ClusterState = rapid.SampledFrom([]waybill.ClusterState{"applied", "healthy", "failed"}).Draw(t, "state")
		r.Ring = pick("of", "", "dev")
		r.Cluster = pick("cluster", "east", "west")
	}
	return r
}

// Whatever is told: the rows fit the parts, nobody who was told an id is lost, and the
// events make the same again.
func TestAnyReports(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := newFeed(t)
		f.tell(rapid.SliceOfN(rapid.Custom(draw), 1, 25).Draw(r, "reports")...)
		if gone := rapid.SliceOfN(rapid.IntRange(0, 9), 0, 4).Draw(r, "forgotten"); len(gone) > 0 && len(f.rows()) > 0 {
			prune := report{Kind: waybill.ReportPrune}
			rows := f.rows()
			for _, i := range gone {
				prune.Deployments = append(prune.Deployments, rows[i%len(rows)].ID)
			}
			f.tell(prune)
			for _, d := range rows { // nothing but what was asked for has changed
				now := f.m.of(DefaultPartition).rows[d.ID]
				if now == nil {
					if !slices.Contains(prune.Deployments, d.ID) {
						r.Fatalf("row %s is gone too", d.ID)
					}
					continue
				}
				c := *now
				if c.Unlinked != "" && d.Unlinked != "" {
					c.Unlinked = d.Unlinked // it still is, of what there is now
				}
				if x := diff.Diff(d, c); x != "" {
					r.Fatalf("row %s changed as others were forgotten\n%s", d.ID, x)
				}
			}
			if n := len(f.rows()); n > len(rows) {
				r.Fatalf("%d rows became %d", len(rows), n)
			}
			f.tell(rapid.SliceOfN(rapid.Custom(draw), 0, 5).Draw(r, "later")...)
		}
		m := f.m.of(DefaultPartition)
		owners := map[string]string{}
		for k, p := range m.parts {
			if p.Row == "" {
				continue
			}
			if m.rows[p.Row] == nil || owners[p.Row] != "" {
				r.Fatalf("row %s of part %s: it exists: %v, and it is of %q", p.Row, k, m.rows[p.Row] != nil, owners[p.Row])
			}
			owners[p.Row] = k
		}
		for id, d := range m.rows {
			if owners[id] == "" || d.ID != id || d.Reason == "" {
				r.Fatalf("row %s is of no part, or is named %s, or has no reason (%q)", id, d.ID, d.Reason)
			}
		}
		for id, to := range m.aliases {
			if m.rows[to] == nil && m.rows[id] == nil {
				r.Fatalf("the former id %s leads to %s, which is no row", id, to)
			}
		}
		for k, p := range m.places {
			for _, v := range p.Visits {
				if d := m.rows[v.Deployment]; d == nil || placeKey(homeKey(d), p.Cluster) != k {
					r.Fatalf("place %s has deployment %s, which is not there", k, v.Deployment)
				}
			}
			d := m.rows[p.Visits[0].Deployment]
			if now := m.summaries[homeKey(d)].Now[p.Cluster]; now.Deployment != d.ID {
				r.Fatalf("place %s begins with %s, and %s is said to be there", k, d.ID, now.Deployment)
			}
		}
		for k, x := range m.summaries {
			for c := range x.Now {
				if m.places[placeKey(k, c)] == nil {
					r.Fatalf("%s is in %q, where nothing is", k, c)
				}
			}
		}
		// What is stored of every row is what follows from the parts now.
		s := newState(f.m, DefaultPartition)
		for id, k := range owners {
			v, _ := s.view(s.part(k))
			v.row.ID, v.row.Former = id, m.rows[id].Former
			if d := diff.Diff(v.row, m.rows[id]); d != "" {
				r.Fatalf("row %s was not made again (-should be +is)\n%s", id, d)
			}
		}
		for k, p := range m.parts {
			v, why := s.view(s.part(k))
			if (v != nil) != (p.Row != "") || why != p.Unlinked {
				r.Fatalf("part %s: row %q, should have one: %v; inbox %q, should be %q", k, p.Row, v != nil, p.Unlinked, why)
			}
			refs := p.refs()
			if p.Kind == partCluster {
				continue
			}
			for ref, keys := range m.keys {
				if slices.Contains(keys, k) != slices.Contains(refs, ref) && ref != "row:"+p.Row {
					r.Fatalf("part %s and its index %s", k, ref)
				}
			}
		}
		g := newMemory()
		for _, e := range f.events {
			s := newState(g, DefaultPartition)
			if _, err := s.apply(&e); err != nil {
				r.Fatal(err)
			}
			g.keep(s)
		}
		if d := diff.Diff(m.rows, g.of(DefaultPartition).rows); d != "" {
			r.Fatal(d)
		}
	})
}

// Manifests whose repository becomes known leave the row of another repository.
func TestManifestsLeaveARow(t *testing.T) {
	in := func(r report, repo string) report {
		return with(r, func(r *report) { r.ConfigRepo = repo })
	}
	f := newFeed(t)
	f.tell(in(p2("101", "app:1", "h1", "dev", ""), "example.com/two"), p3("200", "h1", ""))
	f.want("- dev app:1 - - 101 h1 - 200 -")
	f.tell(in(p3("200", "h1", ""), "example.com/one"))
	f.want("- dev app:1 - - 101 h1 - - -", "- - - - - - h1 - 200 -")
}

// A report that names the service takes the place of one that did not; the build that
// only the latter had is on its own again, and its manifests are kept.
func TestServiceNamedLater(t *testing.T) {
	dig := func(r report) report { return with(r, func(r *report) { r.ImageDigest = "sha256:1" }) }
	permute([]report{
		dig(p1("100", "other:1", "b", "c1")), dig(p2("101", "app:1", "h1", "dev", "7")), p3("200", "h9", "7"),
		with(p2("101", "app:1", "h1", "dev", ""), func(r *report) { r.Service = "a" }),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("b - other:1 100 c1 - - - - -", "a dev app:1 - - 101 h9 7 200 -")
	})
}
