package azuredevops

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

const (
	// buildsAtOnce is how many builds one call asks for.
	buildsAtOnce = 200
	// releasesAtOnce is how many releases; an answer holds the deployments of all.
	releasesAtOnce = 50
)

type link struct {
	Href string `json:"href"`
}

type build struct {
	ID         int64     `json:"id"`
	Number     string    `json:"buildNumber"`
	Status     string    `json:"status"`
	Result     string    `json:"result"`
	Queued     instant   `json:"queueTime"`
	Started    instant   `json:"startTime"`
	Finished   instant   `json:"finishTime"`
	Changed    instant   `json:"lastChangedDate"`
	Branch     string    `json:"sourceBranch"`
	Version    string    `json:"sourceVersion"`
	By         *identity `json:"requestedFor"`
	Repository *struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		URL  string `json:"url"`
		Name string `json:"name"`
	} `json:"repository"`
	Links struct {
		Web link `json:"web"`
	} `json:"_links"`
}

// Runs implements provider.Provider. What the configuration stage names by a number of
// its own is a classic release, and else a build.
func (a *AzureDevOps) Runs(ctx context.Context, qs []provider.RunQuery) []provider.RunAnswer {
	out := make([]provider.RunAnswer, len(qs))
	builds, releases := map[string]map[string][]int{}, map[string]map[string][]int{} // project → id → queries
	add := func(to map[string]map[string][]int, project, id string, i int) {
		if to[project] == nil {
			to[project] = map[string][]int{}
		}
		to[project][id] = append(to[project][id], i)
	}
	for i, q := range qs {
		project := a.projectOf(q.Repo)
		switch _, err := strconv.ParseInt(q.ID, 10, 64); {
		case err != nil:
			out[i].Err = waybill.E(waybill.KindNotFound, "%.60q is no number of a run of Azure DevOps", q.ID)
		case project == "":
			out[i].Err = waybill.E(waybill.KindInvalid, "no project of Azure DevOps is known for run %s", q.ID).
				WithHint("name it: deliveries.providers.%s.project", a.c.Name())
		case isRelease(q):
			add(releases, project, q.ID, i)
		default:
			add(builds, project, q.ID, i)
		}
	}
	for project, ids := range releases {
		a.releaseRuns(ctx, project, ids, out)
		for id, at := range ids {
			// A configuration of a pipeline of its own is a build.
			if waybill.IsKind(out[at[0]].Err, waybill.KindNotFound) && !strings.Contains(qs[at[0]].URL, "_release") {
				for _, i := range at {
					add(builds, project, id, i)
				}
			}
		}
	}
	for project, ids := range builds {
		a.buildRuns(ctx, project, ids, out)
	}
	for i, q := range qs {
		if r := out[i].Run; r != nil && q.Shared && r.Status != waybill.StatusSucceeded && len(builds) > 0 {
			stages, err := a.timeline(ctx, a.projectOf(q.Repo), q.ID)
			if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
				out[i] = provider.RunAnswer{Err: err} // it would look as if the first stage had failed
				continue
			}
			c := *r
			c.Stages = stages
			out[i].Run = &c
		}
	}
	return out
}

func isRelease(q provider.RunQuery) bool {
	switch {
	case strings.Contains(q.URL, "_release"):
		return true
	case strings.Contains(q.URL, "_build"):
		return false
	}
	return q.Stage == waybill.StageConfig && !q.Shared
}

