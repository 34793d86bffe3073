// Package azuredevops looks up builds, classic releases, commits, pull requests and tags,
// at Azure DevOps Services or a server of one's own, over the REST API
// (learn.microsoft.com/rest/api/azure/devops, version 7.0).
package azuredevops

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// Web is where Azure DevOps Services are.
const Web = "https://dev.azure.com"

// version of the API that calls ask for.
const version = "7.0"

// AzureDevOps is the provider.
type AzureDevOps struct {
	c        *provider.Client
	web      *url.URL
	releases *url.URL // of the API of classic releases
	project  string   // organization/project of runs of repositories elsewhere

	mu   sync.Mutex
	tags map[string]annotation // by the tag object, which never changes
}

var _ provider.Provider = (*AzureDevOps)(nil)

// New returns a provider for the server whose pages are at web. Project is
// organization/project, of the runs whose repository does not tell. o.API empty is web.
func New(web *url.URL, project string, o provider.Options) *AzureDevOps {
	o.Kind = provider.AzureDevOps
	if o.API == nil {
		o.API = web
	}
	o.Authorize = func(r *http.Request, token string) { r.SetBasicAuth("", token) }
	a := &AzureDevOps{c: provider.NewClient(o), web: web, releases: o.API, project: strings.Trim(project, "/"), tags: map[string]annotation{}}
	if o.API.Host == "dev.azure.com" {
		u := *o.API
		u.Host = "vsrm.dev.azure.com"
		a.releases = &u
	}
	return a
}

// Client implements provider.Provider.
func (a *AzureDevOps) Client() *provider.Client { return a.c }

// at is the path of a project, escaped.
func at(project string, rest string) string {
	parts := strings.Split(project, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/") + "/_apis/" + rest
}

// projectOf is the project that a run is looked for in.
func (a *AzureDevOps) projectOf(r provider.Repository) string {
	if r.Kind == provider.AzureDevOps {
		if org, project, _ := r.Azure(); org != "" {
			return org + "/" + project
		}
	}
	return a.project
}

// repo is the path of a repository in the API.
func repo(r provider.Repository, rest string) (string, error) {
	org, project, name := r.Azure()
	if r.Kind != provider.AzureDevOps || org == "" {
		return "", waybill.E(waybill.KindInvalid, "%q is no repository of Azure DevOps: want organization/project/_git/name", r.String())
	}
	return at(org+"/"+project, "git/repositories/"+url.PathEscape(name)+rest), nil
}

// query adds the version to what is asked.
func query(pairs ...string) url.Values {
	q := url.Values{"api-version": {version}}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return q
}

// listed is a list as Azure DevOps answers it: in an object, or bare.
type listed[T any] struct{ Value []T }

func (l *listed[T]) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, &l.Value)
	}
	var o struct {
		Value []T `json:"value"`
	}
	err := json.Unmarshal(b, &o)
	l.Value = o.Value
	return err
}

// all reads every page of a list.
func all[T any](ctx context.Context, c *provider.Client, base *url.URL, path string, q url.Values, each func(T)) error {
	for range provider.MaxPages {
		var page listed[T]
		h, err := c.GetURL(ctx, strings.TrimSuffix(base.String(), "/")+"/"+path+"?"+q.Encode(), &page)
		if err != nil {
			return err
		}
		for _, x := range page.Value {
			each(x)
		}
		token := h.Get("X-Ms-Continuationtoken")
		if token == "" {
			return nil
		}
		q.Set("continuationToken", token)
	}
	return nil
}

type identity struct {
	Name     string `json:"displayName"`
	Username string `json:"uniqueName"`
	Image    string `json:"imageUrl"`
	URL      string `json:"url"`
}

func (i *identity) person() *waybill.Person {
	if i == nil || i.Name == "" {
		return nil
	}
	return &waybill.Person{Name: i.Name, Username: i.Username, Image: i.Image, URL: i.URL}
}

// branch leaves out what every branch begins with.
func branch(ref string) string { return strings.TrimPrefix(ref, "refs/heads/") }

func (a *AzureDevOps) page(project string, rest ...string) string {
	return a.web.JoinPath(append(strings.Split(project, "/"), rest...)...).String()
}
