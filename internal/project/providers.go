package project

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// DeliveryProvider is a provider that is polled for what deliveries lack, under
// deliveries.providers.
type DeliveryProvider struct {
	Name         string
	Kind         string // one of ProviderKinds
	URL          string // of its pages; empty is the public one of its kind
	API          string // empty is found from URL
	Token        string // references to secrets still stand in it
	Project      string // organization/project of Azure DevOps
	Repositories []string
	Partitions   []string
	Stages       []string
	Source       string // repositories of deliveries that name none
	Config       string
	Manifest     string
	TagPrefix    string
	Status       string // "off", "commit" or "deployment"
}

// Polling says how providers are polled.
type Polling struct {
	Interval Duration
	Rows     int // newest deployments of a partition that are looked at
	Calls    int // most calls to one provider in an interval
}

// Kinds of providers, and the addresses of the public ones.
var providerURLs = map[string]string{"azure-devops": "https://dev.azure.com", "github": "https://github.com", "gitlab": "https://gitlab.com"}

// ProviderKinds lists the kinds of providers.
var ProviderKinds = []string{"azure-devops", "github", "gitlab"}

func defaultPolling() Polling {
	return Polling{Interval: Duration(30 * time.Second), Rows: 1000, Calls: 200}
}

// PageURL is the address of a provider's pages.
func (p DeliveryProvider) PageURL() string {
	if p.URL != "" {
		return p.URL
	}
	return providerURLs[p.Kind]
}

// polled are the fields of what is polled.
func (s *Settings) polled() map[string]any {
	return map[string]any{
		"deliveries.interval": &s.Polling.Interval,
		"deliveries.rows":     &s.Polling.Rows,
		"deliveries.calls":    &s.Polling.Calls,
		"deliveries.providers": named(func(name string) map[string]any {
			x := &DeliveryProvider{Name: name, TagPrefix: "flux-", Status: "off"}
			s.Providers = append(s.Providers, x)
			return map[string]any{
				"kind": &x.Kind, "url": &x.URL, "api": &x.API, "token": &x.Token, "project": &x.Project, "repositories": &x.Repositories, "partitions": &x.Partitions,
				"stages": &x.Stages, "source": &x.Source, "config": &x.Config, "manifest": &x.Manifest, "tag_prefix": &x.TagPrefix, "status": &x.Status,
			}
		}),
	}
}

func (s Settings) checkPolled(add func(path, format string, args ...any)) {
	if s.Polling.Interval < Duration(time.Second) || s.Polling.Interval > Duration(24*time.Hour) {
		add("deliveries.interval", "expected 1s to 24h")
	}
	if s.Polling.Rows < 1 || s.Polling.Rows > 20_000 {
		add("deliveries.rows", "expected a number from 1 to 20000")
	}
	if s.Polling.Calls < 1 || s.Polling.Calls > 10_000 {
		add("deliveries.calls", "expected a number from 1 to 10000")
	}
	for _, x := range s.Providers {
		at := "deliveries.providers." + x.Name
		if !slices.Contains(ProviderKinds, x.Kind) {
			add(or(x.Kind != "", at+".kind", at), "expected a kind: %s", strings.Join(ProviderKinds, ", "))
			continue
		}
		for key, text := range map[string]string{"url": x.URL, "api": x.API} {
			u, err := url.Parse(text)
			switch {
			case text == "":
			case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
				add(at+"."+key, "expected a URL such as %s", providerURLs[x.Kind])
			case u.User != nil:
				add(at+"."+key, "it holds credentials; they belong into token, as ${secret:NAME}")
			}
		}
		if x.Project != "" && (x.Kind != "azure-devops" || strings.Count(strings.Trim(x.Project, "/"), "/") == 0) {
			add(at+".project", "expected ORGANIZATION/PROJECT, of azure-devops only")
		}
		for _, stage := range x.Stages {
			if !slices.Contains([]string{string(waybill.StageBuild), string(waybill.StageConfig), string(waybill.StageManifest)}, stage) {
				add(at+".stages", "expected build, config or manifest, found %.40q", stage)
			}
		}
		for _, p := range x.Partitions {
			if p == "" || len(p) > 128 {
				add(at+".partitions", "expected names of 1 to 128 bytes")
			}
		}
		if x.TagPrefix == "" || len(x.TagPrefix) > 100 || strings.ContainsAny(x.TagPrefix, " ~^:?*[\\") {
			add(at+".tag_prefix", "expected the beginning of the names of tags, such as flux-")
		}
		if !slices.Contains([]string{"off", "commit", "deployment"}, x.Status) {
			add(at+".status", "expected off, commit or deployment, found %.40q", x.Status)
		}
		if x.Status == "deployment" && x.Kind == "azure-devops" {
			add(at+".status", "Azure DevOps takes no deployments from others; expected off or commit")
		}
	}
}

func or(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}
