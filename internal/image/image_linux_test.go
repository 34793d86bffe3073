package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
	"github.com/waybill-run/waybill/internal/runner"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// entry is one of an archive.
type entry struct {
	tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}, text}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func link(kind byte, name, to string) entry {
	return entry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o777}}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(t testing.TB, plain []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(plain)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture = "linux", runtime.GOARCH
	c.Config.Env = []string{"PATH=/bin"}
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// site is a registry for one test.
type site struct {
	*httptest.Server
	host  string
	blobs atomic.Int64                                           // downloads of blobs
	front func(http.ResponseWriter, *http.Request, http.Handler) // answers instead, if set
	mu    sync.Mutex
}

func (s *site) intercept(fn func(http.ResponseWriter, *http.Request, http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.front = fn
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			s.blobs.Add(1)
		}
		s.mu.Lock()
		front := s.front
		s.mu.Unlock()
		if front != nil {
			front(w, q, inner)
			return
		}
		inner.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *site) push(t testing.TB, tag string, img v1.Image) (ref, digest string) {
	t.Helper()
	r, err := name.ParseReference(s.host + "/" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return r.Name(), d.String()
}

func open(t testing.TB, o image.Options) *image.Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "images")
	}
	if os.Getuid() != 0 {
		o.UserOnly = true
	}
	s, err := image.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func get(t testing.TB, s *image.Store, q image.Request) *image.Image {
	t.Helper()
	img, err := s.Get(t.Context(), q)
	if err != nil {
		t.Fatalf("get %s: %v", q.Image, err)
	}
	t.Cleanup(img.Release)
	return img
}

func reason(t testing.TB, err error, want string) {
	t.Helper()
	p, ok := runner.AsPullError(err)
	if !ok || p.Reason != want {
		t.Errorf("error = %v, want reason %s", err, want)
		return
	}
	if kind := map[bool]waybill.Kind{true: waybill.KindUnavailable, false: waybill.KindInvalid}[p.Again()]; !waybill.IsKind(err, kind) {
		t.Errorf("error %v is not of kind %s", err, kind)
	}
}

