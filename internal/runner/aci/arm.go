package aci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// apiVersion is that of Microsoft.ContainerInstance.
const apiVersion = "2023-05-01"

// path is that of the container groups, or of something below.
func (r *Runner) path(parts ...string) string {
	p := "/subscriptions/" + r.config.Subscription + "/resourceGroups/" + url.PathEscape(r.config.ResourceGroup) + "/providers/Microsoft.ContainerInstance/containerGroups"
	for _, x := range parts {
		p += "/" + url.PathEscape(x)
	}
	return p
}

// call sends a request and decodes the answer. once sends it a single time, as it may have
// been carried out when there is no answer.
func (r *Runner) call(ctx context.Context, method, path string, query url.Values, body, into any, once bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	retry := r.retry
	if once {
		retry.MaxRetries = -1
	}
	ctx = policy.WithRetryOptions(ctx, retry)
	if query == nil {
		query = url.Values{}
	}
	at := path
	if !strings.HasPrefix(path, "https://") { // else the rest of a list, which has its query
		query.Set("api-version", apiVersion)
		at = runtime.JoinPaths(r.arm.Endpoint(), path) + "?" + query.Encode()
	} else if !strings.HasPrefix(path, strings.TrimSuffix(r.arm.Endpoint(), "/")+"/") {
		return 0, waybill.E(waybill.KindUnavailable, "Azure sends us to another host for the rest of a list")
	}
	q, err := runtime.NewRequest(ctx, method, at)
	if err != nil {
		return 0, err
	}
	q.Raw().Header.Set("Accept", "application/json")
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		if err := q.SetBody(nopClose{bytes.NewReader(b)}, "application/json"); err != nil {
			return 0, err
		}
	}
	res, err := r.arm.Pipeline().Do(q)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return res.StatusCode, runtime.NewResponseError(res)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 32<<20))
	if err == nil && into != nil && len(b) > 0 {
		err = json.Unmarshal(b, into)
	}
	return res.StatusCode, err
}

type nopClose struct{ *bytes.Reader }

func (nopClose) Close() error { return nil }

// fault is what an error answer says.
type fault struct {
	status  int
	code    string
	message string
	after   time.Duration
}

func faultOf(err error) (fault, bool) {
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		return fault{}, false
	}
	f := fault{status: e.StatusCode, code: e.ErrorCode}
	if e.RawResponse != nil {
		f.after = container.RetryAfter(e.RawResponse.Header, time.Now())
		var doc struct {
			Error struct {
				Code, Message string
				Details       []struct{ Code, Message string }
			} `json:"error"`
		}
		if b, err := runtime.Payload(e.RawResponse); err == nil && json.Unmarshal(b, &doc) == nil {
			f.message = doc.Error.Message
			f.code = first(f.code, doc.Error.Code)
			for _, d := range doc.Error.Details {
				f.message += " " + d.Message
			}
		}
	}
	f.message = oneLine(first(f.message, http.StatusText(f.status)))
	return f, true
}

func isGone(err error) bool {
	f, ok := faultOf(err)
	return ok && f.status == http.StatusNotFound && f.code != "ResourceGroupNotFound" && f.code != "SubscriptionNotFound"
}

// armError turns an error of the resource manager into one of our kinds.
func (r *Runner) armError(ctx context.Context, err error, op, image string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	where := "resource group " + r.config.ResourceGroup
	f, ok := faultOf(err)
	if !ok {
		// Credentials that cannot be had are errors of azidentity.
		return waybill.E(waybill.KindUnavailable, "Azure does not answer: %s", oneLine(container.Clean(err))).WithOp(op, where)
	}
	unavailable := func(format string, args ...any) *waybill.Error {
		e := waybill.E(waybill.KindUnavailable, format, args...).WithOp(op, where)
		e.RetryAfter = f.after
		return e
	}
	pull := func(reason string, e error) error {
		return &runner.PullError{Image: image, Reason: reason, RetryAfter: f.after, Err: e}
	}
	invalid := func() *waybill.Error {
		return waybill.E(waybill.KindInvalid, "%s: %s", f.code, f.message).WithOp(op, where)
	}
	lower := strings.ToLower(f.code + " " + f.message)
	switch {
	case f.code == "ContainerGroupQuotaReached" || f.status != http.StatusNotFound && strings.Contains(lower, "quota") && strings.Contains(lower, "exceed"):
		return pull(runner.ReasonPullQuota, unavailable("a quota of Azure is used up: %s", f.message).WithHint("ask Azure for more, or limit how many units run at once"))
	case strings.Contains(lower, "not available in the location"):
		return pull(runner.ReasonPullQuota, unavailable("the region has no room now: %s", f.message))
	case f.code == "InaccessibleImage":
		reason, _ := container.Classify(errors.New(f.message))
		if reason == runner.ReasonPullNetwork {
			reason = runner.ReasonPullAuth
		}
		return pull(reason, invalid().WithHint("check the name of the image; give the step pull_secret, or name the registry in registries"))
	case f.code == "RegistryErrorResponse":
		return pull(runner.ReasonPullQuota, unavailable("the registry refuses for now: %s", f.message))
	case strings.HasPrefix(f.code, "InvalidImage"):
		return pull(runner.ReasonPullNotFound, invalid())
	case f.status == http.StatusForbidden:
		return invalid().WithHint("give the account of Waybill the role Contributor on %s, Managed Identity Operator on the identities that units have, and Network Contributor on their subnet", where)
	case f.status == http.StatusUnauthorized:
		return unavailable("Azure does not know us: %s", f.message).WithHint("renew the credentials: AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, a managed identity, or az login")
	case f.code == "MissingSubscriptionRegistration":
		return invalid().WithHint("register it: az provider register --namespace Microsoft.ContainerInstance")
	case f.status == http.StatusNotFound:
		if isGone(err) {
			return waybill.E(waybill.KindLost, "there is no such container group").WithOp(op, where)
		}
		return invalid().WithHint("make it first: az group create")
	case f.status == http.StatusConflict, f.status == http.StatusTooManyRequests, f.status == http.StatusRequestTimeout, f.status >= 500:
		return unavailable("%s: %s", first(f.code, fmt.Sprint(f.status)), f.message)
	}
	return invalid()
}

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 600 {
		text = strings.ToValidUTF8(text[:600], "") + "…"
	}
	return text
}
