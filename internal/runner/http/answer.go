package http

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-run/waybill/internal/netguard"
	"github.com/waybill-run/waybill/internal/runner"
)

// answer is what came back.
type answer struct {
	status int
	header nethttp.Header
	media  string // type/subtype, in small letters
	url    *url.URL
	body   []byte
	size   int64    // of the whole body
	cut    bool     // not all of it is in body
	dir    *os.Root // holds file
	file   string   // the body, if it is to be saved

	decoded bool
	val     any
	err     error
}

func (a *answer) statusText() string {
	return strings.TrimSpace(strconv.Itoa(a.status) + " " + nethttp.StatusText(a.status))
}

// headers are those of the answer by their names in small letters.
func (a *answer) headers() map[string]string {
	m := make(map[string]string, len(a.header))
	for name, values := range a.header {
		m[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return m
}

// value is the body as expressions see it.
func (a *answer) value() (any, error) {
	if !a.decoded {
		a.decoded = true
		a.val, a.err = a.decode()
	}
	return a.val, a.err
}

func (a *answer) decode() (any, error) {
	isJSON := a.media == "application/json" || strings.HasSuffix(a.media, "+json") || a.media == ""
	switch {
	case a.cut:
		return nil, fmt.Errorf("the body has %d bytes, more than expressions can see (max_answer)", a.size)
	case len(a.body) == 0 && isJSON:
		return nil, nil
	case isJSON:
		d := json.NewDecoder(bytes.NewReader(a.body))
		d.UseNumber()
		var v any
		err := d.Decode(&v)
		if err == nil {
			if _, more := d.Token(); more != io.EOF {
				err = errors.New("something follows its end")
			}
		}
		if err == nil {
			return numbers(v), nil
		}
		if a.media != "" {
			return nil, fmt.Errorf("the body is said to be %s, but it is not JSON: %v", a.media, err)
		}
	}
	if utf8.Valid(a.body) {
		return string(a.body), nil
	}
	return a.body, nil
}

// wrong is the reason of a failed expression: a body that cannot be read is the
// answer's fault.
func (a *answer) wrong(reason string) string {
	if _, err := a.value(); err != nil {
		return reasonBadAnswer
	}
	return reason
}

// numbers gives whole numbers all their digits.
func numbers(v any) any {
	switch x := v.(type) {
	case json.Number:
		if i, err := x.Int64(); err == nil {
			return i
		}
		f, err := x.Float64()
		if err != nil {
			return x.String()
		}
		return f
	case []any:
		for i := range x {
			x[i] = numbers(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = numbers(x[k])
		}
	}
	return v
}

// discard removes the file of a body that nobody wants.
func (a *answer) discard() {
	if a == nil || a.dir == nil {
		return
	}
	if a.file != "" {
		a.dir.Remove(a.file)
	}
	a.dir.Close()
	a.dir = nil
}

// connectWith makes the client.
func (u *unit) connectWith() error {
	transport, t := u.r.base, u.set.TLS
	if t != (TLS{}) {
		c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
		if t.CAFile != "" {
			pem, err := os.ReadFile(u.project(t.CAFile))
			if err != nil {
				return fail(runner.ReasonStartFailed, "tls: ca_file: %v", err)
			}
			c.RootCAs = x509.NewCertPool()
			if !c.RootCAs.AppendCertsFromPEM(pem) {
				return fail(runner.ReasonStartFailed, "tls: ca_file: %s holds no certificate", t.CAFile)
			}
		}
		if t.CertFile != "" {
			pair, err := tls.LoadX509KeyPair(u.project(t.CertFile), u.project(t.KeyFile))
			if err != nil {
				return fail(runner.ReasonStartFailed, "tls: %v", err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		if t.Insecure {
			u.log("tls: insecure: the server's certificate is not checked")
		}
		transport = u.r.transport(c)
		u.close = transport.CloseIdleConnections
	}
	u.client = &nethttp.Client{Transport: transport}
	return nil
}

// project is the path of a file of the project folder.
func (u *unit) project(name string) string {
	if dir := u.env("WAYBILL_PROJECT"); dir != "" && !filepath.IsAbs(name) {
		return filepath.Join(dir, name)
	}
	return name
}

// ask sends a request and waits, if the answer asks for that, to send it again.
func (u *unit) ask(req *request) (*answer, error) {
	for {
		a, err := u.send(req)
		if err != nil {
			return nil, err
		}
		wait, asked := a.retryAfter(time.Now())
		off := u.set.RetryAfter != nil && !*u.set.RetryAfter
		if !asked || off || a.status != 429 && a.status != 503 || len(u.set.Expect.Status) > 0 && u.set.Expect.Status.has(a.status) {
			return a, nil
		}
		if end := u.spec.HardStop; !end.IsZero() && time.Now().Add(wait).After(end) {
			a.discard()
			return nil, &failure{reasonStatus, fmt.Sprintf("the answer has status %s and asks to wait for %s, longer than the step may take", a.statusText(), wait), a}
		}
		a.discard()
		u.log("waiting %s, as Retry-After asks", wait)
		if err := u.pause(wait); err != nil {
			return nil, err
		}
	}
}

// retryAfter is how long the answer asks to wait.
func (a *answer) retryAfter(now time.Time) (time.Duration, bool) {
	text := a.header.Get("Retry-After")
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n < 10_000_000 {
		return time.Duration(n) * time.Second, true
	}
	if at, err := nethttp.ParseTime(text); err == nil {
		return max(at.Sub(now).Round(time.Millisecond), 0), true
	}
	return 0, false
}

func (u *unit) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-u.ctx.Done():
		return context.Cause(u.ctx)
	}
}

// origin is where a request goes: scheme, host and port.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// errRedirects says that there were too many.
var errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)

// send sends a request once and reads the answer.
func (u *unit) send(req *request) (*answer, error) {
	ctx, cancel := context.WithTimeout(u.ctx, time.Duration(u.set.Timeout))
	defer cancel()
	hr := (&nethttp.Request{Method: req.method, URL: req.url, Header: req.header.Clone(), ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	hr.Host = req.header.Get("Host") // empty means the URL's
	if err := u.carry(hr, req.body); err != nil {
		return nil, err
	}
	client := *u.client
	client.CheckRedirect = func(next *nethttp.Request, via []*nethttp.Request) error {
		if u.set.FollowRedirects != nil && !*u.set.FollowRedirects {
			return nethttp.ErrUseLastResponse
		}
		if len(via) > maxRedirects {
			return errRedirects
		}
		if origin(next.URL) != origin(req.url) {
			// What the step sends is for the host it names.
			for _, name := range req.step {
				next.Header.Del(name)
			}
			next.Host = ""
		}
		u.log("redirected to %s", next.URL.Redacted())
		return nil
	}
	size := ""
	if hr.Body != nil {
		size = ", " + bytesText(req.body.size)
	}
	u.log("> %s %s%s", req.method, req.url.Redacted(), size)
	began := time.Now()
	res, err := client.Do(hr)
	if err != nil {
		return nil, u.explain(ctx, err)
	}
	defer res.Body.Close()
	a := &answer{status: res.StatusCode, header: res.Header, url: res.Request.URL}
	a.media, _, _ = mime.ParseMediaType(res.Header.Get("Content-Type"))
	err = u.receive(res, a)
	media := ""
	if a.media != "" {
		media = ", " + a.media
	}
	u.log("< %s%s, %s, %s", a.statusText(), media, bytesText(a.size), time.Since(began).Round(time.Millisecond))
	if err != nil {
		a.discard()
		return nil, u.explain(ctx, err)
	}
	return a, nil
}

// carry gives a request its body, which can be read again for a redirect.
func (u *unit) carry(hr *nethttp.Request, b body) error {
	if b.data == nil && b.path == "" {
		return nil
	}
	hr.ContentLength = b.size
	hr.GetBody = func() (io.ReadCloser, error) {
		if b.path == "" {
			return io.NopCloser(bytes.NewReader(b.data)), nil
		}
		dir, err := u.folder()
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		f, err := dir.Open(b.path)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(f, b.size), f}, nil
	}
	var err error
	if hr.Body, err = hr.GetBody(); err != nil {
		return fail(runner.ReasonStartFailed, "file: %v", err)
	}
	return nil
}

// receive reads a body: into memory, and into a file if it is to be saved.
func (u *unit) receive(res *nethttp.Response, a *answer) error {
	limit, key := int64(u.set.MaxAnswer), "max_answer"
	var file *os.File
	if s := u.set.Save; s != nil {
		limit, key = int64(s.Max), "save.max"
		dir, err := u.folder()
		if err != nil {
			return fail(reasonOutputs, "save: %v", err)
		}
		a.dir = dir
		name := ".answer-" + u.spec.Unit
		if file, err = dir.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644); err != nil {
			return fail(reasonOutputs, "save: %v", err)
		}
		a.file = name
		defer file.Close()
	}
	if res.ContentLength > limit && !res.Uncompressed {
		a.size = res.ContentLength
		return fail(reasonTooLarge, "the answer has %d bytes, more than %s allows (%d)", res.ContentLength, key, limit)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := res.Body.Read(buf)
		a.size += int64(n)
		if a.size > limit {
			return fail(reasonTooLarge, "the answer has more than the %d bytes that %s allows", limit, key)
		}
		if keep := min(n, int(int64(u.set.MaxAnswer)-int64(len(a.body)))); keep > 0 && !a.cut {
			a.body = append(a.body, buf[:keep]...)
			a.cut = keep < n
		} else if n > 0 {
			a.cut = true
		}
		if file != nil && n > 0 {
			if _, err := file.Write(buf[:n]); err != nil {
				return fail(reasonOutputs, "save: %v", err)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if file != nil {
		if err := file.Close(); err != nil {
			return fail(reasonOutputs, "save: %v", err)
		}
	}
	return nil
}

// explain says which failure an error of a request is. The URL is left out: it may
// hold a secret, and the log has it.
func (u *unit) explain(ctx context.Context, err error) error {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	if cause := context.Cause(u.ctx); cause != nil {
		return cause
	}
	if x := (*url.Error)(nil); errors.As(err, &x) {
		err = x.Err
	}
	msg := err.Error()
	var (
		denied *netguard.DeniedError
		op     *net.OpError
		dns    *net.DNSError
	)
	switch {
	case errors.As(err, &denied):
		return fail(reasonDenied, "%v", denied)
	case errors.Is(err, errRedirects):
		return fail(reasonRedirect, "%v", err)
	case isTLS(err):
		return fail(reasonTLS, "%s", strings.TrimPrefix(msg, "tls: "))
	case ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fail(reasonTimeout, "no complete answer within %s", time.Duration(u.set.Timeout))
	case errors.As(err, &dns):
		return fail(reasonConnect, "the name %s cannot be resolved: %s", dns.Name, dns.Err)
	case errors.As(err, &op) && op.Op == "dial":
		if op.Timeout() {
			return fail(reasonTimeout, "no connection to %v within %s", op.Addr, time.Duration(u.set.Timeout))
		}
		return fail(reasonConnect, "no connection: %v", op)
	case strings.Contains(msg, "response headers exceeded"), strings.Contains(msg, "header list larger"):
		return fail(reasonTooLarge, "the answer's header has more than %d bytes", maxHeader)
	case strings.Contains(msg, "Location"), strings.Contains(msg, "unsupported protocol scheme"), strings.Contains(msg, "redirect"):
		return fail(reasonRedirect, "%s", msg)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, &op), strings.Contains(msg, "transport connection broken") && strings.Contains(msg, "EOF"):
		return fail(reasonLost, "the connection ended before the answer did: %s", msg)
	case strings.Contains(msg, "server closed idle connection"), strings.Contains(msg, "stream error"), strings.Contains(msg, "GOAWAY"):
		return fail(reasonLost, "%s", msg)
	}
	return fail(reasonBadAnswer, "the answer cannot be read: %s", msg)
}

func isTLS(err error) bool {
	var (
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	return errors.As(err, &verify) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &authority) ||
		errors.As(err, &host) || errors.As(err, &invalid) || strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "HTTP response to HTTPS client")
}