func TestGet(t *testing.T) {
	reg, s := newSite(t), open(t, image.Options{})
	base := layerOf(t, archive(t, dir("etc"), file("etc/passwd", "root:x:0:0\n"), file("only", "x")))
	top := layerOf(t, archive(t, file("etc/passwd", "bob:x:1:1\n"), file(".wh.only", "")))
	ref, digest := reg.push(t, "demo/app:v1", imageOf(t, base, top))

	if _, err := s.Get(t.Context(), image.Request{Image: ref, Pull: container.PullNever}); err == nil {
		t.Error("pull: never had an image that is not here")
	} else {
		reason(t, err, runner.ReasonPullNotFound)
	}
	img := get(t, s, image.Request{Image: ref})
	if want := ref + "@" + digest; img.Name != want {
		t.Errorf("name = %s, want %s", img.Name, want)
	}
	if len(img.Layers) != 2 || len(img.Config.Env) != 1 {
		t.Errorf("image = %+v", img)
	}
	b, err := os.ReadFile(filepath.Join(s.Dir(), img.Layers[1], "etc/passwd"))
	if err != nil || string(b) != "bob:x:1:1\n" {
		t.Errorf("passwd = %q, %v", b, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(s.Dir(), img.Layers[1], "only"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout is %+v, %v", st, err)
	}

	// What is here is not asked for again, by tag or digest.
	n := reg.blobs.Load()
	get(t, s, image.Request{Image: ref})
	pinned := get(t, s, image.Request{Image: reg.host + "/demo/app@" + digest})
	if pinned.Name != reg.host+"/demo/app@"+digest {
		t.Errorf("name = %s", pinned.Name)
	}
	if got := reg.blobs.Load() - n; got > 1 { // its configuration
		t.Errorf("%d blobs were downloaded again", got)
	}

	// A tag that moves is seen by always, and only by it. The layer they share stays.
	_, moved := reg.push(t, "demo/app:v1", imageOf(t, base, layerOf(t, archive(t, file("new", "1")))))
	if img := get(t, s, image.Request{Image: ref}); !strings.HasSuffix(img.Name, digest) {
		t.Errorf("missing asked the registry: %s", img.Name)
	}
	n = reg.blobs.Load()
	if img := get(t, s, image.Request{Image: ref, Pull: container.PullAlways}); !strings.HasSuffix(img.Name, moved) {
		t.Errorf("always did not see that the tag moved: %s", img.Name)
	}
	if got := reg.blobs.Load() - n; got != 2 {
		t.Errorf("%d blobs were downloaded, want a configuration and a layer", got)
	}
	if u := s.Usage(); u.Layers != 3 || u.Bytes == 0 {
		t.Errorf("usage = %+v", u)
	}

	// Another process finds it all.
	s.Close()
	reg.Close()
	again := open(t, image.Options{Dir: filepath.Dir(s.Dir())})
	if img := get(t, again, image.Request{Image: ref, Pull: container.PullNever}); !strings.HasSuffix(img.Name, moved) {
		t.Errorf("after a restart: %s", img.Name)
	}
}

func TestGetConcurrently(t *testing.T) {
	reg, s := newSite(t), open(t, image.Options{})
	ref, _ := reg.push(t, "demo/app:v1", imageOf(t, layerOf(t, archive(t, file("a", strings.Repeat("x", 1<<20)))), layerOf(t, archive(t, file("b", "y")))))
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			ctx := t.Context()
			if i%3 == 0 { // those who go away do not disturb the others
				c, cancel := context.WithTimeout(ctx, time.Duration(i)*time.Millisecond/10)
				defer cancel()
				if img, err := s.Get(c, image.Request{Image: ref}); err == nil {
					img.Release()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("get %d: %v", i, err)
				}
				return
			}
			img, err := s.Get(ctx, image.Request{Image: ref})
			if err != nil {
				t.Errorf("get %d: %v", i, err)
				return
			}
			img.Release()
		})
	}
	wg.Wait()
	// One may have begun alone and been given up by the one who asked.
	if n := reg.blobs.Load(); n > 6 {
		t.Errorf("%d blobs were downloaded, want 3, or twice that", n)
	}
	if u := s.Usage(); u.Layers != 2 || u.Pinned != 0 {
		t.Errorf("usage = %+v", u)
	}
}

