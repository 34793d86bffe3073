// Package gitlab looks up pipelines, commits, merge requests and tags, at gitlab.com or a
// server of one's own, over the REST API (docs.gitlab.com/api, version 4).
package gitlab

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

// Web is where GitLab is.
const Web = "https://gitlab.com"

// GitLab is the provider.
type GitLab struct {
	c   *provider.Client
	web *url.URL

	mu      sync.Mutex
	avatars map[string]string // by mail address
	pages   map[string]string // of projects that are known by their number
}

var _ provider.Provider = (*GitLab)(nil)

// New returns a provider for the server whose pages are at web. o.API empty is found from
// it.
func New(web *url.URL, o provider.Options) *GitLab {
	o.Kind = provider.GitLab
	if o.API == nil {
		o.API = web.JoinPath("api/v4")
	}
	o.Authorize = func(r *http.Request, token string) { r.Header.Set("Private-Token", token) }
	return &GitLab{c: provider.NewClient(o), web: web, avatars: map[string]string{}, pages: map[string]string{}}
}

// Client implements provider.Provider.
func (g *GitLab) Client() *provider.Client { return g.c }

// project is the path of a project in the API.
func project(r provider.Repository, rest ...string) (string, error) {
	if r.Path == "" {
		return "", waybill.E(waybill.KindInvalid, "no project of GitLab is known for it")
	}
	parts := append([]string{"projects", r.Path}, rest...)
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/"), nil
}

type user struct {
	Name     string `json:"name"`
	Username string `json:"username"`
	Avatar   string `json:"avatar_url"`
	URL      string `json:"web_url"`
}

func (u *user) person() *waybill.Person {
	if u == nil || u.Name == "" && u.Username == "" {
		return nil
	}
	return &waybill.Person{Name: cmp.Or(u.Name, u.Username), Username: u.Username, URL: u.URL, Image: u.Avatar}
}

// Runs implements provider.Provider: runs are pipelines.
func (g *GitLab) Runs(ctx context.Context, qs []provider.RunQuery) []provider.RunAnswer {
	out := make([]provider.RunAnswer, len(qs))
	for i, q := range qs {
		r, err := g.pipeline(ctx, q)
		out[i] = provider.RunAnswer{Run: r, Err: err}
	}
	return out
}

func (g *GitLab) pipeline(ctx context.Context, q provider.RunQuery) (*provider.Run, error) {
	if _, err := strconv.ParseInt(q.ID, 10, 64); err != nil {
		return nil, waybill.E(waybill.KindNotFound, "%.60q is no number of a pipeline of GitLab", q.ID)
	}
	path, err := project(q.Repo, "pipelines", q.ID)
	if err != nil {
		return nil, err
	}
	var p struct {
		ID       int64      `json:"id"`
		SHA      string     `json:"sha"`
		Ref      string     `json:"ref"`
		Status   string     `json:"status"`
		Created  time.Time  `json:"created_at"`
		Updated  time.Time  `json:"updated_at"`
		Started  *time.Time `json:"started_at"`
		Finished *time.Time `json:"finished_at"`
		URL      string     `json:"web_url"`
		User     *user      `json:"user"`
	}
	if _, err := g.c.Get(ctx, path, nil, &p); err != nil {
		return nil, g.hidden(err, q.Repo)
	}
	if p.ID == 0 {
		return nil, waybill.E(waybill.KindMalformed, "GitLab tells of no pipeline where one was asked for")
	}
	state, _ := delivery.Outcome("gitlab", p.Status, "")
	out := &provider.Run{
		ID: q.ID, Number: q.ID, URL: p.URL, Status: state, QueuedAt: p.Created.UTC(), ChangedAt: p.Updated.UTC(), Branch: p.Ref, Commit: p.SHA,
		By: p.User.person(),
	}
	if at := strings.Index(p.URL, "/-/"); at > 0 {
		out.Repository = p.URL[:at]
	}
	if p.Started != nil {
		out.StartedAt = p.Started.UTC()
	}
	if state.Terminal() {
		if out.FinishedAt = p.Updated.UTC(); p.Finished != nil {
			out.FinishedAt = p.Finished.UTC()
		}
	}
	return out, nil
}

