package container

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// PullFault is the error of a runner that could not have an image: its reason, what the
// registry asks for, and a text of one line that holds none of the secrets. err may be
// of any kind that [Classify] knows. The error of a context that has ended is nobody's
// fault and is returned as it is by callers, not given to this function.
func PullFault(image string, err error, secrets ...string) *runner.PullError {
	if p, ok := runner.AsPullError(err); ok {
		return p
	}
	reason, after := Classify(err)
	kind := waybill.KindInvalid
	if runner.PullAgain(reason) {
		kind = waybill.KindUnavailable
	}
	cause := waybill.E(kind, "%s: %s", pullWords[reason], Clean(err, secrets...))
	if hint := pullHints[reason]; hint != "" {
		cause = cause.WithHint("%s", hint)
	}
	return &runner.PullError{Image: Clean(errors.New(image), secrets...), Reason: reason, RetryAfter: after, Err: cause}
}

// pullWords begin the text of a fault.
var pullWords = map[string]string{
	runner.ReasonPullAuth:     "the registry refuses",
	runner.ReasonPullNotFound: "not found",
	runner.ReasonPullQuota:    "a limit is reached",
	runner.ReasonPullNetwork:  "the registry does not answer as it should",
	runner.ReasonImage:        "the image cannot be used",
}

var pullHints = map[string]string{
	runner.ReasonPullAuth:     "give the step credentials with pull_secret; some registries say this of an image that does not exist, too",
	runner.ReasonPullNotFound: "check the name, the tag or digest, and the platform",
}

// Limited is the error of a request that a registry puts off. Package transport of
// go-containerregistry forgets the header Retry-After, so [Transport] makes this of such
// an answer.
type Limited struct {
	Status int
	After  time.Duration // 0 when it does not say
	Text   string        // what the registry says of it
}

// Error implements error.
func (l *Limited) Error() string {
	text := fmt.Sprintf("status %d %s", l.Status, http.StatusText(l.Status))
	if l.Text != "" {
		text += ": " + l.Text
	}
	if l.After > 0 {
		text += fmt.Sprintf(" (asks to wait %s)", l.After)
	}
	return text
}

// maxRetryAfter bounds what a registry can ask for.
const maxRetryAfter = time.Hour

// Transport sends requests to a registry over inner and turns answers that ask for
// patience, which are 429 and a 503 with Retry-After, into [Limited].
func Transport(inner http.RoundTripper) http.RoundTripper { return limitTransport{inner} }

type limitTransport struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t limitTransport) RoundTrip(q *http.Request) (*http.Response, error) {
	res, err := t.inner.RoundTrip(q)
	if err != nil {
		return res, err
	}
	after := RetryAfter(res.Header, time.Now())
	if res.StatusCode != http.StatusTooManyRequests && (res.StatusCode != http.StatusServiceUnavailable || after == 0) {
		return res, nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
	res.Body.Close()
	return nil, &Limited{Status: res.StatusCode, After: after, Text: strings.TrimSpace(string(text))}
}

// RetryAfter reads the header of that name: seconds, or a time. 0 when there is none or
// it makes no sense; never more than an hour.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now).Round(time.Second), maxRetryAfter)
	}
	return 0
}

// Classify says for which reason an image cannot be had, one of those of package runner,
// and for how long the registry asks to be left alone. It knows the errors of
// go-containerregistry, of the network and of the disk, and the texts in which engines
// and clusters pass on what a registry told them. What it does not know is of the
// network, so that it is tried again.
func Classify(err error) (reason string, retryAfter time.Duration) {
	if p, ok := runner.AsPullError(err); ok {
		return p.Reason, p.RetryAfter
	}
	if l := (*Limited)(nil); errors.As(err, &l) {
		if l.Status == http.StatusTooManyRequests {
			return runner.ReasonPullQuota, l.After
		}
		return runner.ReasonPullNetwork, l.After
	}
	for _, e := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, e) {
			return runner.ReasonPullQuota, 0
		}
	}
	if t := (*transport.Error)(nil); errors.As(err, &t) {
		return classifyAnswer(t), 0
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return runner.ReasonPullNetwork, 0
	}
	if e := (*name.ErrBadName)(nil); errors.As(err, &e) {
		return runner.ReasonPullNotFound, 0
	}
	if isNetwork(err) {
		return runner.ReasonPullNetwork, 0
	}
	if reason := classifyText(err.Error()); reason != "" {
		return reason, 0
	}
	return runner.ReasonPullNetwork, 0
}

