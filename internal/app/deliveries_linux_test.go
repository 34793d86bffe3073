package app

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill/internal/cli"
	"github.com/waybill-run/waybill/internal/cloud/azuretest"
)

// azureRow writes a row as the older service did.
func azureRow(t *testing.T, base, path string, body map[string]any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(azuretest.Key)
	if err != nil {
		t.Fatal(err)
	}
	date := time.Now().UTC().Format(http.TimeFormat)
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, date+"\n/"+azuretest.Account+r.URL.EscapedPath())
	r.Header = http.Header{
		"X-Ms-Date": {date}, "X-Ms-Version": {"2019-02-02"}, "Content-Type": {"application/json"}, "Accept": {"application/json;odata=nometadata"},
		"Authorization": {"SharedKeyLite " + azuretest.Account + ":" + base64.StdEncoding.EncodeToString(mac.Sum(nil))},
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("%s: %s %s", path, res.Status, text)
	}
}

// A table of 92 rows, as the older service left it, becomes the deployments that its rows
// stand for, counted apart.
func TestF21_OlderTable(t *testing.T) {
	azurite := azuretest.Start(t)
	azureRow(t, azurite.Tables, "/Tables", map[string]any{"TableName": "deployments"})
	// Of each build come up to two rings; every fifth has no manifests yet; every tenth row is
	// an edit by hand, and some builds went nowhere.
	want := map[string]int{}
	n := 0
	row := func(kind string, columns map[string]any) {
		// The keys are random there, so that no order can be relied on.
		sum := sha256.Sum256([]byte(fmt.Sprint("row", n)))
		columns["PartitionKey"], columns["RowKey"] = "harbour", fmt.Sprintf("%x", sum[:6])
		azureRow(t, azurite.Tables, "/deployments", columns)
		want[kind]++
		n++
	}
	for i := 0; n < 92; i++ {
		build := map[string]any{"p1": fmt.Sprint(1000 + i), "imageTag": fmt.Sprintf("crane:main-%d", i), "commitId": fmt.Sprintf("%07x", 0xabc0000+i), "service": "port/crane"}
		with := func(more map[string]any) map[string]any {
			out := map[string]any{}
			for _, m := range []map[string]any{build, more} {
				for k, v := range m {
					out[k] = v
				}
			}
			return out
		}
		switch {
		case i%10 == 9:
			row("manual", map[string]any{"hldCommitId": fmt.Sprintf("%07x", 0xdee0000+i), "p3": fmt.Sprint(5000 + i), "manifestCommitId": fmt.Sprintf("%07x", 0xfee0000+i)})
		case i%7 == 6:
			row("built", build)
		default:
			for r, ring := range []string{"dev", "prod"} {
				if n == 92 || ring == "prod" && i%3 == 0 {
					continue
				}
				c := with(map[string]any{"p2": fmt.Sprint(2000 + 10*i + r), "env": ring, "hldCommitId": fmt.Sprintf("%07x", 0xbbb0000+10*i+r), "isMultiStage": false})
				if i%5 == 0 {
					row("open "+ring, c)
					continue
				}
				c["p3"], c["manifestCommitId"] = fmt.Sprint(3000+10*i+r), fmt.Sprintf("%07x", 0xccc0000+10*i+r)
				row("done "+ring, c)
			}
		}
	}
	s, err := Start(t.Context(), Config{Data: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	env := map[string]string{"HOME": t.TempDir(), "WAYBILL_SERVER": s.URL(), "INTROSPECTION_STORAGE_ENDPOINT": azurite.Tables, "INTROSPECTION_STORAGE_ACCESS_KEY": azuretest.Key}
	run := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		d := CLI()
		d.Stdout, d.Stderr, d.Getenv = &out, &errs, func(n string) string { return env[n] }
		if code := cli.Run(context.Background(), d, append([]string{"deployment"}, args...)); code != 0 {
			t.Fatalf("%v: exit %d\n%s", args, code, errs.String())
		}
		return out.String()
	}
	flags := []string{"onboard", "--backend", "azure", "-s", azuretest.Account, "-t", "deployments", "-p", "harbour"}
	if out := run(flags...); !strings.HasPrefix(out, "92 rows read, ") || !strings.Contains(out, " 0 known; 0 rows without a deployment") {
		t.Errorf("it says %q", out)
	}
	list := run("get", "-o", "json", "-t", "", "-p", "harbour")
	var rows []struct{ Environment, Service, Status, ImageTag string }
	if err := json.Unmarshal([]byte(list), &rows); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, r := range rows {
		switch {
		case r.ImageTag == "":
			got["manual"]++
		case r.Environment == "":
			got["built"]++
		case r.Status == "Complete":
			got["done "+r.Environment]++
		default:
			got["open "+r.Environment]++
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(rows) != 92 {
		t.Errorf("%d deployments: %v, want %v", len(rows), got, want)
	}
	if out := run(flags...); !strings.Contains(out, " 0 new, ") {
		t.Errorf("the second time says %q", out)
	}
	if again := run("get", "-o", "json", "-t", "", "-p", "harbour"); again != list {
		t.Error("the second time changed something")
	}
}
