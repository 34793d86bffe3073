package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/internal/cli"
	cmd "github.com/waybill-run/waybill/internal/cli/delivery"
	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

// cells are those of the row that has a word.
func (b *bench) cells(wide, separators bool, word string) []string {
	b.Helper()
	for _, cells := range cmd.Rows(b.rows(), cmd.NewOptions(wide, false, separators)) {
		if slices.Contains(cells, word) {
			return cells
		}
	}
	b.Fatalf("no row has %q", word)
	return nil
}

func TestF26_GetNormal(t *testing.T) {
	stores(t, func(b *bench) {
		b.feed(deliverytest.Ten())
		out := b.ok("get", "--hide-separators")
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != 11 {
			b.Fatalf("%d lines, want a head and 10 rows:\n%s", len(lines), out)
		}
		if got := strings.Join(strings.Fields(lines[0]), " "); got != "Status Service Ring Image Tag Image Creation Commit OK Metadata Update Commit OK Ready to Deploy Commit OK Duration" {
			b.Errorf("the head is %s", got)
		}
		want := "Complete | hello-bedrock | dev | hello-bedrock-master-6046 | 6046 | c626394 | ✓ | 180 | 706685f | ✓ | 6047 | b3a3345 | ✓ | 3.41 mins"
		cells := b.cells(false, false, "hello-bedrock-master-6046")
		if got := strings.Join(cells, " | "); got != want {
			b.Errorf("the row is\n%s, want\n%s", got, want)
		}
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.Join(strings.Fields(l), " ") == strings.ReplaceAll(want, " | ", " ")
		}) {
			b.Errorf("no line of the table is that row:\n%s", out)
		}
		if len(cells) != 14 {
			b.Errorf("%d cells, want 14", len(cells))
		}
		for change, minutes := range deliverytest.TenDurations {
			ok := false
			for _, l := range lines {
				if f := strings.Fields(l); slices.Contains(f, change) && f[len(f)-2] == minutes && f[0] == "Complete" {
					ok = true
				}
			}
			if !ok {
				b.Errorf("the row of run %s is not Complete after %s mins:\n%s", change, minutes, out)
			}
		}
	})
}

func TestF27_GetWide(t *testing.T) {
	stores(t, func(b *bench) {
		b.feed(deliverytest.Ten())
		for _, cells := range cmd.Rows(b.rows(), cmd.NewOptions(true, false, true)) {
			if len(cells) != 23 {
				b.Errorf("%d cells with separators, want 23: %q", len(cells), cells)
			}
		}
		for change, cluster := range deliverytest.TenClusters {
			cells := b.cells(true, false, change)
			if len(cells) != 19 || cells[18] != cluster || cells[4] != "Ada Quay" {
				b.Errorf("run %s: %d cells, want 19 that end with %s: %q", change, len(cells), cluster, cells)
			}
		}
		if cells := b.cells(true, false, "182"); cells[18] != "" || cells[12] != "1123" || cells[13] != "Bo Pier" {
			b.Errorf("run 182, which no cluster has: %q", cells)
		}
		head := cmd.Rows(b.rows(), cmd.NewOptions(true, false, false))[0]
		if got := strings.Join(head, ","); got != "Start Time,Status,Service,Ring,Author,Image Tag,Image Creation,Commit,OK,Metadata Update,Commit,OK,Approval PR,Merged By,Ready to Deploy,Commit,OK,Duration,Cluster Sync" {
			b.Errorf("the head is %s", got)
		}
		out := b.ok("get", "-o", "WIDE")
		if !strings.Contains(out, "Cluster Sync") || !strings.Contains(out, "EUROPE") {
			b.Errorf("the wide table is\n%s", out)
		}
	})
}

// Where no cluster was told of there is no column of them.
func TestF27_GetWideWithoutClusters(t *testing.T) {
	b := setup(t)
	b.feed(slices.DeleteFunc(deliverytest.Ten(), func(r waybill.DeliveryReport) bool { return r.Kind == waybill.ReportSync }))
	for _, cells := range cmd.Rows(b.rows(), cmd.NewOptions(true, false, true)) {
		if len(cells) != 22 || slices.Contains(cells, "Cluster Sync") {
			t.Errorf("%d cells, want 22: %q", len(cells), cells)
		}
	}
}

