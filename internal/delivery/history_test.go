package delivery

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waybill-run/waybill"
)

func deliver(service, build, ring, manifest string) []report {
	tag := service + ":" + build
	return []report{
		p1("b"+tag, tag, service, "c"+build), p2("c"+tag+ring, tag, "h"+service+build+ring, ring, ""),
		with(p3("m"+tag+ring, "h"+service+build+ring, ""), func(r *report) { r.ManifestCommit = manifest }),
	}
}

func at(cluster, commit string, state waybill.ClusterState, minute int) report {
	return report{Kind: waybill.ReportSync, Cluster: cluster, ManifestCommit: commit, ClusterState: state, Time: noon.Add(time.Duration(minute) * time.Minute)}
}

// line is a history of commits, each of which came of the one before.
func history(commits ...string) report {
	r := report{Kind: waybill.ReportHistory, Time: noon}
	for i := len(commits) - 1; i > 0; i-- {
		r.History = append(r.History, waybill.CommitParents{Commit: commits[i], Parents: commits[i-1 : i]})
	}
	return r
}

// where says in short which clusters have which tags, and how.
func (f *feed) where() string {
	s := newState(f.m, DefaultPartition)
	var out []string
	for _, d := range f.rows() {
		x := d.ImageTag + ":"
		for _, c := range s.supersede(&d).Clusters {
			x += fmt.Sprintf(" %s %s %s", c.Cluster, c.State, c.Match)
		}
		out = append(out, x)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestF70_ClustersHaveWhatTheirRevisionCameOf(t *testing.T) {
	rows := slices.Concat(deliver("a", "1", "prod", "m1"), deliver("b", "1", "prod", "m2"), deliver("a", "2", "prod", "m3"))
	for i := range rows {
		rows[i].Time = noon.Add(time.Duration(i-20) * time.Minute)
	}
	facts := []report{history("m1", "m2", "m3"), at("west", "m2", waybill.ClusterHealthy, 1), at("east", "m1", waybill.ClusterHealthy, 2)}
	last := at("west", "m3", waybill.ClusterHealthy, 3)
	permute(facts, func(order []report) {
		for _, first := range []bool{true, false} { // the deployments are told of before, or after
			f := newFeed(t)
			if first {
				f.tell(rows...)
			}
			f.tell(order...)
			if !first {
				f.tell(rows...)
			}
			if got, want := f.where(), "a:1: east healthy commit west healthy ancestry; a:2:; b:1: west healthy commit"; got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
			f.tell(last)
			if got, want := f.where(), "a:1: east healthy commit west superseded ancestry; a:2: west healthy commit; b:1: west healthy commit"; got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		}
	})
	// Without the history only what a cluster said itself is known.
	f := newFeed(t)
	f.tell(rows...)
	f.tell(facts[1:]...)
	if got, want := f.where(), "a:1: east healthy commit; a:2:; b:1: west healthy commit"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A cluster that comes late takes everything at once: the newest is there.
func TestF70_FirstRevisionOfACluster(t *testing.T) {
	rows := slices.Concat(deliver("a", "1", "prod", "m1"), deliver("b", "1", "prod", "m2"), deliver("a", "2", "prod", "m3"))
	for i := range rows {
		rows[i].Time = noon // nothing but the history says what came first
	}
	permute([]report{history("m0", "m1", "m2", "m3", "m4"), at("west", "m4", waybill.ClusterApplied, 1)}, func(order []report) {
		f := newFeed(t)
		f.tell(rows...)
		f.tell(order...)
		if got, want := f.where(), "a:1: west superseded ancestry; a:2: west applied ancestry; b:1: west applied ancestry"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// What a later revision says holds of what it contains, until that has worked once.
func TestF70_StatesThroughLaterRevisions(t *testing.T) {
	rows := slices.Concat(deliver("a", "1", "prod", "m1"), deliver("b", "1", "prod", "m2"))
	for i := range rows {
		rows[i].Time = noon.Add(-time.Hour)
	}
	syncs := []report{
		history("m1", "m2", "m3", "m4"), at("west", "m1", waybill.ClusterApplied, 1), at("west", "m2", waybill.ClusterFailed, 2),
		at("west", "m3", waybill.ClusterHealthy, 3), at("west", "m4", waybill.ClusterFailed, 4),
	}
	permute(syncs, func(order []report) {
		f := newFeed(t)
		f.tell(rows...)
		f.tell(order...)
		if got, want := f.where(), "a:1: west healthy commit; b:1: west healthy commit"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		for _, d := range f.rows() {
			c := d.Clusters[0]
			if !c.HealthyAt.Equal(noon.Add(3*time.Minute)) || !c.FailedAt.Equal(noon.Add(2*time.Minute)) {
				t.Errorf("%s: healthy at %s, failed at %s", d.ImageTag, c.HealthyAt, c.FailedAt)
			}
		}
	})
	f := newFeed(t)
	f.tell(rows...)
	f.tell(syncs[:3]...)
	if got, want := f.where(), "a:1: west failed commit; b:1: west failed commit"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	// The same revision stops working.
	f.tell(at("west", "m2", waybill.ClusterHealthy, 5), at("west", "m2", waybill.ClusterFailed, 6))
	if got, want := f.where(), "a:1: west healthy commit; b:1: west failed commit"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A cluster that is set to an earlier revision does not have any more what came after it.
func TestF70_ClusterGoesBack(t *testing.T) {
	rows := slices.Concat(deliver("a", "1", "prod", "m1"), deliver("b", "1", "prod", "m2"), deliver("a", "2", "prod", "m3"))
	for i := range rows {
		rows[i].Time = noon.Add(time.Duration(i-20) * time.Minute)
	}
	for name, c := range map[string]struct {
		tell []report
		want string
	}{
		"step by step": {[]report{history("m1", "m2", "m3"), at("w", "m1", "healthy", 1), at("w", "m2", "healthy", 2), at("w", "m3", "healthy", 3), at("w", "m2", "healthy", 4)},
			"a:1: w healthy commit; a:2: w superseded commit; b:1: w healthy commit"},
		"at once": {[]report{history("m1", "m2", "m3"), at("w", "m3", "healthy", 3), at("w", "m1", "healthy", 4)},
			"a:1: w healthy commit; a:2: w superseded commit; b:1: w superseded ancestry"},
		"and on": {[]report{history("m1", "m2", "m3"), at("w", "m3", "healthy", 3), at("w", "m1", "healthy", 4), at("w", "m3", "healthy", 5)},
			"a:1: w superseded commit; a:2: w healthy commit; b:1: w healthy ancestry"},
		"no history": {[]report{at("w", "m1", "healthy", 1), at("w", "m3", "healthy", 3), at("w", "m1", "healthy", 4)},
			"a:1: w healthy commit; a:2: w superseded commit; b:1:"},
	} {
		f := newFeed(t)
		f.tell(rows...)
		f.tell(c.tell...)
		if got := f.where(); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// What is told of a ring, or of a service, holds of no other.
func TestF70_Scopes(t *testing.T) {
	rows := slices.Concat(deliver("o/a", "1", "prod", "m1"), deliver("o/a", "1", "dev", "m2"), deliver("b", "1", "prod", "m3"))
	f := newFeed(t)
	f.tell(rows...)
	f.tell(history("m1", "m2", "m3", "m4"), with(at("w", "m4", "healthy", 1), func(r *report) { r.Ring = "prod"; r.Service = "a" }))
	if got, want := f.where(), "b:1:; o/a:1:; o/a:1: w healthy ancestry"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Merges: a cluster has what any parent brought.
func TestF70_Merges(t *testing.T) {
	f := newFeed(t)
	f.tell(slices.Concat(deliver("a", "1", "prod", "m1"), deliver("b", "1", "prod", "m2"))...)
	f.tell(at("w", "m9", "healthy", 1), report{Kind: waybill.ReportHistory, Time: noon, History: []waybill.CommitParents{{Commit: "m1"}, {Commit: "m2"}, {Commit: "m9", Parents: []string{"m1", "m2"}}}})
	if got, want := f.where(), "a:1: w healthy ancestry; b:1: w healthy ancestry"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// Commits are known by as many digits as whoever tells of them writes.
func TestF70_Prefixes(t *testing.T) {
	const a, b = "abcdef0123456789abcdef0123456789abcdef01", "1234567012345678901234567890123456789012"
	permute([]report{
		{Kind: waybill.ReportHistory, Time: noon, History: []waybill.CommitParents{{Commit: b, Parents: []string{a}}}},
		at("w", b[:7], "applied", 1), at("w", b, "healthy", 2), deliver("a", "1", "prod", a[:8])[2], deliver("a", "1", "prod", a[:8])[1],
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		if got, want := f.where(), "a:1: w healthy ancestry"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// Any history and any reports of clusters, in any order: a cluster has what its revisions
// came of, since the first of them.
func TestF70_AnyHistory(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(r, "commits")
		name := func(i int) string { return fmt.Sprintf("m%d", i) }
		came := make([]map[int]bool, n) // of itself and everything before it
		var reports []report
		for i := range n {
			came[i] = map[int]bool{i: true}
			var parents []string
			for p := range i {
				if rapid.Bool().Draw(r, "parent") {
					parents = append(parents, name(p))
					maps.Copy(came[i], came[p])
				}
			}
			reports = append(reports, report{Kind: waybill.ReportHistory, Time: noon, History: []waybill.CommitParents{{Commit: name(i), Parents: parents}}})
			reports = append(reports, deliver("s", fmt.Sprint(i), "prod", name(i))...)
		}
		type seen struct{ since, healthy time.Time }
		want := make([]map[string]seen, n)
		for range rapid.IntRange(1, 8).Draw(r, "syncs") {
			i, cluster := rapid.IntRange(0, n-1).Draw(r, "revision"), rapid.SampledFrom([]string{"east", "west"}).Draw(r, "cluster")
			y := at(cluster, name(i), rapid.SampledFrom([]waybill.ClusterState{"pending", "applied", "healthy", "failed"}).Draw(r, "state"), rapid.IntRange(1, 9).Draw(r, "minute"))
			reports = append(reports, y)
			for c := range came[i] {
				if want[c] == nil {
					want[c] = map[string]seen{}
				}
				x := want[c][cluster]
				x.since = earliest(x.since, y.Time)
				if y.ClusterState == waybill.ClusterHealthy {
					x.healthy = earliest(x.healthy, y.Time)
				}
				want[c][cluster] = x
			}
		}
		for range 2 {
			f := newFeed(t)
			f.tell(rapid.Permutation(reports).Draw(r, "order")...)
			for _, d := range f.rows() {
				var i int
				fmt.Sscanf(d.ManifestCommit, "m%d", &i)
				got := map[string]seen{}
				for _, c := range d.Clusters {
					got[c.Cluster] = seen{c.Since, c.HealthyAt}
				}
				if len(got)+len(want[i]) > 0 && !maps.Equal(got, want[i]) {
					r.Fatalf("%s: %v, want %v", d.ManifestCommit, got, want[i])
				}
			}
		}
	})
}
