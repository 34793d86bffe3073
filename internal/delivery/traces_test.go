package delivery

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"github.com/waybill-run/waybill"
)

// feed applies reports one after another, without a store.
type feed struct {
	t      testing.TB
	m      *memory
	events []waybill.DeliveryEvent
	seen   map[string]bool
}

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func newFeed(t testing.TB) *feed { return &feed{t: t, m: newMemory(), seen: map[string]bool{}} }

// tell applies reports and returns what the last one did.
func (f *feed) tell(reports ...waybill.DeliveryReport) effect {
	f.t.Helper()
	var ef effect
	for _, r := range reports {
		r, err := check(r)
		if err != nil {
			f.t.Fatal(err)
		}
		id := eventID(&r)
		if f.seen[id] {
			ef = effect{action: waybill.ActionRepeated}
			continue
		}
		e := waybill.DeliveryEvent{ID: id, Seq: int64(len(f.events) + 1), ReceivedAt: noon.Add(time.Duration(len(f.events)) * time.Minute), Report: r}
		s := newState(f.m, r.Partition)
		if ef, err = s.apply(&e); err != nil {
			f.t.Fatal(err)
		}
		f.seen[id] = true
		f.events = append(f.events, e)
		f.m.keep(s)
	}
	return ef
}

// rows are all rows of the default partition, the oldest first.
func (f *feed) rows() []waybill.Deployment {
	var out []waybill.Deployment
	for _, d := range f.m.of(DefaultPartition).rows {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b waybill.Deployment) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Ring, b.Ring), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// one is the only row.
func (f *feed) one() waybill.Deployment {
	f.t.Helper()
	rows := f.rows()
	if len(rows) != 1 {
		f.t.Fatalf("%d rows, want 1:\n%s", len(rows), lines(rows))
	}
	return rows[0]
}

// line is a row in short: service ring tag p1 commit p2 config pr p3 manifest.
func line(d *waybill.Deployment) string {
	run := func(s *waybill.DeploymentStage) string {
		if r := s.Last(); r != nil {
			return r.Run
		}
		return "-"
	}
	or := func(s string) string { return cmp.Or(s, "-") }
	return strings.Join([]string{
		or(d.Service), or(d.Ring), or(d.ImageTag), run(d.Build), or(d.Commit), run(d.Config), or(d.ConfigCommit),
		or(d.PullRequest), run(d.Manifest), or(d.ManifestCommit),
	}, " ")
}

func lines(rows []waybill.Deployment) string {
	var b strings.Builder
	for i := range rows {
		b.WriteString(line(&rows[i]) + "\n")
	}
	return b.String()
}

func (f *feed) want(want ...string) {
	f.t.Helper()
	var got []string
	rows := f.rows()
	for i := range rows {
		got = append(got, line(&rows[i]))
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := diff.Diff(want, got); d != "" {
		f.t.Errorf("rows (service ring tag p1 commit p2 config pr p3 manifest; -want +got)\n%s", d)
	}
}

type report = waybill.DeliveryReport

func p1(run, tag, service, commit string) report {
	return report{Kind: waybill.ReportBuild, Run: run, ImageTag: tag, Service: service, Commit: commit}
}

func p2(run, tag, config, ring, pr string) report {
	return report{Kind: waybill.ReportConfig, Run: run, ImageTag: tag, ConfigCommit: config, Ring: ring, PullRequest: pr}
}

func p3(run, config, pr string) report {
	return report{Kind: waybill.ReportManifest, Run: run, ConfigCommit: config, PullRequest: pr}
}

func patch(run, manifest string) report {
	return report{Kind: waybill.ReportRun, Stage: waybill.StageManifest, Run: run, ManifestCommit: manifest}
}

func with(r report, f func(*report)) report { f(&r); return r }

var t1 = []report{
	p1("100", "app:1", "app", "c1"), p2("100", "app:1", "h1", "dev", "7"), p3("200", "h9", "7"), patch("200", "m1"),
}

const t1Row = "app dev app:1 100 c1 100 h9 7 200 m1"

func TestF06_T1MergeCommitReplacesThatOfTheBranch(t *testing.T) {
	f := newFeed(t)
	f.tell(t1...)
	f.want(t1Row)
	if d := f.one(); d.Status != waybill.DeploymentComplete || d.Reason != "manifest commit m1 was reported (run 200)" {
		t.Errorf("status %s (%s)", d.Status, d.Reason)
	}
}

func TestF11_T2PullRequestIsKept(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p2("100", "app:1", "h1", "dev", "7"), p3("200", "h1", ""))
	f.want("app dev app:1 100 c1 100 h1 7 200 -")
}

