package outbound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/waybill-run/waybill"
)

// Client is for sinks that speak HTTP: a redirect is not followed, as it would take
// credentials to somebody else. control judges addresses before they are called, as that
// of a net.Dialer does; nil judges none.
func Client(control func(network, address string, c syscall.RawConn) error) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, Control: control}).DialContext
	return &http.Client{Transport: t, Timeout: sendFor, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// Post sends a body and reads what became of it in the terms of [Sink].Send: every answer
// of the 200s is good; 400, 413, 415 and 422 are final; all others are tried again,
// those with Retry-After not before. Errors name the host and never the URL or a header,
// which may hold secrets.
func Post(ctx context.Context, c *http.Client, method, to string, header http.Header, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL cannot be called")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "waybill")
	}
	res, err := c.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return waybill.E(waybill.KindUnavailable, "%s cannot be reached: %w", req.URL.Host, err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 500)) // for the message only
	if res.StatusCode/100 == 2 {
		return nil
	}
	msg := fmt.Sprintf("%s answered %s: %s", req.URL.Host, res.Status, strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " "))
	switch res.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return waybill.E(waybill.KindInvalid, "%s", msg)
	}
	e := waybill.E(waybill.KindUnavailable, "%s", msg)
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = min(time.Duration(s)*time.Second, time.Hour)
	}
	return e
}