func TestF28_GetJSON(t *testing.T) {
	stores(t, func(b *bench) {
		if out := b.ok("get", "-o", "json", "-v"); strings.TrimSpace(out) != "[]" {
			b.Errorf("of an empty store: %q, want []", out)
		}
		b.feed(deliverytest.Ten())
		rows := b.list("-v")
		if len(rows) != 10 {
			b.Fatalf("%d rows, want 10", len(rows))
		}
		var known []string
		for line := range strings.FieldsSeq("deploymentId srcToDockerBuild dockerToHldRelease dockerToHldReleaseStage hldToManifestBuild commitId hldCommitId imageTag timeStamp manifestCommitId environment service duration status endTime pr sourceRepo hldRepo manifestRepo") {
			known = append(known, line)
		}
		stages := 0
		for _, row := range rows {
			for name := range row {
				if !slices.Contains(known, name) {
					b.Errorf("member %s is not one of the shape", name)
				}
			}
			for _, name := range []string{"deploymentId", "srcToDockerBuild", "hldToManifestBuild", "commitId", "hldCommitId", "imageTag", "manifestCommitId", "environment", "service", "duration", "status", "endTime", "timeStamp"} {
				if row[name] == nil {
					b.Errorf("%v has no %s", row["imageTag"], name)
				}
			}
			release, _ := row["dockerToHldRelease"].(map[string]any)
			if release == nil {
				stages++
				release, _ = row["dockerToHldReleaseStage"].(map[string]any)
			}
			id, _ := release["id"].(float64)
			if want := deliverytest.TenDurations[fmt.Sprint(int(id))]; row["duration"] != want {
				b.Errorf("run %v took %v, want %s", id, row["duration"], want)
			}
		}
		if stages != 1 {
			b.Errorf("%d rows have a stage in the place of a release, want 1", stages)
		}
		if out := b.ok("get", "-o", "json"); !strings.HasPrefix(out, "[\n  {\n    \"deploymentId\"") {
			b.Errorf("the JSON is not indented by two: %.60q", out)
		}
	})
}

func TestF29_Filters(t *testing.T) {
	stores(t, func(b *bench) {
		reports := deliverytest.Reports()
		b.feed(reports)
		rows := deliverytest.Rows(reports)
		row := rows[slices.IndexFunc(rows, func(r deliverytest.Row) bool {
			return r.Service != "" && r.Ring == "prod" && r.Build != "" && r.Commit != ""
		})]
		id := ""
		for _, d := range b.rows() {
			if d.ImageTag == row.ImageTag && d.Ring == row.Ring && d.ConfigCommit == row.ConfigCommit {
				id = d.ID
			}
		}
		one := map[string]func(*deliverytest.Row) bool{
			"-b " + row.Build:                        func(r *deliverytest.Row) bool { return r.Build == row.Build },
			"-c " + row.Commit:                       func(r *deliverytest.Row) bool { return r.Commit == row.Commit },
			"-i " + strings.ToUpper(row.ImageTag):    func(r *deliverytest.Row) bool { return r.ImageTag == row.ImageTag },
			"-r " + strings.ToUpper(row.Ring):        func(r *deliverytest.Row) bool { return r.Ring == row.Ring },
			"--env " + row.Ring:                      func(r *deliverytest.Row) bool { return r.Ring == row.Ring },
			"-s " + strings.ToUpper(row.Service):     func(r *deliverytest.Row) bool { return r.Service == row.Service },
			"--commit-id " + row.Commit[:7]:          func(r *deliverytest.Row) bool { return r.Commit == row.Commit },
			"-r nowhere":                             func(*deliverytest.Row) bool { return false },
			"-r prod -s " + row.Display():            func(r *deliverytest.Row) bool { return r.Ring == "prod" && r.Display() == row.Display() },
			"-i " + row.ImageTag + "' or 1 eq 1 --t": func(*deliverytest.Row) bool { return false },
		}
		for flags, is := range one {
			want := deliverytest.Count(rows, is)
			args := strings.Fields(flags)
			if strings.Contains(flags, " or ") {
				args = []string{"-i", strings.TrimPrefix(flags, "-i ")}
			}
			if got := len(b.list(append(args, "-t", "")...)); got != want {
				b.Errorf("%s lists %d, want %d", flags, got, want)
			}
		}
		all := []string{"-b", row.Build, "-c", row.Commit, "-d", strings.ToUpper(id), "-i", row.ImageTag, "-r", row.Ring, "-s", row.Service}
		if got := b.list(all...); len(got) != 1 || got[0]["deploymentId"] != id {
			b.Errorf("all six list %v, want %s", got, id)
		}
		all[5] = "000000000000"
		if got := b.list(all...); len(got) != 0 {
			b.Errorf("all six with another id list %v", got)
		}
	})
}