func TestF03_T3OneImageInTwoRings(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"))
	first := f.one().ID
	f.tell(p2("101", "app:1", "h1", "dev", ""))
	if id := f.one().ID; id != first {
		t.Errorf("the first ring made row %s of %s", id, first)
	}
	if ef := f.tell(p2("102", "app:1", "h2", "prod", "")); ef.action != waybill.ActionCopied {
		t.Errorf("action %s", ef.action)
	}
	f.want("app dev app:1 100 c1 101 h1 - - -", "app prod app:1 100 c1 102 h2 - - -")
}

func TestF14_T4RingsHaveNoCase(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "Dev", ""), p2("101", "app:1", "h1", "Dev", ""), p2("101", "APP:1 ", "H1", "DEV", ""))
	f.want("app dev app:1 100 c1 101 h1 - - -")
}

func TestF11_T5LateReportErasesNothing(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", ""), with(p3("200", "h1", "7"), func(r *report) { r.ManifestCommit = "m1" }))
	before := f.one()
	if ef := f.tell(p2("101", "app:1", "h1", "dev", "")); ef.action != waybill.ActionRepeated {
		t.Errorf("action %s", ef.action)
	}
	// The same from another reporter is another event, and changes nothing that is known.
	f.tell(with(p2("101", "app:1", "h1", "dev", ""), func(r *report) { r.Provider = "flux"; r.Time = noon }))
	if d := diff.Diff(line(&before), line(new(f.one()))); d != "" {
		t.Error(d)
	}
}

func TestF15_T6OneTagOfTwoServices(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "1.0", "a", "c1"), p1("101", "1.0", "b", "c2"))
	ids := map[string]string{}
	for _, d := range f.rows() {
		ids[d.Service] = d.ID
	}
	ef := f.tell(p2("102", "1.0", "h2", "dev", ""))
	if ef.action != waybill.ActionUnlinked || !strings.Contains(ef.warning, "ambiguous: builds of a (run 100) and b (run 101) have the tag of 1.0") {
		t.Errorf("%s: %s", ef.action, ef.warning)
	}
	f.want("a - 1.0 100 c1 - - - - -", "b - 1.0 101 c2 - - - - -", "- dev 1.0 - - 102 h2 - - -")
	for _, d := range f.rows() {
		if !strings.HasPrefix(d.Unlinked, "ambiguous: ") {
			t.Errorf("row %q is not flagged", line(&d))
		}
	}
	f.tell(with(p2("102", "1.0", "h2", "dev", ""), func(r *report) { r.Service = "b" }))
	f.want("a - 1.0 100 c1 - - - - -", "b dev 1.0 101 c2 102 h2 - - -")
	for _, d := range f.rows() {
		if d.ID != ids[d.Service] && !slices.Contains(d.Former, ids[d.Service]) || d.Unlinked != "" {
			t.Errorf("row %s of %s is not the one that it was (%s), or flagged: %q", d.ID, d.Service, ids[d.Service], d.Unlinked)
		}
	}

	g := newFeed(t)
	g.tell(p1("100", "1.0", "a", "c1"), p1("101", "1.0", "b", "c2"), with(p2("102", "1.0", "h2", "dev", ""), func(r *report) { r.BuildRun = "101" }))
	g.want("a - 1.0 100 c1 - - - - -", "b dev 1.0 101 c2 102 h2 - - -")
}

