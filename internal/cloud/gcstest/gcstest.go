// Package gcstest gives tests a server that speaks the protocol of Google Cloud
// Storage, inside of the test.
package gcstest

import (
	"net/url"
	"testing"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

// Bucket is the name of the bucket that is there.
const Bucket = "inbox"

// Server is a server with one bucket.
type Server struct{ s *fakestorage.Server }

// Start starts a server that stops with the test.
func Start(t *testing.T) *Server {
	t.Helper()
	s, err := fakestorage.NewServerWithOptions(fakestorage.Options{Host: "127.0.0.1", Port: 0, Scheme: "http"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	s.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: Bucket})
	return &Server{s}
}

// URL is that of a bucket of the server.
func (s *Server) URL(bucket string) string {
	return "gs://" + bucket + "?anonymous=true&endpoint=" + url.QueryEscape(s.s.URL()+"/storage/v1/")
}

// Put writes an object.
func (s *Server) Put(_ *testing.T, key, content, attempt string) {
	o := fakestorage.Object{Content: []byte(content), ObjectAttrs: fakestorage.ObjectAttrs{BucketName: Bucket, Name: key, ContentType: "text/csv"}}
	if attempt != "" {
		o.Metadata = map[string]string{"waybill-attempt": attempt}
	}
	s.s.CreateObject(o)
}

// Remove deletes an object.
func (s *Server) Remove(t *testing.T, key string) {
	t.Helper()
	if err := s.s.Backend().DeleteObject(Bucket, key); err != nil {
		t.Fatal(err)
	}
}
