package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// statusOf is the one table from kinds of error to HTTP statuses.
var statusOf = map[waybill.Kind]int{
	waybill.KindMalformed:    http.StatusBadRequest,
	waybill.KindInvalid:      http.StatusUnprocessableEntity,
	waybill.KindNotFound:     http.StatusNotFound,
	waybill.KindConflict:     http.StatusConflict,
	waybill.KindGone:         http.StatusGone,
	waybill.KindUnauthorized: http.StatusUnauthorized,
	waybill.KindForbidden:    http.StatusForbidden,
	waybill.KindTooLarge:     http.StatusRequestEntityTooLarge,
	waybill.KindExhausted:    http.StatusTooManyRequests,
	waybill.KindUnavailable:  http.StatusServiceUnavailable,
	waybill.KindLost:         http.StatusGone,
	waybill.KindCanceled:     499, // nobody is left to read it; the number is the usual one in logs
	waybill.KindUnsupported:  http.StatusNotImplemented,
	waybill.KindInternal:     http.StatusInternalServerError,
}

// titles name the kinds for people.
var titles = map[waybill.Kind]string{
	waybill.KindMalformed:    "The request cannot be read",
	waybill.KindInvalid:      "The request breaks a rule",
	waybill.KindNotFound:     "There is no such thing",
	waybill.KindConflict:     "The state of the thing does not allow it",
	waybill.KindGone:         "It is closed for good",
	waybill.KindUnauthorized: "Valid credentials are needed",
	waybill.KindForbidden:    "The credentials do not allow it",
	waybill.KindTooLarge:     "It is over a size limit",
	waybill.KindExhausted:    "Too much at once",
	waybill.KindUnavailable:  "Not possible now",
	waybill.KindLost:         "Its outcome is unknown",
	waybill.KindCanceled:     "The request was given up",
	waybill.KindUnsupported:  "Not supported here",
	waybill.KindInternal:     "An error of the server",
}

// statusError is an error whose HTTP status is not that of its kind.
type statusError struct {
	status int
	err    *waybill.Error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// classify finds the error that is shown for err.
func classify(err error) (*waybill.Error, int) {
	var e *waybill.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		e = waybill.E(waybill.KindTooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.As(err, &e):
	case errors.Is(err, context.Canceled):
		e = waybill.E(waybill.KindCanceled, "the request was given up")
	case errors.Is(err, context.DeadlineExceeded):
		e = waybill.E(waybill.KindUnavailable, "it took too long")
	default:
		e = &waybill.Error{Kind: waybill.KindInternal, Err: err}
	}
	status, ok := statusOf[e.Kind]
	if !ok {
		e, status = &waybill.Error{Kind: waybill.KindInternal, Err: err}, http.StatusInternalServerError
	}
	var se *statusError
	if errors.As(err, &se) {
		status = se.status
	}
	return e, status
}

// fail answers with a problem document, unless an answer has begun: then the
// connection is broken off, so that the client cannot take a part for the whole.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, status := classify(err)
	c := callOf(r)
	c.kind, c.err = e.Kind, err
	if c.w.wrote {
		panic(http.ErrAbortHandler)
	}
	p := openapi.Problem{
		Type:     "urn:waybill:problem:" + string(e.Kind),
		Title:    titles[e.Kind],
		Status:   status,
		Kind:     e.Kind,
		Detail:   e.Error(),
		Hint:     e.Hint,
		Instance: c.id,
	}
	if e.Kind == waybill.KindInternal {
		p.Detail, p.Hint = "the reason is in the server's log", "look there for request "+c.id
	}
	if s.opt.Problems != nil {
		p.Problems = s.opt.Problems(err)
	}
	if s.opt.Mask != nil {
		p.Detail, p.Hint = s.opt.Mask(p.Detail), s.opt.Mask(p.Hint)
		for i := range p.Problems {
			p.Problems[i].Msg, p.Problems[i].Hint = s.opt.Mask(p.Problems[i].Msg), s.opt.Mask(p.Problems[i].Hint)
		}
	}
	h := w.Header()
	for _, name := range []string{"ETag", "Repr-Digest", "Content-Length", "Content-Disposition", "Location", "Last-Modified"} {
		h.Del(name)
	}
	switch e.Kind {
	case waybill.KindExhausted, waybill.KindUnavailable:
		h.Set("Retry-After", seconds(e.RetryAfter))
	case waybill.KindUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="waybill"`)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	s.write(w, r, status, p)
}

// seconds is a duration for Retry-After: whole seconds, at least one.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(max(1, math.Ceil(d.Seconds()))))
}

// reply answers with JSON.
func (s *Server) reply(w http.ResponseWriter, r *http.Request, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	s.write(w, r, status, v)
	return nil
}

// write sends a value as JSON. The types are ours and marshal, but for values of
// variables that were stored damaged.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.log.LogAttrs(r.Context(), slog.LevelError, "answer cannot be written", slog.String("request", callOf(r).id), slog.Any("error", err))
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	s.extendWrite(w)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone; the access log tells
}
