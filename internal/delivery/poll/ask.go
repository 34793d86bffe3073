package poll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// want is a run that something is wanted of.
type want struct {
	rows   []*waybill.Deployment // that show it
	stage  waybill.Stage
	run    waybill.StageRun
	shared bool
	places []place // at which it may be, the likeliest first
	at     place   // the one that is asked now
	check  bool    // it has ended, and is only looked for
	slow   bool    // it is of an old deployment
	key    string
}

// ask asks a source what is wanted of it.
func (r *round) ask(ctx context.Context, res *resolver, rows []waybill.Deployment) {
	byNews(rows)
	for i := range rows {
		for _, which := range []role{sourceRole, configRole, manifestRole} {
			if p := res.of(&rows[i], which); p != nil && p.src.Name == r.src.Name {
				r.st.Rows++
				break
			}
		}
	}
	r.tags(ctx, tagsWanted(res, r.src, rows))
	for runs := r.runsWanted(res, rows); len(runs) > 0; {
		runs = r.runs(ctx, runs)
	}
	r.pulls(ctx, r.pullsWanted(res, rows))
	r.commits(ctx, r.commitsWanted(res, rows))
}

// known reports whether all is known of a run that can be.
func known(run *waybill.StageRun) bool {
	return run.Expired || run.Status.Terminal() && !run.FinishedAt.IsZero() && !run.QueuedAt.IsZero() && run.URL != "" && run.Number != ""
}

// runsWanted are the runs of which something is not known, as far as it is this source's
// turn to be asked. Once in an interval one more, that has ended, is looked for.
func (r *round) runsWanted(res *resolver, rows []waybill.Deployment) []*want {
	s, now := r.s, r.s.now()
	by := map[string]*want{}
	var out, ended []*want
	for i := range rows {
		d := &rows[i]
		for _, st := range []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest} {
			if st == nil {
				continue
			}
			for n := range st.Runs {
				run := st.Runs[n]
				last := n == len(st.Runs)-1
				if run.Expired || run.Run == "" || !last && run.Status.Terminal() {
					continue
				}
				shared := d.Build.Last() != nil && d.Config.Last() != nil && d.Build.Last().Run == d.Config.Last().Run && st != d.Manifest
				places := res.runs(d, st.Stage, &run)
				if len(places) == 0 {
					continue
				}
				key := strings.Join([]string{"run", d.Partition, string(st.Stage), run.Run, places[0].src.Name, places[0].repo.Path}, "\x00")
				at := places[s.hop(key).at%len(places)]
				if at.src.Name != r.src.Name {
					continue
				}
				if w := by[key]; w != nil {
					w.rows = append(w.rows, d)
					continue
				}
				w := &want{rows: []*waybill.Deployment{d}, stage: st.Stage, run: run, shared: shared, places: places, at: at, key: key}
				by[key] = w
				switch {
				case known(&run):
					w.check = true
					if now.Sub(s.begun) >= again && s.open(key) {
						ended = append(ended, w)
					}
				case !s.open(key):
				default:
					w.slow = slowly(d, now)
					out = append(out, w)
				}
			}
		}
	}
	if first := s.turn(len(ended), r.conf.Interval); first >= 0 {
		w := ended[first]
		out = append(out, w)
		s.later(w.key, again)
		for _, x := range ended { // many of Azure DevOps fit into one call
			if r.src.Kind == provider.AzureDevOps && x != w && x.stage == w.stage && x.shared == w.shared && len(out) < 200 {
				out = append(out, x)
				s.later(x.key, again)
			}
		}
	}
	r.st.Wanted += len(out)
	return out
}

// turn says which of n runs that have ended is looked for, -1 for none: one in an interval,
// whatever source it is of.
func (s *session) turn(n int, interval time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if n == 0 || now.Sub(s.checked) < interval-min(interval/10, time.Second) {
		return -1
	}
	s.checked = now
	s.cursor++
	return s.cursor % n
}

// hop is how far a run was looked for.
func (s *session) hop(key string) hop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hops[key]
}

// on goes on to the next place of a run. It returns that place, or none and whether it is
// proven that the run is nowhere.
func (s *session) on(w *want, unsure bool) (next *place, nowhere bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hops[w.key]
	h.at++
	h.unsure = h.unsure || unsure
	if h.at < len(w.places) {
		s.hops[w.key] = h
		return &w.places[h.at], false
	}
	delete(s.hops, w.key) // from the beginning, the next time
	return nil, !h.unsure
}

