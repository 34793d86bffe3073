package runnertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/registrytest"
)

// fresh is an image that no platform has seen: it prints a word of its own.
func fresh(t *testing.T, word string) v1.Image {
	i := registrytest.Base(t)
	i.Files = append(i.Files, registrytest.File{Path: "/word", Text: fmt.Sprintf("%s %d\n", word, time.Now().UnixNano())})
	i.Config.Cmd = []string{"/bin/echo", word}
	return i.Build(t)
}

// imageSpec makes a spec that runs an image as it is.
func (s *suite) imageSpec(t *testing.T, with map[string]any) runner.Spec {
	t.Helper()
	sp := s.bare(t)
	sp.Args, sp.With = nil, s.h.Contained.with(t, with)
	return sp
}

// ran starts a unit of an image, and returns its log and what it was made of.
func (s *suite) ran(t *testing.T, with map[string]any) (log, image string) {
	t.Helper()
	sp := s.imageSpec(t, with)
	h := s.start(t, sp)
	if e := s.wait(t, h); !e.OK() {
		t.Errorf("exit = %+v", e)
	}
	return readLog(t, sp), h.Image
}

func testImagePinned(t *testing.T, s *suite) {
	reg := registrytest.New(t)
	ref, digest := reg.Push(t, "pinned/deep:v1", fresh(t, "first"))
	if log, image := s.ran(t, map[string]any{"image": ref}); log != "first\n" || image != ref+"@"+digest {
		t.Errorf("by tag: log %q of image %q, want %q", log, image, ref+"@"+digest)
	}
	if _, other := reg.Push(t, "pinned/deep:v1", fresh(t, "second")); other == digest {
		t.Fatal("the test made the same image twice")
	}
	byDigest := strings.TrimSuffix(ref, ":v1") + "@" + digest
	if log, image := s.ran(t, map[string]any{"image": byDigest}); log != "first\n" || !strings.HasSuffix(image, "@"+digest) {
		t.Errorf("by digest: log %q of image %q", log, image)
	}
	if log, _ := s.ran(t, map[string]any{"image": ref + "@" + digest}); log != "first\n" {
		t.Errorf("by tag and digest: log %q, want the digest to count", log)
	}
}

func testPullPolicies(t *testing.T, s *suite) {
	reg := registrytest.New(t)
	ref, _ := reg.Push(t, "policy:v1", fresh(t, "first"))
	pushed := reg.Asked("/policy/")
	never := s.imageSpec(t, map[string]any{"image": ref, "pull": "never"})
	s.refused(t, never, runner.ReasonPullNotFound)
	if n := reg.Asked("/policy/"); n != pushed {
		t.Errorf("the registry was asked %d times for what is never pulled", n-pushed)
	}
	if log, _ := s.ran(t, map[string]any{"image": ref}); log != "first\n" {
		t.Errorf("missing: log %q", log)
	}
	asked := reg.Asked("/policy/")
	if log, _ := s.ran(t, map[string]any{"image": ref, "pull": "missing"}); log != "first\n" || reg.Asked("/policy/") != asked {
		t.Errorf("missing: log %q, and the registry was asked for an image that is here", log)
	}
	reg.Push(t, "policy:v1", fresh(t, "second"))
	if log, _ := s.ran(t, map[string]any{"image": ref}); log != "first\n" {
		t.Errorf("missing: log %q, want the image that is here", log)
	}
	if log, _ := s.ran(t, map[string]any{"image": ref, "pull": "always"}); log != "second\n" {
		t.Errorf("always: log %q, want the image of the registry", log)
	}
	if log, _ := s.ran(t, map[string]any{"image": ref, "pull": "never"}); log != "second\n" {
		t.Errorf("never: log %q, want the image that is here", log)
	}
}

// refused starts a unit whose image cannot be had, and checks that nothing is left.
func (s *suite) refused(t *testing.T, sp runner.Spec, reasons ...string) *runner.PullError {
	t.Helper()
	_, err := s.r.Start(s.ctx(t), sp)
	p, ok := runner.AsPullError(err)
	if !ok {
		t.Errorf("start = %v, want a PullError", err)
		return nil
	}
	found := false
	for _, r := range reasons {
		found = found || p.Reason == r
	}
	if !found {
		t.Errorf("reason = %q, want %v: %v", p.Reason, reasons, err)
	}
	kind := waybill.KindInvalid
	if p.Again() {
		kind = waybill.KindUnavailable
	}
	if !waybill.IsKind(err, kind) {
		t.Errorf("%v is not of kind %v", err, kind)
	}
	if err := s.r.Recover(s.ctx(t), runner.Handle{Runner: s.r.Name(), Unit: sp.Unit}, runner.Spec{}); !waybill.IsKind(err, waybill.KindLost) {
		t.Errorf("recover = %v, want kind lost: the name is not taken", err)
	}
	units, err := s.r.List(s.ctx(t))
	if err != nil {
		t.Errorf("list: %v", err)
	}
	for _, h := range units {
		if h.Unit == sp.Unit {
			t.Errorf("the unit is listed although its image could not be had")
		}
	}
	return p
}

