package azuredevops

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// instant is a time, which Azure DevOps writes with and without a zone; without, it is UTC.
type instant struct{ time.Time }

func (i *instant) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil || s == "" {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05.999999999", s)
	}
	i.Time = t.UTC()
	return err
}

// Commit implements provider.Provider.
func (a *AzureDevOps) Commit(ctx context.Context, r provider.Repository, sha string) (provider.Commit, error) {
	path, err := repo(r, "/commits/"+url.PathEscape(sha))
	if err != nil {
		return provider.Commit{}, err
	}
	var c struct {
		ID     string `json:"commitId"`
		Author struct {
			Name  string  `json:"name"`
			Email string  `json:"email"`
			Date  instant `json:"date"`
			Image string  `json:"imageUrl"`
		} `json:"author"`
	}
	if _, err := a.c.Get(ctx, path, query(), &c); err != nil {
		return provider.Commit{}, err
	}
	if !provider.IsCommit(c.ID) {
		return provider.Commit{}, waybill.E(waybill.KindMalformed, "Azure DevOps tells of no commit where one was asked for")
	}
	return provider.Commit{ID: c.ID, At: c.Author.Date.Time, Author: waybill.Person{Name: c.Author.Name, Username: c.Author.Email, Image: c.Author.Image}}, nil
}

// PullRequest implements provider.Provider.
func (a *AzureDevOps) PullRequest(ctx context.Context, r provider.Repository, id string) (provider.PullRequest, error) {
	if err := provider.CheckNumber(id); err != nil {
		return provider.PullRequest{}, err
	}
	path, err := repo(r, "/pullrequests/"+url.PathEscape(id))
	if err != nil {
		return provider.PullRequest{}, err
	}
	var p struct {
		ID       int64     `json:"pullRequestId"`
		Title    string    `json:"title"`
		Status   string    `json:"status"`
		Created  instant   `json:"creationDate"`
		Closed   instant   `json:"closedDate"`
		Source   string    `json:"sourceRefName"`
		Target   string    `json:"targetRefName"`
		ClosedBy *identity `json:"closedBy"`
		Merge    struct {
			ID string `json:"commitId"`
		} `json:"lastMergeCommit"`
		Reviewers []struct {
			identity
			Vote int `json:"vote"`
		} `json:"reviewers"`
		Repository struct {
			Page string `json:"webUrl"`
		} `json:"repository"`
	}
	if _, err := a.c.Get(ctx, path, query(), &p); err != nil {
		return provider.PullRequest{}, err
	}
	if p.ID == 0 {
		return provider.PullRequest{}, waybill.E(waybill.KindMalformed, "Azure DevOps tells of no pull request where one was asked for")
	}
	number := strconv.FormatInt(p.ID, 10)
	org, project, name := r.Azure()
	out := provider.PullRequest{
		ID: number, Title: p.Title, SourceBranch: branch(p.Source), TargetBranch: branch(p.Target), State: waybill.ReviewOpen, At: p.Created.Time,
		URL: cmp.Or(p.Repository.Page, a.page(org+"/"+project, "_git", name)) + "/pullrequest/" + number,
	}
	for _, v := range p.Reviewers {
		if v.Vote >= 5 { // 10 is approved, 5 with suggestions
			out.ApprovedBy = cmp.Or(out.ApprovedBy, v.Name)
		}
	}
	switch p.Status {
	case "completed":
		out.State, out.At, out.MergedBy, out.MergeCommit = waybill.ReviewMerged, p.Closed.Time, p.ClosedBy.person(), p.Merge.ID
	case "abandoned":
		out.State, out.At = waybill.ReviewClosed, p.Closed.Time
	}
	return out, nil
}

type annotation struct {
	commit, tagger, message string
	at                      time.Time
}

