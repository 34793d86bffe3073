package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// unit is one request with what belongs to it.
type unit struct {
	r    *Runner
	spec runner.Spec
	set  *step
	out  *runner.Log

	client *nethttp.Client
	close  func() // ends the connections of a transport of its own

	started time.Time
	ctx     context.Context // ends when it is stopped; its cause is a cut
	cut     context.CancelCauseFunc
	hard    *time.Timer
	done    chan struct{}
	exit    runner.Exit // set before done closes
}

// cut is how a unit was ended from outside.
type cut struct{ signal, reason string }

func (c cut) Error() string { return "ended by " + c.signal }

// Reasons of an exit, see the package's comment.
const (
	reasonConnect     = "connect"
	reasonDenied      = "denied"
	reasonTLS         = "tls"
	reasonTimeout     = "timeout"
	reasonLost        = "connection_lost"
	reasonBadAnswer   = "bad_answer"
	reasonTooLarge    = "too_large"
	reasonRedirect    = "redirect"
	reasonStatus      = "http_status"
	reasonExpectation = "expectation"
	reasonPoll        = "poll"
	reasonOutputs     = "outputs"
)

// failure is why a unit fails.
type failure struct {
	reason string // a word
	msg    string // for people
	answer *answer
}

func (f *failure) Error() string { return f.msg }

func fail(reason, format string, args ...any) *failure {
	return &failure{reason: reason, msg: fmt.Sprintf(format, args...)}
}

func newUnit(r *Runner, s runner.Spec, set *step, out *runner.Log) *unit {
	u := &unit{r: r, spec: s, set: set, out: out, started: time.Now(), done: make(chan struct{})}
	u.ctx, u.cut = context.WithCancelCause(context.Background())
	if !s.HardStop.IsZero() {
		u.hard = time.AfterFunc(time.Until(s.HardStop), func() { u.cut(cut{"SIGKILL", runner.ReasonHardStop}) })
	}
	return u
}

// live is the whole life of the unit.
func (u *unit) live() {
	var end runner.Exit
	err := u.run()
	if u.close != nil {
		u.close()
	}
	if u.hard != nil {
		u.hard.Stop()
	}
	var f *failure
	switch c := (cut{}); {
	case err == nil:
	case errors.As(context.Cause(u.ctx), &c):
		end = runner.Exit{Code: -1, Signal: c.signal, Reason: c.reason}
		u.log("stopped: %s", c.signal)
	case errors.As(err, &f):
		end = runner.Exit{Code: 1, Reason: f.reason, Message: u.mask(f.msg)}
		u.log("%s: %s", f.reason, f.msg)
		if f.answer != nil {
			u.excerpt(f.answer)
		}
	default:
		end = runner.Exit{Code: 1, Reason: reasonBadAnswer, Message: u.mask(err.Error())}
		u.log("%s", err)
	}
	u.out.Close(&end)
	end.StartedAt, end.EndedAt = u.started.UTC().Round(0), time.Now().UTC().Round(0)
	u.exit = end
	close(u.done)
	u.cut(nil)
}

// mask takes what is secret out of a text that is not for the log, which masks itself.
func (u *unit) mask(text string) string { return runner.Masker(u.spec.Mask).String(text) }

// log writes one line.
func (u *unit) log(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")
	fmt.Fprintln(u.out, line)
}

const excerptLen = 2000

// excerpt shows the beginning of a body.
func (u *unit) excerpt(a *answer) {
	if a.size == 0 {
		return
	}
	// Masked before it is cut and indented, which could tear a secret apart.
	text := u.mask(string(a.body[:min(len(a.body), 32*excerptLen)]))
	whole := int64(len(a.body)) == a.size && len(text) <= excerptLen
	text = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(text[:min(len(text), excerptLen)], "\uFFFD"))
	for line := range strings.Lines(text) {
		fmt.Fprintln(u.out, "  "+strings.TrimRight(line, "\r\n"))
	}
	if !whole {
		u.log("  … the beginning of %d bytes", a.size)
	}
}