// hidden tells "there is none" from "it is not shown": GitLab names the project then.
func (g *GitLab) hidden(err error, r provider.Repository) error {
	if waybill.IsKind(err, waybill.KindNotFound) && strings.Contains(strings.ToLower(err.Error()), "project not found") {
		return waybill.E(waybill.KindForbidden, "GitLab shows no project %s with the token of deliveries.providers.%s.token", r.Path, g.c.Name()).
			WithHint("it is deleted, or the token may not read it")
	}
	return err
}

// Commit implements provider.Provider.
func (g *GitLab) Commit(ctx context.Context, r provider.Repository, sha string) (provider.Commit, error) {
	path, err := project(r, "repository", "commits", sha)
	if err != nil {
		return provider.Commit{}, err
	}
	var c struct {
		ID    string    `json:"id"`
		Name  string    `json:"author_name"`
		Email string    `json:"author_email"`
		At    time.Time `json:"authored_date"`
	}
	if _, err := g.c.Get(ctx, path, nil, &c); err != nil {
		return provider.Commit{}, g.hidden(err, r)
	}
	if !provider.IsCommit(c.ID) {
		return provider.Commit{}, waybill.E(waybill.KindMalformed, "GitLab tells of no commit where one was asked for")
	}
	return provider.Commit{ID: c.ID, At: c.At.UTC(), Author: waybill.Person{Name: c.Name, Username: c.Email, Image: g.avatar(ctx, c.Email)}}, nil
}

// avatar is the picture of whoever has a mail address, "" when it cannot be had.
func (g *GitLab) avatar(ctx context.Context, email string) string {
	if email == "" {
		return ""
	}
	g.mu.Lock()
	image, ok := g.avatars[email]
	g.mu.Unlock()
	if ok {
		return image
	}
	var a struct {
		URL string `json:"avatar_url"`
	}
	_, err := g.c.Get(ctx, "avatar", url.Values{"email": {email}, "size": {"80"}}, &a)
	if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
		return "" // asked again with the next commit
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.avatars) >= 10_000 {
		clear(g.avatars)
	}
	g.avatars[email] = a.URL
	return a.URL
}

// PullRequest implements provider.Provider: a merge request by its number in the project.
func (g *GitLab) PullRequest(ctx context.Context, r provider.Repository, id string) (provider.PullRequest, error) {
	if err := provider.CheckNumber(id); err != nil {
		return provider.PullRequest{}, err
	}
	path, err := project(r, "merge_requests", id)
	if err != nil {
		return provider.PullRequest{}, err
	}
	var m struct {
		IID      int64      `json:"iid"`
		Title    string     `json:"title"`
		State    string     `json:"state"`
		Created  time.Time  `json:"created_at"`
		Merged   *time.Time `json:"merged_at"`
		Closed   *time.Time `json:"closed_at"`
		MergedBy *user      `json:"merged_by"`
		MergeUsr *user      `json:"merge_user"`
		Source   string     `json:"source_branch"`
		Target   string     `json:"target_branch"`
		URL      string     `json:"web_url"`
		SHA      string     `json:"sha"`
		Merge    string     `json:"merge_commit_sha"`
		Squash   string     `json:"squash_commit_sha"`
	}
	if _, err := g.c.Get(ctx, path, nil, &m); err != nil {
		return provider.PullRequest{}, g.hidden(err, r)
	}
	if m.IID == 0 {
		return provider.PullRequest{}, waybill.E(waybill.KindMalformed, "GitLab tells of no merge request where one was asked for")
	}
	out := provider.PullRequest{ID: strconv.FormatInt(m.IID, 10), Title: m.Title, SourceBranch: m.Source, TargetBranch: m.Target, URL: m.URL, State: waybill.ReviewOpen, At: m.Created.UTC()}
	switch m.State {
	case "merged":
		out.State, out.MergedBy = waybill.ReviewMerged, cmp.Or(m.MergeUsr, m.MergedBy).person()
		// A merge that moves the branch only has no commit of its own.
		out.MergeCommit = cmp.Or(m.Merge, m.Squash, m.SHA)
		if m.Merged != nil {
			out.At = m.Merged.UTC()
		}
	case "closed":
		out.State = waybill.ReviewClosed
		if m.Closed != nil {
			out.At = m.Closed.UTC()
		}
	}
	return out, nil
}

