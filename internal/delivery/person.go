package delivery

import (
	"cmp"

	"github.com/waybill-run/waybill"
)

// takePerson sets a person to what a report says, unless a later report said otherwise.
// What is known of the same person and not said again is kept.
func takePerson(dst **waybill.Person, p *waybill.Person, newer bool) {
	switch {
	case p == nil:
	case *dst == nil:
		*dst = p
	default:
		a, b := **dst, *p
		if !newer {
			a, b = b, a
		}
		if fold(a.Username) != fold(b.Username) && a.Username != "" && b.Username != "" {
			*dst = &b
			return
		}
		*dst = &waybill.Person{Name: cmp.Or(b.Name, a.Name), Username: cmp.Or(b.Username, a.Username), URL: cmp.Or(b.URL, a.URL), Image: cmp.Or(b.Image, a.Image)}
	}
}

// tellMore adds what only the provider of a run tells.
func tellMore(out, last *waybill.StageRun) {
	out.Number, out.Branch = cmp.Or(last.Number, out.Number), cmp.Or(last.Branch, out.Branch)
	if !last.StartedAt.IsZero() {
		out.StartedAt = last.StartedAt
	}
	if !sameCommit(out.Source, last.Source) || len(last.Source) > len(out.Source) {
		out.Source = cmp.Or(last.Source, out.Source)
	}
	// Who tells of its status has seen it.
	if last.Expired || last.Status != "" {
		out.Expired = last.Expired
	}
}

// commits are what is known of a commit of a repository, in the order of their keys.
func (s *state) commits(commit, repo string) []*part {
	repo = foldRepo(repo)
	return keep(s.find(waybill.ReportCommit, refSource, short(commit)), func(x *part) bool {
		return sameCommit(x.Commit, commit) && fits(foldRepo(x.SourceRepo), repo)
	})
}

// writers are the parts whose rows can show who wrote a commit.
func (s *state) writers(p *part) []*part {
	var out []*part
	for _, x := range union(
		s.find(waybill.ReportBuild, refSource, short(p.Commit)), s.find(waybill.ReportConfig, refSource, short(p.Commit)),
		s.find(waybill.ReportConfig, refConfig, short(p.Commit)), s.find(waybill.ReportManifest, refConfig, short(p.Commit)),
	) {
		out = union(out, []*part{x}, s.uses(x))
	}
	return out
}

// author adds who wrote the commit of a row.
func (s *state) author(v *view) {
	d := v.row
	commit, repo := d.Commit, d.SourceRepo
	if commit == "" {
		commit, repo = d.ConfigCommit, d.ConfigRepo
	}
	for _, x := range s.commits(commit, repo) {
		v.parts = append(v.parts, x)
		if d.Author == nil {
			d.Author = x.Author
		}
		if d.Commit != "" && d.CommittedAt.IsZero() {
			d.CommittedAt = x.CommittedAt
		}
	}
}

// scope is the repository within which the number of a run means one run, empty when it
// is not known.
func (p *part) scope() string {
	if p.stage() == waybill.StageBuild {
		return foldRepo(p.SourceRepo)
	}
	return foldRepo(p.ConfigRepo)
}