func sorted(ids map[string][]int) []string {
	out := make([]string, 0, len(ids))
	for id := range ids {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return out
}

// answer gives a run, or an error, to all who asked for it.
func answer(out []provider.RunAnswer, at []int, r *provider.Run, err error) {
	for _, i := range at {
		out[i] = provider.RunAnswer{Run: r, Err: err}
	}
}

func (a *AzureDevOps) buildRuns(ctx context.Context, project string, ids map[string][]int, out []provider.RunAnswer) {
	for some := range slices.Chunk(sorted(ids), buildsAtOnce) {
		found := map[string]*provider.Run{}
		q := query("buildIds", strings.Join(some, ","), "$top", strconv.Itoa(len(some)))
		err := all(ctx, a.c, a.c.API(), at(project, "build/builds"), q, func(b build) {
			found[strconv.FormatInt(b.ID, 10)] = a.run(project, &b)
		})
		for _, id := range some {
			switch r := found[id]; {
			case r != nil:
				answer(out, ids[id], r, nil)
			case err != nil:
				answer(out, ids[id], nil, err)
			default:
				answer(out, ids[id], nil, waybill.E(waybill.KindNotFound, "Azure DevOps has no build %s in %s", id, project))
			}
		}
	}
}

func (a *AzureDevOps) run(project string, b *build) *provider.Run {
	id := strconv.FormatInt(b.ID, 10)
	state, _ := delivery.Outcome("azdo", b.Status, b.Result)
	r := &provider.Run{
		ID: id, Number: b.Number, URL: cmp.Or(b.Links.Web.Href, a.page(project, "_build", "results")+"?buildId="+id), Status: state,
		QueuedAt: b.Queued.UTC(), StartedAt: b.Started.UTC(), FinishedAt: b.Finished.UTC(), ChangedAt: latest(b.Changed.Time, b.Finished.Time, b.Started.Time, b.Queued.Time),
		Branch: branch(b.Branch), Commit: b.Version, By: b.By.person(),
	}
	if x := b.Repository; x != nil {
		switch {
		case x.URL != "":
			r.Repository = x.URL
		case strings.EqualFold(x.Type, "github"):
			r.Repository = "https://github.com/" + x.ID
		case strings.Contains(x.ID, "://"):
			r.Repository = x.ID
		}
	}
	return r
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out.UTC()
}

// timeline is what became of the stages of a build, in their order.
func (a *AzureDevOps) timeline(ctx context.Context, project, id string) ([]waybill.Outcome, error) {
	var t *struct {
		Records []struct {
			Type    string `json:"type"`
			Order   int    `json:"order"`
			Attempt int    `json:"attempt"`
			State   string `json:"state"`
			Result  string `json:"result"`
		} `json:"records"`
	}
	if _, err := a.c.Get(ctx, at(project, "build/builds/"+id+"/timeline"), query(), &t); err != nil {
		return nil, err
	}
	if t == nil { // a build that has not begun
		return nil, nil
	}
	type stage struct {
		attempt int
		state   waybill.Outcome
	}
	stages := map[int]stage{}
	last := 0
	for _, r := range t.Records {
		if r.Type != "Stage" || r.Order < 1 || r.Order > 1000 {
			continue
		}
		if old, ok := stages[r.Order]; ok && old.attempt > r.Attempt {
			continue
		}
		state, _ := delivery.Outcome("azdo", r.State, r.Result)
		stages[r.Order] = stage{r.Attempt, state}
		last = max(last, r.Order)
	}
	out := make([]waybill.Outcome, last)
	for n, s := range stages {
		out[n-1] = s.state
	}
	return out, nil
}

type deployment struct {
	Release struct {
		ID        int64  `json:"id"`
		Name      string `json:"name"`
		Artifacts []struct {
			Primary    bool `json:"isPrimary"`
			Definition map[string]struct {
				ID   string `json:"id"`
				Name string `json:"name"`
			} `json:"definitionReference"`
		} `json:"artifacts"`
		Page  string `json:"webAccessUri"`
		Links struct {
			Web link `json:"web"`
		} `json:"_links"`
	} `json:"release"`
	Environment struct {
		ID   int64  `json:"id"`
		Name string `json:"name"`
	} `json:"releaseEnvironment"`
	Attempt   int       `json:"attempt"`
	Status    string    `json:"deploymentStatus"`
	By        *identity `json:"requestedFor"`
	Queued    instant   `json:"queuedOn"`
	Started   instant   `json:"startedOn"`
	Completed instant   `json:"completedOn"`
	Modified  instant   `json:"lastModifiedOn"`
}

func (a *AzureDevOps) releaseRuns(ctx context.Context, project string, ids map[string][]int, out []provider.RunAnswer) {
	for some := range slices.Chunk(sorted(ids), releasesAtOnce) {
		found := map[string][]deployment{}
		q := query("releaseIdFilter", strings.Join(some, ","), "$top", "100")
		err := all(ctx, a.c, a.releases, at(project, "release/deployments"), q, func(d deployment) {
			id := strconv.FormatInt(d.Release.ID, 10)
			found[id] = append(found[id], d)
		})
		for _, id := range some {
			switch ds := found[id]; {
			case err != nil: // deployments of it may be missing
				answer(out, ids[id], nil, err)
			case len(ds) > 0:
				answer(out, ids[id], release(id, ds), nil)
			default:
				answer(out, ids[id], nil, waybill.E(waybill.KindNotFound, "Azure DevOps has no release %s in %s", id, project))
			}
		}
	}
}

// release is a release as its deployments tell of it: of each environment the last attempt
// counts, of all the worst.
func release(id string, ds []deployment) *provider.Run {
	newest := map[int64]deployment{}
	for _, d := range ds {
		if old, ok := newest[d.Environment.ID]; !ok || d.Attempt > old.Attempt || d.Attempt == old.Attempt && d.Modified.After(old.Modified.Time) {
			newest[d.Environment.ID] = d
		}
	}
	d := ds[0]
	r := &provider.Run{ID: id, Number: d.Release.Name, URL: cmp.Or(d.Release.Links.Web.Href, d.Release.Page), By: d.By.person()}
	for _, x := range d.Release.Artifacts {
		if r.Image == "" || x.Primary {
			r.Image = x.Definition["version"].Name
		}
	}
	worst := []waybill.Outcome{waybill.StatusFailed, waybill.StatusRunning, waybill.StatusQueued, waybill.StatusCanceled, waybill.StatusSkipped, waybill.StatusSucceeded}
	rank := len(worst)
	for _, d := range newest {
		state, _ := delivery.Outcome("azdo-release", d.Status, "")
		if i := slices.Index(worst, state); i >= 0 && i < rank {
			rank, r.Status = i, state
		}
		if r.QueuedAt.IsZero() || d.Queued.Before(r.QueuedAt) {
			r.QueuedAt = d.Queued.UTC()
		}
		if !d.Started.IsZero() && (r.StartedAt.IsZero() || d.Started.Before(r.StartedAt)) {
			r.StartedAt = d.Started.UTC()
		}
		r.FinishedAt = latest(r.FinishedAt, d.Completed.Time)
		r.ChangedAt = latest(r.ChangedAt, d.Modified.Time, d.Completed.Time, d.Queued.Time)
	}
	if !r.Status.Terminal() {
		r.FinishedAt = time.Time{}
	}
	return r
}