// Tags implements provider.Provider. A tag without a message, which GitLab tells as null,
// that points at the commit itself is no annotated one.
func (g *GitLab) Tags(ctx context.Context, r provider.Repository, prefix string) ([]provider.Tag, error) {
	path, err := project(r, "repository", "tags")
	if err != nil {
		return nil, err
	}
	var out []provider.Tag
	query := url.Values{"per_page": {"100"}, "search": {"^" + prefix}}
	for page := 1; page <= provider.MaxPages; page++ {
		query.Set("page", strconv.Itoa(page))
		var tags []struct {
			Name    string  `json:"name"`
			Message *string `json:"message"`
			Target  string  `json:"target"`
			Created *time.Time
			Commit  *struct {
				ID     string    `json:"id"`
				Author string    `json:"author_name"`
				At     time.Time `json:"authored_date"`
			} `json:"commit"`
		}
		h, err := g.c.Get(ctx, path, query, &tags)
		if err != nil {
			return nil, g.hidden(err, r)
		}
		for _, t := range tags {
			if !strings.HasPrefix(t.Name, prefix) || t.Commit == nil || t.Message == nil && t.Target == t.Commit.ID {
				continue
			}
			x := provider.Tag{Name: t.Name, Commit: t.Commit.ID, Tagger: t.Commit.Author, At: t.Commit.At.UTC()}
			if t.Message != nil {
				x.Message = strings.TrimSpace(*t.Message)
			}
			out = append(out, x)
		}
		if h.Get("X-Next-Page") == "" {
			break
		}
	}
	slices.SortFunc(out, func(a, b provider.Tag) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Compare implements provider.Provider.
func (g *GitLab) Compare(ctx context.Context, r provider.Repository, base, head string) (provider.Comparison, error) {
	path, err := project(r, "repository", "merge_base")
	if err != nil {
		return provider.Comparison{}, err
	}
	var c struct {
		ID string `json:"id"`
	}
	_, err = g.c.Get(ctx, path, url.Values{"refs[]": {base, head}}, &c)
	switch {
	case waybill.IsKind(err, waybill.KindNotFound) && strings.Contains(strings.ToLower(err.Error()), "merge base"):
		return provider.Comparison{Ahead: -1, Behind: -1}, nil // they have nothing in common
	case err != nil:
		return provider.Comparison{}, g.hidden(err, r)
	case len(c.ID) < 7:
		return provider.Comparison{}, waybill.E(waybill.KindMalformed, "GitLab tells of no commit where two were compared")
	}
	out := provider.Comparison{Ancestor: same(c.ID, base), Ahead: -1, Behind: -1, MergeBase: c.ID}
	if same(c.ID, base) && same(c.ID, head) {
		out.Ahead, out.Behind = 0, 0
	}
	return out, nil
}

func same(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	return len(a) >= 7 && strings.HasPrefix(strings.ToLower(b), strings.ToLower(a))
}

// TagsURL implements provider.Provider.
func (g *GitLab) TagsURL(r provider.Repository) string {
	if r.Path == "" {
		return ""
	}
	if _, err := strconv.Atoi(r.Path); err == nil {
		return g.page(r)
	}
	return g.web.JoinPath(r.Path, "-/tags").String()
}

// page is that of the tags of a project that is known by its number.
func (g *GitLab) page(r provider.Repository) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pages[r.Path]
}

// Learn finds the address of a project that is known by its number, so that TagsURL can
// tell it. An answer is remembered.
func (g *GitLab) Learn(ctx context.Context, r provider.Repository) error {
	if g.TagsURL(r) != "" {
		return nil
	}
	path, err := project(r)
	if err != nil {
		return err
	}
	var p struct {
		URL string `json:"web_url"`
	}
	if _, err := g.c.Get(ctx, path, nil, &p); err != nil {
		return g.hidden(err, r)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pages[r.Path] = ""; p.URL != "" {
		g.pages[r.Path] = p.URL + "/-/tags"
	}
	return nil
}