// Tags implements provider.Provider.
func (a *AzureDevOps) Tags(ctx context.Context, r provider.Repository, prefix string) ([]provider.Tag, error) {
	path, err := repo(r, "/refs")
	if err != nil {
		return nil, err
	}
	type ref struct {
		Name   string `json:"name"`
		Object string `json:"objectId"`
	}
	var refs []ref
	if err := all(ctx, a.c, a.c.API(), path, query("filter", "tags/"+prefix), func(x ref) { refs = append(refs, x) }); err != nil {
		return nil, err
	}
	var out []provider.Tag
	for _, x := range refs {
		name, ok := strings.CutPrefix(x.Name, "refs/tags/")
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		t, err := a.annotation(ctx, r, x.Object)
		if err != nil {
			return nil, err
		}
		if t.commit != "" {
			out = append(out, provider.Tag{Name: name, Commit: t.commit, At: t.at, Tagger: t.tagger, Message: t.message})
		}
	}
	slices.SortFunc(out, func(a, b provider.Tag) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func (a *AzureDevOps) annotation(ctx context.Context, r provider.Repository, object string) (annotation, error) {
	key := r.Path + "@" + object
	a.mu.Lock()
	out, ok := a.tags[key]
	a.mu.Unlock()
	if ok {
		return out, nil
	}
	path, err := repo(r, "/annotatedtags/"+url.PathEscape(object))
	if err != nil {
		return out, err
	}
	var t struct {
		Object struct {
			ID   string `json:"objectId"`
			Type string `json:"objectType"`
		} `json:"taggedObject"`
		By struct {
			Name string  `json:"name"`
			Date instant `json:"date"`
		} `json:"taggedBy"`
		Message string `json:"message"`
	}
	_, err = a.c.Get(ctx, path, query(), &t)
	switch kind := waybill.KindOf(err); {
	case err == nil && t.Object.Type == "commit":
		out = annotation{commit: t.Object.ID, tagger: t.By.Name, message: strings.TrimSpace(t.Message), at: t.By.Date.Time}
	case err == nil: // of something else than a commit
	case kind == waybill.KindNotFound || kind == waybill.KindInvalid: // a lightweight tag
	default:
		return out, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tags) >= 10_000 {
		clear(a.tags)
	}
	a.tags[key] = out
	return out, nil
}

// Compare implements provider.Provider.
func (a *AzureDevOps) Compare(ctx context.Context, r provider.Repository, base, head string) (provider.Comparison, error) {
	path, err := repo(r, "/diffs/commits")
	if err != nil {
		return provider.Comparison{}, err
	}
	var c struct {
		Ahead  *int   `json:"aheadCount"`
		Behind int    `json:"behindCount"`
		Common string `json:"commonCommit"`
	}
	q := query("baseVersion", base, "baseVersionType", "commit", "targetVersion", head, "targetVersionType", "commit", "$top", "1")
	if _, err := a.c.Get(ctx, path, q, &c); err != nil {
		return provider.Comparison{}, err
	}
	if c.Ahead == nil {
		return provider.Comparison{}, waybill.E(waybill.KindMalformed, "Azure DevOps does not say how many commits lie between two")
	}
	return provider.Comparison{Ancestor: c.Behind == 0 && c.Common != "", Ahead: *c.Ahead, Behind: c.Behind, MergeBase: c.Common}, nil
}

// TagsURL implements provider.Provider.
func (a *AzureDevOps) TagsURL(r provider.Repository) string {
	org, project, name := r.Azure()
	if org == "" {
		return ""
	}
	return a.page(org+"/"+project, "_git", name, "tags")
}

// SetStatus implements provider.Provider: a status of the commit.
func (a *AzureDevOps) SetStatus(ctx context.Context, r provider.Repository, u provider.StatusUpdate) error {
	if u.Deployment {
		return waybill.E(waybill.KindUnsupported, "Azure DevOps takes no deployments from others").WithHint("deliveries.providers.%s.status can be commit", a.c.Name())
	}
	path, err := repo(r, "/commits/"+url.PathEscape(u.Commit)+"/statuses")
	if err != nil {
		return err
	}
	state := map[waybill.DeploymentStatus]string{
		waybill.DeploymentComplete: "succeeded", waybill.DeploymentFailed: "failed", waybill.DeploymentCanceled: "notApplicable",
	}[u.State]
	genre, name, ok := strings.Cut(u.Name, "/")
	if !ok {
		genre, name = "waybill", u.Name
	}
	return a.c.Send(ctx, http.MethodPost, path+"?"+query().Encode(), map[string]any{
		"state": cmp.Or(state, "pending"), "description": provider.Cut(u.Description, 250), "targetUrl": u.URL,
		"context": map[string]string{"genre": genre, "name": name},
	}, nil)
}