func TestF30_DisplayedService(t *testing.T) {
	stores(t, func(b *bench) {
		b.feed(deliverytest.Reports())
		for _, name := range []string{"ferry", "Ferry", "quay/ferry"} {
			if got := len(b.list("--service", name)); got != deliverytest.Ferry {
				b.Errorf("--service %s lists %d, want %d", name, got, deliverytest.Ferry)
			}
		}
		if out := b.ok("get", "-s", "quay/ferry"); strings.Contains(out, "quay/") || strings.Count(out, " ferry ") != deliverytest.Ferry {
			b.Errorf("the table shows\n%s", out)
		}
		if out := b.ok("get", "-s", "other/ferry"); out != "" {
			b.Errorf("the ferry of another owner is listed:\n%s", out)
		}
	})
}

func TestF31_Top(t *testing.T) {
	b := setup(t)
	b.feed(deliverytest.Reports())
	for top, want := range map[string]int{"3": 3, "1000": 62, "": 62} {
		if got := len(b.list("--top", top)); got != want {
			t.Errorf("--top %q lists %d, want %d", top, got, want)
		}
	}
	if got := len(b.list()); got != 50 {
		t.Errorf("without --top %d, want 50", got)
	}
	for _, top := range []string{"0", "-5", "x", "1.5", "1e3"} {
		b.fails([]string{"get", "--top", top}, "code: 1001", "positive")
	}
}

func TestF32_Order(t *testing.T) {
	stores(t, func(b *bench) {
		reports := deliverytest.Reports()
		b.feed(reports)
		want := deliverytest.Rows(reports)
		got := b.list("-t", "")
		if len(got) != len(want) {
			b.Fatalf("%d rows, want %d", len(got), len(want))
		}
		for _, i := range []int{0, 1, 2, 3, 4, len(want) - 2, len(want) - 1} {
			if tag, _ := got[i]["imageTag"].(string); tag != want[i].ImageTag {
				b.Errorf("row %d is of %s, want %s", i, tag, want[i].ImageTag)
			}
		}
		for i := 1; i < len(got); i++ {
			a, b2 := got[i-1]["endTime"].(string), got[i]["endTime"].(string)
			x, _ := time.Parse(time.RFC3339, a)
			y, _ := time.Parse(time.RFC3339, b2)
			if y.After(x) || y.Equal(x) && got[i-1]["deploymentId"].(string) < got[i]["deploymentId"].(string) {
				b.Errorf("row %d (%s, %s) comes before %d (%s, %s)", i-1, a, got[i-1]["deploymentId"], i, b2, got[i]["deploymentId"])
			}
		}
	})
}

