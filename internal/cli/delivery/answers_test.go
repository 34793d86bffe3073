package delivery_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

// fixture is a bench with the data set.
func fixture(t *testing.T) *bench {
	b := setup(t)
	b.feed(deliverytest.Reports())
	return b
}

// has checks that a line of a table has these cells, in this order.
func (b *bench) has(out string, cells ...string) {
	b.Helper()
	for line := range strings.Lines(out) {
		rest, ok := line, true
		for _, c := range cells {
			var found bool
			if _, rest, found = strings.Cut(rest, c); !found {
				ok = false
				break
			}
		}
		if ok {
			return
		}
	}
	b.Errorf("no line has %q:\n%s", cells, out)
}

func read[T any](b *bench, args ...string) T {
	b.Helper()
	var v T
	if err := json.Unmarshal([]byte(b.ok(append(args, "-o", "json")...)), &v); err != nil {
		b.Fatalf("%v: %v", args, err)
	}
	return v
}

func TestF85_TraceCommand(t *testing.T) {
	b := fixture(t)
	rows := deliverytest.Rows(deliverytest.Reports())
	for i := range rows {
		r := &rows[i]
		if r.Ring != "prod" || r.Commit == "" || len(r.Clusters) == 0 {
			continue
		}
		for _, ref := range []string{r.Commit, r.Commit[:7], r.ImageTag, r.ManifestCommit, r.Manifest} {
			l := read[client.DeliveryTraceList](b, "trace", ref)
			found := false
			for _, x := range l.Items {
				found = found || x.Deployment.ManifestCommit == r.ManifestCommit
				for _, h := range x.Hops {
					if h.Time.IsZero() {
						t.Errorf("%s: hop %s has no time", ref, h.What)
					}
				}
			}
			if !found {
				t.Errorf("%s does not lead to %s for %s", ref, r.ImageTag, r.Ring)
			}
		}
	}
	out := b.ok("trace", "ferry:12")
	b.has(out, "  build", "commit ", "https://github.com/quay/ferry/commit/")
	b.has(out, "  config", "pull request", "https://github.com/quay/config/pull/")
	b.has(out, "  manifest", "manifest commit", "https://github.com/quay/manifests/commit/")
	b.has(out, "  sync", "cluster east", "superseded", "2026-01-20T15:52:00Z")
	for _, ref := range []string{"nothing", "2f5a6a"} {
		b.fails([]string{"trace", ref}, "code: 1002", "reported")
	}
	b.fails([]string{"trace", " "}, "code: 1001")
	if code, _, _ := b.run("trace"); code != 2 {
		t.Errorf("without a reference: exit %d", code)
	}
}

func TestF80_MatrixCommand(t *testing.T) {
	b := fixture(t)
	out := b.ok("matrix")
	b.has(out, "SERVICE", "DEV", "DEV/LAB", "PROD", "PROD/EAST", "PROD/NORTH", "PROD/WEST", "QA", "QA/STAGE")
	b.has(out, "ferry", "ferry:15", "applied", "ferry:11", "ferry:11", "healthy")
	b.has(b.ok("matrix", "--service", "Beacon", "--ring", "PROD"), "beacon", "beacon:8")
	// What is where is what the rows say of themselves.
	m := read[client.DeliveryMatrix](b, "matrix")
	for _, c := range m.Cells {
		d, err := b.service.Deployment(t.Context(), "", c.Deployment)
		if err != nil {
			t.Fatal(err)
		}
		ok := c.Cluster == ""
		for _, x := range d.Clusters {
			ok = ok || x.Cluster == c.Cluster && x.State == c.State
		}
		if !ok || d.ImageTag != c.ImageTag || d.Ring != c.Ring {
			t.Errorf("cell %+v, row %+v", c, d.Clusters)
		}
	}
	if out := b.ok("matrix", "-p", "moon"); out != "" {
		t.Errorf("an empty matrix is printed as %q", out)
	}
	b.fails([]string{"matrix", "--server", "http://127.0.0.1:1"}, "code: 2000")
}

