package provider

import (
	"net/url"
	"strings"

	"github.com/waybill-run/waybill"
)

// Repository is where code is, as its address says.
type Repository struct {
	// Kind is that of the host's provider, "" when the address does not tell.
	Kind string
	// Host is lower case, with a port that is not the usual one; "" in an address that
	// names none ("owner/name", the number of a GitLab project). All spellings of Azure
	// DevOps Services have the host dev.azure.com.
	Host string
	// Path is owner/name (GitHub), group/…/name or a number (GitLab),
	// organization/project/name (Azure DevOps; the organization is a collection's path on
	// a server of one's own). As it was written, without ".git".
	Path string
}

// Host says that at an address there is a provider.
type Host struct {
	Kind string
	Web  *url.URL // what addresses of repositories begin with
}

const azureHost = "dev.azure.com"

// ParseRepository reads the address of a repository in any of its forms: a URL with or
// without scheme, credentials, port and ".git", the form of SSH (git@host:path), owner/name
// alone, or the number of a GitLab project. What a browser shows below a repository
// (/tree/main, /-/tags) is left out. Hosts are those that are known besides the public ones.
func ParseRepository(text string, hosts ...Host) (Repository, error) {
	wrong := func(why string) (Repository, error) {
		return Repository{}, waybill.E(waybill.KindInvalid, "%.120q is no address of a repository: %s", redact(text), why).
			WithHint("such as https://github.com/owner/name, git@gitlab.com:group/name.git or https://dev.azure.com/org/project/_git/name")
	}
	s := strings.TrimSpace(text)
	if s == "" {
		return wrong("it is empty")
	}
	if strings.ContainsAny(s, " \t\n\x00\\") && !strings.Contains(s, "_git/") {
		return wrong("it holds blanks")
	}
	if number(s) {
		return Repository{Kind: GitLab, Path: s}, nil
	}
	host, path := "", ""
	if !strings.Contains(s, "://") {
		head, rest, slash := strings.Cut(s, "/")
		if user, after, ok := strings.Cut(s, ":"); ok && !strings.Contains(user, "/") && !number(strings.SplitN(after, "/", 2)[0]) {
			// user@host:path; a number behind the colon is a port
			host, path = user, after
			if at := strings.LastIndex(user, "@"); at >= 0 {
				host = user[at+1:]
			}
		} else if slash && (strings.ContainsAny(head, ".:@") || head == "localhost") {
			s = "https://" + s
		} else {
			path = rest
			if path = s; !slash {
				return wrong("it has no owner")
			}
		}
	}
	if host == "" && path == "" {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return wrong("it cannot be read")
		}
		host, path = u.Host, u.Path
		switch p := u.Port(); {
		case u.Scheme == "ssh" || u.Scheme == "git", p == "443" && u.Scheme == "https", p == "80" && u.Scheme == "http":
			host = u.Hostname() // ports of SSH are not those of the pages
		}
	}
	host = strings.TrimPrefix(strings.ToLower(strings.TrimSuffix(host, ".")), "www.")
	r := Repository{Host: host}
	parts := split(path)
	for _, p := range parts { // they become paths of calls
		if p == "." || p == ".." {
			return wrong("its path cannot be that of a repository")
		}
	}
	for _, h := range hosts {
		if h.Web == nil || !sameHost(h.Web, host) {
			continue
		}
		below := split(h.Web.Path)
		if len(below) <= len(parts) && strings.EqualFold(strings.Join(below, "/"), strings.Join(parts[:len(below)], "/")) {
			r.Kind = h.Kind
			if h.Kind != AzureDevOps { // there the organization may stand in it
				parts = parts[len(below):]
			}
			break
		}
	}
	if r.Kind == "" {
		r.Kind = guess(host, parts)
	}
	switch r.Kind {
	case AzureDevOps:
		return azure(r, parts, wrong)
	case GitHub:
		parts = cutAt(parts, 2)
	default:
		for i, p := range parts {
			if p == "-" { // GitLab puts its own pages behind a dash
				parts = parts[:i]
				break
			}
		}
		if len(parts) == 2 && r.Kind == GitLab && parts[0] == "projects" && number(parts[1]) {
			parts = parts[1:]
		}
	}
	if len(parts) > 0 {
		parts[len(parts)-1] = strings.TrimSuffix(parts[len(parts)-1], ".git")
	}
	if len(parts) < 2 && !(r.Kind == GitLab && len(parts) == 1 && number(parts[0])) {
		return wrong("it has no owner and name")
	}
	if parts[len(parts)-1] == "" {
		return wrong("it has no name")
	}
	r.Path = strings.Join(parts, "/")
	return r, nil
}

