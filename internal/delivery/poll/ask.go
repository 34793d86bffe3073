package poll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"sync"
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
	places []place // that are still to be asked
	unsure bool    // a place could not be asked: that it is nowhere else proves nothing
	check  bool    // it has ended, and is only looked for
	slow   bool    // it is of an old deployment
	key    string
}

// ask asks all sources what is wanted of them. Sources are asked beside each other.
func (s *session) ask(ctx context.Context, res *resolver, rounds map[string]*round, rows []waybill.Deployment) {
	byNews(rows)
	now := s.now()
	for i := range rows {
		seen := map[string]bool{}
		for _, which := range []role{sourceRole, configRole, manifestRole} {
			if p := res.of(&rows[i], which); p != nil && !seen[p.src.Name] && rounds[p.src.Name] != nil {
				seen[p.src.Name] = true
				rounds[p.src.Name].st.Rows++
			}
		}
	}
	each := func(f func(r *round)) {
		var wg sync.WaitGroup
		for _, r := range rounds {
			if r.stop == nil {
				wg.Go(func() { f(r) })
			}
		}
		wg.Wait()
	}
	tags := tagsWanted(res, rows)
	each(func(r *round) { r.tags(ctx, tags[r.src.Name]) })

	runs := s.runsWanted(res, rounds, rows, now)
	for len(runs) > 0 {
		at := map[string][]*want{}
		for _, w := range runs {
			if r := rounds[w.places[0].src.Name]; r != nil {
				at[r.src.Name] = append(at[r.src.Name], w)
			}
		}
		var mu sync.Mutex
		var rest []*want
		each(func(r *round) {
			left := r.runs(ctx, at[r.src.Name])
			mu.Lock()
			defer mu.Unlock()
			rest = append(rest, left...)
		})
		runs = rest
	}
	pulls, commits := s.pullsWanted(res, rows, now), s.commitsWanted(res, rows)
	each(func(r *round) { r.pulls(ctx, pulls[r.src.Name]) })
	each(func(r *round) { r.commits(ctx, commits[r.src.Name]) })
}

// known reports whether all is known of a run that can be.
func known(run *waybill.StageRun) bool {
	return run.Expired || run.Status.Terminal() && !run.FinishedAt.IsZero() && !run.QueuedAt.IsZero() && run.URL != "" && run.Number != ""
}

// runsWanted are the runs of which something is not known. One more, that has ended, is
// looked for.
func (s *session) runsWanted(res *resolver, rounds map[string]*round, rows []waybill.Deployment, now time.Time) []*want {
	by := map[string]*want{}
	var out, ended []*want
	for i := range rows {
		d := &rows[i]
		stages := []*waybill.DeploymentStage{d.Build, d.Config, d.Manifest}
		for _, st := range stages {
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
				if len(places) == 0 || rounds[places[0].src.Name] == nil {
					continue
				}
				key := strings.Join([]string{"run", d.Partition, string(st.Stage), run.Run, places[0].src.Name, places[0].repo.Path}, "\x00")
				if w := by[key]; w != nil {
					w.rows = append(w.rows, d)
					continue
				}
				w := &want{rows: []*waybill.Deployment{d}, stage: st.Stage, run: run, shared: shared, places: places, key: key}
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
	if len(ended) > 0 {
		s.cursor++
		first := ended[s.cursor%len(ended)]
		out = append(out, first)
		s.later(first.key, again)
		if first.places[0].src.Kind == provider.AzureDevOps { // many fit into one call
			for _, w := range ended {
				if w != first && w.places[0].src == first.places[0].src && w.stage == first.stage && w.shared == first.shared && len(out) < 200 {
					out = append(out, w)
					s.later(w.key, again)
				}
			}
		}
	}
	for _, w := range out {
		rounds[w.places[0].src.Name].st.Wanted++
	}
	return out
}

// runs looks runs up, and returns those that are to be looked for at another place.
func (r *round) runs(ctx context.Context, ws []*want) (rest []*want) {
	defer r.flush(ctx)
	const what = "runs"
	for some := range slices.Chunk(ws, r.atOnce()) {
		if !r.goes(ctx, what) {
			return rest
		}
		qs := make([]provider.RunQuery, len(some))
		for i, w := range some {
			qs[i] = provider.RunQuery{Repo: w.places[0].repo, Stage: w.stage, ID: w.run.Run, URL: w.run.URL, Shared: w.shared}
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
			if !r.failed(what, a.Err) {
				w.unsure = true
				if waybill.IsKind(a.Err, waybill.KindForbidden) || waybill.IsKind(a.Err, waybill.KindInvalid) {
					r.s.later(w.key, 5*time.Minute) // nothing is likely to change soon
				}
			}
			if w.places = w.places[1:]; len(w.places) > 0 {
				rest = append(rest, w)
			} else if !w.unsure {
				r.gone(w)
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
func (s *session) pullsWanted(res *resolver, rows []waybill.Deployment, now time.Time) map[string][]*pull {
	out, by := map[string][]*pull{}, map[string]*pull{}
	for i := range rows {
		d := &rows[i]
		if d.PullRequest == "" || d.Review != nil && d.Review.State == waybill.ReviewMerged && d.Review.Title != "" {
			continue
		}
		at := res.of(d, configRole)
		if at == nil {
			continue
		}
		key := strings.Join([]string{"pull", d.Partition, at.src.Name, at.repo.Path, d.PullRequest}, "\x00")
		if p := by[key]; p != nil {
			p.rows = append(p.rows, d)
			continue
		}
		p := &pull{at: *at, key: key, rows: []*waybill.Deployment{d}}
		by[key] = p
		if !s.open(key) {
			continue
		}
		// One that was closed can be opened again.
		p.slow = d.Review != nil && d.Review.State == waybill.ReviewClosed || slowly(d, now)
		out[at.src.Name] = append(out[at.src.Name], p)
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
		p, err := r.p.PullRequest(ctx, x.at.repo, d.PullRequest)
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
func (s *session) commitsWanted(res *resolver, rows []waybill.Deployment) map[string][]*commit {
	out, by := map[string][]*commit{}, map[string]bool{}
	for i := range rows {
		d := &rows[i]
		if d.Author != nil {
			continue
		}
		id, at := d.Commit, res.of(d, sourceRole)
		if id == "" {
			id, at = d.ConfigCommit, res.of(d, configRole)
		}
		if at == nil || !provider.IsCommit(id) {
			continue
		}
		key := strings.Join([]string{"commit", d.Partition, at.src.Name, at.repo.Path, strings.ToLower(id)}, "\x00")
		if by[key] || !s.open(key) {
			continue
		}
		by[key] = true
		out[at.src.Name] = append(out[at.src.Name], &commit{at: *at, key: key, partition: d.Partition, id: id})
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

// tagsWanted are the repositories of manifests, by source.
func tagsWanted(res *resolver, rows []waybill.Deployment) map[string][]*tagRepo {
	out, by := map[string][]*tagRepo{}, map[string]*tagRepo{}
	add := func(partition string, at *place) {
		if at == nil {
			return
		}
		key := at.src.Name + "\x00" + strings.ToLower(at.repo.Path)
		if by[key] == nil {
			by[key] = &tagRepo{at: *at, parts: map[string]string{}}
			out[at.src.Name] = append(out[at.src.Name], by[key])
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