func TestFaults(t *testing.T) {
	reg, s := newSite(t), open(t, image.Options{Stall: 300 * time.Millisecond, Largest: 8 << 20})
	ref, digest := reg.push(t, "demo/app:v1", imageOf(t, layerOf(t, archive(t, file("a", strings.Repeat("x", 1<<20))))))
	fail := func(status int, code string) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, q *http.Request, inner http.Handler) {
			if strings.Contains(q.URL.Path, "/manifests/") {
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"no"}]}`, code)
				return
			}
			inner.ServeHTTP(w, q)
		}
	}
	blob := func(fn http.HandlerFunc) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, q *http.Request, inner http.Handler) {
			rec := httptest.NewRecorder()
			inner.ServeHTTP(rec, q)
			if strings.Contains(q.URL.Path, "/blobs/") && rec.Body.Len() > 1000 {
				fn(w, q)
				return
			}
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		}
	}
	for text, c := range map[string]struct {
		front func(http.ResponseWriter, *http.Request, http.Handler)
		q     image.Request
		want  string
	}{
		"not there":         {nil, image.Request{Image: reg.host + "/demo/app:v2"}, runner.ReasonPullNotFound},
		"no such name":      {nil, image.Request{Image: reg.host + "/demo/none:v1"}, runner.ReasonPullNotFound},
		"no such digest":    {nil, image.Request{Image: reg.host + "/demo/app@sha256:" + strings.Repeat("0", 64)}, runner.ReasonPullNotFound},
		"bad name":          {nil, image.Request{Image: "UPPER//x"}, runner.ReasonPullNotFound},
		"other platform":    {nil, image.Request{Image: ref, Platform: "linux/s390x"}, runner.ReasonPullNotFound},
		"bad credentials":   {nil, image.Request{Image: ref, Secret: "nocolon"}, runner.ReasonPullAuth},
		"401":               {fail(401, "UNAUTHORIZED"), image.Request{Image: ref}, runner.ReasonPullAuth},
		"403":               {fail(403, "DENIED"), image.Request{Image: ref}, runner.ReasonPullAuth},
		"429":               {fail(429, "TOOMANYREQUESTS"), image.Request{Image: ref}, runner.ReasonPullQuota},
		"500":               {fail(500, "UNKNOWN"), image.Request{Image: ref}, runner.ReasonPullNetwork},
		"nobody there":      {nil, image.Request{Image: "127.0.0.1:1/demo/app:v1"}, runner.ReasonPullNetwork},
		"no http elsewhere": {nil, image.Request{Image: "192.168.255.255:1/demo/app:v1"}, runner.ReasonPullNetwork},
		"nonsense":          {func(w http.ResponseWriter, q *http.Request, _ http.Handler) { io.WriteString(w, "<html>") }, image.Request{Image: ref}, runner.ReasonPullNetwork},
		"other content": {blob(func(w http.ResponseWriter, _ *http.Request) {
			z := gzip.NewWriter(w)
			z.Write(archive(t, file("a", "evil")))
			z.Close()
		}), image.Request{Image: ref}, runner.ReasonImage},
		"cut": {blob(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 10))
			panic(http.ErrAbortHandler)
		}), image.Request{Image: ref}, runner.ReasonPullNetwork},
		"stalls": {blob(func(w http.ResponseWriter, q *http.Request) {
			w.Write([]byte{0x1f, 0x8b, 8, 0})
			w.(http.Flusher).Flush()
			<-q.Context().Done()
		}), image.Request{Image: ref}, runner.ReasonPullNetwork},
	} {
		t.Run(text, func(t *testing.T) {
			reg.intercept(c.front)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := s.Get(ctx, c.q)
			reason(t, err, c.want)
		})
	}
	reg.intercept(nil)
	if u := s.Usage(); u.Layers != 0 {
		t.Errorf("faults left layers: %+v", u)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(s.Dir()), "tmp")); len(left) != 0 {
		t.Errorf("faults left %v", left)
	}
	if img := get(t, s, image.Request{Image: ref}); !strings.HasSuffix(img.Name, digest) {
		t.Errorf("after the faults: %s", img.Name)
	}
}

func TestCredentials(t *testing.T) {
	const user, password = "bob", "hunter2-hunter2"
	reg, dir := newSite(t), filepath.Join(t.TempDir(), "images")
	s := open(t, image.Options{Dir: dir})
	ref, _ := reg.push(t, "demo/app:v1", imageOf(t, layerOf(t, archive(t, file("a", "1")))))
	reg.intercept(func(w http.ResponseWriter, q *http.Request, inner http.Handler) {
		if u, p, _ := q.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"not %s:%s"}]}`, u, p)
			return
		}
		inner.ServeHTTP(w, q)
	})
	_, err := s.Get(t.Context(), image.Request{Image: ref})
	reason(t, err, runner.ReasonPullAuth)
	_, err = s.Get(t.Context(), image.Request{Image: ref, Secret: user + ":wrong-" + password})
	reason(t, err, runner.ReasonPullAuth)
	if err != nil && strings.Contains(err.Error(), password) {
		t.Errorf("the error shows the password: %v", err)
	}
	get(t, s, image.Request{Image: ref, Secret: user + ":" + password})
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.Type().IsRegular() {
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte(password)) {
				t.Errorf("%s holds the password", path)
			}
		}
		return nil
	})
}

