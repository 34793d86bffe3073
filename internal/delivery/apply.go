package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// effect is what a report did.
type effect struct {
	action  waybill.ReportAction
	rows    []string // that it began or changed, in order
	gone    []string // that became part of others
	warning string
}

// apply folds an event into the state: the part that it tells of, and every row that
// can look different because of it. The result depends on the state and the event
// alone. An error says that the report names what is not there; the state is as it
// was then.
func (s *state) apply(e *waybill.DeliveryEvent) (effect, error) {
	r := foldReport(e.Report)
	if r.Time.IsZero() {
		r.Time = e.ReceivedAt
	}
	var touched []*part
	var err error
	s.before = nil
	switch r.Kind {
	case waybill.ReportAttach:
		touched, err = s.attach(r, e)
	case waybill.ReportHistory:
		touched = s.absorbHistory(r, e)
	case waybill.ReportPrune:
		ef := s.prune(r, e)
		return ef, s.err
	default:
		var p *part
		if p, err = s.absorb(r, e); p != nil {
			touched = []*part{p}
			if p.Kind == waybill.ReportSync {
				touched = append(touched, s.follow(p, r, e.ID)...)
			}
		}
	}
	if err != nil || s.err != nil {
		return effect{}, err
	}
	return s.refresh(touched, e), s.err
}

// absorb finds the part that a report tells of, or makes it, and folds the report in.
func (s *state) absorb(r *folded, e *waybill.DeliveryEvent) (*part, error) {
	var ties []string
	if r.Deployment != "" {
		d := s.rowOf(r.Deployment)
		if d == nil {
			return nil, noRow(r.Deployment)
		}
		anchor, build := s.anchors(d.ID)
		switch r.Kind {
		case waybill.ReportConfig:
			if build == nil {
				return nil, waybill.E(waybill.KindInvalid, "deployment %s has no build that a configuration could be tied to", d.ID)
			}
			ties = []string{build.Key}
			if r.ImageTag == "" && r.ImageDigest == "" {
				r.ImageTag, r.showTag, r.ImageDigest = build.Tag, build.ShowTag, lastOf(build.Digests)
			}
		case waybill.ReportManifest, waybill.ReportRun:
			if anchor != nil && anchor.Kind == waybill.ReportConfig {
				ties = []string{anchor.Key}
			}
		}
	}
	p := s.identify(r)
	var before []string
	if p == nil {
		p = &part{
			Kind: partKind(r), Partition: s.partition, Seq: e.Seq, Direct: direct(r), Stage: r.Stage,
			Cluster: r.Cluster, Key: string(partKind(r)) + "/" + digest(e.ID),
		}
	} else {
		before = p.refs()
		s.remember(p)
		p = p.clone()
	}
	p.absorb(&r.DeliveryReport, e.ID)
	p.keepShown(r)
	for _, t := range ties {
		if !slices.Contains(p.Tied, t) {
			p.Tied = append(p.Tied, t)
		}
	}
	s.put(p, before)
	return p, nil
}

