package delivery

import (
	"testing"

	"github.com/waybill-run/waybill"
)

// Who wrote a commit is shown by every row of it, whichever is told first.
func TestAuthorInAnyOrder(t *testing.T) {
	ada := waybill.Person{Name: "Ada", Username: "ada", Image: "https://example.com/ada.png"}
	in := func(r report, repo string) report {
		return with(r, func(r *report) { r.SourceRepo = repo })
	}
	permute([]report{
		in(p1("100", "app:1", "app", "c0ffee1"), "https://example.com/app"), p2("101", "app:1", "h1", "dev", ""),
		{Kind: waybill.ReportCommit, Time: noon, Commit: "C0FFEE1234", SourceRepo: "git@example.com:app.git", Author: &ada, CommittedAt: noon},
		{Kind: waybill.ReportCommit, Time: noon, Commit: "c0ffee1234", SourceRepo: "https://example.com/other", Author: &waybill.Person{Name: "Bob"}},
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		for _, d := range f.m.of(DefaultPartition).rows {
			if d.Author == nil || *d.Author != ada || !d.CommittedAt.Equal(noon) || !d.CreatedAt.Equal(noon) && d.CreatedAt.Before(noon) {
				t.Errorf("%+v, committed at %s", d.Author, d.CommittedAt)
			}
		}
	})
}

// Two providers number their runs alike.
func TestRunsOfTwoRepositories(t *testing.T) {
	in := func(r report, repo string) report {
		return with(r, func(r *report) { r.SourceRepo = repo })
	}
	permute([]report{
		in(p1("100", "a:1", "a", "c1"), "example.com/a"), in(p1("100", "b:1", "b", "c2"), "example.com/b"),
		in(report{Kind: waybill.ReportRun, Time: noon, Stage: waybill.StageBuild, Run: "100", Status: failed, Number: "7"}, "example.com/a"),
		in(report{Kind: waybill.ReportRun, Time: noon, Stage: waybill.StageBuild, Run: "100", Status: succeeded, Number: "9"}, "example.com/b"),
	}, func(order []report) {
		f := newFeed(t)
		f.tell(order...)
		for _, d := range f.m.of(DefaultPartition).rows {
			want := map[string]waybill.Outcome{"a": failed, "b": succeeded}[d.Service]
			if d.Build.Status != want || d.Build.Last().Number == "" {
				t.Errorf("%s: %+v", d.Service, d.Build)
			}
		}
	})
}

// A run that its provider has deleted keeps its last state; one that is seen again is not
// deleted.
func TestExpiredRun(t *testing.T) {
	of := func(r report) report { r.Kind, r.Stage, r.Run = waybill.ReportRun, waybill.StageBuild, "100"; return r }
	f := newFeed(t)
	f.tell(p1("100", "a:1", "a", "c1"), of(report{Time: noon, Status: failed}), of(report{Time: noon.Add(1), Expired: true}))
	for _, d := range f.m.of(DefaultPartition).rows {
		if d.Build.Status != failed || !d.Build.Last().Expired {
			t.Errorf("%+v", d.Build)
		}
	}
	f.tell(of(report{Time: noon.Add(2), Status: failed}))
	for _, d := range f.m.of(DefaultPartition).rows {
		if d.Build.Last().Expired {
			t.Errorf("%+v", d.Build)
		}
	}
}