func TestT7RunsOfOneStageAreAttempts(t *testing.T) {
	f := newFeed(t)
	m := func(run, commit string) report {
		return with(p3(run, "h1", ""), func(r *report) { r.ManifestCommit = commit })
	}
	f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", ""), m("200", "m1"), m("201", "m2"))
	f.want("app dev app:1 100 c1 101 h1 - 201 m2")
	var runs []string
	for _, r := range f.one().Manifest.Runs {
		runs = append(runs, r.Run)
	}
	if !slices.Equal(runs, []string{"200", "201"}) {
		t.Errorf("history %v", runs)
	}
}

func TestF08_T8ManualEdit(t *testing.T) {
	f := newFeed(t)
	ef := f.tell(with(p3("300", "hh", ""), func(r *report) { r.ManifestCommit = "mm" }))
	f.want("- - - - - - hh - 300 mm")
	if d := f.one(); d.Kind != waybill.DeploymentManual || ef.action != waybill.ActionInserted || d.Unlinked != "" {
		t.Errorf("kind %s, action %s, %q", d.Kind, ef.action, d.Unlinked)
	}
}

func TestF04_T9LateBuildAdopts(t *testing.T) {
	f := newFeed(t)
	if ef := f.tell(p2("101", "app:1", "h1", "dev", "")); ef.action != waybill.ActionUnlinked {
		t.Errorf("action %s", ef.action)
	}
	before := f.one()
	if before.Unlinked != "no build of image app:1 was reported" {
		t.Errorf("unlinked %q", before.Unlinked)
	}
	f.tell(p1("100", "app:1", "app", "c1"))
	f.want("app dev app:1 100 c1 101 h1 - - -")
	if d := f.one(); d.ID != before.ID || d.Unlinked != "" {
		t.Errorf("row %s was %s, %q", d.ID, before.ID, d.Unlinked)
	}
}

func TestF10_T10BuildTwice(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p1("100", "app:1", "app", "c1"), with(p1("100", "app:1", "app", "c1"), func(r *report) { r.Status = "succeeded" }))
	f.want("app - app:1 100 c1 - - - - -")
}

func TestF07_T11ManifestsReachEveryService(t *testing.T) {
	f := newFeed(t)
	f.tell(
		p1("100", "a:1", "a", "c1"), p1("101", "b:1", "b", "c2"), p2("102", "a:1", "h1", "dev", ""), p2("102", "b:1", "h1", "dev", ""),
		p3("200", "h1", ""), patch("200", "m1"))
	f.want("a dev a:1 100 c1 102 h1 - 200 m1", "b dev b:1 101 c2 102 h1 - 200 m1")
}

func TestF14_T12OneTagHoweverItIsWritten(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "App:V1", "app", "c1"))
	for i, ring := range []string{"dev", "prod", "qa"} {
		f.tell(p2(fmt.Sprint(101+i), "App:V1", fmt.Sprintf("h%d", i+1), ring, ""))
	}
	f.want("app dev App:V1 100 c1 101 h1 - - -", "app prod App:V1 100 c1 102 h2 - - -", "app qa App:V1 100 c1 103 h3 - - -")
}

func TestT13SpellingsOfATagDoNotLink(t *testing.T) {
	f := newFeed(t)
	// One expression for both reports links; two that differ are seen in the inbox.
	f.tell(p1("100", "app:release-1-5", "app", "c1"), p2("101", "app:release-1-5", "h1", "dev", ""))
	f.want("app dev app:release-1-5 100 c1 101 h1 - - -")
	if ef := f.tell(p2("102", "app:release_1-5", "h2", "prod", "")); ef.action != waybill.ActionUnlinked {
		t.Errorf("action %s", ef.action)
	}
}