func testPullCredentials(t *testing.T, s *suite) {
	const password = "pa55-word-of-registry"
	reg := registrytest.New(t)
	ref, _ := reg.Push(t, "private:v1", fresh(t, "private"))
	reg.Lock("alice", password)
	with := map[string]any{"image": ref}
	sp := s.imageSpec(t, with)
	s.refused(t, sp, runner.ReasonPullAuth)
	with["pull_secret"] = "alice:wrong-password"
	wrong := s.imageSpec(t, with)
	if p := s.refused(t, wrong, runner.ReasonPullAuth); p != nil && strings.Contains(p.Error(), "wrong-password") {
		t.Errorf("the error holds the credentials: %v", p)
	}
	with["pull_secret"] = "alice:" + password
	if log, _ := s.ran(t, with); log != "private\n" {
		t.Errorf("user:password: log %q", log)
	}
	reg.Push(t, "private:v1", fresh(t, "again"))
	with["pull_secret"] = fmt.Sprintf(`{"auths":{%q:{"username":"alice","password":%q}}}`, reg.Host, password)
	with["pull"] = "always"
	if log, _ := s.ran(t, with); log != "again\n" {
		t.Errorf("config.json: log %q", log)
	}
}

func testPullFaults(t *testing.T, s *suite) {
	again := []string{runner.ReasonPullNetwork}
	image := []string{runner.ReasonImage}
	for name, c := range map[string]struct {
		fault  registrytest.Fault
		reason []string
	}{
		"401":             {registrytest.Fault{Path: "/manifests/", Status: 401}, []string{runner.ReasonPullAuth}},
		"403":             {registrytest.Fault{Path: "/manifests/", Status: 403}, []string{runner.ReasonPullAuth}},
		"404":             {registrytest.Fault{Path: "/manifests/", Status: 404}, []string{runner.ReasonPullNotFound}},
		"429":             {registrytest.Fault{Path: "/manifests/", Status: 429, RetryAfter: 7 * time.Second}, []string{runner.ReasonPullQuota}},
		"500":             {registrytest.Fault{Path: "/manifests/", Status: 500}, again},
		"cut manifest":    {registrytest.Fault{Path: "/manifests/", Cut: true}, again},
		"500 of a layer":  {registrytest.Fault{Path: "/blobs/", Status: 500}, again},
		"cut layer":       {registrytest.Fault{Path: "/blobs/", Cut: true}, again},
		"other manifest":  {registrytest.Fault{Path: "/manifests/sha256", Spoil: true}, append(image, again...)},
		"other layer":     {registrytest.Fault{Path: "/blobs/", Spoil: true}, append(image, again...)},
		"missing content": {registrytest.Fault{Path: "/blobs/", Status: 404}, append(again, runner.ReasonPullNotFound, runner.ReasonImage)},
	} {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.New(t)
			ref, digest := reg.Push(t, "faulty:v1", fresh(t, "mended"))
			ref = strings.TrimSuffix(ref, ":v1") + "@" + digest
			reg.Break(c.fault)
			sp := s.imageSpec(t, map[string]any{"image": ref})
			if p := s.refused(t, sp, c.reason...); p != nil && p.RetryAfter != 0 && p.RetryAfter != c.fault.RetryAfter {
				t.Errorf("retry after %v, want %v or nothing", p.RetryAfter, c.fault.RetryAfter)
			}
			reg.Mend()
			if e := s.run(t, sp); !e.OK() || readLog(t, sp) != "mended\n" {
				t.Errorf("the same unit with a mended registry: exit = %+v, log %q", e, readLog(t, sp))
			}
		})
	}
	reg := registrytest.New(t)
	for name, ref := range map[string]string{"no such tag": reg.Host + "/none:v1", "no such repository": reg.Host + "/deep/none:v9"} {
		t.Run(name, func(t *testing.T) {
			s.refused(t, s.imageSpec(t, map[string]any{"image": ref}), runner.ReasonPullNotFound)
		})
	}
	t.Run("no registry", func(t *testing.T) {
		s.refused(t, s.imageSpec(t, map[string]any{"image": "127.0.0.1:1/none:v1"}), runner.ReasonPullNetwork)
	})
	t.Run("no archive", func(t *testing.T) {
		ref, _ := reg.Push(t, "broken:v1", registrytest.Broken(t))
		s.refused(t, s.imageSpec(t, map[string]any{"image": ref}), runner.ReasonImage)
	})
	t.Run("other platform", func(t *testing.T) {
		ref, _ := reg.Push(t, "arm:v1", registrytest.Image{Arch: "arm64", Files: []registrytest.File{{Path: "/x", Text: "x"}}}.Build(t))
		s.refused(t, s.imageSpec(t, map[string]any{"image": ref, "platform": "linux/amd64"}), runner.ReasonPullNotFound, runner.ReasonImage)
	})
}

// A pull that nobody waits for any more ends, and leaves nothing.
func testPullCanceled(t *testing.T, s *suite) {
	reg := registrytest.New(t)
	ref, _ := reg.Push(t, "slow:v1", fresh(t, "slow"))
	reg.Break(registrytest.Fault{Path: "/blobs/", Delay: time.Hour})
	sp := s.imageSpec(t, map[string]any{"image": ref})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := s.r.Start(ctx, sp); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start = %v, want the context's error", err)
	}
	if units, err := s.r.List(s.ctx(t)); err != nil || len(units) != 0 {
		t.Errorf("list = %v, %v; want nothing", units, err)
	}
	reg.Mend()
	if e := s.run(t, sp); !e.OK() || readLog(t, sp) != "slow\n" {
		t.Errorf("the same unit later: exit = %+v, log %q", e, readLog(t, sp))
	}
}
