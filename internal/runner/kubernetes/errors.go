package kubernetes

import (
	"context"
	"errors"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/waybill-run/waybill"
)

// apiError turns an error of the API server into one of our kinds. verb and resource are
// those of the rule that a role must have, such as "create" and "jobs".
func apiError(ctx context.Context, err error, verb, resource, namespace string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	op := func(e *waybill.Error) error { return e.WithOp(verb+" "+resource, namespace) }
	text := statusText(err)
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(text, "exceeded quota"):
		return op(waybill.E(waybill.KindUnavailable, "the quota of the namespace is used up: %s", text).
			WithHint("raise the ResourceQuota, or limit how many units run at once"))
	case apierrors.IsForbidden(err) && strings.Contains(text, "is being terminated"):
		return op(waybill.E(waybill.KindInvalid, "the namespace is being deleted: %s", text))
	case apierrors.IsForbidden(err):
		return op(waybill.E(waybill.KindInvalid, "the cluster does not allow it: %s", text).
			WithHint("the account of Waybill needs a Role in namespace %s with the rule: apiGroups [%q], resources [%q], verbs [%q]; all rules are in examples/kubernetes/rbac.yaml", namespace, groupOf(resource), resource, verb))
	case apierrors.IsUnauthorized(err):
		return op(waybill.E(waybill.KindUnavailable, "the cluster does not know us: %s", text).WithHint("renew the credentials that runners: kubernetes names"))
	case apierrors.IsRequestEntityTooLargeError(err):
		return op(waybill.E(waybill.KindInvalid, "the cluster takes no request of this size: %s", text))
	case apierrors.IsNotFound(err) && verb == "create":
		return op(waybill.E(waybill.KindInvalid, "%s", text).WithHint("make the namespace first: kubectl create namespace %s", namespace))
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return op(waybill.E(waybill.KindInvalid, "the cluster refuses it: %s", text))
	case apierrors.IsNotFound(err):
		return op(waybill.E(waybill.KindLost, "%s", text))
	}
	e := waybill.E(waybill.KindUnavailable, "the cluster does not answer as it should: %s", text)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return op(e)
}

func groupOf(resource string) string {
	if strings.HasPrefix(resource, "jobs") {
		return "batch"
	}
	return ""
}

// statusText is what an API server says, without what client-go adds to it.
func statusText(err error) string {
	var s apierrors.APIStatus
	if errors.As(err, &s) && s.Status().Message != "" {
		return oneLine(s.Status().Message)
	}
	return oneLine(err.Error())
}

func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 600 {
		text = strings.ToValidUTF8(text[:600], "") + "…"
	}
	return text
}

func lost(op, unit, format string, args ...any) error {
	return waybill.E(waybill.KindLost, format, args...).WithOp(op, unit)
}
