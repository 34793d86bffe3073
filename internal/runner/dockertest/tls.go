package dockertest

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// NewTLS puts an address with TLS in front of an engine's socket, and returns it and a
// file with the authority of its certificate.
func NewTLS(t testing.TB, d *Daemon) (host, ca string) {
	t.Helper()
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	forward.ErrorLog = log.New(io.Discard, "", 0)
	forward.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket())
	}}
	s := httptest.NewUnstartedServer(forward)
	s.Config.ErrorLog = forward.ErrorLog
	s.StartTLS()
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return "tcp://" + strings.TrimPrefix(s.URL, "https://"), ca
}