func TestF33_HideSeparators(t *testing.T) {
	b := setup(t)
	b.feed(deliverytest.Ten())
	for _, o := range []string{"normal", "wide"} {
		if out := b.ok("get", "-o", o, "--hide-separators"); strings.ContainsAny(out, "│|") {
			t.Errorf("%s has separators:\n%s", o, out)
		}
		for line := range strings.Lines(b.ok("get", "-o", o)) {
			if strings.Count(line, "│") != 4 {
				t.Errorf("%s has not four separators: %s", o, line)
			}
		}
	}
	if code, out, _ := b.run("get", "-h"); code != 0 || !strings.Contains(out, "--hide-separators") {
		t.Error("-h is not the help")
	}
}

// screen is a terminal.
type screen struct {
	mu    sync.Mutex
	text  strings.Builder
	wrote chan struct{}
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.wrote <- struct{}{}:
	default:
	}
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// looks is a transport that tells of each list that is asked for, and can fail.
type looks struct {
	next http.RoundTripper
	at   chan time.Time
	fail func(n int) bool
	n    int
}

func (l *looks) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != "/api/v1/deployments" {
		return l.next.RoundTrip(r)
	}
	l.n++
	l.at <- time.Now()
	if l.fail != nil && l.fail(l.n) {
		return nil, fmt.Errorf("dial tcp: connection refused")
	}
	return l.next.RoundTrip(r)
}

func TestF34_Watch(t *testing.T) {
	b := setup(t)
	b.feed(deliverytest.Ten())
	seen := &looks{next: http.DefaultTransport, at: make(chan time.Time, 10), fail: func(n int) bool { return n == 2 }}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, errs := &screen{wrote: make(chan struct{}, 1)}, &screen{wrote: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, cli.Deps{
			Stdout: out, Stderr: errs, Getenv: func(n string) string { return b.env[n] }, Terminal: func(w io.Writer) bool { return w == out }, HTTP: &http.Client{Transport: seen},
		}, []string{"deployment", "get", "--watch", "--top", "3"})
	}()
	first, second, third := <-seen.at, <-seen.at, <-seen.at
	for _, gap := range []time.Duration{second.Sub(first), third.Sub(second)} {
		if gap < 4500*time.Millisecond || gap > 5500*time.Millisecond {
			t.Errorf("%s between two looks, want 5s", gap)
		}
	}
	for strings.Count(out.String(), "\x1b[H") < 2 {
		select {
		case <-out.wrote:
		case code := <-ended:
			t.Fatalf("it ended with %d: %s", code, errs)
		}
	}
	interrupt()
	if code := <-ended; code != 0 {
		t.Errorf("interrupted, it exits with %d: %s", code, errs)
	}
	if text := errs.String(); strings.Count(text, "warning") != 1 || !strings.Contains(text, "connection refused") {
		t.Errorf("of the look that failed it says %q", text)
	}
	// The first list clears the screen, the second writes over it and erases what is left.
	if text := out.String(); strings.Count(text, "\x1b[2J") != 1 || !strings.HasSuffix(text, "\x1b[J") || strings.Count(text, "\x1b[K\r\n") != 8 {
		t.Errorf("the screen got %q", text)
	}
}

// What cannot be right later ends the watch at once.
func TestF34_WatchRefused(t *testing.T) {
	b := setup(t)
	b.env["WAYBILL_API_TOKEN"] = "wbt_wrong"
	b.fails([]string{"get", "-w"}, "code: 1002", "token")
}

func TestF35_UnknownOutput(t *testing.T) {
	b := setup(t)
	b.fails([]string{"get", "-o", "yaml2"}, "code: 1001", "normal, wide, json")
	for _, o := range []string{"Normal", "WIDE", "Json"} {
		b.ok("get", "-o", o)
	}
}

