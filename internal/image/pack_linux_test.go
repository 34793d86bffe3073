package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/image"
	"github.com/waybill-run/waybill/internal/runner/container"
)

// program builds a static program for this machine.
func program(t *testing.T, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "hello")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, filepath.Join(dir, "main.go"))
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return out
}

func pack(t *testing.T, r image.Recipe, tags ...string) []byte {
	t.Helper()
	img, err := image.Pack(r)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := image.WriteArchive(&b, img, tags...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPack(t *testing.T) {
	bin := program(t)
	extra := filepath.Join(t.TempDir(), "extra")
	for name, mode := range map[string]os.FileMode{"a/one": 0o600, "a/run": 0o700} {
		if err := os.MkdirAll(filepath.Join(extra, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(extra, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	r := image.Recipe{
		Program: bin, Files: []image.File{{From: extra, To: "/srv/data"}}, Args: []string{"-x"}, Env: []string{"A=1"}, User: "65534:65534", Workdir: "/srv",
	}
	first := pack(t, r, "demo/hello:v1", "ghcr.io/acme/hello:v1")

	// The same bytes from another place at another time.
	later := time.Now().Add(time.Hour)
	for _, f := range []string{bin, filepath.Join(extra, "a/one"), filepath.Join(extra, "a")} {
		if err := os.Chtimes(f, later, later); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first, pack(t, r, "demo/hello:v1", "ghcr.io/acme/hello:v1")) {
		t.Error("packed again it is another archive")
	}

	// As Docker reads it.
	tag, _ := name.NewTag("demo/hello:v1")
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(first)), nil }, &tag)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(c.Config)
	for _, w := range []string{`"Entrypoint":["/bin/hello"]`, `"Cmd":["-x"]`, `"User":"65534:65534"`, `"A=1"`, `"WorkingDir":"/srv"`} {
		if !strings.Contains(string(got), w) {
			t.Errorf("the configuration %s lacks %s", got, w)
		}
	}
	if c.Architecture != runtime.GOARCH || c.OS != "linux" {
		t.Errorf("it is for %s/%s", c.OS, c.Architecture)
	}

	// As we do: by any of its names and by its digest, without a registry.
	s := open(t, image.Options{})
	all, err := s.LoadImage(t.Context(), bytes.NewReader(first), "")
	if err != nil || len(all) != 2 {
		t.Fatalf("load = %v, %v", all, err)
	}
	for _, ref := range []string{"demo/hello:v1", "docker.io/demo/hello:v1", "ghcr.io/acme/hello:v1", "ghcr.io/acme/hello@" + all[0].Digest} {
		one := get(t, s, image.Request{Image: ref, Pull: container.PullNever})
		if !strings.HasSuffix(one.Name, "@"+all[0].Digest) {
			t.Errorf("%s is %s", ref, one.Name)
		}
		at := filepath.Join(s.Dir(), one.Layers[0])
		for file, mode := range map[string]os.FileMode{"bin/hello": 0o755, "srv/data/a/one": 0o644, "srv/data/a/run": 0o755, "tmp": 0o777 | os.ModeSticky | os.ModeDir, "etc/passwd": 0o644} {
			info, err := os.Stat(filepath.Join(at, file))
			if err != nil || info.Mode() != mode || info.ModTime().Unix() != 0 {
				t.Errorf("%s: %v, %v", file, info, err)
			}
		}
	}
}

func TestPackRefuses(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	dynamic, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	windows := program(t, "GOOS=windows", "GOARCH=amd64")
	for file, want := range map[string]string{
		script: "no program for Linux", windows: "no program for Linux", dynamic: "it needs /lib", filepath.Join(dir, "none"): "no such file", dir: "",
	} {
		if _, err := image.Pack(image.Recipe{Program: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
	bin := program(t)
	if _, err := image.Pack(image.Recipe{Program: bin, Files: []image.File{{From: dir, To: "relative"}}}); !waybill.IsKind(err, waybill.KindInvalid) {
		t.Errorf("a relative path: %v", err)
	}
	img, err := image.Pack(image.Recipe{Program: bin})
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"", "UPPER:v1", "a@sha256:00"} {
		if err := image.WriteArchive(io.Discard, img, tag); !waybill.IsKind(err, waybill.KindInvalid) {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
}

// rewrite copies an archive; f says what becomes of an entry.
func rewrite(t *testing.T, plain []byte, f func(h *tar.Header, content []byte) []byte) []byte {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(plain))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		content, rerr := io.ReadAll(r)
		if err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		if h.Typeflag == tar.TypeReg {
			if content = f(h, content); content == nil {
				continue
			}
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLoad(t *testing.T) {
	plain := pack(t, image.Recipe{Program: program(t)}, "demo/hello:v1")
	without := func(file string) []byte {
		return rewrite(t, plain, func(h *tar.Header, b []byte) []byte {
			if h.Name == file {
				return nil
			}
			return b
		})
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(plain)
	z.Close()
	var two bytes.Buffer
	base := imageOf(t, layerOf(t, archive(t, file("a", "1"))))
	one, _ := name.NewTag("demo/one:v1")
	other, _ := name.NewTag("demo/other:v1")
	if err := tarball.MultiWrite(map[name.Tag]v1.Image{one: base, other: imageOf(t, layerOf(t, archive(t, file("b", "2"))))}, &two); err != nil {
		t.Fatal(err)
	}
	for text, c := range map[string]struct {
		content []byte
		as      string
		names   string
	}{
		"both":   {plain, "", "index.docker.io/demo/hello:v1"},
		"gzip":   {zipped.Bytes(), "", "index.docker.io/demo/hello:v1"},
		"docker": {without("index.json"), "", "index.docker.io/demo/hello:v1"},
		"oci":    {without("manifest.json"), "", "index.docker.io/demo/hello:v1"},
		"named":  {plain, "localhost:5000/x:y", "localhost:5000/x:y"},
		"two":    {two.Bytes(), "", "index.docker.io/demo/one:v1 index.docker.io/demo/other:v1"},
	} {
		t.Run(text, func(t *testing.T) {
			s := open(t, image.Options{})
			all, err := s.LoadImage(t.Context(), bytes.NewReader(c.content), c.as)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, i := range all {
				names = append(names, i.Name)
				if !i.Whole || i.InUse || i.Size == 0 {
					t.Errorf("loaded %+v", i)
				}
				get(t, s, image.Request{Image: i.Name, Pull: container.PullNever})
			}
			if text == "two" && names[0] > names[1] {
				names[0], names[1] = names[1], names[0]
			}
			if got := strings.Join(names, " "); got != c.names {
				t.Errorf("names %s, want %s", got, c.names)
			}
		})
	}

	spoiled := func(part string) []byte {
		return rewrite(t, plain, func(h *tar.Header, b []byte) []byte {
			if strings.Contains(string(b), part) && strings.HasPrefix(h.Name, "blobs/") {
				b = bytes.Replace(b, []byte(part), []byte(strings.ToUpper(part)), 1)
			}
			return b
		})
	}
	for text, c := range map[string]struct {
		content []byte
		as      string
	}{
		"empty": {nil, ""}, "text": {[]byte("hello"), ""}, "cut": {plain[:len(plain)/2], ""}, "no index": {archive(t, file("x", "y")), ""},
		"bad index": {archive(t, file("index.json", "{")), ""}, "index of nothing": {archive(t, file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("0", 64)+`"}]}`)), ""},
		"no image":  {archive(t, file("index.json", "{}")), ""},
		"two named": {two.Bytes(), "a:b"}, "bad name": {plain, "UPPER"},
		"other config": {spoiled("rootfs"), ""}, "way out": {archive(t, file("manifest.json", `[{"Config":"../../etc/passwd","RepoTags":["a:b"],"Layers":[]}]`)), ""},
	} {
		t.Run(text, func(t *testing.T) {
			s := open(t, image.Options{})
			all, err := s.LoadImage(t.Context(), bytes.NewReader(c.content), c.as)
			if !waybill.IsKind(err, waybill.KindInvalid) {
				t.Errorf("load = %v, %v; want kind invalid", all, err)
			}
			if u := s.Usage(); u.Layers != 0 {
				t.Errorf("it left %+v", u)
			}
			if l, _ := s.Images(t.Context()); len(l.Items) != 0 {
				t.Errorf("it left %+v", l)
			}
		})
	}
	s := open(t, image.Options{Quota: 1 << 20})
	if _, err := s.LoadImage(t.Context(), io.LimitReader(zeros{}, 10<<20), ""); !waybill.IsKind(err, waybill.KindTooLarge) {
		t.Errorf("too much: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestListAndRemove(t *testing.T) {
	reg, dir := newSite(t), filepath.Join(t.TempDir(), "images")
	s := open(t, image.Options{Dir: dir})
	base := layerOf(t, archive(t, file("base", strings.Repeat("x", 9000))))
	a, _ := reg.push(t, "demo/a:v1", imageOf(t, base, layerOf(t, archive(t, file("a", "1")))))
	b, _ := reg.push(t, "demo/b:v1", imageOf(t, base, layerOf(t, archive(t, file("b", "1")))))
	held, err := s.Get(t.Context(), image.Request{Image: a})
	if err != nil {
		t.Fatal(err)
	}
	used, err := s.Get(t.Context(), image.Request{Image: b})
	if err != nil {
		t.Fatal(err)
	}
	used.Release()
	list := func() (names string, l waybill.ImageList) {
		t.Helper()
		l, err := s.Images(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Items {
			names += strings.TrimPrefix(i.Name, reg.host+"/demo/") + " "
		}
		return strings.TrimSpace(names), l
	}
	names, l := list()
	if names != "a:v1 b:v1" || !l.Items[0].InUse || l.Items[1].InUse || l.Bytes == 0 || l.Bytes >= l.Items[0].Size+l.Items[1].Size || l.Items[0].UsedAt.IsZero() {
		t.Errorf("list = %s, %+v", names, l)
	}
	if _, err := s.RemoveImage(t.Context(), a); !waybill.IsKind(err, waybill.KindConflict) {
		t.Errorf("remove what is in use: %v", err)
	}
	if _, err := s.RemoveImage(t.Context(), reg.host+"/demo/none:v1"); !waybill.IsKind(err, waybill.KindNotFound) {
		t.Errorf("remove what is not there: %v", err)
	}
	freed, err := s.RemoveImage(t.Context(), b)
	if err != nil || freed == 0 || freed >= 9000 {
		t.Errorf("remove = %d, %v; want the size of the layer that nothing else needs", freed, err)
	}
	if names, _ := list(); names != "a:v1" {
		t.Errorf("after the removal: %s", names)
	}
	if n, freed, err := s.PruneImages(t.Context(), 0); err != nil || n != 0 || freed != 0 {
		t.Errorf("prune = %d, %d, %v with an image that is in use", n, freed, err)
	}
	held.Release()
	if n, _, err := s.PruneImages(t.Context(), time.Hour); err != nil || n != 0 {
		t.Errorf("prune of what was not used for an hour = %d, %v", n, err)
	}
	if n, freed, err := s.PruneImages(t.Context(), 0); err != nil || n != 1 || freed < 9000 {
		t.Errorf("prune = %d, %d, %v", n, freed, err)
	}
	if u := s.Usage(); u.Layers != 0 || u.Bytes != 0 {
		t.Errorf("usage = %+v", u)
	}
	for _, sub := range []string{"refs", "images", "layers", "tmp"} {
		if left, _ := os.ReadDir(filepath.Join(dir, sub)); len(left) > 0 {
			t.Errorf("%s holds %v", sub, left)
		}
	}
	// Not here any more is not for ever.
	again := get(t, s, image.Request{Image: a})
	if len(again.Layers) != 2 {
		t.Errorf("pulled again: %+v", again)
	}
}
