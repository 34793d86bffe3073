package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// sendFor bounds one delivery.
const sendFor = 20 * time.Second

func client(roots *x509.CertPool) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	t.DisableKeepAlives = true // receivers hear from us seldom
	return &http.Client{Transport: t, Timeout: sendFor, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a redirect would take signature and headers to somebody else
	}}
}

// laterError asks not to be tried again before a while.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

// Sign is the value of the header Waybill-Signature: the time in Unix seconds, and
// HMAC-SHA256 in hex of that time, a dot and the body.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// post sends an event to a webhook. Every answer of the 200s is a success.
func (n *Notifier) post(ctx context.Context, w waybill.NotifyWebhook, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	url, err := n.expand(ctx, w.URL)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("webhook: its URL cannot be called") // the URL may hold a secret
	}
	for name, value := range w.Headers {
		if value, err = n.expand(ctx, value); err != nil {
			return err
		}
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "waybill")
	req.Header.Set("Waybill-Delivery", e.ID) // those of our own webhooks: one server may tell another
	req.Header.Set("Waybill-Event", e.Type)
	if w.Secret != "" {
		secret, err := n.expand(ctx, w.Secret)
		if err != nil {
			return err
		}
		req.Header.Set("Waybill-Signature", Sign(secret, n.o.Store.Now(), body))
		// The form that GitHub made known, without a time, for receivers that have it.
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	res, err := n.http.Do(req)
	if err != nil {
		return fmt.Errorf("webhook %s: %s", req.URL.Host, cause(err))
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // for the message only
	if res.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("webhook %s answered %s: %s", req.URL.Host, res.Status, oneLine(string(text)))
	if s, aerr := strconv.Atoi(res.Header.Get("Retry-After")); aerr == nil && s > 0 {
		return &laterError{err, min(time.Duration(s)*time.Second, time.Hour)}
	}
	return err
}

// cause leaves out the URL, which may hold a secret.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, `": `); i >= 0 {
		text = text[i+3:]
	}
	return oneLine(text)
}

func oneLine(s string) string {
	return strings.TrimSpace(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "))
}

var secretRef = regexp.MustCompile(`\$\{secret:([A-Za-z_][A-Za-z0-9_.-]*)\}`)

// expand puts the values of secrets in the place of references to them.
func (n *Notifier) expand(ctx context.Context, s string) (string, error) {
	var first error
	out := secretRef.ReplaceAllStringFunc(s, func(ref string) string {
		v, err := n.o.Secret(ctx, secretRef.FindStringSubmatch(ref)[1])
		if err != nil && first == nil {
			first = err
		}
		return v
	})
	return out, first
}
