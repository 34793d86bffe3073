package delivery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli"
	cmd "github.com/waybill-run/waybill/internal/cli/delivery"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
	"github.com/waybill-run/waybill/internal/httpd"
	"github.com/waybill-run/waybill/internal/httpd/httpdtest"
	"github.com/waybill-run/waybill/internal/httpd/openapitest"
	"github.com/waybill-run/waybill/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// now is the time of every test.
var now = deliverytest.Now

// bench is a command line and the server that it talks to.
type bench struct {
	*testing.T
	service *delivery.Service
	world   *httpdtest.World
	server  *httpd.Server
	url     string
	home    string
	env     map[string]string
	stdin   string
	tty     bool
	http    *http.Client
	legacy  cmd.LegacyReader
}

// setup has a server with deliveries over SQLite.
func setup(t *testing.T) *bench {
	t.Helper()
	return over(t, deliverytest.New(t, func() time.Time { return now }))
}

// stores calls f with a bench over each store.
func stores(t *testing.T, f func(b *bench)) {
	deliverytest.EveryStore(t, func() time.Time { return now }, func(t *testing.T, s *delivery.Service) { f(over(t, s)) })
}

func over(t *testing.T, s *delivery.Service) *bench {
	t.Helper()
	b := &bench{T: t, service: s, home: t.TempDir(), env: map[string]string{}}
	b.world = httpdtest.New(func() time.Time { return now })
	b.world.Deliveries = s
	b.server = httpd.New(httpd.Options{Logger: slog.New(slog.DiscardHandler), Loopback: true, Now: func() time.Time { return now }, Version: httpd.Version{Version: "v1"}})
	b.server.SetReady(b.world.Services())
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = b.server.HTTP()
	ts.Start()
	t.Cleanup(func() { b.server.Drain(); ts.Close() })
	b.url = ts.URL
	b.env["HOME"], b.env["WAYBILL_SERVER"] = b.home, b.url
	b.http = &http.Client{Transport: openapitest.Transport{T: t, Requests: true}}
	t.Chdir(t.TempDir())
	return b
}

// run executes a command line of deployment.
func (b *bench) run(args ...string) (code int, stdout, stderr string) {
	b.Helper()
	return b.runIn(b.Context(), args...)
}

func (b *bench) runIn(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	b.Helper()
	var out, err bytes.Buffer
	code = cli.Run(ctx, cli.Deps{
		Version: client.Version{Version: "v1"}, Stdin: strings.NewReader(b.stdin), Stdout: &out, Stderr: &err, Getenv: func(n string) string { return b.env[n] },
		Now: func() time.Time { return now }, Terminal: func(io.Writer) bool { return b.tty }, HTTP: b.http, Legacy: b.legacy,
	}, append([]string{"deployment"}, args...))
	return code, out.String(), err.String()
}

// ok runs what must work and returns what it printed.
func (b *bench) ok(args ...string) string {
	b.Helper()
	code, out, err := b.run(args...)
	if code != 0 {
		b.Fatalf("%v: exit %d\n%s%s", args, code, out, err)
	}
	return out
}

// fails runs what must exit with 1 and have these words in its error.
func (b *bench) fails(args []string, want ...string) {
	b.Helper()
	code, out, err := b.run(args...)
	if code != 1 || out != "" {
		b.Errorf("%v: exit %d, printed %q, want 1 and nothing; %s", args, code, out, err)
	}
	if !strings.HasPrefix(err, "code: 1000\nmessage: ") && !strings.Contains(err, "\ncode: 1000\nmessage: ") {
		b.Errorf("%v: the error does not begin with its command: %s", args, err)
	}
	for _, w := range want {
		if !strings.Contains(err, w) {
			b.Errorf("%v: the error does not say %q: %s", args, w, err)
		}
	}
}

// feed reports.
func (b *bench) feed(reports []waybill.DeliveryReport) {
	b.Helper()
	for _, r := range reports {
		if _, err := b.service.Report(b.Context(), r, waybill.Principal{Name: "ci"}); err != nil {
			b.Fatalf("%s: %v", r.Kind, err)
		}
	}
}

// rows are all deployments of the default partition.
func (b *bench) rows() []waybill.Deployment {
	b.Helper()
	p, err := b.service.Deployments(b.Context(), waybill.DeploymentFilter{Limit: 1000})
	if err != nil {
		b.Fatal(err)
	}
	return p.Items
}

// list reads the JSON of get.
func (b *bench) list(args ...string) []map[string]any {
	b.Helper()
	out := b.ok(append([]string{"get", "-o", "json"}, args...)...)
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil || rows == nil {
		b.Fatalf("%v: no JSON array: %v\n%s", args, err, out)
	}
	return rows
}
