//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/auth/oidc/oidctest"
)

const oidcSettings = `auth:
  oidc:
    - issuer: %s
      audience: waybill
      name: email
      roles:
        - {claim: groups, value: platform-admins, role: admin}
        - {claim: repository, value: "example-org/*", role: operator}
`

// The program, an identity provider and a person at a terminal.
func TestLoginWithAnIdentityProvider(t *testing.T) {
	t.Parallel()
	key := oidctest.RSA(t, "k1")
	issuer := oidctest.New(t, key)
	issuer.Claims = map[string]any{"aud": "waybill", "sub": "u-1", "email": "alice@example.org", "email_verified": true, "groups": []string{"platform-admins"}}
	issuer.Fail(http.StatusBadGateway) // a server does not wait for it
	s := harness.New(t, harness.Options{Project: map[string]string{"waybill.yaml": fmt.Sprintf(oidcSettings, issuer.URL)}})
	config := filepath.Join(s.Dir(), "config")
	command := func(args ...string) *exec.Cmd {
		cmd := s.Command(args...)
		cmd.Env = append(cmd.Env, "WAYBILL_CONFIG_DIR="+config)
		return cmd
	}
	run := func(args ...string) (string, error) {
		out, err := command(args...).CombinedOutput()
		return string(out), err
	}
	token := func(pairs ...any) string {
		now := time.Now()
		c := map[string]any{"iss": issuer.URL, "aud": "waybill", "sub": "u-2", "email": "ci@example.org", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		for i := 0; i < len(pairs); i += 2 {
			c[pairs[i].(string)] = pairs[i+1]
		}
		return oidctest.Sign(t, key, c)
	}

	// The issuer was never reached: that says nothing about the token.
	early := s.NewClient(client.Options{Token: token("groups", "platform-admins"), RetryFor: -1})
	if _, err := early.Whoami(t.Context()); client.KindOf(err) != waybill.KindUnavailable {
		t.Errorf("while the issuer is down: %v, want unavailable", err)
	}
	h, err := s.Client().Health(t.Context())
	if err != nil || h.Status != client.HealthStatusOk || !strings.Contains(h.Checks["oidc "+issuer.URL], "could not be read yet") {
		t.Errorf("health: %+v, %v", h, err)
	}
	issuer.Fail(0)
	patient := s.NewClient(client.Options{Token: token("groups", "platform-admins"), RetryFor: time.Minute})
	if who, err := patient.Whoami(t.Context()); err != nil || who.Name != "oidc:ci@example.org" || who.Role != client.WhoamiRoleAdmin {
		t.Fatalf("whoami: %+v, %v", who, err)
	}

	// A job of a CI system may start runs and no more; a stranger may nothing.
	job := s.NewClient(client.Options{Token: token("repository", "example-org/app"), RetryFor: -1})
	if _, err := job.Tokens(t.Context()); client.KindOf(err) != waybill.KindForbidden {
		t.Errorf("an operator lists tokens: %v", err)
	}
	stranger := s.NewClient(client.Options{Token: token("repository", "elsewhere/app", "email", "eve@example.org"), RetryFor: -1})
	if _, err := stranger.Whoami(t.Context()); client.KindOf(err) != waybill.KindForbidden {
		t.Errorf("a stranger: %v", err)
	}

	// Nobody is logged in: on this address that is the local admin.
	if out, err := run("whoami"); err != nil || !strings.HasPrefix(out, "local\tadmin") {
		t.Fatalf("whoami: %v\n%s", err, out)
	}
	// A token that ends within a minute is renewed by the next command.
	issuer.SetLife(50 * time.Second)
	issuer.Pending(1)
	out, err := run("login", "--issuer", issuer.URL, "--client-id", "waybill-cli")
	if err != nil || !strings.Contains(out, "enter the code WDJB-MJHT") || !strings.Contains(out, issuer.URL+"/enter") || !strings.Contains(out, "oidc:alice@example.org\tadmin") {
		t.Fatalf("login: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(config, "login", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of the login: %v, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the login is readable for others: %v, %v", info.Mode(), err)
	}
	if out, err := run("whoami", "-o", "json"); err != nil || !strings.Contains(out, `"name": "oidc:alice@example.org"`) {
		t.Errorf("whoami: %v\n%s", err, out)
	}
	if n := issuer.Asked("/token"); n != 3 { // too early, login, renewed
		t.Errorf("the issuer was asked for tokens %d times, want 3", n)
	}
	// Many at once: each refresh token counts once, and nobody is logged out by it.
	issuer.SetLife(time.Hour)
	ended := make(chan error)
	const crowd = 6
	for range crowd {
		go func() {
			out, err := command("whoami").CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out)
			}
			ended <- err
		}()
	}
	for range crowd {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if n := issuer.Asked("/token"); n != 4 {
		t.Errorf("six commands at once made %d renewals, want 1", n-3)
	}
	// It is not for another server, nor for other eyes.
	if out, err := run("whoami", "--server", strings.Replace(s.URL(), "127.0.0.1", "localhost", 1)); err != nil || !strings.HasPrefix(out, "local\t") {
		t.Errorf("the login of another server: %v\n%s", err, out)
	}
	if err := os.Chmod(files[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run("whoami"); err == nil || !strings.Contains(out, "others may read it") {
		t.Errorf("a login that others may read: %v\n%s", err, out)
	}
	if err := os.Chmod(files[0], 0o600); err != nil {
		t.Fatal(err)
	}
	// With the rules changed, the role changes.
	s.WriteProject(map[string]string{"waybill.yaml": strings.Replace(fmt.Sprintf(oidcSettings, issuer.URL), "role: admin", "role: viewer", 1)})
	if out, err := s.Command("pipeline", "reload").CombinedOutput(); err != nil {
		t.Fatalf("reload: %v\n%s", err, out)
	}
	if out, err := run("token", "list"); err == nil || !strings.Contains(out, "the role admin") {
		t.Errorf("a viewer lists tokens: %v\n%s", err, out)
	}
	if out, err := run("logout"); err != nil || !strings.Contains(out, "logged out") {
		t.Errorf("logout: %v\n%s", err, out)
	}
	if n := issuer.Live(); n != 0 {
		t.Errorf("%d logins still count at the issuer", n)
	}
	if out, err := run("whoami"); err != nil || !strings.HasPrefix(out, "local\t") {
		t.Errorf("after logging out: %v\n%s", err, out)
	}

	// Who did what is known.
	page, err := s.Client().Audit(t.Context(), client.ListAuditRecordsParams{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	all, err := json.Marshal(page.Items)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"who":"oidc:eve@example.org"`, `"who":"oidc:alice@example.org"`, `"who":"oidc:ci@example.org"`} {
		if !strings.Contains(string(all), want) {
			t.Errorf("the audit log has no %s: %s", want, all)
		}
	}
}

// An address that others can reach needs a way to log in, and an issuer is one.
func TestOIDCIsAuthentication(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t, oidctest.EC(t, "k"))
	s := harness.New(t, harness.Options{Stopped: true, Project: map[string]string{"waybill.yaml": fmt.Sprintf(oidcSettings, issuer.URL)}})
	cmd := s.Command("up", "--listen", "0.0.0.0:0", "--data", s.DataDir(), "--project", s.ProjectDir())
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	}()
	var url, told string
	for buf := make([]byte, 4096); ; {
		n, err := log.Read(buf)
		told += string(buf[:n])
		if _, rest, ok := strings.Cut(told, "serving on "); ok && strings.Contains(rest, "\n") {
			url, _, _ = strings.Cut(rest, "\n")
		}
		if strings.Contains(told, "server ready") || err != nil {
			break
		}
	}
	if url == "" {
		t.Fatalf("it does not start:\n%s", told)
	}
	for token, want := range map[string]int{"": 401, "eyx.y.z": 401} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/v1/whoami", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("token %q is answered %s", token, res.Status)
		}
	}
}
