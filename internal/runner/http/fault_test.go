package http_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	nethttp "net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/netguard"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/http"
)

// raw is a server that reads a request and then does with the connection what f says.
func raw(t *testing.T, f func(c net.Conn, gone <-chan struct{})) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	t.Cleanup(func() { close(gone); ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := nethttp.ReadRequest(bufio.NewReader(c)); err == nil {
					f(c, gone)
				}
			}()
		}
	}()
	return "http://" + ln.Addr().String()
}

func TestBrokenAnswers(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	drip := func(first string) string {
		return raw(t, func(c net.Conn, gone <-chan struct{}) {
			io.WriteString(c, first)
			for tick := time.NewTicker(20 * time.Millisecond); ; {
				select {
				case <-tick.C:
					if _, err := io.WriteString(c, "x"); err != nil {
						tick.Stop()
						return
					}
				case <-gone:
					tick.Stop()
					return
				}
			}
		})
	}
	say := func(text string) string {
		return raw(t, func(c net.Conn, _ <-chan struct{}) { io.WriteString(c, text) })
	}
	loop, loops := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { nethttp.Redirect(w, r, "/again", 302) })
	bomb, _ := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		zeros := make([]byte, 1<<20)
		for range 200 {
			if _, err := z.Write(zeros); err != nil {
				return
			}
		}
		z.Close()
	})
	notGzip, _ := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, "this is no gzip at all")
	})
	for _, c := range []struct{ name, url, reason, says string }{
		{"refused", "http://" + closed.Addr().String(), "connect", "refused"},
		{"no such name", "http://no-such-host.invalid/", "connect", "no-such-host.invalid"},
		{"not HTTP", say("SSH-2.0-OpenSSH_9.6\r\n"), "bad_answer", "malformed"},
		{"nothing", say(""), "connection_lost", "ended before"},
		{"cut in the header", say("HTTP/1.1 200 OK\r\nContent-Length: 1"), "connection_lost", "ended before"},
		{"cut in the body", say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"), "connection_lost", "ended before"},
		{"cut in a chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nonly this"), "connection_lost", "ended before"},
		{"bad chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nonly this"), "bad_answer", "chunk"},
		{"endless header", say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 400<<10) + "\r\n\r\n"), "too_large", "header"},
		{"slow header", drip("HTTP/1.1 200 OK\r\nX: "), "timeout", "within 300ms"},
		{"slow body", drip("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), "timeout", "within 300ms"},
		{"silent", raw(t, func(_ net.Conn, gone <-chan struct{}) { <-gone }), "timeout", "within 300ms"},
		{"announced too large", say("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "too_large", "max_answer"},
		{"gzip bomb", bomb, "too_large", "max_answer"},
		{"no gzip", notGzip, "bad_answer", "gzip"},
		{"redirect loop", loop, "redirect", "more than 10"},
		{"redirect to nowhere", say("HTTP/1.1 302 Found\r\nLocation: gopher://x/\r\nContent-Length: 0\r\n\r\n"), "redirect", "gopher"},
		{"redirect to no URL", say("HTTP/1.1 302 Found\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n"), "redirect", "Location"},
		{"TLS to plain", "https" + strings.TrimPrefix(loop, "http"), "tls", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := map[string]any{"url": c.url, "body": "x", "idempotency_key": "", "timeout": "10s"}
			if c.reason == "timeout" {
				set["timeout"] = "300ms"
			}
			e, log := do(t, newRunner(t, http.Options{}), spec(t, "x", set))
			if e.Reason != c.reason || e.Code != 1 || !strings.Contains(e.Message, c.says) {
				t.Errorf("exit = %+v, want reason %s with %q", e, c.reason, c.says)
			}
			if !strings.Contains(log, c.reason+": ") {
				t.Errorf("the log does not say why:\n%s", log)
			}
		})
	}
	if n := len(loops.all()); n > 12 {
		t.Errorf("a loop of redirects was followed %d times", n)
	}
}

func TestRedirectIsTheAnswer(t *testing.T) {
	url, seen := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { nethttp.Redirect(w, r, "/next", 302) })
	s := spec(t, "x", map[string]any{"url": url, "follow_redirects": false, "expect": map[string]any{"status": 302}, "outputs": map[string]any{"to": "headers['location']"}})
	if e, _ := do(t, newRunner(t, http.Options{}), s); !e.OK() || len(seen.all()) != 1 || outputs(t, s)["to"] != "/next" {
		t.Errorf("exit = %+v after %d requests", e, len(seen.all()))
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(answerJSON(200, `{}`))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	for _, c := range []struct {
		name, url string
		tls       map[string]any
		reason    string
	}{
		{"unknown authority", srv.URL, nil, "tls"},
		{"known authority", srv.URL, map[string]any{"ca_file": ca}, ""},
		{"of the project", srv.URL, map[string]any{"ca_file": "ca.pem"}, ""},
		{"another name", other, map[string]any{"ca_file": ca}, "tls"},
		{"insecure", other, map[string]any{"insecure": true}, ""},
		{"no file", srv.URL, map[string]any{"ca_file": "/nowhere.pem"}, "start_failed"},
		{"no certificate", srv.URL, map[string]any{"ca_file": os.Args[0]}, "start_failed"},
	} {
		set := map[string]any{"url": c.url}
		if c.tls != nil {
			set["tls"] = c.tls
		}
		s := spec(t, "x", set)
		s.Env = append(s.Env, "WAYBILL_PROJECT="+filepath.Dir(ca))
		if e, text := do(t, newRunner(t, http.Options{}), s); e.Reason != c.reason || e.OK() != (c.reason == "") {
			t.Errorf("%s: exit = %+v, log:\n%s", c.name, e, text)
		}
	}
}

func TestGuard(t *testing.T) {
	url, seen := serve(t, answerJSON(200, `{}`))
	port := url[strings.LastIndexByte(url, ':'):]
	redirect, _ := serve(t, func(w nethttp.ResponseWriter, r *nethttp.Request) { nethttp.Redirect(w, r, url, 302) })
	for _, c := range []struct {
		name        string
		deny, allow []string
		url, reason string
	}{
		{"open", nil, nil, url, ""},
		{"default", netguard.DefaultDeny, nil, url, ""},
		{"metadata", netguard.DefaultDeny, nil, "http://169.254.169.254/latest", "denied"},
		{"metadata in IPv6", netguard.DefaultDeny, nil, "http://[::ffff:169.254.169.254]/latest", "denied"},
		{"metadata through NAT64", netguard.DefaultDeny, nil, "http://[64:ff9b::a9fe:a9fe]/latest", "denied"},
		{"loopback", []string{"loopback"}, nil, url, "denied"},
		{"a name", []string{"loopback"}, nil, "http://localhost" + port, "denied"},
		{"a number", []string{"127.0.0.1"}, nil, "http://127.0.0.1" + port, "denied"},
		{"another number", []string{"127.0.0.2"}, nil, url, ""},
		{"allowed", []string{"all"}, []string{"127.0.0.0/8"}, url, ""},
		{"everything", []string{"all"}, nil, url, "denied"},
		{"zero", []string{"loopback"}, nil, "http://0.0.0.0" + port, "denied"},
	} {
		g, err := netguard.New(c.deny, c.allow)
		if err != nil {
			t.Fatal(err)
		}
		before := len(seen.all())
		e, _ := do(t, newRunner(t, http.Options{Guard: g}), spec(t, "x", map[string]any{"url": c.url, "timeout": "5s"}))
		if e.Reason != c.reason || e.OK() != (c.reason == "") {
			t.Errorf("%s: exit = %+v, want reason %q", c.name, e, c.reason)
		}
		if asked := len(seen.all()) - before; c.reason != "" && asked > 0 {
			t.Errorf("%s: the server was asked", c.name)
		}
	}
	// The first address may be called, the one it redirects to may not: both are on
	// this machine, so the guard changes in between.
	r := newRunner(t, http.Options{})
	deny, err := netguard.New([]string{"loopback"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closing, _ := serve(t, func(w nethttp.ResponseWriter, q *nethttp.Request) {
		r.SetGuard(deny)
		nethttp.Redirect(w, q, strings.Replace(redirect, "127.0.0.1", "localhost", 1), 302)
	})
	if e, log := do(t, r, spec(t, "x", map[string]any{"url": closing})); e.Reason != "denied" {
		t.Errorf("redirected to a denied address: exit = %+v, log:\n%s", e, log)
	}
	if _, err := netguard.New([]string{"privat"}, nil); !waybill.IsKind(err, waybill.KindInvalid) || !strings.Contains(err.Error(), "private") {
		t.Errorf("a wrong word: %v", err)
	}
}

func TestRestartLosesTheRequest(t *testing.T) {
	began := make(chan struct{}, 2)
	url, _ := serve(t, func(_ nethttp.ResponseWriter, r *nethttp.Request) {
		began <- struct{}{}
		<-r.Context().Done()
	})
	r := http.New(http.Options{})
	h, err := r.Start(t.Context(), spec(t, "x", map[string]any{"url": url}))
	if err != nil {
		t.Fatal(err)
	}
	<-began
	r.Close()
	after := newRunner(t, http.Options{})
	if err := after.Recover(t.Context(), h, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost", err)
	}
	if _, err := r.Start(t.Context(), spec(t, "y", map[string]any{"url": url})); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("start after close = %v", err)
	}
}

func TestStopWhileWaiting(t *testing.T) {
	url, seen := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(503)
	})
	r := newRunner(t, http.Options{})
	s := spec(t, "x", map[string]any{"url": url})
	h, err := r.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if b, _ := os.ReadFile(s.Log); strings.Contains(string(b), "waiting 1h0m0s") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not wait")
		}
	}
	if err := r.Stop(t.Context(), h, time.Second); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e, err := r.Wait(ctx, h)
	if err != nil || e.Signal != "SIGTERM" || len(seen.all()) != 1 {
		t.Errorf("exit = %+v, %v after %d requests", e, err, len(seen.all()))
	}
}

func TestLogCap(t *testing.T) {
	url, _ := serve(t, func(w nethttp.ResponseWriter, _ *nethttp.Request) {
		w.WriteHeader(500)
		fmt.Fprint(w, strings.Repeat("x", 1500))
	})
	s := spec(t, "x", map[string]any{"url": url})
	s.LogCap = 200
	e, log := do(t, newRunner(t, http.Options{}), s)
	if !e.Truncated || e.LogBytes < 1500 || len(log) > 400 || !strings.Contains(log, "cut at 200 bytes") {
		t.Errorf("exit = %+v, log of %d bytes", e, len(log))
	}
}