func TestF81_DiffCommand(t *testing.T) {
	b := fixture(t)
	out := b.ok("diff", "dev", "prod")
	b.has(out, "tariff", "tariff:34", "tariff:31", "3", "..", "/-/compare/")
	if strings.Contains(out, "ledger") {
		t.Errorf("ledger is the same:\n%s", out)
	}
	if code, _, stderr := b.run("diff", "dev", "prod", "--exit-code"); code != 1 || stderr != "" {
		t.Errorf("they differ: exit %d, %s", code, stderr)
	}
	if code, out, _ := b.run("diff", "dev", "dev", "--exit-code"); code != 0 || out != "" {
		t.Errorf("a ring and itself: exit %d, %s", code, out)
	}
	b.fails([]string{"diff", "dev", "moon"}, `"moon"; there are dev, prod, qa`)
}

func TestF82_LagCommand(t *testing.T) {
	b := fixture(t)
	out := b.ok("lag", "dev", "prod")
	b.has(out, "tariff", "tariff:34", "tariff:31", "3", "69d16h")
	b.has(out, "ledger", "0", "-")
}

func TestF83_RollbacksCommand(t *testing.T) {
	b := fixture(t)
	out := b.ok("rollbacks", "--ring", "prod", "--service", "ferry")
	b.has(out, "ferry", "prod", "east", "rolled back", "ferry:12", "sha256:", "2026-01-20T15:52:00Z")
	b.has(out, "ferry", "prod", "north", "rolled back", "-")
}

func TestF84_DORACommand(t *testing.T) {
	b := fixture(t)
	b.has(b.ok("dora", "--ring", "prod", "--from", "2026-01-01", "--until", "2026-05-01"), "change fail rate", "%", "of ")
	for ring, want := range map[string]deliverytest.Metrics{
		"prod": deliverytest.Measure(deliverytest.Rows(deliverytest.Reports()), deliverytest.Reports(), "prod", "", date(2026, 2), date(2026, 4)),
		"qa":   deliverytest.Measure(deliverytest.Rows(deliverytest.Reports()), deliverytest.Reports(), "qa", "", date(2026, 2), date(2026, 4)),
	} {
		got := read[client.DORA](b, "dora", "--ring", ring, "--from", "2026-02-01", "--until", "2026-04-01")
		is := deliverytest.Metrics{Deployments: got.Deployments, Failed: got.Failed, Rework: got.Rework, Recovered: got.Recovered,
			Timed: got.Timed, Lead: seconds(got.LeadTime), LeadP90: seconds(got.LeadTimeP90), Recovery: seconds(got.Recovery)}
		if is != want {
			t.Errorf("%s: %+v, want %+v", ring, is, want)
		}
		if want.Deployments == 0 {
			t.Errorf("%s: nothing was measured", ring)
		}
	}
	b.fails([]string{"dora", "--ring", "prod", "--from", "soon"}, "code: 1001", "soon")
	b.fails([]string{"dora", "--ring", "prod", "--window", "0d"}, "code: 1001", "--window")
	b.fails([]string{"dora", "--ring", "prod", "--from", "2026-05-01", "--until", "2026-04-01"}, "ends after it begins")
	if code, _, stderr := b.run("dora"); code == 0 || !strings.Contains(stderr, "ring") {
		t.Errorf("without a ring: exit %d, %s", code, stderr)
	}
}

func seconds(s float64) time.Duration    { return time.Duration(s * float64(time.Second)) }
func date(y int, m time.Month) time.Time { return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC) }

func TestF86_AlertsCommand(t *testing.T) {
	b := fixture(t)
	code, out, stderr := b.run("alerts", "--stuck", "30d", "--silent", "2w")
	if code != 1 || stderr != "" {
		t.Errorf("exit %d, %s", code, stderr)
	}
	b.has(out, "stuck", "2026-03-09T17:00:00Z", "ferry:15 for qa is waiting")
	b.has(out, "silent", "cluster stage has not been heard of")
	if code, out, _ := b.run("alerts", "--stuck", "52w", "--silent", "52w"); code != 0 || out != "" {
		t.Errorf("exit %d, %s", code, out)
	}
	b.fails([]string{"alerts", "--stuck", "often"}, "--stuck")
}

