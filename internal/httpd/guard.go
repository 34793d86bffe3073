package httpd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
)

// call is what is known about a request while it is answered. One goroutine
// uses it.
type call struct {
	id   string
	op   operation
	who  waybill.Principal
	kind waybill.Kind // of the problem that was answered
	err  error
	w    *recorder
	// stream: it may last as long as it likes, so it is never slow.
	stream bool
}

type callKey struct{}

// callOf returns the call that guard put into the request.
func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// guard is the outermost handler: it names and logs requests, survives panics,
// and refuses what no part of the server should see.
func (s *Server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := s.opt.Now()
		rec := &recorder{ResponseWriter: w, s: s}
		c := &call{id: requestID(r, began), w: rec}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		h := w.Header()
		h.Set("X-Request-Id", c.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'")
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.log.LogAttrs(r.Context(), slog.LevelError, "handler panicked", slog.String("request", c.id),
					slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
				if rec.wrote {
					p = http.ErrAbortHandler
				} else {
					s.fail(rec, r, waybill.E(waybill.KindInternal, "panic"))
					p = nil
				}
			}
			s.access(r, c, s.opt.Now().Sub(began))
			if p != nil {
				panic(p)
			}
		}()
		if err := s.admissible(r, cross); err != nil {
			s.fail(rec, r, err)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// admissible refuses requests that come from somewhere they should not.
func (s *Server) admissible(r *http.Request, cross *http.CrossOriginProtection) error {
	if r.Method == http.MethodTrace || r.Method == http.MethodConnect {
		return &statusError{http.StatusMethodNotAllowed, waybill.E(waybill.KindUnsupported, "method %s is not served", r.Method)}
	}
	if !unitsOnly(r) && !s.hostAllowed(r.Host) {
		// A page of another site may have let its name point at this address.
		return &statusError{http.StatusMisdirectedRequest,
			waybill.E(waybill.KindForbidden, "the server does not answer to the name %q", shorten(r.Host, 100)).
				WithHint("call it by its address, or add the name to the hosts it answers to")}
	}
	if err := cross.Check(r); err != nil {
		return waybill.E(waybill.KindForbidden, "the request comes from a page of another site")
	}
	return nil
}

// hostSet prepares names for hostAllowed.
func hostSet(hosts []string) map[string]bool {
	set := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		set[hostName(h)] = true
	}
	return set
}

func (s *Server) hostAllowed(host string) bool {
	if !s.opt.Loopback && len(s.hosts) == 0 {
		return true // every operation needs a token there, which other sites do not have
	}
	name := hostName(host)
	return loopbackHost(name) || s.hosts[name]
}

// hostName is the name or address in a Host header, in lower case, without port
// and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func loopbackHost(name string) bool {
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(name, "["), "]"))
	return err == nil && addr.Unmap().IsLoopback()
}

// requestID takes over the id that a client or proxy gave, if it is harmless in
// a log, or makes one.
func requestID(r *http.Request, now time.Time) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.'
	}) {
		return waybill.NewID(now)
	}
	return id
}

// access writes the line of a request in the log: errors of ours and slow
// requests where an operator sees them, the rest for debugging.
func (s *Server) access(r *http.Request, c *call, took time.Duration) {
	if s.opt.Observe != nil && !c.stream {
		s.opt.Observe(c.op.id, c.w.status, took)
	}
	level := slog.LevelDebug
	switch {
	case c.w.status >= 500 && c.w.status != http.StatusServiceUnavailable:
		level = slog.LevelError
	case c.w.status >= 500, took > s.opt.Limits.Slow && !c.stream:
		level = slog.LevelInfo
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request", c.id), slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath()),
		slog.String("operation", c.op.id), slog.Int("status", c.w.status), slog.Int64("bytes", c.w.bytes),
		slog.Float64("ms", float64(took.Microseconds())/1000), slog.String("who", c.who.Name), slog.String("remote", remote(r)),
	}
	if c.err != nil {
		attrs = append(attrs, slog.String("kind", string(c.kind)), slog.String("error", c.err.Error()))
		if cause := causeOf(c.err); cause != "" {
			attrs = append(attrs, slog.String("cause", cause))
		}
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// causeOf is the text that an error of ours hides from the client.
func causeOf(err error) string {
	if e, ok := err.(*waybill.Error); ok && e.Err != nil && e.Msg != "" {
		return e.Err.Error()
	}
	return ""
}

// remote is the address a request came from, without port.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// recorder remembers what was answered and gives each write its own time limit.
type recorder struct {
	http.ResponseWriter
	s      *Server
	status int
	bytes  int64
	wrote  bool
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.wrote, w.status = true, status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if !w.wrote {
		w.wrote, w.status = true, http.StatusOK
	}
	w.s.extendWrite(w.ResponseWriter)
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// flush sends what was written so far.
func (w *recorder) flush() error {
	w.wrote = true
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.s.extendWrite(w.ResponseWriter)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// extendWrite moves the time limit for writing. Writers without one (in tests)
// say so, which does not matter.
func (s *Server) extendWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.opt.Limits.Write))
}

// shorten cuts text for a message.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