// classifyAnswer reads an answer of a registry. Its code says more than the status, where
// there is one.
func classifyAnswer(t *transport.Error) string {
	for _, d := range t.Errors {
		switch d.Code {
		case transport.TooManyRequestsErrorCode:
			return runner.ReasonPullQuota
		case transport.UnauthorizedErrorCode, transport.DeniedErrorCode:
			return runner.ReasonPullAuth
		case transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode, transport.NameInvalidErrorCode,
			transport.TagInvalidErrorCode, transport.BlobUnknownErrorCode, transport.ManifestBlobUnknownErrorCode:
			return runner.ReasonPullNotFound
		case transport.ManifestInvalidErrorCode, transport.ManifestUnverifiedErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode:
			return runner.ReasonImage
		}
	}
	switch t.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusPaymentRequired, http.StatusProxyAuthRequired:
		return runner.ReasonPullAuth
	case http.StatusNotFound, http.StatusGone, http.StatusBadRequest:
		return runner.ReasonPullNotFound
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return runner.ReasonPullQuota
	}
	return runner.ReasonPullNetwork
}

func isNetwork(err error) bool {
	var (
		ne   net.Error
		op   *net.OpError
		dns  *net.DNSError
		head tls.RecordHeaderError
		cert *tls.CertificateVerificationError
		auth x509.UnknownAuthorityError
		host x509.HostnameError
		ue   *url.Error
	)
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || errors.As(err, &dns) || errors.As(err, &head) ||
		errors.As(err, &cert) || errors.As(err, &auth) || errors.As(err, &host) || errors.As(err, &ue) || errors.As(err, &ne)
}

// texts are what engines, kubelets and registries say, in the order in which they are
// looked for: what is sure comes first.
var texts = []struct {
	reason string
	parts  []string
}{
	{runner.ReasonPullQuota, []string{"no space left on device", "disk quota exceeded", "toomanyrequests", "too many requests", "rate limit", "pull qps exceeded", "quota"}},
	{runner.ReasonPullNotFound, []string{
		"manifest unknown", "name unknown", "no matching manifest", "no match for platform", "no child with platform", "does not match the specified platform", "manifest_unknown", "name_unknown",
		"invalid reference format", "invalidimagename", "errimageneverpull", "no such image",
	}},
	// Docker says both of one that is not there and one that is not for us.
	{runner.ReasonPullAuth, []string{"unauthorized", "authentication required", "pull access denied", "access denied", "access forbidden", "403 forbidden", "401", "incorrect username or password", "no basic auth credentials", "denied:"}},
	{runner.ReasonImage, []string{"digest mismatch", "does not match expected size", "failed to register layer", "invalid tar header", "unsupported media type", "error verifying sha256", "does not match digest", "archive/tar", "gzip: invalid"}},
	{runner.ReasonPullNetwork, []string{
		"connection refused", "connection reset", "no such host", "i/o timeout", "tls handshake timeout", "deadline exceeded", "unexpected eof", "eof",
		"x509:", "server misbehaving", "network is unreachable", "no route to host", "service unavailable", "bad gateway", "internal server error", "http response to https client",
	}},
	{runner.ReasonPullNotFound, []string{"not found"}},
}

func classifyText(text string) string {
	text = strings.ToLower(text)
	for _, t := range texts {
		if slices.ContainsFunc(t.parts, func(p string) bool { return strings.Contains(text, p) }) {
			return t.reason
		}
	}
	return ""
}

var (
	userInfo  = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s"']*@`)
	urlQuery  = regexp.MustCompile(`(https?://[^\s"'?]*)\?[^\s"']*`)
	authValue = regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9+/=._~-]{8,}`)
)

// maxCause bounds what is shown of a registry's words.
const maxCause = 600

// Clean is the text of an error on one line, without the secrets, without what stands
// before the @ of an address and after its question mark, and no longer than a few lines.
func Clean(err error, secrets ...string) string {
	values := make([][]byte, 0, len(secrets))
	for _, s := range secrets {
		if s != "" {
			values = append(values, []byte(s))
		}
	}
	text := err.Error()
	if len(values) > 0 {
		text = runner.Masker(values).String(text)
	}
	text = userInfo.ReplaceAllString(text, "$1")
	text = urlQuery.ReplaceAllString(text, "$1")
	text = authValue.ReplaceAllString(text, "$1 ***")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return text
}
