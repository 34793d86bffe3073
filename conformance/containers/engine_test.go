//go:build linux

package containers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
	"github.com/waybill-run/waybill/conformance/harness"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// wire stands between a server and the engine.
type wire struct {
	host string

	mu    sync.Mutex
	rules []*rule
	calls map[string]int // by method and last part of the path
}

// rule is what becomes of a request.
type rule struct {
	method, path string // of the path a part
	left         int    // how many are meant; below 0 means all
	status       int    // the engine is not asked, and this is answered
	lost         bool   // the engine does it, and nobody hears of it
	before       func() // is called before the engine is asked
	after        func() // is called when it has done it, before it is told
}

func newWire(t *testing.T) *wire {
	t.Helper()
	at := filepath.Join(t.TempDir(), "w.sock")
	ln, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{host: "unix://" + at, calls: map[string]int{}}
	socket := strings.TrimPrefix(os.Getenv(hostVar), "unix://")
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	forward.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	forward.FlushInterval = -1
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		r := w.next(q)
		if r == nil {
			forward.ServeHTTP(rw, q)
			return
		}
		if r.before != nil {
			r.before()
		}
		switch {
		case r.status != 0:
			http.Error(rw, `{"message":"refused on demand"}`, r.status)
		case r.lost:
			forward.ServeHTTP(blind{http.Header{}}, q)
			panic(http.ErrAbortHandler)
		case r.after != nil:
			forward.ServeHTTP(&held{ResponseWriter: rw, f: r.after}, q)
		default:
			forward.ServeHTTP(rw, q)
		}
	})}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close() })
	return w
}

type blind struct{ h http.Header }

func (b blind) Header() http.Header         { return b.h }
func (b blind) Write(p []byte) (int, error) { return len(p), nil }
func (b blind) WriteHeader(int)             {}

// held calls f before anything of an answer is sent.
type held struct {
	http.ResponseWriter
	once sync.Once
	f    func()
}

func (h *held) WriteHeader(code int) {
	h.once.Do(h.f)
	h.ResponseWriter.WriteHeader(code)
}

// Unwrap lets the answer be flushed, and its connection be taken over.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (w *wire) next(q *http.Request) *rule {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[q.Method+" "+filepath.Base(q.URL.Path)]++
	for _, r := range w.rules {
		if r.left == 0 || r.method != q.Method || !strings.Contains(q.URL.Path, r.path) {
			continue
		}
		r.left--
		return r
	}
	return nil
}

func (w *wire) set(rules ...*rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = rules
}

func (w *wire) count(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[call]
}

// wired is a server whose engine is behind a wire.
func wired(t *testing.T, o harness.Options) (*world, *wire) {
	t.Helper()
	t.Parallel()
	p := platforms()[1]
	p.need(t)
	x := newWire(t)
	p.settings = func() string {
		return "runners:\n  docker: {host: '" + x.host + "', subnet: " + subnet() + "}\n"
	}
	return serve(t, p, o), x
}

// A container that cannot be removed changes nothing of its run's outcome; it is shown, and
// tried until it is gone. Its log is kept meanwhile.
func TestFA14_RemovalFails(t *testing.T) {
	w, x := wired(t, harness.Options{Project: map[string]string{
		"pipelines/sticky.yaml": pipeline("sticky", steps(sh("work", "echo here"))),
	}})
	x.set(&rule{method: http.MethodDelete, path: "/containers/", left: -1, status: 500})
	id := w.start("sticky")
	w.ends(id, waybill.StatusSucceeded)
	a := w.reaches(id, "work", 1, "shows that its clean-up fails", func(a client.Attempt) bool { return a.Cleanup == waybill.CleanupDeleting })
	if !strings.Contains(a.CleanupError, "refused on demand") {
		t.Errorf("its clean-up says %q", a.CleanupError)
	}
	harness.Until(t, soon, "the list shows when it is tried again", func() error {
		for _, u := range w.unitList(id) {
			if u.Tries > 1 && u.Known && strings.Contains(u.CleanupError, "refused on demand") {
				return nil
			}
		}
		return fmt.Errorf("%+v", w.unitList(id))
	})
	w.Kill() // what is not done is not forgotten
	w.Start()
	x.set()
	w.cleaned(id)
	w.recorded(id, "cleanup.gone", 1)
	if log := w.log(id, "work", 1); log != "here\n" {
		t.Errorf("the log is %q", log)
	}
}