func TestF13_T14CommitsByPrefix(t *testing.T) {
	const full = "abcdef0123456789abcdef0123456789abcdef01"
	for _, lengths := range [][2]int{{8, 7}, {7, 8}, {40, 7}, {7, 40}, {40, 40}} {
		f := newFeed(t)
		f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", full[:lengths[0]], "dev", ""), p3("200", full[:lengths[1]], ""))
		f.want("app dev app:1 100 c1 101 " + full[:max(lengths[0], lengths[1])] + " - 200 -")
	}
	f := newFeed(t)
	f.tell(p2("101", "app:1", full[:6], "dev", ""), p3("200", full, ""))
	if n := len(f.rows()); n != 2 {
		t.Errorf("six digits linked: %d rows", n)
	}
}

func TestF01_RowOfABuild(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1aaaaa"))
	f.want("app - app:1 100 c1aaaaa - - - - -")
	if d := f.one(); !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(d.ID) {
		t.Errorf("id %q", d.ID)
	}
}

func TestF02_ConfigurationCompletesTheRow(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1aaaaa"))
	before := f.one()
	if ef := f.tell(p2("101", "app:1", "h1", "dev", "")); ef.action != waybill.ActionUpdated {
		t.Errorf("action %s", ef.action)
	}
	f.want("app dev app:1 100 c1aaaaa 101 h1 - - -")
	if d := f.one(); d.ID != before.ID || d.Build.Last().Run != "100" {
		t.Errorf("row %s was %s", d.ID, before.ID)
	}
}

func TestF05_ManifestsByConfigCommit(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", ""), p2("102", "app:1", "h2", "prod", ""))
	ids := map[string]string{}
	for _, d := range f.rows() {
		ids[d.Ring] = d.ID
	}
	f.tell(p3("200", "H1", ""))
	f.want("app dev app:1 100 c1 101 h1 - 200 -", "app prod app:1 100 c1 102 h2 - - -")
	for _, d := range f.rows() {
		if d.ID != ids[d.Ring] {
			t.Errorf("row of %s was %s and is %s", d.Ring, ids[d.Ring], d.ID)
		}
	}
}

func TestF06_PullRequestsOfOtherRepositories(t *testing.T) {
	in := func(r report, repo string) report {
		return with(r, func(r *report) { r.ConfigRepo = repo })
	}
	f := newFeed(t)
	f.tell(
		p1("100", "a:1", "a", "c1"), p1("101", "b:1", "b", "c2"),
		in(p2("102", "a:1", "h1", "dev", "7"), "https://token@dev.example.com/one/_git/conf"),
		in(p2("103", "b:1", "h2", "dev", "7"), "https://dev.example.com/two/_git/conf"),
		in(p3("200", "h9", "7"), "https://dev.example.com/one/_git/conf.git"))
	f.want("a dev a:1 100 c1 102 h9 7 200 -", "b dev b:1 101 c2 103 h2 7 - -")
	for _, d := range f.rows() {
		if strings.Contains(d.ConfigRepo, "token") {
			t.Errorf("credentials were kept: %s", d.ConfigRepo)
		}
	}
	if ef := f.tell(p3("201", "h8", "7")); ef.action != waybill.ActionUnlinked || !strings.Contains(ef.warning, "several repositories") {
		t.Errorf("%s: %s", ef.action, ef.warning)
	}
}

func TestF09_PatchOfAnUnknownRun(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"), p2("101", "app:1", "h1", "dev", ""))
	before := f.one()
	ef := f.tell(patch("200", "m1"))
	if ef.action != waybill.ActionUnlinked || ef.warning != "no manifests of run 200 were reported" {
		t.Errorf("%s: %s", ef.action, ef.warning)
	}
	if d := diff.Diff(before, f.one()); d != "" {
		t.Error(d)
	}
	// It was kept: when the run is told of, it finds its place.
	f.tell(p3("200", "h1", ""))
	for _, p := range f.m.of(DefaultPartition).parts {
		if p.Unlinked != "" {
			t.Errorf("%s is in the inbox still: %s", p.Key, p.Unlinked)
		}
	}
	f.want("app dev app:1 100 c1 101 h1 - 200 m1")
}

func TestF10_ThreeTimesTheSame(t *testing.T) {
	f := newFeed(t)
	f.tell(t1...)
	before := f.one()
	f.tell(slices.Concat(t1, t1)...)
	if d := diff.Diff(before, f.one()); d != "" {
		t.Error(d)
	}
}