// runs looks runs up, and returns those that this source is to be asked for once more, at
// another place.
func (r *round) runs(ctx context.Context, ws []*want) (rest []*want) {
	defer r.flush(ctx)
	const what = "runs"
	for some := range slices.Chunk(ws, r.atOnce()) {
		if !r.goes(ctx, what) {
			return rest
		}
		qs := make([]provider.RunQuery, len(some))
		for i, w := range some {
			qs[i] = provider.RunQuery{Repo: w.at.repo, Stage: w.stage, ID: w.run.Run, URL: w.run.URL, Shared: w.shared}
		}
		for i, a := range r.p.Runs(ctx, qs) {
			w := some[i]
			if w.slow && (a.Err == nil || waybill.IsKind(a.Err, waybill.KindNotFound)) {
				r.s.later(w.key, seldom)
			}
			if a.Err == nil {
				r.failed(what, nil)
				if a.Run.Status.Terminal() && !w.check {
					r.s.later(w.key, seldom) // there is no more to it
				}
				r.tell(w, a.Run)
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			missing := r.failed(what, a.Err)
			if r.stop != nil {
				return nil // it is asked here again when the source answers
			}
			switch next, nowhere := r.s.on(w, !missing); {
			case next != nil && next.src.Name == r.src.Name:
				w.at = *next
				rest = append(rest, w)
			case next != nil: // its source asks
			case nowhere:
				r.gone(w)
			case waybill.IsKind(a.Err, waybill.KindForbidden) || waybill.IsKind(a.Err, waybill.KindInvalid):
				r.s.later(w.key, 5*time.Minute) // nothing is likely to change soon
			}
		}
	}
	return rest
}

// atOnce is how many runs one question is about: as many as the provider answers in a call.
func (r *round) atOnce() int {
	if r.src.Kind == provider.AzureDevOps {
		return 200
	}
	return 1
}

// tell reports what a provider says of a run.
func (r *round) tell(w *want, a *provider.Run) {
	status := a.Status
	if w.shared && a.Status != waybill.StatusSucceeded && len(a.Stages) > 0 {
		switch {
		case w.stage == waybill.StageBuild:
			status = a.Stages[0]
		case len(a.Stages) > 1:
			status = a.Stages[1]
		default:
			status = waybill.StatusSkipped // it was never reached
			if !a.Status.Terminal() {
				status = waybill.StatusQueued
			}
		}
	}
	told := map[string]bool{}
	for _, d := range w.rows {
		rep := waybill.DeliveryReport{
			Kind: waybill.ReportRun, Partition: d.Partition, Stage: w.stage, Run: w.run.Run, URL: a.URL, Status: status, QueuedAt: a.QueuedAt, StartedAt: a.StartedAt,
			FinishedAt: a.FinishedAt, Number: a.Number, Branch: a.Branch, Commit: a.Commit, Time: a.ChangedAt,
		}
		if w.stage == waybill.StageBuild {
			rep.SourceRepo = or(d.SourceRepo, a.Repository)
		} else if rep.ConfigRepo = d.ConfigRepo; rep.ConfigRepo == "" && w.stage == waybill.StageManifest {
			rep.ConfigRepo = a.Repository
		}
		rep = fitted(rep)
		key := w.key + "\x00" + rep.SourceRepo + "\x00" + rep.ConfigRepo
		if told[key] || shows(w.run, rep) {
			continue
		}
		told[key] = true
		r.tellLater(key, rep)
	}
}

// shows reports whether a run shows already what would be reported of it.
func shows(run waybill.StageRun, rep waybill.DeliveryReport) bool {
	at := func(a, b time.Time) bool { return a.Equal(b.UTC().Truncate(time.Millisecond)) || b.IsZero() }
	in := func(a, b string) bool { return a == b || b == "" }
	return !run.Expired && run.Status == rep.Status && in(run.URL, rep.URL) && at(run.QueuedAt, rep.QueuedAt) && at(run.StartedAt, rep.StartedAt) &&
		at(run.FinishedAt, rep.FinishedAt) && in(run.Number, rep.Number) && in(run.Branch, rep.Branch) && in(strings.ToLower(run.Source), strings.ToLower(rep.Commit))
}

// gone reports that a run is nowhere to be found any more. One that was told of a moment
// ago may be on its way.
func (r *round) gone(w *want) {
	if now := r.s.now(); !w.run.Status.Terminal() && now.Sub(w.run.SeenAt) < young {
		return
	}
	told := map[string]bool{}
	for _, d := range w.rows {
		rep := waybill.DeliveryReport{Kind: waybill.ReportRun, Partition: d.Partition, Stage: w.stage, Run: w.run.Run, Expired: true, Time: w.run.UpdatedAt.Add(time.Millisecond)}
		if w.stage == waybill.StageBuild {
			rep.SourceRepo = d.SourceRepo
		} else {
			rep.ConfigRepo = d.ConfigRepo
		}
		key := w.key + "\x00" + rep.SourceRepo + "\x00" + rep.ConfigRepo
		if !told[key] {
			told[key] = true
			r.tellLater(key, rep)
		}
	}
}

// pull is a pull request that is wanted, with the deployments that show it.
type pull struct {
	at   place
	key  string
	rows []*waybill.Deployment
	slow bool
}

// pullsWanted are the pull requests that are not merged, as far as is known.
func (r *round) pullsWanted(res *resolver, rows []waybill.Deployment) []*pull {
	var out []*pull
	by := map[string]*pull{}
	for i := range rows {
		d := &rows[i]
		if d.PullRequest == "" || d.Review != nil && d.Review.State == waybill.ReviewMerged && d.Review.Title != "" {
			continue
		}
		at := res.of(d, configRole)
		if at == nil || at.src.Name != r.src.Name {
			continue
		}
		key := strings.Join([]string{"pull", d.Partition, at.src.Name, at.repo.Path, d.PullRequest}, "\x00")
		if p := by[key]; p != nil {
			p.rows = append(p.rows, d)
			continue
		}
		p := &pull{at: *at, key: key, rows: []*waybill.Deployment{d}}
		by[key] = p
		if !r.s.open(key) {
			continue
		}
		// One that was closed can be opened again.
		p.slow = d.Review != nil && d.Review.State == waybill.ReviewClosed || slowly(d, r.s.now())
		out = append(out, p)
	}
	return out
}

func (r *round) pulls(ctx context.Context, list []*pull) {
	defer r.flush(ctx)
	const what = "pull requests"
	r.st.Wanted += len(list)
	for _, x := range list {
		if !r.goes(ctx, what) {
			return
		}
		d := x.rows[0]
		p, err := r.p.PullRequest(ctx, x.at.repo, strings.TrimLeft(d.PullRequest, "#!"))
		if r.failed(what, err) || err == nil && (x.slow || p.State == waybill.ReviewClosed) || waybill.IsKind(err, waybill.KindInvalid) || waybill.IsKind(err, waybill.KindForbidden) {
			r.s.later(x.key, seldom)
		}
		if err != nil {
			continue
		}
		told := map[string]bool{}
		for _, d := range x.rows {
			repo := or(d.ConfigRepo, x.at.text)
			if told[repo] {
				continue
			}
			told[repo] = true
			rep := waybill.DeliveryReport{
				Kind: waybill.ReportReview, Partition: d.Partition, PullRequest: d.PullRequest, ConfigRepo: repo, Review: p.State, URL: p.URL, Title: p.Title,
				SourceBranch: p.SourceBranch, TargetBranch: p.TargetBranch, MergeCommit: p.MergeCommit, ApprovedBy: p.ApprovedBy, Merger: p.MergedBy, Time: p.At,
			}
			if p.MergedBy != nil {
				rep.MergedBy = p.MergedBy.Name
			}
			r.tellLater(x.key+"\x00"+repo, fitted(rep))
		}
	}
}

// commit is a commit whose author is wanted.
type commit struct {
	at        place
	key       string
	partition string
	id        string
}

// commitsWanted are the commits of which nobody has said who wrote them.
func (r *round) commitsWanted(res *resolver, rows []waybill.Deployment) []*commit {
	var out []*commit
	by := map[string]bool{}
	for i := range rows {
		d := &rows[i]
		if d.Author != nil {
			continue
		}
		id, at := d.Commit, res.of(d, sourceRole)
		if id == "" {
			id, at = d.ConfigCommit, res.of(d, configRole)
		}
		if at == nil || at.src.Name != r.src.Name || !provider.IsCommit(id) {
			continue
		}
		key := strings.Join([]string{"commit", d.Partition, at.src.Name, at.repo.Path, strings.ToLower(id)}, "\x00")
		if by[key] || !r.s.open(key) {
			continue
		}
		by[key] = true
		out = append(out, &commit{at: *at, key: key, partition: d.Partition, id: id})
	}
	return out
}

func (r *round) commits(ctx context.Context, list []*commit) {
	defer r.flush(ctx)
	const what = "authors"
	r.st.Wanted += len(list)
	for _, x := range list {
		if !r.goes(ctx, what) {
			return
		}
		c, err := r.p.Commit(ctx, x.at.repo, x.id)
		if r.failed(what, err) || waybill.IsKind(err, waybill.KindInvalid) || waybill.IsKind(err, waybill.KindForbidden) {
			r.s.later(x.key, seldom)
		}
		if err != nil {
			continue
		}
		r.s.later(x.key, r.conf.Interval*2) // it is on its way into the rows
		author := c.Author
		r.tellLater(x.key, fitted(waybill.DeliveryReport{
			Kind: waybill.ReportCommit, Partition: x.partition, Commit: c.ID, SourceRepo: x.at.text, Author: &author, CommittedAt: c.At, Time: c.At,
		}))
	}
}

// tagRepo is a repository of manifests, and whose deployments are in it.
type tagRepo struct {
	at    place
	parts map[string]string // partition → address of the repository as its deployments write it
}

// tagsWanted are the repositories of manifests that a source has.
func tagsWanted(res *resolver, src *Source, rows []waybill.Deployment) []*tagRepo {
	var out []*tagRepo
	by := map[string]*tagRepo{}
	add := func(partition string, at *place) {
		if at == nil || at.src.Name != src.Name {
			return
		}
		key := at.src.Name + "\x00" + strings.ToLower(at.repo.Path)
		if by[key] == nil {
			by[key] = &tagRepo{at: *at, parts: map[string]string{}}
			out = append(out, by[key])
		}
		if by[key].parts[partition] == "" {
			by[key].parts[partition] = at.text
		}
	}
	for i := range rows {
		if d := &rows[i]; d.ManifestCommit != "" || d.ManifestRepo != "" {
			add(d.Partition, res.of(d, manifestRole))
		}
	}
	return out
}

func (r *round) tags(ctx context.Context, list []*tagRepo) {
	const what = "tags"
	seen := map[string]bool{}
	for _, x := range list {
		name := x.at.repo.String()
		if !r.goes(ctx, what) {
			return
		}
		prefix := or(r.src.TagPrefix, "flux-")
		tags, err := r.p.Tags(ctx, x.at.repo, prefix)
		if r.failed(what, err) {
			r.note(what + ": " + err.Error())
		}
		if err != nil {
			for partition := range x.parts {
				seen[partition+" "+name] = true
			}
			continue
		}
		if r.st.Tags == nil {
			r.st.Tags = map[string]map[string]string{}
		}
		for partition, text := range x.parts {
			mark := partition + " " + name
			seen[mark] = true
			is := map[string]string{}
			for _, t := range tags {
				if r.tag(ctx, partition, text, mark, prefix, t) {
					is[t.Name] = t.Commit
				}
			}
			r.st.Tags[mark] = is
		}
	}
	for mark := range r.st.Tags {
		if !seen[mark] {
			delete(r.st.Tags, mark)
		}
	}
}

// tag reports where a tag is, unless that was reported. It reports whether that is known
// now.
func (r *round) tag(ctx context.Context, partition, repo, mark, prefix string, t provider.Tag) bool {
	cluster := strings.ToUpper(strings.TrimPrefix(t.Name, prefix))
	was := r.st.Tags[mark][t.Name]
	if cluster == "" || was == t.Commit {
		return cluster != ""
	}
	at := t.At
	if now := r.s.now(); was != "" && at.Before(now) {
		at = now // it was moved, and can be older than what it was moved from
	}
	rep := waybill.DeliveryReport{
		Kind: waybill.ReportSync, Partition: partition, Cluster: cluster, ClusterState: waybill.ClusterApplied, ManifestCommit: t.Commit, ManifestRepo: repo, Message: t.Message, Time: at,
	}
	if t.Tagger != "" {
		rep.Author = &waybill.Person{Name: t.Tagger}
	}
	return r.report(ctx, mark+"\x00"+t.Name, fitted(rep))
}

func (r *round) note(text string) {
	if len(r.st.Notes) < 10 {
		r.st.Notes = append(r.st.Notes, text)
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fingerprint is all that a report says.
func fingerprint(rep waybill.DeliveryReport) string {
	text, err := json.Marshal(rep)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// fitted cuts what people write to what a report can hold.
func fitted(rep waybill.DeliveryReport) waybill.DeliveryReport {
	for _, f := range []struct {
		s    *string
		most int
	}{{&rep.Title, 4000}, {&rep.Message, 4000}, {&rep.Number, 500}, {&rep.Branch, 500}, {&rep.SourceBranch, 500}, {&rep.TargetBranch, 500}, {&rep.MergedBy, 500}, {&rep.ApprovedBy, 500}} {
		*f.s = provider.Cut(strings.ReplaceAll(strings.ToValidUTF8(*f.s, "?"), "\x00", ""), f.most)
	}
	for _, p := range []**waybill.Person{&rep.Author, &rep.Merger} {
		if *p == nil {
			continue
		}
		c := **p
		for _, s := range []*string{&c.Name, &c.Username, &c.URL, &c.Image} {
			*s = provider.Cut(strings.ReplaceAll(strings.ToValidUTF8(*s, "?"), "\x00", ""), 4000)
		}
		*p = &c
	}
	return rep
}
