package project

import (
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// Manifests is a repository of manifests whose history is looked at in a clone, under
// deliveries.manifests.
type Manifests struct {
	Name  string
	Repo  string // address, https or a path of this machine
	User  string
	Token string // references to secrets still stand in it
}

// DeliveryAlerts says when something about deliveries is wrong, under deliveries.alerts.
type DeliveryAlerts struct {
	Stuck  Duration
	Silent Duration
}

// manifests are the fields of the repositories of manifests.
func (s *Settings) manifests() map[string]any {
	return map[string]any{
		"deliveries.alerts.stuck":  &s.Alerts.Stuck,
		"deliveries.alerts.silent": &s.Alerts.Silent,
		"deliveries.manifests": named(func(name string) map[string]any {
			x := &Manifests{Name: name}
			s.Manifests = append(s.Manifests, x)
			return map[string]any{"repo": &x.Repo, "user": &x.User, "token": &x.Token}
		}),
	}
}

func (s Settings) checkManifests(add func(path, format string, args ...any)) {
	for name, d := range map[string]Duration{"stuck": s.Alerts.Stuck, "silent": s.Alerts.Silent} {
		if d < 0 || d > 0 && time.Duration(d) < time.Minute {
			add("deliveries.alerts."+name, "expected a minute or more")
		}
	}
	for _, x := range s.Manifests {
		at := "deliveries.manifests." + x.Name
		u, err := url.Parse(x.Repo)
		switch {
		case filepath.IsAbs(x.Repo):
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			add(at+".repo", "expected the address of a repository such as https://github.com/owner/manifests, or a folder of this machine")
		case u.User != nil:
			add(at+".repo", "expected an address without credentials; they go into token")
		}
		if x.Token != "" && !strings.Contains(x.Token, "${secret:") && len(x.Token) < 8 {
			add(at+".token", "expected ${secret:NAME}, or at least 8 bytes")
		}
	}
}