func TestF36_Glyphs(t *testing.T) {
	b := setup(t)
	for i, status := range []waybill.Outcome{waybill.StatusSucceeded, waybill.StatusFailed, waybill.StatusCanceled, waybill.StatusRunning, waybill.StatusQueued, ""} {
		b.feed([]waybill.DeliveryReport{{Kind: waybill.ReportBuild, Run: fmt.Sprint("r", i), ImageTag: fmt.Sprint("app:", i), Service: "app", Commit: "c1aaaaa", Status: status}})
	}
	for i, want := range [][2]string{{"✓", "ok"}, {"✗", "x"}, {"✗", "x"}, {"…", "..."}, {"…", "..."}, {"", ""}} {
		for j, ascii := range []bool{false, true} {
			for _, cells := range cmd.Rows(b.rows(), cmd.NewOptions(false, ascii, false)) {
				if cells[4] == fmt.Sprint("r", i) && cells[6] != want[j] {
					t.Errorf("run %d: %q, want %q", i, cells[6], want[j])
				}
			}
		}
	}
	for _, o := range []string{"normal", "wide"} {
		for _, r := range b.ok("get", "--no-unicode", "-o", o) {
			if r > 127 {
				t.Fatalf("%s has %q", o, r)
			}
		}
	}
}

func TestF37_Waiting(t *testing.T) {
	b := setup(t)
	chain := func(n string, build waybill.Outcome, review waybill.ReviewState) []waybill.DeliveryReport {
		return []waybill.DeliveryReport{
			{Kind: waybill.ReportBuild, Run: "1" + n, ImageTag: "app:" + n, Service: "app", Commit: "c1aaaaa", Status: build},
			{Kind: waybill.ReportConfig, Run: "2" + n, ImageTag: "app:" + n, Ring: "dev", ConfigCommit: "706685" + n, PullRequest: n, Status: waybill.StatusSucceeded},
			{Kind: waybill.ReportReview, PullRequest: n, Review: review},
		}
	}
	b.feed(chain("1", waybill.StatusSucceeded, waybill.ReviewOpen))
	b.feed(chain("2", waybill.StatusSucceeded, waybill.ReviewClosed))
	b.feed(chain("3", waybill.StatusFailed, waybill.ReviewOpen))
	b.feed(chain("4", waybill.StatusSucceeded, waybill.ReviewOpen))
	b.feed([]waybill.DeliveryReport{{Kind: waybill.ReportManifest, Run: "34", ConfigCommit: "7066854", Status: waybill.StatusSucceeded}})
	for n, want := range map[string]string{"1": "Waiting", "2": "canceled", "3": "failed", "4": "Complete"} {
		if rows := b.list("-i", "app:"+n); len(rows) != 1 || rows[0]["status"] != want {
			t.Errorf("case %s: %v, want %s", n, rows[0]["status"], want)
		}
		if out := b.ok("get", "-i", "app:"+n, "-o", "wide"); !strings.Contains(out, want) {
			t.Errorf("case %s: the table does not say %s:\n%s", n, want, out)
		}
	}
}

// providers are those that a server asks.
type providers []waybill.DeliveryProvider

func (p providers) DeliveryProviders(context.Context) ([]waybill.DeliveryProvider, error) {
	return p, nil
}

func TestF39_LookupsDegrade(t *testing.T) {
	b := setup(t)
	b.feed(slices.DeleteFunc(deliverytest.Ten(), func(r waybill.DeliveryReport) bool {
		return r.Kind == waybill.ReportCommit || r.Kind == waybill.ReportReview || r.Kind == waybill.ReportSync
	}))
	services := b.world.Services()
	services.Providers = providers{{Name: "github", Error: "answered 500"}, {Name: "gitlab", Notes: []string{"tags: answered 500"}, Stale: true, PolledAt: now, FreshAt: now.Add(-2 * time.Minute)}}
	b.server.SetReady(services)
	code, out, errs := b.run("get", "-o", "wide")
	if code != 0 || strings.Count(out, "\n") != 11 || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "github: answered 500; gitlab: tags") || !strings.Contains(errs, "2m0s old") {
		t.Errorf("exit %d, note %q:\n%s", code, errs, out)
	}
	for _, row := range cmd.Rows(b.rows(), cmd.NewOptions(true, false, false))[1:] {
		if row[4] != "" || row[13] != "" {
			t.Errorf("who is not known is shown: %q", row)
		}
	}
	if code, _, errs := b.run("get"); code != 0 || strings.Contains(errs, "columns") || !strings.Contains(errs, "2m0s old") {
		t.Errorf("the normal table: exit %d, note %q", code, errs)
	}
}