// run makes the requests and judges the answers.
func (u *unit) run() error {
	if err := u.connectWith(); err != nil {
		return err
	}
	req, err := u.first()
	if err != nil {
		return err
	}
	a, err := u.ask(req)
	if u.set.Poll != nil {
		if a, err = u.poll(req, a, err); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer a.discard()
	if err := u.judge(a); err != nil {
		return err
	}
	if err := u.save(a); err != nil {
		return err
	}
	return u.outputs(a)
}

// env returns the value of a variable in the unit's environment.
func (u *unit) env(name string) string {
	for _, v := range u.spec.Env {
		if val, ok := strings.CutPrefix(v, name+"="); ok {
			return val
		}
	}
	return ""
}

// request is what is sent, as often as it must be.
type request struct {
	method string
	url    *url.URL
	header nethttp.Header // ours and the step's
	step   []string       // names of the step's headers, which go to one origin only
	body   body
}

// first is the request that the step asks for.
func (u *unit) first() (*request, error) {
	s := u.set
	to, err := url.Parse(s.URL)
	if err != nil {
		return nil, fail(runner.ReasonStartFailed, "url: it is not a URL")
	}
	if len(s.Query) > 0 {
		q := to.Query()
		for name, v := range s.Query {
			q.Set(name, string(v))
		}
		to.RawQuery = q.Encode()
	}
	req := &request{method: s.Method, url: to, header: nethttp.Header{"User-Agent": {u.r.agent}}}
	if req.body, err = u.body(); err != nil {
		return nil, err
	}
	if req.body.media != "" {
		req.header.Set("Content-Type", req.body.media)
	}
	for name, v := range s.Headers {
		req.header.Set(name, string(v))
		req.step = append(req.step, name)
	}
	if b := s.Basic; b != nil {
		r := nethttp.Request{Header: req.header}
		r.SetBasicAuth(b.User, b.Password)
		req.step = append(req.step, "Authorization")
	}
	switch key := s.IdempotencyKey; {
	case key != nil && *key != "":
		req.header.Set("Idempotency-Key", *key)
	case key == nil && req.header.Get("Idempotency-Key") == "":
		// The same in every attempt: the one that was lost may have been heard.
		req.header.Set("Idempotency-Key", u.spec.Meta["run"]+"/"+u.spec.Meta["step"])
	}
	for _, name := range []string{"TRACEPARENT", "TRACESTATE"} {
		if v := u.env(name); v != "" && headerValue(v) {
			req.header.Set(name, v)
		}
	}
	return req, nil
}

// body is what a request carries.
type body struct {
	data  []byte
	path  string // or the file, opened for every request anew
	size  int64
	media string
}

func (u *unit) body() (body, error) {
	s := u.set
	switch {
	case s.Form != nil:
		form := url.Values{}
		for name, v := range s.Form {
			form.Set(name, string(v))
		}
		data := []byte(form.Encode())
		return body{data: data, size: int64(len(data)), media: "application/x-www-form-urlencoded"}, nil
	case s.File != "":
		st, err := u.stat(s.File)
		if err != nil {
			return body{}, fail(runner.ReasonStartFailed, "file: %v", err)
		}
		media := mime.TypeByExtension(filepath.Ext(s.File))
		if media == "" {
			media = "application/octet-stream"
		}
		return body{path: s.File, size: st.Size(), media: media}, nil
	case len(s.Body) > 0 && s.Body[0] == '"':
		var text string
		if err := json.Unmarshal(s.Body, &text); err != nil {
			return body{}, fail(runner.ReasonStartFailed, "body: %v", err)
		}
		return body{data: []byte(text), size: int64(len(text)), media: "text/plain; charset=utf-8"}, nil
	case s.Body != nil:
		var b bytes.Buffer
		if err := json.Compact(&b, s.Body); err != nil {
			return body{}, fail(runner.ReasonStartFailed, "body: %v", err)
		}
		return body{data: b.Bytes(), size: int64(b.Len()), media: "application/json"}, nil
	}
	return body{}, nil
}

// folder opens the step's folder. Links that lead out of it are not followed.
func (u *unit) folder() (*os.Root, error) { return os.OpenRoot(u.spec.Dir) }

func (u *unit) stat(name string) (os.FileInfo, error) {
	dir, err := u.folder()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	st, err := dir.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("there is no file %s in the step's folder", name)
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return st, nil
}

// judge holds an answer against what is expected.
func (u *unit) judge(a *answer) error {
	e := u.set.Expect
	f := func(reason, format string, args ...any) error {
		x := fail(reason, format, args...)
		x.answer = a
		return x
	}
	free := u.set.Poll != nil && u.set.until.asks("status") && len(e.Status) == 0
	if !free && !e.Status.has(a.status) {
		return f(reasonStatus, "the answer has status %s, expected %s", a.statusText(), e.Status)
	}
	if e.ContentType != "" && !sameMedia(e.ContentType, a.media) {
		return f(reasonExpectation, "the answer has content type %s, expected %s", orNone(a.media), e.ContentType)
	}
	if u.set.filter != nil {
		ok, err := u.set.filter.truth(a)
		if err != nil {
			return f(a.wrong(reasonExpectation), "%v", err)
		}
		if !ok {
			return f(reasonExpectation, "the answer is not as expected: %s is false", e.Filter)
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// sameMedia reports whether a media type is the wanted one, which may end in /*.
func sameMedia(want, got string) bool {
	w, _, err := mime.ParseMediaType(want)
	if err != nil {
		return false
	}
	if kind, any := strings.CutSuffix(w, "/*"); any {
		return kind == "*" || strings.HasPrefix(got, kind+"/")
	}
	return w == got
}

// outputs writes the step's variables to its output file.
func (u *unit) outputs(a *answer) error {
	if len(u.set.outputs) == 0 {
		return nil
	}
	values := make(map[string]json.RawMessage, len(u.set.outputs))
	for _, o := range u.set.outputs {
		v, err := o.json(a)
		if err != nil {
			return &failure{reason: a.wrong(reasonOutputs), msg: err.Error(), answer: a}
		}
		values[o.name] = v
	}
	path := u.env("WAYBILL_OUTPUT")
	if path == "" {
		return fail(reasonOutputs, "outputs: the environment has no WAYBILL_OUTPUT")
	}
	line, err := json.Marshal(values)
	if err == nil {
		err = os.WriteFile(path, append(line, '\n'), 0o600)
	}
	if err != nil {
		return fail(reasonOutputs, "outputs: %v", err)
	}
	return nil
}

// save gives the body that was read into a file its name.
func (u *unit) save(a *answer) error {
	if u.set.Save == nil {
		return nil
	}
	dir, err := u.folder()
	if err != nil {
		return fail(reasonOutputs, "save: %v", err)
	}
	defer dir.Close()
	name := filepath.Clean(u.set.Save.File)
	if d := filepath.Dir(name); d != "." {
		if err := dir.MkdirAll(d, 0o755); err != nil {
			return fail(reasonOutputs, "save: %v", err)
		}
	}
	if err := dir.Rename(a.file, name); err != nil {
		return fail(reasonOutputs, "save: %v", err)
	}
	a.file = ""
	u.log("saved %s as %s", bytesText(a.size), name)
	return nil
}

func bytesText(n int64) string {
	switch {
	case n < 10<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 10<<20:
		return strconv.FormatInt(n>>10, 10) + " KiB"
	}
	return strconv.FormatInt(n>>20, 10) + " MiB"
}
