// Package aztable reads deployments out of a table of Azure Storage, where an older service
// kept them: the rows, page by page, and the reports that a row stands for.
//
// It speaks the part of the Table service's REST protocol that reading needs
// (learn.microsoft.com/rest/api/storageservices/query-entities), signed with the account's
// key as SharedKeyLite, over the pipeline of azcore, which repeats what may be repeated.
package aztable

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/waybill-run/waybill"
)

// Table names a table and who reads it.
type Table struct {
	Account  string
	Key      string // of the account, in base64
	Name     string
	Endpoint string                // of the table service; empty is https://ACCOUNT.table.core.windows.net
	Client   *policy.ClientOptions // of azcore; nil is its defaults
}

const (
	version = "2019-02-02"
	module  = "waybill/aztable"
	// pageSize is what one answer of the service holds at most.
	pageSize = 1000
	// maxPage is how many bytes an answer may have; the service keeps to 4 MiB.
	maxPage = 16 << 20
)

var (
	accountName = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	tableName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{2,62}$`)
)

// CheckAccount returns what is wrong with the name of an account.
func CheckAccount(name string) error {
	if accountName.MatchString(name) {
		return nil
	}
	return waybill.E(waybill.KindInvalid, "%.80q is no name of a storage account: 3 to 24 lower-case letters and digits", name)
}

// CheckTable returns what is wrong with the name of a table.
func CheckTable(name string) error {
	if tableName.MatchString(name) {
		return nil
	}
	return waybill.E(waybill.KindInvalid, "%.80q is no name of a table: 3 to 63 letters and digits, a letter first", name)
}

// Row is a row: its columns as text, RowKey and Timestamp among them.
type Row map[string]string

// Rows calls f for every row of a partition, in the order of their keys. It ends with the
// error of f, or with one of KindUnauthorized, KindNotFound, KindInvalid or
// KindUnavailable. No error holds the key.
func (t *Table) Rows(ctx context.Context, partition string, f func(Row) error) error {
	if err := errors.Join(CheckAccount(t.Account), CheckTable(t.Name)); err != nil {
		return err
	}
	key, err := base64.StdEncoding.DecodeString(t.Key)
	if err != nil || len(key) == 0 {
		return waybill.E(waybill.KindInvalid, "the access key of account %s is no base64", t.Account)
	}
	endpoint := strings.TrimSuffix(t.Endpoint, "/")
	if endpoint == "" {
		endpoint = "https://" + t.Account + ".table.core.windows.net"
	}
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return waybill.E(waybill.KindInvalid, "endpoint %.100q is no URL such as https://%s.table.core.windows.net", endpoint, t.Account)
	}
	pl := runtime.NewPipeline(module, "v1", runtime.PipelineOptions{PerRetry: []policy.Policy{&signer{account: t.Account, key: key}}}, t.Client)
	q := url.Values{"$filter": {"PartitionKey eq '" + strings.ReplaceAll(partition, "'", "''") + "'"}, "$top": {fmt.Sprint(pageSize)}}
	for {
		next, err := t.page(ctx, pl, endpoint, q, f)
		if err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		for name, value := range next {
			q.Set(name, value)
		}
	}
}

// page reads one page and returns where the next one begins, nil after the last.
func (t *Table) page(ctx context.Context, pl runtime.Pipeline, endpoint string, q url.Values, f func(Row) error) (map[string]string, error) {
	req, err := runtime.NewRequest(ctx, http.MethodGet, endpoint+"/"+t.Name+"()")
	if err != nil {
		return nil, waybill.E(waybill.KindInvalid, "table %s cannot be asked: %w", t.Name, err)
	}
	// Blanks as %20: the service does not read + as one.
	req.Raw().URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	h := req.Raw().Header
	h.Set("Accept", "application/json;odata=nometadata")
	h.Set("DataServiceVersion", "3.0")
	h.Set("x-ms-version", version)
	res, err := pl.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, waybill.E(waybill.KindUnavailable, "table service at %s: %w", endpoint, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, t.refused(res)
	}
	var body struct {
		Value []map[string]any `json:"value"`
	}
	dec := json.NewDecoder(io.LimitReader(res.Body, maxPage))
	dec.UseNumber()
	if err := dec.Decode(&body); err != nil {
		return nil, waybill.E(waybill.KindUnavailable, "the answer for table %s cannot be read: %w", t.Name, err)
	}
	for _, x := range body.Value {
		row := Row{}
		for name, v := range x {
			if v != nil {
				row[name] = fmt.Sprint(v)
			}
		}
		if err := f(row); err != nil {
			return nil, err
		}
	}
	pk, rk := res.Header.Get("x-ms-continuation-NextPartitionKey"), res.Header.Get("x-ms-continuation-NextRowKey")
	if pk == "" {
		return nil, nil
	}
	next := map[string]string{"NextPartitionKey": pk}
	if rk != "" {
		next["NextRowKey"] = rk
	}
	return next, nil
}

// refused is an answer that is no page.
func (t *Table) refused(res *http.Response) error {
	code := res.Header.Get("x-ms-error-code")
	if code == "" {
		var body struct {
			Error struct {
				Code string `json:"code"`
			} `json:"odata.error"`
		}
		if json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&body) == nil {
			code = body.Error.Code
		}
	}
	if code == "" {
		code = res.Status
	}
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return waybill.E(waybill.KindUnauthorized, "account %s does not let this key read table %s (%s)", t.Account, t.Name, code)
	case http.StatusNotFound:
		return waybill.E(waybill.KindNotFound, "account %s has no table %s (%s)", t.Account, t.Name, code)
	case http.StatusBadRequest:
		return waybill.E(waybill.KindInvalid, "account %s does not understand the question about table %s (%s)", t.Account, t.Name, code)
	}
	return waybill.E(waybill.KindUnavailable, "account %s answered %s for table %s", t.Account, code, t.Name)
}

// signer signs each request, also one that is repeated: the signature holds the time.
type signer struct {
	account string
	key     []byte
}

func (s *signer) Do(req *policy.Request) (*http.Response, error) {
	r := req.Raw()
	date := time.Now().UTC().Format(http.TimeFormat)
	r.Header.Set("x-ms-date", date)
	mac := hmac.New(sha256.New, s.key)
	// learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key, "Shared Key
	// Lite for Table Storage": the date and the resource.
	mac.Write([]byte(date + "\n/" + s.account + r.URL.EscapedPath()))
	r.Header.Set("Authorization", "SharedKeyLite "+s.account+":"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return req.Next()
}

var _ policy.Policy = (*signer)(nil)

// Retry are the defaults of azcore with other times, for tests.
func Retry(tries int32, pause time.Duration) *policy.ClientOptions {
	return &policy.ClientOptions{Retry: policy.RetryOptions{MaxRetries: tries, RetryDelay: pause, MaxRetryDelay: pause}, Telemetry: policy.TelemetryOptions{ApplicationID: "waybill"}, InsecureAllowCredentialWithHTTP: true}
}
