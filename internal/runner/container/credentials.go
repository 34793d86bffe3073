package container

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/waybill-run/waybill"
)

// Credentials reads what a step says in pull_secret, for a registry's host as an image
// names it ("ghcr.io", "localhost:5000"; that of Docker Hub has several names). The text
// is user:password, {"username":…,"password":…}, or a Docker config.json. Credentials of
// a config.json that are for other hosts are not used: the result is empty then, and the
// image is asked for without any. An error holds nothing of the text.
func Credentials(secret, host string) (authn.AuthConfig, error) {
	secret = strings.TrimRight(secret, "\r\n")
	if strings.TrimSpace(secret) == "" {
		return authn.AuthConfig{}, waybill.E(waybill.KindInvalid, "pull_secret: it is empty")
	}
	if !strings.HasPrefix(strings.TrimSpace(secret), "{") {
		user, password, ok := strings.Cut(secret, ":")
		if !ok || user == "" || password == "" {
			return authn.AuthConfig{}, badCredentials("it is not user:password")
		}
		return authn.AuthConfig{Username: user, Password: password}, nil
	}
	var doc struct {
		entry
		Auths map[string]entry `json:"auths"`
	}
	if err := json.Unmarshal([]byte(secret), &doc); err != nil {
		return authn.AuthConfig{}, badCredentials("it begins like JSON and is none")
	}
	if doc.Auths == nil {
		a, err := doc.auth()
		if err == nil && a == (authn.AuthConfig{}) {
			err = badCredentials("it has neither a username and a password nor auths")
		}
		return a, err
	}
	// An entry of the very host goes before one that only leads there.
	found, best := authn.AuthConfig{}, -1
	for key, e := range doc.Auths {
		rank := matchHost(key, host)
		if rank <= best {
			continue
		}
		a, err := e.auth()
		if err != nil {
			return authn.AuthConfig{}, err
		}
		found, best = a, rank
	}
	return found, nil
}

func badCredentials(why string) error {
	return waybill.E(waybill.KindInvalid, "pull_secret: %s", why).
		WithHint(`write user:password, {"username":…,"password":…}, or the text of a Docker config.json`)
}

// entry is the credentials for one host.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of user:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func (e entry) auth() (authn.AuthConfig, error) {
	a := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth == "" {
		if (e.Username == "") != (e.Password == "") && e.IdentityToken == "" && e.RegistryToken == "" {
			return authn.AuthConfig{}, badCredentials("of username and password one is missing")
		}
		return a, nil
	}
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	user, password, ok := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
	if err != nil || !ok {
		return authn.AuthConfig{}, badCredentials("an auth in it is not user:password in base64")
	}
	a.Username, a.Password = user, password
	if e.IdentityToken != "" {
		a.Password = "" // the user stands there for form's sake
	}
	return a, nil
}

// hub are the names of Docker Hub.
var hub = map[string]bool{name.DefaultRegistry: true, "docker.io": true, "registry-1.docker.io": true, "registry.hub.docker.com": true}

// matchHost says how well a key of auths names a host; below 0 it does not.
func matchHost(key, host string) int {
	exact := key == host
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	key, _, _ = strings.Cut(key, "/")
	switch {
	case exact:
		return 2
	case strings.EqualFold(key, host):
		return 1
	case hub[strings.ToLower(key)] && hub[strings.ToLower(host)]:
		return 0
	}
	return -1
}
