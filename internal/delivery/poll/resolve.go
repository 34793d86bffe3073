package poll

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

// place is where something is asked for: a source, and a repository in it.
type place struct {
	src  *Source
	repo provider.Repository
	text string // address of the repository as it is to be reported
}

// resolver finds out which source is to be asked.
type resolver struct {
	sources []*Source
	hosts   []provider.Host
}

func newResolver(conf Config) *resolver {
	r := &resolver{}
	for i := range conf.Sources {
		s := &conf.Sources[i]
		r.sources = append(r.sources, s)
		if s.URL != nil {
			r.hosts = append(r.hosts, provider.Host{Kind: s.Kind, Web: s.URL})
		}
	}
	return r
}

// serves reports whether a source looks at a partition.
func (s *Source) serves(partition string) bool {
	return len(s.Partitions) == 0 || slices.Contains(s.Partitions, partition)
}

// covers reports whether a source is asked for a repository. exact: because it is named.
func (r *resolver) covers(s *Source, repo provider.Repository) (exact, ok bool) {
	if repo.Zero() || repo.Kind != "" && repo.Kind != s.Kind {
		return false, false
	}
	for _, pattern := range append(slices.Clone(s.Repositories), s.SourceRepo, s.ConfigRepo, s.ManifestRepo) {
		if pattern != "" && r.matches(pattern, repo) {
			return true, true
		}
	}
	if len(s.Repositories) > 0 {
		return false, false
	}
	switch {
	case repo.Host != "":
		return false, s.URL != nil && sameHost(s.URL, repo.Host)
	case repo.Kind == provider.GitLab: // the number of a project
		return false, true
	}
	return false, s.Kind != provider.AzureDevOps // owner/name
}

func sameHost(u *url.URL, host string) bool {
	own := strings.ToLower(u.Host)
	return host == own || host == strings.ToLower(u.Hostname())
}

// matches compares a repository with an entry of the settings: an address, or one that
// ends with /*.
func (r *resolver) matches(pattern string, repo provider.Repository) bool {
	if p, ok := strings.CutSuffix(pattern, "/*"); ok {
		want := strings.ToLower(strings.Trim(p, "/"))
		if i := strings.Index(want, "://"); i >= 0 {
			want = want[i+3:]
		}
		want = strings.TrimSuffix(want, "/_git")
		full := strings.ToLower(strings.Trim(repo.Host+"/"+repo.Path, "/"))
		return strings.HasPrefix(full, want+"/") || strings.HasPrefix(strings.ToLower(repo.Path), want+"/")
	}
	x, err := provider.ParseRepository(pattern, r.hosts...)
	return err == nil && x.Same(repo)
}

// repo finds the source of a repository's address, nil when none covers it. One that
// names the repository counts over one that has its host.
func (r *resolver) repo(partition, text string) *place {
	if text == "" {
		return nil
	}
	x, err := provider.ParseRepository(text, r.hosts...)
	if err != nil {
		return nil
	}
	var found *place
	for _, s := range r.sources {
		if !s.serves(partition) {
			continue
		}
		exact, ok := r.covers(s, x)
		if !ok || found != nil && !exact {
			continue
		}
		y := x
		if y.Kind = s.Kind; s.Kind == provider.AzureDevOps && x.Kind != s.Kind {
			continue
		}
		found = &place{src: s, repo: y, text: text}
		if exact {
			break
		}
	}
	return found
}

// role is one of the three repositories of a deployment.
type role int

const (
	sourceRole role = iota
	configRole
	manifestRole
)

// of finds where a repository of a deployment is. One that it does not name is that of
// the settings.
func (r *resolver) of(d *waybill.Deployment, which role) *place {
	text := []string{d.SourceRepo, d.ConfigRepo, d.ManifestRepo}[which]
	if text != "" {
		return r.repo(d.Partition, text)
	}
	for _, s := range r.sources {
		if x := []string{s.SourceRepo, s.ConfigRepo, s.ManifestRepo}[which]; x != "" && s.serves(d.Partition) {
			if p := r.repo(d.Partition, x); p != nil {
				return p
			}
		}
	}
	return nil
}

// runs are the places at which a run of a stage may be, the likeliest first.
func (r *resolver) runs(d *waybill.Deployment, stage waybill.Stage, run *waybill.StageRun) []place {
	var out []place
	add := func(p *place) {
		if p != nil && !slices.ContainsFunc(out, func(x place) bool { return x.src == p.src && x.repo.Same(p.repo) }) {
			out = append(out, *p)
		}
	}
	roles := map[waybill.Stage][]role{
		waybill.StageBuild: {sourceRole, configRole}, waybill.StageConfig: {sourceRole, configRole}, waybill.StageManifest: {configRole, manifestRole, sourceRole},
	}[stage]
	add(r.url(d.Partition, run.URL))
	if len(out) > 0 {
		return out // its own page says where it is
	}
	for _, s := range r.sources {
		if !s.serves(d.Partition) || !slices.Contains(s.Stages, stage) {
			continue
		}
		found := false
		for _, which := range roles {
			if p := r.of(d, which); p != nil && p.src == s {
				add(p)
				found = true
			}
		}
		if !found {
			add(&place{src: s})
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, which := range roles {
		add(r.of(d, which))
	}
	if len(out) == 0 {
		// A project of Azure DevOps runs pipelines of code that is anywhere.
		var only *Source
		for _, s := range r.sources {
			if s.Kind == provider.AzureDevOps && s.Project != "" && s.serves(d.Partition) {
				if only != nil {
					return nil
				}
				only = s
			}
		}
		if only != nil {
			add(&place{src: only})
		}
	}
	return out
}

// url finds where a run is by the address of its page.
func (r *resolver) url(partition, text string) *place {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil
	}
	for _, s := range r.sources {
		if s.URL == nil || !s.serves(partition) || !sameHost(s.URL, strings.ToLower(u.Host)) {
			continue
		}
		if s.Kind != provider.AzureDevOps {
			if p := r.repo(partition, text); p != nil {
				return &place{src: p.src, repo: p.repo}
			}
			continue
		}
		// …/organization/project/_build/results?buildId=1
		at := strings.Index(u.Path, "/_build")
		if at < 0 {
			at = strings.Index(u.Path, "/_release")
		}
		if at > 0 {
			project := strings.Trim(u.Path[:at], "/")
			if strings.Contains(project, "/") {
				return &place{src: s, repo: provider.Repository{Kind: s.Kind, Host: strings.ToLower(s.URL.Host), Path: path.Join(project, "-")}}
			}
		}
	}
	return nil
}