func TestF12_EveryOrder(t *testing.T) {
	permute(t1, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want(t1Row)
		// Whoever was told an id still finds the row.
		for id := range f.m.of(DefaultPartition).aliases {
			s := newState(f.m, DefaultPartition)
			if d := s.rowOf(id); d == nil || d.ID != f.one().ID {
				t.Errorf("the former id %s is not found", id)
			}
		}
	})
}

func permute[T any](list []T, f func([]T)) {
	var rec func(done, left []T)
	rec = func(done, left []T) {
		if len(left) == 0 {
			f(done)
		}
		for i := range left {
			rec(append(slices.Clone(done), left[i]), slices.Delete(slices.Clone(left), i, i+1))
		}
	}
	rec(nil, list)
}

func TestFlowOfTwoRepositories(t *testing.T) {
	flow := []report{
		p1("100", "app:1", "app", "c1"),
		{Kind: waybill.ReportManifest, Run: "200", ImageTag: "app:1", Ring: "dev", ManifestRepo: "https://github.com/o/manifests"},
		patch("200", "m1"),
		{Kind: waybill.ReportManifest, Run: "201", ImageTag: "app:1", Ring: "prod", ManifestCommit: "m2"},
		{Kind: waybill.ReportSync, Cluster: "east", ManifestCommit: "m2", ClusterState: waybill.ClusterHealthy},
	}
	permute(flow, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("app dev app:1 100 c1 - - - 200 m1", "app prod app:1 100 c1 - - - 201 m2")
		for _, d := range f.rows() {
			if !d.Direct || d.Config != nil || d.Status != waybill.DeploymentComplete {
				t.Errorf("row %s: direct %v, config %v, %s (%s)", line(&d), d.Direct, d.Config, d.Status, d.Reason)
			}
			if d.Ring == "prod" != (len(d.Clusters) == 1) {
				t.Errorf("%s: clusters %v", d.Ring, d.Clusters)
			}
		}
	})
}

func TestDigestsDecideBetweenTags(t *testing.T) {
	dig := func(r report, d string) report { return with(r, func(r *report) { r.ImageDigest = d }) }
	f := newFeed(t)
	f.tell(
		dig(p1("100", "app:latest", "app", "c1"), "sha256:aa"), dig(p1("101", "app:latest", "app", "c2"), "sha256:bb"),
		dig(p2("102", "app:latest", "h1", "dev", ""), "sha256:bb"), dig(p2("103", "app:latest", "h2", "prod", ""), "sha256:cc"))
	f.want("app - app:latest 100 c1 - - - - -", "app dev app:latest 101 c2 102 h1 - - -", "- prod app:latest - - 103 h2 - - -")
}

func TestReportsNameADeployment(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"))
	id := f.one().ID
	f.tell(with(p2("101", "registry.example.com/app:1", "h1", "dev", ""), func(r *report) { r.Deployment = id }))
	d := f.one()
	if d.ID != id || d.Service != "app" || d.Ring != "dev" || d.Unlinked != "" {
		t.Errorf("row %s: %s %q", d.ID, line(&d), d.Unlinked)
	}
}

func TestF88_Attach(t *testing.T) {
	f := newFeed(t)
	f.tell(p1("100", "app:1", "app", "c1"))
	build := f.one().ID
	f.tell(p2("101", "mirror/app:1", "h1", "dev", ""))
	var orphan string
	for _, d := range f.rows() {
		if d.Unlinked != "" {
			orphan = d.ID
		}
	}
	f.tell(report{Kind: waybill.ReportAttach, Deployment: orphan, Target: build})
	d := f.one()
	if d.Service != "app" || d.Ring != "dev" || d.Unlinked != "" || !slices.Contains(append(d.Former, d.ID), build) || !slices.Contains(append(d.Former, d.ID), orphan) {
		t.Errorf("%s %v %s %q", d.ID, d.Former, line(&d), d.Unlinked)
	}
	f.tell(p3("200", "h7", ""))
	var manual string
	for _, d := range f.rows() {
		if d.Kind == waybill.DeploymentManual {
			manual = d.ID
		}
	}
	f.tell(report{Kind: waybill.ReportAttach, Deployment: manual, Target: orphan})
	f.want("app dev app:1 100 c1 101 h7 - 200 -")
}

