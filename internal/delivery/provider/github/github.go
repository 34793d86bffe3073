// Package github looks up runs of GitHub Actions, commits, pull requests and tags, at
// github.com or a server of one's own, over the REST API (docs.github.com/rest,
// version 2022-11-28).
package github

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// Web is where GitHub is.
const Web = "https://github.com"

// API is the address of the API of a server.
func API(web *url.URL) *url.URL {
	if web.Host == "github.com" || web.Host == "www.github.com" {
		return &url.URL{Scheme: web.Scheme, Host: "api.github.com"}
	}
	return web.JoinPath("api/v3")
}

// GitHub is the provider.
type GitHub struct {
	c   *provider.Client
	web *url.URL

	mu   sync.Mutex
	jobs map[string]bool        // by repository: its numbers were those of jobs
	tags map[string]annotation  // by the tag object, which never changes
	seen map[string]visibleTill // by repository
}

type annotation struct {
	commit, tagger, message string
	at                      time.Time
}

// visibleTill remembers that a repository can be seen.
type visibleTill struct{ until time.Time }

var _ provider.Provider = (*GitHub)(nil)

// New returns a provider for the server whose pages are at web. o.API empty is found from
// it.
func New(web *url.URL, o provider.Options) *GitHub {
	o.Kind = provider.GitHub
	if o.API == nil {
		o.API = API(web)
	}
	o.Header = http.Header{"Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}}
	o.Authorize = func(r *http.Request, token string) { r.Header.Set("Authorization", "Bearer "+token) }
	return &GitHub{c: provider.NewClient(o), web: web, jobs: map[string]bool{}, tags: map[string]annotation{}, seen: map[string]visibleTill{}}
}

// Client implements provider.Provider.
func (g *GitHub) Client() *provider.Client { return g.c }

// repo is the path of a repository in the API.
func repo(r provider.Repository, rest ...string) (string, error) {
	owner, name, ok := strings.Cut(r.Path, "/")
	if !ok || strings.Contains(name, "/") {
		return "", waybill.E(waybill.KindInvalid, "%q is no repository of GitHub: want owner/name", r.Path)
	}
	parts := append([]string{"repos", owner, name}, rest...)
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/"), nil
}

// run is a run or a job: both have these.
type run struct {
	ID         int64      `json:"id"`
	Name       string     `json:"name"`
	Number     int64      `json:"run_number"`
	Attempt    int        `json:"run_attempt"`
	Branch     string     `json:"head_branch"`
	Commit     string     `json:"head_sha"`
	Status     string     `json:"status"`
	Conclusion string     `json:"conclusion"`
	URL        string     `json:"html_url"`
	Created    time.Time  `json:"created_at"`
	Started    time.Time  `json:"started_at"`
	RunStarted time.Time  `json:"run_started_at"`
	Updated    time.Time  `json:"updated_at"`
	Completed  *time.Time `json:"completed_at"`
	Actor      *user      `json:"triggering_actor"`
	Repository struct {
		URL string `json:"html_url"`
	} `json:"repository"`
}

type user struct {
	Login  string `json:"login"`
	Name   string `json:"name"`
	Avatar string `json:"avatar_url"`
	URL    string `json:"html_url"`
}

func (u *user) person() *waybill.Person {
	if u == nil || u.Login == "" {
		return nil
	}
	return &waybill.Person{Name: cmp.Or(u.Name, u.Login), Username: u.Login, URL: u.URL, Image: u.Avatar}
}

// Runs implements provider.Provider. The number of a run can be one of a run or of a job.
func (g *GitHub) Runs(ctx context.Context, qs []provider.RunQuery) []provider.RunAnswer {
	out := make([]provider.RunAnswer, len(qs))
	for i, q := range qs {
		r, err := g.run(ctx, q)
		out[i] = provider.RunAnswer{Run: r, Err: err}
	}
	return out
}

func (g *GitHub) run(ctx context.Context, q provider.RunQuery) (*provider.Run, error) {
	if _, err := strconv.ParseInt(q.ID, 10, 64); err != nil {
		return nil, waybill.E(waybill.KindNotFound, "%.60q is no number of a run of GitHub Actions", q.ID)
	}
	kinds := []string{"runs", "jobs"}
	g.mu.Lock()
	first := g.jobs[q.Repo.Path]
	g.mu.Unlock()
	switch {
	case strings.HasSuffix(q.URL, "/job/"+q.ID):
		kinds = kinds[1:]
	case strings.HasSuffix(q.URL, "/actions/runs/"+q.ID):
		kinds = kinds[:1]
	case first:
		slices.Reverse(kinds)
	}
	var r run
	var err error
	for _, kind := range kinds {
		path, perr := repo(q.Repo, "actions", kind, q.ID)
		if perr != nil {
			return nil, perr
		}
		r = run{}
		if _, err = g.c.Get(ctx, path, nil, &r); waybill.IsKind(err, waybill.KindNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		g.jobs[q.Repo.Path] = kind == "jobs"
		g.mu.Unlock()
		return g.tell(q, &r, kind == "jobs"), nil
	}
	return nil, g.hidden(ctx, q.Repo, err)
}

func (g *GitHub) tell(q provider.RunQuery, r *run, job bool) *provider.Run {
	state, _ := delivery.Outcome("github", r.Status, r.Conclusion)
	out := &provider.Run{
		ID: q.ID, Number: q.ID, URL: r.URL, Status: state, QueuedAt: first(r.Created, r.RunStarted, r.Started).UTC(),
		StartedAt: first(r.Started, r.RunStarted).UTC(), ChangedAt: first(r.Updated, r.Started, r.Created).UTC(), Branch: r.Branch, Commit: r.Commit,
		By: r.Actor.person(), Repository: r.Repository.URL,
	}
	if out.Repository == "" {
		out.Repository = g.web.JoinPath(q.Repo.Path).String()
	}
	if !job && r.Number > 0 {
		out.Number = strconv.FormatInt(r.Number, 10)
	}
	if job { // what a job waited for before it began is told of its run
		out.QueuedAt = first(r.Started, r.Created).UTC()
	}
	if r.Attempt > 1 && !r.RunStarted.IsZero() {
		out.QueuedAt = r.RunStarted.UTC() // of this attempt
	}
	if state.Terminal() {
		if out.FinishedAt = r.Updated.UTC(); r.Completed != nil {
			out.FinishedAt = r.Completed.UTC()
		}
		if out.ChangedAt.Before(out.FinishedAt) {
			out.ChangedAt = out.FinishedAt
		}
	}
	return out
}

func first(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// hidden tells "there is none" from "it is not shown": GitHub says of both that it was
// not found.
func (g *GitHub) hidden(ctx context.Context, r provider.Repository, err error) error {
	now := g.c.Now()
	g.mu.Lock()
	known := g.seen[r.Path].until.After(now)
	g.mu.Unlock()
	if known {
		return err
	}
	path, perr := repo(r)
	if perr != nil {
		return perr
	}
	var any struct{}
	switch _, rerr := g.c.Get(ctx, path, nil, &any); {
	case waybill.IsKind(rerr, waybill.KindNotFound):
		return waybill.E(waybill.KindForbidden, "GitHub shows no repository %s with the token of deliveries.providers.%s.token", r.Path, g.c.Name()).
			WithHint("it is deleted, or the token may not read it")
	case rerr != nil:
		return rerr
	}
	g.mu.Lock()
	g.seen[r.Path] = visibleTill{now.Add(10 * time.Minute)}
	g.mu.Unlock()
	return err
}

// Commit implements provider.Provider.
func (g *GitHub) Commit(ctx context.Context, r provider.Repository, sha string) (provider.Commit, error) {
	path, err := repo(r, "commits", sha)
	if err != nil {
		return provider.Commit{}, err
	}
	var c struct {
		SHA    string `json:"sha"`
		Commit struct {
			Author struct {
				Name  string    `json:"name"`
				Email string    `json:"email"`
				Date  time.Time `json:"date"`
			} `json:"author"`
		} `json:"commit"`
		Author *user `json:"author"`
	}
	if _, err := g.c.Get(ctx, path, nil, &c); err != nil {
		if provider.NoCommit(err) {
			err = waybill.E(waybill.KindNotFound, "GitHub has no commit %.60s in %s", sha, r.Path)
		}
		return provider.Commit{}, g.missing(ctx, r, err)
	}
	if !provider.IsCommit(c.SHA) {
		return provider.Commit{}, waybill.E(waybill.KindMalformed, "GitHub tells of no commit where one was asked for")
	}
	out := provider.Commit{ID: c.SHA, At: c.Commit.Author.Date.UTC()}
	if p := c.Author.person(); p != nil {
		out.Author = *p
	}
	out.Author.Name = cmp.Or(c.Commit.Author.Name, out.Author.Name)
	out.Author.Username = cmp.Or(out.Author.Username, c.Commit.Author.Email)
	return out, nil
}

func (g *GitHub) missing(ctx context.Context, r provider.Repository, err error) error {
	if waybill.IsKind(err, waybill.KindNotFound) {
		return g.hidden(ctx, r, err)
	}
	return err
}

// PullRequest implements provider.Provider.
func (g *GitHub) PullRequest(ctx context.Context, r provider.Repository, id string) (provider.PullRequest, error) {
	if err := provider.CheckNumber(id); err != nil {
		return provider.PullRequest{}, err
	}
	path, err := repo(r, "pulls", id)
	if err != nil {
		return provider.PullRequest{}, err
	}
	type branch struct {
		Ref string `json:"ref"`
	}
	var p struct {
		Number  int64      `json:"number"`
		Title   string     `json:"title"`
		State   string     `json:"state"`
		URL     string     `json:"html_url"`
		Created time.Time  `json:"created_at"`
		Closed  *time.Time `json:"closed_at"`
		Merged  *time.Time `json:"merged_at"`
		Commit  string     `json:"merge_commit_sha"`
		By      *user      `json:"merged_by"`
		Head    branch     `json:"head"`
		Base    branch     `json:"base"`
	}
	if _, err := g.c.Get(ctx, path, nil, &p); err != nil {
		return provider.PullRequest{}, g.missing(ctx, r, err)
	}
	if p.Number == 0 {
		return provider.PullRequest{}, waybill.E(waybill.KindMalformed, "GitHub tells of no pull request where one was asked for")
	}
	out := provider.PullRequest{ID: strconv.FormatInt(p.Number, 10), Title: p.Title, SourceBranch: p.Head.Ref, TargetBranch: p.Base.Ref, URL: p.URL, State: waybill.ReviewOpen, At: p.Created.UTC()}
	switch {
	case p.Merged != nil:
		out.State, out.At, out.MergedBy, out.MergeCommit = waybill.ReviewMerged, p.Merged.UTC(), p.By.person(), p.Commit
	case p.State == "closed":
		out.State = waybill.ReviewClosed
		if p.Closed != nil {
			out.At = p.Closed.UTC()
		}
	}
	return out, nil
}

// Tags implements provider.Provider.
func (g *GitHub) Tags(ctx context.Context, r provider.Repository, prefix string) ([]provider.Tag, error) {
	path, err := repo(r, "git", "matching-refs", "tags")
	if err != nil {
		return nil, err
	}
	var out []provider.Tag
	page := g.c.URL(path+"/"+url.PathEscape(prefix), url.Values{"per_page": {"100"}})
	for range provider.MaxPages {
		var refs []struct {
			Ref    string `json:"ref"`
			Object struct {
				SHA  string `json:"sha"`
				Type string `json:"type"`
			} `json:"object"`
		}
		h, err := g.c.GetURL(ctx, page, &refs)
		if err != nil {
			return nil, g.missing(ctx, r, err)
		}
		for _, ref := range refs {
			name, ok := strings.CutPrefix(ref.Ref, "refs/tags/")
			if !ok || !strings.HasPrefix(name, prefix) || ref.Object.Type != "tag" {
				continue
			}
			a, err := g.annotation(ctx, r, ref.Object.SHA)
			if waybill.IsKind(err, waybill.KindNotFound) {
				continue // it was moved meanwhile
			}
			if err != nil {
				return nil, err
			}
			if a.commit != "" {
				out = append(out, provider.Tag{Name: name, Commit: a.commit, At: a.at, Tagger: a.tagger, Message: a.message})
			}
		}
		if page = provider.Next(page, h); page == "" {
			break
		}
	}
	slices.SortFunc(out, func(a, b provider.Tag) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (g *GitHub) annotation(ctx context.Context, r provider.Repository, sha string) (annotation, error) {
	key := r.Path + "@" + sha
	g.mu.Lock()
	a, ok := g.tags[key]
	g.mu.Unlock()
	if ok {
		return a, nil
	}
	path, err := repo(r, "git", "tags", sha)
	if err != nil {
		return a, err
	}
	var t struct {
		Tagger struct {
			Name string    `json:"name"`
			Date time.Time `json:"date"`
		} `json:"tagger"`
		Object struct {
			SHA  string `json:"sha"`
			Type string `json:"type"`
		} `json:"object"`
		Message string `json:"message"`
	}
	if _, err := g.c.Get(ctx, path, nil, &t); err != nil {
		return a, err
	}
	if t.Object.Type == "commit" {
		a = annotation{commit: t.Object.SHA, tagger: t.Tagger.Name, message: strings.TrimSpace(t.Message), at: t.Tagger.Date.UTC()}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.tags) >= 10_000 {
		clear(g.tags)
	}
	g.tags[key] = a
	return a, nil
}

// Compare implements provider.Provider.
func (g *GitHub) Compare(ctx context.Context, r provider.Repository, base, head string) (provider.Comparison, error) {
	path, err := repo(r, "compare")
	if err != nil {
		return provider.Comparison{}, err
	}
	var c struct {
		Status string `json:"status"`
		Ahead  int    `json:"ahead_by"`
		Behind int    `json:"behind_by"`
		Base   struct {
			SHA string `json:"sha"`
		} `json:"merge_base_commit"`
	}
	// One commit is enough: only the counts are read.
	if _, err := g.c.Get(ctx, path+"/"+url.PathEscape(base)+"..."+url.PathEscape(head), url.Values{"per_page": {"1"}}, &c); err != nil {
		return provider.Comparison{}, g.missing(ctx, r, err)
	}
	switch c.Status {
	case "ahead", "behind", "identical", "diverged":
	default:
		return provider.Comparison{}, waybill.E(waybill.KindMalformed, "GitHub compares commits as %.40q", c.Status)
	}
	return provider.Comparison{Ancestor: c.Status == "ahead" || c.Status == "identical", Ahead: c.Ahead, Behind: c.Behind, MergeBase: c.Base.SHA}, nil
}

// TagsURL implements provider.Provider.
func (g *GitHub) TagsURL(r provider.Repository) string {
	return g.web.JoinPath(r.Path, "releases").String()
}
