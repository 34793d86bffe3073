// Package registrytest is a registry of images in this process for tests, with images
// made for them and faults on demand.
package registrytest

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry speaks the protocol of OCI registries on a loopback address without TLS,
// which engines take for a registry of this machine. It keeps everything in memory. Safe
// for concurrent use.
type Registry struct {
	// Host is its address as an image names it: 127.0.0.1:port.
	Host string

	server *httptest.Server

	mu             sync.Mutex
	faults         []*Fault
	user, password string
	asked          map[string]int
	mended         chan struct{} // closed by Mend
}

// Fault is what goes wrong with requests. Of several that match, the first counts.
type Fault struct {
	Path string // part of the path of the requests that are meant: "/manifests/", "/blobs/"; empty for all
	Left int    // how many requests are still to fail; 0 means all

	Delay      time.Duration // waits so long first, but no longer than until Mend
	Status     int           // answers this, with an error as registries write them
	RetryAfter time.Duration // and with this header
	Cut        bool          // or cuts the connection in the middle of the content
	Spoil      bool          // or gives other content of the same length
}

// New starts a registry that ends with the test.
func New(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{asked: map[string]int{}, mended: make(chan struct{})}
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.serve(content, w, q) }))
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
	})
	r.Host = strings.TrimPrefix(r.server.URL, "http://")
	return r
}

// Push puts an image under a repository and tag such as "base:v1" and returns its name,
// with the registry in front, and its digest.
func (r *Registry) Push(t testing.TB, repo string, img v1.Image) (ref, digest string) {
	t.Helper()
	ref = r.Host + "/" + repo
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	auth := authn.FromConfig(authn.AuthConfig{Username: r.user, Password: r.password})
	if r.user == "" {
		auth = authn.Anonymous
	}
	r.mu.Unlock()
	if err := remote.Write(tag, img, remote.WithAuth(auth)); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return ref, d.String()
}

// Break lets requests fail from now on, besides those that fail already.
func (r *Registry) Break(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
}

// Mend ends all faults.
func (r *Registry) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
	close(r.mended)
	r.mended = make(chan struct{})
}

// Lock asks everybody for these credentials from now on.
func (r *Registry) Lock(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.user, r.password = user, password
}

// Asked is how many requests came whose path holds a text.
func (r *Registry) Asked(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for p, k := range r.asked {
		if strings.Contains(p, path) {
			n += k
		}
	}
	return n
}

func (r *Registry) serve(content http.Handler, w http.ResponseWriter, q *http.Request) {
	f, ok := r.admit(q)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		refuse(w, http.StatusUnauthorized)
		return
	}
	if f.Delay > 0 {
		r.mu.Lock()
		mended := r.mended
		r.mu.Unlock()
		select {
		case <-mended:
		case <-time.After(f.Delay):
		case <-q.Context().Done():
			return
		}
	}
	switch {
	case f.Status != 0:
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
		}
		refuse(w, f.Status)
	case f.Cut || f.Spoil:
		answer := httptest.NewRecorder()
		content.ServeHTTP(answer, q)
		body := answer.Body.Bytes()
		for k, v := range answer.Header() {
			w.Header()[k] = v
		}
		if f.Spoil {
			body = spoil(body)
			w.WriteHeader(answer.Code)
			_, _ = w.Write(body)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body[:len(body)/2])
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		panic(http.ErrAbortHandler)
	default:
		content.ServeHTTP(w, q)
	}
}

// spoil changes a byte in the middle so that JSON stays JSON where it can.
func spoil(body []byte) []byte {
	body = bytes.Clone(body)
	if i := bytes.LastIndex(body, []byte("sha256:")); i >= 0 && i+8 < len(body) {
		body[i+7] ^= 1
		if c := body[i+7]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			body[i+7] = '0'
		}
		return body
	}
	if len(body) > 0 {
		body[len(body)/2] ^= 0x55
	}
	return body
}

// admit finds the fault of a request; false when it lacks the credentials.
func (r *Registry) admit(q *http.Request) (Fault, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[q.URL.Path]++
	for i, f := range r.faults {
		if !strings.Contains(q.URL.Path, f.Path) {
			continue
		}
		if f.Left > 0 {
			if f.Left--; f.Left == 0 {
				r.faults = append(r.faults[:i:i], r.faults[i+1:]...)
			}
		}
		return *f, true
	}
	if r.user == "" {
		return Fault{}, true
	}
	user, password, _ := q.BasicAuth()
	same := subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(r.user+"\x00"+r.password))
	return Fault{}, same == 1
}

// refuse writes an error as registries do.
func refuse(w http.ResponseWriter, status int) {
	code := map[int]string{
		http.StatusUnauthorized: "UNAUTHORIZED", http.StatusForbidden: "DENIED", http.StatusNotFound: "MANIFEST_UNKNOWN",
		http.StatusTooManyRequests: "TOOMANYREQUESTS",
	}[status]
	if code == "" {
		code = "UNKNOWN"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, strings.ToLower(http.StatusText(status)))
}