// Nothing of an archive leaves the folder of its layer.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	big := entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 64 << 20, Mode: 0o644}, text: strings.Repeat("\x00", 64<<20)}
	many := make([]entry, 5000)
	for i := range many {
		many[i] = dir(fmt.Sprintf("d%d", i))
	}
	for text, entries := range map[string][]entry{
		"climbs":              {file("../../evil", "x")},
		"climbs inside":       {dir("a"), file("a/../../evil", "x")},
		"absolute link":       {link(tar.TypeSymlink, "l", outside), file("l/evil", "x")},
		"link up":             {dir("a"), link(tar.TypeSymlink, "a/l", "../.."), file("a/l/evil", "x")},
		"link to link":        {link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", outside), file("a/evil", "x")},
		"loop":                {link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/evil", "x")},
		"hard link out":       {link(tar.TypeLink, "l", "../../../../../etc/passwd")},
		"hard link through":   {link(tar.TypeSymlink, "l", "/etc"), link(tar.TypeLink, "p", "l/passwd")},
		"hard link to none":   {link(tar.TypeLink, "l", "none")},
		"hard link to folder": {dir("d"), link(tar.TypeLink, "l", "d")},
		"whiteout of parent":  {dir("a"), file("a/.wh...", "")},
		"whiteout of nothing": {file(".wh.", "")},
		"hidden whiteout":     {{Header: tar.Header{Typeflag: tar.TypeChar, Name: "c"}}},
		"file as folder":      {file("a", "x"), file("a/b", "x")},
		"too large":           {big},
		"too many":            many,
		"long name":           {file(strings.Repeat("n", 300), "x")},
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			reg, s := newSite(t), open(t, image.Options{Largest: 16 << 20})
			ref, _ := reg.push(t, "demo/evil:v1", imageOf(t, layerOf(t, archive(t, entries...))))
			_, err := s.Get(t.Context(), image.Request{Image: ref})
			if text == "hidden whiteout" && os.Getuid() != 0 {
				return
			}
			reason(t, err, runner.ReasonImage)
			if left, _ := os.ReadDir(s.Dir()); len(left) != 0 {
				t.Errorf("it left %v", left)
			}
		})
	}
	t.Cleanup(func() {
		if left, _ := os.ReadDir(outside); len(left) != 0 {
			t.Errorf("written outside: %v", left)
		}
	})
}

func TestUnpack(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("WAYBILL_REQUIRE_ALL") == "1" {
			t.Fatal("owners and devices need root")
		}
		t.Skip("owners and devices need root")
	}
	at := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	owned := file("/abs/owned", "text")
	owned.Uid, owned.Gid, owned.Mode, owned.ModTime = 1234, 5678, 0o4755, at
	owned.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y"}
	first := dir("abs")
	first.ModTime, first.Mode = at, 0o1777
	fifo := entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o620}}
	null := entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}}
	reg, s := newSite(t), open(t, image.Options{})
	ref, _ := reg.push(t, "demo/app:v1", imageOf(t, layerOf(t, archive(t,
		first, owned, link(tar.TypeSymlink, "inner", "abs"), file("inner/through", "1"), link(tar.TypeLink, "hard", "abs/owned"),
		link(tar.TypeSymlink, "dangling", "/none"), fifo, null, file("made/on/the/way", "2"), file("twice", "old"), file("twice", "new"),
		dir("becomes"), file("becomes/x", "y"), file("becomes", "file"), file("gone/.wh..wh..opq", ""), file("made/.wh.lost", ""), file(".wh..wh.plnk", ""),
	))))
	img := get(t, s, image.Request{Image: ref})
	root := filepath.Join(s.Dir(), img.Layers[0])
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return st
	}
	st := stat("abs/owned")
	if st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o4755 || st.Mtim.Sec != at.Unix() || st.Nlink != 2 {
		t.Errorf("owned = %+v", st)
	}
	if d := stat("abs"); d.Mode&0o7777 != 0o1777 || d.Mtim.Sec != at.Unix() {
		t.Errorf("its folder = %+v", d)
	}
	if stat("hard").Ino != st.Ino {
		t.Error("the hard link is another file")
	}
	if n := stat("null"); n.Mode != unix.S_IFCHR|0o666 || n.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null = %+v", n)
	}
	if f := stat("fifo"); f.Mode != unix.S_IFIFO|0o620 {
		t.Errorf("fifo = %+v", f)
	}
	if w := stat("made/lost"); w.Mode&unix.S_IFMT != unix.S_IFCHR || w.Rdev != 0 {
		t.Errorf("whiteout = %+v", w)
	}
	for name, want := range map[string]string{"abs/through": "1", "twice": "new", "becomes": "file", "made/on/the/way": "2"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s = %q, %v", name, b, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, ".wh..wh.plnk")); err == nil {
		t.Error("a note of another file system was unpacked")
	}
	attr := func(name, key string) string {
		b := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(root, name), key, b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	if attr("abs/owned", "user.note") != "hello" || attr("abs/owned", "trusted.overlay.opaque") != "" || attr("abs/owned", "user.overlay.opaque") != "" {
		t.Error("the attributes of a file are wrong")
	}
	if attr("gone", "trusted.overlay.opaque") != "y" {
		t.Error("the opaque folder is none")
	}
}

