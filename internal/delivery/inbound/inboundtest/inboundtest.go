// Package inboundtest is the suite that every format of what tools send passes.
package inboundtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
)

// Sample is something that a tool sends.
type Sample struct {
	Name   string
	Header http.Header
	Body   string
	Source inbound.Source
	// Kinds are those of the reports that it makes; none means that it has a reason.
	Kinds []waybill.ReportKind
}

// Case is a format to be tried.
type Case struct {
	Format  inbound.Format
	Samples []Sample
	// Sign returns the headers of a request that is signed with a secret; nil is that of
	// SignHMAC with X-Signature.
	Sign func(secret, body string) http.Header
}

// SignHMAC is the header of a signed body.
func SignHMAC(header, secret, body string) http.Header {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return http.Header{http.CanonicalHeaderKey(header): {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}
}

var now = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// Run holds a format against the contract.
func Run(t *testing.T, c Case) {
	if c.Sign == nil {
		c.Sign = func(secret, body string) http.Header { return SignHMAC("X-Signature", secret, body) }
	}
	t.Run("Verify", func(t *testing.T) {
		const secret, body = "a-secret", `{"a":1}`
		if err := c.Format.Verify(secret, c.Sign(secret, body), []byte(body)); err != nil {
			t.Errorf("a good signature: %v", err)
		}
		for name, h := range map[string]http.Header{"no": {}, "another's": c.Sign("another", body), "an empty": c.Sign("", body)} {
			if err := c.Format.Verify(secret, h, []byte(body)); !waybill.IsKind(err, waybill.KindUnauthorized) {
				t.Errorf("%s signature: %v", name, err)
			}
		}
		broken := c.Sign(secret, body)
		for k := range broken {
			broken[k] = []string{"sha256=zz"}
		}
		if err := c.Format.Verify(secret, broken, []byte(body)); !waybill.IsKind(err, waybill.KindUnauthorized) {
			t.Errorf("a broken signature: %v", err)
		}
	})
	t.Run("Reads", func(t *testing.T) {
		for _, s := range c.Samples {
			p, err := c.Format.Parse(s.request())
			if err != nil {
				t.Errorf("%s: %v", s.Name, err)
				continue
			}
			var kinds []waybill.ReportKind
			for _, n := range p.Notes {
				kinds = append(kinds, n.Report.Kind)
				check(t, s.Name, &n)
			}
			if !slices.Equal(kinds, s.Kinds) || (len(kinds) == 0) != (p.Reason != "") {
				t.Errorf("%s makes %v (%q), want %v", s.Name, kinds, p.Reason, s.Kinds)
			}
			r := s.request()
			before := bytes.Clone(r.Body)
			again, err := c.Format.Parse(r)
			if err != nil || !reflect.DeepEqual(p, again) {
				t.Errorf("%s read again is %+v, %v", s.Name, again, err)
			}
			if !bytes.Equal(before, r.Body) {
				t.Errorf("%s: the body was changed", s.Name)
			}
		}
	})
	t.Run("Garbage", func(t *testing.T) {
		for _, s := range c.Samples {
			for i := range s.Body {
				r := s.request()
				r.Body = r.Body[:i]
				Damaged(t, c.Format, r)
			}
			for i := range s.Body {
				r := s.request()
				r.Body[i] ^= 0x15
				Damaged(t, c.Format, r)
			}
		}
		for _, junk := range []string{"", " ", "null", "0", `""`, "[]", "{}", "[null]", "\xff\xfe", `{"a":`, "[[[[[["} {
			for _, s := range c.Samples {
				r := s.request()
				r.Body = []byte(junk)
				Damaged(t, c.Format, r)
			}
		}
	})
}

// Damaged reads something that may be garbage: it is an error of the sender, has a reason,
// or makes reports that could be right.
func Damaged(t testing.TB, f inbound.Format, r inbound.Request) {
	t.Helper()
	p, err := f.Parse(r)
	switch k := waybill.KindOf(err); k {
	case waybill.KindMalformed, waybill.KindInvalid, waybill.KindForbidden, waybill.KindTooLarge:
	case "":
		if len(p.Notes) == 0 && p.Reason == "" {
			t.Errorf("nothing comes of %.200q, and nobody says why", r.Body)
		}
	default:
		t.Errorf("%.200q is an error of kind %s: %v", r.Body, k, err)
	}
}

// check looks for what no report of a tool may lack.
func check(t *testing.T, name string, n *inbound.Note) {
	t.Helper()
	r := &n.Report
	switch r.Kind {
	case waybill.ReportSync:
		if r.Cluster == "" || r.ClusterState == "" || r.ManifestCommit+r.ImageTag+r.ImageDigest+n.Commit == "" {
			t.Errorf("%s makes %+v", name, r)
		}
	case waybill.ReportRun:
		if r.Run == "" || r.Stage == "" || r.Status == "" {
			t.Errorf("%s makes %+v", name, r)
		}
	case waybill.ReportReview:
		if r.PullRequest == "" || r.Review == "" {
			t.Errorf("%s makes %+v", name, r)
		}
	}
	if (n.Begin || n.Commit != "") && r.Kind != waybill.ReportSync {
		t.Errorf("%s asks for a row where none is needed: %+v", name, n)
	}
}

func (s *Sample) request() inbound.Request {
	src := s.Source
	if src.Name == "" {
		src.Name = "test"
	}
	h := s.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	return inbound.Request{Source: src, Header: h, Body: []byte(s.Body), Now: now}
}

// Fuzz adds the samples as seeds and reads what is made of them.
func Fuzz(f *testing.F, c Case) {
	for i, s := range c.Samples {
		f.Add(i, []byte(s.Body))
	}
	f.Fuzz(func(t *testing.T, i int, body []byte) {
		if i < 0 || i >= len(c.Samples) {
			return
		}
		r := c.Samples[i].request()
		r.Body = body
		Damaged(t, c.Format, r)
	})
}