// azure reads …/org/project/_git/name and v3/org/project/name.
func azure(r Repository, parts []string, wrong func(string) (Repository, error)) (Repository, error) {
	org := ""
	if o, ok := strings.CutSuffix(r.Host, ".visualstudio.com"); ok {
		if o != "vs-ssh" {
			org = o
		}
		r.Host = azureHost
	}
	if r.Host == "ssh."+azureHost {
		r.Host = azureHost
	}
	if len(parts) > 0 && strings.EqualFold(parts[0], "defaultcollection") && org != "" {
		parts = parts[1:]
	}
	if len(parts) == 4 && parts[0] == "v3" {
		r.Path = strings.Join([]string{parts[1], parts[2], strings.TrimSuffix(parts[3], ".git")}, "/")
		return r, nil
	}
	at := -1
	for i, p := range parts {
		if p == "_git" {
			at = i
		}
	}
	if at < 0 || at+1 >= len(parts) {
		return wrong("one of Azure DevOps has /_git/ in it")
	}
	name, above := strings.TrimSuffix(parts[at+1], ".git"), parts[:at]
	if org != "" {
		above = append([]string{org}, above...)
	}
	switch {
	case len(above) == 0:
		return wrong("it names no organization")
	case len(above) == 1: // a project whose repository has its name
		above = append(above, name)
	}
	r.Path = strings.Join(append(above[:len(above):len(above)], name), "/")
	return r, nil
}

// Azure takes the path of a repository of Azure DevOps apart.
func (r Repository) Azure() (org, project, name string) {
	parts := strings.Split(r.Path, "/")
	if n := len(parts); n >= 3 {
		return strings.Join(parts[:n-2], "/"), parts[n-2], parts[n-1]
	}
	return "", "", ""
}

// Same reports whether two addresses can be of one repository. One without a host is of
// any host.
func (r Repository) Same(o Repository) bool {
	return strings.EqualFold(r.Path, o.Path) && (r.Host == "" || o.Host == "" || r.Host == o.Host)
}

// Zero reports whether it is no repository.
func (r Repository) Zero() bool { return r.Path == "" }

// String is the address as people know it, without scheme.
func (r Repository) String() string {
	p := r.Path
	if org, project, name := r.Azure(); r.Kind == AzureDevOps && org != "" {
		p = org + "/" + project + "/_git/" + name
	}
	return strings.TrimPrefix(r.Host+"/"+p, "/")
}

func guess(host string, parts []string) string {
	switch {
	case host == azureHost, host == "ssh."+azureHost, strings.HasSuffix(host, ".visualstudio.com"):
		return AzureDevOps
	case host == "github.com" || host == "ssh.github.com" || strings.HasPrefix(host, "github."):
		return GitHub
	case host == "gitlab.com" || strings.HasPrefix(host, "gitlab."):
		return GitLab
	}
	for _, p := range parts {
		if p == "_git" {
			return AzureDevOps
		}
	}
	switch {
	case strings.Contains(host, "github"):
		return GitHub
	case strings.Contains(host, "gitlab"):
		return GitLab
	}
	return ""
}

// sameHost reports whether an address is on a provider's host: with its port, or with
// none where the address is one of SSH.
func sameHost(web *url.URL, host string) bool {
	own := strings.ToLower(web.Host)
	if p := web.Port(); p == "443" && web.Scheme == "https" || p == "80" && web.Scheme == "http" {
		own = strings.ToLower(web.Hostname())
	}
	return host == own || host == strings.ToLower(web.Hostname()) ||
		own == azureHost && (host == "ssh."+azureHost || strings.HasSuffix(host, ".visualstudio.com"))
}

func split(path string) []string {
	var out []string
	for p := range strings.SplitSeq(path, "/") {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

func cutAt(list []string, n int) []string { return list[:min(n, len(list))] }

func number(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) < 20
}

// redact leaves credentials out of an address.
func redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	}
	host, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndex(host, "@"); at >= 0 {
		host = host[at+1:]
	}
	out := host
	if slash {
		out += "/" + path
	}
	if ok {
		out = scheme + "://" + out
	}
	return out
}
