package container_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

func TestClassify(t *testing.T) {
	_, badName := name.ParseReference("UPPER/x")
	code := func(status int, c transport.ErrorCode) error {
		e := &transport.Error{StatusCode: status}
		if c != "" {
			e.Errors = []transport.Diagnostic{{Code: c}}
		}
		return fmt.Errorf("get manifest: %w", e)
	}
	for text, c := range map[string]struct {
		err  error
		want string
	}{
		"no space":             {&os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, runner.ReasonPullQuota},
		"disk quota":           {fmt.Errorf("unpack: %w", syscall.EDQUOT), runner.ReasonPullQuota},
		"401":                  {code(401, ""), runner.ReasonPullAuth},
		"403":                  {code(403, transport.DeniedErrorCode), runner.ReasonPullAuth},
		"404":                  {code(404, transport.ManifestUnknownErrorCode), runner.ReasonPullNotFound},
		"404 no body":          {code(404, ""), runner.ReasonPullNotFound},
		"404 name":             {code(404, transport.NameUnknownErrorCode), runner.ReasonPullNotFound},
		"429":                  {code(429, ""), runner.ReasonPullQuota},
		"429 as 403":           {code(403, transport.TooManyRequestsErrorCode), runner.ReasonPullQuota},
		"500":                  {code(500, ""), runner.ReasonPullNetwork},
		"503":                  {code(503, transport.UnavailableErrorCode), runner.ReasonPullNetwork},
		"manifest nonsense":    {code(400, transport.ManifestInvalidErrorCode), runner.ReasonImage},
		"canceled":             {fmt.Errorf("pull: %w", context.Canceled), runner.ReasonPullNetwork},
		"deadline":             {context.DeadlineExceeded, runner.ReasonPullNetwork},
		"refused":              {&url.Error{Op: "Get", URL: "http://r/v2/", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, runner.ReasonPullNetwork},
		"no such host":         {&net.DNSError{Err: "no such host", Name: "not.found", IsNotFound: true}, runner.ReasonPullNetwork},
		"not tls":              {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, runner.ReasonPullNetwork},
		"cut":                  {fmt.Errorf("read layer: %w", io.ErrUnexpectedEOF), runner.ReasonPullNetwork},
		"bad name":             {badName, runner.ReasonPullNotFound},
		"known already":        {fmt.Errorf("start: %w", &runner.PullError{Reason: runner.ReasonImage, Err: errors.New("x")}), runner.ReasonImage},
		"docker: denied":       {errors.New("pull access denied for acme/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"), runner.ReasonPullAuth},
		"docker: unauthorized": {errors.New("unauthorized: authentication required"), runner.ReasonPullAuth},
		"docker: unknown":      {errors.New("manifest for acme/x:9 not found: manifest unknown: manifest unknown"), runner.ReasonPullNotFound},
		"docker: limit":        {errors.New("toomanyrequests: You have reached your pull rate limit"), runner.ReasonPullQuota},
		"docker: platform":     {errors.New("no matching manifest for linux/s390x in the manifest list entries"), runner.ReasonPullNotFound},
		"docker: space":        {errors.New("failed to register layer: write /usr/bin/x: no space left on device"), runner.ReasonPullQuota},
		"docker: layer":        {errors.New("failed to register layer: archive/tar: invalid tar header"), runner.ReasonImage},
		"docker: refused":      {errors.New(`Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused`), runner.ReasonPullNetwork},
		"kubelet: never":       {errors.New("Container image is not present with pull policy of Never: ErrImageNeverPull"), runner.ReasonPullNotFound},
		"unknown":              {errors.New("something else"), runner.ReasonPullNetwork},
	} {
		if got, after := container.Classify(c.err); got != c.want || after != 0 {
			t.Errorf("%s: %s, %v; want %s", text, got, after, c.want)
		}
	}
}

// A registry that asks for patience is heard through all layers of the client.
func TestClassifyRetryAfter(t *testing.T) {
	for _, c := range []struct {
		status int
		header string
		reason string
		after  time.Duration
	}{
		{429, "17", runner.ReasonPullQuota, 17 * time.Second},
		{429, "", runner.ReasonPullQuota, 0},
		{429, "999999999", runner.ReasonPullQuota, time.Hour},
		{429, "soon", runner.ReasonPullQuota, 0},
		{503, "5", runner.ReasonPullNetwork, 5 * time.Second},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/v2/" {
				return
			}
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			w.WriteHeader(c.status)
			io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`)
		}))
		ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/x:1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = remote.Get(ref, remote.WithTransport(container.Transport(http.DefaultTransport)), remote.WithContext(t.Context()))
		srv.Close()
		fault := container.PullFault("x:1", err)
		if fault.Reason != c.reason || fault.RetryAfter != c.after || !fault.Again() || !waybill.IsKind(fault, waybill.KindUnavailable) {
			t.Errorf("%d %q: %s after %v, again %t: %v", c.status, c.header, fault.Reason, fault.RetryAfter, fault.Again(), err)
		}
	}
}

func TestRetryAfterTime(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	h := http.Header{"Retry-After": {now.Add(90 * time.Second).Format(http.TimeFormat)}}
	if got := container.RetryAfter(h, now); got != 90*time.Second {
		t.Errorf("in 90 s: %v", got)
	}
	if got := container.RetryAfter(h, now.Add(time.Hour)); got != 0 {
		t.Errorf("in the past: %v", got)
	}
}

func TestPullFaultHoldsNoCredentials(t *testing.T) {
	const password = "s3cr3t-p4ss"
	err := fmt.Errorf("Get \"https://bob:%s@r.example/token?account=bob&token=abcdef\": Bearer abcdefghijklmnop\nrefused %s; %s; unauthorized",
		password, password, base64.StdEncoding.EncodeToString([]byte("bob:"+password)))
	fault := container.PullFault("r.example/x", err, password)
	for _, leak := range []string{password, "abcdef", base64.StdEncoding.EncodeToString([]byte("bob:" + password)), "\n"} {
		if strings.Contains(fault.Error(), leak) {
			t.Errorf("it holds %q: %s", leak, fault)
		}
	}
	if fault.Reason != runner.ReasonPullAuth || !waybill.IsKind(fault, waybill.KindInvalid) || fault.Again() {
		t.Errorf("fault = %+v", fault)
	}
	if again := container.PullFault("other", fmt.Errorf("start: %w", fault)); again != fault {
		t.Errorf("a fault in a fault: %v", again)
	}
	if long := container.PullFault("x", errors.New(strings.Repeat("x", 10000))).Error(); len(long) > 1000 {
		t.Errorf("the text has %d bytes", len(long))
	}
}

func TestCredentials(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	raw := func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) }
	config := func(pairs ...string) string {
		auths := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			auths[pairs[i]] = json.RawMessage(pairs[i+1])
		}
		b, err := json.Marshal(map[string]any{"auths": auths, "credsStore": "desktop"})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	bob := authn.AuthConfig{Username: "bob", Password: "p:w"}
	for text, c := range map[string]struct {
		secret, host string
		want         authn.AuthConfig
	}{
		"pair":              {"bob:p:w", "ghcr.io", bob},
		"pair and newline":  {"bob:p:w\r\n", "ghcr.io", bob},
		"object":            {`{"username":"bob","password":"p:w"}`, "ghcr.io", bob},
		"object with space": {" \n{\"username\":\"bob\",\"password\":\"p:w\"}\n", "ghcr.io", bob},
		"config":            {config("ghcr.io", `{"auth":"`+b64("bob:p:w")+`"}`), "ghcr.io", bob},
		"config unpadded":   {config("ghcr.io", `{"auth":"`+raw("bob:p:w")+`"}`), "ghcr.io", bob},
		"config address":    {config("https://ghcr.io/v2/", `{"username":"bob","password":"p:w"}`), "ghcr.io", bob},
		"config port":       {config("localhost:5000", `{"username":"bob","password":"p:w"}`), "localhost:5000", bob},
		"config other port": {config("localhost:5000", `{"username":"bob","password":"p:w"}`), "localhost:5001", authn.AuthConfig{}},
		"config other":      {config("quay.io", `{"username":"bob","password":"p:w"}`), "ghcr.io", authn.AuthConfig{}},
		"config suffix":     {config("evilghcr.io", `{"username":"bob","password":"p:w"}`), "ghcr.io", authn.AuthConfig{}},
		"hub":               {config("https://index.docker.io/v1/", `{"auth":"`+b64("bob:p:w")+`"}`), "index.docker.io", bob},
		"hub by short name": {config("docker.io", `{"auth":"`+b64("bob:p:w")+`"}`), "index.docker.io", bob},
		"exact goes first":  {config("https://ghcr.io/", `{"username":"eve","password":"x"}`, "ghcr.io", `{"username":"bob","password":"p:w"}`), "ghcr.io", bob},
		"identity token":    {config("ghcr.io", `{"auth":"`+b64("00000000-0000:")+`","identitytoken":"tok"}`), "ghcr.io", authn.AuthConfig{Username: "00000000-0000", IdentityToken: "tok"}},
		"registry token":    {config("ghcr.io", `{"registrytoken":"tok"}`), "ghcr.io", authn.AuthConfig{RegistryToken: "tok"}},
		"no auths":          {config(), "ghcr.io", authn.AuthConfig{}},
	} {
		got, err := container.Credentials(c.secret, c.host)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
	for text, secret := range map[string]string{
		"empty": "", "newline": "\n", "no colon": "hunter2secret", "no password": "hunter2secret:", "no user": ":hunter2secret",
		"cut": `{"username":"hunter2secret"`, "one of two": `{"username":"hunter2secret"}`, "neither": `{"other":"hunter2secret"}`,
		"auth is no base64": `{"auths":{"ghcr.io":{"auth":"hunter2secret!"}}}`, "auth has no colon": `{"auths":{"ghcr.io":{"auth":"` + b64("hunter2secret") + `"}}}`,
		"auths is a list": `{"auths":["hunter2secret"]}`,
	} {
		_, err := container.Credentials(secret, "ghcr.io")
		if !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("%s: error = %v, want kind invalid", text, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret: %v", text, err)
		}
	}
}

func FuzzCredentials(f *testing.F) {
	for _, s := range []string{"a:b", `{"auths":{"x":{"auth":"YTpi"}}}`, `{"username":"a","password":"b"}`, "{", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := container.Credentials(string(b), "ghcr.io")
		if err != nil && !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("error = %v, want kind invalid", err)
		}
	})
}
