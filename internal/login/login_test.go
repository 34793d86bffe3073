package login

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
)

func jwt(end time.Time) string {
	return "ey." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + ".x"
}

func open(t *testing.T, server string) *File {
	t.Helper()
	f, err := Open(t.TempDir(), server, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFileOfAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seen := map[string]string{}
	for _, server := range []string{"http://a", "https://a", "http://a:80", "http://a/x", "http://b", "http://a_b", "http://[::1]:4040"} {
		f, err := Open(dir, server, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[f.Path()]; ok {
			t.Errorf("%s and %s share a login", server, other)
		}
		seen[f.Path()] = server
	}
	a, _ := Open(dir, "http://A/", "", nil)
	if seen[a.Path()] != "http://a" {
		t.Error("case and a slash make another login")
	}
	if _, err := Open(dir, "nonsense", "", nil); waybill.KindOf(err) != waybill.KindInvalid {
		t.Error(err)
	}
}

func TestNobodyIsLoggedIn(t *testing.T) {
	t.Parallel()
	f := open(t, "http://a")
	if token, err := f.Token(t.Context()); token != "" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if was, _, err := f.Remove(t.Context()); was || err != nil {
		t.Errorf("%t, %v", was, err)
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	down := Provider{Issuer: "http://127.0.0.1:1", ClientID: "c"}
	for name, x := range map[string]struct {
		login Login
		kind  waybill.Kind // empty: the token is used
	}{
		"long":                          {Login{ID: jwt(time.Now().Add(time.Hour))}, ""},
		"ended, nothing to renew with":  {Login{ID: jwt(time.Now().Add(-time.Hour))}, waybill.KindUnauthorized},
		"ended, the issuer is away":     {Login{Provider: down, ID: jwt(time.Now().Add(-time.Hour)), Refresh: "r"}, waybill.KindUnavailable},
		"nearly, the issuer is away":    {Login{Provider: down, ID: jwt(time.Now().Add(30 * time.Second)), Refresh: "r"}, ""},
		"opaque":                        {Login{Access: "opaque", UseAccess: true}, ""},
		"nearly, nothing to renew with": {Login{ID: jwt(time.Now().Add(30 * time.Second))}, ""},
	} {
		f := open(t, "http://a")
		if err := f.Write(x.login); err != nil {
			t.Fatal(err)
		}
		again, _ := Open(filepath.Dir(filepath.Dir(f.Path())), "http://a", "", nil) // another process
		token, err := again.Token(t.Context())
		if waybill.KindOf(err) != x.kind || (x.kind == "") != (token == x.login.Token() && token != "") {
			t.Errorf("%s: %q, %v", name, token, err)
		}
		if _, err := os.Stat(f.Path() + ".lock"); err == nil {
			t.Errorf("%s: the lock stays", name)
		}
	}
}

func TestDamagedLogin(t *testing.T) {
	t.Parallel()
	f := open(t, "http://a")
	if err := f.Write(Login{ID: "x"}); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "{", `{"server":"http://b","id_token":"x"}`} {
		if err := os.WriteFile(f.Path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		fresh, _ := Open(filepath.Dir(filepath.Dir(f.Path())), "http://a", "", nil)
		if token, err := fresh.Token(t.Context()); token != "" || waybill.KindOf(err) != waybill.KindInvalid {
			t.Errorf("%q: %q, %v", content, token, err)
		}
	}
	if was, _, err := f.Remove(t.Context()); !was || err != nil {
		t.Errorf("a damaged login cannot be removed: %t, %v", was, err)
	}
}

// A process that was killed leaves its lock; the next takes it over.
func TestLockOfADeadProcess(t *testing.T) {
	t.Parallel()
	f := open(t, "http://a")
	if err := f.Write(Login{ID: "x"}); err != nil {
		t.Fatal(err)
	}
	lock := f.Path() + ".lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * lockLife)
	if err := os.Chtimes(lock, old, old); err != nil {
		t.Fatal(err)
	}
	unlock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Codes and tokens are sent over TLS only, wherever an issuer points to.
func TestNothingInTheClear(t *testing.T) {
	t.Parallel()
	c, err := Provider{}.client()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://login.example.com/token", strings.NewReader("refresh_token=x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(r); err == nil || !strings.Contains(err.Error(), "is not https") {
		t.Error(err)
	}
}
