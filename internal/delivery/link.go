package delivery

import (
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// What belongs to what. Every function here is a view over the parts there are, so the
// order in which they became known means nothing.

// find returns the parts of a kind that carry a reference, in the order of their keys.
func (s *state) find(of waybill.ReportKind, kind, value string) []*part {
	if value == "" {
		return nil
	}
	return s.byRef(refKey(of, kind, value))
}

// union joins lists, each part once, in the order of their keys.
func union(lists ...[]*part) []*part {
	out := slices.Concat(lists...)
	slices.SortFunc(out, func(a, b *part) int { return strings.Compare(a.Key, b.Key) })
	return slices.Compact(out)
}

// union2 adds parts to a list that keeps its order.
func union2(list, more []*part) []*part {
	for _, p := range more {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

func keep(in []*part, f func(*part) bool) []*part {
	var out []*part
	for _, p := range in {
		if f(p) {
			out = append(out, p)
		}
	}
	return out
}

// images are the parts of a kind that carry the image of p, by tag or digest.
func (s *state) images(kind waybill.ReportKind, p *part) []*part {
	lists := [][]*part{s.find(kind, refTag, p.Tag)}
	for _, d := range p.Digests {
		lists = append(lists, s.find(kind, refDigest, d))
	}
	return union(lists...)
}

// builds are those that could have made the image of a configuration.
func (s *state) builds(c *part) []*part {
	lists := [][]*part{s.images(waybill.ReportBuild, c)}
	for _, t := range c.Tied {
		if b := s.part(t); b != nil && b.Kind == waybill.ReportBuild {
			lists = append(lists, []*part{b})
		}
	}
	return union(lists...)
}

// configs are those that could use the image of a build.
func (s *state) configs(b *part) []*part {
	return union(s.images(waybill.ReportConfig, b), s.find(waybill.ReportConfig, refTied, b.Key))
}

// resolve finds the build of a configuration: the one that somebody named, else the one
// of its digest, else the one of its service and tag, else the only one of its tag. Why
// says why there is none; doubt holds those between which nothing decides.
func (s *state) resolve(c *part) (build *part, why string, doubt []*part) {
	all := s.builds(c)
	if tied := keep(all, func(b *part) bool { return slices.Contains(c.Tied, b.Key) }); len(tied) > 0 {
		return tied[len(tied)-1], "", nil
	}
	narrow := func(in []*part) []*part {
		return keep(in, func(b *part) bool {
			return fits(c.Service, b.Service) && (c.BuildRun == "" || hasRun(b, c.BuildRun))
		})
	}
	shared := func(b *part) bool {
		return slices.ContainsFunc(c.Digests, func(d string) bool { return slices.Contains(b.Digests, d) })
	}
	found := narrow(keep(all, shared))
	what := "digest"
	if len(found) == 0 {
		what = "tag"
		// A build of another digest made another image, whatever its tag.
		found = narrow(keep(all, func(b *part) bool {
			return b.Tag == c.Tag && c.Tag != "" && (len(b.Digests) == 0 || len(c.Digests) == 0)
		}))
	}
	switch {
	case len(found) == 1:
		return found[0], "", nil
	case len(found) == 0 && len(all) > 0:
		return nil, "no build of image " + c.image() + " has its " + mismatch(c), nil
	case len(found) == 0:
		return nil, "no build of image " + c.image() + " was reported", nil
	}
	var names []string
	for _, b := range found {
		names = append(names, b.describe())
	}
	slices.Sort(names)
	return nil, "ambiguous: builds of " + strings.Join(names, " and ") + " have the " + what + " of " + c.image() +
		"; name the service, the run of the build or the digest", found
}

func mismatch(c *part) string {
	switch {
	case c.BuildRun != "":
		return "service and run"
	case c.Service != "" && len(c.Digests) > 0:
		return "service and digest"
	case c.Service != "":
		return "service"
	}
	return "digest"
}

func hasRun(p *part, run string) bool {
	return slices.ContainsFunc(p.Runs, func(r waybill.StageRun) bool { return r.Run == run })
}

// image names the image of a part, for people.
func (p *part) image() string {
	switch {
	case p.ShowTag != "":
		return p.ShowTag
	case len(p.Digests) > 0:
		return p.Digests[len(p.Digests)-1]
	}
	return "?"
}

func (p *part) describe() string {
	name := p.Service
	if name == "" {
		name = "an unnamed service"
	}
	if len(p.Runs) > 0 {
		name += " (run " + p.Runs[len(p.Runs)-1].Run + ")"
	}
	return name
}

// subsumed returns the parts that say the same as c and name the service as well: a
// report without service is theirs.
func (s *state) subsumed(c *part) []*part {
	if c.Service != "" {
		return nil
	}
	return keep(s.images(waybill.ReportConfig, c), func(o *part) bool { return o.Service != "" && sameTarget(o, c) })
}

// without returns the parts that c subsumes.
func (s *state) without(c *part) []*part {
	if c.Service == "" {
		return nil
	}
	return keep(s.images(waybill.ReportConfig, c), func(o *part) bool { return o.Service == "" && sameTarget(o, c) })
}

// sameTarget: the same ring at the same commit.
func sameTarget(a, b *part) bool {
	if a.Ring != b.Ring || a.Direct != b.Direct {
		return false
	}
	if a.Direct {
		return sameCommit(a.ManifestCommit, b.ManifestCommit) || sharedRun(a.Runs, b.Runs)
	}
	return sameCommit(a.ConfigCommit, b.ConfigCommit) && fits(foldRepo(a.ConfigRepo), foldRepo(b.ConfigRepo))
}

func sharedRun(a, b []waybill.StageRun) bool {
	return slices.ContainsFunc(a, func(x waybill.StageRun) bool {
		return slices.ContainsFunc(b, func(y waybill.StageRun) bool { return x.Run == y.Run })
	})
}

// targets are the configurations that manifests were made of: all of the same commit,
// and all of the same pull request, of one repository. Near also holds those that only
// share the number of a pull request.
func (s *state) targets(m *part) (linked, near []*part) {
	repo := foldRepo(m.ConfigRepo)
	inRepo := func(c *part) bool { return !c.Direct && fits(repo, foldRepo(c.ConfigRepo)) }
	byCommit := keep(s.find(waybill.ReportConfig, refConfig, short(m.ConfigCommit)), func(c *part) bool {
		return inRepo(c) && sameCommit(c.ConfigCommit, m.ConfigCommit)
	})
	numbers := []string{m.PR}
	for _, v := range s.find(waybill.ReportReview, refConfig, short(m.ConfigCommit)) {
		if sameCommit(v.Review.MergeCommit, m.ConfigCommit) && fits(repo, foldRepo(v.ConfigRepo)) {
			numbers = append(numbers, v.PR)
		}
	}
	var byPR []*part
	for _, n := range numbers {
		byPR = union(byPR, keep(s.find(waybill.ReportConfig, refPR, n), inRepo))
	}
	tied := keep(resolveKeys(s, m.Tied), func(p *part) bool { return p.Kind == waybill.ReportConfig })
	near = union(byCommit, byPR, tied)
	if repo == "" {
		// The number alone does not say which repository it is of.
		repos := map[string]bool{}
		for _, c := range byPR {
			if r := foldRepo(c.ConfigRepo); r != "" {
				repos[r] = true
			}
		}
		if len(repos) > 1 {
			byPR = nil
		}
	}
	return union(byCommit, byPR, tied), near
}

func resolveKeys(s *state, keys []string) []*part {
	var out []*part
	for _, k := range keys {
		if p := s.part(k); p != nil {
			out = append(out, p)
		}
	}
	return union(out)
}

// nearManifests are those that could be of a configuration.
func (s *state) nearManifests(c *part) []*part {
	lists := [][]*part{
		s.find(waybill.ReportManifest, refConfig, short(c.ConfigCommit)),
		s.find(waybill.ReportManifest, refPR, c.PR),
		s.find(waybill.ReportManifest, refTied, c.Key),
	}
	for _, v := range s.find(waybill.ReportReview, refPR, c.PR) {
		lists = append(lists, s.find(waybill.ReportManifest, refConfig, short(v.Review.MergeCommit)))
	}
	return union(lists...)
}

// manifests are those made of a configuration, the one that counts last: manifests of a
// merged pull request count over those of its branch, younger runs over older ones.
func (s *state) manifests(c *part) []*part {
	out := keep(s.nearManifests(c), func(m *part) bool {
		linked, _ := s.targets(m)
		return slices.Contains(linked, c)
	})
	slices.SortStableFunc(out, func(a, b *part) int { return a.First.Compare(b.First) })
	return out
}

// reviews are the pull requests of a configuration, at most one where its repository is
// known.
func (s *state) reviews(c *part) []*part {
	repo := foldRepo(c.ConfigRepo)
	found := keep(s.find(waybill.ReportReview, refPR, c.PR), func(v *part) bool { return fits(repo, foldRepo(v.ConfigRepo)) })
	if len(found) > 1 {
		found = keep(found, func(v *part) bool { return foldRepo(v.ConfigRepo) == repo })
	}
	if len(found) > 1 {
		return nil
	}
	return found
}

// extra is what is known of the runs of a stage apart from the parts they are in.
func (s *state) extra(stage waybill.Stage, run string) []*part {
	return s.find(waybill.ReportRun, refRun, string(stage)+":"+run)
}
