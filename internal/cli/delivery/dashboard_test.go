package delivery_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

func TestF45_DashboardPort(t *testing.T) {
	b := setup(t)
	for _, port := range []string{"0", "abc", "65536", "-1", ""} {
		b.fails([]string{"dashboard", "--port", port}, "code: 1001", "1 to 65535")
	}
	// Where the server itself is at that port of this machine, its address is told.
	port := b.url[strings.LastIndexByte(b.url, ':')+1:]
	if out := b.ok("dashboard", "-p", port); out != b.url+"\n" {
		t.Errorf("it says %q, want %s", out, b.url)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b.fails([]string{"d", "-p", fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)}, "code: 1002", "--port")
	b.env["WAYBILL_SERVER"] = "http://127.0.0.1:1"
	b.fails([]string{"dashboard"}, "code: 1002", "cannot reach")
}

func TestF45_DashboardServes(t *testing.T) {
	b := setup(t)
	b.feed(deliverytest.Ten())
	b.env["WAYBILL_API_TOKEN"] = b.token(waybill.RoleViewer)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(ln.Addr().(*net.TCPAddr).Port)
	ln.Close()
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, errs := &screen{wrote: make(chan struct{}, 1)}, &screen{wrote: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	began := time.Now()
	go func() {
		ended <- cli.Run(ctx, cli.Deps{Stdout: out, Stderr: errs, Getenv: func(n string) string { return b.env[n] }}, []string{"deployment", "dashboard", "-p", port, "-r"})
	}()
	select {
	case <-out.wrote:
	case code := <-ended:
		t.Fatalf("it ended with %d: %s", code, errs)
	}
	base := "http://127.0.0.1:" + port
	ask := func(method, path string, header ...string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			if r.Header.Set(header[i], header[i+1]); header[i] == "Host" {
				r.Host = header[i+1]
			}
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	if code, text := ask("GET", "/"); code != 200 || !strings.Contains(text, "<html") {
		t.Errorf("the first page: %d %s", code, text)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it answered after %s", took)
	}
	if code, text := ask("GET", "/spektate/api/deployments"); code != 200 || strings.Count(text, "deploymentId") != 10 || !strings.Contains(text, "clusterSync") {
		t.Errorf("the API: %d %s", code, text)
	}
	// Nobody else comes by what the token opens, and nothing is changed.
	for name, x := range map[string]struct {
		method, path string
		header       []string
		want         int
	}{
		"another method":        {"POST", "/api/v1/deliveries/self-test", nil, 405},
		"another name":          {"GET", "/spektate/api/deployments", []string{"Host", "evil.example.org"}, 403},
		"another site's page":   {"GET", "/spektate/api/deployments", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"another origin":        {"GET", "/spektate/api/deployments", []string{"Origin", "https://evil.example.org"}, 403},
		"another token":         {"GET", "/spektate/api/deployments", []string{"Authorization", "Bearer wbt_other"}, 200},
		"what a viewer may not": {"GET", "/api/v1/tokens", nil, 403},
	} {
		if code, text := ask(x.method, x.path, x.header...); code != x.want {
			t.Errorf("%s: %d, want %d: %s", name, code, x.want, text)
		}
	}
	interrupt()
	if code := <-ended; code != 0 || out.String() != base+"\n" || !strings.Contains(errs.String(), "no pages of deployments yet") || !strings.Contains(errs.String(), "no containers") {
		t.Errorf("exit %d, printed %q and %q", code, out, errs)
	}
}