func TestF87_ShowCommand(t *testing.T) {
	b := fixture(t)
	l := read[client.DeliveryTraceList](b, "trace", "ledger:206")
	for _, x := range l.Items {
		if x.Deployment.Ring != "prod" {
			continue
		}
		out := b.ok("show", x.Deployment.ID)
		last := 0
		for _, kind := range []string{"build", "config", "review", "manifest", "run", "sync"} {
			at := strings.Index(out[last:], "  "+kind+" ")
			if at < 0 {
				t.Fatalf("no %s after the one before:\n%s", kind, out)
			}
			last += at
		}
		b.has(out, "sync", "azdo", "ci", `"cluster":"west"`)
	}
	b.fails([]string{"show", "ffffffffffff"}, "no deployment")
}

func TestF88_UnlinkedCommand(t *testing.T) {
	b := fixture(t)
	out := b.ok("unlinked", "list")
	b.has(out, "config", "image mirror/ledger:190 for qa", "no build of image")
	l := read[client.UnlinkedList](b, "unlinked", "list")
	target := read[client.DeliveryTraceList](b, "trace", "ledger:201").Items[0].Deployment.ID
	for _, x := range l.Items {
		if strings.Contains(x.What, "ledger") {
			b.has(b.ok("unlinked", "attach", x.ID, target), "ledger ledger:201 for qa")
		}
	}
	if out := b.ok("unlinked", "list"); strings.Contains(out, "ledger") {
		t.Errorf("it is listed still:\n%s", out)
	}
	b.has(b.ok("rebuild"), fmt.Sprint(deliverytest.Regular+deliverytest.Manual)+" deployments", "0 stored values")
	if out := b.ok("unlinked", "list"); strings.Contains(out, "ledger") {
		t.Errorf("a replay lost it:\n%s", out)
	}
	b.fails([]string{"unlinked", "attach", "x", "y"}, "no deployment")
	b.fails([]string{"unlinked", "list", "--limit", "0"}, "--limit")
}

func TestF24_PruneCommand(t *testing.T) {
	b := fixture(t)
	before := len(b.rows())
	dry := read[client.Pruned](b, "prune", "--older-than", "60d", "--keep", "1", "--dry-run")
	if n := len(b.rows()); n != before || len(dry.Deployments) == 0 {
		t.Fatalf("%d rows, %d before; %d listed", n, before, len(dry.Deployments))
	}
	done := read[client.Pruned](b, "prune", "--older-than", "60d", "--keep", "1")
	if fmt.Sprint(done.Deployments) != fmt.Sprint(dry.Deployments) || len(b.rows()) != before-len(done.Deployments) {
		t.Errorf("%d rows of %d after %d were forgotten", len(b.rows()), before, len(done.Deployments))
	}
	for _, d := range b.rows() {
		for _, x := range done.Deployments {
			if x.ID == d.ID {
				t.Errorf("%s is there still", d.ID)
			}
		}
	}
	b.ok("rebuild")
	if n := len(b.rows()); n != before-len(done.Deployments) {
		t.Errorf("a rebuild brought some back: %d", n)
	}
	for _, args := range [][]string{{"--older-than", "soon"}, {"--older-than", "-1d"}, {"--older-than", "60d", "--keep", "-1"}} {
		b.fails(append([]string{"prune"}, args...), "code: 1001")
	}
}

// A row that its provider has forgotten is listed with what was known of it.
func TestF25_ExpiredInTheList(t *testing.T) {
	b := setup(t)
	b.feed([]waybill.DeliveryReport{
		{Kind: waybill.ReportBuild, Run: "1", ImageTag: "app:1", Service: "app", Commit: "c0ffee1", Status: waybill.StatusSucceeded, Time: now},
		{Kind: waybill.ReportRun, Stage: waybill.StageBuild, Run: "1", Expired: true, Time: now.Add(time.Hour)},
	})
	rows := b.rows()
	if len(rows) != 1 || rows[0].Build.Status != waybill.StatusSucceeded || !rows[0].Build.Last().Expired {
		t.Errorf("%+v", rows)
	}
	b.has(b.ok("get"), "app", "app:1", "c0ffee1", "✓")
}