// A tie that rests on the tag alone is undone when another build has the tag too.
func TestF15_T6InEveryOrder(t *testing.T) {
	permute([]report{p1("100", "1.0", "a", "c1"), p1("101", "1.0", "b", "c2"), p2("102", "1.0", "h2", "dev", "")}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("a - 1.0 100 c1 - - - - -", "b - 1.0 101 c2 - - - - -", "- dev 1.0 - - 102 h2 - - -")
		for _, d := range f.rows() {
			if !strings.HasPrefix(d.Unlinked, "ambiguous: ") {
				t.Errorf("row %q is not flagged", line(&d))
			}
		}
	})
	permute([]report{
		p1("100", "1.0", "a", "c1"), p1("101", "1.0", "b", "c2"), p2("102", "1.0", "h2", "dev", ""),
		with(p2("102", "1.0", "h2", "dev", ""), func(r *report) { r.Service = "b" }),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("a - 1.0 100 c1 - - - - -", "b dev 1.0 101 c2 102 h2 - - -")
		for _, d := range f.rows() {
			if d.Unlinked != "" {
				t.Errorf("row %q is flagged: %s", line(&d), d.Unlinked)
			}
		}
	})
}

// A pull request that is of two repositories ties manifests without one to neither, in
// whatever order they come.
func TestF06_InEveryOrder(t *testing.T) {
	in := func(r report, repo string) report {
		return with(r, func(r *report) { r.ConfigRepo = repo })
	}
	permute([]report{
		in(p2("102", "a:1", "h1", "dev", "7"), "https://example.com/one"), in(p2("103", "b:1", "h2", "dev", "7"), "https://example.com/two"),
		p3("200", "h9", "7"), p1("100", "a:1", "a", "c1"),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("a dev a:1 100 c1 102 h1 7 - -", "- dev b:1 - - 103 h2 7 - -", "- - - - - - h9 7 200 -")
	})
}

func TestF11_AndT11InEveryOrder(t *testing.T) {
	permute([]report{
		p1("101", "b:1", "b", "c2"), p2("102", "a:1", "h1", "dev", "7"), p2("102", "b:1", "h1", "dev", ""), p3("200", "h1", ""), patch("200", "m1"),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		f.want("- dev a:1 - - 102 h1 7 200 m1", "b dev b:1 101 c2 102 h1 - 200 m1")
	})
}

// Whoever makes manifests without a system that counts its runs says only which commit came
// out: that is enough.
func TestManifestsWithoutARun(t *testing.T) {
	build := waybill.DeliveryReport{Kind: waybill.ReportBuild, Run: "100", ImageTag: "app:1", Service: "app", Commit: "c626394aa"}
	config := waybill.DeliveryReport{Kind: waybill.ReportConfig, ImageTag: "app:1", Ring: "dev", ConfigCommit: "aaaaaaa1"}
	manifests := waybill.DeliveryReport{Kind: waybill.ReportManifest, ConfigCommit: "aaaaaaa1", ManifestCommit: "b3a3345ff"}
	sync := waybill.DeliveryReport{Kind: waybill.ReportSync, Cluster: "west", ClusterState: waybill.ClusterHealthy, ManifestCommit: "b3a3345ff"}
	for _, order := range [][]waybill.DeliveryReport{{build, config, manifests, sync}, {sync, manifests, config, build}} {
		f := newFeed(t)
		f.tell(order...)
		rows := f.rows()
		if len(rows) != 1 || rows[0].Status != waybill.DeploymentComplete || rows[0].ManifestCommit != "b3a3345ff" || len(rows[0].Clusters) != 1 {
			t.Errorf("rows: %+v", rows)
		}
	}
}