func TestF40_ErrorChain(t *testing.T) {
	b := setup(t)
	const secret = "wbt_01234567-89ab-cdef-0123-456789abcdef_0123456789012345678901234567890123456789012"
	b.env["WAYBILL_API_TOKEN"] = secret
	for _, args := range [][]string{{"get"}, {"get", "-v", "-o", "json"}, {"create", "--p1", "1", "--image-tag", "a:1", "--service", "a", "--commit-id", "c1"}} {
		code, out, errs := b.run(args...)
		lines := strings.Split(errs, "\n")
		if code != 1 || out != "" || lines[0] != "code: 1000" || !strings.HasPrefix(lines[1], "message: deployment-"+args[0]+"-cmd-failed: ") || !strings.HasPrefix(lines[2], "  code: ") || !strings.HasPrefix(lines[3], "  message: ") {
			t.Errorf("%v: exit %d, error\n%s", args, code, errs)
		}
		if !strings.Contains(errs, "code: 2000\n") || !regexp.MustCompile(`(?m)^ +details: the token is not valid$`).MatchString(errs) {
			t.Errorf("%v: the error does not end with its cause:\n%s", args, errs)
		}
		if strings.Contains(errs, secret) || strings.Contains(errs, "0123456789012345") {
			t.Errorf("%v: the token is told:\n%s", args, errs)
		}
	}
	b.env["WAYBILL_API_TOKEN"], b.env["WAYBILL_SERVER"] = "", "http://127.0.0.1:1"
	code, _, errs := b.run("get")
	if code != 1 || !strings.Contains(errs, "  code: 1002\n") || !strings.Contains(errs, "    code: 2000\n") || !strings.Contains(errs, "cannot reach") {
		t.Errorf("without a server: exit %d\n%s", code, errs)
	}
}

