// Package s3test gives tests a server that speaks the protocol of S3, inside of
// the test. It checks who asks, and honours conditions.
package s3test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Bucket is the name of the bucket that is there.
const Bucket = "inbox"

const keyID, secret = "AKIDTEST", "s3cr3t"

// Server is a server with one bucket.
type Server struct {
	backend gofakes3.Backend
	clock   gofakes3.TimeSourceAdvancer // puts are a second apart, as the protocol tells no less
	web     *httptest.Server
	mu      sync.Mutex
	down    atomic.Bool
	gets    atomic.Int64
}

// Start starts a server that stops with the test.
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{clock: gofakes3.FixedTimeSource(time.Now().UTC().Truncate(time.Second))}
	s.backend = s3mem.New(s3mem.WithTimeSource(s.clock))
	if err := s.backend.CreateBucket(Bucket); err != nil {
		t.Fatal(err)
	}
	protocol := gofakes3.New(s.backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()
	s.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.down.Load():
			refuse(w, http.StatusServiceUnavailable, "SlowDown")
		case !strings.Contains(r.Header.Get("Authorization"), "Credential="+keyID+"/"):
			refuse(w, http.StatusForbidden, "InvalidAccessKeyId")
		case !s.matches(r):
			refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		default:
			if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "" {
				s.gets.Add(1)
			}
			protocol.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.web.Close)
	return s
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>refused</Message></Error>", code)
}

// matches checks the condition of a read.
func (s *Server) matches(r *http.Request) bool {
	want := r.Header.Get("If-Match")
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if want == "" || key == "" {
		return true
	}
	o, err := s.backend.HeadObject(bucket, key)
	if err != nil {
		return true // it is told that there is none
	}
	defer o.Contents.Close() // it is empty
	return `"`+hex.EncodeToString(o.Hash)+`"` == want
}

// URL is that of a bucket of the server, with credentials.
func (s *Server) URL(bucket string) string { return s.url(keyID, bucket) }

// WrongURL has credentials that the server does not know.
func (s *Server) WrongURL() string { return s.url("AKIDOTHER", Bucket) }

func (s *Server) url(id, bucket string) string {
	return "s3://" + id + ":" + secret + "@" + bucket + "?endpoint=" + s.web.URL + "&region=eu-central-1"
}

// Put writes an object.
func (s *Server) Put(t *testing.T, key, content, attempt string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock.Advance(time.Second)
	meta := map[string]string{"Content-Type": "text/csv", "Last-Modified": s.clock.Now().Format(http.TimeFormat)}
	if attempt != "" {
		meta["X-Amz-Meta-Waybill-Attempt"] = attempt
	}
	if _, err := s.backend.PutObject(Bucket, key, meta, bytes.NewReader([]byte(content)), int64(len(content)), nil); err != nil {
		t.Fatal(err)
	}
}

// Remove deletes an object.
func (s *Server) Remove(t *testing.T, key string) {
	t.Helper()
	if _, err := s.backend.DeleteObject(Bucket, key); err != nil {
		t.Fatal(err)
	}
}

// Down makes the server refuse everything, or answer again.
func (s *Server) Down(down bool) { s.down.Store(down) }

// Gets counts how often an object was read.
func (s *Server) Gets() int64 { return s.gets.Load() }
