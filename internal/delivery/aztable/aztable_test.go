package aztable_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/cloud/azuretest"
	"github.com/waybill-run/waybill/internal/delivery/aztable"
)

// post writes to the table service, as another program does.
func post(t *testing.T, base, path string, body any) {
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
	for name, value := range map[string]string{
		"x-ms-date": date, "x-ms-version": "2019-02-02", "Content-Type": "application/json", "Accept": "application/json;odata=nometadata", "DataServiceVersion": "3.0",
		"Authorization": "SharedKeyLite " + azuretest.Account + ":" + base64.StdEncoding.EncodeToString(mac.Sum(nil)),
	} {
		r.Header.Set(name, value)
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

func TestReadsEveryPage(t *testing.T) {
	t.Parallel()
	s := azuretest.Start(t)
	post(t, s.Tables, "/Tables", map[string]string{"TableName": "deployments"})
	const rows = 1203 // two pages
	batch := make(chan int)
	go func() {
		defer close(batch)
		for i := range rows {
			batch <- i
		}
	}()
	done := make(chan struct{})
	for range 8 {
		go func() {
			for i := range batch {
				post(t, s.Tables, "/deployments", map[string]any{"PartitionKey": "harbour's", "RowKey": fmt.Sprintf("%012x", i), "imageTag": fmt.Sprint("app:", i), "p1": fmt.Sprint(i), "n": 7})
			}
			done <- struct{}{}
		}()
	}
	for range 8 {
		<-done
	}
	post(t, s.Tables, "/deployments", map[string]any{"PartitionKey": "harbour", "RowKey": "other", "imageTag": "x"})
	table := aztable.Table{Account: azuretest.Account, Key: azuretest.Key, Name: "deployments", Endpoint: s.Tables, Client: aztable.Retry(1, time.Millisecond)}
	seen := map[string]bool{}
	last := ""
	err := table.Rows(t.Context(), "harbour's", func(r aztable.Row) error {
		if seen[r["RowKey"]] || r["RowKey"] < last || r["imageTag"] != "app:"+r["p1"] || r["n"] != "7" || r["Timestamp"] == "" {
			t.Errorf("row %v after %s", r, last)
		}
		last = r["RowKey"]
		seen[last] = true
		return nil
	})
	if err != nil || len(seen) != rows {
		t.Errorf("%d rows, %v", len(seen), err)
	}
	// Whoever reads may stop.
	stop := errors.New("enough")
	if err := table.Rows(t.Context(), "harbour", func(aztable.Row) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
	for name, x := range map[string]struct {
		change func(*aztable.Table)
		kind   waybill.Kind
	}{
		"wrong key": {func(t *aztable.Table) {
			t.Key = base64.StdEncoding.EncodeToString([]byte("wrong wrong wrong wrong wrong wr"))
		}, waybill.KindUnauthorized},
		"no such table":  {func(t *aztable.Table) { t.Name = "nothing" }, waybill.KindNotFound},
		"key not base64": {func(t *aztable.Table) { t.Key = "?" }, waybill.KindInvalid},
		"odd endpoint":   {func(t *aztable.Table) { t.Endpoint = "storage" }, waybill.KindInvalid},
		"odd account":    {func(t *aztable.Table) { t.Account = "#123" }, waybill.KindInvalid},
		"odd table":      {func(t *aztable.Table) { t.Name = "# " }, waybill.KindInvalid},
		"nobody there":   {func(t *aztable.Table) { t.Endpoint = "http://127.0.0.1:1" }, waybill.KindUnavailable},
	} {
		b := table
		x.change(&b)
		err := b.Rows(t.Context(), "harbour", func(aztable.Row) error { return nil })
		if waybill.KindOf(err) != x.kind || strings.Contains(fmt.Sprint(err), b.Key) && len(b.Key) > 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The service may answer a page without rows that is not the last, and fail in between.
func TestContinuesAndRepeats(t *testing.T) {
	t.Parallel()
	var asked []url.Values
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query())
		switch len(asked) {
		case 1:
			w.Header().Set("x-ms-continuation-NextPartitionKey", "1!8!a/b")
			fmt.Fprint(w, `{"value":[]}`)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			w.Header().Set("x-ms-continuation-NextPartitionKey", "p")
			w.Header().Set("x-ms-continuation-NextRowKey", "r")
			fmt.Fprint(w, `{"value":[{"RowKey":"1","gone":null}]}`)
		default:
			fmt.Fprint(w, `{"value":[{"RowKey":"2"}]}`)
		}
	}))
	defer ts.Close()
	table := aztable.Table{Account: "account", Key: "a2V5", Name: "deployments", Endpoint: ts.URL, Client: aztable.Retry(2, time.Millisecond)}
	var keys []string
	if err := table.Rows(context.Background(), "p", func(r aztable.Row) error { keys = append(keys, r["RowKey"]+r["gone"]); return nil }); err != nil || strings.Join(keys, " ") != "1 2" {
		t.Errorf("rows %q, %v", keys, err)
	}
	if len(asked) != 4 || asked[2].Get("NextPartitionKey") != "1!8!a/b" || asked[3].Get("NextRowKey") != "r" || asked[0].Get("$filter") != "PartitionKey eq 'p'" {
		t.Errorf("asked %v", asked)
	}
}