func TestQuota(t *testing.T) {
	reg := newSite(t)
	const one = 1 << 20
	s := open(t, image.Options{Quota: 12 << 20, Largest: 12 << 20}) // a pull asks for 4 MiB more than it needs
	ref := func(i int) string {
		r, _ := reg.push(t, fmt.Sprintf("demo/app:v%d", i), imageOf(t, layerOf(t, archive(t, file("a", strings.Repeat(string(rune('a'+i)), 3*one))))))
		return r
	}
	held := get(t, s, image.Request{Image: ref(0)})
	for i := 1; i < 6; i++ {
		img, err := s.Get(t.Context(), image.Request{Image: ref(i)})
		if err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
		img.Release()
		if u := s.Usage(); u.Bytes > u.Quota {
			t.Errorf("usage = %+v", u)
		}
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), held.Layers[0], "a")); err != nil {
		t.Errorf("a layer in use was removed: %v", err)
	}
	// The ones used last are still here, the first are not.
	if img, err := s.Get(t.Context(), image.Request{Image: reg.host + "/demo/app:v5", Pull: container.PullNever}); err != nil {
		t.Errorf("the one used last: %v", err)
	} else {
		img.Release()
	}
	if _, err := s.Get(t.Context(), image.Request{Image: reg.host + "/demo/app:v1", Pull: container.PullNever}); err == nil {
		t.Error("the one used first is still here")
	}
	var all []*image.Image
	for i := 1; ; i++ {
		img, err := s.Get(t.Context(), image.Request{Image: ref(i)})
		if err != nil {
			reason(t, err, runner.ReasonPullQuota)
			if !strings.Contains(err.Error(), "quota") {
				t.Errorf("the error does not name the quota: %v", err)
			}
			break
		}
		all = append(all, img)
		if i > 10 {
			t.Fatal("the quota has no end")
		}
	}
	for _, img := range all {
		img.Release()
	}
	held.Release()
	if n, err := s.Remove(); err != nil || n == 0 || s.Usage().Bytes != 0 {
		t.Errorf("removed %d, %v: %+v", n, err, s.Usage())
	}
}

// A server that is killed in the middle of a pull leaves nothing that is taken for a layer.
func TestKilled(t *testing.T) {
	reg, dir := newSite(t), filepath.Join(t.TempDir(), "images")
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, "%d ", i*7919)
	}
	entries := []entry{file("a", text.String())}
	for i := range 300 {
		entries = append(entries, file(fmt.Sprintf("d%d/f", i), "x"))
	}
	ref, _ := reg.push(t, "demo/app:v1", imageOf(t, layerOf(t, archive(t, entries...)), layerOf(t, archive(t, file("z", "end")))))
	for i := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "IMAGE_TEST_PULL="+ref, "IMAGE_TEST_DIR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(10+15*i)*time.Millisecond, func() { cmd.Process.Kill() })
		cmd.Wait()
	}
	s := open(t, image.Options{Dir: dir})
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	img := get(t, s, image.Request{Image: ref})
	b, err := os.ReadFile(filepath.Join(s.Dir(), img.Layers[0], "a"))
	if err != nil || string(b) != text.String() {
		t.Errorf("the file has %d bytes, %v", len(b), err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), img.Layers[0], "d299/f")); err != nil {
		t.Error(err)
	}
}

func TestMain(m *testing.M) {
	if ref := os.Getenv("IMAGE_TEST_PULL"); ref != "" {
		s, err := image.Open(image.Options{Dir: os.Getenv("IMAGE_TEST_DIR"), UserOnly: os.Getuid() != 0})
		if err == nil {
			_, err = s.Get(context.Background(), image.Request{Image: ref, Pull: container.PullAlways})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestOneProcess(t *testing.T) {
	s := open(t, image.Options{})
	if _, err := image.Open(image.Options{Dir: filepath.Dir(s.Dir())}); !waybill.IsKind(err, waybill.KindUnavailable) {
		t.Errorf("a second store in the folder: %v", err)
	}
}
