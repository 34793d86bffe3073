package dockertest

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Proxy stands in front of an engine's socket and lets requests fail.
type Proxy struct {
	Host string // its address, to be used instead of the engine's

	mu     sync.Mutex
	faults []*Fault
	calls  map[string]int
}

// Fault is what becomes of requests.
type Fault struct {
	Method string // empty for all
	Path   string // part of the path, such as "/containers/create"
	Left   int    // how many are still to fail; 0 means all

	Status int  // the engine is not asked, and this is answered
	Cut    bool // the engine is not asked, and the connection ends
	Lost   bool // the engine does it, and the connection ends before its answer
	After  int  // the connection ends after so many bytes of the answer's content
}

// NewProxy starts a proxy that ends with the test.
func NewProxy(t testing.TB, d *Daemon) *Proxy {
	t.Helper()
	at := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Host: "unix://" + at, calls: map[string]int{}}
	silent := log.New(io.Discard, "", 0)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket())
	}}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	forward.Transport, forward.ErrorLog, forward.FlushInterval = transport, silent, -1
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := &http.Server{ErrorLog: silent, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		f := p.next(q)
		switch {
		case f.Lost:
			forward.ServeHTTP(nowhere{http.Header{}}, q)
			panic(http.ErrAbortHandler)
		case f.After > 0:
			forward.ServeHTTP(&short{ResponseWriter: w, left: f.After}, q)
		case f.Cut:
			panic(http.ErrAbortHandler)
		case f.Status != 0:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(f.Status)
			_, _ = io.WriteString(w, `{"message":"a fault on demand"}`)
		default:
			forward.ServeHTTP(w, q)
		}
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// short ends the connection in the middle.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Flush() { s.ResponseWriter.(http.Flusher).Flush() }

func (s *short) Write(b []byte) (int, error) {
	if len(b) >= s.left {
		_, _ = s.ResponseWriter.Write(b[:s.left])
		s.Flush()
		panic(http.ErrAbortHandler)
	}
	s.left -= len(b)
	return s.ResponseWriter.Write(b)
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// Break lets requests fail from now on.
func (p *Proxy) Break(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &f)
}

// Mend ends all faults.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Calls is how many requests came of a method whose path holds a text.
func (p *Proxy) Calls(method, path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c, k := range p.calls {
		if strings.HasPrefix(c, method+" ") && strings.Contains(c, path) {
			n += k
		}
	}
	return n
}

func (p *Proxy) next(q *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[q.Method+" "+q.URL.Path]++
	for i, f := range p.faults {
		if f.Method != "" && f.Method != q.Method || !strings.Contains(q.URL.Path, f.Path) {
			continue
		}
		if f.Left > 0 {
			if f.Left--; f.Left == 0 {
				p.faults = append(p.faults[:i:i], p.faults[i+1:]...)
			}
		}
		return *f
	}
	return Fault{}
}