// A container that is made, or started, and of which the server does not hear, is found
// by its name: there is one, and it runs once.
func TestFA17_StartAnswerLost(t *testing.T) {
	w, x := wired(t, harness.Options{Project: map[string]string{
		"pipelines/unheard.yaml": pipeline("unheard", steps(sh("work", `echo "once $(date +%s%N)"`))),
	}})
	w.ends(w.start("unheard"), waybill.StatusSucceeded) // the network and the image are here
	for _, call := range []string{"/containers/create", "/start"} {
		x.set(&rule{method: http.MethodPost, path: call, left: 1, lost: true})
		made := x.count("POST create")
		id := w.start("unheard")
		r := w.ends(id, waybill.StatusSucceeded)
		if attempts(r, "work") != 1 || strings.Count(w.log(id, "work", 1), "once ") != 1 {
			t.Errorf("%s: %d attempts, the log is %q", call, attempts(r, "work"), w.log(id, "work", 1))
		}
		if all := containers(t, container.LabelRun+"="+id); len(all) > 1 {
			t.Errorf("%s: there are %d containers", call, len(all))
		}
		w.recorded(id, "attempt.running", 1)
		w.cleaned(id)
		if n := x.count("POST create") - made; n > 3 {
			t.Errorf("%s: %d containers were asked for", call, n)
		}
	}
}

// A callback may come before the engine has answered that the container runs.
func TestFA09_CallbackBeforeStartIsAnswered(t *testing.T) {
	w, x := wired(t, harness.Options{Project: map[string]string{
		"pipelines/early.yaml": pipeline("early", steps(sh("work", call+`'{"variables":{"___X":"early"}}' $WAYBILL_CALLBACK; echo called`, "callback: required"))),
	}})
	// Everything that is asked of a container that was started waits for a while.
	x.set(&rule{method: http.MethodGet, path: "/containers/", left: 6, before: func() { time.Sleep(300 * time.Millisecond) }},
		&rule{method: http.MethodPost, path: "/start", left: 1, after: func() { time.Sleep(2 * time.Second) }})
	id := w.start("early")
	r := w.ends(id, waybill.StatusSucceeded)
	if variable(r, "___X") != "early" || attempts(r, "work") != 1 {
		t.Errorf("it told %q in %d attempts", variable(r, "___X"), attempts(r, "work"))
	}
	w.cleaned(id)
}

// A server that is killed exactly when the engine is asked for something, or has just done
// it, goes on as if it had not been killed.
func TestFA10_KillsAtTheEngine(t *testing.T) {
	w, x := wired(t, harness.Options{Project: map[string]string{
		"pipelines/says.yaml": pipeline("says", steps(sh("work", `echo begun; seq 100; echo "___N=$WAYBILL_ATTEMPT" >"$WAYBILL_OUTPUT"; echo ended`, "with: {pull: always}"))),
	}})
	w.ends(w.start("says"), waybill.StatusSucceeded)
	for _, at := range []struct{ method, path string }{
		{http.MethodPost, "/images/create"}, {http.MethodPost, "/containers/create"}, {http.MethodPost, "/start"},
		{http.MethodGet, "/logs"}, {http.MethodDelete, "/containers/"},
	} {
		for _, when := range []string{"before", "after"} {
			died := make(chan struct{})
			kill := func() {
				w.Kill()
				close(died)
			}
			r := &rule{method: at.method, path: at.path, left: 1}
			if when == "before" {
				r.before = kill
			} else {
				r.after = kill
			}
			x.set(r)
			id := w.start("says")
			select {
			case <-died:
			case <-time.After(soon):
				t.Fatalf("the server never came to %s %s", at.method, at.path)
			}
			x.set()
			w.Start()
			got := w.ends(id, waybill.StatusSucceeded)
			if attempts(got, "work") != 1 || variable(got, "___N") != "1" {
				t.Errorf("killed %s %s: %d attempts, it returned %q", when, at.path, attempts(got, "work"), variable(got, "___N"))
			}
			if log := w.log(id, "work", 1); !strings.HasPrefix(log, "begun\n1\n2\n") || !strings.HasSuffix(log, "\n100\nended\n") || strings.Count(log, "\n") != 102 {
				t.Errorf("killed %s %s: the log is %q", when, at.path, log)
			}
			w.cleaned(id)
		}
	}
}

// An engine that answers nothing but errors is waited for, and costs nobody a try.
func TestFA41_EngineFails(t *testing.T) {
	w, x := wired(t, harness.Options{Project: map[string]string{
		"pipelines/hold.yaml": pipeline("hold", steps(sh("work", hold))),
	}})
	x.set(&rule{method: http.MethodPost, path: "/containers/create", left: 3, status: 500})
	id := w.start("hold")
	u := w.held(id, "work", 1)
	// While it runs, nothing is heard of it.
	x.set(&rule{method: http.MethodGet, path: "/", left: -1, status: 503}, &rule{method: http.MethodHead, path: "/", left: -1, status: 503})
	harness.Until(t, soon, "the list says who is silent", func() error {
		l, err := w.Client().Units(w.ctx)
		if err == nil && l.Silent["docker"] == "" {
			err = errors.New("nobody is")
		}
		return err
	})
	u.exit(0)
	time.Sleep(time.Second)
	x.set()
	if r := w.ends(id, waybill.StatusSucceeded); attempts(r, "work") != 1 {
		t.Errorf("%d attempts", attempts(r, "work"))
	}
	w.cleaned(id)
}
