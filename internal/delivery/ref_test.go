package delivery

import (
	"testing"

	"github.com/waybill-run/waybill"
)

func TestF13_SameCommit(t *testing.T) {
	const full = "40d6b21b9c1f0e5a7d3c2b1a0f9e8d7c6b5a4f3e"
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{full, full, true}, {full, full[:7], true}, {full[:8], full, true}, {" " + full[:7], "40D6B21", true}, {full[:6], full, false}, {full[:6], full[:6], true},
		{full[:8], full[:7] + "c", false}, {"", "", false}, {"", full, false}, {"h1", "h1", true}, {"h1", "h12", false}, {"release-1", "release-10", false},
	} {
		if got := sameCommit(c.a, c.b); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
		if c.want && short(c.a) != short(c.b) {
			t.Errorf("%q and %q have other indexes: %q, %q", c.a, c.b, short(c.a), short(c.b))
		}
	}
}

func TestRepositoriesHoweverTheyAreWritten(t *testing.T) {
	for _, s := range []string{
		"https://github.com/o/App", "https://user:token@GitHub.com/o/app.git", "git@github.com:o/app.git", "ssh://git@github.com:22/o/app", "github.com/o/app/", " http://github.com/O/APP ",
	} {
		if got := foldRepo(s); got != "github.com/o/app" {
			t.Errorf("%q is %q", s, got)
		}
	}
	for s, want := range map[string]string{"1234": "1234", "": "", "https://dev.azure.com/org/project/_git/repo": "dev.azure.com/org/project/_git/repo"} {
		if got := foldRepo(s); got != want {
			t.Errorf("%q is %q", s, got)
		}
	}
	for s, want := range map[string]string{
		"https://u:p@h/o/r": "https://h/o/r", "https://h/o@x/r": "https://h/o@x/r", "git@github.com:o/r": "git@github.com:o/r", "https://tok@h": "https://h", "42": "42",
	} {
		if got := plainRepo(s); got != want {
			t.Errorf("%q is shown as %q", s, got)
		}
	}
}

func TestF81_Links(t *testing.T) {
	for repo, want := range map[string]string{
		"https://github.com/o/App.git":        "https://github.com/o/App/compare/a...b",
		"git@github.com:o/app.git":            "https://github.com/o/app/compare/a...b",
		"https://gitlab.example.com/g/s/r":    "https://gitlab.example.com/g/s/r/-/compare/a...b",
		"https://dev.azure.com/o/p/_git/r":    "https://dev.azure.com/o/p/_git/r/branchCompare?baseVersion=GCa&targetVersion=GCb",
		"1234":                                "",
		"https://git.example.com/o/r":         "",
		"javascript://github.com/o/r%0aalert": "",
	} {
		if got := compareURL(repo, "a", "b"); got != want {
			t.Errorf("%s: %q", repo, got)
		}
	}
}

// An image names a row only together with its ring.
func TestClusterTellsOfAnImage(t *testing.T) {
	sync := func(tag, digest, ring string, state waybill.ClusterState) report {
		return report{Kind: waybill.ReportSync, Cluster: "east", ImageTag: tag, ImageDigest: digest, Ring: ring, ClusterState: state}
	}
	permute([]report{
		p1("100", "app:1", "app", "c1"), with(p2("101", "app:1", "h1", "dev", ""), func(r *report) { r.ImageDigest = "sha256:aa" }), p2("102", "app:1", "h2", "prod", ""),
		sync("", "sha256:aa", "dev", waybill.ClusterHealthy), sync("app:1", "", "", waybill.ClusterFailed),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		for _, d := range f.rows() {
			if d.Ring == "dev" {
				if len(d.Clusters) != 1 || d.Clusters[0].State != waybill.ClusterHealthy || d.Clusters[0].Match != "image" {
					t.Errorf("dev: %+v", d.Clusters)
				}
			} else if len(d.Clusters) != 0 {
				t.Errorf("%s: %+v", d.Ring, d.Clusters)
			}
		}
	})
}

// What is told late of a run that has ended does not open it again.
func TestRunStatusInEveryOrder(t *testing.T) {
	status := func(o waybill.Outcome, minute int) report {
		return report{Kind: waybill.ReportRun, Stage: waybill.StageBuild, Run: "100", Status: o, Time: noon.AddDate(0, 0, minute)}
	}
	permute([]report{status(running, 1), status(failed, 2), status(running, 3), status(succeeded, 4), with(p1("100", "app:1", "app", "c1"), func(r *report) { r.Time = noon; r.Status = queued })}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		if d := f.one(); d.Build.Status != succeeded || len(d.Build.Runs) != 1 {
			t.Errorf("%s: %+v", d.Build.Status, d.Build.Runs)
		}
	})
}