func TestF41_Settings(t *testing.T) {
	b := setup(t)
	b.env["WAYBILL_SERVER"] = ""
	file := filepath.Join(b.home, ".bedrock", "config.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := strings.TrimPrefix(b.url, "http://")
	host, port, _ := strings.Cut(address, ":")
	write(file, "introspection:\n  server: http://${env:W_HOST}:${env:W_PORT}\n  azure:\n    partition_key: harbour\n    key: ${env:W_KEY}\n")
	b.fails([]string{"get"}, "code: 1010", "W_HOST", "W_PORT", "W_KEY", "introspection.server", "introspection.azure.key")
	b.env["W_KEY"], b.env["W_HOST"] = "k", host
	b.fails([]string{"get"}, "code: 1010", "W_PORT (in introspection.server)")
	write(".env", "# where\nexport W_PORT=\""+port+"\"\nW_KEY=other # comment\n\nINTROSPECTION_PARTITION_KEY='pier'\n")
	b.feed([]waybill.DeliveryReport{{Kind: waybill.ReportBuild, ImageTag: "a:1", Service: "a", Partition: "pier"}, {Kind: waybill.ReportBuild, ImageTag: "b:1", Service: "b", Partition: "harbour"}})
	if rows := b.list(); len(rows) != 1 || rows[0]["service"] != "a" {
		t.Errorf("with .env the rows are %v, want those of pier", rows)
	}
	if rows := b.list("-p", "harbour"); len(rows) != 1 || rows[0]["service"] != "b" {
		t.Errorf("with --partition-key the rows are %v", rows)
	}
	write(".env", "W_PORT="+port+"\n")
	if rows := b.list(); len(rows) != 1 || rows[0]["service"] != "b" {
		t.Errorf("with the settings the rows are %v, want those of harbour", rows)
	}
	b.env["INTROSPECTION_PARTITION_KEY"] = "pier"
	if rows := b.list(); len(rows) != 1 || rows[0]["service"] != "a" {
		t.Errorf("with the environment the rows are %v, want those of pier", rows)
	}
	write(".env", "what is this\n")
	b.fails([]string{"get"}, "code: 1011", ".env:1")
	write(".env", "")
	write(file, "introspection: [\n")
	b.fails([]string{"get"}, "code: 1011", "config.yaml")
	write(file, "just text")
	b.fails([]string{"get"}, "code: 1011", "config.yaml")
	b.fails([]string{"get", "--config", filepath.Join(b.home, "nope.yaml")}, "code: 1011", "nope.yaml")
}

// The older names of variables open a server, too.
func TestF41_OlderVariables(t *testing.T) {
	b := setup(t)
	var made struct{ Secret string }
	c, err := client.New(client.Options{Server: b.url})
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.CreateToken(t.Context(), client.CreateToken{Name: "ci", Role: waybill.RoleReporter}, "")
	if err != nil {
		t.Fatal(err)
	}
	made.Secret = token.Secret
	b.env["WAYBILL_SERVER"] = ""
	b.ok("create", "-n", b.url, "-k", made.Secret, "-t", "deployments", "-p", "harbour", "--p1", "1", "--image-tag", "a:1", "--service", "a", "--commit-id", "c1aaaaa")
	b.fails([]string{"create", "-n", b.url, "-k", "wbt_wrong", "-t", "deployments", "-p", "harbour", "--p1", "2", "--image-tag", "a:2", "--service", "a", "--commit-id", "c1aaaaa"}, "code: 2000")
	b.env["INTROSPECTION_ACCOUNT_NAME"], b.env["INTROSPECTION_ACCOUNT_KEY"], b.env["INTROSPECTION_PARTITION_KEY"] = b.url, made.Secret, "harbour"
	b.ok("create", "--p1", "3", "--image-tag", "a:3", "--service", "a", "--commit-id", "c1aaaaa")
	p, err := b.service.Deployments(t.Context(), waybill.DeploymentFilter{Partition: "harbour"})
	if err != nil || len(p.Items) != 2 {
		t.Errorf("%d rows, want 2: %v", len(p.Items), err)
	}
	d, err := b.service.Deployment(t.Context(), "harbour", p.Items[0].ID)
	if err != nil || d.Events[0].By != "ci" {
		text, _ := json.Marshal(d)
		t.Errorf("the reports are not of the token: %s", text)
	}
}

// A file of the folder that somebody works in, which may be anybody's, does not lead the
// tokens of the settings elsewhere.
func TestF41_TokensStayWithTheirServer(t *testing.T) {
	b := setup(t)
	var sent []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = append(sent, r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"items":[],"next_cursor":null,"event":"e","action":"none","deployments":[]}`)
	}))
	defer other.Close()
	b.http, b.env["WAYBILL_SERVER"] = nil, ""
	b.config("introspection:\n  server: " + b.url + "\n  token: wbt_mine\n  report_token: wbt_mine2\n")
	ask := func() string {
		t.Helper()
		sent = nil
		b.ok("get")
		b.ok("create", "--p1", "1", "--image-tag", "a:1", "--service", "a", "--commit-id", "c1")
		return strings.Join(sent, ",")
	}
	for _, line := range []string{"INTROSPECTION_SERVER=", "WAYBILL_SERVER=", "INTROSPECTION_ACCOUNT_NAME="} {
		if err := os.WriteFile(".env", []byte(line+other.URL+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != "," {
			t.Errorf("with %s in .env the server there was sent %q", line, got)
		}
	}
	if err := os.WriteFile(".env", []byte("INTROSPECTION_SERVER="+other.URL+"\nINTROSPECTION_TOKEN=wbt_theirs\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "Bearer wbt_theirs,Bearer wbt_theirs" {
		t.Errorf("with a token beside it the server was sent %q", got)
	}
	b.env["INTROSPECTION_SERVER"] = other.URL // the person says so
	if err := os.WriteFile(".env", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(); got != "Bearer wbt_mine,Bearer wbt_mine2" {
		t.Errorf("a server that the environment names was sent %q", got)
	}
}