func noRow(id string) error {
	return waybill.E(waybill.KindNotFound, "there is no deployment %.40q", id).WithHint("waybill deployment get lists them")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// keepShown remembers how tag and service are written.
func (p *part) keepShown(r *folded) {
	if r.showTag != "" && (p.ShowTag == "" || fold(p.ShowTag) != p.Tag) {
		p.ShowTag = r.showTag
	}
	if r.showName != "" && (p.ShowName == "" || fold(p.ShowName) != p.Service) {
		p.ShowName = r.showName
	}
}

// direct reports whether a report tells of manifests made of an image, without a
// configuration between.
func direct(r *folded) bool {
	return r.Kind == waybill.ReportManifest && (r.ImageTag != "" || r.ImageDigest != "")
}

// partKind: an image that goes straight into manifests takes the place of a configuration.
func partKind(r *folded) waybill.ReportKind {
	if direct(r) {
		return waybill.ReportConfig
	}
	return r.Kind
}

// identify finds the part that a report tells of, nil when it is the first to.
func (s *state) identify(r *folded) *part {
	probe := &part{Tag: r.ImageTag, Service: r.Service, Ring: r.Ring, ConfigCommit: r.ConfigCommit, ConfigRepo: r.ConfigRepo, PR: r.PullRequest}
	probe.Kind, probe.Direct, probe.ManifestCommit = partKind(r), direct(r), r.ManifestCommit
	if r.ImageDigest != "" {
		probe.Digests = []string{r.ImageDigest}
	}
	if r.Run != "" {
		probe.Runs = []waybill.StageRun{{Run: r.Run}}
	}
	var found []*part
	switch probe.Kind {
	case waybill.ReportBuild:
		// The same service, tag and commit: another run is another attempt at it. Without a
		// commit, the same run.
		found = keep(s.images(probe.Kind, probe), func(b *part) bool {
			return b.Service == r.Service && fits(b.Tag, r.ImageTag) &&
				(sameCommit(b.Commit, r.Commit) || (b.Commit == "" || r.Commit == "") && (r.Run == "" || hasRun(b, r.Run)))
		})
	case waybill.ReportConfig:
		found = keep(s.images(probe.Kind, probe), func(c *part) bool {
			return c.Service == r.Service && fits(c.Tag, r.ImageTag) && sameTarget(c, probe) && fits(c.BuildRun, r.BuildRun)
		})
	case waybill.ReportManifest:
		if r.ConfigCommit != "" {
			found = keep(s.find(probe.Kind, refConfig, short(r.ConfigCommit)), func(m *part) bool {
				return sameCommit(m.ConfigCommit, r.ConfigCommit) && fits(foldRepo(m.ConfigRepo), foldRepo(r.ConfigRepo))
			})
		} else {
			found = keep(s.find(probe.Kind, refPR, r.PullRequest), func(m *part) bool {
				return m.ConfigCommit == "" && fits(foldRepo(m.ConfigRepo), foldRepo(r.ConfigRepo))
			})
		}
	case waybill.ReportRun:
		probe.Stage, probe.SourceRepo = r.Stage, r.SourceRepo
		found = keep(s.extra(r.Stage, r.Run), func(x *part) bool { return x.scope() == probe.scope() })
	case waybill.ReportCommit:
		found = keep(s.find(probe.Kind, refSource, short(r.Commit)), func(x *part) bool {
			return sameCommit(x.Commit, r.Commit) && foldRepo(x.SourceRepo) == foldRepo(r.SourceRepo)
		})
	case waybill.ReportReview:
		found = keep(s.find(probe.Kind, refPR, r.PullRequest), func(v *part) bool {
			return foldRepo(v.ConfigRepo) == foldRepo(r.ConfigRepo)
		})
	case waybill.ReportSync:
		var at []*part
		if r.ManifestCommit != "" {
			at = keep(s.find(probe.Kind, refMan, short(r.ManifestCommit)), func(y *part) bool { return sameCommit(y.ManifestCommit, r.ManifestCommit) })
		} else {
			at = keep(s.images(probe.Kind, probe), func(y *part) bool { return y.ManifestCommit == "" && y.Tag == r.ImageTag })
		}
		found = keep(at, func(y *part) bool { return y.Cluster == r.Cluster && y.Ring == r.Ring && y.Service == r.Service })
	}
	if len(found) == 0 {
		return nil
	}
	// Of several, the one that came first.
	return slices.MinFunc(found, func(a, b *part) int { return int(a.Seq - b.Seq) })
}

// anchors are the part that has a row, and the build in it.
func (s *state) anchors(row string) (anchor, build *part) {
	for _, p := range s.byRef("row:" + row) {
		if p.Row == row {
			anchor = p
		}
	}
	if anchor == nil {
		return nil, nil
	}
	switch anchor.Kind {
	case waybill.ReportBuild:
		return anchor, anchor
	case waybill.ReportConfig:
		build, _, _ = s.resolve(anchor)
	}
	return anchor, build
}

// attach ties one row, or something in the inbox, to a row.
func (s *state) attach(r *folded, e *waybill.DeliveryEvent) ([]*part, error) {
	target := s.rowOf(r.Target)
	if target == nil {
		return nil, noRow(r.Target)
	}
	to, build := s.anchors(target.ID)
	from := s.part(r.Deployment)
	if from == nil {
		d := s.rowOf(r.Deployment)
		if d == nil {
			return nil, noRow(r.Deployment)
		}
		if d.ID == target.ID {
			return nil, waybill.E(waybill.KindInvalid, "%s cannot be attached to itself", d.ID)
		}
		from, _ = s.anchors(d.ID)
	}
	tie := ""
	switch {
	case from == nil || to == nil:
	case from.Kind == waybill.ReportConfig && build != nil:
		tie = build.Key
	case from.Kind == waybill.ReportBuild && to.Kind == waybill.ReportConfig:
		from, tie = to, from.Key
	case from.Kind == waybill.ReportManifest && to.Kind == waybill.ReportConfig && !to.Direct:
		tie = to.Key
	case from.Kind == waybill.ReportConfig && to.Kind == waybill.ReportManifest && !from.Direct:
		from, tie = to, from.Key
	case from.Kind == waybill.ReportRun && from.Stage == waybill.StageManifest && to.Kind == waybill.ReportConfig:
		tie = to.Key
		if ms := s.manifests(to); len(ms) > 0 {
			tie = ms[len(ms)-1].Key
		}
	}
	if tie == "" {
		return nil, waybill.E(waybill.KindInvalid, "%.40s cannot be attached to %s: a configuration belongs to a row with a build, manifests to a row with a configuration",
			r.Deployment, target.ID)
	}
	before := from.refs()
	s.remember(from)
	p := from.clone()
	// The last word counts.
	p.Tied = append(slices.DeleteFunc(p.Tied, func(t string) bool { return t == tie }), tie)
	p.Events = append(p.Events, e.ID)
	s.put(p, before)
	touched := []*part{p}
	if x := s.part(tie); x != nil {
		touched = append(touched, x)
	}
	return touched, nil
}

// affected are the parts whose rows can look different after one has changed.
func (s *state) affected(p *part) []*part {
	out := []*part{p}
	switch p.Kind {
	case waybill.ReportBuild:
		for _, c := range s.configs(p) {
			out = union(out, []*part{c}, s.builds(c))
		}
	case waybill.ReportConfig:
		out = union(out, s.builds(p), s.subsumed(p), s.without(p))
		for _, x := range s.without(p) {
			out = union(out, s.builds(x), s.nearManifests(x))
		}
		for _, m := range s.nearManifests(p) {
			_, near := s.targets(m)
			out = union(out, []*part{m}, near)
		}
		if p.Direct {
			out = union(out, s.runs(waybill.ReportRun, p))
		}
	case waybill.ReportManifest:
		_, near := s.targets(p)
		out = union(out, near, s.runs(waybill.ReportRun, p))
	case waybill.ReportRun:
		of := union(s.runs(waybill.ReportBuild, p), s.runs(waybill.ReportConfig, p), s.runs(waybill.ReportManifest, p), resolveKeys(s, p.Tied))
		for _, x := range of {
			out = union(out, []*part{x}, s.uses(x))
		}
	case waybill.ReportCommit:
		out = union(out, s.writers(p))
	case waybill.ReportReview:
		cs := s.find(waybill.ReportConfig, refPR, p.PR)
		ms := union(s.find(waybill.ReportManifest, refPR, p.PR), s.find(waybill.ReportManifest, refConfig, short(p.Review.MergeCommit)))
		out = union(out, cs, ms)
	case waybill.ReportSync, waybill.ReportHistory:
		var of []*part
		for _, kind := range []waybill.ReportKind{waybill.ReportConfig, waybill.ReportManifest, waybill.ReportRun} {
			of = union(of, s.find(kind, refMan, short(p.ManifestCommit)))
		}
		for _, x := range slices.Clone(of) {
			if x.Kind == waybill.ReportRun {
				of = union(of, s.runs(waybill.ReportConfig, x), s.runs(waybill.ReportManifest, x), resolveKeys(s, x.Tied))
			}
		}
		of = union(of, s.images(waybill.ReportConfig, p))
		for _, x := range of {
			out = union(out, []*part{x}, s.uses(x))
		}
	}
	// What is shown of a report without service is shown by the one that names it.
	for _, c := range out {
		if c.Kind == waybill.ReportConfig {
			out = union(out, s.subsumed(c))
		}
	}
	return out
}

// remember keeps what a part is about to leave: its rows look different too when it does
// not belong to them any more.
func (s *state) remember(p *part) {
	for _, x := range s.affected(p) {
		s.before = append(s.before, x.Key)
	}
}

// uses are the configurations whose rows show a part.
func (s *state) uses(p *part) []*part {
	switch p.Kind {
	case waybill.ReportBuild:
		return s.configs(p)
	case waybill.ReportConfig:
		return s.subsumed(p)
	case waybill.ReportManifest:
		linked, _ := s.targets(p)
		return linked
	}
	return nil
}

// refresh makes the rows of the parts that are affected again. A row that is no more
// hands its id to the new row that holds its part, or becomes a former id of the one
// that did so before.
func (s *state) refresh(touched []*part, e *waybill.DeliveryEvent) effect {
	all := resolveKeys(s, s.before)
	for _, p := range touched {
		all = union(all, s.affected(p))
	}
	slices.SortFunc(all, func(a, b *part) int {
		if a.Seq != b.Seq {
			return int(a.Seq - b.Seq)
		}
		return strings.Compare(a.Key, b.Key)
	})
	views := map[string]*view{}
	var fresh, gone []*part
	ef := effect{action: waybill.ActionNone}
	for _, p := range all {
		v, why := s.view(p)
		if v != nil {
			views[p.Key] = v
			if p.Row == "" {
				fresh = append(fresh, p)
			}
		} else if p.Row != "" {
			gone = append(gone, p)
		}
		if p.Unlinked != why {
			s.change(p.Key, func(p *part) { p.Unlinked = why })
		}
		if why != "" && isOne(touched, p) {
			ef.action, ef.warning = waybill.ActionUnlinked, why
		}
	}
	heirs := map[string]string{} // part whose row is gone → the part whose row holds it
	for _, p := range all {
		if v := views[p.Key]; v != nil {
			for _, x := range v.parts {
				if _, ok := heirs[x.Key]; !ok && x != p {
					heirs[x.Key] = p.Key
				}
			}
		}
	}
	began := map[string]bool{}
	for _, p := range fresh {
		id := ""
		for i, g := range gone {
			if holds(views[p.Key], g) {
				id = g.Row
				gone = slices.Delete(slices.Clone(gone), i, i+1)
				s.change(g.Key, func(p *part) { p.Row = "" })
				break
			}
		}
		if id == "" {
			id = s.newID(e, p)
			began[id] = true
		}
		s.change(p.Key, func(p *part) { p.Row = id })
	}
	formers := map[string][]string{} // by the row that takes them
	for _, g := range gone {
		id := g.Row
		s.change(g.Key, func(p *part) { p.Row = "" })
		old := s.row(id)
		s.putRow(id, nil)
		s.settle(id, old, nil)
		ef.gone = append(ef.gone, id)
		heir := s.part(heirs[g.Key])
		if heir == nil {
			continue // what was told of it says now that it is nothing
		}
		ids := []string{id}
		if old != nil {
			ids = append(ids, old.Former...)
		}
		formers[heir.Row] = append(formers[heir.Row], ids...)
		for _, f := range ids {
			s.aliases[f] = heir.Row
			s.dirty.aliases[f] = true
		}
	}
	for _, p := range all {
		v := views[p.Key]
		if v == nil {
			continue
		}
		id := s.part(p.Key).Row
		d, old := v.row, s.row(id)
		d.ID = id
		if old != nil {
			d.Former = old.Former
		}
		for _, f := range formers[id] {
			if f != id && !slices.Contains(d.Former, f) {
				d.Former = append(slices.Clone(d.Former), f)
			}
		}
		if old != nil && sameRow(old, d) {
			continue
		}
		s.putRow(id, d)
		s.settle(id, old, d)
		ef.rows = append(ef.rows, id)
	}
	if ef.action != waybill.ActionUnlinked && len(ef.rows) > 0 {
		ef.action = waybill.ActionUpdated
		for id := range began {
			ef.action = waybill.ActionInserted
			if d := s.row(id); d.Kind == waybill.DeploymentRegular && e.Report.Kind == waybill.ReportConfig && d.Build != nil {
				ef.action = waybill.ActionCopied
			}
		}
	}
	return ef
}

func isOne(list []*part, p *part) bool {
	return slices.ContainsFunc(list, func(x *part) bool { return x.Key == p.Key })
}

func holds(v *view, p *part) bool {
	return slices.ContainsFunc(v.parts, func(x *part) bool { return x.Key == p.Key })
}

// change writes what a part keeps of rows. Lists that hold the part see it too: it is
// the same one.
func (s *state) change(key string, f func(*part)) {
	p := s.part(key)
	row := p.Row
	f(p)
	s.dirty.parts[key] = true
	if p.Row == row {
		return
	}
	for _, x := range []struct {
		row   string
		there bool
	}{{row, false}, {p.Row, true}} {
		if x.row == "" {
			continue
		}
		ref := "row:" + x.row
		s.byRef(ref)
		list := slices.DeleteFunc(slices.Clone(s.keys[ref]), func(k string) bool { return k == key })
		if x.there {
			list = append(list, key)
			slices.Sort(list)
		}
		s.keys[ref] = list
		s.dirty.refs[ref] = true
	}
}

// newID makes the id of a row that begins with an event: 12 hexadecimal digits, the same
// whenever the event is applied to the same state.
func (s *state) newID(e *waybill.DeliveryEvent, p *part) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256([]byte(s.partition + "\x00" + e.ID + "\x00" + p.Key + strings.Repeat("+", n)))
		id := hex.EncodeToString(sum[:6])
		if s.err != nil || s.row(id) == nil && s.alias(id) == "" {
			return id
		}
	}
}
